"""CPU time to product-quantize one layer: k-means by numba, by torch, and by other libraries.

All cut a square Gaussian weight into sub-vectors, train one codebook a position from sampled points
with the same limit of Lloyd iterations, and encode the layer. dpqlab stops a codebook early once no
code changes any more, which leaves the result as it is; faiss does not.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpqlab.core import CodebookCodec, decode, encode, fit_pool, relative_error
from dpqlab.core import assign as reference_assign
from dpqlab.core import kmeans as reference_kmeans
from dpqlab.speed.timing import Timing


@dataclass(frozen=True, kw_only=True)
class KMeansSetting:
    """What is measured: a weight of ``width`` x ``width``, and how its codebooks are fitted."""

    width: int = 1152
    d: int = 4
    k: int = 256
    iterations: int = 25
    repeats: int = 5
    threads: int = 2
    seed: int = 0

    @property
    def title(self) -> str:
        """Name the workload."""
        return f"PQ d={self.d} k={self.k}, {self.width}x{self.width}, train and encode"

    @property
    def codec(self) -> CodebookCodec:
        """Return the codec that dpqlab's own ways fit."""
        return CodebookCodec(
            d=self.d, k=self.k, iterations=self.iterations, init="sample", scope="position"
        )


Way = Callable[[Tensor, KMeansSetting], Tensor]
"""Fits codebooks to a weight, encodes it, and returns it decoded."""


@dataclass(frozen=True, kw_only=True)
class KMeansRow:
    """CPU seconds of one way, user and system, all threads, and the relative error it leaves."""

    way: str
    timing: Timing
    error: float


def gaussian_weight(setting: KMeansSetting) -> Tensor:
    """Return the weight, float32 (width, width)."""
    generator = torch.Generator().manual_seed(setting.seed)
    return torch.randn(setting.width, setting.width, generator=generator)


def with_numba(weight: Tensor, setting: KMeansSetting) -> Tensor:
    """Fit and encode by dpqlab's compiled loops."""
    numba_kmeans: Any = importlib.import_module("dpqlab.kernels.numba_kmeans")
    return _own(weight, setting, numba_kmeans.kmeans, numba_kmeans.assign)


def with_torch(weight: Tensor, setting: KMeansSetting) -> Tensor:
    """Fit and encode by the reference."""
    return _own(weight, setting, reference_kmeans, reference_assign)


def with_faiss(weight: Tensor, setting: KMeansSetting) -> Tensor:
    """Fit and encode by ``faiss.ProductQuantizer``."""
    faiss: Any = importlib.import_module("faiss")
    faiss.omp_set_num_threads(setting.threads)
    bits = (setting.k - 1).bit_length()
    quantizer = faiss.ProductQuantizer(setting.width, setting.width // setting.d, bits)
    quantizer.cp.niter = setting.iterations
    quantizer.cp.seed = setting.seed + 1
    quantizer.cp.min_points_per_centroid = 1  # only silences the advice to train on more points
    rows = weight.numpy()
    quantizer.train(rows)
    return torch.from_numpy(quantizer.decode(quantizer.compute_codes(rows)))


def with_sklearn(weight: Tensor, setting: KMeansSetting) -> Tensor:
    """Fit and encode by ``sklearn.cluster.KMeans``, position by position."""
    cluster: Any = importlib.import_module("sklearn.cluster")
    decoded = torch.empty_like(weight)
    for start in range(0, setting.width, setting.d):
        points = weight[:, start : start + setting.d].contiguous().numpy()
        fitted = cluster.KMeans(
            n_clusters=setting.k,
            init="random",
            n_init=1,
            max_iter=setting.iterations,
            tol=0.0,
            random_state=setting.seed,
        ).fit(points)
        words = torch.from_numpy(fitted.cluster_centers_)
        decoded[:, start : start + setting.d] = words[torch.from_numpy(fitted.labels_).long()]
    return decoded


REFERENCE = "torch, the reference"
WAYS: dict[str, tuple[str, Way]] = {
    REFERENCE: ("torch", with_torch),
    "dpqlab, numba": ("numba", with_numba),
    "faiss.ProductQuantizer": ("faiss", with_faiss),
    "scikit-learn KMeans": ("sklearn", with_sklearn),
}
"""The module that each needs, and what it does."""


def ways_here() -> list[str]:
    """Name the ways whose module is installed, the reference first."""
    return [way for way, (module, _) in WAYS.items() if importlib.util.find_spec(module)]


def kmeans_row(way: str, setting: KMeansSetting) -> KMeansRow:
    """Measure one way.

    Parameters
    ----------
    way
        A key of :data:`WAYS`.
    setting
        What is measured.
    """
    run, weight = WAYS[way][1], gaussian_weight(setting)
    if way == "dpqlab, numba":
        run(weight[:, : 2 * setting.d].contiguous(), setting)  # compiles
    rounds = [cpu_seconds(run, weight, setting) for _ in range(setting.repeats)]
    return KMeansRow(
        way=way, timing=Timing(rounds=tuple(spent for spent, _ in rounds)), error=rounds[0][1]
    )


def cpu_seconds(run: Way, weight: Tensor, setting: KMeansSetting) -> tuple[float, float]:
    """Return the CPU seconds of a run, and the relative error of what it made."""
    started = time.process_time()
    decoded = run(weight, setting)
    spent = time.process_time() - started
    return spent, relative_error(weight, decoded)


def _own(weight: Tensor, setting: KMeansSetting, clusterer: Any, assigner: Any) -> Tensor:
    codec = setting.codec
    generator = torch.Generator().manual_seed(setting.seed)
    pool = fit_pool([weight], codec, generator=generator, clusterer=clusterer)
    return decode(encode(weight, codec, pool, assigner=assigner))
