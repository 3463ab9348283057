"""Programs as processes of their own: started, read line by line with a deadline, signalled, waited for."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE = 30.0


class Program:
    """A running Python program. What it writes is read by a thread, so that nothing waits for ever.

    Attributes:
        lines: Of its standard output, so far.
    """

    def __init__(self, *arguments: str, cwd: Path = ROOT) -> None:
        # A program that warns of something must not fail a test by what it writes to stderr: all of it
        # is read, and looked at where it matters.
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
        self._process = subprocess.Popen(
            [sys.executable, *arguments], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment)
        self.lines: list[str] = []
        self._came: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError, OSError):
            for line in self._process.stdout:
                self._came.put(line.rstrip("\n"))
        self._came.put(None)

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError, OSError):
            self._errors.extend(self._process.stderr)

    @property
    def errors(self) -> str:
        """What it has written to stderr; complete once it has ended."""
        return "".join(self._errors)

    def read_until(self, text: str, timeout: float = PATIENCE) -> str:
        """Read lines until one has ``text`` in it; that one."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._came.get(timeout=max(deadline - time.monotonic(), 0.0))
            except queue.Empty:
                raise AssertionError(
                    f"no line with {text!r} within {timeout} s, but {self.lines[-10:]}") from None
            if line is None:
                raise AssertionError(f"it ended without {text!r}: {self.lines[-10:]} {self.errors}")
            self.lines.append(line)
            if text in line:
                return line

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit code, with all it has written read."""
        code = self._process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        while (line := self._came.get()) is not None:
            self.lines.append(line)
        return code

    def end(self) -> None:
        """Whatever it does: end it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(PATIENCE)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.contextmanager
def running(*arguments: str, cwd: Path = ROOT) -> Iterator[Program]:
    """A program, ended in the end."""
    program = Program(*arguments, cwd=cwd)
    try:
        yield program
    finally:
        program.end()


def run(*arguments: str, cwd: Path = ROOT, timeout: float = PATIENCE) -> Program:
    """Run one to its end; it must end with 0 and without a traceback."""
    with running(*arguments, cwd=cwd) as program:
        code = program.wait(timeout)
    assert code == 0, f"exit code {code}: {program.errors}"
    assert "Traceback" not in program.errors
    return program


def of(arguments: Sequence[str]) -> str:
    """A name for a test."""
    return " ".join(arguments)
