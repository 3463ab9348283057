"""A call that can not work fails at once, in one line that says what would have been right."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from streams import Binance, BinanceFutures, Huobi, NotReady, Stream, StreamManager
from streams.backoff import Backoff
from streams.errors import ConfigurationError
from streams.handlers import Handlers
from streams.metrics import InMemoryMetrics
from streams.record import Recorder
from streams.rest import Rest
from streams.schedule import TradingHours
from streams.sim import BinanceFuturesSim, HuobiSim
from streams.sim.alpaca import AlpacaSim

from .live import at_once, quick
from .tools import with_limits

BTC = ["BTC-USDT"]
DATA = Path(__file__).resolve().parent / "data"
CERT, LOCKED = str(DATA / "loopback.crt"), str(DATA / "encrypted.key")


def start(*args: Any, **options: Any) -> Callable[[StreamManager], object]:
    return lambda market: market.start(*args, **options)


class Half:
    """Has one of the two methods that are needed."""

    def set_gauge(self, *_: object, **labels: object) -> None: ...
    def next_change(self, at: int) -> None: ...


def option(**options: Any) -> Callable[[StreamManager], object]:
    return start("binance", BTC, **options)


def feed(**options: Any) -> Callable[[StreamManager], object]:
    return start("longpoll-json", BTC, url="http://127.0.0.1:1", **options)


CALLS: list[tuple[Callable[[StreamManager], object], str]] = [
    (start("binanc", BTC), r"no exchange is called 'binanc'; known: binance, binance-futures, huobi, htx"),
    (start("binance", []), r"symbols=\[\]: give a list of names, like \['BTC-USDT'\]"),
    (start("binance", None), r"symbols=None: give a list of names"),
    (start("binance", 42), r"symbols=42: give a list of names"),
    (start("binance", [""]), r"symbols: '' is no name; give text, like"),
    (start("binance", [7]), r"symbols: 7 is no name; give text, like"),
    (start("binance", ["BTC USDT"]), r"'BTC USDT' is no symbol of binance; write it like 'BTC-USDT'"),
    (start("binance", ["BTC/USDT"]), r"'BTC/USDT' is no symbol of binance; write it like 'BTC-USDT'"),
    (start("binance", ["*"]), r"'\*' is no symbol of binance; write it like 'BTC-USDT'"),
    (start("binance", ["BTC-USDT", "btcusdt"]), r"btcusdt is subscribed already, as BTC-USDT"),
    (start("binance", BTC, []), r"channels=\[\]: give a list of names, like \['book'\]"),
    (start("binance", BTC, ["books"]), r"no channel 'books'; its channels: book, quotes, trades"),
    (start("binance", BTC, ["bars"]), r"no channel 'bars'; its bars: bars:1s, bars:1m"),
    (start("binance", BTC, ["bars:2m"]), r"no channel 'bars:2m'; its bars: bars:1s, bars:1m"),
    (start("binance", BTC, ["book:1m"]), r"channel 'book' takes no interval"),
    (option(nothing=1), r"binance has no option 'nothing'; its own options are: none"),
    (option(prox="http://localhost:1"), r"binance has no option 'prox'; did you mean 'proxy'\?"),
    (start("huobi", BTC, bookmode="incremental"), r"no option 'bookmode'; did you mean 'book_mode'\?"),
    (start("huobi", BTC, book_mode="fast"), r"book_mode='fast': 'snapshots' or 'incremental'"),
    (option(number=int), r"number=<class 'int'>: it must be float or decimal.Decimal"),
    (option(number="Decimal"), r"number='Decimal': it must be float or decimal.Decimal"),
    (option(depth=0), r"depth=0: it must be a number of levels, at least 1"),
    (option(depth="20"), r"depth='20': it must be a number of levels, at least 1"),
    (option(depth=True), r"depth=True: it must be a number of levels, at least 1"),
    (option(depth=10 ** 6), r"depth=1000000 is more than the 5000 levels it gives"),
    (option(stale_after=0), r"stale_after=0: it must be more than 0 seconds"),
    (option(stale_after="5"), r"stale_after='5': it must be more than 0 seconds"),
    (option(stale_after=float("nan")), r"stale_after=nan: it must be more than 0 seconds"),
    (option(connect_timeout=-1), r"connect_timeout=-1: it must be more than 0 seconds"),
    (option(url="localhost:80"), r"url='localhost:80': binance needs ws://host:port"),
    (option(url="http://localhost:80"), r"url='http://localhost:80': binance needs ws://host:port"),
    (option(url="ws://"), r"url='ws://': binance needs ws://host:port"),
    (option(url=5), r"url: give text, not int"),
    (option(rest_url="ws://localhost"), r"rest_url='ws://localhost': give it like https://host:port"),
    (option(proxy="localhost"), r"proxy must be http://\[user:pass@\]host:port, socks5://\.\.\. or"),
    (option(sslopt=["verify"]), r"sslopt=\['verify'\]: give a dict, like \{'ca_certs': 'mine.pem'\}"),
    (option(sslopt={"ca_certs": "/no/such/file"}), r"sslopt can not work: .*No such file"),
    (option(sslopt={"certfile": "/no/such/file"}), r"sslopt can not work: .*No such file"),
    (option(sslopt={"certfile": CERT, "keyfile": LOCKED}),
     r"sslopt can not work: the key is encrypted: give its password, as sslopt\['password'\]"),
    (option(sslopt={"certfile": CERT, "keyfile": LOCKED, "password": "rose"}), r"sslopt can not work: "),
    (option(sslopt={"cert_reqs": "none"}), r"sslopt can not work: 'none' is not a valid VerifyMode"),
    (option(sslopt={"context": 5}), r"sslopt context=5: it must be of SSLContext"),
    (option(sslopt={"server_hostname": 5}), r"sslopt server_hostname=5: it must be of str"),
    (option(recorder="day.zst"), r"recorder='day.zst': give one of streams.record"),
    (lambda market: Binance(BTC, recorder=5), r"recorder=5: give one of streams.record"),
    (lambda market: Binance(BTC, metrics=5), r"metrics=5: give one of streams.metrics"),
    (lambda market: StreamManager(metrics=5), r"metrics=5: give one of streams.metrics"),
    (lambda market: Binance(BTC, rest="http://x"), r"rest='http://x': give one of streams.rest"),
    (start("binance", ["-"]), r"'-' is no symbol of binance; write it like 'BTC-USDT'"),
    (start("binance", ["--"]), r"'--' is no symbol of binance; write it like 'BTC-USDT'"),
    (lambda market: Binance(BTC).stop(None), r"timeout=None: give a number of seconds"),
    (lambda market: Binance(BTC).stop("1"), r"timeout='1': give a number of seconds"),
    (lambda market: market.stop(timeout=None), r"timeout=None: give a number of seconds"),
    (lambda market: market.stop("binance", "soon"), r"timeout='soon': give a number of seconds"),
    (option(sslopt={"verify": 1}), r"unknown sslopt 'verify'; known are ca_certs, cert_reqs"),
    (option(headers=["a"]), r"headers: give a dict, like \{'User-Agent': 'me'\}"),
    (option(headers={"a": "b\r\nc"}), r"headers: the name and the value of 'a' must be text of one line"),
    (option(headers={"a": "\u20ac"}), r"the header 'a' has a letter outside latin-1 in it"),
    (option(headers={"a": 5}), r"headers: the name and the value of 'a' must be text of one line"),
    (option(rest_limit=5), r"rest_limit=5: give \(weight, seconds\), like \(6000, 60.0\)"),
    (option(rest_limit=(0, 60.0)), r"rest_limit=0: it must be a number of units of weight, at least 1"),
    (option(schedule="nyse"), r"schedule='nyse': give one of streams.schedule"),
    (option(backoff=1.0), r"backoff=1.0: give a streams.backoff.Backoff"),
    (option(store={}), r"store is one for all streams of a manager: StreamManager\(store=\.\.\.\)"),
    (option(api_key=5), r"api_key: give text, not int"),
    (lambda market: Binance(BTC, store={}), r"store=\{\}: give a streams.store.Store"),
    (lambda market: Binance(BTC, handlers=print), r"give a streams.handlers.Handlers"),
    (lambda market: Binance(BTC).subscribe([]), r"symbols=\[\]: give a list of names"),
    (lambda market: Binance(BTC).subscribe("X Y"), r"'X Y' is no symbol of binance"),
    (lambda market: Binance(BTC).subscribe("X-Y", "nothing"), r"binance has no channel 'nothing'"),
    (lambda market: Binance(BTC).unsubscribe("X-Y", "nothing"), r"binance has no channel 'nothing'"),
    (lambda market: Binance(BTC).subscribe("btcusdt"), r"btcusdt is subscribed already, as BTC-USDT"),
    (lambda market: BinanceFutures(BTC, ["book", "trades"]), r"use StreamManager.start\('binance"),
    (lambda market: Huobi(BTC, ["book", "quotes"], book_mode="incremental"), r"use StreamManager.start"),
    (lambda market: with_limits(Binance, topics=1)(["A-B", "C-D"]), r"2 subscriptions, and binance allows 1"),
    (lambda market: Binance(BTC).on("(", print), r"'\(' is no regular expression .* write for example"),
    (lambda market: market.on("(", print), r"'\(' is no regular expression .* write for example"),
    (lambda market: market.on("(", policy="conflate"), r"'\(' is no regular expression .* write for example"),
    (lambda market: market.on(".+", policy="conflat"), r"no policy is called 'conflat': .* 'conflate'"),
    (lambda market: market.on(print), r"pattern must be a regular expression for 'exchange.channel.symbol'"),
    (lambda market: Binance(BTC).on(print), r"pattern must be a regular expression for"),
    (lambda market: market.on(".+", 5), r"handler must be a function that takes an event, not 5"),
    (lambda market: market.on(".+", print, policy="drop"), r"no policy is called 'drop': .*drop_oldest"),
    (lambda market: market.on(".+", print, maxsize=0), r"maxsize must be a number of events, 1 or more"),
    (lambda market: market.pause("binance"), r"binance has not been started; running: none"),
    (lambda market: market.subscribe("binance", BTC), r"binance has not been started; running: none"),
    (lambda market: StreamManager(ttl={"ticker": 0}), r"ttl of ticker=0: it must be more than 0 seconds"),
    (lambda market: StreamManager(ttl={"book": "5"}), r"ttl of book='5': it must be more than 0 seconds"),
    (lambda market: StreamManager(ttl=5.0), r"ttl=5.0: give seconds by channel, like {'ticker': 10.0}"),
    (lambda market: StreamManager(providers=print), r"providers=.*: give a list, like \['rest'\]"),
    (lambda market: StreamManager(providers="rest"), r"providers='rest': give a list, like \['rest'\]"),
    (lambda market: StreamManager(providers=["res"]), r"provider 'res': give 'rest' or a callable"),
    (lambda market: StreamManager(max_jump="20"), r"max_jump='20': it must be more than 0 per cent"),
    (lambda market: StreamManager(window=0), r"window=0: it must be more than 0 seconds"),
    (lambda market: market.ticker("binance", "BTC-USDT", max_age="5"), r"max_age='5': it must be more than"),
    (lambda market: market.unsubscribe("nowhere", BTC), r"no exchange is called 'nowhere'"),
    (lambda market: market.stop("nowhere"), r"no exchange is called 'nowhere'"),
    (lambda market: market.ticker("nowhere", "BTC-USDT"), r"no exchange is called 'nowhere'"),
    (lambda market: market.ticker("binance", "BTC-USDT", max_age=-1), r"max_age=-1: it must be more than 0"),
    (lambda market: market.wait_ready(-1), r"timeout=-1: it must be more than 0 seconds"),
    (lambda market: market.on("trades", print), r"'trades' never matches the whole of"),
    (lambda market: market.on(r"binance\.trades", print), r"never matches the whole .*; write for example"),
    (lambda market: market.on(re.compile("BTC-USDT"), print), r"'BTC-USDT' never matches the whole of"),
    (lambda market: market.on("", print), r"'' never matches the whole of 'exchange.channel.symbol'; write"),
    (lambda market: market.on(".+", print, policy=[]), r"no policy is called \[\]: there are drop_oldest"),
    (lambda market: market.submit(5), r"submit\(5\): give a function, and its arguments after it"),
    (start(["binance"], BTC), r"no exchange is called \['binance'\]; known: binance, binance-futures"),
    (option(url="ws://localhost:1?x=1"), r"url='ws://localhost:1.*': it is scheme, host and port; nothing"),
    (option(rest_url="http://localhost:1?x=1"), r"rest_url='http://.*': give it like https://host:port"),
    (lambda market: market.rest("redis"), r"redis has no REST side; if it has, give rest_url"),
    (lambda market: StreamManager(proxy="no proxy"), r"proxy must be http://"),
    (lambda market: StreamManager(sslopt={"verify": 1}), r"unknown sslopt 'verify'; known are ca_certs"),
    (lambda market: StreamManager(metrics=Half()), r"metrics=.*: give one of streams.metrics"),
    (lambda market: StreamManager(schedule=Half()), r"schedule=.*: give one of streams.schedule"),
    (lambda market: StreamManager(prox="http://x:1"), r"there is no option 'prox'; did you mean 'proxy'\?"),
    (lambda market: StreamManager(book_mod="x"), r"no option 'book_mod'; did you mean 'book_mode'\?"),
    (lambda market: StreamManager(number=int), r"number=<class 'int'>: it must be float or decimal.Decimal"),
    (lambda market: StreamManager(workers=0), r"workers=0: it must be a number of threads, at least 1"),
    (lambda market: market.store.wait("now", 0.1), r"since='now': give the last_update that was seen last"),
    (lambda market: market.store.wait(1.5, 0.1), r"since=1.5: give the last_update that was seen last"),
    (lambda market: market.store.wait(None, "1"), r"timeout='1': give a number of seconds"),
    (lambda market: market.store.wait(None, float("nan")), r"timeout=nan: give a number of seconds"),
    (lambda market: market.store.orderbook(None, "BTC-USDT"), r"exchange=None: give text, like 'binance'"),
    (lambda market: market.store.orderbook([], "BTC-USDT"), r"exchange=\[\]: give text, like 'binance'"),
    (lambda market: market.store.orderbook("binance", BTC), r"symbol=\['BTC-USDT'\]: give text, like"),
    (lambda market: market.store.orderbook("binance", ""), r"symbol='': give text, like 'BTC-USDT'"),
    (lambda market: market.store.orderbook("binance", "BTC-USDT", "5"), r"max_age='5': it must be more than"),
    (lambda market: market.store.orderbook("binance", "BTC-USDT", -1), r"max_age=-1: it must be more than 0"),
    (lambda market: market.store.ticker("binance", BTC), r"symbol=\['BTC-USDT'\]: give text, like"),
    (lambda market: market.store.ticker("binance", "BTC-USDT", []), r"max_age=\[\]: it must be more than 0"),
    (lambda market: market.ticker("binance", BTC), r"symbol=\['BTC-USDT'\]: give text, like 'BTC-USDT'"),
    (lambda market: market.ticker(["binance"], "BTC-USDT"), r"no exchange is called \['binance'\]; known"),
    (lambda market: market.orderbook("binance", None), r"symbol=None: give text, like 'BTC-USDT'"),
    (lambda market: market.wait_ready([]), r"timeout=\[\]: it must be more than 0 seconds"),
    (lambda market: market.wait_ready(""), r"timeout='': it must be more than 0 seconds"),
    (lambda market: market.stop(timeout=float("nan")), r"timeout=nan: give a number of seconds"),
    (lambda market: StreamManager(metrics=InMemoryMetrics), r"metrics=InMemoryMetrics: that is a class"),
    (option(schedule=TradingHours), r"schedule=TradingHours: that is a class; give an object of it"),
    (lambda market: StreamManager(recorder=Recorder), r"recorder=Recorder: that is a class; give an object"),
    (lambda market: Stream(BTC), r"a stream needs a venue: use Binance, \.\.\., or a class that says venue"),
    (lambda market: TradingHours("09:30", "16:00", tz="UTC", holidays=5), r"holidays must be a list of"),
    (lambda market: Backoff(-1), r"base=-1: it must be more than 0 seconds"),
    (lambda market: Backoff(1, "30"), r"cap='30': it must be more than 0 seconds"),
    (lambda market: Backoff(healthy_after=None), r"healthy_after=None: give a number of seconds"),
    (lambda market: StreamManager(handlers=Handlers()), r"handlers: a manager has its own for its streams;"),
    (option(rest=Rest("binance", "", (1, 1.0))), r"rest: a manager has its own for .*; use rest_url=\.\.\."),
    (start("longpoll-json", BTC), r"longpoll-json has no public address: give url='http://host:port'"),
    (feed(path=5), r"longpoll-json: path=5 must be like '/feed'; parameters go into query"),
    (feed(cursor=5), r"longpoll-json: cursor=5: give the place of it, like '@cursor'"),
    (feed(reset=True), r"longpoll-json: reset=True: give the place of it, like '@reset'"),
    (feed(hold="5"), r"longpoll-json: hold and interval are seconds, 0 or more"),
    (lambda market: Binance.facts({"self": 1}), r"binance has no option 'self'"),
    (lambda market: market.on(".+", print, size=3), r"on\(\) has no option 'size'; did you mean 'maxsize'\?"),
    (lambda market: Binance(BTC).on(".+", mode="x"), r"on\(\) has no option 'mode'; there are: policy, maxs"),
    (lambda market: StreamManager(store={}), r"store=\{\}: give a streams.store.Store"),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_a_call_that_can_not_work(number: int) -> None:
    call, words = CALLS[number]
    market = StreamManager()
    with pytest.raises(ConfigurationError) as caught:
        call(market)
    text = str(caught.value)
    assert re.search(words, text), text
    assert "\n" not in text
    assert isinstance(caught.value, ValueError), "so that those who do not know our errors understand"
    assert not [t for t in threading.enumerate() if t.name.startswith("streams-")], "nothing was started"
    assert market.status()["streams"] == []
    market.stop()


def test_whether_something_could_be_started() -> None:
    with StreamManager(depth=5) as market:
        assert market.check("htx", BTC) == "huobi"
        assert market.check("binance-futures", "BTC-USDT", ["book", "trades"]) == "binance-futures"
        for wrong in ({"depth": 0}, {"url": "http://localhost:1"}, {"symbols": ["A B"]}, {"channels": ["x"]},
                      {"store": market.store}, {"exchange": "binanc"}):
            with pytest.raises(ConfigurationError):
                market.check(**{"exchange": "binance", "symbols": BTC, **wrong})
        assert market.status()["streams"] == [] and not market.store.orderbooks


def test_a_recorder_that_is_closed(tmp_path: Path) -> None:
    with Recorder(tmp_path / "x.jsonl") as recorder:
        market = StreamManager(recorder=recorder)
    for call in (lambda: StreamManager(recorder=recorder), lambda: Binance(BTC, recorder=recorder),
                 lambda: market.start("binance", BTC)):
        with pytest.raises(ConfigurationError, match=r"recorder=Recorder\(.*\): it is closed; give a new"):
            call()


def test_other_options_for_what_runs_already(serve: Any) -> None:
    sim = serve(rate=0)
    with StreamManager() as market:
        market.start("binance", BTC, url=sim.url, rest_url=sim.rest_url)
        market.start("binance", ["ETH-USDT"])
        market.start("binance", ["ETH-USDT"], url=sim.url, rest_url=sim.rest_url)
        with pytest.raises(ConfigurationError, match="there is no option 'deph'; did you mean 'depth'"):
            market.start("binance", BTC, deph=5)
        with pytest.raises(ConfigurationError, match="binance runs already, with other options; stop"):
            market.start("binance", BTC, number=Decimal)


def test_all_or_nothing(serve: Any) -> None:
    """A mistake in one of many symbols leaves everything as it was."""
    sim = serve(rate=0)
    with StreamManager() as market:
        with pytest.raises(ConfigurationError, match="'X Y' is no symbol"):
            market.start("binance", ["BTC-USDT", "X Y"], url=sim.url, rest_url=sim.rest_url)
        assert market.status()["streams"] == [] and sim.accepted == 0
        market.start("binance", BTC, url=sim.url, rest_url=sim.rest_url)
        with pytest.raises(ConfigurationError, match="no channel 'nothing'"):
            market.subscribe("binance", ["ETH-USDT"], ["book", "nothing"])
        assert list(market.status()["streams"][0]["subscriptions"]) == ["book.BTC-USDT"]


def test_all_or_nothing_over_several_streams(serve: Any) -> None:
    """What is wrong for one endpoint leaves the other as it was."""
    sim = serve(BinanceFuturesSim, rate=0)
    with StreamManager() as market:
        market.start("binance-futures", BTC, url=sim.url, rest_url=sim.rest_url)
        with pytest.raises(ConfigurationError, match="BTCUSDT is subscribed already, as BTC-USDT; use one"):
            market.start("binance-futures", ["ETH-USDT", "BTCUSDT"], ["trades", "book"])
        assert [list(stream["subscriptions"]) for stream in market.status()["streams"]] == [["book.BTC-USDT"]]


def test_not_ready_names_what_is_missing_and_why(serve: Any) -> None:
    sim = serve(rate=0)
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT", "NO-SUCH"], ["quotes"], url=sim.url, rest_url=sim.rest_url)
        with pytest.raises(NotReady, match=r"no data .* quotes of BTC-USDT \([\w ,]+\); .*NO-SUCH"):
            market.wait_ready(0.3)
        with pytest.raises(NotReady):
            market.wait_ready(0)


def test_what_will_never_come_is_not_waited_for(serve: Any) -> None:
    """One stream has given up, and another's symbol was refused: each alone, and both together."""
    stocks, books = serve(AlpacaSim, rate=0), serve(HuobiSim, ["btcusdt"], rate=0)
    with StreamManager(backoff=quick()) as market:
        market.start("huobi", ["NO-SUCH"], url=books.url, rest_url=books.rest_url)
        market.start("alpaca", ["AAPL"], ["quotes"], url=stocks.url, rest_url=stocks.rest_url, api_key="NO",
                     api_secret="NO")
        words: list[str] = []

        def wait() -> None:
            with pytest.raises(NotReady) as caught:
                market.wait_ready()
            words.append(str(caught.value))
        at_once(wait, timeout=10)
    assert re.search(r"book of NO-SUCH \(refused: .*quotes of AAPL \(AuthenticationFailed", words[0])


