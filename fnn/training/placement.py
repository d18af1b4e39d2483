"""Where arrays lie on the devices of a mesh: examples split, everything else on all of them.

Every process gives the same arrays, and sends to its devices what is theirs. What lies on the
devices of the mesh already stays as it lies.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from fnn.objective import Block, ValueFunction
from fnn.training.sources import Weighted
from fnn.training.streams import Batches


def sharding_of_examples(sharding: Any) -> NamedSharding:
    """The same sharding, which splits the first axis alone, on a mesh of automatic axes."""
    if not isinstance(sharding, NamedSharding):
        raise TypeError(
            f"fit: expected sharding to be a jax.NamedSharding, got {type(sharding).__name__}; try "
            "jax.NamedSharding(mesh, jax.P('examples')), 'examples' being an axis of the mesh"
        )
    mesh, spec = sharding.mesh, tuple(sharding.spec)
    if len(spec) != 1 or not spec[0]:
        raise ValueError(
            "fit: expected a sharding of the examples, which are the first axis, along an axis of "
            f"the mesh, {', '.join(map(repr, mesh.axis_names))}, and of no other axis, got "
            f"{sharding.spec}; try jax.P({mesh.axis_names[0]!r})"
        )
    require_one_kind(_devices(sharding).flat)
    return _automatic(sharding)


def require_one_kind(devices: Iterable[Any]) -> None:
    """Refuses devices that differ, which would all wait for the slowest."""
    kinds = sorted({device.device_kind for device in devices})
    if len(kinds) > 1:
        raise ValueError(
            f"fit: expected a mesh of devices of one kind, got {' and '.join(kinds)}; try those of "
            "one kind alone, since all wait for the slowest and each rounds in its own way"
        )


def everywhere(sharding: NamedSharding) -> NamedSharding:
    """The sharding of what is whole on every device of the same mesh."""
    return NamedSharding(sharding.mesh, PartitionSpec())


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays on the devices of a mesh, by one sharding for all of them or by a tree of them."""
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_placed, tree, shardings)


def placed_for_fit(
    arrays: dict[str, PyTree], objective: Any, batch_size: int | None, sharding: NamedSharding
) -> dict[str, PyTree]:
    """The `params`, `data` and `validation` of `fit` on the devices of a mesh."""
    value_fns = {name: _value_fn(arrays[name], objective) for name in ("data", "validation")}
    shardings = {name: _shardings(arrays[name], fn, sharding) for name, fn in value_fns.items()}
    sizes = [block.count for block in value_fns["data"].blocks]
    if batch_size is not None and batch_size < max(sizes, default=0):
        # Every step takes another batch, so each device holds all data and none have to travel.
        sizes = [batch_size]
        shardings["data"] = everywhere(sharding)
    for size in sizes:
        _require_equal_shares(size, sharding)
    whole = everywhere(sharding)
    return {name: placed(tree, shardings.get(name, whole)) for name, tree in arrays.items()}


def placed_batches(batches: Batches, sharding: NamedSharding) -> Batches:
    """Batches of a stream on the mesh, each of them split."""
    _require_equal_shares(batches.weights.shape[1], sharding)
    each = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    return Batches(batches.used, *placed((batches.examples, batches.weights), each))


def split(value_fn: ValueFunction, sharding: NamedSharding | None) -> ValueFunction:
    """A value function, in compiled code, with its examples split if there is a sharding."""
    if sharding is None:
        return value_fn

    def constrain(block: Block) -> Block:
        _require_equal_shares(block.count, sharding)
        return jax.lax.with_sharding_constraint(block, sharding)

    return value_fn.map_blocks(constrain)


def _value_fn(data: PyTree, objective: Any) -> ValueFunction:
    """What data are to an objective; None are nothing."""
    if isinstance(data, ValueFunction):
        return data
    examples = data.examples if isinstance(data, Weighted) else data
    return ValueFunction(()) if examples is None else objective.on(examples)


def _shardings(data: PyTree, value_fn: ValueFunction, sharding: NamedSharding) -> PyTree:
    """The shardings of data, and of what they are as a value function."""

    def of(tree: PyTree, examples: int) -> PyTree:
        even = examples % _shares(sharding) == 0
        return jax.tree.map(lambda _: sharding if even else everywhere(sharding), tree)

    if not isinstance(data, ValueFunction):
        return of(data, *(block.count for block in value_fn.blocks)) if value_fn.terms else None
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, NamedSharding) else everywhere(sharding),
        value_fn.map_blocks(lambda block: of(block, block.count)),
    )


def _shares(sharding: NamedSharding) -> int:
    """The number of parts that the first axis is cut into."""
    (names,) = sharding.spec
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names)


def _require_equal_shares(examples: int, sharding: NamedSharding) -> None:
    shares = _shares(sharding)
    if examples % shares:
        raise ValueError(
            f"fit: expected batches that {shares} devices share equally, got {examples} examples; "
            f"try {max(examples // shares, 1) * shares} of them, by batch_size= or by hand, or "
            "another number of devices"
        )


def _automatic(sharding: NamedSharding) -> NamedSharding:
    """The same on a mesh of automatic axes, for `jax.make_mesh` makes explicit ones."""
    return NamedSharding(Mesh(_devices(sharding), sharding.mesh.axis_names), sharding.spec)


def _devices(sharding: NamedSharding) -> np.ndarray:
    return np.asarray(sharding.mesh.devices)


def _placed(leaf: Any, sharding: NamedSharding) -> Any:
    if isinstance(leaf, int | float):  # weakly typed, and everywhere
        return leaf
    own = getattr(leaf, "sharding", None)
    if isinstance(own, NamedSharding) and np.array_equal(_devices(own), _devices(sharding)):
        return jax.device_put(leaf, _automatic(own))
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        data = _placed(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    whole = np.asarray(leaf, jax.dtypes.canonicalize_dtype(jnp.result_type(leaf)))
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
