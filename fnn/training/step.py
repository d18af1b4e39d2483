"""One step of a rule, for loops that `fit` does not have: games, inner loops, curricula."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree, Scalar


def step(
    rule: optax.GradientTransformation,
    state: PyTree,
    params: PyTree,
    value_fn: Callable[[PyTree], Scalar],
) -> tuple[PyTree, PyTree, Scalar]:
    """Parameters, state and value after and before one step of a rule.

        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        params = params + updates

    It is pure: put it under `jit`, `vmap` and `scan`. Two players of a game take one in turn, each
    on a value function in which the other is held.

    Args:
        rule: any transformation of optax or ours.
        state: the rule's, `rule.init(params)` at first.
        params: the parameters.
        value_fn: what is minimized, a value function or any function of the parameters.

    Returns:
        The new parameters, the new state, and the value before the step.

    Raises:
        TypeError: if the rule is none, parameters are not real, or what is minimized is no function
            of them to a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import rules
        >>> rule, x = rules.newton(), jnp.array(3.0)
        >>> x, state, value = step(rule, rule.init(x), x, lambda x: (x - 1) ** 2)
        >>> float(x), float(value)
        (1.0, 4.0)
    """
    _require(rule, params, value_fn)
    try:
        value, grad = jax.value_and_grad(value_fn)(params)
    except TypeError:
        _require_number(value_fn, params)
        raise
    told = {"value": value, "grad": grad, "value_fn": value_fn}
    update = optax.with_extra_args_support(rule).update
    updates, state = update(grad, state, params, **told)
    return optax.apply_updates(params, updates), state, value


def _require(rule: Any, params: PyTree, value_fn: Any) -> None:
    """Requires what can be stepped with."""
    if not isinstance(rule, optax.GradientTransformation):
        raise TypeError(f"step: expected a rule, got {rule!r}; try rules.adam(1e-3)")
    if not callable(value_fn):
        raise TypeError(
            f"step: expected a value function, got {type(value_fn).__name__}; try "
            "objective.on(data), or any function of the parameters"
        )
    for path, leaf in jax.tree.leaves_with_path(params):
        dtype = getattr(leaf, "dtype", type(leaf))
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"step: expected real parameters of floating point, got {dtype} at "
                f"params{jax.tree_util.keystr(path)}; cast it, or take its real and imaginary "
                "parts as two leaves"
            )


def _require_number(value_fn: Callable, params: PyTree) -> None:
    """Requires a function of the parameters to one number."""
    got = jax.eval_shape(value_fn, params)
    if getattr(got, "shape", None) != ():
        raise TypeError(
            f"step: expected a function of the parameters to one number, got {got}; try its mean"
        )
