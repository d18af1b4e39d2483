"""Leave a saddle: gradient descent lingers there, Newton's method is drawn in, saddle-free is not.

uv run examples/saddle.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import plots, rules

RULES = {
    "sgd(0.1)": rules.sgd(0.1),
    "newton()": rules.newton(),
    "saddle_free_newton()": rules.saddle_free_newton(),
}
PICTURE = Path(__file__).parent / "drawn" / "saddle.png"
MINIMUM = 2**0.5  # on the y-axis, on both sides of the saddle at the origin


def value_fn(p):
    """x^2 - y^2 + y^4/4."""
    return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4


def walk(rule, start, steps):
    """The path of a rule, its start included."""

    def step(carry, _):
        p, state = carry
        value, grad = jax.value_and_grad(value_fn)(p)
        updates, state = rule.update(grad, state, p, value=value, grad=grad, value_fn=value_fn)
        return (p + updates, state), p + updates

    _, path = jax.lax.scan(step, (start, rule.init(start)), length=steps)
    return jnp.concatenate([start[None], path])


def draw(paths):
    """The paths, on scales that magnify the saddle, and how far each is from the way into it."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    grid = np.concatenate([[0], np.geomspace(1e-11, 5, 300)])
    x, y = np.meshgrid(grid, grid)
    left.contourf(x, y, value_fn((x, y)), [-99, 0, 999], colors=["#eef3f8", "#fbf1ea"])
    for i, (name, path) in enumerate(paths.items()):
        style = {"color": plots.COLORS[i], "marker": "osD"[i], "linewidth": 1, "markersize": 3.5}
        left.plot(*path.T, label=name, **style)
        right.plot(np.arange(len(path)), path[:, 1], **style)
    left.plot([0], [MINIMUM], "k*", markersize=12, label="minimum")
    left.plot([0], [0], "kx", markersize=9, label="saddle")
    for axes in (left, right):
        axes.set_yscale("symlog", linthresh=1e-9, linscale=0.5)
        axes.set(yticks=[0, 1e-8, 1e-4, 1], ylim=(-3e-10, 5), ylabel="y")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_xscale("symlog", linthresh=1e-9, linscale=0.5)
    left.set(xticks=[0, 1e-8, 1e-4, 1], xlim=(-3e-10, 5), xlabel="x")
    left.set_title("around the saddle; blue is lower than it")
    right.set(xlabel="steps", title="distance from the line that leads into the saddle")
    left.legend(frameon=False, loc="upper right")
    return figure


def main(steps=130, picture=PICTURE):
    """Draws and returns the three paths from 1e-8 beside the line that leads into the saddle."""
    start = jnp.array([1.0, 1e-8])
    paths = {name: np.asarray(walk(rule, start, steps)) for name, rule in RULES.items()}
    for name, path in paths.items():
        close = np.linalg.norm(path - [0, MINIMUM], axis=1) < 1e-3
        print(f"{name}: {f'{close.argmax()} steps' if close.any() else 'never'} to a minimum")
    draw(paths).savefig(picture, dpi=80)
    return paths


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
