"""Poisson's equation on the square: six digits in seconds, and where Adam stays.

uv run examples/poisson.py
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import layers, rules
from fnn.differential import laplacian

PICTURE = Path(__file__).parent / "drawn" / "poisson.png"
RULES = {
    "adam": rules.adam(1e-3),
    "levenberg_marquardt": rules.levenberg_marquardt(acceleration=0.75),
}
MODEL = layers.serial(layers.dense(32), layers.elementwise(jnp.tanh), layers.dense(1))


def truth(x):
    """The solution of -Laplace u = 2 pi^2 u, 0 on the border."""
    return jnp.prod(jnp.sin(jnp.pi * x), axis=-1)


def interior(params, x):
    """How far the network is from satisfying the equation at a point."""
    u = functools.partial(MODEL.apply, params)
    return laplacian(u)(x)[0] + 2 * jnp.pi**2 * truth(x)


def grid(at):
    """All pairs of some numbers."""
    return np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)


def main(steps: int = 600, picture: Path = PICTURE) -> dict[str, float]:
    """Solves the equation with both rules; returns their relative L2 errors."""
    at = np.linspace(0, 1, 30)
    zero, one = np.zeros(30), np.ones(30)
    sides = (at, zero), (at, one), (zero, at), (one, at)
    border = np.concatenate([np.stack(side, 1) for side in sides])
    equation, edge = fnn.Objective(interior), fnn.Objective(MODEL.apply)
    value_fn = equation.on(grid(np.arange(1, 31) / 31)) + edge.on(border)
    start, fine = MODEL.init(jax.random.key(0), border[0]), grid(np.linspace(0, 1, 100))

    fits, wrong = {}, {}
    for name, rule in RULES.items():
        fits[name] = fnn.fit(rule, value_fn, start, steps=steps)
        wrong[name] = edge.outputs(fits[name].params, fine)[:, 0] - truth(fine)
    size = jnp.linalg.norm(truth(fine))
    errors = {name: float(jnp.linalg.norm(w) / size) for name, w in wrong.items()}

    figure, (left, *maps) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for name, fit in fits.items():
        left.semilogy(fit.history.value, label=name)
    left.set(xlabel="steps", title="mean squared residuals / 2")
    left.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False)
    for axes, (name, w) in zip(maps, wrong.items(), strict=True):
        limit = float(jnp.max(jnp.abs(w)))
        field = w.reshape(100, 100).T
        image = axes.imshow(
            field, "RdBu", vmin=-limit, vmax=limit, origin="lower", extent=[0, 1] * 2
        )
        axes.set(xticks=[0, 1], yticks=[0, 1], xlabel="x", ylabel="y")
        axes.set_title(f"error of {name}\nrelative L2: {errors[name]:.1e}", fontsize=10)
        figure.colorbar(image, ax=axes, shrink=0.85)
    figure.savefig(picture, dpi=80)
    return errors


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(main())
