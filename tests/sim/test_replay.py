"""The replay server: everything is sent, in order, and snapshots come in their place."""
from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from streams.sim import Fault, ReplaySim
from streams.sim.recording import Recording

from ..recorded import recordings
from .books import BinanceBook
from .client import BINARY, Client, get

BASE = 1_600_000_000.0


def event(first: int, last: int, symbol: str = "AAABTC", **more: Any) -> dict[str, Any]:
    """A diff event that sets one bid level to its own number."""
    return {"e": "depthUpdate", "E": 1, "s": symbol, "U": first, "u": last,
            "b": [["0.50000000", f"{last}.00000000"]], "a": [], **more}


def write(path: Path, lines: list[tuple[str, Any]], exchange: str = "BINANCE") -> Path:
    """A recording in the first layout; one tenth of a second between two lines."""
    with gzip.open(path, "wt") as file:
        file.write(json.dumps({"t": "header", "exchange": exchange}) + "\n")
        file.write(json.dumps({"t": "connect", "conn": "c", "ts": BASE, "addr": "wss://x"}) + "\n")
        for number, (kind, value) in enumerate(lines):
            entry: dict[str, Any] = {"conn": "c", "ts": BASE + number / 10}
            if kind.startswith("http"):
                entry |= {"t": "http", "url": kind, "data": json.dumps(value)}
            elif isinstance(value, bytes):
                entry |= {"t": "recv", "b64": base64.b64encode(value).decode()}
            else:
                entry |= {"t": "recv", "data": json.dumps({"stream": kind, "data": value},
                                                          separators=(",", ":"))}
            file.write(json.dumps(entry) + "\n")
    return path


