"""A rule on some of the leaves."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from fnn.interned import interned
from fnn.objective import ValueFunction, merge


@interned
def only(rule: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformationExtraArgs:
    """A rule for the leaves that a mask selects; the others stay as they are.

    The rule sees parameters with None in place of the others, and a value function of the rest. Any
    rule can be used so; one that looks into `value_fn` has to be, where optax would mask.

    Args:
        rule: any transformation of optax or ours.
        mask: a tree of booleans of the structure of the parameters, True where a leaf is trained.

    Returns:
        A rule; its state is that of `rule` on the selected leaves.

    Example:
        >>> from fnn import rules
        >>> params = {"w": jnp.array(2.0), "b": jnp.array(1.0)}
        >>> rule = only(rules.newton(), {"w": True, "b": False})
        >>> value_fn = lambda p: (p["w"] - p["b"]) ** 2
        >>> grad, state = jax.grad(value_fn)(params), rule.init(params)
        >>> updates, state = rule.update(grad, state, params, value_fn=value_fn)
        >>> print(updates["w"], updates["b"])
        -1.0 0.0
    """
    inner = optax.with_extra_args_support(rule)
    frozen = jax.tree.map(lambda trained: not trained, mask)

    def trained(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, held: None if held else leaf, tree, frozen)

    def held(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf, held: leaf if held else None, tree, frozen)

    def init(params: PyTree) -> optax.OptState:
        if jax.tree.structure(params) != jax.tree.structure(mask):
            # A placeholder of `optax.tree.map_params` stands for any tree.
            if jax.tree.leaves(params):
                raise ValueError(
                    "only: expected a mask of the structure of params, "
                    f"{jax.tree.structure(params)}, got {jax.tree.structure(mask)}; try "
                    "jax.tree.map(lambda leaf: ..., params)"
                )
            return inner.init(params)
        return inner.init(trained(params))

    def update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        if params is not None and "value_fn" in extra_args:
            value_fn = extra_args["value_fn"]
            if isinstance(value_fn, ValueFunction):
                extra_args["value_fn"] = value_fn.freeze(params, frozen)
            else:
                extra_args["value_fn"] = lambda free: value_fn(merge(free, held(params)))
        if "grad" in extra_args:
            extra_args["grad"] = trained(extra_args["grad"])
        free = None if params is None else trained(params)
        moved, state = inner.update(trained(updates), state, free, **extra_args)
        return merge(moved, jax.tree.map(jnp.zeros_like, held(updates))), state

    return optax.GradientTransformationExtraArgs(init, update)
