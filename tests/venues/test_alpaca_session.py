"""Alpaca's conversation: login, subscriptions, every error code, wrong options, secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streams.errors import AuthenticationFailed, ConfigurationError, SubscriptionRefused
from streams.venue import Acked, Failed, Notice, Ready, Reconnect, Refused, Reply, Unsubscribed, Venue
from streams.venues.alpaca import _Alpaca, AlpacaCryptoVenue, AlpacaOptionsVenue, AlpacaVenue

from .alpaca_frames import AUTHENTICATED, CONNECTED, crypto, error, listing, OCC, options, stocks
from .stock_tools import NOW, one, signals


def test_login_by_headers() -> None:
    venue = stocks()
    assert list(venue.opened(NOW)) == []
    assert venue.headers() == {
        "Content-Type": "application/json",
        "APCA-API-KEY-ID": "PK123",
        "APCA-API-SECRET-KEY": "shhh456",
    }
    assert signals(venue, CONNECTED) == []
    assert signals(venue, AUTHENTICATED) == [Ready()]
    assert signals(venue, AUTHENTICATED) == []


def test_login_by_message() -> None:
    venue = stocks(auth="message")
    assert venue.headers() == {"Content-Type": "application/json"}
    login = one(signals(venue, CONNECTED))
    assert isinstance(login, Reply) and login.secret and "shhh456" not in repr(login)
    assert json.loads(login.frame) == {"action": "auth", "key": "PK123", "secret": "shhh456"}
    assert signals(venue, AUTHENTICATED) == [Ready()]


def asked(venue: Venue, *topics: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(one(venue.subscribe(topics)))
    return answer


def test_subscribe_and_unsubscribe() -> None:
    venue = stocks()
    assert asked(venue, "trades:AAPL", "quotes:AAPL", "trades:AMD") == {
        "action": "subscribe",
        "trades": ["AAPL", "AMD"],
        "quotes": ["AAPL"],
    }
    assert signals(venue, listing(trades=["AAPL", "AMD"], quotes=["AAPL"])) == [
        Acked(["trades:AAPL", "quotes:AAPL", "trades:AMD"])
    ]
    assert json.loads(one(venue.unsubscribe(["trades:AMD"]))) == {
        "action": "unsubscribe",
        "trades": ["AMD"],
    }
    assert signals(venue, listing(trades=["AAPL"], quotes=["AAPL"])) == [Unsubscribed(["trades:AMD"])]


def test_what_is_not_in_the_list_is_refused() -> None:
    venue = stocks()
    asked(venue, "trades:AAPL", "imbalances:AAPL")
    acked, refused = signals(venue, listing(trades=["AAPL"]))
    assert acked == Acked(["trades:AAPL"])
    assert refused.topics == ["imbalances:AAPL"] and not refused.transient


def test_a_list_that_nobody_asked_for_costs_no_subscription() -> None:
    """Said between a request and its answer, it looks like one; all is asked for again then."""
    venue = stocks()
    asked(venue, "trades:AAPL")
    asked(venue, "quotes:AAPL")
    first = one(signals(venue, listing()))
    second = one(signals(venue, listing(trades=["AAPL"])))
    assert (first.topics, second.topics) == (["trades:AAPL"], ["quotes:AAPL"])
    assert first.transient and second.transient
    both = listing(trades=["AAPL"], quotes=["AAPL"])
    assert signals(venue, both) == []
    asked(venue, "trades:AAPL", "quotes:AAPL")
    assert signals(venue, both) == [Acked(["trades:AAPL", "quotes:AAPL"])]


def test_what_drops_out_of_the_list_is_asked_for_again() -> None:
    venue = stocks()
    asked(venue, "trades:AAPL", "trades:AMD")
    signals(venue, listing(trades=["AAPL", "AMD"]))
    asked(venue, "quotes:AMD")
    acked, lost = signals(venue, listing(trades=["AMD"], quotes=["AMD"]))
    assert acked == Acked(["quotes:AMD"])
    assert isinstance(lost, Refused) and lost.topics == ["trades:AAPL"] and lost.transient


def test_answers_belong_to_requests_in_order() -> None:
    venue = stocks()
    asked(venue, "trades:AAPL")
    asked(venue, "trades:$$$")
    asked(venue, "trades:AMD")
    assert signals(venue, listing(trades=["AAPL"])) == [Acked(["trades:AAPL"])]
    assert one(signals(venue, error(400))).topics == ["trades:$$$"]
    assert signals(venue, listing(trades=["AAPL", "AMD"])) == [Acked(["trades:AMD"])]


def test_large_requests_are_cut() -> None:
    venue = stocks()
    topics = [f"trades:{'X' * 150}{n}" for n in range(venue.limits.batch)]
    frames = venue.subscribe(topics)
    assert len(frames) > 1 and all(len(frame) < 16 * 1024 for frame in frames)
    assert [f"trades:{s}" for frame in frames for s in json.loads(frame)["trades"]] == topics


class Server:
    """Answers subscribe frames as the vendor documents it: all or nothing."""

    def __init__(self, limit: int, bad: frozenset[str] = frozenset()) -> None:
        self.limit, self.bad = limit, bad
        self.channels: dict[str, list[str]] = {"trades": [], "quotes": [], "bars": []}
        self.requests = 0

    def answer(self, frame: bytes | str) -> bytes:
        self.requests += 1
        request = json.loads(frame)
        add = request.pop("action") == "subscribe"
        after = {
            name: [s for s in have if add or s not in request.get(name, ())]
            + [s for s in request.get(name, ()) if add and s not in have]
            for name, have in self.channels.items()
        }
        if any(symbol in self.bad for symbols in request.values() for symbol in symbols):
            return error(400, "invalid syntax")
        if len(after["trades"]) + len(after["quotes"]) > self.limit:
            return error(405, "symbol limit exceeded")
        self.channels = after
        return listing(**self.channels)


def converse(venue: Venue, server: Server, topics: list[str]) -> tuple[set[str], dict[str, str]]:
    """What ends up subscribed and what refused, after all replies have been sent and answered."""
    live: set[str] = set()
    refused: dict[str, str] = {}
    frames = list(venue.subscribe(topics))
    while frames:
        for signal in signals(venue, server.answer(frames.pop(0))):
            if isinstance(signal, Reply):
                frames.append(signal.frame)
            elif isinstance(signal, Acked):
                live.update(signal.topics)
            else:
                assert isinstance(signal, Refused) and not signal.transient
                refused.update(dict.fromkeys(signal.topics, signal.reason))
    return live, refused


def test_a_symbol_limit_refuses_only_what_is_beyond_it() -> None:
    venue, server = stocks(), Server(limit=30)
    topics = [f"trades:S{n}" for n in range(150)] + [f"bars:S{n}" for n in range(40)]
    live, refused = converse(venue, server, topics)
    assert live == {*topics[:30], *topics[150:]}
    assert set(refused) == set(topics[30:150])
    assert all("405" in reason and "symbol limit" in reason for reason in refused.values())
    assert "trades:S30" in refused["trades:S30"]  # the reason names the symbols
    assert server.requests < 40


def test_a_malformed_symbol_spoils_only_itself() -> None:
    venue, server = stocks(), Server(limit=1000, bad=frozenset({"S7", "S77"}))
    topics = [f"trades:S{n}" for n in range(100)]
    live, refused = converse(venue, server, topics)
    assert set(refused) == {"trades:S7", "trades:S77"} and live == set(topics) - set(refused)


def test_what_nobody_wants_any_more_is_not_asked_for_by_a_divided_request() -> None:
    venue = stocks()
    asked(venue, "trades:A", "trades:B", "trades:C", "trades:D")
    half = one(signals(venue, error(405)))
    assert json.loads(half.frame)["trades"] == ["A", "B"]
    venue.unsubscribe(["trades:C"])
    acked, rest = signals(venue, listing(trades=["A", "B"]))
    assert acked == Acked(["trades:A", "trades:B"]) and json.loads(rest.frame)["trades"] == ["D"]


@pytest.mark.parametrize("code", [400, 405, 410, 413])
def test_errors_that_refuse(code: int) -> None:
    venue = stocks()
    asked(venue, "quotes:AAPL")
    refused = one(signals(venue, error(code, "no")))
    assert isinstance(refused, Refused) and refused.topics == ["quotes:AAPL"] and not refused.transient
    assert str(code) in refused.reason and "quotes:AAPL" in refused.reason
    assert signals(venue, error(code)) == [Notice(f"alpaca {code}: words")]  # nothing is asked now


def test_error_412_refuses_all_at_once() -> None:
    venue = stocks()
    asked(venue, "quotes:AAPL", "quotes:AMD")
    assert one(signals(venue, error(412))).topics == ["quotes:AAPL", "quotes:AMD"]


@pytest.mark.parametrize(
    "code, kind",
    [
        (402, AuthenticationFailed),
        (411, AuthenticationFailed),
        (409, SubscriptionRefused),
        (408, SubscriptionRefused),
    ],
)
def test_errors_that_end_it(code: int, kind: type[Exception]) -> None:
    failed = one(signals(stocks(), error(code, "no")))
    assert isinstance(failed, Failed) and type(failed.error) is kind and str(code) in str(failed.error)


@pytest.mark.parametrize("code, pause", [(401, 1.0), (404, 1.0), (406, 1.0), (500, 1.0)])
def test_errors_that_want_a_new_connection(code: int, pause: float) -> None:
    reconnect = one(signals(stocks(), error(code, "no")))
    assert isinstance(reconnect, Reconnect) and not reconnect.planned and reconnect.after >= pause


def test_a_taken_place_is_waited_for_longer_and_longer() -> None:
    pauses, previous = [], stocks()
    for _ in range(4):
        venue = stocks()
        venue.inherit(previous)
        pauses.append(one(signals(venue, error(406, "connection limit exceeded"))).after)
        previous = venue
    assert pauses == [1.0, 5.0, 15.0, 15.0]
    signals(venue, AUTHENTICATED)
    again = stocks()
    again.inherit(venue)
    assert one(signals(again, error(406))).after == 1.0


@pytest.mark.parametrize("code", [403, 407, 499, 999])
def test_errors_that_are_counted(code: int) -> None:
    assert signals(stocks(), error(code, "slow client")) == [Notice(f"alpaca {code}: slow client")]


def test_a_refused_unsubscription_is_said() -> None:
    venue = stocks()
    venue.unsubscribe(["trades:A"])
    assert isinstance(one(signals(venue, error(400))), Notice)


# -- secrets and mistakes ---------------------------------------------------------------------------


def test_keys_never_show() -> None:
    venue = stocks()
    found = signals(venue, error(402, "key PK123 with secret shhh456 is wrong"))
    assert "***" in str(found[0].error)
    request = venue.ticker_request("AAPL")
    for text in (
        repr(venue),
        str(found[0].error),
        repr(found),
        repr(request),
        repr(list(venue.opened(NOW))),
    ):
        assert "PK123" not in text and "shhh456" not in text


@pytest.mark.parametrize("kind", [AlpacaVenue, AlpacaCryptoVenue, AlpacaOptionsVenue])
def test_missing_keys(kind: type[_Alpaca]) -> None:
    with pytest.raises(ConfigurationError, match="api_key=.*ALPACA_API_KEY or APCA_API_KEY_ID$"):
        kind(api_secret="x")
    with pytest.raises(
        ConfigurationError, match="api_secret=.*ALPACA_API_SECRET or APCA_API_SECRET_KEY$"
    ):
        kind(api_key="x")
    with pytest.raises(ConfigurationError) as caught:
        kind(api_key="abc\n", api_secret="x")
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"feed": "nyse"}, "iex, sip, delayed_sip, test, overnight, boats"),
        ({"auth": "oauth"}, "'headers' or 'message'"),
        ({"quote_lot": 0}, "quote_lot"),
        ({"quote_lot": True}, "quote_lot"),
        ({"lots": 1}, "feed, auth, quote_lot"),
    ],
)
def test_wrong_options(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        stocks(**wrong)


@pytest.mark.parametrize(
    "make, symbol, channel, says",
    [
        (stocks, "AAPL", "book", "trades, quotes"),
        (stocks, "AAPL", "bars:5m", "bars:1m, bars:1d"),
        (stocks, "A*L", "trades", "wildcard"),
        (stocks, "", "trades", "no symbol"),
        (crypto, "*", "book", "wildcard"),
        (crypto, "BTCUSD", "trades", "'BTCUSD' is no symbol of alpaca-crypto; write it like 'BTC-USD'"),
        (options, "*", "quotes", "trades only"),
        (options, OCC, "bars:1m", "trades, quotes, ticker"),
    ],
)
def test_wrong_routes(make: Any, symbol: str, channel: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make().route(symbol, channel)


def test_feeds_and_endpoints() -> None:
    paths = {feed: stocks(feed=feed).endpoint("trades") for feed in AlpacaVenue.feeds}
    assert paths == {
        "iex": "/v2/iex",
        "sip": "/v2/sip",
        "delayed_sip": "/v2/delayed_sip",
        "test": "/v2/test",
        "overnight": "/v1beta1/overnight",
        "boats": "/v1beta1/boats",
    }
    assert crypto(feed="eu-1").endpoint("book") == "/v1beta3/crypto/eu-1"
    assert options(feed="opra").endpoint("trades") == "/v1beta1/opra"
