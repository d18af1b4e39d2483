"""A game's saddle: who spirals out of it, who comes in, and where second order is led astray.

uv run examples/games.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import plots, rules, training

PICTURE = Path(__file__).parent / "drawn" / "games.png"
GAMES = {  # what x wants low and y wants high; both are at rest at the origin
    "x y: at rest, neither can gain": lambda p: p[0] * p[1],
    "(y² - x²) / 2: at rest, both have their worst": lambda p: (p[1] ** 2 - p[0] ** 2) / 2,
}
X, Y, START = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
RATE, PULL = 0.2, 0.4
PLAYS = {  # of a field v, along whose negative both want to go
    "together": lambda v, p: p - RATE * v(p),
    "in turn": lambda v, p: p - RATE * (X * v(p) + Y * v(p - RATE * X * v(p))),
    "extragradient": lambda v, p: p - RATE * v(p - RATE * v(p)),
    "consensus": lambda v, p: p - RATE * v(p) - PULL * jax.grad(lambda p: v(p) @ v(p) / 2)(p),
}


def each(value, p):
    """Newton's step of either player, as if the other stayed."""
    rule, (x, y) = rules.newton(), p
    x, _, _ = training.step(rule, rule.init(x), x, lambda x: value(p.at[0].set(x)))
    y, _, _ = training.step(rule, rule.init(y), y, lambda y: -value(p.at[1].set(y)))
    return jnp.stack([x, y])


def steps_of(value):
    """All plays of a game, as maps from a point to the next."""

    def field(p):
        return jax.grad(value)(p) * (X - Y)

    # Gauss-Newton on the squares of a field is Newton's method for its zero.
    squares = fnn.Objective(lambda p, _: field(p)).on(jnp.zeros((1, 1)))
    steps = {name: lambda p, play=play: play(field, p) for name, play in PLAYS.items()}
    steps["Newton of each"] = lambda p: each(value, p)
    rule = rules.gauss_newton()
    steps["Newton of both"] = lambda p: training.step(rule, rule.init(p), p, squares)[0]
    return steps


def main(steps=40, picture=PICTURE):
    """Draws distances to the origin; returns by game and play the factor in each step."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    factors = {name: {} for name in GAMES}
    for axes, (name, value) in zip(panels, GAMES.items(), strict=True):
        for i, (play, step) in enumerate(steps_of(value).items()):
            _, path = jax.lax.scan(lambda p, _, go=step: (go(p), p), START, length=steps + 1)
            far, (color, dash, _) = np.linalg.norm(path, axis=1), plots.style(i)
            factors[name][play] = float((far[-1] / far[0]) ** (1 / steps))
            label = f"{play}: {factors[name][play]:.3f}"
            axes.plot(far, color=color, dashes=dash, label=label)
        axes.set(yscale="log", ylim=(1e-4, 1e4), title=name, xlabel="steps")
        axes.spines[["top", "right"]].set_visible(False)
        place = "lower right" if axes is panels[0] else "center right"
        axes.legend(frameon=False, fontsize=9, title="factor in each step", loc=place)
    panels[0].set_ylabel("distance to where it is at rest")
    figure.savefig(picture, dpi=80)
    return factors


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for name, plays in main().items():
        print(name, *(f"{play:15} {factor:.4f}" for play, factor in plays.items()), sep="\n  ")
