"""The curvature of a function at a point, as a linear map on trees like the parameters.

    value, grad, product, *_ = hessian(value_fn, params)
    product(v)

All of it comes from one linearization (or one capture), which is made with the operator; a product
then costs about as much as a gradient. The same numbers as a system to solve are in `quadratic`.

| operator | is made of | is |
|---|---|---|
| `hessian` | any function | the second derivatives |
| `gauss_newton` | a value function | J^T H J of every block, H its loss's Hessian; plus `l2` |
| `fisher` | one of likelihoods | the mean of g g^T over targets that the model draws; plus `l2` |

For a likelihood of natural parameters (squares, logistic, cross-entropy) the exact Fisher matrix is
the Gauss-Newton matrix.

**Prices.** `dense` makes P x P numbers. `diagonal` and `trace` of a Hessian take P products, as
many at a time as the memory budget admits; those of the others come from the capture at about the
price of a gradient. Only `fisher(..., key=key)` estimates anything.

An operator is made of callables that close over arrays: make it and use it inside one traced
function.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree, Scalar

from fnn import losses, solvers
from fnn.curvature.quadratic import Quadratic, gauss_newton_system, hessian_system
from fnn.curvature.sketch import no_loss
from fnn.objective import Block, ValueFunction


class Operator(NamedTuple):
    """A symmetric matrix C (P, P) as a linear map on trees, with the value and gradient beside it.

    Attributes:
        value: the function's value.
        grad: its gradient, a tree.
        product: `v -> C v`, tree to tree.
        dense: `() -> C`, rows and columns in the order of `jax.flatten_util.ravel_pytree`.
        diagonal: `() -> diag C`, a tree.
    """

    value: Scalar
    grad: PyTree
    product: Callable[[PyTree], PyTree]
    dense: Callable[[], Float[Array, "P P"]]
    diagonal: Callable[[], PyTree]

    def trace(self) -> Scalar:
        """The sum of the diagonal."""
        return jnp.asarray(optax.tree.sum(self.diagonal()))


def operator_of(quadratic: Quadratic) -> Operator:
    """The curvature of a quadratic, that of its penalties included, with its value and gradient.

    Args:
        quadratic: made by `gauss_newton_system` or `hessian_system`.

    Returns:
        The operator.

    Example:
        >>> from fnn.objective import Objective, l2
        >>> line = Objective(lambda w, x: w * x, losses.half_squared_error)
        >>> value_fn = line.on((jnp.array([1.0]), jnp.array([2.0]))) + l2(0.5)
        >>> operator = operator_of(gauss_newton_system(value_fn, jnp.array(1.0)))
        >>> print(operator.value, operator.grad, operator.diagonal())
        0.75 -0.5 1.5
    """
    value, system, rhs = quadratic
    normal, diagonal = solvers.needs(system, "operator", "normal", "diagonal")
    grad = rhs.h
    if rhs.s is not None and system.transpose is not None:
        in_range = system.transpose(rhs.s) if rhs.inside is None else rhs.inside
        grad = in_range if rhs.h is None else optax.tree.add(in_range, rhs.h)
    if system.penalty is None:
        return Operator(value, grad, system.multiply, normal, diagonal)
    weights = jax.tree.map(
        lambda number, leaf: jnp.broadcast_to(number, leaf.shape).astype(leaf.dtype),
        solvers.spread(system, system.penalty),
        system.like,
    )
    return Operator(
        value,
        grad,
        product=lambda v: optax.tree.add(system.multiply(v), optax.tree.mul(weights, v)),
        dense=lambda: normal() + jnp.diag(ravel_pytree(weights)[0]),
        diagonal=lambda: optax.tree.add(diagonal(), weights),
    )


def hessian(
    fn: Callable[[PyTree], Scalar], params: PyTree, *, memory_budget: int = 2**30
) -> Operator:
    """The Hessian: `product(v)` is the derivative of the gradient along v.

    Args:
        fn: any twice differentiable `fn(params) -> scalar`; a value function is one.
        params: the point; real floating-point leaves.
        memory_budget: bytes that the products made at once may take in `dense` and `diagonal`.

    Returns:
        The operator.

    Example:
        >>> value, grad, product, *_ = hessian(lambda w: jnp.sum(w**3), jnp.array([1.0, 2.0]))
        >>> print(value, grad, product(jnp.array([1.0, 1.0])))
        9.0 [ 3. 12.] [ 6. 12.]
    """
    return operator_of(hessian_system(fn, params, memory_budget=memory_budget))


def gauss_newton(
    value_fn: ValueFunction, params: PyTree, *, memory_budget: int = 2**30
) -> Operator:
    """The Gauss-Newton matrix: the curvature of the losses, as if the model were linear.

    Args:
        value_fn: made by `Objective.on`, penalties and sums of them. The only penalty with a part
            in the matrix is `l2`.
        params: the point; real floating-point leaves.
        memory_budget: bytes that a tile of a matrix may take while it is made.

    Returns:
        The operator, positive semi-definite.

    Example:
        >>> from fnn.objective import Objective
        >>> model = Objective(lambda w, x: jnp.exp(w * x), losses.half_squared_error)
        >>> value_fn = model.on((jnp.array([1.0]), jnp.array([1.0])))
        >>> print(gauss_newton(value_fn, jnp.array(0.0)).trace())
        1.0
    """
    return operator_of(gauss_newton_system(value_fn, params, memory_budget=memory_budget))


def fisher(
    value_fn: ValueFunction,
    params: PyTree,
    *,
    key: Key[Array, ""] | None = None,
    samples: int = 1,
    memory_budget: int = 2**30,
) -> Operator:
    """The Fisher information: the mean of g g^T over targets that the model itself would draw.

    Args:
        value_fn: made by `Objective.on` of negative log-likelihoods, and of residuals (Gaussian of
            variance 1); penalties as in `gauss_newton`.
        params: the point; real floating-point leaves.
        key: without one, the exact mean over targets; with one, an unbiased estimate from
            `samples` targets for each example, whose rank is at most their number.
        samples: of each example, >= 1; its relative error falls as their square root.
        memory_budget: bytes that a tile of a matrix may take while it is made.

    Returns:
        The operator, positive semi-definite. Value and gradient are those of `value_fn`.

    Raises:
        TypeError: if a loss is not known as a likelihood.
        ValueError: if `samples` is not positive.

    Source:
        Martens, "New insights and perspectives on the natural gradient method", JMLR 21 (2020),
        section 9, arXiv:1412.1193.

    Example:
        >>> from fnn.objective import Objective
        >>> model = Objective(lambda w, x: w * x, losses.logistic)
        >>> value_fn = model.on((jnp.array([1.0]), jnp.array([1.0])))
        >>> print(fisher(value_fn, jnp.array(0.0)).trace())  # p (1 - p)
        0.25
    """
    if samples < 1:
        raise ValueError(f"fisher: expected samples >= 1, got {samples}; try more for less noise")
    quadratic = gauss_newton_system(value_fn, params, memory_budget=memory_budget)
    for block in value_fn.blocks:
        if block.loss is not None and losses.sampler(block.loss) is None:
            raise TypeError(
                f"fisher: expected losses that are likelihoods, got "
                f"{getattr(block.loss, '__name__', block.loss)}; try "
                "curvature.gauss_newton, or losses.with_curvature(loss, factor, sample=sample)"
            )
    operator = operator_of(quadratic)
    if key is None:
        return operator
    keys = (jax.random.fold_in(key, k) for k in itertools.count())  # one for each block
    sample_fn = value_fn.map_blocks(lambda block: _block_of_draws(block, next(keys), samples))
    estimate = gauss_newton_system(sample_fn, params, memory_budget=memory_budget)
    return operator_of(estimate)._replace(value=operator.value, grad=operator.grad)


def _block_of_draws(block: Block, key: Array, samples: int) -> Block:
    """A block whose rows are gradients at targets that the model draws; its targets are keys."""
    loss = block.loss or losses.half_squared_error
    sample = cast("losses.Sampler", losses.sampler(loss))

    def factor(outputs: PyTree, key: Array) -> tuple[Array, Array]:
        if block.loss is None:
            outputs, _ = ravel_pytree(outputs)

        def gradient(key: Array) -> Array:
            return ravel_pytree(jax.grad(loss)(outputs, sample(key, outputs)))[0]

        rows = jax.vmap(gradient, out_axes=1)(jax.random.split(key, samples))
        return rows / samples**0.5, jnp.zeros(samples, rows.dtype)

    loss_of_draws = losses.with_curvature(no_loss, factor, complete=True)
    return replace(block, targets=jax.random.split(key, block.count), loss=loss_of_draws)
