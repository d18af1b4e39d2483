"""Saddle-free Newton: Newton's method with the sizes of the curvatures, not their signs."""

import optax

from fnn import solvers
from fnn.rules.contract import Scalar, Schedule, interned_rule, require_rates, require_within
from fnn.rules.newton import newton


@interned_rule
def saddle_free_newton(
    learning_rate: Scalar | Schedule = 1.0,
    damping: Scalar | Schedule = 0.0,
    subspace: int | None = None,
    memory_budget: int = 2**30,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method with |H|, u = -learning_rate (|H| + damping)^-1 g.

    |H| has the eigenvectors of the Hessian and the absolute values of its eigenvalues. Where the
    curvature is positive the step is Newton's; where it is negative, Newton's turned around: away
    from a saddle, the distance doubling in every step. It is taken whether or not it lowers the
    value; where a curvature changes its sign it can be long, and damping shortens it. Where a
    curvature is 0 up to rounding and nothing dampens it, the step is that of gradient descent, with
    a bound on all curvatures in the place of none.

    Args:
        learning_rate: 1 is the whole step; at least 0; or a schedule.
        damping: added to the sizes of all eigenvalues, at least 0; or a schedule.
        subspace: the dimension of a Lanczos subspace, at least 1, each for a product with the
            Hessian. None diagonalizes the Hessian of up to 2000 parameters (fewer, where its
            matrices do not fit in `memory_budget`), and takes 32 vectors for more.
        memory_budget: bytes that the eigenbasis, and products made at once, may use; at least 1.

    Units:
        `learning_rate` is 1, `damping` loss / params^2.

    Invariant:
        The path does not change under rotations of the parameters; undamped, and where there is any
        curvature, neither when the loss is scaled, nor when all parameters are measured in another
        unit.

    Returns:
        A rule; its state has the field `info`.

    Source:
        Dauphin et al. (2014), "Identifying and attacking the saddle point problem in
        high-dimensional non-convex optimization", equation 4 and algorithm 1, arXiv:1406.2572.

    Differs:
        The source chooses the best of several dampings in every step by the value that they lead
        to; here it is a number or a schedule. Along directions without curvature, where its step
        has no length, the slope r is gone down by -r / c, c being the root of the sum of squares of
        the curvatures; where there is no curvature at all it is 1, in units of loss / params^2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> saddle = lambda p: p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4
        >>> rule, p = saddle_free_newton(), jnp.array([1.0, 0.1])
        >>> u, state = rule.update(jax.grad(saddle)(p), rule.init(p), p, value_fn=saddle)
        >>> print(jnp.allclose(p + u, jnp.array([0.0, 0.2]), atol=1e-2))
        True
    """
    name = "saddle_free_newton"
    require_rates(name, learning_rate=learning_rate, damping=damping)
    require_within(name, 1, float("inf"), memory_budget=memory_budget)
    if subspace is not None:
        require_within(name, 1, float("inf"), subspace=subspace)
    solver = solvers.absolute(subspace, memory_budget)
    return newton(learning_rate, damping, solver, memory_budget)
