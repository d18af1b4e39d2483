"""Members of many trainings in one program: what each has of its own, and what they share."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from fnn.training.leaves import leaves_by_path

Axes = tuple[int | None, ...]


class Members(NamedTuple):
    """Trees by their names; of each leaf, 0 where its first axis counts members, None elsewhere."""

    trees: dict[str, PyTree]
    axes: Axes

    @classmethod
    def of(cls, trees: dict[str, PyTree], axes: Mapping[str, PyTree]) -> "Members":
        """Members with what is given as the `in_axes` of `jax.vmap` for each tree."""
        return cls(trees, tuple(a for n in sorted(trees) for a in _axes_of(n, axes[n], trees[n])))

    @property
    def axes_by_name(self) -> dict[str, Axes]:
        """The axes of the leaves of each tree."""
        axes = iter(self.axes)
        return {
            name: tuple(itertools.islice(axes, len(jax.tree.leaves(self.trees[name]))))
            for name in sorted(self.trees)
        }

    @property
    def members(self) -> int:
        """The number of members, or the error that trees deserve that do not agree about it."""
        pairs = zip(leaves_by_path(self.trees).items(), self.axes, strict=True)
        own = {path: jnp.shape(leaf) for (path, leaf), axis in pairs if axis == 0}
        if bare := [path for path, shape in own.items() if not shape]:
            raise ValueError(
                "fits: expected a first axis with a place for each member, got a number at "
                f"{', '.join(bare)}; {_REMEDY}"
            )
        paths_by_size: dict[int, list[str]] = {}
        for path, shape in own.items():
            paths_by_size.setdefault(shape[0], []).append(path)
        if len(paths_by_size) > 1:
            listed = [f"{size} in {', '.join(paths)}" for size, paths in paths_by_size.items()]
            raise ValueError(
                "fits: expected first axes of one size, a place for each member, got "
                f"{'; '.join(listed)}; {_REMEDY}"
            )
        if not any(paths_by_size):
            raise ValueError(f"fits: expected at least one member, got none; {_REMEDY}")
        return next(iter(paths_by_size))

    def one(self, index: int) -> dict[str, PyTree]:
        """What a member has, alone."""
        leaves, structure = jax.tree.flatten(self.trees)
        pairs = list(zip(leaves, self.axes, strict=True))
        own = iter(_at([leaf for leaf, axis in pairs if axis == 0], index))
        return structure.unflatten(leaf if axis is None else next(own) for leaf, axis in pairs)


@jax.jit
def _at(leaves, index):
    """All leaves at one place, by one program for all places."""
    return [leaf[index] for leaf in leaves]


_REMEDY = (
    "try jax.vmap(lambda key: model.init(key, x))(jax.random.split(key, 16)) for 16 starts, and "
    "data_axes=None for data that all members share"
)


def _axes_of(name: str, axes: PyTree, tree: PyTree) -> Axes:
    """The axis of each leaf of a tree, from a prefix as `jax.vmap` takes it."""
    given = jax.tree.leaves(axes, is_leaf=_is_none)
    if not all(axis is None or (type(axis) is int and axis == 0) for axis in given):
        raise ValueError(
            f"fits: expected {name}_axes of 0 (each member has its own, along the first axis) and "
            f"None (all share it), got {axes}; try jnp.moveaxis"
        )
    numbers = jax.tree.map(lambda axis: -1 if axis is None else axis, axes, is_leaf=_is_none)
    try:
        spread = jax.tree.map(lambda axis, part: jax.tree.map(lambda _: axis, part), numbers, tree)
    except (TypeError, ValueError):
        raise ValueError(
            f"fits: expected {name}_axes that fit the {name}, as in_axes of jax.vmap, got {axes} "
            f"for {jax.tree.structure(tree)}; try 0 or None, or a pair such as (None, 0)"
        ) from None
    return tuple(None if axis < 0 else axis for axis in jax.tree.leaves(spread))


def keys_of(key: Any, count: int) -> Key[Array, " members"] | None:
    """The key of each member, split from one where one is given."""
    if key is None:
        return None
    if isinstance(key, jax.Array):
        is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if is_typed or key.dtype == jnp.uint32:
            axes = key.ndim - (not is_typed)
            if axes == 0:
                return jax.random.split(key, count)
            if axes == 1 and len(key) == count:
                return key
    raise ValueError(
        f"fits: expected one key, or an array of {count}, one for each member, got "
        f"{getattr(key, 'shape', key)}; try key=jax.random.key(0)"
    )


def _is_none(axis: Any) -> bool:
    return axis is None
