from __future__ import annotations

import functools
import itertools
import logging
import re
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from streams import listeners, queues
from streams.errors import ConfigurationError
from streams.events import Bar, Event, StatusChange, Trade
from streams.handlers import POLICIES, Handlers
from streams.metrics import InMemoryMetrics

from .tools import at_every_step

LIMIT = 20.0  # seconds until a test that waits has failed
TOPIC = "binance.trades.BTC-USDT"
QUEUED = [policy for policy in POLICIES if policy != "inline"]


def trade(number: float, symbol: str = "BTC-USDT") -> Trade:
    return Trade(exchange="binance", symbol=symbol, price=float(number), size=1.0)


def eventually(true, what="it"):
    """Wait for something that another thread does and that nothing announces."""
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        threading.Event().wait(0.002)


class Gate:
    """A handler that stands still until it is let go; keeps what it got."""

    __name__ = __qualname__ = "gate"

    def __init__(self):
        self.entered = threading.Event()
        self.go = threading.Event()
        self.got: list[Event] = []

    def __call__(self, event):
        self.entered.set()
        assert self.go.wait(LIMIT)
        self.got.append(event)

    @property
    def prices(self):
        return [event.price for event in self.got if isinstance(event, Trade)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(LIMIT)
    assert not [thread for thread in left if thread.is_alive()]


@contextmanager
def registry(**options):
    handlers = Handlers(**options)
    try:
        yield handlers
    finally:
        assert handlers.close(LIMIT)


def one(handlers, topic=TOPIC):
    (listener,) = handlers.listeners(topic)
    return listener


def numbers(handlers, name=None):
    (status,) = [entry for entry in handlers.status() if name in (None, entry["name"])]
    return status


class TestRegistering:
    def test_patterns_are_matched_against_the_whole_topic(self):
        with registry() as handlers:
            handlers.on(r"binance\.trades\..+", print, name="trades")
            handlers.on(re.compile(r".*BTC-USDT"), print, name="btc")
            handlers.on(r"binance\..+\.BTC", print, name="nothing")
            assert [found.name for found in handlers.listeners(TOPIC)] == ["trades", "btc"]
            assert [found.name for found in handlers.listeners("binance.trades.ETH-USDT")] == ["trades"]

    def test_as_a_call_and_as_a_decorator(self):
        with registry() as handlers:
            assert handlers.on(".*", print) is print

            @handlers.on(r"x\..*", policy="conflate", maxsize=5)
            def note(event):
                """Keeps its name."""

            assert note.__name__ == "note"
            assert numbers(handlers, "print")["policy"] == "drop_oldest"
            assert handlers.status()[1]["policy"] == "conflate"
            assert handlers.status()[1]["name"].endswith("note")

    def test_names_are_unique(self):
        with registry() as handlers:
            for _ in range(3):
                handlers.on(".*", print)
            assert [entry["name"] for entry in handlers.status()] == ["print", "print-2", "print-3"]

    def test_version_rises_with_every_change(self):
        with registry() as handlers:
            versions = [handlers.version]
            handlers.on(".*", print)
            versions.append(handlers.version)
            handlers.off(print)
            versions.append(handlers.version)
            handlers.off(print)
            assert versions == sorted(set(versions)) and versions[-1] == handlers.version

    def test_off_removes_all_of_a_handler(self):
        class Desk:
            def note(self, event):
                """A bound method is a new object at each access."""

        desk, other = Desk(), Desk()
        with registry() as handlers:
            handlers.on("a.+", desk.note)
            handlers.on("b.+", desk.note)
            handlers.on("a.+", other.note)
            assert handlers.off(desk.note) is True
            assert len(handlers.status()) == 1
            assert handlers.off(desk.note) is False

    def test_nothing_runs_before_the_first_event(self):
        before = threading.active_count()
        with registry() as handlers:
            for policy in POLICIES:
                handlers.on(".*", print, policy=policy)
            assert threading.active_count() == before

    @pytest.mark.parametrize("arguments, message", [
        (dict(pattern="*.trades", handler=print), r"'\*\.trades' is no regular expression"),
        (dict(pattern=b"x", handler=print), "must be a regular expression"),
        (dict(pattern=re.compile(b"x"), handler=print), "must be a regular expression"),
        (dict(pattern=".+", handler="print"), "must be a function"),
        (dict(pattern=".+", handler=print, policy="drop_odlest"), "did you mean 'drop_oldest'"),
        (dict(pattern=".+", handler=print, policy=None), "there are drop_oldest, drop_newest"),
        (dict(pattern=".+", handler=print, maxsize=0), "maxsize must be a number of events"),
        (dict(pattern=".+", handler=print, maxsize=2.5), "maxsize must be a number of events"),
        (dict(pattern=".+", handler=print, maxsize=True), "maxsize must be a number of events"),
        (dict(pattern=".+", handler=print, name=""), "name must be a text"),
        (dict(pattern=".+", handler=print, block_timeout=-1), "block_timeout must be seconds"),
        (dict(pattern=".+", handler=print, block_timeout=float("nan")), "block_timeout must be seconds"),
    ])
    def test_mistakes_fail_at_the_call(self, arguments, message):
        handlers = Handlers()
        with pytest.raises(ConfigurationError, match=message) as caught:
            handlers.on(**arguments)
        assert "\n" not in str(caught.value)
        assert handlers.status() == []

    def test_coroutines_are_refused(self):
        async def note(event):
            """No event loop would ever run this."""

        with pytest.raises(ConfigurationError, match="plain functions"):
            Handlers().on(".*", note)

    def test_generators_are_refused(self):
        def note(event):
            yield event             # its body would never run

        async def later(event):
            yield event
        for handler in (note, later):
            with pytest.raises(ConfigurationError, match="generator function: handlers are plain functions"):
                Handlers().on(".*", handler)

    def test_what_can_not_take_one_event_is_refused(self):
        class Desk:
            def note(self):
                """Wants no event."""

            def both(self, event, more):
                """Wants something else."""

            def right(self, event, more=None):
                """May be called with an event."""

        desk, handlers = Desk(), Handlers()
        for handler in (lambda: None, desk.note, desk.both, functools.partial(desk.right, 1, 2)):
            with pytest.raises(ConfigurationError, match="can not be called with one event: it takes"):
                handlers.on(".*", handler)
        for handler in (desk.right, functools.partial(desk.both, more=1), [].append, str, iter, print):
            assert handlers.on(".*", handler) == handler


class TestPolicies:
    def offer_full(self, policy, count=10, maxsize=4):
        """``count`` events while the handler stands in the first one; then let it go."""
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate, policy=policy, maxsize=maxsize, block_timeout=0.01)
        listener = one(handlers)
        listener.offer(trade(0))
        assert gate.entered.wait(LIMIT)
        for number in range(1, count):
            listener.offer(trade(number))
            assert listener.status()["queued"] <= maxsize
        gate.go.set()
        assert handlers.close(LIMIT)
        return gate.prices, numbers(handlers)

    def test_drop_oldest(self):
        prices, status = self.offer_full("drop_oldest")
        assert prices == [0, 6, 7, 8, 9]
        assert (status["handled"], status["dropped"]) == (5, 5)

    def test_drop_newest(self):
        prices, status = self.offer_full("drop_newest")
        assert prices == [0, 1, 2, 3, 4]
        assert (status["handled"], status["dropped"]) == (5, 5)

    def test_block_gives_up_after_its_time(self):
        prices, status = self.offer_full("block")
        assert prices == [0, 1, 2, 3, 4]
        assert (status["handled"], status["dropped"]) == (5, 5)

    def test_conflate_keeps_the_latest(self):
        prices, status = self.offer_full("conflate")
        assert prices == [0, 9]
        assert (status["handled"], status["dropped"], status["conflated"]) == (2, 0, 8)

    def test_conflate_tells_apart_what_differs(self):
        handlers, gate = Handlers(), Gate()
        handlers.on(".*", gate, policy="conflate")
        listener = one(handlers)
        listener.offer(trade(0))
        assert gate.entered.wait(LIMIT)

        def bar(interval, close):
            return Bar(exchange="binance", symbol="BTC-USDT", interval=interval, start=0,
                       open=1.0, high=1.0, low=1.0, close=close)

        other = Trade(exchange="huobi", symbol="BTC-USDT", price=5.0, size=1.0)
        for event in (trade(1), trade(1, "ETH-USDT"), other, bar("1m", 1.0), bar("5m", 1.0), trade(2),
                      bar("1m", 2.0)):
            listener.offer(event)
        gate.go.set()
        assert handlers.close(LIMIT)
        assert gate.got[1:] == [
            trade(2), trade(1, "ETH-USDT"), other, bar("1m", 2.0), bar("5m", 1.0)]
        assert numbers(handlers)["conflated"] == 2

    def test_conflate_is_bounded_too(self):
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate, policy="conflate", maxsize=3)
        listener = one(handlers)
        listener.offer(trade(0))
        assert gate.entered.wait(LIMIT)
        for number in range(10):
            listener.offer(trade(number, f"S{number}"))
            assert listener.status()["queued"] <= 3
        gate.go.set()
        assert handlers.close(LIMIT)
        assert [event.symbol for event in gate.got] == ["BTC-USDT", "S7", "S8", "S9"]
        assert numbers(handlers)["dropped"] == 7

    @pytest.mark.parametrize("policy, lost", [
        ("drop_oldest", {"huobi": 2, "binance": 1}), ("conflate", {"huobi": 2, "binance": 1}),
        ("drop_newest", {"huobi": 0, "binance": 3}), ("block", {"huobi": 0, "binance": 3})])
    def test_what_is_lost_is_counted_by_exchange(self, policy, lost):
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate, policy=policy, maxsize=2, block_timeout=0.01)
        listener = one(handlers)
        listener.offer(trade(0))
        assert gate.entered.wait(LIMIT)
        for exchange, symbol in [("huobi", "A"), ("huobi", "B"), ("binance", "C"), ("binance", "D"),
                                 ("binance", "E")]:
            listener.offer(Trade(exchange=exchange, symbol=symbol, price=1.0, size=1.0))
        assert {exchange: handlers.dropped(exchange) for exchange in lost} == lost
        worker = listener.worker()
        assert handlers.close(0.1) is False         # what waits is dropped, too
        gate.go.set()
        worker.join(LIMIT)
        assert [handlers.dropped(exchange) for exchange in ("huobi", "binance", "kraken")] == [2, 3, 0]
        assert numbers(handlers)["dropped"] == 5

    def test_inline_runs_in_the_thread_that_offers(self):
        with registry() as handlers:
            seen = []
            handlers.on(".*", lambda event: seen.append(threading.current_thread()), policy="inline")
            one(handlers).offer(trade(1))
            assert seen == [threading.current_thread()]
            assert numbers(handlers)["handled"] == 1

    @pytest.mark.parametrize("policy", QUEUED)
    def test_the_others_run_in_a_thread_of_their_own_in_order(self, policy):
        got = []
        done = threading.Event()

        def note(event):
            got.append((event.price, threading.current_thread().name))
            if event.price == 499:
                done.set()

        with registry() as handlers:
            handlers.on(".*", note, policy=policy, name="mine", maxsize=500)
            listener = one(handlers)
            for number in range(500):
                listener.offer(trade(number, f"S{number}"))
            assert done.wait(LIMIT)
        assert [price for price, _ in got] == list(range(500))
        assert {name for _, name in got} == {"streams-handler-mine"}

    @pytest.mark.parametrize("policy", QUEUED)
    def test_an_idle_worker_is_woken_by_each_event(self, policy):
        got = threading.Semaphore(0)
        with registry() as handlers:
            handlers.on(".*", lambda event: got.release(), policy=policy)
            listener = one(handlers)
            for number in range(300):
                listener.offer(trade(number))
                assert got.acquire(timeout=LIMIT), f"event {number} did not wake the worker"
        assert numbers(handlers)["handled"] == 300


