"""A real Redis server on a free port, for tests: started where ``redis-server`` is on PATH, else skipped."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 20.0


class RedisServer:
    """One server process without persistence, which can be killed and started again on its port.

    Args:
        folder: Where it may write its log.
        options: Further options, as on its command line (``"--requirepass", "x"``).
        tls: Certificate and key: it then speaks TLS only.
    """

    def __init__(self, folder: Path, *options: str, tls: tuple[str, str] | None = None) -> None:
        self._folder = folder
        self._options = options
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.url = f"redis{'s' if tls else ''}://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        program = shutil.which("redis-server")
        assert program is not None
        ports = ["--port", str(self.port)]
        if self._tls is not None:
            cert, key = self._tls
            ports = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", cert,
                     "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no"]
        log = self._folder / "redis.log"
        self._process = subprocess.Popen(
            [program, "--bind", "127.0.0.1", *ports, "--save", "", "--appendonly", "no", "--dir",
             str(self._folder), "--logfile", str(log), *self._options])
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text()[-2000:] if log.exists() else "nothing"
                    raise AssertionError(f"redis-server did not start; it said: {said}") from None
                # The one thing to wait for is another process's socket, which tells nobody.
                time.sleep(0.02)

    def stop(self) -> None:
        """Kill it; what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def suspend(self) -> None:
        """Have it hang: connections stay, nothing is answered."""
        import signal
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        import signal
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def client(self, **options: Any) -> Any:
        """A redis-py client of it."""
        import redis
        return redis.Redis(host="127.0.0.1", port=self.port, **options)


def needs_redis() -> None:
    """Skip where there is no server to start, or no client."""
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server on PATH: tests against a real Redis are skipped")
    pytest.importorskip("redis", reason="redis-py is not installed")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own."""
    needs_redis()
    server = RedisServer(tmp_path).start()
    try:
        yield server
    finally:
        server.stop()
