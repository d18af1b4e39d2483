"""Look at the curvature around a trained network: its eigenvalues, from products alone.

uv run examples/spectrum.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import fnn
from fnn import curvature, layers, losses, plots, rules
from fnn.curvature import spectrum

PICTURE = Path(__file__).parent / "drawn" / "spectrum.png"


def spirals(n, key):
    """Two classes of points on arms that wind around each other."""
    turn, noise = jnp.sqrt(jnp.linspace(0.02, 1, n)) * 2 * jnp.pi, jax.random.normal(key, (n, 2))
    arm = turn[:, None] * jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1) / 4
    sign = jnp.where(jnp.arange(n) % 2, 1.0, -1.0)
    return sign[:, None] * arm + noise / 20, (jnp.arange(n) % 2).astype(jnp.int32)


@jax.jit
def look(value_fn, params, key):
    """The point, the density of its eigenvalues from products, and all of them from the matrix."""
    operator = curvature.hessian(value_fn, params)
    estimate = spectrum.density(operator, key, samples=10, steps=80)
    exact = jnp.linalg.eigvalsh(operator.dense())
    return spectrum.classify(value_fn, params), estimate, exact


def draw(points):
    """The density of the eigenvalues at each point, in log-density, with the exact ones below."""
    figure, rows = plt.subplots(len(points), 1, figsize=(8, 6.4), layout="constrained")
    for axes, (name, (point, estimate, exact)) in zip(rows, points.items(), strict=True):
        width = 0.006 * (exact[-1] - exact[0])
        grid = jnp.linspace(exact[0] - 5 * width, exact[-1] + 5 * width, 1200)
        true = spectrum.Density(exact[None], jnp.full((1, len(exact)), 1 / len(exact)))
        size = len(exact)
        axes.fill_between(grid, size * true.at(grid, width), color="0.85", label="exact")
        curve = size * estimate.at(grid, width)
        axes.plot(grid, curve, color=plots.COLORS[0], label="10 x 80 products")
        bottom = 0.02 / width
        axes.plot(exact, jnp.full(size, 1.5 * bottom), "|", color="k", markersize=7)
        axes.set(yscale="log", ylim=(bottom, 2 * curve.max()), ylabel="eigenvalues per unit")
        axes.set_title(f"{name}: {point}", fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    rows[0].legend(frameon=False)
    rows[-1].set_xlabel("curvature")
    return figure


def main(steps=300, width=12, picture=PICTURE):
    """Draws the spectrum of the Hessian before and after training; returns what was seen."""
    inputs, targets = spirals(200, jax.random.key(0))
    dense, tanh = layers.dense, layers.elementwise(jnp.tanh)
    model = layers.serial(dense(width), tanh, dense(width), tanh, dense(2))
    start = model.init(jax.random.key(1), inputs[0])
    objective = fnn.Objective(model.apply, losses.softmax_cross_entropy) + fnn.l2(1e-3)
    rule = rules.phases([(rules.adam(1e-2), 100), (rules.trust_region_newton(trials=5), None)])
    trained = fnn.fit(rule, objective, start, (inputs, targets), steps=steps)
    value_fn, points = objective.on((inputs, targets)), {}
    for name, params in {"before training": start, "after training": trained.params}.items():
        points[name] = look(value_fn, params, jax.random.key(2))
        print(f"{name}: {points[name][0]}")
    draw(points).savefig(picture, dpi=80)
    return points


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
