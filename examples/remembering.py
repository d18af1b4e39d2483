"""Add two numbers seen long ago: Elman's network and the LSTM, by first and by second order.

uv run examples/remembering.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "remembering.png"
LAST, ORTHOGONAL = layers.elementwise(lambda h: h[-1]), jax.nn.initializers.orthogonal()
CELLS = {"Elman": layers.elman(16, recurrent=ORTHOGONAL), "LSTM": layers.lstm(8)}
MODELS = {c: layers.serial(layers.scan_over(CELLS[c]), LAST, layers.dense(1)) for c in CELLS}
OBJECTIVES = {c: fnn.Objective(MODELS[c].apply, losses.half_squared_error) for c in CELLS}
RULES = {"adam": rules.adam(3e-3), "HF": rules.hessian_free(), "LM": rules.levenberg_marquardt()}
STEPS = {"Elman, adam": 2000, "Elman, LM": 40, "Elman, HF": 30, "LSTM, adam": 2000, "LSTM, LM": 40}


def adding(key, length, examples=1000):
    """Numbers between 0 and 1 with marks at two of them, one in either half; what these add to."""
    if length < 2:
        raise ValueError(f"adding: expected a length of 2 or more, got {length}; try 20")
    numbers, first, second = jax.random.split(key, 3)
    numbers = jax.random.uniform(numbers, (examples, length))
    first = jax.random.randint(first, examples, 0, length // 2)
    second = jax.random.randint(second, examples, length // 2, length)
    marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
    return jnp.stack([numbers, marks], axis=-1), jnp.sum(numbers * marks, axis=1, keepdims=True)


def reach(cell, params, inputs):
    """|d output / d marked number|, the mean, by the distance of the number from the end."""
    slopes = jax.vmap(jax.grad(lambda x: MODELS[cell].apply(params, x)[0]))(inputs)[..., 0]
    return np.average(abs(slopes), axis=0, weights=inputs[..., 1])[::-1]


def trial(name, steps, length):
    """Squared error on other sequences, and the reach at the start and at the end."""
    cell, rule = name.split(", ")
    data, test = (adding(jax.random.key(i), length) for i in (0, 1))
    params, begun = MODELS[cell].init(jax.random.key(2), data[0][0]), time.perf_counter()
    plan = {"batch_size": 100, "key": jax.random.key(3)} if rule == "adam" else {}
    run = fnn.fit(RULES[rule], OBJECTIVES[cell], params, data, steps=steps, **plan)
    seconds, error = time.perf_counter() - begun, 2 * OBJECTIVES[cell].on(test)(run.params)
    print(f"{name:12}{optax.tree.size(params):4}{steps:6} steps{seconds:6.1f} s", end="  ")
    print(f"length {length:3}, squared error {error:.4f} (always saying 1: 0.1667)")
    return float(error), reach(cell, params, test[0]), reach(cell, run.params, test[0])


def main(lengths=(20, 50, 100), steps=STEPS, picture=PICTURE):
    """Draws the picture; returns errors and reaches by network, rule and length."""
    longest = max(lengths)
    found = {(t, n): trial(t, steps[t], n) for n in lengths for t in steps}
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 4.8), layout="constrained")
    for i, name in enumerate(steps):
        (color, dash, marker), (_, start, end) = plots.style(i), found[name, longest]
        left.plot(1 + np.arange(longest), end, color=color, dashes=dash, label=name)
        errors = [found[name, length][0] for length in lengths]
        right.plot(lengths, errors, marker=marker, color=color, dashes=dash, label=name)
        left.plot(1 + np.arange(longest), start, color="lightgray", zorder=0)
    right.axhline(1 / 6, color="gray", linewidth=1, label="always saying 1: variance 1/6")
    left.set(yscale="log", ylim=(1e-7, 5), title=f"length {longest}: d output / d marked number")
    left.set(xlabel="steps from the number to the end", ylabel="1 is right; gray: at the start")
    right.set(yscale="log", xlabel="length", ylabel="squared error, new sequences")
    right.set_title("who solves which length")
    right.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(picture, dpi=80)
    return found


if __name__ == "__main__":
    main()
