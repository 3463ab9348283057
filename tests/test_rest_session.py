"""market.rest(): a requests session that knows the way, the limit and the key; and market.submit()."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import requests

from streams import StreamManager
from streams.errors import ConfigurationError, StopTimeout, StreamsError, TransportError
from streams.events import Trade
from streams.sim import BinanceSim, Fault
from streams.sim.alpaca import AlpacaSim
from streams.sim.polygon import PolygonSim
from streams.sim.web import PeerGone, Request, Response, WebServer

from .live import ALPACA_KEYS, POLYGON_KEY, at_once
from .tools import wait_live, wait_until

Stack = contextlib.ExitStack
Script = Callable[[Request], Response]
OK = Response.json({"fine": True})


class Scripted(WebServer):
    """Answers as it is told, one entry after the other; then with 200."""

    def __init__(self, *script: Response | Script) -> None:
        super().__init__()
        self.script: deque[Response | Script] = deque(script)
        self.requests: list[Request] = []
        self.times: list[float] = []

    def respond(self, request: Request) -> Response:
        self.requests.append(request)
        self.times.append(time.monotonic())
        self.notify()
        entry = self.script.popleft() if self.script else OK
        return entry(request) if callable(entry) else entry


def gone(request: Request) -> Response:
    raise PeerGone("no answer")


def hang(request: Request) -> Response:
    request.peer.wait_gone()
    raise PeerGone("never answered")


def status(code: int, **headers: str) -> Response:
    return Response.json({}, code, [(name.replace("_", "-"), value) for name, value in headers.items()])


@pytest.fixture
def scripted(stack: Stack) -> Callable[..., Any]:
    """``server, session = scripted(...)``: the session is Alpaca's, so there are keys to lose."""
    def make(*script: Any, **options: Any) -> tuple[Scripted, Any]:
        server = stack.enter_context(Scripted(*script))
        market = stack.enter_context(StreamManager(rest_url=server.rest_url, **{**ALPACA_KEYS, **options}))
        return server, market.rest("alpaca")
    return make


# -- the way and the key ------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange, sim, options, path", [
    ("binance", lambda: BinanceSim(["BTCUSDT"], rate=0), {}, "/api/v3/ticker/24hr?symbol=BTCUSDT"),
    ("alpaca", lambda: AlpacaSim(rate=0), ALPACA_KEYS, "/v2/stocks/snapshots?symbols=AAPL"),
    ("alpaca-options", lambda: AlpacaSim(rate=0), ALPACA_KEYS, "v1beta1/options/snapshots/NVDA"),
    ("massive", lambda: PolygonSim(rate=0), POLYGON_KEY, "/v2/last/trade/AAPL"),
])
def test_ready_for_each_exchange(exchange: str, sim: Any, options: Any, path: str, stack: Stack) -> None:
    sim = stack.enter_context(sim())
    market = stack.enter_context(StreamManager(rest_url=sim.rest_url, **options))
    session = market.rest(exchange)
    assert isinstance(session, requests.Session) and session is market.rest(exchange)
    assert session.get(path).status_code == 200                                     # a path is enough
    assert session.get(sim.rest_url + "/" + path.lstrip("/")).status_code == 200    # an address will do, too
    assert session.post("/nowhere").status_code in (404, 405)
    assert requests.get(sim.rest_url + "/" + path.lstrip("/"), timeout=5).status_code == (
        200 if exchange == "binance" else 401)
    market.stop()
    with pytest.raises(StreamsError):
        session.get(path)
    assert market.rest(exchange).get(path).status_code == 200                       # anew


