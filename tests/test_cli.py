"""The command ``streams``: what it refuses, what each of its commands does, and how it ends."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams.cli import build_parser, main
from streams.console.board import Picture
from streams.console.ending import Ending
from streams.console.live import follow
from streams.exchanges import EXCHANGES
from streams.sim import BinanceSim, Fault, HuobiSim, Sandbox

from .processes import run, running
from .redis_server import needs_redis

posix = pytest.mark.skipif(sys.platform == "win32", reason="other processes get no such signals on Windows")


@pytest.mark.parametrize("arguments, message", [
    (["watch", "binance", "BTC-USDT", "-c", "boook"], "binance has no channel 'boook'; its channels: book,"),
    (["watch", "binance", "BTC-USDT", "-o", "foo=1"], "binance has no option 'foo'"),
    (["watch", "binance", "BTC-USDT", "-o", "symbols=x"], "binance has no option 'symbols'"),
    (["watch", "binance", "BTC-USDT", "-o", "channels=book"], "binance has no option 'channels'"),
    (["watch", "binance", "BTC-USDT", "-o", "depth=abc"], "depth='abc': it must be a number of levels"),
    (["watch", "alpaca", "AAPL"], "alpaca needs api_key=..., or the environment variable ALPACA_API_KEY"),
    (["watch", "nasdaq-itch", "AAPL"], "nasdaq-itch"),
    (["watch", "binance", "BTC-USDT", "huobi", "BTC-USDT", "--url", "ws://127.0.0.1:1"],
     "--url is the address of one exchange, and here are 2"),
    (["watch", "binance", "A_B", "--demo"], "--demo: symbol 'A_B'"),
    (["record", "binance", "BTC-USDT", "--output", "."], "exists"),
    (["replay", "nowhere.jsonl.gz"], "can not read 'nowhere.jsonl.gz'"),
    (["doctor", "binanc"], "no exchange is called 'binanc'"),
])
def test_a_mistake_is_one_line_and_exit_code_2(
        arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in os.environ if name.startswith(("ALPACA", "APCA", "NASDAQ"))]:
        monkeypatch.delenv(name)
    assert main(arguments) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"streams {arguments[0]}: ") and errors.count("\n") == 1
    assert message in errors


@pytest.mark.parametrize("arguments, message", [
    ([], "COMMAND"), (["watch"], "EXCHANGE SYMBOL"), (["wotch"], "wotch"),
    (["demo", "--seconds", "0"], "argument --seconds: 0: expected a number above 0"),
    (["demo", "--seconds", "abc"], "argument --seconds: abc: expected a number above 0"),
    (["demo", "--rate", "x"], "argument --rate: x: expected a number above 0"),
    (["replay", "f", "--speed", "-1"], "argument --speed: -1: expected 0, or a factor above 0"),
    (["replay", "f", "--speed", "fast"], "argument --speed: fast: expected 0, or a factor above 0"),
])
def test_words_that_make_no_sense(arguments: list[str], message: str,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(arguments)
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert "usage: streams" in errors and message in errors


def test_a_venue_that_can_not_be_simulated_here(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["watch", "redis", "BTC-USDT", "--demo"]) == 2
    assert "--demo: there is no redis-server on PATH" in capsys.readouterr().err


def test_the_help_of_every_command_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("demo", "watch", "record", "replay", "venues", "doctor"):
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: streams {name}")


# -- the commands --------------------------------------------------------------------------------------


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def end_when(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Picture], bool]], None]:
    """``end_when(wish)``: commands end with the first picture that is as wished, when that may be."""
    def arrange(wish: Callable[[Picture], bool]) -> None:
        def following(*args: Any, done: Callable[[Picture], bool] | None = None) -> Picture:
            return follow(*args, done=lambda picture: wish(picture) or (done is not None and done(picture)))

        for module in ("demo", "watch"):
            monkeypatch.setattr(f"streams.console.{module}.follow", following)
    return arrange


def has_traded(picture: Picture) -> bool:
    return picture.complete and all(row.last is not None for row in picture.rows)


def total(picture: Picture, counter: str) -> int:
    return sum(stream.counts[counter] for stream in picture.streams)


def test_demo_shows_both_venues_and_ends(end_when: Any, capsys: pytest.CaptureFixture[str]) -> None:
    end_when(has_traded)
    assert main(["demo", "--seconds", "60", "--interval", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for exchange in ("binance", "huobi"):
        for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
            assert any(f"{exchange} {symbol} live bid " in line for line in lines), lines
    assert lines[-3].split() == ["stream", "state", "messages", "per", "s", "books", "gaps", "resyncs",
                                 "reconnects"]
    for line in lines[-2:]:
        assert line.split()[4:7] == ["3", "of", "3"]


def test_demo_ends_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    main(["demo", "--seconds", "1.5"])          # what a slow machine has seen by then may be little
    assert time.monotonic() - began >= 1.5
    assert re.search(r"^(1\.[5-9]|[2-9]\.\d) s$", capsys.readouterr().out, re.MULTILINE)


def test_demo_all_shows_every_transport(end_when: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("defusedxml")
    needs_redis()
    end_when(lambda picture: picture.complete)
    assert main(["demo", "--all", "--seconds", "60", "--interval", "0.2"]) == 0
    text = capsys.readouterr().out
    for exchange in ("binance", "huobi", "alpaca", "polygon", "nasdaq-itch", "redis", "longpoll-xml"):
        assert f" {exchange} " in text


def test_demo_leaves_out_what_is_not_installed(
        end_when: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    end_when(lambda picture: picture.complete)
    monkeypatch.setitem(sys.modules, "defusedxml", None)
    monkeypatch.setitem(sys.modules, "defusedxml.ElementTree", None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["demo", "--all", "--seconds", "60"]) == 0
    out, errors = capsys.readouterr()
    assert "redis is left out: there is no redis-server on PATH" in errors
    assert " redis " not in out
    assert "longpoll-xml is left out: defusedxml is not installed: pip install" in errors
    assert " longpoll-xml " not in out


def test_demo_with_faults_goes_on(end_when: Any, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("streams.console.demo._FAULT_EVERY", 0.4)
    end_when(lambda picture: total(picture, "gaps") >= 1 and total(picture, "reconnects") >= 2)
    assert main(["demo", "--faults", "--seconds", "60", "--interval", "0.1"]) == 0
    out, errors = capsys.readouterr()
    assert "* the simulated binance leaves out an update" in errors
    assert "* the simulated huobi drops the connection" in errors
    gaps, reconnects = (sum(int(line.split()[at]) for line in out.splitlines()[-2:]) for at in (-3, -1))
    assert gaps >= 1 and reconnects >= 2


def test_watch_once_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "binance:BTC-USDT", "huobi:BTC-USDT", "--demo", "--once", "--json"]) == 0
    found = objects(capsys.readouterr().out)
    assert [(one["exchange"], one["symbol"]) for one in found] == [
        ("binance", "BTC-USDT"), ("huobi", "BTC-USDT")]
    for one in found:
        assert {"exchange", "symbol", "bid", "ask", "last", "last_update", "status"} <= set(one)
        assert one["status"] == "live" and 0 < one["bid"] < one["ask"]
        assert abs(one["last_update"] - time.time_ns()) < 60e9


def test_watch_goes_on_for_programs(end_when: Any, capsys: pytest.CaptureFixture[str]) -> None:
    stamps: set[int | None] = set()
    end_when(lambda picture: bool(stamps.add(picture.rows[0].last_update)) or len(stamps) > 3)
    assert main(["watch", "binance", "BTC-USDT", "--demo", "--json", "--interval", "0.1", "--seconds",
                 "60"]) == 0
    found = objects(capsys.readouterr().out)
    assert len(found) > 3
    seen = [one["last_update"] for one in found if one["last_update"] is not None]
    assert seen == sorted(seen) and len(set(seen)) > 2


def test_watch_with_an_address_and_options(serve: Callable[..., Any],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"])
    assert main(["watch", "binance", "BTC-USDT", "--url", sim.url, "--rest-url", sim.rest_url, "--channels",
                 "quotes", "-c", "ticker", "--once", "--json", "-o", "stale_after=5"]) == 0
    found, = objects(capsys.readouterr().out)
    assert found["bid"] and found["ask"]
    assert not sim.requests, "no book was asked for"


def test_watch_once_says_what_did_not_come(serve: Callable[..., Any],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"])
    sim.always(Fault.REFUSE)
    assert main(["watch", "binance", "BTC-USDT", "--url", sim.url, "--rest-url", sim.rest_url, "--once",
                 "--timeout", "0.5"]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    last = errors.splitlines()[-1]
    assert last.startswith("binance BTC-USDT: no data within 0.5 s: ") and "127.0.0.1" in last


def test_watch_once_does_not_wait_for_what_will_not_come(serve: Callable[..., Any],
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    sim = serve(HuobiSim, ["BTCUSDT"])
    began = time.monotonic()
    assert main(["watch", "huobi", "NOPE-USDT", "--url", sim.url, "--rest-url", sim.rest_url, "--once",
                 "--timeout", "60"]) == 1
    assert time.monotonic() - began < 30
    assert "huobi NOPE-USDT: no data: refused (" in capsys.readouterr().err


def test_watch_ends_when_every_stream_has_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with Sandbox() as sandbox:
        options = sandbox.options("alpaca")
        assert main(["watch", "alpaca", "AAPL", "--url", options["url"], "--rest-url", options["rest_url"],
                     "-o", "api_key=WRONG", "-o", "api_secret=WRONG"]) == 1
    out, errors = capsys.readouterr()
    assert "alpaca has given up: " in errors
    assert "WRONG" not in out + errors


def test_record_and_replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "feed.jsonl.gz"
    assert main(["record", "binance", "BTC-USDT", "DOGE-USDT", "huobi:ETH-USDT,DOGE-USDT", "alpaca:AAPL",
                 "--demo", "--seconds", "2", "--interval", "0.5", "--output", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and all(line.startswith(f"{path}: ") for line in lines)
    assert main(["replay", str(path)]) == 0
    listed = capsys.readouterr().out
    for exchange in ("binance", "huobi", "alpaca"):
        assert f"\nstreams-{exchange}-" in listed
    assert main(["replay", str(path), "binance:BTC-USDT", "huobi:ETH-USDT", "alpaca:AAPL", "--speed", "0",
                 "--once", "--json"]) == 0
    out, errors = capsys.readouterr()
    assert "next attempt" not in errors, "there is none after the end of a recording"
    assert "nobody asked for" not in errors, "it may hold more than what is rebuilt from it"
    found = objects(out)
    assert [one["exchange"] for one in found] == ["binance", "huobi", "alpaca"]
    for one in found:           # each from its own connections only
        assert one["bid"] < one["ask"] and one["malformed"] == one["gaps"] == 0
    assert main(["replay", str(path), "binance:BTC-USDT", "--speed", "20"]) == 0
    assert re.search(r"^binance-\d+ +stopped ", capsys.readouterr().out, re.MULTILINE)
    assert main(["replay", str(path), "binance:SOL-USDT", "--speed", "0", "--once"]) == 1
    errors = capsys.readouterr().err
    assert "binance SOL-USDT: no data: stopped (the recording has ended)\n" in errors


def test_an_existing_recording_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_text("precious")
    assert main(["record", "binance", "BTC-USDT", "--demo", "--seconds", "1", "--output", str(path)]) == 2
    assert "exists: record to a new file" in capsys.readouterr().err
    assert path.read_text() == "precious"


def test_venues(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["venues"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = {line.split()[0] for line in lines[1:] if line[0] != " "}
    assert names == {kind.venue.name for kind in EXCHANGES.values()}
    assert all(len(line) <= 150 for line in lines)
    assert main(["venues", "--json"]) == 0
    found = {one["name"]: one for one in objects(capsys.readouterr().out)}
    assert set(found) == names
    assert found["binance"]["keys"] == [] and "1m" in found["binance"]["bars"]
    assert found["alpaca"]["keys"][0] == "ALPACA_API_KEY or APCA_API_KEY_ID"


# -- how it ends ---------------------------------------------------------------------------------------


def test_when_it_is_time_to_end() -> None:
    with Ending(0.05) as ending:
        assert not ending.now and ending.left is not None
        assert ending.wait(10)
        assert ending.now and ending.left == 0 and ending.elapsed < 10
    with Ending() as ending:
        assert ending.left is None and not ending.wait(0.01)
        signal.raise_signal(signal.SIGTERM)
        assert ending.now and ending.signalled == signal.SIGTERM and ending.wait(10)
    handler = signal.getsignal(signal.SIGINT)
    with Ending() as ending:
        signal.raise_signal(signal.SIGINT)
        assert ending.now
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is handler


@posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("arguments", [["demo"], ["watch", "binance", "BTC-USDT", "--demo", "--json"]],
                         ids=["demo", "watch"])
def test_a_signal_ends_it_cleanly(arguments: list[str], number: signal.Signals) -> None:
    with running("-m", "streams", *arguments) as program:
        program.read_until("binance")
        program.signal(number)
        assert program.wait(10) == 0
    assert program.errors == ""


@posix
def test_a_reader_that_has_seen_enough_ends_it_cleanly() -> None:
    import subprocess
    from .processes import ROOT
    process = subprocess.Popen(
        [sys.executable, "-m", "streams", "watch", "binance", "BTC-USDT", "--demo", "--json", "--interval",
         "0.05"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stderr is not None
        assert b"binance" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(15) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def test_it_is_a_module_too() -> None:
    assert run("-m", "streams", "venues").lines[0].split()[:3] == ["name", "transport", "channels"]


def test_a_light_start() -> None:
    """Neither a venue nor the tables are imported for what does not need them."""
    code = ("import sys, streams.cli; streams.cli.build_parser(); "
            "print([name for name in ('rich', 'requests', 'streams.exchanges', 'streams.sim') "
            "if name in sys.modules])")
    assert run("-c", code).lines == ["[]"]


@posix
def test_on_a_terminal_it_uses_another_page_and_leaves_a_summary() -> None:
    pytest.importorskip("rich", reason="rich (the extra cli) is not installed")
    import pty
    import subprocess

    from .processes import ROOT
    parent, child = pty.openpty()
    set_size(child, 80, 24)
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, "-m", "streams", "demo", "--seconds", "3"], cwd=ROOT,
                               stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    seen = bytearray()
    resized = threading.Timer(1.2, set_size, (parent, 60, 12))
    resized.start()
    try:
        while chunk := read_some(parent):
            seen += chunk
        assert process.wait(15) == 0
    finally:
        resized.cancel()
        resized.join()
        process.kill()
        process.wait()
        os.close(parent)
    text = seen.decode()
    assert "\x1b[?1049h" in text and "\x1b[?25l" in text        # the other page, without a cursor
    before, _, after = text.rpartition("\x1b[?1049l")
    assert "BTC-USDT" in before and "huobi" in before and "live" in before
    assert "\x1b[?25h" in text
    assert "binance-1  live" in after and "BTC-USDT" not in after


def read_some(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:             # how Linux says that the other side has gone
        return b""


def set_size(terminal: int, width: int, height: int) -> None:
    import fcntl
    import struct
    import termios
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


def test_the_parser_knows_every_command() -> None:
    parser = build_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    assert set(commands.choices) >= {"demo", "watch", "record", "replay", "venues", "doctor"}
