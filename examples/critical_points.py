"""Critical points in many dimensions are saddles: random matrices, and random functions by Newton.

uv run examples/critical_points.py
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import plots, rules

PICTURE = Path(__file__).parent / "drawn" / "critical_points.png"
WAVES, BOX, KINDS = 200, (-1.2, 1.2), ("maximum", "saddle", "minimum")
RULES = {"newton": (rules.newton(), 40), "sgd": (rules.sgd(0.3), 400)}  # and how many steps


def field(waves, x):
    """A sum of waves of all directions and lengths: nearly a Gaussian function of x."""
    frequencies, phases = waves
    return jnp.sqrt(2 / WAVES) * jnp.sum(jnp.cos(frequencies @ x + phases))


@functools.partial(jax.jit, static_argnums=(0, 1))
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0))
@functools.partial(jax.vmap, in_axes=(None, None, None, 0))
def ends(rule, steps, waves, start):
    """Where a rule comes from a start, the gradient there, and the eigenvalues of the Hessian."""
    value_fn = functools.partial(field, waves)

    def step(carry, _):
        (x, state), (value, grad) = carry, jax.value_and_grad(value_fn)(carry[0])
        updates, state = rule.update(grad, state, x, value=value, grad=grad, value_fn=value_fn)
        return (x + updates, state), None

    (x, _), _ = jax.lax.scan(step, (start, rule.init(start)), length=steps)
    return x, jax.grad(value_fn)(x), jnp.linalg.eigvalsh(jax.hessian(value_fn)(x))


def found(rule, waves, starts):
    """The critical points that a rule finds: their function's number, places, and eigenvalues."""
    x, grad, eigenvalues = map(np.asarray, ends(*RULES[rule], waves, starts))
    kept = (np.abs(grad).max(axis=2) < 1e-6) & (np.abs(x).max(axis=2) < 1.2)
    points = np.column_stack([np.nonzero(kept)[0], x[kept].round(3)])
    points, first = np.unique(points, axis=0, return_index=True)  # once, whoever comes there
    return points[:, 0], points[:, 1:], eigenvalues[kept][first]


def main(dimensions=(1, 2, 3, 5), fields=100, picture=PICTURE):
    """Draws the picture; returns the shares of what has positive eigenvalues alone."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    shares, rng = {"random matrices": [], "newton": [], "sgd": []}, np.random.default_rng(0)
    for n in dimensions:
        a = rng.normal(size=(200_000, n, n))
        positive = np.linalg.eigvalsh(a + a.swapaxes(1, 2)) > 0
        shares["random matrices"].append(positive.all(axis=1).mean())
        waves = rng.normal(size=(fields, WAVES, n)), rng.uniform(0, 2 * np.pi, (fields, WAVES))
        for rule in RULES:
            which, points, eigenvalues = found(rule, waves, rng.uniform(-1.7, 1.7, (fields, 40, n)))
            shares[rule].append(np.mean(eigenvalues.min(axis=1) > 0))
            if (n, rule) == (2, "newton"):
                plots.contours(right, functools.partial(field, [w[0] for w in waves]), BOX, BOX)
                for place, curved in zip(points, eigenvalues[: sum(which == 0)], strict=False):
                    right.text(*place, "x\n" + KINDS[np.sum(curved > 0)], ha="center", va="center")
    for i, (name, share) in enumerate(shares.items()):
        left.bar(np.arange(len(share)) + i / 4, share, 0.25, color=plots.COLORS[i], label=name)
    left.set(xlabel="dimensions", yscale="log", ylim=(1e-4, 9), title="share of minima")
    left.set_xticks(np.arange(len(share)) + 0.25, dimensions)
    left.legend(loc="upper right", ncols=3)
    figure.savefig(picture, dpi=80)
    return shares


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for name, share in main().items():
        print(f"{name:20}" + "".join(f"{value:9.4f}" for value in share))
