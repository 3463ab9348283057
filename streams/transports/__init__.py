"""Transports: what carries the bytes. :func:`open_transport` picks one by the scheme of the address."""

from __future__ import annotations

import importlib

from ..errors import ConfigurationError
from .base import Closed, Receiver, Target, Transport

__all__ = ["Closed", "Receiver", "Target", "Transport", "open_transport"]

# scheme -> (module, class). Modules are imported when first used: each brings its third-party client.
_CARRIERS = {
    "ws": ("websocket", "WebSocketTransport"), "wss": ("websocket", "WebSocketTransport"),
    "tcp": ("tcp", "TcpTransport"), "tls+tcp": ("tcp", "TcpTransport"),
    "redis": ("redis", "RedisTransport"), "rediss": ("redis", "RedisTransport"),
    "http": ("longpoll", "LongPollTransport"), "https": ("longpoll", "LongPollTransport"),
    "replay": ("replay", "ReplayTransport"),
}


def open_transport(target: Target, receiver: Receiver) -> Transport:
    """A transport for the scheme of ``target.url``; nothing is connected yet.

    Raises:
        ConfigurationError: No transport for that scheme; or the target's options can not work.
        MissingDependency: The transport's client is not installed; names the extra.
    """
    scheme = target.url.partition("://")[0]
    if scheme not in _CARRIERS:
        raise ConfigurationError(f"{scheme}:// is no address of a stream; known: {', '.join(_CARRIERS)}")
    module, name = _CARRIERS[scheme]
    carrier: type[Transport] = getattr(importlib.import_module(f".{module}", __name__), name)
    return carrier(target, receiver)
