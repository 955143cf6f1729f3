"""Record what torch-fidelity makes of fixed features, for the tests to compare with.

Run ``python -m recipes.torch_fidelity_reference`` where ``torch-fidelity`` (0.4.0) is installed. It
writes ``tests/evaluation/torch_fidelity_reference.json``. The features are computed from raw PCG64
words, whose stream numpy guarantees, so that every machine makes the same ones.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

TARGET = Path("tests/evaluation/torch_fidelity_reference.json")
COUNT, WIDTH = 1500, 48


def fixed_features(seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Return correlated, partly zero features like those behind a ReLU, float64 (COUNT, WIDTH)."""
    raw = np.random.PCG64(seed).random_raw(COUNT * WIDTH)
    uniform = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    centred = uniform.reshape(COUNT, WIDTH) - 0.5 + shift
    distance = np.abs(np.arange(WIDTH)[:, None] - np.arange(WIDTH))
    return np.maximum(centred @ (0.8 - shift) ** distance, 0.0)


def feature_pair() -> tuple[np.ndarray, np.ndarray]:
    """Return the "generated" and the "real" features, both (COUNT, WIDTH)."""
    return fixed_features(1, shift=0.02), fixed_features(2)


def main() -> None:
    """Compute and write the values."""
    from torch import from_numpy
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    parser = argparse.ArgumentParser(prog="recipes.torch_fidelity_reference")
    parser.add_argument("--out", type=Path, default=TARGET)
    target = parser.parse_args().out
    fake, real = (from_numpy(features) for features in feature_pair())
    statistics = [fid_features_to_statistics(features) for features in (fake, real)]
    shares = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=500, save_cpu_ram=True, verbose=False
    )
    values = {
        "torch_fidelity": version("torch-fidelity"),
        "feature_sums": [float(fake.sum()), float(real.sum())],
        "frechet_distance": fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID],
        "precision": shares[KEY_METRIC_PRECISION],
        "recall": shares[KEY_METRIC_RECALL],
    }
    target.write_text(json.dumps(values, indent=2) + "\n")
    print(json.dumps(values))


if __name__ == "__main__":
    main()