class TestBlock:
    def test_an_offer_waits_for_room(self):
        with registry() as handlers:
            gate = Gate()
            handlers.on(".*", gate, policy="block", maxsize=1, block_timeout=LIMIT)
            listener = one(handlers)
            listener.offer(trade(0))
            assert gate.entered.wait(LIMIT)
            listener.offer(trade(1))
            offering = threading.Thread(target=listener.offer, args=(trade(2),))
            offering.start()
            eventually(lambda: listener._waiting == 1, "the wait")
            assert listener.status()["queued"] == 1
            gate.go.set()
            offering.join(LIMIT)
        assert gate.prices == [0, 1, 2]
        assert numbers(handlers)["dropped"] == 0

    def test_one_that_hangs_costs_one_time_out(self):
        with registry() as handlers:
            gate = Gate()
            handlers.on(r".*\.trades\..*", gate, policy="block", maxsize=1, block_timeout=0.3)
            listener = one(handlers)
            listener.offer(trade(0))
            assert gate.entered.wait(LIMIT)
            begun = time.monotonic()
            for number in range(1, 101):
                listener.offer(trade(number))
            took = time.monotonic() - begun
            assert 0.29 < took < 5, "100 offers: 0.3 s when one of them waits, 30 s when all do"
            assert listener.status()["dropped"] == 99
            gate.go.set()

    def test_after_progress_it_waits_again(self):
        with registry() as handlers:
            step, entered = threading.Semaphore(0), threading.Semaphore(0)

            def slow(event):
                entered.release()
                assert step.acquire(timeout=LIMIT)

            handlers.on(r".*\.trades\..*", slow, policy="block", maxsize=1, block_timeout=0.2)
            listener = one(handlers)
            listener.offer(trade(0))
            assert entered.acquire(timeout=LIMIT)
            listener.offer(trade(1))
            listener.offer(trade(2))  # runs out of time
            assert listener.status()["dropped"] == 1
            step.release()
            assert entered.acquire(timeout=LIMIT)
            listener.offer(trade(3))
            begun = time.monotonic()
            listener.offer(trade(4))
            assert time.monotonic() - begun > 0.19
            assert listener.status()["dropped"] == 2
            step.release(10)

    def test_unblock_releases_the_thread_that_waits(self):
        with registry() as handlers:
            gate = Gate()
            handlers.on(r".*\.trades\..*", gate, policy="block", maxsize=1, block_timeout=LIMIT)
            listener = one(handlers)

            def offering():
                for number in range(5):
                    listener.offer(trade(number))

            thread = threading.Thread(target=offering)
            thread.start()
            eventually(lambda: listener._waiting == 1, "the wait")
            handlers.unblock(thread.ident)
            thread.join(LIMIT / 4)
            assert not thread.is_alive(), "still waiting"
            handlers.reblock(thread.ident)
            assert not handlers.hurried
            gate.go.set()
        assert numbers(handlers)["handled"] + numbers(handlers)["dropped"] == 5

    def test_a_handler_never_waits_for_itself(self):
        with registry() as handlers:
            done = threading.Event()
            listener = None

            def echo(event):
                if event.price == 0:
                    for number in range(1, 4):
                        listener.offer(trade(number))
                    done.set()

            handlers.on(r".*\.trades\..*", echo, policy="block", maxsize=1, block_timeout=LIMIT)
            listener = one(handlers)
            listener.offer(trade(0))
            assert done.wait(LIMIT / 4)
        assert (numbers(handlers)["handled"], numbers(handlers)["dropped"]) == (2, 2)


