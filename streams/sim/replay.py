"""The replay server: a recording, served to clients as if the venue were there.

Frames are kept in lanes, one per symbol and kind of data. A lane moves only while somebody is
subscribed to it, from its first frame on, and all lanes that move are merged in the order of the
recording: whoever subscribes late, or on another connection, still gets everything.

A book that is built from updates needs a snapshot in the right place. The frames recorded before
a symbol's snapshot are sent, then all lanes of the symbol wait until the client has asked for it.
From there on the server applies every update itself, so that any later request is answered with
the true book at that point. An update that is left out on purpose is applied all the same, and
with the update after it, which reveals the gap, the symbol waits again for a request.
"""
from __future__ import annotations

import logging
import os
import ssl
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from .recording import Item, Recording
from .replay_binance import BinanceDialect
from .replay_dialect import Dialect, Frame, Truth
from .replay_huobi import HuobiDialect
from .trouble import Outgoing
from .venue import VenueServer, Wire
from .web import Request, Response

logger = logging.getLogger("streams.sim")

_BATCH = 16                 # frames between two flushes at full speed
_HIGH_WATER = 1 << 18       # bytes that may wait for a client before the replay waits for it
_EARLY = 2.0                # seconds that a request for a snapshot waits for its place


class Gap(NamedTuple):
    """An update that was left out.

    Attributes:
        sequence: its last update id.
    """

    symbol: str
    sequence: int


class _Lane:
    """The frames of one symbol and kind, and who wants them."""

    def __init__(self, key: str, symbol: str, is_book: bool) -> None:
        self.key = key
        self.symbol = symbol
        self.is_book = is_book
        self.frames: list[tuple[int, int, bytes]] = []      # place in the recording, time, data
        self.position = 0
        self.topics: tuple[str, ...] = ()
        self.wanted = False         # somebody has ever subscribed


class _Symbol:
    """The book of one symbol, and whether its lanes have to wait."""

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.snapshots: list[tuple[int, bytes]] = []        # place in the recording, body
        self.served = False
        self.held_since: float | None = None
        self.reveals_gap = False


