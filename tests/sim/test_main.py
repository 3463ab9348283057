"""``python -m streams.sim`` in a process of its own."""
from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.sim.__main__ import build_parser, build_server, main
from streams.sim.simulation import MarketSim

from .client import Client, Refused, get
from .test_replay import event, write

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process, and the words of its first line."""
    command = [sys.executable, "-m", "streams.sim", *arguments]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            yield child, child.stdout.readline().split()
        finally:
            child.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_addresses_and_runs_until_a_signal(number: signal.Signals) -> None:
    with process("--exchange", "binance", "--symbols", "SOLUSDT", "--rate", "200",
                 "--levels", "50") as (child, words):
        name, url, rest_url = words
        assert (name, url[:15], rest_url[:17]) == ("binance", "ws://127.0.0.1:",
                                                   "http://127.0.0.1:")
        book = get(rest_url, "/api/v3/depth?symbol=SOLUSDT&limit=1000").value
        assert 40 <= len(book["bids"]) <= 50
        with Client(url, "/ws/solusdt@depth@100ms") as client:
            assert client.json()["s"] == "SOLUSDT"
            child.send_signal(number)
            assert child.wait(10) == 0
        assert child.stderr is not None and child.stderr.read() == ""


# SIGTERM strikes at the first line that is run while it waits, then at the second, and so on.
STRUCK_ANYWHERE = """
import signal, sys
from streams.sim import __main__ as sim

real, sim._LOOK = sim._wait, 0.01

def wait(*arguments):
    left = at

    def trace(frame, event, argument):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGTERM)
        return trace

    sys.settrace(trace)
    try:
        real(*arguments)
    finally:
        sys.settrace(None)

sim._wait = wait
for at in range(1, 16):
    print(f"{at}:", flush=True)
    assert sim.main(["--exchange", "binance", "--rate", "0", "--levels", "20"]) == 0
print("never in its own way")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_a_signal_at_any_moment_ends_it() -> None:
    done = subprocess.run([sys.executable, "-c", STRUCK_ANYWHERE], cwd=ROOT, text=True, timeout=60,
                          stdout=subprocess.PIPE)
    assert done.returncode == 0 and done.stdout.endswith("never in its own way\n"), done.stdout


def test_it_ends_by_itself() -> None:
    with process("--exchange", "binance-futures", "--seconds", "0.1") as (child, words):
        assert words[0] == "binance-futures"
        assert child.wait(10) == 0


def test_it_takes_faults() -> None:
    with process("--exchange", "htx", "--fault", "reject:status=503",
                 "--fault", "snapshot-500") as (_, words):
        assert words[0] == "huobi"
        with pytest.raises(Refused):
            Client(words[1])
        assert get(words[2], "/market/depth?symbol=btcusdt").status == 500


def test_it_serves_recordings(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl.gz", [("aaabtc@depth@100ms", event(1, 2))])
    with process("--replay", str(path), "--speed", "0") as (_, words):
        assert words[0] == "replay-binance"
        with Client(words[1], "/ws/aaabtc@depth") as client:
            assert client.json()["u"] == 2


@pytest.mark.parametrize("arguments, said", [
    ([], "--exchange is missing"), (["--exchange", "binance", "--fault", "x"], "no fault 'x'"),
    (["--exchange", "binance", "--symbols", "B"], "symbol 'B'"),
    (["--exchange", "binance", "--rate", "-1"], "rate -1"),
    (["--exchange", "binance", "--rate", "nan"], "rate nan"),
    (["--exchange", "binance", "--rate", "inf"], "rate inf"),
    (["--exchange", "binance", "--seconds", "nan"], "--seconds nan"),
    (["--exchange", "binance", "--seconds", "-1"], "--seconds -1"),
    (["--exchange", "binance", "--speed", "-1"], "--speed is for a recording"),
    (["--exchange", "binance", "--skip-every", "5"], "--skip-every is for a recording"),
    (["--replay", "/no/such/file", "--speed", "nan"], "speed nan"),
    (["--exchange", "huobi", "--fault", "tls_stall"], "ssl_context"),
    (["--replay", "/no/such/file"], "/no/such/file")])
def test_mistakes_are_one_line(arguments: list[str], said: str,
                               capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        assert main(arguments) == 2
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("exchange, kind", [
    ("binance", "BinanceSim"), ("binance-futures", "BinanceFuturesSim"), ("huobi", "HuobiSim"),
    ("htx", "HuobiSim")])
def test_every_venue_can_be_named(exchange: str, kind: str) -> None:
    options = build_parser().parse_args(["--exchange", exchange, "--seed", "7"])
    assert type(build_server(options)).__name__ == kind


@pytest.mark.parametrize("exchange, symbol, spelled", [
    ("binance", "BTC-USDT", "BTCUSDT"), ("binance", "BTCUSDT", "BTCUSDT"),
    ("binance-futures", "eth-usdt", "ETHUSDT"), ("htx", "BTC-USDT", "BTCUSDT"),
    ("kraken", "BTC-USD", "BTC/USD"), ("kraken", "BTC/USD", "BTC/USD"), ("alpaca", "BTC-USD", "BTC/USD"),
    ("alpaca", "AAPL", "AAPL"), ("polygon", "BTC-USD", "BTC-USD")])
def test_symbols_may_be_spelled_with_a_dash(exchange: str, symbol: str, spelled: str) -> None:
    options = build_parser().parse_args(["--exchange", exchange, "--symbols", symbol])
    server = build_server(options)
    assert isinstance(server, MarketSim)
    assert [one.upper() for one in server.market.symbols] == [spelled]
