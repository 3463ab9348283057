"""The streams of one exchange under a manager: which symbol is served by which of them.

One connection serves one endpoint, and no more topics than the venue allows; so an exchange needs as
many streams as its endpoints and limits ask for. New wishes go where there is room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .bells import Latch
from .errors import ConfigurationError
from .lifecycle import ENDED
from .rest import Rest
from .settings import check_encrypted, complete_keys, rest_address, routes_of
from .stream import Stream

__all__ = ["Group", "check_own"]

_Left = dict[str, tuple[str, ...]]      # symbols, with those of their channels that have no place yet


def _by_channels(left: _Left) -> list[tuple[tuple[str, ...], list[str]]]:
    """``(channels, symbols)``: symbols with the same channels together, those without any left out."""
    together: dict[tuple[str, ...], list[str]] = {}
    for symbol, channels in left.items():
        if channels:
            together.setdefault(channels, []).append(symbol)
    return list(together.items())


def check_own(options: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for options of a stream that are a manager's own business."""
    for name, instead in (("handlers", "its on()"), ("rest", "rest_url=... and rest_limit=...")):
        if name in options:
            raise ConfigurationError(f"{name}: a manager has its own for its streams; use {instead}")


class Group:
    """The streams of one exchange: as many as its endpoints and limits need. Wishes are only noted;
    :meth:`follow` has the streams act on them, and is for when no lock is held.

    Attributes:
        name: The venue's own name (aliases resolved).
        paused: Streams made from now on stay away, too.
        stopping: It has been stopped; none that is made after that runs on.
        streams: ``(endpoint, stream)``.
    """

    def __init__(self, kind: type[Stream], options: dict[str, Any], shared: dict[str, Any]) -> None:
        check_own(options)
        for name in shared.keys() & options.keys():
            raise ConfigurationError(f"{name} is one for all streams of a manager: StreamManager({name}=...)")
        self.kind = kind
        self.options = options
        self.streams: list[tuple[str, Stream]] = []
        self.channels: list[str] = []
        self.paused = self.stopping = False
        self.facts = kind.facts(options)
        self.name = self.facts.name
        address, proxy = rest_address(self.facts, options.get("rest_url")), options.get("proxy")
        settings = dict(options)
        complete_keys(kind.venue, settings)
        check_encrypted(address, kind.venue, settings, proxy)
        self.rest = Rest(
            self.name, address,
            options.get("rest_limit") or self.facts.limits.rest, headers=self.facts.rest_headers(),
            proxy=proxy, sslopt=options.get("sslopt"), metrics=shared["metrics"])
        if (options.get("url") or "").startswith("replay:") and options.get("rest_url") is None:
            self.rest.close("this is a replay, and REST would answer of today; give rest_url=...")
        self._settings = {**shared, **options, "rest": self.rest}

    @property
    def ended(self) -> bool:
        """Whether none of its streams runs any more: they failed, or came to an end (of a recording)."""
        return all(stream.state in ENDED for _, stream in self.streams)

    @property
    def last_words(self) -> str:
        """Why they have ended, for people."""
        return "; ".join(dict.fromkeys(
            f"{stream.state}: {error}" if (error := stream.lifecycle.last_error) else stream.state
            for _, stream in self.streams))

    def subscribe(self, symbols: Sequence[str], channels: Sequence[str]) -> None:
        """Place these on the streams there are, and on new ones where they have no room; all or none."""
        known = [route for _, stream in self.streams for route in stream.feed.subscriptions.routes()]
        routes_of(self.facts, known, symbols, channels)
        self.channels = self.channels or list(channels)
        by_endpoint: dict[str, list[str]] = {}
        for channel in channels:
            by_endpoint.setdefault(self.facts.endpoint(channel), []).append(channel)
        for endpoint, there in by_endpoint.items():
            # One that was stopped is among them: a signal handler did it just now, and nothing must start.
            here = [stream for known, stream in self.streams
                    if known == endpoint and stream.state != "failed"]
            left = dict.fromkeys(symbols, tuple(there))
            for place in (self._again, self._fill):
                for stream in here:
                    left = place(stream, left)
            for wanted, homeless in _by_channels(left):
                room = max(self.facts.limits.topics // self._weight(homeless[0], wanted), 1)
                for at in range(0, len(homeless), room):
                    self._open(endpoint, homeless[at:at + room], wanted)

    def check(self, symbols: Sequence[str], channels: Sequence[str]) -> None:
        """Raises ConfigurationError where :meth:`subscribe` would, without a stream that is kept."""
        routes_of(self.facts, (), symbols, channels)
        for channel in channels:                # alone, since others may be on other endpoints
            self.kind(symbols[:1], [channel], **self.options)

    def _open(self, endpoint: str, symbols: Sequence[str], channels: Sequence[str]) -> None:
        stream = self.kind(symbols, channels, **self._settings)
        if self.paused:
            stream.pause()
        self.streams.append((endpoint, stream))     # before it runs: it must be stopped, whatever happens
        stream.start()
        if self.stopping:       # by a signal handler, somewhere in here: it could not ask this one
            stream.ask_to_stop()

    @staticmethod
    def _again(stream: Stream, left: _Left) -> _Left:
        """Wish once more for what the stream has already. Returns the rest."""
        known = {symbol: tuple(c for c in channels if stream.feed.subscriptions.get(symbol, c))
                 for symbol, channels in left.items()}
        for channels, symbols in _by_channels(known):
            stream.want(symbols, channels)
        rest = {symbol: tuple(c for c in channels if c not in known[symbol])
                for symbol, channels in left.items()}
        return {symbol: channels for symbol, channels in rest.items() if channels}

    def _fill(self, stream: Stream, left: _Left) -> _Left:
        """Subscribe what there is room for. Returns the rest."""
        room, taken = self.facts.limits.topics - stream.feed.subscriptions.size(), {}
        for symbol, channels in left.items():
            weight = self._weight(symbol, channels)
            if weight <= room:
                room -= weight
                taken[symbol] = channels
        for channels, symbols in _by_channels(taken):
            stream.want(symbols, channels)
        return {symbol: channels for symbol, channels in left.items() if symbol not in taken}

    def ask_to_stop(self) -> list[tuple[Stream, Latch]]:
        """Have all streams end, for good; waits for nothing. Each, with what tells that it has ended."""
        self.stopping = True
        return [(stream, stream.ask_to_stop()) for _, stream in self.streams]

    def close(self) -> None:
        """Stop what was started before something went wrong."""
        for _, stream in self.streams:
            stream.stop()
        self.rest.close()

    def _weight(self, symbol: str, channels: Sequence[str]) -> int:
        native = self.facts.native(symbol)
        return len({topic for channel in channels for topic in self.facts.topics(channel, native)})

    def unsubscribe(self, symbols: Sequence[str], channels: Sequence[str] | None) -> None:
        """Take wishes back, wherever they are served; of all channels, when None."""
        for _, stream in self.streams:
            stream.unwant(symbols, channels)

    def follow(self) -> None:
        """Have all streams act on what is wanted by now."""
        for _, stream in list(self.streams):
            stream.follow()
