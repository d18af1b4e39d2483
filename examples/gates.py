"""The sixteen functions of two bits: fourteen are one threshold unit, the other two take three.

uv run examples/gates.py
"""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from fnn import activations, plots

PICTURE = Path(__file__).parent / "drawn" / "gates.png"
BITS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
# By their outputs for the four rows of BITS.
NAMES = {"0001": "AND", "0111": "OR", "1110": "NAND", "1000": "NOR", "0110": "XOR", "1001": "XNOR"}
NAMES |= {"0000": "never", "1111": "always", "0011": "a", "1100": "not a", "0101": "b"}
NAMES |= {"1010": "not b", "0010": "a and not b", "0100": "b and not a"}
NAMES |= {"1011": "b implies a", "1101": "a implies b"}


def step(x, *unit):
    """A threshold unit of two inputs: 1 where first a + second b + bias is at least 0."""
    first, second, bias = unit
    return np.asarray(activations.unipolar_step(first * x[..., 0] + second * x[..., 1] + bias))


def units():
    """The unit with the smallest weights for each function that a unit computes."""
    weights = itertools.product((0, 1, -1), (0, 1, -1), (0.5, -0.5, 1.5, -1.5))
    found = {}
    for unit in sorted(weights, key=lambda unit: np.abs(unit).sum()):
        found.setdefault("".join(f"{output:.0f}" for output in step(BITS, *unit)), unit)
    return found


def formula(first, second, bias):
    """A unit in letters."""
    terms = [(first, "a"), (second, "b"), (bias, f"{abs(bias)}")]
    signed = [f"{'-' if weight < 0 else '+'} {name}" for weight, name in terms if weight]
    return " ".join(signed).removeprefix("+ ")


def main(picture=PICTURE):
    """Draws all functions; returns those of one unit, and what OR and not AND computes."""
    single = units()
    pair = single["0111"], single["0001"]  # two units, and a third that sees what they say

    def xor(x):
        return step(np.stack([step(x, *unit) for unit in pair], axis=-1), 1, -1, -0.5)

    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 1.5, 201)] * 2), axis=-1)
    figure, panels = plt.subplots(2, 8, figsize=(13, 4.5), layout="constrained")
    order = sorted(NAMES, key=lambda truth: (truth not in single, truth))
    for axes, truth in zip(panels.ravel(), order, strict=True):
        is_one = truth in single
        outputs = step(grid, *single[truth]) if is_one else xor(grid) != (truth == "1001")
        shades = ListedColormap(["white", "#b4c7d7"])
        axes.pcolormesh(*np.moveaxis(grid, -1, 0), outputs, cmap=shades, vmin=0, vmax=1)
        for bit, output in zip(BITS, truth, strict=True):
            color = plots.COLORS[0] if output == "1" else "white"
            axes.plot(*bit, "o", markersize=9, color=color, markeredgecolor="black")
        words = f"step({formula(*single[truth])})" if is_one else "three units"
        axes.set(xticks=[0, 1], yticks=[0, 1], aspect="equal", title=NAMES[truth])
        axes.set_xlabel(words, fontsize=9)
    figure.suptitle("outputs of 1 (filled) over a, to the right, and b, upward")
    figure.savefig(picture, dpi=80)
    return single, "".join(f"{output:.0f}" for output in xor(BITS))


if __name__ == "__main__":
    single, two = main()
    for truth in sorted(single):
        print(f"{NAMES[truth]:12} {truth}  step({formula(*single[truth])})")
    print(f"OR and not AND: {two}; {len(single)} of {2 ** len(BITS)} functions are one unit")
