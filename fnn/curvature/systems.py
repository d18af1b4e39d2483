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

A block cut into chunks is captured one chunk at a time, again for every operation, so that each of
them runs in the memory of one chunk; the Gram matrix in that of two, with a pass for each of them.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops, losses, solvers
from fnn.curvature.kernel import choices
from fnn.curvature.kernel import gram as gram_of
from fnn.curvature.products import (
    HIGHEST,
    Captured,
    blockwise,
    capture,
    diagonal,
    jacobian,
    product,
    transpose_product,
    wide,
)
from fnn.curvature.uses import aval
from fnn.objective import EXAMPLES, Block, Penalty, Term, ValueFunction, merge


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
        Value, system and right-hand side. Build it and solve it inside one traced function.

    Raises:
        TypeError: for any other function, complex parameters, or outputs that are not real.
        ValueError: for a block with a negative scale, or a model that combines examples.

    Source:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
        Neural Computation 14 (2002), doi:10.1162/08997660260028683.

    Example:
        >>> from fnn.objective import Objective
        >>> line = Objective(lambda w, x: w * x, losses.half_squared_error)
        >>> value_fn = line.on((jnp.array([1.0, 2.0]), jnp.array([2.0, 4.0])))
        >>> value, system, rhs = gauss_newton_system(value_fn, jnp.array(1.0))
        >>> print(value, system.diagonal().round(4), system.transpose(rhs.s).round(4), rhs.h)
        1.25 2.5 -2.5 None
    """
    if not isinstance(value_fn, ValueFunction):
        name = getattr(value_fn, "__name__", type(value_fn).__name__)
        raise TypeError(
            "gauss_newton_system: expected a value function made by Objective.on, got function "
            f"{name}; its model and loss are hidden in it: try fnn.Objective(model, loss).on(data),"
            " or rules.newton, which needs only a function"
        )
    for scale, block, _ in value_fn.terms:
        if isinstance(block, Block) and isinstance(scale, int | float) and scale < 0:
            raise ValueError(
                f"gauss_newton_system: expected blocks with a scale of at least 0, got {scale}; "
                "its curvature is negative: try rules.newton"
            )
    params = _real("gauss_newton_system", params)
    penalties = [term for term in value_fn.terms if isinstance(term.block, Penalty)]
    data = [_rows(term, params) for term in value_fn.terms if isinstance(term.block, Block)]
    stacks = [d for d in data if isinstance(d, _Stack)]
    rest = [*(d for d in data if isinstance(d, Term)), *penalties]

    values, slopes, residues = [], [], []
    for stack in stacks:
        value, s, residue = _judged(stack)
        values.append(value)
        slopes.append(s)
        residues.extend(residue)
    h = None
    if rest:
        value, h = jax.value_and_grad(ValueFunction(tuple(rest)))(params)
        values.append(value)
    if residues:
        part = jax.grad(ValueFunction(tuple(residues)))(params)
        h = part if h is None else jax.tree.map(jnp.add, h, part)
    s = jnp.concatenate(slopes) if slopes else None
    system = _system(params, stacks, _penalty(penalties, params), memory_budget)
    return Quadratic(reduce(jnp.add, values), system, solvers.RightHandSide(s, h))


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


def _bytes(jaxpr: jex.Jaxpr) -> float:
    """Of all results in a jaxpr, as if none were freed."""
    total = 1.0
    for eqn in jaxpr.eqns:
        total += sum(math.prod(aval(v).shape) * aval(v).dtype.itemsize for v in eqn.outvars)
        total += sum(map(_bytes, jex.jaxprs_in_params(eqn.params)))
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


# --- rows ---------------------------------------------------------------------------------------


class _Stack(NamedTuple):
    """The rows of one block: of one capture, or of one for each of its chunks."""

    term: Term
    block: Block
    params: PyTree
    parts: Block
    captured: Captured | None
    unravel: Callable[[Array], PyTree]
    total: Scalar | int
    shape: tuple[int, int, int]  # parts, examples of each, rows of each example

    @property
    def rows(self) -> int:
        return math.prod(self.shape)

    def each(self, fn: Callable[..., Any], *xs: PyTree) -> Any:
        """What a function says of each part, stacked."""
        if self.captured is not None:
            first = jax.tree.map(lambda x: x[0], xs)
            return jax.tree.map(lambda y: y[None], fn(self.captured, *first))
        return jax.lax.map(lambda args: fn(self.capture(args[0]), *args[1:]), (self.parts, *xs))

    def sum(self, fn: Callable[..., Any], *xs: PyTree) -> Any:
        """The sum of what a function says of each part."""
        if self.captured is not None:
            return fn(self.captured, *jax.tree.map(lambda x: x[0], xs))

        def add(total: Any, args: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, fn(self.capture(args[0]), *args[1:])), None

        first = jax.tree.map(lambda x: x[0], (self.parts, *xs))
        shapes = jax.eval_shape(lambda part, *x: fn(self.capture(part), *x), *first)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return jax.lax.scan(add, zeros, (self.parts, *xs))[0]

    def capture(self, part: Block) -> Captured:
        """The rows sqrt(share) B^T J of a part."""

        def model(params: PyTree, x: tuple[PyTree, Array | None]) -> Array:
            return ravel_pytree(part.answer(merge(params, self.term.held), *x))[0]

        def factor(outputs: Array, target: tuple[PyTree, Array]) -> tuple[Array, Array]:
            target, root = target
            columns, slopes = _factor(self.block)(self.unravel(outputs), target)
            return root * columns, root * slopes

        targets = (part.targets, jnp.sqrt(self.shares(part)))
        return capture(model, self.params, (part.inputs, part.keys), factor, targets)

    def shares(self, part: Block) -> Float[Array, " n"]:
        """Scale * w / sum(w) of a part's examples."""
        _, examples, _ = self.shape
        weights = 1.0 if part.weights is None else part.weights
        return jnp.broadcast_to(self.term.scale * weights / self.total, (examples,))


