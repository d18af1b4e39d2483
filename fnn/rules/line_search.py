"""The strong Wolfe line search: a step size neither too long nor too short.

    value(a) <= value(0) + decrease * a * slope(0)          not too long
    |slope(a)| <= flatness * |slope(0)|                     nor too short

Two points are kept: `low`, the lowest that is not too long, 0 at first, and `high`, so that such a
step size lies between them. While nothing is known to be high, trials double; after that they are
where the cubic through both points, with their slopes, is least. One value and gradient is
evaluated in each trial.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from fnn.products import dot
from fnn.rules.contract import Scalar


class Step(NamedTuple):
    """What a search arrived at.

    Attributes:
        size: The step size; 0 if none was short enough.
        value: There.
        grad: There.
        is_flat: Whether both conditions hold; else the trials came to an end.
        trials: How many.
    """

    size: Float[Array, ""]
    value: Float[Array, ""]
    grad: Float[Array, " P"]
    is_flat: Bool[Array, ""]
    trials: Int[Array, ""]


class _Place(NamedTuple):
    size: Array
    value: Array
    slope: Array


class _Search(NamedTuple):
    best: Step  # at `low`
    low: _Place
    high: _Place
    trial: Array


def strong_wolfe(
    value_fn: Callable[[Float[Array, " P"]], Float[Array, ""]],
    params: Float[Array, " P"],
    direction: Float[Array, " P"],
    value: Float[Array, ""],
    grad: Float[Array, " P"],
    decrease: Scalar = 1e-4,
    flatness: Scalar = 0.9,
    trials: int = 20,
) -> Step:
    """A step size along a direction that satisfies the strong Wolfe conditions; 1 is tried first.

    Args:
        value_fn: of a vector; NaN and infinity count as too long.
        params: from where.
        direction: where to; along one that is not downhill no step size is found.
        value: at `params`.
        grad: at `params`.
        decrease: in [0, 1).
        flatness: in [0, 1), more than `decrease`.
        trials: the most, at least 1.

    Returns:
        The step size, with value and gradient where it leads.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6 and equation 3.59.

    Differs:
        The two algorithms are one loop. A trial between two points stays away from both by a tenth
        of their distance, and is in the middle where the cubic has no minimum.

    Example:
        >>> bowl = lambda x: 4 * x[0] ** 2
        >>> start, grad = jnp.array([1.0]), jnp.array([8.0])
        >>> print(strong_wolfe(bowl, start, -grad, bowl(start), grad).size)  # 1 is too long
        0.125
    """
    slope = dot(grad, direction)
    none = jnp.zeros_like(slope)
    high = _Place(none + jnp.inf, none, none)

    def is_searching(search: _Search) -> Array:
        return ~search.best.is_flat & (search.best.trials < trials) & (slope < 0)

    def advance(search: _Search) -> _Search:
        best, low, high, size = search
        reached, uphill = jax.value_and_grad(value_fn)(params + size * direction)
        here = _Place(size, reached.astype(value.dtype), dot(uphill, direction))
        is_finite = jnp.isfinite(here.value) & jnp.all(jnp.isfinite(uphill))
        is_short = is_finite & (here.value <= value + decrease * size * slope)
        is_lower = is_short & ((here.value < low.value) | (low.size == 0))
        is_flat = is_lower & (jnp.abs(here.slope) <= flatness * jnp.abs(slope))
        turned = here.slope * (high.size - low.size) >= 0
        high = _where(is_lower, _where(turned, low, high), here)
        new = Step(here.size, here.value, uphill, is_flat, best.trials)
        best = _where(is_lower, new, best)._replace(trials=best.trials + 1)
        low = _where(is_lower, here, low)
        trial = jnp.where(jnp.isinf(high.size), 2 * size, _between(low, high))
        return _Search(best, low, high, trial)

    begin = Step(none, value, grad, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    first = _Search(begin, _Place(none, value, slope), high, none + 1)
    return jax.lax.while_loop(is_searching, advance, first).best


def _between(low: _Place, high: _Place) -> Array:
    """Where the cubic through two points is least."""
    length = high.size - low.size
    excess = low.slope + high.slope - 3 * (high.value - low.value) / length
    root = jnp.sign(length) * jnp.sqrt(excess**2 - low.slope * high.slope)
    share = 1 - (high.slope + root - excess) / (high.slope - low.slope + 2 * root)
    return low.size + length * jnp.where(jnp.isfinite(share), jnp.clip(share, 0.1, 0.9), 0.5)


def _where(condition: Array, one: NamedTuple, other: NamedTuple):
    """One of two tuples of arrays."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), one, other)
