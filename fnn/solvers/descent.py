"""Conjugate gradients as a path downhill: from a start, with iterates stored on the way."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn.solvers.conjugate_gradients import Iterate, begin, following, is_little, model_at
from fnn.solvers.preconditioners import Preconditioner
from fnn.solvers.system import (
    RightHandSide,
    System,
    all_finite,
    cast,
    gradient,
    largest_entry,
    require_matching,
    shift_of,
    widen,
)

PROGRESS = 5e-4
"""Relative progress of the model in each of the last iterations, below which it is enough."""

WINDOW = 10
"""The last iterations are so many, or a tenth of them all."""


class Descent(NamedTuple):
    """Iterates of conjugate gradients, from early to late.

    Attributes:
        steps: Tree like the parameters, with one more leading axis: the last iterate that is not
            later than 1, 2, 3, 4, 5, 7, 9, ... (powers of 1.3, rounded up). Zeros after `last`.
        models: Of each, `q(d) + 1/2 d . damping d`, below 0 where it promises something.
        last: Index of the end of the path.
        iterations: How many there were; one product with C each, and one for the start.
        ok: Whether the end is finite and promises something.
    """

    steps: PyTree
    models: Float[Array, " kept"]
    last: Int[Array, ""]
    iterations: Int[Array, ""]
    ok: Bool[Array, ""]


class _Walk(NamedTuple):
    """The iterate now, the stored iterates with their models, and the model of each so far."""

    now: Iterate
    steps: PyTree
    models: Array
    history: Array


def descend(
    system: System,
    rhs: RightHandSide,
    damping: PyTree,
    start: PyTree,
    iterations: int = 250,
    precondition: Preconditioner | None = None,
) -> Descent:
    """Conjugate gradients on the damped model m(d) = g . d + 1/2 d . (C + D) d, from a start.

    Stops in iteration i, with k = max(10, i / 10), when m(d_i) < 0 and
    `(m(d_i) - m(d_{i-k})) / m(d_i) < k PROGRESS`: when the last k iterations brought little of
    what the model promises. Stops as well where the equation holds to half the digits, and at a
    direction without curvature.

    Args:
        system: The curvature.
        rhs: The gradient.
        damping: Number >= 0, or a tree with a number or an array for each leaf.
        start: Tree like the parameters, finite; zeros for none.
        iterations: At most so many, >= 1.
        precondition: See `conjugate_gradients`.

    Returns:
        The path.

    Raises:
        ValueError: If `iterations` is less than 1.

    Source:
        Martens (2010), "Deep learning via Hessian-free optimization", sections 4.4 to 4.6.

    >>> from fnn.solvers import from_rows
    >>> system = from_rows(jnp.diag(jnp.array([1.0, 2.0])), jnp.zeros(2))
    >>> path = descend(system, RightHandSide(jnp.ones(2)), 0.0, jnp.zeros(2), iterations=5)
    >>> path.steps[path.last].round(4).tolist(), int(path.iterations)
    ([-1.0, -0.5], 2)
    """
    if iterations < 1:
        raise ValueError(f"descend: expected iterations >= 1, got {iterations}; try 250")
    grad = gradient(system, require_matching(system, rhs, damping))
    unit = largest_entry(grad)  # in float32 the square of a residual of 1e-20 is 0
    grad = optax.tree.scale(1 / unit, grad)
    shift = shift_of(system, damping)
    improve = precondition(system, shift) if precondition else lambda residual: residual
    stored = _stored(iterations)

    def image(v: PyTree) -> PyTree:
        undamped = widen(system, system.multiply(cast(v, system.like)))
        return optax.tree.add(undamped, optax.tree.mul(shift, v))

    def going(walk: _Walk) -> Array:
        now, i = walk.now, walk.now.steps
        enough = is_little(walk.history, i, PROGRESS, WINDOW)
        far = optax.tree.norm(now.residual) > jnp.finfo(size.dtype).eps ** 0.5 * size
        return far & ~enough & (i < iterations) & ~now.negative

    def walk_on(walk: _Walk) -> _Walk:
        now = following(image, improve, walk.now)
        slot, reached = jnp.searchsorted(stored, now.steps), model_at(now, grad)
        return _Walk(
            now,
            jax.tree.map(lambda all_, one: all_.at[slot].set(one), walk.steps, now.step),
            walk.models.at[slot].set(reached),
            walk.history.at[now.steps].set(reached),
        )

    start = optax.tree.scale(1 / unit, widen(system, start))
    now = begin(start, optax.tree.scale(-1, optax.tree.add(grad, image(start))), improve)
    size, zero = optax.tree.norm(grad), model_at(now, grad)

    def first_of(leaf: Array) -> Array:
        return jnp.zeros((len(stored), *leaf.shape), leaf.dtype).at[0].set(leaf)

    first = _Walk(
        now,
        jax.tree.map(first_of, start),
        jnp.zeros(len(stored), zero.dtype).at[0].set(zero),
        jnp.zeros(iterations + 1, zero.dtype).at[0].set(zero),
    )
    end = jax.lax.while_loop(going, walk_on, first)
    last = jnp.searchsorted(stored, end.now.steps)
    steps, models = cast(optax.tree.scale(unit, end.steps), system.like), unit * end.models * unit
    step, reached = jax.tree.map(lambda leaf: leaf[last], (steps, models))
    ok = all_finite((step, reached)) & (reached < 0)
    return Descent(steps, models, last, end.now.steps, ok)


def _stored(iterations: int) -> np.ndarray:
    """The iterations whose iterates are stored, or the next that was made: powers of 1.3."""
    powers = np.ceil(1.3 ** np.arange(1 + np.log(iterations) / np.log(1.3)))
    return np.unique(np.minimum(powers, iterations)).astype(np.int32)
