"""The market that is published on Redis: what it says, its oracle, and that nothing of it is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streams.sim import RedisSim

from ..redis_server import PATIENCE, needs_redis
from ..tools import wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def server_on_path() -> None:
    needs_redis()


def test_changes_follow_whole_books_and_make_the_true_ones() -> None:
    import redis
    with RedisSim(["BTC-USDT"], rate=0, whole_every=7) as sim, redis.Redis(port=sim.port) as client:
        with client.pubsub(ignore_subscribe_messages=True) as listener:
            listener.psubscribe("*.BTC-USDT")
            assert listener.get_message(timeout=PATIENCE) is None       # the subscription itself
            sim.advance(0)
            sim.advance(30)
            sides: dict[str, dict[float, float]] = {"bids": {}, "asks": {}}
            trades, wholes, last = 0, 0, 0
            while last < 30:
                message = listener.get_message(timeout=PATIENCE)
                record = json.loads(message["data"])
                if message["channel"] == b"trades.BTC-USDT":
                    trades += record["price"] > 0 and record["side"] in ("buy", "sell")
                    continue
                wholes += record["snapshot"]
                for side, levels in sides.items():
                    if record["snapshot"]:
                        assert not last or levels == dict(map(tuple, record[side]))     # nothing new
                        levels.clear()
                    levels.update(map(tuple, record[side]))
                    for price in [price for price, size in levels.items() if not size]:
                        del levels[price]
                last = record["sequence"]
                truth = sim.book("BTC-USDT", last or None)
                if last:
                    assert sides["bids"] == {float(p): float(s) for p, s in truth.bids}
                    assert sides["asks"] == {float(p): float(s) for p, s in truth.asks}
        assert wholes == 5 and trades > 0


def test_the_market_moves_by_itself_and_ends_at_once() -> None:
    sim = RedisSim(["BTC-USDT"], rate=200)
    sim.start()
    before = sim.book("BTC-USDT").sequence
    wait_until(lambda: sim.book("BTC-USDT").sequence > before + 10, PATIENCE)
    assert sim.stop()
    assert not answers(sim.port)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="suspends processes by signal")
def test_the_server_ends_with_a_keeper_that_hangs() -> None:
    sim = RedisSim(["BTC-USDT"], rate=0)
    sim.start()
    assert sim._keeper is not None
    os.kill(sim._keeper.pid, signal.SIGSTOP)
    assert not sim.stop(0.2)
    wait_until(lambda: not answers(sim.port), PATIENCE)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes by signal")
def test_the_server_ends_with_whoever_started_it_however_that_ends() -> None:
    code = ("import sys; from streams.sim import RedisSim; sim = RedisSim(); sim.start();"
            " print(sim.port, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        process.kill()
    wait_until(lambda: not answers(port), PATIENCE)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
        return True
    except OSError:
        return False


def test_without_a_server_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LookupError, match="no redis-server on PATH"):
        RedisSim()


def test_a_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: sys.executable)
    monkeypatch.setattr("streams.sim.redis._PATIENCE", 0.3)
    sim: Any = RedisSim()
    with pytest.raises(OSError, match="does not start"):
        sim.start()
