"""Small pictures of three colours in files."""

import numpy as np
from PIL import Image

CLASSES = ["blue", "green", "red"]
COUNTS = {"train": 8, "test": 3, "validation": 2}


def picture(label: int, number: int, size=(12, 12)) -> Image.Image:
    """A coloured patch of noise on black."""
    rng = np.random.default_rng([label, number])
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., 2 - label] = rng.integers(128, 255, size)
    return Image.fromarray(pixels)


def write_pictures(root):
    """A folder for each split, and in it one for each class."""
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture(label, number).save(root / split / name / f"{number:02d}.png")
    return root
