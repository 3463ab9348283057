"""``streams doctor``: is everything there, does it work, can the venues be reached."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import logging
import os
import platform
import sys
import sysconfig
from collections.abc import Callable, Sequence

from ..errors import StreamsError
from ..exchanges import EXCHANGES, exchange
from ..manager import StreamManager
from ..sim.sandbox import Sandbox
from ..transports.proxies import Proxy, parse_proxy
from . import figures
from .lines import columns
from .reach import Probe, hosts_of, probe_all

__all__ = ["doctor"]

_CORE = {"websocket-client": "websocket", "requests": "requests", "urllib3": "urllib3", "msgspec": "msgspec"}
# extra -> distribution, module, what for
_EXTRAS = {
    "cli": ("rich", "rich", "tables on the terminal"),
    "redis": ("redis", "redis", "the Redis transport and fan-out"),
    "xml": ("defusedxml", "defusedxml", "longpoll-xml"),
    "prometheus": ("prometheus_client", "prometheus_client", "metrics for Prometheus"),
    "record": ("zstandard", "zstandard", "recordings compressed with zstd"),
    "socks": ("python-socks", "python_socks", "SOCKS proxies"),
    "hours": ("exchange_calendars", "exchange_calendars", "trading hours of exchanges"),
}
_PATIENCE = 10.0        # seconds for the loopback check


def doctor(options: argparse.Namespace) -> int:
    """Print what is found. Returns the exit code: 0 when all that was asked for works, else 1.

    Venues out of reach are no failure unless they were named: books on loopback need none.
    """
    wanted = [exchange(name).venue.name for name in options.exchanges]
    proxy = parse_proxy(options.proxy) if options.proxy else None
    good = _versions()
    _extras()
    _keys()
    good = _loopback() and good
    if not options.offline:
        reached = _network(wanted or [kind.venue.name for kind in EXCHANGES.values()], options.timeout, proxy)
        good = good and (reached or not wanted)
    return 0 if good else 1


def _say(title: str, table: Sequence[Sequence[str]]) -> None:
    print(f"{title}\n  " + columns(table).replace("\n", "\n  ") + "\n", flush=True)


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _versions() -> bool:
    table = [["Python", f"{platform.python_version()} {platform.python_implementation()}, {_threading()}"],
             ["System", f"{platform.system()} {platform.release()}, {platform.machine()}, "
                        f"{os.cpu_count()} processors"],
             ["market-streams", _version("market-streams") or "not installed, run from its sources"]]
    good = True
    for distribution, module in _CORE.items():
        problem = _import_problem(module)
        table.append([distribution, problem or f"{_version(distribution)}{_notes_on(distribution)}"])
        good = good and not problem
    _say("Versions", table)
    return good


def _threading() -> str:
    """Whether threads run beside each other."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "with the GIL"
    enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    return "free-threaded, but something has switched the GIL on" if enabled() else "free-threaded"


def _notes_on(distribution: str) -> str:
    if distribution != "websocket-client":
        return ""
    from ..transports.websocket import MISFIT
    return f", read the slow way: {MISFIT}" if MISFIT else ""


def _import_problem(module: str) -> str:
    try:
        importlib.import_module(module)
    except Exception as error:          # an installed package may fail in any way
        return f"MISSING: {error}"
    return ""


def _extras() -> None:
    table = []
    for extra, (distribution, module, purpose) in _EXTRAS.items():
        version = _version(distribution)
        state = version or f"not installed: pip install 'market-streams[{extra}]'"
        if version and (problem := _import_problem(module)):
            state = f"{version}, broken: {problem}"
        table.append([distribution, purpose, state])
    _say("Optional", table)


def _keys() -> None:
    variables = dict.fromkeys(name for kind in EXCHANGES.values()
                              for name in (*kind.venue.key_env, *kind.venue.secret_env))
    _say("Keys in the environment", [[name, "set" if os.environ.get(name) else "not set"]
                                     for name in variables])


def _loopback() -> bool:
    """The library itself: a simulated venue on loopback, a real stream, a book."""
    log = logging.getLogger("streams")
    log.addHandler(quiet := logging.NullHandler())
    try:
        with Sandbox() as sandbox, StreamManager() as market:
            market.start("binance", ["BTC-USDT"], **sandbox.options("binance"))
            market.wait_ready(timeout=_PATIENCE)
            book = market.store.orderbook("binance", "BTC-USDT")
            result, good = f"works: {book.exchange} {book.symbol} {book['status']}, best {book.touch}", True
    except (StreamsError, OSError) as error:
        result, good = f"FAILS: {error}", False
    finally:
        log.removeHandler(quiet)
    _say("A simulated venue on loopback", [[result]])
    return good


def _network(wanted: Sequence[str], timeout: float, proxy: Proxy | None) -> bool:
    hosts = hosts_of(dict.fromkeys(wanted))
    nowhere = [name for name in dict.fromkeys(wanted)
               if name not in {host.exchange for host in hosts_of([name])}]
    print(f"Venues{f' through the {proxy.name}' if proxy else ''}", flush=True)
    probes = probe_all(hosts, timeout, proxy)
    table = [[probe.host.exchange, f"{probe.host.name}:{probe.host.port}", _outcome(probe)]
             for probe in probes]
    table += [[name, "", "has no public address: give url=..."] for name in nowhere]
    print("  " + columns(table).replace("\n", "\n  "))
    reached = [probe for probe in probes if not probe.error]
    if probes and not reached:
        print("  No venue can be reached: this machine is offline, or behind a proxy (--proxy), or a "
              "firewall.\n  Simulated venues work all the same: streams demo")
    return len(reached) == len(probes)


def _outcome(probe: Probe) -> str:
    steps = [f"{step} {figures.age(seconds)}" for step, seconds in probe.took.items()]
    return ", ".join([*steps, f"FAILS: {probe.error}" if probe.error else "ok"])
