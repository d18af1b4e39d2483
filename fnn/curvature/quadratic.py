"""From a value function to the system that a second-order step solves.

`gauss_newton_system` looks into a value function, captures the model of every block, and stacks
their rows

    A = sqrt(share_n) B_n^T J_n        share_n = scale * w_n / sum(w)

over blocks and examples n, B_n being the factor of the loss (see `losses`; the identity for a block
of residuals). A^T A is the Gauss-Newton matrix, and the gradient is `A^T s + h`: s stacks
sqrt(share_n) s_n, and h is what A^T cannot reach, None where there is nothing of the kind:

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops, programs, solvers
from fnn.capture import Captured, aval, diagonal, gram, product, transpose_product
from fnn.curvature.rows import Stack, costs_of, judged, normal, stack
from fnn.dtypes import widest
from fnn.objective import Block, Known, Penalty, Term, ValueFunction
from fnn.precision import policy_of


class Quadratic(NamedTuple):
    """A value function to second order around a point.

    Attributes:
        value: the value there.
        system: the curvature.
        rhs: the gradient.
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
        params: where; real floating-point leaves.
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
    params, stacks, rest, penalty = terms_of(value_fn, params)

    found = [judged(one) for one in stacks]
    values = [one.value for one in found]
    residues = [term for one in found for term in one.left]
    h = inside = None
    if any(one.inside is not None for one in found):
        parts = [
            stack.sum(transpose_product, one.s.reshape(stack.shape))
            if one.inside is None
            else one.inside
            for stack, one in zip(stacks, found, strict=True)
        ]
        inside = reduce(partial(jax.tree.map, jnp.add), parts)
    if rest:
        value, h = jax.value_and_grad(ValueFunction(tuple(rest)))(params)
        values.append(value)
    if residues:
        part = jax.grad(ValueFunction(tuple(residues)))(params)
        h = part if h is None else jax.tree.map(jnp.add, h, part)
    s = jnp.concatenate([one.s for one in found]) if found else None
    system = _system(params, stacks, penalty, memory_budget)
    return Quadratic(reduce(jnp.add, values), system, solvers.RightHandSide(s, h, inside))