def test_what_a_recording_does_not_have_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_text('{"t": "header"}\n')
    with StreamManager() as market:
        market.start("binance", BTC, url=path.as_uri().replace("file:", "replay:"))

        def wait() -> None:
            with pytest.raises(NotReady, match=r"book of BTC-USDT \(.*recording"):
                market.wait_ready()
        at_once(wait, timeout=10)


def test_where_nothing_runs_nothing_is_ready(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = serve(rate=0)
    with StreamManager() as market:
        def stopped_meanwhile(seen: Any, timeout: float) -> Any:
            market.stop()
            return seen

        with pytest.raises(NotReady, match="no stream runs: none was started, or all have been stopped"):
            market.wait_ready()
        monkeypatch.setattr(market.store, "wait", stopped_meanwhile)
        market.start("binance", ["NO-SUCH"], ["quotes"], url=sim.url, rest_url=sim.rest_url)
        with pytest.raises(NotReady, match="no stream runs"):
            market.wait_ready()


def test_what_may_be_silent_for_long_is_ready(serve: Any) -> None:
    sim = serve(rate=0)
    with StreamManager() as market:
        market.start("binance", BTC, ["trades", "bars:1m"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(0)
        market.unsubscribe("binance", BTC)
        market.wait_ready(0)


def test_a_misspelt_channel_of_what_runs(serve: Any) -> None:
    sim = serve(rate=0)
    with StreamManager() as market:
        market.start("binance", BTC, url=sim.url, rest_url=sim.rest_url)
        for call in (market.subscribe, market.unsubscribe):
            with pytest.raises(ConfigurationError, match="binance has no channel 'books'; its channels"):
                call("binance", BTC, ["book", "books"])
        assert list(market.status()["streams"][0]["subscriptions"]) == ["book.BTC-USDT"]


def test_not_ready_says_why_there_is_no_snapshot(serve: Any) -> None:
    """Binance acknowledges what does not exist; the only word against it is the one of its REST side."""
    sim = serve(rate=50.0)
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT", "NO-SUCH"], url=sim.url, rest_url=sim.rest_url)
        said = ""
        for _ in range(20):                     # the first snapshot is asked for within a moment
            with pytest.raises(NotReady) as caught:
                market.wait_ready(0.5)
            said = str(caught.value)
            if "Invalid symbol" in said:
                break
        assert re.fullmatch(r"no data yet for binance book of NO-SUCH \(no snapshot: .*HTTP 400 .*"
                            r"Invalid symbol.*\)", said), said


@pytest.mark.parametrize("symbols", [set(BTC), dict.fromkeys(BTC), dict.fromkeys(BTC).keys(), deque(BTC)])
def test_any_collection_of_names_will_do(symbols: Any) -> None:
    assert list(Binance(symbols, {"book"}).status()["subscriptions"]) == ["book.BTC-USDT"]
