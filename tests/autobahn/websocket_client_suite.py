"""Run websocket-client's own test-suite with our block reader switched on in its ``WebSocketApp``.

    python tests/autobahn/websocket_client_suite.py [--stock]

Every ``WebSocketApp`` of the suite then reads its socket in large blocks, through the same
``BlockReader`` and stand-in for a socket as our transport, and must behave as before: callbacks, close
codes, reconnecting, custom dispatchers. Tests that want the internet skip themselves; those that
want an echo server get one on loopback. ``--stock`` runs the suite unchanged, for comparison. The exit
code is pytest's.
"""

from __future__ import annotations

import importlib
import os
import selectors
import socket
import sys
import threading
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import pytest  # noqa: E402
import websocket  # noqa: E402
from websocket._dispatcher import Dispatcher, SSLDispatcher  # noqa: E402

from streams.transports.blocks import BlockReader  # noqa: E402
from streams.transports.carrier import Carrier, Dry  # noqa: E402
from streams.transports.sockets import BLOCK, Line  # noqa: E402
from tests.transports.websocket_peer import (  # noqa: E402
    CLOSE, PING, PONG, WebSocketPeer, WebSocketWire, frame,
)

LIMIT = 1 << 30


class OnSocket(Carrier):
    """The stand-in, over a socket that the library has made: only reading is ours."""

    def __init__(self, sock: Any) -> None:
        super().__init__(Line(), "suite", 0.0)
        self.sock = sock
        self.leave()

    def __getattribute__(self, name: str) -> Any:
        if name in ("send", "close", "shutdown", "gettimeout", "settimeout", "fileno", "_closed"):
            return getattr(object.__getattribute__(self, "sock"), name)
        return object.__getattribute__(self, name)


class BlockDispatcher:
    """``read`` of the library's dispatchers, in blocks."""

    blocks = 0

    def read(self: Any, sock: Any, read_callback: Any, check_callback: Any) -> None:
        app = self.app
        if not isinstance(sock, socket.socket) or app.sock is None:
            super().read(sock, read_callback, check_callback)  # type: ignore[misc]
            return
        carrier = app.sock.sock = OnSocket(sock)
        going = [True]

        def deliver(messages: Any) -> None:
            for message in messages:
                app._callback(app.on_data, message, 1 if isinstance(message, str) else 2, True)
                app._callback(app.on_message, message)

        def unusual(whole: bytes) -> None:
            carrier.put(whole)
            try:
                going[0] = bool(read_callback()) and going[0]
            except Dry:
                pass

        reader = BlockReader(deliver, unusual, LIMIT, as_text=True)
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            while app.keep_running and going[0]:
                if getattr(sock, "pending", int)() or selector.select(self.ping_timeout):
                    block = sock.recv(BLOCK)
                    if not block:
                        raise websocket.WebSocketConnectionClosedException("the stream ended")
                    BlockDispatcher.blocks += 1
                    reader.feed(block)
                check_callback()


class PlainBlocks(BlockDispatcher, Dispatcher):
    """For plain sockets."""


class SslBlocks(BlockDispatcher, SSLDispatcher):
    """For TLS sockets."""


class BlockApp(websocket.WebSocketApp):
    """The library's app, which makes our dispatchers where it would make its own."""

    def create_dispatcher(
        self, ping_timeout: Any, dispatcher: Any = None, is_ssl: bool = False, handleDisconnect: Any = None
    ) -> Any:
        if dispatcher:
            return super().create_dispatcher(ping_timeout, dispatcher, is_ssl, handleDisconnect)
        return (SslBlocks if is_ssl else PlainBlocks)(self, ping_timeout or 10)


def serve(peer: WebSocketPeer) -> None:
    """Echo to whoever comes, for ever."""
    while True:
        try:
            wire = peer.accept()
        except TimeoutError:
            continue
        except OSError:
            return
        threading.Thread(target=echo, args=(WebSocketWire(wire),), daemon=True).start()


def echo(wire: WebSocketWire) -> None:
    try:
        wire.upgrade()
        while True:
            opcode, payload = wire.read()
            wire.send(frame(PONG if opcode == PING else opcode, payload))
            if opcode == CLOSE:
                break
    except (OSError, AssertionError, IndexError, ValueError):
        pass
    finally:
        wire.sock.close()


def main() -> int:
    with WebSocketPeer() as peer:
        threading.Thread(target=serve, args=(peer,), daemon=True).start()
        os.environ["LOCAL_WS_SERVER_PORT"] = str(peer.port)
        if "--stock" not in sys.argv:
            websocket.WebSocketApp = websocket._app.WebSocketApp = BlockApp  # type: ignore[misc]
        tests = importlib.import_module("websocket.tests")
        folder = str(Path(str(tests.__file__)).parent)
        arguments = ["-q", "-rfE", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder, folder]
        code = int(pytest.main(arguments))
        read = BlockDispatcher.blocks
        print(f"websocket-client {websocket.__version__}; blocks read by the block reader: {read}")
    return code


if __name__ == "__main__":
    sys.exit(main())
