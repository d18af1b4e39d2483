"""Images to tell apart: 8 x 8 digits by convolutions, and MNIST and CIFAR-10 from files.

The convolutions move by two pixels, in place of pooling. The residual block is normalized by groups
and not by batches: in a race a model is judged by the parameters that a rule has at the moment, and
batch normalization has none for that before it is calibrated; second-order rules, which see one
example at a time, refuse it.

Those with convolutions that read files take the first 2,400 training images, of which a sixth
validates, and the first 1,000 that test: most of a race on images is to look at the losses.

Source:
    convolutions      LeCun et al., "Backpropagation applied to handwritten zip code recognition",
                      Neural Computation 1 (1989), doi:10.1162/neco.1989.1.4.541
    residual block    He, Zhang, Ren and Sun, "Identity mappings in deep residual networks" (2016),
                      arXiv:1603.05027; Wu and He, "Group normalization" (2018), arXiv:1803.08494
    digits            Alpaydin and Kaynak, "Optical recognition of handwritten digits" (1998)
    mnist             LeCun, Bottou, Bengio and Haffner (1998)
    fashion-mnist     Xiao, Rasul and Vollgraf, "Fashion-MNIST" (2017), arXiv:1708.07747
    cifar10           Krizhevsky, "Learning multiple layers of features from tiny images" (2009)

Not verified: the target of CIFAR-10, of which no copy was at hand, and those of the fully connected
networks, which are what such commonly reach in ten epochs; that of mnist-15 is a guess.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

from fnn import data, layers, losses
from fnn.problems.problem import Budget, Problem, described
from fnn.problems.supervised import network, supervised

CLASSES = 10
DIGIT, MNIST, CIFAR10 = (8, 8, 1), (28, 28, 1), (32, 32, 3)


# Networks -----------------------------------------------------------------------------------------


def convolutional(shape: Sequence[int], *features: int) -> layers.Layer:
    """Convolutions of 3 x 3 with strides of 2 and rectified units, then a dense layer."""
    parts = [
        part
        for width in features
        for part in (layers.conv(width, (3, 3), strides=2), layers.elementwise(jax.nn.relu))
    ]
    return layers.serial(_image(shape), *parts, layers.flatten(), layers.dense(CLASSES))


def residual(shape: Sequence[int], features: int) -> layers.Layer:
    """A convolution with a stride of 2, a block of two, and the mean over positions."""

    def normalized() -> Sequence[layers.Layer]:
        return (
            layers.group_norm(features // 4),
            layers.elementwise(jax.nn.relu),
            layers.conv(features, (3, 3)),
        )

    return layers.serial(
        _image(shape),
        layers.conv(features, (3, 3), strides=2),
        layers.residual(layers.serial(*normalized(), *normalized())),
        layers.elementwise(lambda x: jax.nn.relu(x).mean(axis=(0, 1))),
        layers.dense(CLASSES),
    )


def _image(shape: Sequence[int]) -> layers.Layer:
    """The image that lies in a row of pixels."""
    return layers.elementwise(lambda x: x.reshape(shape))


# Problems -----------------------------------------------------------------------------------------


def _digits(
    name: str, summary: str, source: str, model: layers.Layer, gradients: float, target: float
) -> Problem:
    """Scikit-learn's digits: 60 / 20 / 20 % of them."""
    return supervised(
        name, summary, source, model=model, loss=losses.softmax_cross_entropy,
        parts=data.split(data.digits(), (0.6, 0.2, 0.2), jax.random.key(0)), batch_size=32,
        budget=Budget(gradients, "gradients"), target=target,
    )  # fmt: skip


def _whole(
    name: str,
    what: str,
    source: str,
    target: float,
    hidden: int,
    activation: Callable[[jax.Array], jax.Array],
    folder: str | Path,
) -> Problem:
    """The four IDX files of a folder; 5,000 of the 60,000 training images validate."""
    images, test = data.mnist(folder)
    train, validation = data.split(images, (11 / 12, 1 / 12), jax.random.key(0))
    return supervised(
        name, f"{what} of 28 x 28 pixels, 784-{hidden}-10", source,
        model=network([hidden, CLASSES], activation), loss=losses.softmax_cross_entropy,
        parts=[train, validation, test], batch_size=128, budget=Budget(10, "gradients"),
        target=target,
    )  # fmt: skip


def _first(
    name: str,
    summary: str,
    source: str,
    read: Callable[..., tuple[data.Data, data.Data]],
    model: layers.Layer,
    gradients: float,
    target: float,
    folder: str | Path,
) -> Problem:
    """The first images of the files of a folder."""
    images, test = read(folder)
    first = data.Data(images.inputs[:2400], images.targets[:2400])
    train, validation = data.split(first, (5 / 6, 1 / 6), jax.random.key(0))
    return supervised(
        name, summary, source, model=model, loss=losses.softmax_cross_entropy,
        parts=[train, validation, data.Data(test.inputs[:1000], test.targets[:1000])],
        batch_size=64, budget=Budget(gradients, "gradients"), target=target,
    )  # fmt: skip


_MNIST, _CIFAR10 = "LeCun, Bottou, Bengio and Haffner (1998)", "Krizhevsky (2009)"

PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "digits-conv": described(
        "1797 real handwritten digits of 8 x 8 pixels, two convolutions.", _digits, "digits-conv",
        "1797 handwritten digits of 8 x 8 pixels, convolutions of 16 and 32",
        "LeCun et al. (1989), smaller", convolutional(DIGIT, 16, 32), 20, 0.1,
    ),
    "digits-resnet": described(
        "1797 real handwritten digits of 8 x 8 pixels, a residual network.", _digits,
        "digits-resnet", "1797 handwritten digits of 8 x 8 pixels, a residual block of 8",
        "He, Zhang, Ren and Sun (2016), with group normalization, smaller",
        residual(DIGIT, 8), 20, 0.16,
    ),
    "mnist": described(
        "70,000 handwritten digits of 28 x 28 pixels, a 784-100-10 network.", _whole,
        "mnist", "70,000 handwritten digits", _MNIST, 0.1, 100, jax.nn.relu,
    ),
    "mnist-15": described(
        "70,000 handwritten digits of 28 x 28 pixels, the lectures' 784-15-10 network.", _whole,
        "mnist-15", "70,000 handwritten digits", _MNIST, 0.24, 15, jax.nn.sigmoid,
    ),
    "fashion-mnist": described(
        "70,000 pieces of clothing of 28 x 28 pixels, a 784-100-10 network.", _whole,
        "fashion-mnist", "70,000 pieces of clothing", "Xiao, Rasul and Vollgraf (2017)", 0.36,
        100, jax.nn.relu,
    ),
    "mnist-conv": described(
        "2,000 handwritten digits of 28 x 28 pixels, two convolutions.", _first, "mnist-conv",
        "2,000 handwritten digits of 28 x 28 pixels, convolutions of 4 and 8", _MNIST,
        data.mnist, convolutional(MNIST, 4, 8), 10, 0.33,
    ),
    "cifar10-conv": described(
        "2,000 photographs of 32 x 32 pixels in ten classes, three convolutions.", _first,
        "cifar10-conv", "2,000 photographs of 32 x 32 pixels, convolutions of 8, 16 and 16",
        _CIFAR10, data.cifar10, convolutional(CIFAR10, 8, 16, 16), 10, 1.7,
    ),
}  # fmt: skip
"""The problems by their names."""
