"""The simulated SoupBinTCP server over a raw socket, and its market's truth, worked out once more by hand."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from streams.sim import ItchMarket, ItchSim
from streams.sim.itch import FAULTS, GARBAGE

PATIENCE = 10.0
DATA = Path(__file__).resolve().parent.parent / "data"
SIZES = dict(S=12, R=39, H=25, Y=20, L=26, V=35, W=12, K=28, J=35, h=21, A=36, F=40, E=31, C=36, X=23, D=19,
             U=35, P=44, Q=40, B=19, I=50, N=20, O=48)


class Client:
    """A SoupBinTCP client in a few lines."""

    def __init__(self, sim, context=None):
        self.sock = socket.create_connection(("127.0.0.1", sim.port), PATIENCE)
        if context is not None:
            self.sock = context.wrap_socket(self.sock)
        self.data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def login(self, session="", number=1, user="user", password="password", tail=b""):
        self.say(f"L{user:<6}{password:<10}{session:>10}{number:>20}".encode() + tail)
        return self.packet()

    def say(self, packet):
        self.sock.sendall(struct.pack(">H", len(packet)) + packet)

    def packet(self):
        """The next packet; b"" at the end."""
        while len(self.data) < 2 or len(self.data) < 2 + int.from_bytes(self.data[:2], "big"):
            try:
                more = self.sock.recv(65536)
            except ConnectionError:
                return b""
            if not more:
                return b""
            self.data += more
        end = 2 + int.from_bytes(self.data[:2], "big")
        packet, self.data = self.data[2:end], self.data[end:]
        return packet

    def messages(self, count):
        """That many sequenced messages; heartbeats in between are left out."""
        found = []
        while len(found) < count:
            packet = self.packet()
            assert packet[:1] in (b"S", b"H"), packet
            if packet[:1] == b"S":
                found.append(packet[1:])
        return found


@pytest.fixture
def sim():
    with ItchSim(heartbeat=0.2, start=34_200 * 10**9) as sim:
        yield sim


def everything(sim):
    return [packet[3:] for packet in sim.market.packets]


# -- the market ------------------------------------------------------------------------------------


def test_equal_seeds_make_equal_flows():
    first, second, other = (ItchMarket(seed=seed, start=0) for seed in (1, 1, 2))
    for market in (first, second, other):
        for _ in range(2000):
            market.step()
    assert first.packets == second.packets != other.packets


def test_every_type_of_message_occurs_with_its_length():
    market = ItchMarket(seed=1, start=0)
    for _ in range(30_000):
        market.step()
    market.close()
    seen = Counter(chr(packet[3]) for packet in market.packets)
    assert set(seen) == set(SIZES)
    for packet in market.packets:
        assert packet[2:3] == b"S" and len(packet) == 3 + SIZES[chr(packet[3])]
        assert int.from_bytes(packet[:2], "big") == len(packet) - 2


def test_the_books_are_what_the_messages_say():
    """A second book-keeper, written here, from the messages alone."""
    market = ItchMarket(("AAA", "BBB"), seed=3, start=0)
    for _ in range(12_000):
        market.step()
    stocks, orders = {}, {}
    levels = {"AAA": (Counter(), Counter()), "BBB": (Counter(), Counter())}
    for number, packet in enumerate(market.packets, 1):
        message = packet[3:]
        code, locate, rest = message[:1], int.from_bytes(message[1:3], "big"), message[11:]
        if code == b"R":
            stocks[locate] = rest[:8].decode().strip()
        elif code in b"AF":
            ref, side, shares, _, price = struct.unpack(">QcI8sI", rest[:25])
            orders[ref] = [stocks[locate], side == b"S", price, shares]
            levels[stocks[locate]][side == b"S"][price] += shares
        elif code in b"ECXDU":
            ref = int.from_bytes(rest[:8], "big")
            stock, sell, price, left = orders[ref]
            gone = left if code in b"DU" else int.from_bytes(rest[8:12], "big")
            assert 0 < gone <= left and (code != b"X" or gone < left)
            levels[stock][sell][price] -= gone
            orders[ref][3] -= gone
            if gone == left:
                del orders[ref]
            if code == b"U":
                ref, shares, price = struct.unpack(">QII", rest[8:])
                assert ref not in orders
                orders[ref] = [stock, sell, price, shares]
                levels[stock][sell][price] += shares
        if number % 397 == 0 or number == len(market.packets):
            for stock, (bids, asks) in levels.items():
                truth = market.book(stock, number)
                assert truth.sequence == number
                assert wire(truth.bids) == sorted((+bids).items(), reverse=True)
                assert wire(truth.asks) == sorted((+asks).items())
                assert not bids or not asks or truth.bids[0][0] < truth.asks[0][0], "never crossed"


def wire(levels):
    return [(int(price * 10_000), int(size)) for price, size in levels]


def test_times_never_go_back_and_are_new_yorks():
    market = ItchMarket(seed=1)
    for _ in range(1000):
        market.step()
    times = [int.from_bytes(packet[8:14], "big") for packet in market.packets]
    assert times == sorted(times) and 0 < times[-1] < 86_400 * 10**9


def test_it_is_fast():
    market = ItchMarket(seed=1, start=0)
    began = time.process_time()
    for _ in range(20_000):
        market.step()
    assert time.process_time() - began < 0.4, "50,000 messages a second"


# -- the session -----------------------------------------------------------------------------------


def test_login_then_the_session_from_its_beginning_then_what_is_new(sim):
    with Client(sim) as client:
        assert client.login() == b"A" + b"SIM0000001" + b"%20d" % 1
        assert client.messages(len(everything(sim))) == everything(sim)
        number = sim.advance(100)
        assert number == sim.market.sequence == len(everything(sim))
        assert client.messages(100) == everything(sim)[-100:]
        assert sim.connections[0].user == "user" and sim.logins == [("SIM0000001", 1)]


@pytest.mark.parametrize("session", ["", "SIM0000001"])
def test_a_session_is_resumed_at_any_number(sim, session):
    number = sim.advance(500)
    for at in (2, 300, number, number + 1):
        with Client(sim) as client:
            assert client.login(session, at) == b"A" + b"SIM0000001" + b"%20d" % at
            assert client.messages(number + 1 - at) == everything(sim)[at - 1:]
    with Client(sim) as client:
        assert client.login(session, 0) == b"A" + b"SIM0000001" + b"%20d" % number, "the latest"


def test_version_4_logs_in_with_five_bytes_more(sim):
    with Client(sim) as client:
        assert client.login(tail=b"15000")[:1] == b"A"


@pytest.mark.parametrize(("login", "code"), [
    ({"password": "wrong"}, b"A"), ({"user": "me"}, b"A"), ({"session": "OTHER"}, b"S"),
])
def test_logins_are_checked(sim, login, code):
    with Client(sim) as client:
        assert client.login(**login) == b"J" + code
        assert client.packet() == b""


def test_case_does_not_matter_in_credentials(sim):
    with Client(sim) as client:
        assert client.login(user="USER", password="PassWord")[:1] == b"A"


def test_heartbeats_both_ways(sim):
    with Client(sim) as client:
        client.login()
        client.messages(len(everything(sim)))
        began = time.monotonic()
        assert [client.packet() for _ in range(3)] == [b"H"] * 3
        assert 0.4 < time.monotonic() - began < 3.0
        client.say(b"R")
        assert sim.wait_for(lambda: sim.connections[0].heartbeats == 1, PATIENCE)


def test_logout_ends_it(sim):
    with Client(sim) as client:
        client.login()
        client.say(b"O")
        while client.packet():
            pass
        assert sim.wait_for(lambda: not sim.connections, PATIENCE)


def test_the_end_of_a_session_and_the_next_one(sim):
    with Client(sim) as client:
        client.login()
        client.messages(len(everything(sim)))
        old = sim.market
        sim.end_session("SIM0000002")
        while (packet := client.packet()) == b"H":
            pass
        assert packet == b"Z" and client.packet() == b""
    with Client(sim) as client:
        assert client.login("SIM0000001", 5) == b"JS"
    with Client(sim) as client:
        assert client.login()[1:11] == b"SIM0000002"
        assert sim.market is not old
        assert client.messages(len(everything(sim))) == everything(sim)
    sim.end_session()
    with Client(sim) as client:
        assert client.login() == b"JS"


def test_a_steady_flow():
    with ItchSim(rate=2000) as sim, Client(sim) as client:
        client.login()
        began = time.monotonic()
        client.messages(1000)
        assert 0.2 < time.monotonic() - began < PATIENCE
    assert not [thread for thread in threading.enumerate() if "sim-itch" in thread.name]


def test_a_long_session_for_a_client_that_reads_slowly(sim):
    sim.advance(60_000)
    truth = everything(sim)
    with Client(sim) as client, Client(sim) as sleeper:
        sleeper.login()
        assert client.login()[:1] == b"A"
        assert client.messages(len(truth)) == truth, "another that does not read holds nobody up"
        assert sleeper.messages(len(truth)) == truth


def test_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "loopback.crt", DATA / "loopback.key")
    mine = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    mine.check_hostname, mine.verify_mode = False, ssl.CERT_NONE
    with ItchSim(ssl_context=context) as sim:
        assert sim.url == f"tls+tcp://127.0.0.1:{sim.port}"
        with Client(sim, mine) as client:
            assert client.login()[:1] == b"A"
            sim.plan(FAULTS["tls_stall"])
            with socket.create_connection(("127.0.0.1", sim.port), PATIENCE) as raw:
                raw.settimeout(0.3)
                with pytest.raises((TimeoutError, ssl.SSLError)), mine.wrap_socket(raw):
                    pass
            assert sim.struck["tls_stall"] == 1


# -- faults ----------------------------------------------------------------------------------------


def ready(sim):
    """A client that has got everything so far."""
    client = Client(sim)
    client.login()
    client.messages(len(everything(sim)))
    return client


def test_refused_and_never_answered(sim):
    sim.plan(FAULTS["refuse"], FAULTS["never_answer"], None)
    with Client(sim) as client:
        client.say(b"L")
        assert client.packet() == b""
    with Client(sim) as client:
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.login()
    with Client(sim) as client:
        assert client.login()[:1] == b"A"
    assert sim.struck == Counter(refuse=1, never_answer=1) and sim.accepted == 3


def test_rejected_and_another_number_than_asked_for(sim):
    sim.plan(FAULTS["reject"](code="A"), FAULTS["reject"], FAULTS["wrong_number"](offset=2))
    with Client(sim) as client:
        assert client.login() == b"JA"
    with Client(sim) as client:
        assert client.login() == b"JS"
    with Client(sim) as client:
        assert client.login(number=3)[-1:] == b"5"
        assert client.messages(1) == everything(sim)[4:5]


@pytest.mark.parametrize("name", ["mute", "no_data", "no_heartbeats", "drop", "reset"])
def test_lasting_and_ending_faults(sim, name):
    with ready(sim) as client:
        sim.inject(FAULTS[name])
        sim.advance(5)
        client.sock.settimeout(0.6)
        if name == "no_data":
            assert client.packet() == b"H"
            sim.clear_faults()
            client.sock.settimeout(PATIENCE)
            assert client.messages(5) == everything(sim)[-5:]
        elif name in ("drop", "reset"):
            while (packet := client.packet())[:1] in (b"S", b"H"):
                pass
            assert packet == b""
        else:
            with pytest.raises(TimeoutError):
                if name == "no_heartbeats":
                    client.messages(5)
                while client.packet() != b"never":
                    assert name == "mute", "no packet at all"
        assert sim.struck[name] == 1


def test_half_a_packet_then_nothing(sim):
    with ready(sim) as client:
        client.data = b""
        sim.inject(FAULTS["stall"])
        sim.advance(1)
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while client.packet() == b"H":
                pass
        assert client.data


def test_skipped_and_repeated_messages(sim):
    with ready(sim) as client:
        sim.inject(FAULTS["skip"])
        sim.advance(3)
        assert client.messages(2) == everything(sim)[-2:]
        sim.inject(FAULTS["duplicate"])
        sim.advance(2)
        first, second = everything(sim)[-2:]
        assert client.messages(3) == [first, first, second]
        sim.inject(FAULTS["skip"](code="D"))
        before = len(everything(sim))
        sim.advance(200)
        new = everything(sim)[before:]
        gone = next(at for at, message in enumerate(new) if message[:1] == b"D")
        assert client.messages(199) == new[:gone] + new[gone + 1:]


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage(sim, kind):
    with ready(sim) as client:
        sim.inject(FAULTS["garbage"](kind=kind))
        sim.advance(2)
        healthy = [b"S" + message for message in everything(sim)[-2:]]
        packets = []
        while healthy[1] not in packets:
            packet = client.packet()
            if packet != b"H":
                packets.append(packet)
        if kind in ("packet", "extra_type"):
            assert len(packets) == 3 and packets[1:] == healthy
        else:
            assert len(packets) == 2 and packets[0] != healthy[0]
        assert sim.struck["garbage"] == 1


def test_a_debug_packet(sim):
    with ready(sim) as client:
        sim.inject(FAULTS["debug"](text="lunch at noon"))
        while (packet := client.packet()) == b"H":
            pass
        assert packet == b"+lunch at noon"


def test_mistakes_in_faults_fail_at_the_call(sim):
    with pytest.raises(ValueError, match="use plan"):
        sim.inject(FAULTS["reject"])
    with pytest.raises(ValueError, match="no garbage 'x'"):
        sim.inject(FAULTS["garbage"](kind="x"))
    with pytest.raises(ValueError, match="symbols"):
        ItchSim(symbols=("TOOLONGNAME",))
    with pytest.raises(ValueError, match="rate"):
        ItchSim(rate=-1)


def test_stop_is_quick_in_every_state(sim):
    clients = [ready(sim), Client(sim)]
    sim.inject(FAULTS["mute"])
    began = time.monotonic()
    assert sim.stop()
    assert time.monotonic() - began < 1.0
    for client in clients:
        client.sock.close()
