"""Whether an argument can be what it stands for; if not, one line says at the call what would be right.

Knows nothing of what is configured with it, so everything may use it.
"""

from __future__ import annotations

import difflib
import inspect
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from .errors import ConfigurationError

__all__ = ["check_count", "check_keywords", "check_name", "check_positive", "check_seconds", "check_timeout",
           "names"]

# Seconds, some weeks at least. Half of what a lock can wait: what is left of it until a deadline is rounded.
FOR_EVER = threading.TIMEOUT_MAX / 2


def names(what: str, given: Collection[str] | str) -> list[str]:
    """A list of names, from any collection of them; one name alone is a list of one.

    Raises:
        ConfigurationError: Empty, or not names.
    """
    items = [given] if isinstance(given, str) else given
    if not isinstance(items, Collection) or not len(items):
        raise ConfigurationError(f"{what}={given!r}: give a list of names, like {_EXAMPLES[what]}")
    for item in items:
        if not isinstance(item, str) or not item:
            raise ConfigurationError(f"{what}: {item!r} is no name; give text, like {_EXAMPLES[what]}")
    return list(dict.fromkeys(items))


_EXAMPLES = {"symbols": "['BTC-USDT']", "channels": "['book']", "exchanges": "['binance']"}


def check_seconds(name: str, value: Any) -> None:
    """Raises ConfigurationError unless it is a number of seconds above 0."""
    check_positive(name, value, "seconds")


def check_positive(name: str, value: Any, what: str) -> None:
    """Raises ConfigurationError unless it is a number above 0; ``what`` of."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ConfigurationError(f"{name}={value!r}: it must be more than 0 {what}")


def check_timeout(timeout: Any, name: str = "timeout") -> float:
    """Raises ConfigurationError unless it is a number of seconds; below 0 it is a time that is over.

    Returns:
        It, or what is as good as for ever, where a lock could not wait so long.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout != timeout:
        raise ConfigurationError(f"{name}={timeout!r}: give a number of seconds")
    return min(timeout, FOR_EVER)


def check_count(name: str, value: Any, what: str) -> None:
    """Raises ConfigurationError unless it is a whole number, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name}={value!r}: it must be a number of {what}, at least 1")


def check_keywords(function: Callable[..., object], options: Any, what: str) -> None:
    """Raises ConfigurationError unless they are a mapping of keyword-only arguments of ``function``."""
    known = [name for name, parameter in inspect.signature(function).parameters.items()
             if parameter.kind is parameter.KEYWORD_ONLY]
    if not isinstance(options, Mapping):
        raise ConfigurationError(f"{what}: {options!r}; give a dict of: {', '.join(known)}")
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise ConfigurationError(f"{what} has no option {name!r}; {hint}")


def check_name(what: str, value: Any, example: str) -> None:
    """Raises ConfigurationError unless it is text, and some of it."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what}={value!r}: give text, like {example!r}")
