"""What a use looks like: a sum of outer products.

A use `z = apply(a, W)` is linear in W. For the ones known here, W can be laid out as a batch of
matrices (b, i, o), so that the Jacobian of one output in W is

    J[b, i, o] = sum over positions t of left[b, t, i] * right[b, t, o]

with `left` read off the operand a and `right` off the delta of z. For `x @ W` of one position,
left = x and right = delta; for a convolution, the patches are the positions; a look-up has one-hot
rows on the left; a plain use, z = W, has left = 1 and right = delta. Iterations of a scan are more
positions where all of them read the same W, and more matrices where each reads its own. From this
form everything follows without J: see `captured`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jaxtyping import Array

from fnn.capture.views import Value, aval, mapped
from fnn.products import HIGHEST


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
        name: what it is called where its equation's own name says too little.
    """

    apply: Callable[[Array, Array], Array]
    operand: int
    shape: tuple[int, int, int, int]
    matrix: Callable[[Any], Any]
    left: Callable[[Array], Array] | None
    right: Callable[[Array], Array]
    rows: Callable[[Array], Array] | None = None
    name: str | None = None


LARGE = 256
"""A plain W with more numbers, as of learned positions, is not one matrix but one for each row."""


def plain(weight: Value) -> Form:
    """The use z = W: one row of numbers, or several rows; the same for each slice of a stack."""
    size, rows = math.prod(weight.aval.shape), math.prod(weight.aval.shape[:-1])
    b, o = (rows, size // rows) if size > LARGE else (1, size)
    form = Form(
        apply=lambda _, w: w,
        operand=-1,
        shape=(b, 1, 1, o),
        matrix=lambda w: w.reshape(b, 1, o),
        left=None,
        right=lambda d: d.reshape(b, 1, o),
    )
    for loop in reversed(weight.stack):
        form = over_slices(form, loop.length)
    return form


def over_positions(form: Form, length: int) -> Form:
    """The form of all iterations of a scan that read the same weight: more positions."""
    b, t, i, o = form.shape

    def side(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(b, length * t, x.shape[-1])

    return _lifted(form, (b, length * t, i, o), form.matrix, side, None)._replace(
        rows=form.rows and (lambda a, rows=form.rows: jax.vmap(rows)(a).reshape(-1))
    )


def over_slices(form: Form, length: int) -> Form:
    """The form of all iterations of a scan that read slices of their own: more matrices."""
    b, t, i, o = form.shape
    matrices, shape = mapped(form.matrix), (length * b, t, i, o)

    def side(x: Array) -> Array:
        return x.reshape(length * b, t, x.shape[-1])

    return _lifted(form, shape, lambda w: matrices(w).reshape(length * b, i, o), side, 0)


def _lifted(
    form: Form,
    shape: tuple[int, int, int, int],
    matrix: Callable[[Any], Any],
    side: Callable[[Array], Array],
    weight_axis: int | None,
) -> Form:
    """A form over the iterations of a scan, whose left and right `side` puts together."""
    left = form.left
    apply = jax.vmap(form.apply, (0, weight_axis)) if left else form.apply
    return Form(
        apply=apply,
        operand=form.operand,
        shape=shape,
        matrix=matrix,
        left=left and (lambda a: side(jax.vmap(left)(a))),
        right=lambda d: side(jax.vmap(form.right)(d)),
        name=form.name,
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
        return lax.dot_general(a, w, dimensions, precision=HIGHEST)

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
    to, of, *taps = layout.rhs_spec
    o, i = kernel[to], kernel[of] * math.prod(window)
    t = data[layout.lhs_spec[0]] * math.prod(result[d] for d in layout.out_spec[2:])
    settings = {k: p[k] for k in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")}

    def left(a):
        examples, channels, *space = layout.lhs_spec
        patches = _patches(a.transpose(examples, *space, channels), window, **settings)
        patches = patches.reshape(t, math.prod(window), groups, kernel[of])
        return patches.transpose(2, 0, 1, 3).reshape(groups, t, i)

    def right(d):
        n, features, *places = layout.out_spec
        d = d.transpose(n, *places, features).reshape(t, groups, o // groups)
        return d.swapaxes(0, 1)

    def matrix(w):
        return w.transpose(*taps, of, to).reshape(i, groups, o // groups).swapaxes(0, 1)

    return Form(
        apply=lambda a, w: lax.conv_general_dilated(
            a,
            w,
            **settings,
            dimension_numbers=layout,
            feature_group_count=groups,
            precision=HIGHEST,
        ),
        operand=0,
        shape=(groups, t, i, o // groups),
        matrix=matrix,
        left=left,
        right=right,
        name=_conv_name(window, groups, i),
    )


def _patches(
    a: Array,
    window: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
) -> Array:
    """What a window sees at every place: (n, *positions, c) as (n, *places, *window, c)."""
    # `conv_general_dilated_patches` multiplies by ones and zeros, and takes three to ten times as
    # long on a CPU.
    widths = [(*pad, d - 1) for pad, d in zip(padding, lhs_dilation, strict=True)]
    a = lax.pad(a, jnp.zeros((), a.dtype), [(0, 0, 0), *widths, (0, 0, 0)])
    slides = zip(window, window_strides, rhs_dilation, strict=True)
    for axis, (size, stride, step) in enumerate(slides):
        at = 1 + 2 * axis
        if size == 1:
            a = jnp.expand_dims(lax.slice_in_dim(a, 0, None, stride, at), at + 1)
            continue
        starts = np.arange(0, a.shape[at] - (size - 1) * step, stride)
        indices = starts[:, None] + step * np.arange(size)
        a = a.at[(slice(None),) * at + (indices,)].get(mode="promise_in_bounds")
    places, taps = range(1, a.ndim - 1, 2), range(2, a.ndim - 1, 2)
    return a.transpose(0, *places, *taps, a.ndim - 1)


def _conv_name(window: Sequence[int], groups: int, fan_in: int) -> str:
    """What a convolution is."""
    size = " x ".join(map(str, window))
    if groups == 1:
        return f"{size} convolution"
    if fan_in == math.prod(window):
        return f"{size} depthwise convolution"
    return f"{size} convolution in {groups} groups"


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
