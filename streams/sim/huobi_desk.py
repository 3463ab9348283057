"""What simulated Huobi knows of one symbol, and how it writes it down.

Source: HTX spot API, "market data" (v1 protocol), and captures of its messages.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable

from .digits import JavaDouble, java_double
from .market import Levels, SymbolMarket, Trade, Update
from .totals import Bar, Totals

_UTC8 = 8 * 3_600_000           # days of the venue begin at midnight in UTC+8
_STEP0_LEVELS = 150
_STEP_LEVELS = 20


class View:
    """The best levels of one symbol as the subscribers of an ``mbp`` topic have them."""

    def __init__(self, sequence: int, bids: Levels, asks: Levels) -> None:
        self.sequence = sequence
        self.bids = dict(bids)
        self.asks = dict(asks)


class Desk:
    """One symbol: its totals, its ``mbp`` views, and the ``tick`` part of its messages.

    Attributes:
        topics: (kind, argument, topic) of what has subscribers.
        views: the ``mbp`` views that have subscribers, by number of levels.

    Threads: whoever holds the market's lock.
    """

    def __init__(self, market: SymbolMarket, clock: Callable[[], int]) -> None:
        instrument = market.instrument
        self.market = market
        self.name = instrument.symbol.lower()
        self.totals = Totals(clock() // 1_000_000, market.last_tick, _UTC8)
        self.topics: tuple[tuple[str, str, str], ...] = ()
        self.views: dict[int, View] = {}
        self.updates = 0
        self._clock = clock
        self._price = JavaDouble(instrument.price_decimals)
        self._size = JavaDouble(instrument.size_decimals)
        self._value_decimals = instrument.price_decimals + instrument.size_decimals

    def _levels(self, levels: Iterable[tuple[int, int]]) -> str:
        price, size = self._price, self._size
        return ",".join([f"[{price[key]},{size[lots]}]" for key, lots in levels])

    # -- mbp ------------------------------------------------------------------------------------

    def view(self, count: int) -> View:
        """The view of the best ``count`` levels; a new one where nobody has one."""
        return self.views.get(count) or View(self.market.sequence, *self.market.top(count))

    def mbp(self, count: int) -> str | None:
        """What has changed in a view since the last time; None when nothing has."""
        before = self.view(count)
        now = View(self.market.sequence, *self.market.top(count))
        sides = "".join(
            f',"{name}":[{self._levels(sorted(changed.items()))}]' for name, changed in (
                ("bids", _changes(before.bids, now.bids)),
                ("asks", _changes(before.asks, now.asks))) if changed)
        if not sides:
            return None
        self.views[count] = now
        return f'{{"seqNum":{now.sequence},"prevSeqNum":{before.sequence}{sides}}}'

    def refresh(self, view: View) -> str:
        """The answer to a ``req`` of ``mbp``."""
        return (f'{{"seqNum":{view.sequence},"bids":[{self._levels(view.bids.items())}],'
                f'"asks":[{self._levels(view.asks.items())}]}}')

    # -- self-contained books -------------------------------------------------------------------

    def step(self, step: int) -> str:
        """``depth.stepN``."""
        if step == 0:
            bids, asks = self.market.top(_STEP0_LEVELS)
        else:
            bids, asks = (_grouped(side, 10 ** step)[:_STEP_LEVELS]
                          for side in self.market.top(len(self.market.book(None).ask_levels)))
        return (f'{{"bids":[{self._levels(bids)}],"asks":[{self._levels(asks)}],'
                f'"version":{self.market.sequence},"ts":{self._clock() // 1_000_000}}}')

    def top(self, count: int) -> str:
        """``mbp.refresh.N``."""
        bids, asks = self.market.top(count)
        return (f'{{"seqNum":{self.market.sequence},"bids":[{self._levels(bids)}],'
                f'"asks":[{self._levels(asks)}]}}')

    def touches(self, update: Update) -> list[str]:
        """``bbo``, once for each change of the touch."""
        price, size, now = self._price, self._size, update.time // 1_000_000
        return [f'{{"seqId":{touch.sequence},"ask":{price[touch.ask]},'
                f'"askSize":{size[touch.ask_lots]},"bid":{price[touch.bid]},'
                f'"bidSize":{size[touch.bid_lots]},"quoteTime":{now},'
                f'"symbol":"{self.name}"}}' for touch in update.touches]

    # -- trades and totals ----------------------------------------------------------------------

    def trades(self, trades: list[Trade]) -> str:
        """``trade.detail``; ``id`` has the 27 digits that it has at the venue."""
        moment = trades[-1].time // 1_000_000
        number = 123_000_000_000 + trades[-1].id
        data = ",".join(
            f'{{"id":{number}{102_357_000_000_000 + trade.id},"ts":{trade.time // 1_000_000},'
            f'"tradeId":{102_357_000_000 + trade.id},"amount":{self._size[trade.lots]},'
            f'"price":{self._price[trade.tick]},'
            f'"direction":"{"sell" if trade.seller_aggressed else "buy"}"}}' for trade in trades)
        return f'{{"id":{number},"ts":{moment},"data":[{data}]}}'

    def bar(self, bar: Bar) -> str:
        """``kline``; ``id`` is its first second."""
        return f'{{"id":{bar.start // 1000},{self._figures(bar)}}}'

    def detail(self) -> str:
        """``detail``: the last 24 hours."""
        sequence = self.market.sequence
        return f'{{"id":{sequence},{self._figures(self.totals.day)},"version":{sequence}}}'

    def merged(self) -> str:
        """``/market/detail/merged``: the same with the touch."""
        (bid, ask), sequence = self._touch(), self.market.sequence
        return (f'{{"id":{sequence},"version":{sequence},{self._figures(self.totals.day)},'
                f'"bid":[{self._levels([bid])[1:-1]}],"ask":[{self._levels([ask])[1:-1]}]}}')

    def ticker(self) -> str:
        """``ticker``: the same with the last trade."""
        bid, ask = self._touch()
        price, size = self._price, self._size
        last = self.totals.recent[-1].lots if self.totals.recent else 0
        return (f'{{{self._figures(self.totals.day)},"bid":{price[bid[0]]},'
                f'"bidSize":{size[bid[1]]},"ask":{price[ask[0]]},"askSize":{size[ask[1]]},'
                f'"lastPrice":{price[self.totals.day.close]},"lastSize":{size[last]}}}')

    def _touch(self) -> tuple[tuple[int, int], tuple[int, int]]:
        bids, asks = self.market.top(1)
        return bids[0], asks[0]

    def _figures(self, bar: Bar) -> str:
        price = self._price
        return (f'"open":{price[bar.open]},"close":{price[bar.close]},"low":{price[bar.low]},'
                f'"high":{price[bar.high]},"amount":{self._size[bar.volume]},'
                f'"vol":{java_double(bar.value, self._value_decimals)},"count":{bar.count}')


def _changes(before: dict[int, int], now: dict[int, int]) -> dict[int, int]:
    changed = {key: lots for key, lots in now.items() if before.get(key) != lots}
    changed.update((key, 0) for key in before if key not in now)
    return changed


def _grouped(levels: Levels, ticks: int) -> Levels:
    """Levels added up in steps of ``ticks``; bids are rounded down, asks up."""
    grouped: dict[int, int] = {}
    for key, lots in levels:
        rounded = -(-key // ticks) * ticks      # away from the touch, for both signs
        grouped[rounded] = grouped.get(rounded, 0) + lots
    return list(grouped.items())
