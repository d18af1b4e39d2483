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

from fnn.objective import Block, Term, ValueFunction
from fnn.training.sources import Block as Batches


def sharding_of_examples(sharding: Any) -> NamedSharding:
    """A sharding that splits the first axis and nothing else, checked.

    Args:
        sharding: what is to be checked.

    Returns:
        The same, on a mesh whose other shardings are left to the compiler.

    Raises:
        TypeError: if it is no `NamedSharding`.
        ValueError: if it does not split the first axis alone, or the devices are of several kinds.
    """
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
    check_kinds(_devices(sharding).flat)
    return _automatic(sharding)


def check_kinds(devices: Iterable[Any]) -> None:
    """Refuses devices that differ, which would all wait for the slowest.

    Args:
        devices: of a mesh.

    Raises:
        ValueError: if they are of several kinds.
    """
    kinds = sorted({device.device_kind for device in devices})
    if len(kinds) > 1:
        raise ValueError(
            f"fit: expected a mesh of devices of one kind, got {' and '.join(kinds)}; try those of "
            "one kind alone, since all wait for the slowest and each rounds in its own way"
        )


def everywhere(sharding: NamedSharding) -> NamedSharding:
    """The sharding of what is whole on every device.

    Args:
        sharding: any on the mesh.

    Returns:
        The sharding.
    """
    return NamedSharding(sharding.mesh, PartitionSpec())


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """Arrays on the devices of a mesh.

    Args:
        tree: arrays; numbers of Python stay what they are.
        shardings: one for all of them, or a tree of shardings.

    Returns:
        The arrays as they are to lie; those that lie on the mesh already as they do.
    """
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(_placed, tree, shardings)


def placed_for_fit(
    held: dict[str, PyTree], objective: Any, batch_size: int | None, sharding: NamedSharding
) -> dict[str, PyTree]:
    """What `fit` holds, on the devices of a mesh.

    Data are split, if every step takes all of them; if every step takes another batch each device
    holds them whole, so that none have to travel. Validation data are split where that is even.

    Args:
        held: `params`; `data` and `validation`, arrays of examples, value functions, or None.
        objective: of the arrays.
        batch_size: examples in a batch; None is all of them.
        sharding: of the examples.

    Returns:
        The same. (Batches that cannot be shared equally raise a ValueError.)
    """
    made = {name: _value_fn(held[name], objective) for name in ("data", "validation")}
    shardings = {name: _shardings(held[name], made[name], sharding) for name in made}
    sizes = [block.count for block in _blocks(made["data"])]
    if batch_size is not None and batch_size < max(sizes, default=0):
        sizes = [batch_size]
        shardings["data"] = everywhere(sharding)
    for size in sizes:
        _check(size, sharding)
    return {
        name: placed(tree, shardings.get(name, everywhere(sharding))) for name, tree in held.items()
    }


def placed_batches(batches: Batches, sharding: NamedSharding) -> Batches:
    """A block of batches of a stream, each of them split.

    Args:
        batches: the block.
        sharding: of the examples.

    Returns:
        The block on the mesh. (Batches that cannot be shared equally raise a ValueError.)
    """
    _check(batches.weights.shape[1], sharding)
    each = NamedSharding(sharding.mesh, PartitionSpec(None, *sharding.spec))
    return Batches(batches.used, *placed((batches.batches, batches.weights), each))


def split(value_fn: ValueFunction, sharding: NamedSharding | None) -> ValueFunction:
    """A value function, in compiled code, with its examples split.

    Args:
        value_fn: any.
        sharding: of the examples; None leaves the value function as it is.

    Returns:
        The value function. (Blocks that cannot be shared equally raise a ValueError.)
    """
    if sharding is None:
        return value_fn

    def term_of(term: Term) -> Term:
        if not isinstance(term.block, Block):
            return term
        _check(term.block.count, sharding)
        return term._replace(block=jax.lax.with_sharding_constraint(term.block, sharding))

    return ValueFunction(tuple(map(term_of, value_fn.terms)))


def _value_fn(data: PyTree, objective: Any) -> ValueFunction:
    """What data are to an objective; None are nothing."""
    if isinstance(data, ValueFunction):
        return data
    return ValueFunction(()) if data is None else objective.on(data)


def _blocks(value_fn: ValueFunction) -> list[Block]:
    return [term.block for term in value_fn.terms if isinstance(term.block, Block)]


def _shardings(data: PyTree, value_fn: ValueFunction, sharding: NamedSharding) -> PyTree:
    """Of data, and of what they are as a value function."""

    def of(tree: PyTree, examples: int) -> PyTree:
        even = examples % _shares(sharding) == 0
        return jax.tree.map(lambda _: sharding if even else everywhere(sharding), tree)

    if not isinstance(data, ValueFunction):
        return of(data, *(block.count for block in _blocks(value_fn))) if value_fn.terms else None
    terms = []
    for term in value_fn.terms:
        shardings = jax.tree.map(lambda _: everywhere(sharding), term)
        if isinstance(term.block, Block):
            shardings = shardings._replace(block=of(term.block, term.block.count))
        terms.append(shardings)
    return ValueFunction(tuple(terms))


def _shares(sharding: NamedSharding) -> int:
    """The number of parts that the first axis is cut into."""
    (names,) = sharding.spec
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names)


def _check(examples: int, sharding: NamedSharding) -> None:
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
