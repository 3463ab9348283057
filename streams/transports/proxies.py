"""Ways through a proxy, spoken over a line that is connected to it already.

So every wait stays the line's own: it ends at once on ``abort()``, and at the deadline.
This is the only importer of python-socks.
"""

from __future__ import annotations

import base64
import inspect
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError, ConnectFailed, MissingDependency

__all__ = ["Proxy", "parse_proxy", "pass_through"]

_HEAD_LIMIT = 65536


@dataclass(frozen=True)
class Proxy:
    """A proxy to go through. ``kind`` is ``http``, ``socks5`` or ``socks5h`` (the proxy resolves)."""

    kind: str
    host: str
    port: int
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"proxy {self.host}:{self.port}"


class Carrier(Protocol):
    """What is needed of the line to the proxy."""

    def send_by(self, data: bytes, deadline: float) -> None:
        """All of it, or ``TimeoutError``, ``OSError``, ``Aborted``."""

    def receive_exactly(self, most: int, deadline: float, flags: int = 0) -> bytes:
        """One to ``most`` bytes, or ``TimeoutError``, ``OSError``, ``Aborted``."""


def parse_proxy(url: str) -> Proxy:
    """``http://[user:pass@]host:port``, ``socks5://...`` or ``socks5h://...``.

    Raises:
        ConfigurationError: It is something else (its text is not repeated: it may hold a password).
        MissingDependency: A SOCKS proxy without ``python-socks``.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("http", "socks5", "socks5h"):
        raise ConfigurationError("proxy must be http://[user:pass@]host:port, socks5://... or socks5h://...")
    if parts.scheme != "http":
        _socks_client()
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Proxy(parts.scheme, host, port, user, password)


def pass_through(line: Carrier, proxy: Proxy, host: str, port: int, deadline: float) -> None:
    """Have the proxy at the other end of ``line`` connect to ``host``.

    Raises:
        ConnectFailed: The proxy says no.
        OSError: It did not answer (``TimeoutError``), or not in its protocol.
        Aborted: The line was aborted.
    """
    if proxy.kind == "http":
        _tunnel(line, proxy, f"[{host}]:{port}" if ":" in host else f"{host}:{port}", deadline)
        return
    client, kind, refused = _socks_client()
    socks = client(kind, proxy.host, proxy.port, proxy.user, proxy.password, rdns=True,
                   forward=_Forward(line, deadline))
    try:
        socks.connect(host, port)
    except refused as error:
        raise ConnectFailed(f"the {proxy.name} refused: {error}") from None
    except UnicodeError as error:
        raise ConnectFailed(f"{host!r} can not be a host's name: {error}") from None


def _tunnel(line: Carrier, proxy: Proxy, target: str, deadline: float) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.user is not None:
        token = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {token}")
    line.send_by("\r\n".join([*lines, "", ""]).encode(), deadline)
    status = _read_head(line.receive_exactly, deadline).split(b"\r\n", 1)[0].decode("latin-1")
    if not status.startswith("HTTP/1.") or status[9:10] != "2":
        raise ConnectFailed(f"the {proxy.name} refused: {status[:200]}")


def _read_head(receive: Callable[..., bytes], deadline: float) -> bytes:
    # Looked at before it is taken, so that not one byte of what the tunnel carries is lost.
    head = b""
    while len(head) < _HEAD_LIMIT:
        seen = receive(_HEAD_LIMIT, deadline, socket.MSG_PEEK)
        end = (head + seen).find(b"\r\n\r\n")
        take = len(seen) if end < 0 else end + 4 - len(head)
        head += receive(take, deadline)
        if end >= 0:
            return head
    raise OSError("its answer is too long")


def _socks_client() -> Any:
    try:
        from python_socks import ProxyError, ProxyType
        from python_socks.sync import Proxy as Client
    except ImportError:
        raise MissingDependency("python-socks", extra="socks") from None
    if "forward" not in inspect.signature(Client).parameters:
        raise MissingDependency("python-socks>=3.0", extra="socks")
    return Client, ProxyType.SOCKS5, ProxyError


class _Forward:
    """What python-socks takes for the way to its proxy: a line that is connected to it already.

    So python-socks speaks its protocol and opens, resolves and blocks nothing itself.
    """

    def __init__(self, line: Carrier, deadline: float) -> None:
        self._line = line
        self._deadline = deadline

    def connect(self, **_: Any) -> _Forward:
        return self

    def sendall(self, data: bytes) -> None:
        self._line.send_by(data, self._deadline)

    def recv(self, most: int) -> bytes:
        return self._line.receive_exactly(most, self._deadline)

    def close(self) -> None:
        """The line belongs to who opened it."""
