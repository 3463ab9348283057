"""Nasdaq ITCH end to end: a stream against the simulated server, with accidents of every kind."""

from __future__ import annotations

import threading
import time
from decimal import Decimal
from typing import Any

import pytest

from streams.backoff import Backoff
from streams.errors import ConfigurationError
from streams.events import BookUpdate, Trade
from streams.exchanges import NasdaqItch
from streams.manager import StreamManager
from streams.sim import ItchSim
from streams.sim.itch import FAULTS

from .tools import NaiveBook, exact, wait_live, wait_until, with_limits

KEYS = {"api_key": "user", "api_secret": "password"}
SYMBOLS = ("AAPL", "MSFT", "NVDA")


@pytest.fixture
def itch(stack: Any) -> Any:
    """``itch(sim, symbols, channels, **options)``: a stream that runs until the end of the test. It takes
    a second without a heartbeat for the server's end, and tries again at once."""
    def begin(sim: ItchSim, symbols: Any = SYMBOLS, channels: Any = ("book",), heartbeat: float = 1.0,
              **options: Any) -> NasdaqItch:
        options = {"url": sim.url, "connect_timeout": 2.0, "backoff": Backoff(0.05, 0.1), **KEYS, **options}
        kind: Any = with_limits(NasdaqItch, heartbeat=heartbeat, connects=(1000, 1.0))
        stream: NasdaqItch = kind(symbols, channels, **options)
        stack.callback(lambda: stream.stop() or pytest.fail(f"{stream!r} did not stop"))
        stream.start()
        return stream
    return begin


@pytest.fixture
def sim(stack: Any) -> ItchSim:
    return stack.enter_context(ItchSim(SYMBOLS, heartbeat=0.2))     # type: ignore[no-any-return]


def compare(stream: NasdaqItch, sim: ItchSim) -> int:
    """Every live book is the true one at its own sequence number; how many were live."""
    live = 0
    with stream.store.lock:
        views = [book.view() for book in stream.store.orderbooks["nasdaq-itch"].values()]
    for view in views:
        if view["status"] == "live":
            live += 1
            truth = sim.market.book(view.symbol, view["sequence"])
            assert exact(view["bids"]) == truth.bids, view.symbol
            assert exact(view["asks"]) == truth.asks, view.symbol
    return live


def settle(stream: NasdaqItch, sim: ItchSim, timeout: float = 15.0) -> None:
    """Wait until all books are live and have taken the last message that concerns them."""
    wait_live(stream, timeout=timeout)
    # One order more in every stock, so that its book says that it has come this far.
    goal = {symbol: sim.market.sequence for symbol in SYMBOLS}
    books = stream.store.orderbooks["nasdaq-itch"]

    def there() -> bool:
        sim.advance(3)
        return all(book["status"] == "live" and book["sequence"] > goal[symbol]
                   for symbol, book in books.items())

    wait_until(there, timeout, store=stream.store, what=f"{stream!r}: {stream.status()}")
    assert compare(stream, sim) == len(books)


def test_books_are_true_at_their_own_sequence_number(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim)
    wait_live(stream)
    for _ in range(50):
        sim.advance(200)
        assert compare(stream, sim) == 3
    settle(stream, sim)
    book = stream.store.orderbooks["nasdaq-itch"]["AAPL"]
    assert abs(book["timestamp"] - time.time_ns()) < 60 * 10**9, "absolute, in ns"


def test_a_handler_hears_of_every_message(sim: ItchSim, itch: Any) -> None:
    sim.advance(1000)
    heard: list[BookUpdate] = []
    stream = itch(sim, heartbeat=60.0)      # a machine under load must not make it reconnect
    stream.on(r"nasdaq-itch\.book\.MSFT", heard.append, policy="inline")
    settle(stream, sim)
    sim.advance(2000)
    settle(stream, sim)
    heard = heard.copy()                    # the last of them may still be on their way
    last = heard[-1].sequence or 0
    orders = [number for number, packet in enumerate(sim.market.packets[:last], 1)
              if packet[3:4] in (b"A", b"F", b"E", b"C", b"X", b"D", b"U") and packet[4:6] == b"\0\2"]
    begin = next(at for at, update in enumerate(heard) if update.snapshot is False)
    assert [update.sequence for update in heard[begin:]] == [
        number for number in orders if number >= (heard[begin].sequence or 0)]
    mirror = NaiveBook()
    for update in heard:
        mirror.apply(update.bids, update.asks, update.sequence, update.snapshot)
    truth = sim.market.book("MSFT", last)
    bids, asks = mirror.sorted()
    assert (exact(bids), exact(asks)) == (truth.bids, truth.asks)


