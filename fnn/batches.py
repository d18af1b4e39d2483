"""The mean of a loss over examples: the only file that knows about batches.

A `Block` holds the examples of one objective and is their mean loss, as a function of the
parameters. Weights, keys, chunks, sampling and padding are its affair, and it holds the only `vmap`
over examples. Its axis is named `examples`, so that batch normalization can take means over it.
"""

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, PyTree, Scalar

from fnn import devices, foreign
from fnn.dtypes import wide
from fnn.names import EXAMPLES, SCOPE

Model = Callable[..., Any]
Loss = Callable[[Any, Any], Scalar]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Block:
    """The mean loss of one model over examples, sum(w l) / sum(w), a `chunk` at a time."""

    inputs: PyTree
    targets: PyTree
    weights: Float[Array, " n"] | None
    keys: Key[Array, " n"] | None
    model: Model = field(metadata={"static": True})
    loss: Loss | None = field(metadata={"static": True})
    chunk: int | None = field(metadata={"static": True})

    def __call__(self, params: PyTree) -> Scalar:
        """The mean loss at `params`."""
        if self.chunk is None:
            return self.mean(self._losses(params))

        # Chunks are rematerialized, so that the backward pass too holds one at a time. They read a
        # wide copy of the parameters, so that gradients too are summed in single precision.
        copy = jax.tree.map(wide, params)

        @jax.checkpoint
        def sums(part: Block) -> tuple[Scalar, Scalar, Scalar]:
            own = jax.tree.map(lambda c, p: c.astype(jnp.result_type(p)), copy, params)
            losses = part._losses(own)
            return *part._sums(losses), jnp.zeros((), losses.dtype)

        total, weight, like = accumulate(sums, self.chunks())
        return share(total, weight).astype(like.dtype)

    @property
    def count(self) -> int:
        """The number of examples."""
        return count_examples(self.inputs, self.targets)

    def mean(self, losses: Array) -> Scalar:
        """The mean sum(w l) / sum(w) of the examples' losses, summed in at least single precision.

        It is 0 where all weights are 0, as they may be in a mini-batch.

        Args:
            losses: one for each example; in a block of `chunks`, for each chunk and example.

        Returns:
            The mean, in the dtype of the losses.
        """
        total, weight = self._sums(losses)
        return share(total, weight).astype(losses.dtype)

    def chunks(self) -> "Block":
        """The block cut into parts of `chunk` examples.

        Neighbors share a part. On several devices, where neighbors share a device, a part has
        examples that lie apart, so that every device has its share of every part.

        Returns:
            A block with one more leading axis on every leaf, which `lax.scan` walks along. Where no
            number from `chunk` down to half of it divides the examples, the last example fills up
            the last part, at weight 0.
        """
        n = self.count
        size = n if self.chunk is None else min(self.chunk, n)
        size = next((d for d in range(size, size // 2, -1) if n % d == 0), size)
        parts = -(-n // size)
        index = jnp.minimum(jnp.arange(parts * size), n - 1)
        weights = self.weights
        if n % size:
            weights = jnp.ones(n) if weights is None else weights
            weights = jnp.where(jnp.arange(parts * size) < n, weights[index], 0)

        def cut(leaf: Array) -> Array:
            rows = leaf if len(leaf) == parts * size else jnp.asarray(leaf)[index]
            if self._is_split:
                return rows.reshape(size, parts, *leaf.shape[1:]).swapaxes(0, 1)
            return rows.reshape(parts, size, *leaf.shape[1:])

        arrays = (self.inputs, self.targets, weights, self.keys)
        inputs, targets, weights, keys = jax.tree.map(cut, arrays)
        return Block(inputs, targets, weights, keys, self.model, self.loss, chunk=None)

    def joined(self, parts: Array) -> Array:
        """Results for the examples of all `chunks`, in the order of the examples.

        Args:
            parts: a result for each chunk and example.

        Returns:
            A result for each example.
        """
        parts = parts.swapaxes(0, 1) if self._is_split else parts
        return parts.reshape(-1, *parts.shape[2:])[: self.count]

    @property
    def _is_split(self) -> bool:
        """Whether the examples are split over several devices."""
        return devices.count((self.inputs, self.targets)) > 1

    def sample(self, key: Key[Array, ""], examples: int) -> "Block":
        """A block of some of the examples, drawn with probabilities in proportion to their weights.

        Args:
            key: the key of the draw.
            examples: the number of examples to draw.

        Returns:
            A block without weights, or this block if it has no more examples than that.
        """
        if examples >= self.count:
            return self
        weights = None if self.weights is None else share(self.weights, jnp.sum(self.weights))
        index = jax.random.choice(key, self.count, (examples,), p=weights)
        arrays = (self.inputs, self.targets, self.keys)
        inputs, targets, keys = jax.tree.map(lambda a: jnp.asarray(a)[index], arrays)
        return replace(self, inputs=inputs, targets=targets, weights=None, keys=keys)

    def answer(self, params: PyTree, x: PyTree, key: Array | None) -> PyTree:
        """The model's outputs for one example.

        Args:
            params: the model's parameters.
            x: the example.
            key: the key that the model is given, if there is one.

        Returns:
            The outputs; of a complex residual its real and its imaginary part.
        """
        outputs = answer(self.model, params, x, key)
        with jax.named_scope(SCOPE):
            return jax.tree.map(_real, outputs) if self.loss is None else outputs

    def judge(self, outputs: PyTree, target: PyTree) -> Scalar:
        """The loss of one example.

        Args:
            outputs: the model's outputs.
            target: the target; None without a loss.

        Returns:
            The loss, or half the sum of squares of the outputs without one.

        Raises:
            ValueError: if the loss is not a scalar.
        """
        if self.loss is None:
            squares = [jnp.sum(jnp.square(r)) for r in jax.tree.leaves(outputs)]
            return 0.5 * functools.reduce(operator.add, squares)
        try:
            value = self.loss(outputs, target)
        except Exception as error:
            if better := foreign.loss_error(error, outputs, target):
                raise better from error
            raise
        if jnp.shape(value) != ():
            raise ValueError(
                "Objective: expected the loss of one example to be a scalar, "
                f"got shape {jnp.shape(value)}; try to sum over the outputs in the loss"
            )
        return value

    def _losses(self, params: PyTree) -> Float[Array, " n"]:
        """The loss of every example."""

        def loss(x: PyTree, target: PyTree, key: Array | None) -> Scalar:
            return self.judge(self.answer(params, x, key), target)

        return jax.vmap(loss, axis_name=EXAMPLES)(self.inputs, self.targets, self.keys)

    def _sums(self, losses: Array) -> tuple[Scalar, Scalar]:
        """The sums of the weighted losses and of the weights, in at least single precision."""
        losses = wide(losses)
        if self.weights is None:
            return jnp.sum(losses), jnp.full((), losses.size, losses.dtype)
        weights = self.weights.astype(losses.dtype)
        return jnp.sum(weights * losses), jnp.sum(weights)


def answer(model: Model, params: PyTree, x: PyTree, key: Array | None = None) -> PyTree:
    """The model's outputs for one example, or a better error than its own.

    Args:
        model: the model.
        params: its parameters.
        x: the example.
        key: the key that the model is given, if there is one.

    Returns:
        The outputs.
    """
    with jax.named_scope(SCOPE):
        try:
            return model(params, x) if key is None else model(params, x, key=key)
        except Exception as error:
            if better := foreign.model_error(error, x):
                raise better from error
            raise


def answers(model: Model, params: PyTree, inputs: PyTree) -> PyTree:
    """The model's outputs for every example, without a key (inference).

    Args:
        model: the model.
        params: its parameters.
        inputs: the examples, along the first axis of every array.

    Returns:
        The outputs, stacked along a first axis.
    """
    return jax.vmap(lambda x: answer(model, params, x), axis_name=EXAMPLES)(inputs)


def require_hashable(name: str, *functions: Any) -> None:
    """Functions, by whose identity or hash compiled programs are kept.

    Args:
        name: of who asks, for the error.
        *functions: the functions; what cannot be called is left alone.

    Raises:
        TypeError: if one of them cannot be hashed.
    """
    for fn in functions:
        if not callable(fn):
            continue
        try:
            hash(fn)
        except TypeError:
            raise TypeError(
                f"{name}: expected functions that can be hashed, got {type(fn).__name__}, an "
                "object with __eq__ and without __hash__; try @dataclass(frozen=True) or eq=False, "
                "or a function around it"
            ) from None


def _real(residual: Array) -> PyTree:
    """A residual as real numbers, whose squares add up to the square of its absolute value."""
    if not jnp.iscomplexobj(residual):
        return residual
    return jnp.real(residual), jnp.imag(residual)


def accumulate(fn: Callable[[Any], PyTree], parts: PyTree) -> PyTree:
    """The sum of a function's results for all parts, summed in at least single precision.

    (In half precision a sum of ones stays at 256 or 2048.)

    Args:
        fn: `fn(part) -> tree of arrays`.
        parts: a tree of arrays, whose first axis counts the parts.

    Returns:
        The sums, in the dtypes of the results.

    Example:
        >>> import jax.numpy as jnp
        >>> print(accumulate(jnp.sum, jnp.ones((1000, 3), jnp.bfloat16)))
        3008
    """
    shapes = jax.eval_shape(fn, jax.tree.map(lambda a: a[0], parts))

    def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
        return jax.tree.map(lambda t, a: t + wide(a), total, fn(part)), None

    zeros = jax.tree.map(lambda a: wide(jnp.zeros(a.shape, a.dtype)), shapes)
    total, _ = jax.lax.scan(add, zeros, parts)
    return jax.tree.map(lambda t, a: t.astype(a.dtype), total, shapes)


def guarded(is_real: Bool[Array, " n"]) -> Callable[[Any], Array]:
    """A function that puts the first real example in place of each that is not real."""
    first = jnp.argmax(is_real)

    def fill(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)

        def where(condition: Array, other: Array | int) -> Array:
            return jnp.where(condition.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, other)

        example = leaf[first]
        if devices.count(leaf) > 1 and jnp.issubdtype(leaf.dtype, jnp.number):
            # For a sum one example travels between devices, for an index all of them would.
            example = jnp.sum(where(jnp.arange(len(leaf)) == first, 0), axis=0, dtype=leaf.dtype)
        return where(is_real, example)

    return fill


def require_weights(name: str, weights: Any, n: int) -> Array:
    """Weights as an array of length n; where known, finite and none negative nor all 0.

    Args:
        name: of who asks, for the error.
        weights: one number for each example.
        n: how many examples there are.

    Returns:
        The array.

    Raises:
        ValueError: if they have another shape, or other numbers.
    """
    array = jnp.asarray(weights)
    if array.shape != (n,):
        raise ValueError(
            f"{name}: expected weights of shape ({n},), one for each example, got "
            f"{array.shape}; try jnp.ones({n}), or None"
        )
    try:
        known = np.asarray(array)  # as the dtype holds them
    except jax.errors.TracerArrayConversionError:  # traced values are not checked
        return array
    is_good = (known >= 0) & np.isfinite(known)
    if not np.all(is_good):
        raise ValueError(
            f"{name}: expected finite weights >= 0, got one of {known[~is_good][0]} at index "
            f"{int(np.argmin(is_good))}; try 0 to leave an example out"
        )
    if not known.any():
        raise ValueError(
            f"{name}: expected a weight above 0, got {n} that are all 0; try None, for examples "
            "that count alike"
        )
    return array


def share(number: Any, total: Array | int) -> Array:
    """A part of a total; 0 where the total is 0, as of a batch whose examples are all left out.

    Args:
        number: the part.
        total: a number, at least 0.

    Returns:
        The quotient.
    """
    return number / (total if isinstance(total, int) else jnp.where(total > 0, total, 1))


def count_examples(inputs: PyTree, targets: PyTree) -> int:
    """The common length of the first axes; an error names the array that differs."""
    lengths = {}
    for name, tree in (("inputs", inputs), ("targets", targets)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            shape = jnp.shape(leaf)
            if not shape:
                raise ValueError(
                    f"Objective: expected arrays whose first axis counts the examples, got the "
                    f"scalar {name}{jax.tree_util.keystr(path)}; try x[None] for a single example"
                )
            lengths[f"{name}{jax.tree_util.keystr(path)}"] = shape[0]
    if not lengths:
        raise ValueError(
            "Objective: expected arrays of examples, got none; try (inputs, targets), one of them "
            "an array"
        )
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name}: {n}" for name, n in lengths.items())
        is_list = isinstance(inputs, list) or isinstance(targets, list)
        raise ValueError(
            f"Objective: expected the same number of examples everywhere, got {listed}; try the "
            "examples along the first axis of each"
            f"{', and np.stack in place of a list' if is_list else ''}"
        )
    n = next(iter(lengths.values()))
    if n == 0:
        raise ValueError(
            "Objective: expected at least one example, got an empty batch; try to skip it"
        )
    return n
