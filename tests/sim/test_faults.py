"""Every fault strikes as it says, where it says, and nowhere else."""
from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from streams.sim import BinanceSim, Fault, HuobiSim
from streams.sim.connection import Connection
from streams.sim.simulation import MarketSim

from .books import BinanceBook
from .client import BINARY, CLOSE, PING, PONG, TEXT, Client, Refused, get
from .test_server import client_context, server_context

SIMS = [BinanceSim, HuobiSim]
BOOKS = "/ws/btcusdt@depth@100ms"
SNAPSHOT = "/api/v3/depth?symbol=BTCUSDT&limit=1000"


def join(sim: MarketSim) -> tuple[Client, Connection]:
    """A client that is subscribed to the book of BTCUSDT."""
    before = sim.accepted
    if isinstance(sim, HuobiSim):
        client = Client(sim.url, "/feed")
        client.send({"sub": "market.btcusdt.mbp.150", "id": 1})
        client.until(id=1)
    else:
        client = Client(sim.url, BOOKS)
    assert sim.wait_for(lambda: any(conn.id > before and conn.subscriptions
                                    for conn in sim.connections), 10)
    return client, sim.connections[-1]


def ids(event: dict[str, Any]) -> tuple[int, int]:
    """Where an update begins and ends: the id before it, and its last."""
    if "tick" in event:
        return event["tick"]["prevSeqNum"], event["tick"]["seqNum"]
    return event["U"] - 1, event["u"]


def follows(events: list[dict[str, Any]]) -> list[bool]:
    """For each but the first, whether it goes on where the one before it ended."""
    return [ids(b)[0] == ids(a)[1] for a, b in zip(events, events[1:])]


def pull(sim: MarketSim, client: Client, count: int) -> list[dict[str, Any]]:
    """Move the market until so many messages have come."""
    events = []
    while len(events) < count:
        sim.advance(1, "BTCUSDT")
        while not client.silent(0.01):
            events.append(client.json())
    return events


# -- handshake -----------------------------------------------------------------------------------


def test_refuse_closes_without_an_answer_and_only_once() -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(Fault.REFUSE)
        assert get(sim.rest_url, SNAPSHOT).status == 200        # REST does not use it up
        with pytest.raises((EOFError, ConnectionResetError)):
            Client(sim.url, BOOKS)
        join(sim)[0].sock.close()
        assert sim.struck["refuse"] == 1 and sim.accepted == 2


def test_plans_are_taken_in_order_and_none_is_healthy() -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(None, Fault.REJECT(status=503), None)
        with Client(sim.url), pytest.raises(Refused):
            Client(sim.url)
        with Client(sim.url):
            assert sim.struck == {"reject": 1}


def test_never_upgrade_accepts_and_is_silent() -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(Fault.NEVER_UPGRADE)
        with pytest.raises(TimeoutError):
            Client(sim.url, timeout=0.2)
        assert sim.wait_for(lambda: not sim.peers(), 10)        # noticed that the client went


def test_slow_upgrade_comes_byte_by_byte() -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(Fault.SLOW_UPGRADE(seconds=0.3))
        begun = time.monotonic()
        client, _ = join(sim)
        assert time.monotonic() - begun >= 0.25
        with client:
            sim.advance()
            assert client.json()["e"] == "depthUpdate"


@pytest.mark.parametrize("status, after", [(429, 7), (403, None), (503, 1)])
def test_reject_answers_with_a_status(status: int, after: int | None) -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(Fault.REJECT(status=status, retry_after=after))
        with pytest.raises(Refused) as refused:
            Client(sim.url)
        assert refused.value.status == status
        assert refused.value.headers.get("retry-after") == (str(after) if after else None)


