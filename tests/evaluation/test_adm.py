from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dpqlab.errors import CheckpointError, ShapeError
from dpqlab.evaluation.adm import as_rgb, read_samples, read_statistics, write_samples

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
LABELS = np.arange(7) % 3


def test_numpy_reads_what_is_written_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    write_samples(path, iter([IMAGES[:3], IMAGES[3:4], IMAGES[4:]]), LABELS)
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["arr_0", "arr_1"]
        assert np.array_equal(arrays["arr_0"], IMAGES)
        assert arrays["arr_0"].dtype == np.uint8
        assert np.array_equal(arrays["arr_1"], LABELS)
        assert arrays["arr_1"].dtype == np.int64
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


def test_equal_samples_make_equal_files_however_they_come(tmp_path: Path) -> None:
    write_samples(tmp_path / "a.npz", [IMAGES], LABELS)
    write_samples(tmp_path / "b.npz", [IMAGES[:2], IMAGES[2:]], LABELS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_what_numpy_writes_is_read_in_parts(tmp_path: Path, batch: int) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", IMAGES, LABELS)
        parts = list(read_samples(tmp_path / "x.npz", batch))
        assert all(len(part) <= batch for part in parts)
        assert np.array_equal(np.concatenate(parts), IMAGES)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([IMAGES[:6]], "6 images for 7 labels"),
        ([IMAGES, IMAGES[:1]], "up to 0"),
        ([IMAGES[:4], IMAGES[4:, :2]], "a part is uint8"),
        ([IMAGES.astype(np.float32)], "a part is float32"),
    ],
)
def test_what_was_there_stays_if_the_new_is_wrong(tmp_path, parts, message) -> None:
    path = tmp_path / "samples.npz"
    path.write_bytes(b"old")
    with pytest.raises(ShapeError, match=message):
        write_samples(path, parts, LABELS)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def npz_of(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"no zip",
        npz_of(other=IMAGES),
        npz_of(arr_0=IMAGES.astype(np.float32)),
        npz_of(arr_0=IMAGES[..., :1]),
        npz_of(arr_0=np.asfortranarray(IMAGES)),
        npz_of(arr_0=np.array([object()])),
    ],
    ids=["no zip", "no images", "floats", "grey", "fortran", "a pickle"],
)
def test_what_is_no_sample_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.npz: no sample file"):
        list(read_samples(path, 4))


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w") as archive:
        buffer = io.BytesIO()
        np.save(buffer, IMAGES)
        archive.writestr("arr_0.npy", buffer.getvalue()[:-5])
    with pytest.raises(CheckpointError, match="no sample file"):
        list(read_samples(path, 4))


def test_statistics_are_found_where_there_are_some(tmp_path: Path) -> None:
    write_samples(tmp_path / "images.npz", [IMAGES], LABELS)
    assert read_statistics(tmp_path / "images.npz") is None
    (tmp_path / "adm.npz").write_bytes(npz_of(mu=np.ones(4, np.float32), sigma=np.eye(4)))
    found = read_statistics(tmp_path / "adm.npz")
    assert found is not None
    assert found[0].dtype == np.float64
    assert np.array_equal(found[1], np.eye(4))
    (tmp_path / "bad.npz").write_bytes(b"no")
    with pytest.raises(CheckpointError, match=r"bad\.npz cannot be read"):
        read_statistics(tmp_path / "bad.npz")


def test_grey_images_become_three_equal_channels() -> None:
    grey = torch.arange(24, dtype=torch.uint8).view(2, 1, 3, 4)
    rgb = as_rgb(grey)
    assert rgb.shape == (2, 3, 4, 3)
    assert all(np.array_equal(rgb[..., c], grey[:, 0].numpy()) for c in range(3))
    colour = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
    assert np.array_equal(as_rgb(colour), IMAGES)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 8, 8)])
def test_latents_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="latents of a VAE"):
        as_rgb(torch.zeros(shape, dtype=torch.uint8))
