"""The graph of a logistic unit and its loss, derived forward from an input, and in reverse.

uv run examples/graph.py
"""

import operator
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

from fnn import backprop, plots

PICTURE = Path(__file__).parent / "drawn" / "graph.png"
Node = backprop.Node
GRAPH = {
    "w x": Node(operator.mul, ("w", "x")),
    "a": Node(operator.add, ("w x", "b")),
    "y": Node(jax.nn.sigmoid, ("a",)),
    "y - t": Node(operator.sub, ("y", "t")),
    "E": Node(lambda e: e**2 / 2, ("y - t",)),
}
INPUTS = {"w": 0.5, "x": 2.0, "b": -0.3, "t": 1.0}
X = {"w": 0, "x": 0, "b": 1, "t": 3, "w x": 1, "a": 2, "y": 3, "y - t": 4, "E": 5}
Y = {"w": 2.6, "x": 0.8, "b": 0, "t": 0, "w x": 1.7, "a": 1.2, "y": 1.8, "y - t": 1.2, "E": 1.2}
ARROW = {"arrowstyle": "->", "shrinkA": 17, "shrinkB": 17, "color": "0.5"}


def draw(axes, values, derivatives, title):
    """The graph, with a value in each node and a derivative below it."""
    for name, node in GRAPH.items():
        for parent in node.parents:
            axes.annotate("", (X[name], Y[name]), (X[parent], Y[parent]), arrowprops=ARROW)
    how = {"ha": "center", "va": "center", "fontsize": 8}
    for name, x in X.items():
        axes.plot(x, Y[name], "o", markersize=32, color="white", markeredgecolor="k")
        axes.text(x, Y[name], f"{name}\n{values[name]:.3g}", **how)
        axes.text(x, Y[name] - 0.53, f"{derivatives[name]:.3g}", color=plots.COLORS[1], **how)
    axes.set(xlim=(-0.5, 5.5), ylim=(-0.8, 3.1), title=title, xticks=[], yticks=[])


def ladder(depth):
    """Layers of two nodes, each the product of the two before it: w to the power of 2^depth."""
    graph = {f"0{side}": Node(operator.pos, ("w",)) for side in "ab"}
    for i in range(1, depth):
        graph |= {f"{i}{s}": Node(operator.mul, (f"{i - 1}a", f"{i - 1}b")) for s in "ab"}
    return graph | {"o": Node(operator.mul, (f"{depth - 1}a", f"{depth - 1}b"))}


def products(depth, w=1.01):
    """The products of derivatives on all paths, and on all edges; both derivatives."""
    graph = ladder(depth)
    derivative, paths = backprop.path_sum(graph, {"w": w}, "w", "o")
    edges = sum(len(node.parents) for node in graph.values())
    return paths * (depth + 1), edges, derivative, backprop.reverse(graph, {"w": w}, "o")["w"]


def main(depths=range(1, 9), picture=PICTURE):
    """Draws the picture; returns both accumulations, and the products and derivatives by depth."""
    figure, panels = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    values = backprop.evaluate(GRAPH, INPUTS)
    tangents = {name: backprop.forward(GRAPH, INPUTS, name) for name in INPUTS}
    adjoints = backprop.reverse(GRAPH, INPUTS, "E")
    draw(panels[0], values, tangents["w"], "forward from w: values, and d node / dw")
    draw(panels[1], values, adjoints, "in reverse from E: values, and dE / d node")
    counted = np.array([products(depth) for depth in depths])
    panels[2].set_prop_cycle(color=plots.COLORS)
    panels[2].semilogy(depths, counted[:, :2], "o-", label=["path by path", "edge by edge"])
    panels[2].set(xlabel="layers of two nodes", ylabel="products", title="what a derivative costs")
    panels[2].legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return tangents, adjoints, counted


if __name__ == "__main__":
    forwards, backwards, counts = main()
    for name in INPUTS:
        print(f"dE/d{name}", f"{forwards[name]['E']:.5f} forward, {backwards[name]:.5f} in reverse")
    print("products in eight layers, path by path and edge by edge:", *counts[-1, :2])
