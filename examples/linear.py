"""One unit, three questions: on which side, how far, how probable.

uv run examples/linear.py
"""

from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import activations, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "linear.png"
W, B = np.array([0.6, 0.8]) * 2, -1.0
LINE = fnn.Objective(lambda w, x: x @ w, losses.half_squared_error)
CLASSES = fnn.Objective(lambda w, x: x @ w, losses.logistic)


def distances(points):
    """The signed distance (w . x + b) / |w| of points to the unit's line."""
    return (points @ W + B) / np.linalg.norm(W)


def made():
    """Points in the plane, with a number and a class for each, and 1 as a third input."""
    draws = np.random.default_rng(0)
    points = draws.uniform(-2, 2, (60, 2))
    numbers = points @ [0.8, -0.5] + 0.3 + 0.3 * draws.normal(size=60)
    kinds = (distances(points) + 0.5 * draws.normal(size=60) > 0).astype(float)
    return points, np.column_stack([points, np.ones(60)]), numbers, kinds


def losses_of(rule, objective, inputs, targets, steps):
    """The parameters and the losses of a fit from 0."""
    run = fnn.fit(rule, objective, jnp.zeros(3), (inputs, targets), steps=steps, tolerance=0.0)
    return np.asarray(run.params), run.history.value


def draw(points, kinds, curves):
    """Distances and decisions, and how fast each rule learns the two problems."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    axis = np.linspace(-2, 2, 100)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    filled = left.contourf(axis, axis, distances(grid), levels=13, cmap="RdBu", alpha=0.7)
    figure.colorbar(filled, ax=left, label="signed distance")
    left.contour(axis, axis, distances(grid), levels=[0], colors="k")
    left.scatter(*points.T, c=kinds, cmap="RdBu", edgecolors="k", s=20)
    left.set(aspect="equal", title="a threshold unit's line, and two classes")
    for axes, (title, panel) in zip((middle, right), curves.items(), strict=True):
        for i, (name, values) in enumerate(panel.items()):
            color, dash, _ = plots.style(i)
            above = np.maximum(values - panel["newton"][-1], 1e-9)
            axes.plot(above, color=color, dashes=dash, label=name)
        axes.set(yscale="log", xlabel="steps", ylabel="loss above the least", title=title)
        axes.legend(frameon=False)
    return figure


def main(steps=40, picture=PICTURE):
    """Draws the three; returns the weights of both rules, least squares', and the decisions."""
    points, inputs, numbers, kinds = made()
    curves, found = {}, {}
    problems = {
        "least squares: one Newton step": (LINE, numbers),
        "logistic regression: a few": (CLASSES, kinds),
    }
    for title, (objective, targets) in problems.items():
        descent = losses_of(rules.sgd(0.5), objective, inputs, targets, steps)
        newton = losses_of(rules.newton(), objective, inputs, targets, steps)
        curves[title] = {"gradient descent": descent[1], "newton": newton[1]}
        found[title] = descent[0], newton[0]
    draw(points, kinds, curves).savefig(picture, dpi=80)
    return found, np.linalg.lstsq(inputs, numbers)[0], activations.unipolar_step(points @ W + B)


if __name__ == "__main__":
    for name, (descent, newton) in main()[0].items():
        print(f"{name}: {newton.round(3)}; descent is {abs(descent - newton).max():.1e} away")
