"""Messages of Kraken as its documentation has them, or as they were seen on the wire."""

from __future__ import annotations

STATUS = (b'{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online",'
          b'"api_version":"v2","connection_id":15113583034416118705}]}')
MAINTENANCE = STATUS.replace(b"online", b"maintenance")
HEARTBEAT = b'{"channel":"heartbeat"}'
PONG = (b'{"method":"pong","req_id":101,"time_in":"2023-09-24T14:10:23.799685Z",'
        b'"time_out":"2023-09-24T14:10:23.799703Z"}')

# The example of the guide on checksums, with its intermediate strings.
ASKS = [("45285.2", "0.00100000"), ("45286.4", "1.54571953"), ("45286.6", "1.54571109"),
        ("45289.6", "1.54560911"), ("45290.2", "0.15890660"), ("45291.8", "1.54553491"),
        ("45294.7", "0.04454749"), ("45296.1", "0.35380000"), ("45297.5", "0.09945542"),
        ("45299.5", "0.18772827")]
BIDS = [("45283.5", "0.10000000"), ("45283.4", "1.54582015"), ("45282.1", "0.10000000"),
        ("45281.0", "0.10000000"), ("45280.3", "1.54592586"), ("45279.0", "0.07990000"),
        ("45277.6", "0.03310103"), ("45277.5", "0.30000000"), ("45277.3", "1.54602737"),
        ("45276.6", "0.15445238")]
ASKS_TEXT = ("45285210000045286415457195345286615457110945289615456091145290215890660452918154553491"
             "452947445474945296135380000452975994554245299518772827")
BIDS_TEXT = ("452835100000004528341545820154528211000000045281010000000452803154592586452790799000045277633"
             "101034527753000000045277315460273745276615445238")
CHECKSUM = 3310070434


def book(kind: str, bids: object, asks: object, checksum: int, symbol: str = "BTC/USD") -> bytes:
    """A message of channel ``book``."""
    sides = [",".join(f'{{"price":{price},"qty":{size}}}' for price, size in side)     # type: ignore
             for side in (bids, asks)]
    return (f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"{symbol}","bids":[{sides[0]}],'
            f'"asks":[{sides[1]}],"checksum":{checksum},"timestamp":"2023-10-06T17:35:55.440295Z"}}]}}'
            ).encode()


SNAPSHOT = book("snapshot", BIDS, ASKS, CHECKSUM)
TRADE = (b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":105944.20,'
         b'"qty":0.00027625,"ord_type":"limit","trade_id":10218208,'
         b'"timestamp":"2023-10-06T17:35:55.440295Z"},{"symbol":"BTC/USD","side":"buy","price":105944.3,'
         b'"qty":0.5,"ord_type":"market","trade_id":10218209,"timestamp":"2023-10-06T17:35:55.440295Z"}]}')
TICKER = (b'{"channel":"ticker","type":"snapshot","data":[{"symbol":"BTC/USD","bid":105944.20,"bid_qty":2.5,'
          b'"ask":105944.30,"ask_qty":3.2,"last":105899.40,"volume":163.28908096,"vwap":105904.39279,'
          b'"low":104711.00,"high":106613.10,"change":250.00,"change_pct":0.24}]}')


def candle(begin: str, close: str = "106040.1") -> bytes:
    """A message of channel ``ohlc``."""
    return (f'{{"channel":"ohlc","type":"update","timestamp":"2023-10-04T16:26:30.524394914Z","data":[{{'
            f'"symbol":"BTC/USD","open":106038.2,"high":106044.3,"low":106038.1,"close":{close},"trades":12,'
            f'"volume":30927.68066226,"vwap":106039.6,"interval_begin":"{begin}","interval":5,'
            f'"timestamp":"2023-10-04T16:30:00.000000Z"}}]}}').encode()


def acked(channel: str, number: int, extra: str = "", method: str = "subscribe") -> bytes:
    """The answer to a subscription."""
    return (f'{{"method":"{method}","result":{{"channel":"{channel}",{extra}"snapshot":true,'
            f'"symbol":"BTC/USD"}},"success":true,"time_in":"2026-07-20T21:04:03.811983Z",'
            f'"time_out":"2026-07-20T21:04:03.812018Z","req_id":{number}}}').encode()


def refused(text: str, number: int | None = 1, symbol: str = "", method: str = "subscribe") -> bytes:
    """The answer to a subscription that can not be."""
    more = f',"symbol":"{symbol}"' if symbol else ""
    more += f',"req_id":{number}' if number is not None else ""
    return (f'{{"error":"{text}","method":"{method}","success":false{more},'
            f'"time_in":"2023-07-03T10:39:20.146386Z","time_out":"2023-07-03T10:39:20.146448Z"}}').encode()
