"""Starting what a command line names."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..errors import ConfigurationError
from ..exchanges import EXCHANGES
from ..manager import StreamManager
from ..sim.sandbox import Sandbox
from .board import Board
from .targets import channels_of, read_options, read_targets, split_names

__all__ = ["Settings", "begin", "from_network"]

Settings = Callable[[str, Sequence[str]], Mapping[str, Any]]


def begin(stack: ExitStack, options: argparse.Namespace, settings: Settings,
          **of_market: Any) -> tuple[StreamManager, Board]:
    """Start what the command line names: all of it, or nothing and an error.

    Args:
        stack: Closes it all.
        settings: ``(exchange, symbols)`` -> options of its streams, besides those of the command line.
        of_market: Options of the manager.

    Returns:
        The market, and what takes its pictures.

    Raises:
        ConfigurationError: Names or options that can not work.
    """
    targets = read_targets(options.targets)
    by_exchange = read_options(options.option, list(targets))
    wanted = split_names(options.channels)
    planned = []
    for exchange, symbols in targets.items():
        chosen = {**settings(exchange, symbols), **by_exchange[exchange]}
        planned.append((exchange, symbols, channels_of(EXCHANGES[exchange], chosen, wanted), chosen))
    market = stack.enter_context(StreamManager(**of_market))
    for exchange, symbols, channels, chosen in planned:
        market.start(exchange, symbols, channels, **chosen)
    return market, Board(market, targets)


def from_network(stack: ExitStack, options: argparse.Namespace) -> Settings:
    """Settings by ``--demo``, ``--url``, ``--rest-url`` and ``--proxy``.

    Raises:
        ConfigurationError: An address for several exchanges.
    """
    given = {name: value for name in ("url", "rest_url", "proxy") if (value := getattr(options, name))}
    count = len(read_targets(options.targets))
    if ("url" in given or "rest_url" in given) and count > 1:
        raise ConfigurationError(f"--url is the address of one exchange, and here are {count}")
    if not options.demo:
        return lambda exchange, symbols: given
    sandbox = stack.enter_context(Sandbox())

    def simulated(exchange: str, symbols: Sequence[str]) -> Mapping[str, Any]:
        try:
            return {**sandbox.options(exchange, symbols), **given}
        except (LookupError, ValueError) as error:      # no simulation of it, or of that symbol
            raise ConfigurationError(f"--demo: {error}") from None
    return simulated
