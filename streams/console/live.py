"""Showing a market again and again until it is time to end, in the way the output asks for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TextIO

from .board import Board, Picture
from .ending import Ending
from .lines import JsonLines, Lines
from .notes import Notes, logging_to_notes, logging_to_stderr
from .title import Title, is_terminal

__all__ = ["View", "follow", "once"]

_READY_LOOK = 0.05      # seconds between two looks for the first data


@dataclass(frozen=True)
class View:
    """How to show.

    Attributes:
        name, subject: For the title; the subject may change.
        json: Lines for programs.
        plain: Lines of text even on a terminal.
        ladders: Books level by level, on a terminal.
        interval: Seconds between two pictures; None: what suits the output.
        verbose: Log information too, where lines are written.
        out: Where to.
    """

    name: str
    subject: Callable[[], str] = str
    json: bool = False
    plain: bool = False
    ladders: bool = False
    interval: float | None = None
    verbose: bool = False
    out: TextIO | None = None

    @property
    def output(self) -> TextIO:
        """Where to; standard output unless another was given."""
        return self.out or sys.stdout

    @property
    def on_screen(self) -> bool:
        """Whether it is a table that changes in place."""
        return not self.json and not self.plain and is_terminal(self.output)


@contextmanager
def _shower(view: View, ending: Ending) -> Iterator[tuple[Callable[[Picture], None], float]]:
    """``(how to show a picture, seconds between two)``."""
    with ExitStack() as stack:
        if view.on_screen:
            from .screen import Screen          # needs rich, which lines do without
            notes: Notes = stack.enter_context(logging_to_notes())
            screen = stack.enter_context(Screen(view.output, ladders=view.ladders, notes=notes.kept))
            yield (lambda picture: screen.show(picture, Title(
                view.name, view.subject(), ending.elapsed, ending.left)), view.interval or 0.2)
            return
        stack.enter_context(logging_to_stderr(view.verbose))
        lines = JsonLines(view.output) if view.json else Lines(view.output)
        yield lines.show, view.interval or 1.0


def follow(view: View, board: Board, ending: Ending, meanwhile: Callable[[], None] = lambda: None,
           done: Callable[[Picture], bool] = lambda picture: False) -> Picture:
    """Show pictures until it is time to end. Returns the last.

    Args:
        meanwhile: Called before each picture.
        done: Whether that picture is to be the last.
    """
    with _shower(view, ending) as (show, interval):
        next_at = time.monotonic()
        if not view.on_screen:                  # lines about nothing help nobody
            while not board.look().complete and time.monotonic() < next_at + interval and not ending.now:
                ending.wait(_READY_LOOK)
        while True:
            meanwhile()
            picture = board.look()
            show(picture)
            if done(picture):
                return picture
            next_at = max(next_at + interval, time.monotonic())
            if ending.wait(next_at - time.monotonic()):
                return board.look()


def once(view: View, board: Board, ending: Ending, until: float,
         done: Callable[[Picture], bool] = lambda picture: picture.complete) -> Picture:
    """Wait until a picture is complete, or nothing more will come, or the time is over (``until``, monotonic
    seconds); show that one."""
    with logging_to_stderr(view.verbose):
        while True:
            picture = board.look()
            if done(picture) or picture.hopeless or time.monotonic() >= until or ending.now:
                break
            ending.wait(_READY_LOOK)
        if any(row.last_update is not None for row in picture.rows):
            _show_once(view, picture, ending)
    return picture


def _show_once(view: View, picture: Picture, ending: Ending) -> None:
    if view.on_screen:
        from .screen import Screen
        screen = Screen(view.output, ladders=view.ladders, alternate=False)
        screen.print(picture, Title(view.name, view.subject(), ending.elapsed, 0.0))
    elif view.json:
        JsonLines(view.output).show(picture)
    else:
        Lines(view.output).show(picture)
