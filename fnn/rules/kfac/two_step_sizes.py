"""Learning rate and momentum where a quadratic model says: a step as a point of a plane.

The plane is spanned by a direction and the last velocity. What a quadratic model says of
`rate direction + momentum velocity` takes six numbers, however many parameters there are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from fnn import solvers
from fnn.objective import wide
from fnn.rules.contract import Scalar


class Plane(NamedTuple):
    """The quadratic model in the plane of a direction and a velocity.

    Attributes:
        slope: the gradient's parts along them, negative, so that what descends is positive.
        bend: the curvature, (direction, velocity) x (direction, velocity).
        damped: what the damping adds to it.
    """

    slope: Float[Array, " 2"]
    bend: Float[Array, "2 2"]
    damped: Float[Array, "2 2"]


def plane(
    grad: PyTree, direction: PyTree, velocity: PyTree, bend: Float[Array, "2 2"], damping: Scalar
) -> Plane:
    """The model from its parts.

    Args:
        grad: the gradient.
        direction: one side of the plane.
        velocity: the other.
        bend: the curvature along both.
        damping: added to the curvature of every parameter.

    Returns:
        The model.
    """
    grad, *sides = (jax.tree.map(wide, tree) for tree in (grad, direction, velocity))
    slope = -jnp.array([optax.tree.vdot(grad, side) for side in sides])
    lengths = jnp.array([[optax.tree.vdot(one, other) for other in sides] for one in sides])
    return Plane(slope, bend, damping * lengths)


def lowest(model: Plane, rate: Scalar | None, momentum: Scalar | None) -> tuple[Array, Array]:
    """Where the damped model is least.

    Args:
        model: of a plane.
        rate: None to be found.
        momentum: None to be found.

    Returns:
        Rate and momentum. Momentum is 0 where the velocity shows no other direction.

    Source:
        Martens and Grosse (2015), arXiv:1503.05671, sections 6.4 and 7.
    """
    down, along = model.slope
    (first, cross), (_, last) = model.bend + model.damped
    if momentum is None and rate is None:
        area = first * last - cross * cross
        apart = area > jnp.sqrt(jnp.finfo(area.dtype).eps) * first * last
        momentum = solvers.over(first * along - cross * down, jnp.where(apart, area, 0))
    elif momentum is None:
        momentum = solvers.over(along - rate * cross, last)
    rate = solvers.over(down - momentum * cross, first) if rate is None else rate
    return jnp.asarray(rate, down.dtype), jnp.asarray(momentum, down.dtype)


def promise(model: Plane, rate: Scalar | None, momentum: Scalar | None) -> Float[Array, ""]:
    """By how much the undamped model falls.

    Args:
        model: of a plane.
        rate: along the direction, found.
        momentum: along the velocity, found.

    Returns:
        The fall, negative where it rises.
    """
    moved = jnp.array([rate, momentum])
    return moved @ model.slope - moved @ model.bend @ moved / 2