def test_tls_stall_accepts_and_never_shakes_hands() -> None:
    with BinanceSim(rate=0, ssl_context=server_context()) as sim:
        sim.plan(Fault.TLS_STALL)
        with pytest.raises(TimeoutError):
            Client(sim.url, tls=client_context(), timeout=0.2)
        with Client(sim.url, BOOKS, tls=client_context()) as client:
            assert sim.wait_for(lambda: sim.subscribers("btcusdt@depth@100ms"), 10)
            sim.advance()
            assert client.json()["e"] == "depthUpdate"
    with pytest.raises(ValueError, match="ssl_context"):
        BinanceSim(rate=0).plan(Fault.TLS_STALL)


# -- silence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIMS)
@pytest.mark.parametrize("read", [True, False])
def test_mute_sends_nothing_not_even_pongs(kind: type[MarketSim], read: bool) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.MUTE(read=read))
            client.send(b"there?", PING)
            client.send({"method": "LIST_SUBSCRIPTIONS", "id": 1})
            client.send(struct.pack("!H", 1000), CLOSE)
            sim.advance(5)
            assert client.silent(0.1)
            if read:
                assert sim.wait_for(lambda: conn.pings == 1, 10)
            else:
                assert conn.pings == 0
        other, _ = join(sim)
        with other:                                     # new connections work
            sim.advance(5, "BTCUSDT")
            assert other.json()


def test_clear_faults_gives_a_mute_connection_its_voice_back() -> None:
    with BinanceSim(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.MUTE(read=False), conn)
            client.send(b"1", PING)
            sim.advance()
            assert client.silent(0.05)
            sim.clear_faults()
            assert client.frame() == (True, PONG, b"1")
            sim.advance()
            assert client.json()["e"] == "depthUpdate"


