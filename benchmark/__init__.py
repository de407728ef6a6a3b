"""Measurements that take too long for a lesson: cluster managers side by side, a
deployment under load.
"""

import datetime
import json
import platform
from pathlib import Path

import psutil

from helpers import files
from helpers.spark import runtime

RESULTS = Path(__file__).parent / "results"


def described() -> dict[str, object]:
    """The day, and what the numbers were measured on, without names or paths."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "python": platform.python_version(),
            "spark": runtime.pyspark.__version__,
        },
    }


def write(file: Path, found: dict) -> None:
    """Keep what was found as JSON, with its description."""
    files.write_text(file, json.dumps(described() | found, indent=1) + "\n")
    print(f"written to {file.name}")
