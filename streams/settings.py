"""Checking and completing what a user configures, before anything runs."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError
from .venue import Venue

__all__ = ["check_encrypted", "complete_keys", "names", "rest_address", "stream_address"]


def names(what: str, given: Sequence[str] | str) -> list[str]:
    """A list of names; one name alone is a list of one.

    Raises:
        ConfigurationError: Empty, or not names.
    """
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, (list, tuple, set, frozenset, dict)) or not items:
        raise ConfigurationError(f"{what}={given!r}: give a list of names, like {_EXAMPLES[what]}")
    for item in items:
        if not isinstance(item, str) or not item:
            raise ConfigurationError(f"{what}: {item!r} is no name; give text, like {_EXAMPLES[what]}")
    return list(dict.fromkeys(items))


_EXAMPLES = {"symbols": "['BTC-USDT']", "channels": "['book']"}


def stream_address(facts: Venue, url: str | None) -> str:
    """The address to connect to, without the venue's own path.

    Raises:
        ConfigurationError: Not an address of the venue's kind.
    """
    if url is None:
        if not facts.url:
            example = f"{_SCHEMES[facts.carrier][0]}://host:port"
            raise ConfigurationError(f"{facts.name} has no public address: give url={example!r}")
        return facts.url
    scheme = urlsplit(url).scheme
    kinds = _SCHEMES[facts.carrier]
    if scheme not in kinds or not (urlsplit(url).netloc or scheme == "replay"):
        raise ConfigurationError(f"url={url!r}: {facts.name} needs {kinds[0]}://host:port")
    return url.rstrip("/")


_SCHEMES = {
    "websocket": ("ws", "wss", "replay"), "tcp": ("tcp", "tls+tcp", "replay"),
    "redis": ("redis", "rediss", "replay"), "longpoll": ("http", "https", "replay"),
}


def rest_address(facts: Venue, rest_url: str | None) -> str:
    """The address of the venue's REST side.

    Raises:
        ConfigurationError: Not an HTTP address.
    """
    if rest_url is None:
        return facts.rest_url
    parts = urlsplit(rest_url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"rest_url={rest_url!r}: give it like https://host:port")
    return rest_url.rstrip("/")


def check_encrypted(address: str, venue: type[Venue], keys: bool) -> None:
    """Raises ConfigurationError when keys would travel in the clear to another machine."""
    parts = urlsplit(address)
    if keys and parts.scheme in ("ws", "http", "tcp") and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            f"{venue.name}: keys are not sent over {parts.scheme}:// to {parts.hostname};"
            f" only to loopback, else use an encrypted address")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def complete_keys(venue: type[Venue], settings: dict[str, Any]) -> None:
    """Take credentials that were not given from the venue's environment variables."""
    for name, variables in (("api_key", venue.key_env), ("api_secret", venue.secret_env)):
        if settings.get(name) is None:
            settings[name] = next((os.environ[v] for v in variables if os.environ.get(v)), None)
