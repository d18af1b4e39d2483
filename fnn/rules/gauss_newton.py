"""The Gauss-Newton method: Newton's with the part of the Hessian that never leads uphill.

What came in as `updates` is the gradient that counts. Where something has transformed it on the way
(a clip before the rule in a chain), `updates - grad` is the part of the gradient that the rows of A
do not know of: it is divided by the damping, and loses about `eps |updates - grad| / damping` in
the dual system. Where nothing has, the two trees hold the same objects and nothing is computed for
the difference; neither `value` nor, then, `grad` is read, and under `jit` the backward pass of the
loop is deleted. (Compile the whole step: `jax.jit(rule.update)` alone makes two arguments of one
array, whose difference of zeros it cannot know.)

What is said of all rules with a fixed damping stands in `newton`.
"""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from fnn import solvers
from fnn.curvature import Quadratic, gauss_newton_system
from fnn.dtypes import widest
from fnn.objective import ValueFunction
from fnn.rules.contract import (
    Scalar,
    Schedule,
    interned_rule,
    now,
    require_aligned,
    require_rates,
    require_within,
    second_order,
    was_transformed,
)
from fnn.rules.newton import CurvatureState, first_state, solved
from fnn.rules.trials import is_whole


@interned_rule
def gauss_newton(
    learning_rate: Scalar | Schedule = 1.0,
    damping: Scalar | Schedule = 0.0,
    solver: solvers.Solver | None = None,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """The Gauss-Newton method, u = -learning_rate (A^T A + damping)^-1 g.

    A^T A is the Gauss-Newton matrix, which never leads uphill: the Hessian without the curvature of
    the model. On a linear model with squared loss the step is that of `numpy.linalg.lstsq`, of
    least norm where there are many solutions. It is taken whether or not it lowers the value;
    `levenberg_marquardt` looks first.

    Args:
        learning_rate: 1 is the whole step; at least 0; or a schedule.
        damping: added to all eigenvalues, at least 0; or a schedule.
        solver: None chooses by counted cost, `solvers.automatic`.
        memory_budget: bytes that the automatic choice may use, and, whatever the solver, a tile of
            the Gram matrix or a block of the Jacobian; at least 1.

    Units:
        `learning_rate` is 1, `damping` loss / params^2.

    Invariant:
        The path does not change under rotations of the parameters; undamped, neither under any
        invertible affine map nor when the loss is scaled.

    Returns:
        A rule; its state has the field `info`.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), section 10.3. Schraudolph (2002),
        doi:10.1162/08997660260028683, for losses other than squares.

    Example:
        >>> import fnn
        >>> line = fnn.Objective(lambda w, x: w * x[0] - x[1])  # a residual
        >>> value_fn, w = line.on(jnp.array([[1.0, 2.0], [2.0, 4.0]])), jnp.array(0.0)
        >>> rule, grad = gauss_newton(), jax.grad(value_fn)(w)
        >>> u, state = rule.update(grad, rule.init(w), w, grad=grad, value_fn=value_fn)
        >>> print(u.round(4))
        2.0
    """
    require_rates("gauss_newton", learning_rate=learning_rate, damping=damping)
    require_within("gauss_newton", 1, math.inf, memory_budget=memory_budget)
    solve = solvers.automatic(memory_budget) if solver is None else solver

    def update(
        updates: PyTree,
        state: CurvatureState,
        params: PyTree,
        *,
        grad: PyTree,
        value_fn: ValueFunction,
        **extra_args: Any,
    ) -> tuple[PyTree, CurvatureState]:
        del extra_args
        _, system, rhs = quadratic(value_fn, params, updates, grad, memory_budget)
        solution = solve.solve(system, rhs, now(damping, state.info.steps))
        # Rows that are singular reach their own gradient; not so that of a penalty or an arm.
        is_told = solution.ok if rhs.h is None else is_whole(solution)
        return solved(solution, is_told, state, params, now(learning_rate, state.info.steps))

    return second_order(first_state, update)


def quadratic(
    value_fn: ValueFunction, params: PyTree, updates: PyTree, grad: PyTree, memory_budget: int
) -> Quadratic:
    """The Gauss-Newton model; `updates - grad` is added to its h where something changed it."""
    model = gauss_newton_system(value_fn, params, memory_budget=memory_budget)
    require_aligned(updates, grad, "grad")
    if not was_transformed(updates, grad):
        return model
    if widest(*jax.tree.leaves(updates)) != jnp.float64:
        warnings.warn(
            "The gradient was transformed before a Gauss-Newton rule (`updates` are not the arrays "
            "in `grad`), and what was changed is divided by the damping: in float32 it loses "
            "digits. Try the transformation after the rule, or float64.",
            stacklevel=2,
        )
    change, h = jax.tree.map(jnp.subtract, updates, grad), model.rhs.h
    h = change if h is None else optax.tree.add(h, change)
    return model._replace(rhs=model.rhs._replace(h=h))
