"""Every example, run as a user runs it: as a program, against simulated venues."""

from __future__ import annotations

import atexit
import importlib
import json
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from streams import StreamManager

from .live import at_once
from .processes import ROOT, of, run, running
from .redis_server import needs_redis

EXAMPLES = ROOT / "examples"
LEVEL = r"\(([\d.e-]+), ([\d.e-]+)\)"
posix = pytest.mark.skipif(sys.platform == "win32", reason="other processes get no such signals on Windows")


def example(name: str) -> str:
    return str(EXAMPLES / name)


def test_each_example_is_run_here_or_says_where() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    elsewhere = {"own_venue.py", "own_venue_server.py"}         # test_own_venue.py
    for path in EXAMPLES.glob("*.py"):
        assert path.name in elsewhere or f'example("{path.name}")' in source


@pytest.mark.parametrize("names", [
    ["binance", "BTC-USDT", "ETH-USDT", "huobi", "BTC-USDT"], ["binance-futures", "BTC-USDT"],
    ["nasdaq-itch", "AAPL"], ["longpoll-xml", "BTC-USDT", "longpoll-json", "ETH-USDT"],
    ["alpaca-crypto", "BTC-USD"], ["redis", "BTC-USDT", "ETH-USDT"],
], ids=of)
def test_polling_is_the_same_on_every_transport(names: list[str]) -> None:
    if "longpoll-xml" in names:
        pytest.importorskip("defusedxml")
    if "redis" in names:
        needs_redis()
    program = run(example("polling.py"), "--demo", "--seconds", "1", *names)
    for line in program.lines:          # the book of a venue without snapshots begins empty
        assert re.fullmatch(rf"(\S+) (\S+) (live|syncing) ({LEVEL}|None) ({LEVEL}|None)", line)
    books = [book for line in program.lines
             if (book := re.fullmatch(rf"(\S+) (\S+) live {LEVEL} {LEVEL}", line))]
    seen = {(book[1], book[2]) for book in books}
    exchanges = [name for name in names if name[0].islower()]
    assert {exchange for exchange, _ in seen} == set(exchanges)
    assert {symbol for _, symbol in seen} == set(names) - set(exchanges)
    assert all(float(book[3]) < float(book[5]) for book in books)
    assert len({book[0] for book in books}) > len(seen), "nothing has moved"


def test_polling_reads_tickers_where_there_are_no_books() -> None:
    program = run(example("polling.py"), "--demo", "--seconds", "1", "--channels", "ticker",
                  "alpaca", "AAPL", "polygon", "AAPL")
    tickers = {match[1] for line in program.lines
               if (match := re.fullmatch(r"(\S+) AAPL last [\d.]+ bid [\d.]+ ask [\d.]+", line))}
    assert tickers == {"alpaca", "polygon"}


@pytest.mark.parametrize("name, arguments, said", [
    ("polling.py", ["BTC-USDT"], "begin with one, like 'binance BTC-USDT'"),
    ("polling.py", ["binance"], "name some, like 'binance BTC-USDT'"),
    ("polling.py", ["--channels", "boook", "binance", "BTC-USDT"], "its channels: book, quotes"),
    ("polling.py", ["--demo", "binance", "BTC"], "something like 'BTCUSDT'"),
    ("waiting.py", ["BTC-USDT"], "known: binance,"),
    ("waiting.py", ["--demo", "BTC-USDT"], "there are: binance,"),
    ("single_stream.py", ["BTC USDT"], "write it like 'BTC-USDT'"),
    ("own_venue.py", ["--dmeo"], "unrecognized arguments: --dmeo"),
], ids=str)
def test_a_wrong_argument_is_answered_in_one_line(name: str, arguments: list[str], said: str) -> None:
    with running(str(EXAMPLES / name), *arguments) as program:
        assert program.wait() == 2
    *usage, line = program.errors.splitlines()
    assert line.startswith(f"{name}: error: ") and said in line
    assert usage[0].startswith("usage: ") and "Traceback" not in program.errors