def hessian_system(
    fn: Callable[[PyTree], Scalar], params: PyTree, *, memory_budget: int = 2**30
) -> Quadratic:
    """The second-order Taylor polynomial of a function, its gradient linearized once.

    Args:
        fn: any twice differentiable `fn(params) -> scalar`; a value function is one.
        params: where; real floating-point leaves.
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
    params = _real("hessian_system", params)
    (value, grad), linear = jax.linearize(jax.value_and_grad(fn), params)

    def multiply(v: PyTree) -> PyTree:
        return linear(v)[1]

    flat, unravel = ravel_pytree(params)
    size, word = flat.size, flat.dtype.itemsize

    def column(index: Array) -> Array:
        return ravel_pytree(multiply(unravel(jnp.zeros_like(flat).at[index].set(1))))[0]

    def columns(of: Callable[[Array], Array]) -> Array:
        made = _bytes(jax.make_jaxpr(column)(0).jaxpr)
        some = max(1, min(size, int(memory_budget / made)))
        return jax.lax.map(of, jnp.arange(size), batch_size=some)

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
    """The second derivative along v of what the rows of A are the first derivative of.

    Of residuals: of the residuals. Of a loss: of the outputs, times the factor B^T of the loss,
    which is held. From one pass through the models, forward twice.

    Args:
        value_fn: as of `gauss_newton_system`; it must have rows.
        params: where.
        v: a tree like the parameters.

    Returns:
        One number for every row of A, in their order. Models are differentiated forward, which a
        `jax.custom_vjp` in them does not allow.

    Example:
        >>> from fnn.objective import Objective
        >>> value_fn = Objective(lambda w, x: x * w**2).on(jnp.array([4.0]))
        >>> print(accelerations(value_fn, jnp.array(1.0), jnp.array(3.0)))  # 4 * 2 * 3^2
        [72.]
    """
    return jnp.concatenate([s.accelerations(v) for s in terms_of(value_fn, params).stacks])


class Terms(NamedTuple):
    """The terms of a value function by what they give to its curvature.

    Attributes:
        params: where, as arrays.
        stacks: the blocks that have rows.
        rest: the terms whose gradient is outside the range of the rows.
        penalty: the diagonal curvature of the `l2` among them; see `solvers.System`.
    """

    params: PyTree
    stacks: list[Stack]
    rest: list[Term]
    penalty: PyTree


def terms_of(value_fn: ValueFunction, params: PyTree) -> Terms:
    """A value function taken apart, every block with a curvature captured.

    Args:
        value_fn: made by `Objective.on`, penalties and sums of them.
        params: where; real floating-point leaves.

    Returns:
        Its terms.

    Raises:
        TypeError: for any other function, complex parameters, or outputs that are not real.
        ValueError: for a block or an `l2` with a negative scale.
    """
    if not isinstance(value_fn, ValueFunction):
        name = getattr(value_fn, "__name__", type(value_fn).__name__)
        raise TypeError(
            "gauss_newton_system: expected a value function made by Objective.on, got function "
            f"{name}; its model and loss are hidden in it: try fnn.Objective(model, loss).on(data),"
            " or rules.newton, which needs only a function"
        )
    for scale, block, _ in value_fn.terms:
        if _is_curved(block) and isinstance(scale, int | float) and scale < 0:
            raise ValueError(
                f"gauss_newton_system: expected blocks and l2 with a scale of at least 0, got "
                f"{scale}; its curvature is negative: try rules.newton"
            )
    params = _real("gauss_newton_system", params)
    penalties = [term for term in value_fn.terms if isinstance(term.block, Penalty)]
    data = [stack(term, params) for term in value_fn.terms if isinstance(term.block, Block)]
    stacks = [d for d in data if isinstance(d, Stack)]
    rest = [*(d for d in data if isinstance(d, Term)), *penalties]
    return Terms(params, stacks, rest, _penalty(penalties, params))


def _is_curved(block: Block | Penalty) -> bool:
    return isinstance(block, Block) or block.is_half_squared_norm


def _bytes(jaxpr: jex.Jaxpr) -> float:
    """Of all results in a jaxpr, as if none were freed."""
    total = 1.0
    for eqn in jaxpr.eqns:
        total += sum(math.prod(aval(v).shape) * aval(v).dtype.itemsize for v in eqn.outvars)
        total += sum(_bytes(body.jaxpr) for body in programs.bodies(eqn))
    return total


def _real(name: str, params: PyTree) -> PyTree:
    """The parameters as arrays, all of them real."""
    if not jax.tree.leaves(params):
        raise ValueError(f"{name}: expected at least one parameter, got none; try to freeze fewer")
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{name}: expected real floating-point parameters, got {jnp.result_type(leaf)} at "
                f"params{jax.tree_util.keystr(path)}; try its real and imaginary parts as two "
                "leaves, or value_fn.freeze to leave it out"
            )
    return jax.tree.map(jnp.asarray, params)


def _like(params: PyTree) -> PyTree:
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)


# --- penalties ----------------------------------------------------------------------------------


def _penalty(terms: Sequence[Term], params: PyTree) -> PyTree:
    """The weights of the l2 penalties on every leaf, one object where they are the same."""
    structure = jax.tree.structure(params)
    numbers: dict[tuple, Any] = {(): 0.0}
    keys: list[tuple] = [()] * structure.num_leaves
    for index, (scale, block, _) in enumerate(terms):
        if not (isinstance(block, Penalty) and block.is_half_squared_norm):
            continue
        if not isinstance(scale, int | float):  # what is negative is rejected, as of a block
            scale = jnp.where(scale >= 0, scale, jnp.nan)
        masks: list[Any] = [Known(True)] * len(keys)
        if block.where is not None:
            free = jax.tree.map(
                lambda p, m: None if p is None else m,
                params,
                block.where,
                is_leaf=lambda p: p is None,
            )
            masks = structure.flatten_up_to(free)
        for leaf, mask in enumerate(masks):
            before = keys[leaf]
            known = isinstance(mask, Known)
            if known and not mask.value:
                continue
            keys[leaf] = (*before, index if known else (index, leaf))
            if keys[leaf] not in numbers:
                number = scale if known else scale * mask
                numbers[keys[leaf]] = numbers[before] + number if before else number
    if not any(keys):
        return None
    if len(set(keys)) == 1:
        return numbers[keys[0]]
    return structure.unflatten(numbers[key] for key in keys)


# --- the system ---------------------------------------------------------------------------------


def _system(
    params: PyTree, stacks: Sequence[Stack], penalty: PyTree, memory_budget: int
) -> solvers.System:
    like = _like(params)
    zeros = partial(jax.tree.map, jnp.zeros_like, params)
    size = sum(p.size for p in jax.tree.leaves(params))
    policies = [policy for s in stacks if (policy := policy_of(s.block.model)) is not None]
    gram_dtype = widest(*(p.gram for p in policies)) if policies else None
    solves = {jnp.dtype(p.solve) for p in policies if p.solve is not None}
    solve = max(solves, key=lambda dtype: dtype.itemsize, default=None)

    # Captured numbers as they are multiplied in a matrix.
    def summed(captured: Captured) -> Captured:
        return captured if gram_dtype is None else captured.widened(gram_dtype)

    def total(trees: Sequence[PyTree]) -> PyTree:
        return reduce(partial(jax.tree.map, jnp.add), trees) if trees else zeros()

    def multiply(v: PyTree) -> PyTree:
        return total([s.multiply(v) for s in stacks])

    def dense() -> Array:
        blocks = [s.sum(lambda c: normal(summed(c), memory_budget)) for s in stacks]
        return reduce(jnp.add, blocks) if blocks else jnp.zeros((size, size))

    def squares() -> PyTree:
        return total([s.sum(partial(diagonal, memory_budget=memory_budget)) for s in stacks])

    if not stacks:
        # Nothing to factor: the automatic choice is one iteration of conjugate gradients.
        costs = solvers.Costs(multiply=solvers.Cost(0.0, 0.0))
        return solvers.System(like, multiply, dense, squares, penalty=penalty, costs=costs)

    ends = [sum(s.rows for s in stacks[: i + 1]) for i in range(len(stacks) - 1)]

    def forward(v: PyTree) -> Array:
        return jnp.concatenate([s.each(lambda c: product(c, v)).ravel() for s in stacks])

    def back(u: Array) -> PyTree:
        pieces = zip(stacks, jnp.split(u, ends), strict=True)
        return total([s.sum(transpose_product, piece.reshape(s.shape)) for s, piece in pieces])

    def gram_of(inverse: PyTree) -> Array:
        def corner(one: Stack, two: Stack) -> Array:
            def tile(a: Captured, b: Captured | None) -> Array:
                b = None if b is None else summed(b)
                return gram(summed(a), b, scales=inverse, memory_budget=memory_budget)

            if one is two and one.captured is not None:
                return tile(one.captured, None)
            tiles = one.each(lambda a: two.each(lambda b: tile(a, b)))
            return tiles.swapaxes(1, 2).reshape(one.rows, two.rows)

        lower = [[corner(one, two) for two in stacks[: i + 1]] for i, one in enumerate(stacks)]
        matrix = jnp.block([
            [lower[i][j] if j <= i else lower[j][i].T for j in range(len(stacks))]
            for i in range(len(stacks))
        ])
        return matrix if len(stacks) == 1 and stacks[0].captured else (matrix + matrix.T) / 2

    return solvers.System(
        like=like,
        multiply=multiply,
        normal=dense,
        diagonal=squares,
        rows=sum(s.rows for s in stacks),
        product=forward,
        transpose=back,
        gram=gram_of,
        penalty=penalty,
        costs=costs_of(stacks, size, memory_budget),
        precision=gram_dtype,
        solve=solve,
    )
