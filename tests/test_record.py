from __future__ import annotations

import errno
import gzip
import itertools
import json
import logging
import random
import signal
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from streams import Binance, Huobi, Kraken
from streams import record as recording
from streams.errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, MissingDependency
from streams.record import Record, Recorder, public_url, read_recording
from streams.transports import Target, open_transport
from streams.transports.replay import Playback, ReplayTransport

from .raw_peer import PATIENCE, beside
from .tools import at_every_step

LIMIT = 20.0  # seconds until a test that waits has failed
RECORDINGS = Path(__file__).parents[2] / "shared" / "recordings"
NS = 1_763_690_000_123_456_789
KINDS = [("plain", ".jsonl", b"{"), ("gzip", ".jsonl.gz", b"\x1f\x8b"), ("zstd", ".jsonl.zst", b"\x28\xb5")]

TRICKY = [
    b'{"e":"trade","p":"0.00001000"}', b"", b"ping", '{"name":"Bitcoin \u20bf \U0001f4c8"}'.encode(),
    b'quote " backslash \\ newline \n return \r tab \t nul \x00 end \x7f',
    gzip.compress(b'{"ch":"market.btcusdt.bbo"}', mtime=0), bytes(range(256)), b"\xff", b"\xed\xa0\x80",
    b"x" * 100_000,
]


def eventually(true, what="it"):
    deadline = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        threading.Event().wait(0.002)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    for thread in left:
        thread.join(LIMIT)
    assert not [thread for thread in left if thread.is_alive()]


@pytest.fixture(params=KINDS, ids=[kind for kind, _, _ in KINDS])
def path(request, tmp_path):
    if request.param[0] == "zstd":
        pytest.importorskip("zstandard")
    return tmp_path / f"feed{request.param[1]}"


def frames(path):
    return [record.data for record in read_recording(path) if record.kind == "recv"]


