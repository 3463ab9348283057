"""Waiting and waking, by signal handlers too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams.bells import Doorbell, Latch
from streams.handlers import Handlers
from streams.journal import Bell
from streams.publisher import Publisher
from streams.record import Recorder
from streams.remote import RemoteStore
from streams.transports import Target
from streams.transports.replay import ReplayTransport

from .raw_peer import beside
from .tools import at_every_step

NOWHERE = "redis://127.0.0.1:9"


def test_a_latch_wakes_all_who_wait_and_stays() -> None:
    latch, woken = Latch(), []
    threads = [threading.Thread(target=lambda: woken.append(latch.wait(10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert not latch.is_set() and not latch.wait(0) and not latch.wait(-1) and not latch.wait(0.01)
    latch.set()
    latch.set()
    for thread in threads:
        thread.join(5)
    assert woken == [True] * 8 and latch.wait() and latch.is_set()


def test_a_signal_handler_may_set_and_await_a_latch_in_the_middle_of_both() -> None:
    latch = Latch()
    at_every_step(lambda: latch.wait(0.001), lambda: latch.wait(0.001))
    at_every_step(latch.set, lambda: (latch.set(), latch.wait(0.001)))
    assert latch.wait(0)


def test_ctrl_c_in_a_wait_keeps_nobody_else_waiting() -> None:
    latch: Any = Latch()
    lock = latch._lock

    class Struck:
        """It happens during the wait; the signal is noticed right after the lock has been had."""

        def acquire(self, timeout: float) -> None:
            latch._happened = True
            lock.release()
            assert lock.acquire(timeout=5)
            raise KeyboardInterrupt

        def release(self) -> None:
            lock.release()

    latch._lock = Struck()
    with pytest.raises(KeyboardInterrupt):
        latch.wait(5)
    assert lock.acquire(timeout=0), "whoever waits already would go on waiting"


def test_a_doorbell() -> None:
    bell = Doorbell()
    assert not bell.wait(0)
    bell.ring()
    bell.ring()
    assert bell.wait(0) and bell.wait(None)
    bell.clear()
    assert not bell.wait(0.001)
    at_every_step(bell.ring, bell.ring)
    began = time.monotonic()
    assert bell.wait(5) and time.monotonic() - began < 4


def replaying(folder: Path) -> Callable[[], object]:
    with Recorder(folder / "empty.jsonl") as recorder:
        pass
    receiver: Any = None                        # it does not run
    return ReplayTransport(Target(f"replay://{recorder.path}"), receiver).abort


MAKERS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "bell": lambda folder: Bell().ring,
    "replay": replaying,
    "publisher": lambda folder: Publisher(Handlers(), NOWHERE).stop,
    "remote": lambda folder: RemoteStore(NOWHERE).stop,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_signal_handler_may_end_what_is_being_ended(name: str, tmp_path: Path) -> None:
    if name in ("publisher", "remote"):
        pytest.importorskip("redis", reason="redis-py is not installed")
    end = MAKERS[name](tmp_path)
    beside(at_every_step, end, end).result(20)      # which never comes if it waits for itself
