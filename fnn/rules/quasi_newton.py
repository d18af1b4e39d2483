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
starts over from the identity. If that is rejected too, `info.stalled` says so: along the very
gradient no step lowers the value, up to rounding. What the matrix promises is no ground to claim a
minimum, because it knows nothing of a direction that it has not learned: there is no outlook.
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

from fnn.products import dot
from fnn.rules.contract import (
    Scalar,
    interned_rule,
    require_fit,
    require_same_size,
    require_within,
    second_order,
    state_dtype,
)
from fnn.rules.line_search import strong_wolfe
from fnn.rules.trials import (
    Info,
    info_after,
    is_lower,
    landed,
    no_info,
    where_accepted,
)


class QuasiNewtonState(NamedTuple):
    """What a quasi-Newton rule remembers.

    Attributes:
        inverse: The inverse of the Hessian, in the order of `jax.flatten_util.ravel_pytree`.
        is_new: Whether the matrix has learned nothing yet.
        skipped: Accepted steps that the matrix learned nothing from.
        trials: Values and gradients that the searches evaluated.
        info: What came of the searches, each of them one trial; `stalled` where no step along the
            gradient lowers the value.
    """

    inverse: Float[Array, "P P"]
    is_new: Bool[Array, ""]
    skipped: Int[Array, ""]
    trials: Int[Array, ""]
    info: Info


@interned_rule
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
        A rule; its state is a `QuasiNewtonState`. Its update has forward derivatives and no reverse
        ones: it passes through a loop whose length is found on the way.

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
        >>> print(u, state.info.value, state.trials)
        [ 1. -0.] 1.0 1
    """
    options = _Options(first_step, decrease, flatness, trials, memory_budget)
    return _rule("bfgs", _bfgs, options)


@interned_rule
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
        A rule; its state is a `QuasiNewtonState`. Its update has forward derivatives and no reverse
        ones: it passes through a loop whose length is found on the way.

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
        >>> print(u, state.info.value, state.trials)
        [ 1. -0.] 1.0 1
    """
    options = _Options(first_step, decrease, flatness, trials, memory_budget)
    return _rule("sr1", _sr1, options)


_Learn = Callable[[Array, Array, Array, Array], tuple[Array, Array]]
"""`(inverse, is_new, s, y) -> ` the inverse after a step s along which the gradient changed by y,
and whether it learned anything."""


def _bfgs(inverse: Array, is_new: Array, s: Array, y: Array) -> tuple[Array, Array]:
    eps = jnp.finfo(s.dtype).eps
    curvature_along = dot(s, y)
    learns = curvature_along > eps * jnp.linalg.norm(s) * jnp.linalg.norm(y)
    curvature_along = jnp.where(learns, curvature_along, 1)
    image = dot(inverse, y)
    size = dot(y, image)
    scalable = is_new & (size > 0)
    scale = jnp.where(scalable, curvature_along / jnp.where(size > 0, size, 1), 1)
    inverse, image, size = scale * inverse, scale * image, scale * size
    cross = jnp.outer(image, s)
    square = (1 + size / curvature_along) * jnp.outer(s, s)
    return inverse + (square - cross - cross.T) / curvature_along, learns


def _sr1(inverse: Array, is_new: Array, s: Array, y: Array) -> tuple[Array, Array]:
    image = dot(inverse, y)
    curvature_along, size = dot(s, y), dot(y, image)
    scalable = is_new & (curvature_along > 0) & (size > 0)
    scale = jnp.where(scalable, curvature_along / jnp.where(size > 0, size, 1) / 2, 1)
    inverse, error = scale * inverse, s - scale * image
    gap = dot(error, y)
    learns = jnp.abs(gap) > 1e-8 * jnp.linalg.norm(error) * jnp.linalg.norm(y)
    return inverse + jnp.outer(error, error) / jnp.where(learns, gap, 1), learns


class _Options(NamedTuple):
    """The arguments of a quasi-Newton rule, see there."""

    first_step: Scalar
    decrease: Scalar
    flatness: Scalar
    trials: int
    memory_budget: int


def _require_options(name: str, options: _Options) -> None:
    """Require numbers in their ranges."""
    first_step, decrease, flatness, trials, memory_budget = options
    require_within(name, 0, math.inf, first_step=first_step)
    require_within(name, 0, 1, decrease=decrease, flatness=flatness)
    require_within(name, 1, math.inf, trials=trials, memory_budget=memory_budget)
    if isinstance(decrease, Real) and isinstance(flatness, Real) and not decrease < flatness:
        raise ValueError(
            f"{name}: expected decrease < flatness, got {decrease} and {flatness}; try 1e-4 and 0.9"
        )


