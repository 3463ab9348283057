"""Simulated venues on loopback: real sockets, a seeded market, and faults on demand.

They are written from the venues' documentation and share no code with the clients, so that a
misreading on one side cannot hide one on the other. Nothing here needs more than the standard
library.
"""
from __future__ import annotations

from .binance import BinanceFuturesSim, BinanceSim
from .faults import Fault
from .huobi import HuobiSim
from .market import Book, Instrument, Market
from .replay import ReplaySim
from .server import LoopbackServer
from .web import Request, Response, WebServer

__all__ = [
    "BinanceFuturesSim", "BinanceSim", "Book", "Fault", "HuobiSim", "Instrument",
    "LoopbackServer", "Market", "ReplaySim", "Request", "Response", "WebServer",
]
