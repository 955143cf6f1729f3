"""Train ``fashion-dit``, the smaller of the bundled full-precision teachers.

python -m recipes.train_fashion --out FOLDER [--data FOLDER] [--seconds 540]
"""

from __future__ import annotations

from dpqlab.diffusion.dit import FASHION_DIT
from recipes.training import Recipe, TrainConfig, main

RECIPE = Recipe(model="fashion-dit", geometry=FASHION_DIT, config=TrainConfig())

if __name__ == "__main__":
    main(RECIPE)
