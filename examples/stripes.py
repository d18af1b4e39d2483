"""A restricted Boltzmann machine so small that its likelihood is known: CD-1, Adam, Newton.

uv run examples/stripes.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import boltzmann, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "stripes.png"
# Images of 2 x 3 pixels whose rows are each on or off, or whose columns are; two are in both lists.
ROWS, COLUMNS = boltzmann.states(2), boltzmann.states(3)
STRIPES = jnp.concatenate([jnp.repeat(ROWS, 3, axis=1), jnp.tile(COLUMNS, 2)])
ENTROPY = 4 / 12 * np.log(6) + 8 / 12 * np.log(12)  # the least that -log-likelihood can be
RULES = {"Adam": rules.adam(0.1), "trust-region Newton": rules.trust_region_newton()}


def surprise(machine):
    """The mean of -log p of the stripes, in nats."""
    return -boltzmann.log_likelihood(machine, STRIPES)


def compared(steps, keys):
    """By rule, the nats above the entropy before every step, a row for each start."""
    starts = [boltzmann.init(key, STRIPES, 4, scale=1.0) for key in keys]
    value_fn, curves = fnn.penalty(surprise), {}
    for name, rule in RULES.items():
        began, plan = time.perf_counter(), {"steps": steps, "tolerance": 0}
        found = [fnn.fit(rule, value_fn, start, **plan).history.value for start in starts]
        rows = [np.pad(values, (0, steps - len(values)), mode="edge") for values in found]
        taken, seconds = int(np.median([*map(len, found)])), time.perf_counter() - began
        curves[name] = np.array(rows) - ENTROPY, taken, seconds

    def contrastive(start, key):
        plan = {"epochs": steps - 1, "batch_size": len(STRIPES), "watch": surprise}
        return boltzmann.train(rules.sgd(0.3), start, STRIPES, key=key, **plan)[1]

    began, stacked = time.perf_counter(), jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    rows = np.asarray(jax.vmap(contrastive)(stacked, keys)) - ENTROPY
    curves["CD-1, no loss"] = rows, steps, time.perf_counter() - began
    for name, (rows, *cost) in curves.items():
        row = "6 x 4, {} parameters, {}: {} steps, {:.1f} s, above the entropy: {}"
        last = np.sort(rows[:, -1]).round(3)
        print(row.format(optax.tree.size(starts[0]), name, *cost, last))
    return {name: rows for name, (rows, *_) in curves.items()}


def draw(curves):
    """Nats above the entropy by step, a line for each start."""
    figure, axes = plt.subplots(figsize=(10, 4.4), layout="constrained")
    starts, steps = curves["Adam"].shape
    for i, (name, rows) in enumerate(curves.items()):
        style, ends = {"color": plots.style(i).color, "lw": 0.8}, np.sum(rows[:, -1] < 0.05)
        lines = axes.plot(np.arange(1, steps + 1), np.maximum(rows, 1e-6).T, **style)
        lines[0].set_label(f"{name}: {ends} of {starts} below 0.05")
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="nats above the entropy")
    axes.set_title("6 visible and 4 hidden units learn ten images of stripes; 1e-6 is the bottom")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    return figure


def main(steps=3000, starts=8, picture=PICTURE):
    """Draws; returns by rule the nats above the entropy, by start and step."""
    curves = compared(steps, jax.random.split(jax.random.key(0), starts))
    draw(curves).savefig(picture, dpi=80)
    return curves


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
