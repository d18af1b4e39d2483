"""The meter of a race: a rule that counts what its steps cost, and the unit of `gradients`.

What is spent is metered while a rule runs: conjugate gradients and trials of a step count as often
as they were taken.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops
from fnn.objective import SCOPE, Objective, ValueFunction
from fnn.problems import Problem


class Metered(NamedTuple):
    """The state of a metered rule.

    Attributes:
        state: the rule's own.
        flops: spent so far, in Kahan's sum: the total, and what it has lost to rounding.
        model: likewise those of models and penalties, forward, backward and along directions.
    """

    state: PyTree
    flops: Float[Array, "2"]
    model: Float[Array, "2"]


def metered(rule: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A rule that counts what its whole step costs, value and gradient among it.

    Args:
        rule: any; it gets the extra arguments of the loop of `training`.

    Returns:
        The rule with a `Metered` state. It makes value and gradient itself, from `value_fn`.
    """
    rule = optax.with_extra_args_support(rule)

    def step(params: PyTree, state: PyTree, value_fn: ValueFunction) -> tuple[PyTree, PyTree]:
        value, grad = jax.value_and_grad(value_fn)(params)
        return rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)

    def init(params: PyTree) -> Metered:
        return Metered(rule.init(params), jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32))

    def update(
        updates: PyTree,
        state: Metered,
        params: PyTree | None = None,
        *,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, Metered]:
        del updates, extra_args
        (moved, inner), spent = flops.metered(step, SCOPE)(params, state.state, value_fn)
        total, model = _add(state.flops, spent.flops), _add(state.model, spent.within)
        return moved, Metered(inner, total, model)

    bare: Any = init, update
    return optax.GradientTransformationExtraArgs(*bare)


def _add(total: Float[Array, "2"], number: float | Scalar) -> Float[Array, "2"]:
    """A number added to Kahan's sum: plain float32 misses a thousandth after 10,000 equal steps."""
    number = number - total[1]
    more = total[0] + number
    return jnp.stack([more, jnp.asarray((more - total[0]) - number)])


def gradient_flops(problem: Problem) -> float:
    """The model's flops of one gradient of the mean loss over the training data.

    Args:
        problem: the problem.

    Returns:
        The unit of the cost `gradients`.
    """
    params = jax.eval_shape(problem.init, jax.random.key(0))
    train = jax.tree.map(jnp.asarray, problem.train)

    def gradient(params: PyTree, train: PyTree) -> PyTree:
        return jax.grad(lambda params: mean_loss(problem.objective, train, params))(params)

    return float(flops.count_within(SCOPE, gradient, params, train).within)


def mean_loss(objective: Objective | None, data: PyTree, params: PyTree) -> Scalar:
    """The mean loss without penalties."""
    if objective is None:
        return data(params)
    return Objective(objective.model, objective.loss).on(data)(params)
