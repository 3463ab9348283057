"""Where nobody waits for each single message, the transport may let some gather; else never."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest

from streams.sim import BinanceSim
from streams.stream import Stream
from streams.transports.websocket import WebSocketTransport

from .tools import wait_live, wait_until

Serve = Callable[..., Any]
Connect = Callable[..., Stream]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What the transport was told, the latest last."""
    said: list[bool] = []
    take = WebSocketTransport.take_leisure

    def listen(self: WebSocketTransport, leisure: bool) -> None:
        said.append(leisure)
        take(self, leisure)
    monkeypatch.setattr(WebSocketTransport, "take_leisure", listen)
    return said


def test_only_pollers_have_leisure(serve: Serve, connect: Connect, told: list[bool]) -> None:
    stream = connect(serve(BinanceSim, ["BTCUSDT"], rate=500.0))
    wait_until(lambda: told[-1:] == [True])

    @stream.on(r"binance\.book\..*", policy="conflate")
    def listener(_: Any) -> None:
        """What it does does not matter."""
    wait_until(lambda: told[-1] is False)
    stream.off(listener)
    wait_until(lambda: told[-1] is True)


def test_who_waits_hears_at_once(serve: Serve, connect: Connect, told: list[bool]) -> None:
    stream = connect(serve(BinanceSim, ["BTCUSDT"], rate=500.0))
    wait_live(stream)
    wait_until(lambda: told[-1:] == [True])
    over = Event()

    def wait() -> None:
        while not over.is_set():
            stream.store.wait(stream.store.last_update, 1.0)
    waiter = Thread(target=wait)
    waiter.start()
    try:
        wait_until(lambda: told[-1] is False)
    finally:
        over.set()
        waiter.join()
    wait_until(lambda: told[-1] is True)


def test_nothing_is_lost_at_leisure(serve: Serve, connect: Connect, told: list[bool]) -> None:
    sim = serve(BinanceSim, ["BTCUSDT", "ETHUSDT"], rate=2000.0)
    stream = connect(sim, ["BTC-USDT", "ETH-USDT"])
    wait_live(stream)
    wait_until(lambda: told[-1:] == [True] and stream.feed.counters.messages > 3000)
    status = stream.status()
    assert status["gaps"] == status["malformed"] == status["resyncs"] == 0