class ReplaySim(VenueServer):
    """Serves a recording of Binance (spot, US, TR, USD-M, COIN-M) or Huobi.

    Args:
        path: a file, or several that follow each other.
        exchange: ``binance``, ``binance-futures`` or ``huobi``; None: what the file says.
        speed: 1.0 is the recorded speed, 10.0 ten times that; 0: as fast as clients read.
        skip_every: leave out every n-th book update of each symbol; 0: none.
        hold_timeout: seconds that a symbol waits for a snapshot to be asked for.
        autostart: False holds everything until `play` is called.
        port, ssl_context, send_limit: see `LoopbackServer`.

    Attributes:
        done: set when every lane that was ever subscribed has been sent to its end.
        total_frames: data frames in the recording.
        sent_frames: how many of them were sent so far.
        sent: the same by lane (``ethusdt@depth``, ``market.btcusdt.depth.step0``).
        gaps: the updates that were left out and revealed by a later one.
        symbols: what the recording has, as the venue writes it in streams.

    Raises:
        ValueError: a file in no known layout, or of a venue that cannot be replayed.
    """

    def __init__(self, path: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *,
                 exchange: str | None = None, speed: float = 0.0, skip_every: int = 0,
                 hold_timeout: float = 30.0, autostart: bool = True, port: int = 0,
                 ssl_context: ssl.SSLContext | None = None, send_limit: int = 16 << 20) -> None:
        if not speed >= 0:
            raise ValueError(f"speed {speed}: expected a factor above 0, or 0 for full speed")
        if skip_every < 0 or skip_every == 1:
            raise ValueError(f"skip_every {skip_every}: expected 2 or more, or 0 for none")
        recording = Recording(path)
        self.dialect = _dialect(exchange or recording.exchange, recording.items)
        self.name = f"replay-{self.dialect.exchange}"
        super().__init__(port=port, ssl_context=ssl_context, send_limit=send_limit)
        self.speed = speed
        self.skip_every = skip_every
        self.hold_timeout = hold_timeout
        self.done = threading.Event()
        self.total_frames = 0
        self.sent_frames = 0
        self.sent: Counter[str] = Counter()
        self.gaps: list[Gap] = []
        self._lanes: dict[str, _Lane] = {}
        self._symbols: dict[str, _Symbol] = {}
        self._by_symbol: dict[str, list[_Lane]] = defaultdict(list)
        self._answers: dict[str, bytes] = {}
        self._stirred = threading.Event()
        self._playing = autostart
        self._engine: threading.Thread | None = None
        self._begun: tuple[float, int] | None = None
        self._load(recording.items)
        self.symbols = tuple(sorted(self._by_symbol))

    # -- loading --------------------------------------------------------------------------------

    def _load(self, items: list[Item]) -> None:
        snapshots: list[tuple[int, Item]] = []
        for place, item in enumerate(items):
            if item.is_rest:
                url = urlsplit(item.url)
                if not item.url or url.path.endswith("/depth"):
                    snapshots.append((place, item))
                else:
                    self._answers.setdefault(url.path, item.data)
                continue
            frame = self.dialect.parse(item.data)
            if frame is not None:
                self._lane_for(frame).frames.append((place, item.time, frame.payload))
                self.total_frames += 1
        for place, item in snapshots:
            asked = parse_qs(urlsplit(item.url).query).get("symbol")
            # a bare snapshot does not name its symbol: such files have one
            symbol = asked[0].lower() if asked else next(iter(self._by_symbol), "")
            if symbol in self._symbols:
                self._symbols[symbol].snapshots.append((place, item.data))

    def _lane_for(self, frame: Frame) -> _Lane:
        lane = self._lanes.get(frame.lane)
        if lane is None:
            lane = self._lanes[frame.lane] = _Lane(frame.lane, frame.symbol, frame.is_book)
            self._by_symbol[frame.symbol].append(lane)
            truth = self.dialect.truth() if frame.is_book else None
            if truth is not None:
                self._symbols[frame.symbol] = _Symbol(truth)
        return lane

    # -- life -----------------------------------------------------------------------------------

    def make_wire(self) -> Wire:
        """The venue's control language."""
        return self.dialect.wire(self)

    def start(self) -> None:
        """Listen, and replay to whoever subscribes."""
        was_stopped = self.stopping.is_set()
        super().start()
        if was_stopped:
            self._engine = threading.Thread(target=self._run, name=f"sim-{self.name}-engine",
                                            daemon=True)
            self._engine.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Stop the replay, close everything."""
        deadline = time.monotonic() + timeout
        self.stopping.set()
        self._stirred.set()
        gone = super().stop(timeout)
        engine = self._engine
        if engine is not None and engine is not threading.current_thread():
            engine.join(max(0.0, deadline - time.monotonic()))
            gone = gone and not engine.is_alive()
        return gone

    def play(self) -> None:
        """Begin, after ``autostart=False``. Threads: any."""
        self._playing = True
        self._stirred.set()

    # -- the engine -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not self.stopping.is_set():
            self._stirred.clear()
            with self.publishing:
                pause = self._send_some() if self._playing else None
                self.flush()
            if pause != 0.0:
                self._stirred.wait(pause)
            elif self.publishing.waiting:
                self.stopping.wait(0.0005)

    def _send_some(self) -> float | None:
        """Send a few frames; answers how long to wait then: None until something happens."""
        for _ in range(_BATCH):
            lane = self._next_lane()
            if lane is None:
                return self._idle()
            place, moment, payload = lane.frames[lane.position]
            early = self._early(moment)
            if early > 0:
                return early
            if any(conn.peer.pending > _HIGH_WATER for conn in self.connections):
                return 0.001
            self._send(lane, payload)
        return 0.0

    def _next_lane(self) -> _Lane | None:
        """Of the lanes that may move, the one whose frame was recorded first."""
        best = None
        for lane in self._lanes.values():
            if not lane.topics or lane.position >= len(lane.frames):
                continue
            if not any(self.subscribers(topic) for topic in lane.topics):
                continue
            if self._is_held(lane.symbol):
                continue
            if best is None or lane.frames[lane.position][0] < best.frames[best.position][0]:
                best = lane
        return best

    def _early(self, moment: int) -> float:
        if not self.speed:
            return 0.0
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, moment
        begun, first = self._begun
        return begun + (moment - first) / 1e9 / self.speed - now

    def _idle(self) -> float | None:
        wanted = [lane for lane in self._lanes.values() if lane.wanted]
        if wanted and all(lane.position >= len(lane.frames) for lane in wanted):
            if not self.done.is_set():
                self.flush()
                self.done.set()
                self.notify()
            return None
        held = [symbol.held_since for symbol in self._symbols.values()
                if symbol.held_since is not None]
        if not held:
            return None
        return max(0.01, min(held) + self.hold_timeout - time.monotonic())

    def _send(self, lane: _Lane, payload: bytes) -> None:
        lane.position += 1
        symbol = self._symbols.get(lane.symbol) if lane.is_book else None
        if symbol is not None and symbol.truth.is_known:
            symbol.truth.apply(payload)
        if lane.is_book and self.skip_every and lane.position % self.skip_every == 0:
            if symbol is not None and lane.position < len(lane.frames):
                symbol.reveals_gap = True
                self.gaps.append(Gap(lane.symbol, symbol.truth.last_id(payload)))
            return
        for topic in lane.topics:
            def render(variant: tuple[object, ...], topic: str = topic) -> Outgoing:
                return self.dialect.message(topic, payload, variant)
            self.publish(topic, lane.symbol, render, lane.is_book)
        self.sent_frames += 1
        self.sent[lane.key] += 1
        if symbol is not None:
            self._hold_if_due(lane, symbol)

    # -- waiting for snapshots ------------------------------------------------------------------

    def _hold_if_due(self, lane: _Lane, symbol: _Symbol) -> None:
        first_due = (not symbol.served and symbol.snapshots
                     and (lane.position == len(lane.frames)
                          or lane.frames[lane.position][0] > symbol.snapshots[0][0]))
        if first_due or symbol.reveals_gap and symbol.served:
            symbol.reveals_gap = False
            symbol.held_since = time.monotonic()
            self.flush()
            self.notify()

    def _is_held(self, name: str) -> bool:
        symbol = self._symbols.get(name)
        if symbol is None or symbol.held_since is None:
            return False
        if time.monotonic() - symbol.held_since < self.hold_timeout:
            return True
        logger.warning("%s: nobody asked for the snapshot of %s within %.1f s; going on without",
                       self.name, name, self.hold_timeout)
        symbol.held_since = None
        symbol.served = True
        return False

    def wants_snapshot(self, request: Request) -> bool:
        """Any path that ends in ``/depth``."""
        return request.path.endswith("/depth")

    def snapshot(self, request: Request, updates_ago: int) -> Response:
        """The recorded snapshot if it is due, else the true book at this point."""
        name = request.query.get("symbol", "").lower()
        symbol = self._symbols.get(name)
        if symbol is None or not symbol.snapshots:
            return self.dialect.no_symbol()
        book = next(lane for lane in self._by_symbol[name] if lane.is_book)
        if not symbol.truth.is_known:
            self.wait_for(lambda: self._may_serve(book, symbol), _EARLY)
        limit = request.query.get("limit", "")
        with self.publishing:
            truth = symbol.truth
            if updates_ago or not truth.is_known:
                truth = self._rebuild(book, symbol, updates_ago)
            if not updates_ago:
                symbol.truth = truth
                symbol.held_since = None
                symbol.served = True
            body = truth.body(int(limit) if limit.isdigit() else None)
        self._stirred.set()
        return Response(200, body)

    def _may_serve(self, book: _Lane, symbol: _Symbol) -> bool:
        """The place of the snapshot is reached, or will not be for lack of subscribers."""
        return (symbol.held_since is not None or symbol.truth.is_known
                or self.stopping.is_set() or not book.topics)

    def _rebuild(self, book: _Lane, symbol: _Symbol, updates_ago: int) -> Truth:
        truth = self.dialect.truth()
        assert truth is not None
        truth.begin(symbol.snapshots[0][1])
        for _, _, payload in book.frames[:max(0, book.position - updates_ago)]:
            truth.apply(payload)
        return truth

    # -- clients --------------------------------------------------------------------------------

    def topic_added(self, topic: str) -> None:
        """Let the lane of a topic move."""
        lane = self._lanes.get(self.dialect.lane_of(topic))
        if lane is None:
            return
        lane.topics = tuple(known for known in lane.topics if self.subscribers(known)
                            and known != topic) + (topic,)
        lane.wanted = True
        if lane.position < len(lane.frames):
            self.done.clear()
        self._stirred.set()

    def position(self, topic: str) -> int:
        """The update id that the replay of a symbol has come to; 0 if it is not known."""
        lane = self._lanes.get(self.dialect.lane_of(topic))
        symbol = self._symbols.get(lane.symbol) if lane is not None else None
        return symbol.truth.sequence if symbol is not None else 0

    def rest(self, request: Request) -> Response:
        """What was recorded for this path, or what can be said without."""
        if request.path in self._answers:
            return Response(200, self._answers[request.path])
        return self.dialect.rest(request, self.symbols)

    def clear_faults(self) -> None:
        """See `VenueServer.clear_faults`."""
        super().clear_faults()
        self._stirred.set()


def _dialect(exchange: str, items: list[Item]) -> Dialect:
    if not exchange:                # hftbacktest's files do not say
        chained = any(b'"pu":' in item.data[:400] for item in items[:200])
        exchange = "binance-futures" if chained else "binance"
    if exchange in ("binance", "binance-futures"):
        return BinanceDialect(exchange)
    if exchange in ("huobi", "htx"):
        return HuobiDialect()
    raise ValueError(f"exchange {exchange!r} cannot be replayed; "
                     "there are: binance, binance-futures, huobi")