def test_what_is_asked_for_wrongly(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALPACA_API_KEY", "APCA_API_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    with StreamManager() as market:
        with pytest.raises(ConfigurationError, match="no exchange is called 'alpacca'; known: "):
            market.rest("alpacca")
        with pytest.raises(ConfigurationError, match="alpaca needs api_key=.*ALPACA_API_KEY"):
            market.rest("alpaca")
        session = market.rest("binance")
        for url in ("ftp://example.com/x", "http://", "http://[::1/x"):
            begun = time.monotonic()
            with pytest.raises((StreamsError, ValueError)):
                session.get(url)
            assert time.monotonic() - begun < 0.2       # and not three times


def test_the_key_goes_to_its_origin_only(scripted: Callable[..., Any], stack: Stack) -> None:
    server, session = scripted()
    other = stack.enter_context(Scripted())
    session.get("/v2/account")
    session.get(other.rest_url + "/v2/account")
    session.get(f"//{other.address}/v2/account")
    session.get(f"http://127.0.0.1@localhost:{other.port}/")
    session.get(f"{other.rest_url}\\@{server.address}/")                         # not the host for everyone
    session.get(server.rest_url.replace("127.0.0.1", "localhost") + "/")        # another host, who knows
    assert server.requests[0].headers["apca-api-secret-key"] == "SECRET"
    foreign = [*other.requests, server.requests[1]]
    assert len(foreign) == 5
    for request in foreign:
        assert "apca-api-key-id" not in request.headers and "SECRET" not in str(request.headers)
    session.get(server.rest_url.upper().replace("HTTP", "http") + "/again")         # the same place
    assert server.requests[-1].headers["apca-api-key-id"] == "KEY"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_does_not_carry_the_key_away(
        code: int, scripted: Callable[..., Any], stack: Stack) -> None:
    elsewhere = stack.enter_context(Scripted())
    server, session = scripted()
    server.script += [status(code, Location=f"{elsewhere.rest_url}/there"), status(code, Location="/here"),
                      OK, status(code, Location=f"//{elsewhere.address}/back")]
    elsewhere.script += [OK, status(code, Location=f"{server.rest_url}/home")]
    assert session.get("/x").json() == {"fine": True}
    assert session.get("/x").json() == {"fine": True}
    assert session.get("/x").json() == {"fine": True}
    for request in elsewhere.requests:
        assert not {"apca-api-key-id", "apca-api-secret-key", "authorization"} & set(request.headers)
        assert "SECRET" not in str(request)
    assert [r.path for r in elsewhere.requests] == ["/there", "/back"]
    assert [(r.path, "apca-api-secret-key" in r.headers) for r in server.requests] == [
        ("/x", True), ("/x", True), ("/here", True), ("/x", True), ("/home", False)]
    server.script += [status(code, Location=f"{elsewhere.rest_url}/there")]
    assert session.get("/x", allow_redirects=False).status_code == code


def test_polygons_bearer_neither(stack: Stack) -> None:
    elsewhere = stack.enter_context(Scripted())
    server = stack.enter_context(Scripted(status(302, Location=f"{elsewhere.rest_url}/there")))
    market = stack.enter_context(StreamManager(rest_url=server.rest_url, **POLYGON_KEY))
    assert market.rest("polygon").get("/v2").status_code == 200
    assert server.requests[0].headers["authorization"] == "Bearer KEY"
    assert "authorization" not in elsewhere.requests[0].headers


# -- again, and when ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first, tries", [
    ([gone], 2), ([status(503), status(500)], 3), ([gone, status(502)], 3), ([status(404)], 1),
    ([status(400)], 1), ([status(401)], 1)])
def test_what_may_be_repeated_is(first: Any, tries: int, scripted: Callable[..., Any]) -> None:
    server, session = scripted(*first)
    answer = session.get("/x")
    assert len(server.requests) == tries
    assert answer.status_code == (200 if tries > 1 else first[0].status)
    pauses = [after - before for before, after in zip(server.times, server.times[1:])]
    assert all(pause >= 0.2 * 2 ** at for at, pause in enumerate(pauses))


