"""Run the Autobahn fuzzing server's client cases against an echo client on our WebSocket transport.

    python tests/autobahn/run.py --python27 PATH [--write]

websocket-client's own test-suite is run as well, see :mod:`websocket_client_suite`.
``autobahntestsuite`` needs CPython 2.7: its interpreter is ``--python27``, or $PYTHON27, or
``python2.7`` on the path. It is installed into a fresh virtual environment in a temporary folder
(``--keep FOLDER`` keeps and reuses it). ``--write`` writes SUMMARY.txt beside this file. The exit code
is 1 when anything FAILED.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import websocket  # noqa: E402

from streams.transports import websocket as module  # noqa: E402
from streams.transports.base import Closed, Target  # noqa: E402
from streams.transports.websocket import WebSocketTransport  # noqa: E402

CERT, KEY = HERE.parent / "data" / "loopback.crt", HERE.parent / "data" / "loopback.key"
AGENT = "streams"
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
TLS_CASES = ["1.*", "2.*", "5.*", "7.1.*", "9.1.*", "9.2.*", "9.7.*"]
PLAIN_CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.1.*", "6.2.*", "7.*", "9.1.*", "10.*"]
CASE_LIMIT = 300.0  # seconds


class Echo:
    """Sends back what it gets, text as text."""

    def __init__(self, url: str) -> None:
        target = Target(
            url, options={"utf8": True}, sslopt={"ca_certs": str(CERT)},
            max_message=1 << 25, send_timeout=60.0,
        )
        self.transport = WebSocketTransport(target, self)
        self.messages: list[Any] = []

    def opened(self) -> None:
        pass

    def received(self, messages: Any) -> None:
        for message in messages:
            self.transport.send(message)

    def alive(self) -> None:
        pass

    def malformed(self, reason: str) -> None:
        pass

    def tick(self) -> float:
        return 60.0

    def run(self) -> Closed:
        watchdog = threading.Timer(CASE_LIMIT, self.transport.abort)
        watchdog.start()
        try:
            return self.transport.run()
        finally:
            watchdog.cancel()


class Answer(Echo):
    """Keeps what it gets."""

    def received(self, messages: Any) -> None:
        self.messages.extend(messages)


def wstest(python27: str, folder: Path) -> str:
    """The test suite's program, installed into ``folder`` unless it is there."""
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    program = scripts / "wstest"
    if not program.exists():
        tools = str(folder / "tools")
        wanted = ["--target", tools, "virtualenv<20.22"]  # the last that makes environments for 2.7
        subprocess.run([python27, "-m", "pip", "install", "-q", *wanted], check=True)
        subprocess.run([python27, "-m", "virtualenv", "-q", str(folder / "venv")], check=True,
                       env={**os.environ, "PYTHONPATH": tools})
        subprocess.run([str(scripts / "pip"), "install", "-q", "autobahntestsuite"], check=True)
    return str(program)


def run_cases(program: str, folder: Path, cases: list[str], tls: bool) -> dict[str, Any]:
    """Results of all ``cases``, by their number."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"{'wss' if tls else 'ws'}://127.0.0.1:{port}"
    reports = folder / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    spec: dict[str, Any] = {
        "url": url, "outdir": str(reports), "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
        **({"key": str(KEY), "cert": str(CERT)} if tls else {}),
    }
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [program, "-m", "fuzzingserver", "-s", str(folder / "spec.json"), "-u", "0"]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(port, server)
        counting = Answer(f"{url}/getCaseCount")
        counting.run()
        count = int(counting.messages[0])
        for number in range(1, count + 1):
            Echo(f"{url}/runCase?case={number}&agent={AGENT}").run()
            if number % 50 == 0 or number == count:
                print(f"{number}/{count}", flush=True)
        Echo(f"{url}/updateReports?agent={AGENT}").run()
    finally:
        server.terminate()
        server.wait()
    results: dict[str, Any] = json.loads((reports / "index.json").read_text())[AGENT]
    return results


def wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if server.poll() is not None:
            raise SystemExit("the fuzzing server ended; see server.log")
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
            return
        except OSError:
            threading.Event().wait(0.1)
    raise SystemExit("the fuzzing server did not start")


def summary(name: str, results: dict[str, Any]) -> tuple[list[str], int]:
    """Lines to print, and how many cases failed."""

    def order(case: str) -> list[int]:
        return [int(part) for part in case.split(".")]

    sections: dict[str, collections.Counter[str]] = {}
    notable = []
    for case in sorted(results, key=order):
        behavior, closing = results[case]["behavior"], results[case]["behaviorClose"]
        sections.setdefault(case.split(".")[0], collections.Counter())[behavior] += 1
        if behavior not in ("OK", "INFORMATIONAL") or closing not in ("OK", "INFORMATIONAL"):
            notable.append(f"  {case}: {behavior}, close {closing}")
    failed = sum(1 for one in results.values() if "FAILED" in (one["behavior"], one["behaviorClose"]))
    lines = [f"{name}: {len(results)} cases, {failed} FAILED"]
    for section, counts in sections.items():
        text = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
        lines.append(f"  section {section}: {text}")
    return lines + (["  not plainly OK:", *("  " + line for line in notable)] if notable else []), failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Autobahn cases against the WebSocket transport.")
    parser.add_argument("--python27", default=os.environ.get("PYTHON27") or shutil.which("python2.7"))
    parser.add_argument("--keep", type=Path, help="folder for the virtual environment and the reports")
    parser.add_argument("--write", action="store_true", help="write SUMMARY.txt")
    parser.add_argument("--cases", nargs="*", help="only these, over plain TCP, with the block reader")
    options = parser.parse_args()
    if not options.python27:
        parser.error("no CPython 2.7: give its interpreter with --python27")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        program = wstest(options.python27, folder)
        runs: list[tuple[str, list[str], bool, str]] = [("block reader", options.cases or CASES, False, "")]
        if not options.cases:
            runs.append(("block reader over TLS (sample)", TLS_CASES, True, ""))
            runs.append(("without hooks (sample)", PLAIN_CASES, False, "asked for by this script"))
        lines = [f"Autobahn fuzzing server, client cases. websocket-client {websocket.__version__}, "
                 f"Python {platform.python_version()}, {platform.system()}.", ""]
        total = 0
        for name, cases, tls, module.MISFIT in runs:
            found, failed = summary(name, run_cases(program, folder, cases, tls))
            total += failed
            lines += [*found, ""]
    if not options.cases:
        command = [sys.executable, str(HERE / "websocket_client_suite.py")]
        suite = subprocess.run(command, capture_output=True, text=True)
        total += suite.returncode != 0
        lines += ["websocket-client's own test-suite with the block reader in its WebSocketApp:",
                  *("  " + line for line in suite.stdout.strip().splitlines()[-2:]), ""]
    text = "\n".join(lines)
    print(text)
    if options.write:
        (HERE / "SUMMARY.txt").write_text(text)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
