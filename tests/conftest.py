"""Shared by the tests: lessons are executed once for a scale and a kind of labels, whatever the tests ask of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import lessons, metrics, settings

# Outputs of lessons do not depend on where a developer's environment points.
for name in [name for name in os.environ if name.startswith("WORKSHOP_")]:
    del os.environ[name]


@pytest.fixture(scope="session")
def executed() -> Callable[[str, bool], Path]:
    """Executes a lesson at scale tiny, once: executed(stem, shuffled) is the notebook with its outputs."""
    done: dict[tuple[str, bool], Path] = {}

    def execute(stem: str, shuffled: bool = False) -> Path:
        if (stem, shuffled) not in done:
            output = settings.build_dir() / "tests" / ("shuffled" if shuffled else "tiny") / f"{stem}.ipynb"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WORKSHOP_SHUFFLE_LABELS", "1" if shuffled else "0")
                seconds = lessons.execute(settings.NOTEBOOKS / f"{stem}.ipynb", "tiny", output)
            print(f"\n{stem} at scale tiny{' with shuffled labels' * shuffled}: {seconds:.0f} s")
            done[stem, shuffled] = output
        return done[stem, shuffled]

    return execute


@pytest.fixture(scope="session")
def stored_metrics() -> dict[str, float]:
    """The metrics in the lessons' stored outputs, by "lesson.metric"."""
    return {
        f"{notebook.stem}.{name}": value
        for notebook in lessons.notebooks()
        for name, value in metrics.read(notebook).items()
    }
