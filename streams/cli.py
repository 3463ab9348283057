"""The command ``streams``: ``demo``, ``watch``, ``record``, ``replay``, ``collect``, ``venues``, ``doctor``.

What each does is in :mod:`streams.console`, imported when that command is given.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Sequence

from .errors import ConfigurationError, StreamsError

__all__ = ["build_parser", "main"]

# command -> (module of streams.console, function)
_COMMANDS = {
    "demo": ("demo", "demo"), "watch": ("watch", "watch"), "record": ("recordings", "record"),
    "replay": ("recordings", "replay"), "collect": ("collect", "collect"),
    "venues": ("venues", "venues"), "doctor": ("doctor", "doctor"),
}
_TARGETS = """\
Books are named by their exchange and their symbols: the name of an exchange, alone or before a colon, says
whose the symbols are from there on.

  binance BTC-USDT ETH-USDT
  binance:BTC-USDT,ETH-USDT huobi:BTC-USDT
  polygon O:NVDA261218C00200000 -o market=options

Keys are taken from the environment: 'streams venues' says from which variables."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words after the command's name; those of the process when None.

    Returns:
        The exit code: 0; 1 when there was no data, or something is wrong; 2 when the words make no sense.

    Threads: the main thread, for the sake of signals.
    """
    options = build_parser().parse_args(arguments)
    module, function = _COMMANDS[options.command]
    try:
        run = getattr(importlib.import_module(f".console.{module}", __package__), function)
        code: int = run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:                 # whoever read this has seen enough
        from .console.ending import let_go_of
        let_go_of(sys.stdout)
        return 0
    except KeyboardInterrupt:
        return 130
    except ConfigurationError as error:
        print(f"streams {options.command}: {error}", file=sys.stderr)
        return 2
    except StreamsError as error:
        print(f"streams {options.command}: {error}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The command line. Threads: any."""
    parser = argparse.ArgumentParser(
        prog="streams", description="Live market data: look at it, keep it, check the way to it.")
    parser.add_argument("--version", action="version", version=f"streams {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands.add_parser(
        "demo", help="simulated venues on loopback, real clients: no account, no internet"))
    _add_watch(_with_targets(commands, "watch", "live view of one or many venues"))
    _add_record(_with_targets(commands, "record", "keep the raw frames of streams in a file"))
    _add_replay(_with_targets(commands, "replay", "rebuild books from a recording"))
    _add_collect(_with_targets(commands, "collect", "publish streams to Redis, for other processes"))
    venues = commands.add_parser("venues", help="what can be streamed, and what it needs")
    venues.add_argument("--json", action="store_true", help="one object a line")
    _add_doctor(commands.add_parser("doctor", help="check the installation and the way to the venues"))
    return parser


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("market-streams")
    except PackageNotFoundError:            # run from a checkout
        return "(not installed)"


def _with_targets(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str,
                  text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_TARGETS,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    if name == "replay":
        parser.add_argument("file", help="a recording; without books its contents are listed")
    parser.add_argument("targets", nargs="*" if name == "replay" else "+", metavar="EXCHANGE SYMBOL",
                        help="see below")
    parser.add_argument("-c", "--channels", action="append", default=[], metavar="CHANNEL,...",
                        help="default: what gives prices there, and trades")
    parser.add_argument("-o", "--option", action="append", default=[], metavar="[EXCHANGE.]NAME=VALUE",
                        help="an option of the stream or the venue, like depth=20 or feed=sip")
    _add_showing(parser)
    return parser


def _add_showing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=_seconds, metavar="N", help="end by itself after so long")
    parser.add_argument("--interval", type=_seconds, metavar="N",
                        help="seconds between two pictures (0.2 on a terminal, else 1)")
    parser.add_argument("--plain", action="store_true", help="lines of text, even on a terminal")
    parser.add_argument("-v", "--verbose", action="store_true", help="log more, to stderr")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--demo", action="store_true", help="simulated venues instead of the real ones")
    parser.add_argument("--url", help="scheme, host and port in place of the venue's")
    parser.add_argument("--rest-url", help="likewise, of its REST side")
    parser.add_argument("--proxy", help="http://[user:pass@]host:port or socks5[h]://...")


def _add_once(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="one picture, as soon as it is complete")
    parser.add_argument("--timeout", type=_seconds, default=10.0, metavar="N",
                        help="seconds to wait for it (10)")
    parser.add_argument("--json", action="store_true",
                        help="one object a line for each exchange and symbol")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.description = ("Start simulated venues on loopback and the real client threads against them, "
                          "and show what arrives.")
    parser.add_argument("--all", action="store_true", help="every venue that can be simulated here")
    parser.add_argument("--faults", action="store_true",
                        help="have the venues fail every few seconds, and see the clients recover")
    parser.add_argument("--rate", type=_seconds, default=50.0, metavar="N",
                        help="book updates per second and symbol (50)")
    _add_showing(parser)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_source(parser)
    _add_once(parser)


def _add_record(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="feed-%Y%m%d-%H%M%S.jsonl.gz".replace("%", "%%"), metavar="FILE",
                        help="a new file, compressed by its name (default: %(default)s)")
    _add_source(parser)


def _add_collect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--publish", required=True, metavar="URL",
                        help="redis://[[user]:password@]host[:port][/database], or rediss://")
    parser.add_argument("--prefix", default="streams", help="of all names in Redis (streams)")
    parser.add_argument("--name", help="of this collector, different for each (default: a new one)")
    parser.add_argument("--lease", type=_seconds, default=3.0, metavar="N",
                        help="seconds after which the others take over when this one dies (3)")
    _add_source(parser)


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--speed", type=_speed, default=1.0, metavar="N",
                        help="1 as recorded, 10 ten times that, 0 as fast as possible")
    _add_once(parser)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.description = ("Check versions, dependencies, the library itself (on loopback), and the way to "
                          "the venues. Never waits for long.")
    parser.add_argument("exchanges", nargs="*", metavar="EXCHANGE", help="instead of all")
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="N",
                        help="seconds for each step of connecting (5)")
    parser.add_argument("--proxy", help="http://[user:pass@]host:port or socks5[h]://...")
    parser.add_argument("--offline", action="store_true", help="leave the venues alone")


def _seconds(text: str) -> float:
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return number


def _speed(text: str) -> float:
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected 0, or a factor above 0")
    return number


def _number(text: str) -> float:
    """NaN for what is none: argparse would name our function to the user."""
    try:
        return float(text)
    except ValueError:
        return math.nan


if __name__ == "__main__":
    sys.exit(main())
