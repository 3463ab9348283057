"""Polygon's subscriptions: which answer belongs to which request.

Requests bear no number. Every accepted subscription is confirmed by name, in order; a refused one is
answered ``not authorized`` without a name; repeated ones get no answer at all.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..venue import Acked, Notice, Refused, Signal, Unsubscribed

__all__ = ["Requests", "said"]

LONGEST_FRAME = 16_000      # bytes of a request

_SUBSCRIBED = "subscribed to:"
_UNSUBSCRIBED = "unsubscribed to:"


class Requests:
    """What was asked for and is not confirmed.

    Plans allow or refuse a channel as a whole, or its wildcard; so each request asks for one kind of
    thing, and a refusal says something about everything in it.

    Args:
        spelled: Turns a topic as the vendor repeats it into our spelling.
    """

    def __init__(self, spelled: Callable[[str], str]) -> None:
        self._spelled = spelled
        self._asked: deque[dict[str, None]] = deque()

    def subscribe(self, topics: Sequence[str]) -> list[bytes | str]:
        """The frames that subscribe ``topics``, noted as asked."""
        frames: list[bytes | str] = []
        for part in _parts(topics):
            self._asked.append(dict.fromkeys(part))
            frames.append(_frame("subscribe", part))
        return frames

    def unsubscribe(self, topics: Sequence[str]) -> list[bytes | str]:
        """The frames that unsubscribe them."""
        for topic in topics:
            self._settle(topic)
        return [_frame("unsubscribe", part) for part in _parts(topics)]

    def confirmed(self, text: str) -> list[Signal]:
        """What a confirmation says; nothing when it is none."""
        if text.startswith(_UNSUBSCRIBED):
            return [Unsubscribed(self._topics(text[len(_UNSUBSCRIBED):]))]
        if not text.startswith(_SUBSCRIBED):
            return []
        topics = self._topics(text[len(_SUBSCRIBED):])
        for topic in topics:
            # Answers come in order: what was asked before and has no answer now will not get one.
            while any(topic in request for request in self._asked) and topic not in self._asked[0]:
                self._asked.popleft()
            self._settle(topic)
        return [Acked(topics)]

    def refused(self, reason: str) -> list[Signal]:
        """The vendor refused something: what is unconfirmed of the oldest request."""
        if not self._asked:
            return [Notice(reason)]
        return [Refused(list(self._asked.popleft()), reason)]

    def _topics(self, text: str) -> list[str]:
        return [self._spelled(topic) for topic in text.split(",") if topic.strip()]

    def _settle(self, topic: str) -> None:
        for request in self._asked:
            request.pop(topic, None)
        while self._asked and not self._asked[0]:
            self._asked.popleft()


def said(status: str, text: str, phrase: str) -> bool:
    """Whether the vendor said so, in the status (``not_authorized``) or in words."""
    return phrase in status.replace("_", " ").lower() or (status == "error" and phrase in text.lower())


def _parts(topics: Sequence[str]) -> Iterator[list[str]]:
    """``topics`` by channel, wildcards apart, in runs whose frames are short enough."""
    kinds: dict[tuple[str, bool], list[str]] = {}
    for topic in topics:
        channel, _, symbol = topic.partition(".")
        kinds.setdefault((channel, symbol == "*"), []).append(topic)
    for kind in kinds.values():
        part: list[str] = []
        length = 0
        for topic in kind:
            length += len(topic.encode()) + 1
            if part and length > LONGEST_FRAME:
                yield part
                part, length = [], len(topic.encode()) + 1
            part.append(topic)
        yield part


def _frame(action: str, topics: Sequence[str]) -> str:
    return json.dumps({"action": action, "params": ",".join(topics)}, ensure_ascii=False)
