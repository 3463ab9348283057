"""The small thread pool: order, bounds, endings."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

from streams.errors import ConfigurationError
from streams.pool import Pool

from .tools import wait_until


def test_results_and_exceptions_come_through_the_future() -> None:
    pool = Pool(2, "test-pool")
    assert pool.submit(pow, 2, 5).result(5) == 32
    assert pool.submit(int, "ff", base=16).result(5) == 255
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)
    with pytest.raises(SystemExit):
        pool.submit(lambda: exit(3)).result(5)
    assert pool.submit(pow, 2, 2).result(5) == 4, "no exception ends a worker"
    assert pool.close()


def test_so_many_at_a_time_and_in_order() -> None:
    pool = Pool(3, "test-pool")
    running = most = 0
    order: list[int] = []
    lock, release = threading.Lock(), threading.Event()

    def work(n: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            order.append(n)
        release.wait(5)
        with lock:
            running -= 1
        return n

    futures = [pool.submit(work, n) for n in range(20)]
    wait_until(lambda: running == 3)
    release.set()
    assert [future.result(5) for future in futures] == list(range(20))
    assert most == 3 and sorted(order) == list(range(20)) and sorted(order[:3]) == [0, 1, 2]
    assert pool.close()


def test_threads_are_made_when_needed_reused_and_end_when_idle() -> None:
    pool = Pool(8, "test-pool", idle=0.1)
    names = {pool.submit(lambda: threading.current_thread().name).result(5) for _ in range(20)}
    assert len(names) <= 2
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("test-pool")], 5)
    assert pool.submit(pow, 2, 3).result(5) == 8
    assert pool.close()


def test_closing_cancels_what_waits_and_waits_for_what_runs() -> None:
    pool = Pool(1, "test-pool")
    begun, release = threading.Event(), threading.Event()

    def work() -> str:
        begun.set()
        release.wait(5)
        return "done"

    running = pool.submit(work)
    waiting = [pool.submit(pow, 2, 2) for _ in range(3)]
    assert begun.wait(5)
    at = time.monotonic()
    assert pool.close(timeout=0.1) is False
    assert time.monotonic() - at < 1.0
    for future in waiting:
        with pytest.raises(CancelledError):
            future.result(5)
    with pytest.raises(ConfigurationError, match="test-pool is closed; nothing can be submitted any more"):
        pool.submit(pow, 2, 2)
    release.set()
    assert running.result(5) == "done"
    assert pool.close(timeout=5) is True


def test_a_call_may_close_its_own_pool() -> None:
    pool = Pool(2, "test-pool")
    assert pool.submit(pool.close).result(5) is True


def test_too_many_waiting_is_refused() -> None:
    pool = Pool(1, "test-pool", maxsize=2)
    release = threading.Event()
    begun = threading.Event()
    pool.submit(lambda: (begun.set(), release.wait(5)))
    assert begun.wait(5)
    pool.submit(pow, 2, 2)
    pool.submit(pow, 2, 2)
    with pytest.raises(ConfigurationError, match="test-pool: 2 calls wait already"):
        pool.submit(pow, 2, 2)
    release.set()
    assert pool.close(5)


def test_a_thread_that_never_began_does_not_disturb_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come just when a worker is about to be started."""
    pool = Pool(2, "test-pool")

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.submit(pow, 2, 2)
    assert pool.close() is True


def test_threads_that_could_not_be_started_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(2, "test-pool")

    def refused(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                pool.submit(pow, 2, 2)
    assert pool.submit(pow, 2, 3).result(5) == 8
    release, begun = threading.Event(), threading.Event()
    running = pool.submit(lambda: (begun.set(), release.wait(5)))
    assert begun.wait(5)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        waiting = pool.submit(pow, 2, 4)        # for the one thread that there is
    release.set()
    assert waiting.result(5) == 16 and running.result(5)
    assert pool.close(5)


def test_nothing_of_a_finished_call_is_kept() -> None:
    import weakref

    class Big:
        pass

    pool = Pool(1, "test-pool")
    big = Big()
    gone = weakref.ref(big)
    pool.submit(lambda thing: None, big).result(5)
    del big
    wait_until(lambda: gone() is None)
    assert pool.close()
