"""Keys and secrets: asked for in one clear line, and kept out of every text."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import ConfigurationError

__all__ = ["credential", "scrubbed"]

LONGEST = 200       # characters of a venue's text that are passed on


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
