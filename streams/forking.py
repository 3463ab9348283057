"""After a fork the child has one thread, and a lock that another held stays held for ever. Whoever has
threads or locks is told in the child, and makes them anew; the parent notices nothing.

What is in the store stays readable in the child: a fork waits until no writer is in the middle of
anything (:mod:`streams.store`).
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol

__all__ = ["Forked", "tell_after_fork"]


class Forked(Protocol):
    """What has threads or locks."""

    def forked(self) -> None:
        """This is a child's copy: make locks anew, and forget the threads, which are not there."""


_concerned: weakref.WeakSet[Forked] = weakref.WeakSet()


def tell_after_fork(thing: Forked) -> None:
    """Have ``thing.forked()`` called in every child, as long as it exists. Threads: any."""
    _concerned.add(thing)


def _tell() -> None:
    for thing in list(_concerned):
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell)