class TestIsolation:
    def test_a_slow_handler_disturbs_nobody(self):
        """2,000 events to one handler that stands still and one that does not."""
        with registry() as handlers:
            gate, quick = Gate(), []
            arrived = threading.Event()

            def note(event):
                quick.append(event.price)
                if len(quick) == 2000:
                    arrived.set()

            handlers.on(r".*\.trades\..*", gate, name="slow", maxsize=100)
            handlers.on(r".*\.trades\..*", note, name="quick", maxsize=2000)
            slow, fast = handlers.listeners(TOPIC)
            slow.offer(trade(0))
            assert gate.entered.wait(LIMIT)
            begun = time.monotonic()
            for number in range(2000):
                slow.offer(trade(number))
                fast.offer(trade(number))
            took = time.monotonic() - begun
            assert arrived.wait(LIMIT)
            assert quick == list(range(2000))
            assert took < 2.0, "offering to a handler that stands still must cost next to nothing"
            assert numbers(handlers, "slow")["dropped"] == 1900
            assert numbers(handlers, "slow")["queued"] == 100
            assert numbers(handlers, "slow")["running"] > 0
            gate.go.set()
        assert numbers(handlers, "slow")["handled"] == 101
        assert gate.prices[1:] == list(range(1900, 2000))

    @pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "conflate"])
    def test_memory_is_bounded(self, policy):
        with registry() as handlers:
            gate = Gate()
            handlers.on(r".*\.trades\..*", gate, policy=policy, maxsize=50)
            listener = one(handlers)
            listener.offer(trade(0))
            assert gate.entered.wait(LIMIT)
            event = trade(1)
            before = sys.getrefcount(event)
            for _ in range(20_000):
                listener.offer(event)
            assert sys.getrefcount(event) - before <= 50
            gate.go.set()


