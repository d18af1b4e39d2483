"""A sheet of units that folds itself into data: neighbors on it are neighbors there.

uv run examples/map.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import data

PICTURE = Path(__file__).parent / "drawn" / "map.png"


def places(side):
    """The places of side x side units on the sheet."""
    return jnp.stack(jnp.divmod(jnp.arange(side**2), side), axis=1)


def distances(weights, inputs):
    """Squared distances of inputs to units, (inputs, units)."""
    squares = jnp.sum(inputs**2, axis=1)[:, None] + jnp.sum(weights**2, axis=1)[None]
    return squares - 2 * inputs @ weights.T


def trained(inputs, side, steps, key):
    """Kohonen's rule: the nearest unit and its neighbors on the sheet move toward each input."""
    sheet, widest = places(side), max(side / 2, 0.5)
    apart = jnp.sum((sheet[:, None] - sheet[None]) ** 2, axis=-1)

    def visit(weights, item):
        share, x = item
        rate, width = 0.5 * 0.02**share, widest * (0.5 / widest) ** share
        nearest = jnp.argmin(distances(weights, x[None])[0])
        pull = rate * jnp.exp(-apart[nearest] / (2 * width**2))
        return weights + pull[:, None] * (x - weights), None

    order = jax.random.randint(key, (steps,), 0, len(inputs))
    start = inputs.mean(axis=0) + 0.1 * jax.random.normal(key, (side**2, inputs.shape[1]))
    return jax.lax.scan(visit, start, (jnp.linspace(0, 1, steps), inputs[order]))[0]


def errors(weights, inputs, side):
    """The mean distance to the nearest unit; the share whose two nearest are no neighbors."""
    found = distances(weights, inputs)
    quantization = float(jnp.mean(jnp.sqrt(jnp.maximum(found.min(axis=1), 0))))
    if side == 1:
        return quantization, 0.0
    first, second = (places(side)[i] for i in jnp.argsort(found, axis=1)[:, :2].T)
    return quantization, float(jnp.mean(jnp.abs(first - second).max(axis=1) > 1))


def draw(colors, digits, side):
    """Both sheets, unit by unit."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
    left.imshow(np.clip(colors, 0, 1).reshape(side, side, 3))
    left.set_title("a sheet of colors")
    tiles = digits.reshape(side, side, 8, 8).transpose(0, 2, 1, 3).reshape(8 * side, 8 * side)
    right.imshow(tiles, cmap="gray_r")
    right.set_title("a sheet of digits")
    plt.setp((left, right), xticks=[], yticks=[])
    return figure


def main(side=12, steps=20_000, picture=PICTURE):
    """Draws two maps; returns the errors of colors and digits, and of digits before training."""
    key, inputs = jax.random.key(0), jnp.asarray(data.digits().inputs, jnp.float32)
    colors = jax.random.uniform(key, (2000, 3))
    pairs = (colors, steps), (inputs, steps), (inputs, 0)
    sheets = [trained(x, side, n, key) for x, n in pairs]
    draw(*map(np.asarray, sheets[:2]), side).savefig(picture, dpi=80)
    return [errors(sheet, x, side) for sheet, (x, _) in zip(sheets, pairs, strict=True)]


if __name__ == "__main__":
    for name, (distance, torn) in zip(("colors", "digits", "at random"), main(), strict=True):
        print(f"{name:10} mean distance {distance:.3f}, topographic error {torn:.3f}")
