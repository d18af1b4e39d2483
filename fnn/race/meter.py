"""The meter of a race: a rule that counts what its steps cost, and the unit of `gradients`.

The meter counts while a rule runs: each iteration of conjugate gradients and each trial of a step
counts as often as it was taken.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops
from fnn.objective import SCOPE, Objective, ValueFunction
from fnn.problems import Problem

OTHER = 0.1
"""What a flop of anything but the model counts in `gradients`. On iris (4-16-3, 90 examples) one of
Levenberg-Marquardt, which multiplies and factors matrices, took 0.12 of the time of one of the
model in L-BFGS, and one of K-FAC 0.04. So counted, a gradient takes 0.7 ms in Adam, 0.3 ms in
L-BFGS and 1.9 ms in Levenberg-Marquardt on digits."""


class MeterState(NamedTuple):
    """The state of a rule with a meter.

    Attributes:
        state: the rule's own.
        flops: what was spent so far, as Kahan's sum: the total, and what it has lost to rounding.
        model: the part of models and penalties, forward, backward and along directions.
    """

    state: PyTree
    flops: Float[Array, "2"]
    model: Float[Array, "2"]


def with_meter(rule: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The rule, which counts what a whole step costs: it takes value and gradient itself."""
    rule = optax.with_extra_args_support(rule)

    def step(params: PyTree, state: PyTree, value_fn: ValueFunction) -> tuple[PyTree, PyTree]:
        value, grad = jax.value_and_grad(value_fn)(params)
        return rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)

    def init(params: PyTree) -> MeterState:
        return MeterState(rule.init(params), jnp.zeros(2, jnp.float32), jnp.zeros(2, jnp.float32))

    def update(
        updates: PyTree,
        state: MeterState,
        params: PyTree | None = None,
        *,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, MeterState]:
        del extra_args  # The loop's own value and gradient are not used, so they cost nothing.
        (updates, inner), tally = flops.metered(step, SCOPE)(params, state.state, value_fn)
        total, model = _add(state.flops, tally.flops), _add(state.model, tally.within)
        return updates, MeterState(inner, total, model)

    bare: Any = init, update
    return optax.GradientTransformationExtraArgs(*bare)


def _add(total: Float[Array, "2"], number: float | Scalar) -> Float[Array, "2"]:
    """Kahan's sum and a number: plain float32 misses a thousandth after 10,000 equal steps."""
    number = number - total[1]
    grown = total[0] + number
    return jnp.stack([grown, jnp.asarray((grown - total[0]) - number)])


def gradient_flops(problem: Problem) -> float:
    """The unit of `gradients`: a model's flops in one gradient of the mean loss over all data."""
    params = jax.eval_shape(problem.init, jax.random.key(0))
    train = jax.tree.map(jnp.asarray, problem.train)

    def gradient(params: PyTree, train: PyTree) -> PyTree:
        return jax.grad(lambda params: mean_loss(problem.objective, train, params))(params)

    return float(flops.count_within(SCOPE, gradient, params, train).within)


def in_gradients(flops: Any, model: Any, unit: float) -> Any:
    """Flops, and the part of the model among them, in gradients of so many flops each."""
    return (model + OTHER * (flops - model)) / unit


def mean_loss(objective: Objective | None, data: PyTree, params: PyTree) -> Scalar:
    """The mean loss over data, without penalties."""
    if objective is None:
        return data(params)
    return Objective(objective.model, objective.loss).on(data)(params)
