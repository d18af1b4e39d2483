"""Newton and Gauss-Newton: steps to where the loss, were it quadratic, would be stationary.

    (C + damping) d = -g,       params = params + learning_rate d

C is the Hessian of the value function, or the Gauss-Newton matrix `A^T A` of its models and losses
(see `solvers` and `curvature.gauss_newton_system`). The rules read C from `value_fn`, at `params`,
in every step.

What came in as `updates` is the gradient that counts. Where something has transformed it on the way
(a clip before the rule in a chain), `updates - grad` is the part of the gradient that the rows of A
do not know of: it is divided by the damping, and loses about `eps |updates - grad| / damping` in
the dual system. Where nothing has, the two trees hold the same objects and nothing is computed for
the difference; neither `value` nor, then, `grad` is read, and under `jit` the backward pass of the
loop is deleted. (Compile the whole step: `jax.jit(rule.update)` alone makes two arguments of one
array, whose difference of zeros it cannot know.)

A step that is not finite is a step of zero, counted in `state.info.rejected`.

`optax.MultiSteps` calls the rule in every mini-step and gives it the last mini-batch alone; use
`objective.on(data, chunk=n)`, which is exact. Under `optax.masked` and `optax.partition` no model
can be called; use `rules.only`.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from fnn import solvers
from fnn.curvature import Quadratic, gauss_newton_system, hessian_system
from fnn.dtypes import widest
from fnn.interned import interned
from fnn.objective import ValueFunction
from fnn.rules.contract import Scalar, Schedule, aligned, checked, rates, within
from fnn.rules.trials import Info, info_after, no_info


class CurvatureState(NamedTuple):
    """What a rule with fixed damping remembers.

    Attributes:
        info: What came of the steps; rejected are those that are not finite.
    """

    info: Info


@interned
def newton(
    learning_rate: Scalar | Schedule = 1.0,
    damping: Scalar | Schedule = 0.0,
    solver: solvers.Solver | None = None,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method, u = -learning_rate (H + damping)^-1 g.

    H is the Hessian of `value_fn`, any function of the parameters. Undamped, the step leads to the
    stationary point of the quadratic model, be it a minimum, a saddle or a maximum: close to a
    saddle Newton's method converges to it.

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
        Undamped, the path does not change under any invertible affine map of the parameters, nor
        when the loss is scaled.

    Returns:
        A rule; its state has the field `info`.

    Source:
        Nocedal and Wright, Numerical Optimization (2006), section 3.3. Goodfellow, Bengio and
        Courville, Deep Learning (2016), algorithm 8.8 with the damping of equation 8.28.

    Example:
        >>> rule = newton()
        >>> bowl = lambda x: 3 * (x[0] - 1) ** 2 + (x[0] + x[1]) ** 2
        >>> x = jnp.zeros(2)
        >>> u, state = rule.update(jax.grad(bowl)(x), rule.init(x), x, value_fn=bowl)
        >>> print(u.round(4))
        [ 1. -1.]
    """
    rates("newton", learning_rate=learning_rate, damping=damping)
    within("newton", 1, math.inf, memory_budget=memory_budget)

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
        return _taken(solution, state, now(learning_rate, state.info.steps))

    return second_order(_init, update)


@interned
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
    rates("gauss_newton", learning_rate=learning_rate, damping=damping)
    within("gauss_newton", 1, math.inf, memory_budget=memory_budget)
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
        return _taken(solution, state, now(learning_rate, state.info.steps))

    return second_order(_init, update)


def _for_hessian(params: PyTree) -> solvers.Solver:
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return (
        solvers.primal(solvers.signed) if size <= solvers.DENSE else solvers.conjugate_gradients()
    )


def _init(params: PyTree) -> CurvatureState:
    del params
    return CurvatureState(no_info())


def _taken(
    solution: solvers.Solution, state: CurvatureState, rate: Scalar
) -> tuple[PyTree, CurvatureState]:
    counts = jax.tree.map(jnp.add, state.info.counts, solution.counts)
    info = info_after(state.info, solution.ok, counts=counts)
    return optax.tree.scale(rate, solution.step), CurvatureState(info)


