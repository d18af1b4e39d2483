"""Look into a 64-15-10 network of handwritten digits: what its hidden units see, what it confuses.

uv run examples/features.py
"""

from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import fnn
from fnn import data, layers, losses, plots, rules
from fnn.problems.problem import accuracy

PICTURE = Path(__file__).parent / "drawn" / "features.png"
MODEL = layers.serial(layers.dense(15), layers.elementwise(jax.nn.sigmoid), layers.dense(10))
OBJECTIVE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy) + fnn.l2(1e-3)


def draw(params, answers, targets, histories):
    """Weights into the hidden units, accuracies on the way, and the table of mistakes."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.4), layout="constrained", width_ratios=[1.35, 1.2, 1]
    )
    plots.features(left, params[0]["weight"].T, (8, 8), columns=5)
    left.set_title("weights into the 15 hidden units")
    for i, (name, history) in enumerate(histories.items()):
        color, dash, _ = plots.style(i)
        share = 100 * history.validation["accuracy"]
        epochs = np.arange(1, len(share) + 1)
        middle.plot(epochs, share, color=color, linestyle=(0, dash) if dash else "-", label=name)
    middle.set(xlabel="epochs", ylabel="% of test digits right", ylim=(0, 100))
    middle.spines[["top", "right"]].set_visible(False)
    middle.legend(frameon=False, loc="lower right")
    middle.set_title("two losses, one network")
    plots.confusion(right, answers, targets)
    right.set_title(f"{np.mean(answers == targets):.1%} right by cross-entropy")
    return figure


def squared_error(outputs, target):
    """Half the sum of squares of logistic outputs less the indicators of the class."""
    return losses.half_squared_error(jax.nn.sigmoid(outputs), jax.nn.one_hot(target, 10))


def main(epochs=60, picture=PICTURE):
    """Draws the picture; returns the accuracies on test digits by cross-entropy, squared error."""
    train, test = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    start = MODEL.init(jax.random.key(1), train.inputs[0])
    runs = {}
    for name, objective in (
        ("cross-entropy, softmax", OBJECTIVE),
        ("squared error, logistic", fnn.Objective(MODEL.apply, squared_error)),
    ):
        runs[name] = fnn.fit(
            rules.sgd(0.5),
            objective,
            start,
            train,
            epochs=epochs,
            batch_size=20,
            key=jax.random.key(2),
            validation=test,
            metrics={"accuracy": accuracy},
        )
    first, _ = runs.values()
    answers = np.asarray(OBJECTIVE.outputs(first.params, test.inputs).argmax(axis=1))
    histories = {name: run.history for name, run in runs.items()}
    draw(first.params, answers, test.targets, histories).savefig(picture, dpi=80)
    return [run.history.validation["accuracy"] for run in runs.values()]


if __name__ == "__main__":
    for shares in main():
        print(f"{shares[-1]:.1%} of the test digits are right, {shares[0]:.1%} after one epoch")
