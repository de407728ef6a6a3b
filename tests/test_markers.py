"""The two suites that go across the rooms: how many cases carry their marker, and in
which rooms.
"""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOMS = {
    "badinput": (
        "bundle check_version containers data doctor ignite jvm kafka mahout managers"
        " mxnet processes service setup singa spark"
    ),
    "security": (
        "anywhere containers environment ignite jvm kafka lessons managers manifests"
        " security service spark"
    ),
}


def marked(text: str, marker: str) -> int:
    """How many tests of a file carry a marker, by themselves or by the file's
    pytestmark.
    """
    tree = ast.parse(text)
    everywhere = any(
        isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "pytestmark"
        and f"pytest.mark.{marker}" in ast.unparse(node.value)
        for node in tree.body
    )
    tests = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return sum(
        everywhere or f"pytest.mark.{marker}" in map(ast.unparse, test.decorator_list)
        for test in tests
    )


@pytest.mark.parametrize("marker", ROOMS)
def test_the_suite_is_in_every_room(marker):
    files = Path(__file__).parent.glob("test_*.py")
    counted = Counter(
        {
            file.stem.removeprefix("test_"): marked(file.read_text(), marker)
            for file in files
        }
    )
    assert counted.total() >= 20
    assert set(+counted) >= set(ROOMS[marker].split())


def test_a_marker_is_counted_where_it_stands():
    text = (
        "@pytest.mark.badinput\ndef test_a(): pass\n\n@pytest.mark.slow\ndef test_b():"
        " pass\n"
    )
    assert (marked(text, "badinput"), marked(text, "security")) == (1, 0)
    assert marked(f"pytestmark = pytest.mark.security\n{text}", "security") == 2
