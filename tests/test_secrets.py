"""Keys, secrets and passwords: used, and never shown; sent in the clear to nobody but this machine."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams import StreamManager
from streams.credentials import scrubber, secret_headers, secrets_of
from streams.errors import ConfigurationError, StreamsError
from streams.exchanges import (
    EXCHANGES, Alpaca, AlpacaCrypto, AlpacaOptions, Binance, LongPollJson, NasdaqItch, Polygon, Redis,
)
from streams.metrics import InMemoryMetrics
from streams.record import Recorder
from streams.sim import BinanceSim, Fault
from streams.sim.alpaca import AlpacaSim
from streams.sim.itch import ItchSim
from streams.sim.longpoll import LongPollSim
from streams.sim.polygon import PolygonSim
from streams.sim.web import Request, Response, WebServer
from streams.stream import Stream

from .live import quick, settled, wait_subscribed
from .tools import wait_live, wait_until

Stack = contextlib.ExitStack

KEY, SECRET = "PK7SECRETKEY0001", "s3cr3tXyzzyPlugh42"
WRONG_KEY, WRONG_SECRET = "PKwr0ngKEYquux99", "wr0ngS3cr3tFrotz77"
PASSWORD, PROXY_PASSWORD = "urlP4ssw0rdGrue", "pr0xyP4ssw0rdZork"
HIDDEN = (KEY, SECRET, WRONG_KEY, WRONG_SECRET, PASSWORD, PROXY_PASSWORD)
LIBRARIES = ("", "streams", "websocket", "urllib3", "urllib3.connectionpool", "requests", "redis", "asyncio")


class Ears(logging.Handler):
    """Hears everything that any logger of this process says, at any level, tracebacks included."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.lines: list[str] = []
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        self.names.add(record.name.partition(".")[0])
        self.lines.append(f"{self.format(record)} {record.args!r}")


@pytest.fixture
def ears() -> Iterator[Ears]:
    heard, levels = Ears(), {name: logging.getLogger(name).level for name in LIBRARIES}
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(1)
    logging.getLogger().addHandler(heard)
    yield heard
    logging.getLogger().removeHandler(heard)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def shown(stream: Stream, *others: Any) -> str:
    """All that a stream shows of itself, and what its parts would show in a debugger or a traceback."""
    connector = stream._connector
    session = connector.session
    parts = [stream, stream._facts, stream._way, connector, session, connector._transport, stream.feed,
             stream.store, stream.handlers, stream._given_rest, connector._previous, *others]
    if connector._transport is not None:
        parts.append(connector._transport.target)
    if session is not None:
        parts += [session.venue, session.verdict]
    texts = [f"{part!r} {part!s}" for part in parts]
    return "\n".join([*texts, json.dumps(stream.status(), default=repr), str(stream.lifecycle.last_error)])


def check(text: str, *secrets: str) -> None:
    """None of the secrets is in ``text``."""
    for secret in secrets or HIDDEN:
        at = text.find(secret)
        assert at < 0, f"{secret} shows: ...{text[max(0, at - 200):at + 60]}"


