"""From a value function to the system that a second-order step solves.

`gauss_newton_system` looks into a value function, captures the model of every block, and stacks
their rows

    A = sqrt(share_n) B_n^T J_n        share_n = scale * w_n / sum(w)

over blocks and examples n, B_n being the factor of the loss (see `losses`; the identity for a block
of residuals). A^T A is the Gauss-Newton matrix, and the gradient is `A^T s + h`: s stacks
sqrt(share_n) s_n, and h is what A^T cannot reach, or None where it reaches everything:

- the gradients of penalties. Those of `l2` are in the curvature too, as the system's `penalty`;
  other penalties have no part in the curvature;
- of a loss that is not complete, the gradient's part outside the range of B;
- the whole gradient of a loss without curvature (hinge), which has no rows.

`s` may be as large as 1e19 in float32, beside factors as small as 1e-19 (see `losses`): only
products with A^T make sense of it, a sum of its squares does not.

A loss that is not convex in the outputs has the nearest positive semi-definite matrix in place of
its Hessian: what is negative is cut off.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.flatten_util import ravel_pytree
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops, programs, solvers
from fnn.capture import Captured, aval, diagonal, gram, product, transpose_product
from fnn.curvature.costs import costs_of
from fnn.curvature.near import near_inverse
from fnn.curvature.rows import Stack, ValueAndGradient, cross_gram, normal_matrix, sum_trees
from fnn.curvature.terms import Terms, require_real, terms_of
from fnn.dtypes import widest
from fnn.objective import ValueFunction
from fnn.precision import Policy, policy_of


class Quadratic(NamedTuple):
    """A value function to second order around a point.

    Attributes:
        value: the value at the point.
        system: the curvature.
        rhs: the gradient, as the right-hand side.
    """

    value: Scalar
    system: solvers.System
    rhs: solvers.RightHandSide


def gauss_newton_system(
    value_fn: ValueFunction, params: PyTree, *, memory_budget: int = 2**30
) -> Quadratic:
    """The Gauss-Newton model of a value function, from one forward and one backward pass.

    Args:
        value_fn: made by `Objective.on`, penalties and sums of them.
        params: the point; real floating-point leaves.
        memory_budget: bytes that a tile of a matrix may take while it is made.

    Returns:
        Value, system and right-hand side. Build it and solve it inside one traced function. (Any
        other function, complex parameters and outputs that are not real raise a TypeError; a model
        that combines examples, and a block or an `l2` with a negative scale, a ValueError: where
        the scale is traced, the step is rejected.)

    Source:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
        Neural Computation 14 (2002), doi:10.1162/08997660260028683.

    Example:
        >>> from fnn import losses
        >>> from fnn.objective import Objective
        >>> line = Objective(lambda w, x: w * x, losses.half_squared_error)
        >>> value_fn = line.on((jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])))
        >>> value, system, rhs = gauss_newton_system(value_fn, jnp.array(1.0))
        >>> print(value, system.diagonal().round(4), system.transpose(rhs.s).round(4), rhs.h)
        1.25 2.5 -2.5 None
    """
    terms = terms_of(value_fn, params)
    return quadratic_of(terms, [source.stack() for source in terms.sources], memory_budget)


def quadratic_of(terms: Terms, stacks: Sequence[Stack], memory_budget: int) -> Quadratic:
    """The Gauss-Newton model of terms, from the stacks of their sources."""
    evaluations = [stack.value_and_gradient() for stack in stacks]
    values = [evaluation.value for evaluation in evaluations]
    gradient = None
    if any(evaluation.gradient is not None for evaluation in evaluations):
        gradient = sum_trees(list(map(_gradient_in_range, stacks, evaluations)))
    h = None
    if terms.without_rows:
        value, h = jax.value_and_grad(ValueFunction(tuple(terms.without_rows)))(terms.params)
        values.append(value)
    remainders = [e.remainder for e in evaluations if e.remainder is not None]
    if remainders:
        remainder = jax.grad(ValueFunction(tuple(remainders)))(terms.params)
        h = remainder if h is None else sum_trees([h, remainder])
    s = jnp.concatenate([e.s for e in evaluations]) if evaluations else None
    system = _system(terms, stacks, memory_budget)
    return Quadratic(reduce(jnp.add, values), system, solvers.RightHandSide(s, h, gradient))


def _gradient_in_range(stack: Stack, evaluation: ValueAndGradient) -> PyTree:
    """A^T s of a stack."""
    if evaluation.gradient is not None:
        return evaluation.gradient
    return stack.sum(transpose_product, evaluation.s.reshape(stack.source.shape))


def hessian_system(
    fn: Callable[[PyTree], Scalar], params: PyTree, *, memory_budget: int = 2**30
) -> Quadratic:
    """The second-order Taylor polynomial of a function, its gradient linearized once.

    Args:
        fn: any twice differentiable `fn(params) -> scalar`; a value function is one.
        params: the point; real floating-point leaves.
        memory_budget: bytes that the products made at once may take.

    Returns:
        Value, system (without rows; penalties are part of the Hessian) and right-hand side. Build
        it and solve it inside one traced function.

    Source:
        Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6 (1994),
        doi:10.1162/neco.1994.6.1.147.

    Example:
        >>> value, system, rhs = hessian_system(lambda w: jnp.sum(w**3), jnp.array([1.0, 2.0]))
        >>> print(value, rhs.h, system.multiply(jnp.ones(2)), system.normal().tolist())
        9.0 [ 3. 12.] [ 6. 12.] [[6.0, 0.0], [0.0, 12.0]]
    """
    params = require_real("hessian_system", params)
    (value, grad), linear = jax.linearize(jax.value_and_grad(fn), params)

    def multiply(v: PyTree) -> PyTree:
        return linear(v)[1]

    flat, unravel = ravel_pytree(params)
    size, word = flat.size, flat.dtype.itemsize

    def column(index: Array) -> Array:
        return ravel_pytree(multiply(unravel(jnp.zeros_like(flat).at[index].set(1))))[0]

    def columns(of: Callable[[Array], Array]) -> Array:
        bytes_each = _bytes(jax.make_jaxpr(column)(0).jaxpr)
        at_once = max(1, min(size, int(memory_budget / bytes_each)))
        return jax.lax.map(of, jnp.arange(size), batch_size=at_once)

    def dense() -> Array:
        matrix = columns(column)
        return (matrix + matrix.T) / 2

    def diagonal() -> PyTree:
        return unravel(columns(lambda index: column(index)[index]))

    price = flops.count(multiply, params)
    costs = solvers.Costs(
        multiply=solvers.Cost(price, 2 * word * size),
        normal=solvers.Cost(price * size, 2 * word * size**2),
    )
    system = solvers.System(_like(params), multiply, dense, diagonal, costs=costs)
    return Quadratic(value, system, solvers.RightHandSide(None, grad))


def accelerations(value_fn: ValueFunction, params: PyTree, v: PyTree) -> Float[Array, " rows"]:
    """The second derivatives along v of the functions whose first derivatives are the rows of A.

    Without a loss, these functions are the residuals; with one, the outputs times the factor B^T of
    the loss, which is held constant. One pass goes through the models, forward twice.

    Args:
        value_fn: as in `gauss_newton_system`; it must have rows.
        params: the point.
        v: a tree like the parameters.

    Returns:
        One number for every row of A, in their order.

    Raises:
        TypeError: if a model cannot be differentiated forward, as through a `jax.custom_vjp`.

    Example:
        >>> from fnn.objective import Objective
        >>> value_fn = Objective(lambda w, x: x * w**2).on(jnp.array([4.0]))
        >>> print(accelerations(value_fn, jnp.array(1.0), jnp.array(3.0)))  # 4 * 2 * 3^2
        [72.]
    """
    sources = terms_of(value_fn, params).sources
    try:
        return jnp.concatenate([source.second_derivatives(v) for source in sources])
    except (TypeError, NotImplementedError) as error:
        raise TypeError(
            "accelerations: expected models that forward mode differentiates twice, got "
            f"{type(error).__name__}: {error} (a jax.custom_vjp has no forward mode); try "
            "levenberg_marquardt(acceleration=None), or jax.custom_jvp in place of the custom_vjp"
        ) from error


def _bytes(jaxpr: jex.Jaxpr) -> float:
    """The bytes of all results in a jaxpr, as if none were freed."""
    total = 1.0
    for eqn in jaxpr.eqns:
        total += sum(math.prod(aval(v).shape) * aval(v).dtype.itemsize for v in eqn.outvars)
        total += sum(_bytes(body.jaxpr) for body in programs.bodies(eqn))
    return total


def _like(params: PyTree) -> PyTree:
    """The shapes and dtypes of the parameters."""
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)


# --- the system ---------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """All rows A of a system, with the operations that its solvers ask for.

    Attributes:
        params: the point, as arrays.
        stacks: the rows of each block, in the order of A.
        gram_dtype: the dtype in which matrices are summed; None for that of the rows.
        memory_budget: bytes that a tile of a matrix may take while it is made.
    """

    params: PyTree
    stacks: Sequence[Stack]
    gram_dtype: DTypeLike | None
    memory_budget: int

    def multiply(self, v: PyTree) -> PyTree:
        """A^T A v, a tree like the parameters."""
        return self._sum([stack.multiply(v) for stack in self.stacks])

    def normal(self) -> Float[Array, "P P"]:
        """A^T A, dense."""

        def of_capture(captured: Captured) -> Array:
            return normal_matrix(self._widened(captured), self.memory_budget)

        size = sum(p.size for p in jax.tree.leaves(self.params))
        matrices = [stack.sum(of_capture) for stack in self.stacks]
        return reduce(jnp.add, matrices) if matrices else jnp.zeros((size, size))

    def diagonal(self) -> PyTree:
        """The diagonal of A^T A, a tree like the parameters."""
        of_capture = partial(diagonal, memory_budget=self.memory_budget)
        return self._sum([stack.sum(of_capture) for stack in self.stacks])

    def product(self, v: PyTree) -> Float[Array, " rows"]:
        """A v, one number for each row."""
        return jnp.concatenate([
            stack.map(lambda captured: product(captured, v)).ravel() for stack in self.stacks
        ])

    def transpose(self, u: Float[Array, " rows"]) -> PyTree:
        """A^T u, a tree like the parameters."""
        counts = [stack.source.rows for stack in self.stacks]
        ends = [sum(counts[: i + 1]) for i in range(len(counts) - 1)]
        pieces = zip(self.stacks, jnp.split(u, ends), strict=True)
        return self._sum([
            stack.sum(transpose_product, piece.reshape(stack.source.shape))
            for stack, piece in pieces
        ])

    def gram(self, inverse: PyTree) -> Float[Array, "rows rows"]:
        """A diag(inverse) A^T, with one number of `inverse` for each leaf."""

        def tile(one: Captured, two: Captured | None) -> Array:
            two = None if two is None else self._widened(two)
            budget = self.memory_budget
            return gram(self._widened(one), two, scales=inverse, memory_budget=budget)

        lower = [
            [*(cross_gram(one, two, tile) for two in self.stacks[:i]), one.own_gram(tile)]
            for i, one in enumerate(self.stacks)
        ]
        count = len(self.stacks)
        matrix = jnp.block([
            [lower[i][j] if j <= i else lower[j][i].T for j in range(count)] for i in range(count)
        ])
        return matrix if count == 1 else (matrix + matrix.T) / 2

    def _widened(self, captured: Captured) -> Captured:
        """A capture in the dtype in which its numbers are multiplied in a matrix."""
        return captured if self.gram_dtype is None else captured.widened(self.gram_dtype)

    def _sum(self, trees: Sequence[PyTree]) -> PyTree:
        """The sum of trees like the parameters, perhaps of none."""
        return sum_trees(trees) if trees else jax.tree.map(jnp.zeros_like, self.params)


def _system(terms: Terms, stacks: Sequence[Stack], memory_budget: int) -> solvers.System:
    """The curvature of the stacks and of the penalties."""
    policies = [p for s in stacks if (p := policy_of(s.source.block.model)) is not None]
    gram_dtype = widest(*(p.gram for p in policies)) if policies else None
    rows = _Rows(terms.params, stacks, gram_dtype, memory_budget)
    system = solvers.System(
        like=_like(terms.params),
        multiply=rows.multiply,
        normal=rows.normal,
        diagonal=rows.diagonal,
        penalty=terms.penalty,
    )
    if not stacks:
        # There is nothing to factor: the automatic choice is one iteration of conjugate gradients.
        return system._replace(costs=solvers.Costs(multiply=solvers.Cost(0.0, 0.0)))
    size = sum(p.size for p in jax.tree.leaves(terms.params))
    return system._replace(
        rows=sum(stack.source.rows for stack in stacks),
        product=rows.product,
        transpose=rows.transpose,
        gram=rows.gram,
        costs=costs_of(stacks, size, memory_budget),
        precision=gram_dtype,
        solve=_widest_solve(policies),
        kronecker=partial(near_inverse, terms.params, stacks, memory_budget),
    )


def _widest_solve(policies: Sequence[Policy]) -> DTypeLike | None:
    """The widest dtype in which a model asks to be solved; None where none asks."""
    dtypes = {jnp.dtype(policy.solve) for policy in policies if policy.solve is not None}
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=None)
