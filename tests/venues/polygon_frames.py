"""Messages of Polygon's specification, and the venue that is to understand them."""

from __future__ import annotations

from typing import Any

from streams.venues.polygon import PolygonVenue

KEY = "poly-key-789"

TRADE = (
    b'{"ev":"T","sym":"MSFT","x":4,"i":"12345","z":3,"p":114.125,"s":100,"c":[0,12],"t":1536036818784,'
    b'"q":3681328}')
QUOTE = (
    b'{"ev":"Q","sym":"MSFT","bx":4,"bp":114.125,"bs":100,"ax":7,"ap":114.128,"as":160,"c":0,"i":[604],'
    b'"t":1536036818784,"q":50385480,"z":3}')
AGGREGATE = (
    b'{"ev":"A","sym":"SPCE","v":200,"av":8642007,"op":25.66,"vw":25.3981,"o":25.39,"c":25.39,"h":25.39,'
    b'"l":25.39,"a":25.3714,"z":50,"s":1610144868000,"e":1610144869000}')
MINUTE = (
    b'{"ev":"AM","sym":"GTE","v":4110,"av":9470157,"op":0.4372,"vw":0.4488,"o":0.4488,"c":0.4486,'
    b'"h":0.4489,"l":0.4486,"a":0.4352,"z":685,"s":1610144640000,"e":1610144700000}')
BAND = (
    b'{"ev":"LULD","T":"MSFT","h":218.96,"l":198.11,"i":[21],"z":3,"t":1601316752683746,"q":290317}')
IMBALANCE = (
    b'{"ev":"NOI","T":"NTEST.Q","t":1601318039223013600,"at":930,"a":"M","i":44,"x":10,"o":480,"p":440,'
    b'"b":25.03}')
OPTION_TRADE = (
    b'{"ev":"T","sym":"O:AMC210827C00037000","x":65,"p":1.54,"s":1,"c":[233],"t":1629820676333,'
    b'"q":651921857}')
OPTION_QUOTE = (
    b'{"ev":"Q","sym":"O:SPY241220P00720000","bx":302,"ax":302,"bp":9.71,"ap":9.81,"bs":17,"as":24,'
    b'"t":1644506128351,"q":844090872}')
FOREX_QUOTE = b'{"ev":"C","p":"USD/CNH","x":"44","a":6.83366,"b":6.83363,"t":1536036818784}'
FOREX_BAR = (
    b'{"ev":"CA","pair":"USD/EUR","o":0.8687,"c":0.86889,"h":0.86889,"l":0.8686,"v":20,"s":1539145740000}')
CRYPTO_TRADE = (
    b'{"ev":"XT","pair":"BTC-USD","p":33021.9,"t":1610462007425,"s":0.01616617,"c":[2],"i":14272084,"x":3,'
    b'"r":1610462007576}')
CRYPTO_QUOTE = (
    b'{"ev":"XQ","pair":"BTC-USD","bp":33052.79,"bs":0.48,"ap":33073.19,"as":0.601,"t":1610462411115,"x":1,'
    b'"r":1610462411128}')
CRYPTO_BOOK = (
    b'{"ev":"XL2","pair":"BTC-USD","t":1610462411115,"r":1610462411128,"x":1,'
    b'"b":[[33712.71,0.18635],[33712.7,0.134]],"a":[[33718.23,3.5527483],[33718.24,0.1]]}')
CRYPTO_BAR = (
    b'{"ev":"XA","pair":"BCD-USD","v":951.6112,"vw":0.7756,"z":73,"o":0.772,"c":0.784,"h":0.784,"l":0.771,'
    b'"s":1610463240000,"e":1610463300000}')
INDEX_VALUE = b'{"ev":"V","val":3988.5,"T":"I:SPX","t":1678220098130}'
INDEX_BAR = (
    b'{"ev":"AM","sym":"I:SPX","op":3985.67,"o":3985.67,"c":3985.67,"h":3985.67,"l":3985.67,'
    b'"s":1678220675805,"e":1678220675805}')


def polygon(**options: Any) -> PolygonVenue:
    return PolygonVenue(**{"api_key": KEY, **options})


def array(*messages: bytes) -> bytes:
    return b"[" + b",".join(messages) + b"]"
