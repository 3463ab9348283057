"""The README says what is: its programs are run as printed, its commands too, its tables are compared.

Programs and commands meet simulated venues: the names of the package that they import are replaced by
subclasses that know where those are. Nothing else is changed.
"""

from __future__ import annotations

import configparser
import contextlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import streams
import streams.exchanges
from streams.cli import build_parser, main
from streams.console.venues import known_venues
from streams.handlers import POLICIES
from streams.lifecycle import STATES
from streams.sim import Sandbox
from streams.sinks import sink_for
from streams.stream import Stream
from streams.venue import Route

from .processes import run
from .tools import wait_until

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.rst").read_text(encoding="utf-8")
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
ENOUGH = 6          # lines that an endless program may print before somebody presses Ctrl-C


def blocks(language: str) -> list[tuple[int, str]]:
    """``(line, text)`` of the code blocks in that language."""
    found = []
    for match in re.finditer(rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)", TEXT, re.MULTILINE):
        found.append((TEXT.count("\n", 0, match.start()) + 1, textwrap.dedent(match[1]).strip() + "\n"))
    return found


def table(title: str) -> list[list[str]]:
    """The rows of the table whose head begins with ``title``; lines that go on belong to the row above."""
    head = re.search(rf"^(=+(?:  +=+)+)\n{re.escape(title)}.*\n=[= ]+\n", TEXT, re.MULTILINE)
    assert head is not None, title
    body = TEXT[head.end():TEXT.index("\n====", head.end()) + 1]
    columns = [(cell.start(), cell.end()) for cell in re.finditer("=+", head[1])]
    rows: list[list[str]] = []
    for line in body.splitlines():
        cells = [line[start:(None if at == len(columns) - 1 else end)].strip()
                 for at, (start, end) in enumerate(columns)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells)]
    return rows


def words(text: str) -> list[str]:
    return re.findall(r"``([^`]+)``", text)


# -- programs ------------------------------------------------------------------------------------------

PROGRAMS = [pytest.param(text, id=f"line {line}") for line, text in blocks("python")]


class Printed:
    """In place of ``print``: keeps the lines, and presses Ctrl-C after so many."""

    def __init__(self, most: float) -> None:
        self.lines: list[str] = []
        self._most = most

    def __call__(self, *values: object, **_: Any) -> None:
        self.lines.append(" ".join(map(str, values)))
        if len(self.lines) >= self._most:
            raise KeyboardInterrupt