def test_not_for_ever_and_not_what_changes_something(scripted: Callable[..., Any]) -> None:
    server, session = scripted(*[status(503)] * 9)
    assert session.get("/x").status_code == 503 and len(server.requests) == 3
    assert session.post("/x", json={}).status_code == 503 and len(server.requests) == 4
    server.script.clear()
    server.script += [gone] * 9
    with pytest.raises((StreamsError, OSError)):
        session.delete("/x")
    assert len(server.requests) == 5
    with pytest.raises((StreamsError, OSError)):
        session.head("/x")
    assert len(server.requests) == 8


def test_retry_after_is_obeyed_by_all(scripted: Callable[..., Any]) -> None:
    server, session = scripted(status(429, Retry_After="1"))
    done: list[float] = []

    def call() -> None:
        assert session.get("/x").status_code == 200
        done.append(time.monotonic())
    first = threading.Thread(target=call, daemon=True)
    first.start()
    assert server.wait_for(lambda: server.requests, 5)
    wait_until(lambda: _rest(session)._share.not_before > 0)
    at_once(call, call)                                 # those wait, too
    first.join(5)
    assert len(done) == 3 and len(server.requests) == 4
    assert all(when - server.times[0] >= 0.95 for when in server.times[1:])


def test_nobody_waits_for_a_retry_after_longer_than_its_time_out(scripted: Callable[..., Any]) -> None:
    server, session = scripted(status(429, Retry_After="20"))
    begun = time.monotonic()
    assert session.get("/x", timeout=1).status_code == 429
    for timeout in (1, (0.5, 0.5)):
        with pytest.raises(TransportError, match=r"alpaca: .+ leaves no room for (20|1\d)\.\d s"):
            session.get("/x", timeout=timeout)
    assert time.monotonic() - begun < 5 and len(server.requests) == 1


def _rest(session: Any) -> Any:
    return session._hold_off.__self__


def test_who_wants_too_much_patience_is_shown(scripted: Callable[..., Any]) -> None:
    server, session = scripted(status(429, Retry_After="3600"))
    begun = time.monotonic()
    assert session.get("/x").status_code == 429
    assert time.monotonic() - begun < 1 and len(server.requests) == 1


def test_the_limit_is_shared_with_the_library(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, rest_limit=(60, 0.6)))
    session = market.rest("binance")
    begun = time.monotonic()
    market.orderbook("binance", "BTC-USDT")             # a weight of 50
    for _ in range(10):
        session.get("/api/v3/time")
    assert time.monotonic() - begun < 0.55              # room for those
    session.get("/api/v3/time")
    assert time.monotonic() - begun >= 0.55             # and not for that


def test_a_ban_outlives_who_was_banned(scripted: Callable[..., Any], stack: Stack) -> None:
    """The manager is stopped and asks again, and so does somebody else: all of them stay away."""
    server, session = scripted(status(429, Retry_After="1"))
    market = stack.enter_context(StreamManager(rest_url=server.rest_url, **ALPACA_KEYS))
    other = stack.enter_context(StreamManager(rest_url=server.rest_url, rest_limit=(5, 1.0), **ALPACA_KEYS))
    assert market.rest("alpaca").post("/x").status_code == 429
    market.stop()
    for again in (market, other):
        assert again.rest("alpaca").get("/x").status_code == 200
    assert session.get("/x").status_code == 200
    assert all(when - server.times[0] >= 0.95 for when in server.times[1:])


def test_it_ends_with_the_manager(scripted: Callable[..., Any], stack: Stack) -> None:
    server = stack.enter_context(Scripted(hang, hang, hang))
    market = StreamManager(rest_url=server.rest_url, **ALPACA_KEYS)
    stack.callback(market.stop)
    session, failures = market.rest("alpaca"), []

    def call(path: str) -> None:
        try:
            session.get(path)
        except (StreamsError, OSError) as error:
            failures.append(error)
    threads = [threading.Thread(target=call, args=(f"/{n}",), daemon=True) for n in range(3)]
    for thread in threads:
        thread.start()
    assert server.wait_for(lambda: len(server.requests) == 3, 5)
    begun = time.monotonic()
    market.stop()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - begun < 1.5 and len(failures) == 3 and len(server.requests) == 3


