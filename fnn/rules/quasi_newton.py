"""Quasi-Newton rules: a dense inverse of the Hessian, learned from gradients.

    d = -B g                            the direction; B starts as the identity
    a                                   a step size that satisfies the strong Wolfe conditions
    s = a d,  y = grad(params + s) - grad(params)
    B = the nearest matrix with B y = s

Both rules share this loop, search and all (see `line_search`), and differ in what "nearest" means.
Both ends of a step are judged on one batch, so that the pair (s, y) is of one function; steps are
for full batches all the same. A step costs, besides the loop's gradient, one value and gradient for
every trial of the search, and some P^2 flops; the state is P x P numbers. `optax.lbfgs` is for more
parameters.

A search that does not lower the value is a rejected step: the update is zero, and the next one
starts over from the identity. If that is rejected too, `stalled` says so: along the very gradient
no step lowers the value, up to rounding.
"""

import functools
import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn.interned import interned
from fnn.rules.contract import Scalar, fitting, same_size, within
from fnn.rules.line_search import strong_wolfe
from fnn.rules.second_order import is_lower, second_order, state_dtype

_dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class QuasiNewtonState(NamedTuple):
    """What a quasi-Newton rule remembers.

    Attributes:
        steps: Updates, accepted or not.
        accepted: Steps accepted.
        rejected: Searches that did not lower the value.
        skipped: Accepted steps that the matrix learned nothing from.
        trials: Values and gradients that the searches evaluated.
        inverse: The inverse of the Hessian, in the order of `jax.flatten_util.ravel_pytree`.
        is_new: Whether the matrix has learned nothing yet.
        value: Of the parameters that the last update led to.
        stalled: Whether no step along the gradient lowers the value.
    """

    steps: Int[Array, ""]
    accepted: Int[Array, ""]
    rejected: Int[Array, ""]
    skipped: Int[Array, ""]
    trials: Int[Array, ""]
    inverse: Float[Array, "P P"]
    is_new: Bool[Array, ""]
    value: Float[Array, ""]
    stalled: Bool[Array, ""]


