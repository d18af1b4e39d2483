"""Bayesian Levenberg-Marquardt: the decay of the weights from the data themselves.

One update, in the words of `curvature.posterior`, where alpha, beta, gamma and the evidence are
explained:

    decay = alpha / (beta N)
    a Levenberg-Marquardt update on value + decay/2 |params|^2 = (beta E_D + alpha E_W) / (beta N)
    and after an accepted step that lowered this by less than a hundredth:
        gamma = sum beta l / (beta l + alpha)       l the eigenvalues of N A^T A, before the step
        alpha = gamma / (2 E_W),   beta = (R - gamma) / (2 E_D)                 after the step

(Before, the residuals are not noise yet, and to take them for it would let the decay win: that the
data are noise and nothing else is a maximum of the evidence too.) The eigenvalues are those of the
matrix that the step has formed anyway, A^T A or A A^T, whichever is cheaper; they cost about as
much as ten of its factorizations.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from fnn import solvers
from fnn.curvature import Quadratic, evidence, half_squared_norm
from fnn.objective import ValueFunction, l2
from fnn.rules.contract import Scalar, Schedule, interned_rule, require_within, second_order
from fnn.rules.damping import Damping, DampingState
from fnn.rules.gauss_newton import quadratic
from fnn.rules.levenberg_marquardt import (
    LevenbergMarquardtState,
    checked_method,
    first_state,
    step_on,
)
from fnn.rules.scaling import identity
from fnn.rules.trials import Info

SETTLED = 1e-2
"""What a step lowers the objective by, as a part of it, counts as little below this."""

NOISE = 1e-4
"""The part of the squared residuals that is taken for noise before training: 1 % of their size."""


class BayesianState(NamedTuple):
    """What Bayesian Levenberg-Marquardt remembers.

    Attributes:
        alpha: Precision of the prior, for the next step; 0 before the first.
        beta: Precision of the noise, for the next step; 0 before the first.
        gamma: Effective number of parameters, before the last step.
        log_evidence: Of the last step's alpha and beta, before it.
        damping: Levenberg-Marquardt's.
        info: Levenberg-Marquardt's; its `value` has the decay in it.
    """

    alpha: Float[Array, ""]
    beta: Float[Array, ""]
    gamma: Float[Array, ""]
    log_evidence: Float[Array, ""]
    damping: DampingState
    info: Info


@interned_rule
def bayesian_levenberg_marquardt(
    damping: Scalar | Schedule | None = None,
    policy: Damping | None = None,
    trials: int = 1,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt on (beta E_D + alpha E_W) / (beta N), alpha and beta re-estimated.

    Weight decay without a number to tune, for networks with more parameters than the data can
    determine. For full batches, without penalties: the evidence is that of the batch at hand. The
    noise is estimated where the loss is squares; of a likelihood (logistic, cross-entropy) beta is
    1 and stays.

    `curvature.laplace(value_fn, params, state.alpha, state.beta)` gives the error bars.

    Args:
        damping: see `levenberg_marquardt`.
        policy: see `levenberg_marquardt`.
        trials: see `levenberg_marquardt`, at least 1.
        memory_budget: bytes; the smaller of A^T A and A A^T has to fit, with its eigenvectors.

    Units:
        `damping` is loss / params^2. In the state `alpha` is 1 / params^2, `beta` 1 / loss.

    Invariant:
        With automatic damping the path does not change when the loss is scaled, nor when all
        parameters are measured in another unit; with a number for the damping not under rotations
        of the parameters.

    Returns:
        A rule; its state is a `BayesianState`.

    Source:
        MacKay (1992), "Bayesian interpolation", doi:10.1162/neco.1992.4.3.415, and "A practical
        Bayesian framework for backpropagation networks", doi:10.1162/neco.1992.4.3.448; Foresee
        and Hagan (1997), "Gauss-Newton approximation to Bayesian learning",
        doi:10.1109/ICNN.1997.614194.

    Differs:
        Foresee and Hagan re-estimate after every step; this waits for steps that change little, as
        MacKay re-estimates at a minimum. They start from alpha = 0, beta = 1, where the first gamma
        is the rank, and beta 0 wherever residuals are fewer than parameters; here the start is
        alpha = min(P, R) / (2 E_W) and beta = 1e4 R / (2 E_D), which has the right units: little
        decay, but some, lest the network interpolate what it should call noise.

    Example:
        >>> import fnn
        >>> objective = fnn.Objective(lambda w, x: w @ x[:2] - x[2])  # a residual
        >>> value_fn = objective.on(jnp.array([[1.0, 0.0, 2.1], [0.0, 1.0, 0.9], [1.0, 1.0, 3.2]]))
        >>> rule, w = bayesian_levenberg_marquardt(), jnp.array([1.0, 1.0])
        >>> def step(w, state):
        ...     grad = jax.grad(value_fn)(w)
        ...     return rule.update(grad, state, w, grad=grad, value_fn=value_fn)
        >>> u, state = jax.jit(step)(w, rule.init(w))
        >>> bool(0 < state.gamma < 2), bool(value_fn(w + u) < value_fn(w))
        (True, True)
    """
    name = "bayesian_levenberg_marquardt"
    require_within(name, 1, math.inf, memory_budget=memory_budget, trials=trials)
    solver = solvers.automatic(memory_budget)
    method = checked_method(name, damping, policy, identity, solver, trials, acceleration=0)

    def init(params: PyTree) -> BayesianState:
        state = first_state(method, params)
        zero = jnp.zeros_like(state.damping.value)
        return BayesianState(zero, zero, zero, zero, state.damping, state.info)

    def update(
        updates: PyTree,
        state: BayesianState,
        params: PyTree,
        *,
        grad: PyTree,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, BayesianState]:
        del extra_args
        model = quadratic(value_fn, params, updates, grad, memory_budget)
        before, dense = evidence(name, value_fn, params, model, memory_budget)
        alpha, beta = _select(state.beta > 0, (state.alpha, state.beta), before.start(noise=NOISE))
        directions = before.directions(alpha, beta)
        decay = alpha / (beta * before.examples)
        model = _decayed(model._replace(system=dense.system), params, decay, before.weights)
        inner = LevenbergMarquardtState(state.damping, None, state.info)
        step, inner = step_on(model, method, value_fn + l2(decay), params, inner)
        weights = half_squared_norm(optax.apply_updates(params, step)).astype(decay.dtype)
        after = before._replace(
            data=before.examples * (inner.info.value - decay * weights), weights=weights
        )
        is_settled = inner.info.accepted > state.info.accepted
        is_settled &= model.value - inner.info.value < SETTLED * model.value
        known = _select(jnp.isfinite(before.data), (alpha, beta), (state.alpha, state.beta))
        estimates = _select(is_settled, after.reestimate(alpha, beta, directions), known)
        gamma, log = directions.gamma(alpha, beta), before.log(alpha, beta, directions)
        numbers = *estimates, gamma, log
        numbers = (number.astype(state.alpha.dtype) for number in numbers)
        return step, BayesianState(*numbers, inner.damping, inner.info)

    return second_order(init, update)


def _decayed(model: Quadratic, params: PyTree, decay: Array, weights: Array) -> Quadratic:
    """The model of the value with decay/2 |params|^2 added."""
    value, system, rhs = model
    pull = jax.tree.map(lambda leaf: decay.astype(leaf.dtype) * leaf, params)
    return Quadratic(
        value + (decay * weights).astype(value.dtype),
        system._replace(penalty=decay),
        rhs._replace(h=pull if rhs.h is None else optax.tree.add(rhs.h, pull)),
    )


def _select(which: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(which, a, b), yes, no)
