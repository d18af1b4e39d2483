"""Floating-point operations of a function, counted from its jaxpr.

XLA's own cost analysis sees the body of a loop once and almost nothing of a factorization. This
count multiplies a `scan` by its length and takes linear algebra from the formulas of the textbook,
so that two algorithms can be compared before either has run. The conventions:

- A matrix product or convolution costs two per multiplication and addition; taps of a convolution
  that fall on padding, or into the holes of a dilated input, cost nothing.
- Anything elementwise costs one per element of its result, transcendental or not, and so does an
  equation that this module does not know. A reduction costs one per element read.
- Moving, reshaping and casting data is free, and so is arithmetic on integers and booleans alone
  (indices, counters, random bits). A complex number counts as one number, except in an FFT.
- A `scan` costs its length times its body, a `cond` its dearest branch, and a `while` one trip,
  because the number of trips is not known.
- What no result needs is not counted, because the compiler deletes it.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array

from fnn.programs import calls, equations


class Tally(NamedTuple):
    """Flops of a function.

    Attributes:
        flops: all of them.
        within: those of what was traced under a `jax.named_scope`, and of its derivatives.
    """

    flops: float | Array
    within: float | Array


def count(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """The number of floating-point operations of `fn(*args, **kwargs)`.

    Nothing is run: arguments may be arrays or `jax.ShapeDtypeStruct`s, and under `jax.jit` tracers.

    Args:
        fn: a function of pytrees of arrays that JAX can trace; bind anything else with
            `functools.partial`.
        *args: its positional arguments.
        **kwargs: its keyword arguments.

    Returns:
        The count, by the conventions of this module.

    Source: linear algebra, leading orders: Golub and Van Loan, Matrix Computations, 4th ed. (2013).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import flops
        >>> weight = jax.ShapeDtypeStruct((4, 8), "float32")
        >>> flops.count(lambda weight, x: jnp.tanh(x @ weight), weight, jnp.ones(4, "float32"))
        72.0
    """
    return float(count_within("", fn, *args, **kwargs).flops)


def count_within(scope: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Tally:
    """The same count, and how much of it belongs to a `jax.named_scope`.

    Args:
        scope: the name of the scope; everything is within the empty one.
        fn: as of `count`.
        *args: its positional arguments.
        **kwargs: its keyword arguments.

    Returns:
        Both counts.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from fnn import flops
        >>> def fn(x):
        ...     with jax.named_scope("inner"):
        ...         y = jnp.tanh(x)
        ...     return y + 1
        >>> flops.count_within("inner", fn, jnp.ones(4))
        Tally(flops=8.0, within=4.0)
    """
    jaxpr = jax.make_jaxpr(fn)(*args, **kwargs).jaxpr
    return Tally(*map(float, walk(jaxpr, [True] * len(jaxpr.outvars), scope)[0]))


class Dearest(NamedTuple):
    """Flops of the dearest equations of a program, by who computes them on a CPU; and their number.

    Attributes:
        elementwise: of anything but products, convolutions and factorizations: XLA's own loops.
        factorization: of the largest matrix that LAPACK factors, n^3 / 3 as for Cholesky, whatever
            the kind: the dearer ones mostly stand in branches of last resort. 0 without any.
        equations: how many there are.
    """

    elementwise: float
    factorization: float
    equations: int


def dearest(program: core.ClosedJaxpr) -> Dearest:
    """The flops of the dearest single equations, which say what more threads are good for.

    Calls, loops and branches are entered, and what is in them counts once.

    Args:
        program: a jaxpr, such as `jax.jit(fn).trace(*args).jaxpr`.

    Returns:
        The dearest elementwise equation, the dearest factorization, and the number of all.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> dearest(jax.make_jaxpr(lambda a: jnp.linalg.cholesky(a @ a) + 1)(jnp.ones((6, 6))))
        Dearest(elementwise=36.0, factorization=72.0, equations=13)
    """
    elementwise, factorization, number = 0.0, 0.0, len(program.jaxpr.eqns)
    for eqn in program.jaxpr.eqns:
        name, bodies = eqn.primitive.name, list(calls.bodies(eqn))
        if name in equations.LAPACK:
            short, long = sorted(_shape(eqn.invars[0])[-2:])
            factorization = max(factorization, short**2 * long / 3)
        elif not bodies and name not in ("dot_general", "conv_general_dilated"):
            flops = float(_equation(eqn, [True] * len(eqn.outvars), "")[0][0])
            elementwise = max(elementwise, flops)
        for body in bodies:
            within = dearest(body)
            elementwise = max(elementwise, within.elementwise)
            factorization = max(factorization, within.factorization)
            number += within.equations
    return Dearest(elementwise, factorization, number)


class Living(NamedTuple):
    """An equation that a result needs: which of its results, and its flops as a `Tally`."""

    eqn: core.JaxprEqn
    wanted: list[bool]
    tally: np.ndarray


def living(jaxpr: core.Jaxpr, live: Sequence[bool], scope: str) -> tuple[list[Living], list[bool]]:
    """The equations that the live outputs need, in order, and for each input whether it is read."""
    read = {var for var, alive in zip(jaxpr.outvars, live, strict=True) if alive and _is_var(var)}
    needed = []
    for eqn in reversed(jaxpr.eqns):
        wanted = [var in read for var in eqn.outvars]
        if any(wanted) or eqn.effects:
            tally, used = _equation(eqn, wanted, narrowed(scope, eqn))
            needed.append(Living(eqn, wanted, tally))
            read.update(v for v, u in zip(eqn.invars, used, strict=True) if u and _is_var(v))
    return needed[::-1], [var in read for var in jaxpr.invars]


def walk(jaxpr: core.Jaxpr, live: Sequence[bool], scope: str) -> tuple[np.ndarray, list[bool]]:
    """The flops that the live outputs need, a `Tally` as an array, and which inputs they read."""
    needed, used = living(jaxpr, live, scope)
    return sum((one.tally for one in needed), np.zeros(2)), used


def narrowed(scope: str, eqn: core.JaxprEqn) -> str:
    """The scope for the inside of an equation: the empty one where all of it is within."""
    return "" if scope in str(eqn.source_info.name_stack) else scope


def _tally(flops: float, scope: str) -> np.ndarray:
    """A `Tally` as an array; under the empty scope all flops are within."""
    return np.array([flops, 0.0 if scope else flops])


def _equation(
    eqn: core.JaxprEqn, live: Sequence[bool], scope: str
) -> tuple[np.ndarray, list[bool]]:
    """The same for one equation: the flops that its live results need, and the inputs they read."""
    name, everything = eqn.primitive.name, [True] * len(eqn.invars)
    if name == "scan":
        return _scan(eqn, list(live), scope)
    if name == "while":
        trip = (eqn.params["cond_jaxpr"].jaxpr, eqn.params["body_jaxpr"].jaxpr)
        parts = [walk(part, [True] * len(part.outvars), scope)[0] for part in trip]
        return parts[0] + parts[1], everything
    if name == "cond":
        branches = [walk(branch.jaxpr, live, scope) for branch in eqn.params["branches"]]
        used = [any(column) for column in zip(*(used for _, used in branches), strict=True)]
        return max((tally for tally, _ in branches), key=lambda tally: tally[0]), [True, *used]
    if name == "custom_linear_solve":
        solve = eqn.params["jaxprs"].solve.jaxpr
        return walk(solve, [True] * len(solve.outvars), scope)[0], everything
    floating = any(_is_float(var) for var in [*eqn.invars, *eqn.outvars])
    if name in _FORMULAS:
        return _tally(float(_FORMULAS[name](eqn)) if floating else 0.0, scope), everything
    if (body := calls.called(eqn)) is not None:
        return walk(body.jaxpr, live, scope)
    if not floating or name in _FREE:
        return np.zeros(2), everything
    return _tally(float(sum(_size(var) for var in eqn.outvars)), scope), everything


def _scan(eqn: core.JaxprEqn, live: list[bool], scope: str) -> tuple[np.ndarray, list[bool]]:
    """A scan: a part of the carry is live as soon as a live result of any later step reads it."""
    consts, carry = equations.scan_arity(eqn)
    while True:
        tally, used = walk(eqn.params["jaxpr"].jaxpr, live, scope)
        carried = [a or b for a, b in zip(live[:carry], used[consts : consts + carry], strict=True)]
        if carried == live[:carry]:
            return eqn.params["length"] * tally, used
        live = carried + live[carry:]


def _is_var(atom: object) -> bool:
    return not isinstance(atom, core.Literal)


def _is_float(var: Any) -> bool:
    return jnp.issubdtype(getattr(var.aval, "dtype", np.bool_), np.inexact)


def _shape(var: Any) -> tuple[int, ...]:
    return getattr(var.aval, "shape", ())


def _size(var: Any) -> int:
    return math.prod(_shape(var))


def _operands(eqn: core.JaxprEqn) -> int:
    return sum(_size(var) for var in eqn.invars)


def _dot_general(eqn: core.JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2 * _size(eqn.outvars[0]) * math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)


def _convolution(eqn: core.JaxprEqn) -> int:
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    lhs, rhs, out = (_shape(var) for var in (*eqn.invars, *eqn.outvars))
    hits = 1
    for axis, (low, _) in enumerate(params["padding"]):
        size = lhs[numbers.lhs_spec[2 + axis]]
        taps = np.arange(rhs[numbers.rhs_spec[2 + axis]]) * params["rhs_dilation"][axis]
        starts = np.arange(out[numbers.out_spec[2 + axis]]) * params["window_strides"][axis] - low
        index, hole = np.divmod(starts[:, None] + taps, params["lhs_dilation"][axis])
        hits *= int(np.sum((hole == 0) & (index >= 0) & (index < size)))
    batch, features = (out[axis] for axis in numbers.out_spec[:2])
    return 2 * batch * features * rhs[numbers.rhs_spec[1]] * hits


def _window(eqn: core.JaxprEqn) -> int:
    """A window of the larger array for every element of the smaller one."""
    places = min(_size(eqn.invars[0]), _size(eqn.outvars[0]))
    return places * math.prod(eqn.params["window_dimensions"])


def _scatter(eqn: core.JaxprEqn) -> int:
    """One for each element of the updates, which come last; what they are added to is copied."""
    return _size(eqn.invars[-1])


def _generic_reduce(eqn: core.JaxprEqn) -> float:
    body = eqn.params["jaxpr"].jaxpr
    return _size(eqn.invars[0]) * walk(body, [True] * len(body.outvars), "")[0][0]


def _sort(eqn: core.JaxprEqn) -> float:
    length = _shape(eqn.invars[0])[eqn.params["dimension"]]
    return _size(eqn.invars[0]) * math.log2(max(length, 1))


def _top_k(eqn: core.JaxprEqn) -> float:
    return _size(eqn.invars[0]) * math.log2(max(eqn.params["k"], 2))


def _fft(eqn: core.JaxprEqn) -> float:
    """5 n log2 n for n complex points, half of it where one side is real."""
    points = math.prod(eqn.params["fft_lengths"])
    elements = max(_size(eqn.invars[0]), _size(eqn.outvars[0]))
    kinds = (jax.lax.FftType.FFT, jax.lax.FftType.IFFT)
    factor = 5.0 if eqn.params["fft_type"] in kinds else 2.5
    return factor * elements * math.log2(max(points, 1))


def _matrices(flops: Callable[[int, int], float]) -> Callable[[core.JaxprEqn], float]:
    """A formula for a matrix with m >= n, as one for a stack of matrices, tall or wide."""

    def formula(eqn: core.JaxprEqn) -> float:
        *stack, rows, columns = _shape(eqn.invars[0])
        return math.prod(stack) * flops(max(rows, columns), min(rows, columns))

    return formula


def _svd(eqn: core.JaxprEqn) -> float:
    if not eqn.params["compute_uv"]:
        return _matrices(lambda m, n: 2 * m * n**2 + 2 * n**3)(eqn)
    if eqn.params["full_matrices"]:
        return _matrices(lambda m, n: 4 * m**2 * n + 22 * n**3)(eqn)
    return _matrices(lambda m, n: 6 * m * n**2 + 20 * n**3)(eqn)


def _qr(eqn: core.JaxprEqn) -> float:
    """The factorization, and Q from its n reflections: n columns of Q, or all m."""
    factor = _matrices(lambda m, n: 2 * m * n**2 - 2 * n**3 / 3)(eqn)
    if not eqn.params["full_matrices"]:
        return 2 * factor
    return factor + _matrices(lambda m, n: 4 * m**2 * n - 4 * m * n**2 + 4 * n**3 / 3)(eqn)


def _triangular_solve(eqn: core.JaxprEqn) -> int:
    """For each element of the solution, a product with half a row of the matrix."""
    return _shape(eqn.invars[0])[-1] * _size(eqn.outvars[0])


def _householder_product(eqn: core.JaxprEqn) -> float:
    *stack, rows, columns = _shape(eqn.invars[0])
    k = _shape(eqn.invars[1])[-1]
    return math.prod(stack) * (4 * rows * columns * k - 2 * (rows + columns) * k**2 + 4 * k**3 / 3)


# fmt: off
_FREE = frozenset((
    "all_gather", "all_to_all", "bitcast_convert_type", "broadcast_in_dim", "complex",
    "concatenate", "convert_element_type", "copy", "copy_p", "device_put", "dynamic_slice",
    "dynamic_update_slice", "empty2", "gather", "imag", "iota", "name", "optimization_barrier",
    "pad", "ppermute", "pvary", "real", "reduce_precision", "reshape", "rev", "scatter",
    "sharding_constraint", "slice", "split", "squeeze", "stack", "stop_gradient", "tile",
    "transpose", "unstack",
))
_REDUCTIONS = (
    "argmax", "argmin", "pmax", "pmin", "psum",
    "reduce_max", "reduce_min", "reduce_prod", "reduce_sum",
)
_WINDOWS = (
    "reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum",
    "select_and_gather_add", "select_and_scatter_add",
)
# fmt: on

_FORMULAS: dict[str, Callable[[core.JaxprEqn], float]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    **dict.fromkeys(_REDUCTIONS, _operands),
    **dict.fromkeys(_WINDOWS, _window),
    **dict.fromkeys(("scatter-add", "scatter-mul", "scatter-min", "scatter-max"), _scatter),
    "reduce": _generic_reduce,
    "sort": _sort,
    "top_k": _top_k,
    "fft": _fft,
    "cholesky": _matrices(lambda _, n: n**3 / 3),
    "triangular_solve": _triangular_solve,
    "lu": _matrices(lambda m, n: m * n**2 - n**3 / 3),
    "qr": _qr,
    "geqrf": _matrices(lambda m, n: 2 * m * n**2 - 2 * n**3 / 3),
    "geqp3": _matrices(lambda m, n: 2 * m * n**2 - 2 * n**3 / 3),
    "householder_product": _householder_product,
    "eigh": _matrices(lambda _, n: 9 * n**3),
    "svd": _svd,
    "eig": _matrices(lambda _, n: 25 * n**3),
    "schur": _matrices(lambda _, n: 25 * n**3),
    "hessenberg": _matrices(lambda _, n: 10 * n**3 / 3),
    "tridiagonal": _matrices(lambda _, n: 4 * n**3 / 3),
    "tridiagonal_solve": lambda eqn: 8 * _size(eqn.outvars[0]),
}
