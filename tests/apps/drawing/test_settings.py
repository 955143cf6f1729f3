from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dpqlab.errors import ConfigError
from dpqlab_app.drawing.catalogue import Catalogue
from dpqlab_app.drawing.engine import Engine
from dpqlab_app.drawing.pictures import picture
from dpqlab_app.drawing.settings import (
    MOST_IMAGES,
    MOST_SEED,
    MOST_STEPS,
    DrawSettings,
    cycled,
    default_settings,
)

FINE: dict[str, Any] = {"model": "fashion-dit", "versions": ("best-1bit",), "labels": (0, 3)}
FIELDS: dict[str, Any] = {
    "model": "fashion-dit",
    "versions": ["best-1bit", "vq-1bit"],
    "classes": [0, 3.0],
    "count": 5.0,
    "seed": 7.0,
    "steps": 20.0,
    "guidance": 2,
}


def query_of(settings: DrawSettings) -> dict[str, str]:
    # as browsers and servers take it apart that lose empty parts
    return dict(parse_qsl(settings.to_query()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("model", "x" * 101),
        ("model", None),
        ("model", 3),
        ("versions", ["best-1bit"]),
        ("versions", ("a", "b", "c", "d")),
        ("versions", ("a", "a")),
        ("versions", ("",)),
        ("versions", "best-1bit"),
        ("versions", (3,)),
        ("labels", ()),
        ("labels", [0]),
        ("labels", (0,) * 9),
        ("labels", (-1,)),
        ("labels", (1000,)),
        ("labels", (True,)),
        ("labels", (1.0,)),
        ("labels", ("0",)),
        ("seed", -1),
        ("seed", 2**32),
        pytest.param("seed", 10**5000, id="seed-huge"),
        ("seed", True),
        ("seed", 1.0),
        ("seed", None),
        ("steps", 0),
        ("steps", 251),
        ("steps", "20"),
        ("steps", 20.5),
        ("guidance", math.nan),
        ("guidance", math.inf),
        ("guidance", -math.inf),
        ("guidance", 0.99),
        ("guidance", 20.01),
        ("guidance", "1.5"),
        ("guidance", True),
        ("guidance", None),
        pytest.param("guidance", 10**400, id="guidance-huge"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_a_short_sentence(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        DrawSettings(**(FINE | {name: value}))
    assert 10 < len(str(caught.value)) < 200


def test_the_bounds_themselves_are_fine() -> None:
    labels = (999,) * MOST_IMAGES
    DrawSettings(**FINE | {"labels": labels, "seed": MOST_SEED, "steps": MOST_STEPS})
    DrawSettings(**FINE | {"versions": (), "steps": 1, "guidance": 1})
    DrawSettings(**FINE | {"versions": ("a", "b", "c"), "guidance": 20.0})


def test_widgets_hand_over_floats_and_classes_go_round() -> None:
    made = DrawSettings.from_fields(**FIELDS)
    assert made == DrawSettings(
        model="fashion-dit",
        versions=("best-1bit", "vq-1bit"),
        labels=(0, 3, 0, 3, 0),
        seed=7,
        steps=20,
        guidance=2.0,
    )
    assert all(type(label) is int for label in made.labels)
    assert type(made.seed) is type(made.steps) is int
    assert DrawSettings.from_fields(**FIELDS | {"versions": None}).versions == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", []),
        ("classes", None),
        ("classes", "0,1"),
        ("classes", [0.5]),
        ("classes", [math.nan]),
        ("classes", ["Bag"]),
        pytest.param("classes", [0] * 1001, id="classes-many"),
        ("classes", {"0": 1}),
        ("versions", "best-1bit"),
        pytest.param("versions", ["a"] * 5000, id="versions-many"),
        ("versions", [["a"]]),
        ("versions", [None]),
        ("count", 0),
        ("count", 9),
        ("count", 10**12),
        ("count", 2.5),
        ("count", None),
        ("count", "4"),
        ("seed", 0.5),
        ("seed", math.nan),
        pytest.param("seed", "x" * 10_000_000, id="seed-long"),
        pytest.param("seed", [10**5000], id="seed-list"),
        ("steps", 20.5),
        ("steps", math.inf),
        ("steps", 1e300),
        ("steps", True),
        ("guidance", math.nan),
        ("guidance", [1.5]),
        ("model", ["fashion-dit"]),
    ],
)
def test_what_gets_past_widgets_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        DrawSettings.from_fields(**FIELDS | {name: value})
    assert len(str(caught.value)) < 200


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(values=st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, anything)))
def test_any_json_is_drawn_within_bounds_or_refused(values: dict[str, Any]) -> None:
    try:
        made = DrawSettings.from_fields(**FIELDS | values)
    except ConfigError:
        return
    assert 1 <= len(made.labels) <= 8
    assert 1 <= made.steps <= 250
    assert 0 <= made.seed < 2**32
    assert 1 <= made.guidance <= 20


settings_of_fashion = st.builds(
    DrawSettings,
    model=st.just("fashion-dit"),
    versions=st.lists(
        st.sampled_from(("best-1bit", "vq-1bit", "best-1.25bit", "dpq-2bit")),
        max_size=3,
        unique=True,
    ).map(tuple),
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple),
    seed=st.integers(0, MOST_SEED),
    steps=st.integers(1, MOST_STEPS),
    guidance=st.floats(1, 20),
)


