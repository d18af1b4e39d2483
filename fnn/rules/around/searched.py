"""A line search on a grid: of some step sizes that halve, the one with the lowest value."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from fnn.interned import interned
from fnn.rules.contract import Scalar, require_within, second_order, state_dtype
from fnn.rules.trials import (
    Info,
    differ,
    info_after,
    is_lower,
    landed,
    no_info,
    where_accepted,
)


class SearchedState(NamedTuple):
    """What a search remembers.

    Attributes:
        rule: The state of the rule whose direction it is.
        size: The step size of the last step; 0 where none lowered the value.
        info: What came of the searches, each of them one trial; `stalled` where the last one
            lowered nothing.
    """

    rule: PyTree
    size: Float[Array, ""]
    info: Info


@interned
def searched(
    rule: optax.GradientTransformation,
    halvings: int = 30,
    decrease: Scalar = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """A rule's step times the best of 1, 1/2, 1/4, ..., all of them tried at once.

        size = of 2^0, 2^-1, ..., 2^-halvings the one where value_fn(params + size u) is least
        taken if  value - value_fn(params + size u) >= decrease * size * |g'u|,  lower than rounding

    For Gauss-Newton directions without damping, whose length says nothing far from a minimum. The
    trials are one batch of `halvings + 1` values: on wide machines a search costs little more than
    one of them. Where values are dear, a search that tries one size after the other until Armijo's
    condition holds is the better one: `optax.chain(rule, optax.scale_by_backtracking_linesearch(30,
    decrease_factor=0.5))` runs in the same loop.

    For full batches: the same `value_fn` says where the step starts and ends. A step that is not
    finite is not taken; one that leads uphill is turned around, as Newton's beside a maximum.

    Args:
        rule: any transformation whose updates are directions: `rules.gauss_newton()`.
        halvings: how often the step is halved, at least 0.
        decrease: the share of the slope's promise that a step must bring, in [0, 1): Armijo's
            constant. At 0 every size that lowers the value will do.

    Units:
        `decrease` is 1.

    Invariant:
        Those of `rule`; scaling the loss changes no size.

    Returns:
        A rule; its state is a `SearchedState`. Where no size lowers the value, `info.stalled` is
        true and `fit` stops.

    Raises:
        ValueError: if `halvings` or `decrease` is out of range.

    Source:
        Müller and Zeinhofer, "Achieving high accuracy with PINNs via energy natural gradient
        descent", ICML (2023), arXiv:2302.13163, section 4, for the grid; Armijo (1966),
        doi:10.2140/pjm.1966.16.1, for `decrease`.

    Example:
        >>> from fnn import Objective, rules
        >>> wave = Objective(lambda w, x: jnp.arctan(w * x))  # undamped steps overshoot
        >>> value_fn, w = wave.on(jnp.ones(1)), jnp.array(3.0)
        >>> rule = searched(rules.gauss_newton())
        >>> value, grad = jax.value_and_grad(value_fn)(w)
        >>> state = rule.init(w)
        >>> u, state = rule.update(grad, state, w, value=value, grad=grad, value_fn=value_fn)
        >>> print(state.size, bool(jnp.abs(w + u) < jnp.abs(w)))
        0.25 True
    """
    if halvings < 0:
        raise ValueError(f"searched: expected halvings >= 0, got {halvings}; try 30")
    require_within("searched", 0, 1, decrease=decrease)
    inner = optax.with_extra_args_support(rule)

    def init(params: PyTree) -> SearchedState:
        dtype = state_dtype(params)
        info = no_info(dtype, gain=False, counts=False)
        return SearchedState(inner.init(params), jnp.zeros((), dtype), info)

    def update(
        updates: PyTree,
        state: SearchedState,
        params: PyTree,
        *,
        value: Array,
        grad: PyTree,
        value_fn: Any,
        **extra_args: Any,
    ) -> tuple[PyTree, SearchedState]:
        given = {"value": value, "grad": grad, "value_fn": value_fn} | extra_args
        direction, after = inner.update(updates, state.rule, params, **given)
        direction = _downhill(direction, grad)
        sizes = 2.0 ** -jnp.arange(halvings + 1, dtype=state.size.dtype)
        size, least = _lowest(value_fn, params, direction, sizes)
        promised = decrease * size * jnp.abs(optax.tree.vdot(grad, direction))
        accepted = is_lower(least, jnp.asarray(value)) & (value - least >= promised)
        step = jax.tree.map(lambda u: (size * u).astype(u.dtype), direction)
        step = landed(value_fn, params, step)
        # At a minimum, the same value of two programs may differ by more than rounding.
        accepted &= differ(optax.apply_updates(params, step), params)
        step = where_accepted(accepted, step)
        value = jnp.where(accepted, least, value).astype(state.info.value.dtype)
        info = info_after(state.info, accepted, value=value, stalled=~accepted)
        return step, SearchedState(after, jnp.where(accepted, size, 0), info)

    return second_order(init, update)


def _downhill(direction: PyTree, grad: PyTree) -> PyTree:
    """The direction, turned around where it leads uphill."""
    is_uphill = jnp.asarray(optax.tree.vdot(grad, direction)) > 0
    return jax.tree.map(lambda u: jnp.where(is_uphill, -u, u), direction)


def _lowest(value_fn: Any, params: PyTree, direction: PyTree, sizes: Array) -> tuple[Array, Array]:
    """The size that leads to the lowest value, and this value."""

    def reached(size: Array) -> Array:
        step = jax.tree.map(lambda u: (size * u).astype(u.dtype), direction)
        return value_fn(optax.apply_updates(params, step))

    values = jax.vmap(reached)(sizes)
    best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
    return sizes[best], values[best]
