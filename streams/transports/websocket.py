"""WebSocket, on websocket-client's ``run_forever``, read in large blocks.

The library makes the handshake, reads everything unusual, frames and masks what is sent. Ours are the
socket (connected, encrypted and watched by :mod:`.sockets`), the loop (the dispatcher's ``read``) and
the cutting of plain frames from large blocks (:mod:`.blocks`). The library gets its bytes from a
stand-in for the socket, so nothing in it ever blocks, waits or opens a connection of its own.

What this needs of the library is little, and checked once at import (``MISFIT`` says what does not
fit). If it ever changes its shape, messages are read through its public ``recv_data_frame`` instead:
slower, with every promise of the transport kept.

The library's process-wide switches (``setdefaulttimeout``, ``enableTrace``), its pings, its
reconnecting and its proxies are never used.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

import websocket

from ..errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from .base import Closed, Receiver, Target, Transport
from .blocks import CLOSE, PING, PONG, BlockReader, PeerClosed, ProtocolError
from .carrier import Carrier, Dry, Over
from .proxies import parse_proxy
from .sockets import BLOCK, Line, peer_name
from .tls import TlsCodec, check_sslopt, tls_context

__all__ = ["WebSocketTransport"]

log = logging.getLogger("streams.transports")

_CLOSE_GRACE = 0.5  # seconds for the peer's part of a polite close
_FAIL_GRACE = 0.2  # seconds in which our reason for hanging up may reach the peer
_FULL = 16384  # a block this long means that more is there: read on before polling
_OPTIONS = frozenset({"cookie", "origin", "subprotocols", "utf8"})


class _Done(Exception):
    """Our own polite close is complete."""


class _ReceiverFailed(Exception):
    """A method of the receiver raised."""


class WebSocketTransport(Transport):
    """One WebSocket conversation, to a ``ws://`` or ``wss://`` target.

    ``Target.options``:
     * ``subprotocols``: list of names offered in the handshake; the peer must choose one.
     * ``origin``: text of the ``Origin`` header; None sends none.
     * ``cookie``: text of the ``Cookie`` header.
     * ``utf8``: True: text messages must be UTF-8 (else the conversation fails with 1007, as RFC 6455
       asks) and are delivered as ``str``. By default they are delivered unchecked as ``bytes``: the
       decoder of the JSON in them checks them anyway.

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
        self._carrier = Carrier(self._line, self._name, target.send_timeout)
        self._library: Any = None  # a websocket.WebSocket while there is somebody to send to
        self._send_close: Callable[[int], object] = _say_nothing
        self._opened = False
        self._closing: float | None = None  # when our polite close stops waiting for the peer's
        self._broken: TransportError | None = None  # a send failed; what has arrived is still read
        self._due = 0.0
        self._payloads = itertools.count(1)

    def run(self) -> Closed:
        error: TransportError | None
        try:
            error = Aborted("aborted") if self._line.aborted else self._run()
        except TransportError as failure:
            error = failure
        except (OSError, UnicodeError) as failure:  # a file of certificates, a host that is no name
            error = ConnectFailed(f"{self._name}: {failure}")
        finally:
            self._library = None
            self._line.close()
        if self._line.aborted and error is not None:
            error = Aborted("aborted")
        return Closed(error, self._opened)

    def send(self, data: bytes | str) -> None:
        text = isinstance(data, str)
        self._send(data, websocket.ABNF.OPCODE_TEXT if text else websocket.ABNF.OPCODE_BINARY)

    def ping(self) -> bool:
        self._send(b"streams-%d" % next(self._payloads), websocket.ABNF.OPCODE_PING)
        return True

    def close(self) -> None:
        if self._library is None or self._closing is not None:
            return
        self._closing = time.monotonic() + _CLOSE_GRACE
        self._line.attention = True
        self._say_goodbye(1000)

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
        app = _App(self.target, self._carrier, self._serve)
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
        return self._serve(library)

    def _not_accepted(self, failure: BaseException) -> TransportError:
        if not isinstance(failure, Exception):
            raise failure
        return ConnectFailed(f"{self._name} did not make a proper WebSocket handshake: {failure}")

    # -- the conversation ------------------------------------------------------------------------

    def _serve(self, library: Any) -> TransportError | None:
        """From the end of the handshake to the end of the conversation; how it ended."""
        self._library = library
        # The library would answer every close frame with 1000, before we have seen it.
        self._send_close, library.send_close = library.send_close, _say_nothing
        self._opened = True
        reader = BlockReader(
            self._deliver, self._unusual, self.target.max_message, bool(self.target.options.get("utf8")),
        )
        error: TransportError | None
        try:
            error = self._talk(library, reader)
        finally:
            library.connected = False  # or the library would close it once more, taking up to 3 s
        return None if self._closing is not None else error

    def _talk(self, library: Any, reader: BlockReader) -> TransportError | None:
        try:
            self._tell(self.receiver.opened)
            if MISFIT:
                self._read_plainly(library, reader)
            self._read(reader)
        except _Done:
            return None
        except PeerClosed as closed:
            return self._closed(closed)
        except ProtocolError as broken:
            return self._hang_up(broken.code, broken.reason)
        except websocket.WebSocketProtocolException as broken:
            return self._hang_up(1002, str(broken))
        except TransportError as error:
            return (error is self._broken and self._last_words(reader)) or error
        except (OSError, websocket.WebSocketException) as error:
            return ConnectionLost(f"{self._name}: {getattr(error, 'strerror', None) or error}")
        except _ReceiverFailed as failed:
            return TransportError(f"the receiver failed: {failed.__cause__!r}")

    def _read(self, reader: BlockReader) -> NoReturn:
        """The loop; it ends by what is raised."""
        line, feed, monotonic = self._line, reader.feed, time.monotonic
        receive, wait = line.receive, line.wait
        early = self._carrier.leave()
        if early:
            feed(early)
        self._due = 0.0
        more = False
        while True:
            now = monotonic()
            if now >= self._due or line.attention:
                self._look_around()
                if line.attention:
                    continue
                now = monotonic()
            if not more:
                wait(max(0.0, self._due - now))
            try:
                block = receive()
            except BlockingIOError:
                more = False
                continue
            if not block:
                raise self._eof()
            more = len(block) >= _FULL
            feed(block)

    def _look_around(self) -> None:
        """The end, if somebody wants it; else what is due."""
        line = self._line
        line.attention = False
        if line.aborted:
            raise Aborted("aborted")
        if self._broken is not None:
            raise self._broken
        now = time.monotonic()
        if self._closing is None:
            self._due = now + (self._tell(self.receiver.tick) or 0.0)
        elif now < self._closing:
            self._due = self._closing
        else:
            raise _Done

    def _unusual(self, frame: bytes) -> tuple[int, bytes] | None:
        """One whole control frame or fragment, through the library."""
        if self._closing is not None and frame[0] & 0xF != CLOSE:
            return None  # after our close frame only the peer's is of interest
        self._carrier.put(frame)
        try:
            opcode, done = self._library.recv_data_frame(True)
        except Dry:
            gathered = self._library.cont_frame.cont_data
            if isinstance(gathered[1], bytes):
                gathered[1] = bytearray(gathered[1])  # or each fragment would copy all before it
            return None
        payload = bytes(done.data)
        if opcode not in (CLOSE, PING, PONG):
            return opcode, payload
        self._control(opcode, payload)
        return None

    def _control(self, opcode: int, payload: bytes) -> None:
        """A control frame that the library has checked; it has answered a ping, but no close frame."""
        if opcode != CLOSE:
            self._tell(self.receiver.alive)
            return
        if self._closing is not None:
            raise _Done
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            raise ProtocolError(1007, "a close reason that is not UTF-8") from None
        code = int.from_bytes(payload[:2], "big") if payload else None
        self._say_goodbye(1000 if code is None else code)
        raise PeerClosed(code, reason)

    def _read_plainly(self, library: Any, reader: BlockReader) -> NoReturn:
        """The loop without hooks: the library pulls its bytes from us, we wait while it does."""
        self._carrier.pull = self._pull
        self._due = 0.0
        while True:
            opcode, frame = library.recv_data_frame(True)
            payload = bytes(frame.data)
            if opcode in (CLOSE, PING, PONG):
                self._control(opcode, payload)
            else:
                self._carrier.pulled = 0
                self._deliver([reader.message(opcode, payload)])

    def _pull(self) -> bytes:
        """The next block, however long it takes; what is due meanwhile is done."""
        line, limit = self._line, self.target.max_message
        if self._carrier.pulled > limit + BLOCK:
            raise ProtocolError(1009, f"a message of more than {limit} bytes, the limit")
        while True:
            now = time.monotonic()
            if now >= self._due or line.attention:
                self._look_around()
                if line.attention:
                    continue
                now = time.monotonic()
            try:
                block = line.receive()
            except BlockingIOError:
                line.wait(max(0.0, self._due - now))
                continue
            if not block:
                raise self._eof()
            return block

    # -- the receiver ----------------------------------------------------------------------------

    def _deliver(self, messages: Sequence[Any]) -> None:
        if self._closing is None:
            try:  # what _tell does, one call less for each block
                self.receiver.received(messages)
            except Exception as error:
                self._receiver_raised(error)

    def _tell(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            self._receiver_raised(error)
            return None

    def _receiver_raised(self, error: Exception) -> None:
        if isinstance(error, TransportError) and (self._broken is not None or self._closing is not None):
            return  # of its own send(): the end is under way
        log.error("%s: the receiver failed, so the connection ends", self._name, exc_info=error)
        raise _ReceiverFailed from error

    # -- sending and ending ----------------------------------------------------------------------

    def _send(self, data: bytes | str, opcode: int) -> None:
        if self._library is None or self._closing is not None:
            raise ConnectionLost(f"{self._name}: not connected")
        try:
            self._library.send(data, opcode)
        except TransportError as error:
            self._broken = error
            self._line.attention = True
            raise

    def _say_goodbye(self, code: int) -> None:
        if self._broken is not None:
            return  # perhaps in the middle of a frame
        self._carrier.send_timeout = min(_FAIL_GRACE, self.target.send_timeout)
        try:
            self._send_close(code)
        except TransportError:
            pass  # it is over anyway

    def _closed(self, closed: PeerClosed) -> TransportError:
        code = "without a code" if closed.code is None else f"with code {closed.code}"
        reason = f": {closed.reason}" if closed.reason else ""
        return ConnectionLost(f"{self._name} closed the connection {code}{reason}", closed.code)

    def _eof(self) -> TransportError:
        return ConnectionLost(f"{self._name} ended the connection without a close frame")

    def _last_words(self, reader: BlockReader) -> TransportError | None:
        """The close frame of a peer that takes nothing any more, if it sent one before."""
        deadline = time.monotonic() + _FAIL_GRACE
        try:
            while not MISFIT and time.monotonic() < deadline and (block := self._line.receive()):
                reader.feed(block)
        except PeerClosed as closed:
            return self._closed(closed)
        except (OSError, TransportError, ProtocolError, websocket.WebSocketException, _ReceiverFailed):
            pass  # that sending failed is the older error
        return None

    def _hang_up(self, code: int, reason: str) -> TransportError:
        """On a peer that broke the rules; it gets a moment to hear why."""
        try:
            self._tell(self.receiver.malformed, reason)
        except _ReceiverFailed:
            pass  # logged; the end is the same
        self._library = None
        self._say_goodbye(code)
        deadline = time.monotonic() + _FAIL_GRACE
        try:
            while self._line.receive_by(deadline) and time.monotonic() < deadline:
                pass  # closing with data unread would reset the connection, and lose our close frame
        except (OSError, TransportError):
            pass
        return ConnectionLost(f"{self._name} sent {reason}; closed with {code}")


class _App(websocket.WebSocketApp):
    """``run_forever`` with our loop in it."""

    def __init__(self, target: Target, carrier: Any, serve: Callable[[Any], TransportError | None]) -> None:
        super().__init__(
            target.url, header=dict(target.headers), socket=carrier,
            cookie=target.options.get("cookie"), subprotocols=target.options.get("subprotocols"),
        )
        self.on_error = self._keep
        self.serve = serve
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
        try:
            self._app.verdict = self._app.serve(self._app.sock)
        except BaseException as error:  # a user's Ctrl-C, or a bug of ours: past the library's handlers
            raise Over from error

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
    for name, value in target.headers.items():
        if any(mark in name + value for mark in "\r\n\0"):
            raise ConfigurationError(f"the header {name.strip()!r} has a line break in it")
    check_sslopt(target.sslopt)
    secure = parts.scheme == "wss"
    return host, port or (443 if secure else 80), secure


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
    library: Any = websocket.WebSocket(skip_utf8_validation=True)
    library.sock = carrier
    seen: list[Any] = []
    for frame in (b"\x01\x01a", b"\x89\x01?", b"\x80\x01b", b"\x88\x02\x03\xe8"):
        carrier.put(frame)
        try:
            opcode, done = library.recv_data_frame(True)
            seen.append((opcode, bytes(done.data)))
        except Dry:
            seen.append(list(library.cont_frame.cont_data))
            library.cont_frame.cont_data[1] = bytearray(library.cont_frame.cont_data[1])
    expected = [[1, b"a"], (PING, b"?"), (1, b"ab"), (CLOSE, b"\x03\xe8")]
    if seen != expected or line.sent != [0x8A, 0x88]:
        return f"WebSocket.recv_data_frame gave {seen}"
    return ""


def _warn_of_misfit(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        log.warning("websocket-client %s is read the slow way: %s", websocket.__version__, reason)


_warned = False
MISFIT = _misfit()