def _rows(term: Term, params: PyTree) -> "_Stack | Term":
    """The rows of a term; the term itself where its loss has none."""
    block = cast("Block", term.block)
    parts = block.chunks()
    first = jax.tree.map(lambda a: a[0], parts)

    def answers(part: Block) -> PyTree:
        def answer(x: PyTree, key: Array | None) -> PyTree:
            return part.answer(merge(params, term.held), x, key)

        return jax.vmap(answer, axis_name=EXAMPLES)(part.inputs, part.keys)

    outputs = jax.eval_shape(answers, first)
    for path, leaf in jax.tree.leaves_with_path(outputs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"gauss_newton_system: expected a model whose outputs are real arrays, got "
                f"{leaf.dtype} at outputs{jax.tree_util.keystr(path)}; try to leave it out of the "
                "outputs"
            )
    _, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), outputs))
    _, slopes = jax.eval_shape(jax.vmap(_factor(block)), outputs, first.targets)
    if 0 in slopes.shape:
        return term
    count = len(jax.tree.leaves(parts)[0])
    total = len(jax.tree.leaves(block.inputs)[0]) if block.weights is None else block.weights.sum()
    stack = _Stack(term, block, params, parts, None, unravel, total, (count, *slopes.shape))
    return stack if count > 1 else stack._replace(captured=stack.capture(first))


def _factor(block: Block) -> losses.Factor:
    return _residuals if block.loss is None else losses.curvature(block.loss)


def _residuals(outputs: PyTree, target: None) -> tuple[Array, Array]:
    del target
    flat, _ = ravel_pytree(outputs)
    return jnp.eye(flat.size, dtype=flat.dtype), flat


def _judged(stack: _Stack) -> tuple[Scalar, Float[Array, " rows"], list[Term]]:
    """Value and s of a block, and the term that is left of it if its loss is not complete."""
    block = stack.parts
    complete = block.loss is None or losses.is_complete(block.loss)

    def judge(captured: Captured, part: Block) -> tuple[Scalar, Array, Array | None]:
        outputs = jax.vmap(stack.unravel)(captured.outputs)
        values = jax.vmap(block.judge)(outputs, part.targets)
        weights = 1.0 if part.weights is None else part.weights.astype(values.dtype)
        rest = None if complete else jax.vmap(partial(_rest, block))(outputs, part.targets)
        return jnp.sum(weights * values), cast("Array", captured.slopes), rest

    values, slopes, rest = stack.each(judge, stack.parts)
    value = stack.term.scale * (values.sum() / stack.total)
    if complete:
        return value, slopes.ravel(), []
    whole = stack.block
    n = len(jax.tree.leaves(whole.inputs)[0])
    targets = rest.reshape(-1, rest.shape[-1])[:n]
    left = Block(whole.inputs, targets, whole.weights, whole.keys, whole.model, _along, whole.chunk)
    return value, slopes.ravel(), [stack.term._replace(block=left)]


def _rest(block: Block, outputs: PyTree, target: PyTree) -> Float[Array, " k"]:
    """The gradient's part outside the range of B, g - B s."""
    columns, slopes = _factor(block)(outputs, target)
    grad, _ = ravel_pytree(jax.grad(block.judge)(outputs, target))
    return grad - jnp.matmul(columns, slopes, precision=HIGHEST)


def _along(outputs: PyTree, direction: Float[Array, " k"]) -> Scalar:
    flat, _ = ravel_pytree(outputs)
    return jnp.vdot(flat, direction, precision=HIGHEST)


# --- penalties ----------------------------------------------------------------------------------


