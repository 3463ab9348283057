"""Messages of Alpaca's documentation, and the venues that are to understand them."""

from __future__ import annotations

import json
import struct
from typing import Any

import msgspec

from streams.venues.alpaca import AlpacaCryptoVenue, AlpacaOptionsVenue, AlpacaVenue

KEYS = {"api_key": "PK123", "api_secret": "shhh456"}
OCC = "SPXW240327P04925000"

TRADE = (
    b'{"T":"t","i":96921,"S":"AAPL","x":"D","p":126.55,"s":1,"t":"2021-02-22T15:51:44.208Z",'
    b'"c":["@","I"],"z":"C"}'
)
QUOTE = (
    b'{"T":"q","S":"AMD","bx":"U","bp":87.66,"bs":1,"ax":"Q","ap":87.68,"as":4,'
    b'"t":"2021-02-22T15:51:45.335689322Z","c":["R"],"z":"C"}'
)
BAR = (
    b'{"T":"b","S":"SPY","o":388.985,"h":389.13,"l":388.975,"c":389.12,"v":49378,"n":461,"vw":389.062639,'
    b'"t":"2021-02-22T19:15:00Z"}'
)
CORRECTION = (
    b'{"T":"c","S":"EEM","x":"M","oi":52983525033527,"op":39.1582,"os":440000,"oc":[" ","7"],'
    b'"ci":52983525034326,"cp":39.1809,"cs":440000,"cc":[" ","7"],"z":"B",'
    b'"t":"2023-04-06T14:25:06.542305024Z"}'
)
CANCEL = (
    b'{"T":"x","S":"GOOGL","i":465,"x":"D","p":105.31,"s":300,"a":"C","z":"C",'
    b'"t":"2023-04-06T13:15:42.83540958Z"}'
)
BAND = b'{"T":"l","S":"IONM","u":3.24,"d":2.65,"i":"B","t":"2023-04-06T13:34:45.565004401Z","z":"C"}'
STATUS = (
    b'{"T":"s","S":"AAPL","sc":"H","sm":"Trading Halt","rc":"T12","rm":"Trading Halted; for information",'
    b'"t":"2021-02-22T19:15:00Z","z":"C"}'
)
IMBALANCE = b'{"T":"i","S":"INAQU","p":9.12,"z":"C","t":"2024-12-13T19:58:09.242138635Z"}'
BOOK = (
    b'{"T":"o","S":"BTC/USD","t":"2024-03-12T10:38:50.79613221Z","b":[{"p":71859.53,"s":0.27994},'
    b'{"p":71849.4,"s":0.553986}],"a":[{"p":71939.7,"s":0.83953}],"r":true}'
)
DELTA = (
    b'{"T":"o","S":"BTC/USD","t":"2024-03-12T10:38:50.8Z",'
    b'"b":[{"p":71859.53,"s":0}],"a":[{"p":71940.1,"s":2}]}'
)
CRYPTO_TRADE = (
    b'{"T":"t","S":"AVAX/USD","p":47.299,"s":29.205707815,"t":"2024-03-12T10:27:48.858228144Z",'
    b'"i":3447222699101865076,"tks":"S"}'
)
NEWS = (
    b'{"T":"n","id":24918784,"headline":"Corsair Reports Purchase","summary":"Its",'
    b'"author":"Benzinga Newsdesk",'
    b'"created_at":"2022-01-05T22:00:37Z","updated_at":"2022-01-05T22:00:38Z",'
    b'"url":"https://www.benzinga.com/m/a",'
    b'"content":"<p>Corsair</p>","symbols":["CRSR","AAPL"],"source":"benzinga"}'
)
CONNECTED, AUTHENTICATED = (
    b'[{"T":"success","msg":"connected"}]',
    b'[{"T":"success","msg":"authenticated"}]',
)


def stocks(**options: Any) -> AlpacaVenue:
    return AlpacaVenue(**{**KEYS, **options})


def crypto(**options: Any) -> AlpacaCryptoVenue:
    return AlpacaCryptoVenue(**{**KEYS, **options})


def options(**options: Any) -> AlpacaOptionsVenue:
    return AlpacaOptionsVenue(**{**KEYS, **options})


def array(*messages: bytes) -> bytes:
    return b"[" + b",".join(messages) + b"]"


def error(code: int, text: str = "words") -> bytes:
    return array(json.dumps({"T": "error", "code": code, "msg": text}).encode())


def listing(**channels: list[str]) -> bytes:
    return array(
        json.dumps(
            {"T": "subscription", "corrections": ["X"], "cancelErrors": ["X"], **channels}
        ).encode()
    )


def timestamp(ns: int) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(-1, struct.pack(">Q", (ns % 10**9) << 34 | ns // 10**9))


WHEN = 1_711_540_778_897_261_568
OPTION_QUOTE = {
    "T": "q",
    "S": OCC,
    "t": timestamp(WHEN),
    "bx": "C",
    "bp": 9.46,
    "bs": 53,
    "ax": "C",
    "ap": 9.66,
    "as": 38,
    "c": "A",
}
OPTION_TRADE = {"T": "t", "S": OCC, "t": timestamp(WHEN + 1), "p": 0.1, "s": 7, "x": "N", "c": "S"}


def packed(*messages: object) -> bytes:
    return msgspec.msgpack.encode(list(messages))