class TestRoundTrip:
    def test_everything_that_happens(self, path):
        with Recorder(path) as recorder:
            recorder.opened("binance-1", "wss://user:pass@stream.binance.com/ws?streams=a@depth/b&apiKey=K3Y")
            recorder.sent("binance-1", '{"method":"SUBSCRIBE"}', False)
            recorder.sent("binance-1", '{"secret":"S3CRET"}', True)
            recorder.received("binance-1", TRICKY, NS)
            recorder.http("binance-1", "https://api.binance.com/api/v3/depth?symbol=X&signature=S3CRET",
                          b'{"lastUpdateId":1}')
            recorder.closed("binance-1", "the peer said goodbye")
        found = list(read_recording(path))
        assert [record.kind for record in found] == [
            "header", "connect", "send", "send", *["recv"] * len(TRICKY), "http", "close"]
        header, connect, sent, secret, *received, answer, close = found
        assert json.loads(header.data)["source"] == "market-streams"
        assert connect.url == "wss://stream.binance.com/ws?streams=a@depth/b&apiKey=***"
        assert {record.stream for record in found[1:]} == {"binance-1"}
        assert (sent.data, sent.secret) == (b'{"method":"SUBSCRIBE"}', False)
        assert (secret.data, secret.secret) == (b"", True)
        assert [record.data for record in received] == TRICKY
        assert {record.time for record in received} == {NS}
        assert answer.url == "https://api.binance.com/api/v3/depth?symbol=X&signature=***"
        assert answer.data == b'{"lastUpdateId":1}'
        assert close.reason == "the peer said goodbye"
        assert abs(connect.time - time.time_ns()) < 60 * 10**9
        for word in (b"S3CRET", b"K3Y", b"user:pass"):
            assert word not in path.read_bytes() and word not in b"".join(r.data for r in found)

    def test_text_stays_text(self, path):
        """A venue may have its transport deliver ``str``: utf8=True."""
        messages = ['{"a":"\u20bf"}', b"bytes", "", b"\xff"]
        with Recorder(path) as recorder:
            recorder.received("s", messages, NS)
        assert frames(path) == ['{"a":"\u20bf"}'.encode(), b"bytes", b"", b"\xff"]
        assert recorder.status()["frames"] == 4 and recorder.status()["lost"] == 0
        receiver, transport = played(path, speed=0)
        transport.run()
        assert receiver.got == messages

    @pytest.mark.parametrize("suffix, start", [(suffix, start) for _, suffix, start in KINDS])
    def test_compression_goes_by_the_name(self, tmp_path, suffix, start):
        if suffix.endswith("zst"):
            pytest.importorskip("zstandard")
        path = tmp_path / f"x{suffix}"
        Recorder(path).close()
        assert path.read_bytes().startswith(start)

    def test_or_as_asked_for(self, tmp_path):
        path = tmp_path / "x.dat"
        with Recorder(path, compress="gzip") as recorder:
            recorder.received("s", [b"a"], NS)
        assert gzip.decompress(path.read_bytes()).count(b"\n") == 2
        assert frames(path) == [b"a"]

    def test_the_documented_shape(self, tmp_path):
        """What other readers of the format rely on."""
        path = tmp_path / "x.jsonl"
        with Recorder(path) as recorder:
            recorder.opened("s", "wss://venue/ws")
            recorder.received("s", [b'{"a":1}', b"\xff\x00"], NS)
            recorder.http("s", "https://venue/depth?symbol=X", b"{}")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["t"] for line in lines] == ["header", "connect", "recv", "recv", "http"]
        assert (lines[1]["conn"], lines[1]["addr"]) == ("s", "wss://venue/ws")
        assert lines[2]["data"] == '{"a":1}' and lines[3]["b64"] == "/wA="
        assert lines[2]["ts"] == pytest.approx(NS / 1e9)
        assert lines[4]["url"] == "https://venue/depth?symbol=X" and lines[4]["data"] == "{}"

    def test_many_streams_from_many_threads(self, path):
        streams, batches = 6, 300
        with Recorder(path) as recorder:
            def feed(name):
                for batch in range(batches):
                    recorder.received(name, [b"%d.%d" % (batch, part) for part in range(3)], NS + batch)

            threads = [threading.Thread(target=feed, args=(f"s{index}",)) for index in range(streams)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
        assert recorder.status()["lost"] == 0
        assert recorder.status()["frames"] == streams * batches * 3
        for index in range(streams):
            own = [r for r in read_recording(path) if r.stream == f"s{index}"]
            assert [r.data for r in own] == [
                b"%d.%d" % (batch, part) for batch in range(batches) for part in range(3)]
            assert [r.time for r in own] == [NS + batch for batch in range(batches) for _ in range(3)]


class TestCrash:
    def test_readable_up_to_the_last_flush(self, path, monkeypatch, caplog):
        """A recorder that never got to close its file."""
        monkeypatch.setattr(recording, "FLUSH_EVERY", 0.01)
        recorder = Recorder(path)
        for number in range(5):
            recorder.received("s", [b"%d" % number], NS)
            eventually(lambda: recorder.status()["frames"] == number + 1, "the flush")
        try:
            assert frames(path) == [b"0", b"1", b"2", b"3", b"4"]
            assert not caplog.records
        finally:
            recorder.close()

    def test_cut_off_at_any_place(self, path, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(recording, "UNIT", 1)  # every entry is a unit
        with Recorder(path) as recorder:
            for number in range(6):
                recorder.received("s", [b"message %d" % number], NS)
        whole = path.read_bytes()
        expected = frames(path)
        cut = tmp_path / "cut"
        best, said = -1, 0
        for length in range(len(whole) // 4, len(whole)):
            cut.write_bytes(whole[:length])
            found = frames(cut)
            assert found == expected[:len(found)]
            assert len(found) >= best, "a longer file must not give less"
            best = len(found)
            said += "cut off" in caplog.text
            caplog.clear()
        assert best >= 5
        # Not at the ends of units, and of lines with or without their newline: those look complete.
        assert said >= len(whole) - len(whole) // 4 - 14

    def test_lines_that_are_none_are_skipped_and_said(self, tmp_path, caplog):
        path = tmp_path / "x.jsonl"
        path.write_bytes(b'{"t":"header"}\n{"t":"recv","conn":"s","ts":1.5,"data":"a"}\nnonsense\n{"t":1}\n'
                         b'{"t":"other"}\n{"t":"recv","b64":"!!"}\n{"t":"recv","ts":2,"data":"b"}\n')
        assert frames(path) == [b"a", b"b"]
        assert "4 lines could not be understood" in caplog.text

    def test_a_damaged_file_is_read_up_to_there(self, tmp_path, caplog):
        path = tmp_path / "x.jsonl.gz"
        with Recorder(path) as recorder:
            recorder.received("s", [b"a"], NS)
        good = path.read_bytes()
        path.write_bytes(good + b"\x1f\x8bgarbage that is no gzip")
        assert frames(path) == [b"a"]
        assert "after 2 records" in caplog.text


class SlowDisk:
    """Stands in for the file: writes block until they may go on, or fail."""

    def __init__(self, file):
        self.file = file
        self.error: OSError | None = None
        self.once = False
        self.partial = 0
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()

    def write(self, data):
        self.entered.set()
        assert self.go.wait(LIMIT)
        if self.error is not None:
            self.file.write(data[:self.partial])
            error = self.error
            self.error = None if self.once else error
            raise error
        return self.file.write(data[:70_000])  # a raw file may write less than all

    def __getattr__(self, name):
        return getattr(self.file, name)


class TestDisk:
    def test_too_slow_loses_and_says_so_and_never_waits(self, path, monkeypatch, caplog):
        monkeypatch.setattr(recording, "FLUSH_EVERY", 0.0)
        recorder = Recorder(path, max_pending=recording.UNIT)
        disk = recorder._file = SlowDisk(recorder._file)
        disk.go.clear()
        recorder.received("s", [b"first"], NS)
        assert disk.entered.wait(LIMIT)
        big = b"x" * 100_000
        begun = time.monotonic()
        for number in range(30):
            recorder.received("s", [big, b"small %d" % number], NS + number)
        assert time.monotonic() - begun < LIMIT / 4
        assert recorder.status()["pending"] <= recording.UNIT
        lost = recorder.status()["lost"]
        assert lost == 2 * 20
        disk.go.set()
        eventually(lambda: recorder.status()["pending"] == 0, "the queue to empty")
        recorder.received("s", [b"last"], NS + 100)
        recorder.received("t", [b"other"], NS + 100)
        assert recorder.close()
        found = list(read_recording(path))
        gaps = [record for record in found if record.kind == "gap"]
        assert [gap.frames for gap in gaps] == [lost]
        assert (gaps[0].stream, gaps[0].time, gaps[0].reason) == ("s", NS + 10, "the disk is too slow")
        assert [record.data for record in found[found.index(gaps[0]) + 1:]] == [b"last", b"other"]
        assert sum(record.kind == "recv" for record in found) + lost == 1 + 60 + 2
        assert "the disk is too slow" in caplog.text

    def test_losses_at_the_end_are_marked_too(self, path, monkeypatch):
        monkeypatch.setattr(recording, "FLUSH_EVERY", 0.0)
        recorder = Recorder(path, max_pending=recording.UNIT)
        disk = recorder._file = SlowDisk(recorder._file)
        disk.go.clear()
        recorder.received("s", [b"x" * (recording.UNIT - 1000)], NS)
        assert disk.entered.wait(LIMIT)
        for _ in range(3):
            recorder.received("s", [b"x" * 2000], NS)
        assert recorder.close(0.05) is False
        recorder.received("s", [b"late"], NS)
        disk.go.set()
        assert recorder.close(LIMIT)
        assert [record.frames for record in read_recording(path) if record.kind == "gap"] == [3]
        assert recorder.status()["lost"] == 4

    @pytest.mark.parametrize("partial", [0, 7])
    def test_an_error_is_counted_marked_and_survived(self, path, partial, monkeypatch, caplog):
        monkeypatch.setattr(recording, "FLUSH_EVERY", 0.0)
        recorder = Recorder(path)
        disk = recorder._file = SlowDisk(recorder._file)
        recorder.received("s", [b"a"], NS)
        eventually(lambda: recorder.status()["frames"] == 1, "the first frame")
        disk.error, disk.partial = OSError(errno.ENOSPC, "No space left on device"), partial
        recorder.received("s", [b"b", b"c"], NS + 1)
        eventually(lambda: recorder.status()["errors"] == 1, "the error")
        recorder.received("s", [b"d"], NS + 2)
        eventually(lambda: recorder.status()["errors"] == 2, "the second error")
        disk.error = None
        recorder.received("s", [b"e"], NS + 3)
        assert recorder.close()
        assert [(record.kind, record.data, record.frames) for record in read_recording(path)][1:] == [
            ("recv", b"a", 0), ("gap", b"", 3), ("recv", b"e", 0)]
        assert recorder.status()["lost"] == 3
        assert caplog.text.count("No space left") == 1, "one record per minute"

    def test_an_error_at_the_very_end_is_marked_when_the_disk_allows(self, path):
        recorder = Recorder(path)
        disk = recorder._file = SlowDisk(recorder._file)
        disk.error, disk.once = OSError(errno.EIO, "Input/output error"), True
        recorder.received("s", [b"a", b"b"], NS)
        assert recorder.close(LIMIT)
        assert [(record.kind, record.frames) for record in read_recording(path)][1:] == [("gap", 2)]

    def test_one_that_never_recovers(self, path, caplog):
        recorder = Recorder(path)
        disk = recorder._file = SlowDisk(recorder._file)
        disk.error = OSError(errno.EIO, "Input/output error")
        recorder.received("s", [b"a"], NS)
        assert recorder.close(LIMIT)
        assert recorder.status()["lost"] == 1
        assert [record.kind for record in read_recording(path)] == ["header"]

    def test_no_thread_to_be_had(self, path, monkeypatch, caplog):
        recorder = Recorder(path)
        with monkeypatch.context() as patch:
            def refuse(thread):
                raise RuntimeError("can't start new thread")

            patch.setattr(threading.Thread, "start", refuse)
            recorder.received("s", [b"a"], NS)
        recorder.received("s", [b"b"], NS)
        assert recorder.close()
        assert frames(path) == [b"a", b"b"]
        assert recorder.status()["errors"] == 1

    def test_what_can_not_be_encoded_harms_only_itself(self, path, caplog):
        with Recorder(path) as recorder:
            recorder.received("t", [b"other"], NS)
            recorder.received("s", [b"lost with it", "\ud800"], NS + 1)  # a mistake of the caller's
            recorder.closed("s", "\udcff")
            recorder.received("s", [b"bytes"], NS + 2)
        found = list(read_recording(path))[1:]
        assert [(r.kind, r.stream, r.data, r.frames) for r in found] == [
            ("recv", "t", b"other", 0), ("gap", "s", b"", 2), ("gap", "s", b"", 1),
            ("recv", "s", b"bytes", 0)]
        assert found[1].time == NS + 1 and found[1].reason == "it could not be encoded"
        status = recorder.status()
        assert (status["frames"], status["lost"], status["pending"]) == (2, 3, 0) and status["errors"]
        assert "UnicodeEncodeError" in caplog.text


class TestSignals:
    def test_a_handler_may_stop_streams_that_has_interrupted_the_status(self, tmp_path):
        """It waits for their threads, and those record that they are closed."""
        stopped = []
        with Recorder(tmp_path / "x.jsonl") as recorder, ThreadPoolExecutor(1) as threads:
            def stop():
                closing = threads.submit(recorder.closed, "s", "stop()")
                stopped.append(all(stopped) and not wait([closing], 5).not_done)

            at_every_step(recorder.status, stop)
        assert stopped and all(stopped)
        assert sum(record.kind == "close" for record in read_recording(recorder.path)) == len(stopped)

    @pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals here")
    def test_ctrl_c_leaves_nothing_locked(self, tmp_path):
        def interrupt(*_):
            raise KeyboardInterrupt

        recorder = Recorder(tmp_path / "x.jsonl")
        assert recorder.close()                 # or what comes late may be recorded, if that one was struck
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for count in range(1, 201):
                with pytest.raises(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 5e-4))
                    while True:
                        recorder.close()
                late = threading.Thread(target=recorder.closed, args=("s", "late"), daemon=True)
                late.start()
                late.join(PATIENCE)
                assert not late.is_alive() and recorder.status()["lost"] == count
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


class TestMistakes:
    def test_an_existing_file_is_never_overwritten(self, tmp_path):
        path = tmp_path / "x.jsonl"
        path.write_text("precious")
        with pytest.raises(ConfigurationError, match="exists: record to a new file"):
            Recorder(path)
        assert path.read_text() == "precious"

    def test_names_may_hold_the_time(self, tmp_path):
        recorder = Recorder(tmp_path / "feed-%Y.jsonl")
        assert recorder.close()
        assert recorder.path == str(tmp_path / f"feed-{time.strftime('%Y')}.jsonl")

    @pytest.mark.parametrize("arguments, message", [
        (dict(path="nowhere/at/all.jsonl"), "can not record to nowhere"),
        (dict(path=""), "path must be the name"),
        (dict(path=5), "path must be the name"),
        (dict(path="x", compress="lzma"), "compress must be 'gzip', 'zstd', 'none' or None, not 'lzma'"),
        (dict(path="x", max_pending=1000), "max_pending must be bytes"),
    ])
    def test_fail_at_the_call(self, arguments, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigurationError, match=message):
            Recorder(**arguments)
        assert not list(tmp_path.iterdir())

    def test_missing_dependency_names_the_extra(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "zstandard", None)
        with pytest.raises(MissingDependency, match=r"market-streams\[record\]"):
            Recorder(tmp_path / "x.zst")
        (tmp_path / "y").write_bytes(b"\x28\xb5\x2f\xfd")
        with pytest.raises(MissingDependency, match=r"market-streams\[record\]"):
            read_recording(tmp_path / "y")

    def test_no_recording(self, tmp_path):
        with pytest.raises(ConfigurationError, match="can not read"):
            read_recording(tmp_path / "nothing")
        (tmp_path / "letter").write_text("Dear Sir,\n")
        with pytest.raises(ConfigurationError, match="is no recording: it begins with b'Dear Sir"):
            list(read_recording(tmp_path / "letter"))
        (tmp_path / "empty").write_bytes(b"")
        assert list(read_recording(tmp_path / "empty")) == []


@pytest.mark.parametrize("url, public", [
    ("wss://u:p@host:1/a?b=c#d", "wss://host:1/a?b=c"),
    ("wss://host/a?streams=x@depth/y@trade", "wss://host/a?streams=x@depth/y@trade"),
    ("https://h/p?AccessKeyId=1&symbol=x&Signature=2&listenKey=3&x%74oken=4",
     "https://h/p?AccessKeyId=***&symbol=x&Signature=***&listenKey=***&x%74oken=***"),
    ("redis://:secret@localhost:6379/0", "redis://localhost:6379/0"),
    ("wss://[broken", ""),
])
def test_public_url(url, public):
    assert public_url(url) == public


class TestOtherFormats:
    def test_times_from_digits(self, tmp_path):
        path = tmp_path / "x.jsonl"
        path.write_text('{"t":"recv","ts":1626916403.8469708,"data":"a"}\n{"t":"recv","ts":7,"data":"b"}\n'
                        '{"t":"recv","data":"c"}\n')
        assert [record.time for record in read_recording(path)] == [1626916403846970800, 7 * 10**9, None]

    def test_hftbacktest(self, tmp_path):
        path = tmp_path / "x.gz"
        path.write_bytes(gzip.compress(
            b'1723161254024619568 {"stream":"x@trade","data":{}}\n'
            b'1723161254152322667 {"lastUpdateId":35,"bids":[]}\n{"lastUpdateId":36}\n'))
        assert list(read_recording(path)) == [
            Record("recv", time=1723161254024619568, data=b'{"stream":"x@trade","data":{}}'),
            Record("http", time=1723161254152322667, data=b'{"lastUpdateId":35,"bids":[]}'),
            Record("http", data=b'{"lastUpdateId":36}')]

    @pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not here")
    @pytest.mark.parametrize("name, counts", [
        ("binance/hftbacktest/spot_ethusdt_20240808.gz", {"recv": 33617, "http": 1}),
        ("htx/cf_swap_gzip_20220219.jsonl.gz",
         {"header": 1, "http": 2, "connect": 2, "send": 32, "recv": 2913}),
        ("kraken/cf_v1_20210417.jsonl.gz", {"header": 1, "http": 1, "connect": 3, "send": 3, "recv": 4430}),
    ])
    def test_real_ones(self, name, counts, caplog):
        found: dict[str, int] = {}
        last = 0
        for record in read_recording(RECORDINGS / name):
            found[record.kind] = found.get(record.kind, 0) + 1
            if record.kind == "recv":
                assert record.time >= last
                last = record.time
                if name.startswith("htx"):
                    json.loads(zlib.decompress(record.data, 31))
                else:
                    json.loads(record.data)
        assert found == counts
        assert not caplog.records


# -- the transport ----------------------------------------------------------------------------------


class Listener:
    """A receiver that keeps what it is told; ``on`` maps an event to something to do."""

    def __init__(self, tick=60.0):
        self.calls = []
        self.got = []
        self.pause = tick
        self.on = {}
        self.event = threading.Event()

    def note(self, name):
        self.calls.append(name)
        self.event.set()
        self.on.get(name, lambda: None)()

    def opened(self):
        self.note("opened")

    def received(self, messages):
        self.got.extend(messages)
        self.note("received")

    def alive(self):
        self.note("alive")

    def malformed(self, reason):
        self.note(f"malformed: {reason}")

    def tick(self):
        self.note("tick")
        return self.pause


def address(path, **options):
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return path.as_uri().replace("file://", "replay://", 1) + (f"?{query}" if query else "")


def played(path, playback=None, receiver=None, **options):
    receiver = receiver or Listener()
    target = Target(address(path, **options), options={"playback": playback} if playback else {})
    transport = open_transport(target, receiver)
    assert isinstance(transport, ReplayTransport)
    return receiver, transport


def write(path, *records):
    """A recording of ``(kind, seconds, content)``."""
    lines = [{"t": "header"}]
    for kind, seconds, content in records:
        lines.append({"t": kind, "ts": seconds, "conn": "s",
                      **(content if isinstance(content, dict) else {"data": content})})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "my feed #1 100%.jsonl"


class TestReplay:
    def test_what_was_recorded_is_what_is_received(self, path):
        with Recorder(path) as recorder:
            recorder.opened("s", "wss://venue/ws")
            recorder.received("s", TRICKY, NS)
            recorder.received("s", [b"later"], NS + 1)
        receiver, transport = played(path, speed=0)
        closed = transport.run()
        assert receiver.calls[:2] == ["opened", "tick"]
        assert receiver.got == [*TRICKY, b"later"]
        assert closed.opened and isinstance(closed.error, ConnectionLost)
        assert "recording has ended" in str(closed.error)

    @pytest.mark.skipif(not RECORDINGS.is_dir(), reason="the recordings are not here")
    def test_a_real_one_at_full_speed(self):
        path = RECORDINGS / "binance" / "hftbacktest" / "usdm_ethusdt_20240808.gz"
        receiver, transport = played(path, speed=0)
        receiver.on["opened"] = lambda: transport.http("http://x/fapi/v1/depth?symbol=ETHUSDT")
        transport.run()
        assert receiver.got == frames(path)
        assert receiver.calls.count("received") < len(receiver.got) / 30, "in batches"

    def test_as_fast_as_it_was(self, file):
        write(file, ("recv", 100.0, "a"), ("recv", 100.0, "b"), ("recv", 100.2, "c"), ("recv", 100.4, "d"))
        receiver, transport = played(file, speed=2)
        times = []
        receiver.on["received"] = lambda: times.append((time.monotonic(), len(receiver.got)))
        transport.run()
        assert [count for _, count in times] == [2, 3, 4]
        begun = times[0][0]
        assert times[1][0] - begun >= 0.09 and times[2][0] - begun >= 0.19

    def test_ticks_when_due_and_when_woken(self, file):
        write(file, ("recv", 100.0, "a"), ("recv", 1000.0, "b"))
        receiver, transport = played(file, receiver=Listener(tick=0.02))
        thread = threading.Thread(target=transport.run)
        thread.start()
        eventually(lambda: receiver.calls.count("tick") >= 4, "ticks")
        receiver.pause = 1000.0
        count = receiver.calls.count("tick")
        eventually(lambda: receiver.calls.count("tick") > count, "the last short tick")
        count = receiver.calls.count("tick")
        transport.wake()
        eventually(lambda: receiver.calls.count("tick") == count + 1, "the tick after wake")
        transport.abort()
        thread.join(LIMIT)
        assert not thread.is_alive()

    def test_a_flood_does_not_starve_ticks(self, file):
        write(file, *[("recv", 100.0, str(number)) for number in range(5000)])
        receiver, transport = played(file, receiver=Listener(tick=0.0), speed=0)
        receiver.on["received"] = lambda: time.sleep(0.001)  # lets a tick become due
        transport.run()
        assert receiver.calls.count("tick") > receiver.calls.count("received") / 2
        assert len(receiver.got) == 5000

    def test_pings_are_answered(self, file):
        write(file, ("recv", 100.0, "a"), ("recv", 1000.0, "b"))
        receiver, transport = played(file)
        receiver.on["opened"] = lambda: transport.ping()
        receiver.on["alive"] = transport.close
        assert transport.run().error is None

    def test_sent_messages_are_kept(self, file):
        write(file, ("recv", 100.0, "a"))
        receiver, transport = played(file)
        receiver.on["opened"] = lambda: transport.send("subscribe")
        transport.run()
        assert list(transport.sent) == ["subscribe"]

    @pytest.mark.parametrize("when", ["opened", "received", "tick"])
    def test_close_is_polite(self, file, when):
        write(file, ("recv", 100.0, "a"), ("recv", 1000.0, "b"))
        receiver, transport = played(file)
        receiver.on[when] = transport.close
        closed = transport.run()
        assert closed.opened and closed.error is None

    @pytest.mark.parametrize("when", ["opened", "received", "tick"])
    def test_abort_from_within(self, file, when):
        write(file, ("recv", 100.0, "a"), ("recv", 1000.0, "b"))
        receiver, transport = played(file)
        receiver.on[when] = transport.abort
        closed = transport.run()
        assert closed.opened and isinstance(closed.error, Aborted)

    @pytest.mark.parametrize("state", ["waiting", "holding"])
    def test_abort_from_another_thread(self, file, state, monkeypatch):
        monkeypatch.setattr("streams.transports.replay.PATIENCE", LIMIT)
        second = ("recv", 1000.0, "b") if state == "waiting" else ("http", 100.0, {"url": "http://x/depth"})
        write(file, ("recv", 100.0, "a"), second)
        receiver, transport = played(file)
        answers = []
        thread = threading.Thread(target=lambda: answers.append(transport.run()))
        thread.start()
        eventually(lambda: receiver.got, "the first message")
        begun = time.monotonic()
        transport.abort()
        thread.join(LIMIT)
        assert isinstance(answers[0].error, Aborted) and time.monotonic() - begun < 1.0

    def test_abort_before_and_after(self, file):
        write(file, ("recv", 100.0, "a"))
        receiver, transport = played(file)
        transport.abort()
        closed = transport.run()
        assert not closed.opened and isinstance(closed.error, Aborted) and receiver.calls == []
        transport.abort()
        transport.wake()

    @pytest.mark.parametrize("first", [[], ["recv"]], ids=["before", "between"])
    def test_aborted_while_it_skips_millions_of_records(self, file, monkeypatch, first):
        skipping = threading.Event()

        def endless(path):
            yield from (Record(kind, "wanted", data=b"x") for kind in first)
            for number in itertools.count():
                if number == 1000:
                    skipping.set()
                yield Record("recv", "other", data=b"x")

        monkeypatch.setattr("streams.transports.replay.read_recording", endless)
        _, transport = played(file, speed=0, conn="wanted")
        ended = beside(transport.run)
        assert skipping.wait(PATIENCE)
        transport.abort()
        assert isinstance(ended.result(PATIENCE).error, Aborted)

    def test_too_long_a_message_ends_it(self, file):
        write(file, ("recv", 100.0, "x" * 101))
        receiver = Listener()
        transport = ReplayTransport(Target(address(file), max_message=100), receiver)
        assert isinstance(transport.run().error, ConnectionLost)
        assert receiver.got == [] and "malformed: a message is longer than 100 bytes" in receiver.calls

    def test_a_receiver_that_raises_is_not_swallowed(self, file, caplog):
        write(file, ("recv", 100.0, "a"))
        receiver, transport = played(file)
        receiver.on["received"] = lambda: 1 / 0
        closed = transport.run()
        assert isinstance(closed.error, ConnectionLost) and "ZeroDivisionError" in str(closed.error)
        assert "the receiver failed" in caplog.text

    def test_one_connection_of_several(self, tmp_path):
        path = tmp_path / "x.jsonl"
        with Recorder(path) as recorder:
            for number in range(10):
                recorder.received(f"s{number % 2}", [b"%d" % number], NS + number)
        receiver, transport = played(path, speed=0, conn="s1")
        transport.run()
        assert receiver.got == [b"1", b"3", b"5", b"7", b"9"]

    @pytest.mark.parametrize("options, names, heard", [
        ({}, ["streams-a-1", "streams-b-2", "streams-a-b-3", "streams-a-14"], [0, 3]),
        ({"conn": "streams-b-2"}, ["streams-a-1", "streams-b-2"], [1]),
        ({}, ["streams-b-1", "s"], [0, 1]), ({}, ["", ""], [0, 1]),
    ])
    def test_ones_own_connections_if_there_are_any(self, tmp_path, options, names, heard):
        path = tmp_path / "x.jsonl"
        with Recorder(path) as recorder:
            for number, name in enumerate(names):
                recorder.received(name, [b"%d" % number], NS + number)
        playback = Playback(address(path, speed=0, **options), "streams-a-[0-9]*")
        receiver, transport = played(path, playback)
        transport.run()
        assert receiver.got == [b"%d" % number for number in heard] and playback.finished

    def test_a_stream_plays_what_its_exchange_has_recorded(self, tmp_path):
        path = tmp_path / "x.jsonl"
        with Recorder(path) as recorder:
            for number, name in enumerate(["streams-huobi-1", "streams-binance-2", "streams-huobi-3"]):
                recorder.received(name, [b'{"result":null,"id":1}'], NS + number)
        for kind, count in ((Binance, 1), (Huobi, 2), (Kraken, 3)):
            stream = kind(["BTC-USD"], url=address(path, speed=0))
            stream.start()
            stream.join(10)
            assert stream.state == "stopped" and stream.status()["messages"] == count

    @pytest.mark.parametrize("url, message", [
        ("replay:///no/such/file.jsonl", "can not read"),
        ("replay://host/file.jsonl", "is no recording: write replay:///path"),
        ("replay:///", "is no recording: write replay:///path"),
        ("replay:///x?speed=fast", "speed must be 0"),
        ("replay:///x?speed=-1", "speed must be 0"),
        ("replay:///x?speed=inf", "speed must be 0"),
        ("replay:///x?loop=1", "no parameter 'loop'"),
    ])
    def test_mistakes(self, url, message):
        with pytest.raises(ConfigurationError, match=message):
            ReplayTransport(Target(url), Listener())

    def test_a_file_that_turns_out_to_be_none(self, tmp_path):
        path = tmp_path / "letter"
        path.write_text("Dear Sir,\n")
        receiver, transport = played(path)
        closed = transport.run()
        assert not closed.opened and isinstance(closed.error, ConnectFailed)
        assert "is no recording" in str(closed.error)


class TestConversations:
    def test_an_answer_that_is_not_there_is_looked_for_once(self, file, monkeypatch):
        read = []

        def counted(path):
            read.append(path)
            return read_recording(path)

        monkeypatch.setattr("streams.transports.replay.read_recording", counted)
        write(file, ("recv", 100.0, "a"), ("http", 100.0, {"url": "http://x/depth?symbol=A", "data": "1"}))
        playback = Playback(address(file, speed=0))
        playback.begin()
        before = len(read)
        for limit in (5, 10, 20):
            assert playback.http(f"http://x/depth?symbol=B&limit={limit}") is None
        assert len(read) == before + 1
        assert playback.http("http://x/depth?symbol=A") == b"1"
        for _ in range(3):
            assert playback.http("http://x/depth?symbol=A") is None
        assert len(read) == before + 3
        playback.close()

    def test_a_recorded_reconnect_is_played_as_one(self, path):
        with Recorder(path) as recorder:
            for life in ("first", "second"):
                recorder.opened("s", "wss://venue/ws")
                recorder.received("s", [life.encode()], NS)
                recorder.closed("s", f"end of the {life}")
        playback = Playback(address(path, speed=0))
        ends = []
        for expected in (b"first", b"second"):
            receiver, transport = played(path, playback)
            ends.append(transport.run())
            assert receiver.got == [expected] and playback.finished == (expected == b"second")
        assert [str(end.error) for end in ends] == ["end of the first", "end of the second"]
        receiver, transport = played(path, playback)
        closed = transport.run()
        assert isinstance(closed.error, ConnectFailed) and not closed.opened
        assert playback.finished

    def test_a_gap_breaks_the_connection(self, file):
        write(file, ("connect", 100.0, {"addr": "wss://venue"}), ("recv", 100.0, "a"),
              ("gap", 100.0, {"frames": 7, "reason": "the disk is too slow"}), ("recv", 100.0, "b"))
        playback = Playback(address(file, speed=0))
        receiver, transport = played(file, playback)
        closed = transport.run()
        assert receiver.got == [b"a"] and "7 frames are missing" in str(closed.error)
        receiver, transport = played(file, playback)
        transport.run()
        assert receiver.got == [b"b"]

    def test_without_a_playback_each_is_the_first(self, file):
        write(file, ("recv", 100.0, "a"), ("close", 100.0, {"reason": "x"}), ("recv", 100.0, "b"))
        for _ in range(2):
            receiver, transport = played(file, speed=0)
            transport.run()
            assert receiver.got == [b"a"]

    def test_of_several_connections_the_last_one_ends_it(self, tmp_path):
        path = tmp_path / "x.jsonl"
        with Recorder(path) as recorder:
            recorder.opened("a", "wss://x")
            recorder.opened("b", "wss://x")
            recorder.closed("a", "gone")
            recorder.received("b", [b"still here"], NS)
            recorder.closed("b", "gone too")
        receiver, transport = played(path, speed=0)
        assert str(transport.run().error) == "gone too"
        assert receiver.got == [b"still here"]


DEPTH = "https://api.binance.com/api/v3/depth?symbol={}&limit=1000"


class TestRest:
    def test_an_answer_is_matched_by_path_and_parameters(self, file):
        write(file, ("http", 1, {"url": DEPTH.format("AAA"), "data": "a"}),
              ("http", 1, {"url": DEPTH.format("BBB"), "data": "b"}), ("recv", 1, "x"))
        playback = Playback(address(file, speed=0))
        assert playback.http("http://127.0.0.1:1/api/v3/depth?limit=100&symbol=BBB") == b"b"
        assert playback.http("http://127.0.0.1:1/api/v3/depth?symbol=CCC") is None
        assert playback.http("http://127.0.0.1:1/api/v3/trades?symbol=AAA") is None
        assert playback.http("http://127.0.0.1:1/api/v3/depth?symbol=AAA") == b"a"
        playback.close()

    def test_each_is_given_once_in_order(self, file):
        write(file, *[("http", 1, {"url": DEPTH.format("AAA"), "data": str(n)}) for n in range(3)])
        playback = Playback(address(file, speed=0))
        url = DEPTH.format("AAA")
        assert [playback.http(url) for _ in range(4)] == [b"0", b"1", b"2", None]

    def test_those_of_other_connections_are_not_given(self, path):
        with Recorder(path) as recorder:
            for stream in ("a", "b"):
                recorder.opened(stream, "wss://x")
            for stream in ("b", "a"):
                recorder.http(stream, DEPTH.format("AAA"), stream.encode())
        playback = Playback(address(path, speed=0, conn="a"))
        assert playback.begin()
        assert [playback.http(DEPTH.format("AAA")) for _ in range(2)] == [b"a", None]
        playback.close()

    def test_of_those_that_were_passed_the_newest(self, file):
        url = DEPTH.format("AAA")
        write(file, *[("http", 1, {"url": url, "data": str(number)}) for number in range(3)],
              ("recv", 1, "x"), ("recv", 2, "y"), ("http", 3, {"url": url, "data": "next"}))
        playback = Playback(address(file, speed=0))
        assert playback.begin()
        assert playback.http(url) == b"2"
        assert playback.http(url) == b"next"
        assert playback.http(url) is None
        playback.close()

    def test_frames_wait_until_it_was_asked_for(self, file):
        """A stream that asks late, from another thread, must not miss what follows the snapshot."""
        url = DEPTH.format("AAA")
        write(file, ("recv", 1, "before"), ("http", 1, {"url": url, "data": "snapshot"}),
              ("recv", 1, "after"))
        receiver, transport = played(file, speed=0)
        seen = []

        def ask():
            assert receiver.event.wait(LIMIT)
            eventually(lambda: receiver.got, "the frame before")
            seen.append(list(receiver.got))
            assert transport.http(url) == b"snapshot"

        thread = threading.Thread(target=ask)
        thread.start()
        transport.run()
        thread.join(LIMIT)
        assert seen == [[b"before"]]
        assert receiver.got == [b"before", b"after"]

    def test_but_not_for_ever_and_not_again(self, file, monkeypatch, caplog):
        monkeypatch.setattr("streams.transports.replay.PATIENCE", 0.2)
        write(file, ("recv", 1, "a"), *[
            ("http", 1, {"url": DEPTH.format(f"S{number}"), "data": "x"}) for number in range(50)],
            ("recv", 1, "b"))
        receiver, transport = played(file, speed=0)
        begun = time.monotonic()
        transport.run()
        assert 0.19 < time.monotonic() - begun < 5
        assert receiver.got == [b"a", b"b"]

    def test_no_wait_for_one_that_was_asked_for_before(self, file, monkeypatch):
        monkeypatch.setattr("streams.transports.replay.PATIENCE", LIMIT)
        url = DEPTH.format("AAA")
        write(file, ("recv", 1, "a"), ("http", 1, {"url": url, "data": "x"}), ("recv", 1, "b"))
        receiver, transport = played(file, speed=0)
        answers = []
        receiver.on["opened"] = lambda: answers.append(transport.http(url))
        begun = time.monotonic()
        transport.run()
        assert time.monotonic() - begun < LIMIT / 2
        assert answers == [b"x"] and receiver.got == [b"a", b"b"]


def test_logging_is_quiet_when_all_is_well(path, caplog):
    with caplog.at_level(logging.DEBUG):
        with Recorder(path) as recorder:
            recorder.received("s", [b"a"], NS)
        receiver, transport = played(path, speed=0)
        transport.run()
    assert not caplog.records
