"""MADALINE learns by rule II: where an answer is wrong, the least sure units give way.

uv run examples/madaline.py
"""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import activations, plots

PICTURE = Path(__file__).parent / "drawn" / "madaline.png"
HIDDEN, SIGN = 4, activations.bipolar_step
BITS, TABLES = (np.array([*itertools.product([-1.0, 1.0], repeat=n)]) for n in (3, 8))
ROWS = np.column_stack([BITS, np.ones(8)])  # a bias is the weight of 1
FLIPS = np.array([*itertools.product([0, 1], repeat=HIDDEN)])  # of no unit, of one, of more


def disturb(w, x, sums):
    """The smallest change of weights after which x @ w is what is wanted."""
    return w + jnp.outer(x, sums - x @ w) / (x @ x)


def rule_two(params, example):
    """The cheapest flips of hidden units that mend the answer; if none do, the output changes."""
    (hidden, output), (x, y) = params, example
    sums = x @ hidden
    states = jnp.pad(SIGN(sums) * (1 - 2 * FLIPS), ((0, 0), (0, 1)), constant_values=1)
    right = SIGN(states @ output)[:, 0] == y
    price = 1e3 * FLIPS.sum(axis=1) + FLIPS @ jnp.abs(sums)  # few units first, then unsure ones
    flips = jnp.asarray(FLIPS)[jnp.argmin(jnp.where(right, price, jnp.inf))]
    moved = disturb(hidden, x, jnp.where(flips, -SIGN(sums), sums)), output
    last = hidden, disturb(output, states[0], y[None])
    return jax.tree.map(functools.partial(jnp.where, right.any()), moved, last), ~right[0]


def alone(params, example):
    """ADALINE: one unit, which changes where it is wrong."""
    (w,), (x, y) = params, example
    wrong = SIGN(x @ w)[0] != y
    return (jnp.where(wrong, disturb(w, x, y[None]), w),), wrong


@functools.partial(jax.jit, static_argnums=(0, 3))
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def mistakes(rule, key, table, sweeps):
    """The mistakes of each sweep, each of which is mended; without any, all is right for good."""
    shapes = [(4, 1)] if rule is alone else [(4, HIDDEN), (HIDDEN + 1, 1)]
    start = tuple(jax.random.normal(jax.random.fold_in(key, n), (n, m)) / 2 for n, m in shapes)
    rows = jax.vmap(jax.random.permutation, (0, None))(jax.random.split(key, sweeps), 8).ravel()
    _, wrong = jax.lax.scan(rule, start, (jnp.asarray(ROWS)[rows], table[rows]))
    return wrong.reshape(sweeps, 8).sum(axis=1)


def main(sweeps=100, starts=5, picture=PICTURE):
    """Draws the picture; returns which runs end right, by start and function; their mistakes."""
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    tables = np.tile(TABLES, (starts, 1))
    keys, solved = jax.random.split(jax.random.key(0), len(tables)), {}
    for i, (name, rule) in enumerate({"ADALINE": alone, "MADALINE, rule II": rule_two}.items()):
        wrong = np.array(mistakes(rule, keys, tables, sweeps))
        solved[name], changes = wrong[:, -1] == 0, wrong.sum(axis=1)
        look = {"color": plots.COLORS[i], "label": f"{name}, {solved[name].mean():.0%} in the end"}
        panels[0].plot(100 * np.mean(wrong == 0, axis=0)[:31], **look)
        panels[1].hist(changes[solved[name]], np.arange(-0.5, 31), alpha=0.6, **look)
    panels[0].set(xlabel="sweeps", ylabel="% right", title="all 256 functions of three bits")
    panels[1].set(xlabel="mistakes before all is right", ylabel="runs", title="what it took")
    panels[0].legend(loc=(0.4, 0.55), frameon=False)
    figure.savefig(picture, dpi=80)
    return {name: runs.reshape(starts, -1) for name, runs in solved.items()}, changes


if __name__ == "__main__":
    for name, runs in main()[0].items():
        print(f"{name:18}{runs.mean():7.1%} of runs, {runs.any(axis=0).sum():4} of 256 functions")
