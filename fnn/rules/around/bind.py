"""A rule that needs no extra arguments."""

from typing import Any

import jax
import optax
from jaxtyping import Array, Key, PyTree

from fnn.interned import interned
from fnn.objective import Objective


@interned
def bind(
    rule: optax.GradientTransformation, objective: Objective, data: PyTree = None
) -> optax.GradientTransformationExtraArgs:
    """A rule that makes value, gradient and value function itself, for frameworks that cannot.

    `update(updates, state, params, batch=batch)` puts the objective on the batch; with `data` given
    it is put on these, and `update(updates, state, params)` is all there is to call. The gradient
    that comes in is not read, so that nobody has to compute one: what should transform it belongs
    inside, `bind(optax.chain(clip, rule), objective)`.

    Args:
        rule: any transformation of optax or ours.
        objective: what is minimized.
        data: all the data, if they are few: they become constants of the compiled program.

    Returns:
        A rule; `update` takes `batch=`, by default `data`, and `key=` for dropout.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import rules
        >>> line = Objective(lambda w, x: w * x[0] - x[1])
        >>> rule = bind(rules.gauss_newton(), line, jnp.array([[1.0, 2.0], [2.0, 4.0]]))
        >>> w = jnp.array(0.0)
        >>> updates, state = rule.update(w, rule.init(w), w)
        >>> print(updates.round(4))
        2.0
    """
    inner = optax.with_extra_args_support(rule)

    def update(
        updates: PyTree,
        state: optax.OptState,
        params: PyTree | None = None,
        *,
        batch: PyTree = data,
        key: Key[Array, ""] | None = None,
        **extra_args: Any,
    ) -> tuple[PyTree, optax.OptState]:
        del updates, extra_args
        for thing, name in (params, "params, where the objective is evaluated"), (batch, "a batch"):
            if thing is None:
                raise ValueError(
                    f"bind: expected {name}, got None; try "
                    "rule.update(updates, state, params, batch=batch)"
                )
        value_fn = objective.on(batch, key=key)
        value, grad = jax.value_and_grad(value_fn)(params)
        return inner.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)

    return optax.GradientTransformationExtraArgs(rule.init, update)
