"""Arrays on the devices of a mesh, seen from inside of compiled code.

Where examples are split over devices, by `fit(sharding=...)` or by `jax.device_put` in a loop of
your own, XLA splits what is computed from them: sums over examples become sums over devices, and
nothing needs to be said. What XLA cannot know is said here, where rows of different examples meet:
every traced array tells its mesh, and without a mesh these functions do nothing.
"""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

__all__ = ["count", "everywhere"]
__dir__ = __all__.copy


def count(tree: PyTree) -> int:
    """The number of devices of the mesh on which arrays lie.

    Args:
        tree: arrays, traced or not.

    Returns:
        1 without a mesh.

    Example:
        >>> import jax.numpy as jnp
        >>> count(jnp.ones(3))
        1
    """
    return max([1, *(_mesh(leaf).size for leaf in jax.tree.leaves(tree))])


def everywhere(tree: PyTree) -> PyTree:
    """The same arrays, whole on every device of their mesh.

    Args:
        tree: arrays, traced or not.

    Returns:
        The arrays; as they came without a mesh.

    Example:
        >>> import jax.numpy as jnp
        >>> array = jnp.ones(3)
        >>> everywhere(array) is array
        True
    """

    def whole(leaf: Array) -> Array:
        mesh = _mesh(leaf)
        if mesh.size <= 1:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(whole, tree)


def _mesh(leaf: Any) -> jax.sharding.AbstractMesh:
    return jax.typeof(leaf).sharding.mesh
