"""The data sets of the bundled models: what each was trained on, is calibrated on and judged by."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpqlab.calibration.data import CalibrationData
from dpqlab.diffusion.classes import AVATARS, FASHION, KnownClasses
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.errors import ConfigError
from dpqlab.evaluation import avatars, fashion_mnist
from dpqlab.evaluation.idx import IdxLayout, Split, read_labelled

Folder = str | os.PathLike[str] | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled images in a folder, and the model that draws such images.

    Parameters
    ----------
    known
        The model's name, the images' channels and side, and the names of the classes.
    layout
        The files.
    default_folder
        Where the files are if nobody says otherwise.
    licence
        Whose the images are, and under which terms; a phrase.
    spdx
        What the front matter of a model card calls the licence of the weights.
    prediction
        What the model predicts of a noisy image (``dpqlab.diffusion.schedules.PREDICTIONS``).
    """

    known: KnownClasses
    layout: IdxLayout
    default_folder: Path
    licence: str
    spdx: str = "mit"
    prediction: str = "epsilon"

    @property
    def model(self) -> str:
        """The bundled full-precision model."""
        return self.known.model

    @property
    def title(self) -> str:
        """What the data set is called."""
        return self.layout.title

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.known.names

    @property
    def channels(self) -> int:
        """Of an image."""
        return self.known.channels

    @property
    def side(self) -> int:
        """Of an image, pixels."""
        return self.known.side

    def is_in(self, folder: Folder) -> bool:
        """Whether a folder (None: the default one) has the training images."""
        root = self.default_folder if folder is None else Path(folder)
        return (root / self.layout.images_file("train")).is_file()

    def read(self, folder: Folder, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Read one split from a folder (None: the default one).

        Returns
        -------
        images : uint8 array (N, C, side, side)
        labels : int64 array (N,)

        Raises
        ------
        ConfigError
            A file is missing, or the split is unknown.
        CheckpointError
            A file is damaged, or is not what its name says.
        """
        return read_labelled(self.layout, self.default_folder if folder is None else folder, split)

    def fits(self, config: Any) -> bool:
        """Whether a model of this config may draw such images."""
        looks = (config.in_channels, config.sample_size, config.num_embeds_ada_norm)
        return looks == (self.channels, self.side, len(self.classes))


DATASETS = (
    Dataset(
        known=FASHION,
        layout=fashion_mnist.LAYOUT,
        default_folder=fashion_mnist.DEFAULT_FOLDER,
        licence="Fashion-MNIST, (c) 2017 Zalando SE, MIT licence",
    ),
    Dataset(
        known=AVATARS,
        layout=avatars.LAYOUT,
        default_folder=avatars.DEFAULT_FOLDER,
        licence="avatars drawn with DiceBear (MIT licence), rendered to pixels, in styles of their "
        "designers under CC0 1.0 or CC BY 4.0, all named in the card of avatars-dit",
        # large flat parts are decided at much noise, where the noise tells next to nothing of them
        prediction="v_prediction",
    ),
)


MODELS = tuple(dataset.model for dataset in DATASETS)
"""The bundled full-precision models that have one."""


def dataset_of(model: str) -> Dataset:
    """Return the data set of a bundled full-precision model, by the model's name.

    Raises
    ------
    ConfigError
        If there is none; the message lists the models that have one.
    """
    for dataset in DATASETS:
        if dataset.model == model:
            return dataset
    raise ConfigError(f"no data set of a model {model!r}: expected one of {', '.join(MODELS)}")


def dataset_for(config: Any) -> Dataset | None:
    """Return the data set whose images a model of this config may draw, if there is one."""
    return next((dataset for dataset in DATASETS if dataset.fits(config)), None)


def calibration_images(
    model: str,
    folder: Folder = None,
    device: torch.device | str = "cpu",
    count: int | None = None,
) -> CalibrationData:
    """Read the training images as what a bundled model's students are calibrated on.

    Parameters
    ----------
    model
        Name of the full-precision model.
    folder
        Where the files are; None is the data set's default folder.
    device
        Where they are wanted.
    count
        The first so many only; default all.
    """
    dataset = dataset_of(model)
    images, labels = dataset.read(folder, "train")
    scheduler: Any = make_scheduler("ddim")
    return CalibrationData(
        images=torch.tensor(images[:count], device=device),
        labels=torch.tensor(labels[:count], device=device),
        alphas=scheduler.alphas_cumprod.to(device),
        prediction=dataset.prediction,
    )
