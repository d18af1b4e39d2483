"""Make a network of digits smaller in four ways, and see what each costs.

uv run examples/smaller.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import fnn
from fnn import compression, data, layers, losses, plots, rules

PICTURE = Path(__file__).parent / "drawn" / "smaller.png"
LOSS = losses.softmax_cross_entropy


def network(hidden):
    """64-hidden-10."""
    return layers.serial(layers.dense(hidden), layers.elementwise(jax.nn.relu), layers.dense(10))


def smaller(model, params, train, fit, shares, sizes):
    """For each method its networks: kilobytes, model and parameters."""
    rows = [("whole", params, model, params)]
    rows.append(("8 bits", compression.quantized(params), model, None))
    for rank in sizes:
        rows.append(("low rank", compression.low_rank(params, rank), model, None))
    for share in shares:
        mask = compression.magnitude_mask(params, share)
        cut = compression.prune(params, mask)
        again = fit(fnn.Objective(compression.masked(model.apply, mask), LOSS), cut, train)
        left = jax.tree.map(lambda p, m: p[m], params, mask)  # positions not counted
        rows.append(("pruned", left, model, cut))
        rows.append(("pruned, trained again", left, model, compression.prune(again, mask)))
    logits = jax.vmap(model.apply, (None, 0))(params, train.inputs)
    for width in sizes:
        student = network(width)
        start = student.init(jax.random.key(3), train.inputs[0])
        taught = fnn.Objective(student.apply, compression.distillation(3.0, share=0.9))
        taught = fit(taught, start, (train.inputs, (logits, train.targets)))
        rows.append(("small, distilled", taught, student, taught))
        alone = fit(fnn.Objective(student.apply, LOSS), start, train)
        rows.append(("small", alone, student, alone))
    for name, stored, network_of, used in rows:
        used = compression.restored(stored) if used is None else used
        yield name, compression.size(stored) / 1000, network_of, used


def main(epochs=60, shares=(0.4, 0.2, 0.1, 0.05), sizes=(24, 12, 6, 3), picture=PICTURE):
    """Returns (method, kilobytes, accuracy on test digits) of each; draws the picture."""
    digits = data.digits()._replace(inputs=data.digits().inputs.astype("float32"))
    train, test = data.split(digits, (0.7, 0.3), jax.random.key(0))
    model, plan = network(64), {"epochs": epochs, "batch_size": 64, "key": jax.random.key(2)}

    def fit(objective, start, examples):
        return fnn.fit(rules.adam(3e-3), objective, start, examples, **plan).params

    start, table = model.init(jax.random.key(1), test.inputs[0]), {}
    whole = fit(fnn.Objective(model.apply, LOSS), start, train)
    for name, size, network_of, params in smaller(model, whole, train, fit, shares, sizes):
        answers = jax.vmap(network_of.apply, (None, 0))(params, test.inputs).argmax(axis=1)
        table.setdefault(name, []).append((size, float(jnp.mean(answers == test.targets))))
    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    for i, (name, points) in enumerate(table.items()):
        color, dash, marker = plots.style(i)
        axes.plot(*zip(*points, strict=True), color=color, dashes=dash, marker=marker, label=name)
    axes.set(xscale="log", xlabel="kilobytes", ylabel="share of test digits right")
    axes.set_xticks([1, 2, 5, 10, 20], [1, 2, 5, 10, 20])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return table


if __name__ == "__main__":
    for method, entries in main().items():
        for kilobytes, share in entries:
            print(f"{method:24}{kilobytes:6.1f} kB{share:8.1%}")
