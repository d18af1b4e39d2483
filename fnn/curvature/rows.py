"""The rows of one block of a value function: its part of s, of A, and what they cost.

A `Stack` holds the block's capture. A block cut into chunks has none: it is captured one chunk at a
time, again for every operation, so that each of them runs in the memory of one chunk; the Gram
matrix in that of two, with a pass for each of them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops, losses, solvers
from fnn.capture import (
    HIGHEST,
    Captured,
    blockwise,
    capture,
    choices,
    jacobian,
    product,
    square,
    square_share,
    transpose_product,
)
from fnn.dtypes import widest
from fnn.objective import EXAMPLES, Block, Term, ValueFunction, accumulate, merge, wide


class Stack(NamedTuple):
    """The rows of one block: of one capture, or of one for each of its chunks.

    Attributes:
        term: of the value function.
        params: where.
        parts: the block, cut into its chunks; or into one.
        captured: the rows; None of several chunks.
        unravel: outputs in a row to the model's.
        total: the sum of the weights.
        shape: the numbers of parts, of examples of each and of rows of each example.
    """

    term: Term
    params: PyTree
    parts: Block
    captured: Captured | None
    unravel: Callable[[Array], PyTree]
    total: Scalar | int
    shape: tuple[int, int, int]

    @property
    def block(self) -> Block:
        """The term's."""
        return cast("Block", self.term.block)

    @property
    def rows(self) -> int:
        """The number of all rows."""
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

        return accumulate(lambda args: fn(self.capture(args[0]), *args[1:]), (self.parts, *xs))

    def capture(self, part: Block) -> Captured:
        """The rows sqrt(share) B^T J of a part."""

        def model(params: PyTree, x: tuple[PyTree, Array | None]) -> Array:
            return ravel_pytree(part.answer(merge(params, self.term.held), *x))[0]

        def factor(outputs: Array, target: tuple[PyTree, Array]) -> tuple[Array, Array]:
            target, root = target
            columns, slopes = _factor(self.block)(self.unravel(outputs), target)
            root = root.astype(widest(slopes.dtype, jnp.float32))
            return root * columns, root * slopes

        targets = (part.targets, jnp.sqrt(self.shares(part)))
        return capture(model, self.params, (part.inputs, part.keys), factor, targets)

    def weighed(self, part: Block) -> Callable[[PyTree], Float[Array, "n r"]]:
        """`params -> sqrt(share) B^T outputs` of a part, B held: its derivative is the rows."""

        def outputs(params: PyTree) -> Array:
            def answer(x: PyTree, key: Array | None) -> Array:
                return ravel_pytree(part.answer(merge(params, self.term.held), x, key))[0]

            over_examples = jax.vmap(answer, axis_size=part.count, axis_name=EXAMPLES)
            return over_examples(part.inputs, part.keys)

        held, roots = outputs(self.params), jnp.sqrt(self.shares(part))

        # B inside of the vmap: one for all examples where it does not depend on them.
        def weigh(held: Array, target: PyTree, root: Array, outputs: Array) -> Array:
            columns = wide(_factor(self.block)(self.unravel(held), target)[0])
            product = jnp.matmul(wide(outputs), columns, precision=HIGHEST)
            return root.astype(product.dtype) * product

        return lambda params: jax.vmap(weigh)(held, part.targets, roots, outputs(params))

    def multiply(self, v: PyTree) -> PyTree:
        """A^T A v: from the capture, or by the model where that has fewer flops."""
        # With many rows for an example a pass through the model is cheaper than through its deltas;
        # and so it is where the capture would be made again.
        if self.captured is not None:
            apply, through, _ = _passes(self.captured)
            if through <= 1.5 * apply:
                return transpose_product(self.captured, product(self.captured, v))
            return self.bent(v, jax.tree.map(lambda a: a[0], self.parts))
        return accumulate(partial(self.bent, v), self.parts)

    def bent(self, v: PyTree, part: Block) -> PyTree:
        """A^T A v of a part, by the model."""
        push, pull = self._linear(part)
        return pull(push(v))

    def bends(self, vectors: Sequence[PyTree]) -> Float[Array, "k k"]:
        """v^T A^T A w of all pairs, by the model and with all rows, sketched or not."""

        def of(part: Block) -> Array:
            push, _ = self._linear(_exact(part))
            images = jnp.stack([push(v).ravel() for v in vectors])
            return jnp.matmul(images, images.T, precision=HIGHEST)

        if self.captured is not None:
            return of(jax.tree.map(lambda a: a[0], self.parts))
        return accumulate(of, self.parts)

    def _linear(self, part: Block) -> tuple[Callable[[PyTree], Array], Callable[[Array], PyTree]]:
        """`v -> A v` and `u -> A^T u` of a part, by the model."""
        primal, pull = jax.vjp(self.weighed(part), self.params)
        # Forward as the transpose of backward: custom_vjp allows no other.
        _, push = jax.vjp(pull, jnp.zeros_like(primal))

        # Velocities may be kept wider than the parameters that they move.
        def forward(v: PyTree) -> Array:
            return push((jax.tree.map(lambda a, p: a.astype(p.dtype), v, self.params),))[0]

        return forward, lambda u: pull(u)[0]

    def accelerations(self, v: PyTree) -> Float[Array, " rows"]:
        """The second derivative of the rows' outputs along v, B held."""

        def of(part: Block) -> Array:
            rows = self.weighed(part)

            def speed(params: PyTree) -> Array:
                return jax.jvp(rows, (params,), (v,))[1]

            return jax.jvp(speed, (self.params,), (v,))[1]

        if self.captured is not None:
            return of(jax.tree.map(lambda a: a[0], self.parts)).ravel()
        return jax.lax.map(of, self.parts).ravel()

    def shares(self, part: Block) -> Float[Array, " n"]:
        """Scale * w / sum(w) of a part's examples."""
        _, examples, _ = self.shape
        weights = 1.0 if part.weights is None else part.weights
        return jnp.broadcast_to(self.term.scale * weights / self.total, (examples,))


