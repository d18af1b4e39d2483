"""What the walk knows of a value, and which entries of its parameters a value is made of.

A parameter may be reshaped, transposed, cast, sliced or scaled by a number on its way to data. As
long as every entry of a fixed value is a number times an entry of its own of one leaf, it is a
*view* of that leaf, and the Gram matrix of the leaf's Jacobian is that of the value's. A view
records which entries (as a function of an array of indices, evaluated only when one leaf has
several uses) and which numbers.

In a scan over weights that are stacked, the weights of one iteration are a slice of what is fixed.
Such a value is *stacked*: inside of its loops it is the slice, outside it has one more axis in
front for each of them.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core as jex


@dataclasses.dataclass(eq=False)
class Loop:
    """A scan that the walk is in, known by identity.

    Attributes:
        length: the number of its iterations.
        depth: how many scans are around it.
        values: those that are stacked over its iterations, in the order of the walk.
    """

    length: int
    depth: int
    values: list["Value"] = dataclasses.field(default_factory=list)


class View(NamedTuple):
    """Every entry of a fixed value as a number times an entry of one leaf.

    Attributes:
        moves: the rearrangements of an array that lead from the leaf to the value, in order.
        scale: fixed scalars and powers; the number is the product of the scalars to these powers.
        negative: whether the number is also multiplied by -1.
    """

    moves: tuple[Callable[[Any], Any], ...] = ()
    scale: tuple[tuple["Value", int], ...] = ()
    negative: bool = False

    def __call__(self, indices: Any) -> Any:
        """The leaf's own array of indices, laid out like the value."""
        for move in self.moves:
            indices = move(indices)
        return indices


@dataclasses.dataclass(eq=False)
class Value:
    """A value of the program, known by identity.

    Attributes:
        aval: its shape and dtype, for one example and one iteration of its loops.
        is_fixed: whether it is fixed, or data.
        leaves: the parameters that a fixed value depends on, differentiably.
        views: for some of its leaves, how its entries are entries of that leaf.
        broadcast: the equation and operands of a fixed value that repeats a smaller one.
        stack: the loops over whose iterations it is stacked, outermost first.
    """

    aval: Any
    is_fixed: bool = False
    leaves: frozenset[int] = frozenset()
    views: Mapping[int, View] = dataclasses.field(default_factory=dict)
    broadcast: tuple[jex.JaxprEqn, Sequence["Value"]] | None = None
    stack: tuple[Loop, ...] = ()

    def __post_init__(self) -> None:
        """Tells its loops that they have a slice to take."""
        for loop in self.stack:
            loop.values.append(self)

    @property
    def whole(self) -> jax.ShapeDtypeStruct:
        """Its shape and dtype outside of its loops."""
        lengths = (loop.length for loop in self.stack)
        return jax.ShapeDtypeStruct((*lengths, *self.aval.shape), self.aval.dtype)


def aval(atom: jex.Var | jex.Literal) -> Any:
    """The shape and dtype of a variable or literal."""
    return atom.aval


def stack_of(operands: Sequence[Value]) -> tuple[Loop, ...]:
    """The loops over which a result of these operands is stacked, outermost first."""
    loops = {loop for value in operands for loop in value.stack}
    return tuple(sorted(loops, key=lambda loop: loop.depth))


def mapped(fn: Callable[[Any], Any], depth: int = 1) -> Callable[[Any], Any]:
    """A function over the first axes of an array, of NumPy (indices) or of JAX."""
    if depth == 0:
        return fn
    inner = mapped(fn, depth - 1)

    def over_first_axis(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return np.stack([inner(part) for part in x])
        return jax.vmap(inner)(x)

    return over_first_axis


def _slices(starts, limits, strides):
    """The Python slices of a `slice` equation."""
    return tuple(map(slice, starts, limits, strides or (1,) * len(starts)))


_MOVES: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "reshape": lambda p: lambda x: x.reshape(p["new_sizes"]),
    "transpose": lambda p: lambda x: x.transpose(p["permutation"]),
    "squeeze": lambda p: lambda x: x.squeeze(p["dimensions"]),
    "broadcast_in_dim": lambda p: lambda x: x.reshape(p["shape"]),
    "slice": lambda p: lambda x: x[_slices(p["start_indices"], p["limit_indices"], p["strides"])],
    "rev": lambda p: lambda x: np.flip(x, p["dimensions"]),
    "convert_element_type": lambda _: lambda x: x,
    "copy": lambda _: lambda x: x,
}
_SUMS = {"add", "sub", "add_any"}


def is_view(eqn: jex.JaxprEqn) -> bool:
    """Whether an equation only moves entries."""
    return eqn.primitive.name in _MOVES or eqn.primitive.name in ("split", "unstack")


def views(eqn: jex.JaxprEqn, operands: Sequence["Value"]) -> list[dict[int, View]]:
    """For each result of an equation among fixed values, the leaves it is a view of."""
    name, p = eqn.primitive.name, eqn.params
    if not any(value.leaves for value in operands):
        return [{} for _ in eqn.outvars]
    first, result = operands[0], aval(eqn.outvars[0])

    if name in _MOVES and (name != "broadcast_in_dim" or result.size == first.aval.size):
        return [_moved(first, _MOVES[name](p))]
    if name == "split":
        ends = np.cumsum(p["sizes"])[:-1]
        return [
            _moved(first, lambda x, i=i: np.split(x, ends, p["axis"])[i])
            for i in range(len(p["sizes"]))
        ]
    if name == "unstack":
        before = (slice(None),) * p["axis"]
        return [_moved(first, lambda x, i=i: x[*before, i]) for i in range(len(eqn.outvars))]
    if name == "neg":
        return [_negated(first)]
    if name in ("mul", "div"):
        for weight, scalar in (operands, operands[::-1]) if name == "mul" else (operands,):
            if not (scalar.leaves or scalar.stack or scalar.aval.shape):
                power = 1 if name == "mul" else -1
                return [
                    {
                        leaf: view._replace(scale=(*view.scale, (scalar, power)))
                        for leaf, view in weight.views.items()
                    }
                ]
    if name in _SUMS and all(v.aval.shape == result.shape for v in operands):
        one, two = operands
        two_views = _negated(two) if name == "sub" else dict(two.views)
        found = dict(one.views) | two_views
        stack = stack_of(operands)  # What is not stacked over all of it is repeated.
        repeated = [v.leaves for v in operands if v.stack != stack]
        hidden = (one.leaves & two.leaves).union(*repeated)
        return [{leaf: view for leaf, view in found.items() if leaf not in hidden}]
    return [{} for _ in eqn.outvars]


def _moved(value: "Value", move: Callable[[Any], Any]) -> dict[int, View]:
    """The views of a value whose entries have been moved, in every slice alike."""
    move = mapped(move, len(value.stack))
    return {k: view._replace(moves=(*view.moves, move)) for k, view in value.views.items()}


def _negated(value: "Value") -> dict[int, View]:
    """The views of minus a value."""
    return {k: view._replace(negative=not view.negative) for k, view in value.views.items()}
