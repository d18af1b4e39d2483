"""Back-propagation by matrices, checked by differences: the best step is neither large nor small.

uv run examples/checking.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import layers, plots

PICTURE = Path(__file__).parent / "drawn" / "checking.png"
MODEL = layers.serial(layers.dense(8), layers.elementwise(jnp.tanh), layers.dense(3))
STEPS = 10.0 ** np.arange(0, -13, -0.25)


def mean_loss(params, inputs, targets):
    """Half the mean squared error, forward."""
    outputs = jax.vmap(MODEL.apply, (None, 0))(params, inputs)
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))


def by_matrices(params, inputs, targets):
    """The gradient by products of matrices; a bias is the weight of an input of 1."""
    first, last = (np.vstack([layer["weight"], layer["bias"]]) for layer in params[::2])
    x = np.hstack([inputs, ones := np.ones((len(inputs), 1))])
    hidden = np.hstack([np.tanh(x @ first), ones])
    deltas = (hidden @ last - targets) / len(inputs)
    before = (deltas @ last.T)[:, :-1] * (1 - hidden[:, :-1] ** 2)  # dL/dX = dL/dY W^T
    grads = x.T @ before, hidden.T @ deltas  # dL/dW = X^T dL/dY
    return tuple({"weight": grad[:-1], "bias": grad[-1]} for grad in grads)


def errors(params, inputs, targets, exact):
    """The error of one- and two-sided differences in one weight, for every step."""
    start, right = params[0]["weight"], exact[0]["weight"][0, 0]

    def loss(change):
        moved = {**params[0], "weight": start.at[0, 0].add(change)}
        return float(mean_loss([moved, *params[1:]], inputs, targets))

    ahead, behind = (np.array([loss(sign * h) for h in STEPS]) for sign in (1, -1))
    slopes = {"one-sided": (ahead - loss(0)) / STEPS, "central": (ahead - behind) / STEPS / 2}
    return {name: abs(found / float(right) - 1) for name, found in slopes.items()}


def draw(found):
    """Truncation falls with h or h^2, rounding rises with 1 / h."""
    figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
    for i, (name, values) in enumerate(found.items()):
        color, dash, _ = plots.style(i)
        axes.loglog(STEPS, values, color=color, dashes=dash, label=f"{name} differences")
    axes.axhline(np.finfo(float).eps, color="k", linewidth=0.8, label="rounding of float64")
    axes.set(xlabel="step h", ylabel="relative error of dE/dw", xlim=(1, 1e-13))
    axes.legend(frameon=False)
    return figure


def main(picture=PICTURE):
    """Draws the errors; returns them, and how far the matrices are from jax.grad."""
    with jax.enable_x64(True):
        draws = np.random.default_rng(0)
        inputs, targets = draws.normal(size=(20, 4)), draws.normal(size=(20, 3))
        params = MODEL.init(jax.random.key(0), jnp.asarray(inputs[0]))
        exact = jax.jit(jax.grad(mean_loss))(params, inputs, targets)
        by_hand = by_matrices(params, inputs, targets)
        gaps = jax.tree.map(lambda a, b: float(abs(a - b).max()), tuple(exact[::2]), by_hand)
        found = errors(params, inputs, targets, exact)
    draw(found).savefig(picture, dpi=80)
    return found, max(jax.tree.leaves(gaps))


if __name__ == "__main__":
    curves, away = main()
    print(f"matrices against jax.grad: {away:.1e}")
    for name, values in curves.items():
        print(f"{name}: least error {values.min():.1e} at h = {STEPS[values.argmin()]:.0e}")
