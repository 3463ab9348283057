"""Keys and secrets: asked for in one clear line, and kept out of every text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote, unquote_plus, urlsplit, urlunsplit

from .errors import ConfigurationError

__all__ = ["credential", "public_url", "scrubbed", "scrubber", "secret_headers", "secrets_of"]

LONGEST = 200       # characters of a venue's text that are passed on
SHORTEST = 4        # characters of a secret that is looked for; shorter ones are parts of other words

_SECRET = re.compile(
    "key|token|secret|sign|pass|pwd|auth|credential|session|nonce|user|login|account|cookie", re.I)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def credential(venue: str, argument: str, value: str | None, variables: Sequence[str]) -> str:
    """``value``, checked.

    Args:
        venue: Whose credential it is.
        argument: The keyword argument that gives it.
        variables: Environment variables that give it as well; only named here, never read.

    Raises:
        ConfigurationError: It is missing, or no header or frame can carry it. Never shows it.
    """
    if not value:
        raise ConfigurationError(
            f"{venue} needs {argument}=..., or the environment variable {' or '.join(variables)}")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            f"{venue}: {argument} must be text without white space, as the venue shows it")
    return value


def scrubbed(text: str, *secrets: str) -> str:
    """A venue's own words, bounded, and without the credentials that it may have repeated."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def scrubber(*secrets: str | None) -> Callable[[str], str]:
    """What takes these out of texts of unknown origin, such as what a peer repeats of a request, and makes
    one line of it that no terminal obeys: it goes into logs."""
    known = sorted({s for s in secrets if s and len(s) >= SHORTEST}, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in known:
            text = text.replace(secret, "***")
        return _CONTROL.sub(" ", text)
    return clean


def secrets_of(*urls: str) -> list[str]:
    """The passwords in addresses, and the values of parameters that look like credentials; each as it is
    written there, and as what it may be read as."""
    found = []
    for url in urls:
        parts = urlsplit(url)
        pairs = [pair.partition("=") for pair in parts.query.split("&")]
        values = [value for name, _, value in pairs if _SECRET.search(unquote(name))]
        if parts.password:
            values.append(parts.password)
        found += [read(value) for value in values if value for read in (str, unquote, unquote_plus)]
    return found


def secret_headers(headers: Mapping[str, str]) -> list[str]:
    """The values of headers that look like credentials; of ``Bearer ...`` the token as well."""
    values = [value for name, value in headers.items()
              if _SECRET.search(name) and name.lower() != "user-agent"]
    return [text for value in values for text in (value, value.rpartition(" ")[2])]


def public_url(url: str) -> str:
    """``url`` without user, password, fragment, and the values of parameters that look like credentials."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    query = "&".join([
        f"{name}=***" if equals and _SECRET.search(unquote(name)) else f"{name}{equals}{value}"
        for name, equals, value in (pair.partition("=") for pair in parts.query.split("&"))])
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))
