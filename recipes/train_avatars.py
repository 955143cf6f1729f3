"""Train ``avatars-dit``, the bundled full-precision teacher that draws in colour.

python -m recipes.train_avatars --data FOLDER --out FOLDER [--seconds 900]

``recipes/make_avatars.py`` draws the data.
"""

from __future__ import annotations

import sys

from dpqlab.diffusion.dit import AVATARS_DIT
from recipes.training import Recipe, TrainConfig, command

# 256 tokens an image, five times those of fashion-dit: fewer images make as much work
RECIPE = Recipe(
    model="avatars-dit",
    geometry=AVATARS_DIT,
    config=TrainConfig(batch=512, learning_rate=6e-4),
)

if __name__ == "__main__":
    sys.exit(command(RECIPE))
