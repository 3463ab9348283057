"""What an HTTP server says about how long, and when to come back."""

from __future__ import annotations

import email.utils
import re
import time
from datetime import timezone

__all__ = ["length_of", "retry_after_of"]

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_LATEST = 3600.0  # who asks for more is asked again then


def retry_after_of(value: str, date: str = "") -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3), an hour at most; None
    when it is empty, or makes no sense.

    Args:
        date: The ``Date`` header beside it: the server's own clock, where it tells it. Ours may be
            minutes off.
    """
    value = value.strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), _LATEST)
    then, here = _moment(value), _moment(date)
    if then is None:
        return None
    return min(max(0.0, then - (time.time() if here is None else here)), _LATEST)


def length_of(value: str) -> int:
    """Bytes that a ``Content-Length`` header announces; 0 when it is empty, or makes no sense."""
    return int(value) if _LENGTH.fullmatch(value) else 0


def _moment(text: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
