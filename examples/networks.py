"""Build LeNet-5, AlexNet, VGG, Inception and ResNet, made small, and see how far their units see.

uv run examples/networks.py
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from fnn import flops, layers, plots
from fnn.layers import dense, elementwise, max_pool, serial

PICTURE = Path(__file__).parent / "drawn" / "networks.png"
RELU, TANH, HALF = elementwise(jax.nn.relu), elementwise(jnp.tanh), max_pool((2, 2))
MEAN, OVER = layers.average_pool((2, 2)), max_pool((3, 3), strides=2, padding="SAME")
WIDE = dense(32), RELU


def conv(features, window=3, unit=RELU, **how):
    """A convolution and its units."""
    return serial(layers.conv(features, (window, window), **how), unit)


def shortcut(features):
    """ResNet's block: it starts as the identity, as its second convolution starts at zero."""
    second = layers.conv(features, (3, 3), weight=jax.nn.initializers.zeros)
    return layers.residual(serial(conv(features), second))


def inception(one, three, five, pooled):
    """Inception's block: four paths side by side, the wide ones behind 1 x 1 convolutions."""
    wide = [serial(conv(4, 1), conv(features, n)) for features, n in ((three, 3), (five, 5))]
    pool = serial(max_pool((3, 3), strides=1, padding="SAME"), conv(pooled, 1))
    return serial(layers.fan_out(conv(one, 1), *wide, pool), layers.fan_in_concatenate())


PARTS = {  # of each the layers of an image, and those of the classifier
    "LeNet-5": ((conv(6, 5, TANH), MEAN, conv(16, 3, TANH), MEAN), (dense(30), TANH)),
    "AlexNet": ((conv(8, 5), OVER, conv(16, groups=2), OVER), (layers.dropout(0.2), *WIDE)),
    "VGG": ((conv(6), conv(6), HALF, conv(12), conv(12), HALF), WIDE),
    "Inception": ((conv(8), HALF, inception(4, 6, 4, 4), MEAN), ()),
    "ResNet": ((conv(8), HALF, shortcut(8), conv(12, strides=2), shortcut(12)), ()),
}
WINDOWS = {  # of the layers of an image: width and stride
    "LeNet-5": ((5, 1), (2, 2), (3, 1), (2, 2)),
    "AlexNet": ((5, 1), (3, 2), (3, 1), (3, 2)),
    "VGG": ((3, 1), (3, 1), (2, 2), (3, 1), (3, 1), (2, 2)),
    "Inception": ((3, 1), (2, 2), (5, 1), (2, 2)),
    "ResNet": ((3, 1), (2, 2), (5, 1), (3, 2), (5, 1)),
}
NETWORKS = {name: serial(*a, layers.flatten(), *b, dense(10)) for name, (a, b) in PARTS.items()}


def main(picture=PICTURE):
    """Draws how wide units see; returns of each network that, its parameters, and its flops."""
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    image, table = jnp.zeros((8, 8, 1), "float32"), {}
    for i, (name, network) in enumerate(NETWORKS.items()):
        params = jax.eval_shape(network.init, jax.random.key(0), image)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        cost = flops.count(network.apply, params, image)
        widths, strides = np.array(WINDOWS[name]).T
        jumps = np.cumprod([1, *strides[:-1]])
        table[name] = size, cost, [1, *(1 + np.cumsum((widths - 1) * jumps)).tolist()]
        color, dashes, marker = plots.style(i)
        label = f"{name}: {size:,} parameters, {cost / 1000:.0f} kflop"
        axes.plot(table[name][-1], color=color, dashes=dashes, marker=marker, label=label)
        print(f"{name:10}{size:6,} parameters{cost:8,.0f} flops, fields of {table[name][-1]}")
    axes.set(xlabel="layers with a window", ylabel="width of what a unit sees, in pixels")
    axes.set_title("a unit of each layer sees more of the image: r + (window - 1) x strides so far")
    axes.legend(frameon=False)
    figure.savefig(picture, dpi=80)
    return table


if __name__ == "__main__":
    main()