class TestExceptions:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_are_logged_by_name_and_counted_and_the_handler_goes_on(self, policy, caplog):
        metrics = InMemoryMetrics()
        with registry(metrics=metrics) as handlers:
            got = []

            def fragile(event):
                got.append(event.price)
                if event.price % 2:
                    raise ValueError(f"no odd prices: {event.price}")

            handlers.on(".*", fragile, policy=policy, name="fragile", maxsize=100)
            listener = one(handlers)
            with caplog.at_level(logging.ERROR, "streams.handlers"):
                for number in range(10):
                    listener.offer(trade(number, f"S{number}"))
                eventually(lambda: len(got) == 10, "all of them")
        assert numbers(handlers)["errors"] == 5
        assert numbers(handlers)["handled"] == 10
        (record,) = caplog.records  # one traceback, not five
        assert "'fragile' raised ValueError" in record.getMessage()
        assert record.exc_info[0] is ValueError
        assert metrics.get("handler_errors", handler="fragile") == 5

    @pytest.mark.parametrize("policy", POLICIES)
    def test_not_even_sys_exit_ends_a_thread(self, policy):
        with registry() as handlers:
            got = threading.Semaphore(0)

            def leave(event):
                got.release()
                sys.exit("enough")

            handlers.on(".*", leave, policy=policy)
            listener = one(handlers)
            for number in range(3):
                listener.offer(trade(number))
                assert got.acquire(timeout=LIMIT)
        assert numbers(handlers)["errors"] == 3

    @pytest.mark.parametrize("policy", QUEUED)
    def test_no_thread_to_be_had(self, policy, monkeypatch, caplog):
        with registry() as handlers:
            got = []
            handlers.on(r".*\.trades\..*", got.append, policy=policy)
            listener = one(handlers)
            with monkeypatch.context() as patch:
                def refuse(thread):
                    raise RuntimeError("can't start new thread")

                patch.setattr(threading.Thread, "start", refuse)
                listener.offer(trade(1, "A"))
            assert "can't start new thread" in caplog.text
            listener.offer(trade(2, "B"))
            eventually(lambda: len(got) == 2, "both events")


