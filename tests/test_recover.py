"""Feeds that fail are noticed, replaced, and right again; and users are told meanwhile."""

from __future__ import annotations

import errno
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams import StreamManager
from streams.backoff import Backoff
from streams.errors import NotReady, StaleData
from streams.events import StatusChange
from streams.exchanges import Binance, BinanceFutures, Huobi
from streams.sim import BinanceFuturesSim, BinanceSim, Fault, HuobiSim
from streams.stream import Stream
from streams.subscriptions import UNANSWERED
from streams.transports.websocket import WebSocketTransport

from .live import PLACES
from .raw_peer import RawPeer
from .relay import Relay
from .tools import live, wait_live, wait_until, with_limits

Serve = Callable[..., Any]
Connect = Callable[..., Stream]

KINDS = [BinanceSim, BinanceFuturesSim, HuobiSim]


class Statuses:
    """The states that a stream and its books went through."""

    def __init__(self, stream: Stream) -> None:
        self.events: list[StatusChange] = []
        stream.on(r".*\.status\..*", self.events.append, policy="inline")

    def of(self, subject: str, symbol: str = "") -> list[str]:
        return [event.status for event in self.events if event.subject == subject and event.symbol == symbol]


def newest(sim: Any) -> Any:
    """The last of the connections that are open."""
    return sim.connections[-1]


def stamp(stream: Stream, symbol: str = "BTC-USDT") -> Any:
    return stream.store.orderbooks[stream.exchange][symbol]["last_update"]


# -- silence ------------------------------------------------------------------------------------------


def test_a_mute_server_is_replaced_within_four_seconds(serve: Serve, connect: Connect) -> None:
    """At default settings, measured as users do: the time without updates."""
    sims = [serve(kind, ["BTCUSDT"], rate=50.0) for kind in KINDS]
    streams = [connect(sim, ["BTC-USDT"]) for sim in sims]
    wait_live(*streams)
    wait_until(lambda: all(stamp(stream) for stream in streams))
    last = [stamp(stream) for stream in streams]
    since = [time.monotonic()] * len(streams)
    longest = [0.0] * len(streams)

    def look() -> bool:
        now = time.monotonic()
        for n, stream in enumerate(streams):
            longest[n] = max(longest[n], now - since[n])
            if stamp(stream) != last[n]:
                last[n], since[n] = stamp(stream), now
        return all(sim.accepted == 2 for sim in sims) and all(live(stream) for stream in streams)

    for sim in sims:
        sim.inject(Fault.MUTE)
    begun = time.monotonic()
    wait_until(look, 10)
    while time.monotonic() - begun < 3.0:
        wait_until(look, 1)
    assert max(longest) < 4.0
    for stream in streams:
        assert stream.status()["reconnects"] == 1
        assert "no answer to a ping" in stream.status()["last_error"]


@pytest.mark.parametrize("kind", [BinanceSim, BinanceFuturesSim])
def test_a_path_that_goes_silent_is_replaced_within_four_seconds(kind: Any, serve: Serve,
                                                                 connect: Connect) -> None:
    """What is kept open for the next snapshot is then as dead as the stream's own connection."""
    sim = serve(kind, ["BTCUSDT"], rate=50.0)
    with Relay(sim.port) as relay:
        stream = connect(sim, url=f"ws://127.0.0.1:{relay.port}", rest_url=f"http://127.0.0.1:{relay.port}")
        wait_live(stream)
        begun = time.monotonic()
        assert relay.go_silent() == 2
        wait_until(lambda: sim.accepted == 2, 10)
        wait_live(stream, timeout=20)
        assert time.monotonic() - begun < 4.0
        assert stream.stop()


def test_a_quiet_market_is_not_a_mute_server(serve: Serve, connect: Connect) -> None:
    sims = [serve(kind, ["BTCUSDT"], rate=0) for kind in KINDS]
    streams = [connect(sim, ["BTC-USDT"], kind=with_limits(kind, probe_after=0.1))
               for sim, kind in zip(sims, (Binance, BinanceFutures, Huobi))]
    for sim in sims:
        wait_until(lambda: sim.connections and sim.connections[0].subscriptions)
        sim.advance(1)
    wait_live(*streams)
    for sim in sims:
        before = sim.connections[0].pings
        wait_until(lambda: sim.connections[0].pings >= before + 2, 5)
    assert all(sim.accepted == 1 and sim.violations == 0 for sim in sims)
    assert all(live(stream) and stream.status()["errors"] == 0 for stream in streams)


