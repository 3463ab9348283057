from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import pytest

from streams.errors import ConfigurationError, MissingDependency
from streams.metrics import METRICS, InMemoryMetrics, Metrics, NoMetrics, PrometheusMetrics

from .tools import at_every_step


@pytest.fixture
def registry():
    return pytest.importorskip("prometheus_client").CollectorRegistry()


def exposition(registry):
    from prometheus_client import generate_latest
    return generate_latest(registry).decode().splitlines()


class TestInMemory:
    def test_counts_by_label_and_in_total(self):
        metrics = InMemoryMetrics()
        metrics.inc("messages", 3, exchange="binance", stream="a")
        metrics.inc("messages", exchange="binance", stream="b")
        metrics.inc("messages", 10, stream="c", exchange="huobi")
        assert metrics.get("messages") == 14
        assert metrics.get("messages", exchange="binance") == 4
        assert metrics.get("messages", stream="b", exchange="binance") == 1
        assert metrics.get("messages", exchange="kraken") == 0
        assert metrics.get("gaps") == 0

    def test_gauges_are_set(self):
        metrics = InMemoryMetrics()
        metrics.set_gauge("queue_depth", 5, handler="h")
        metrics.set_gauge("queue_depth", 2, handler="h")
        assert metrics.get("queue_depth", handler="h") == 2

    def test_a_label_not_given_is_empty(self):
        metrics = InMemoryMetrics()
        metrics.inc("gaps", exchange="binance")
        assert metrics.snapshot() == {"gaps": {("binance", ""): 1}}

    def test_a_snapshot_is_a_copy(self):
        metrics = InMemoryMetrics()
        metrics.inc("drops", handler="h")
        before = metrics.snapshot()
        metrics.inc("drops", handler="h")
        assert before == {"drops": {("h",): 1}}

    def test_no_count_is_lost_between_threads(self):
        metrics = InMemoryMetrics()
        start = threading.Barrier(8)

        def count():
            start.wait(10)
            for _ in range(2000):
                metrics.inc("messages", exchange="x", stream="s")

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert metrics.get("messages") == 16000

    @pytest.mark.parametrize("call", [
        lambda metrics: metrics.inc("messages", exchange="x", stream="a"),
        lambda metrics: metrics.set_gauge("queue_depth", 3, handler="h"),
        lambda metrics: metrics.get("messages", exchange="x"), lambda metrics: metrics.snapshot(),
    ], ids=["inc", "set_gauge", "get", "snapshot"])
    def test_a_signal_handler_may_stop_streams_whatever_it_has_interrupted(self, call):
        """It waits for their threads, and those count."""
        metrics = InMemoryMetrics()
        metrics.inc("messages", exchange="x", stream="a")
        stopped = []
        with ThreadPoolExecutor(1) as threads:
            def stop():
                counting = threads.submit(metrics.inc, "messages", exchange="x", stream="b")
                stopped.append(all(stopped) and not wait([counting], 5).not_done)

            at_every_step(lambda: call(metrics), stop)
        assert stopped and all(stopped)
        assert metrics.get("messages", stream="b") == len(stopped)


def makers():
    yield "memory", lambda registry: InMemoryMetrics()
    yield "prometheus", lambda registry: PrometheusMetrics(registry)


@pytest.mark.parametrize("make", [maker for _, maker in makers()], ids=[name for name, _ in makers()])
class TestMistakes:
    def test_unknown_name(self, make, registry):
        with pytest.raises(ConfigurationError, match="no metric is called 'mesages'.*messages"):
            make(registry).inc("mesages", exchange="x")

    def test_unknown_label(self, make, registry):
        with pytest.raises(ConfigurationError, match="no label 'venue': it has exchange, stream"):
            make(registry).inc("messages", venue="x")

    def test_wrong_kind(self, make, registry):
        with pytest.raises(ConfigurationError, match="'queue_depth' is a gauge, not a counter"):
            make(registry).inc("queue_depth", handler="x")
        with pytest.raises(ConfigurationError, match="'drops' is a counter, not a gauge"):
            make(registry).set_gauge("drops", 1, handler="x")

    @pytest.mark.parametrize("value", [-1, float("nan")])
    def test_counters_only_rise(self, make, registry, value):
        with pytest.raises(ConfigurationError, match="'drops' can only rise"):
            make(registry).inc("drops", value, handler="x")


class TestPrometheus:
    def test_exposition(self, registry):
        metrics = PrometheusMetrics(registry)
        metrics.inc("messages", 41, exchange="binance", stream="binance-1")
        metrics.inc("messages", stream="binance-1", exchange="binance")
        metrics.inc("drops", 7, handler="slow")
        metrics.set_gauge("last_message_age_seconds", 0.25, exchange="binance", stream="binance-1")
        metrics.set_gauge("state", 1, exchange="binance", stream="binance-1", state="live")
        lines = exposition(registry)
        assert 'streams_messages_total{exchange="binance",stream="binance-1"} 42.0' in lines
        assert 'streams_drops_total{handler="slow"} 7.0' in lines
        assert 'streams_last_message_age_seconds{exchange="binance",stream="binance-1"} 0.25' in lines
        assert 'streams_state{exchange="binance",state="live",stream="binance-1"} 1.0' in lines

    def test_everything_is_declared_from_the_start(self, registry):
        PrometheusMetrics(registry)
        helps = [line for line in exposition(registry) if line.startswith("# HELP streams_")]
        assert len(helps) == len(METRICS)

    def test_two_on_one_registry_share_their_numbers(self, registry):
        PrometheusMetrics(registry).inc("gaps", exchange="x", stream="s")
        PrometheusMetrics(registry).inc("gaps", exchange="x", stream="s")
        assert 'streams_gaps_total{exchange="x",stream="s"} 2.0' in exposition(registry)

    def test_namespace(self, registry):
        PrometheusMetrics(registry, namespace="feeds").inc("gaps", exchange="x", stream="s")
        assert 'feeds_gaps_total{exchange="x",stream="s"} 1.0' in exposition(registry)

    def test_names_that_somebody_else_has_taken(self, registry):
        from prometheus_client import Counter
        Counter("streams_gaps", "not ours", registry=registry)
        before = exposition(registry)
        with pytest.raises(ConfigurationError, match="namespace='streams' can not be used"):
            PrometheusMetrics(registry)
        assert exposition(registry) == before, "half of the metrics were left behind"
        PrometheusMetrics(registry, namespace="other")

    def test_missing_dependency_names_the_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
        with pytest.raises(MissingDependency, match=r"market-streams\[prometheus\]"):
            PrometheusMetrics()


def test_no_metrics_takes_everything():
    metrics: Metrics = NoMetrics()
    metrics.inc("anything", 1, some="label")
    metrics.set_gauge("anything", 1)