@interned
def bfgs(
    first_step: Scalar = 1.0,
    decrease: Scalar = 1e-4,
    flatness: Scalar = 0.9,
    trials: int = 20,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """The method of Broyden, Fletcher, Goldfarb and Shanno, u = -a B g, dense.

        B = (1 - s y'/s'y) B (1 - y s'/s'y) + s s'/s'y

    B stays positive definite. Before the first of these updates it is scaled by s'y / y'B y, so
    that it has the size of an inverse Hessian.

    Args:
        first_step: the length of the first trial, and of the first after a rejection; at least 0.
        decrease: the share of the promised decrease that a step must bring, in [0, 1).
        flatness: the share of the slope that may be left, in [0, 1), more than `decrease`; small
            numbers make the search exact.
        trials: the most trials of a search, at least 1.
        memory_budget: bytes that the matrix may take; at least 1.

    Units:
        `first_step` is params.

    Invariant:
        The path does not change under rotations of the parameters, nor when the loss is scaled.
        From `state.inverse = T T'` instead of the identity it is the path in coordinates x = T z,
        for any invertible T.

    Returns:
        A rule; its state is a `QuasiNewtonState`.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), algorithm 6.1, with equation 6.20 for the
        scaling and algorithms 3.5 and 3.6 for the search.

    Differs:
        B is not changed where s'y is not positive up to rounding, which the search permits when it
        runs out of trials.

    Example:
        >>> bowl = lambda x: 3 * (x[0] - 1) ** 2 + (x[0] + x[1]) ** 2
        >>> rule, x = bfgs(), jnp.zeros(2)
        >>> value, grad = jax.value_and_grad(bowl)(x)
        >>> u, state = rule.update(grad, rule.init(x), x, value=value, grad=grad, value_fn=bowl)
        >>> print(u, state.value, state.trials)
        [ 1. -0.] 1.0 1
    """
    return _rule("bfgs", _bfgs, first_step, decrease, flatness, trials, memory_budget)


@interned
def sr1(
    first_step: Scalar = 1.0,
    decrease: Scalar = 1e-4,
    flatness: Scalar = 0.9,
    trials: int = 20,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """The symmetric rank-one method, u = -a B g, dense.

        B = B + r r' / r'y,    r = s - B y

    B learns curvatures of both signs: on a quadratic function of n parameters it is the inverse of
    the Hessian after n steps, whatever the search. Where it does not lead downhill, the step goes
    along the gradient, as far as `B g` would have gone.

    Args:
        first_step: the length of the first trial, and of the first after a rejection; at least 0.
        decrease: the share of the promised decrease that a step must bring, in [0, 1).
        flatness: the share of the slope that may be left, in [0, 1), more than `decrease`; small
            numbers make the search exact.
        trials: the most trials of a search, at least 1.
        memory_budget: bytes that the matrix may take; at least 1.

    Units:
        `first_step` is params.

    Invariant:
        The path does not change under rotations of the parameters, nor when the loss is scaled.

    Returns:
        A rule; its state is a `QuasiNewtonState`.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), equations 6.25 and, for leaving B as it
        is, 6.26 with y and s exchanged.

    Differs:
        The source sets the method in a trust region, which costs a factorization in each step; here
        it has the search of `bfgs`, and the gradient to fall back on. Before the first update B is
        scaled to half of s'y / y'B y: with the whole of it r'y would be 0.

    Example:
        >>> bowl = lambda x: 3 * (x[0] - 1) ** 2 + (x[0] + x[1]) ** 2
        >>> rule, x = sr1(), jnp.zeros(2)
        >>> value, grad = jax.value_and_grad(bowl)(x)
        >>> u, state = rule.update(grad, rule.init(x), x, value=value, grad=grad, value_fn=bowl)
        >>> print(u, state.value, state.trials)
        [ 1. -0.] 1.0 1
    """
    return _rule("sr1", _sr1, first_step, decrease, flatness, trials, memory_budget)


# The inverse after a step s along which the gradient changed by y, and whether it learned anything.
def _bfgs(inverse: Array, is_new: Array, s: Array, y: Array) -> tuple[Array, Array]:
    eps = jnp.finfo(s.dtype).eps
    bent = _dot(s, y)
    learns = bent > eps * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    bent = jnp.where(learns, bent, 1)
    image = _dot(inverse, y)
    size = _dot(y, image)
    scale = jnp.where(is_new & (size > 0), bent / jnp.where(size > 0, size, 1), 1)
    inverse, image, size = scale * inverse, scale * image, scale * size
    cross = jnp.outer(image, s)
    grown = inverse + ((1 + size / bent) * jnp.outer(s, s) - cross - cross.T) / bent
    return grown, learns


def _sr1(inverse: Array, is_new: Array, s: Array, y: Array) -> tuple[Array, Array]:
    image = _dot(inverse, y)
    bent, size = _dot(s, y), _dot(y, image)
    scalable = is_new & (bent > 0) & (size > 0)
    scale = jnp.where(scalable, bent / jnp.where(size > 0, size, 1) / 2, 1)
    inverse, rest = scale * inverse, s - scale * image
    gap = _dot(rest, y)
    learns = jnp.abs(gap) > 1e-8 * jnp.linalg.norm(rest) * jnp.linalg.norm(y)
    return inverse + jnp.outer(rest, rest) / jnp.where(learns, gap, 1), learns


def _rule(
    name: str,
    learn: Callable[[Array, Array, Array, Array], tuple[Array, Array]],
    first_step: Scalar,
    decrease: Scalar,
    flatness: Scalar,
    trials: int,
    memory_budget: int,
) -> optax.GradientTransformationExtraArgs:
    within(name, 0, math.inf, first_step=first_step)
    within(name, 0, 1, decrease=decrease, flatness=flatness)
    within(name, 1, math.inf, trials=trials, memory_budget=memory_budget)
    if isinstance(decrease, Real) and isinstance(flatness, Real) and not decrease < flatness:
        raise ValueError(
            f"{name}: expected decrease < flatness, got {decrease} and {flatness}; try 1e-4 and 0.9"
        )

    def init(params: PyTree) -> QuasiNewtonState:
        dtype = state_dtype(params)
        size = sum(map(jnp.size, jax.tree.leaves(params)))
        fitting(name, size, dtype, memory_budget, "optax.lbfgs(), which keeps a few vectors")
        zero, number = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
        return QuasiNewtonState(
            steps=number,
            accepted=number,
            rejected=number,
            skipped=number,
            trials=number,
            inverse=jnp.eye(size, dtype=dtype),
            is_new=jnp.ones((), bool),
            value=zero,
            stalled=jnp.zeros((), bool),
        )

    def update(
        updates: PyTree,
        state: QuasiNewtonState,
        params: PyTree,
        *,
        value: Array,
        grad: PyTree,
        value_fn: Callable[[PyTree], Array],
        **extra_args: Any,
    ) -> tuple[PyTree, QuasiNewtonState]:
        del extra_args
        dtype, before = state.inverse.dtype, jnp.asarray(value).astype(state.value.dtype)
        start, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(dtype), params))
        wanted, slope = (ravel_pytree(tree)[0].astype(dtype) for tree in (updates, grad))
        same_size(state.inverse, start.size)

        def value_at(point: Array) -> Array:
            leaves = unravel(point.astype(dtype))
            here = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), leaves, params)
            return jnp.asarray(value_fn(here)).astype(dtype)

        direction = _downhill(state, wanted, first_step)
        found = strong_wolfe(value_at, start, direction, before, slope, decrease, flatness, trials)
        s = (found.size * direction).astype(dtype)
        accepted = is_lower(found.value, before) & jnp.any(start + s != start)
        learned, learns = learn(state.inverse, state.is_new, s, found.grad - slope)
        learns &= accepted & jnp.all(jnp.isfinite(learned))
        kept = jnp.where(accepted, state.inverse, jnp.eye(len(s), dtype=dtype))
        known = jnp.isfinite(before) & jnp.all(jnp.isfinite(wanted))
        return unravel(jnp.where(accepted, s, 0)), QuasiNewtonState(
            steps=state.steps + 1,
            accepted=state.accepted + accepted,
            rejected=state.rejected + ~accepted,
            skipped=state.skipped + (accepted & ~learns),
            trials=state.trials + found.trials,
            inverse=jnp.where(learns, learned, kept),
            is_new=jnp.where(accepted, state.is_new & ~learns, True),
            value=jnp.where(accepted, found.value, before).astype(state.value.dtype),
            stalled=~accepted & state.is_new & known,
        )

    return second_order(init, update)


# -B g, or where that is not downhill, -g of the same length; at first as long as it is told.
def _downhill(state: QuasiNewtonState, grad: Array, first_step: Scalar) -> Array:
    image = _dot(state.inverse, grad)
    bend = _dot(grad, image)
    lengths = jnp.linalg.norm(grad), jnp.linalg.norm(image)
    ratio = jnp.where(lengths[0] > 0, lengths[1] / jnp.where(lengths[0] > 0, lengths[0], 1), 0)
    leads = bend > jnp.finfo(grad.dtype).eps * lengths[0] * lengths[1]
    image = jnp.where(leads, image, ratio * grad)
    unit = first_step / jnp.sqrt(jnp.where(leads, bend, 1))
    return -(image * jnp.where(state.is_new, unit, 1)).astype(grad.dtype)