def test_a_session_that_its_user_closes_is_replaced(scripted: Callable[..., Any], stack: Stack) -> None:
    server = stack.enter_context(Scripted())
    market = stack.enter_context(StreamManager(rest_url=server.rest_url, **ALPACA_KEYS))
    for _ in range(2):
        with market.rest("alpaca") as session:
            assert session.get("/x").status_code == 200
    assert market.rest("alpaca").get("/x").status_code == 200


def test_time_outs(scripted: Callable[..., Any]) -> None:
    server, session = scripted(*[hang] * 3)
    begun = time.monotonic()
    with pytest.raises((StreamsError, OSError)):
        session.get("/x", timeout=(0.2, 0.2))
    assert time.monotonic() - begun < 3 and len(server.requests) == 3
    assert session.timeout[0] < 10 and session.timeout[1] <= 10     # unless said otherwise


# -- submit -------------------------------------------------------------------------------------------


def test_a_bounded_pool(stack: Stack) -> None:
    market = stack.enter_context(StreamManager(workers=3))
    release, busy, most = threading.Event(), threading.Semaphore(0), []
    running, lock = [0], threading.Lock()

    def work(n: int, *, twice: bool = False) -> int:
        with lock:
            running[0] += 1
            most.append(running[0])
        busy.release()
        release.wait(10)
        with lock:
            running[0] -= 1
        return n * 2 if twice else n
    futures = [market.submit(work, n, twice=True) for n in range(20)]
    for _ in range(3):
        assert busy.acquire(timeout=5)
    assert not busy.acquire(timeout=0.05) and not any(future.done() for future in futures)
    release.set()
    assert [future.result(5) for future in futures] == [n * 2 for n in range(20)]
    assert max(most) == 3 and all(isinstance(future, Future) for future in futures)


def test_exceptions_belong_to_who_asked(stack: Stack) -> None:
    market = stack.enter_context(StreamManager(workers=1))

    def fail(kind: type[BaseException]) -> None:
        raise kind("mine")
    for kind in (ValueError, SystemExit, KeyboardInterrupt):
        with pytest.raises(kind, match="mine"):
            market.submit(fail, kind).result(5)
    assert market.submit(lambda: 7).result(5) == 7
    with pytest.raises(TypeError):
        market.submit(lambda: 7, "too much").result(5)


def test_stop_cancels_what_waits(stack: Stack) -> None:
    market = StreamManager(workers=2)
    release, entered = threading.Event(), threading.Semaphore(0)
    stack.callback(release.set)

    def work() -> str:
        entered.release()
        release.wait(10)
        return "done"
    futures = [market.submit(work) for _ in range(10)]
    for _ in range(2):
        assert entered.acquire(timeout=5)
    begun = time.monotonic()
    with pytest.raises(StopTimeout, match=r"still running after [\d.]+ s: a call given to submit\(\)$"):
        market.stop()
    assert time.monotonic() - begun < 2
    release.set()
    assert [future.result(5) for future in futures[:2]] == ["done", "done"]     # what runs is not torn
    for future in futures[2:]:
        with pytest.raises(CancelledError):
            future.result(0)
    assert market.submit(lambda: 7).result(5) == 7      # and it can be used anew
    market.stop()


def test_a_call_may_submit_and_stop(stack: Stack) -> None:
    market = stack.enter_context(StreamManager(workers=1))
    inner = market.submit(lambda: market.submit(lambda: 7)).result(5)
    assert inner.result(5) == 7
    assert market.submit(market.stop).result(5) is None


