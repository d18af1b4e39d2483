"""A restricted Boltzmann machine so small that its likelihood is known: CD-1, Adam, Newton.

uv run examples/stripes.py
"""

import runpy
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import plots, rules

PICTURE = Path(__file__).parent / "drawn" / "stripes.png"
PARTS = runpy.run_path(str(Path(__file__).parent / "parts" / "restricted.py"))
# Images of 2 x 3 pixels whose rows are each on or off, or whose columns are; two are in both lists.
ROWS, COLUMNS = PARTS["states"](2), PARTS["states"](3)
STRIPES = jnp.concatenate([jnp.repeat(ROWS, 3, axis=1), jnp.tile(COLUMNS, 2)])
ENTROPY = 4 / 12 * np.log(6) + 8 / 12 * np.log(12)  # the least that -log-likelihood can be


def surprise(machine):
    """The mean of -log p of the stripes, in nats."""
    return -PARTS["log_likelihood"](machine, STRIPES)


def compared(steps):
    """By rule, the machine after so many steps and the surprise before each."""
    start, runs = PARTS["start"](jax.random.key(0), STRIPES, 4, scale=0.2), {}
    value_fn = fnn.penalty(surprise)
    candidates = {"Adam": rules.adam(0.1), "trust-region Newton": rules.trust_region_newton()}
    for name, rule in candidates.items():
        began = time.perf_counter()
        run = fnn.fit(rule, value_fn, start, steps=steps, tolerance=0)
        runs[name] = run.params, np.append(run.history.value, surprise(run.params))
        fact = f"{runs[name][1][-1]:.4f} nats, entropy {ENTROPY:.4f}"
        PARTS["row"]("6 x 4", start, name, len(run.history.value), began, fact)
    began, plan = time.perf_counter(), {"rate": 0.3, "batch": len(STRIPES)}
    machine, values = PARTS["trained"](start, STRIPES, jax.random.key(1), steps, surprise, **plan)
    PARTS["row"]("6 x 4", start, "CD-1, no loss", steps, began, f"{values[-1]:.4f} nats")
    return runs | {"CD-1": (machine, np.asarray(values))}


def draw(runs):
    """Nats above the entropy by step, and the probabilities of all images, the likeliest first."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained")
    every = PARTS["states"](6)
    for i, (name, (machine, values)) in enumerate(runs.items()):
        color, dash, marker = plots.style(i)
        left.plot(np.arange(1, len(values) + 1), values - ENTROPY, color=color, dashes=dash)
        logs = -PARTS["free_energy"](machine, every)
        shares = np.sort(np.asarray(jax.nn.softmax(logs)))[::-1]
        right.plot(np.arange(1, 21), shares[:20], marker, color=color, mfc="none", label=name)
    wanted = [1 / 6] * 2 + [1 / 12] * 8 + [0] * 10
    right.step(np.arange(1, 21), wanted, where="mid", color="black", lw=1, label="stripes")
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="nats above the entropy of stripes")
    left.set_title("-log-likelihood, by a sum over all 64 images")
    right.set(xlabel="images of 2 x 3 pixels, the likeliest first", ylabel="probability")
    right.set_title("what was learned: ten images are stripes, 54 are not")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(steps=3000, picture=PICTURE):
    """Draws the picture; returns the nats above the entropy by rule and step."""
    runs = compared(steps)
    draw(runs).savefig(picture, dpi=80)
    return {name: values - ENTROPY for name, (_, values) in runs.items()}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
