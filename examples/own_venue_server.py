"""The server of the made-up protocol in own_venue.py: five random trades a second per subscription."""
import random
import socketserver
import struct
import threading
import time

TRADE = struct.Struct(">c8sqIq")


class Client(socketserver.StreamRequestHandler):
    """One client and its first subscription."""

    def handle(self):
        symbol = self.rfile.read(11)[3:]
        self.wfile.write(b"\0\x09A" + symbol)
        try:
            while not self.server.closing.wait(0.2):
                price = random.randrange(99_0000, 101_0000)
                trade = TRADE.pack(b"T", symbol, price, 100, time.time_ns())
                self.wfile.write(len(trade).to_bytes(2, "big") + trade)
        except OSError:
            pass        # the client has gone


def start(port=0):
    """Serve in the background; the server's ``server_address`` says where."""
    server = socketserver.ThreadingTCPServer(("127.0.0.1", port), Client)
    server.closing = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
