"""Who may know whom (the rules at the head of each package), read from the imports themselves."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import streams

ROOT = Path(streams.__file__).parent
MODULES = {
    ".".join(("streams", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}


def imports(name: str, at_start: bool = False) -> Iterator[str]:
    """Full names of all modules that a module imports; ``at_start``: only those it can not do without."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text())
    nodes = _at_start(tree.body) if at_start else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[:len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names
                        if f"{module}.{alias.name}" in MODULES)


def _at_start(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node


def named(prefix: str) -> list[str]:
    return sorted(name for name in MODULES if name.startswith(prefix + "."))


IMPURE = {"socket", "ssl", "select", "selectors", "threading", "time", "logging", "queue", "asyncio",
          "concurrent", "subprocess", "os", "requests", "websocket", "redis"}


@pytest.mark.parametrize("name", named("streams.venues"))
def test_venues_are_pure(name):
    """No socket, thread, clock or log; no store, no transport, no other venue."""
    family = name.rpartition(".")[2].partition("_")[0]
    for imported in imports(name):
        assert imported.partition(".")[0] not in IMPURE, imported
        for room in ("store", "sinks", "stream", "session", "feed", "transports", "sim", "manager", "rest"):
            assert not (imported + ".").startswith(f"streams.{room}."), imported
        if imported.startswith("streams.venues."):
            other = imported.split(".")[2].partition("_")[0]
            shared = {"itch": {"itch", "soup"}, "alpaca": {"alpaca"}}.get(family, {family})
            assert other in shared, f"{name} knows {imported}"


@pytest.mark.parametrize("name", named("streams.venues"))
def test_venues_read_no_clock(name):
    """``now`` is passed in: nothing asks for the time under any name."""
    tree = ast.parse(MODULES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"utcnow", "today", "time_ns", "monotonic", "perf_counter"}, node.lineno


@pytest.mark.parametrize("name", named("streams.transports"))
def test_transports_know_bytes_only(name):
    allowed_beyond = {"streams.transports.replay": {"streams.venue", "streams.playback"}}
    for imported in imports(name):
        for room in ("venues", "events", "book", "store", "venue", "signals", "feed", "session", "sim"):
            if (imported + ".").startswith(f"streams.{room}."):
                assert imported in allowed_beyond.get(name, set()), f"{name} knows {imported}"


@pytest.mark.parametrize("name", named("streams.sim"))
def test_simulators_share_no_code_with_the_clients(name):
    if name == "streams.sim.sandbox":
        pytest.skip("it sets simulators up for users; it is no simulator")
    for imported in imports(name):
        if imported.startswith("streams"):
            assert imported == "streams.sim" or imported.startswith("streams.sim."), imported


def test_store_and_handlers_do_not_know_each_other():
    for name in ("streams.store", "streams.sinks", "streams.book", "streams.levels", "streams.sequencing"):
        assert not {"streams.handlers", "streams.listeners", "streams.queues"} & set(imports(name)), name
    for name in ("streams.handlers", "streams.listeners", "streams.queues"):
        assert not {"streams.store", "streams.sinks", "streams.book"} & set(imports(name)), name


def test_recordings_know_frames_not_meanings():
    for name in ("streams.record", "streams.playback"):
        for imported in imports(name):
            assert imported not in {"streams.events", "streams.book", "streams.venue", "streams.store"}, name


CLIENTS = ("websocket", "requests", "redis", "rich", "defusedxml", "prometheus_client", "zstandard",
           "python_socks", "exchange_calendars")


@pytest.mark.parametrize("client", CLIENTS)
def test_each_third_party_client_is_imported_in_one_file(client):
    users = {name for name in MODULES if any(i.partition(".")[0] == client for i in imports(name))}
    package = {name for name in users if not name.startswith("streams.console")}
    if client == "rich":
        assert len(users) <= 1 or {n.rpartition(".")[0] for n in users} == {"streams.console"}, users
    elif client == "websocket":
        assert {name for name in users if not name.startswith("streams.transports.")} == set()
    else:
        assert len(package) <= 1, users


def test_nothing_is_imported_in_a_circle():
    graph = {name: {i for i in imports(name, at_start=True) if i in MODULES and i != name}
             for name in MODULES if not name.startswith("streams.sim")}
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path[path.index(name):], name])
        if name in done or name not in graph:
            return
        path.append(name)
        for other in graph[name]:
            if other.count(".") or other != "streams":       # the package itself offers, it is not used
                visit(other)
        path.pop()
        done.add(name)

    for name in graph:
        if name != "streams":
            visit(name)


def public_modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages([str(ROOT)], "streams.")]
    return [name for name in found if not name.endswith("__main__")]


@pytest.mark.parametrize("name", public_modules())
def test_what_a_module_offers_is_there(name):
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(set(offered)) == len(offered)
    for attribute in offered:
        assert hasattr(module, attribute), attribute


def test_the_package_offers_each_name_once():
    assert len(set(streams.__all__)) == len(streams.__all__)
    for name in streams.__all__:
        assert getattr(streams, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        streams.Nonsense


def test_importing_the_package_imports_nothing_heavy():
    code = ("import sys, streams\n"
            "heavy = {'requests', 'urllib3', 'websocket', 'redis', 'rich', 'asyncio',"
            " 'defusedxml', 'prometheus_client', 'zstandard', 'python_socks', 'pandas',"
            " 'exchange_calendars'}\n"
            "print(sorted(heavy & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_no_asyncio_anywhere():
    for name in MODULES:
        assert not any(i.partition(".")[0] == "asyncio" for i in imports(name)), name


def test_a_stream_has_no_attribute_that_threads_own():
    """``_target`` and ``_stop`` are such: hiding one of them breaks the thread in strange ways."""
    thread = threading.Thread()
    owned = set(vars(thread)) | set(vars(threading.Thread))
    stream = streams.Binance(["BTC-USDT"])
    mine = set(vars(stream)) - set(vars(thread))
    assert not mine & owned
    meant = {"start", "run", "join", "is_alive"}       # public, and overridden on purpose
    for kind in type(stream).__mro__:
        if issubclass(kind, threading.Thread) and kind is not threading.Thread:
            clash = (set(vars(kind)) & owned) - meant
            assert not {name for name in clash if not name.endswith("__")}


def test_modules_stay_small():
    long = {name: lines for name, path in MODULES.items()
            if (lines := len(path.read_text().splitlines())) > 475}
    assert not long
