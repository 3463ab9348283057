"""redis-py over lines: works like redis-py, and ends at once."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from streams.errors import Aborted, ConfigurationError, ConnectFailed
from streams.redisclient import RedisClient, parse_url

from .raw_peer import PATIENCE, RawPeer, beside
from .redis_server import RedisServer, needs_redis, redis_server
from .transports.websocket_peer import CERT, KEY

redis = pytest.importorskip("redis", reason="redis-py is not installed")

__all__ = ["redis_server"]


@pytest.fixture
def client(redis_server):
    client = RedisClient(redis_server.url)
    yield client
    client.close()


def test_commands_pipelines_and_large_values(client):
    assert client.redis.set("a", b"\0" * 3_000_000)
    assert client.redis.get("a") == b"\0" * 3_000_000
    with client.redis.pipeline(transaction=False) as pipe:
        for number in range(1000):
            pipe.rpush("list", number)
        assert pipe.execute() == list(range(1, 1001))
    with pytest.raises(redis.ResponseError):
        client.redis.lpush("a", 1)
    assert client.redis.ping()      # and the connection is fine


def test_redis_pys_own_lock(client):
    lock = client.redis.lock("lock", timeout=5, thread_local=False)
    assert lock.acquire(blocking=False)
    assert not client.redis.lock("lock", timeout=5).acquire(blocking=False)
    assert lock.reacquire()
    lock.release()
    with pytest.raises(redis.exceptions.LockError):
        lock.reacquire()


def test_a_server_that_comes_back(redis_server, client):
    assert client.redis.ping()
    redis_server.stop()
    with pytest.raises(client.errors):
        client.redis.ping()
    with pytest.raises(ConnectFailed):
        client.redis.ping()
    redis_server.start()
    assert client.redis.ping()


def test_a_server_that_hangs(redis_server):
    client = RedisClient(redis_server.url, timeout=0.3)
    assert client.redis.ping()
    redis_server.suspend()
    try:
        with pytest.raises(redis.TimeoutError):
            client.redis.ping()
    finally:
        redis_server.resume()
    assert client.redis.ping()
    client.close()


def ends_at_once(client, call):
    start = time.monotonic()
    client.abort()
    with pytest.raises((Aborted, redis.RedisError)):
        call.result(PATIENCE)
    assert time.monotonic() - start < 1.0
    with pytest.raises(Aborted):
        client.redis.ping()
    client.close()


def test_abort_while_a_command_waits(client):
    call = beside(client.redis.blpop, ["nothing"], 0)
    time.sleep(0.1)     # nothing tells that it waits; too early must be right, too
    ends_at_once(client, call)


def test_abort_while_the_server_hangs(redis_server, client):
    client.redis.ping()
    redis_server.suspend()
    try:
        ends_at_once(client, beside(client.redis.ping))
    finally:
        redis_server.resume()


def test_abort_while_logging_in():
    with RawPeer() as peer:
        client = RedisClient(f"redis://127.0.0.1:{peer.port}", timeout=30)
        call = beside(client.redis.ping)
        peer.accept().until(b"\r\n")
        ends_at_once(client, call)


def test_abort_while_resolving(monkeypatch):
    asking, release = threading.Event(), threading.Event()

    def stuck(*_, **__):
        asking.set()
        release.wait(PATIENCE)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    client = RedisClient("redis://stuck.invalid", timeout=30)
    call = beside(client.redis.ping)
    assert asking.wait(PATIENCE)
    ends_at_once(client, call)
    release.set()


def test_tls_and_passwords(tmp_path):
    needs_redis()
    server = RedisServer(tmp_path, "--requirepass", "s3cret", tls=(CERT, KEY)).start()
    try:
        client = RedisClient(server.url.replace("//", "//:s3cret@"), sslopt={"ca_certs": CERT})
        assert client.redis.ping() and "s3cret" not in repr(client)
        client.close()
        client = RedisClient(server.url.replace("//", "//:wrong@"), sslopt={"ca_certs": CERT})
        with pytest.raises(redis.AuthenticationError):
            client.redis.ping()
        client.close()
        client = RedisClient(server.url)
        with pytest.raises(ConnectFailed, match="(?i)certificate"):
            client.redis.ping()
        client.close()
    finally:
        server.stop()


@pytest.mark.parametrize("url", ["", None, "http://x", "redis://:secret@h:p", "redis://h/x"])
def test_bad_addresses(url):
    with pytest.raises(ConfigurationError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
