"""Train a model twice as wide as ``fashion-dit``, to see what width changes; it is not bundled.

python -m recipes.train_wide --out FOLDER [--data FOLDER] [--seconds 150]

``python -m benchmarks.vq_vs_pq --wide FOLDER/wide-dit`` reads it.
"""

from __future__ import annotations

import sys

from dpqlab.diffusion.dit import FASHION_DIT
from recipes.training import Recipe, command
from recipes.training_state import TrainConfig

RECIPE = Recipe(
    model="wide-dit",
    geometry=FASHION_DIT | {"num_attention_heads": 12, "num_layers": 4},
    config=TrainConfig(seconds=150),
    data_of="fashion-dit",
)

if __name__ == "__main__":
    sys.exit(command(RECIPE))