@given(settings=settings_of_fashion)
def test_an_address_brings_the_same_settings_back(
    tiny_catalogue: Catalogue, settings: DrawSettings
) -> None:
    assert DrawSettings.from_query(query_of(settings), tiny_catalogue) == settings


def test_an_address_reads_well() -> None:
    settings = DrawSettings.from_fields(**FIELDS)
    assert settings.to_query() == (
        "model=fashion-dit&versions=best-1bit,vq-1bit&classes=0,3&images=5&seed=7&steps=20"
        "&guidance=2"
    )
    assert DrawSettings(**FINE | {"versions": ()}).to_query().split("&")[1] == "versions=none"


def test_what_an_address_leaves_out_is_the_default(tiny_catalogue: Catalogue) -> None:
    usual = default_settings(tiny_catalogue.models[0])
    assert DrawSettings.from_query({}, tiny_catalogue) == usual
    assert DrawSettings.from_query({"__theme": "dark", "seed": ""}, tiny_catalogue) == usual
    other = DrawSettings.from_query({"model": "tiny", "classes": "2"}, tiny_catalogue)
    assert (other.model, other.labels, other.versions) == ("tiny", (2, 2, 2, 2), ("tiny-4",))
    alone = DrawSettings.from_query({"versions": ""}, tiny_catalogue)
    assert alone.versions == ()


@pytest.mark.parametrize(
    ("part", "text", "said"),
    [
        ("model", "nobody", "no model 'nobody'"),
        ("model", "x" * 101, "at model"),
        ("versions", "best-1bit,best-9bit", "best-9bit"),
        ("versions", "best-1bit,best-1bit", "each once"),
        ("versions", "vq-1bit,vq-2bit,dpq-1bit,dpq-2bit", "at most 3"),
        ("classes", "0,10", "no class 10"),
        ("classes", "0,x", "classes=x"),
        ("classes", ",", "classes="),
        ("classes", "-1", "a class is -1"),
        ("images", "9", "images is 9"),
        ("images", "1e9", "images is 1000000000"),
        ("seed", " 3", "seed= 3"),
        ("seed", "1e999", "seed is inf"),
        ("seed", "nan", "seed=nan"),
        ("seed", "0x10", "seed=0x10"),
        ("seed", "٣", "seed=٣"),
        ("seed", "1_0", "seed=1_0"),
        ("seed", "4294967296", "the seed is 4294967296"),
        ("steps", "20.5", "steps is 20.5"),
        ("guidance", "inf", "guidance=inf"),
        ("guidance", "0", "guidance is 0"),
    ],
)
def test_an_address_that_cannot_be_names_the_part(
    tiny_catalogue: Catalogue, part: str, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        DrawSettings.from_query({part: text}, tiny_catalogue)


def test_defaults_show_four_classes_in_full_precision_and_one_bit(
    tiny_catalogue: Catalogue,
) -> None:
    for model in tiny_catalogue.models:
        made = default_settings(model).checked(tiny_catalogue)
        assert len(set(made.labels)) == 4
    fashion = default_settings(tiny_catalogue.models[0], seed=3)
    assert fashion.versions == ("best-1bit",)
    assert fashion.seed == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 1000])
def test_defaults_suit_any_number_of_classes(count: int) -> None:
    classes = tuple(map(str, range(count)))
    model: Any = SimpleNamespace(key="m", versions=(), classes=classes)
    labels = default_settings(model).labels
    assert len(labels) == 4
    assert max(labels) < count
    assert len(set(labels)) == min(4, count)


def test_classes_are_the_shortest_round() -> None:
    for labels in ((4,), (4, 4, 4), (1, 2, 1, 2, 1), (1, 2, 1, 3), (1, 1, 2)):
        classes = DrawSettings(**FINE | {"labels": labels}).classes
        assert cycled(classes, len(labels)) == labels
    assert DrawSettings(**FINE | {"labels": (1, 2, 1, 2, 1)}).classes == (1, 2)


@pytest.mark.parametrize("model", ["tiny", "colour"])
def test_the_code_draws_the_same_bytes(
    tiny_engine: Engine,
    tiny_folders: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    settings = DrawSettings(
        model=model, versions=(f"{model}-16",), labels=(3, 0, 9), seed=11, steps=5, guidance=2.5
    )
    for name in (model, f"{model}-16"):
        (tmp_path / name).symlink_to(tiny_folders / name)
    code = settings.code(tiny_engine.catalogue)
    assert str(tiny_folders) not in code, "folders of the machine are nobody's business"
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "copied", "exec"), {})
    *_, frame = tiny_engine.draw(settings)
    zoom = max(1, 256 // tiny_engine.catalogue.model(model).side)
    for version in frame.versions:
        name = model if version.key == "full" else version.key
        drawn = np.asarray(Image.open(tmp_path / f"{name}.png"))
        apart = (drawn.shape[1] + 2 * zoom) // 3  # an image and the gap behind it
        for i, image in enumerate(version.images):
            ours = np.asarray(picture(image, zoom=zoom))
            theirs = drawn[:, i * apart : i * apart + ours.shape[1]]
            np.testing.assert_array_equal(theirs, ours)


def test_the_code_of_a_bundled_model_names_it(tiny_catalogue: Catalogue) -> None:
    code = DrawSettings(**FINE).code(tiny_catalogue)
    assert '"fashion-dit",\n    "fashion-dit-best-1bit",\n' in code
    assert "folder" not in code
    assert "# T-shirt/top, Dress" in code
    with pytest.raises(ConfigError):
        DrawSettings(**FINE | {"labels": (10,)}).code(tiny_catalogue)
