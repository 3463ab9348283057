"""Starting the venue and the contenders, each in a process of its own, and what their figures mean."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["ROOT", "Rows", "environment", "finished", "installed", "interpreter", "machine", "median",
           "redis", "rounds", "run", "started", "venue"]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

Rows = dict[str, list[dict[str, Any]]]      # of every contender, what each of its runs reported


def environment() -> dict[str, str]:
    """Of the processes; what they import is compiled once, as when it is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "PYTHONDONTWRITEBYTECODE": ""}


@contextmanager
def venue(script: str = "server.py", **settings: Any) -> Iterator[int]:
    """A simulated venue of this folder, as long as the block lasts; its port."""
    process = subprocess.Popen([sys.executable, str(HERE / script), json.dumps(settings)],
                               stdout=subprocess.PIPE, env=environment())
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def run(script: str, *arguments: Any, python: str = sys.executable, timeout: float = 300) -> dict[str, Any]:
    """Run a script of this folder; the JSON object on its last line.

    Raises:
        SystemExit: It failed; its errors were printed.
    """
    done = subprocess.run([python, str(HERE / script), *map(str, arguments)], env=environment(), cwd=ROOT,
                          stdout=subprocess.PIPE, timeout=timeout)
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(map(str, arguments))} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def started(script: str, *arguments: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A script of this folder that runs beside; the block begins when it has printed its first line."""
    process = subprocess.Popen([sys.executable, str(HERE / script), *map(str, arguments)], cwd=ROOT,
                               env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def finished(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Have what :func:`started` runs end; the JSON object on its last line."""
    result: dict[str, Any] = json.loads(process.communicate()[0].splitlines()[-1])
    return result


@contextmanager
def redis() -> Iterator[str]:
    """A Redis server of our own, as long as the block lasts; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no",
             "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


def rounds(names: Iterable[str], repetitions: int, call: Callable[[str], dict[str, Any]]) -> Rows:
    """Run all contenders in turn, several times: whatever disturbs the machine hits all of them."""
    rows: Rows = {name: [] for name in names}
    for _ in range(repetitions):
        for name, results in rows.items():
            results.append(call(name))
    return rows


def median(rows: list[dict[str, Any]], key: str) -> float:
    """Of one figure, over the runs."""
    return statistics.median(row[key] for row in rows)


def installed(module: str, python: str = sys.executable) -> bool:
    """Whether an interpreter has a module."""
    return subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL).returncode == 0


def interpreter(python: str = sys.executable) -> dict[str, Any]:
    """What an interpreter and its packages are."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "names = ['market-streams', 'websocket-client', 'msgspec', 'requests', 'picows', 'aiohttp',"
        " 'websockets', 'orjson', 'redis']\n"
        "have = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "print(json.dumps({'python': platform.python_version(), 'compiler': platform.python_compiler(),"
        " 'gil': getattr(sys, '_is_gil_enabled', lambda: True)(),"
        " 'packages': {n: have[n] for n in names if n in have}}))")
    done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def machine() -> dict[str, Any]:
    """What it is measured on."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {"processor": model, "cores": os.cpu_count(), "load_before": load,
            "system": f"{platform.system()} {platform.release()}"}
