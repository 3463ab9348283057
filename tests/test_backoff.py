"""When to try again, and how often one may speak."""

from __future__ import annotations

import random

import pytest

from streams.backoff import Backoff, RollingWindow


def test_the_first_retry_after_health_is_immediate_then_pauses_grow_to_the_cap() -> None:
    backoff = Backoff(base=0.5, cap=30.0, healthy_after=20.0, rand=lambda: 1.0)
    assert [backoff.next(lived) for lived in (60.0, *[0.0] * 9)] == [
        0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0, 30.0]
    assert backoff.next(20.0) == 0.0, "sustained health starts anew"
    assert backoff.next(0.0) == 1.0


def test_a_connection_that_never_opened_is_not_retried_at_once() -> None:
    assert Backoff(base=0.5, rand=lambda: 1.0).next(0.0) == 0.5


def test_a_connection_that_opens_and_dies_at_once_does_not_reset() -> None:
    backoff = Backoff(base=0.5, cap=30.0, healthy_after=20.0, rand=lambda: 1.0)
    assert [backoff.next(0.1) for _ in range(5)] == [0.0, 1.0, 2.0, 4.0, 8.0]


def test_the_jitter_is_full() -> None:
    dice = random.Random(1)
    backoff = Backoff(base=1.0, cap=8.0, rand=dice.random)
    delays = [backoff.next(0.0) for _ in range(500)][10:]
    assert min(delays) < 0.5 and max(delays) > 7.5 and max(delays) <= 8.0
    assert 3.5 < sum(delays) / len(delays) < 4.5


def test_it_goes_on_for_ever() -> None:
    backoff = Backoff(rand=lambda: 1.0)
    for _ in range(100_000):
        delay = backoff.next(0.0)
    assert delay == 30.0


def test_a_window_of_units() -> None:
    window = RollingWindow(4, 1.0)
    for now in (0.0, 0.1, 0.2, 0.3):
        assert window.wait(now) == 0.0
        window.spend(now)
    assert window.wait(0.4) == pytest.approx(0.6)
    assert window.wait(0.4, 2) == pytest.approx(0.7)
    assert window.wait(1.0) == 0.0
    window.spend(1.0)
    assert window.wait(1.05) == pytest.approx(0.05)


def test_a_window_that_nobody_asks_forgets_what_is_over() -> None:
    """Pongs are sent without asking, for days."""
    window = RollingWindow(4, 1.0)
    for second in range(10_000):
        window.spend(float(second))
    assert len(window._spent) <= 2
    assert window.wait(10_000.5) == 0.0


def test_what_is_more_than_the_limit_waits_for_an_empty_window() -> None:
    window = RollingWindow(4, 1.0)
    assert window.wait(0.0, 10) == 0.0
    window.spend(0.0, 10)
    assert window.wait(0.5) == pytest.approx(0.5)
    assert window.wait(1.0) == 0.0


def test_a_used_up_window() -> None:
    window = RollingWindow(4, 1.0)
    window.spend(0.0)
    window.fill(0.5)
    assert window.wait(0.6) > 0
    window.fill(0.5)
    assert window.wait(1.6) == 0.0


def test_what_is_under_way_counts_until_so_long_after_its_arrival() -> None:
    window = RollingWindow(4, 1.0)
    window.hold(3)
    assert window.wait(0.0) == 0.0
    window.spend(0.5)
    assert window.wait(0.6) == pytest.approx(0.9), "the one that was spent"
    assert window.wait(5.0, 2) == 1.0, "not before so long after an arrival, which is still to come"
    window.release(5.0, 1)
    assert window.wait(5.0) == 0.0 and window.wait(5.0, 2) == pytest.approx(1.0)
    window.release(5.5, 2)
    assert window.wait(6.0, 2) == 0.0 and window.wait(6.0, 3) == pytest.approx(0.5)
    assert window.wait(6.5, 4) == 0.0 and window.held == 0


def test_more_than_the_limit_under_way() -> None:
    window = RollingWindow(4, 1.0)
    window.hold(10)
    assert window.wait(99.0) == 1.0
    window.release(99.0, 10)
    assert window.wait(99.5) == pytest.approx(0.5) and window.wait(100.0) == 0.0


@pytest.mark.parametrize("seed", range(10))
def test_no_window_of_the_peer_ever_holds_more_than_the_limit(seed: int) -> None:
    """Whenever what was sent arrives, as long as that is before its answer does: the peer's windows count
    what arrives."""
    dice = random.Random(seed)
    limit, seconds = dice.choice(((4, 1.0), (10, 1.0), (1, 0.3)))
    window = RollingWindow(limit, seconds)
    now = 0.0
    under_way: list[tuple[float, float, int]] = []      # (answered, arrives, units)
    arrived: list[tuple[float, int]] = []
    for _ in range(1000):
        units = dice.randrange(1, min(limit, 5) + 1)
        while wait := window.wait(now, units):
            assert wait <= seconds + 0.001
            now += wait
            under_way.sort()
            while under_way and under_way[0][0] <= now:
                answered, arrives, amount = under_way.pop(0)
                window.release(answered, amount)
                arrived.append((arrives, amount))
        window.hold(units)
        took = dice.choice((0.0, 0.1, 1.0, 4.0)) * seconds * dice.random()
        under_way.append((now + took, now + took * dice.random(), units))
        now += dice.choice((0.0, 0.0, 0.1)) * seconds * dice.random()
    arrived.sort()
    assert len(arrived) > 900
    for end, _ in arrived:
        assert sum(amount for when, amount in arrived if end - seconds < when <= end) <= limit


@pytest.mark.parametrize("seed", range(10))
def test_no_window_ever_holds_more_than_the_limit(seed: int) -> None:
    """Whatever the pattern of wishes: in any window of that length there are at most so many."""
    dice = random.Random(seed)
    limit, seconds = dice.choice(((4, 1.0), (10, 1.0), (100, 60.0), (1, 0.3)))
    window = RollingWindow(limit, seconds)
    now = 0.0
    spent: list[tuple[float, int]] = []
    for _ in range(2000):
        now += dice.choice((0.0, 0.0, dice.random() * seconds / limit, dice.random() * seconds * 2))
        units = dice.randrange(1, min(limit, 5) + 1)
        wait = window.wait(now, units)
        if wait and dice.random() < 0.5:
            now += wait
            wait = window.wait(now, units)
            assert wait < 0.01, "it said when"
        if not wait:
            window.spend(now, units)
            spent.append((now, units))
            inside = sum(count for when, count in spent[-500:] if when > now - seconds)
            assert inside <= limit