class TestAnnouncements:
    def status_of(self, handlers):
        changes = []
        handlers.on(r".*\.status\..+", changes.append, policy="inline", name="watcher")
        return changes

    def test_drops_are_announced_once_a_second_not_per_event(self, caplog):
        with registry() as handlers:
            changes, gate = self.status_of(handlers), Gate()
            handlers.on(r".*\.trades\..*", gate, name="slow", maxsize=5)
            listener = one(handlers)
            begun = time.monotonic()
            for number in range(1000):
                listener.offer(trade(number))
            seconds = time.monotonic() - begun
            gate.go.set()
            first = changes[0]
            assert isinstance(first, StatusChange)
            assert (first.exchange, first.symbol, first.subject) == ("binance", "", "handler")
            assert (first.status, first.previous) == ("dropping", "")
            assert "'slow'" in first.reason and "drop_oldest" in first.reason
            assert first.received > 0
            dropping = [change for change in changes if change.status == "dropping"]
            assert len(dropping) <= 2 + seconds
            warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
            assert len(warnings) == 1 and "'slow'" in warnings[0].getMessage()

    def test_and_so_is_the_recovery(self, monkeypatch):
        for module in (listeners, queues):
            monkeypatch.setattr(module, "REPORT_EVERY", 0.05)
        with registry() as handlers:
            changes, gate = self.status_of(handlers), Gate()
            handlers.on(r".*\.trades\..*", gate, name="slow", maxsize=5)
            for number in range(100):
                one(handlers).offer(trade(number))
            gate.go.set()
            eventually(lambda: changes[-1].status == "recovered", "the recovery")
            lost = numbers(handlers, "slow")["dropped"]
            assert lost in (94, 95)
            assert changes[-1].previous == "dropping"
            assert f"{lost} events dropped in all" in changes[-1].reason

    def test_a_handler_that_drops_announcements_does_not_announce_that(self, monkeypatch):
        monkeypatch.setattr(listeners, "REPORT_EVERY", 0.0)  # every drop is announced: without end?
        with registry() as handlers:
            gate = Gate()
            handlers.on(".*", gate, name="all", maxsize=1)
            listener = one(handlers)
            for number in range(50):
                listener.offer(trade(number))
            gate.go.set()
        status = numbers(handlers)
        assert status["errors"] == 0
        assert 20 <= status["handled"] + status["dropped"] - 50 <= 51

    def test_one_who_fails_to_hear_of_it_harms_no_offer(self, caplog):
        class Broken:
            def inc(self, name, value=1, **labels):
                raise OSError("no metrics today")

            set_gauge = inc

        def broken(change):
            raise OSError("no announcements today")

        with registry(metrics=Broken()) as handlers:
            gate = Gate()
            handlers.on(r".*\.status\..+", broken, policy="inline")
            handlers.on(r".*\.trades\..*", gate, maxsize=1)
            for number in range(10):
                one(handlers).offer(trade(number))
            gate.go.set()
        assert "no metrics today" in caplog.text and "no announcements today" in caplog.text

    def test_a_slow_inline_handler_is_reported_by_name(self, monkeypatch, caplog):
        monkeypatch.setattr(listeners, "SLOW_INLINE", 0.0)
        with registry() as handlers:
            changes = []
            handlers.on(r".*\.status\..+", changes.append, name="watcher")
            handlers.on(r".*\.trades\..*", lambda event: None, policy="inline", name="thinker")
            for number in range(100):
                one(handlers).offer(trade(number))
            eventually(lambda: changes, "the report")
        assert [change.status for change in changes] == ["slow"] * len(changes)
        assert len(changes) < 10
        assert "'thinker' held up its stream" in changes[0].reason
        assert "'thinker' held up its stream" in caplog.text
        assert numbers(handlers, "thinker")["slowest"] > 0


