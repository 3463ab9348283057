"""Alpaca's conversation: which answer belongs to which request, and what each error code means.

Requests bear no number. Every one gets one answer, in order: the FULL list of what is subscribed now,
or an error (https://docs.alpaca.markets/docs/streaming-market-data).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from ..errors import AuthenticationFailed, StreamsError, SubscriptionRefused
from ..venue import Acked, Failed, Notice, Reconnect, Refused, Reply, Signal, Unsubscribed

__all__ = ["Ledger", "judge"]

LONGEST_FRAME = 16_000      # bytes of a request; servers cut off at 32 KiB (from the vendor's SDK)

_SYMBOL_LIMIT = 405
# One topic of a request spoils all of it: malformed symbol, limit reached, no such channel, no wildcard.
_DIVIDE = frozenset({400, _SYMBOL_LIMIT, 410, 413})
_REFUSE = _DIVIDE | {412}
_FATAL: dict[int, type[StreamsError]] = {
    402: AuthenticationFailed,      # wrong key or secret
    408: SubscriptionRefused,       # no v2 (legacy)
    409: SubscriptionRefused,       # this feed is not in the plan
    411: AuthenticationFailed,      # the token's scope does not reach here
}
# Seconds to wait: 401 not (yet) authenticated, 404 authenticated too late, 500 internal error.
_PAUSE = {401: 1.0, 404: 1.0, 500: 5.0}
# The account's only connection is taken. By a session of ours that has just ended it is for a moment;
# by one that ended uncleanly for up to 90 s. Seconds to wait after the first such answer, the second, ...
_TAKEN = 406
_TAKEN_PAUSES = (1.0, 5.0, 15.0)


class _Request:
    """A request that is not answered yet.

    Attributes:
        topics: What it asks for.
        rest: What is to be asked for once it is answered: the other part of a divided request.
        enter: Subscribe, not unsubscribe.
    """

    __slots__ = ("topics", "rest", "enter")

    def __init__(self, topics: Sequence[str], rest: Sequence[str] = (), enter: bool = True) -> None:
        self.topics = list(topics)
        self.rest = list(rest)
        self.enter = enter


class Ledger:
    """What was asked for and is not answered, and what is subscribed.

    A refused request names no culprit, so it is divided until the culprits are found: a user who asks
    for 40 symbols under a limit of 30 gets 30.

    Args:
        frame: Makes the frame of an action and its topics.

    Attributes:
        turned_away: How often in a row, connection after connection, the account's place was taken.
    """

    def __init__(self, frame: Callable[[str, Sequence[str]], bytes | str]) -> None:
        self.turned_away = 0
        self._frame = frame
        self._asked: deque[_Request] = deque()
        self._live: set[str] = set()

    def subscribe(self, topics: Sequence[str]) -> list[bytes | str]:
        """The frames that subscribe ``topics``, noted as asked."""
        self._forget(topics)
        return [self._ask(_Request(part)) for part in _parts(topics)]

    def unsubscribe(self, topics: Sequence[str]) -> list[bytes | str]:
        """The frames that unsubscribe them, likewise."""
        self._forget(topics)
        return [self._ask(_Request(part, enter=False)) for part in _parts(topics)]

    def _forget(self, topics: Sequence[str]) -> None:
        """These are asked about anew: the rest of a divided request needs them no more."""
        anew = set(topics)
        for request in self._asked:
            request.rest = [topic for topic in request.rest if topic not in anew]

    def _ask(self, request: _Request) -> bytes | str:
        self._asked.append(request)
        return self._frame("subscribe" if request.enter else "unsubscribe", request.topics)

    def listed(self, current: set[str]) -> Iterator[Signal]:
        """The venue's list of all that is subscribed now."""
        request = self._asked.popleft() if self._asked else None
        if request is not None and request.enter:
            accepted = [topic for topic in request.topics if topic in current]
            left_out = [topic for topic in request.topics if topic not in current]
            self._live.update(accepted)
            if accepted:
                yield Acked(accepted)
            if left_out:
                # A list without any of them may be no answer to them at all.
                yield Refused(left_out, "not in the list of subscriptions that the venue confirmed",
                              transient=not accepted)
        elif request is not None:
            self._live.difference_update(request.topics)
            yield Unsubscribed([topic for topic in request.topics if topic not in current])
        lost = sorted(self._live - current)
        if lost:
            self._live.difference_update(lost)
            yield Refused(lost, "no longer in the venue's list of subscriptions", transient=True)
        if request is not None and request.rest:
            yield Reply(self._ask(_Request(request.rest)))

    def refused(self, code: int, reason: str) -> Iterator[Signal]:
        """The venue refused the oldest request with an error."""
        if not self._asked:
            yield Notice(reason)
            return
        request = self._asked.popleft()
        topics, rest = request.topics, request.rest
        if not request.enter:
            yield Notice(f"{reason} (unsubscribing {_some(topics)})")
        elif code in _DIVIDE and len(topics) > 1:
            half = len(topics) // 2
            topics, rest = topics[:half], topics[half:] + rest
            yield Reply(self._ask(_Request(topics, rest)))
            return
        else:
            if code == _SYMBOL_LIMIT:       # full: what is left of that channel need not be tried
                channel = topics[0].partition(":")[0] + ":"
                topics = topics + [topic for topic in rest if topic.startswith(channel)]
                rest = [topic for topic in rest if not topic.startswith(channel)]
            yield Refused(topics, f"{reason} ({_some(topics)})")
        if rest:
            yield Reply(self._ask(_Request(rest)))


def judge(ledger: Ledger, code: int, text: str) -> Iterable[Signal]:
    """What an error message means: every documented code is a decision.

    Args:
        ledger: Of the connection.
        code, text: What the venue said; the text scrubbed.
    """
    reason = f"alpaca {code}: {text}"
    if code in _FATAL:
        return [Failed(_FATAL[code](reason))]
    if code == _TAKEN:
        pause = _TAKEN_PAUSES[min(ledger.turned_away, len(_TAKEN_PAUSES) - 1)]
        ledger.turned_away += 1
        return [Reconnect(reason, after=pause, planned=False)]
    if code in _PAUSE:
        return [Reconnect(reason, after=_PAUSE[code], planned=False)]
    if code in _REFUSE:
        return list(ledger.refused(code, reason))
    return [Notice(reason)]     # 403 already authenticated, 407 slow client; the connection decides


def _parts(topics: Sequence[str]) -> Iterator[list[str]]:
    """``topics`` in runs whose frames are short enough."""
    part: list[str] = []
    length = 0
    for topic in topics:
        length += len(topic.encode()) + 8
        if part and length > LONGEST_FRAME:
            yield part
            part, length = [], len(topic.encode()) + 8
        part.append(topic)
    if part:
        yield part


def _some(topics: Sequence[str]) -> str:
    shown = ", ".join(topics[:5])
    return shown if len(topics) <= 5 else f"{shown} and {len(topics) - 5} more"
