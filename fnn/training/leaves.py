"""Leaves of trees, by their paths and as numbers."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def leaves_by_path(trees: Mapping[str, PyTree]) -> dict[str, Any]:
    """Leaves by their paths, such as params['weight'], in the order of the trees."""
    leaves = jax.tree.leaves_with_path(dict(trees))
    return {path[0].key + jax.tree_util.keystr(path[1:]): leaf for path, leaf in leaves}


def plain(leaf: Any) -> Any:
    """The leaf as numbers: a typed key by its data."""
    typed = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if typed else leaf
