"""What a consolidated tape makes of a moving market: trades, quotes, bars, halts, corrections.

The `Market` moves the books; the `Tape` is told of every update and answers with events. Events
are all that the stock venues render, so what a client was told can be held against what is kept
here. Within a symbol every event has its own nanosecond.
"""
from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from .bars import Bars
from .market import Instrument, Touch, Update
from .market import Trade as Print
from .tape_events import (Bands, BookChange, Bar, Cancel, Correction, Event, Imbalance, Quote, Status,
                          Story, Trade, Value)

_EXCHANGES = "QVPZD"            # of stocks; D is off-exchange
_UNITS = (1, 1, 1_000, 1_000_000)       # ns that times are whole multiples of
_ROUND_LOT = 100
_CRYPTO_IDS = 3_447_222_699_101_865_000     # beyond what a double holds
_HALT = ("H", "Trading Halt", "T12", "Trading Halted; For Information Requested by the Venue")
_RESUME = ("T", "Trading Resumption", "C11", "Trade Halt Concluded; Quotation Resumed")


@dataclass(frozen=True)
class Listing(Instrument):
    """What is traded, and its kind: stock, option, crypto, forex, index or future."""

    kind: str = "stock"


class _Line:
    """What the tape keeps of one symbol."""

    def __init__(self, listing: Listing, seed: int, kept: int, midpoints: bool) -> None:
        self.listing = listing
        self.symbol = listing.symbol
        self.kind = listing.kind
        self.random = random.Random(f"{seed}/{listing.symbol}/tape")
        self.time = 0
        self.halted = False
        self.midpoints = midpoints and listing.kind == "crypto"
        self.trades: deque[Trade] = deque(maxlen=kept)
        self.quotes: deque[Quote] = deque(maxlen=kept)
        self.bars = Bars(listing.symbol)
        self.last_bars: dict[str, Bar] = {}
        self.ids: dict[str, int] = {}

    def moment(self, now: int) -> int:
        """The time of the next event: later than all before, often on a round unit."""
        unit = self.random.choice(_UNITS)
        rounded = now // unit * unit
        self.time = rounded if rounded > self.time else max(now, self.time + 1)
        return self.time

    def next_id(self, exchange: str) -> int:
        """Ids count within an exchange: the same one comes again on another."""
        first = _CRYPTO_IDS if self.kind == "crypto" else 0
        self.ids[exchange] = self.ids.get(exchange, first) + 1
        return self.ids[exchange]

    def new_trade(self, moment: int, price: Decimal, size: Decimal, buyer: bool) -> Trade:
        exchange = self.random.choice(_EXCHANGES) if self.kind in ("stock", "option") else "V"
        conditions: list[str] = []
        if self.kind == "stock":
            if self.random.random() < 0.2:
                conditions.append("sweep")
            if size < _ROUND_LOT:
                conditions.append("odd_lot")
        return Trade(self.symbol, moment, self.next_id(exchange), price, size, exchange, buyer,
                     tuple(conditions))


