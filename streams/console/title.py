"""The first line on a terminal, and whether there is one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO

from . import figures

__all__ = ["Title", "is_terminal"]


def is_terminal(out: TextIO) -> bool:
    """Whether ``out`` can show a table that changes in place."""
    return out.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")


@dataclass(frozen=True)
class Title:
    """The first line: what is shown, where it comes from, how long still (seconds; None: no end)."""

    name: str
    subject: str
    elapsed: float
    left: float | None = None

    @property
    def clock(self) -> str:
        """The right end of the line."""
        end = "Ctrl-C ends" if self.left is None else f"{figures.lasted(max(self.left, 0.0))} left"
        return f"{figures.lasted(self.elapsed)}  {end}"
