"""The parts of the command ``streams``: names of books, figures, pictures of a market, and the screen."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest

from streams import ConfigurationError, StreamManager, Trade
from streams.cli import main
from streams.console import figures
from streams.console.board import Board, Picture, Row, StreamRow
from streams.console.lines import JsonLines, Lines, columns, summary
from streams.console.notes import logging_to_notes
from streams.console.targets import channels_of, read_options, read_targets
from streams.exchanges import EXCHANGES
from streams.sim import BinanceSim, Fault, HuobiSim, Sandbox

from .tools import wait_until


NOW = 1_800_000_000_000_000_000


# -- what it understands -------------------------------------------------------------------------------


@pytest.mark.parametrize("words, found", [
    ("binance BTC-USDT", {"binance": ["BTC-USDT"]}),
    ("binance:BTC-USDT huobi:BTC-USDT", {"binance": ["BTC-USDT"], "huobi": ["BTC-USDT"]}),
    ("binance BTC-USDT,ETH-USDT huobi:BTC-USDT ETH-USDT",
     {"binance": ["BTC-USDT", "ETH-USDT"], "huobi": ["BTC-USDT", "ETH-USDT"]}),
    ("htx BTC-USDT", {"huobi": ["BTC-USDT"]}),
    ("binance BTC-USDT huobi BTC-USDT binance ETH-USDT BTC-USDT",
     {"binance": ["BTC-USDT", "ETH-USDT"], "huobi": ["BTC-USDT"]}),
    ("polygon O:NVDA261218C00200000 I:SPX", {"polygon": ["O:NVDA261218C00200000", "I:SPX"]}),
    ("polygon:O:NVDA261218C00200000", {"polygon": ["O:NVDA261218C00200000"]}),
])
def test_books_are_named_by_exchange_and_symbols(words: str, found: dict[str, list[str]]) -> None:
    assert read_targets(words.split()) == found


@pytest.mark.parametrize("words, message", [
    ("BTC-USDT", "'BTC-USDT' is no exchange; name one before its symbols, like 'binance BTC-USDT'"),
    ("binanc BTC-USDT", "'binanc' is no exchange (is 'binance' meant?)"),
    ("binanc:BTC-USDT", "'binanc:BTC-USDT' is no exchange (is 'binance' meant?)"),
    ("binance", "binance: name its symbols too, like 'binance BTC-USDT'"),
    ("alpaca:", "alpaca: name its symbols too, like 'alpaca AAPL'"),
    ("", "nothing is named; write for example 'binance BTC-USDT'"),
])
def test_books_that_are_not_named_right(words: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_targets(words.split(" "))
    assert message in str(caught.value)


def test_an_option_that_python_would_misunderstand(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("self", "symbols", "exchange", "options"):
        assert main(["watch", "binance", "BTC-USDT", "--once", "-o", f"{name}=x"]) == 2
        assert capsys.readouterr().err.startswith(f"streams watch: binance has no option {name!r}")


def test_options_are_for_one_exchange_or_for_all() -> None:
    words = ["depth=20", "polygon.market=options", "htx.book_mode=incremental", "stale_after=2.5"]
    assert read_options(words, ["polygon", "huobi"]) == {
        "polygon": {"depth": 20, "market": "options", "stale_after": 2.5},
        "huobi": {"depth": 20, "book_mode": "incremental", "stale_after": 2.5}}


def test_keys_are_text_whatever_they_look_like() -> None:
    words = ["api_key=123456", "alpaca.api_secret=null"]
    assert read_options(words, ["alpaca"]) == {"alpaca": {"api_key": "123456", "api_secret": "null"}}


@pytest.mark.parametrize("word", ["depth", "=3", "binance.depth=3", "huobi.=3"])
def test_options_that_are_not_written_right(word: str) -> None:
    with pytest.raises(ConfigurationError, match="--option .* write it like depth=20, or huobi.depth=20"):
        read_options([word], ["huobi"])


@pytest.mark.parametrize("exchange, options, channels", [
    ("binance", {}, ["book", "trades"]),
    ("alpaca", {"api_key": "K", "api_secret": "S"}, ["quotes", "trades"]),
    ("polygon", {"api_key": "K"}, ["quotes", "trades"]),
    ("polygon", {"api_key": "K", "market": "crypto"}, ["book", "trades"]),
    ("polygon", {"api_key": "K", "market": "indices"}, ["ticker"]),
    ("polygon", {"api_key": "K", "market": "forex"}, ["quotes"]),
])
def test_what_is_subscribed_unless_channels_are_named(exchange: str, options: dict[str, Any],
                                                      channels: list[str]) -> None:
    assert channels_of(EXCHANGES[exchange], options, ()) == channels


# -- figures -------------------------------------------------------------------------------------------


def test_numbers_of_one_kind_have_as_many_places_as_the_longest() -> None:
    digits = figures.Digits()
    assert digits.show(60000.1, "a") == "60000.1"
    assert digits.show(60000.12, "a") == "60000.12"
    assert digits.show(60000.1, "a") == "60000.10"
    assert digits.show(2.5, "b") == "2.5"
    assert digits.show(1e-8, "c") == "0.00000001"
    assert digits.show(Decimal("0.10"), "d") == "0.1"
    assert digits.show(60000.0, "e") == "60000"
    assert digits.show(None, "e") == ""


@pytest.mark.parametrize("seconds, text", [
    (None, ""), (0.0, "0 ms"), (0.0171, "17 ms"), (0.9994, "999 ms"), (0.99951, "1.0 s"), (1.24, "1.2 s"),
    (42.4, "42 s"), (119.9, "120 s"), (300.0, "5 min"), (86_400.0, "24 h"),
])
def test_ages(seconds: float | None, text: str) -> None:
    assert figures.age(seconds) == text


def test_other_figures() -> None:
    assert [figures.rate(number) for number in (0.0, 0.25, 9.94, 12.4, 15_000.0)] == [
        "0", "0.2", "9.9", "12", "15,000"]
    assert [figures.lasted(number) for number in (7.9, 754.0, 3723.0)] == ["0:07", "12:34", "1:02:03"]
    assert figures.clock(NOW + 123_456_789) == "08:00:00.123"
    assert figures.trend([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert figures.trend([5.0, 5.0], 8) == "▄▄" and figures.trend([], 8) == ""
    assert figures.bar(1.0, 4) == "████" and figures.bar(0.5, 1) == "▌" and figures.bar(0.0, 4) == "▏"
    assert figures.ascii_bar(0.5, 4) == "==" and figures.ascii_bar(0.0, 4) == "="


# -- pictures ------------------------------------------------------------------------------------------


def trade(price: float, side: str = "buy", cancelled: bool = False) -> Trade:
    return Trade(exchange="binance", symbol="BTC-USDT", timestamp=NOW, received=NOW, price=price, size=0.5,
                 side=side, cancelled=cancelled)  # type: ignore[arg-type]


def a_row(symbol: str = "BTC-USDT", exchange: str = "binance", **changes: Any) -> Row:
    levels = {"bids": tuple((60000.0 - at / 100, 1.0 + at) for at in range(20)),
              "asks": tuple((60000.01 + at / 100, 2.0 + at) for at in range(20))}
    return Row(exchange, symbol, **{  # type: ignore[arg-type]
        "status": "live", "last_update": NOW - 17_000_000, "timestamp": NOW - 20_000_000, **levels,
        "last": 60000.01, "last_size": 0.5, "trades": (trade(60000.01), trade(60000.0, "sell")),
        "stream": f"streams-{exchange}-1", **changes})


def a_stream(exchange: str = "binance", state: str = "live", error: str = "") -> StreamRow:
    return StreamRow(f"streams-{exchange}-1", exchange, state, 12.0, 185.2, 0.017, error,
                     {"messages": 12345, "gaps": 1, "resyncs": 2, "reconnects": 3, "malformed": 4})


def a_picture(*rows: Row, streams: Sequence[StreamRow] = ()) -> Picture:
    return Picture(NOW, rows, streams or [a_stream()])


def test_spread_and_mid_are_exact() -> None:
    row = a_row()
    assert row.spread == 0.01 and row.mid == 60000.005
    exact = a_row(bids=((Decimal("1.10"), Decimal(1)),), asks=((Decimal("1.13"), Decimal(1)),))
    assert repr(exact.spread) == "Decimal('0.03')"
    assert a_row(bids=()).spread is None and a_row(asks=()).mid is None


def test_a_line_of_text() -> None:
    out = io.StringIO()
    Lines(out).show(a_picture(a_row(), a_row("ETH-USDT", status="waiting", bids=(), asks=(), last=None,
                                             last_update=None, stream="", detail="no such symbol")))
    assert out.getvalue().splitlines() == [
        "08:00:00.000 binance BTC-USDT live bid 60000.00 x 1 ask 60000.01 x 2 spread 0.01 last 60000.01 "
        "age 17ms 185/s gaps 1 resyncs 2",
        "08:00:00.000 binance ETH-USDT waiting (no such symbol)"]


def test_the_first_price_has_as_many_places_as_the_last() -> None:
    row = a_row(bids=((60000.0, 1),), asks=((60000.01, 1),), trades=(), last=60000.125)
    out = io.StringIO()
    Lines(out).show(a_picture(row))
    assert "bid 60000.000 x 1 ask 60000.010 x 1 spread 0.010 last 60000.125" in out.getvalue()
    assert " 60000.000  60000.010" in "\n".join(drawn(a_picture(row), 80, 24))


def test_a_line_for_programs() -> None:
    out = io.StringIO()
    JsonLines(out).show(a_picture(a_row(), a_row(
        bids=((Decimal("60000.10"), Decimal("0.50")),), status="stale")))
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == {
        "exchange": "binance", "symbol": "BTC-USDT", "status": "live", "bid": 60000.0, "bid_size": 1.0,
        "ask": 60000.01, "ask_size": 2.0, "spread": 0.01, "last": 60000.01, "last_size": 0.5,
        "last_update": NOW - 17_000_000, "timestamp": NOW - 20_000_000, "age": 0.017, "state": "live",
        "rate": 185.2, "gaps": 1, "resyncs": 2, "reconnects": 3, "malformed": 4}
    assert second["status"] == "stale"
    assert '"bid":60000.10,"bid_size":0.50' in out.getvalue()


def test_a_summary_and_columns() -> None:
    text = summary(a_picture(a_row(), a_row("ETH-USDT", last_update=None)), 10.0)
    assert text.splitlines()[1].split() == [
        "binance-1", "live", "12,345", "1,234", "1", "of", "2", "1", "2", "3"]
    assert columns([["a", "b"], ["long", "1"]], right=(1,)) == "a     b\nlong  1"


def test_the_board_tells_what_there_is(serve: Callable[..., Any]) -> None:
    with Sandbox() as sandbox, StreamManager() as market:
        market.start("binance", ["BTC-USDT"], ["book", "trades"], **sandbox.options("binance"))
        market.start("alpaca", ["AAPL", "ZZZZ"], ["quotes", "trades"], **sandbox.options("alpaca", ["AAPL"]))
        board = Board(market, {"binance": ["BTC-USDT"], "alpaca": ["AAPL", "ZZZZ"]})
        wait_until(lambda: [row.complete for row in board.look().rows[:2]] == [True, True])
        wait_until(lambda: all(row.last is not None for row in board.look().rows[:2]))
        picture = board.look()
        book, quote, nothing = picture.rows
        assert len(book.bids) == len(book.asks) == 20 and book.trades and book.spread and book.last
        assert len(quote.bids) == len(quote.asks) == 1 and quote.status == "live"
        assert nothing.status == "waiting" and not nothing.complete
        assert not picture.complete and not picture.hopeless
        stream = picture.stream(book.stream)
        assert stream is not None and stream.state == "live" and stream.counts["messages"] > 0
        wait_until(lambda: all(stream.rate > 0 for stream in board.look().streams))


def test_a_row_without_its_book_is_not_complete_though_it_has_trades(serve: Callable[..., Any]) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=200.0)
    sim.always(Fault.SNAPSHOT_HANG)
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"], ["trades", "book"], url=sim.url, rest_url=sim.rest_url)
        board = Board(market, {"binance": ["BTC-USDT"]})
        wait_until(lambda: board.look().rows[0].last is not None)
        row, = board.look().rows
        assert row.status == "waiting" and not row.complete and row.last_update


def test_a_refused_symbol_is_hopeless_and_says_why(serve: Callable[..., Any]) -> None:
    sim = serve(HuobiSim, ["BTCUSDT"])
    with StreamManager() as market:
        market.start("huobi", ["NOPE-USDT"], url=sim.url, rest_url=sim.rest_url)
        board = Board(market, {"huobi": ["NOPE-USDT"]})
        wait_until(lambda: board.look().hopeless)
        row, = board.look().rows
        assert row.status == "refused" and row.detail


def test_a_wildcard_stands_for_all_there_are() -> None:
    with Sandbox() as sandbox, StreamManager() as market:
        market.start("polygon", ["*"], ["quotes"], **sandbox.options("polygon"))
        board = Board(market, {"polygon": ["*"]})
        wait_until(lambda: {"AAPL", "NVDA", "MSFT"} <= {row.symbol for row in board.look().rows})
        picture = board.look()
        assert all(row.status == "live" and picture.stream(row.stream) for row in picture.rows)


@pytest.mark.parametrize("symbols", [["AAPL"], ["*"]])
def test_channels_that_have_no_quotes_have_data_too(symbols: list[str]) -> None:
    with Sandbox() as sandbox, StreamManager() as market:
        market.start("polygon", symbols, ["bars:1s", "imbalances"], **sandbox.options("polygon"))
        board = Board(market, {"polygon": symbols})
        wait_until(lambda: board.look().complete)
        row = next(row for row in board.look().rows if row.symbol == "AAPL")
        bar = market.store.bars["polygon"]["AAPL"]["1s"][-1]
        assert (row.status, row.last, row.bid) == ("live", bar.close, None) and row.age(time.time_ns()) < 5


def test_notes_are_warnings_and_what_streams_say_of_themselves() -> None:
    import logging
    with logging_to_notes() as notes:
        logging.getLogger("streams.feed").info("one of many")
        logging.getLogger("streams.stream").info("streams-%s-1: live", "binance")
        logging.getLogger("streams.feed").warning("rebuilt\nbecause")
        try:
            raise ValueError("bad")
        except ValueError:
            logging.getLogger("streams.stream").exception("a mistake")
    logging.getLogger("streams.stream").info("after")
    assert [text for _, text in notes.kept] == [
        "streams-binance-1: live", "rebuilt because", "a mistake: ValueError('bad')"]


# -- the screen ----------------------------------------------------------------------------------------


def drawn(picture: Picture, width: int, height: int, *, ladders: bool = False, encoding: str = "utf-8",
          notes: Sequence[tuple[int, str]] = (), colour: bool = False, times: int = 1) -> list[str]:
    """What a terminal of that size shows, line by line."""
    pytest.importorskip("rich", reason="rich (the extra cli) is not installed")
    from rich.console import Console

    from streams.console.screen import Screen
    from streams.console.title import Title
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=file, width=width, height=height, force_terminal=colour, highlight=False,
                      color_system="standard" if colour else None, legacy_windows=False, _environ={})
    screen = Screen(file, ladders=ladders, notes=notes, console=console)
    for _ in range(times):
        image = screen.drawn(picture, Title("streams test", "somewhere", 12.0), height)
    console.print(image)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


MANY = a_picture(
    *[a_row(f"C{at:02}-USDT", exchange) for exchange in ("binance", "nasdaq-itch") for at in range(20)],
    streams=[a_stream(), a_stream("nasdaq-itch", "backoff", "127.0.0.1:4711 ended the connection, " * 3)])


@pytest.mark.parametrize("ladders", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5, 40])
@pytest.mark.parametrize("width, height", [(20, 6), (40, 12), (80, 24), (120, 40), (300, 100)])
def test_it_fits_any_terminal(width: int, height: int, count: int, ladders: bool) -> None:
    picture = Picture(NOW, MANY.rows[:count], MANY.streams)
    notes = [(NOW, "it has happened " * 20)] * 30
    # Often enough for the trends of a table to be as long as they can be; the last time counts.
    lines = drawn(picture, width, height, ladders=ladders, notes=notes, times=50 if not ladders else 2)
    assert len(lines) <= max(height, 9)
    assert all(len(line) <= width for line in lines)
    assert "streams test" in lines[0]
    if width >= 40:
        assert any("C00-USDT" in line for line in lines)


def test_a_table_says_how_many_rows_there_is_no_room_for() -> None:
    text = "\n".join(drawn(MANY, 80, 24))
    shown = text.count("-USDT")
    assert 5 <= shown < 40
    assert f"and {40 - shown} more" in text


def test_columns_go_where_there_is_no_room_the_least_important_first() -> None:
    def head(width: int) -> list[str]:
        return next(line for line in drawn(a_picture(a_row()), width, 24) if "exchange" in line).split()

    assert head(120) == ["exchange", "symbol", "bid", "size", "bid", "ask", "ask", "size", "spread", "last",
                         "age", "status", "mid"]
    assert "size" not in head(75) and {"spread", "last", "age", "status"} <= set(head(75))
    assert set(head(56)) == {"exchange", "symbol", "bid", "ask", "age", "status"}
    assert {"exchange", "symbol"} <= set(head(20))


def test_that_a_book_is_stale_is_said_wherever_its_price_is() -> None:
    for width in range(24, 60):
        text = "\n".join(drawn(a_picture(a_row(status="stale"), streams=[a_stream()]), width, 24))
        assert "stale" in text or "60000" not in text, width


def test_words_of_others_are_shown_as_they_are_and_do_nothing() -> None:
    assert figures.line("a\nb\tc \x1b[31m\x07d") == "a b c [31m d"
    rows = [a_row("[red]X[/red]", status="refused", detail="see [/docs]"), a_row("[/x]")]
    picture = a_picture(*rows, streams=[a_stream(error="HTTP 400: [/x] [bold]")])
    text = "\n".join(drawn(picture, 200, 24))
    for words in ("[red]X[/red]", "[/x] ", "see [/docs]", "HTTP 400: [/x] [bold]"):
        assert words in text, words


def test_wide_characters_take_their_room() -> None:
    from rich.cells import cell_len
    picture = a_picture(a_row("\u6bd4\u7279\u5e01-\u6cf0\u8fbe\u5e01"), a_row())
    notes = [(NOW, "\u6bd4\u7279\u5e01 " * 30)]
    for width in range(30, 110):
        lines = drawn(picture, width, 24, notes=notes)
        assert all(cell_len(line) <= width for line in lines)
        assert "\u2026" not in "".join(lines), f"a column was cut at {width}, not left out"
        assert sum("\u6bd4" in line for line in lines) == 2, "each in a line of its own"


def test_nothing_is_said_by_colour_alone() -> None:
    picture = a_picture(a_row(status="stale"), a_row("ETH-USDT", status="syncing"),
                        streams=[a_stream(state="backoff")])
    text = "\n".join(drawn(picture, 100, 30))
    assert "\x1b" not in text
    for word in ("stale", "syncing", "backoff", "12,345"):
        assert word in text
    assert "\x1b[" in "\n".join(drawn(picture, 100, 30, colour=True))


def test_ladders_have_asks_above_bids_and_trades_below() -> None:
    lines = drawn(a_picture(a_row(), a_row("ETH-USDT")), 80, 24, ladders=True)
    text = "\n".join(lines)
    assert "binance BTC-USDT live" in lines[1] and "binance ETH-USDT live" in lines[1]
    place = {price: text.index(price) for price in ("60000.03", "60000.02", "60000.01", "59999.99", "sell")}
    assert list(place) == sorted(place, key=lambda price: place[price])
    assert "spread 0.01" in text and "█" in text


def test_prices_without_depth_leave_no_room_empty() -> None:
    quotes = {"bids": ((100.0, 1),), "asks": ((100.5, 2),), "last": 100.25}
    deals = tuple(trade(100.0 + at / 10) for at in range(10))
    lines = drawn(a_picture(a_row(**quotes, trades=deals), a_row("ETH-USDT", **quotes)), 80, 40, ladders=True)
    begin, end = (next(at for at, line in enumerate(lines) if mark in line) for mark in "╭╰")
    assert end - begin == 1 + 1 + 1 + 1 + len(deals), "a border, an ask, the middle, a bid, every trade"
    assert all(any(f"{deal.price:.1f}" in line for line in lines) for deal in deals)
    # Where the room is short it is the trades that go; and without any there is no place kept for them.
    assert "100.50" in "\n".join(drawn(a_picture(a_row(**quotes, trades=deals)), 80, 12, ladders=True))
    bare = drawn(a_picture(a_row(**quotes, trades=())), 80, 40, ladders=True)
    begin, end = (next(at for at, line in enumerate(bare) if mark in line) for mark in "╭╰")
    assert end - begin == 4


def test_prices_without_depth_beside_a_book_have_more_trades() -> None:
    deals = tuple(trade(100.0 + at / 10) for at in range(10))
    quotes = a_row("ETH-USDT", bids=((100.0, 1),), asks=((100.5, 2),), last=100.25, trades=deals)
    lines = drawn(a_picture(a_row(), quotes), 80, 24, ladders=True)
    right = [line[40:] for line in lines if line.startswith("│")]
    assert "100.5" in right[0] and "last 100.25" in right[1] and "100.0" in right[2] and "60000.0" in lines[2]
    assert all(f"{deal.price:.2f}" in line for deal, line in zip(deals, right[3:]))


def test_ladders_are_spread_evenly() -> None:
    lines = drawn(a_picture(*[a_row(f"C{at}-USDT") for at in range(4)]), 140, 40, ladders=True)
    assert [line.count("╭") for line in lines if "╭" in line] == [2, 2]


def test_why_there_are_no_prices_is_said_in_full() -> None:
    why = "alpaca 405: symbol limit exceeded (quotes:MSFT, trades:MSFT)"
    empty = {"bids": (), "asks": (), "last": None, "trades": (), "status": "refused", "detail": why}
    picture = a_picture(a_row(bids=((1.0, 1),), asks=((2.0, 1),)), a_row("MSFT", **empty))
    lines = drawn(picture, 80, 24, ladders=True)
    right = " ".join(line[40:].strip("│ ") for line in lines if line.startswith("│"))
    assert " ".join(right.split()) == why
    assert all(len(line) == 80 for line in lines if line.startswith("│"))


def test_a_terminal_without_unicode_gets_none() -> None:
    for ladders in (False, True):
        lines = drawn(a_picture(a_row()), 120, 30, ladders=ladders, encoding="ascii", times=20)
        assert all(line.isascii() for line in lines)


def test_without_rich_the_extra_is_named(monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    for name in ("drawing", "ladders", "screen"):           # forget what has been imported before
        monkeypatch.delitem(sys.modules, f"streams.console.{name}", raising=False)
    monkeypatch.setattr("streams.console.live.is_terminal", lambda out: True)
    assert main(["demo", "--seconds", "0.2"]) == 2
    assert "pip install 'market-streams[cli]'" in capsys.readouterr().err
    main(["demo", "--seconds", "0.5", "--plain"])
    assert "binance BTC-USDT" in capsys.readouterr().out
