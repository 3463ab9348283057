"""The figures as tables (reStructuredText, which a terminal shows as well), and against their bounds."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from .sections import OFTEN

__all__ = ["Bound", "bounds", "text", "verdict"]

Figures = dict[str, Any]
KINDS = {"gil": "with the GIL", "free-threaded": "free-threaded"}


class Bound(NamedTuple):
    """Something that must hold."""

    what: str
    limit: str
    value: str
    met: bool


def bounds(sections: Figures) -> list[Bound]:
    """All whose figures are there."""
    found: list[Bound] = []
    for name, check in _CHECKS.items():
        if name in sections:
            found += check(sections[name])
    return found


def _at_most(what: str, value: float, limit: float, unit: str) -> Bound:
    return Bound(what, f"at most {limit:g}{unit}", f"{value:.3g}{unit}", value <= limit)


def _at_least(what: str, value: float, limit: float, unit: str) -> Bound:
    return Bound(what, f"at least {limit:g}{unit}", f"{value:.3g}{unit}", value >= limit)


def _cost_bounds(cost: Figures) -> Iterator[Bound]:
    for title, limit in zip(cost, (1.25, 1.5, 1.4)):
        yield _at_most(f"processor time per message, {title}, against the floor",
                       cost[title]["streams"]["ratio"], limit, "x")
    whole = cost["10+10 levels"]
    if "picows" in whole:
        ours, theirs = whole["streams"]["cpu_us"], whole["picows"]["cpu_us"]
        yield Bound("processor time per message, 10+10 levels, against picows + orjson + dict",
                    f"below {theirs:.2f} us", f"{ours:.2f} us", ours < theirs)


def _latency_bounds(latency: Figures) -> Iterator[Bound]:
    idle = latency["gil"]["idle"]
    yield _at_most("p50 of an inline handler at 1,000/s, against the floor",
                   idle["streams, inline handler"]["ratio"], 1.3, "x")
    others = [row["p99"] for name, row in idle.items() if not name.startswith(("floor", "streams"))]
    if others:
        yield _at_most("its p99, against the best client beside it", idle["streams, inline handler"]["p99"],
                       round(min(others), 1), " us")
    yield _at_most("p50 of a main thread in store.wait, against the floor",
                   idle["streams, store.wait"]["ratio"], 3.0, "x")


def _parallel_bounds(parallel: Figures) -> Iterator[Bound]:
    for kind, limit in (("gil", 0.95), ("free-threaded", 1.85)):
        if kind in parallel:
            yield _at_least(f"two streams' throughput against one's, {KINDS[kind]}",
                            parallel[kind]["streams"]["throughput"], limit, "x")


def _reader_bounds(readers: Figures) -> Iterator[Bound]:
    for kind, rows in readers.items():
        reading = {name: row["throughput"] for name, row in rows.items() if name not in ("none", "spin")}
        worst = min(reading, key=reading.__getitem__)
        yield _at_least(f"a stream beside a reader in a tight loop ({worst}) against one beside a thread that"
                        f" only computes, {KINDS[kind]}", reading[worst], 0.9, "x")


def _many_bounds(many: Figures) -> Iterator[Bound]:
    for size, rows in many.items():
        yield _at_most(f"1,500 books at 15,000 messages/s of {size}: share of a core",
                       rows["gil"]["share"] * 100, 25, " %")
        yield _at_most("the same: resident, 1,000 levels a side", rows["gil"]["resident"], 600, " MB")


def _read_bounds(reads: Figures) -> Iterator[Bound]:
    yield _at_most("top of the book, after an update", reads["gil"]["changed"]["book.touch"], 1.0, " us")
    yield _at_most("depth(25) of an unchanged book", reads["gil"]["unchanged"]["book.depth(25)"], 0.5, " us")


def _import_bounds(imports: Figures) -> Iterator[Bound]:
    yield _at_most("import streams", imports["gil"]["seconds"], 0.15, " s")


def _itch_bounds(itch: Figures) -> Iterator[Bound]:
    yield _at_most("Nasdaq ITCH, into the store's books, against struct.unpack and dicts alone",
                   itch["venue and store, all 20 books"]["ratio"], 3.0, "x")


def _fan_out_bounds(fan_out: Figures) -> Iterator[Bound]:
    if fan_out:
        yield _at_least("events through Redis, flat out", fan_out["flat out"]["per_second"], 100_000, "/s")
        lost = sum(row["lost"] + row["gaps"] for row in fan_out.values())
        yield _at_most("events lost on the way, or gaps", lost, 0, "")


_CHECKS: dict[str, Callable[[Figures], Iterator[Bound]]] = {
    "cost": _cost_bounds, "latency": _latency_bounds, "parallel": _parallel_bounds,
    "readers": _reader_bounds, "many": _many_bounds, "reads": _read_bounds, "imports": _import_bounds,
    "itch": _itch_bounds, "fan_out": _fan_out_bounds,
}


# -- tables ----------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A simple table; all columns but the first are right-aligned."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    rule = "  ".join("=" * width for width in widths)

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        return "  ".join(cells).rstrip()

    return [rule, line(head), rule, *(line(row) for row in rows), rule, ""]


def _n(value: float) -> str:
    """Three digits, with commas where there are more."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cost_tables(cost: Figures) -> Iterator[str]:
    for title, rows in cost.items():
        yield f"Processor time per message, {title}:"
        yield ""
        ranked = sorted(rows.items(), key=lambda item: item[1]["cpu_us"])
        yield from table(("client", "us per message", "against the floor", "messages/s"), [
            (name, _n(row["cpu_us"]), f"{row['ratio']:.2f}x", _n(row["per_second"])) for name, row in ranked])