def stack(term: Term, params: PyTree) -> "Stack | Term":
    """The rows of a term; the term itself where its loss has none.

    Args:
        term: one with a block.
        params: where.

    Returns:
        A stack or the term.

    Raises:
        TypeError: if the model's outputs are not real.
    """
    block = cast("Block", term.block)
    parts = block.chunks()
    first = jax.tree.map(lambda a: a[0], parts)

    def answers(part: Block) -> PyTree:
        def answer(x: PyTree, key: Array | None) -> PyTree:
            return part.answer(merge(params, term.held), x, key)

        over_examples = jax.vmap(answer, axis_size=part.count, axis_name=EXAMPLES)
        return over_examples(part.inputs, part.keys)

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
    total = block.count
    if block.weights is not None:
        total = jnp.sum(block.weights, dtype=widest(slopes.dtype, jnp.float32))
    made = Stack(term, params, parts, None, unravel, total, (count, *slopes.shape))
    return made if count > 1 else made._replace(captured=made.capture(first))


def _factor(block: Block) -> losses.Factor:
    return _residuals if block.loss is None else losses.curvature(block.loss)


def _residuals(outputs: PyTree, target: None) -> tuple[Array, Array]:
    del target
    flat, _ = ravel_pytree(outputs)
    return jnp.eye(flat.size, dtype=flat.dtype), flat


class _Sketched(NamedTuple):
    """The target of an example, and the key of its signs."""

    target: PyTree
    key: Array | None


def sketched(value_fn: ValueFunction, key: Array, samples: int) -> ValueFunction:
    """A value function with fewer rows, whose A^T A is that of all rows in the mean.

    The B of an example becomes B E, E with `samples` columns of random signs over sqrt(samples);
    where B has no more columns than that, it stays.

    Args:
        value_fn: what to sketch. It keeps its curvature alone: value and s are not to be asked for.
        key: of the signs.
        samples: rows of each example.

    Returns:
        The sketch.
    """

    def sketch(index: int, term: Term) -> Term:
        block = term.block
        if not isinstance(block, Block):
            return term

        def factor(outputs: PyTree, target: _Sketched) -> tuple[Array, Array]:
            columns, slopes = _factor(block)(outputs, target.target)
            if target.key is None or slopes.size <= samples:
                return columns, slopes
            signs = jax.random.rademacher(target.key, (slopes.size, samples), columns.dtype)
            some = jnp.matmul(columns, signs, precision=HIGHEST) / samples**0.5
            return some, jnp.zeros(samples, columns.dtype)

        keys = jax.random.split(jax.random.fold_in(key, index), block.count)
        loss = losses.with_curvature(_nothing, factor, complete=True)
        return term._replace(
            block=replace(block, targets=_Sketched(block.targets, keys), loss=loss)
        )

    return ValueFunction(tuple(sketch(i, term) for i, term in enumerate(value_fn.terms)))


def _exact(part: Block) -> Block:
    if not isinstance(part.targets, _Sketched):
        return part
    return replace(part, targets=part.targets._replace(key=None))


def _nothing(outputs: PyTree, target: PyTree) -> Array:
    del outputs, target
    return jnp.zeros(())


class Judged(NamedTuple):
    """What the loss says of a block.

    Attributes:
        value: the term's.
        s: see `systems`.
        inside: A^T s, summed chunk by chunk without s; None of one chunk.
        left: none or one term, whose gradient is what A^T s lacks if the loss is not complete.
    """

    value: Scalar
    s: Float[Array, " rows"]
    inside: PyTree
    left: list[Term]


