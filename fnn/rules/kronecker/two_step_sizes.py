"""Learning rate and momentum where a quadratic model says: a step as a point of a plane.

The plane is spanned by a direction and the last velocity. What a quadratic model says of
`rate direction + momentum velocity` takes six numbers, however many parameters there are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from fnn import solvers
from fnn.objective import wide
from fnn.products import dot
from fnn.rules.contract import Scalar


class Plane(NamedTuple):
    """The quadratic model in the plane of a direction and a velocity.

    Attributes:
        slope: The gradient's parts along them, negative, so that what descends is positive.
        curvature: (direction, velocity) x (direction, velocity).
        damping: What the damping adds to it.
    """

    slope: Float[Array, " 2"]
    curvature: Float[Array, "2 2"]
    damping: Float[Array, "2 2"]


def plane(
    grad: PyTree,
    direction: PyTree,
    velocity: PyTree,
    curvature: Float[Array, "2 2"],
    damping: Scalar,
) -> Plane:
    """The model from the curvature along both sides of the plane, and the damping of parameters."""
    # One product of long vectors: six for every leaf took twice as long to compile.
    vectors = jnp.stack([
        ravel_pytree(jax.tree.map(wide, tree))[0] for tree in (grad, direction, velocity)
    ])
    products = dot(vectors, vectors.T)
    return Plane(-products[0, 1:], curvature, damping * products[1:, 1:])


def lowest(
    model: Plane, learning_rate: Scalar | None, momentum: Scalar | None
) -> tuple[Array, Array]:
    """Learning rate and momentum, at the least of the damped model where they are None."""
    # Martens and Grosse (2015), arXiv:1503.05671, sections 6.4 and 7.
    down, along = model.slope
    (first, cross), (_, last) = model.curvature + model.damping
    if momentum is None and learning_rate is None:
        area = first * last - cross * cross
        is_plane = area > jnp.sqrt(jnp.finfo(area.dtype).eps) * first * last
        # Momentum is 0 where the velocity shows no other direction.
        momentum = solvers.over(first * along - cross * down, jnp.where(is_plane, area, 0))
    elif momentum is None:
        momentum = solvers.over(along - learning_rate * cross, last)
    if learning_rate is None:
        learning_rate = solvers.over(down - momentum * cross, first)
    return jnp.asarray(learning_rate, down.dtype), jnp.asarray(momentum, down.dtype)


def promise(model: Plane, learning_rate: Scalar, momentum: Scalar) -> Float[Array, ""]:
    """By how much the undamped model falls, negative where it rises."""
    sizes = jnp.array([learning_rate, momentum])
    return dot(sizes, model.slope) - dot(sizes, model.curvature, sizes) / 2