def read(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("utf-8", "replace")


def alpaca(stack: Stack) -> AlpacaSim:
    return stack.enter_context(AlpacaSim(keys={KEY: SECRET}, rate=100))


def polygon(stack: Stack) -> PolygonSim:
    return stack.enter_context(PolygonSim(keys=[KEY], rate=100))


def itch(stack: Stack) -> ItchSim:
    return stack.enter_context(ItchSim(user=KEY[:6], password=SECRET[:10], rate=50))


ITCH = {"api_key": KEY[:6], "api_secret": SECRET[:10]}
VENUES: dict[str, tuple[type[Stream], Callable[[Stack], Any], list[str], list[str], dict[str, Any]]] = {
    "alpaca-headers": (Alpaca, alpaca, ["AAPL"], ["trades", "ticker"], {}),
    "alpaca-message": (Alpaca, alpaca, ["AAPL"], ["trades"], {"auth": "message"}),
    "alpaca-crypto": (AlpacaCrypto, alpaca, ["BTC-USD"], ["book"], {}),
    "alpaca-options": (AlpacaOptions, alpaca, ["NVDA261218C00200000"], ["trades"], {"auth": "message"}),
    "polygon": (Polygon, polygon, ["AAPL"], ["trades", "quotes"], {}),
    "itch": (NasdaqItch, itch, ["AAPL"], ["book"], ITCH),
}
EACH = pytest.mark.parametrize("venue", VENUES.values(), ids=VENUES)


@EACH
def test_right_keys_show_nowhere(venue: Any, stack: Stack, ears: Ears, tmp_path: Path) -> None:
    kind, serve, symbols, channels, options = venue
    sim, metrics = serve(stack), InMemoryMetrics()
    recorder = stack.enter_context(Recorder(tmp_path / "feed.jsonl.gz"))
    rest = {"rest_url": sim.rest_url} if hasattr(sim, "rest_url") else {}
    options = {"api_key": KEY, "api_secret": SECRET, **options, **rest}
    stream = kind(symbols, channels, url=sim.url, metrics=metrics, recorder=recorder, backoff=quick(),
                  **options)
    stack.callback(stream.stop)
    stream.start()
    wait_subscribed(stream)
    wait_until(lambda: stream.feed.counters.messages > 20)
    text = shown(stream)
    for connection in list(sim.connections):
        connection.peer.end("reset")
    wait_until(lambda: stream.status()["reconnects"] == 1)
    wait_subscribed(stream)
    text += shown(stream)
    assert stream.stop()
    recorder.close()
    recording = read(tmp_path / "feed.jsonl.gz")
    assert recording.count('"connect"') == 2 and '"recv"' in recording
    secrets = {options["api_key"], options["api_secret"]}
    check("\n".join([text, shown(stream), *ears.lines, str(metrics.snapshot()), repr(metrics)]), *secrets)
    check(recording.lower(), *(s.lower() for s in secrets))
    assert "streams" in ears.names
    if "auth" in options or kind is Polygon:
        assert '"secret":true' in recording             # the login is marked, so that its place is known


@EACH
def test_wrong_keys_show_nowhere(venue: Any, stack: Stack, ears: Ears) -> None:
    kind, serve, symbols, channels, options = venue
    sim = serve(stack)
    options = {**options, "api_key": WRONG_KEY[:6] if kind is NasdaqItch else WRONG_KEY,
               "api_secret": WRONG_SECRET[:10] if kind is NasdaqItch else WRONG_SECRET}
    stream = kind(symbols, channels, url=sim.url, backoff=quick(), **options)
    stack.callback(stream.stop)
    stream.start()
    stream.join(5)
    assert stream.state == "failed" and not stream.is_alive()
    check("\n".join([shown(stream), *ears.lines]), options["api_key"], options["api_secret"])


class Parrot(WebServer):
    """Refuses everything, and repeats all that it was told."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status

    def _repeat(self, request: Request) -> Response:
        return Response(self.status, " ".join([*request.headers.values(), request.raw_query]).encode(),
                        content_type="text/plain")

    def admit(self, request: Request, conn: Any) -> Response | None:
        return self._repeat(request)

    def respond(self, request: Request) -> Response:
        return self._repeat(request)


@pytest.mark.parametrize("status", [400, 401, 403, 429, 503])
@pytest.mark.parametrize("kind, symbol", [(Alpaca, "AAPL"), (LongPollJson, "X")])
def test_a_server_that_repeats_the_keys(
        kind: Any, symbol: str, status: int, stack: Stack, ears: Ears) -> None:
    parrot = stack.enter_context(Parrot(status))
    url = parrot.rest_url if kind is LongPollJson else parrot.url
    stream = kind(symbol, ["trades"], url=url, api_key=KEY, api_secret=SECRET, backoff=quick(),
                  headers={"X-Own-Token": PASSWORD})
    stack.callback(stream.stop)
    stream.start()
    wait_until(lambda: stream.status()["last_error"])
    assert str(status) in stream.status()["last_error"]
    check("\n".join([shown(stream), *ears.lines]))


def test_a_venue_that_repeats_the_keys(stack: Stack, ears: Ears) -> None:
    sims = {Alpaca: alpaca(stack), Polygon: polygon(stack)}
    for kind, sim in sims.items():
        stream = kind(["AAPL"], ["trades"], url=sim.url, rest_url=sim.rest_url, api_key=KEY,
                      api_secret=SECRET, backoff=quick())
        stack.callback(stream.stop)
        stream.start()
        wait_subscribed(stream)
        told: list[Any] = []
        stream.on(r".+\.status\..+", told.append, policy="inline")
        said = f"go away {KEY} {SECRET}"
        connection = sim.connections[0]
        for text in (f'[{{"T":"t","S":"{said}","ev":"T","sym":7}}]', f'{{"{said}', f'[{{"T":"{said}"}}]',
                     f'[{{"ev":"{said}","T":"{said}"}}]'):
            connection.send(text)
        for code in (400, 403, 407, 410, 500, 999) if kind is Alpaca else ():
            wait_until(lambda: sim.connections)
            sim.send_error(code, text=said)
        for status in ("error", "info", said, "force_disconnect") if kind is Polygon else ():
            sim.send_status(status, said)
        wait_until(lambda: stream.status()["errors"])
        if kind is Alpaca:                              # Polygon's stays away for a while
            wait_until(lambda: len(sim.connections) == 1 and settled(stream))
            errors = stream.status()["errors"]
            sim.inject(Fault.CLOSE(code=4001, reason=said))
            wait_until(lambda: stream.status()["errors"] > errors)
        check("\n".join([shown(stream), *ears.lines, repr(told)]), KEY)
        if kind is Alpaca:                              # Polygon knows no secret
            check("\n".join([shown(stream), *ears.lines, repr(told)]), SECRET)
        assert stream.stop()
        ears.lines.clear()


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
def test_the_password_of_a_proxy(scheme: str, stack: Stack, ears: Ears) -> None:
    sim = alpaca(stack)
    parrot = stack.enter_context(Parrot(407))
    metrics = InMemoryMetrics()
    # One that is not there, and one that refuses.
    for port in (9, parrot.port) if scheme == "http" else (9,):
        proxy = f"{scheme}://user:{PROXY_PASSWORD}@127.0.0.1:{port}"
        options = {"url": sim.url, "rest_url": sim.rest_url, "api_key": KEY, "api_secret": SECRET,
                   "backoff": quick(), "proxy": proxy, "metrics": metrics}
        stream = Alpaca(["AAPL"], ["ticker"], **options)
        stack.callback(stream.stop)
        stream.start()
        wait_until(lambda: stream.status()["last_error"])
        with StreamManager(**options) as market:
            with pytest.raises(StreamsError) as error:
                market.ticker("alpaca", "AAPL")
            with pytest.raises(StreamsError) as broken:
                market.rest("alpaca").get("/v2/stocks/snapshots", timeout=2)
            text = "\n".join("".join(traceback.format_exception(e.value)) for e in (error, broken))
            text += repr(market) + repr(market.rest("alpaca")) + repr(vars(market.rest("alpaca")))
        check("\n".join([text, shown(stream), *ears.lines, str(metrics.snapshot())]), PROXY_PASSWORD)


def test_keys_from_the_environment(stack: Stack, ears: Ears, monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ((Alpaca, "ALPACA_API_KEY", "ALPACA_API_SECRET"),
                  (Alpaca, "APCA_API_KEY_ID", "APCA_API_SECRET_KEY"), (Polygon, "POLYGON_API_KEY"),
                  (Polygon, "MASSIVE_API_KEY")):
        kind, *variables = names
        for name, value in zip(variables, (KEY, SECRET)):
            monkeypatch.setenv(name, value)
        sim = alpaca(stack) if kind is Alpaca else polygon(stack)
        stream = kind(["AAPL"], ["trades"], url=sim.url, rest_url=sim.rest_url)
        stack.callback(stream.stop)
        stream.start()
        wait_subscribed(stream)
        check("\n".join([shown(stream), *ears.lines]))
        for name in variables:
            monkeypatch.delenv(name)
        with pytest.raises(ConfigurationError, match=f"needs api_key=.*{kind.venue.key_env[0]}"):
            kind(["AAPL"], ["trades"], url=sim.url)


def test_the_manager_and_its_sessions(stack: Stack, ears: Ears) -> None:
    sim = alpaca(stack)
    metrics = InMemoryMetrics()
    market = stack.enter_context(StreamManager(metrics=metrics))
    market.start("alpaca", ["AAPL"], ["ticker"], url=sim.url, rest_url=sim.rest_url, api_key=KEY,
                 api_secret=SECRET)
    market.wait_ready(10)
    session = market.rest("alpaca")
    assert session.get("/v2/stocks/snapshots", params={"symbols": "AAPL"}).status_code == 200
    assert session.get("/nowhere").status_code == 404
    session.headers["X-Own-Token"] = PASSWORD
    ticker = market.ticker("alpaca", "AAPL", max_age=1e-9)
    assert ticker.source == "rest"
    with pytest.raises(ConfigurationError) as error:
        market.start("alpaca", ["NVDA"], ["ticker"], api_key=WRONG_KEY, api_secret=WRONG_SECRET)
    text = [repr(market), repr(session), str(market.status()), repr(market._groups), repr(market.fallback),
            str(metrics.snapshot()), repr(ticker), "".join(traceback.format_exception(error.value))]
    check("\n".join([*text, *ears.lines]))
    assert "urllib3" in ears.names


# -- passwords in addresses ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind, options", [
    (Binance, {"url": f"ws://user:{PASSWORD}@127.0.0.1:1"}),
    (Binance, {"url": f"wss://user:{PASSWORD}@example.com"}),
    (Binance, {"url": f"http://user:{PASSWORD}@127.0.0.1:1"}),
    (Binance, {"url": f"ws://127.0.0.1:x{PASSWORD}"}),
    (Binance, {"url": f"ws://[{PASSWORD}"}),
    (Binance, {"rest_url": f"ftp://user:{PASSWORD}@127.0.0.1:1"}),
    (Binance, {"proxy": f"ftp://user:{PASSWORD}@127.0.0.1:1"}),
    (Binance, {"proxy": f"http://user:{PASSWORD}@127.0.0.1:port"}),
    (Redis, {"url": f"http://user:{PASSWORD}@127.0.0.1:1"}),
    (Redis, {"url": f"redis://user:{PASSWORD}@127.0.0.1:port"}),
    (LongPollJson, {"url": f"ws://user:{PASSWORD}@127.0.0.1:1"}),
    (Alpaca, {"api_key": f"{PASSWORD} and more", "api_secret": SECRET}),
    (Alpaca, {"api_key": KEY, "api_secret": f"{PASSWORD}\n"}),
    (Polygon, {"api_key": f"{PASSWORD}\x07"}),
    (NasdaqItch, {"url": "tcp://127.0.0.1:1", "api_key": "u", "api_secret": f"{PASSWORD}\u00e9"}),
])
def test_a_mistaken_call_shows_no_password(kind: type[Stream], options: dict[str, Any], ears: Ears) -> None:
    with pytest.raises(ConfigurationError) as error:
        kind(["AAPL"], kind.venue.channels[:1], **options)
    text = "".join(traceback.format_exception(error.value))
    assert "\n" not in str(error.value)
    check(text.replace("PASSWORD", ""), PASSWORD)
    check("\n".join(ears.lines))


def test_passwords_in_addresses_show_nowhere(stack: Stack, ears: Ears, tmp_path: Path) -> None:
    feed = stack.enter_context(LongPollSim(rate=20))
    recorder = stack.enter_context(Recorder(tmp_path / "feed.jsonl.gz"))
    url = feed.rest_url.replace("//", f"//user:{PASSWORD}@")
    polled = LongPollJson(list(feed.market.symbols)[:1], ["trades"], url=url, recorder=recorder,
                          query={"token": SECRET}, backoff=quick())
    redis = Redis(["X"], ["trades"], url=f"redis://user:{PASSWORD}@127.0.0.1:9/0", recorder=recorder,
                  backoff=quick())
    for stream in (polled, redis):
        stack.callback(stream.stop)
        stream.start()
    wait_until(lambda: polled.feed.counters.messages > 5 or polled.status()["last_error"])
    wait_until(lambda: redis.status()["last_error"])
    text = shown(polled) + shown(redis)
    with StreamManager(rest_url=f"http://user:{PASSWORD}@127.0.0.1:9") as market:
        with pytest.raises(StreamsError) as error:
            market.ticker("binance", "BTC-USDT")
        text += repr(market.rest("binance")) + "".join(traceback.format_exception(error.value))
    for stream in (polled, redis):
        assert stream.stop()
    recorder.close()
    check("\n".join([text, read(tmp_path / "feed.jsonl.gz"), *ears.lines]), PASSWORD)


# -- in the clear to this machine only ------------------------------------------------------------------


HERE = ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.9.10:1"]
THERE = ["example.com:1", "10.0.0.1:1", "[2001:db8::1]:1", "127.0.0.1.example.com:1", "0.0.0.0:1",
         "localhost.example.com:1", "169.254.0.1:1"]


@pytest.mark.parametrize("kind, scheme", [
    (Alpaca, "ws"), (AlpacaCrypto, "WS"), (AlpacaOptions, "ws"), (Polygon, "ws"), (NasdaqItch, "tcp"),
    (LongPollJson, "http"), (Binance, "ws")])
def test_keys_travel_in_the_clear_to_loopback_only(kind: type[Stream], scheme: str) -> None:
    keys = {"api_key": "key", "api_secret": "secret"}
    channel = kind.venue.channels[:1]
    symbol = {AlpacaCrypto: "BTC-USD"}.get(kind, "AAPL")
    for host in HERE:
        kind([symbol], channel, url=f"{scheme}://{host}", **keys)
    for host in THERE:
        with pytest.raises(ConfigurationError, match="keys are not sent over .* only to loopback"):
            kind([symbol], channel, url=f"{scheme}://{host}", **keys)


@pytest.mark.parametrize("name", ["Authorization", "X-MBX-APIKEY", "X-Own-Token", "Cookie"])
def test_keys_in_headers_neither(name: str) -> None:
    for url in ("ws://127.0.0.1:1", "wss://example.com"):
        Binance(["BTC-USDT"], url=url, headers={name: KEY})
    with pytest.raises(ConfigurationError, match="keys are not sent over ws:// to example.com"):
        Binance(["BTC-USDT"], url="ws://example.com", headers={name: KEY})
    Binance(["BTC-USDT"], url="ws://example.com", headers={"User-Agent": "binance", "Accept-Language": "de"})


def test_the_name_of_a_program_is_no_secret() -> None:
    """Else that word would be missing in every text."""
    assert secret_headers({"User-Agent": "binance"}) == []
    assert KEY in secret_headers({"X-User-Token": KEY})


def test_a_secret_of_an_address_is_known_in_every_spelling() -> None:
    """What a peer repeats of a request may be as it was sent, or as it was read."""
    url = "wss://me:p%40ss%2Bword@host/s?a=1&x%54oken=a%2Fb%2Bc+d%3D&key="
    clean = scrubber(*secrets_of(url))
    for secret in ("p%40ss%2Bword", "p@ss+word", "a%2Fb%2Bc+d%3D", "a/b+c+d=", "a/b+c d="):
        assert clean(f"no route /s?token={secret} here") == "no route /s?token=*** here"
    assert "" not in secrets_of(url)


def test_what_a_peer_says_is_one_line(serve: Any, connect: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert scrubber()("a\nb\r\n\x1b[2Jc\x9bd\u2028e\tf") == "a b [2Jc d e f"
    sim = serve(BinanceSim, rate=0)
    stream = connect(sim)
    wait_live(stream)
    with caplog.at_level("INFO", "streams"):
        sim.inject(Fault.CLOSE(code=4001, reason="bye\nERROR all is lost\x1b[2J"))
        wait_until(lambda: stream.status()["last_error"])
    assert stream.status()["last_error"].endswith("with code 4001: bye ERROR all is lost [2J")
    assert not [record for record in caplog.records if "\n" in record.getMessage()]


@pytest.mark.parametrize("kind", [Alpaca, Polygon])
def test_rest_keys_travel_in_the_clear_to_loopback_only(kind: type[Stream]) -> None:
    name, keys = kind.venue.name, {"api_key": "key", "api_secret": "secret"}
    with pytest.raises(ConfigurationError, match="keys are not sent over http"):
        kind(["AAPL"], ["trades"], rest_url="http://example.com", **keys)
    with StreamManager(rest_url="http://example.com", **keys) as market:
        with pytest.raises(ConfigurationError, match="keys are not sent over http"):
            market.rest(name)
        with pytest.raises(ConfigurationError, match="keys are not sent over http"):
            market.start(name, ["AAPL"], ["trades"])
        with pytest.raises(StreamsError, match="keys are not sent over http"):
            market.ticker(name, "AAPL")
    with StreamManager(rest_url="https://example.com", **keys) as market:
        market.rest(name)
    # A proxy elsewhere would see what goes through it in the clear.
    with pytest.raises(ConfigurationError, match="proxy"):
        kind(["AAPL"], ["trades"], url="ws://127.0.0.1:1", proxy="http://example.com:3128", **keys)
    kind(["AAPL"], ["trades"], proxy="http://example.com:3128", **keys)


def test_every_venue_is_looked_at() -> None:
    """Which venues take keys: a new one belongs into the lists above."""
    keyed = {kind.venue.name for kind in EXCHANGES.values() if kind.venue.key_env}
    assert keyed == {"alpaca", "alpaca-crypto", "alpaca-options", "polygon", "nasdaq-itch"}
