"""What the classes of a model are called, told by its geometry: to a model a label is a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class KnownClasses:
    """A bundled full-precision model, the images it draws, and the names of its classes."""

    model: str
    channels: int
    side: int
    names: tuple[str, ...]


FASHION = KnownClasses(
    model="fashion-dit",
    channels=1,
    side=28,
    names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
AVATARS = KnownClasses(
    model="avatars-dit",
    channels=3,
    side=64,
    names=(
        "Adventurer",
        "Big ears",
        "Big smile",
        "Croodles",
        "Lorelei",
        "Micah",
        "Miniavs",
        "Notionists",
        "Open peeps",
        "Personas",
        "Pixel art",
        "Thumbs",
        "Toon head",
        "Shapes",
        "Rings",
    ),
)
KNOWN = (FASHION, AVATARS)


def class_names_of(config: Any) -> tuple[str, ...]:
    """Name the classes of a model from its config.

    Parameters
    ----------
    config
        With ``in_channels``, ``sample_size`` and ``num_embeds_ada_norm``, as the transformers of
        diffusers have it.

    Returns
    -------
    tuple of str
        Those of the known model of the same geometry, else ``"class 0"`` and so on.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> class_names_of(SimpleNamespace(in_channels=4, sample_size=32, num_embeds_ada_norm=2))
    ('class 0', 'class 1')
    """
    count = int(config.num_embeds_ada_norm)
    look = (config.in_channels, config.sample_size, count)
    for known in KNOWN:
        if look == (known.channels, known.side, len(known.names)):
            return known.names
    return tuple(numbered(label) for label in range(count))


def class_name(label: int, model: str) -> str:
    """Name one class of a model that is known by name only, as the source of a record is.

    Examples
    --------
    >>> class_name(8, "fashion-dit"), class_name(8, "my-dit")
    ('Bag', 'class 8')
    """
    names = next((known.names for known in KNOWN if known.model == model), ())
    return names[label] if 0 <= label < len(names) else numbered(label)


def numbered(label: int) -> str:
    """Return what a class without a name is called."""
    return f"class {label}"
