"""Pictures from image tensors."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from dpqlab.errors import ShapeError


def sheet(images: Tensor, columns: int, *, zoom: int = 1, gap: int = 2) -> Image.Image:
    """Lay images out on a white grid, row by row.

    Parameters
    ----------
    images
        uint8 (N, C, H, W), C is 1 or 3.
    columns
        Images a row.
    zoom
        Whole-number enlargement without smoothing, so that pixels stay visible.
    gap
        Pixels between images, before zooming.

    Raises
    ------
    ShapeError
        If ``images`` is not (N, 1 or 3, H, W).
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"images have shape {tuple(images.shape)}: expected (N, 1 or 3, H, W)")
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    canvas = images.new_full(
        (channels, rows * (height + gap) - gap, columns * (width + gap) - gap), 255
    )
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    array = canvas.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(array[..., 0] if channels == 1 else array)
    if zoom == 1:
        return picture
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)