def test_in_decimals_exactly(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim, number=Decimal)
    sim.advance(2000)
    settle(stream, sim)
    (price, size) = stream.store.orderbooks["nasdaq-itch"]["AAPL"]["bids"][0]
    assert type(price) is Decimal and type(size) is Decimal


def test_the_polling_loop_of_any_other_exchange(sim: ItchSim) -> None:
    with StreamManager() as market:
        market.start("nasdaq-itch", ["AAPL"], url=sim.url, **KEYS)
        market.wait_ready(timeout=10)
        sim.advance(500)
        seen = market.store.wait(None, timeout=10)
        for _ in range(10):
            sim.advance(50)
            new = market.store.wait(seen, timeout=10)
            assert new != seen
            with market.store.lock:
                seen = market.store.last_update
                for exchange, books in market.store.orderbooks.items():
                    for symbol, book in books.items():
                        assert (exchange, symbol) == ("nasdaq-itch", "AAPL")
                        assert not book["bids"] or not book["asks"] or book["bids"][0] < book["asks"][0]


ACCIDENTS = {
    "drop": FAULTS["drop"], "reset": FAULTS["reset"], "mute": FAULTS["mute"],
    "half a packet": FAULTS["stall"],
    "no heartbeats": FAULTS["no_heartbeats"],
    "skipped": FAULTS["skip"](code="AF"), "repeated": FAULTS["duplicate"](code="AF"),
    **{f"garbage {kind}": FAULTS["garbage"](kind=kind) for kind in (
        "truncated", "long", "type", "unknown_order", "too_many", "locate", "empty", "packet", "extra_type")},
}


@pytest.mark.parametrize("accident", ACCIDENTS)
def test_after_every_accident_the_books_are_true_again(sim: ItchSim, itch: Any, accident: str) -> None:
    stream = itch(sim)
    sim.advance(3000)
    settle(stream, sim)
    sim.inject(ACCIDENTS[accident])
    sim.advance(3000)
    if accident in ("drop", "reset", "mute", "half a packet", "no heartbeats"):
        wait_until(lambda: stream.status()["reconnects"], what="the connection is replaced")
    elif accident in ("skipped", "repeated"):
        # Nothing in the protocol tells, until some later message does not fit.
        wait_until(lambda: sim.advance(2000) and stream.status()["malformed"], 20.0)
    settle(stream, sim)
    assert sim.struck
    status = stream.status()
    if accident.startswith("garbage"):
        assert status["malformed"] >= 1
        assert status["reconnects"] == 0 or "message" in status["last_error"]


def test_reconnects_lose_nothing_and_repeat_nothing(sim: ItchSim, itch: Any) -> None:
    trades: list[Trade] = []
    stream = itch(sim, channels=("book", "trades"))
    stream.on(r"nasdaq-itch\.trades\..+", trades.append, policy="inline")
    settle(stream, sim)
    for n in range(8):
        sim.advance(1000)
        sim.inject(FAULTS["reset" if n % 2 else "drop"])
        sim.advance(500)
        wait_until(lambda: stream.status()["reconnects"] > n)
        settle(stream, sim)
    truth = [packet[26:34] if packet[3:4] in (b"E", b"C") else packet[39:47] for packet in sim.market.packets
             if packet[3:4] in (b"E", b"P") or packet[3:4] == b"C" and packet[34:35] == b"Y"]
    mine = [trade.id for trade in trades if isinstance(trade, Trade) and trade.conditions[:1] != ("Q",)]
    expected = [str(int.from_bytes(match, "big")) for match in truth]
    wait_until(lambda: len(mine) >= len(expected) - 5)
    assert mine == expected[:len(mine)]
    asked = [number for _, number in sim.logins]
    assert asked[0] == 1 and asked == sorted(asked), "never again from the beginning"


def test_another_number_than_asked_for_begins_from_the_beginning(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim)
    sim.advance(500)
    settle(stream, sim)
    sim.plan(FAULTS["wrong_number"](offset=-7))
    sim.inject(FAULTS["drop"])
    wait_until(lambda: stream.status()["reconnects"])
    settle(stream, sim)
    assert [number for _, number in sim.logins][-1] == 1
    assert "sequence gap" in stream.status()["last_error"]


