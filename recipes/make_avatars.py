"""Draw the data of ``avatars-dit``: DiceBear avatars in fifteen art styles, 64x64 RGB.

    cd recipes/avatars && npm install && cd ../..
    python -m recipes.make_avatars --out FOLDER

Node draws (``recipes/avatars/render.mjs``); nothing else of dpqlab needs it. Writes gzipped idx
files, the layout of Fashion-MNIST with colours: ``train-images-idx4-ubyte.gz`` (N, 64, 64, 3),
``train-labels-idx1-ubyte.gz`` (N,), the same for ``test``, and ``avatars.json``, which says how
they were made. The order is shuffled, so that the first images are a fair sample. Seeds of the two
splits differ; a test image whose pixels occur in the training images is left out and replaced by
the next seed's. The same packages draw the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from dpqlab.errors import BackendError

RENDERER = Path(__file__).parent / "avatars"
SIDE = 64
CHUNK = 500  # images that one process draws
SHUFFLE_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Style:
    """An art style of DiceBear: its name there, its designer, where it is from, its licence."""

    name: str
    design: str
    designer: str
    source: str
    licence: str


CC_BY = "CC BY 4.0"
CC0 = "CC0 1.0"

STYLES = tuple(
    Style(name=name, design=design, designer=designer, source=source, licence=licence)
    for name, design, designer, source, licence in (
        (
            "adventurer",
            "Adventurer",
            "Lisa Wischofsky",
            "https://www.figma.com/community/file/1184595184137881796",
            CC_BY,
        ),
        (
            "big-ears",
            "Face Generator",
            "The Visual Team",
            "https://www.figma.com/community/file/986078800058673824",
            CC_BY,
        ),
        (
            "big-smile",
            "Custom Avatar",
            "Ashley Seo",
            "https://www.figma.com/community/file/881358461963645496",
            CC_BY,
        ),
        (
            "croodles",
            "Croodles - Doodle your face",
            "vijay verma",
            "https://www.figma.com/community/file/966199982810283152",
            CC_BY,
        ),
        (
            "lorelei",
            "Lorelei",
            "Lisa Wischofsky",
            "https://www.figma.com/community/file/1198749693280469639",
            CC0,
        ),
        (
            "micah",
            "Avatar Illustration System",
            "Micah Lanier",
            "https://www.figma.com/community/file/829741575478342595",
            CC_BY,
        ),
        (
            "miniavs",
            "Miniavs - Free Avatar Creator",
            "Webpixels",
            "https://www.figma.com/community/file/923211396597067458",
            CC_BY,
        ),
        ("notionists", "Notionists", "Zoish", "https://heyzoish.gumroad.com/l/notionists", CC0),
        ("open-peeps", "Open Peeps", "Pablo Stanley", "https://www.openpeeps.com/", CC0),
        (
            "personas",
            "Personas by Draftbit",
            "Draftbit - draftbit.com",
            "https://personas.draftbit.com/",
            CC_BY,
        ),
        (
            "pixel-art",
            "Pixel Art",
            "DiceBear",
            "https://www.figma.com/community/file/1198754108850888330",
            CC0,
        ),
        ("thumbs", "Thumbs", "DiceBear", "https://www.dicebear.com", CC0),
        (
            "toon-head",
            "ToonHead",
            "Johan Melin",
            "https://www.figma.com/community/file/1589627891082866389",
            CC_BY,
        ),
        ("shapes", "Shapes", "DiceBear", "https://www.dicebear.com", CC0),
        ("rings", "Rings", "DiceBear", "https://www.dicebear.com", CC0),
    )
)
"""In the order of the labels; what each package's LICENSE file says."""


def draw(style: str, first: int, count: int, prefix: str) -> np.ndarray:
    """Draw images ``first`` to ``first + count - 1`` of a style: uint8 (count, 64, 64, 3).

    Raises
    ------
    BackendError
        If Node or the packages are missing, or a picture is not as expected.
    """
    node = shutil.which("node")
    if node is None or not (RENDERER / "node_modules").is_dir():
        raise BackendError(
            f"{'node' if node is None else RENDERER / 'node_modules'} is missing: install Node 18 "
            f"or later, then run `npm install` in {RENDERER}"
        )
    arguments = [node, "render.mjs", style, str(first), str(count), str(SIDE), prefix]
    done = subprocess.run(arguments, cwd=RENDERER, capture_output=True, check=False)
    expected = count * SIDE * SIDE * 3
    if done.returncode or len(done.stdout) != expected:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise BackendError(
            f"drawing {style} gave {len(done.stdout)} bytes and said {said[0]!r}: expected "
            f"{expected} bytes"
        )
    return np.frombuffer(done.stdout, np.uint8).reshape(count, SIDE, SIDE, 3)


def draw_many(style: str, first: int, count: int, prefix: str) -> np.ndarray:
    """Draw as :func:`draw` does, several processes at once."""
    starts = range(first, first + count, CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = pool.map(
            lambda start: draw(style, start, min(CHUNK, first + count - start), prefix), starts
        )
        return np.concatenate(list(parts))


def unseen(style: str, count: int, seen: set[bytes]) -> Iterator[np.ndarray]:
    """Yield test images of a style whose pixels are not in ``seen``, nor drawn before."""
    known, first, left = set(seen), 0, count
    while left:
        if first > 4 * count + CHUNK:
            raise BackendError(
                f"{style} repeats itself: {count - left} of {count} test images found among "
                f"{first} drawn; expected most to be new"
            )
        batch = draw_many(style, first, left, "test")
        first += left
        for image in batch:
            if (key := image.tobytes()) not in known:
                known.add(key)
                left -= 1
                yield image


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes as a gzipped idx file; the same array gives the same bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        file.write(header)
        file.write(np.ascontiguousarray(array, np.uint8).tobytes())
    part.replace(path)


def write_split(out: Path, split: str, images: list[np.ndarray]) -> None:
    """Shuffle and write one split; ``images`` holds an array a style, in the labels' order."""
    labels = np.repeat(np.arange(len(images), dtype=np.uint8), [len(part) for part in images])
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(labels))
    write_idx(out / f"{split}-images-idx4-ubyte.gz", np.concatenate(images)[order])
    write_idx(out / f"{split}-labels-idx1-ubyte.gz", labels[order])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(
        prog="recipes.make_avatars", description="Draw the data of avatars-dit."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=4000, help="training images a style")
    parser.add_argument("--test", type=int, default=700, help="test images a style")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    facts = []
    for style in STYLES:
        images = draw_many(style.name, 0, args.train, "train")
        seen = {image.tobytes() for image in images}
        train.append(images)
        test.append(np.stack(list(unseen(style.name, args.test, seen))))
        facts.append(asdict(style) | {"distinct_train_images": len(seen)})
        print(f"{style.name}: {len(seen)} of {len(images)} training images differ", flush=True)
    write_split(args.out, "train", train)
    write_split(args.out, "test", test)
    card = {
        "side": SIDE,
        "packages": json.loads((RENDERER / "package.json").read_text())["dependencies"],
        "train_images_a_style": args.train,
        "test_images_a_style": args.test,
        "styles": facts,
    }
    (args.out / "avatars.json").write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
