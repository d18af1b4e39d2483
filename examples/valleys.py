"""Error surfaces of two weights: local minima beside the global one, and two equal valleys.

uv run examples/valleys.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "valleys.png"
STARTS = np.array([[0.6, 0.9], [-0.7, 0.7], [-0.3, -0.9], [0.9, -0.6]])

# A unit of two inputs that cannot please everyone: along each axis one example asks for a weight
# of about 1.5, another for -0.3. Where one is content the other is saturated and pulls no longer,
# so that each of the four compromises is a minimum (Auer, Herbster and Warmuth, 1996).
X = np.array([[1.0, 0.0], [-5.0, 0.0], [0.0, 1.0], [0.0, -5.0]])
UNIT = fnn.Objective(lambda w, x: jnp.tanh(w @ x), losses.half_squared_error)
QUARRELS = UNIT.on((X, np.full(4, 0.9)))

# v tanh(w x), fitted to tanh(1.5 x): changing both signs changes nothing.
LINE = np.linspace(-2, 2, 21)
PAIR = fnn.Objective(lambda p, x: p[1] * jnp.tanh(p[0] * x), losses.half_squared_error)
TWINS = PAIR.on((LINE, np.tanh(1.5 * LINE)))

RULE = rules.sgd(0.2)


@jax.jit
def descents(value_fn):
    """Paths of gradient descent from all starts."""

    def step(p, _):
        updates, _ = RULE.update(jax.grad(value_fn)(p), RULE.init(p), p)
        return p + updates, p

    return jax.vmap(lambda start: jax.lax.scan(step, start, length=1500)[1])(jnp.asarray(STARTS))


def main(picture=PICTURE):
    """Draws both surfaces; returns where gradient descent ends, and how high, on each."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    surfaces = {
        "four minima, one of them the lowest": (QUARRELS, 2.2),
        "two minima, one function": (TWINS, 2.4),
    }
    ends = {}
    for axes, (name, (value_fn, reach)) in zip(panels, surfaces.items(), strict=True):
        paths = np.asarray(descents(value_fn))
        heights = np.array([float(value_fn(path[-1])) for path in paths])
        plots.contours(axes, value_fn, (-reach, reach), (-reach, reach))
        for path, height in zip(paths, heights, strict=True):
            axes.plot(*path.T, color="black", linewidth=1.4)
            lowest = height < heights.min() + 1e-6
            axes.plot(*path[-1], marker="*" if lowest else "v", color="black", markersize=13)
            axes.annotate(f"{height:.2f}", path[-1], (9, 6), textcoords="offset points")
        axes.plot(*STARTS.T, "o", color="black", markerfacecolor="white", markersize=6)
        axes.set_title(name)
        ends[name] = paths[:, -1], heights
    panels[0].set(xlabel="first weight", ylabel="second weight")
    panels[1].set(xlabel="w, before tanh", ylabel="v, after it")
    figure.savefig(picture, dpi=80)
    return ends


if __name__ == "__main__":
    for name, (points, heights) in main().items():
        print(name, *map(str, np.column_stack([points, heights]).round(3)), sep="\n  ")
