"""Checking and completing what a user configures, before anything runs."""

from __future__ import annotations

import difflib
import ipaddress
import os
import ssl
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import SplitResult, urlsplit

from .backoff import Backoff
from .checks import check_count, check_seconds
from .credentials import public_url, secret_headers
from .errors import ConfigurationError
from .handlers import Handlers
from .store import Store
from .transports.base import check_headers
from .transports.proxies import parse_proxy
from .transports.tls import check_sslopt, tls_context
from .venue import Route, Venue

__all__ = [
    "check_encrypted", "check_fits", "check_known", "check_options", "complete_keys", "rest_address",
    "routes_of", "stream_address"]


def routes_of(facts: Venue, known: Iterable[Route], symbols: Iterable[str],
              channels: Sequence[str]) -> list[Route]:
    """Routes for all of these, those among the ``known`` included.

    Raises:
        ConfigurationError: No such symbol or channel; or it is known by another spelling.
    """
    spelled = {(route.native, route.channel): route.symbol for route in known}
    routes = [facts.route(symbol, channel) for symbol in symbols for channel in channels]
    for route in routes:
        other = spelled.setdefault((route.native, route.channel), route.symbol)
        if other != route.symbol:
            raise ConfigurationError(
                f"{route.symbol} is subscribed already, as {other}; use one spelling")
    return routes


def check_fits(facts: Venue, routes: Sequence[Route]) -> None:
    """Raises ConfigurationError for more than one connection can carry."""
    if len({facts.endpoint(route.channel) for route in routes}) > 1:
        channels = ", ".join(sorted({route.channel for route in routes}))
        raise ConfigurationError(
            f"{facts.name} serves {channels} on different endpoints, and a stream has one connection:"
            f" use StreamManager.start({facts.name!r}, ...)")
    topics = {topic for route in routes for topic in route.topics}
    if len(topics) > facts.limits.topics:
        raise ConfigurationError(
            f"{len(topics)} subscriptions, and {facts.name} allows {facts.limits.topics} per connection:"
            f" use StreamManager.start({facts.name!r}, ...)")


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
    parts, kinds = _split("url", url), _SCHEMES[facts.carrier]
    if parts.scheme not in kinds or not (parts.netloc or parts.scheme == "replay"):
        raise ConfigurationError(f"url={public_url(url)!r}: {facts.name} needs {kinds[0]}://host:port")
    if parts.query and parts.scheme != "replay":
        raise ConfigurationError(f"url={public_url(url)!r}: it is scheme, host and port; nothing after a '?'")
    if facts.carrier == "websocket" and "@" in parts.netloc:
        raise ConfigurationError("url: a WebSocket address carries no user and password; use headers=")
    return url.rstrip("/")


