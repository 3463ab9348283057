"""TLS as a codec: bytes in, bytes out, no socket.

The socket stays raw, so one read takes many records at once (an ``SSLSocket`` gives one record per
call, after two reads of the kernel), ``abort()`` stays a plain ``shutdown`` and no data hides in
``SSLSocket.pending()`` while somebody waits for the socket.
"""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigurationError, ConnectFailed

__all__ = ["TlsCodec", "check_sslopt", "tls_context"]

_OPTIONS = frozenset({
    "ca_certs", "cert_reqs", "check_hostname", "certfile", "keyfile", "password", "context",
    "server_hostname",
})
_RECORD = 16384  # one read of OpenSSL gives at most one record, and no record is longer


def check_sslopt(sslopt: Mapping[str, Any] | None) -> None:
    """Refuse unknown options.

    Raises:
        ConfigurationError: Some option is not known.
    """
    unknown = sorted(set(sslopt or ()) - _OPTIONS)
    if unknown:
        raise ConfigurationError(f"unknown sslopt {unknown[0]!r}; known are {', '.join(sorted(_OPTIONS))}")


def tls_context(sslopt: Mapping[str, Any] | None) -> ssl.SSLContext:
    """The context for ``Target.sslopt``: certificates and host names are checked unless it says otherwise.

    Raises:
        OSError: A file of certificates could not be read (``ssl.SSLError`` is an ``OSError``), or its
            password is missing or wrong.
    """
    options = dict(sslopt or {})
    options.pop("server_hostname", None)
    if options.get("context") is not None:
        context: ssl.SSLContext = options["context"]
        return context
    if not any(value is not None for value in options.values()):
        return _default_context()
    context = ssl.create_default_context(cafile=options.get("ca_certs"))
    reqs = options.get("cert_reqs")
    if options.get("check_hostname") is False or reqs == ssl.CERT_NONE:
        context.check_hostname = False
    if reqs is not None:
        context.verify_mode = ssl.VerifyMode(reqs)
    if options.get("certfile") is not None:
        password = options.get("password")
        context.load_cert_chain(
            options["certfile"], options.get("keyfile"), _no_password if password is None else password)
    return context


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, and nothing ends that.
    raise OSError("the key is encrypted: give its password, as sslopt['password']")


@functools.lru_cache(maxsize=1)
def _default_context() -> ssl.SSLContext:
    # Reading the system's certificates takes some 20 ms, too long for every reconnect.
    return ssl.create_default_context()


class TlsCodec:
    """One TLS session over two memory buffers. Threads: one.

    Raises:
        ConnectFailed: ``server_hostname`` can not be a name.

    Attributes:
        ended: Nothing more will come: the peer closed the session politely, or broke it.
        failure: How it broke it, right after data that came whole; else None.
    """

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        except ValueError as error:  # a UnicodeError, mostly
            raise ConnectFailed(f"TLS: {server_hostname!r} can not be a host's name: {error}") from None
        self.ended = False
        self.failure: ssl.SSLError | None = None

    def handshake(self, data: bytes = b"") -> bool:
        """One step with what has arrived; True once the session stands. ``outgoing()`` after each.

        Raises:
            ssl.SSLError: The peer, or its certificate, is not accepted.
        """
        if data:
            self._incoming.write(data)
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def outgoing(self) -> bytes:
        """What must be sent to the peer now; empty when nothing."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def decrypt(self, data: bytes) -> bytes:
        """All plain bytes that ``data`` completes; may be none.

        Raises:
            ssl.SSLError: The records are broken, and none was whole before.
        """
        incoming, session = self._incoming, self._session
        incoming.write(data)
        pieces = []
        try:
            while incoming.pending or session.pending():
                piece = session.read(_RECORD)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as failure:
            if not pieces:
                raise
            self.ended, self.failure = True, failure
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def encrypt(self, data: bytes) -> bytes:
        """The records that carry ``data``.

        Raises:
            ssl.SSLError: The session can not send (also when the peer has asked for a renegotiation).
        """
        view = memoryview(data)
        while view:
            view = view[self._session.write(view):]
        return self.outgoing()

    def goodbye(self) -> bytes:
        """The records that end the session politely."""
        try:
            self._session.unwrap()
        except ssl.SSLError:
            pass  # it wants the peer's answer, which nobody waits for
        return self.outgoing()
