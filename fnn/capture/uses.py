"""What a use looks like: a sum of outer products, in a view of its parameters.

**Form.** A use `z = apply(a, W)` is linear in W. For the ones known here, W can be laid out as a
batch of matrices (b, i, o), so that the Jacobian of one output in W is

    J[b, i, o] = sum over positions t of left[b, t, i] * right[b, t, o]

with `left` read off the operand a and `right` off the delta of z. For `x @ W` of one position,
left = x and right = delta; for a convolution, the patches are the positions; a look-up has one-hot
rows on the left; a plain use, z = W, has left = 1 and right = delta. From this form everything
follows without J: see `captured`.

**View.** A parameter may be reshaped, transposed, cast, sliced or scaled by a number on its way to
W. As long as every entry of W is a number times an entry of its own of one leaf, the Gram matrix of
the leaf's Jacobian is that of W's. A view records which entries (as a function of an array of
indices, evaluated only when one leaf has several uses) and which numbers.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jaxtyping import Array


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
        aval: its shape and dtype, for one example.
        is_fixed: whether it is fixed, or data.
        leaves: the parameters that a fixed value depends on, differentiably.
        views: for some of its leaves, how its entries are entries of that leaf.
        broadcast: the equation and operands of a fixed value that repeats a smaller one.
    """

    aval: Any
    is_fixed: bool = False
    leaves: frozenset[int] = frozenset()
    views: Mapping[int, View] = dataclasses.field(default_factory=dict)
    broadcast: tuple[jex.JaxprEqn, Sequence["Value"]] | None = None


class Form(NamedTuple):
    """How a use is linear in its weight W.

    Attributes:
        apply: `(a, W) -> z`, in full precision.
        operand: the place of a among the equation's operands.
        shape: the numbers (b, t, i, o).
        matrix: lays W out as (b, i, o).
        left: lays a out as (b, t, i); None for ones.
        right: lays the delta of z out as (b, t, o).
        rows: turns a into the (t,) rows that a look-up reads, of which `left` is the one-hot form;
            -1 is no row.
    """

    apply: Callable[[Array, Array], Array]
    operand: int
    shape: tuple[int, int, int, int]
    matrix: Callable[[Any], Any]
    left: Callable[[Array], Array] | None
    right: Callable[[Array], Array]
    rows: Callable[[Array], Array] | None = None


def aval(atom: jex.Var | jex.Literal) -> Any:
    """The shape and dtype of a variable or literal."""
    return atom.aval


# --- views --------------------------------------------------------------------------------------


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
    return eqn.primitive.name in _MOVES or eqn.primitive.name == "split"


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
    if name == "neg":
        return [_negated(first)]
    if name in ("mul", "div"):
        for weight, scalar in (operands, operands[::-1]) if name == "mul" else (operands,):
            if not scalar.leaves and scalar.aval.shape == ():
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
        common = one.leaves & two.leaves
        return [{k: v for k, v in (dict(one.views) | two_views).items() if k not in common}]
    return [{} for _ in eqn.outvars]


def _moved(value: "Value", move: Callable[[Any], Any]) -> dict[int, View]:
    """The views of a value whose entries have been moved."""
    return {k: view._replace(moves=(*view.moves, move)) for k, view in value.views.items()}


def _negated(value: "Value") -> dict[int, View]:
    """The views of minus a value."""
    return {k: view._replace(negative=not view.negative) for k, view in value.views.items()}


# --- forms --------------------------------------------------------------------------------------


def plain(weight: Any) -> Form:
    """The use z = W."""
    shape = (1, 1, math.prod(weight.shape))
    return Form(
        apply=lambda _, w: w,
        operand=-1,
        shape=(1, *shape),
        matrix=lambda w: w.reshape(shape),
        left=None,
        right=lambda d: d.reshape(shape),
    )


def form(eqn: jex.JaxprEqn, weight: int) -> Form | None:
    """The form of an equation in its operand number `weight`, None where it is not known."""
    form_of = _FORMS.get(eqn.primitive.name)
    is_real = jnp.issubdtype(aval(eqn.outvars[0]).dtype, jnp.floating)
    return form_of(eqn, weight) if form_of and is_real else None


def _dot_general(eqn: jex.JaxprEqn, weight: int) -> Form:
    """A matrix product, whose positions are the free axes of the data."""
    dimensions = eqn.params["dimension_numbers"]
    data = 1 - weight
    contract, batch = dimensions
    shapes = [aval(v).shape for v in eqn.invars]
    free_axes = [
        [d for d in range(len(shapes[side])) if d not in contract[side] and d not in batch[side]]
        for side in (0, 1)
    ]
    b, i = (math.prod(shapes[weight][d] for d in axes[weight]) for axes in (batch, contract))
    t, o = (math.prod(shapes[side][d] for d in free_axes[side]) for side in (data, weight))

    def apply(a, w):
        a, w = (w, a) if data else (a, w)
        return lax.dot_general(a, w, dimensions, precision=lax.Precision.HIGHEST)

    return Form(
        apply=apply,
        operand=data,
        shape=(b, t, i, o),
        matrix=lambda w: w.transpose(*batch[weight], *contract[weight], *free_axes[weight]).reshape(
            b, i, o
        ),
        left=lambda a: a.transpose(*batch[data], *free_axes[data], *contract[data]).reshape(
            b, t, i
        ),
        right=lambda d: d.reshape(b, o, t).swapaxes(1, 2) if data else d.reshape(b, t, o),
    )


