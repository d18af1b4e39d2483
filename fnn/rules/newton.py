"""Newton's method: steps to where the loss, were it quadratic, would be stationary.

    (C + damping) d = -g,       params = params + learning_rate d

C is the Hessian of the value function, here, or the Gauss-Newton matrix `A^T A` of its models and
losses, in `gauss_newton` (see `solvers` and `curvature.gauss_newton_system`). The rules read C from
`value_fn`, at `params`, in every step.

A step that is not finite is a step of zero, counted in `state.info.rejected`.

`optax.MultiSteps` calls the rule in every mini-step and gives it the last mini-batch alone; use
`objective.on(data, chunk=n)`, which is exact. Under `optax.masked` and `optax.partition` no model
can be called; use `rules.only`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, PyTree

from fnn import solvers
from fnn.curvature import hessian_system
from fnn.rules.contract import (
    Scalar,
    Schedule,
    interned_rule,
    now,
    require_rates,
    require_within,
    second_order,
    state_dtype,
)
from fnn.rules.trials import Info, info_after, no_info, outlook_like, outlook_of

UNREACHED = 1 / 2
"""A step that was to leave no gradient tells what is left to gain where it left at most so much."""


class CurvatureState(NamedTuple):
    """What a rule with fixed damping remembers.

    Attributes:
        info: What came of the steps; rejected are those that are not finite.
    """

    info: Info


@interned_rule
def newton(
    learning_rate: Scalar | Schedule = 1.0,
    damping: Scalar | Schedule = 0.0,
    solver: solvers.Solver | None = None,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method, u = -learning_rate (H + damping)^-1 g.

    H is the Hessian of `value_fn`, any function of the parameters. Undamped, the step leads to the
    stationary point of the quadratic model, be it a minimum, a saddle or a maximum: close to a
    saddle Newton's method converges to it. Where the Hessian is singular and the gradient has a
    slope along directions without curvature, the model has no stationary point: along these the
    step is that of gradient descent, with a bound on all curvatures in the place of none (conjugate
    gradients reject such a step). `searched(newton())` looks how far
    it leads downhill.

    Args:
        learning_rate: 1 is the whole step; at least 0; or a schedule.
        damping: added to all eigenvalues, at least 0; or a schedule.
        solver: any that needs no rows. None takes the dense Hessian of up to 2000 parameters, with
            negative eigenvalues as they are, `solvers.primal(solvers.signed)`; and for more
            `solvers.conjugate_gradients()`, which stop where they meet negative curvature.
        memory_budget: bytes that products with the Hessian, made at once, may use; at least 1.

    Units:
        `learning_rate` is 1, `damping` loss / params^2.

    Invariant:
        Undamped, and where the Hessian is regular, the path does not change under any invertible
        affine map of the parameters, nor when the loss is scaled.

    Returns:
        A rule; its state has the field `info`.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), section 3.3. Goodfellow, Bengio and
        Courville, Deep Learning (2016), algorithm 8.8 with the damping of equation 8.28.

    Differs:
        In the sources a singular Hessian has no step. Here the slope r along directions without
        curvature is gone down by -r / c, c being the root of the sum of squares of the curvatures;
        where there is no curvature at all it is 1, in units of loss / params^2.

    Example:
        >>> rule = newton()
        >>> bowl = lambda x: 3 * (x[0] - 1) ** 2 + (x[0] + x[1]) ** 2
        >>> x = jnp.zeros(2)
        >>> u, state = rule.update(jax.grad(bowl)(x), rule.init(x), x, value_fn=bowl)
        >>> print(u.round(4))
        [ 1. -1.]
    """
    require_rates("newton", learning_rate=learning_rate, damping=damping)
    require_within("newton", 1, math.inf, memory_budget=memory_budget)

    def update(
        updates: PyTree,
        state: CurvatureState,
        params: PyTree,
        *,
        value_fn: Callable[[PyTree], Array],
        **extra_args: Any,
    ) -> tuple[PyTree, CurvatureState]:
        del extra_args
        _, system, _ = hessian_system(value_fn, params, memory_budget=memory_budget)
        solve = _for_hessian(params) if solver is None else solver
        rhs = solvers.RightHandSide(None, updates)
        solution = solve.solve(system, rhs, now(damping, state.info.steps))
        # What a singular Hessian leaves out may lead downhill, and negative curvature does: at the
        # end of such a step there may be a saddle, and no minimum is promised.
        is_told = (solution.residual <= UNREACHED) & (solution.counts.negative == 0)
        return solved(solution, is_told, state, params, now(learning_rate, state.info.steps))

    return second_order(first_state, update)


def _for_hessian(params: PyTree) -> solvers.Solver:
    """The solver for so many parameters."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return (
        solvers.primal(solvers.signed) if size <= solvers.DENSE else solvers.conjugate_gradients()
    )


def first_state(params: PyTree) -> CurvatureState:
    """The state before the first step."""
    info = no_info(state_dtype(params), looks=False, gain=False, outlook=True)
    return CurvatureState(info)


def solved(
    solution: solvers.Solution,
    is_told: Bool[Array, ""],
    state: CurvatureState,
    params: PyTree,
    learning_rate: Scalar,
) -> tuple[PyTree, CurvatureState]:
    """The step of a solution, which may tell what is left to gain, and the state after it."""
    counts = jax.tree.map(jnp.add, state.info.counts, solution.counts)
    outlook = outlook_of(params, solution._replace(ok=solution.ok & is_told))
    outlook = outlook_like(state.info.outlook, outlook)
    info = info_after(state.info, solution.ok, outlook=outlook, counts=counts)
    return optax.tree.scale(learning_rate, solution.step), CurvatureState(info)
