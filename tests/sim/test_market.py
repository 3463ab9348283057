"""The seeded market: deterministic, never crossed, and its own oracle at every update id."""
from __future__ import annotations

from decimal import Decimal

import pytest

from streams.sim.instruments import Instrument
from streams.sim.market import Market, Update


def replay(market: Market, symbol: str, steps: int) -> list[tuple[Update, dict, dict]]:
    """Step, and keep what a correct client would have after each update."""
    start = market.book(symbol)
    bids, asks = dict(start.bid_levels), dict(start.ask_levels)
    seen = []
    for _ in range(steps):
        update = market.step(symbol)
        for side, changes in ((bids, update.bids), (asks, update.asks)):
            for key, lots in changes.items():
                if lots:
                    side[key] = lots
                else:
                    side.pop(key, None)
        seen.append((update, dict(bids), dict(asks)))
    return seen


@pytest.mark.parametrize("id_step", ["one", "shared", "jumps"])
@pytest.mark.parametrize("levels", [5, 40])
def test_updates_lead_to_the_true_book_at_every_id(id_step: str, levels: int) -> None:
    market = Market(["BTCUSDT", "XRPBTC"], seed=5, levels=levels, id_step=id_step)
    seen = replay(market, "XRPBTC", 1300)           # more than two segments of history
    for update, bids, asks in seen:
        book = market.book("XRPBTC", update.last)
        assert book.sequence == update.last
        assert book.bid_levels == sorted(bids.items())
        assert book.ask_levels == sorted(asks.items())


def test_books_are_never_crossed_empty_or_too_deep() -> None:
    market = Market(["ETHUSDT"], seed=2, levels=30)
    for _, bids, asks in replay(market, "ETHUSDT", 5000):
        assert -min(bids) < min(asks)
        assert min(asks) > 0 and max(bids) < 0
        assert 2 <= len(bids) <= 30 and 2 <= len(asks) <= 30


def test_the_price_moves_and_trades_happen() -> None:
    market = Market(["BTCUSDT"], seed=2)
    trades = [trade for _ in range(5000) for trade in market.step("BTCUSDT").trades]
    assert len({trade.tick for trade in trades}) > 20
    assert {trade.seller_aggressed for trade in trades} == {True, False}
    assert [trade.id for trade in trades] == list(range(trades[0].id, trades[0].id + len(trades)))


def test_ids_go_on_by_one_within_a_symbol_on_spot() -> None:
    market = Market(["BTCUSDT", "ETHUSDT"], seed=1)
    last = market.book("BTCUSDT").sequence
    for _ in range(200):
        market.step("ETHUSDT")
        update = market.step("BTCUSDT")
        assert update.previous == last and update.first == last + 1
        assert update.last >= update.first
        last = update.last


def test_ids_are_shared_and_jump_on_futures() -> None:
    market = Market(["BTCUSDT", "ETHUSDT"], seed=1, id_step="shared")
    updates = [market.step(symbol) for _ in range(200) for symbol in market.symbols]
    assert all(later.first > earlier.last for earlier, later in zip(updates, updates[1:]))
    own = updates[::2]
    assert all(later.previous == earlier.last for earlier, later in zip(own, own[1:]))
    assert not any(later.first == earlier.last + 1 for earlier, later in zip(own, own[1:]))


def test_the_book_inside_an_update_has_only_its_first_changes() -> None:
    market = Market(["BTCUSDT"], seed=1)
    update = next(u for u in iter(lambda: market.step("BTCUSDT"), None)
                  if u.last - u.first >= 3 and len(u.bids) + len(u.asks) >= 3)
    before = market.book("BTCUSDT", update.first - 1)
    inside = market.book("BTCUSDT", update.first)
    changed = (set(before.bid_levels) ^ set(inside.bid_levels)
               | set(before.ask_levels) ^ set(inside.ask_levels))
    assert 1 <= len({key for key, _ in changed}) == 1


def test_touches_are_the_top_of_the_true_book() -> None:
    market = Market(["BTCUSDT"], seed=4)
    touches = [touch for _ in range(600) for touch in market.step("BTCUSDT").touches]
    assert len(touches) > 100
    for touch in touches:
        book = market.book("BTCUSDT", touch.sequence)
        assert book.bid_levels[0] == (-touch.bid, touch.bid_lots)
        assert book.ask_levels[0] == (touch.ask, touch.ask_lots)


def test_the_same_seed_makes_the_same_market_in_whatever_company() -> None:
    def steps(symbols: list[str], seed: int) -> list[tuple[int, dict[int, int]]]:
        market = Market(symbols, seed=seed)
        return [(u.last, u.bids) for u in (market.step("ETHUSDT") for _ in range(100))]
    alone = [bids for _, bids in steps(["ETHUSDT"], 7)]
    assert alone == [bids for _, bids in steps(["BTCUSDT", "ETHUSDT"], 7)]
    assert alone != [bids for _, bids in steps(["ETHUSDT"], 8)]


def test_prices_are_exact() -> None:
    book = Market(["BTCUSDT"], seed=1).book("btcusdt")
    price, size = book.bids[0]
    assert isinstance(price, Decimal) and price == -book.bid_levels[0][0] * Decimal("0.01")
    assert size == book.bid_levels[0][1] * Decimal("0.00001")
    assert book.bids == sorted(book.bids, reverse=True) and book.asks == sorted(book.asks)


def test_history_is_bounded_and_says_so() -> None:
    market = Market(["BTCUSDT"], seed=1, levels=10, history=1000)
    first = market.step("BTCUSDT").last
    for _ in range(4000):
        market.step("BTCUSDT")
    recent = market["BTCUSDT"].ids_ago(1000)[0]
    assert market.book("BTCUSDT", recent).sequence == recent
    with pytest.raises(LookupError, match="the history has update ids"):
        market.book("BTCUSDT", first)
    with pytest.raises(LookupError, match="not"):
        market.book("BTCUSDT", market.book("BTCUSDT").sequence + 1)


def test_ids_ago_is_the_end_of_that_update() -> None:
    market = Market(["BTCUSDT"], seed=1)
    ends = [market.step("BTCUSDT").last for _ in range(1700)]
    for ago in (1, 2, 499, 500, 501, 1200, 1699):
        assert market["BTCUSDT"].ids_ago(ago) == (ends[-1 - ago], ends[-1])
    assert market["BTCUSDT"].ids_ago(0) == (ends[-1], ends[-1])


@pytest.mark.parametrize("wrong, text", [
    ({"symbols": "BTCUSDT"}, "expected a list"), ({"symbols": []}, "one or more"),
    ({"symbols": ["BTCUSDT", "btcusdt"]}, "each once"), ({"symbols": ["BTC-USDT"]}, "like"),
    ({"symbols": ["BTCUSDT"], "levels": 2}, "5 or more"),
    ({"symbols": ["BTCUSDT"], "history": 0}, "above 0"),
    ({"symbols": ["BTCUSDT"], "id_step": "two"}, "'shared'"),
])
def test_mistakes_fail_at_the_call(wrong: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Market(**wrong)


def test_any_coin_gets_a_price_of_its_own() -> None:
    one, two = Instrument.named("ABCUSDT"), Instrument.named("xyzbtc")
    assert (one.base, one.quote, two.symbol) == ("ABC", "USDT", "XYZBTC")
    assert one.start > 0 and two.tick == Decimal("1E-8") and two.price_decimals == 8
    book = Market([two], seed=1).book("XYZBTC")
    assert Decimal("0.0001") < book.bids[0][0] < book.asks[0][0] < Decimal("0.001")