def execute(program: str, namespace: dict[str, Any]) -> None:
    # Compiled first: where exec() is given text, CPython takes a KeyboardInterrupt that comes out of it
    # for the end of the process, and ends with SIGINT later on, whoever has caught it.
    exec(compile(program, str(ROOT / "README.rst"), "exec"), namespace)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], streams.StreamManager]]:
    """Has the package lead to simulated venues. Gives a manager class of that kind; all of them are stopped
    in the end, as the end of the interpreter would."""
    with Sandbox() as sandbox, contextlib.ExitStack() as made:
        class Manager(streams.StreamManager):
            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                made.callback(self.stop)

            def start(self, exchange: str, symbols: Any, channels: Any = ("book",), **options: Any) -> None:
                found = sandbox.options(exchange, symbols)
                if options.get("url") == "https://feed.example":
                    del options["url"]
                super().start(exchange, symbols, channels, **{**found, **options})

        class Binance(streams.exchanges.Binance):
            def __init__(self, symbols: Any, *args: Any, **options: Any) -> None:
                super().__init__(symbols, *args, **{**sandbox.options("binance", symbols), **options})

        monkeypatch.setattr(streams, "StreamManager", Manager)
        monkeypatch.setattr(streams, "Binance", Binance)
        yield Manager


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_run_as_printed(program: str, simulated: Callable[[], streams.StreamManager],
                                 tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "class AcmeVenue" in program:
        example = (ROOT / "examples" / "own_venue.py").read_text(encoding="utf-8")
        assert program in example, "what the README shows of it is not what it is"
        return
    monkeypatch.chdir(tmp_path)
    endless = "while True" in program
    printed = Printed(ENOUGH if endless else float("inf"))
    namespace: dict[str, Any] = {"print": printed}
    with contextlib.ExitStack() as stack:
        if re.search(r"\bmarket\b", program) and "StreamManager(" not in program:
            market = namespace["market"] = stack.enter_context(simulated())
            market.start("binance", ["BTC-USDT", "ETH-USDT"], channels=["book", "trades"])
            market.start("huobi", ["BTC-USDT"])
            market.wait_ready(timeout=10)
        stack.enter_context(pytest.raises(KeyboardInterrupt) if endless else contextlib.nullcontext())
        execute(program, namespace)
        if "print" in program:
            wait_until(lambda: printed.lines, 10, what="a first line")
    assert "print" not in program or printed.lines


def test_programs_can_be_run_one_after_the_other(simulated: Any, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """In one namespace, in the order of reading: ``market`` is running wherever it is used."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for line, program in blocks("python"):
        if "class AcmeVenue" in program:
            continue
        endless = "while True" in program
        printed = namespace["print"] = Printed(ENOUGH if endless else float("inf"))
        if re.search(r"\bmarket\b", program) and "StreamManager(" not in program:
            market = namespace["market"]
            market.wait_ready(timeout=20)
            states = {stream["exchange"]: stream["state"] for stream in market.status()["streams"]}
            assert states == {"binance": "live", "huobi": "live"}, f"line {line}: {states}"
        with pytest.raises(KeyboardInterrupt) if endless else contextlib.nullcontext():
            execute(program, namespace)
        assert "print(" not in program or printed.lines, f"line {line} prints nothing"
    handlers = namespace["market"].status()["handlers"]
    assert [one["pattern"] for one in handlers] == [r"longpoll-xml\.trades\..+"], "earlier ones go on"


def test_the_program_that_the_readme_opens_with_prints_books(simulated: Any) -> None:
    printed = Printed(ENOUGH)
    with pytest.raises(KeyboardInterrupt):
        execute(blocks("python")[0][1], {"print": printed})
    for line in printed.lines:
        assert re.fullmatch(r"(binance (BTC|ETH)-USDT|huobi BTC-USDT)( \([\d.e-]+, [\d.e-]+\)){2}", line)
    assert {line.split()[0] for line in printed.lines} == {"binance", "huobi"}


def test_programs_are_right_for_a_type_checker(tmp_path: Path) -> None:
    """As mypy sees them in the editor of whoever has typed them in; functions without annotations, too."""
    pytest.importorskip("mypy", reason="the extra 'check' is not installed")
    for number, (_, text) in enumerate(blocks("python")):
        if "class AcmeVenue" not in text:               # an excerpt
            around = "import time\nimport streams\nmarket: streams.StreamManager\n"
            (tmp_path / f"program_{number}.py").write_text(around + text, encoding="utf-8")
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--allow-untyped-defs",
         "--allow-untyped-calls", "--no-strict-optional", "--no-warn-unused-ignores", "--allow-redefinition",
         "--follow-imports=silent", f"--cache-dir={tmp_path / 'cache'}", *map(str, tmp_path.glob("*.py"))],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)
    assert checked.returncode == 0, checked.stdout + checked.stderr


TYPED = """
from decimal import Decimal

from streams import Binance, StreamManager, Trade

market = StreamManager(number=Decimal)
market.start("binance", {"ETH-USDT"})
stream = Binance({"ETH-USDT": 1}.keys())
bids, _ = market.store.orderbook("binance", "BTC-USDT").depth(10)
print(sum(price * size for price, size in bids), Decimal(2) * bids[0][0])
print(market.store.orderbooks.get("binance", {}).get("BTC-USDT"))


@market.on(r"binance.trades..+")
@stream.on(".+", policy="inline")
def traded(trade: Trade) -> str:
    return f"{trade.price * trade.size:.2f}"


text: str = traded(Trade(exchange="", symbol="", price=1.0, size=1.0))
text = market.on(".+", traded)(Trade(exchange="", symbol="", price=1.0, size=1.0))
"""


# -- commands ------------------------------------------------------------------------------------------

COMMANDS = [line[2:] for _, text in blocks("console") for line in text.splitlines()]
STREAMS = [command for command in COMMANDS if command.startswith("streams ")]


@pytest.mark.parametrize("command", [one for one in STREAMS if not one.startswith("streams replay")])
def test_commands_run_as_printed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(on_simulated_venues(shlex.split(command)[1:])) == 0
    assert capsys.readouterr().out


def on_simulated_venues(arguments: Sequence[str]) -> list[str]:
    """The same command, and it ends."""
    network = arguments[0] in ("watch", "record")
    endless = network and not {"--once", "--seconds"} & set(arguments)
    return [*arguments, *(["--demo"] if network else []), *(["--seconds", "1.5"] if endless else [])]


def test_what_was_recorded_can_be_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    record, = (one for one in STREAMS if one.startswith("streams record"))
    assert main([*shlex.split(record)[1:], "--demo"]) == 0
    replays = [one for one in STREAMS if one.startswith("streams replay")]
    assert len(replays) == 2
    for command in replays:
        capsys.readouterr()
        assert main(shlex.split(command)[1:]) == 0
        assert "binance" in capsys.readouterr().out


def test_two_commands_set_everything_up() -> None:
    commands = [command for command in COMMANDS if " && " in command]
    assert len(commands) == 2
    demo, tests = commands
    for command in commands:
        steps = command.split(" && ")
        assert steps[0] == "python3 -m venv .venv"
        extras = re.findall(r"'\.\[([\w,]+)\]'", steps[1])[0].split(",")
        assert set(extras) <= set(SETUP["options.extras_require"])
    assert demo.endswith("&& .venv/bin/streams demo")
    assert tests.endswith("&& .venv/bin/python -m pytest -n 4")
    assert "streams = streams.cli:main" in SETUP["options.entry_points"]["console_scripts"]


def test_an_example_runs_as_printed() -> None:
    command, = (command for command in COMMANDS if " examples/" in command)
    interpreter, *arguments = shlex.split(command)
    assert interpreter == ".venv/bin/python"
    assert run(*arguments, "--seconds", "1").lines


# -- tables and lists ----------------------------------------------------------------------------------


def test_the_table_of_venues_is_what_there_is() -> None:
    rows = {words(row[0])[0]: row for row in table("name")}
    known = {venue["name"]: venue for venue in known_venues()}
    assert list(rows) == list(known)
    for name, (spelled, kind, transport, channels, keys) in rows.items():
        venue = known[name]
        assert getattr(streams, *words(kind)) is streams.exchanges.EXCHANGES[name]
        assert transport == venue["transport"].removeprefix("long-polled ")
        assert channels.split() == venue["channels"], name
        assert (keys == "none") == (not venue["keys"]), name
        assert set(re.findall(r"\((.+)\)", spelled)) <= set(venue["aliases"])


def test_the_tables_of_states_and_policies_are_complete() -> None:
    assert [words(row[0])[0] for row in table("stream")] == list(STATES)
    assert [words(row[0])[0] for row in table("policy")] == list(POLICIES)
    assert [words(row[0])[0] for row in table("book")] == ["live", "syncing", "stale", "closed"]


def test_the_table_of_options_is_complete() -> None:
    begin = TEXT.index("Options of every stream;")
    rows = TEXT[begin:TEXT.index("The manager opens as many", begin)]
    options = words(" ".join(re.findall(r"^(``.+?``)  ", rows, re.MULTILINE)))
    known = set(inspect.signature(Stream.__init__).parameters)
    assert sorted(options) == sorted(known - {"self", "symbols", "channels", "options"})


def test_the_table_of_channels_is_what_handlers_and_the_store_get() -> None:
    rows = table("channel")
    channels = {channel for venue in known_venues() for channel in venue["channels"]}
    assert {words(row[0])[0].partition(":")[0] for row in rows} == {*channels, "status", "gaps"}
    for row in rows:
        channel, event, place, fields = words(row[0])[0], words(row[1])[0], words(row[2]), words(row[3])[0]
        known = {field.name for field in msgspec.structs.fields(getattr(streams, event))}
        assert set(fields.split()) <= known
        if not place or channel == "book":
            continue
        store = streams.Store()
        sink_for(store, store.writer(), "somewhere", Route("A", channel, "A", ()))
        name, *keys = re.findall(r"\w+", place[0])
        found = getattr(store, name)
        assert "somewhere" in (found[keys[0]] if keys else found), channel


def test_the_tree_of_errors_is_that_of_the_code() -> None:
    tree = TEXT[TEXT.index("    StreamsError\n    +--"):TEXT.index("Errors of the network end no stream")]
    documented = re.findall(r"\b([A-Z]\w+)  +", tree)
    assert inspect.getdoc(streams.errors) is not None
    for name in documented:
        assert issubclass(getattr(streams, name), streams.StreamsError)
    public = {name for name in streams.__all__ if isinstance(getattr(streams, name), type)
              and issubclass(getattr(streams, name), streams.StreamsError)}
    assert {*documented, "StreamsError"} == public


def test_versions_and_extras_are_those_of_the_package() -> None:
    supported = TEXT[TEXT.index("Supported versions\n"):TEXT.index("\nErrors\n")]
    declared = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    assert re.findall(r"^CPython +(.+)$", supported, re.MULTILINE) == [", ".join(declared)]
    named = set(words(supported)) - {"longpoll-xml", "pip install '.[cli,redis]'"}
    assert named == set(SETUP["options.extras_require"])
    needed, = re.findall(r"^needs +(.+)$", supported, re.MULTILINE)
    required = re.findall(r"^[\w-]+", SETUP["options"]["install_requires"], re.MULTILINE)
    assert re.findall(r"[\w-]+(?=[,;]|$)", needed) == required


def test_everything_it_names_is_there() -> None:
    for name in re.findall(r"examples/(\w+\.py)", TEXT):
        assert (ROOT / "examples" / name).exists(), name
    listed = TEXT[TEXT.index("The same in ``examples/``"):TEXT.index("Waiting instead of polling:")]
    examples = {path.name for path in (ROOT / "examples").glob("*.py")} - {"own_venue_server.py"}
    assert set(re.findall(r"``(\w+\.py)``", listed)) == examples
    parser = build_parser()
    for name in re.findall(r"``(--[a-z-]+)``", TEXT):
        assert name in _all_help(parser) or name in ("--enable-threads", "--lazy-apps", "--preload"), name


def _all_help(parser: Any) -> str:
    commands = next(action for action in parser._actions if action.dest == "command")
    return "\n".join(one.format_help() for one in (parser, *commands.choices.values()))
