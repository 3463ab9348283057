"""What no venue should send: counted, shown, survived; and never a book that is silently wrong."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from streams.backoff import Backoff
from streams.book import BookView
from streams.session import SAMPLES
from streams.sim import BinanceFuturesSim, BinanceSim, Fault, HuobiSim
from streams.stream import Stream

from .tools import exact, live, wait_live, wait_until

Serve = Callable[..., Any]
Connect = Callable[..., Stream]

COMMON = ("invalid", "truncated", "types", "nan", "inf", "negative", "unknown", "nested", "utf8", "binary")
CASES = [(kind, options, garbage) for kind, options, more in (
    (BinanceSim, {}, ()), (BinanceFuturesSim, {}, ()), (HuobiSim, {}, ("gzip", "bomb")),
    (HuobiSim, {"book_mode": "incremental"}, ("gzip", "bomb"))) for garbage in (*COMMON, *more)]


def true(sim: Any, view: BookView) -> bool:
    """Whether a book is the true one at its number."""
    truth = sim.market.book("BTCUSDT", view["sequence"])
    return exact(view["bids"]) == truth.bids and exact(view["asks"]) == truth.asks


def right(sim: Any, stream: Stream) -> bool:
    """Whether the book is live, and the true one at its number."""
    view = stream.store.orderbook(stream.exchange, "BTC-USDT")
    return view["status"] == "live" and true(sim, view)


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("kind, options, garbage", CASES)
def test_garbage_is_counted_and_survived(kind: Any, options: Any, garbage: str, number: Any, serve: Serve,
                                         connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT"], rate=0, levels=50)
    stream = connect(sim, ["BTC-USDT"], number=number, **options)
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions)
    wait_until(lambda: sim.advance(1) or live(stream))
    for count in (1, 2, 3):
        sim.inject(Fault.GARBAGE(kind=garbage))
        wait_until(lambda: stream.status()["malformed"] >= count, what=f"{stream.status()}")
        wait_until(lambda: sim.advance(1) or (live(stream) and right(sim, stream)))
    status = stream.status()
    assert status["malformed"] == 3 and status["connects"] == 1 and status["errors"] == 0
    assert stream.is_alive()


@pytest.mark.parametrize("kind, options", [
    (BinanceSim, {}), (BinanceFuturesSim, {}), (HuobiSim, {}), (HuobiSim, {"book_mode": "incremental"})])
def test_garbage_among_good_messages_never_makes_a_live_book_wrong(kind: Any, options: Any, serve: Serve,
                                                                   connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT"], rate=300.0, levels=50)
    stream = connect(sim, ["BTC-USDT"], **options)
    wait_live(stream)
    wrong = []
    for n in range(60):
        sim.inject(Fault.GARBAGE(kind=COMMON[n % len(COMMON)]))
        view = stream.store.orderbook(stream.exchange, "BTC-USDT")
        if view["status"] == "live" and not true(sim, view):
            wrong.append((COMMON[n % len(COMMON)], view))
    assert not wrong
    wait_until(lambda: stream.status()["malformed"] == 60)
    wait_until(lambda: live(stream) and right(sim, stream))


def test_the_log_has_samples_and_not_everything(serve: Serve, connect: Connect,
                                                caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "streams.session")
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    stream = connect(sim)
    wait_live(stream)
    for _ in range(4 * SAMPLES):
        sim.inject(Fault.GARBAGE(kind="invalid"))
    wait_until(lambda: stream.status()["malformed"] == 4 * SAMPLES)
    shown = [record for record in caplog.records if "malformed message" in record.getMessage()]
    assert len(shown) == SAMPLES
    assert all(len(record.getMessage()) < 400 for record in shown)


@pytest.mark.parametrize("kind", [BinanceSim, HuobiSim])
def test_a_100_mb_frame_is_refused_unread(kind: Any, serve: Serve, connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT"], rate=50.0)
    stream = connect(sim, backoff=Backoff(healthy_after=0.0))
    wait_live(stream)
    gc.collect()
    tracemalloc.start()
    try:
        sim.inject(Fault.OVERSIZED(size=100_000_000))
        wait_until(lambda: sim.accepted == 2)
        wait_live(stream)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
    assert stream.status()["malformed"] == 1
    assert "limit" in stream.status()["last_error"]


def test_a_gzip_bomb_does_not_fill_the_memory(serve: Serve, connect: Connect) -> None:
    sim = serve(HuobiSim, ["BTCUSDT"], rate=50.0)
    stream = connect(sim)
    wait_live(stream)
    bomb = Fault.GARBAGE(kind="bomb")
    sim.inject(bomb)            # packed once, so that what is measured is only the client
    wait_until(lambda: stream.status()["malformed"] == 1)
    gc.collect()
    tracemalloc.start()
    try:
        conn = sim.connections[-1]
        frames = sim.wire.garbage(conn, "bomb")
        tracemalloc.clear_traces()
        tracemalloc.reset_peak() if hasattr(tracemalloc, "reset_peak") else None
        for opcode, payload in frames:
            conn.queue_message(opcode, payload)
        conn.peer.flush()
        wait_until(lambda: stream.status()["malformed"] == 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000, f"{peak} bytes for a message that unpacks to 100 MB"
    wait_live(stream)


def test_a_bad_snapshot_is_counted_and_asked_for_again(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan_rest(Fault.SNAPSHOT_GARBAGE, Fault.SNAPSHOT_GARBAGE)
    stream = connect(sim)
    wait_live(stream)
    assert stream.status()["malformed"] == 2


def test_a_mistake_of_ours_costs_one_message_and_a_resync(serve: Serve, connect: Connect) -> None:
    """Should a venue raise after all: the thread lives, the rest is handled, the books are rebuilt."""
    sim = serve(BinanceSim, ["BTCUSDT", "ETHUSDT"], rate=0)
    stream = connect(sim, ["BTC-USDT", "ETH-USDT"])
    wait_until(lambda: sim.connections and len(sim.connections[0].subscriptions) == 2)
    wait_until(lambda: sim.advance(1) or live(stream))
    session: Any = stream._connector.session
    good = session.venue.receive
    armed = [True]

    def broken(raw: bytes, now: int) -> Any:
        if armed.pop() if armed else False:
            raise KeyError("a mistake")
        return good(raw, now)

    session.venue.receive = broken
    sim.advance(1)
    wait_until(lambda: stream.status()["malformed"] == 1)
    assert not armed
    wait_until(lambda: sim.advance(1) or live(stream))
    assert stream.status()["resyncs"] == 2 and stream.status()["connects"] == 1
