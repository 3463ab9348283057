"""The example of a source of one's own keeps working, and stays short."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest

from streams.venue import Malformed

from .tools import wait_until

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server():
    server = example("own_venue_server").start()
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def test_it_runs(server):
    host, port = server.server_address
    stream = example("own_venue").Acme(["ACME"], ["trades"], url=f"tcp://{host}:{port}")
    stream.start()
    try:
        wait_until(lambda: len(stream.store.trades.get("acme", {}).get("ACME", ())) >= 2)
        assert 99 <= stream.store.trades["acme"]["ACME"][0].price <= 101
        assert stream.status()["subscriptions"] and stream.status()["malformed"] == 0
    finally:
        assert stream.stop()


@pytest.mark.parametrize("raw", [
    b"", b"T", b"X" * 29, b"A" + b"\xff" * 8, struct.pack(">c8sqIq", b"T", b"\xff", 1, 1, 1)])
def test_nothing_makes_it_raise(raw):
    venue = example("own_venue").AcmeVenue()
    items = list(venue.receive(raw, 1))
    assert all(isinstance(event, Malformed) for _, event in items) or raw[:1] == b"A"


def test_it_is_short():
    assert len((EXAMPLES / "own_venue.py").read_text().splitlines()) < 60
