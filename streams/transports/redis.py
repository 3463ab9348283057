"""Redis pub/sub: ``redis://`` and ``rediss://``.

redis-py logs in, chooses the database and writes commands, over our line, so nothing in it blocks or
retries; what the server then sends is cut from large blocks by :mod:`.resp`. The rest is as over any
TCP connection.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import ConnectFailed, ConnectionLost
from ..pubsub import Kind, pack
from ..redisclient import Plug, parse_url, redis_py, session_class
from .base import Receiver, Target
from .resp import PING, PushFraming
from .sockets import peer_name
from .tcp import TcpTransport

__all__ = ["RedisTransport"]


class RedisTransport(TcpTransport):
    """One subscriber's conversation with a Redis server.

    Messages are those of :mod:`streams.pubsub`, both ways. The first is ``HELLO``; or ``DENIED``, and the
    end, when the server does not let us in: then the channel part is ``login`` or ``database``.

    Target: ``url`` as in :func:`parse_url`. Credentials may be given as ``username`` and ``password`` in
    ``headers`` instead; those win.

    Raises:
        ConfigurationError: The target can not work.
        MissingDependency: redis-py is not installed, or python-socks for a SOCKS proxy.
    """

    def __init__(self, target: Target, receiver: Receiver) -> None:
        address = parse_url(target.url)
        session = session_class()
        carrier = "tls+tcp" if address.secure else "tcp"
        plain = f"{carrier}://{peer_name(address.host, address.port)}"
        super().__init__(replace(target, url=plain, options={"framing": "delimited"}), receiver)
        self.target = replace(target, url=address.public)
        self._session = session(
            self._plug, host=address.host, port=address.port, db=address.database,
            username=target.headers.get("username") or address.username,
            password=target.headers.get("password") or address.password)
        self._framing = PushFraming(target.max_message, self._encode, receiver.alive)
        self._greeting = pack(Kind.HELLO)

    def ping(self) -> bool:
        self.send(PING)
        return True

    def _encode(self, *words: str) -> bytes:
        return b"".join(self._session.pack_command(*words))

    def _plug(self) -> Plug:
        timeout = self.target.connect_timeout
        return Plug(self._line, timeout, within=timeout)

    def _connect(self) -> None:
        super()._connect()
        refusals = redis_py().exceptions
        try:
            self._session.connect()
            # Without a password redis-py asks nothing that a server must refuse to strangers.
            self._session.send_command("PING", check_health=False)
            self._session.read_response()
        except refusals.TimeoutError:
            raise ConnectFailed(f"{self._name} did not answer the log-in in time") from None
        except refusals.NoPermissionError:
            pass  # known, only not to ping
        except refusals.AuthenticationError as error:
            self._greeting = pack(Kind.DENIED, b"login", payload=str(error).encode())
        except refusals.ResponseError as error:
            self._greeting = pack(Kind.DENIED, b"database", payload=str(error).encode())
        except refusals.RedisError as error:
            raise ConnectFailed(f"{self._name}: {error}") from None

    def _read(self) -> None:
        self._tell(self.receiver.received, [self._greeting])
        if self._greeting[0] == Kind.DENIED:
            raise ConnectionLost(f"{self._name} did not let us in")
        super()._read()
