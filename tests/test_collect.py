"""``streams collect`` against a real Redis, and what a RemoteStore sees of it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

import pytest

from streams import RemoteStore
from streams.cli import main
from streams.collector import Collector, owner

from .redis_server import redis_server
from .tools import wait_until

pytest.importorskip("redis", reason="redis-py is not installed")

__all__ = ["redis_server"]


def test_another_process_reads_what_is_collected(redis_server):
    command = [sys.executable, "-m", "streams", "collect", "binance", "BTC-USDT", "ETH-USDT", "--demo",
               "--channels", "book", "--publish", redis_server.url, "--prefix", "mine", "--name", "one",
               "--interval", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            with RemoteStore(redis_server.url, prefix="mine") as remote:
                remote.wait_ready(30.0, books=[("binance", "BTC-USDT"), ("binance", "ETH-USDT")])
                view = remote.orderbook("binance", "BTC-USDT")
                assert view["status"] == "live"
                assert view.best_bid is not None and view.best_ask is not None
                assert view.best_bid[0] < view.best_ask[0]
            for line in process.stdout:         # one every 0.2 s
                if line.startswith("one: 2 symbols, 1 collectors, ") and " 0 items" not in line:
                    break
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors


def test_it_fails_when_redis_was_never_there(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"redis://127.0.0.1:{taken.getsockname()[1]}"
    assert main(["collect", "binance", "BTC-USDT", "--demo", "--publish", nobody, "--seconds", "0.5"]) == 1
    out, errors = capsys.readouterr()
    assert out.splitlines()[-1].count(" 0 ") == 3           # symbols, collectors, items
    assert re.fullmatch("nothing was published: .+", errors.splitlines()[-1])


def test_it_does_not_fail_when_others_have_all_the_work(redis_server, capsys):
    # By rendezvous hashing the symbol is that one's; the other has nothing to do.
    busy, idle = sorted(("one", "two"), key=lambda name: owner(["one", "two"], "binance", "BTC-USDT") != name)
    with Collector(redis_server.url, {"binance": {"symbols": ["BTC-USDT"], "url": "ws://127.0.0.1:9"}},
                   name=busy) as other:
        wait_until(lambda: other.status()["members"], 30)
        assert main(["collect", "binance", "BTC-USDT", "--demo", "--publish", redis_server.url,
                     "--name", idle, "--seconds", "4"]) == 0
    out, errors = capsys.readouterr()
    assert out.splitlines()[-1] == f"{idle}: 0 symbols, 2 collectors, 0 items published"
    assert "nothing was published" not in errors


def test_mistakes_are_said_in_a_line():
    done = subprocess.run(
        [sys.executable, "-m", "streams", "collect", "binance", "BTC-USDT", "--publish", "http://x"],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "redis[s]://" in done.stderr and "Traceback" not in done.stderr
