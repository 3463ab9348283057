"""Simulated venues on loopback: real sockets, a seeded market, and faults on demand.

They are written from the venues' documentation and share no code with the clients, so that a
misreading on one side cannot hide one on the other. Nothing here needs more than the standard
library; only `RedisSim` starts a program, the ``redis-server`` on the path.
"""
from __future__ import annotations

from .alpaca import AlpacaSim
from .binance import BinanceFuturesSim, BinanceSim
from .faults import Fault
from .huobi import HuobiSim
from .itch import ItchSim
from .itch_market import ItchMarket
from .kraken import KrakenSim
from .market import Book, Instrument, Market
from .polygon import PolygonSim
from .redis import RedisSim
from .replay import ReplaySim
from .sandbox import Sandbox
from .server import LoopbackServer
from .web import Request, Response, WebServer

__all__ = [
    "AlpacaSim", "BinanceFuturesSim", "BinanceSim", "Book", "Fault", "HuobiSim", "Instrument",
    "ItchMarket", "ItchSim", "KrakenSim", "LoopbackServer", "Market", "PolygonSim", "RedisSim",
    "ReplaySim", "Request", "Response", "Sandbox", "WebServer",
]