def test_the_next_session_begins_with_new_books(
    sim: ItchSim, itch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.venues.itch._NO_SESSION_PAUSE", 0.3)
    stream = itch(sim)
    sim.advance(500)
    settle(stream, sim)
    sim.plan(FAULTS["reject"](code="S"))
    sim.end_session("SIM0000002")
    wait_until(lambda: len(sim.logins) == 2, 20.0)
    settle(stream, sim)
    assert sim.logins[-1] == ("SIM0000002", 1)


def test_a_server_that_never_answers_the_login_is_given_up(sim: ItchSim, itch: Any) -> None:
    sim.plan(FAULTS["never_answer"], FAULTS["refuse"])
    stream = itch(sim)
    settle(stream, sim, timeout=25.0)
    assert sim.accepted >= 3


def test_a_wrong_password_is_final(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim, api_secret="hunter2")
    wait_until(lambda: stream.state == "failed")
    assert "name and password" in stream.status()["last_error"]
    assert "hunter2" not in str(stream.status()) and sim.accepted == 1


def test_subscribing_and_unsubscribing_in_the_middle(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim, ["AAPL"])
    sim.advance(2000)
    settle(stream, sim)
    stream.subscribe(["NVDA", "msft"])
    wait_live(stream)
    for _ in range(10):
        sim.advance(100)
        with stream.store.lock:
            views = {s: b.view() for s, b in stream.store.orderbooks["nasdaq-itch"].items()}
        assert set(views) == {"AAPL", "NVDA", "msft"}
        for symbol, view in views.items():
            truth = sim.market.book(symbol.upper(), view["sequence"])
            assert (exact(view["bids"]), exact(view["asks"])) == (truth.bids, truth.asks)
    stream.unsubscribe(["AAPL"])
    wait_until(lambda: "AAPL" not in stream.store.orderbooks["nasdaq-itch"])


def test_a_wrong_symbol_is_refused_and_the_others_go_on(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim, ["AAPL", "WRONG"])
    wait_until(lambda: stream.status()["subscriptions"]["book.WRONG"]["state"] == "refused")
    assert "stock directory" in stream.status()["subscriptions"]["book.WRONG"]["reason"]
    wait_until(lambda: stream.status()["subscriptions"]["book.AAPL"]["state"] == "live")


def test_a_stop_logs_out_and_a_start_resumes(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim)
    sim.advance(500)
    settle(stream, sim)
    conn = sim.connections[0]
    began = time.monotonic()
    assert stream.stop()
    assert time.monotonic() - began < 1.0
    assert sim.wait_for(lambda: conn.closed, 5.0) and conn.logged_out
    sim.advance(500)
    stream.start()
    settle(stream, sim)
    assert sim.logins[-1][1] > 500


@pytest.mark.parametrize("fault", ["mute", "stall", "never_answer", "no_data"])
def test_stop_within_a_second_whatever_the_server_does(sim: ItchSim, itch: Any, fault: str) -> None:
    if fault == "never_answer":
        sim.plan(FAULTS[fault])
    stream = itch(sim)
    if fault == "never_answer":
        assert sim.wait_for(lambda: sim.struck[fault] == 1, 10.0)
    else:
        wait_live(stream)
        sim.inject(FAULTS[fault])
        sim.advance(10)
    began = time.monotonic()
    assert stream.stop()
    assert time.monotonic() - began < 1.0


def test_heartbeats_alone_are_no_data(sim: ItchSim, itch: Any) -> None:
    stream = itch(sim, stale_after=0.8)
    wait_live(stream)
    sim.inject(FAULTS["no_data"])
    wait_until(lambda: len(sim.logins) >= 2, 10)
    assert stream.status()["last_error"] == "connected, but no data for 0.8 s"
    settle(stream, sim)


def test_stop_in_a_flood(stack: Any, itch: Any) -> None:
    sim = stack.enter_context(ItchSim(SYMBOLS))
    sim.advance(100_000)
    stream = itch(sim)
    wait_live(stream)
    began = time.monotonic()
    assert stream.stop()
    assert time.monotonic() - began < 1.0
    assert compare(stream, sim) == 0, "closed books do not claim to be live"


def test_under_load_with_accidents_no_live_book_is_ever_wrong(stack: Any, itch: Any) -> None:
    sim = stack.enter_context(ItchSim(SYMBOLS, rate=5000, heartbeat=0.2))
    stream = itch(sim)
    wait_live(stream)
    accidents = [FAULTS["reset"], FAULTS["garbage"](kind="truncated"), FAULTS["drop"],
                 FAULTS["garbage"](kind="unknown_order"), FAULTS["stall"], FAULTS["garbage"](kind="type")]
    done = threading.Event()
    compared = 0
    deadline = time.monotonic() + 20.0
    for fault in accidents:
        before = stream.status()["reconnects"]
        sim.inject(fault)
        while (stream.status()["reconnects"] == before or not compare(stream, sim)):
            assert time.monotonic() < deadline, stream.status()
            done.wait(0.01)
        for _ in range(10):
            compared += compare(stream, sim)
            done.wait(0.005)
    assert compared > 20


def test_credentials_do_not_go_over_the_network_in_the_clear() -> None:
    with pytest.raises(ConfigurationError, match="loopback"):
        NasdaqItch(["AAPL"], url="tcp://192.0.2.1:5000", **KEYS)
    with pytest.raises(ConfigurationError, match="no public address"):
        NasdaqItch(["AAPL"], **KEYS)
