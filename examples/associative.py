"""Memories that are asked by content: a digit by its upper half, and an image by its name.

uv run examples/associative.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fnn import data

PICTURE = Path(__file__).parent / "drawn" / "associative.png"
NAMES = np.array([[int(bit) or -1 for bit in f"{digit:04b}"] * 8 for digit in range(10)], float)


def sign(x, before):
    """The sign, and what was there before where it is 0."""
    return np.where(x == 0, before, np.sign(x))


def autoassociation(patterns):
    """Couplings of patterns that resemble each other: the projection onto them."""
    return np.linalg.pinv(patterns) @ patterns


def completed(couplings, s, sweeps=20):
    """The states that asynchronous updates of the unknown lower halves end in, unit by unit."""
    s = s.copy()
    for _ in range(sweeps):
        for i in range(32, 64):
            s[:, i] = sign(s @ couplings[i], s[:, i])
    return s


def bidirectional(weights, x, y, rounds=20):
    """Both layers of a bidirectional memory and its energy -x W y, after every half of a round."""
    energies = [-np.sum((x @ weights) * y, axis=1)]
    for _ in range(rounds):
        y = sign(x @ weights, y)
        energies.append(-np.sum((x @ weights) * y, axis=1))
        x = sign(y @ weights.T, x)
        energies.append(-np.sum((x @ weights) * y, axis=1))
    return x, y, np.array(energies)


def draw(rows):
    """Rows of images of the ten digits."""
    figure, panels = plt.subplots(len(rows), 10, figsize=(10, 5), layout="constrained")
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image.reshape(8, 8), cmap="gray_r", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
    return figure


def main(picture=PICTURE):
    """Draws what is asked and found; returns shares of right pixels and bits, and energies."""
    inputs, targets = data.digits()
    firsts = [np.flatnonzero(targets == digit)[0] for digit in range(10)]
    digits = np.where(inputs[firsts] > 0.4, 1.0, -1.0)
    asked = np.where(np.arange(64) < 32, digits, np.random.default_rng(1).choice([-1, 1], (10, 64)))
    found = completed(autoassociation(digits), asked)
    # For images of names, and names of images, each inverse is as good as the images allow.
    weights = np.linalg.pinv(digits) @ NAMES
    seen, named, energies = bidirectional(weights, asked, np.ones(NAMES.shape))
    rows = {"stored": digits, "asked": asked, "completed": found, "two layers": seen}
    draw(rows).savefig(picture, dpi=80)
    return np.mean(found == digits, axis=1), np.mean(named == NAMES, axis=1), energies


if __name__ == "__main__":
    pixels, bits, _ = main()
    print("pixels right after completion:", pixels.round(2))
    print("bits of names right, by images:", bits.round(2))
