"""SoupBinTCP: the session under Nasdaq's TCP feeds. Pure: packets in, packets out.

Source: "SoupBinTCP, Version 3.00" (Nasdaq, 22 February 2017); 4.x adds one field to the login request.
A packet is a two-byte big-endian length (the transport's business, see :data:`FRAMING`), a type byte
and a payload. Text is padded with spaces: credentials on the right, session and numbers on the left.

====== ======================= ====================================================================
type   from the server         payload
====== ======================= ====================================================================
``A``  login accepted          session (10), number of the next sequenced packet (20)
``J``  login rejected          ``A`` not authorized, ``S`` session not available (1)
``S``  sequenced data          one message of the protocol above
``U``  unsequenced data        one message of the protocol above
``H``  server heartbeat        -- (sent after a second in which nothing else was)
``Z``  end of session          --
``+``  debug                   free text
====== ======================= ====================================================================

====== ======================= ====================================================================
type   from the client         payload
====== ======================= ====================================================================
``L``  login request           user (6), password (10), session (10, blank: the current one), number
                               of the next sequenced packet wanted (20, 0: the latest), and in 4.x the
                               milliseconds of silence after which the server may hang up (5)
``R``  client heartbeat        -- (due after a second in which nothing else was sent)
``O``  logout request          --
====== ======================= ====================================================================

Sequenced packets carry no number: both sides count them, from 1 at the beginning of a session. That
is what makes a session resumable: log in to the same session, ask for the next number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ConfigurationError

__all__ = [
    "ACCEPTED", "DEBUG", "END_OF_SESSION", "FRAMING", "HEARTBEAT", "LOGOUT", "REJECTED", "SEQUENCED",
    "SERVER_HEARTBEAT", "UNSEQUENCED", "VERSIONS", "Accepted", "Login", "read_accepted",
]

FRAMING: Mapping[str, Any] = {"framing": "length", "width": 2, "byteorder": "big"}
VERSIONS = ("3.00", "4.1")
HEARTBEAT = b"R"
LOGOUT = b"O"
ACCEPTED, REJECTED, SEQUENCED, UNSEQUENCED, SERVER_HEARTBEAT, END_OF_SESSION, DEBUG = b"AJSUHZ+"

_PATIENCE = 15_000  # milliseconds; what servers without the field typically grant


class Accepted(NamedTuple):
    """The session that was logged in to, and the number of the first packet that will come."""

    session: str
    number: int


class Login:
    """Credentials, checked, as the wire wants them.

    Args:
        user: At most 6 characters.
        password: At most 10 characters.
        version: One of :data:`VERSIONS`.

    Raises:
        ConfigurationError: Something is missing, too long or no ASCII. Neither is ever repeated.
    """

    def __init__(self, user: str | None, password: str | None, version: str) -> None:
        if version not in VERSIONS:
            raise ConfigurationError(f"soup must be one of {', '.join(VERSIONS)}, not {version!r}")
        self._user = _field("api_key (the SoupBinTCP user name)", user, 6)
        self._password = _field("api_secret (the SoupBinTCP password)", password, 10)
        self._tail = f"{_PATIENCE:>5}".encode() if version.startswith("4") else b""

    def __repr__(self) -> str:
        return "<Login>"

    def request(self, session: str, number: int) -> bytes:
        """The packet that logs in to ``session`` ("": the current one) and asks for ``number`` next."""
        return b"".join((
            b"L", self._user, self._password, f"{session:>10}{number:>20}".encode(), self._tail))


def _field(what: str, value: str | None, width: int) -> bytes:
    if not value:
        raise ConfigurationError(f"nasdaq-itch needs {what}")
    if not value.isascii() or len(value) > width:
        raise ConfigurationError(f"{what} must be ASCII, at most {width} characters")
    return value.ljust(width).encode()


def read_accepted(packet: bytes) -> Accepted:
    """What a login accepted packet says.

    Raises:
        ValueError: It is none.
    """
    if len(packet) != 31:
        raise ValueError(f"login accepted: {len(packet)} bytes instead of 31")
    number = int(packet[11:])
    if number < 1:
        raise ValueError(f"login accepted: number {number}")
    return Accepted(packet[1:11].decode("ascii").strip(), number)
