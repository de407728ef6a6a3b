"""How a process is started, apart from starting it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Recipe:
    """A command, and the variables that it needs beside the environment.

    Child runs it as a process of this machine, docker/start.py becomes it.
    """

    command: Sequence[object]
    environment: Mapping[str, str] = field(default_factory=dict)
