"""The venue of the soak: four stories told at a rate, with accidents.

Run as ``python faulty.py SETTINGS_JSON``; prints its port on one line, then serves until killed. Settings:
``symbols``, ``messages`` per story, ``levels``, ``rate`` per symbol, ``seed``. A symbol's frames start when
it is subscribed, and go on after a reconnect where they were; at the end of the story the connection is
reset, and it begins anew. ``GET /finish`` ends all stories, and says where.

Standard library only.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from server import Market, frame, incoming, named, stamped, upgrade

EVERY = 500             # messages between two snapshots that are kept
TURN = 0.002            # seconds between two bursts
LATE = 0.02             # seconds' worth of messages in a burst, at most
STALL = 2.5             # seconds of silence; the client's patience is shorter
ALL = ("gap", "garbage", "reset", "torn", "stall")

# Once in so many messages.
ODDS = {"gap": 20_000, "garbage": 60_000, "reset": 250_000, "torn": 400_000, "stall": 400_000}


class Story:
    """One symbol's frames, the snapshots on the way, and how far it has been told."""

    def __init__(self, name: str, market: Market, messages: int) -> None:
        self.name = name
        self.frames: list[bytes] = []
        self.snapshots = [market.snapshot()]
        self.at = 0
        self.end = messages
        self.told = 0
        self.lock = threading.Lock()        # held while frames are sent
        for number in range(1, messages + 1):
            self.frames.append(frame(named(market.update(), name)))
            if number % EVERY == 0:
                self.snapshots.append(market.snapshot())

    def snapshot(self) -> bytes:
        """The next one that is kept: the stream will come to it."""
        return self.snapshots[min(-(-self.at // EVERY), len(self.snapshots) - 1)]


class Faulty:
    """Tells all stories."""

    def __init__(self, symbols: int, messages: int, levels: int, rate: float, seed: int = 1) -> None:
        self.rate = rate
        self.random = random.Random(seed)
        self.count = dict.fromkeys((*ALL, "end"), 0)
        self.stories = {}
        for i in range(symbols):
            name = f"s{i}usdt"
            self.stories[name.upper()] = Story(name, Market("btcusdt", i, levels, 1000), messages)
        self.finishing = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(self) -> None:
        """Until killed."""
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        try:
            while upgrade(connection, stream, self._answer):
                pass
            self._converse(connection, stream)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            connection.close()

    def _answer(self, path: str) -> bytes:
        if path == "/finish":
            return self._finish()
        return self.stories[path.partition("symbol=")[2].partition("&")[0]].snapshot()

    def _finish(self) -> bytes:
        """No more accidents; every story goes on to the next snapshot that is kept, where all agree."""
        self.finishing.set()
        ends = {}
        for name, story in self.stories.items():
            with story.lock:
                story.end = -(-story.at // EVERY) * EVERY
                ends[name] = story.end
        return json.dumps({"faults": self.count, "ends": ends}).encode()

    def _converse(self, connection: socket.socket, stream: BinaryIO) -> None:
        for _, message in incoming(stream):
            if b"SUBSCRIBE" in message:
                request = json.loads(message)
                connection.sendall(frame(b'{"result":null,"id":%d}' % request["id"]))
                for topic in request["params"]:
                    story = self.stories.get(topic.split("@")[0].upper())
                    if story is not None:
                        threading.Thread(target=self._tell, args=(connection, story), daemon=True).start()

    def _tell(self, connection: socket.socket, story: Story) -> None:
        """At the rate, until an accident ends the connection, or the story is at its end."""
        last, owed = time.monotonic(), 0.0
        try:
            while not self.finishing.is_set() or story.at < story.end:
                time.sleep(TURN)
                now = time.monotonic()
                owed = min(owed + (now - last) * self.rate, self.rate * LATE)
                last = now
                fault = self._fault(story, int(owed))
                if fault:
                    self.count[fault] += 1
                    _ACCIDENTS[fault](connection, story)
                    last, owed = time.monotonic(), 0.0
                elif owed >= 1:
                    with story.lock:
                        self._burst(connection, story, int(owed))
                    owed %= 1
        except OSError:
            pass

    @staticmethod
    def _burst(connection: socket.socket, story: Story, due: int) -> None:
        frames = story.frames[story.at:min(story.at + due, story.end)]
        if not frames:
            return
        frames[-1] = stamped(frames[-1])
        connection.sendall(b"".join(frames))
        story.at += len(frames)
        story.told += len(frames)

    def _fault(self, story: Story, due: int) -> str:
        if self.finishing.is_set():
            return ""
        if story.at >= story.end:
            return "end"
        return next((name for name in ALL if self.random.random() * ODDS[name] < due), "")


# -- accidents -------------------------------------------------------------------------------------------


def _gap(connection: socket.socket, story: Story) -> None:
    with story.lock:
        story.at = min(story.at + 3, story.end)


def _garbage(connection: socket.socket, story: Story) -> None:
    topic = f"{story.name}@depth@100ms".encode()
    connection.sendall(frame(b'{"stream":"' + topic + b'","data":{"e":"depthUpdate","U":"x"}}'))


def _end(connection: socket.socket, story: Story) -> None:
    with story.lock:
        story.at = 0
    _reset(connection, story)


def _reset(connection: socket.socket, story: Story) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.shutdown(socket.SHUT_RD)         # the reader of this connection lets go of it
    raise ConnectionResetError


def _torn(connection: socket.socket, story: Story) -> None:
    data = story.frames[min(story.at, len(story.frames) - 1)]
    connection.sendall(data[:len(data) // 2])
    _stall(connection, story)
    raise ConnectionResetError


def _stall(connection: socket.socket, story: Story) -> None:
    time.sleep(STALL)


_ACCIDENTS: dict[str, Callable[[socket.socket, Story], None]] = {
    "gap": _gap, "garbage": _garbage, "reset": _reset, "end": _end, "torn": _torn, "stall": _stall}


if __name__ == "__main__":
    server = Faulty(**json.loads(sys.argv[1]))
    print(server.listener.getsockname()[1], flush=True)
    server.serve()
