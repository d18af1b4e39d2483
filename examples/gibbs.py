"""Gibbs sampling of a Boltzmann machine beside its 512 states: within its standard error, in time.

uv run examples/gibbs.py
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import plots

PICTURE = Path(__file__).parent / "drawn" / "gibbs.png"
STATES = jnp.array(list(itertools.product((-1.0, 1.0), repeat=9)))
DRAWN = jax.random.normal(jax.random.key(0), (9, 9)) / 2
COUPLINGS = (DRAWN + DRAWN.T) * (1 - jnp.eye(9))


def energy(s):
    """The energy of states of -1 and 1, whose probability is exp(-energy / temperature) / Z."""
    return -0.5 * jnp.sum((s @ COUPLINGS) * s, axis=-1)


def pairs(s):
    """The products of all pairs of units."""
    rows, columns = jnp.triu_indices(9, k=1)
    return s[..., rows] * s[..., columns]


@jax.jit
def sample(key, temperature, s, sweeps):
    """Independent chains after each sweep; a unit is drawn given all the others."""

    def turn(s, step):
        unit, key = step
        p = jax.nn.sigmoid(2 * (s @ COUPLINGS[unit]) / temperature)
        return s.at[:, unit].set(2.0 * jax.random.bernoulli(key, p) - 1), None

    def sweep(s, key):
        s, _ = jax.lax.scan(turn, s, (jnp.arange(9), jax.random.split(key, 9)))
        return s, s

    return jax.lax.scan(sweep, s, jax.random.split(key, len(sweeps)))[1]


def main(chains=4000, sweeps=100, picture=PICTURE):
    """Draws; returns the errors of the means after each sweep, by temperature."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    order, steps, errors = np.argsort(energy(STATES)), np.arange(1, sweeps + 1), {}
    for i, temperature in enumerate((2.0, 1.0, 0.5)):
        p = jax.nn.softmax(-energy(STATES) / temperature)
        expected = p @ pairs(STATES)
        # All chains start from one state: what is right later, the sampling has made so.
        s = sample(jax.random.key(1), temperature, jnp.ones((chains, 9)), steps)
        deviation = jnp.sqrt((1 - expected**2) / chains)  # of a mean of independent -1 and 1
        z = (pairs(s).mean(axis=1) - expected) / deviation
        errors[temperature] = np.sqrt(np.mean(z**2, axis=1))
        code = jnp.sum((s[-1] > 0) * 2 ** jnp.arange(9)[::-1], axis=1)
        share = np.bincount(code, minlength=512) / chains
        color, dash, _ = plots.style(i)
        left.plot(steps, errors[temperature], color=color, dashes=dash, linewidth=2)
        right.plot(p[order], color=color, linewidth=1, label=f"temperature {temperature:g}")
        right.plot(share[order], ".", color=color, markersize=4)
    left.axhline(1, color="0.6", linewidth=1)
    left.set(xscale="log", yscale="log", xlabel="sweeps", title="cold machines mix slowly")
    left.set_ylabel("error of 36 means, in standard errors")
    right.set(yscale="log", ylim=(2e-4, 1), xlabel="states, the lowest energy first")
    right.set(ylabel="probability", title="512 states counted, dots: sampled", xlim=(-5, 250))
    right.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return errors


if __name__ == "__main__":
    print("temperature  error after 1 sweep, and at the end, in standard errors")
    for temperature, error in main().items():
        print(f"{temperature:11} {error[0]:20.1f} {error[-1]:16.2f}")
