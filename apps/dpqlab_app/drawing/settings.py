"""What a visitor may ask for: checked when made, written as an address, or as Python.

The widgets' own bounds are a courtesy: NaN, fractions and overlong texts get past them. What
reaches the engine went through :class:`DrawSettings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from dpqlab.errors import ConfigError
from dpqlab_app.drawing.checks import (
    MOST_TEXT,
    check_text,
    check_whole,
    listed,
    number_of,
    shown,
    whole,
)

if TYPE_CHECKING:
    from dpqlab_app.drawing.catalogue import Catalogue, Model

MOST_IMAGES = 8
MOST_STEPS = 250
MOST_VERSIONS = 3
MOST_LABEL = 999
MOST_SEED = 2**32 - 1
GUIDANCE = (1.0, 20.0)

IMAGES, STEPS, SCALE = 4, 20, 1.5
"""How many images, steps and which guidance a visitor gets who asks for nothing."""
NO_VERSIONS = "none"
"""What an address says for none: an empty part would get lost."""
FAVOURITES = ("best-1bit", "vq-1bit")
"""Compressed versions, the first of which is set beside full precision unless asked otherwise."""


@dataclass(frozen=True, kw_only=True)
class DrawSettings:
    """What to draw, and with which versions of a model.

    Attributes
    ----------
    model
        Key of a model in the catalogue.
    versions
        Keys of the compressed versions to set beside full precision: 0 to 3, each once.
    labels
        Class of each image, 1 to 8 of them, each 0 to 999.
    seed
        0 to 2**32 - 1.
    steps
        Sampling steps, 1 to 250.
    guidance
        Scale of classifier-free guidance, 1 (none) to 20.

    Raises
    ------
    ConfigError
        For anything else: NaN, fractions, text for a number, too many of something.
    """

    model: str
    versions: tuple[str, ...]
    labels: tuple[int, ...]
    seed: int = 0
    steps: int = STEPS
    guidance: float = SCALE

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        check_text("the model", self.model)
        _check_versions(self.versions)
        if not isinstance(self.labels, tuple) or not 1 <= len(self.labels) <= MOST_IMAGES:
            got = len(self.labels) if isinstance(self.labels, tuple) else shown(self.labels)
            raise ConfigError(f"the number of images is {got}: expected 1 to {MOST_IMAGES}")
        for label in self.labels:
            check_whole("a class", label, 0, MOST_LABEL)
        check_whole("the seed", self.seed, 0, MOST_SEED)
        check_whole("the number of steps", self.steps, 1, MOST_STEPS)
        _check_guidance(self.guidance)

    @classmethod
    def from_fields(
        cls,
        model: Any,
        versions: Any,
        classes: Any,
        count: Any,
        seed: Any,
        steps: Any,
        guidance: Any,
    ) -> DrawSettings:
        """Read what widgets and the API hand over.

        Parameters
        ----------
        model, versions
            Keys; None for no versions.
        classes
            Numbers of classes. They are gone through again and again until there are enough.
        count
            Images, 1 to 8.
        seed, steps, guidance
            Numbers; 20.0 is whole, 20.5 is not.

        Raises
        ------
        ConfigError
            For what cannot be drawn.
        """
        chosen = [whole("a class", c) for c in listed("classes", classes, MOST_LABEL + 1)]
        if not chosen:
            raise ConfigError("no class is chosen: expected at least one")
        number = whole("the number of images", count)
        if not 1 <= number <= MOST_IMAGES:
            raise ConfigError(f"the number of images is {number}: expected 1 to {MOST_IMAGES}")
        return cls(
            model=model,
            versions=tuple(listed("versions", versions, MOST_TEXT)),
            labels=cycled(chosen, number),
            seed=whole("the seed", seed),
            steps=whole("the number of steps", steps),
            guidance=number_of("the guidance", guidance),
        )

    @property
    def classes(self) -> tuple[int, ...]:
        """The fewest classes that :attr:`labels` goes through again and again."""
        for length in range(1, len(self.labels)):
            if cycled(self.labels[:length], len(self.labels)) == self.labels:
                return self.labels[:length]
        return self.labels

    def to_query(self) -> str:
        """Return the query of an address from which :meth:`from_query` reads the same settings."""
        parts = {
            "model": self.model,
            "versions": ",".join(self.versions) or NO_VERSIONS,
            "classes": ",".join(map(str, self.classes)),
            "images": len(self.labels),
            "seed": self.seed,
            "steps": self.steps,
            "guidance": f"{self.guidance!r}".removesuffix(".0"),
        }
        return urlencode(parts, safe=",")

    @classmethod
    def from_query(cls, query: Mapping[str, str], catalogue: Catalogue) -> DrawSettings:
        """Read the query of an address; parts that are missing are the defaults.

        Parameters
        ----------
        query
            Its parts, decoded. Parts that mean nothing here are passed over.
        catalogue
            What there is.

        Raises
        ------
        ConfigError
            Naming the part that cannot be.
        """
        for name in ("model", "versions", "classes", "images", "seed", "steps", "guidance"):
            if len(str(query.get(name, ""))) > MOST_TEXT:
                raise ConfigError(f"the address is too long at {name}: expected a few characters")
        model = catalogue.model(query.get("model") or catalogue.models[0].key)
        usual = default_settings(model)
        versions, classes = query.get("versions"), query.get("classes")
        count = _number("images", query["images"]) if query.get("images") else len(usual.labels)
        settings = cls.from_fields(
            model.key,
            usual.versions
            if versions is None
            else [v for v in versions.split(",") if v not in ("", NO_VERSIONS)],
            [_number("classes", c) for c in classes.split(",")] if classes else usual.classes,
            count,
            _number("seed", query["seed"]) if query.get("seed") else usual.seed,
            _number("steps", query["steps"]) if query.get("steps") else usual.steps,
            _number("guidance", query["guidance"]) if query.get("guidance") else usual.guidance,
        )
        return settings.checked(catalogue)

    def checked(self, catalogue: Catalogue) -> DrawSettings:
        """Return the settings if the catalogue has their model, versions and classes.

        Raises
        ------
        ConfigError
            If it has not; the message lists what it has.
        """
        model = catalogue.model(self.model)
        for key in self.versions:
            model.version(key)
        beyond = [label for label in self.labels if label >= len(model.classes)]
        if beyond:
            raise ConfigError(
                f"{model.title} has no class {beyond[0]}: expected 0 to {len(model.classes) - 1}"
            )
        return self

    def code(self, catalogue: Catalogue) -> str:
        """Return Python that draws the same pictures with dpqlab alone.

        Raises
        ------
        ConfigError
            If the catalogue lacks something.
        """
        model = catalogue.model(self.checked(catalogue).model)
        versions = (model.full, *(model.version(key) for key in self.versions))
        names = "".join(f"    {json.dumps(version.path.name)},\n" for version in versions)
        own = any(version.own for version in versions)
        note = "# A name that dpqlab does not know is a folder: put its path in.\n" if own else ""
        return CODE.format(
            note=note,
            labels=self.labels,
            classes=", ".join(model.classes[label] for label in self.classes),
            seed=self.seed,
            steps=self.steps,
            guidance=repr(float(self.guidance)),
            names=names,
            zoom=max(1, 256 // model.side),
        )


CODE = """\
from dpqlab.diffusion import SampleRequest, load_pipeline, prepare_runtime, sample_images
from dpqlab.viz.images import sheet

