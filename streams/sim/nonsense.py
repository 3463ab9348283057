"""Messages as no venue should send them, made from one that it might have sent."""
from __future__ import annotations

import json
from typing import Any

from . import frames, msgpack
from .trouble import Outgoing

#: What `spoiled` understands.
KINDS = ("invalid", "truncated", "types", "nan", "inf", "negative", "unknown", "nested", "utf8", "empty",
         "object", "time", "mixed", "binary")

_TIMES = ("t", "e")
_FAR = 10 ** 30


def spoiled(kind: str, record: dict[str, Any], tag: str, binary: bool) -> Outgoing:
    """A frame of nonsense.

    Args:
        kind: one of `KINDS`.
        record: a message to spoil.
        tag: its key that says what it is.
        binary: MessagePack instead of JSON.

    Threads: any.
    """
    opcode = frames.BINARY if binary else frames.TEXT
    if kind == "binary":            # the other opcode, and no language at all
        return (frames.TEXT if binary else frames.BINARY), b"\x00\x01\x02not a message"
    whole = _encode([record], binary)
    if kind == "invalid":
        return opcode, b"\xc1\xc1\xc1" if binary else b'[{"%b":,,{]' % tag.encode()
    if kind == "truncated":
        return opcode, whole[:len(whole) // 2]
    if kind == "nested":
        return opcode, (b"\x91" if binary else b"[") * 100_000
    if kind == "utf8":
        return opcode, b"\x91\x81\xa1" + tag.encode() + b"\xa2\xff\xfe" if binary else (
            b'[{"%b":"\xff\xfe\xc0"}]' % tag.encode())
    if kind == "empty":
        return opcode, b""
    if kind == "object":
        return opcode, _encode(record, binary)
    if kind == "mixed":             # one bad message must not spoil its neighbours
        return opcode, _encode([_with_wrong_types(record, tag), record, {tag: "martian"}], binary)
    return opcode, _encode([_changed(kind, record, tag, binary)], binary)


def _changed(kind: str, record: dict[str, Any], tag: str, binary: bool) -> dict[str, Any]:
    if kind == "types":
        return _with_wrong_types(record, tag)
    if kind == "unknown":
        return {**record, tag: "martian"}
    if kind == "time":
        wrong: Any = "the day after tomorrow"
        if isinstance(record.get("t"), int):
            wrong = -1 if binary else _FAR
        return {**record, **{key: wrong for key in ("t",) if key in record}}
    value = {"nan": float("nan"), "inf": float("inf"), "negative": -1.5}[kind]
    return {key: _with_number(found, value) if key not in _TIMES else found
            for key, found in record.items()}


def _with_number(found: Any, value: float) -> Any:
    if isinstance(found, float):
        return value
    if isinstance(found, int) and not isinstance(found, bool):
        return -found if value < 0 else value
    if isinstance(found, list):
        return [_with_number(item, value) for item in found]
    if isinstance(found, dict):
        return {key: _with_number(item, value) for key, item in found.items()}
    return found


def _with_wrong_types(record: dict[str, Any], tag: str) -> dict[str, Any]:
    return {key: found if key == tag else [found] if isinstance(found, str) else {"wrong": True}
            for key, found in record.items()}


def _encode(value: Any, binary: bool) -> bytes:
    if binary:
        return msgpack.pack(value)
    return json.dumps(value, separators=(",", ":")).encode("utf-8")
