"""Counters and gauges: what the library counts, and where the counts go.

Everything that is measured is declared once, in :data:`METRICS`: its kind, its labels, its meaning.
A metric therefore always has the same labels, whoever sets it. Rates are the reader's business:
counters only rise, gauges say what is.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from .errors import ConfigurationError, MissingDependency

__all__ = ["METRICS", "Guarded", "InMemoryMetrics", "Metric", "Metrics", "NoMetrics", "PrometheusMetrics"]

log = logging.getLogger("streams.metrics")

LOG_EVERY = 60.0        # seconds between two log records about metrics that raise


class Metric(NamedTuple):
    """One declared metric: what it is, which labels it has, what it means."""

    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    help: str


_STREAM = ("exchange", "stream")

METRICS: Mapping[str, Metric] = {
    "starts": Metric("counter", _STREAM, "Streams started."),
    "stops": Metric("counter", _STREAM, "Streams stopped."),
    "connects": Metric("counter", _STREAM, "Connections established."),
    "reconnects": Metric("counter", _STREAM, "Connections established after an earlier one was lost."),
    "messages": Metric("counter", _STREAM, "Messages received."),
    "bytes": Metric("counter", _STREAM, "Bytes of messages received."),
    "errors": Metric("counter", _STREAM, "Connections lost or refused."),
    "malformed": Metric("counter", _STREAM, "Messages that could not be understood."),
    "notices": Metric("counter", _STREAM, "Warnings of the venue."),
    "gaps": Metric("counter", _STREAM, "Jumps in a venue's sequence."),
    "resyncs": Metric("counter", _STREAM, "Order books that had to be rebuilt."),
    "checksum_failures": Metric("counter", _STREAM, "Order books that failed the venue's checksum."),
    "last_message_age_seconds": Metric("gauge", _STREAM, "Seconds since the last message."),
    "state": Metric("gauge", (*_STREAM, "state"), "1 for the state a stream is in, 0 for the others."),
    "rest_requests": Metric("counter", ("exchange", "result"), "REST requests, by how they ended."),
    "implausible": Metric("counter", ("exchange",), "Values refused because they can not be true."),
    "drops": Metric("counter", ("handler",), "Events a handler was too slow for."),
    "handler_errors": Metric("counter", ("handler",), "Exceptions raised by a handler."),
    "handler_seconds": Metric("counter", ("handler",), "Seconds spent in a handler."),
    "queue_depth": Metric("gauge", ("handler",), "Events waiting for a handler."),
}


class Metrics(Protocol):
    """What the library asks of a place for counts. Neither method may block or raise.

    Threads: any, several at once.
    """

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """Add ``value`` (not negative) to a counter."""

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""


class NoMetrics:
    """Counts nothing; the default."""

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """Do nothing. Threads: any."""

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """Do nothing. Threads: any."""


class Guarded:
    """Somebody's metrics, kept from raising: what goes wrong in them is logged, not let into the streams.

    Threads: any.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._log_after = 0.0

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """See :class:`Metrics`."""
        try:
            self._metrics.inc(name, value, **labels)
        except Exception:
            self._failed(name)

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """See :class:`Metrics`."""
        try:
            self._metrics.set_gauge(name, value, **labels)
        except Exception:
            self._failed(name)

    def _failed(self, name: str) -> None:
        now = time.monotonic()
        if now >= self._log_after:
            self._log_after = now + LOG_EVERY
            log.exception("metric %r could not be reported", name)


