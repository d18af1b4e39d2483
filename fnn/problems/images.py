"""Images: an autoencoder of digits, and MNIST from files.

Source:
    autoencoder    Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural
                   networks", Science 313 (2006), doi:10.1126/science.1127647, at the size of these
                   digits
    mnist          LeCun, Bottou, Bengio and Haffner (1998)
    fashion-mnist  Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017), arXiv:1708.07747
"""

from pathlib import Path

import jax

from fnn import data, losses
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import ERROR, network, supervised


def autoencoder() -> Problem:
    """8 x 8 digits through a bottleneck of 8 units, a 64-32-16-8-16-32-64 network of tanh units."""
    parts = data.split(data.digits(), (0.6, 0.2, 0.2), jax.random.key(0))
    return supervised(
        "autoencoder",
        "digits of 8 x 8 pixels through 8 units, 64-32-16-8-16-32-64",
        "Hinton and Salakhutdinov (2006), smaller",
        model=network([32, 16, 8, 16, 32, 64]),
        loss=losses.half_squared_error,
        parts=[data.Data(part.inputs, part.inputs) for part in parts],
        score=ERROR,
        batch_size=32,
        budget=Budget(700, "gradients"),
        target=0.7,
    )


def _mnist(name: str, what: str, source: str, target: float, folder: str | Path) -> Problem:
    """The four IDX files of a folder; 5,000 of the 60,000 training images validate."""
    # The targets are what networks of this size commonly reach in ten epochs, not measured here.
    images, test = data.mnist(folder)
    train, validation = data.split(images, (11 / 12, 1 / 12), jax.random.key(0))
    return supervised(
        name,
        f"{what} of 28 x 28 pixels, 784-100-10",
        source,
        model=network([100, 10], jax.nn.relu),
        loss=losses.softmax_cross_entropy,
        parts=[train, validation, test],
        batch_size=128,
        budget=Budget(10, "gradients"),
        target=target,
    )


mnist = described(
    "70,000 handwritten digits of 28 x 28 pixels, a 784-100-10 network.", _mnist,
    "mnist", "70,000 handwritten digits", "LeCun, Bottou, Bengio and Haffner (1998)", 0.1,
)  # fmt: skip
fashion_mnist = described(
    "70,000 pieces of clothing of 28 x 28 pixels, a 784-100-10 network.", _mnist,
    "fashion-mnist", "70,000 pieces of clothing", "Xiao, Rasul and Vollgraf (2017)", 0.36,
)  # fmt: skip
