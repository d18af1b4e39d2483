"""A memory that is asked by content: patterns are valleys, until there are too many of them.

uv run examples/hopfield.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import plots

PICTURE = Path(__file__).parent / "drawn" / "hopfield.png"
LOADS = np.array([0.05, 0.08, 0.1, 0.12, 0.13, 0.14, 0.15, 0.16, 0.18, 0.22])


def stored(patterns):
    """Hebb's couplings of patterns of -1 and 1: what fires together, and no unit with itself."""
    couplings = patterns.T @ patterns / patterns.shape[1]
    return couplings * (1 - jnp.eye(len(couplings)))


def energy(couplings, s):
    """What no update of one unit raises, for symmetric couplings without a diagonal."""
    return -0.5 * s @ couplings @ s


def recall(couplings, s, key, sweeps=10):
    """The state after sweeps over all units, one at a time in random order; and its energies."""

    def update(s, i):
        s = s.at[i].set(jnp.where(couplings[i] @ s >= 0, 1.0, -1.0))
        return s, energy(couplings, s)

    units = jnp.tile(jnp.arange(len(s)), (sweeps, 1))
    order = jax.random.permutation(key, units, axis=1, independent=True)
    return jax.lax.scan(update, s, order.ravel())


def overlap(units, load, keys):
    """How much of what was stored is there after asking for it, over draws: 1 is all of it."""

    def once(key):
        patterns = jax.random.rademacher(key, (max(1, round(load * units)), units), float)
        ends, _ = jax.vmap(recall, (None, 0, None))(stored(patterns), patterns[:5], key)
        return jnp.mean(ends * patterns[:5])

    return float(jnp.mean(jax.vmap(once)(keys)))


def draw(capacity, path):
    """Overlap against load, and the energies of a recall."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for i, (units, found) in enumerate(capacity.items()):
        color, dash, _ = plots.style(i)
        left.plot(LOADS, found, color=color, dashes=dash, label=f"{units} units")
    left.axvline(0.138, color="k", linewidth=0.8, label="0.138")
    left.set(xlabel="patterns / units", ylabel="overlap after recall", title="too many are none")
    left.legend(frameon=False)
    right.plot(path, color=plots.COLORS[0])
    right.set(xlabel="updates, of one unit each", ylabel="energy", title="energy never rises")
    return figure


def main(sizes=(100, 400), picture=PICTURE):
    """Draws both; returns overlaps by size and load, and the energies of a recall from noise."""
    keys = jax.random.split(jax.random.key(0), 5)
    capacity = {n: np.array([overlap(n, load, keys) for load in LOADS]) for n in sizes}
    patterns = jax.random.rademacher(keys[0], (10, 100), float)
    start = jax.random.rademacher(keys[1], (100,), float)
    _, energies = recall(stored(patterns), start, keys[2], sweeps=4)
    draw(capacity, energies).savefig(picture, dpi=80)
    return capacity, np.asarray(energies)


if __name__ == "__main__":
    for units, found in main()[0].items():
        print(f"{units} units:", dict(zip(LOADS.tolist(), found.round(2).tolist(), strict=True)))
