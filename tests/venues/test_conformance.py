"""The numbered cases that every venue passes, over its table in ``samples.py``.

C01 facts   C02 routes   C03 subscribing   C04 mistakes   C05 messages   C06 exact numbers   C07 bad input
C08 state of one connection only   C09 every exchange with a table, or with tests of its own
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from streams.errors import ConfigurationError
from streams.events import Event
from streams.exchanges import EXCHANGES
from streams.sequencing import RULES
from streams.venue import BookSnapshot, Limits, Malformed, Route, Venue

from .samples import DELTA, SAMPLES, Case, Sample
from .stock_tools import NOW, mangled, survives

EACH = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES.keys())
CASES = pytest.mark.parametrize(
    ("sample", "case"), [(sample, case) for sample in SAMPLES.values() for case in sample.cases],
    ids=[f"{name}-{case[1]}-{case[0]}" for name, sample in SAMPLES.items() for case in sample.cases])


def heard(venue: Venue, case: Case) -> list[tuple[Route, Any]]:
    """What the last message of a case says to its route, others before it."""
    symbol, channel, messages, _ = case
    route = venue.route(symbol, channel)
    venue.add(route)
    items: list[Any] = []
    for message in messages:
        items = [item for item in venue.receive(message, NOW) if item[0] is route]
    return items


def numbers(value: Any) -> Iterator[float | Decimal]:
    """All numbers that are no integers, anywhere in an event."""
    if isinstance(value, (float, Decimal)):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from numbers(part)
    elif hasattr(value, "__struct_fields__"):
        for name in value.__struct_fields__:
            yield from numbers(getattr(value, name))


@EACH
def test_c01_facts(sample: Sample) -> None:
    venue = sample.make()
    assert venue.name and venue.name == venue.name.lower()
    assert venue.rule in RULES
    assert isinstance(venue.limits, Limits) and venue.limits.topics >= 1 and venue.limits.batch >= 1
    assert all(count >= 1 and seconds > 0 for count, seconds in (
        venue.limits.messages, venue.limits.connects, venue.limits.rest))
    assert "book" not in venue.sparse, "a silent book is worth a look"
    assert "://" in venue.url
    if venue.carrier == "websocket":
        assert venue.url.startswith("wss://") and venue.rest_url.startswith("https://")


@CASES
def test_c02_routes(sample: Sample, case: Case) -> None:
    venue = sample.make()
    route = venue.route(case[0], case[1])
    assert (route.symbol, route.channel) == case[:2], "the user's own spelling"
    assert route.topics and all(isinstance(topic, str) for topic in route.topics)
    assert venue.route(case[0], case[1]).topics == route.topics
    assert venue.route(route.native, case[1]).topics == route.topics, "its own spelling is as good"
    address = venue.address(venue.url, venue.endpoint(case[1]))
    assert address.startswith(venue.url)


@EACH
def test_c03_subscribing(sample: Sample) -> None:
    venue = sample.make()
    topics: list[str] = []
    for symbol, channel, _, _ in sample.cases:
        route = venue.route(symbol, channel)
        venue.add(route)
        topics += [topic for topic in route.topics if topic not in topics]
    list(venue.opened(NOW))
    batch = topics[:venue.limits.batch]
    asked, left = venue.subscribe(batch), venue.unsubscribe(batch)
    assert asked and left
    assert all(isinstance(frame, (str, bytes)) and frame for frame in (*asked, *left))
    assert list(asked) != list(left)


@EACH
def test_c04_mistakes(sample: Sample) -> None:
    venue = sample.make()
    symbol = sample.cases[0][0]
    for wrong, right in (("bokk", "book" if "book" in venue.channels else venue.channels[0]),
                         ("bars:7x", "bars"), ("trades:1m", "")):
        if wrong.startswith("trades") and "trades" not in venue.channels:
            continue
        with pytest.raises(ConfigurationError) as error:
            venue.route(symbol, wrong)
        text = str(error.value)
        assert "\n" not in text and venue.name in text and (right in text or "bars" not in venue.channels)
    for nonsense in ("", "two words", None, 7):
        with pytest.raises(ConfigurationError) as error:
            venue.native(nonsense)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigurationError, match="no option 'colour'"):
        sample.make(colour="blue")


@CASES
def test_c05_messages(sample: Sample, case: Case) -> None:
    symbol, channel, _, kind = case
    venue = sample.make()
    items = heard(venue, case)
    assert items, "the message was not understood"
    route, event = items[-1]
    assert route.symbol == symbol
    if kind == DELTA:
        assert event.bids or event.asks
        assert isinstance(event.link, int) and isinstance(event.last, int) and isinstance(event.time, int)
        return
    assert isinstance(event, kind)
    if isinstance(event, BookSnapshot):
        assert event.bids and event.asks
        return
    assert isinstance(event, Event)
    assert event.exchange == venue.name and event.symbol == symbol and event.received == NOW
    assert event.timestamp is None or 10 ** 18 < event.timestamp < 2 * 10 ** 18, "nanoseconds"


@CASES
def test_c06_exact_numbers(sample: Sample, case: Case) -> None:
    plain = heard(sample.make(), case)[-1][1]
    exact = heard(sample.make(number=Decimal), case)[-1][1]
    floats, decimals = list(numbers(plain)), list(numbers(exact))
    assert len(floats) == len(decimals)
    assert all(type(number) is float for number in floats)
    assert all(type(number) is Decimal for number in decimals)
    assert [float(number) for number in decimals] == floats


NUMBER = re.compile(rb'(?<=[:\[",])-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?=[,\]}"])')


@CASES
@pytest.mark.parametrize("wrong", [b"0", b"-1", b"1e400"])
def test_c06_floats_and_decimals_refuse_the_same(sample: Sample, case: Case, wrong: bytes) -> None:
    symbol, channel, (*before, last), _ = case
    zipped = last.startswith(b"\x1f\x8b")
    text = gzip.decompress(last) if zipped else last
    for found in NUMBER.finditer(text):
        message = text[:found.start()] + wrong + text[found.end():]
        told = []
        for number in (float, Decimal):
            venue = sample.make(number=number)
            heard(venue, (symbol, channel, tuple(before), None))
            items = venue.receive(gzip.compress(message) if zipped else message, NOW)
            told.append([type(event).__name__ for _, event in items])
        assert told[0] == told[1], message


@EACH
def test_c07_bad_input(sample: Sample) -> None:
    venue = sample.make()
    seeds = []
    for case in sample.cases:
        heard(venue, case)
        seeds += case[2]
    survives(venue, mangled(seeds, 300))
    survives(venue, [b"", b"{}", b"[]", b"null", b"\x00" * 50, b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe"])


@CASES
def test_c07_numbers_that_nobody_can_hold(sample: Sample, case: Case) -> None:
    """Neither an event nor a book has a number of more than 64 bits: nobody could pass it on."""
    zipped = case[2][-1].startswith(b"\x1f\x8b")
    text = gzip.decompress(case[2][-1]) if zipped else case[2][-1]
    for found in re.finditer(rb"(?<=[:,\[])\d+(?=[,}\]])", text):
        for number in (b"9" * 400, b"9" * 25, b"9223372036854775808", b"9" * 16, b"-1"):
            changed = text[:found.start()] + number + text[found.end():]
            venue = sample.make()
            heard(venue, (*case[:2], case[2][:-1], case[3]))
            for route, event in venue.receive(gzip.compress(changed) if zipped else changed, NOW):
                if route is venue.session:
                    assert isinstance(event, Malformed)
                elif isinstance(event, Event):
                    msgspec.msgpack.encode(event)
                else:
                    link = 0 if isinstance(event, BookSnapshot) else event.link
                    msgspec.msgpack.encode((link, event.last, event.time * venue.time_unit))


@EACH
def test_c08_nothing_is_shared_between_connections(sample: Sample) -> None:
    one, two = sample.make(), sample.make()
    heard(one, sample.cases[0])
    assert one.routes and not two.routes
    assert one.session is not two.session


def test_c09_every_exchange_has_its_table() -> None:
    apart = {"nasdaq-itch", "redis", "longpoll-xml", "longpoll-json"}     # not WebSockets: tests of their own
    assert {kind.venue.name for kind in EXCHANGES.values()} == {
        sample.venue.name for sample in SAMPLES.values()} | apart