class Tape:
    """Trades, quotes and bars of all symbols, and the oracle of what is true about them.

    Args:
        listings: the symbols.
        seed: the same seed and market make the same tape.
        kept: how many trades and quotes of each symbol are kept.
        midpoints: bars of crypto also follow the middle of the quotes, without volume.

    Threads: any; a lock is held by each method.
    """

    def __init__(self, listings: Iterable[Listing], seed: int = 1, kept: int = 10_000,
                 midpoints: bool = False) -> None:
        self._lock = threading.RLock()
        self._lines = {item.symbol: _Line(item, seed, kept, midpoints) for item in listings}
        self._stories: deque[Story] = deque(maxlen=1000)
        self._story_id = 39_358_670

    # -- asking -----------------------------------------------------------------------------------

    def kind(self, symbol: str) -> str:
        """Its kind; LookupError for an unknown symbol. Threads: any."""
        return self._line(symbol).kind

    def last_trade(self, symbol: str, ago: int = 0) -> Trade:
        """The last trade that stands, or the one ``ago`` trades before it.

        Threads: any.

        Raises:
            LookupError: an unknown symbol, or no such trade is kept.
        """
        with self._lock:
            return self._line(symbol).trades[-1 - ago]

    def last_quote(self, symbol: str, ago: int = 0) -> Quote:
        """Best bid and ask, now or ``ago`` quotes before. Threads and errors: as `last_trade`."""
        with self._lock:
            return self._line(symbol).quotes[-1 - ago]

    def last_bar(self, symbol: str, interval: str = "1m") -> Bar:
        """The last bar that was sent. Threads and errors: as `last_trade`."""
        with self._lock:
            return self._line(symbol).last_bars[interval]

    def trades(self, symbol: str) -> list[Trade]:
        """The trades that stand, oldest first: corrected ones as corrected, cancelled ones gone.

        Threads: any.
        """
        with self._lock:
            return list(self._line(symbol).trades)

    def halted(self, symbol: str) -> bool:
        """Whether trading is halted. Threads: any."""
        return self._line(symbol).halted

    def stories(self) -> list[Story]:
        """The last news. Threads: any."""
        with self._lock:
            return list(self._stories)

    def day(self, symbol: str) -> tuple[Bar | None, Bar | None]:
        """The bars of this day so far and of the day before, as far as there are. Threads: any."""
        with self._lock:
            bars = self._line(symbol).bars
            return bars.day_bar(), bars.day_before

    def _line(self, symbol: str) -> _Line:
        try:
            return self._lines[symbol.upper()]
        except KeyError:
            raise LookupError(f"no symbol {symbol!r}; there are: {', '.join(self._lines)}") from None

    # -- what the market does -----------------------------------------------------------------------

    def take(self, update: Update) -> list[Event]:
        """The events of one update of the market. Threads: any."""
        with self._lock:
            line = self._lines[update.symbol]
            events = self._roll(line, update.time)
            if line.kind == "crypto":
                events.append(_book_change(line, update))
            if not line.halted:
                events += self._prints(line, update)
            return events

    def _prints(self, line: _Line, update: Update) -> Iterator[Event]:
        if line.kind not in ("index", "forex"):
            for done in update.trades:
                yield from self._add(line, self._print(line, update, done))
        for touch in update.touches:
            yield self._quote(line, update.time, touch)
        if not update.touches:
            return
        quote = line.quotes[-1]
        middle = (quote.bid + quote.ask) / 2
        if line.kind == "index":
            yield Value(line.symbol, line.moment(update.time), middle, False)
            line.bars.add(line.time, middle, Decimal(0), 0)
        elif line.kind == "forex":
            line.bars.add(line.time, quote.bid, Decimal(1), 1)
        elif line.midpoints:
            line.bars.add(line.time, middle, Decimal(0), 0)
        if line.kind != "index" and line.random.random() < 0.1:
            yield Value(line.symbol, line.moment(update.time), middle, True)
        if line.kind == "stock":
            yield from self._rarities(line, update.time)

    def _print(self, line: _Line, update: Update, done: Print) -> Trade:
        listing = line.listing
        price = done.tick * listing.tick
        if line.kind == "stock" and update.touches and line.random.random() < 0.1:
            touch = update.touches[0]           # off the grid: at the middle of the quote
            price = (touch.bid + touch.ask) * listing.tick / 2
        return line.new_trade(line.moment(update.time), price, done.lots * listing.lot,
                              not done.seller_aggressed)

    def _quote(self, line: _Line, now: int, touch: Touch) -> Quote:
        listing = line.listing
        lot = listing.lot * _ROUND_LOT if line.kind == "stock" else listing.lot
        exchanges = _EXCHANGES[:4] if line.kind in ("stock", "option") else "V"
        quote = Quote(line.symbol, line.moment(now), touch.bid * listing.tick, touch.bid_lots * lot,
                      line.random.choice(exchanges), touch.ask * listing.tick,
                      touch.ask_lots * lot, line.random.choice(exchanges))
        line.quotes.append(quote)
        return quote

    def _rarities(self, line: _Line, now: int) -> list[Event]:
        chance = line.random.random()
        if chance < 0.01 and len(line.trades) > 5:
            return self.correct(line.symbol, now)
        if chance < 0.02 and len(line.trades) > 5:
            return self.cancel(line.symbol, now)
        if chance < 0.04:
            return self.bands(line.symbol, now)
        if chance < 0.05:
            return self.imbalance(line.symbol, now)
        return []

    def _add(self, line: _Line, trade: Trade) -> list[Event]:
        """A trade is made; late ones change a bar that was sent."""
        line.trades.append(trade)
        revised = line.bars.add(trade.time, trade.price, trade.size, 1, trade)
        return [trade, *self._sent(line, revised)]

    def _roll(self, line: _Line, now: int) -> list[Event]:
        return self._sent(line, line.bars.roll(now))

    @staticmethod
    def _sent(line: _Line, bars: Iterable[Bar]) -> list[Event]:
        found: list[Event] = []
        for bar in bars:
            line.last_bars[bar.interval] = bar
            found.append(bar)
        return found

    # -- what somebody makes happen -----------------------------------------------------------------

    def roll(self, now: int) -> list[Event]:
        """The bars that are over at ``now``. Threads: any."""
        with self._lock:
            return [event for line in self._lines.values() for event in self._roll(line, now)]

    def trade(self, symbol: str, now: int, price: Decimal | None = None, size: Decimal | None = None,
              late: int = 0) -> list[Event]:
        """A trade at any price, ``late`` ns before ``now``. Threads: any."""
        with self._lock:
            line = self._line(symbol)
            events = self._roll(line, now)
            moment = now - late if late else line.moment(now)
            if price is None:
                price = line.quotes[-1].ask
            made = line.new_trade(moment, price, size or _ROUND_LOT * line.listing.lot, True)
            return events + self._add(line, made)

    def quote(self, symbol: str, now: int, bid: Decimal, ask: Decimal,
              size: Decimal | None = None) -> list[Event]:
        """A quote at any prices, crossed ones included. Threads: any."""
        with self._lock:
            line = self._line(symbol)
            size = size or _ROUND_LOT * line.listing.lot
            made = Quote(line.symbol, line.moment(now), bid, size, "Q", ask, size, "V")
            line.quotes.append(made)
            return [made]

    def correct(self, symbol: str, now: int, price: Decimal | None = None) -> list[Event]:
        """Correct the last trade (its price moves one tick unless ``price`` says otherwise).

        Threads: any.

        Raises:
            LookupError: there is no trade.
        """
        with self._lock:
            line = self._line(symbol)
            original = line.trades[-1]
            if price is None:
                price = original.price + line.listing.tick
            corrected = original._replace(id=line.next_id(original.exchange), price=price)
            line.trades[-1] = corrected
            event = Correction(line.symbol, line.moment(now), original, corrected)
            return [event, *self._sent(line, line.bars.replace(original, corrected))]

    def cancel(self, symbol: str, now: int, action: str = "C") -> list[Event]:
        """Cancel the last trade. Threads and errors: as `correct`."""
        with self._lock:
            line = self._line(symbol)
            trade = line.trades.pop()
            event = Cancel(line.symbol, line.moment(now), trade, action)
            return [event, *self._sent(line, line.bars.replace(trade, None))]

    def halt(self, symbol: str, now: int, halted: bool = True) -> list[Event]:
        """Halt or resume: nothing is traded or quoted in between. Threads: any."""
        with self._lock:
            line = self._line(symbol)
            line.halted = halted
            return [Status(line.symbol, line.moment(now), *(_HALT if halted else _RESUME))]

    def bands(self, symbol: str, now: int) -> list[Event]:
        """New price bands, 5 % around the middle. Threads: any."""
        with self._lock:
            line = self._line(symbol)
            quote, tick = line.quotes[-1], line.listing.tick
            middle = (quote.bid + quote.ask) / 2
            up, down = ((middle * share).quantize(tick) for share in (Decimal("1.05"), Decimal("0.95")))
            return [Bands(line.symbol, line.moment(now), up, down, "B")]

    def imbalance(self, symbol: str, now: int) -> list[Event]:
        """An imbalance of the next auction. Threads: any."""
        with self._lock:
            line = self._line(symbol)
            return [Imbalance(line.symbol, line.moment(now), line.quotes[-1].bid,
                              line.random.randrange(10_000), line.random.randrange(5_000))]

    def story(self, now: int, headline: str, symbols: Iterable[str]) -> list[Event]:
        """A news article. Threads: any."""
        with self._lock:
            self._story_id += 1
            self._stories.append(Story(now, self._story_id, headline, tuple(symbols)))
            return [self._stories[-1]]


def _book_change(line: _Line, update: Update) -> BookChange:
    tick, lot = line.listing.tick, line.listing.lot
    sides = (tuple((abs(key) * tick, lots * lot) for key, lots in side.items())
             for side in (update.bids, update.asks))
    bids, asks = sides
    return BookChange(line.symbol, line.moment(update.time), bids, asks, False)
