"""WebSocket, on websocket-client's ``run_forever``, read in large blocks.

The library makes the handshake, reads everything unusual, frames and masks what is sent. Ours are the
socket (connected, encrypted and watched by :mod:`.sockets`), the loop (:mod:`.conversation`, as the
dispatcher's ``read``) and the cutting of plain frames from large blocks (:mod:`.blocks`). The library
gets its bytes from a stand-in for the socket (:mod:`.carrier`), so nothing in it ever blocks, waits or
opens a connection of its own.

What this needs of the library is little, and checked once at import (``MISFIT`` says what does not
fit). If it ever changes its shape, messages are read through its public ``recv_data_frame`` instead:
slower, with every promise of the transport kept.

The library's process-wide switches (``setdefaulttimeout``, ``enableTrace``), its pings, its
reconnecting and its proxies are never used.
"""

from __future__ import annotations

import inspect
import logging
import time
from typing import Any
from urllib.parse import urlsplit

import websocket

from ..errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from .base import Closed, Receiver, Target, Transport, check_headers
from .blocks import CLOSE, PING, PONG, TEXT, ProtocolError
from .carrier import Carrier, Dry, Over
from .conversation import Conversation
from .proxies import parse_proxy
from .sockets import Line, peer_name
from .tls import TlsCodec, check_sslopt, tls_context

__all__ = ["WebSocketTransport"]

log = logging.getLogger("streams.transports")

_OPTIONS = frozenset({"cookie", "origin", "subprotocols", "utf8"})


class WebSocketTransport(Transport):
    """One WebSocket conversation, to a ``ws://`` or ``wss://`` target.

    ``Target.options``:
     * ``subprotocols``: list of names offered in the handshake; the peer must choose one.
     * ``origin``: text of the ``Origin`` header; None sends none.
     * ``cookie``: text of the ``Cookie`` header.
     * ``utf8``: True: text messages must be UTF-8 (else the conversation fails with 1007, as RFC 6455
       asks) and are delivered as ``str``. By default they are delivered unchecked as ``bytes``: a
       decoder of JSON checks the text that it reads, though not that of fields which it skips.

    Raises:
        ConfigurationError: The target can not work as written.
        MissingDependency: A SOCKS proxy without ``python-socks``.
    """

    def __init__(self, target: Target, receiver: Receiver) -> None:
        super().__init__(target, receiver)
        self._host, self._port, self._secure = _check(target)
        self._name = peer_name(self._host, self._port)
        self._proxy = parse_proxy(target.proxy) if target.proxy else None
        self._line = Line()
        self._carrier = Carrier(self._line, self._name, target.send_timeout, _offered(target))
        self._conversation = Conversation(target, receiver, self._line, self._carrier, self._name)

    def run(self) -> Closed:
        error: TransportError | None
        try:
            error = Aborted("aborted") if self._line.aborted else self._run()
        except TransportError as failure:
            error = failure
        except (OSError, UnicodeError) as failure:  # a file of certificates, a host that is no name
            error = ConnectFailed(f"{self._name}: {failure}")
        finally:
            self._line.close()
        if self._line.aborted and error is not None:
            error = Aborted("aborted")
        return Closed(error, self._conversation.opened)

    def send(self, data: bytes | str) -> None:
        self._conversation.send(data)

    def ping(self) -> bool:
        self._conversation.ping()
        return True

    def close(self) -> None:
        self._conversation.close()

    def take_leisure(self, leisure: bool) -> None:
        self._line.leisure = leisure

    def wake(self) -> None:
        self._line.wake()

    def abort(self) -> None:
        self._line.abort()

    # -- connecting ------------------------------------------------------------------------------

    def _run(self) -> TransportError | None:
        target, line = self.target, self._line
        sslopt = target.sslopt or {}
        context = tls_context(sslopt) if self._secure else None
        line.open(self._host, self._port, target.connect_timeout, self._proxy)
        if context is not None:
            name = sslopt.get("server_hostname") or self._host
            line.start_tls(TlsCodec(context, name), target.connect_timeout)
        self._carrier.deadline = time.monotonic() + target.connect_timeout
        try:
            return self._converse_plainly() if MISFIT else self._converse()
        except Over as over:
            assert over.__cause__ is not None
            raise over.__cause__ from None

    def _converse(self) -> TransportError | None:
        """Through ``run_forever``, whose dispatcher's ``read`` is our loop."""
        app = _App(self.target, self._carrier, self._conversation)
        app.run_forever(skip_utf8_validation=True, **_origin(self.target))
        return app.verdict if app.failure is None else self._not_accepted(app.failure)

    def _converse_plainly(self) -> TransportError | None:
        """Without any hook into the library: its public ``WebSocket`` on our stand-in for a socket."""
        _warn_of_misfit(MISFIT)
        library = websocket.WebSocket(skip_utf8_validation=True)
        options = self.target.options
        try:
            library.connect(  # type: ignore[no-untyped-call]
                self.target.url, header=dict(self.target.headers), socket=self._carrier,
                subprotocols=options.get("subprotocols"), cookie=options.get("cookie"),
                **_origin(self.target),
            )
        except Exception as failure:
            return self._not_accepted(failure)
        return self._conversation.serve(_Library(library), plainly=True)

    def _not_accepted(self, failure: BaseException) -> TransportError:
        if not isinstance(failure, Exception):
            raise failure
        return ConnectFailed(f"{self._name} did not make a proper WebSocket handshake: {failure}")


