from __future__ import annotations

import pytest

from dpqlab.commands.classes import parse_classes
from dpqlab.errors import ConfigError
from dpqlab.evaluation.fashion_mnist import CLASSES


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("0-9", tuple(range(10))),
        ("3", (3,)),
        ("5,5,1", (5, 5, 1)),
        ("bag, Dress ,0-1", (8, 3, 0, 1)),
        ("T-shirt/top,T-shirt,tshirt,top,Shirt,ankle-boot", (0, 0, 0, 0, 6, 9)),
    ],
)
def test_numbers_ranges_and_names(text: str, labels: tuple[int, ...]) -> None:
    assert parse_classes(text, CLASSES) == labels


@pytest.mark.parametrize("text", ["", ",", "10", "0-10", "3-2", "hat", "-1", "1.5", "9" * 40])
def test_what_is_no_class_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="class"):
        parse_classes(text, CLASSES)