{note}models = [
{names}]
request = SampleRequest(
    labels={labels},  # {classes}
    seed={seed},
    steps={steps},
    guidance={guidance},
)
for name in models:
    pipeline = load_pipeline(name)
    runtime = prepare_runtime(pipeline.transformer)
    images = sample_images(runtime, pipeline.scheduler, request)  # uint8 (N, C, H, W)
    sheet(images, len(images), zoom={zoom}).save(f"{{name}}.png")
"""
"""What :meth:`DrawSettings.code` fills in."""


def default_settings(model: Model, *, seed: int = 0) -> DrawSettings:
    """Return what a visitor sees first: four classes, full precision and one bit.

    Parameters
    ----------
    model
        Of which.
    seed
        Of the pictures.
    """
    known = [version.key for version in model.versions]
    favourites = [key for key in FAVOURITES if key in known] or known
    count = min(IMAGES, len(model.classes))
    spread = [i * len(model.classes) // count for i in range(count)]
    offset = 1 if spread[-1] + 1 < len(model.classes) else 0
    return DrawSettings(
        model=model.key,
        versions=tuple(favourites[:1]),
        labels=cycled([label + offset for label in spread], IMAGES),
        seed=seed,
    )


def cycled(values: Iterable[int], count: int) -> tuple[int, ...]:
    """Return ``count`` values: the given ones, again and again.

    Examples
    --------
    >>> cycled((4, 7), 5)
    (4, 7, 4, 7, 4)
    """
    given = tuple(values)
    return tuple(given[i % len(given)] for i in range(count))


def _number(what: str, text: str) -> float:
    """Read a number as addresses have it; Python's own reading takes NaN, ``1_0`` and ``٣`` too."""
    if not re.fullmatch(r"-?\d{1,20}(\.\d{1,20})?(e[+-]?\d{1,3})?", text, re.ASCII):
        raise ConfigError(f"the address says {what}={text[:40]}: expected a number")
    return float(text)


def _keys(text: str) -> list[str]:
    return [key for key in text.split(",") if key not in ("", NO_VERSIONS)]


def _check_versions(versions: object) -> None:
    if not isinstance(versions, tuple) or len(versions) > MOST_VERSIONS:
        got = len(versions) if isinstance(versions, tuple) else shown(versions)
        raise ConfigError(f"{got} compressed versions are chosen: expected at most {MOST_VERSIONS}")
    for key in versions:
        check_text("a version", key)
    if len(set(versions)) < len(versions):
        raise ConfigError(f"versions are {', '.join(versions)}: expected each once")


def _check_guidance(value: object) -> None:
    low, high = GUIDANCE
    number = number_of("the guidance", value)
    if not low <= number <= high:
        raise ConfigError(f"the guidance is {number:g}: expected {low:g} to {high:g}")
