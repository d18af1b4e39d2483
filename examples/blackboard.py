"""One step of back-propagation, every number: the lectures' 2-2-1 network as a table and a drawing.

uv run examples/blackboard.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

from fnn import backprop, layers, losses, plots

PICTURE = Path(__file__).parent / "drawn" / "blackboard.png"
TENTH = jax.nn.initializers.constant(0.1)
MODEL = layers.serial(
    layers.dense(2, weight=TENTH, bias=TENTH),
    layers.elementwise(jax.nn.sigmoid),
    layers.dense(1, weight=TENTH, bias=TENTH),
    layers.elementwise(jax.nn.sigmoid),
)


def draw(traced, learning_rate):
    """Units with output and delta, links with their weight before and after the step."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    first, hidden, last, out = traced.parts
    units = [  # of each column: outputs, and dE/d that, of a unit before its function
        (first.inputs, traced.delta, ("x₁", "x₂"), "δ"),
        (hidden.outputs, first.delta, ("z₁", "z₂"), "δ"),
        (out.outputs, last.delta, ("y",), "δ"),
    ]

    def place(column, row):
        return 3.0 * column, (1.0 if row == 0 else -1.0) * (len(units[column][0]) > 1)

    for column, part in enumerate((first, last)):
        weight = part.params["weight"]
        after = weight - learning_rate * part.grad["weight"]
        for i, row in enumerate(weight):
            for j, w in enumerate(row):
                (x1, y1), (x2, y2) = place(column, i), place(column + 1, j)
                axes.plot([x1, x2], [y1, y2], color="#8796a3", linewidth=1, zorder=0)
                at = 0.34 if i != j and len(row) > 1 else 0.42
                text = f"{w:.4f} → {after[i, j]:.4f}"
                spot = x1 + at * (x2 - x1), y1 + at * (y2 - y1)
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                axes.text(*spot, text, ha="center", va="center", fontsize=8, bbox=box)
        for j, b in enumerate(part.params["bias"]):
            x, y = place(column + 1, j)
            text = f"bias {b:.4f} → {b - learning_rate * part.grad['bias'][j]:.4f}"
            axes.text(x, y + 0.42, text, ha="center", fontsize=8, color="#555555")
    for column, (outputs, deltas, names, symbol) in enumerate(units):
        for row, (value, delta, name) in enumerate(zip(outputs, deltas, names, strict=True)):
            x, y = place(column, row)
            axes.scatter(x, y, s=900, color="white", edgecolors=plots.COLORS[0], zorder=2)
            axes.text(x, y, name, ha="center", va="center", fontsize=12, zorder=3)
            axes.text(x, y - 0.5, f"{value:.4f}", ha="center", color=plots.COLORS[0])
            axes.text(x, y - 0.74, f"{symbol} = {delta:.5f}", ha="center", color=plots.COLORS[1])
    axes.set(xlim=(-0.8, 6.9), ylim=(-2, 1.8), title=f"E = {traced.value:.4f}")
    axes.axis("off")
    return figure


def main(picture=PICTURE):
    """Prints the table and draws the network of the step (1, 0) -> 0.9; returns its trace."""
    params = MODEL.init(jax.random.key(0), jnp.zeros(2))
    x, t = jnp.array([1.0, 0.0]), jnp.array([0.9])
    traced = backprop.trace(MODEL, losses.half_squared_error, params, x, t)
    print(backprop.table(traced, learning_rate=0.2))
    draw(traced, learning_rate=0.2).savefig(picture, dpi=80)
    return traced


if __name__ == "__main__":
    main()