# What all rules with curvature share --------------------------------------------------------------


def now(number: Scalar | Schedule, count: Int[Array, ""]) -> Scalar:
    """A hyperparameter in a step.

    Args:
        number: the number, or its schedule.
        count: steps taken.

    Returns:
        The number.
    """
    return jnp.asarray(number(count)) if callable(number) else number


def state_dtype(params: PyTree) -> Any:
    """The dtype of the numbers that a rule remembers.

    Args:
        params: the parameters.

    Returns:
        The widest of theirs, at least float32.
    """
    return widest(jnp.float32, *map(jnp.result_type, jax.tree.leaves(params)))


def second_order(
    init: Callable[[PyTree], Any], update: Callable[..., tuple[PyTree, Any]]
) -> optax.GradientTransformationExtraArgs:
    """A rule that calls the model: parameters must be there, whole, and real.

    Args:
        init: as in optax.
        update: as in optax.

    Returns:
        The rule, guarded.
    """

    def whole(params: PyTree) -> None:
        masked = [*map(_is_masked, jax.tree.leaves(params, is_leaf=_is_masked))]
        if any(masked):
            raise TypeError(
                "rules: expected parameters that the model can be called with, got MaskedNode in "
                f"{sum(masked)} of {len(masked)} places; in place of optax.masked or "
                "optax.partition try rules.only(rule, mask), True where a leaf is trained"
            )

    def checked_init(params: PyTree) -> Any:
        whole(params)
        return guarded.init(params)

    @functools.wraps(update)
    def checked_update(
        updates: PyTree, state: optax.OptState, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, optax.OptState]:
        if params is None:
            raise ValueError(
                "update: expected params, where the curvature is, got None; try "
                "rule.update(updates, state, params, ...)"
            )
        whole(params)
        if not jax.tree.leaves(params):
            raise ValueError(
                "update: expected parameters to train, got a tree without leaves; try a mask with "
                "at least one True"
            )
        leaves = jax.tree.leaves_with_path(updates, is_leaf=lambda leaf: leaf is None)
        without = {path for path, leaf in leaves if leaf is None}
        for path, _ in jax.tree.leaves_with_path(params):
            if path in without:
                raise ValueError(
                    "update: expected a gradient of every parameter, got None at params"
                    f"{jax.tree_util.keystr(path)}; try rules.only(rule, mask), True where a leaf "
                    "is trained"
                )
        params = jax.tree.map(jnp.asarray, params)
        return guarded.update(updates, state, params, **extra_args)

    bare: Any = init, update
    guarded = checked(optax.GradientTransformationExtraArgs(*bare), jnp.floating)
    return optax.GradientTransformationExtraArgs(checked_init, checked_update)


def quadratic(
    value_fn: ValueFunction, params: PyTree, updates: PyTree, grad: PyTree, memory_budget: int
) -> Quadratic:
    """The Gauss-Newton model, with what happened to the gradient before it came to the rule.

    Args:
        value_fn: what the curvature is of.
        params: where.
        updates: the gradient as it came.
        grad: the gradient as it was.
        memory_budget: bytes, see `gauss_newton_system`.

    Returns:
        The model, `updates - grad` added to its h; nothing where the leaves are the same objects.
    """
    model = gauss_newton_system(value_fn, params, memory_budget=memory_budget)
    aligned(updates, grad, "grad")
    leaves, before = jax.tree.leaves(updates), jax.tree.leaves(grad)
    if all(one is other for one, other in zip(leaves, before, strict=True)):
        return model
    if widest(*leaves) != jnp.float64:
        warnings.warn(
            "The gradient was transformed before a Gauss-Newton rule (`updates` are not the arrays "
            "in `grad`), and what was changed is divided by the damping: in float32 it loses "
            "digits. Try the transformation after the rule, or float64.",
            stacklevel=2,
        )
    change, h = jax.tree.map(jnp.subtract, updates, grad), model.rhs.h
    h = change if h is None else optax.tree.add(h, change)
    return model._replace(rhs=model.rhs._replace(h=h))


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)
