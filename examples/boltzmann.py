"""A Boltzmann machine whose units are all seen: one convex valley, by gradient and by Newton.

uv run examples/boltzmann.py
"""

import itertools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import data, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "boltzmann.png"
STATES = np.array(list(itertools.product((0.0, 1.0), repeat=9)))
PAIRS = np.triu_indices(9, k=1)
STATISTICS = np.hstack([STATES, STATES[:, PAIRS[0]] * STATES[:, PAIRS[1]]])  # of 9 + 36 parameters
# log p(v) = statistics(v) . params - log Z is a softmax over all states, linear in the parameters.
MACHINE = fnn.Objective(lambda params, rows: rows @ params, losses.softmax_cross_entropy)
RULES = {"sgd": (rules.sgd(0.2), 2000), "adam": (rules.adam(0.1), 500)}
RULES |= {"newton": (rules.newton(), 12), "gauss_newton": (rules.gauss_newton(), 12)}


def shares():
    """How often each state is seen in the middle 3 x 3 pixels of the digits, lit or not."""
    lit = data.digits().inputs.reshape(-1, 8, 8)[:, 2:5, 2:5].reshape(-1, 9) > 0.5
    return np.bincount(lit @ 2 ** np.arange(9)[::-1], minlength=512) / len(lit)


def draw(gaps, weights, share, p):
    """The way to the likeliest machine, its states beside those of the data, its couplings."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 4.2), layout="constrained")
    for i, (name, gap) in enumerate(gaps.items()):
        color, dash, _ = plots.style(i)
        left.plot(1 + np.arange(len(gap)), gap, color=color, dashes=dash, label=name, linewidth=2)
    left.set(xscale="log", yscale="log", ylim=(1e-15, 10), xlabel="steps, the start counted as 1")
    left.set(ylabel="nats above the least", title="45 parameters, one convex valley")
    left.legend(frameon=False, loc="lower left")
    seen = share > 0
    lost = np.sum(share[seen] * np.log(share[seen] / p[seen]))
    middle.plot([5e-4, 0.1], [5e-4, 0.1], color="0.8")
    middle.plot(share[seen], p[seen], "o", color=plots.COLORS[0], markersize=4, alpha=0.5)
    middle.set(xscale="log", yscale="log", xlabel="share in the data", ylabel="probability")
    middle.set_title(f"{seen.sum()} states seen; pairs alone lose {lost:.2f} nats")
    plots.features(right, weights, (3, 3)).set_title("couplings of each pixel to the others")
    for axes in (left, middle):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(steps=2000, picture=PICTURE):
    """Draws; returns values and seconds by rule, and two pairs of derivatives and enumerations."""
    share, runs = shares(), {}
    value_fn, params = MACHINE.on((STATISTICS[None], share[None])), jnp.zeros(45)
    for name, (rule, most) in RULES.items():
        for _ in range(2):  # the second time nothing is compiled
            began = time.perf_counter()
            run = fnn.fit(rule, value_fn, jnp.zeros(45), steps=min(steps, most), tolerance=0.0)
        runs[name], params = (run.history.value, time.perf_counter() - began), run.params
    p = np.asarray(jax.nn.softmax(STATISTICS @ params))
    centered, weights = STATISTICS - p @ STATISTICS, np.zeros((9, 9))
    weights[PAIRS] = params[9:]
    gaps = {name: values - float(value_fn(params)) for name, (values, _) in runs.items()}
    draw(gaps, weights + weights.T, share, p).savefig(picture, dpi=80)
    half = jax.nn.softmax(STATISTICS @ params / 2)  # at params both phases would be equal
    gradients = jax.grad(value_fn)(params / 2), half @ STATISTICS - share @ STATISTICS
    return runs, gradients, (jax.hessian(value_fn)(params), centered.T @ (p[:, None] * centered))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    runs, gradients, curvatures = main()
    print("Boltzmann machine, 9 units, 45 parameters\nrule          steps  seconds  nats")
    for name, (values, seconds) in runs.items():
        print(f"{name:13} {len(values):5} {seconds:8.2f}  {values[-1]:.12f}")
    print(f"Hessian - covariance: at most {np.abs(np.subtract(*curvatures)).max():.0e}")
