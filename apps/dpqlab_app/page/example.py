"""The picture that a visitor sees before anything is drawn: a recorded run of each bundled model.

    python -m dpqlab_app.page.example [MODEL ...]

draws and records it (all models without a name). The file is a PNG with its settings inside, as the
page hands them out, so that nothing else has to be believed about it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image

from dpqlab.errors import ConfigError
from dpqlab_app.drawing.catalogue import Catalogue, Model, catalogue_of
from dpqlab_app.drawing.pictures import GAP, png_bytes, read_png_settings, side_by_side
from dpqlab_app.drawing.settings import DrawSettings, default_settings
from dpqlab_app.page.sheets import Row, Sheet

FOLDER = Path(__file__).parent / "examples"


def example_of(model: Model, catalogue: Catalogue, *, folder: Path = FOLDER) -> Sheet | None:
    """Return the recorded example of a model; None if there is none that fits the model.

    Parameters
    ----------
    model
        Of the catalogue.
    catalogue
        What there is.
    folder
        Where examples are.
    """
    path = folder / f"{model.key}.png"
    if model.full.own or not path.is_file():
        return None
    try:
        data = path.read_bytes()
        query = dict(parse_qsl(read_png_settings(data)["settings"]))
        settings = DrawSettings.from_query(query, catalogue)
        versions = (model.full, *(model.version(key) for key in settings.versions))
        images = _cut(path, (len(versions), len(settings.labels), model.side, model.channels))
    except ConfigError:
        return None  # of other versions or classes than this installation has
    rows = tuple(
        Row(
            key=version.key,
            title=version.title,
            family=version.family,
            images=row,
            true_bits=version.true_bits,
            disk_bytes=version.disk_bytes,
        )
        for version, row in zip(versions, images, strict=True)
    )
    return Sheet(settings=settings, model=model, rows=rows, recorded=True)


def record(model: Model, catalogue: Catalogue, *, folder: Path = FOLDER) -> Path:
    """Draw a model's default settings and write its example."""
    from dpqlab_app.drawing.engine import Engine

    settings = default_settings(model)
    last = list(Engine(catalogue, device="cpu", budget_s=3600).draw(settings))[-1]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model.key}.png"
    path.write_bytes(png_bytes(side_by_side(last), settings))
    return path


def _cut(path: Path, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Take a sheet apart: uint8 (rows, N, H, W, C)."""
    rows, count, side, channels = shape
    with Image.open(path, formats=["PNG"]) as opened:
        pixels = np.asarray(opened.convert("L" if channels == 1 else "RGB"))
    expected = (rows * (side + GAP) - GAP, count * (side + GAP) - GAP)
    if pixels.shape[:2] != expected:
        raise ConfigError(f"{path} has {pixels.shape[:2]} pixels: expected {expected}")
    pixels = pixels.reshape(*expected, channels)
    ends = [i * (side + GAP) for i in range(max(rows, count))]
    return np.stack(
        [
            np.stack([pixels[top : top + side, left : left + side] for left in ends[:count]])
            for top in ends[:rows]
        ]
    )


def main(names: list[str]) -> None:
    """Record examples."""
    catalogue = catalogue_of()
    for model in catalogue.models:
        if not names or model.key in names:
            sys.stdout.write(f"{record(model, catalogue)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