def _rule(name: str, learn: _Learn, options: _Options) -> optax.GradientTransformationExtraArgs:
    """The rule that learns so."""
    _require_options(name, options)

    def init(params: PyTree) -> QuasiNewtonState:
        dtype = state_dtype(params)
        size = sum(map(jnp.size, jax.tree.leaves(params)))
        remedy = "optax.lbfgs(), which keeps a few vectors"
        require_fit(name, size, dtype, options.memory_budget, remedy)
        return QuasiNewtonState(
            inverse=jnp.eye(size, dtype=dtype),
            is_new=jnp.ones((), bool),
            skipped=jnp.zeros((), jnp.int32),
            trials=jnp.zeros((), jnp.int32),
            info=no_info(dtype, gain=False, counts=False),
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
        dtype, before = state.inverse.dtype, jnp.asarray(value).astype(state.info.value.dtype)
        start, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf.astype(dtype), params))
        asked, slope = (ravel_pytree(tree)[0].astype(dtype) for tree in (updates, grad))
        require_same_size(state.inverse, start.size)

        value_at = functools.partial(_value_at, value_fn, params, unravel, dtype)
        _, decrease, flatness, trials, _ = options
        direction = _downhill(state, asked, options.first_step)
        search = strong_wolfe(value_at, start, direction, before, slope, decrease, flatness, trials)
        whole = (search.size * direction).astype(dtype)
        step = ravel_pytree(landed(value_fn, params, unravel(whole)))[0].astype(dtype)
        accepted = is_lower(search.value, before) & jnp.any(start + step != start)
        is_finite = jnp.isfinite(before) & jnp.all(jnp.isfinite(asked))
        info = info_after(
            state.info,
            accepted,
            value=jnp.where(accepted, search.value, before).astype(state.info.value.dtype),
            stalled=~accepted & state.is_new & is_finite,
        )
        # Beyond a bound there is no slope: where it cut the step, the pair would take the bound for
        # curvature. (Of 24 bounded quadratics 3 were not solved by bfgs in 60 steps.)
        is_free = step == whole
        pair = (jnp.where(is_free, part, 0) for part in (step, search.grad - slope))
        state = _learned(learn, state, accepted, *pair)
        state = state._replace(trials=state.trials + search.trials, info=info)
        return unravel(where_accepted(accepted, step)), state

    return second_order(init, update)


def _value_at(
    value_fn: Callable[[PyTree], Array],
    params: PyTree,
    unravel: Callable[[Array], PyTree],
    dtype: Any,
    point: Array,
) -> Array:
    """The value at a point given as one vector, in the dtypes of the parameters."""
    leaves = unravel(point.astype(dtype))
    here = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), leaves, params)
    return jnp.asarray(value_fn(here)).astype(dtype)


def _learned(
    learn: _Learn, state: QuasiNewtonState, accepted: Array, s: Array, y: Array
) -> QuasiNewtonState:
    """The state after a step; the matrix starts over where the step was rejected."""
    inverse, learns = learn(state.inverse, state.is_new, s, y)
    learns &= accepted & jnp.all(jnp.isfinite(inverse))
    before = jnp.where(accepted, state.inverse, jnp.eye(len(s), dtype=state.inverse.dtype))
    return state._replace(
        inverse=jnp.where(learns, inverse, before),
        is_new=jnp.where(accepted, state.is_new & ~learns, True),
        skipped=state.skipped + (accepted & ~learns).astype(jnp.int32),
    )


def _downhill(state: QuasiNewtonState, grad: Array, first_step: Scalar) -> Array:
    """-B g, or where that is not downhill, -g of the same length; at first of the length given."""
    image = dot(state.inverse, grad)
    slope = dot(grad, image)
    lengths = jnp.linalg.norm(grad), jnp.linalg.norm(image)
    ratio = jnp.where(lengths[0] > 0, lengths[1] / jnp.where(lengths[0] > 0, lengths[0], 1), 0)
    leads = slope > jnp.finfo(grad.dtype).eps * lengths[0] * lengths[1]
    image = jnp.where(leads, image, ratio * grad)
    unit = first_step / jnp.sqrt(jnp.where(leads, slope, 1))
    return -(image * jnp.where(state.is_new, unit, 1)).astype(grad.dtype)