def _penalty(terms: Sequence[Term], params: PyTree) -> PyTree:
    """The weights of the l2 penalties on every leaf, one object where they are the same."""
    structure = jax.tree.structure(params)
    numbers: dict[tuple, Any] = {(): 0.0}
    keys: list[tuple] = [()] * structure.num_leaves
    for index, (scale, block, _) in enumerate(terms):
        if not (isinstance(block, Penalty) and block.is_half_squared_norm):
            continue
        masks = [True] * len(keys)
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
            known = not isinstance(mask, jax.Array) and jnp.ndim(mask) == 0
            if known and not mask:
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
    params: PyTree, stacks: Sequence[_Stack], penalty: PyTree, memory_budget: int
) -> solvers.System:
    like = _like(params)
    zeros = partial(jax.tree.map, jnp.zeros_like, params)
    size = sum(p.size for p in jax.tree.leaves(params))

    def total(trees: Sequence[PyTree]) -> PyTree:
        return reduce(partial(jax.tree.map, jnp.add), trees) if trees else zeros()

    def multiply(v: PyTree) -> PyTree:
        return total([s.sum(lambda c: transpose_product(c, product(c, v))) for s in stacks])

    def dense() -> Array:
        blocks = [s.sum(partial(_normal, memory_budget=memory_budget)) for s in stacks]
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

    def kernel(inverse: PyTree) -> Array:
        def corner(one: _Stack, two: _Stack) -> Array:
            def tile(a: Captured, b: Captured | None) -> Array:
                return gram_of(a, b, scales=inverse, memory_budget=memory_budget)

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
        gram=kernel,
        penalty=penalty,
        costs=_costs(stacks, size, memory_budget),
    )


def _normal(captured: Captured, memory_budget: int) -> Float[Array, "P P"]:
    """J^T J, dense, some examples at a time."""
    n, r = captured.shape

    def square(part: Captured) -> Array:
        blocks = jax.tree.leaves(jacobian(part))
        rows = [wide(j.reshape(part.shape[0] * r, -1)) for j in blocks]
        matrix = jnp.concatenate(rows, axis=1)
        return jnp.matmul(matrix.T, matrix, precision=HIGHEST)

    size = sum(leaf.size for leaf in jax.tree.leaves(captured.params))
    return blockwise(square, captured, max(1, min(n, memory_budget // max(1, 16 * r * size))))


# --- prices -------------------------------------------------------------------------------------


class _Price(NamedTuple):
    """Flops and bytes of one part of a stack; see `_costs`."""

    shape: Captured
    capture: float
    pass_: float
    jacobian: float
    bytes: float


def _price(stack: _Stack) -> _Price:
    first = jax.tree.map(lambda a: a[0], stack.parts)
    shape, again = stack.captured, 0.0
    if shape is None:  # made again for every operation
        shape, again = jax.eval_shape(stack.capture, first), flops.count(stack.capture, first)
    n, r = shape.shape
    uses = zip(shape.program.uses, shape.deltas, strict=True)
    apply = through = jacobian = 0.0
    for use, delta in uses:
        b, t, i, o = use.form.shape
        linear = 2.0 * n * math.prod(use.lead) * b * t * (1 if use.form.rows else i) * o
        apply += linear
        jacobian += r * linear
        through += 2.0 * delta.size
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves((shape.operands, shape.deltas)))
    return _Price(shape, again, apply + through, jacobian, kept)


def _costs(stacks: Sequence[_Stack], size: int, memory_budget: int) -> solvers.Costs:
    """Flops and bytes, counted from the shapes of the captures."""
    prices = [_price(stack) for stack in stacks]
    word = max(jnp.promote_types(p.shape.outputs.dtype, jnp.float32).itemsize for p in prices)
    rows = sum(stack.rows for stack in stacks)
    kept = sum(price.bytes for price in prices)
    multiply = normal = gram = tile = 0.0
    for i, (stack, price) in enumerate(zip(stacks, prices, strict=True)):
        parts, n, r = stack.shape
        multiply += parts * (price.capture + 2 * price.pass_)
        normal += parts * (price.capture + price.jacobian + 2.0 * n * r * size**2)
        tile = max(tile, min(memory_budget, 2 * word * n * r * size))
        for other, beside in zip(stacks[: i + 1], prices[: i + 1], strict=True):
            one, two = price.shape, beside.shape
            chosen = choices(one.program, two.program, one.shape, two.shape, word)
            forming = sum(choice.flops for choice in chosen)
            pairs = parts * other.shape[0]
            gram += pairs * (forming + beside.capture) + parts * price.capture
    return solvers.Costs(
        multiply=solvers.Cost(multiply, kept),
        gram=solvers.Cost(gram, kept + 2 * word * rows**2),
        normal=solvers.Cost(normal, kept + tile + word * size**2),
    )