@pytest.mark.parametrize("kind", SIMS)
def test_a_mute_connection_ends_when_its_client_goes(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        sim.inject(Fault.MUTE)
        client.sock.close()
        assert sim.wait_for(lambda: conn.closed, 10)


@pytest.mark.parametrize("kind", SIMS)
def test_stall_stops_in_the_middle_of_a_frame(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, _ = join(sim)
        with client:
            sim.inject(Fault.STALL)
            sim.advance(5)
            client.send(b"there?", PING)
            time_out_in_frame(client)
            have = len(client._buffer)
            assert client.silent(0.05) or len(client._buffer) == have
            sim.clear_faults()                          # the rest of it, and the stream goes on
            client.sock.settimeout(10)
            frame = client.frame()
            assert frame.opcode in (TEXT, BINARY)
            sim.advance(5, "BTCUSDT")
            assert ids(client.json())


def time_out_in_frame(client: Client) -> None:
    """A frame has begun and does not end; what there is stays in the buffer."""
    client.sock.settimeout(0.1)
    with pytest.raises(TimeoutError):
        while True:
            client._more()
    second = client._buffer[1]
    length, start = second & 0x7F, 2
    if length == 126:
        length, start = struct.unpack("!H", client._buffer[2:4])[0], 4
    assert start <= len(client._buffer) < start + length


@pytest.mark.parametrize("kind", SIMS)
def test_no_data_goes_on_with_pings_pongs_and_acks(kind: type[MarketSim]) -> None:
    options: dict[str, Any] = {"ping_interval": 0.05}
    with kind(rate=0, **options) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.NO_DATA, conn)
            sim.advance(5)
            client.send(b"there?", PING)
            seen = set()
            while not {"ping", "pong"} <= seen:
                frame = client.frame()
                assert frame.opcode in (PING, PONG) or b"ping" in gzip.decompress(frame.payload)
                seen.add("pong" if frame.opcode == PONG else "ping")
            sim.clear_faults()
            sim.advance(5, "BTCUSDT")
            while "ping" in (event := client.json()):
                pass
            assert ids(event)


# -- subscriptions -------------------------------------------------------------------------------


def ask(sim: MarketSim, client: Client, number: int) -> None:
    if isinstance(sim, HuobiSim):
        client.send({"sub": "market.ethusdt.mbp.150", "id": number})
    else:
        client.send({"method": "SUBSCRIBE", "params": ["ethusdt@depth@100ms"], "id": number})


@pytest.mark.parametrize("kind", SIMS)
def test_ack_and_silence(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.ACK_SILENCE)
            ask(sim, client, 5)
            assert client.json()["id"] == 5
            assert len(conn.subscriptions) == 2
            sim.advance(5, "ETHUSDT")
            assert client.silent(0.05)
            sim.advance(5, "BTCUSDT")                   # what was there before goes on
            assert ids(client.json())


def test_ack_and_silence_planned_for_a_connection_with_streams_in_its_url() -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(Fault.ACK_SILENCE)
        client, _ = join(sim)
        with client:
            sim.advance(5)
            assert client.silent(0.05)


@pytest.mark.parametrize("kind", SIMS)
def test_no_ack_ignores_control_messages(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.NO_ACK)
            ask(sim, client, 5)
            client.send(b"done", PING)
            assert client.frame() == (True, PONG, b"done")
            assert len(conn.subscriptions) == 1 and len(conn.received) >= 1


@pytest.mark.parametrize("kind", SIMS)
def test_subscriptions_can_be_refused(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.REFUSE_SUBSCRIPTION)
            ask(sim, client, 5)
            answer = client.json()
            assert answer.get("code") == 2 or answer.get("err-code") == "bad-request"
            assert answer["id"] == 5 and len(conn.subscriptions) == 1
            sim.clear_faults()
            ask(sim, client, 6)
            assert "err-code" not in (answer := client.until(id=6)) and "code" not in answer


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIMS)
def test_drop_is_an_end_without_a_close_frame(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            client.send(b"unread", PONG)
            sim.inject(Fault.DROP, conn)
            with pytest.raises(EOFError):
                client.frame()
            client.sock.close()
            assert sim.wait_for(lambda: not sim.connections, 10)


@pytest.mark.parametrize("kind", SIMS)
def test_reset_is_a_reset(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.RESET, conn)
            with pytest.raises(ConnectionResetError):
                client.frame()
        assert sim.wait_for(lambda: conn.closed, 10)


@pytest.mark.parametrize("kind", SIMS)
def test_close_has_code_and_reason(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.CLOSE(code=1008, reason="go away"), conn)
            assert client.message() == (True, CLOSE, struct.pack("!H", 1008) + b"go away")


@pytest.mark.parametrize("fault", [Fault.DROP, Fault.RESET, Fault.CLOSE])
def test_an_end_can_be_planned_for_a_new_connection(fault: Fault) -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan(fault)
        with Client(sim.url, BOOKS) as client:          # the handshake itself succeeds
            with pytest.raises((EOFError, ConnectionResetError)):
                while client.frame():
                    pass


# -- book updates --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIMS)
def test_skip_leaves_out_one_update(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, _ = join(sim)
        with client:
            before = pull(sim, client, 3)
            sim.inject(Fault.SKIP)
            events = before[-1:] + pull(sim, client, 4)
            assert follows(events) == [False, True, True, True]
            assert sim.struck["skip"] == 1


@pytest.mark.parametrize("kind", SIMS)
def test_skip_can_leave_out_every_nth(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, _ = join(sim)
        with client:
            sim.inject(Fault.SKIP(every=5))
            events = pull(sim, client, 21)
            assert [at for at, good in enumerate(follows(events)) if not good] == [3, 7, 11, 15, 19]
            assert sim.struck["skip"] == 5
            sim.clear_faults()
            assert all(follows(events[-1:] + pull(sim, client, 10)))


def test_skip_can_be_for_one_symbol() -> None:
    with BinanceSim(rate=0) as sim, \
            Client(sim.url, f"{BOOKS}/ethusdt@depth@100ms") as client:
        sim.wait_for(lambda: sim.subscribers("ethusdt@depth@100ms"), 10)
        sim.inject(Fault.SKIP(symbol="ETHUSDT"))
        sim.advance(2)
        assert [client.json()["s"] for _ in range(3)] == ["BTCUSDT", "BTCUSDT", "ETHUSDT"]


@pytest.mark.parametrize("kind", SIMS)
def test_duplicate_sends_one_update_twice(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, _ = join(sim)
        with client:
            sim.inject(Fault.DUPLICATE)
            first, second, third = pull(sim, client, 3)[:3]
            assert first == second and follows([second, third]) == [True]


@pytest.mark.parametrize("kind", SIMS)
def test_reorder_exchanges_two_updates(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, _ = join(sim)
        with client:
            before = pull(sim, client, 1)
            sim.inject(Fault.REORDER)
            first, second, *rest = pull(sim, client, 4)
            assert all(follows(before[-1:] + [second, first] + rest))


def test_a_fault_of_one_connection_is_none_of_the_others_business() -> None:
    with BinanceSim(rate=0) as sim:
        one, conn = join(sim)
        two, _ = join(sim)
        with one, two:
            sim.inject(Fault.SKIP, conn)
            sim.advance(3, "BTCUSDT")
            assert ids(one.json()) == ids([two.json(), two.json()][1])


# -- nonsense ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BinanceSim(rate=0).wire.garbage_kinds)
def test_binance_garbage_comes_between_good_events(kind: str) -> None:
    with BinanceSim(rate=0) as sim:
        client, _ = join(sim)
        with client:
            before = pull(sim, client, 1)
            sim.inject(Fault.GARBAGE(kind=kind))
            frame = client.frame()
            assert all(follows(before[-1:] + pull(sim, client, 2)))
    if kind == "binary":
        assert frame.opcode == BINARY
        return
    check_garbage(kind, frame.payload, lambda value: value["b"], before[-1]["u"])


@pytest.mark.parametrize("kind", HuobiSim(rate=0).wire.garbage_kinds)
def test_huobi_garbage_comes_between_good_updates(kind: str) -> None:
    with HuobiSim(rate=0) as sim:
        client, _ = join(sim)
        with client:
            before = pull(sim, client, 1)
            sim.inject(Fault.GARBAGE(kind=kind))
            frame = client.frame()
            assert frame.opcode == BINARY
            assert all(follows(before[-1:] + pull(sim, client, 2)))
    if kind in ("gzip", "binary"):
        with pytest.raises((OSError, EOFError, zlib.error)):
            gzip.decompress(frame.payload)
    elif kind == "bomb":
        assert len(frame.payload) < 200_000
        assert len(gzip.decompress(frame.payload)) == 100_000_000
    else:
        check_garbage(kind, gzip.decompress(frame.payload), lambda value: value["tick"]["bids"],
                      before[-1]["tick"]["seqNum"])


def check_garbage(kind: str, payload: bytes, levels: Any, last: int) -> None:
    """Each kind is wrong in its own way, and right otherwise."""
    if kind in ("invalid", "truncated"):
        with pytest.raises(ValueError):
            json.loads(payload)
        return
    if kind == "utf8":
        with pytest.raises(UnicodeDecodeError):
            payload.decode()
        return
    if kind == "nested":
        with pytest.raises((ValueError, RecursionError)):
            json.loads(payload)
        return
    value = json.loads(payload)
    sizes = [level[1] for level in levels(value)] if kind != "types" else []
    if kind == "types":
        assert not isinstance(levels(value), list) or value["U"] == "first"
    elif kind == "unknown":
        assert "martian" in payload.decode()
    else:
        number = [float(size) for size in sizes]
        wrong = {"nan": lambda n: n != n, "inf": lambda n: n == float("inf"),
                 "negative": lambda n: n < 0}[kind]
        assert any(map(wrong, number))
        assert str(last + 1).encode() in payload        # in the place of the next update


def test_garbage_in_a_combined_stream_is_wrapped() -> None:
    with BinanceSim(rate=0) as sim, \
            Client(sim.url, "/stream?streams=btcusdt@depth@100ms") as client:
        sim.wait_for(lambda: sim.subscribers("btcusdt@depth@100ms"), 10)
        sim.inject(Fault.GARBAGE(kind="negative"))
        assert client.json()["stream"] == "btcusdt@depth@100ms"


def test_an_unknown_kind_of_garbage_is_named() -> None:
    with pytest.raises(ValueError, match="truncated"):
        BinanceSim(rate=0).inject(Fault.GARBAGE(kind="lies"))


@pytest.mark.parametrize("kind", SIMS)
def test_an_oversized_frame_is_announced_and_streamed(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, conn = join(sim)
        with client:
            sim.inject(Fault.OVERSIZED(size=30_000_000))
            head = client._take(10)
            assert head[1] == 127 and struct.unpack("!Q", head[2:])[0] == 30_000_000
            assert conn.peer.pending < 1_000_000        # it is not kept in memory
            left = 30_000_000 - len(client._buffer)
            client._buffer = b""
            while left > 0:
                left -= len(client.sock.recv(min(left, 1 << 20)))
            sim.advance(5, "BTCUSDT")
            assert ids(client.json())


@pytest.mark.parametrize("kind", SIMS)
def test_messages_can_come_in_fragments(kind: type[MarketSim]) -> None:
    with kind(rate=0) as sim:
        client, _ = join(sim)
        with client:
            sim.inject(Fault.FRAGMENT(size=7))
            assert all(follows(pull(sim, client, 10)))
            assert client.fragments > 10 and client.pings


# -- snapshots -----------------------------------------------------------------------------------


def test_a_stale_snapshot_is_an_old_true_book() -> None:
    with BinanceSim(rate=0) as sim:
        sim.advance(100, "BTCUSDT")
        sim.plan_rest(Fault.SNAPSHOT_STALE(updates=40))
        old = BinanceBook(get(sim.rest_url, SNAPSHOT).value)
        assert old.sequence == sim.market["BTCUSDT"].ids_ago(40)[0]
        assert old.equals(sim.market.book("BTCUSDT", old.sequence))
        assert get(sim.rest_url, SNAPSHOT).value["lastUpdateId"] == sim.market.book(
            "BTCUSDT").sequence


@pytest.mark.parametrize("fault, status, after", [
    (Fault.SNAPSHOT_429(retry_after=3), 429, "3"), (Fault.SNAPSHOT_418, 418, "2"),
    (Fault.SNAPSHOT_500, 500, None)])
def test_a_snapshot_can_be_refused(fault: Fault, status: int, after: str | None) -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan_rest(None, fault)
        assert get(sim.rest_url, SNAPSHOT).status == 200
        assert get(sim.rest_url, "/api/v3/exchangeInfo").status == 200      # no snapshot
        answer = get(sim.rest_url, SNAPSHOT)
        assert answer.status == status and answer.headers.get("retry-after") == after
        assert answer.value["code"] < 0
        assert get(sim.rest_url, SNAPSHOT).status == 200


def test_a_snapshot_can_hang() -> None:
    with BinanceSim(rate=0) as sim:
        sim.plan_rest(Fault.SNAPSHOT_HANG)
        with pytest.raises(TimeoutError):
            get(sim.rest_url, SNAPSHOT, timeout=0.2)
        assert sim.wait_for(lambda: not sim.peers(), 10)


@pytest.mark.parametrize("kind, target", [(BinanceSim, SNAPSHOT),
                                          (HuobiSim, "/market/depth?symbol=btcusdt&type=step0")])
def test_a_snapshot_can_be_garbage(kind: type[MarketSim], target: str) -> None:
    with kind(rate=0) as sim:
        sim.plan_rest(Fault.SNAPSHOT_GARBAGE)
        answer = get(sim.rest_url, target)
        assert answer.status == 200
        with pytest.raises(ValueError):
            answer.value


@pytest.mark.parametrize("fault, code", [
    (Fault.SNAPSHOT_429, "too-many-request"), (Fault.SNAPSHOT_500, "system-error"),
    (Fault.SNAPSHOT_GARBAGE, None), (Fault.SNAPSHOT_STALE, None), (Fault.SNAPSHOT_HANG, None)])
def test_snapshot_faults_strike_huobis_req_too(fault: Fault, code: str | None) -> None:
    with HuobiSim(rate=0) as sim:
        client, _ = join(sim)
        with client:
            sim.advance(60, "BTCUSDT")
            now = ids(pull(sim, client, 1)[-1])[1]
            sim.plan_rest(fault)
            client.send({"req": "market.btcusdt.mbp.150", "id": "r"})
            if fault == Fault.SNAPSHOT_HANG:
                assert client.silent(0.1)
                return
            answer = client.until(id="r")
            assert answer.get("err-code") == code
            if fault == Fault.SNAPSHOT_STALE:
                assert answer["data"]["seqNum"] < now
            elif fault == Fault.SNAPSHOT_GARBAGE:
                assert answer["data"]["seqNum"] is None


# -- random faults -------------------------------------------------------------------------------


def test_random_faults_come_as_often_as_they_should_and_the_same_again() -> None:
    def run(seed: int) -> tuple[dict[str, int], list[tuple[int, int]]]:
        with BinanceSim(("BTCUSDT",), rate=0) as sim:
            client, _ = join(sim)
            with client:
                sim.random_faults(seed, 0.05, (Fault.SKIP, Fault.DUPLICATE, Fault.REORDER))
                sim.advance(2000)
                end = sim.market.book("BTCUSDT").sequence
                sim.clear_faults()
                sim.advance(1)
                events = [client.json()]
                while events[-1]["U"] <= end:
                    events.append(client.json())
                return dict(sim.struck), [ids(event) for event in events]
    struck, events = run(3)
    assert set(struck) == {"skip", "duplicate", "reorder"}
    assert 60 <= sum(struck.values()) <= 140
    assert len(events) == 2001 - struck["skip"] + struck["duplicate"]
    assert (struck, events) == run(3) != run(4)


def test_random_ends_and_snapshot_faults() -> None:
    with BinanceSim(("BTCUSDT",), rate=0, weight_limit=10 ** 6) as sim:
        sim.random_faults(1, 0.02, (Fault.DROP, Fault.RESET, Fault.SNAPSHOT_500),
                          snapshot_probability=0.5)
        while len({"drop", "reset"} & set(sim.struck)) < 2:
            client, conn = join(sim)
            with client:
                while not conn.closed and conn.peer in sim.peers() and sim.struck.total() < 50:
                    sim.advance()
                    if sim.wait_for(lambda: conn.closed, 0.001):
                        break
        statuses = [get(sim.rest_url, SNAPSHOT).status for _ in range(30)]
        assert {200, 500} == set(statuses)


# -- the switches themselves ---------------------------------------------------------------------


def test_faults_go_where_they_belong() -> None:
    sim = BinanceSim(rate=0)
    with pytest.raises(ValueError, match="plan_rest"):
        sim.inject(Fault.SNAPSHOT_429)
    with pytest.raises(ValueError, match=r"use plan\("):
        sim.inject(Fault.REFUSE)
    with pytest.raises(ValueError, match="plan_rest"):
        sim.plan(Fault.SNAPSHOT_500)
    with pytest.raises(ValueError, match=r"use plan\("):
        sim.plan_rest(Fault.MUTE)
    with pytest.raises(ValueError, match="random"):
        sim.random_faults(1, 0.1, (Fault.REFUSE,))
    with pytest.raises(ValueError, match="0 to 1"):
        sim.random_faults(1, 2)


def test_faults_are_values() -> None:
    assert Fault.SKIP(every=97) == Fault.SKIP(every=97) != Fault.SKIP
    assert Fault.SKIP.options["every"] == 0
    assert repr(Fault.MUTE) == "Fault.MUTE(read=True)"
    assert len({Fault.DROP, Fault.DROP(), Fault.RESET}) == 2
    with pytest.raises(TypeError, match="it has: every, symbol"):
        Fault.SKIP(evry=1)


@pytest.mark.parametrize("text, fault", [
    ("mute", Fault.MUTE), ("skip:every=97", Fault.SKIP(every=97)),
    ("never-upgrade", Fault.NEVER_UPGRADE), ("slow_upgrade:seconds=1.5",
                                             Fault.SLOW_UPGRADE(seconds=1.5)),
    ("close:code=1008,reason=bye", Fault.CLOSE(code=1008, reason="bye")),
    ("mute:read=false", Fault.MUTE(read=False))])
def test_faults_can_be_written_on_a_command_line(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize("text, said", [("mut", "there are: ack_silence"), ("mute:x=1", "read")])
def test_misspelt_faults_are_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Fault.parse(text)


def test_a_standing_fault_strikes_every_connection_until_cleared() -> None:
    with BinanceSim(rate=0) as sim:
        sim.always(Fault.REJECT(status=503))
        sim.always(Fault.SNAPSHOT_500)
        for _ in range(3):
            with pytest.raises(Refused):
                Client(sim.url)
            assert get(sim.rest_url, SNAPSHOT).status == 500
        sim.clear_faults()
        Client(sim.url).sock.close()
        assert get(sim.rest_url, SNAPSHOT).status == 200


def test_every_fault_has_a_test() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    body = text[:text.index("def test_every_fault_has_a_test")]
    assert [name for name in Fault.KINDS if f"Fault.{name.upper()}" not in body] == []


@pytest.mark.parametrize("fault", [
    Fault.MUTE, Fault.MUTE(read=False), Fault.STALL, Fault.OVERSIZED, Fault.CLOSE,
    Fault.NO_DATA], ids=str)
def test_stop_is_quick_under_every_fault(fault: Fault) -> None:
    sim = BinanceSim(rate=200)
    sim.start()
    client, _ = join(sim)
    with client:
        sim.inject(fault)
        begun = time.monotonic()
        assert sim.stop()
        assert time.monotonic() - begun < 1


def test_stop_is_quick_in_a_slow_upgrade_and_a_hanging_snapshot() -> None:
    sim = BinanceSim(rate=0)
    sim.start()
    sim.plan(Fault.SLOW_UPGRADE(seconds=60), Fault.NEVER_UPGRADE)
    sim.plan_rest(Fault.SNAPSHOT_HANG)
    tries: list[Any] = []

    def attempt(what: Any) -> None:
        with pytest.raises((OSError, EOFError, IndexError)) as error:
            what()
        tries.append(error)
    threads = [threading.Thread(target=attempt, args=(what,)) for what in (
        lambda: Client(sim.url), lambda: Client(sim.url),
        lambda: get(sim.rest_url, SNAPSHOT))]
    for thread in threads:
        thread.start()
    try:
        assert sim.wait_for(lambda: sum(sim.struck.values()) == 3, 10)
        begun = time.monotonic()
        assert sim.stop()
        assert time.monotonic() - begun < 1
    finally:
        sim.stop()
        for thread in threads:
            thread.join(10)
    assert len(tries) == 3


def test_slow_clients_are_dropped_while_the_market_runs() -> None:
    with BinanceSim(("BTCUSDT",), rate=0, patience=0.01, send_limit=1 << 20) as sim:
        slow, conn = join(sim)
        with slow:
            slow.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            while not conn.peer.overflowed:
                sim.advance(1000)
            assert sim.wait_for(lambda: sim.slow_clients == 1, 10)
