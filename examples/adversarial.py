"""Fool a network with changes too small to see as another digit, and train one against them.

uv run examples/adversarial.py
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import data, layers, losses, plots, rules
from fnn.perturbations import adversarial, fast_gradient_sign, projected_gradient

PICTURE = Path(__file__).parent / "drawn" / "adversarial.png"
MODEL = layers.serial(layers.dense(64), layers.elementwise(jax.nn.relu), layers.dense(10))
LOSS = losses.softmax_cross_entropy
ATTACKS = fast_gradient_sign, projected_gradient
SIZES = jnp.linspace(0, 0.3, 13)
TRAINED_AGAINST = 0.1


def attacked(make, params, examples, eps):
    """The examples, each made worse for this network by no more than eps in a pixel."""
    attack = jax.vmap(make(MODEL.apply, LOSS, eps, bounds=(0, 1)), (None, 0, 0))
    return attack(params, *map(jnp.asarray, examples))


@jax.jit
def errors(params, examples):
    """The share of wrong answers against the size of the attack, by one step and by ten."""

    def error(make, eps):
        answers = jax.vmap(MODEL.apply, (None, 0))(params, attacked(make, params, examples, eps))
        return jnp.mean(answers.argmax(axis=1) != examples.targets)

    return [jax.lax.map(functools.partial(error, make), SIZES) for make in ATTACKS]


def draw(params, examples, curves):
    """Some digits, what was added, and the sum; and errors against the size of the attack."""
    figure = plt.figure(figsize=(11.5, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
    few = jax.tree.map(lambda part: part[:8], examples)
    worse = np.asarray(attacked(fast_gradient_sign, params, few, TRAINED_AGAINST))
    plots.features(left, np.concatenate([few.inputs, worse - few.inputs, worse]), (8, 8), columns=8)
    for i, (x, target) in enumerate(zip(worse, few.targets, strict=True)):
        left.text(9 * i + 3.5, 28, f"{target} → {MODEL.apply(params, x).argmax()}", ha="center")
    left.set_title(f"digits, {TRAINED_AGAINST} times the sign of the gradient, their sum")
    for color, (name, (one, ten)) in zip(plots.COLORS, curves.items(), strict=False):
        right.plot(SIZES, 100 * one, color=color, label=f"{name}, one step")
        right.plot(SIZES, 100 * ten, color=color, dashes=(4, 1.5), label=f"{name}, ten steps")
    right.axvline(TRAINED_AGAINST, color="0.7", lw=0.8, zorder=0)
    right.set(xlabel="most change of a pixel (0 to 1)", ylabel="% of test digits wrong")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=9)
    return figure


def main(epochs=60, picture=PICTURE):
    """Draws the picture; returns errors by size, of one step and of ten, for both networks."""
    train, test = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    start = MODEL.init(jax.random.key(1), train.inputs[0])
    plan = {"epochs": epochs, "batch_size": 64, "key": jax.random.key(2)}
    plain = fnn.fit(rules.adam(3e-3), fnn.Objective(MODEL.apply, LOSS), start, train, **plan)
    attack = fast_gradient_sign(MODEL.apply, LOSS, TRAINED_AGAINST, bounds=(0, 1))
    robust = fnn.Objective(adversarial(MODEL.apply, attack), LOSS)
    hardened = fnn.fit(rules.adam(3e-3), robust, start, (train, train.targets), **plan)
    runs = {"trained as usual": plain.params, "trained against it": hardened.params}
    curves = {name: errors(params, test) for name, params in runs.items()}
    draw(plain.params, test, curves).savefig(picture, dpi=80)
    return curves


if __name__ == "__main__":
    for which, (errs, _) in main().items():
        print(f"{which}: {errs[0]:.1%} wrong, {errs[4]:.1%} under attack")
