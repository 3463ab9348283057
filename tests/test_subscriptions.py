"""What is wanted, what the venue knows, and what is to be said to it: against a plain model."""

from __future__ import annotations

import random
import threading

import pytest

from streams.subscriptions import LONGEST_RETRY, RETRY_BASE, UNANSWERED, Subscriptions
from streams.venue import Route


def route(symbol: str, channel: str = "book", *topics: str) -> Route:
    return Route(symbol, channel, symbol, topics or (f"{symbol}@{channel}",))


def test_what_is_served_and_by_what() -> None:
    subs = Subscriptions()
    for one in (route("A"), route("B*", "trades"), route("C*D", "trades"), route("C", "bars:1m")):
        subs.want(one)
    served = [("A", "book"), ("B*", "trades"), ("B", "trades"), ("BC", "trades"), ("CxD", "trades"),
              ("C", "bars:1m")]
    others = [("A", "trades"), ("AB", "trades"), ("BC", "quotes"), ("CxE", "trades"), ("C", "bars:1h")]
    assert [key for key in served + others if subs.serves(*key)] == served
    subs.unwant("B*", "trades")
    assert not subs.serves("BC", "trades") and subs.serves("CxD", "trades")


class Server:
    """What the venue would know, if it got every message."""

    def __init__(self) -> None:
        self.topics: set[str] = set()

    def obey(self, subscriptions: Subscriptions, now: float, deadline: float) -> tuple[list[str], list[str]]:
        """Let everything that is due be said."""
        leave, enter = subscriptions.due(now)
        for name in leave:
            assert name in self.topics
        self.topics -= set(leave)
        subscriptions.left(leave)
        enter = subscriptions.sent(enter, deadline)
        for name in enter:
            assert name not in self.topics, "subscribed twice"
        self.topics |= set(enter)
        return leave, enter


def settled(subscriptions: Subscriptions, now: float = 0.0) -> bool:
    """Whether there is nothing left to do, so that nobody has to look again soon."""
    return subscriptions.due(now) == ([], []) and subscriptions.next_due() is None


def test_subscribe_acknowledge_unsubscribe() -> None:
    subs, server = Subscriptions(), Server()
    one = route("A")
    subs.want(one)
    assert subs.get("A", "book") is one
    assert subs.state(one) == ("pending", "")
    assert server.obey(subs, 0, 10) == ([], ["A@book"])
    assert subs.state(one) == ("pending", "") and subs.next_due() == 10
    assert subs.acked(["A@book"]) == ["A@book"]
    assert subs.acked(["A@book"]) == []
    assert subs.state(one) == ("live", "") and settled(subs)
    assert subs.status() == {"book.A": {"state": "live", "reason": ""}}
    subs.unwant("A", "book")
    assert subs.get("A", "book") is None
    assert server.obey(subs, 0, 10) == (["A@book"], [])
    assert settled(subs) and subs.size() == 0 and subs.status() == {}


def test_wishes_are_counted() -> None:
    subs, server = Subscriptions(), Server()
    subs.want(route("A"))
    server.obey(subs, 0, 10)
    subs.acked(["A@book"])
    subs.want(route("A"))
    assert settled(subs), "wanting what is there needs nothing done"
    subs.unwant("A", "book")
    assert settled(subs) and subs.get("A", "book") is not None
    subs.unwant("A", "book")
    assert subs.get("A", "book") is None
    subs.unwant("A", "book")
    assert server.obey(subs, 0, 10) == (["A@book"], [])


def test_routes_may_share_a_topic() -> None:
    subs, server = Subscriptions(), Server()
    subs.want(route("A", "quotes", "a"))
    subs.want(route("A", "ticker", "a"))
    assert server.obey(subs, 0, 10)[1] == ["a"]
    subs.acked(["a"])
    subs.unwant("A", "quotes")
    assert settled(subs)
    subs.unwant("A", "ticker")
    assert server.obey(subs, 0, 10) == (["a"], [])


def test_what_is_unwanted_before_it_was_sent_is_never_sent() -> None:
    subs = Subscriptions()
    subs.want(route("A"))
    _, enter = subs.due(0)
    subs.unwant("A", "book")
    assert subs.sent(enter, 10) == []
    assert settled(subs) and subs.size() == 0


def test_unwanted_while_sent_and_wanted_again_before_anything_was_said() -> None:
    subs, server = Subscriptions(), Server()
    subs.want(route("A"))
    server.obey(subs, 0, 10)
    subs.unwant("A", "book")
    again = route("A")
    subs.want(again)
    assert subs.due(0) == ([], [])
    subs.acked(["A@book"])
    assert subs.state(again) == ("live", "") and settled(subs)


