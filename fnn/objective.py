"""Objectives: what is minimized, as pure functions of the parameters.

A model answers for one example, `model(params, x) -> outputs`, and a loss judges that answer,
`loss(outputs, target) -> scalar`. An `Objective` is the pair; put on data it is a *value function*,

    value_fn = objective.on((inputs, targets))
    value_fn(params)    # mean loss over the examples

which adds and scales like the functions of calculus:

    value_fn = interior.on(x) + 100.0 * boundary.on(xb) + l2(1e-4)

A value function is a pytree. Its arrays (data, weights, keys, scale factors) are leaves and its
functions (model, loss) are structure, compared by identity: pass it *through* `jax.jit` and a new
batch never recompiles. A second-order rule looks into it: `value_fn.terms` are the weighted blocks
whose models and losses make up the curvature.

What a block does with its examples is said in `batches`.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Key, PyTree, Scalar

from fnn.arrays import as_arrays
from fnn.batches import Block as Block
from fnn.batches import Loss as Loss
from fnn.batches import Model as Model
from fnn.batches import accumulate as accumulate
from fnn.batches import answers, count_examples, guarded, require_weights
from fnn.box import Box
from fnn.dtypes import wide as wide
from fnn.layers import without_key
from fnn.names import EXAMPLES as EXAMPLES
from fnn.names import SCOPE as SCOPE
from fnn.names import name_of

__all__ = [
    "EXAMPLES",
    "SCOPE",
    "Block",
    "Known",
    "Loss",
    "Model",
    "Objective",
    "Penalty",
    "Term",
    "ValueFunction",
    "accumulate",
    "keyed",
    "l1",
    "l2",
    "merge",
    "penalty",
    "wide",
]
__dir__ = __all__.copy


# Objective ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Objective:
    """A model and the loss that judges its outputs.

    Make it once and reuse it: compiled code is kept by the identity of `model` and `loss`.

    Args:
        model: `model(params, x) -> outputs` for one example; with dropout or the like,
            `model(params, x, *, key=None)`.
        loss: `loss(outputs, target) -> scalar` for one example. Without one the objective is half
            the sum of squares of a residual `model(params, x)`, and its data are inputs alone.
        penalty: a value function that needs no data, added to the mean loss by `on`. Written
            `objective + l2(1e-4)`.

    Example:
        >>> import jax.numpy as jnp
        >>> line = Objective(lambda w, x: w * x, lambda y, t: 0.5 * (y - t) ** 2)
        >>> value_fn = line.on((jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])))
        >>> float(value_fn(1.0)), float(value_fn(2.0))
        (1.25, 0.0)
    """

    model: Model
    loss: Loss | None = None
    penalty: "ValueFunction | None" = None

    def on(
        self,
        data: PyTree,
        *,
        weights: Float[Array, " n"] | None = None,
        key: Key[Array, ""] | None = None,
        chunk: int | None = None,
    ) -> "ValueFunction":
        """The mean loss over data, as a function of the parameters.

        Args:
            data: `(inputs, targets)`, trees of arrays whose first axis counts the examples; for an
                objective without a loss, the inputs alone. A TypeError refuses what is no array of
                numbers, a nested list for one, which JAX takes for a tree.
            weights: w >= 0 of each example, not all 0; the mean is sum(w l) / sum(w). Weight 2 is
                an example given twice. Weight 0 is padding, whatever it holds: another example is
                evaluated in its place.
            key: split into one key per example, given to the model as `key=`. Its presence means
                training (dropout on), its absence inference.
            chunk: evaluate at most this many examples at a time, in constant memory: some fewer
                where that cuts the data evenly (else they are copied, to fill up the last chunk).
                Batch normalization then takes its means over a chunk.

        Returns:
            A value function, `value_fn(params) -> scalar`.

        Raises:
            ValueError: if data is not a pair, arrays disagree on the number of examples, there are
                none, `weights` has another shape or (where it is not traced) a number that is
                negative or not finite or nothing but zeros, or `chunk` is not positive.
        """
        inputs, targets = self._split(data)
        inputs = as_arrays("Objective.on", "inputs", inputs)
        targets = as_arrays("Objective.on", "targets", targets)
        n = count_examples(inputs, targets)
        if chunk is not None and chunk < 1:
            raise ValueError(
                f"Objective.on: expected chunk >= 1, got {chunk}; try None for all at once"
            )
        keys = None if key is None else jax.random.split(key, n)
        if weights is not None:  # a NaN in the padding would pass through a product with 0
            weights = require_weights("Objective.on", weights, n)
            inputs, targets = jax.tree.map(guarded(weights > 0), (inputs, targets))
        block = Block(inputs, targets, weights, keys, self.model, self.loss, chunk)
        value_fn = ValueFunction((Term(1.0, block),))
        return value_fn if self.penalty is None else value_fn + self.penalty

    def outputs(self, params: PyTree, inputs: PyTree) -> PyTree:
        """The model's outputs for every example, without a key (inference).

        Args:
            params: the model's parameters.
            inputs: a tree of arrays whose first axis counts the examples.

        Returns:
            The outputs, stacked along a first axis.
        """
        inputs = as_arrays("Objective.outputs", "inputs", inputs)
        count_examples(inputs, None)
        return answers(self.model, params, inputs)

    @property
    def takes_key(self) -> bool:
        """Whether the model has a parameter named `key`."""
        try:
            return "key" in inspect.signature(self.model).parameters
        except (TypeError, ValueError):  # built-in callables have no signature
            return False

    def __add__(self, penalty: "ValueFunction") -> "Objective":
        """The objective whose value functions carry one more penalty."""
        if not isinstance(penalty, ValueFunction):
            return NotImplemented
        return replace(self, penalty=penalty if self.penalty is None else self.penalty + penalty)

    def __repr__(self) -> str:
        """The objective by the names of its functions."""
        penalty = "" if self.penalty is None else f" + {_described(self.penalty)}"
        return f"<objective: {_judged(self.model, self.loss)}{penalty}>"

    def _split(self, data: PyTree) -> tuple[PyTree, PyTree]:
        if self.loss is None:
            return data, None
        if not (isinstance(data, tuple | list) and len(data) == 2):
            raise ValueError(
                f"Objective.on: expected data = (inputs, targets), got {_describe(data)}; try "
                "(inputs, targets), or an objective without a loss, which takes inputs alone"
            )
        return data[0], data[1]


def keyed(model: Model) -> Model:
    """A model that takes a key, whether it reads it or not.

    Args:
        model: `model(params, x) -> outputs`, with `key=None` or without.

    Returns:
        The model itself, or one that leaves its key unread.

    Example:
        >>> keyed(lambda w, x: w * x)(2.0, 3.0, key=None)
        6.0
    """
    return model if Objective(model).takes_key else without_key(model)


# Value functions ----------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ValueFunction:
    """A weighted sum of blocks, each a function of the parameters.

    Made by `Objective.on`, `penalty`, `l1` and `l2`; combined by `+`, `*` and `sum`.
    """

    terms: tuple["Term", ...]

    def __call__(self, params: PyTree) -> Scalar:
        """The value at `params`."""
        return functools.reduce(operator.add, (term(params) for term in self.terms))

    def __add__(self, other: "ValueFunction | int") -> "ValueFunction":
        """The sum with another value function (or with the 0 that `sum` starts from)."""
        if isinstance(other, ValueFunction):
            return ValueFunction(self.terms + other.terms)
        return self if isinstance(other, int) and other == 0 else NotImplemented

    __radd__ = __add__

    def __mul__(self, factor: float | Scalar) -> "ValueFunction":
        """The product with a number."""
        if jnp.ndim(factor) != 0:  # also raises where `factor` is not a number at all
            return NotImplemented
        return ValueFunction(tuple(t._replace(scale=factor * t.scale) for t in self.terms))

    __rmul__ = __mul__

    def __neg__(self) -> "ValueFunction":
        """The negative."""
        return -1.0 * self

    def __sub__(self, other: "ValueFunction") -> "ValueFunction":
        """The difference."""
        return self + -other

    def __truediv__(self, divisor: float | Scalar) -> "ValueFunction":
        """The quotient by a number."""
        return (1.0 / divisor) * self

    def freeze(self, params: PyTree, mask: PyTree) -> "ValueFunction":
        """The same function of the leaves that stay free, the others being held.

        Args:
            params: the parameters, all of them.
            mask: a tree of booleans of the same structure; True leaves are frozen.

        Returns:
            A value function of the free leaves: `params` with None in place of each frozen leaf.

        Raises:
            ValueError: if the mask has another structure than the parameters.

        Example:
            >>> import jax.numpy as jnp
            >>> params = {"a": jnp.array(3.0), "b": jnp.array(4.0)}
            >>> value_fn = l2(1.0).freeze(params, {"a": True, "b": False})
            >>> float(value_fn({"a": None, "b": jnp.array(1.0)}))  # (3^2 + 1^2) / 2
            5.0
        """
        if jax.tree.structure(mask) != jax.tree.structure(params):
            raise ValueError(
                "freeze: expected a mask of the structure of params, "
                f"{jax.tree.structure(params)}, got {jax.tree.structure(mask)}; try "
                "jax.tree.map(lambda leaf: ..., params)"
            )
        held = jax.tree.map(lambda p, m: p if m else None, params, mask)
        return ValueFunction(tuple(t._replace(held=merge(held, t.held)) for t in self.terms))

    def __repr__(self) -> str:
        """The sum in words, without its arrays."""
        return f"<value function: {_described(self)}>"

    @property
    def blocks(self) -> "list[Block]":
        """The blocks of examples, without the penalties."""
        return [term.block for term in self.terms if isinstance(term.block, Block)]

    def within(self, box: Box) -> "ValueFunction":
        """The same function of the parameters' projection onto a box, what is held being constant.

        Args:
            box: bounds of the parameters, with what is held.

        Returns:
            A value function of the same parameters; `box` says that it is confined.

        Raises:
            ValueError: if it is confined already.
        """
        if self.box is not None:
            raise ValueError(
                "within: expected a value function without bounds, got one with; try one "
                "rules.bounded with all of them"
            )
        return ValueFunction(tuple(t._replace(box=box) for t in self.terms))

    @property
    def box(self) -> Box | None:
        """The box that the parameters are projected onto, if there is one."""
        return self.terms[0].box if self.terms else None

    def map_blocks(self, fn: Callable[[Block], "Block | Penalty"]) -> "ValueFunction":
        """The same sum with another block in place of each block of examples.

        Args:
            fn: `fn(block) -> block`, called for the blocks in their order; penalties, which have no
                examples, stay as they are.

        Returns:
            A value function with the same scales and held leaves.

        Example:
            >>> import jax.numpy as jnp
            >>> value_fn = Objective(lambda w, x: w * x).on(jnp.arange(4.0)) + l2(0.1)
            >>> halves = value_fn.map_blocks(lambda block: replace(block, chunk=2))
            >>> [term.block.chunk for term in halves.terms if isinstance(term.block, Block)]
            [2]
        """
        return ValueFunction(
            tuple(
                term._replace(block=fn(term.block)) if isinstance(term.block, Block) else term
                for term in self.terms
            )
        )

    def sample(self, key: Key[Array, ""], examples: int) -> "ValueFunction":
        """An unbiased estimate of the same function from some of the examples.

        Args:
            key: of the draw, with replacement, an example of weight 2 twice as often.
            examples: how many of each block, at least 1; blocks with no more than that stay whole.

        Returns:
            A value function of the same parameters.

        Raises:
            ValueError: if `examples` is not positive.

        Example:
            >>> import jax.numpy as jnp
            >>> value_fn = Objective(lambda w, x: w * x).on(jnp.arange(1000.0))
            >>> some = value_fn.sample(jax.random.key(0), 100)
            >>> some.terms[0].block.count
            100
        """
        if examples < 1:
            raise ValueError(f"sample: expected examples >= 1, got {examples}")
        keys = jax.random.split(key, len(self.terms))
        pairs = zip(keys, self.terms, strict=True)
        own = iter([key for key, term in pairs if isinstance(term.block, Block)])
        return self.map_blocks(lambda block: block.sample(next(own), examples))


class Term(NamedTuple):
    """One summand of a value function: `scale * block(params)`, some leaves perhaps held.

    Attributes:
        scale: its factor.
        block: what is a function of the parameters.
        held: the leaves that the parameters lack.
        box: what the parameters are projected onto.
    """

    scale: float | Scalar
    block: "Block | Penalty"
    held: PyTree = None
    box: Box | None = None

    def __call__(self, params: PyTree) -> Scalar:
        """The value at `params`, which lack the held leaves."""
        return self.scale * self.block(self.whole(params))

    def whole(self, params: PyTree) -> PyTree:
        """The parameters that the block sees.

        Args:
            params: parameters without the held leaves, perhaps out of bounds.

        Returns:
            All of them, within the box.
        """
        params = merge(params, self.held)
        return params if self.box is None else self.box.hold(params)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Known:
    """A boolean that is structure, not a leaf, and so stays known through `jax.jit`."""

    value: bool


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Penalty:
    """A function of the parameters alone, of those leaves that `where` selects.

    `where` is None, or a tree of `Known` booleans and boolean arrays.
    """

    where: PyTree | None
    fn: Callable[[PyTree], Scalar] = field(metadata={"static": True})

    def __call__(self, params: PyTree) -> Scalar:
        """The value at `params`."""
        if self.where is not None:
            params = jax.tree.map(
                lambda p, m: None if p is None else jnp.where(getattr(m, "value", m), p, 0),
                params,
                self.where,
                is_leaf=lambda leaf: leaf is None,
            )
        with jax.named_scope(SCOPE):
            return self.fn(params)

    @property
    def is_half_squared_norm(self) -> bool:
        """Whether the Hessian is the identity on the selected leaves."""
        return self.fn is _half_squared_norm


def penalty(fn: Callable[[PyTree], Scalar]) -> ValueFunction:
    """A function of the parameters as a value function.

    Args:
        fn: `fn(params) -> scalar`.

    Returns:
        A value function.

    Example:
        >>> import jax.numpy as jnp
        >>> value_fn = 2.0 * penalty(lambda w: jnp.sum(w**4))
        >>> float(value_fn(jnp.array([1.0, 2.0])))
        34.0
    """
    return ValueFunction((Term(1.0, Penalty(None, fn)),))


def l2(weight: float | Scalar, *, where: PyTree | None = None) -> ValueFunction:
    """Weight decay: weight / 2 times the sum of squares of the parameters.

    Args:
        weight: at least 0; a negative number raises a ValueError.
        where: a tree of booleans of the structure of the parameters; True leaves are penalized.
            By default all are. Booleans are structure, like functions; boolean arrays are leaves.

    Units:
        `weight` is loss / params^2.

    Returns:
        A value function.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"weight": jnp.array([3.0]), "bias": jnp.array([1.0])}
        >>> float(l2(0.5, where={"weight": True, "bias": False})(params))
        2.25
    """
    return _weighted("l2", weight, where, _half_squared_norm)


def l1(weight: float | Scalar, *, where: PyTree | None = None) -> ValueFunction:
    """The lasso's penalty: weight times the sum of absolute values of the parameters.

    Args:
        weight: at least 0; a negative number raises a ValueError.
        where: a tree of booleans of the structure of the parameters; True leaves are penalized.
            By default all are. Booleans are structure, like functions; boolean arrays are leaves.

    Units:
        `weight` is loss / params.

    Returns:
        A value function.

    Example:
        >>> import jax.numpy as jnp
        >>> float(l1(0.5)(jnp.array([3.0, -1.0])))
        2.0
    """
    return _weighted("l1", weight, where, _sum_of_absolute_values)


def merge(free: PyTree, held: PyTree | None) -> PyTree:
    """The tree `free` with its None leaves filled from `held`.

    Args:
        free: a tree, None where a leaf is missing.
        held: the missing leaves in the same places, None elsewhere; or None, nothing to fill.

    Returns:
        The whole tree.

    Raises:
        ValueError: if a leaf is both given and held.

    Example:
        >>> merge({"a": None, "b": 2.0}, {"a": 1.0, "b": None})
        {'a': 1.0, 'b': 2.0}
    """
    if held is None:
        return free

    def is_none(leaf: Any) -> bool:
        return leaf is None

    given = jax.tree.leaves_with_path(free, is_leaf=is_none)
    for (path, leaf), kept in zip(given, jax.tree.leaves(held, is_leaf=is_none), strict=False):
        if leaf is not None and kept is not None:
            raise ValueError(
                f"freeze: expected None in place of the frozen leaf params"
                f"{jax.tree_util.keystr(path)}, got an array; try the free leaves alone"
            )
    return jax.tree.map(lambda f, h: h if f is None else f, free, held, is_leaf=is_none)


def _weighted(
    name: str, weight: float | Scalar, where: PyTree | None, fn: Callable[[PyTree], Scalar]
) -> ValueFunction:
    if isinstance(weight, int | float) and not weight >= 0:
        raise ValueError(
            f"{name}: expected a weight of at least 0, got {weight}; try 0.0 for no penalty"
        )
    known = jax.tree.map(lambda m: Known(bool(m)) if isinstance(m, bool | np.bool) else m, where)
    return ValueFunction((Term(1.0 * weight, Penalty(known, fn)),))


def _half_squared_norm(params: PyTree) -> Scalar:
    """The penalty of `l2`, whose Hessian is the identity."""
    return 0.5 * optax.tree.norm(params, squared=True)


def _sum_of_absolute_values(params: PyTree) -> Scalar:
    return optax.tree.norm(params, ord=1)


def _described(value_fn: ValueFunction) -> str:
    """The terms of a sum in words, each behind its scale if that is not 1."""
    terms = []
    for scale, block, *_ in value_fn.terms:
        number = isinstance(scale, int | float | np.number)
        factor = f"{scale:.3g} * " if number and scale != 1 else "" if number else "(array) * "
        if isinstance(block, Block):
            judged = _judged(block.model, block.loss)
            terms.append(f"{factor}mean over {_counted(block)} of {judged}")
        else:
            terms.append(f"{factor}penalty {name_of(block.fn)}")
    return " + ".join(terms)


def _counted(block: Block) -> str:
    """How many examples there are, if that is known: leaves may be anything that JAX puts there."""
    leaf, *_ = [x for x in jax.tree.leaves(block.inputs) if getattr(x, "shape", ())] or [None]
    if leaf is None:
        return "examples"
    return f"{leaf.shape[0]:,} example{'' if leaf.shape[0] == 1 else 's'}"


def _judged(model: Model, loss: Loss | None) -> str:
    """A model and its loss by their names."""
    if loss is None:
        return f"half the squares of {name_of(model)}"
    return f"{name_of(loss)} of {name_of(model)}"


def _describe(data: PyTree) -> str:
    """What `data` is, for an error that expected a pair."""
    if hasattr(data, "shape"):
        return f"one array of shape {data.shape}"
    return f"a {type(data).__name__} of {len(data)}" if hasattr(data, "__len__") else repr(data)
