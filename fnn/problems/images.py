"""Images: an autoencoder of digits, and MNIST from files."""

from pathlib import Path

import jax

from fnn import data, losses
from fnn.problems.problem import Budget, Problem
from fnn.problems.supervised import ERROR, network, supervised


def autoencoder() -> Problem:
    """8 x 8 digits through a bottleneck of 8 units, a 64-32-16-8-16-32-64 network of tanh units.

    Returns:
        The problem.

    Source:
        Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks",
        Science 313 (2006), doi:10.1126/science.1127647, at the size of these digits.

    Example:
        >>> train = autoencoder().train
        >>> train.inputs.shape, train.targets is train.inputs
        ((1078, 64), True)
    """
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
        budget=Budget(1.0),
        target=0.7,
    )


def mnist(folder: str | Path) -> Problem:
    """70,000 handwritten digits of 28 x 28 pixels, a 784-100-10 network.

    Args:
        folder: holds MNIST's four IDX files, plain or gzipped.

    Returns:
        The problem; 5,000 of the 60,000 training images validate.

    Source:
        LeCun, Bottou, Bengio and Haffner (1998).

    Example:
        >>> mnist("no such folder")
        Traceback (most recent call last):
        FileNotFoundError: mnist: expected no such folder to hold train-images-idx3-ubyte, ...
    """
    return _mnist(
        "mnist",
        "70,000 handwritten digits",
        "LeCun, Bottou, Bengio and Haffner (1998)",
        folder,
        0.1,
    )


def fashion_mnist(folder: str | Path) -> Problem:
    """70,000 pieces of clothing of 28 x 28 pixels, a 784-100-10 network.

    Args:
        folder: holds Fashion-MNIST's four IDX files, which have the names of MNIST's.

    Returns:
        The problem; 5,000 of the 60,000 training images validate.

    Source:
        Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017), arXiv:1708.07747.

    Example:
        >>> fashion_mnist("no such folder")
        Traceback (most recent call last):
        FileNotFoundError: mnist: expected no such folder to hold train-images-idx3-ubyte, ...
    """
    source = "Xiao, Rasul and Vollgraf (2017)"
    return _mnist("fashion-mnist", "70,000 pieces of clothing", source, folder, 0.36)


def _mnist(name: str, what: str, source: str, folder: str | Path, target: float) -> Problem:
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
        budget=Budget(10.0),
        target=target,
    )
