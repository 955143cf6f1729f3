"""Train ``avatars-dit``, the bundled full-precision teacher that draws in colour.

python -m recipes.train_avatars --data FOLDER --out FOLDER [--seconds 900]

``recipes/make_avatars.py`` draws the data.
"""

from __future__ import annotations

import sys

from dpqlab.diffusion.dit import AVATARS_DIT
from recipes.make_avatars import STYLES
from recipes.training import Recipe, command
from recipes.training_state import TrainConfig

# the styles whose parts lie anywhere in the picture take longest to learn
SHARES = {"croodles": 2, "thumbs": 3, "shapes": 3}

# 256 tokens an image, five times those of fashion-dit: fewer images make as much work
RECIPE = Recipe(
    model="avatars-dit",
    geometry=AVATARS_DIT,
    config=TrainConfig(
        batch=256,
        learning_rate=1e-3,
        weight_decay=0.05,
        optimizer="muon",
        shares=tuple(SHARES.get(style.name, 1) for style in STYLES),
    ),
)

if __name__ == "__main__":
    sys.exit(command(RECIPE))