class TestMetrics:
    def test_those_that_raise_are_not_logged_again_and_again(self, caplog):
        class Broken:
            def inc(self, name, value=1, **labels):
                raise OSError("no metrics today")

            set_gauge = inc

        with registry(metrics=Broken()) as handlers:
            for name in "abc":
                handlers.on(r".*\.trades\..*", lambda event: None, name=name, policy="inline")
            for _ in range(20):
                for listener in handlers.listeners(TOPIC):
                    listener.offer(trade(1))
                    listener.report()
        assert len(caplog.records) == 1 and "no metrics today" in caplog.text

    @pytest.mark.parametrize("policy", QUEUED)
    def test_drops_to_the_unit(self, policy):
        metrics = InMemoryMetrics()
        with registry(metrics=metrics) as handlers:
            gate = Gate()
            handlers.on(r".*\.trades\..*", gate, policy=policy, name="slow", maxsize=3,
                        block_timeout=0.01)
            for number in range(100):
                one(handlers).offer(trade(number, f"S{number}"))
            gate.go.set()
        status = numbers(handlers)
        assert status["dropped"] > 0
        assert metrics.get("drops", handler="slow") == status["dropped"]
        assert metrics.get("handler_seconds", handler="slow") == pytest.approx(status["seconds"])
        assert metrics.get("queue_depth", handler="slow") == 0

    def test_a_busy_handler_reports_while_it_works(self, monkeypatch):
        for module in (listeners, queues):
            monkeypatch.setattr(module, "REPORT_EVERY", 0.01)
        metrics = InMemoryMetrics()
        with registry(metrics=metrics) as handlers:
            handlers.on(".*", lambda event: None, name="queued")
            handlers.on(".*", lambda event: None, name="inline", policy="inline")
            for listener in handlers.listeners(TOPIC):
                listener.offer(trade(1))
            eventually(lambda: metrics.get("handler_seconds", handler="queued") > 0, "the report")
            assert metrics.get("handler_seconds", handler="inline") > 0