def _latency_tables(latency: Figures) -> Iterator[str]:
    for kind, figures in latency.items():
        yield f"From the venue's write to the reader (us), 1,000 messages/s, idle main thread, {KINDS[kind]}:"
        yield ""
        keys = "p50", "p99", "max"
        yield from table(("client", *keys), [
            (name, *(_n(row[key]) for key in keys)) for name, row in figures["idle"].items()])
        switches = figures["busy"]
        by = ", by ``sys.setswitchinterval``" if kind == "gil" else ""
        yield f"The same beside a main thread that computes all the time, {KINDS[kind]}, p50 / p99{by}:"
        yield ""
        names = next(iter(switches.values()))
        yield from table(("client", *(switches if kind == "gil" else ("p50 / p99",))), [
            (name, *(f"{_n(rows[name]['p50'])} / {_n(rows[name]['p99'])}" for rows in switches.values()))
            for name in names])
    yield from _advice(latency)


def _advice(latency: Figures) -> Iterator[str]:
    """What to do about a main thread that computes, for people."""
    ours = "streams, inline handler"
    switches = latency["gil"]["busy"]
    slow, quick = switches["5 ms"][ours], switches["0.1 ms"][ours]
    speed = quick["turns_per_second"] / slow["turns_per_second"]
    free = latency.get("free-threaded", {}).get("busy", {}).get("5 ms", {}).get(ours)

    def pair(row: Figures) -> str:
        return f"{_n(row['p50'] / 1e3)} ms (p50) and {_n(row['p99'] / 1e3)} ms (p99)"

    said = (
        "With the GIL, a thread that computes in Python keeps it for a whole switch interval before the"
        " stream's thread gets it, whatever the client: with the interpreter's default of 5 ms an update"
        f" takes {pair(slow)}. What helps is ``sys.setswitchinterval(0.0001)``: {pair(quick)}, and the"
        f" computing thread keeps {speed * 100:.0f} % of its speed. Nothing is lost meanwhile: what waits"
        " in the socket is taken in large blocks. Better still is to compute in another process, or in"
        " code that lets go of the GIL")
    if free:
        said += f", or a free-threaded interpreter: {_n(free['p50'])} us (p50) there"
    yield from _paragraph(f"{said}.")


def _paragraph(said: str) -> list[str]:
    return [*textwrap.wrap(said, 110, break_on_hyphens=False), ""]


def _parallel_tables(parallel: Figures) -> Iterator[str]:
    yield "Two streams flat out against one:"
    yield ""
    yield from table(("client", "1, messages/s", "2, messages/s", "throughput", "us/message, 1", "2"), [
        (f"{who}, {KINDS[kind]}", *(_n(row[count]["per_second"]) for count in "12"),
         f"{row['throughput']:.2f}x", *(_n(row[count]["cpu_us"]) for count in "12"))
        for kind, rows in parallel.items() for who, row in rows.items()])


_READERS = {"none": "nothing (it sleeps)", "spin": "nothing (it computes)", "touch": "book.touch",
            "depth": "book.depth(25)", "view": 'book["bids"]', "lock": "store.lock"}


def _reader_tables(readers: Figures) -> Iterator[str]:
    yield "``book.touch`` is the best bid and the best ask, of one moment."
    yield ""
    for kind, rows in readers.items():
        yield f"A stream flat out, and what the main thread reads in a tight loop meanwhile, {KINDS[kind]}:"
        yield ""
        yield from table(("it reads", "messages/s", "against computing", "stream's us/message", "reads/s"), [
            (_READERS[name], _n(row["per_second"]), f"{row['throughput']:.2f}x", _n(row["cpu_us"]),
             _n(row["reads_per_second"])) for name, row in rows.items()])


