"""Losses that are not convex in the outputs, handed to a rule that reads their factor.

A Gauss-Newton matrix is J^T B B^T J, with B B^T the Hessian of the loss in the outputs. Where this
has negative eigenvalues there is no such B, and `losses.curvature` takes zero in their place. What
a rule makes of that is legal, and rarely what is meant: it is said, once, before training.
"""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from fnn import devices, losses
from fnn.dtypes import wide
from fnn.names import EXAMPLES
from fnn.objective import Block, Term, ValueFunction
from fnn.training.mistakes import warn

_FEW, _ENTRIES = 64, 10**6
"""Of so many examples, whose Hessians have so many entries, the losses are looked at: for ten
outputs a millisecond. Of more than a thousand outputs nothing is said."""

_ROUNDING = 1e-3
"""Of the largest curvature: below this a derivative of the loss may be rounding."""

_SATURATED = 64
"""Times eps: of a loss of logits whose p are all 0 or 1, what is left of p - p^2 is rounding."""


def warn_of_negative_curvature(
    rule: optax.GradientTransformation, value_fn: ValueFunction, params: PyTree
) -> None:
    """Looks at the losses of the first examples, where training starts.

    A loss with a factor of its own is not looked at, nor one about which the rule does not ask.

    Args:
        rule: the rule.
        value_fn: of the data, or of the first batch.
        params: the parameters.
    """
    for term in value_fn.terms:
        block = term.block
        if not isinstance(block, Block) or block.loss is None or losses.has_factor(block.loss):
            continue
        try:
            if not _is_asked_about(block.loss, rule, value_fn, params):
                continue
            found = _found(_first(term, lambda leaf: leaf[:_FEW]), params)
        except Exception:  # the step that is compiled in a moment says it better
            continue
        if found:
            warn(
                f"the loss {getattr(block.loss, '__name__', block.loss)} is not convex in the "
                f"outputs ({found}), and this rule, of Gauss-Newton type, takes zero in the place "
                "of what is negative. Try rules.newton, rules.saddle_free_newton or "
                "rules.trust_region_newton, which read the whole Hessian, or "
                "losses.with_curvature(loss, factor) with a factor of your own"
            )


def _first(term: Term, cut: Any) -> Term:
    """A term with the first examples of its block, all at once."""
    if not isinstance(term.block, Block):
        return term
    return term._replace(block=jax.tree.map(cut, replace(term.block, chunk=None)))


# The loss -----------------------------------------------------------------------------------------


def _found(term: Term, params: PyTree) -> str:
    """What is negative among the curvatures of a term's loss, in words, if anything is."""
    hessians = _hessians(term.block, term.whole(params))
    noise = _SATURATED * float(jnp.finfo(hessians.dtype).eps)
    hessians = np.asarray(hessians, float)  # NumPy compiles nothing for their eigenvalues
    eigenvalues = np.linalg.eigvalsh(hessians[np.isfinite(hessians).all(axis=(1, 2))])
    lowest, largest = eigenvalues.min(axis=1), np.abs(eigenvalues).max(initial=0)
    count = int((lowest < -max(_ROUNDING * largest, noise)).sum())
    if not count:
        return ""
    return (
        f"of the first {len(lowest)} examples {count} have negative curvature, the lowest "
        f"{lowest.min():.3g}, beside {largest:.3g}"
    )


@devices.jit
def _hessians(block: Block, params: PyTree) -> Array:
    """Of each example the Hessian of its loss in its outputs, in at least single precision."""
    answer = jax.vmap(
        lambda x, key: block.answer(params, x, key), axis_name=EXAMPLES, axis_size=block.count
    )
    outputs = jax.tree.map(wide, answer(block.inputs, block.keys))
    size = sum(leaf[0].size for leaf in jax.tree.leaves(outputs))
    pairs = jax.tree.map(lambda leaf: leaf[: _ENTRIES // size**2], (outputs, block.targets))

    def hessian(outputs: PyTree, target: PyTree) -> Array:
        flat, unravel = ravel_pytree(outputs)
        return jax.hessian(lambda flat: block.judge(unravel(flat), target))(flat)

    return jax.vmap(hessian)(*pairs)


# The rule -----------------------------------------------------------------------------------------


def _is_asked_about(
    loss: Any, rule: optax.GradientTransformation, value_fn: ValueFunction, params: PyTree
) -> bool:
    """Whether a step of the rule asks for the factor of a loss."""

    def spec(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))

    def cut(leaf: Any) -> jax.ShapeDtypeStruct:
        few, *others = jnp.shape(leaf)
        return jax.ShapeDtypeStruct((min(few, _FEW), *others), jnp.result_type(leaf))

    few = ValueFunction(tuple(_first(term, cut) for term in value_fn.terms))
    leaves, structure = jax.tree.flatten((params, few))
    return _reads_factor(rule, loss, structure, tuple(map(spec, leaves)))


@functools.lru_cache(maxsize=256)
def _reads_factor(
    rule: optax.GradientTransformation, loss: Any, structure: Any, leaves: tuple
) -> bool:
    """Whether a step asks for the factor of a loss: it is traced on few examples, and not run."""
    asked = []

    def factor(outputs: PyTree, target: PyTree) -> tuple[Array, Array]:
        asked.append(loss)
        return losses.curvature(loss)(outputs, target)

    watched = losses.with_curvature(loss, factor)

    def watch(term: Term) -> Term:
        if not isinstance(term.block, Block) or term.block.loss is not loss:
            return term
        return term._replace(block=replace(term.block, loss=watched))

    told = optax.with_extra_args_support(rule)

    def step(params: PyTree, value_fn: ValueFunction) -> PyTree:
        # A rule that does not look into the value function sees no model: that is traced fast.
        grad, value = optax.tree.zeros_like(params), jnp.zeros(())
        watching = ValueFunction(tuple(map(watch, value_fn.terms)))
        extra: Any = {"value": value, "grad": grad, "value_fn": watching}
        return told.update(grad, told.init(params), params, **extra)[0]

    jax.eval_shape(step, *jax.tree.unflatten(structure, leaves))
    return bool(asked)