def _conv(eqn: jex.JaxprEqn, weight: int) -> Form | None:
    """A convolution, whose positions are the patches and whose batch are groups of features."""
    p = eqn.params
    if weight != 1 or p["batch_group_count"] != 1:
        return None
    data, kernel, result = (aval(v).shape for v in (*eqn.invars, *eqn.outvars))
    layout, groups = p["dimension_numbers"], p["feature_group_count"]
    window = [kernel[d] for d in layout.rhs_spec[2:]]
    o, i = kernel[layout.rhs_spec[0]], kernel[layout.rhs_spec[1]] * math.prod(window)
    t = data[layout.lhs_spec[0]] * math.prod(result[d] for d in layout.out_spec[2:])
    settings = {k: p[k] for k in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")}

    def left(a):
        patches = lax.conv_general_dilated_patches(
            a.transpose(layout.lhs_spec), window, **settings, precision=lax.Precision.HIGHEST
        )
        n = patches.shape[0]
        patches = patches.reshape(n, groups, i, -1)
        return patches.transpose(1, 0, 3, 2).reshape(groups, t, i)

    def right(d):
        d = d.transpose(layout.out_spec)
        d = d.reshape(d.shape[0], groups, o // groups, -1)
        return d.transpose(1, 0, 3, 2).reshape(groups, t, o // groups)

    return Form(
        apply=lambda a, w: lax.conv_general_dilated(
            a,
            w,
            **settings,
            dimension_numbers=layout,
            feature_group_count=groups,
            precision=lax.Precision.HIGHEST,
        ),
        operand=0,
        shape=(groups, t, i, o // groups),
        matrix=lambda w: (
            w.transpose(layout.rhs_spec).reshape(groups, o // groups, i).swapaxes(1, 2)
        ),
        left=left,
        right=right,
    )


def _gather(eqn: jex.JaxprEqn, weight: int) -> Form | None:
    """A look-up of rows, whose positions are the indices."""
    p, (table, indices) = eqn.params, map(aval, eqn.invars[:2])
    numbers = p["dimension_numbers"]
    axes = numbers.collapsed_slice_dims
    sizes = tuple(1 if d in axes else n for d, n in enumerate(table.shape))
    if (
        weight != 0
        or len(axes) != 1
        or axes != numbers.start_index_map
        or numbers.operand_batching_dims
        or p["slice_sizes"] != sizes
    ):
        return None
    (axis,) = axes
    batch = [d for d in range(len(aval(eqn.outvars[0]).shape)) if d not in numbers.offset_dims]
    size = table.shape[axis]

    def rows(i):
        i = i.reshape(-1).astype(int)
        if p["mode"] == lax.GatherScatterMode.CLIP:
            return i.clip(0, size - 1)
        return jnp.where((i >= 0) & (i < size), i, -1)

    return _look_up(
        apply=lambda i, w: lax.gather(w, i, numbers, sizes, mode=p["mode"], fill_value=0),
        table=table,
        axis=axis,
        t=math.prod(indices.shape[:-1]),
        rows=rows,
        right=lambda d: d.transpose(*batch, *numbers.offset_dims),
    )


def _dynamic_slice(eqn: jex.JaxprEqn, weight: int) -> Form | None:
    """A look-up of one row by a scalar index."""
    table, sizes = aval(eqn.invars[0]), eqn.params["slice_sizes"]
    axes = [d for d, n in enumerate(table.shape) if sizes[d] != n]
    if weight != 0 or len(axes) != 1 or sizes[axes[0]] != 1:
        return None
    (axis,) = axes
    return _look_up(
        apply=lambda i, w: lax.dynamic_slice_in_dim(w, i, 1, axis, allow_negative_indices=False),
        table=table,
        axis=axis,
        t=1,
        rows=lambda i: i.reshape(1).clip(0, table.shape[axis] - 1),
        right=lambda d: jnp.moveaxis(d, axis, 0),
    )._replace(operand=1 + axis)


def _look_up(
    apply: Callable[[Array, Array], Array],
    table: Any,
    axis: int,
    t: int,
    rows: Callable[[Array], Array],
    right: Callable[[Array], Array],
) -> Form:
    """A look-up along one axis: a product with one-hot rows, which the Gram matrix never forms."""
    v, o = table.shape[axis], math.prod(table.shape) // table.shape[axis]
    others = [d for d in range(len(table.shape)) if d != axis]
    return Form(
        apply=apply,
        operand=1,
        shape=(1, t, v, o),
        matrix=lambda w: w.transpose(axis, *others).reshape(1, v, o),
        left=lambda a: jax.nn.one_hot(rows(a), v, dtype=table.dtype)[None],
        right=lambda d: right(d).reshape(1, t, o),
        rows=rows,
    )


_FORMS: dict[str, Callable[[jex.JaxprEqn, int], Form | None]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
}