def _split(what: str, url: str) -> SplitResult:
    """The parts of a URL. What can not be taken apart is not shown either: it may hold a password."""
    try:
        parts = urlsplit(url)
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise ConfigurationError(
            f"{what} is no address like scheme://host:port (in a password, %40 stands for @, and so on)"
        ) from None
    return parts


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
    parts = _split("rest_url", rest_url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query:
        raise ConfigurationError(f"rest_url={public_url(rest_url)!r}: give it like https://host:port")
    return rest_url.rstrip("/")


def check_known(venue: type[Venue], options: Iterable[str], general: Iterable[str]) -> None:
    """Raises ConfigurationError for a misspelt option, if it is clear what was meant; what else a venue
    does not know, it refuses itself. Likewise for a stream whose class names no venue."""
    if venue is Venue:
        raise ConfigurationError("a stream needs a venue: use Binance, ..., or a class that says venue = ...")
    if "self" in options:                       # Python would take it for something else
        raise ConfigurationError(f"{venue.name} has no option 'self'")
    for name in sorted(set(options) - set(venue.options)):
        near = difflib.get_close_matches(name, [*venue.options, *general], 1)
        if near:
            raise ConfigurationError(f"{venue.name} has no option {name!r}; did you mean {near[0]!r}?")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for options of a stream that can not be what they are; of those that
    are there only. Whether they fit the venue is asked elsewhere."""
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("number", float) not in (float, Decimal):
        raise ConfigurationError(f"number={given['number']!r}: it must be float or decimal.Decimal")
    if "depth" in given:
        check_count("depth", given["depth"], "levels")
    for name in ("stale_after", "connect_timeout"):
        if name in given:
            check_seconds(name, given[name])
    for name in ("url", "rest_url", "proxy", "api_key", "api_secret"):
        if not isinstance(given.get(name, ""), str):
            raise ConfigurationError(f"{name}: give text, not {type(given[name]).__name__}")
    for name, kind in _KINDS.items():
        if name in given and not isinstance(given[name], kind):
            raise ConfigurationError(f"{name}={given[name]!r}: give a {kind.__module__}.{kind.__name__}")
    if "rest_limit" in given:
        _check_limit(given["rest_limit"])
    _check_headers(given.get("headers", {}))
    if not isinstance(given.get("sslopt", {}), Mapping):
        raise ConfigurationError(f"sslopt={given['sslopt']!r}: give a dict, like {{'ca_certs': 'mine.pem'}}")
    for name, (methods, module) in _METHODS.items():
        if isinstance(given.get(name), type):
            raise ConfigurationError(f"{name}={given[name].__name__}: that is a class; give an object of it")
        if name in given and not all(hasattr(given[name], method) for method in methods):
            raise ConfigurationError(f"{name}={given[name]!r}: give one of {module}")
    if not getattr(given.get("recorder"), "writable", True):
        raise ConfigurationError(f"recorder={given['recorder']!r}: it is closed; give a new one")
    _check_way(given.get("proxy"), given.get("sslopt"))


_KINDS: dict[str, type] = {"store": Store, "handlers": Handlers, "backoff": Backoff}
# What may be of a class of the user's own: the methods by which to know it, and where ours are.
_METHODS = {
    "schedule": (("is_open", "next_change"), "streams.schedule"),
    "recorder": (("received",), "streams.record"),
    "metrics": (("inc", "set_gauge"), "streams.metrics"), "rest": (("fetch",), "streams.rest")}


def _check_limit(limit: Any) -> None:
    if not isinstance(limit, (tuple, list)) or len(limit) != 2:
        raise ConfigurationError(f"rest_limit={limit!r}: give (weight, seconds), like (6000, 60.0)")
    check_count("rest_limit", limit[0], "units of weight")
    check_seconds("rest_limit", limit[1])


def _check_headers(headers: Any) -> None:
    if not isinstance(headers, Mapping):
        raise ConfigurationError("headers: give a dict, like {'User-Agent': 'me'}")
    for name, value in headers.items():
        text = isinstance(name, str) and isinstance(value, str)
        if not text or any(mark in name + value for mark in "\r\n\0"):
            raise ConfigurationError(f"headers: the name and the value of {name!r} must be text of one line")
    check_headers(headers)


def _check_way(proxy: str | None, sslopt: Mapping[str, Any] | None) -> None:
    """Raises ConfigurationError for a proxy or TLS option that can not work."""
    if proxy is not None:
        parse_proxy(proxy)
    check_sslopt(sslopt)
    if sslopt:
        _check_tls(sslopt)


def _check_tls(sslopt: Mapping[str, Any]) -> None:
    """Files that are not there, and values of another kind, would only show when connecting: for ever."""
    for name, kind in (("context", ssl.SSLContext), ("server_hostname", str)):
        if not isinstance(sslopt.get(name), (kind, type(None))):
            raise ConfigurationError(f"sslopt {name}={sslopt[name]!r}: it must be of {kind.__name__}")
    try:
        tls_context(sslopt)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"sslopt can not work: {error}") from None


def check_encrypted(address: str, venue: type[Venue], settings: Mapping[str, Any], proxy: str | None,
                    headers: Mapping[str, str] | None = None) -> None:
    """Raises ConfigurationError when keys would travel in the clear to another machine; those among
    ``headers``, too."""
    parts = urlsplit(address)
    keys = (settings.get("api_key") or settings.get("api_secret") or parts.password
            or secret_headers(headers or {}))
    if not keys or parts.scheme not in ("ws", "http", "tcp"):
        return
    if not _is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            f"{venue.name}: keys are not sent over {parts.scheme}:// to {parts.hostname};"
            f" only to loopback, else use an encrypted address")
    through = urlsplit(proxy).hostname if proxy is not None else None
    if through is not None and not _is_loopback(through):
        raise ConfigurationError(
            f"{venue.name}: keys are not sent over {parts.scheme}:// through the proxy {through};"
            f" use an encrypted address")


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