class InMemoryMetrics:
    """Keeps the numbers in this process, for tests, scripts and status pages. Threads: any."""

    def __init__(self) -> None:
        # There is no lock that a signal handler or a fork could find held: each thread adds to counts of its
        # own, which are summed up when somebody looks. A later thread may get the number of one that has
        # ended, and goes on with its counts.
        self._counts: dict[str, dict[tuple[int, tuple[str, ...]], float]] = {name: {} for name in METRICS}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """Add ``value`` to a counter.

        Raises:
            ConfigurationError: No such counter or label, or a negative value.
        """
        mine = threading.get_ident(), _label_values("counter", name, labels)
        _check_rise(name, value)
        counts = self._counts[name]
        counts[mine] = counts.get(mine, 0) + value

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge.

        Raises:
            ConfigurationError: No such gauge or label.
        """
        self._counts[name][0, _label_values("gauge", name, labels)] = value

    def get(self, name: str, **labels: str) -> float:
        """The sum of all series of a metric whose labels include these; 0 when there is none.

        ``get("messages")`` is the total, ``get("messages", exchange="binance")`` one exchange's.

        Raises:
            ConfigurationError: No such metric or label.
        """
        metric = _metric(name)
        _check_labels(name, metric, labels)
        wanted = [(metric.labels.index(label), value) for label, value in labels.items()]
        return sum(number for key, number in self._series(name).items()
                   if all(key[at] == value for at, value in wanted))

    def snapshot(self) -> dict[str, dict[tuple[str, ...], float]]:
        """A copy of everything: ``{name: {label values in the order of METRICS: number}}``."""
        return {name: series for name in self._counts if (series := self._series(name))}

    def _series(self, name: str) -> dict[tuple[str, ...], float]:
        """All series of a metric, as they are at one moment."""
        series: dict[tuple[str, ...], float] = {}
        for (_, key), number in self._counts[name].copy().items():
            series[key] = series.get(key, 0) + number
        return series


# Collectors by registry and name space: a second manager in the process shares those of the first.
_collectors: weakref.WeakKeyDictionary[Any, dict[str, dict[str, Any]]] = weakref.WeakKeyDictionary()
_collectors_lock = threading.Lock()


class PrometheusMetrics:
    """Counts through ``prometheus_client`` (the extra ``prometheus``); exposing them is the user's choice.

    Several objects on one registry and name space share their numbers. Threads: any.

    Args:
        registry: A ``prometheus_client.CollectorRegistry``; None is that package's default one.
        namespace: What the names begin with: ``streams_messages_total``.

    Raises:
        MissingDependency: ``prometheus_client`` is not installed.
        ConfigurationError: The registry already has foreign metrics of these names, or the name
            space is no valid beginning of a metric name.
    """

    def __init__(self, registry: Any = None, namespace: str = "streams") -> None:
        try:
            import prometheus_client
        except ImportError:
            raise MissingDependency("prometheus_client", extra="prometheus") from None
        kinds = {"counter": prometheus_client.Counter, "gauge": prometheus_client.Gauge}
        registry = prometheus_client.REGISTRY if registry is None else registry
        with _collectors_lock:
            spaces = _collectors.setdefault(registry, {})
            if namespace not in spaces:
                spaces[namespace] = _declare(registry, namespace, kinds)
            self._metrics = spaces[namespace]
        self._children: dict[tuple[Any, ...], Any] = {}

    def inc(self, name: str, value: float = 1, **labels: str) -> None:
        """Add ``value`` to a counter.

        Raises:
            ConfigurationError: No such counter or label, or a negative value.
        """
        _check_rise(name, value)
        self._child("counter", name, labels).inc(value)

    def set_gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge.

        Raises:
            ConfigurationError: No such gauge or label.
        """
        self._child("gauge", name, labels).set(value)

    def _child(self, kind: str, name: str, labels: dict[str, str]) -> Any:
        # Callers always pass a metric's labels in the same order, so this finds the child without
        # sorting; another order would merely find the same child by another key.
        key = (kind, name, *labels.items())
        child = self._children.get(key)
        if child is None:
            values = _label_values(kind, name, labels)
            child = self._children[key] = self._metrics[name].labels(*values)
        return child


def _declare(registry: Any, namespace: str, kinds: dict[str, Any]) -> dict[str, Any]:
    """Every metric of the table in ``registry``: all of them, or none and an error."""
    made: dict[str, Any] = {}
    try:
        for name, metric in METRICS.items():
            made[name] = kinds[metric.kind](
                name, metric.help, labelnames=metric.labels, namespace=namespace, registry=registry)
    except ValueError as error:
        for collector in made.values():
            registry.unregister(collector)
        raise ConfigurationError(
            f"namespace={namespace!r} can not be used in this Prometheus registry: {error}") from None
    return made


def _metric(name: str) -> Metric:
    try:
        return METRICS[name]
    except KeyError:
        raise ConfigurationError(f"no metric is called {name!r}: there are {', '.join(METRICS)}") from None


def _check_labels(name: str, metric: Metric, labels: Mapping[str, str]) -> None:
    for label in labels:
        if label not in metric.labels:
            raise ConfigurationError(
                f"metric {name!r} has no label {label!r}: it has {', '.join(metric.labels)}")


def _check_rise(name: str, value: float) -> None:
    if not value >= 0:
        raise ConfigurationError(f"counter {name!r} can only rise, not change by {value!r}")


def _label_values(kind: str, name: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The values of all labels of a metric, in its order; a label that was not given is ""."""
    metric = _metric(name)
    if metric.kind != kind:
        raise ConfigurationError(f"metric {name!r} is a {metric.kind}, not a {kind}")
    _check_labels(name, metric, labels)
    return tuple([str(labels.get(label, "")) for label in metric.labels])
