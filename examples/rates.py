"""AdaGrad's steps shrink too early: a constant gradient in closed form, and a network beside it.

uv run examples/rates.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "rates.png"
RATES = np.array([0.003, 0.01, 0.03, 0.1, 0.3])
FAMILIES = {  # rules by their rate, and the lengths of their steps k if the gradient is always 1
    "AdaGrad": (lambda rate: rules.adagrad(rate, 0.0), lambda rate, k: rate / np.sqrt(k)),
    "RMSProp": (rules.rmsprop, lambda rate, k: rate / np.sqrt(1 - 0.9**k)),
    "Adam": (rules.adam, lambda rate, k: rate + 0.0 * k),
}
MODEL = layers.serial(layers.dense(20), layers.elementwise(jnp.tanh), layers.dense(1))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.half_squared_error)
LINE = np.linspace(-2, 2, 60)[:, None]
DATA = LINE, np.sin(3 * LINE)


def lengths(rule, steps):
    """The lengths of a rule's steps where the gradient is always 1."""

    def step(state, _):
        updates, state = rule.update(jnp.ones(()), state, jnp.zeros(()))
        return state, -updates

    return np.asarray(jax.lax.scan(step, rule.init(jnp.zeros(())), length=steps)[1])


def best(family, start, steps):
    """The losses at that of the rates which ends lowest, and its name."""
    starts = jax.tree.map(lambda a: jnp.stack([a] * len(RATES)), start)
    how = {"hyperparameters": jnp.asarray(RATES), "steps": steps}
    runs = fnn.fits(family, OBJECTIVE, starts, DATA, **how).history
    lowest = np.argmin([np.median(run.value[-100:]) for run in runs])
    return runs[lowest].value, f", rate {RATES[lowest]:g}"


def main(steps=2000, picture=PICTURE):
    """Draws the picture; returns lengths of steps with their closed forms, and losses."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    start, k = MODEL.init(jax.random.key(0), LINE[0]), np.arange(1, 401)
    seen, curves = {}, {}
    for i, (name, (family, closed)) in enumerate([*FAMILIES.items(), ("LM", (None, None))]):
        (color, dash, _), began = plots.style(i), time.perf_counter()
        if family:
            seen[name] = lengths(family(0.1), len(k)), closed(0.1, k)
            left.plot(k, seen[name][0], color=color, dashes=dash, label=name)
            curves[name], rate = best(family, start, steps)
        else:
            run = fnn.fit(rules.levenberg_marquardt(), OBJECTIVE, start, DATA, steps=steps)
            curves[name], rate = run.history.value, ""
        count, seconds = len(curves[name]), time.perf_counter() - began
        right.plot(range(1, 1 + count), curves[name], color=color, dashes=dash, label=name + rate)
        last = f"median of the last hundred losses {np.median(curves[name][-100:]):.0e}"
        print(f"1-20-1, 61 parameters, {name + rate:20}{count:5} steps{seconds:6.1f} s, {last}")
    left.set(xlabel="step", ylabel="its length, rate 0.1", title="under a constant gradient")
    right.set(xlabel="step", ylabel="loss", title="1-20-1 tanh units learn sin 3x")
    for axes in (left, right):
        axes.set(xscale="log", yscale="log")
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return seen, curves


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main()
