"""What is counted, counted through real streams; and what of it is exposed."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from typing import Any

import pytest

from streams import StreamManager
from streams.exchanges import Alpaca, Binance
from streams.feed import Counters
from streams.locks import owns
from streams.metrics import METRICS, InMemoryMetrics, PrometheusMetrics
from streams.sim import BinanceSim, Fault
from streams.sim.alpaca import AlpacaSim
from streams.stream import Stream

from .live import ALPACA_KEYS, quick, wait_subscribed
from .tools import wait_live, wait_until

Stack = contextlib.ExitStack


@pytest.fixture
def sim(stack: Stack) -> BinanceSim:
    return stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=0))


def binance(sim: BinanceSim, stack: Stack, metrics: Any, channels: Any = ("book",), **options: Any) -> Stream:
    stream = Binance(["BTC-USDT"], channels, **{"url": sim.url, "rest_url": sim.rest_url, "metrics": metrics,
                                                "backoff": quick(), **options})
    stack.callback(stream.stop)
    return stream


def of(stream: Stream) -> dict[str, str]:
    return {"exchange": stream.exchange, "stream": stream.name}


def test_every_counter_is_declared() -> None:
    assert set(Counters().as_dict()) <= set(METRICS)


def test_the_numbers_of_a_run(sim: BinanceSim, stack: Stack) -> None:
    metrics = InMemoryMetrics()
    stream = binance(sim, stack, metrics)
    count = lambda name: metrics.get(name, **of(stream))                    # noqa: E731
    stream.start()
    wait_live(stream)
    assert (count("starts"), count("connects"), count("stops"), count("reconnects")) == (1, 1, 0, 0)
    assert metrics.get("state", state="live") == 1 and metrics.get("state") == 1
    sim.inject(Fault.SKIP)
    sim.advance(3, "BTCUSDT")
    wait_until(lambda: count("gaps") == 1)
    wait_live(stream)
    wait_until(lambda: count("resyncs") == 1)
    sim.inject(Fault.GARBAGE(kind="invalid"))
    wait_until(lambda: count("malformed") == 1)
    sim.inject(Fault.RESET)
    wait_until(lambda: count("reconnects") == 1)
    wait_live(stream)
    assert count("connects") == 2 and count("errors") == 1
    sim.advance(100, "BTCUSDT")
    wait_until(lambda: stream.store.orderbook("binance", "BTC-USDT")["sequence"]
               == sim.market.book("BTCUSDT").sequence)
    assert stream.stop()
    assert (count("starts"), count("stops")) == (1, 1)
    assert metrics.get("state", state="stopped") == 1 and metrics.get("state") == 1
    # To the unit, although they are reported now and then, and over two connections.
    status = stream.status()
    for name in ("messages", "gaps", "resyncs", "malformed", "connects", "reconnects", "errors"):
        assert count(name) == status[name], name
    assert metrics.get("rest_requests", exchange="binance", result="200") == sum(
        "depth" in request.path for request in sim.requests)
    stream.start()
    wait_live(stream)
    assert stream.stop() and (count("starts"), count("stops")) == (2, 2)


def test_bytes_are_those_of_the_messages(sim: BinanceSim, stack: Stack) -> None:
    metrics = InMemoryMetrics()
    sizes: list[int] = []

    class Scale:
        """A recorder that weighs."""

        def received(self, stream: str, messages: Any, now: int) -> None:
            sizes.extend(map(len, messages))

        def opened(self, *_: Any) -> None: ...
        def sent(self, *_: Any) -> None: ...
        def http(self, *_: Any) -> None: ...
        def closed(self, *_: Any) -> None: ...
    stream = binance(sim, stack, metrics, ["trades", "quotes"], recorder=Scale())
    stream.start()
    wait_subscribed(stream)
    sim.advance(1000, "BTCUSDT")
    wait_until(lambda: len(sizes) > 200)
    assert stream.stop()
    assert metrics.get("bytes") == sum(sizes) > 20_000 and metrics.get("messages") == len(sizes)


def test_the_age_of_the_last_message_grows_in_every_state(sim: BinanceSim, stack: Stack) -> None:
    metrics = InMemoryMetrics()
    stream = binance(sim, stack, metrics, ["trades"])
    age = lambda: metrics.get("last_message_age_seconds")                   # noqa: E731
    stream.start()
    wait_subscribed(stream)
    assert stream.status()["last_message_age"] is None                      # answers are no data
    sim.advance(20)
    wait_until(lambda: stream.store.trades["binance"].get("BTC-USDT"))
    assert 0 <= stream.status()["last_message_age"] < 1.0
    wait_until(lambda: age() > 0.3, what="an age while connected")
    sim.pause_listening()
    sim.inject(Fault.DROP)
    wait_until(lambda: stream.state == "backoff")
    last = age()
    wait_until(lambda: age() > last + 0.3, what="an age while backing off")
    assert stream.status()["last_message_age"] >= last + 0.3
    stream.pause()
    wait_until(lambda: stream.state == "paused")
    last = age()
    wait_until(lambda: age() > last + 0.3, what="an age while paused")
    sim.resume_listening()
    stream.resume()
    wait_subscribed(stream)
    wait_until(lambda: age() > last + 0.6)              # connected again, and still nothing new
    sim.advance(20)
    wait_until(lambda: age() < last)
    assert stream.status()["last_message_age"] < last


def test_handlers_tell_of_themselves(sim: BinanceSim, stack: Stack) -> None:
    metrics = InMemoryMetrics()
    release, entered = threading.Event(), threading.Event()
    stack.callback(release.set)
    stream = binance(sim, stack, metrics, ["trades"])

    def stuck(event: Any) -> None:
        entered.set()
        release.wait(30)

    def wrong(event: Any) -> None:
        raise ValueError("mine")
    stream.on(r"binance\.trades\..+", stuck, name="deep", maxsize=1000)
    stream.on(r"binance\.trades\..+", stuck, name="shallow", maxsize=5)
    stream.on(r"binance\.trades\..+", wrong, name="wrong")
    stream.start()
    wait_subscribed(stream)
    sim.advance(300, "BTCUSDT")
    wait_until(lambda: stream.feed.counters.messages > 50)
    assert entered.wait(5)
    # A handler that hangs can not tell, and nothing more comes: it is told all the same.
    wait_until(lambda: metrics.get("queue_depth", handler="deep") > 10)
    assert metrics.get("queue_depth", handler="shallow") == 5
    shallow = next(e for e in stream.handlers.status() if e["name"] == "shallow")
    wait_until(lambda: metrics.get("drops", handler="shallow") == shallow["dropped"] > 10)
    wait_until(lambda: metrics.get("handler_errors", handler="wrong") > 10)
    release.set()
    wait_until(lambda: metrics.get("queue_depth", handler="deep") == 0)
    assert stream.stop()
    numbers = {e["name"]: e for e in stream.handlers.status()}
    for name in ("deep", "shallow", "wrong"):
        assert metrics.get("drops", handler=name) == numbers[name]["dropped"]
        assert metrics.get("handler_errors", handler=name) == numbers[name]["errors"]
        assert metrics.get("handler_seconds", handler=name) == pytest.approx(numbers[name]["seconds"])
    assert metrics.get("handler_seconds", handler="deep") > 0


def test_warnings_of_a_venue_are_counted(stack: Stack) -> None:
    sim, metrics = stack.enter_context(AlpacaSim(["AAPL"], rate=0)), InMemoryMetrics()
    stream = Alpaca(["AAPL"], ["trades"], url=sim.url, rest_url=sim.rest_url, metrics=metrics, **ALPACA_KEYS)
    stack.callback(stream.stop)
    stream.start()
    wait_subscribed(stream)
    sim.send_error(403)
    wait_until(lambda: metrics.get("notices") == 1)
    assert stream.state == "live" and sim.accepted == 1


def test_prometheus_sees_a_real_stream(sim: BinanceSim, stack: Stack) -> None:
    client = pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
    registry = client.CollectorRegistry()
    market = stack.enter_context(StreamManager(
        url=sim.url, rest_url=sim.rest_url, metrics=PrometheusMetrics(registry), backoff=quick()))
    heard = threading.Event()
    market.on(r"binance\.book\..+", lambda _: heard.set(), name="mine")
    market.start("binance", ["BTC-USDT"], ["book", "trades"])
    market.wait_ready(5)
    sim.inject(Fault.SKIP)
    sim.advance(50)
    name = market.status()["streams"][0]["name"]

    def value(metric: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"streams_{metric}", labels)       # type: ignore[no-any-return]
    labels = {"exchange": "binance", "stream": name}
    wait_until(lambda: value("messages_total", **labels) and value("gaps_total", **labels) == 1)
    market.wait_ready(5)
    assert market.ticker("binance", "BTC-USDT").source == "rest"
    market.stop()
    text = client.generate_latest(registry).decode()
    for metric in ("starts_total", "stops_total", "connects_total", "resyncs_total", "bytes_total",
                   "last_message_age_seconds"):
        assert value(metric, **labels) is not None and re.search(rf"^streams_{metric}{{.*binance", text, re.M)
    assert value("starts_total", **labels) == value("stops_total", **labels) == 1
    assert value("rest_requests_total", exchange="binance", result="200") == len(sim.requests)
    assert value("handler_seconds_total", handler="mine") > 0               # type: ignore[operator]
    assert value("state", **labels, state="stopped") == 1 and value("state", **labels, state="live") == 0
    assert value("queue_depth", handler="mine") == 0


def test_metrics_that_raise_harm_nobody(
        sim: BinanceSim, stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def inc(self, name: str, value: float = 1, **labels: str) -> None:
            raise RuntimeError("no room")

        set_gauge = inc
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, metrics=Broken(),
                                               providers=[lambda *_: 0, "rest"]))
    market.on(r"binance\.book\..+", lambda _: None)
    with caplog.at_level(logging.ERROR, "streams"):
        market.start("binance", ["BTC-USDT"])
        market.wait_ready(5)
        sim.advance(20)
        assert market.ticker("binance", "BTC-USDT").source == "rest"
        market.stop()
    assert sim.accepted == 1 and "could not be reported" in caplog.text
    assert caplog.text.count("Traceback") < 20


def test_no_metrics_are_told_anything_under_the_managers_lock(sim: BinanceSim, stack: Stack) -> None:
    """Who is told may wait for somebody who asks the manager."""
    held: list[str] = []

    class Noting(InMemoryMetrics):
        def inc(self, name: str, value: float = 1, **labels: str) -> None:
            super().inc(name, value, **labels)
            if owns(market._lock):
                held.append(name)

    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, metrics=Noting()))
    market.start("binance", ["BTC-USDT"])
    market.wait_ready(5)
    market.subscribe("binance", ["ETH-USDT"])
    market.pause()
    market.resume()
    market.unsubscribe("binance", ["ETH-USDT"])
    market.stop()
    assert market.metrics.get("starts") == 1 and not held       # type: ignore[attr-defined]


def test_no_code_of_the_user_runs_under_the_lock(sim: BinanceSim, stack: Stack) -> None:
    """Neither metrics nor handlers of the log, whatever goes wrong."""
    said: list[str] = []

    def note(what: str) -> None:
        said.append(f"{what}{', under the lock' if owns(stream.feed.writer.lock) else ''}")

    class Noting(InMemoryMetrics):
        def inc(self, name: str, value: float = 1, **labels: str) -> None:
            note(name)

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(record.getMessage())

    log, handler = logging.getLogger("streams"), Log()
    stream = binance(sim, stack, Noting(), ["book", "trades"])
    log.addHandler(handler)
    stack.callback(log.removeHandler, handler)
    stream.start()
    wait_live(stream)
    sim.inject(Fault.SKIP)
    sim.advance(3, "BTCUSDT")
    wait_until(lambda: "gaps" in said or "gaps, under the lock" in said)
    wait_live(stream)
    for route in stream.feed.sinks:
        if route.channel == "trades":
            route.apply = lambda event: event.no_such_thing
    sim.advance(20, "BTCUSDT")
    wait_until(lambda: stream.feed.counters.malformed and any("could not be handled" in one for one in said))
    wait_live(stream)
    assert "malformed" in said and not [one for one in said if "under the lock" in one]
