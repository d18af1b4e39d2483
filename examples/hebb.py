"""Hebb's rule: what fires together wires together, and before is not after.

uv run examples/hebb.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import plots

PICTURE = Path(__file__).parent / "drawn" / "hebb.png"


def hebb(learning_rate, before, after, kernel=lambda lag: jnp.ones_like(lag), times=None):
    """The change of the weights, learning_rate v_i v_j g(t_i, t_j), summed over the pairs."""
    # before (n, inputs), after (n, outputs): n moments. With times each moment of the one meets
    # each of the other, weighed by kernel(t_after - t_before); otherwise each meets its own.
    if times is None:
        return learning_rate * before.T @ after
    weights = kernel(times[None, :] - times[:, None])
    return learning_rate * jnp.einsum("si,st,tj->ij", before, weights, after)


def timing(lag, width=2.0):
    """Strengthens where the input came first, weakens where it came late."""
    return jnp.sign(lag) * jnp.exp(-jnp.abs(lag) / width)


def main(picture=PICTURE):
    """Draws the kernel and the weights; returns weights without times and with them."""
    key = jax.random.key(0)
    cause, noise = jax.random.bernoulli(key, 0.2, (2, 1000)).astype(float)
    before = jnp.stack([cause, jnp.roll(cause, 2), noise], axis=1)
    after = jnp.roll(cause, 1)[:, None]  # fires one moment after the first, one before the second
    centered = before - before.mean(axis=0), after - after.mean(axis=0)
    together = hebb(1 / 1000, centered[0], centered[1])
    in_time = hebb(1 / 1000, *centered, timing, jnp.arange(1000.0))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    lag = np.linspace(-8, 8, 400)
    left.plot(lag, timing(lag), color=plots.COLORS[0])
    left.set(xlabel="output after input", ylabel="g", title="the kernel")
    for i, (name, weights) in enumerate((("together", together), ("in time", in_time))):
        right.bar(np.arange(3) + 0.35 * i, weights[:, 0], 0.35, color=plots.COLORS[i], label=name)
    right.set(title="weights", xticks=np.arange(3) + 0.17)
    right.set_xticklabels(["one before", "one after", "unrelated"])
    right.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return np.asarray(together), np.asarray(in_time)


if __name__ == "__main__":
    main()