_MANY = {"floor": "floor", "polled": "streams, all best prices read each second"}


def _many_tables(many: Figures) -> Iterator[str]:
    yield "1,500 order books of 1,000 levels a side, 15,000 updates/s, one process:"
    yield ""
    yield from table(("client", "update of", "share of a core", "us/message", "resident MB", "kB per book"), [
        (_MANY.get(kind) or f"streams, {KINDS[kind]}", size, f"{row['share'] * 100:.0f} %",
         _n(row["cpu_us"]), _n(row["resident"]), _n(row["book_kb"]))
        for size, rows in many.items() for kind, row in rows.items()])


def _read_tables(reads: Figures) -> Iterator[str]:
    for kind, figures in reads.items():
        yield f"Cost of a read, book of 1,000 levels a side, {KINDS[kind]} (us):"
        yield ""
        yield from table(("read", "unchanged", "after each update", "after 20"), [
            (name, _n(taken), *(_n(figures[when][name]) if name in figures[when] else ""
                                for when in ("changed", "rare")))
            for name, taken in figures["unchanged"].items()])


def _import_tables(imports: Figures) -> Iterator[str]:
    for kind, figures in imports.items():
        brought = ", ".join(figures["imported"]) or "none"
        yield (f"``import streams``, {KINDS[kind]}: {figures['seconds'] * 1e3:.0f} ms; clients and optional"
               f" packages that it imports: {brought}.")
    yield ""


def _itch_tables(itch: Figures) -> Iterator[str]:
    yield "Nasdaq ITCH over TCP, per message:"
    yield ""
    yield from table(("work", "us", "ratio"), [
        (name, _n(row["cpu_us"]), f"{row['ratio']:.1f}x") for name, row in itch.items()])


def _fan_out_tables(fan_out: Figures) -> Iterator[str]:
    if not fan_out:
        return
    yield from _paragraph(
        "Through Redis from one collector of 60 symbols to one reader process: processor time per event, in"
        " the thread that writes (besides writing), the publisher and the reader; and the age of the newest"
        " event when the reader looks:")
    yield from table(("written", "arrived/s", "lost", "writer us", "publisher us", "reader us", "p50 ms",
                      "p99 ms"), [
        (name, _n(row["per_second"]), f"{row['lost']:,}",
         *(_n(row[key]) for key in ("writer_us", "publisher_us", "reader_us", "p50", "p99")))
        for name, row in fan_out.items()])


_TABLES: dict[str, Callable[[Figures], Iterator[str]]] = {
    "cost": _cost_tables, "latency": _latency_tables, "parallel": _parallel_tables,
    "readers": _reader_tables, "many": _many_tables, "reads": _read_tables, "imports": _import_tables,
    "itch": _itch_tables, "fan_out": _fan_out_tables,
}


def text(results: Figures) -> str:
    """The tables of all sections, and where they were measured."""
    lines = list(_where(results))
    for name, figures in results["sections"].items():
        lines += _TABLES[name](figures)
    return "\n".join(lines)


def verdict(results: Figures) -> str:
    """A table of what must hold."""
    held = bounds(results["sections"])
    if not held:
        return ""
    return "\n".join(["What must hold:", "", *table(("bound", "limit", "measured", ""), [
        (one.what, one.limit, one.value, "yes" if one.met else "NO") for one in held])])


def _where(results: Figures) -> Iterator[str]:
    machine, often = results["machine"], results["repetitions"] * OFTEN
    said = [f"Measured {results['date']} on {machine['cores']} cores of {machine['processor']}"
            f" ({machine['system']}, load {machine['load_before']} before it began), medians of"
            f" {results['repetitions']} interleaved runs ({often} of several threads and of latency with an"
            f" idle main thread, {2 * often} of the latter with the GIL), by ``python -m tests.benchmarks``."]
    for kind, one in results["interpreters"].items():
        packages = ", ".join(f"{name} {version}" for name, version in one["packages"].items())
        said.append(f"CPython {one['python']} {KINDS[kind]} ({one['compiler']}) with {packages}.")
    said.append(
        "The floor is the least that the work costs in Python: a raw socket, frames cut by hand, typed"
        " decoding, two dicts, no safety of any kind. It writes level by level; this library writes all"
        " levels of a side in one C call while nobody reads the best of them, and is below the floor in some"
        " rows. The other clients decode with orjson and keep two dicts.")
    yield from _paragraph(" ".join(said))
