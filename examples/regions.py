"""Threshold units cut space into regions, and logic puts regions together: XOR, polyhedra.

uv run examples/regions.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from fnn import activations, layers, plots

PICTURE = Path(__file__).parent / "drawn" / "regions.png"
SIGN = activations.bipolar_step
SHADES = ListedColormap(["white", "#b4c7d7"])


def machine(*affine, unit=activations.unipolar_step):
    """Layers of threshold units with given (weight, bias), as a function of rows."""
    parts, params = [], []
    for weight, bias in affine:
        parts += layers.dense(len(bias)), layers.elementwise(unit)
        params += {"weight": jnp.asarray(weight, float), "bias": jnp.asarray(bias, float)}, ()
    return jax.vmap(lambda x: layers.serial(*parts).apply(params, x))


def union(normals, offsets, vertices):
    """1 on the union of regions: hyperplanes, an AND for each vertex of the hypercube, an OR."""
    meets = (2 * np.asarray(vertices, int) - 1).T, 0.5 - np.sum(vertices, axis=1)
    return machine((normals, offsets), meets, (np.ones((len(vertices), 1)), [-0.5]))


# XOR with 1 and 0: OR, AND, and OR without AND; with 1 and -1: (x1 and not x2) or (not x1 and x2).
OR_AND = np.ones((2, 2)), [-0.5, -1.5]
XOR = OR_AND, ([[1], [-1]], [-0.5])
ONE_EACH = [[1, -1], [-1, 1]], [-1.5, -1.5]
SIGNED_XOR = ONE_EACH, (np.ones((2, 1)), [1.5])
# A triangle and a square by seven lines.
NORMALS = np.array([[0, 1], [2, -1], [-2, -1], [0, 1], [0, -1], [1, 0], [-1, 0]]).T
OFFSETS = np.array([0.8, 3.2, 0.6, 0.4, 0.6, -0.2, 1.4])


def cells():
    """The vertices that the triangle and the square meet: each may have more than one."""
    y = np.stack(np.meshgrid(*[np.linspace(-2, 2, 401)] * 2), axis=-1) @ NORMALS + OFFSETS >= 0
    return np.unique(y[y[..., :3].all(axis=-1) | y[..., 3:].all(axis=-1)], axis=0)


def main(picture=PICTURE):
    """Draws both XORs, three lines with their seven vertices, and a union; returns it."""
    figure, panels = plt.subplots(1, 4, figsize=(12, 3.3), layout="constrained")
    x, y = np.meshgrid(*[np.linspace(-2, 2, 601)] * 2)
    grid = np.column_stack([x.ravel(), y.ravel()])
    three = np.array([[1, 0.3], [-0.5, 1], [0.6, 1]]).T, np.array([0.3, 0.2, -0.7])
    both, signed = union(NORMALS, OFFSETS, cells()), machine(*SIGNED_XOR, unit=SIGN)(grid)
    plans = {
        "XOR by OR and not AND": (OR_AND, machine(*XOR)(grid)),
        "XOR of signs": (ONE_EACH, signed > 0),
        "three lines, seven regions": (three, 0 * signed),
        "a union of polyhedra": ((NORMALS, OFFSETS), both(grid)),
    }
    for axes, (title, (planes, outputs)) in zip(panels, plans.items(), strict=True):
        axes.set_prop_cycle(color=plots.COLORS)
        axes.pcolormesh(x, y, np.reshape(outputs, x.shape), cmap=SHADES, vmin=0, vmax=1)
        for plane in (grid @ np.asarray(planes[0]) + planes[1]).T:
            axes.contour(x, y, plane.reshape(x.shape), [0], colors="k", linewidths=0.8)
        axes.set(title=title, aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
    for axes, low in zip(panels, (0, -1), strict=False):
        axes.plot([low, 1], [1, low], "o", [low, 1], [low, 1], "s", markersize=8)
    for code in np.unique(codes := (grid @ three[0] + three[1] >= 0) @ [100, 10, 1]):
        panels[2].text(*grid[codes == code].mean(axis=0), f"{code:03}", ha="center", va="center")
    figure.savefig(picture, dpi=80)
    return both


if __name__ == "__main__":
    main()
