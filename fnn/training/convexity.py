"""Losses that are not convex in the outputs, handed to a rule that reads their factor.

A Gauss-Newton matrix is J^T B B^T J, with B B^T the Hessian of the loss in the outputs. Where this
has negative eigenvalues there is no such B, and `losses.curvature` takes zero in their place. What
a rule makes of that is legal, and rarely what is meant: it is said, once, before training.
"""

import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from fnn import losses
from fnn.objective import EXAMPLES, Block, ValueFunction, merge, wide

_FEW = 64
"""Of so many examples the losses are looked at: for ten outputs a millisecond."""

_ROUNDING = 1e-3
"""Of the largest curvature: in half precision less may be rounding."""


def warn_of_negative_curvature(
    rule: optax.GradientTransformation, value_fn: ValueFunction, params: PyTree
) -> None:
    """Looks at the losses of the first examples, where training starts.

    Args:
        rule: the rule.
        value_fn: of the data, or of the first batch.
        params: the parameters.
    """
    for term in value_fn.terms:
        block = term.block
        if not isinstance(block, Block) or block.loss is None or losses.has_factor(block.loss):
            continue
        if not _reads_factor(rule, value_fn, block.loss, params):
            continue
        try:
            few = jax.tree.map(lambda leaf: leaf[:_FEW], replace(block, chunk=None))
            eigenvalues = np.asarray(_eigenvalues(few, merge(params, term.held)), float)
        except Exception:  # the step that is compiled in a moment says it better
            continue
        lowest, largest = eigenvalues.min(axis=1), np.abs(eigenvalues).max()
        count = int((lowest < -_ROUNDING * largest).sum())
        if count:
            warnings.warn(
                f"fit: the loss {getattr(block.loss, '__name__', block.loss)} is not convex in the "
                f"outputs (of the first {len(lowest)} examples {count} have negative curvature, "
                f"the lowest {lowest.min():.3g}, beside {largest:.3g}), and this rule, of "
                "Gauss-Newton type, takes zero in the place of what is negative. Try rules.newton, "
                "rules.saddle_free_newton or rules.trust_region_newton, which read the whole "
                "Hessian, or losses.with_curvature(loss, factor) with a factor of your own.",
                stacklevel=5,
            )


@jax.jit
def _eigenvalues(block: Block, params: PyTree) -> Array:
    """Of each example the eigenvalues of the Hessian of its loss in its outputs."""
    answer = jax.vmap(
        lambda x, key: block.answer(params, x, key), axis_name=EXAMPLES, axis_size=block.count
    )

    def eigenvalues(pair: tuple[PyTree, PyTree]) -> Array:
        flat, unravel = ravel_pytree(pair[0])
        hessian = jax.hessian(lambda flat: block.judge(unravel(flat), pair[1]))(flat)
        return jnp.linalg.eigvalsh(wide(hessian))

    # One after the other: on a CPU decompositions are never batched.
    return jax.lax.map(eigenvalues, (answer(block.inputs, block.keys), block.targets))


def _reads_factor(
    rule: optax.GradientTransformation, value_fn: ValueFunction, loss: Any, params: PyTree
) -> bool:
    """Whether a step of the rule asks for the factor of a loss: it is traced, and not run."""
    asked = []

    def factor(outputs: PyTree, target: PyTree) -> tuple[Array, Array]:
        asked.append(loss)
        return losses.curvature(loss)(outputs, target)

    watched = losses.with_curvature(loss, factor)
    terms = tuple(
        term._replace(block=replace(term.block, loss=watched))
        if isinstance(term.block, Block) and term.block.loss is loss
        else term
        for term in value_fn.terms
    )
    told = optax.with_extra_args_support(rule)

    def step(params: PyTree) -> PyTree:
        # A rule that does not look into the value function sees no model: that is traced fast.
        grad, value = optax.tree.zeros_like(params), jnp.zeros(())
        extra: Any = {"value": value, "grad": grad, "value_fn": ValueFunction(terms)}
        return told.update(grad, told.init(params), params, **extra)[0]

    try:
        jax.eval_shape(step, jax.tree.map(jnp.asarray, params))
    except Exception:  # the step that is compiled in a moment says it better
        return False
    return bool(asked)