def test_wanted_again_while_the_farewell_is_on_its_way() -> None:
    subs = Subscriptions()
    subs.want(route("A"))
    subs.sent(["A@book"], 10)
    subs.acked(["A@book"])
    subs.unwant("A", "book")
    leave, _ = subs.due(0)
    subs.want(route("A"))
    subs.left(leave)
    assert subs.due(0) == ([], ["A@book"])


def test_transient_refusals_are_tried_again_for_ever_with_pauses_that_double_to_a_bound() -> None:
    subs, server = Subscriptions(), Server()
    one = route("A")
    subs.want(one)
    now = 0.0
    for pause in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[LONGEST_RETRY] * 2000):
        server.obey(subs, now, now + 10)
        assert subs.refused(["A@book"], "busy", True, now) == []
        server.topics.clear()
        assert subs.state(one) == ("pending", "busy")
        assert subs.next_due() == now + RETRY_BASE * pause
        assert subs.due(now) == ([], [])
        now += RETRY_BASE * pause
    server.obey(subs, now, now + 10)
    assert subs.acked(["A@book"]) == ["A@book"]
    assert subs.state(one) == ("live", "") and settled(subs, 1e9)


def test_refused_for_good_stays_so_over_reconnects_until_asked_for_anew() -> None:
    subs, server = Subscriptions(), Server()
    one = route("A")
    subs.want(one)
    server.obey(subs, 0, 10)
    assert subs.refused(["A@book"], "no such symbol", False, 0) == ["A@book"]
    subs.reset()
    assert subs.due(0) == ([], []) and subs.state(one) == ("refused", "no such symbol")
    subs.want(one)
    assert subs.due(0) == ([], ["A@book"]) and subs.state(one) == ("pending", "")
    subs.unwant("A", "book")
    subs.unwant("A", "book")
    assert subs.size() == 0


def test_a_refusal_of_what_nobody_wants_any_more_is_welcome() -> None:
    for transient in (True, False):
        subs = Subscriptions()
        subs.want(route("A"))
        subs.sent(["A@book"], 10)
        subs.unwant("A", "book")
        assert subs.refused(["A@book"], "no", transient, 0) == []
        assert settled(subs, 1e9) and subs.size() == 0


def test_unanswered_ones_are_overdue_and_may_be_asked_for_again() -> None:
    subs, server = Subscriptions(), Server()
    subs.want(route("A"))
    subs.want(route("B"))
    server.obey(subs, 0, 10)
    subs.acked(["B@book"])
    assert subs.overdue(9.9) == [] and subs.overdue(10) == ["A@book"]
    subs.again(["A@book"], 11)
    assert subs.overdue(99) == [] and subs.due(10) == ([], []) and subs.due(11) == ([], ["A@book"])


def test_each_is_asked_for_so_often_in_a_row_and_no_more() -> None:
    subs = Subscriptions()
    subs.want(route("A"))
    subs.want(route("B"))

    def in_vain(*names: str) -> list[str]:
        assert subs.sent(names, 10) == list(names) and set(names) <= set(subs.overdue(10))
        return subs.again(names, 0)
    for _ in range(UNANSWERED - 1):
        assert in_vain("A@book") == []
    assert in_vain("A@book", "B@book") == ["A@book"], "each has its own count"
    subs.refused(["A@book"], "silent", True, 0)
    assert subs.state(route("A")) == ("pending", "silent") and "A@book" not in subs.due(RETRY_BASE / 2)[1]
    for _ in range(UNANSWERED - 2):
        assert in_vain("A@book", "B@book") == [], "a refusal starts the count anew"
    subs.sent(["B@book"], 10)
    subs.acked(["B@book"])
    subs.renew(["B@book"])
    subs.left(["B@book"])
    assert in_vain("B@book") == [], "and so does an answer"
    subs.reset()
    for _ in range(UNANSWERED - 1):
        assert in_vain("A@book", "B@book") == [], "and a new connection"


def test_asking_again_for_what_nobody_wants_any_more_is_left_alone() -> None:
    subs, server = Subscriptions(), Server()
    subs.want(route("A"))
    server.obey(subs, 0, 10)
    subs.unwant("A", "book")
    subs.again(["A@book"], 0)
    assert server.obey(subs, 0, 10) == (["A@book"], []) and settled(subs)


