"""One example at a time, some, or all of them; and when to stop.

uv run examples/stopping.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import data, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "stopping.png"
MODEL = layers.serial(layers.dense(30), layers.elementwise(jnp.tanh), layers.dense(10))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy)
SIZES = {"1, on-line": 1, "16, mini-batch": 16, "all, batch": None}


def trained(batch_size, examples, validation, epochs, **plan):
    """A run of `epochs` over the examples at one rate, from one start."""
    params = MODEL.init(jax.random.key(0), examples[0][0])
    key = None if batch_size is None else jax.random.key(1)
    return fnn.fit(
        rules.sgd(0.05), OBJECTIVE, params, examples, epochs=epochs, batch_size=batch_size,
        key=key, validation=validation, **plan,
    )  # fmt: skip


def draw(runs, long):
    """Losses after as many examples, and a run that should have been stopped."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for i, (name, run) in enumerate(runs.items()):
        color, dash, _ = plots.style(i)
        values = run.history.validation["loss"]
        left.plot(np.arange(1, len(values) + 1), values, color=color, dashes=dash, label=name)
    left.set(xlabel="times that all examples were seen", ylabel="validation loss", yscale="log")
    left.set_title("examples in a step, at one rate")
    left.legend(frameon=False)
    values = long.history.validation["loss"]
    means = np.asarray(long.history.value).reshape(len(values), -1).mean(axis=1)
    for i, (name, curve) in enumerate({"training": means, "validation": values}.items()):
        color, dash, _ = plots.style(i)
        right.semilogy(np.arange(1, len(curve) + 1), curve, color=color, dashes=dash, label=name)
    right.axvline(np.argmin(values) + 1, color="k", linewidth=0.8)
    right.set(
        xlabel="epochs", ylabel="loss", title="the parameters of the line are the ones to keep"
    )
    right.legend(frameon=False)
    return figure


def main(epochs=15, picture=PICTURE):
    """Draws both; returns the runs of each size, the long run, and the stopped one."""
    inputs, targets = data.digits()
    order = np.random.default_rng(0).permutation(len(inputs))
    train, held = ((inputs[rows], targets[rows]) for rows in np.split(order[:800], [300]))
    runs = {name: trained(size, train, held, epochs) for name, size in SIZES.items()}
    few = tuple(a[:100] for a in train)
    long, stopped = (
        trained(1, few, held, 10 * epochs, patience=patience) for patience in (None, 10)
    )
    draw(runs, long).savefig(picture, dpi=80)
    return runs, long, stopped


if __name__ == "__main__":
    by_size, _, early = main()
    for size, run in by_size.items():
        loss = run.history.validation["loss"][-1]
        print(f"{size:16} {len(run.history.value):6} steps, loss {loss:.3f}")
    print(early.stopped)
