"""``streams doctor``: what it finds, and that it never waits for long."""

from __future__ import annotations

import configparser
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streams.cli import main
from streams.console.doctor import _EXTRAS
from streams.console.reach import Host, hosts_of, probe_all
from streams.sim import LoopbackServer, Sandbox

from .tools import wait_until


def test_doctor_without_a_network(monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    resolve = socket.getaddrinfo

    def nobody(host: str, *rest: Any, **options: Any) -> Any:
        if host[0].isdigit():
            return resolve(host, *rest, **options)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("streams.transports.names.socket.getaddrinfo", nobody)
    monkeypatch.setenv("POLYGON_API_KEY", "hush-hush")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "FAILS: the name could not be resolved" in text
    assert "No venue can be reached: this machine is offline" in text
    assert "works: binance BTC-USDT live" in text
    assert "nasdaq-itch" in text and "has no public address" in text
    assert "POLYGON_API_KEY" in text and "hush-hush" not in text
    for extra, (distribution, _, _) in _EXTRAS.items():
        assert distribution in text, extra
    assert main(["doctor", "huobi"]) == 1, "a venue that was named must be there"


def test_doctor_lists_all_that_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    needed = re.findall(r"^[\w-]+(?!.*;)", setup["options"]["install_requires"], re.MULTILINE)
    assert main(["doctor", "--offline"]) == 0
    shown = capsys.readouterr().out.partition("Optional")[0]
    assert needed and [name for name in needed if f"  {name} " not in shown] == []


def test_doctor_names_the_extra_of_what_is_missing(monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    from importlib import metadata
    installed = metadata.version

    def version(name: str) -> str:
        if name == "redis":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr("importlib.metadata.version", version)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert main(["doctor", "--offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("pip install 'market-streams[redis]'" in line for line in lines if " redis " in line)
    assert any("broken: MISSING:" in line for line in lines if " rich " in line)


def test_doctor_says_when_the_library_itself_does_not_work(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("streams.console.doctor._PATIENCE", 0.3)
    nowhere = {"url": "ws://127.0.0.1:9", "rest_url": "http://127.0.0.1:9"}
    monkeypatch.setattr(Sandbox, "options", lambda *_: nowhere)
    assert main(["doctor", "--offline"]) == 1
    assert "FAILS: no data yet for binance book of BTC-USDT" in capsys.readouterr().out


class Silent(LoopbackServer):
    """Accepts, and says nothing."""

    def handle(self, peer: Any) -> None:
        while peer.recv(4096):
            pass


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_every_step_to_a_venue_has_a_time_out(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    resolve = socket.getaddrinfo

    def sometimes(host: str, *rest: Any) -> Any:
        if host == "stuck.invalid":
            stuck.wait(30)
            raise socket.gaierror(-2, "no")
        return resolve(host, *rest)

    monkeypatch.setattr("streams.transports.names.socket.getaddrinfo", sometimes)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    hosts = [Host("a", "stuck.invalid", 1, True), Host("b", "localhost", silent.port, True),
             Host("c", "localhost", silent.port, False), Host("d", "localhost", free, False)]
    began = time.monotonic()
    name, tls, fine, refused = probe_all(hosts, 0.5)
    assert time.monotonic() - began < 10
    stuck.set()
    assert name.error == "the name was not resolved within 0.5 s" and not name.took
    assert "TLS" in tls.error and "0.5 s" in tls.error and set(tls.took) == {"name", "TCP"}
    assert fine.error == "" and set(fine.took) == {"name", "TCP"}
    assert "refused" in refused.error.lower() or "could not connect" in refused.error
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "streams-resolver-stuck.invalid"])


def test_hosts_are_each_tried_once() -> None:
    hosts = hosts_of(["binance", "alpaca", "alpaca-crypto", "redis", "longpoll-xml"])
    assert len({(host.name, host.port) for host in hosts}) == len(hosts)
    assert {host.exchange for host in hosts} == {"binance", "alpaca"}
    assert all(host.encrypted for host in hosts)
