"""One step of a rule, for loops that `fit` does not have: games, inner loops, curricula."""

from collections.abc import Callable

import jax
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

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import rules
        >>> rule, x = rules.newton(), jnp.array(3.0)
        >>> x, state, value = step(rule, rule.init(x), x, lambda x: (x - 1) ** 2)
        >>> float(x), float(value)
        (1.0, 4.0)
    """
    value, grad = jax.value_and_grad(value_fn)(params)
    told = {"value": value, "grad": grad, "value_fn": value_fn}
    update = optax.with_extra_args_support(rule).update
    updates, state = update(grad, state, params, **told)
    return optax.apply_updates(params, updates), state, value
