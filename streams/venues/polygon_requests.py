"""Polygon's subscriptions: which answer belongs to which request.

Requests bear no number. Every accepted subscription is confirmed by name; a refused one is answered ``not
authorized`` without a name (nobody documents whether once per request or once per subscription);
a repeated one gets no answer at all. Requests are answered in order.

So that a refusal can be laid at the right door: plans have or lack a channel as a whole, or its
wildcard, therefore the first subscription of each is asked for alone, and its fate is that of the
others. Where that was not enough, what stayed unanswered is asked for one by one.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..venue import Acked, Notice, Refused, Reply, Signal, Unsubscribed

__all__ = ["Requests", "said"]

LONGEST_FRAME = 16_000      # bytes of a request

_SUBSCRIBED = "subscribed to:"
_UNSUBSCRIBED = "unsubscribed to:"

_Kind = tuple[str, bool]    # channel, and whether it is the wildcard


class _Request:
    """A request with something unanswered in it.

    Attributes:
        topics: What is unanswered.
        rest: What shares the fate of its only topic, and is asked for after it.
        due: Refusals that may still belong to it; None while there was none.
    """

    __slots__ = ("topics", "rest", "due")

    def __init__(self, topics: Iterable[str], rest: Iterable[str] = ()) -> None:
        self.topics = dict.fromkeys(topics)
        self.rest = dict.fromkeys(rest)
        self.due: int | None = None


class Requests:
    """What was asked for and is not confirmed.

    Args:
        spelled: Turns a topic as the vendor repeats it into our spelling.
    """

    def __init__(self, spelled: Callable[[str], str]) -> None:
        self._spelled = spelled
        self._asked: deque[_Request] = deque()
        self._tried: set[_Kind] = set()         # kinds of which one has been asked for alone
        self._suspects: set[str] = set()        # topics to be asked for alone

    def apart(self, topics: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those that may share a request, and those that are asked for alone."""
        alone = [topic for topic in topics if topic in self._suspects]
        return [topic for topic in topics if topic not in self._suspects], alone

    def subscribe(self, topics: Sequence[str]) -> list[bytes | str]:
        """The frames that subscribe ``topics``, noted as asked."""
        self._settle(topics)
        requests: list[_Request] = []
        for kind, names in _by_kind(topics).items():
            others, alone = self.apart(names)
            requests += [_Request([name]) for name in alone]
            if others and kind not in self._tried:
                self._tried.add(kind)
                requests.append(_Request(others[:1], others[1:]))
            elif others:
                requests += [_Request(part) for part in _parts(others)]
        return [self._ask(request) for request in requests]

    def _ask(self, request: _Request) -> str:
        self._asked.append(request)
        return _frame("subscribe", request.topics)

    def unsubscribe(self, topics: Sequence[str]) -> list[bytes | str]:
        """The frames that unsubscribe them."""
        self._settle(topics, keep=True)
        return [_frame("unsubscribe", part) for part in _parts(topics)]

    def confirmed(self, text: str) -> list[Signal]:
        """What a confirmation says; nothing when it is none."""
        if text.startswith(_UNSUBSCRIBED):
            return [Unsubscribed(self._topics(text[len(_UNSUBSCRIBED):]))]
        if not text.startswith(_SUBSCRIBED):
            return []
        topics = self._topics(text[len(_SUBSCRIBED):])
        signals: list[Signal] = [Acked(topics)]
        for topic in topics:
            # What was asked for before, and has no answer now, will not get one.
            while any(topic in request.topics for request in self._asked):
                request = self._asked[0]
                if topic in request.topics:
                    signals += [Reply(self._ask(_Request(part))) for part in _parts(list(request.rest))]
                    request.rest.clear()
                    break
                self._asked.popleft()
            self._suspects.discard(topic)
        self._settle(topics)
        return signals

    def refused(self, reason: str) -> list[Signal]:
        """The vendor refused something."""
        while self._asked:
            request = self._asked[0]
            if len(request.topics) == 1 and request.due is None:
                self._asked.popleft()
                topics = [*request.topics, *request.rest]
                self._suspects.difference_update(topics)
                return [Refused(topics, reason)]
            if request.due is None:
                self._suspects.update(request.topics)
                request.due = len(request.topics) - 1
                return [Notice(f"{reason}: one of {len(request.topics)} subscriptions; those that stay "
                               "unanswered are asked for one by one")]
            if request.due:
                request.due -= 1
                return []
            self._asked.popleft()
        return [Notice(reason)]

    def _topics(self, text: str) -> list[str]:
        return [self._spelled(topic) for topic in text.split(",") if topic.strip()]

    def _settle(self, topics: Iterable[str], keep: bool = False) -> None:
        """Nothing is unanswered about these any more; ``keep`` those whose fate others share."""
        for topic in topics:
            for request in self._asked:
                request.rest.pop(topic, None)
                if not (keep and request.rest):
                    request.topics.pop(topic, None)
        self._asked = deque(request for request in self._asked if request.topics)


def said(status: str, text: str, phrase: str) -> bool:
    """Whether the vendor said so, in the status (``not_authorized``) or in words."""
    return phrase in status.replace("_", " ").lower() or (status == "error" and phrase in text.lower())


def _by_kind(topics: Iterable[str]) -> dict[_Kind, list[str]]:
    kinds: dict[_Kind, list[str]] = {}
    for topic in topics:
        channel, _, symbol = topic.partition(".")
        kinds.setdefault((channel, symbol == "*"), []).append(topic)
    return kinds


def _parts(topics: Sequence[str]) -> Iterator[list[str]]:
    """``topics`` in runs whose frames are short enough."""
    part: list[str] = []
    length = 0
    for topic in topics:
        length += len(topic.encode()) + 1
        if part and length > LONGEST_FRAME:
            yield part
            part, length = [], len(topic.encode()) + 1
        part.append(topic)
    if part:
        yield part


def _frame(action: str, topics: Iterable[str]) -> str:
    return json.dumps({"action": action, "params": ",".join(topics)}, ensure_ascii=False)