def test_an_example_without_its_key_says_where_it_looks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("POLYGON_API_KEY", "MASSIVE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    with running(example("options_lookup.py")) as program:
        assert program.wait() == 2
    assert "POLYGON_API_KEY" in program.errors.splitlines()[-1]


def test_a_single_stream() -> None:
    three = rf"( {LEVEL}){{3}}"
    for seconds in ("1.2", "5", "20"):      # it waits for nothing, and a busy machine may need longer
        *books, end = run(example("single_stream.py"), "--demo", "--seconds", seconds, timeout=60).lines
        if any(re.fullmatch(rf"BTC-USDT live bids{three} asks{three}", line) for line in books):
            break
    else:
        pytest.fail(f"no book: {books}")
    assert re.fullmatch(r"stopped: True; [1-9]\d* messages, 0 gaps, 0 reconnects; state stopped", end)


def test_waiting() -> None:
    program = run(example("waiting.py"), "--demo", "--seconds", "1")
    *books, end = program.lines
    assert {line.split()[0] for line in books} == {"BTC-USDT", "ETH-USDT"}
    match = re.fullmatch(r"woken (\d+) times, ([\d.]+) ms after the update \(median\)", end)
    assert match is not None and 0 < int(match[1]) <= len(books)


def test_shutdown_by_itself() -> None:
    program = run(example("shutdown.py"), "--demo", "--seconds", "0.6")
    assert any("threads left: none" in line for line in program.lines)
    assert re.fullmatch(r"stopping took 0\.\d+ s", program.lines[-1])


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_shutdown_by_a_signal(number: signal.Signals) -> None:
    with running(example("shutdown.py"), "--demo") as program:
        program.read_until("huobi")
        program.signal(number)
        code = program.wait(10)
    assert code == 128 + number
    assert "threads left: none" in program.lines[-1]
    assert program.errors == ""


@posix
@pytest.mark.parametrize("name", ["polling.py", "single_stream.py", "waiting.py"])
def test_ctrl_c_ends_an_example_without_a_traceback(name: str) -> None:
    with running(example(name), "--demo") as program:
        program.read_until("BTC-USDT")
        program.signal(signal.SIGINT)
        code = program.wait(10)
    assert (code, program.errors) == (0, "")


def test_each_contract_of_a_burst_is_looked_up_while_the_stream_goes_on() -> None:
    program = run(example("options_lookup.py"), "--demo", "--seconds", "2.5")
    looked_up = {match[1] for line in program.lines if (match := re.match(
        r"(O:NVDA261218[CP]\d{8}): (?:call|put), strike \d+, expires 2026-12-18; \d+ trades so far", line))}
    assert len(looked_up) == 20
    end = re.fullmatch(r"(\d+) trades of (\d+) contracts, 0 lost; 20 looked up, 0 look-ups failed; at most "
                       r"([\d.]+) s between two trades", program.lines[-1])
    assert end is not None
    assert int(end[1]) > 2000 and end[2] == "20"
    # Twenty answers of a tenth of a second each: had the stream waited for them, it were two seconds.
    assert float(end[3]) < 1.5


def test_a_web_application() -> None:
    with running(example("web_app.py"), "--demo", "--port", "0") as program:
        address = program.read_until("http://")
        book = until_ok(f"{address}binance/BTC-USDT")
        assert book["bids"][0][0] < book["asks"][0][0]
        assert len(book["bids"]) == len(book["asks"]) == 5
        streams = answer(address)[1]
        assert {name: stream["state"] for name, stream in streams.items()} == {
            "binance": "live", "huobi": "live"}
        assert answer(f"{address}binance/DOGE-USDT")[0] == 404
        if sys.platform != "win32":
            program.signal(signal.SIGINT)
            assert program.wait(10) == 0
            assert program.errors == ""


def test_a_web_application_makes_one_manager_for_all_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    web_app = importlib.import_module("web_app")
    made: list[StreamManager] = []
    another = threading.Event()

    class Slow(StreamManager):
        def __init__(self) -> None:
            made.append(self)
            another.set() if len(made) > 1 else another.wait(0.3)
            super().__init__()

    monkeypatch.setattr(web_app, "StreamManager", Slow)
    monkeypatch.setattr(web_app, "BOOKS", {})
    at_once(*4 * [web_app.market])
    for manager in made:
        atexit.unregister(manager.stop)
    assert made == [web_app.market()]


def answer(address: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(address, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def until_ok(address: str) -> Any:
    """The books need a moment: 404 or 503 until then."""
    deadline = time.monotonic() + 10
    while True:
        status, body = answer(address)
        if status == 200:
            return body
        assert status in (404, 503) and time.monotonic() < deadline, body


def test_a_web_application_ends_by_itself() -> None:
    program = run(example("web_app.py"), "--demo", "--port", "0", "--seconds", "0.3")
    assert program.errors == ""
