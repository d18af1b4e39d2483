"""The derivative of a solution: how a minimum moves with the data and numbers that made it.

At a stationary point params of a value function, grad(params; leaves) = 0. Where its Hessian H is
regular, the point is a function of the leaves of the value function, with the derivative

    d params = -H^-1 (d grad / d leaves) d leaves

whatever way the solver took. The leaves are data, weights of examples, and scales such as the
weight of an `l2`.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, PyTree, Scalar

from fnn import devices, solvers
from fnn.curvature.operators import Operator, operator_of
from fnn.curvature.quadratic import Quadratic, gauss_newton_system, hessian_system
from fnn.curvature.terms import require_real
from fnn.objective import ValueFunction
from fnn.products import dot

MakeSystem = Callable[[Any, PyTree], Quadratic]

_MOST = 4096
"""Parameters of a matrix that is factored without being asked for: as float64 with its inverse, and
what LAPACK needs beside them, 0.8 GiB."""


def implicit(
    value_fn: Callable[[PyTree], Scalar],
    params: PyTree,
    *,
    system: MakeSystem = hessian_system,
    solver: solvers.Solver | None = None,
) -> PyTree:
    """The same parameters, as a differentiable function of the leaves of a value function.

    The derivative is that of the stationary point, -H^-1 d grad, by the implicit function theorem:
    the way there, and `params` as an argument, have none. Forward and reverse mode, `jit` and
    `vmap` as usual; once, not twice. Where H is singular the step of least norm is taken: of all
    curves of solutions the one that moves least.

    It holds at a point that is stationary, and is as wrong as that is not: train to the end, by
    `newton` or `levenberg_marquardt` in float64. Where numbers are known, not within a `jit`, it
    warns of a point from which a Newton step would lead far, and of curvature that is negative (a
    saddle or a ridge, whose derivative it gives).

    Args:
        value_fn: what `params` minimize: made by `Objective.on`, penalties and sums of them, or
            any other function of the parameters. It is differentiated in all that is traced in it:
            data, weights and scales, and what a function reads besides its arguments.
        params: the solution, of real floating-point leaves.
        system: which curvature stands for H: `hessian_system`, exact; or `gauss_newton_system`,
            which is cheaper and leaves out residuals times second derivatives of the model, and
            sees what is traced in data, weights and scales alone.
        solver: None factors H once, densely, for any number of derivatives. Of the others
            `solvers.dual()` suits `gauss_newton_system` with fewer rows than parameters and an
            `l2`; `solvers.conjugate_gradients(iterations, tolerance)` large networks: the
            derivative has its tolerance. What it does not solve is NaN.

    Units:
        d params / d leaf is params / leaf.

    Returns:
        The parameters. (Those that are not real raise a TypeError, as numbers do that
        `gauss_newton_system` would not see; a second derivative, a NotImplementedError.)

    Raises:
        TypeError: if what is minimized is no function.
        ValueError: if there are more parameters than a dense matrix is made of unasked.

    Source:
        Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 35 (2022),
        arXiv:2105.15183; Krantz and Parks, "The implicit function theorem" (2002).

    Example:
        >>> from fnn.objective import Objective, l2
        >>> line = Objective(lambda w, x: w * x, lambda y, t: 0.5 * (y - t) ** 2)
        >>> def solution(weight):  # w = 6 / (1 + weight)
        ...     value_fn = line.on((jnp.array([1.0]), jnp.array([6.0]))) + l2(weight)
        ...     return implicit(value_fn, jnp.array(3.0))
        >>> print(solution(1.0), jax.grad(solution)(1.0))
        3.0 -1.5
    """
    if not callable(value_fn):
        raise TypeError(
            f"implicit: expected a value function, got {type(value_fn).__name__}; try "
            "objective.on(data), or any function of the parameters"
        )
    params = jax.lax.stop_gradient(require_real("implicit", params))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if solver is None and size > _MOST:
        raise ValueError(
            f"implicit: expected at most {_MOST} parameters for a dense matrix, got {size}; try "
            "solver=solvers.conjugate_gradients(1000, 1e-8), or "
            "value_fn.freeze for leaves that stay"
        )
    value_fn = _with_leaves(value_fn, params, system)
    leaves, structure = jax.tree.flatten(value_fn)
    return _implicit(_Problem(structure, system, solver), params, list(map(jnp.asarray, leaves)))


class _Problem(NamedTuple):
    """What of a problem is no array."""

    structure: Any
    system: MakeSystem
    solver: solvers.Solver | None


def _with_leaves(value_fn: Callable[[PyTree], Scalar], params: PyTree, system: MakeSystem) -> Any:
    """The function as a tree that has all traced numbers among its leaves, the hidden ones too."""
    parts, structure = jax.tree.flatten(value_fn)
    are_arrays = [isinstance(part, jax.Array | np.ndarray | np.generic) for part in parts]
    arrays = [part for part, is_array in zip(parts, are_arrays, strict=True) if is_array]

    def called(params: PyTree, arrays: list) -> Scalar:
        own = iter(arrays)  # whatever else is in it, names and functions, stays as it is
        pairs = zip(parts, are_arrays, strict=True)
        return structure.unflatten(next(own) if is_array else p for p, is_array in pairs)(params)

    fn, hidden = _with_arguments(called, params, arrays)
    if isinstance(value_fn, ValueFunction):
        if not hidden:
            return value_fn
        if system is gauss_newton_system:
            raise TypeError(
                "implicit: expected traced numbers among data, weights and scales, since "
                f"gauss_newton_system looks into model and loss, got {len(hidden)} that these read "
                "besides their arguments; try to make them part of the inputs of every example, or "
                "curvature.hessian_system, which takes any function"
            )
    return jax.tree_util.Partial(_called, jax.tree_util.Partial(fn), arrays, hidden)


def _with_arguments(called: Callable, params: PyTree, arrays: list) -> tuple[Callable, list]:
    """A function that takes whatever is traced in it, keys and integers too; and that."""
    closed = jax.make_jaxpr(called)(params, arrays)
    are_traced = [devices.is_traced(const) for const in closed.consts]

    def fn(params: PyTree, arrays: list, *hidden: Array) -> Scalar:
        own = iter(hidden)
        pairs = zip(closed.consts, are_traced, strict=True)
        consts = [next(own) if is_traced else const for const, is_traced in pairs]
        run = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))
        (value,) = run(*jax.tree.leaves((params, arrays)))
        return value

    hidden = [
        const for const, is_traced in zip(closed.consts, are_traced, strict=True) if is_traced
    ]
    return fn, hidden


def _called(fn: Callable[..., Scalar], leaves: list, hidden: list, params: PyTree) -> Scalar:
    """A function of the parameters, its leaves, and the numbers that were hidden in it."""
    return fn(params, leaves, *hidden)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _implicit(problem: _Problem, params: PyTree, leaves: list) -> PyTree:
    """The parameters, of which the rule below says how they move with the leaves."""
    del problem, leaves
    return params


@_implicit.defjvp
def _derivative(
    problem: _Problem, primals: tuple[PyTree, list], tangents: tuple[PyTree, list]
) -> tuple[PyTree, PyTree]:
    """-H^-1 (d grad / d leaves) d leaves; linear in the tangents, so that it can be transposed."""
    params, leaves = primals
    moving = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    here = [_once(leaves[i]) for i in moving]

    def at(numbers: list) -> Any:
        all_leaves = list(leaves)
        for i, number in zip(moving, numbers, strict=True):
            all_leaves[i] = number
        return problem.structure.unflatten(all_leaves)

    def grad(numbers: list) -> PyTree:
        return jax.grad(at(numbers))(params)

    operator = operator_of(quadratic := problem.system(at(here), params))
    solve, is_negative = _solve(quadratic, operator, problem.solver)
    if not devices.is_traced((params, leaves)):
        _warn_of_no_minimum(params, operator.grad, solve(operator.grad), is_negative)
    _, d_grad = jax.jvp(grad, (here,), ([tangents[1][i] for i in moving],))
    moved = jax.lax.custom_linear_solve(
        operator.product, d_grad, lambda _, right: solve(right), symmetric=True
    )
    return params, jax.tree.map(jnp.negative, moved)


def _solve(
    quadratic: Quadratic, operator: Operator, solver: solvers.Solver | None
) -> tuple[Callable[[PyTree], PyTree], Bool[Array, ""]]:
    """H^-1 as a function, and whether H has negative curvature; what H alone decides is done."""
    if solver is not None:
        trial = solver.prepare(quadratic.system)
        s = None if quadratic.rhs.s is None else jnp.zeros_like(quadratic.rhs.s)

        def solve(right: PyTree) -> PyTree:
            solution = trial(solvers.RightHandSide(s, right), 0.0)
            return jax.tree.map(lambda leaf: jnp.where(solution.ok, -leaf, jnp.nan), solution.step)

        start = trial(solvers.RightHandSide(s, operator.grad), 0.0)
        return solve, start.counts.negative > 0
    matrix = operator.dense()
    rungs = solvers.ladder(
        matrix, jnp.eye(len(matrix), dtype=matrix.dtype), spectrum=solvers.signed
    )
    inverse = jnp.where(rungs.counts.rejected > 0, jnp.nan, rungs.inverse)

    def times(right: PyTree) -> PyTree:
        flat, unravel = ravel_pytree(right)
        return unravel(dot(inverse, flat))

    return times, rungs.counts.negative > 0


# What is no first derivative, and no minimum ------------------------------------------------------


@jax.custom_jvp
def _once(leaf: Array) -> Array:
    """The same array, which may not be differentiated again."""
    return leaf


@_once.defjvp
def _twice(*_: Any) -> Any:
    raise NotImplementedError(
        "implicit: expected to be differentiated once, got a second derivative; try finite "
        "differences of the first"
    )


def _warn_of_no_minimum(params: PyTree, grad: PyTree, step: PyTree, is_negative: Array) -> None:
    """Warns where the point is not stationary, or no minimum: the numbers are known."""
    length, size, slope = (float(optax.tree.norm(tree)) for tree in (step, params, grad))
    eps = float(jnp.finfo(ravel_pytree(params)[0].dtype).eps)
    # The derivative is off by about the part by which the parameters are: half the digits of a
    # gradient that rounding leaves are asked for, twice over.
    if not length <= eps**0.25 * (size or 1.0):
        warnings.warn(
            f"implicit: expected a stationary point, got one with a gradient of norm {slope:.2g}, "
            f"from which a Newton step leads {length:.2g} away, beside parameters of norm "
            f"{size:.2g}: the derivative there is not that of a solution. Try to train to the end, "
            "by rules.newton or rules.levenberg_marquardt, in float64.",
            stacklevel=2,
        )
    elif is_negative:
        warnings.warn(
            "implicit: expected a minimum, got negative curvature: the derivative is that of a "
            "saddle. Try rules.saddle_free_newton or rules.trust_region_newton, which leave it.",
            stacklevel=2,
        )