def test_renewing_unsubscribes_and_subscribes() -> None:
    subs, server = Subscriptions(), Server()
    one = route("A")
    subs.want(one)
    subs.renew(["A@book"])
    assert server.obey(subs, 0, 10) == ([], ["A@book"]), "not there yet: nothing to renew"
    subs.acked(["A@book"])
    subs.renew(["A@book", "unknown"])
    assert subs.next_due() == 0.0
    assert server.obey(subs, 0, 10) == (["A@book"], [])
    assert server.obey(subs, 0, 10) == ([], ["A@book"])
    assert subs.acked(["A@book"]) == ["A@book"] and settled(subs)
    subs.renew(["A@book"])
    subs.reset()
    assert subs.due(0) == ([], ["A@book"])


@pytest.mark.parametrize("seed", range(40))
def test_any_order_of_events_ends_with_what_is_wanted(seed: int) -> None:
    """Random actions of users, connection and venue; then calm: the venue has exactly what is wanted."""
    dice = random.Random(seed)
    subs, server = Subscriptions(), Server()
    symbols = [f"S{n}" for n in range(6)]
    shared = {symbol: (f"{symbol}@a", f"{symbol}@b") for symbol in symbols}
    wanted: dict[tuple[str, str], int] = {}
    refused: set[str] = set()
    now = 0.0

    def topics(symbol: str, channel: str) -> tuple[str, ...]:
        return shared[symbol][:1] if channel == "quotes" else shared[symbol]

    def needed() -> set[str]:
        return {name for (symbol, channel), count in wanted.items() if count
                for name in topics(symbol, channel)}

    for _ in range(400):
        now += dice.random()
        symbol, channel = dice.choice(symbols), dice.choice(("book", "quotes"))
        action = dice.random()
        if action < 0.25:
            subs.want(route(symbol, channel, *topics(symbol, channel)))
            wanted[symbol, channel] = wanted.get((symbol, channel), 0) + 1
            refused -= set(topics(symbol, channel))
        elif action < 0.5:
            subs.unwant(symbol, channel)
            wanted[symbol, channel] = max(wanted.get((symbol, channel), 0) - 1, 0)
            refused &= needed()
        elif action < 0.7:
            server.obey(subs, now, now + 5)
        elif action < 0.85:
            asked = [name for name in server.topics if dice.random() < 0.5]
            subs.acked(asked)
        elif action < 0.9:
            waiting = [name for name in list(subs._waiting) if name in server.topics]
            if waiting:
                name = dice.choice(waiting)
                server.topics.discard(name)
                if subs.refused([name], "no", dice.random() < 0.5, now):
                    refused.add(name)
        elif action < 0.94:
            silent = [name for name in subs.overdue(now)]
            server.topics -= {name for name in silent if name in needed()}
            subs.again(silent, now)
        elif action < 0.97:
            subs.renew([name for name in server.topics if dice.random() < 0.3])
        else:
            server.topics.clear()
            subs.reset()
            refused &= needed()
        assert refused <= needed()
    for _ in range(3):
        now += 100.0
        server.obey(subs, now, now + 5)
        subs.acked(list(server.topics))
    assert server.topics == needed() - refused
    assert settled(subs, now), (subs._open, subs._waiting)
    assert subs.on_server() == len(server.topics) and subs.size() == len(needed())
    for (symbol, channel), count in wanted.items():
        found = subs.get(symbol, channel)
        assert (found is not None) == (count > 0)
        if found is not None:
            expected = "refused" if refused & set(found.topics) else "live"
            assert subs.state(found)[0] == expected


def test_users_and_connection_in_threads_of_their_own() -> None:
    subs, server = Subscriptions(), Server()
    symbols = [f"S{n}" for n in range(20)]
    stop = threading.Event()

    def user(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(1500):
            symbol = dice.choice(symbols)
            subs.want(route(symbol))
            if dice.random() < 0.5:
                subs.status()
            subs.unwant(symbol, "book")

    def network() -> None:
        while not stop.is_set():
            server.obey(subs, 0, 10)
            subs.acked(list(server.topics))
            subs.next_due()

    for symbol in symbols[:10]:
        subs.want(route(symbol))
    users = [threading.Thread(target=user, args=(n,)) for n in range(3)]
    network_thread = threading.Thread(target=network)
    for thread in (network_thread, *users):
        thread.start()
    for thread in users:
        thread.join()
    stop.set()
    network_thread.join()
    for _ in range(3):
        server.obey(subs, 0, 10)
        subs.acked(list(server.topics))
    assert server.topics == {f"{symbol}@book" for symbol in symbols[:10]}
    assert settled(subs)
