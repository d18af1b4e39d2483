"""Reverse sequences by an encoder, a decoder and attention, and look where the decoder looks.

uv run examples/reversal.py
"""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import fnn
from fnn import curvature, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "reversal.png"
SYMBOLS, START, WIDTH, EPOCHS = 5, 5, 12, {"adam": 40, "kfac": 8}
PLACES, HEAD = layers.sinusoidal_positions(), layers.multi_head_attention(1)
BEFORE = layers.residual(layers.multi_head_attention(1, mask=layers.causal))
DECODER = layers.serial(layers.embedding(SYMBOLS + 1, WIDTH), PLACES, BEFORE)
ENCODER = layers.serial(layers.embedding(SYMBOLS, WIDTH), PLACES)
BOTH = layers.parallel(DECODER, ENCODER)  # of what was written so far, and of the source
MODEL = layers.serial(BOTH, HEAD, layers.each(layers.dense(SYMBOLS)))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.each(losses.softmax_cross_entropy))


def task(key, length, examples):
    """Random sequences beside what was written before each place, and the same reversed."""
    source = jax.random.randint(key, (examples, length), 0, SYMBOLS)
    before = jnp.pad(source[:, :0:-1], ((0, 0), (1, 0)), constant_values=START)
    return (before, source), source[:, ::-1]


def looks(params, x):
    """The weights of attention: what it makes of values that tell the places of the memory."""
    (states, memory), weights = BOTH.apply(params[0], x), params[1]
    queries = states @ weights["queries"]["weight"] + weights["queries"]["bias"]
    keys = memory @ weights["keys"]["weight"]
    return layers.scaled_dot_product_attention(queries, keys, jnp.eye(len(memory)))


def written(params, sources):
    """What the network writes by itself: each place is read from the places before it."""
    text = jnp.full((len(sources), sources.shape[1] + 1), START)
    for i in range(sources.shape[1]):
        outputs = jax.vmap(MODEL.apply, (None, 0))(params, (text[:, :-1], sources))
        text = text.at[:, i + 1].set(jnp.argmax(outputs[:, i], axis=-1))
    return text[:, 1:]


def main(length=6, epochs=EPOCHS, picture=PICTURE):
    """Draws the picture; by rule: the losses, the share of places right, the mean attention."""
    train, test = (task(jax.random.key(i), length, n) for i, n in enumerate((1000, 500)))
    x, found = (train[0][0][0], train[0][1][0]), {}
    params = MODEL.init(jax.random.key(2), x)
    kfac = rules.kfac(curvature.structure(MODEL.apply, params, x), samples=1)
    figure, (curve, *panels) = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")
    for i, name in enumerate(epochs):
        rule, begun = {"adam": rules.adam(1e-2), "kfac": kfac}[name], time.perf_counter()
        plan = {"epochs": epochs[name], "batch_size": 200, "key": jax.random.key(3)}
        run = fnn.fit(rule, OBJECTIVE, params, train, **plan)
        seconds, values = time.perf_counter() - begun, run.history.value
        right = float(jnp.mean(jax.jit(written)(run.params, test[0][1]) == test[1]))
        mean = jnp.mean(jax.vmap(looks, (None, 0))(run.params, test[0]), axis=0)
        row = f"{name:5}{optax.tree.size(params):5}{len(values):5} steps{seconds:6.1f} s  right"
        print(f"{row} {right:.3f}, most attention at {jnp.argmax(mean, axis=1)}")
        found[name] = values, right, mean
        panels[i].imshow(mean, cmap="Blues", vmin=0, vmax=1)
        panels[i].set(xlabel="read", ylabel="written", title=f"{name}: {right:.1%} right")
        curve.plot(values, color=plots.style(i).color, label=name)
    curve.set(yscale="log", xlabel="steps", ylabel="cross-entropy", title="writing backward")
    curve.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return found


if __name__ == "__main__":
    main()