def snapshot(last: int) -> dict[str, Any]:
    return {"lastUpdateId": last, "bids": [["0.40000000", "1.00000000"]],
            "asks": [["0.60000000", "2.00000000"]]}


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Two events, then the snapshot that lies inside the second, then ten events."""
    depth = "aaabtc@depth@100ms"
    return write(tmp_path / "short.jsonl.gz", [
        ("http://h/api/v3/exchangeInfo", {"recorded": True}),
        ("aaabtc@bookTicker", {"u": 11, "s": "AAABTC"}),
        (depth, event(11, 12)), (depth, event(13, 16)),
        ("http://h/api/v3/depth?symbol=AAABTC&limit=1000", snapshot(14)),
        *((depth, event(17 + n, 17 + n)) for n in range(10)),
        ("aaabtc@bookTicker", {"u": 26, "s": "AAABTC"}),
        ("bbbbtc@depth@100ms", event(5, 6, "BBBBTC")),
    ])


def last_ids(events: list[Any]) -> list[int]:
    return [value["u"] for value in events]


# -- where snapshots belong ----------------------------------------------------------------------


def test_a_symbol_waits_for_its_snapshot_to_be_asked_for(short: Path) -> None:
    with ReplaySim(short) as sim, \
            Client(sim.url, "/stream?streams=aaabtc@depth/aaabtc@bookTicker") as client:
        before = [client.json() for _ in range(3)]
        assert [m["stream"] for m in before] == [
            "aaabtc@bookTicker", "aaabtc@depth", "aaabtc@depth"]
        assert client.silent(0.1) and not sim.done.is_set()
        answer = get(sim.rest_url, "/api/v3/depth?symbol=AAABTC&limit=5000")
        assert answer.value["lastUpdateId"] == 16           # the snapshot, and the event round it
        after = [client.json()["data"] for _ in range(11)]
        assert last_ids(after) == [*range(17, 27), 26]
        assert sim.done.wait(10)
        assert (sim.total_frames, sim.sent_frames) == (15, 14)
        assert sim.sent == {"aaabtc@depth": 12, "aaabtc@bookTicker": 2}


def test_an_early_request_waits_for_its_place(short: Path) -> None:
    with ReplaySim(short, autostart=False) as sim, \
            Client(sim.url, "/ws/aaabtc@depth@100ms") as client:
        assert sim.wait_for(lambda: sim.subscribers("aaabtc@depth@100ms"), 10)
        answers: list[Any] = []
        asking = threading.Thread(target=lambda: answers.append(
            get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value["lastUpdateId"]))
        asking.start()
        assert sim.wait_for(lambda: sim.requests, 10)
        sim.play()
        asking.join(10)
        assert answers == [16]
        assert last_ids([client.json() for _ in range(12)]) == [12, 16, *range(17, 27)]


def test_a_request_of_nobody_who_listens_is_answered_at_once(short: Path) -> None:
    with ReplaySim(short) as sim:
        begun = time.monotonic()
        assert get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value["lastUpdateId"] == 14
        assert time.monotonic() - begun < 1


def test_later_requests_get_the_true_book_of_that_moment(short: Path) -> None:
    with ReplaySim(short) as sim, Client(sim.url, "/ws/aaabtc@depth@100ms") as client:
        book = None
        events = [client.json(), client.json()]
        book = BinanceBook(get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value)
        events += [client.json() for _ in range(10)]
        assert all(book.apply(value) for value in events)
        later = BinanceBook(get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value)
        assert (later.sequence, later.bids, later.asks) == (26, book.bids, book.asks)
        sim.plan_rest(Fault.SNAPSHOT_STALE(updates=4))
        old = BinanceBook(get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value)
        assert old.sequence == 22 and old.bids != book.bids


def test_without_a_request_it_goes_on_after_a_while(short: Path, caplog: Any) -> None:
    with ReplaySim(short, hold_timeout=0.1) as sim, \
            Client(sim.url, "/ws/aaabtc@depth@100ms") as client:
        assert last_ids([client.json() for _ in range(12)]) == [12, 16, *range(17, 27)]
    assert "aaabtc" in caplog.text


def test_without_a_snapshot_nothing_waits(short: Path) -> None:
    with ReplaySim(short) as sim, Client(sim.url, "/ws/bbbbtc@depth") as client:
        assert client.json()["u"] == 6
        assert sim.done.wait(10)
        answer = get(sim.rest_url, "/api/v3/depth?symbol=BBBBTC")
        assert answer.status == 400 and answer.value["code"] == -1121


def test_one_event_at_least_comes_before_the_snapshot(tmp_path: Path) -> None:
    path = write(tmp_path / "late.jsonl.gz", [
        ("http://h/api/v3/depth?symbol=AAABTC", snapshot(14)),
        ("aaabtc@depth@100ms", event(13, 16)), ("aaabtc@depth@100ms", event(17, 18))])
    with ReplaySim(path) as sim, Client(sim.url, "/ws/aaabtc@depth") as client:
        assert client.json()["u"] == 16                     # some clients wait for this one
        assert client.silent(0.05)
        assert get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value["lastUpdateId"] == 16
        assert client.json()["u"] == 18


def test_other_kinds_do_not_wait_when_nobody_builds_a_book(short: Path) -> None:
    with ReplaySim(short) as sim, Client(sim.url, "/ws/aaabtc@bookTicker") as client:
        assert last_ids([client.json(), client.json()]) == [11, 26]
        assert sim.done.wait(10)


# -- gaps ----------------------------------------------------------------------------------------


def test_left_out_updates_are_revealed_and_wait_for_a_snapshot(short: Path) -> None:
    with ReplaySim(short, skip_every=5) as sim, \
            Client(sim.url, "/ws/aaabtc@depth@100ms") as client:
        assert last_ids([client.json(), client.json()]) == [12, 16]
        book = BinanceBook(get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value)
        assert last_ids([client.json() for _ in range(3)]) == [17, 18, 20]      # without 19
        assert client.silent(0.05)
        assert [gap.sequence for gap in sim.gaps] == [19]
        book = BinanceBook(get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value)
        assert book.sequence == 20
        assert last_ids([client.json() for _ in range(4)]) == [21, 22, 23, 25]  # without 24
        assert get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value["lastUpdateId"] == 25
        assert client.json()["u"] == 26
        assert sim.done.wait(10)
        assert [(gap.symbol, gap.sequence) for gap in sim.gaps] == [("aaabtc", 19), ("aaabtc", 24)]


# -- who gets what -------------------------------------------------------------------------------


def test_who_subscribes_by_message_gets_the_same(short: Path) -> None:
    with ReplaySim(short) as sim, Client(sim.url) as client:
        client.send({"method": "SUBSCRIBE", "params": ["aaabtc@bookTicker"], "id": 1})
        assert client.json() == {"result": None, "id": 1}
        assert last_ids([client.json(), client.json()]) == [11, 26]


def test_who_comes_late_gets_it_from_the_beginning(short: Path) -> None:
    with ReplaySim(short) as sim, Client(sim.url, "/ws/aaabtc@bookTicker") as one:
        one.json()
        one.json()
        assert sim.done.wait(10)
        with Client(sim.url, "/ws/bbbbtc@depth") as two:
            assert two.json()["u"] == 6
            assert sim.done.wait(10)


def test_who_reconnects_goes_on_where_it_was(short: Path) -> None:
    with ReplaySim(short) as sim:
        with Client(sim.url, "/ws/aaabtc@depth") as client:
            assert last_ids([client.json(), client.json()]) == [12, 16]
            assert sim.wait_for(lambda: sim.sent_frames == 2, 10)
        assert sim.wait_for(lambda: not sim.connections, 10)
        assert get(sim.rest_url, "/api/v3/depth?symbol=AAABTC").value["lastUpdateId"] == 16
        assert sim.sent_frames == 2
        with Client(sim.url, "/ws/aaabtc@depth") as client:
            assert client.json()["u"] == 17


def test_two_clients_get_the_same_frames(short: Path) -> None:
    with ReplaySim(short, autostart=False) as sim, \
            Client(sim.url, "/ws/aaabtc@bookTicker") as one, \
            Client(sim.url, "/stream?streams=aaabtc@bookTicker") as two:
        assert sim.wait_for(lambda: len(sim.subscribers("aaabtc@bookTicker")) == 2, 10)
        sim.play()
        assert [one.json() for _ in range(2)] == [two.json()["data"] for _ in range(2)]


def test_faults_work_on_replays_too(short: Path) -> None:
    with ReplaySim(short) as sim, Client(sim.url, "/ws/aaabtc@depth") as client:
        assert last_ids([client.json(), client.json()]) == [12, 16]
        sim.inject(Fault.SKIP)
        get(sim.rest_url, "/api/v3/depth?symbol=AAABTC")
        assert client.json()["u"] == 18


# -- REST, speed, files --------------------------------------------------------------------------


def test_rest_answers_as_recorded_or_makes_do(short: Path, tmp_path: Path) -> None:
    with ReplaySim(short) as sim:
        assert get(sim.rest_url, "/api/v3/exchangeInfo?x=1").value == {"recorded": True}
        assert get(sim.rest_url, "/api/v3/nothing").status == 404
    bare = write(tmp_path / "bare.jsonl.gz", [("ethusdt@depth", event(1, 2, "ETHUSDT")),
                                              ("btcusd_perp@depth", event(1, 2, "BTCUSD_PERP"))])
    with ReplaySim(bare) as sim:
        symbols = get(sim.rest_url, "/fapi/v1/exchangeInfo").value["symbols"]
        assert [(s["symbol"], s["baseAsset"], s["quoteAsset"]) for s in symbols] == [
            ("BTCUSD_PERP", "BTC", "USD"), ("ETHUSDT", "ETH", "USDT")]
        assert sim.symbols == ("btcusd_perp", "ethusdt")


def test_recorded_speed_and_multiples_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "timed.jsonl.gz",
                 [("aaabtc@trade", {"e": "trade", "u": n}) for n in range(11)])
    for speed, seconds in ((4.0, 0.25), (50.0, 0.02)):
        with ReplaySim(path, speed=speed) as sim, Client(sim.url, "/ws/aaabtc@trade") as client:
            client.json()
            begun = time.monotonic()
            assert last_ids([client.json() for _ in range(10)]) == list(range(1, 11))
            assert seconds * 0.8 <= time.monotonic() - begun < seconds + 2


def test_several_files_are_one_recording(tmp_path: Path) -> None:
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.gz"
        with gzip.open(path, "wt") as file:
            if not number:
                file.write(f'1 {json.dumps(snapshot(12))}\n')
            file.write(f'2 {json.dumps({"stream": "ethusdt@depth@0ms", "data": event(11 + 2 * number, 12 + 2 * number, "ETHUSDT")}, separators=(",", ":"))}\n')    # noqa: E501
        files.append(path)
    assert [item.is_rest for item in Recording(files).items] == [True, False, False]
    with ReplaySim(files) as sim, Client(sim.url, "/stream?streams=ethusdt@depth@100ms") as client:
        first = client.json()
        assert first["stream"] == "ethusdt@depth@100ms" and first["data"]["u"] == 12
        assert get(sim.rest_url, "/api/v3/depth?symbol=ETHUSDT").value["lastUpdateId"] == 12
        assert client.json()["data"]["u"] == 14


def test_stop_is_quick_while_waiting(short: Path) -> None:
    sim = ReplaySim(short)
    sim.start()
    with Client(sim.url, "/ws/aaabtc@depth") as client:
        client.json()
        begun = time.monotonic()
        assert sim.stop()
        assert time.monotonic() - begun < 1


def test_huobi_frames_are_served_byte_by_byte(tmp_path: Path) -> None:
    topic = "market.aaausdt.depth.step0"
    frames = [gzip.compress(json.dumps({"ch": topic, "tick": {"version": n}}).encode())
              for n in range(3)]
    ack = gzip.compress(b'{"id":"1","status":"ok","subbed":"x","ts":1}')
    path = write(tmp_path / "h.jsonl.gz", [("", ack), *(("", frame) for frame in frames)], "HUOBI")
    with ReplaySim(path) as sim, Client(sim.url, "/ws") as client:
        client.send({"sub": topic, "id": "7"})
        assert client.json()["id"] == "7"
        assert [client.message() for _ in frames] == [(True, BINARY, frame) for frame in frames]
        assert sim.done.wait(10) and sim.total_frames == 3
        client.send({"req": "market.aaausdt.mbp.150", "id": 1})
        assert client.json()["status"] == "error"


@pytest.mark.parametrize("wrong, text", [({"speed": -1}, "factor"), ({"skip_every": 1}, "2 or"),
                                         ({"exchange": "nosuch"}, "there are: binance")])
def test_mistakes_fail_at_the_call(short: Path, wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ReplaySim(short, **wrong)


def test_files_in_no_known_layout_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    with gzip.open(path, "wt") as file:
        file.write("nonsense\n")
    with pytest.raises(ValueError, match="x.gz: no recording"):
        ReplaySim(path)
    with pytest.raises(FileNotFoundError):
        ReplaySim(tmp_path / "missing.gz")
    with pytest.raises(ValueError, match="no recording was given"):
        ReplaySim([])


# -- real recordings -----------------------------------------------------------------------------


class Follower:
    """Keeps books from a replay, by the rules of the documents, one request after the other."""

    def __init__(self, sim: ReplaySim, prefix: str, futures: bool) -> None:
        self.sim, self.prefix, self.futures = sim, prefix, futures
        self.books: dict[str, BinanceBook] = {}
        self.tops: list[tuple[str, int, Any]] = []
        self.tickers: dict[tuple[str, int], Any] = {}
        self.gaps = self.depth_events = self.messages = 0

    def take(self, message: Any) -> None:
        """One combined message."""
        self.messages += 1
        symbol, _, kind = message["stream"].partition("@")
        data = message["data"]
        if kind == "bookTicker":
            self.tickers[symbol, data["u"]] = tuple(
                map(float, (data["b"], data["B"], data["a"], data["A"])))
        elif kind.startswith("depth"):
            self.depth_events += 1
            self._depth(symbol, data)

    def _depth(self, symbol: str, data: Any) -> None:
        book = self.books.get(symbol)
        if book is not None and not book.apply(data):
            self.gaps += 1
            book = None
        if book is None:
            answer = get(self.sim.rest_url, f"{self.prefix}/depth?symbol={symbol.upper()}"
                                            "&limit=5000")
            if answer.status != 200:
                return
            book = self.books[symbol] = BinanceBook(answer.value, self.futures)
            if not book.apply(data):
                return
        bid, ask = max(book.bids), min(book.asks)
        self.tops.append((symbol, book.sequence, tuple(map(float, (
            bid, book.bids[bid], ask, book.asks[ask])))))

    def compare(self) -> tuple[int, int]:
        """How often the top of the book is the bookTicker of that moment; of how many."""
        known = [(top, self.tickers[symbol, sequence]) for symbol, sequence, top in self.tops
                 if (symbol, sequence) in self.tickers]
        return sum(top == ticker for top, ticker in known), len(known)


BINANCE = [
    ("cf_spot_20211012.jsonl.gz",), ("cf_us_20211012.jsonl.gz",), ("cf_tr_20230410.jsonl.gz",),
    ("cf_usdm_20210722.jsonl.gz",), ("cf_coinm_20210722.jsonl.gz",),
    ("hftbacktest/spot_ethusdt_20240808.gz", "hftbacktest/spot_ethusdt_20240809.gz"),
    ("hftbacktest/usdm_ethusdt_20240808.gz",)]


@pytest.mark.parametrize("names, skip_every", [
    *((names, 97) for names in BINANCE), *((names, 0) for names in BINANCE[:5])])
def test_real_recordings_lead_to_true_books(names: tuple[str, ...], skip_every: int) -> None:
    paths = recordings(*(f"binance/{name}" for name in names))
    with ReplaySim(paths, skip_every=skip_every) as sim:
        futures = sim.dialect.exchange == "binance-futures"
        prefix = {"u": "/fapi/v1", "c": "/dapi/v1"}.get(
            paths[0].name.replace("cf_", "")[0] if futures else "", "/api/v3")
        streams = "/".join(f"{symbol}@{kind}" for symbol in sim.symbols
                           for kind in ("depth@100ms", "bookTicker"))
        follower = Follower(sim, prefix, futures)
        path = "/public/stream" if futures else "/stream"
        with Client(sim.url, f"{path}?streams={streams}") as client:
            while not (client.silent(0.05) and sim.done.is_set()):
                while client.has_data():
                    follower.take(client.json())
        expected = sum(count for lane, count in sim.sent.items()
                       if lane.endswith(("@depth", "@bookTicker")))
        assert follower.messages == expected == sim.sent_frames
        assert follower.gaps == len(sim.gaps)
        assert bool(sim.gaps) == bool(skip_every) or follower.depth_events < 97 * len(sim.symbols)
        same, total = follower.compare()
        assert same == total > 0
        assert sim.violations == 0


def test_a_real_huobi_recording() -> None:
    [path] = recordings("htx/cf_spot_gzip_20210417.jsonl.gz")
    with ReplaySim(path) as sim, Client(sim.url) as client:
        for topic in ("market.omgbtc.depth.step0", "market.xvgeth.depth.step0"):
            client.send({"sub": topic})
        versions: dict[str, list[int]] = {}
        while not (client.silent(0.05) and sim.done.is_set()):
            while client.has_data():
                message = client.json()
                if "tick" in message:
                    versions.setdefault(message["ch"], []).append(message["tick"]["version"])
        assert sim.total_frames == 336
        assert all(len(seen) == 31 and seen == sorted(seen) for seen in versions.values())
        assert len(versions) == 2