class TestFromWithin:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_a_handler_may_remove_itself(self, policy):
        handlers = Handlers()
        got = []

        def once(event):
            got.append(event.price)
            assert handlers.off(once)

        handlers.on(r".*\.trades\..*", once, policy=policy)
        listener = one(handlers)
        for number in range(20):
            listener.offer(trade(number, f"S{number}"))
        eventually(lambda: listener.worker() is None, "the end of its thread")
        listener.offer(trade(99))
        assert got == [0]
        assert handlers.listeners(TOPIC) == ()
        assert listener.queued() == 0
        assert handlers.close(LIMIT)

    @pytest.mark.parametrize("policy", POLICIES)
    def test_a_handler_may_close_the_registry(self, policy):
        handlers = Handlers()
        answers = []

        def end(event):
            answers.append(handlers.close(LIMIT / 4))

        handlers.on(r".*\.trades\..*", end, policy=policy)
        one(handlers).offer(trade(1))
        eventually(lambda: answers, "the end")
        assert answers == [True]
        assert handlers.close(LIMIT)

    def test_two_handlers_that_close_do_not_wait_for_each_other(self):
        handlers = Handlers()
        both = threading.Barrier(2)
        took = []

        def end(event):
            both.wait(LIMIT)
            begun = time.monotonic()
            assert handlers.close(LIMIT)
            took.append(time.monotonic() - begun)

        handlers.on(".*", end, name="a")
        handlers.on(".*", end, name="b")
        for listener in handlers.listeners(TOPIC):
            listener.offer(trade(1))
        eventually(lambda: len(took) == 2, "both ends")
        assert max(took) < LIMIT / 4
        assert handlers.close(LIMIT)

    def test_a_handler_may_close_and_open_again(self):
        handlers = Handlers()
        got = []

        def restart(event):
            got.append(event.price)
            if event.price == 1:
                handlers.close(LIMIT)
                handlers.open()

        handlers.on(r".*\.trades\..*", restart)
        one(handlers).offer(trade(1))
        eventually(lambda: got and not numbers(handlers)["running"], "the restart")
        one(handlers).offer(trade(2))
        eventually(lambda: got == [1, 2], "the event after it")
        assert handlers.close(LIMIT)

    def test_a_handler_may_register_and_remove_others(self):
        with registry() as handlers:
            late = []

            def grow(event):
                handlers.on(r".*\.trades\..*", late.append, name="late")
                handlers.off(grow)

            handlers.on(r".*\.trades\..*", grow, name="grow")
            one(handlers).offer(trade(1))
            eventually(lambda: [entry["name"] for entry in handlers.status()] == ["late"], "the change")
            one(handlers).offer(trade(2))
            eventually(lambda: late == [trade(2)], "its event")


class TestClosing:
    @pytest.mark.parametrize("policy", ["drop_oldest", "block"])
    def test_a_signal_handler_may_close_in_the_middle_of_anything(self, policy):
        def act(handlers):
            one(handlers).offer(trade(0))
            one(handlers).offer(trade(1))
            handlers.close(0.02)
            handlers.open()

        for when in itertools.count(1):
            handlers, steps, struck = Handlers(), itertools.count(1), []
            handlers.on(r".*\.trades\..*", lambda event: None, policy=policy, maxsize=1)

            def strike():
                if next(steps) == when:
                    struck.append(handlers.close(0.01))     # not ended if it needs what was interrupted

            thread = threading.Thread(target=at_every_step, args=(lambda: act(handlers), strike), daemon=True)
            thread.start()
            thread.join(LIMIT)
            assert not thread.is_alive(), "dead-locked"
            assert handlers.close(LIMIT)
            if next(steps) <= when:
                break
            assert struck, "an exception"
        assert when > 100

    @pytest.mark.parametrize("policy", QUEUED)
    def test_finishes_what_waits(self, policy):
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate, policy=policy)
        for number in range(10):
            one(handlers).offer(trade(number, f"S{number}"))
        threading.Timer(0.05, gate.go.set).start()
        assert handlers.close(LIMIT)
        assert gate.prices == list(range(10))
        assert numbers(handlers)["dropped"] == 0

    def test_opened_again_while_it_closes(self):
        """close() is waiting for a handler, and that handler starts everything anew."""
        handlers = Handlers()
        got, go = [], threading.Event()

        def restart(event):
            got.append(event.price)
            if event.price == 1:
                assert go.wait(LIMIT)
                handlers.open()

        handlers.on(r".*\.trades\..*", restart)
        one(handlers).offer(trade(1))
        eventually(lambda: got, "the call")
        closing = threading.Thread(target=handlers.close, args=(0.5,))
        closing.start()
        eventually(lambda: handlers._mode != listeners.OPEN, "the closing")
        go.set()
        closing.join(LIMIT)
        one(handlers).offer(trade(2))
        eventually(lambda: got == [1, 2], "the event after it")
        assert handlers.close(LIMIT)

    def test_within_the_time_it_was_given(self):
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate)
        for number in range(10):
            one(handlers).offer(trade(number))
        assert gate.entered.wait(LIMIT)
        begun = time.monotonic()
        assert handlers.close(0.3) is False
        assert 0.25 < time.monotonic() - begun < 5
        gate.go.set()
        eventually(lambda: numbers(handlers)["dropped"] == 9, "the end")
        assert handlers.close(LIMIT) is True
        assert gate.prices == [0]

    def test_while_an_offer_waits(self):
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate, policy="block", maxsize=1, block_timeout=LIMIT)
        listener = one(handlers)

        def offering():
            for number in range(3):
                listener.offer(trade(number))

        thread = threading.Thread(target=offering)
        thread.start()
        eventually(lambda: listener._waiting == 1, "the wait")
        assert handlers.close(0.1) is False
        thread.join(LIMIT / 4)
        assert not thread.is_alive(), "still waiting"
        gate.go.set()
        eventually(lambda: listener.worker() is None, "the end")
        assert handlers.close(LIMIT)

    def test_what_is_offered_later_is_dropped_and_counted(self):
        for policy in QUEUED:
            handlers = Handlers()
            handlers.on(r".*\.trades\..*", print, policy=policy)
            assert handlers.close(LIMIT)
            for number in range(5):
                one(handlers).offer(trade(number, f"S{number}"))
            assert (numbers(handlers)["dropped"], numbers(handlers)["queued"]) == (5, 0)

    @pytest.mark.parametrize("policy", POLICIES)
    def test_can_be_opened_again(self, policy):
        handlers = Handlers()
        got = []
        handlers.on(r".*\.trades\..*", got.append, policy=policy)
        for number in range(3):
            one(handlers).offer(trade(number, f"S{number}"))
            assert handlers.close(LIMIT)
            handlers.open()
        assert [event.price for event in got] == [0, 1, 2]
        assert handlers.close(LIMIT)

    def test_off_ends_the_thread_of_an_idle_handler(self):
        handlers = Handlers()
        got = []
        handlers.on(r".*\.trades\..*", got.append)
        listener = one(handlers)
        listener.offer(trade(1))
        eventually(lambda: got, "the event")
        thread = listener.worker()
        assert handlers.off(got.append)
        thread.join(LIMIT)
        assert not thread.is_alive()

    def test_close_waits_for_threads_of_removed_handlers_too(self):
        handlers, gate = Handlers(), Gate()
        handlers.on(r".*\.trades\..*", gate)
        listener = one(handlers)
        listener.offer(trade(1))
        assert gate.entered.wait(LIMIT)
        thread = listener.worker()
        handlers.off(gate)
        assert handlers.close(0.05) is False
        gate.go.set()
        assert handlers.close(LIMIT) is True
        assert not thread.is_alive()


