"""Train ``fashion-dit``, the smaller of the bundled full-precision teachers.

python -m recipes.train_fashion --out FOLDER [--data FOLDER] [--seconds 540]
"""

from __future__ import annotations

import sys

from dpqlab.diffusion.dit import FASHION_DIT
from recipes.training import Recipe, command
from recipes.training_state import TrainConfig

RECIPE = Recipe(model="fashion-dit", geometry=FASHION_DIT, config=TrainConfig())

if __name__ == "__main__":
    sys.exit(command(RECIPE))
