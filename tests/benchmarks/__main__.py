"""The benchmark, by one command::

    python -m tests.benchmarks [--quick] [--repetitions N] [--only SECTION ...] [--json FILE]
                               [--free-threaded PYTHON] [--readme FILE]

Prints tables and writes JSON. Every contender runs in a process of its own against the same local
server, in turn, several times; the medians count. ``--readme`` also puts the tables between the lines
``.. benchmark-begin`` and ``.. benchmark-end`` of a file; with ``--from FILE`` from an earlier run's JSON.

Needs the extra ``bench``; a client that is not installed is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from . import report
from .harness import interpreter, machine
from .sections import SECTIONS, Plan

BEGIN, END = ".. benchmark-begin\n", ".. benchmark-end\n"


def measure(plan: Plan, names: list[str]) -> dict[str, Any]:
    """Run these sections."""
    results: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"), "machine": machine(), "repetitions": plan.repetitions,
        "interpreters": {kind: interpreter(python) for kind, python in plan.pythons.items()}, "sections": {}}
    for name in names:
        print(f"{name}: {SECTIONS[name].__doc__}", file=sys.stderr, flush=True)
        results["sections"][name] = SECTIONS[name](plan)
    return results


def put_between_marks(path: Path, lines: str) -> None:
    """Replace what stands between the two marks."""
    old = path.read_text()
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{path} has no lines {BEGIN.strip()!r} and {END.strip()!r}")
    head, rest = old.split(BEGIN, 1)
    path.write_text(f"{head}{BEGIN}\n{lines}\n{END}{rest.split(END, 1)[1]}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--quick", action="store_true", help="a tenth of the messages, each thing once")
    parser.add_argument("--repetitions", type=int, default=5, help="of everything; 5 take most of an hour")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), metavar="SECTION",
                        help=f"some of: {', '.join(SECTIONS)}")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--free-threaded", metavar="PYTHON", help="an interpreter without the GIL")
    parser.add_argument("--readme", type=Path, help="put the tables between the marks of this file")
    parser.add_argument("--from", dest="earlier", type=Path, help="JSON of an earlier run; measure nothing")
    options = parser.parse_args()
    if options.earlier:
        results = json.loads(options.earlier.read_text())
    else:
        often, scale = (1, 0.1) if options.quick else (options.repetitions, 1.0)
        plan = Plan(often, scale, options.free_threaded)
        results = measure(plan, options.only)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    tables = report.text(results)
    print(tables)
    print(report.verdict(results))
    if options.readme:
        put_between_marks(options.readme, tables)


if __name__ == "__main__":
    main()
