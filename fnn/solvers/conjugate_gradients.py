"""Conjugate gradients: the step from products with the curvature alone."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn.solvers.system import (
    Counts,
    RightHandSide,
    Solution,
    Solver,
    System,
    cast,
    conclude,
    gradient,
    inner,
    largest_entry,
    needs,
    require_matching,
    shift_of,
    widen,
)

Preconditioner = Callable[[System, PyTree], Callable[[PyTree], PyTree]]


def jacobi(
    system: System, scaling: PyTree, power: Array | float = 1.0
) -> Callable[[PyTree], PyTree]:
    """The preconditioner `1 / (diag C + D)^power`; 1 where that diagonal is not positive.

    Args:
        system: A system with `diagonal`.
        scaling: D, a tree.
        power: Martens (2010) takes 0.75.

    Returns:
        The map from a residual to the preconditioned one.

    >>> from fnn.solvers import from_rows
    >>> system = from_rows(jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2))
    >>> jacobi(system, jnp.zeros(2))(jnp.array([3.0, 4.0])).tolist()
    [3.0, 1.0]
    """
    (entries,) = needs(system, "jacobi", "diagonal")
    weights = optax.tree.add(widen(system, entries()), scaling)
    weights = jax.tree.map(lambda w: (jnp.where(w > 0, w, 1.0) ** power).astype(w.dtype), weights)
    return lambda residual: optax.tree.div(residual, weights)


class Iterate(NamedTuple):
    """Where conjugate gradients are.

    Attributes:
        step: d.
        residual: `-g - (C + D) d`.
        direction: p, along which the next iteration goes.
        product: That of the residual with the preconditioned residual.
        largest: The largest curvature `p . (C + D) p / |p|^2` so far, in whose scale it is judged
            whether a curvature is positive.
        steps: How many iterations there were.
        negative: Whether p had no positive curvature.
    """

    step: PyTree
    residual: PyTree
    direction: PyTree
    product: Float[Array, ""]
    largest: Float[Array, ""]
    steps: Int[Array, ""]
    negative: Bool[Array, ""]


@functools.cache
def conjugate_gradients(
    iterations: int = 100, tolerance: float = 1e-6, precondition: Preconditioner | None = None
) -> Solver:
    """Conjugate gradients for `(C + D) d = -g`, from d = 0.

    Stops when `|(C + D) d + g| <= tolerance |g|`, or after `iterations`, or at a direction p with
    `p . (C + D) p <= 0` up to rounding: then the step so far is returned, a descent direction, and
    counted as negative; where there is no step so far the trial is rejected. Stopping at
    `iterations` is no failure: read `residual`.

    Costs one product with C for each iteration and one to measure the result. Derivatives are
    forward alone, through the iterations, whose number is found on the way.

    Args:
        iterations: At most so many, >= 1. In exact arithmetic as many as C + D has distinct
            eigenvalues suffice.
        tolerance: Relative residual, >= 0.
        precondition: `(system, D) -> (residual -> preconditioned residual)`, linear, symmetric and
            positive definite: `jacobi`, or your own; None for none.

    Returns:
        The solver.

    Raises:
        ValueError: If `iterations` or `tolerance` is out of range.

    Source:
        Steihaug (1983), "The conjugate gradient method and trust regions in large scale
        optimization", SIAM J. Numer. Anal. 20(3), for the exit at negative curvature.

    Differs:
        From `jax.scipy.sparse.linalg.cg`: the stop reads the true norm of the residual, also with a
        preconditioner; negative curvature is detected; the residual that is reported is measured,
        not carried along.

    >>> from fnn.solvers import RightHandSide, from_rows
    >>> system = from_rows(jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2))
    >>> solution = conjugate_gradients().solve(system, RightHandSide(jnp.ones(2)), 0.0)
    >>> solution.step.round(4).tolist(), int(solution.counts.iterations)
    ([-1.0, -0.5], 2)
    """
    if iterations < 1 or not tolerance >= 0:
        raise ValueError(
            "conjugate_gradients: expected iterations >= 1 and tolerance >= 0, got "
            f"{iterations} and {tolerance}; try the defaults"
        )

    def prepare(system: System) -> Callable[[RightHandSide, PyTree], Solution]:
        return functools.partial(_iterate, system, iterations, tolerance, precondition)

    return Solver("conjugate gradients", prepare)


def _iterate(
    system: System,
    iterations: int,
    tolerance: float,
    precondition: Preconditioner | None,
    rhs: RightHandSide,
    damping: PyTree,
) -> Solution:
    """The step of conjugate gradients from zero."""
    grad = gradient(system, require_matching(system, rhs, damping))
    unit = largest_entry(grad)  # in float32 the square of a residual of 1e-20 is 0
    grad = optax.tree.scale(1 / unit, grad)
    shift = shift_of(system, damping)
    improve = precondition(system, shift) if precondition else lambda residual: residual
    size = optax.tree.norm(grad)

    def undamped(v: PyTree) -> PyTree:
        return widen(system, system.multiply(cast(v, system.like)))

    def image(v: PyTree) -> PyTree:
        return optax.tree.add(undamped(v), optax.tree.mul(shift, v))

    def going(now: Iterate) -> Bool[Array, ""]:
        far = optax.tree.norm(now.residual) > tolerance * size
        return far & (now.steps < iterations) & ~now.negative

    start = begin(optax.tree.zeros_like(grad), optax.tree.scale(-1, grad), improve)
    end = jax.lax.while_loop(going, functools.partial(following, image, improve), start)
    product = undamped(end.step)
    imbalance = optax.tree.add(product, optax.tree.mul(shift, end.step), grad)
    step, slope = optax.tree.scale(unit, end.step), unit * inner(grad, end.step)
    return conclude(
        system,
        step,
        slope=unit * slope,
        curvature_along=inner(step, optax.tree.scale(unit, product)),
        residual=optax.tree.norm(imbalance),
        scale=size,
        counts=Counts.of(
            rejected=end.negative & (end.steps <= 1), negative=end.negative, iterations=end.steps
        ),
    )


def begin(step: PyTree, residual: PyTree, improve: Callable[[PyTree], PyTree]) -> Iterate:
    """The first iterate, with `residual = -g - (C + D) step` and `improve` the preconditioner."""
    direction = improve(residual)
    product = inner(residual, direction)
    return Iterate(
        step=step,
        residual=residual,
        direction=direction,
        product=product,
        largest=jnp.zeros_like(product),
        steps=jnp.zeros((), jnp.int32),
        negative=jnp.zeros((), bool),
    )


def following(
    image: Callable[[PyTree], PyTree], improve: Callable[[PyTree], PyTree], now: Iterate
) -> Iterate:
    """The next iterate, `image` being `v -> (C + D) v`; the same step where p is negative."""
    product = image(now.direction)
    curvature = inner(now.direction, product)
    square = inner(now.direction, now.direction)
    largest = jnp.maximum(now.largest, curvature / square)
    negative = curvature <= 10 * jnp.finfo(largest.dtype).eps * largest * square
    length = jnp.where(negative, 0.0, now.product / jnp.where(negative, 1.0, curvature))
    residual = optax.tree.add_scale(now.residual, -length, product)
    improved = improve(residual)
    gain = inner(residual, improved)
    return Iterate(
        step=optax.tree.add_scale(now.step, length, now.direction),
        residual=residual,
        direction=optax.tree.add_scale(improved, gain / now.product, now.direction),
        product=gain,
        largest=largest,
        steps=now.steps + 1,
        negative=negative,
    )
