"""Whether a venue's hosts can be reached: name, TCP, TLS, with the library's own means and time-outs."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..errors import Aborted, StreamsError
from ..exchanges import EXCHANGES
from ..transports import names
from ..transports.proxies import Proxy
from ..transports.sockets import Line
from ..transports.tls import TlsCodec, tls_context

__all__ = ["Host", "Probe", "hosts_of", "probe_all"]

_ENCRYPTED = ("wss", "https", "tls+tcp", "rediss")
_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443, "redis": 6379, "rediss": 6379}
_STEPS = 4              # resolving, connecting, a proxy, TLS: each has the same time


@dataclass(frozen=True)
class Host:
    """One address of one venue."""

    exchange: str
    name: str
    port: int
    encrypted: bool


@dataclass
class Probe:
    """What came of trying one: seconds for each step that went well, and why the next one did not."""

    host: Host
    took: dict[str, float] = field(default_factory=dict)
    error: str = ""


def hosts_of(exchanges: Iterable[str]) -> list[Host]:
    """Where these are reached, each address once. Those that have no public address have none here."""
    found: dict[tuple[str, int], Host] = {}
    for name in exchanges:
        venue = EXCHANGES[name].venue
        for address in (venue.url, venue.rest_url):
            parts = urlsplit(address)
            host = parts.hostname or ""
            if host and not names.is_numeric(host) and host != "localhost":
                port = parts.port or _PORTS[parts.scheme]
                found.setdefault((host, port), Host(venue.name, host, port, parts.scheme in _ENCRYPTED))
    return list(found.values())


def probe_all(hosts: Sequence[Host], timeout: float, proxy: Proxy | None = None) -> list[Probe]:
    """Try all at once. Each step has ``timeout`` seconds, all together little more than four times that.

    Threads: any; it returns in that time whatever the network does.
    """
    lines = [Line() for _ in hosts]
    probes = [Probe(host) for host in hosts]
    threads = [threading.Thread(target=_probe, args=(line, probe, timeout, proxy), daemon=True,
                                name=f"streams-doctor-{probe.host.name}")
               for line, probe in zip(lines, probes)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _STEPS * timeout + 1.0
    try:
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
    finally:
        for line in lines:
            line.abort()
    for thread in threads:
        thread.join(1.0)
    return probes


def _probe(line: Line, probe: Probe, timeout: float, proxy: Proxy | None) -> None:
    host = probe.host
    try:
        if proxy is None:
            _timed(probe, "name", functools.partial(_resolve, host, timeout))
        _timed(probe, "TCP", functools.partial(line.open, host.name, host.port, timeout, proxy))
        if host.encrypted:
            codec = TlsCodec(tls_context(None), host.name)
            _timed(probe, "TLS", functools.partial(line.start_tls, codec, timeout))
    except Aborted:
        probe.error = "no answer in time"
    except (StreamsError, OSError) as error:
        probe.error = str(error)
    finally:
        line.close()


def _timed(probe: Probe, step: str, do: functools.partial[None]) -> None:
    began = time.monotonic()
    do()
    probe.took[step] = time.monotonic() - began


def _resolve(host: Host, timeout: float) -> None:
    """Only the name; connecting asks again, and is answered from what the system remembers."""
    done = threading.Event()
    lookup = names.join(host.name, host.port, done.set)
    done.wait(timeout)
    lookup.leave(done.set)
    if not lookup.done:
        raise StreamsError(f"the name was not resolved within {timeout:g} s")
    if lookup.error is not None:
        raise StreamsError(f"the name could not be resolved: {lookup.error}")