def test_a_quiet_venue_that_answers_no_ping_frames_is_not_mute(serve: Serve, connect: Connect) -> None:
    """Huobi's heart-beat is JSON, both ways; it is said to let ping frames pass unanswered."""
    sim = serve(HuobiSim, ["BTCUSDT"], rate=0, ping_interval=60.0, answers_frames=False)
    stream = connect(sim, ["BTC-USDT"], ["trades"], kind=with_limits(Huobi, probe_after=0.2))
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions)

    def probes() -> int:
        return sum('"ping"' in str(message) for message in sim.connections[0].received)

    wait_until(lambda: probes() >= 3, 5, what=f"{stream.status()}")
    assert (sim.accepted, sim.violations) == (1, 0)
    assert stream.status()["errors"] == stream.status()["malformed"] == 0
    sim.inject(Fault.MUTE)
    wait_until(lambda: sim.accepted == 2, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_pongs_and_pings_but_no_data_is_stale_and_replaced(kind: Any, serve: Serve, connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT"], rate=50.0, ping_interval=0.4)
    stream = connect(sim, ["BTC-USDT"], ["book", "quotes"], stale_after=0.8, begin=False)
    statuses = Statuses(stream)
    refused: list[str] = []

    def look(event: StatusChange) -> None:
        if event.subject == "stream" and event.status == "stale":
            refused.append("state " + stream.state)
        if event.subject == "book" and event.status == "stale":
            with pytest.raises(StaleData) as caught:
                stream.store.orderbook(stream.exchange, "BTC-USDT", max_age=60)
            refused.append(str(caught.value))

    stream.on(r".*\.status\..*", look, policy="inline")
    stream.start()
    wait_live(stream)
    begun = time.monotonic()
    sim.inject(Fault.NO_DATA)
    wait_until(lambda: sim.accepted == 2, 5)
    assert 0.7 < time.monotonic() - begun < 2.0
    wait_live(stream)
    assert "stale" in statuses.of("stream"), stream.status()["last_error"]
    assert "stale" in statuses.of("book", "BTC-USDT")
    assert "state stale" in refused
    assert any("the order book is stale" in text for text in refused)
    assert stream.status()["last_error"] == "connected, but no data for 0.8 s"
    assert stream.store.orderbook(stream.exchange, "BTC-USDT", max_age=5)["status"] == "live"


def test_a_quiet_market_is_not_reconnected_again_and_again(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=1.5)
    stream = connect(sim, ["BTC-USDT"], stale_after=0.5, begin=False)
    statuses = Statuses(stream)
    stream.start()
    wait_until(lambda: statuses.of("stream").count("live") >= 6, 30)        # each time that data came again
    assert statuses.of("stream").count("stale") >= 4
    assert sim.accepted <= 4 and stream.status()["reconnects"] == sim.accepted - 1


def test_after_a_lively_time_silence_counts_as_before(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    stream = connect(sim, ["BTC-USDT"], stale_after=0.4)
    wait_live(stream)
    stream.feed.silences = 3
    wait_until(lambda: stream.feed.silences == 0)
    begun = time.monotonic()
    sim.inject(Fault.NO_DATA)
    wait_until(lambda: sim.accepted == 2, 5)
    assert 0.3 < time.monotonic() - begun < 1.6 and stream.feed.silences == 1


@pytest.mark.parametrize("name, options", [
    ("kraken-book", {"heartbeat": 0.2}), ("alpaca-ticker", {}), ("alpaca-crypto", {}),
    ("polygon-crypto", {})])
def test_heartbeats_are_no_data_at_any_venue(name: str, options: Any, stack: Any,
                                             caplog: pytest.LogCaptureFixture) -> None:
    place = PLACES[name]
    sim = place.serve(stack, rate=50.0, **options)
    stream = place.stream(sim, place.symbols[0], stack, stale_after=0.8)
    stream.start()
    wait_live(stream)
    begun = time.monotonic()
    sim.inject(Fault.NO_DATA)
    wait_until(lambda: sim.accepted == 2, 5)
    assert time.monotonic() - begun > 0.7
    assert "connected, but no data for 0.8 s" in caplog.text
    wait_live(stream)


@pytest.mark.parametrize("kind, options", [
    (BinanceSim, {}), (HuobiSim, {}), (HuobiSim, {"book_mode": "incremental"})])
def test_ack_and_silence_of_one_symbol(kind: Any, options: Any, serve: Serve, connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT", "ETHUSDT"], rate=50.0)
    stream = connect(sim, ["BTC-USDT"], stale_after=0.6, begin=False, **options)
    statuses = Statuses(stream)
    stream.start()
    wait_live(stream)
    conn = newest(sim)
    sim.inject(Fault.ACK_SILENCE)
    stream.subscribe("ETH-USDT")

    def said() -> list[str]:
        words = [str(message).lower() for message in conn.received.copy() if "ethusdt" in str(message)]
        return ["unsub" if "unsub" in word else "sub" for word in words if "req" not in word]

    wait_until(lambda: said() == ["sub", "unsub", "sub"], 5)
    sim.clear_faults()
    if kind is BinanceSim or options:           # there was a whole book, and then nothing
        assert "stale" in statuses.of("book", "ETH-USDT")
    # It is suspected again only a minute later; a user who is in a hurry may subscribe anew.
    stream.unsubscribe("ETH-USDT")
    stream.subscribe("ETH-USDT")
    wait_live(stream)
    assert sim.accepted == 1, "one silent symbol is no reason to throw the others away"
    assert stream.store.orderbook(stream.exchange, "BTC-USDT", max_age=5)["status"] == "live"
    assert sim.violations == 0


def test_ack_and_silence_of_everything_is_replaced(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan(Fault.ACK_SILENCE)
    stream = connect(sim, ["BTC-USDT"], stale_after=0.5)
    wait_until(lambda: sim.accepted == 2, 5)
    wait_live(stream)


@pytest.mark.parametrize("kind, options", [
    (BinanceSim, {}), (HuobiSim, {}), (HuobiSim, {"book_mode": "incremental"})])
def test_subscriptions_that_stay_unanswered(kind: Any, options: Any, serve: Serve, connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT"], rate=50.0)
    sim.plan(Fault.NO_ACK)
    stream = connect(sim, ["BTC-USDT"], kind=with_limits(Huobi if kind is HuobiSim else Binance, ack=0.2),
                     **options)
    wait_until(lambda: sim.connections)
    first = newest(sim)
    wait_until(lambda: sim.accepted == 2, 5)
    asked = [str(message) for message in first.received.copy() if "sub" in str(message).lower()]
    assert len(asked) == UNANSWERED
    assert "stay unanswered" in str(stream.status()["last_error"])
    wait_live(stream)


# -- broken connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_connection_is_right_again_within_300_ms(kind: Any, serve: Serve, connect: Connect) -> None:
    sim = serve(kind, ["BTCUSDT"], rate=100.0)
    stream = connect(sim, ["BTC-USDT"], backoff=Backoff(healthy_after=0.0))
    took = []
    for fault in (Fault.RESET, Fault.DROP, Fault.CLOSE, Fault.RESET, Fault.RESET, Fault.CLOSE(code=1008),
                  Fault.RESET):
        wait_live(stream)
        wait_until(lambda: len(sim.connections) == 1)
        accepted, conn = sim.accepted, newest(sim)
        begun = time.monotonic()
        sim.inject(fault, conn)
        wait_until(lambda: sim.accepted > accepted and live(stream))
        took.append(time.monotonic() - begun)
        view = stream.store.orderbook(stream.exchange, "BTC-USDT", max_age=1)
        truth = sim.market.book("BTCUSDT", view["sequence"])
        assert [price for price, _ in view["bids"][:20]] == [float(price) for price, _ in truth.bids[:20]]
        assert [size for _, size in view["asks"][:20]] == [float(size) for _, size in truth.asks[:20]]
    # It takes a few milliseconds; a machine that is busy with other things may hold up some of them.
    assert statistics.quantiles(took, n=3)[0] < 0.3, took
    assert stream.status()["reconnects"] == 7


def test_everything_subscribed_is_restored(serve: Serve, connect: Connect) -> None:
    symbols = [f"{name}USDT" for name in "ABCDEFGHIJ"]
    sim = serve(BinanceSim, symbols, rate=20.0)
    wanted = [f"{name}-USDT" for name in "ABCDEFGH"]
    stream = connect(sim, wanted, ["book", "trades", "bars:1m"], backoff=Backoff(base=0.05))
    wait_live(stream)
    stream.unsubscribe(["A-USDT"])
    stream.subscribe(["I-USDT"], ["quotes"])

    def expected(names: str, extra: set[str]) -> set[str]:
        return {f"{name.lower()}usdt@{kind}" for name in names
                for kind in ("depth@100ms", "trade", "kline_1m")} | extra

    wait_until(lambda: newest(sim).subscriptions == expected("BCDEFGH", {"iusdt@bookTicker"}))
    sim.pause_listening()
    sim.inject(Fault.RESET)
    wait_until(lambda: stream.state == "backoff")
    stream.unsubscribe(["B-USDT"], ["trades"])          # while there is no connection
    stream.subscribe(["J-USDT"], ["quotes"])
    for name in "CDEFGH":
        with pytest.raises(StaleData, match="the order book is stale"):
            stream.store.orderbook("binance", f"{name}-USDT", max_age=60)
        assert stream.store.orderbook("binance", f"{name}-USDT")["bids"]
    sim.resume_listening()
    want = expected("BCDEFGH", {"iusdt@bookTicker", "jusdt@bookTicker"}) - {"busdt@trade"}
    wait_until(lambda: sim.connections and newest(sim).subscriptions == want)
    wait_live(stream)
    assert sim.violations == 0
    states = {entry["state"] for entry in stream.status()["subscriptions"].values()}
    assert states == {"live"} and len(stream.status()["subscriptions"]) == len(want)


def test_attempts_go_on_for_ever_with_growing_pauses(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    pauses: list[float] = []

    class Noting(Backoff):
        def next(self, lived: float) -> float:
            pauses.append(super().next(lived))
            return pauses[-1]

    stream = connect(sim, backoff=Noting(base=0.01, cap=0.08, rand=lambda: 1.0))
    wait_live(stream)
    sim.pause_listening()
    sim.inject(Fault.RESET)
    wait_until(lambda: len(pauses) >= 8)
    assert pauses[:8] == [0.0, 0.02, 0.04, 0.08, 0.08, 0.08, 0.08, 0.08]
    assert stream.status()["state"] in ("backoff", "connecting") and stream.status()["errors"] >= 8
    sim.resume_listening()
    wait_live(stream)


@pytest.mark.parametrize("fault", [
    Fault.REFUSE, Fault.NEVER_UPGRADE, Fault.REJECT(status=503), Fault.REJECT(status=403),
    Fault.SLOW_UPGRADE(seconds=30.0), Fault.STALL, Fault.DROP, Fault.OVERSIZED, Fault.GARBAGE,
    Fault.FRAGMENT, Fault.CLOSE])
def test_a_first_connection_that_goes_wrong(fault: Fault, serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan(fault, fault)
    stream = connect(sim, connect_timeout=0.3, backoff=Backoff(base=0.02),
                     kind=with_limits(Binance, probe_after=0.3))
    wait_live(stream)
    wait_until(lambda: stream.feed.counters.messages > 10)
    assert sim.struck[fault.name] >= 1


@pytest.mark.parametrize("header", [
    "Content-Length: " + "9" * 5000, "Content-Length: -1", "Retry-After: " + "9" * 400,
    "Retry-After: Thu, 01 Jan 99999999999999999999 00:00:00 GMT",
    "Retry-After: Thu, 01 Jan 2026 00:00:00 +99999999999999999999", "Retry-After: \xff",
    "Location: \xff\x00"])
def test_no_answer_to_the_upgrade_is_the_end(header: str, serve: Serve, connect: Connect) -> None:
    with RawPeer() as peer:
        stream = connect(serve(), url=f"ws://127.0.0.1:{peer.port}", backoff=Backoff(base=0.01))
        for _ in range(2):
            wire = peer.accept()
            wire.head()
            wire.sock.sendall(f"HTTP/1.1 503 No\r\n{header}\r\n\r\n".encode("latin-1"))
            wire.close()
        wait_until(lambda: stream.status()["errors"] >= 2)
        assert stream.is_alive() and "HTTP 503" in stream.status()["last_error"]


def test_a_transport_that_fails_as_none_should_is_one_more_error(serve: Serve, connect: Connect,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes = [KeyError("a mistake"), KeyError("another")]
    run = WebSocketTransport.run

    def wrong(self: WebSocketTransport) -> Any:
        if mistakes:
            raise mistakes.pop()
        return run(self)
    monkeypatch.setattr(WebSocketTransport, "run", wrong)
    stream = connect(serve(rate=50.0), backoff=Backoff(base=0.01))
    wait_live(stream)
    assert stream.status()["errors"] == 2 and "KeyError" in stream.status()["last_error"]


@pytest.mark.parametrize("what", ["subscribe", "pong"])
def test_why_a_venue_hangs_up_is_heard_though_sending_fails(what: str, serve: Serve,
                                                            connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT", "ETHUSDT"], rate=0)
    stream = connect(sim, begin=False)
    armed, entered, gate = (threading.Event() for _ in range(3))
    numbers: list[Any] = []

    def handler(event: Any) -> None:
        if not event.snapshot:
            numbers.append(event.sequence)
        if armed.is_set():
            entered.set()
            gate.wait(10)

    def fail(data: Any, deadline: float) -> None:
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    stream.on(r"binance\.book\..+", handler, policy="inline")
    stream.start()
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions)
    wait_until(lambda: sim.advance(1) or live(stream))
    armed.set()
    sim.advance(1)
    assert entered.wait(10)
    stream._connector._transport._line.send_by = fail       # type: ignore[union-attr]
    if what == "subscribe":
        stream.subscribe("ETH-USDT")
    else:
        sim.connections[0].ping()
    sim.advance(3)
    last = sim.market.book("BTCUSDT").sequence
    sim.connections[0].close(1008, "you are banned")        # all of this waits in the socket
    gate.set()
    wait_until(lambda: stream.status()["last_error"])
    assert "with code 1008: you are banned" in stream.status()["last_error"]
    assert last in numbers


def test_too_many_connections_are_paused_as_long_as_the_venue_says(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan(Fault.REJECT(status=429, retry_after=1))
    stream = connect(sim, backoff=Backoff(base=0.01))
    wait_until(lambda: stream.state == "backoff")
    begun = time.monotonic()
    wait_live(stream)
    assert time.monotonic() - begun > 0.8
    assert sim.accepted == 2


@pytest.mark.parametrize("status, seconds", [(429, 30), (418, 120)])
def test_who_came_too_often_stays_away(status: int, seconds: int, serve: Serve, connect: Connect) -> None:
    """Also when the venue does not say for how long."""
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan(Fault.REJECT(status=status))
    stream = connect(sim, backoff=Backoff(base=0.01))
    wait_until(lambda: stream.state == "backoff")
    assert 0.9 * seconds < float(stream.status()["reason"].split()[3]) <= seconds
    assert stream.stop(1) and sim.accepted == 1


def test_a_connection_ended_for_an_offence_was_not_healthy(serve: Serve, connect: Connect) -> None:
    lives = []

    class Noting(Backoff):
        def next(self, lived: float) -> float:
            lives.append(lived)
            return super().next(lived)

    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    stream = connect(sim, backoff=Noting(base=0.01))
    for code, share in (1008, 0.1), (1013, 0.1), (1011, 1.0):
        wait_live(stream)
        wait_until(lambda: len(sim.connections) == 1)
        accepted, opened = sim.accepted, stream._connector.session.opened_at        # type: ignore[union-attr]
        least = time.monotonic() - opened
        sim.inject(Fault.CLOSE(code=code), newest(sim))
        wait_until(lambda: sim.accepted > accepted and live(stream))
        assert least * share <= lives[-1] <= (time.monotonic() - opened) * share


def test_a_venue_without_keys_that_answers_403_is_tried_again(serve: Serve, connect: Connect) -> None:
    """Keys for another venue may have been given to all of them."""
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan(Fault.REJECT(status=403), Fault.REJECT(status=403))
    stream = connect(sim, backoff=Backoff(base=0.01), api_key="of another", api_secret="venue")
    wait_live(stream)
    assert sim.accepted == 3


def test_refused_credentials_are_the_end(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.plan(Fault.REJECT(status=401))
    stream = connect(sim)
    wait_until(lambda: stream.state == "failed" and not stream.is_alive())
    assert "refused the credentials" in stream.status()["last_error"]
    stream.start()                              # with better luck
    wait_live(stream)


# -- planned ----------------------------------------------------------------------------------------------


def test_an_announced_shutdown_is_a_planned_reconnect(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=100.0)
    stream = connect(sim)
    wait_live(stream)
    sim.shutdown_notice(close_after=5.0)
    begun = time.monotonic()
    wait_until(lambda: sim.accepted == 2 and live(stream), 3)
    assert time.monotonic() - begun < 1.0
    status = stream.status()
    assert (status["errors"], status["last_error"], status["reconnects"]) == (0, None, 1)


def test_a_venue_that_shuts_down_all_the_time_is_not_hammered(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=100.0)
    stream = connect(sim, backoff=Backoff(base=0.4, rand=lambda: 1.0))
    seen = 0
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        if sim.accepted > seen and sim.connections and sim.connections[-1].subscriptions:
            seen = sim.accepted
            sim.shutdown_notice()
        stream.store.wait(stream.store.last_update, 0.01)
    assert 2 <= seen <= 5
    assert stream.status()["errors"] == 0


def test_connections_are_replaced_before_the_venue_ends_them(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=100.0, lifetime=2.0)
    stream = connect(sim, kind=with_limits(Binance, lifetime=0.5), backoff=Backoff(healthy_after=0.1))
    wait_until(lambda: sim.accepted == 3, 5)
    wait_live(stream)
    status = stream.status()
    assert (status["errors"], status["last_error"], status["reconnects"]) == (0, None, 2)


# -- refused ----------------------------------------------------------------------------------------------


def test_refused_symbols_stay_refused_and_say_why(serve: Serve) -> None:
    sim = serve(HuobiSim, ["BTCUSDT"], rate=50.0)
    with StreamManager() as market:
        market.start("huobi", ["BTC-USDT", "NO-SUCH"], url=sim.url, rest_url=sim.rest_url)
        with pytest.raises(NotReady, match=r"huobi book of NO-SUCH \(refused: invalid topic market.nosuch"):
            market.wait_ready(10)
        assert market.store.orderbook("huobi", "BTC-USDT", max_age=5)["bids"]
        states = market.status()["streams"][0]["subscriptions"]
        assert states["book.BTC-USDT"]["state"] == "live"
        assert states["book.NO-SUCH"]["state"] == "refused"
        assert "invalid topic market.nosuch.depth.step0" in states["book.NO-SUCH"]["reason"]
        sim.inject(Fault.RESET)
        wait_until(lambda: sim.accepted == 2 and sim.connections and newest(sim).subscriptions)
        wait_until(lambda: market.status()["streams"][0]["state"] == "live")
        assert not [m for m in newest(sim).received if "nosuch" in str(m)]
        assert market.status()["streams"][0]["subscriptions"]["book.NO-SUCH"]["state"] == "refused"
        # Asking for it once more is asking the venue once more.
        market.subscribe("huobi", "NO-SUCH")
        wait_until(lambda: [m for m in newest(sim).received if "nosuch" in str(m)])


@pytest.mark.parametrize("form", ["flat", "nested"])
def test_binance_refuses_in_two_forms(form: str, serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0, error_form=form)
    sim.plan(Fault.REFUSE_SUBSCRIPTION)
    stream = connect(sim)
    wait_until(lambda: stream.status()["subscriptions"]["book.BTC-USDT"]["state"] == "refused")
    assert "is not available (code 2)" in stream.status()["subscriptions"]["book.BTC-USDT"]["reason"]


def test_few_levels_can_be_had_of_every_symbol(serve: Serve, connect: Connect) -> None:
    """The venue has its smaller incremental books of few symbols only, and refuses the others."""
    sim = serve(HuobiSim, ["BTCUSDT"], rate=50.0, fast_symbols=[])
    stream = connect(sim, book_mode="incremental", depth=5)
    wait_live(stream)
    view = stream.store.orderbook("huobi", "BTC-USDT")
    assert len(view["bids"]) == len(view["asks"]) == 5


# -- snapshots ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault, pause", [
    (Fault.SNAPSHOT_429(retry_after=1), 1.0), (Fault.SNAPSHOT_418(retry_after=1), 1.0),
    (Fault.SNAPSHOT_500, 0.0), (Fault.SNAPSHOT_GARBAGE, 0.0), (Fault.SNAPSHOT_STALE(updates=500), 0.0)])
def test_snapshots_that_fail_are_asked_for_again(fault: Fault, pause: float, serve: Serve,
                                                 connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=100.0)
    sim.advance(600)
    sim.plan_rest(fault, None)
    stream = connect(sim)
    wait_until(lambda: len(sim.requests) == 2)      # an old book is live until an update contradicts it
    wait_live(stream)
    first, second = [request.time for request in sim.requests]
    assert second - first > max(pause - 0.01, 0.0)
    assert second - first < pause + 1.0
    view = stream.store.orderbook("binance", "BTC-USDT")
    truth = sim.market.book("BTCUSDT", view["sequence"])
    assert [float(price) for price, _ in truth.bids[:50]] == [price for price, _ in view["bids"][:50]]


def test_a_refusal_keeps_all_symbols_away_until_it_is_over(serve: Serve, connect: Connect) -> None:
    symbols = [f"{name}USDT" for name in "ABCDEF"]
    sim = serve(BinanceSim, symbols, rate=20.0)
    sim.plan_rest(*[Fault.SNAPSHOT_429(retry_after=1)] * 4)
    stream = connect(sim, [f"{name}-USDT" for name in "ABCDEF"])
    wait_live(stream)
    times = sorted(request.time for request in sim.requests)
    early = [moment for moment in times if moment < times[0] + 0.5]
    assert len(early) <= 4, "those under way when the refusal came"
    assert len(times) <= 4 + 6 + 2, "refused ones, one answer each, and perhaps one that came too early"


@pytest.mark.parametrize("fault", [
    Fault.SNAPSHOT_500, Fault.SNAPSHOT_GARBAGE, Fault.SNAPSHOT_STALE(updates=300)])
def test_refreshes_by_frame_that_fail_are_asked_for_again(fault: Fault, serve: Serve, connect: Connect,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.refresh.FRAME_PATIENCE", 0.3)
    sim = serve(HuobiSim, ["BTCUSDT"], rate=100.0)
    sim.advance(400)
    sim.plan_rest(fault, fault)
    stream = connect(sim, book_mode="incremental")
    wait_until(lambda: sim.struck[fault.name] == 2)
    wait_live(stream)


def test_a_refresh_that_is_never_answered_is_asked_for_again(serve: Serve, connect: Connect,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.refresh.FRAME_PATIENCE", 0.3)
    sim = serve(HuobiSim, ["BTCUSDT"], rate=100.0, stale_refresh=2)
    sim.plan_rest(Fault.SNAPSHOT_HANG)
    stream = connect(sim, book_mode="incremental")
    wait_live(stream)
    assert sim.struck["snapshot_hang"] == 1
