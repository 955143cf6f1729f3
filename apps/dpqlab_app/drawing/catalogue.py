"""Which models there are to draw with, in which versions, and what those cost.

Everything here is read from configs and from the headers of weight files; no weights are loaded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dpqlab.errors import ConfigError
from dpqlab_app.drawing.folders import card_credits, compressed, geometry, stored_bits
from dpqlab_app.drawing.settings import NO_VERSIONS

Kind = Literal["full", "compressed"]
Family = Literal["full", "VQ", "DPQ", "Best", "own"]
FAMILIES: Mapping[str, Family] = {"vq": "VQ", "dpq": "DPQ", "best": "Best"}
"""How presets begin, and what their family is called."""

KNOWN: Mapping[str, tuple[str, str]] = {
    "fashion-dit": (
        "Fashion (28 x 28, grey)",
        "Clothes after Fashion-MNIST, © 2017 Zalando SE, MIT licence.",
    ),
    "avatars-dit": (
        "Avatars (64 x 64, colour)",
        "Avatars after art styles of DiceBear; designs CC0 1.0 or CC BY 4.0, credited in its card.",
    ),
}
"""Title and credit of the bundled models; the first is what a visitor gets: it draws fastest."""

_PRESET = re.compile(r"(vq|dpq|best)-(\d+(?:\.\d+)?)bit")


@dataclass(frozen=True, kw_only=True)
class Version:
    """One folder of weights.

    Attributes
    ----------
    key
        Its name within the model: ``"full"``, ``"best-1bit"``.
    title
        What people read.
    path
        The folder.
    true_bits
        All stored bits of the blocks' Linears over the number of their weights; None where the
        folder is not one of a DiT's blocks.
    disk_bytes
        Of the weight files.
    kind, family
        Compressed or not, and how.
    own
        Whether it was given at start rather than bundled.
    """

    key: str
    title: str
    path: Path
    true_bits: float | None
    disk_bytes: int
    kind: Kind
    family: Family
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model in full precision and its compressed versions.

    Attributes
    ----------
    key, title
        Its name, and what people read.
    classes
        Names of the classes, by label.
    channels, side
        1 or 3, and the pixels of a side.
    full, versions
        Full precision, and everything that was made of it.
    credit
        Whose data and designs it learned from; Markdown, where its card says more.
    """

    key: str
    title: str
    classes: tuple[str, ...]
    channels: int
    side: int
    full: Version
    versions: tuple[Version, ...]
    credit: str = ""

    def version(self, key: str) -> Version:
        """Return a version, ``"full"`` among them.

        Raises
        ------
        ConfigError
            If there is none of that key; the message lists those there are.
        """
        for version in (self.full, *self.versions):
            if version.key == key:
                return version
        known = ", ".join(version.key for version in self.versions) or "none"
        raise ConfigError(f"{self.title} has no version {key[:40]!r}: there are {known}")


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All models, the bundled ones first."""

    models: tuple[Model, ...]

    def model(self, key: str) -> Model:
        """Return a model.

        Raises
        ------
        ConfigError
            If there is none of that key; the message lists those there are.
        """
        for model in self.models:
            if model.key == key:
                return model
        known = ", ".join(model.key for model in self.models)
        raise ConfigError(f"there is no model {str(key)[:40]!r}: there are {known}")


def catalogue_of(folders: Sequence[Path] = ()) -> Catalogue:
    """List the bundled models, and folders of one's own.

    Parameters
    ----------
    folders
        A compressed one joins the model that it says it was made of; one in full precision is a
        model of its own.

    Raises
    ------
    ConfigError
        If a folder is no model that the app can draw with, or the model it was made of is absent.
    CheckpointError
        If a folder is damaged.
    """
    from dpqlab.diffusion.models import bundled

    known = list(KNOWN)
    entries = sorted(  # stable: the rest stays in the order of names
        bundled(), key=lambda e: known.index(e.name) if e.name in known else len(known)
    )
    models = [_model(entry.path) for entry in entries if entry.kind == "full"]
    for entry in entries:
        if entry.kind == "compressed":
            models = _with_version(models, entry.path, own=False)
    own = [Path(folder) for folder in folders]
    for folder in own:
        if not (folder / "model_index.json").is_file():
            raise ConfigError(
                f"{folder} is no model folder: expected one with a model_index.json, as "
                "`dpqlab compress` writes it"
            )
    # full precision first: students find their teacher whatever the order they were named in
    for folder in own:
        if not compressed(folder):
            models.append(_own_model(folder, models))
    for folder in own:
        if compressed(folder):
            models = _with_version(models, folder, own=True)
    if not models:
        raise ConfigError("no model is bundled in this installation: name a folder of your own")
    return Catalogue(models=tuple(models))


def _model(folder: Path, *, key: str | None = None) -> Model:
    """Describe a full-precision folder."""
    from dpqlab.diffusion.classes import class_names_of

    config = geometry(folder)
    channels, side = config.in_channels, config.sample_size
    if channels not in (1, 3):
        raise ConfigError(
            f"{folder} draws {channels} channels: expected 1 or 3, as the app shows pixels only; "
            "a model that works on latents is sampled with diffusers"
        )
    name = key or folder.name
    title, credit = KNOWN.get(name, (f"{name} ({side} x {side})", "")) if key is None else (key, "")
    return Model(
        key=name,
        title=title,
        classes=class_names_of(config),
        channels=channels,
        side=side,
        full=_version(folder, key="full", title="Full precision", kind="full"),
        versions=(),
        credit="\n\n".join(filter(None, (credit, card_credits(folder)))),
    )


def _own_model(folder: Path, models: Sequence[Model]) -> Model:
    key = _free(_slug(folder.resolve().name), [model.key for model in models])
    model = _model(folder, key=key)
    return replace(model, full=replace(model.full, own=True))


def _with_version(models: Sequence[Model], folder: Path, *, own: bool) -> list[Model]:
    """Return the models with a compressed folder added to the one that it was made of."""
    from dpqlab.checkpoint import read_config

    config = read_config(folder)
    source = str(config.quantization.provenance.get("source", ""))
    sha256 = config.quantization.provenance.get("source_sha256")
    place = next((i for i, m in enumerate(models) if _is_source(m, source, sha256, own=own)), None)
    if place is None:
        raise ConfigError(
            f"{folder} was made of {source or 'a model that it does not name'!r}, which is not "
            f"here: expected {', '.join(model.key for model in models)}; name the folder of that "
            "model too"
        )
    model = models[place]
    look = (config.model["in_channels"], config.model["sample_size"])
    if look != (model.channels, model.side):
        raise ConfigError(
            f"{folder} draws {look[1]} pixels a side in {look[0]} channels, and {model.key} "
            f"{model.side} in {model.channels}: expected a version of the same model"
        )
    key = folder.resolve().name if own else folder.name.removeprefix(f"{model.key}-")
    if own:
        key = _free(_slug(key), ["full", NO_VERSIONS, *(version.key for version in model.versions)])
    version = _version(folder, key=key, title=_title(key, own=own), kind="compressed", own=own)
    versions = (*model.versions, version)
    if not own:
        versions = tuple(sorted(versions, key=_order))
    joined = replace(model, versions=versions)
    return [*models[:place], joined, *models[place + 1 :]]


def _is_source(model: Model, source: str, sha256: Any, *, own: bool) -> bool:
    """Say whether a student that names ``source`` was made of a model."""
    if model.full.path.resolve().name != source:
        return False
    if not own or sha256 is None:
        return True
    # another model may have the same name
    from dpqlab.commands.measure import origin_of

    return origin_of(source, model.full.path)["source_sha256"] == sha256


def _version(folder: Path, *, key: str, title: str, kind: Kind, own: bool = False) -> Version:
    from dpqlab.diffusion.models import weight_bytes

    preset = None if own else _PRESET.fullmatch(key)
    family: Family = "own" if kind == "compressed" else "full"
    return Version(
        key=key,
        title=title,
        path=folder,
        true_bits=stored_bits(folder),
        disk_bytes=weight_bytes(folder),
        kind=kind,
        family=FAMILIES[preset[1]] if preset else family,
        own=own,
    )


def _title(key: str, *, own: bool) -> str:
    preset = None if own else _PRESET.fullmatch(key)
    if preset is None:
        return f"{key} (yours)" if own else key
    return f"{FAMILIES[preset[1]]}, {preset[2]} {'bit' if preset[2] == '1' else 'bits'}"


def _order(version: Version) -> tuple[float, int, str]:
    """Fewest bits first, the best of them first; what is no preset last."""
    preset = _PRESET.fullmatch(version.key)
    if preset is None:
        return (math.inf, 0, version.key)
    return (float(preset[2]), ("best", "vq", "dpq").index(preset[1]), version.key)


def _slug(name: str) -> str:
    """Return a name that an address can hold: no commas, nothing long."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:40] or "mine"


def _free(name: str, taken: Sequence[str]) -> str:
    number, free = 2, name
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free
