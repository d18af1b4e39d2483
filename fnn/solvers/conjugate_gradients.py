"""Conjugate gradients: the step from products with the curvature alone."""

import functools
from collections.abc import Callable
from numbers import Integral, Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn.interned import interned
from fnn.solvers.preconditioners import Preconditioner
from fnn.solvers.system import (
    Counts,
    RightHandSide,
    Solution,
    Solver,
    System,
    cast,
    conclude,
    flat_shift,
    gradient,
    inner,
    largest_entry,
    require_matching,
    shift_of,
    widen,
)


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


WINDOW = 3
"""Progress is measured over so many iterations, or a tenth of them all."""


@interned
def conjugate_gradients(
    iterations: int = 100,
    tolerance: float = 1e-6,
    precondition: Preconditioner | None = None,
    progress: float = 0.0,
    warm: bool = False,
) -> Solver:
    """Conjugate gradients for `(C + D) d = -g`, from d = 0 or along the last step.

    Stops when `|(C + D) d + g| <= tolerance |g|`, or after `iterations`, or when the last few of
    them brought little of what the model promises, or at a direction p with `p . (C + D) p <= 0` up
    to rounding: then the step so far is returned, a descent direction, and counted as negative;
    where there is no step so far the trial is rejected. Stopping early is no failure: read
    `residual`.

    Costs one product with C for each iteration, one more for a warm start, and one to measure the
    residual where it is read. Derivatives are forward alone, through the iterations, whose number
    is found on the way.

    Args:
        iterations: At most so many, >= 1. In exact arithmetic as many as C + D has distinct
            eigenvalues suffice.
        tolerance: Relative residual, >= 0.
        precondition: `(system, D) -> (residual -> preconditioned residual)`, linear, symmetric and
            positive definite: `jacobi`, `kronecker`, `nystrom(rank)`, or your own; None for none.
        progress: Share of the model's decrease, >= 0: in iteration i it is enough where the last
            k = max(3, i / 10) iterations brought less than k times this share of it. 5e-4 in the
            source, with k = max(10, i / 10); 0 goes on.
        warm: Whether a rule that remembers its last step (`levenberg_marquardt`) begins there, at
            the multiple of it where the model is lowest: never worse than zero.

    Returns:
        The solver.

    Raises:
        TypeError: If `precondition` is no function.
        ValueError: If `iterations`, `tolerance` or `progress` is out of range.

    Source:
        Steihaug (1983), "The conjugate gradient method and trust regions in large scale
        optimization", SIAM J. Numer. Anal. 20(3), for the exit at negative curvature. Martens
        (2010), "Deep learning via Hessian-free optimization", section 4.4, for `progress`.

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
    numbers = {"tolerance": tolerance, "progress": progress}
    if not isinstance(iterations, Integral) or iterations < 1:
        raise ValueError(
            "conjugate_gradients: expected iterations to be an integer >= 1, got "
            f"{iterations!r}; try 100"
        )
    for name, number in numbers.items():
        if not isinstance(number, Real) or not number >= 0:
            raise ValueError(
                f"conjugate_gradients: expected {name} to be a number >= 0, got {number!r}; try "
                "the default"
            )
    if precondition is not None and not callable(precondition):
        raise TypeError(
            "conjugate_gradients: expected precondition to be a function or None, got "
            f"{precondition!r}; try solvers.jacobi"
        )
    options = _Options(iterations, tolerance, precondition, progress)

    def prepare(system: System) -> Callable[[RightHandSide, PyTree], Solution]:
        return functools.partial(_iterate, system, options)

    return Solver("conjugate gradients", prepare, warm)


class _Options(NamedTuple):
    """The arguments of `conjugate_gradients`, checked."""

    iterations: int
    tolerance: float
    precondition: Preconditioner | None
    progress: float


def _iterate(system: System, options: _Options, rhs: RightHandSide, damping: PyTree) -> Solution:
    """The step of conjugate gradients from where the right-hand side begins."""
    rhs = require_matching(system, rhs, damping)
    # One vector takes fewer operations than a tree: on a network of three layers a third of the
    # time of an iteration was spent on its leaves.
    grad, unravel = ravel_pytree(gradient(system, rhs))
    unit = largest_entry(grad)  # in float32 the square of a residual of 1e-20 is 0
    grad, shift = grad / unit, flat_shift(system, damping)
    size = optax.tree.norm(grad)

    def image(v: Array) -> Array:
        undamped = system.multiply(cast(unravel(v), system.like))
        return ravel_pytree(widen(system, undamped))[0] + shift * v

    def going(walk: _Walk) -> Bool[Array, ""]:
        now = walk.now
        far = optax.tree.norm(now.residual) > options.tolerance * size
        going_on = far & (now.steps < options.iterations) & ~now.negative
        if not options.progress:
            return going_on
        return going_on & ~is_little(walk.models, now.steps, options.progress, WINDOW)

    def walk_on(walk: _Walk) -> _Walk:
        now, models = following(image, improve, walk.now), walk.models
        if options.progress:
            models = models.at[now.steps].set(model_at(now, grad))
        return _Walk(now, models)

    improve = _improvement(system, options.precondition, damping, unravel)
    start, residual = jnp.zeros_like(grad), -grad
    if rhs.start is not None:
        start, residual = _along(image, grad, ravel_pytree(rhs.start)[0])
    now = begin(start, residual, improve)
    models = jnp.zeros(options.iterations + 1, size.dtype).at[0].set(model_at(now, grad))
    end = jax.lax.while_loop(going, walk_on, _Walk(now, models)).now
    # With (C + D) d = -g - residual there is no product for the curvature along d.
    product = -grad - end.residual - shift * end.step
    slope = unit * inner(grad, end.step)
    return conclude(
        system,
        unravel(unit * end.step),
        slope=unit * slope,
        curvature_along=inner(unit * end.step, unit * product),
        residual=optax.tree.norm(image(end.step) + grad),
        scale=size,
        counts=Counts.of(
            rejected=end.negative & (end.steps <= 1) & ~jnp.any(start != 0),
            negative=end.negative,
            iterations=end.steps,
        ),
    )


def _improvement(
    system: System, precondition: Preconditioner | None, damping: PyTree, unravel: Callable
) -> Callable[[Array], Array]:
    """The preconditioner of vectors."""
    if precondition is None:
        return lambda residual: residual
    improve = precondition(system, shift_of(system, damping))
    return lambda residual: ravel_pytree(improve(unravel(residual)))[0]


class _Walk(NamedTuple):
    """The iterate now, and the damped model at each so far where it is asked for."""

    now: Iterate
    models: Array


def _along(
    image: Callable[[Array], Array], grad: Float[Array, " P"], last: Float[Array, " P"]
) -> tuple[Float[Array, " P"], Float[Array, " P"]]:
    """The multiple of a step where the damped model is lowest, and the residual there."""
    last = last / largest_entry(last)
    product = image(last)
    curvature, slope = inner(last, product), inner(grad, last)
    is_curved = curvature > jnp.finfo(curvature.dtype).eps * inner(last, last)  # nor is it NaN
    length = -slope / jnp.where(is_curved, curvature, 1.0)
    start = jnp.where(is_curved, length * last, 0.0)
    return start, -grad - jnp.where(is_curved, length * product, 0.0)


def model_at(now: Iterate, grad: PyTree) -> Array:
    """The damped model `g . d + 1/2 d . (C + D) d`, with `(C + D) d = -g - residual`."""
    return inner(now.step, optax.tree.sub(grad, now.residual)) / 2


def is_little(
    models: Float[Array, " n"], i: Int[Array, ""], progress: float, window: int
) -> Bool[Array, ""]:
    """Whether the last k = max(window, i / 10) iterations brought a share below k `progress`."""
    k = jnp.maximum(window, i // 10)
    reached, before = models[i], models[jnp.maximum(i - k, 0)]
    little = progress * k.astype(reached.dtype)
    return (i > k) & (reached < 0) & (before - reached < -little * reached)


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
