"""Before the first step: weights that keep the size of signals, and inputs that one rate fits.

uv run examples/starts.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import data, initializers, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "starts.png"
WIDTH = 256
STARTS = {
    "LeCun, linear": (initializers.lecun_gaussian(), lambda x: x),
    "orthogonal, linear": (jax.nn.initializers.orthogonal(), lambda x: x),
    "Glorot, tanh": (initializers.glorot_gaussian(), jnp.tanh),
    "LeCun, ReLU": (initializers.lecun_gaussian(), jax.nn.relu),
    "He, ReLU": (initializers.he_gaussian(), jax.nn.relu),
    "deviation 0.01, tanh": (jax.nn.initializers.normal(0.01), jnp.tanh),
}
UNIT = fnn.Objective(layers.dense(1).apply, losses.logistic)
PREPARED = {
    "raw": lambda x: x,
    "standardized": lambda x: data.standardization(x).apply(x),
    "whitened": lambda x: data.zca_whitening(x).apply(x),
}


def sizes(weight, activation, depth):
    """The mean square of the signals after each of many equal layers."""
    layer = layers.serial(layers.dense(WIDTH, weight=weight), layers.elementwise(activation))
    x, seen = jax.random.normal(jax.random.key(0), (100, WIDTH)), []
    for key in jax.random.split(jax.random.key(1), depth):
        x = jax.vmap(layer.apply, (None, 0))(layer.init(key, x[0]), x)
        seen.append(float(jnp.mean(x**2)))
    return np.array(seen)


def descents(inputs, targets, steps):
    """The condition of the loss at 0, and the losses of gradient descent and of Newton's method."""
    value_fn = UNIT.on((inputs, targets[:, None]))
    rows = np.column_stack([inputs, np.ones(len(inputs))])
    curvatures = np.linalg.eigvalsh(rows.T @ rows / len(rows) / 4)
    start = {"weight": jnp.zeros((4, 1)), "bias": jnp.zeros(1)}
    first = fnn.fit(rules.sgd(1 / curvatures[-1]), value_fn, start, steps=steps)
    second = fnn.fit(rules.newton(), value_fn, start, steps=10)
    return curvatures[-1] / curvatures[0], first.history.value, second.history.value


def main(depth=30, steps=2000, picture=PICTURE):
    """Draws the picture; returns mean squares by layer, and conditions with losses."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    squares, prepared = {name: sizes(*what, depth) for name, what in STARTS.items()}, {}
    for i, (name, values) in enumerate(squares.items()):
        color, dash, _ = plots.style(i)
        left.semilogy(range(1, depth + 1), values, color=color, dashes=dash, label=name)
    inputs, classes = data.iris()
    for i, (name, prepare) in enumerate(PREPARED.items()):
        found = prepared[name] = descents(prepare(inputs), (classes == 1) * 1.0, steps)
        label = f"sgd, {name}: condition {found[0]:.3g}"
        right.semilogx(range(1, len(found[1]) + 1), found[1], color=plots.COLORS[i], label=label)
    right.plot(range(1, len(found[2]) + 1), found[2], "k.--", label="newton, on all three")
    left.set(xlabel="layer", ylabel="mean square", ylim=(1e-12, 1e4), title="signals, by start")
    right.set(xlabel="steps", ylabel="loss", title="is it a versicolor? one logistic unit")
    left.legend(fontsize=8, ncols=2)
    right.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=80)
    return squares, prepared


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for name, (condition, first, second) in main()[1].items():
        print(f"one unit, 5 parameters, {name:12} condition {condition:8.1f}: sgd {first[-1]:.5f} "
              f"after {len(first)} steps, newton {second[-1]:.5f} after {len(second)}")  # fmt: skip
