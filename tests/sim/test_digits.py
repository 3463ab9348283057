"""Numbers as venues write them."""
from __future__ import annotations

import random

import pytest

from streams.sim.digits import Fixed, JavaDouble, fixed, java_double


@pytest.mark.parametrize("value, decimals, text", [
    (0, 4, "0.0"), (2, 4, "2.0E-4"), (10, 4, "0.001"), (99, 5, "9.9E-4"), (198, 6, "1.98E-4"),
    (5891107, 2, "58911.07"), (316390, 1, "31639.0"), (10_000_000, 0, "1.0E7"),
    (9_999_999, 0, "9999999.0"), (8_181_588_598_785_326, 7, "8.181588598785326E8"),
    (100, 0, "100.0"), (12345, 8, "1.2345E-4"), (-25, 1, "-2.5"), (500, 3, "0.5"),
])
def test_java_writes_doubles_like_this(value: int, decimals: int, text: str) -> None:
    assert java_double(value, decimals) == text


def test_java_texts_have_the_value() -> None:
    rng = random.Random(1)
    for _ in range(2000):
        value, decimals = rng.randrange(10 ** rng.randrange(1, 16)), rng.randrange(9)
        assert float(java_double(value, decimals)) == value / 10 ** decimals


@pytest.mark.parametrize("value, places, text", [
    (0, 8, "0.00000000"), (6000050, 2, "60000.50"), (-5, 3, "-0.005"), (42, 0, "42"),
    (-12345, 2, "-123.45")])
def test_fixed_places(value: int, places: int, text: str) -> None:
    assert fixed(value, places) == text


def test_texts_are_kept_and_drop_the_sign() -> None:
    prices = Fixed(2, 8)
    assert prices[-6000050] == prices[6000050] == "60000.50000000"
    assert JavaDouble(4)[-2] == "2.0E-4"