class TestStress:
    @pytest.mark.parametrize("policy", POLICIES)
    def test_every_event_is_accounted_for(self, policy):
        """Several threads offer to one handler as fast as they can: none is lost or counted twice."""
        handlers = Handlers()
        seen: list[float] = []
        handlers.on(r".*\.trades\..*", lambda event: seen.append(event.price), policy=policy, maxsize=16,
                    block_timeout=0.001)
        listener = one(handlers)
        each, offerers = 3000, 4
        start = threading.Barrier(offerers)

        def offer(base):
            start.wait(LIMIT)
            for number in range(base, base + each):
                listener.offer(trade(number, f"S{number % 40}"))

        threads = [threading.Thread(target=offer, args=(index * each,)) for index in range(offerers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert handlers.close(LIMIT)
        status = numbers(handlers)
        assert status["queued"] == 0
        assert status["handled"] == len(seen) == len(set(seen))
        assert status["handled"] + status["dropped"] + status["conflated"] == each * offerers

    def test_registering_removing_offering_and_closing_at_once(self):
        handlers = Handlers()
        stop = threading.Event()
        failures = []

        def guarded(function):
            def run():
                try:
                    while not stop.is_set():
                        function()
                except BaseException as error:
                    failures.append(error)
                    raise
            return threading.Thread(target=run)

        def offer():
            for listener in handlers.listeners(TOPIC):
                listener.offer(trade(1))

        def change():
            def note(event):
                if event.price < 0:
                    handlers.off(note)

            for policy in POLICIES:
                handlers.on(".*", note, policy=policy, maxsize=2, block_timeout=0.001)
            handlers.off(note)

        def reopen():
            handlers.close(0.01)
            handlers.open()

        threads = [guarded(work) for work in (offer, offer, change, change, reopen)]
        for thread in threads:
            thread.start()
        stop.wait(1.0)
        stop.set()
        for thread in threads:
            thread.join(LIMIT)
        assert not failures and not any(thread.is_alive() for thread in threads)
        assert handlers.close(LIMIT)
        assert handlers.status() == []
