from __future__ import annotations

from types import SimpleNamespace

import pytest

from dpqlab.diffusion.classes import AVATARS, FASHION, KNOWN, class_name, class_names_of


def config(channels: int, side: int, classes: int) -> SimpleNamespace:
    return SimpleNamespace(in_channels=channels, sample_size=side, num_embeds_ada_norm=classes)


@pytest.mark.parametrize("known", KNOWN)
def test_a_known_geometry_has_names(known) -> None:
    look = config(known.channels, known.side, len(known.names))
    assert class_names_of(look) == known.names
    assert len(set(known.names)) == len(known.names)


@pytest.mark.parametrize("look", [(3, 28, 10), (1, 64, 10), (1, 28, 15), (3, 64, 3), (4, 32, 2)])
def test_others_are_numbered(look: tuple[int, int, int]) -> None:
    names = class_names_of(config(*look))
    assert names == tuple(f"class {i}" for i in range(look[2]))


def test_one_class_by_the_name_of_its_model() -> None:
    assert class_name(9, "fashion-dit") == FASHION.names[9]
    assert class_name(14, "avatars-dit") == AVATARS.names[14] == "Rings"
    assert class_name(15, "avatars-dit") == "class 15"
    assert class_name(0, "mine") == "class 0"
