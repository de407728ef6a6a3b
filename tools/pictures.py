"""Copy the figures that the README shows out of the lessons' stored outputs into
docs/images.
"""

import base64
from pathlib import Path

import nbformat

from helpers import errors

ROOT = Path(__file__).resolve().parent.parent
# picture: (lesson, how the figure's alternative text begins)
PICTURES = {
    "newton": ("01_spark_mllib", "Newton's method reaches the optimum"),
    "kill": (
        "07_fast_predictions",
        "Milliseconds to the answer of each request over time",
    ),
}


def figure(lesson: str, alt: str) -> bytes:
    """The PNG whose alternative text begins with `alt`."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if (
                output.get("metadata", {})
                .get("image/png", {})
                .get("alt", "")
                .startswith(alt)
            ):
                return base64.b64decode(output.data["image/png"])
    raise errors.WorkshopError(f"No figure in {lesson} begins with {alt!r}.")


def main() -> None:
    for name, source in PICTURES.items():
        (ROOT / "docs" / "images" / f"{name}.png").write_bytes(figure(*source))


if __name__ == "__main__":
    errors.run(main)