def judged(stack: Stack) -> Judged:
    """Value and gradient of a block, from its rows.

    Args:
        stack: the rows.

    Returns:
        What the loss says.
    """
    block = stack.parts
    complete = block.loss is None or losses.is_complete(block.loss)
    if stack.captured is None:  # nothing is as long as the data but s, which the primal leaves
        s = stack.each(lambda captured: captured.slopes).ravel()
        inside = stack.sum(lambda captured: transpose_product(captured, captured.slopes))
        whole = replace(stack.block, loss=partial(_along_rest, stack.block))
        left = [] if complete else [stack.term._replace(block=whole)]
        return Judged(stack.term(stack.params), s, inside, left)

    def judge(captured: Captured, part: Block) -> tuple[Scalar, Array, Array | None]:
        outputs = jax.vmap(stack.unravel)(captured.outputs)
        values = jax.vmap(block.judge)(outputs, part.targets)
        rest = None if complete else jax.vmap(partial(_rest, block))(outputs, part.targets)
        return values, cast("Array", captured.slopes), rest

    values, slopes, rest = stack.each(judge, stack.parts)
    value = stack.term.scale * block.mean(values)
    if complete:
        return Judged(value, slopes.ravel(), None, [])
    whole = stack.block
    targets = whole.joined(rest)
    left = Block(whole.inputs, targets, whole.weights, whole.keys, whole.model, _along, whole.chunk)
    return Judged(value, slopes.ravel(), None, [stack.term._replace(block=left)])


def _rest(block: Block, outputs: PyTree, target: PyTree) -> Float[Array, " k"]:
    """The gradient's part outside the range of B, g - B s."""
    columns, slopes = _factor(block)(outputs, target)
    grad, _ = ravel_pytree(jax.grad(block.judge)(outputs, target))
    return grad - jnp.matmul(columns, slopes, precision=HIGHEST)


def _along_rest(block: Block, outputs: PyTree, target: PyTree) -> Scalar:
    """The outputs along `_rest`, which is held: made anew where it would be as long as the data."""
    return _along(outputs, _rest(block, jax.lax.stop_gradient(outputs), target))


def _along(outputs: PyTree, direction: Float[Array, " k"]) -> Scalar:
    flat, _ = ravel_pytree(outputs)
    return jnp.vdot(flat, direction, precision=HIGHEST)


def normal(captured: Captured, memory_budget: int) -> Float[Array, "P P"]:
    """J^T J, dense, in the order of `ravel_pytree`, some examples at a time.

    Args:
        captured: from `capture`.
        memory_budget: bytes that the rows written out at once may take.

    Returns:
        The matrix.
    """
    n, r = captured.shape

    def of(part: Captured) -> Array:
        blocks = jax.tree.leaves(jacobian(part))
        columns = [captured.wide(j.reshape(part.shape[0] * r, -1).T) for j in blocks]
        return square(jnp.concatenate(columns))  # on CPU faster than J.T @ J

    size = sum(leaf.size for leaf in jax.tree.leaves(captured.params))
    return blockwise(of, captured, max(1, min(n, int(memory_budget // max(1, 16 * r * size)))))


# --- prices -------------------------------------------------------------------------------------


class _Price(NamedTuple):
    """Flops and bytes of one part of a stack; see `costs_of`."""

    shape: Captured
    capture: float
    multiply: float
    jacobian: float
    bytes: float


def _price(stack: Stack) -> _Price:
    first = jax.tree.map(lambda a: a[0], stack.parts)
    shape, again = stack.captured, 0.0
    if shape is None:  # made again for every operation
        shape, again = jax.eval_shape(stack.capture, first), flops.count(stack.capture, first)
    apply, through, jacobian = _passes(shape)
    kept = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves((shape.operands, shape.deltas)))
    if shape is stack.captured:
        multiply = min(2 * (apply + through), 5 * apply)
    else:
        multiply = flops.count(stack.bent, stack.params, first)
    return _Price(shape, again, multiply, jacobian, kept)


# Flops of a pass through all uses, of one through their deltas, and of the explicit Jacobian.
def _passes(captured: Captured) -> tuple[float, float, float]:
    n, r = captured.shape
    uses = zip(captured.program.uses, captured.deltas, strict=True)
    apply = through = jacobian = 0.0
    for use, delta in uses:
        b, t, i, o = use.form.shape
        linear = 2.0 * n * math.prod(use.lead) * b * t * (1 if use.form.rows else i) * o
        apply += linear
        jacobian += r * linear
        through += 2.0 * delta.size
    return apply, through, jacobian


def costs_of(stacks: Sequence[Stack], size: int, memory_budget: int) -> solvers.Costs:
    """Flops and bytes, counted from the shapes of the captures.

    Args:
        stacks: all rows of a system.
        size: the number of parameters.
        memory_budget: bytes that rows written out at once may take.

    Returns:
        The prices.
    """
    prices = [_price(stack) for stack in stacks]
    word = max(widest(p.shape.outputs.dtype, jnp.float32).itemsize for p in prices)
    rows = sum(stack.rows for stack in stacks)
    kept = sum(price.bytes for price in prices)
    multiply = normal = gram = tile = 0.0
    for i, (stack, price) in enumerate(zip(stacks, prices, strict=True)):
        parts, n, r = stack.shape
        multiply += parts * price.multiply
        normal += parts * (
            price.capture + price.jacobian + 2.0 * square_share(size) * n * r * size**2
        )
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
