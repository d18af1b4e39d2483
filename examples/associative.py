"""Memories that are asked by content: a digit by its upper half, and an image by its name.

uv run examples/associative.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from fnn import data

PICTURE = Path(__file__).parent / "drawn" / "associative.png"
PAIRED = [0, 1, 3, 4, 7]
NAMES = np.random.default_rng(2).choice([-1.0, 1.0], (len(PAIRED), 64))


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
    """Both layers of a bidirectional memory and its energy -x W y, after every half round."""
    energies = [-np.sum((x @ weights) * y, axis=1)]
    for _ in range(rounds):
        x = sign(y @ weights.T, x)
        energies.append(-np.sum((x @ weights) * y, axis=1))
        y = sign(x @ weights, y)
        energies.append(-np.sum((x @ weights) * y, axis=1))
    return x, y, np.array(energies)


def draw(rows):
    """Rows of images of the ten digits."""
    figure, panels = plt.subplots(len(rows), 10, figsize=(10, 5), layout="constrained")
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for axes in line:
            axes.set(xticks=[], yticks=[], frame_on=False)
        places = PAIRED if len(images) < len(line) else range(10)
        for place, image in zip(places, images, strict=True):
            line[place].imshow(image.reshape(8, 8), cmap="gray_r")
    return figure


def main(picture=PICTURE):
    """Draws what is asked and found; returns shares of right pixels and bits, and energies."""
    inputs, targets = data.digits()
    firsts = [np.flatnonzero(targets == digit)[0] for digit in range(10)]
    digits = np.where(inputs[firsts] > 0.4, 1.0, -1.0)
    asked = np.where(np.arange(64) < 32, digits, np.random.default_rng(1).choice([-1, 1], (10, 64)))
    found = completed(autoassociation(digits), asked)
    # By Hebb's rule in both directions: few pairs, for images resemble each other more than names.
    weights, names = digits[PAIRED].T @ NAMES, NAMES * np.where(np.arange(64) % 4, 1, -1)
    seen, named, energies = bidirectional(weights, np.ones((len(PAIRED), 64)), names)
    rows = {"stored": digits, "asked": asked, "completed": found, "by its name": seen}
    draw(rows).savefig(picture, dpi=80)
    pairs = (found, digits), (seen, digits[PAIRED]), (named, NAMES)
    return *(np.mean(one == other, axis=1) for one, other in pairs), energies


if __name__ == "__main__":
    whole, by_name, names, _ = main()
    print("pixels right after completion:", whole.round(2))
    print("pixels right by names that are a quarter wrong, and bits:", by_name, names.round(2))
