"""Compressed files as sequences of units that are complete in themselves, whole or cut off."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from .errors import ConfigurationError, MissingDependency

__all__ = ["Damaged", "compressor", "decompressor", "expand"]

_BLOCK = 1 << 18  # bytes read at once


class Damaged(Exception):
    """A compressed file is cut off or broken at some place."""


def compressor(kind: str) -> Callable[[bytes], bytes]:
    """A function that makes one complete unit: ``gzip``, ``zstd``, or ``none``.

    Raises:
        ConfigurationError: Another kind.
        MissingDependency: ``zstandard`` (the extra ``record``) is not installed.
    """
    if kind == "none":
        return bytes
    if kind == "gzip":
        return _gzip
    if kind == "zstd":
        whole: Callable[[bytes], bytes] = _zstandard().ZstdCompressor(write_checksum=True).compress
        return whole
    raise ConfigurationError(f"compress must be 'gzip', 'zstd', 'none' or None, not {kind!r}")


def decompressor(start: bytes) -> Callable[[], Any] | None:
    """What makes decompressors for a file with these first bytes; None when it is not compressed.

    Raises:
        MissingDependency: ``zstandard`` (the extra ``record``) is needed and not installed.
    """
    if start.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(31)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        maker = _zstandard().ZstdDecompressor()
        return lambda: maker.decompressobj()
    return None


def expand(file: IO[bytes], make: Callable[[], Any] | None) -> Iterator[bytes]:
    """What is in ``file``, in pieces, as far as it goes.

    Raises:
        Damaged: After everything that could be read, when there was more.
    """
    if make is None:
        yield from iter(lambda: file.read(_BLOCK), b"")
        return
    unit = None
    while block := file.read(_BLOCK):
        while block:
            unit = make() if unit is None else unit
            try:
                piece = unit.decompress(block)
            except Exception as error:  # zlib.error or ZstdError
                raise Damaged(str(error)) from None
            block = b""
            if unit.eof:
                block, unit = unit.unused_data, None
            if piece:
                yield piece
    if unit is not None:
        raise Damaged("it is cut off")


def _gzip(data: bytes) -> bytes:
    worker = zlib.compressobj(6, zlib.DEFLATED, 31)
    return worker.compress(data) + worker.flush()


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingDependency("zstandard", extra="record") from None
    return zstandard
