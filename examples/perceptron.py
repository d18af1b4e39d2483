"""The perceptron learns from its mistakes: the normal of its boundary turns toward each of them.

uv run examples/perceptron.py
"""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "perceptron.png"
ARROW = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
RULE = rules.sgd(1.0)  # on the perceptron criterion: w + y x for every mistake


@functools.partial(jax.jit, static_argnames="sweeps")
def learn(inputs, labels, sweeps):
    """The weights before every visit of an example, and the last: one after the other, from 0."""

    def visit(carry, example):
        (w, state), (x, y) = carry, example
        grad = jax.grad(lambda w: losses.perceptron(x @ w, y))(w)
        updates, state = RULE.update(grad, state, w)
        return (w + updates, state), w

    start, order = jnp.zeros(inputs.shape[1]), jnp.tile(jnp.arange(len(labels)), sweeps)
    examples = jnp.asarray(inputs)[order], jnp.asarray(labels)[order]
    (w, _), path = jax.lax.scan(visit, (start, RULE.init(start)), examples)
    return jnp.concatenate([path, w[None]])


def verdict(path, examples):
    """What came of it, in words."""
    ends, changes = np.asarray(path)[::examples], np.flatnonzero(np.diff(path, axis=0).any(axis=1))
    if changes.max(initial=-1) < len(path) - 1 - examples:
        return f"separated after {len(changes)} mistakes"
    for first, last in itertools.combinations(range(len(ends)), 2):
        if np.array_equal(ends[first], ends[last]):
            return f"cycles: the weights after sweep {last} are those after sweep {first}"
    return "undecided: try more sweeps"


def draw(inputs, labels, path):
    """Mistakes on the way, the normal before them and what each adds to it; and the end."""
    figure, panels = plt.subplots(1, 5, figsize=(13, 3), layout="constrained")
    wrong = np.flatnonzero(np.diff(path, axis=0).any(axis=1))[1:5]  # the first is of w = 0
    for number, (axes, n) in enumerate(zip(panels, [*wrong, -1], strict=True), start=2):
        w, (x, y) = path[n], (inputs[n % len(inputs)], labels[n % len(inputs)])
        for label, color, marker in ((1, plots.COLORS[0], "o"), (-1, plots.COLORS[1], "s")):
            axes.scatter(*inputs[labels == label].T, s=18, color=color, marker=marker)
        axes.axline((0, 0), (-w[1], w[0]), color="k", linewidth=1)
        axes.annotate("", w, (0, 0), arrowprops=ARROW | {"color": "k"})
        title = f"mistake {number}: w {'+' if y > 0 else '-'} x" if n >= 0 else "nothing is wrong"
        axes.set(xlim=(-2.4, 2.4), ylim=(-2.4, 2.4), xticks=[], yticks=[], aspect=1, title=title)
        if n >= 0:
            axes.annotate("", w + y * x, w, arrowprops=ARROW | {"color": plots.COLORS[2]})
            axes.plot(*x, "o", markersize=12, fillstyle="none", color=plots.COLORS[2])
    return figure


def main(picture=PICTURE):
    """Draws mistakes and the end; returns how many there are, what XOR does, and what is wrong."""
    inputs = 3.2 * jax.random.uniform(jax.random.key(4), (24, 2), "float32") - 1.6
    labels = jnp.sign(inputs @ (normal := jnp.array([-0.6, 0.8], "float32")))
    inputs += 0.08 * labels[:, None] * normal  # a margin
    path = learn(inputs, labels, sweeps=10)
    xor = jnp.array([[1.0, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]])
    cycle = learn(xor, jnp.array([-1.0, 1, 1, -1]), sweeps=10)
    draw(*map(np.asarray, (inputs, labels, path))).savefig(picture, dpi=80)
    return verdict(path, 24), verdict(cycle, 4), int(jnp.sum(labels * (inputs @ path[-1]) <= 0))


if __name__ == "__main__":
    print(*main(), sep="\n")
