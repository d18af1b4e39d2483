"""Squares of a logistic output learn slowly where they are most wrong; cross-entropy does not.

uv run examples/saturation.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import data, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "saturation.png"
OBJECTIVES = {
    "squares": fnn.Objective(
        lambda p, x: jax.nn.sigmoid(p["w"] * x + p["b"]), losses.half_squared_error
    ),
    "cross-entropy": fnn.Objective(lambda p, x: p["w"] * x + p["b"], losses.logistic),
}


def unit(objective, start, steps):
    """One logistic unit with x = 1 shall answer 0: its answers at rate 0.15."""
    value_fn, params = objective.on((jnp.ones(1), jnp.zeros(1))), {"w": start, "b": start}

    def step(p, _):
        slopes = jax.grad(value_fn)(p)
        return jax.tree.map(lambda w, g: w - 0.15 * g, p, slopes), jax.nn.sigmoid(p["w"] + p["b"])

    return np.asarray(jax.lax.scan(step, params, length=steps)[1])


def accuracy(outputs, targets):
    """The share of digits whose largest output is the right one."""
    return jnp.mean(outputs.argmax(axis=-1) == targets.argmax(axis=-1))


def digits(epochs):
    """Test accuracy of 64-15-10 after each epoch, with the same rule and start for both losses."""
    train, test = data.split(data.digits(), (0.75, 0.25), jax.random.key(0))
    train, test = ((x, np.eye(10)[t]) for x, t in (train, test))
    raw = layers.serial(layers.dense(15), layers.elementwise(jax.nn.sigmoid), layers.dense(10))
    squashed = layers.serial(raw, layers.elementwise(jax.nn.sigmoid))
    params, curves = raw.init(jax.random.key(1), train[0][0]), {}
    for name, model, loss, start in (
        ("squares", squashed, losses.half_squared_error, (params, ())),
        ("cross-entropy", raw, losses.softmax_cross_entropy, params),
    ):
        how = {"epochs": epochs, "batch_size": 10, "key": jax.random.key(2)}
        how |= {"validation": test, "metrics": {"accuracy": accuracy}}
        fit = fnn.fit(rules.sgd(0.1), fnn.Objective(model.apply, loss), start, train, **how)
        curves[name] = np.asarray(fit.history.validation["accuracy"])
    return curves


def main(epochs=40, picture=PICTURE):
    """Draws and returns the answers of one unit, and the accuracies on digits."""
    answers = {name: unit(objective, 2.0, 300) for name, objective in OBJECTIVES.items()}
    curves = digits(epochs)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for i, name in enumerate(answers):
        left.plot(answers[name], color=plots.COLORS[i], label=name)
        right.plot(np.arange(1, epochs + 1), curves[name], color=plots.COLORS[i], label=name)
        print(f"{name}: {curves[name][-1]:.1%} of the test digits after {epochs} epochs")
    left.set(xlabel="steps", ylabel="answer", ylim=(0, 1), title="a unit that starts at 0.98")
    right.set(xlabel="epochs", ylabel="test accuracy", ylim=(0, 1), title="digits, 64-15-10")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, loc="lower right")
    figure.savefig(picture, dpi=80)
    return answers, curves


if __name__ == "__main__":
    main()