def test_a_burst_of_option_trades_is_looked_up_beside_the_stream(stack: Stack) -> None:
    """Each contract is looked up once, slowly; not one trade is lost or late meanwhile."""
    contracts = [f"O:NVDA261218{side}00{strike}000" for side in "CP" for strike in range(180, 230, 5)]
    sim = stack.enter_context(PolygonSim([*contracts, "O:AAPL261218C00300000"], rate=0, rest_delay=0.2))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, workers=4, **POLYGON_KEY))
    futures: dict[str, Future[Any]] = {}
    trades: list[Trade] = []
    delays: list[float] = []

    def look_up(symbol: str) -> Any:
        return market.rest("polygon").get(f"/v3/reference/options/contracts/{symbol}").json()["results"]

    @market.on(r"polygon\.trades\.O:NVDA.+", policy="inline")
    def note(trade: Trade) -> None:
        trades.append(trade)
        delays.append(time.time_ns() / 1e9 - trade.received / 1e9)
        if trade.symbol not in futures:
            futures[trade.symbol] = market.submit(look_up, trade.symbol)
    market.start("polygon", ["O:NVDA*"], ["trades"], market="options")
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions == {"T.*"})
    begun = time.monotonic()
    sim.burst("O:NVDA*", 2000)
    sim.burst("O:AAPL*", 100)                           # filtered on this side
    sim.burst("O:NVDA*", 500)
    wait_until(lambda: len(trades) == 2500)
    heard = time.monotonic() - begun
    assert any(not future.done() for future in futures.values()), "the stream did not wait for the look-ups"
    found = {symbol: future.result(10) for symbol, future in futures.items()}
    assert time.monotonic() - begun > 0.9 > heard       # twenty at four a time, a fifth of a second each
    assert set(found) == set(contracts) and all(found[symbol]["ticker"] == symbol for symbol in contracts)
    assert len(sim.requests) == 20 and sim.max_in_flight == 4
    for symbol in contracts:
        mine = [trade for trade in trades if trade.symbol == symbol]
        true = sim.tape.trades(symbol)[-len(mine):]
        assert [(t.price, t.size) for t in mine] == [(float(t.price), float(t.size)) for t in true]
    assert max(delays) < 0.5 and market.status()["streams"][0]["dropped"] == 0
    assert len(market.store.trades["polygon"]) == 20


def test_look_ups_that_hang_do_not_harm_the_stream(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=200))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, workers=2))
    market.start("binance", ["BTC-USDT"])
    market.wait_ready(5)
    sim.always(Fault.SNAPSHOT_HANG)
    futures = [market.submit(market.orderbook, "binance", "ETH-USDT") for _ in range(5)]
    wait_until(lambda: sim.struck["snapshot_hang"])
    sequence = market.store.orderbook("binance", "BTC-USDT", max_age=1)["sequence"]
    wait_until(lambda: market.store.orderbook("binance", "BTC-USDT", max_age=1)["sequence"] > sequence + 50)
    begun = time.monotonic()
    market.stop()
    assert time.monotonic() - begun < 1.5 and all(future.done() for future in futures)


def test_a_look_up_that_begins_while_everything_stops_is_ended(stack: Stack,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=50))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, workers=1))
    sim.always(Fault.SNAPSHOT_HANG)
    futures = [market.submit(market.orderbook, "binance", symbol) for symbol in ("BTC-USDT", "ETH-USDT")]
    wait_until(lambda: sim.struck["snapshot_hang"] == 1)
    end = market.handlers.end

    def slowly(timeout: float) -> list[str]:
        wait_until(lambda: sim.struck["snapshot_hang"] == 2)     # the first has failed, so the next began
        return end(timeout)

    monkeypatch.setattr(market.handlers, "end", slowly)
    market.stop()                                               # or StopTimeout
    assert all(future.done() for future in futures)


def test_streams_and_sessions_have_one_limit(stack: Stack) -> None:
    """The manager's REST side and that of its streams are the same: one limit, one ban."""
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=50))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url))
    market.start("binance", ["BTC-USDT"])
    stream = market._streams(None)[0]
    wait_live(stream)
    assert stream._given_rest is _rest(market.rest("binance"))
