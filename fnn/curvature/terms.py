"""The terms of a value function, sorted by what they give to its curvature."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree, Scalar

from fnn.curvature.rows import Source, source_of
from fnn.objective import Block, Known, Penalty, Term, ValueFunction


class Terms(NamedTuple):
    """The terms of a value function by what they give to its curvature.

    Attributes:
        params: the point where it is differentiated, as arrays.
        sources: the rows of the blocks that have some.
        without_rows: the terms without rows, whose gradient A^T does not reach.
        penalty: the diagonal curvature of the `l2` among them; see `solvers.System`.
    """

    params: PyTree
    sources: list[Source]
    without_rows: list[Term]
    penalty: PyTree


def terms_of(value_fn: ValueFunction, params: PyTree) -> Terms:
    """The terms of a value function, after the checks that its curvature needs."""
    if not isinstance(value_fn, ValueFunction):
        name = getattr(value_fn, "__name__", type(value_fn).__name__)
        raise TypeError(
            "gauss_newton_system: expected a value function made by Objective.on, got function "
            f"{name}; its model and loss are hidden in it: try fnn.Objective(model, loss).on(data),"
            " or rules.newton, which needs only a function"
        )
    for scale, block, *_ in value_fn.terms:
        if _is_curved(block) and isinstance(scale, int | float) and scale < 0:
            raise ValueError(
                f"gauss_newton_system: expected blocks and l2 with a scale of at least 0, got "
                f"{scale}; its curvature is negative: try rules.newton"
            )
    params = require_real("gauss_newton_system", params)
    penalties = [term for term in value_fn.terms if isinstance(term.block, Penalty)]
    blocks = [term for term in value_fn.terms if isinstance(term.block, Block)]
    sources = [source_of(term, params) for term in blocks]
    flat = [term for term, source in zip(blocks, sources, strict=True) if source is None]
    return Terms(
        params,
        [source for source in sources if source is not None],
        [*flat, *penalties],
        _penalty(penalties, params),
    )


def require_real(name: str, params: PyTree) -> PyTree:
    """The parameters as arrays, at least one and all of them real."""
    if not jax.tree.leaves(params):
        raise ValueError(f"{name}: expected at least one parameter, got none; try to freeze fewer")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name}: expected real floating-point parameters, got {jnp.result_type(leaf)} at "
                f"params{jax.tree_util.keystr(path)}; try its real and imaginary parts as two "
                "leaves, or value_fn.freeze to leave it out"
            )
    return jax.tree.map(jnp.asarray, params)


def _is_curved(block: Block | Penalty) -> bool:
    """Whether a negative scale of a block would make negative curvature."""
    return isinstance(block, Block) or block.is_half_squared_norm


def _penalty(terms: Sequence[Term], params: PyTree) -> PyTree:
    """The weights of the l2 penalties on every leaf, one object where they are the same."""
    # Solvers tell by identity which leaves share a number. So each sum is kept under a key that
    # lists the terms in it, and for a mask that is an array the leaf too.
    structure = jax.tree.structure(params)
    sums: dict[tuple, Any] = {(): 0.0}
    keys: list[tuple] = [()] * structure.num_leaves
    for index, (scale, block, *_) in enumerate(terms):
        if not (isinstance(block, Penalty) and block.is_half_squared_norm):
            continue
        if not isinstance(scale, int | float):  # A NaN makes a solver reject a negative scale.
            scale = jnp.where(scale >= 0, scale, jnp.nan)
        for leaf, mask in enumerate(_masks(block, params)):
            before = keys[leaf]
            is_known = isinstance(mask, Known)
            if is_known and not mask.value:
                continue
            keys[leaf] = (*before, index if is_known else (index, leaf))
            if keys[leaf] not in sums:
                number = scale if is_known else scale * mask
                sums[keys[leaf]] = sums[before] + number if before else number
    if not any(keys):
        return None
    if len(set(keys)) == 1:
        return sums[keys[0]]
    return structure.unflatten(sums[key] for key in keys)


def _masks(block: Penalty, params: PyTree) -> list[Known | Scalar]:
    """Whether a penalty selects each of the leaves that are not None."""
    structure = jax.tree.structure(params)
    if block.where is None:
        return [Known(True)] * structure.num_leaves
    free = jax.tree.map(
        lambda p, m: None if p is None else m, params, block.where, is_leaf=lambda p: p is None
    )
    return structure.flatten_up_to(free)
