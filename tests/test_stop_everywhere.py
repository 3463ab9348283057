"""stop() within a second over all transports but WebSockets, in every state without a conversation.

What can happen on an open connection is with each of them: ``tests/test_itch_stream.py``,
``tests/venues/test_redis.py``, ``tests/venues/test_longpoll.py``; for WebSockets all of it is in
``tests/test_stop.py``.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams.backoff import Backoff
from streams.exchanges import LongPollXml, NasdaqItch, Redis
from streams.stream import Stream

from .raw_peer import PATIENCE, RawPeer
from .tools import wait_until

KEYS = {"api_key": "user", "api_secret": "password"}
TLS = {"sslopt": {"cert_reqs": ssl.CERT_NONE}}
# scheme -> class, symbol, options
KINDS: dict[str, tuple[type[Stream], str, dict[str, Any]]] = {
    "tcp": (NasdaqItch, "AAPL", KEYS), "tls+tcp": (NasdaqItch, "AAPL", {**KEYS, **TLS}),
    "redis": (Redis, "A-B", {}), "rediss": (Redis, "A-B", TLS),
    "http": (LongPollXml, "A-B", {}), "https": (LongPollXml, "A-B", TLS),
}
Make = Callable[[int, str], Stream]


def resolving(make: Make, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> Stream:
    release, asked = threading.Event(), threading.Event()

    def stuck(*_: Any, **__: Any) -> Any:
        asked.set()
        release.wait(PATIENCE)
        raise socket.gaierror("gone")

    def let_go() -> None:
        release.set()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("streams-resolver-")])

    stack.callback(let_go)
    patch.setattr("socket.getaddrinfo", stuck)
    # Credentials go to loopback only, where they are not encrypted.
    stream = make(1, "localhost")
    assert asked.wait(PATIENCE)
    return stream


def connecting(make: Make, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> Stream:
    peer = stack.enter_context(RawPeer(backlog=0))
    peer.fill_backlog()
    stream = make(peer.port, "127.0.0.1")
    wait_until(lambda: stream.state == "connecting")
    return stream


def unanswered(make: Make, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> Stream:
    """Accepted, and then nothing: no TLS, no log-in, no answer."""
    peer = stack.enter_context(RawPeer())
    stream = make(peer.port, "127.0.0.1")
    peer.accept()
    return stream


def failing(make: Make, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> Stream:
    with RawPeer() as peer:
        port = peer.port
    stream = make(port, "127.0.0.1")
    wait_until(lambda: stream.state == "backoff")
    return stream


def paused(make: Make, stack: contextlib.ExitStack, patch: pytest.MonkeyPatch) -> Stream:
    stream = unanswered(make, stack, patch)
    stream.pause()
    wait_until(lambda: stream.state == "paused")
    return stream


@pytest.mark.parametrize("state", [resolving, connecting, unanswered, failing, paused],
                         ids=lambda state: state.__name__)
@pytest.mark.parametrize("scheme", KINDS)
def test_stop_within_a_second(scheme: str, state: Any, stack: contextlib.ExitStack,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    kind, symbol, options = KINDS[scheme]
    if kind is not NasdaqItch:
        pytest.importorskip("redis" if kind is Redis else "defusedxml", reason="its client is not installed")

    def make(port: int, host: str) -> Stream:
        stream = kind([symbol], ["trades"], url=f"{scheme}://{host}:{port}", connect_timeout=30.0,
                      backoff=Backoff(base=60.0, rand=lambda: 1.0), **options)
        stack.callback(stream.stop)
        stream.start()
        return stream

    stream = state(make, stack, monkeypatch)
    began = time.monotonic()
    assert stream.stop()
    assert time.monotonic() - began < 1.0
    assert not stream.is_alive() and stream.state == "stopped"
