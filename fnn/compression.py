"""Smaller networks: pruned, of low rank, in 8 bits, or taught by a larger one.

All are pure functions of parameter trees; what a model then loses is for its test data to say.

    mask = magnitude_mask(params, keep=0.1)             # the largest weights
    sparse = masked(model.apply, mask)                  # a model without the others,
    fit(rule, Objective(sparse, loss), params, data)    # to be trained again

    small = quantized(params)                           # or low_rank(params, 8)
    outputs = model.apply(restored(small), x)

Matrices and kernels are compressed (leaves with two axes or more, the last of which counts the
units); biases and scales are not, because they are few, and matter.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, PyTree, Scalar

from fnn import losses
from fnn.objective import Model, keyed

__all__ = [
    "LowRank",
    "Quantized",
    "distillation",
    "low_rank",
    "magnitude_mask",
    "masked",
    "prune",
    "quantized",
    "restored",
    "size",
]
__dir__ = __all__.copy


class LowRank(NamedTuple):
    """A matrix as a product, `left @ right`.

    Attributes:
        left: the map from inputs to a few numbers.
        right: the map from these to outputs.
    """

    left: Float[Array, "fan_in rank"]
    right: Float[Array, "rank fan_out"]

    def restored(self) -> Array:
        """The matrix itself."""
        return self.left @ self.right


class Quantized(NamedTuple):
    """Weights as whole numbers of steps, `steps * size`, with a size for every unit.

    Attributes:
        steps: whole numbers from -127 to 127.
        size: the size of one step of every unit, along the last axis.
    """

    steps: Int8[Array, "*fan_in fan_out"]
    size: Float[Array, " fan_out"]

    def restored(self) -> Array:
        """The weights, in the dtype of `size`."""
        return self.steps.astype(self.size.dtype) * self.size


def magnitude_mask(params: PyTree, keep: float) -> PyTree:
    """Which weights are the largest in absolute value, over all layers together.

    Args:
        params: the parameters.
        keep: the share of weights to keep, in (0, 1]; at least one weight stays.

    Returns:
        A tree of boolean arrays. Of equal weights the first are kept, and of biases all.

    Raises:
        ValueError: if `keep` is out of range, or nothing has two axes.

    Source:
        Han, Pool, Tran and Dally (2015), "Learning both weights and connections for efficient
        neural networks", arXiv:1506.02626.

    Differs:
        They set a threshold in every layer, from the deviation of its weights.

    Example:
        >>> params = {"weight": jnp.array([[3.0, -4.0], [0.5, 1.0]]), "bias": jnp.array([0.1])}
        >>> magnitude_mask(params, keep=0.5)["weight"].tolist()
        [[True, True], [False, False]]
    """
    if not 0 < keep <= 1:
        raise ValueError(f"magnitude_mask: expected keep in (0, 1], got {keep}; try 0.1")
    leaves, treedef = jax.tree.flatten(params)
    magnitudes = [jnp.abs(leaf).ravel() for leaf in leaves if jnp.ndim(leaf) > 1]
    if not magnitudes:
        raise ValueError(
            "magnitude_mask: expected a leaf of two axes or more, got none; try all parameters of "
            "a model"
        )
    weights = jnp.concatenate(magnitudes)
    count = max(1, round(keep * weights.size))
    is_kept = jnp.zeros(weights.size, bool).at[jnp.argsort(-weights)[:count]].set(True)
    mask, start = [], 0
    for leaf in leaves:
        if jnp.ndim(leaf) > 1:
            mask.append(is_kept[start : start + leaf.size].reshape(leaf.shape))
            start += leaf.size
        else:
            mask.append(jnp.ones(jnp.shape(leaf), bool))
    return jax.tree.unflatten(treedef, mask)


def masked(model: Model, mask: PyTree) -> Model:
    """A model in which some parameters count as 0, whatever they hold.

    These have no gradient and no curvature, so that every rule trains the others alone.

    Args:
        model: `model(params, x) -> outputs`, with `key=None` or without.
        mask: a tree of booleans or boolean arrays of the structure of the parameters; False is 0.

    Returns:
        A model of the same parameters.

    Example:
        >>> model = masked(lambda w, x: w @ x, jnp.array([True, False]))
        >>> jax.grad(model)(jnp.array([2.0, 3.0]), jnp.array([1.0, 1.0])).tolist()
        [1.0, 0.0]
    """
    model = keyed(model)

    def apply(params: PyTree, x: Any, *, key: Array | None = None) -> Any:
        return model(prune(params, mask), x, key=key)

    return apply


def prune(params: PyTree, mask: PyTree) -> PyTree:
    """The parameters with zeros where the mask is False.

    Args:
        params: the parameters.
        mask: a tree of booleans or boolean arrays of the structure of the parameters.

    Returns:
        A tree of the same structure.

    Example:
        >>> prune(jnp.array([2.0, 3.0]), jnp.array([True, False])).tolist()
        [2.0, 0.0]
    """
    return jax.tree.map(lambda p, keep: jnp.where(keep, p, 0), params, mask)


def low_rank(params: PyTree, rank: int) -> PyTree:
    """The parameters with each matrix replaced by the nearest product of two thinner ones.

    The factors are parameters again: `lambda factors, x: model(restored(factors), x)` trains them.
    As layers they are `dense(rank, bias=None)` and a `dense` with the old biases.

    Args:
        params: the parameters.
        rank: the rank of the products, at least 1. A matrix stays where its factors would not be
            smaller.

    Returns:
        A tree with a `LowRank` in place of each such matrix.

    Raises:
        ValueError: if `rank` is below 1.

    Source:
        Eckart and Young (1936), "The approximation of one matrix by another of lower rank",
        doi:10.1007/BF02288367.

    Example:
        >>> weight = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(4))
        >>> factors = low_rank({"weight": weight}, rank=1)["weight"]
        >>> factors.left.shape, bool(jnp.allclose(factors.restored(), weight, atol=1e-5))
        ((3, 1), True)
    """
    if rank < 1:
        raise ValueError(f"low_rank: expected rank >= 1, got {rank}; try 8")

    def factors(leaf: Any) -> Any:
        if jnp.ndim(leaf) != 2 or rank * sum(leaf.shape) >= leaf.size:
            return leaf
        left, values, right = jnp.linalg.svd(leaf, full_matrices=False)
        root = jnp.sqrt(values[:rank])
        return LowRank(left[:, :rank] * root, root[:, None] * right[:rank])

    return jax.tree.map(factors, params)


def quantized(params: PyTree) -> PyTree:
    """The parameters with weights in 8 bits, a quarter of the memory of single precision.

    The step of a unit is a 127th of its largest weight, and no weight moves by more than half a
    step. Zero stays zero.

    Args:
        params: the parameters.

    Returns:
        A tree with a `Quantized` in place of each leaf of two axes or more.

    Source:
        Krishnamoorthi (2018), "Quantizing deep convolutional networks for efficient inference",
        section 2.2 and 3.1.1 (symmetric, by channel), arXiv:1806.08342.

    Example:
        >>> small = quantized({"weight": jnp.array([[1.27, 0.0], [-0.5, 0.0]])})["weight"]
        >>> small.steps.tolist()
        [[127, 0], [-50, 0]]
    """

    def steps(leaf: Any) -> Any:
        if jnp.ndim(leaf) < 2:
            return leaf
        largest = jnp.max(jnp.abs(leaf), axis=tuple(range(leaf.ndim - 1)))
        size = jnp.where(largest > 0, largest / 127, 1)
        return Quantized(jnp.round(leaf / size).astype(jnp.int8), size)

    return jax.tree.map(steps, params)


def restored(params: PyTree) -> PyTree:
    """The parameters that a model takes, with products multiplied and steps counted.

    Args:
        params: a result of `low_rank` or `quantized`; other parameters stay as they are.

    Returns:
        A tree of arrays.

    Example:
        >>> restored({"weight": LowRank(jnp.ones((2, 1)), jnp.ones((1, 2)))})["weight"].tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """

    def is_compressed(leaf: Any) -> bool:
        return isinstance(leaf, LowRank | Quantized)

    return jax.tree.map(
        lambda leaf: leaf.restored() if is_compressed(leaf) else leaf,
        params,
        is_leaf=is_compressed,
    )


def size(params: PyTree) -> int:
    """How many bytes the arrays of a tree take.

    Args:
        params: parameters, compressed or not.

    Returns:
        The sum over its leaves.

    Example:
        >>> size(quantized({"weight": jnp.ones((100, 10), "float32")}))  # 1000 steps, 10 sizes
        1040
    """
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def distillation(temperature: float = 2.0, share: float = 0.5) -> Callable[[Array, Any], Scalar]:
    """A loss by which a small model learns the outputs of a larger one along with the classes.

        share T^2 H(softmax(teacher / T), softmax(outputs / T)) + (1 - share) H(target, outputs)

    H is the cross-entropy; a temperature T above 1 shows the student which of the wrong classes the
    teacher finds likely. The factor T^2 keeps the size of the teacher's gradient.

    Args:
        temperature: T > 0.
        share: the share of the teacher, in [0, 1].

    Returns:
        `loss(outputs, (teacher, target)) -> scalar`, where `teacher` are the teacher's logits and
        `target` is the class or a distribution over the classes.

    Raises:
        ValueError: if a number is out of range.

    Source:
        Hinton, Vinyals and Dean (2015), section 2, arXiv:1503.02531.

    Example:
        >>> loss = distillation(temperature=1.0, share=1.0)
        >>> logits = jnp.log(jnp.array([0.5, 0.5]))
        >>> print(loss(logits, (logits, 0)).round(4))
        0.6931
    """
    if not (temperature > 0 and 0 <= share <= 1):
        raise ValueError(
            "distillation: expected temperature > 0 and share in [0, 1], got "
            f"{temperature} and {share}; try distillation(2.0, 0.5)"
        )

    def loss(outputs: Float[Array, " k"], target: Any) -> Scalar:
        teacher, label = target
        teacher_loss = losses.softmax_cross_entropy(
            outputs / temperature, jax.nn.softmax(jnp.asarray(teacher) / temperature)
        )
        label_loss = losses.softmax_cross_entropy(outputs, label)
        return share * temperature**2 * teacher_loss + (1 - share) * label_loss

    return loss
