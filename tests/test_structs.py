"""Struct types of a stream's own."""

from __future__ import annotations

from typing import Generic, Optional, TypeVar, Union

import msgspec

from streams.structs import own

T = TypeVar("T")


class Level(msgspec.Struct, Generic[T], gc=False):
    price: T = msgspec.field(name="p")


class Extra(msgspec.Struct, gc=False):
    note: str = ""

    @property
    def loud(self) -> str:
        return self.note.upper()


class Book(msgspec.Struct, Generic[T], gc=False):
    name: str
    levels: list[Level[T]] = msgspec.field(name="l")
    extra: Optional[Extra] = msgspec.field(name="x", default=None)
    more: list[Extra] = msgspec.field(default_factory=list)


RAW = b'{"name":"a","l":[{"p":"1.5"}],"x":{"note":"n"},"more":[{},{"note":"m"}]}'


def test_it_decodes_the_same_into_types_that_nobody_else_has() -> None:
    mine, theirs = (msgspec.json.Decoder(kind, strict=False).decode(RAW)
                    for kind in (own(Book[float]), Book[float]))
    assert msgspec.to_builtins(mine) == msgspec.to_builtins(theirs)
    assert isinstance(mine, Book) and type(mine) is not Book
    assert isinstance(mine.levels[0], Level) and type(mine.levels[0]) is not type(theirs.levels[0])
    assert mine.extra.loud == "N" and type(mine.extra) is not Extra and type(mine.more[1]) is not Extra
    assert type(msgspec.json.Decoder(own(Book[float]), strict=False).decode(RAW)) is not type(mine)


def test_what_may_be_missing_still_may() -> None:
    book = msgspec.json.Decoder(own(Book[int])).decode(b'{"name":"a","l":[]}')
    assert (book.extra, book.more) == (None, [])


def test_what_has_no_structs_inside_stays_as_it_is() -> None:
    for kind in (int, list[str], Union[int, str], Optional[dict[str, float]]):
        assert own(kind) is kind
