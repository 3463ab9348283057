"""``streams collect`` against a real Redis, and what a RemoteStore sees of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streams import RemoteStore

from .redis_server import redis_server

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


def test_mistakes_are_said_in_a_line():
    done = subprocess.run(
        [sys.executable, "-m", "streams", "collect", "binance", "BTC-USDT", "--publish", "http://x"],
        capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "redis[s]://" in done.stderr and "Traceback" not in done.stderr