class _Library:
    """websocket-client's ``WebSocket`` as a conversation needs it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        # It would answer every close frame with 1000, before anybody has looked at it.
        self._send_close, inner.send_close = inner.send_close, _say_nothing

    def read(self) -> tuple[int, bytes]:
        try:
            opcode, frame = self._inner.recv_data_frame(True)
        except websocket.WebSocketProtocolException as broken:
            raise ProtocolError(1002, str(broken)) from None
        except websocket.WebSocketException as error:
            raise ConnectionLost(str(error)) from None
        return opcode, bytes(frame.data)

    def read_frame(self) -> tuple[int, bytes] | None:
        try:
            return self.read()
        except Dry:
            gathered = self._inner.cont_frame.cont_data
            if isinstance(gathered[1], bytes):
                gathered[1] = bytearray(gathered[1])  # or each fragment would copy all before it
            return None

    def send(self, opcode: int, data: bytes | str) -> None:
        self._inner.send(data, opcode)

    def send_close(self, code: int) -> None:
        self._send_close(code)


class _App(websocket.WebSocketApp):
    """``run_forever`` with our loop in it."""

    def __init__(self, target: Target, carrier: Any, conversation: Conversation) -> None:
        super().__init__(
            target.url, header=dict(target.headers), socket=carrier,
            cookie=target.options.get("cookie"), subprotocols=target.options.get("subprotocols"),
        )
        self.on_error = self._keep
        self.conversation = conversation
        self.verdict: TransportError | None = None
        self.failure: BaseException | None = None

    def _keep(self, _: Any, error: BaseException) -> None:
        self.failure = error

    def create_dispatcher(
        self, ping_timeout: Any, dispatcher: Any = None, is_ssl: bool = False, handleDisconnect: Any = None
    ) -> Any:
        return _Dispatcher(self)


class _Dispatcher:
    """What ``run_forever`` hands its connection to."""

    def __init__(self, app: _App) -> None:
        self._app = app

    def read(self, sock: Any, read_callback: Any, check_callback: Any) -> None:
        inner: Any = self._app.sock
        try:
            self._app.verdict = self._app.conversation.serve(_Library(inner), plainly=False)
        except BaseException as error:  # a user's Ctrl-C, or a bug of ours: past the library's handlers
            raise Over from error
        finally:
            # Or the library would close it once more, which takes it up to three seconds.
            inner.connected = False

    def send(self, sock: Any, data: bytes | str) -> int:
        return int(sock.send(data))


def _check(target: Target) -> tuple[str, int, bool]:
    """Host, port and whether it is TLS; or a ``ConfigurationError``."""
    try:
        parts = urlsplit(target.url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("ws", "wss") or not host:
        raise ConfigurationError("a WebSocket url must be ws://host[:port]/... or wss://host[:port]/...")
    if parts.username is not None:
        raise ConfigurationError("a WebSocket url carries no user and password; use headers")
    for name in sorted(set(target.options) - _OPTIONS):
        known = ", ".join(sorted(_OPTIONS))
        raise ConfigurationError(f"unknown WebSocket option {name!r}; known are {known}")
    check_headers(target.headers)
    check_sslopt(target.sslopt)
    secure = parts.scheme == "wss"
    return host, port or (443 if secure else 80), secure


def _offered(target: Target) -> set[str]:
    """Subprotocols, in lower case as the library compares them; some write them into a header."""
    offered = list(target.options.get("subprotocols") or ())
    for name, value in target.headers.items():
        if name.strip().lower() == "sec-websocket-protocol":
            offered += value.split(",")
    return {name.strip().lower() for name in offered}


def _say_nothing(*_: Any) -> None:
    """In place of the library's ``send_close``."""


def _origin(target: Target) -> dict[str, Any]:
    origin = target.options.get("origin")
    return {"origin": origin, "suppress_origin": origin is None and "origin" in target.options}


def _misfit() -> str:
    """What of the hooks does not fit the installed library; empty when all is well."""
    try:
        dispatcher = list(inspect.signature(websocket.WebSocketApp.create_dispatcher).parameters)
        if dispatcher != ["self", "ping_timeout", "dispatcher", "is_ssl", "handleDisconnect"]:
            return "WebSocketApp.create_dispatcher takes other arguments"
        wanted = {"skip_utf8_validation", "origin", "suppress_origin"}
        if not wanted <= set(inspect.signature(websocket.WebSocketApp.run_forever).parameters):
            return "WebSocketApp.run_forever takes other arguments"
        return _misreading()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class _ProbeLine(Line):
    """Notes the first byte of each frame that the library sends."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[int] = []

    def send(self, data: bytes, timeout: float) -> None:
        self.sent.append(data[0])


def _misreading() -> str:
    """Fragments with a ping between them, one frame at a time: does the library keep its state?"""
    line = _ProbeLine()
    carrier = Carrier(line, "probe", 0.0)
    carrier.leave()
    inner: Any = websocket.WebSocket(skip_utf8_validation=True)
    inner.sock = carrier
    library = _Library(inner)
    seen: list[Any] = []
    for frame in (b"\x01\x01a", b"\x89\x01?", b"\x80\x01b", b"\x88\x02\x03\xe8"):
        carrier.put(frame)
        seen.append(library.read_frame())
    if seen != [None, (PING, b"?"), (TEXT, b"ab"), (CLOSE, b"\x03\xe8")]:
        return f"WebSocket.recv_data_frame gave {seen}"
    if line.sent != [0x80 | PONG]:
        return f"WebSocket.recv_data_frame sent frames {line.sent}"
    return ""


def _warn_of_misfit(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning("websocket-client %s is read the slow way: %s", websocket.__version__, reason)


_warned = False
MISFIT = _misfit()
