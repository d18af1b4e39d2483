"""The rows of A that one block of a value function gives, sqrt(share_n) B_n^T J_n of its examples.

A `Source` knows how the rows of some of the block's examples are made, and what the model and the
loss say of them without a capture. A *stack* is all rows of a source, with one interface:

- a `CapturedStack` holds the capture of the whole block;
- a `ChunkedStack` holds no capture. Each operation captures the chunks again, one after another,
  and so runs in the memory of one chunk; the Gram matrix in that of two, in a pass for each chunk.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import flops, losses
from fnn.batches import share
from fnn.capture import (
    Captured,
    blockwise,
    capture,
    examples_at_once,
    jacobian,
    product,
    square,
    transpose_product,
)
from fnn.dtypes import widest
from fnn.objective import EXAMPLES, Block, Term, accumulate, wide
from fnn.products import HIGHEST, dot

# --- how rows are made --------------------------------------------------------------------------


class Linear(NamedTuple):
    """The rows of a part as linear maps, by passes through the model."""

    forward: Callable[[PyTree], Array]
    back: Callable[[Array], PyTree]


class Source(NamedTuple):
    """How the rows of some of a block's examples are made.

    Attributes:
        term: the block's term in the value function.
        params: where the value function is differentiated.
        parts: the block cut into its chunks, or into one part that is all of it.
        unravel: a vector of one example's outputs to the model's tree.
        total_weight: the sum of the weights.
        shape: the numbers of parts, of examples in a part and of rows of an example.
    """

    term: Term
    params: PyTree
    parts: Block
    unravel: Callable[[Array], PyTree]
    total_weight: Scalar | int
    shape: tuple[int, int, int]

    @property
    def block(self) -> Block:
        """The block whose rows these are."""
        return cast("Block", self.term.block)

    @property
    def rows(self) -> int:
        """The number of rows of all parts."""
        return math.prod(self.shape)

    @property
    def first_part(self) -> Block:
        """The first part, which is the whole block where there is only one."""
        return jax.tree.map(lambda a: a[0], self.parts)

    def stack(self) -> "Stack":
        """All rows: captured at once where there is one part, else chunk by chunk."""
        if self.shape[0] > 1:
            return ChunkedStack(self)
        return CapturedStack(self, self.capture(self.first_part))

    def map_parts(self, fn: Callable[[Block], Array]) -> Array:
        """The results of a function of each part, stacked."""
        return jax.lax.map(fn, self.parts) if self.shape[0] > 1 else fn(self.first_part)[None]

    def sum_parts(self, fn: Callable[[Block], PyTree]) -> PyTree:
        """The sum of the results of a function of each part."""
        return accumulate(fn, self.parts) if self.shape[0] > 1 else fn(self.first_part)

    def share_or_shares(self, part: Block) -> Float[Array, " n"] | Float[Array, ""]:
        """The shares scale * w / sum(w) of a part's examples; without weights one number."""
        weights = 1.0 if part.weights is None else part.weights
        return jnp.asarray(share(self.term.scale * weights, self.total_weight))

    def shares(self, part: Block) -> Float[Array, " n"]:
        """The share of each example of a part in the value function."""
        return jnp.broadcast_to(self.share_or_shares(part), (part.count,))

    def outputs(self, part: Block, params: PyTree) -> PyTree:
        """The model's outputs for each example of a part."""
        return jax.vmap(
            lambda x, key: part.answer(self.term.whole(params), x, key),
            axis_size=part.count,
            axis_name=EXAMPLES,
        )(part.inputs, part.keys)

    def capture(self, part: Block) -> Captured:
        """The captured rows of a part."""

        def model(params: PyTree, x: tuple[PyTree, Array | None]) -> Array:
            return ravel_pytree(part.answer(self.term.whole(params), *x))[0]

        def factor(outputs: Array, target: tuple[PyTree, Array]) -> tuple[Array, Array]:
            target, root = target
            columns, slopes = blocks_of(self.block)(self.unravel(outputs), target)
            root = root.astype(widest(slopes.dtype, jnp.float32))
            return root * losses.block_diagonal(columns), root * slopes.ravel()

        targets = (part.targets, jnp.sqrt(self.shares(part)))
        return capture(model, self.params, (part.inputs, part.keys), factor, targets)

    def row_outputs(self, part: Block) -> Callable[[PyTree], Float[Array, "n r"]]:
        """`params -> sqrt(share) B^T outputs` with B constant: its derivative is the rows."""

        def flat_outputs(params: PyTree) -> Array:
            return jax.vmap(lambda tree: ravel_pytree(tree)[0])(self.outputs(part, params))

        center, roots = flat_outputs(self.params), jnp.sqrt(self.shares(part))

        # B is computed inside of the vmap, so that one that depends on no example is made once.
        def project(center: Array, target: PyTree, weight: Array, outputs: Array) -> Array:
            times, slopes = root_of(self.block)(self.unravel(center), target)
            groups = wide(outputs).reshape(len(slopes), -1)
            across = jax.linear_transpose(times, slopes.astype(groups.dtype))
            projected = across(groups)[0].ravel()
            return weight.astype(projected.dtype) * projected

        return lambda params: jax.vmap(project)(center, part.targets, roots, flat_outputs(params))

    def linearize(self, part: Block) -> Linear:
        """`v -> A v` and `u -> A^T u` of a part, by passes through the model."""
        primal, pull = jax.vjp(self.row_outputs(part), self.params)
        # Forward is the transpose of backward, because custom_vjp allows no other.
        _, push = jax.vjp(pull, jnp.zeros_like(primal))

        # Velocities may be wider than the parameters that they move.
        def forward(v: PyTree) -> Array:
            return push((jax.tree.map(lambda a, p: a.astype(p.dtype), v, self.params),))[0]

        return Linear(forward, lambda u: pull(u)[0])

    def multiply(self, v: PyTree, part: Block) -> PyTree:
        """A^T A v of a part, by passes through the model."""
        forward, back = self.linearize(part)
        return back(forward(v))

    def inner_products(self, vectors: Sequence[PyTree], part: Block) -> Float[Array, "k k"]:
        """v^T A^T A w of all pairs of vectors, of a part, by passes through the model."""
        forward, _ = self.linearize(part)
        images = jnp.stack([forward(v).ravel() for v in vectors])
        return dot(images, images.T)

    def second_derivatives(self, v: PyTree) -> Float[Array, " rows"]:
        """The second derivatives along v of `row_outputs`, of all parts; not through custom_vjp."""

        def of_part(part: Block) -> Array:
            rows = self.row_outputs(part)

            def first_derivative(params: PyTree) -> Array:
                return jax.jvp(rows, (params,), (v,))[1]

            return jax.jvp(first_derivative, (self.params,), (v,))[1]

        return self.map_parts(of_part).ravel()


def source_of(term: Term, params: PyTree) -> Source | None:
    """The source of the rows of a term with a block; None where its loss has no curvature."""
    block = cast("Block", term.block)
    source = Source(term, params, block.chunks(), lambda x: x, block.count, (0, 0, 0))
    outputs = jax.eval_shape(source.outputs, source.first_part, params)
    for path, leaf in jax.tree.leaves_with_path(outputs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"gauss_newton_system: expected a model whose outputs are real arrays, got "
                f"{leaf.dtype} at outputs{jax.tree_util.keystr(path)}; try to leave it out of the "
                "outputs"
            )
    _, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape[1:], a.dtype), outputs))
    targets = source.first_part.targets
    try:
        _, slopes = jax.eval_shape(jax.vmap(blocks_of(block)), outputs, targets)
    except Exception:
        jax.eval_shape(jax.vmap(block.judge), outputs, targets)  # says better what is wrong
        raise
    if 0 in slopes.shape:
        return None
    if block.weights is not None:
        dtype = widest(slopes.dtype, jnp.float32)
        source = source._replace(total_weight=jnp.sum(block.weights, dtype=dtype))
    count = len(jax.tree.leaves(source.parts)[0])
    n, groups, r = slopes.shape
    return source._replace(unravel=unravel, shape=(count, n, groups * r))


def blocks_of(block: Block) -> losses.Factor:
    """`(outputs, target) -> (B, s)` as `losses.blocks` has them, of a loss or of residuals."""
    return _residuals if block.loss is None else losses.blocks(block.loss)


def sum_trees(trees: Sequence[PyTree]) -> PyTree:
    """The sum of at least one tree."""
    return reduce(partial(jax.tree.map, jnp.add), trees)


def root_of(block: Block) -> Callable[..., tuple[Callable[[Array], Array], Array]]:
    """`(outputs, target) -> (v -> B v, s)` as `losses.root` has them, of a loss or of residuals."""
    if block.loss is not None:
        return losses.root(block.loss)
    return lambda outputs, target: (lambda v: v, _residuals(outputs, target)[1])


def _residuals(outputs: PyTree, target: None) -> tuple[Array, Array]:
    """Ones on the diagonal, and the residuals themselves."""
    del target
    flat, _ = ravel_pytree(outputs)
    return jnp.ones((flat.size, 1, 1), flat.dtype), flat[:, None]


Tile = Callable[[Captured, Captured | None], Array]
"""The Gram matrix of one capture with another; None stands for the first one itself."""


# --- stacks -------------------------------------------------------------------------------------


class ValueAndGradient(NamedTuple):
    """The value of a term, and its gradient A^T s + the gradient of `remainder`.

    Attributes:
        value: the term's value.
        s: the numbers that A^T turns into a gradient, one for each row.
        gradient: A^T s where it was summed chunk by chunk; None where it is left to the solver.
        remainder: a term that is linear in the outputs, whose gradient is the part that A^T s
            misses; None if it misses nothing.
    """

    value: Scalar
    s: Float[Array, " rows"]
    gradient: PyTree
    remainder: Term | None


class CapturedStack(NamedTuple):
    """The rows of a block whose capture is in memory."""

    source: Source
    captured: Captured

    def map(self, fn: Callable[..., Any], *xs: PyTree) -> Any:
        """The results of `fn(captured, *x)` for each part, stacked."""
        first = jax.tree.map(lambda x: x[0], xs)
        return jax.tree.map(lambda y: y[None], fn(self.captured, *first))

    def sum(self, fn: Callable[..., Any], *xs: PyTree) -> Any:
        """The sum of `fn(captured, *x)` over the parts."""
        return fn(self.captured, *jax.tree.map(lambda x: x[0], xs))

    def multiply(self, v: PyTree) -> PyTree:
        """A^T A v, from the capture or by the model, whichever has fewer flops."""
        # With many rows for an example, a pass through the model is cheaper than one through its
        # deltas.
        passes = count_passes(self.captured)
        if 2 * (passes.apply + passes.deltas) <= _BY_THE_MODEL * passes.apply:
            return transpose_product(self.captured, product(self.captured, v))
        return self.source.multiply(v, self.source.first_part)

    def own_gram(self, tile: Tile) -> Float[Array, "rows rows"]:
        """The Gram matrix of all rows: one tile, of the capture with itself (None)."""
        return tile(self.captured, None)

    def value_and_gradient(self) -> ValueAndGradient:
        """The value and the gradient of the block, from the captured outputs and slopes."""
        term, block, part = self.source.term, self.source.block, self.source.first_part
        outputs = jax.vmap(self.source.unravel)(self.captured.outputs)
        values = jax.vmap(block.judge)(outputs, part.targets)
        value = term.scale * part.mean(values)
        s = cast("Array", self.captured.slopes).ravel()
        if _is_complete(block):
            return ValueAndGradient(value, s, None, None)
        direction = jax.vmap(partial(_unreached, block))(outputs, part.targets)
        targets = block.joined(direction[None])
        linear = replace(block, targets=targets, loss=_inner_product)
        return ValueAndGradient(value, s, None, term._replace(block=linear))

    def shapes(self) -> Captured:
        """A capture of one part, for its shapes and its program."""
        return self.captured

    def capture_flops(self) -> float:
        """The flops that an operation spends on capturing one part, which are none."""
        return 0.0

    def multiply_flops(self) -> float:
        """The flops of `multiply` on one part."""
        passes = count_passes(self.captured)
        return min(2 * (passes.apply + passes.deltas), _BY_THE_MODEL * passes.apply)


class ChunkedStack(NamedTuple):
    """The rows of a block whose chunks are captured one after another, by every operation."""

    source: Source

    def map(self, fn: Callable[..., Any], *xs: PyTree) -> Any:
        """The results of `fn(captured, *x)` for each part, stacked."""
        parts = (self.source.parts, *xs)
        return jax.lax.map(lambda args: fn(self.source.capture(args[0]), *args[1:]), parts)

    def sum(self, fn: Callable[..., Any], *xs: PyTree) -> Any:
        """The sum of `fn(captured, *x)` over the parts."""
        parts = (self.source.parts, *xs)
        return accumulate(lambda args: fn(self.source.capture(args[0]), *args[1:]), parts)

    def multiply(self, v: PyTree) -> PyTree:
        """A^T A v, by the model, which costs less than to capture it again."""
        return accumulate(partial(self.source.multiply, v), self.source.parts)

    def own_gram(self, tile: Tile) -> Float[Array, "rows rows"]:
        """The Gram matrix of all rows, from a tile for each pair of chunks."""
        matrix = cross_gram(self, self, tile)  # Its tiles (a, b) and (b, a) differ by rounding.
        return (matrix + matrix.T) / 2

    def value_and_gradient(self) -> ValueAndGradient:
        """The value and the gradient of the block, of which only s is as long as the data."""
        term, block = self.source.term, self.source.block
        s = self.map(lambda captured: captured.slopes).ravel()
        # A solver that never reads s leaves it to the compiler to delete.
        gradient = self.sum(lambda captured: transpose_product(captured, captured.slopes))
        linear = replace(block, loss=partial(_along_unreached, block))
        remainder = None if _is_complete(block) else term._replace(block=linear)
        return ValueAndGradient(term(self.source.params), s, gradient, remainder)

    def shapes(self) -> Captured:
        """The shapes and the program of a part's capture."""
        return jax.eval_shape(self.source.capture, self.source.first_part)

    def capture_flops(self) -> float:
        """The flops that an operation spends on capturing one part."""
        return flops.count(self.source.capture, self.source.first_part)

    def multiply_flops(self) -> float:
        """The flops of `multiply` on one part."""
        return flops.count(self.source.multiply, self.source.params, self.source.first_part)


Stack = CapturedStack | ChunkedStack

# A^T A v by the model costs as much as so many passes of `apply`: one forward to linearize it, and
# for each of A v and A^T u one through the activations and one through the weights.
_BY_THE_MODEL = 5


def cross_gram(one: Stack, two: Stack, tile: Tile) -> Float[Array, "rows columns"]:
    """The Gram matrix between the rows of two stacks, from a tile for each pair of their parts."""
    tiles = one.map(lambda a: two.map(lambda b: tile(a, b)))
    return tiles.swapaxes(1, 2).reshape(one.source.rows, two.source.rows)


def _is_complete(block: Block) -> bool:
    """Whether the gradient in the outputs is in the range of B for all outputs and targets."""
    return block.loss is None or losses.is_complete(block.loss)


def _unreached(block: Block, outputs: PyTree, target: PyTree) -> Float[Array, " k"]:
    """The part of a loss gradient outside the range of B, g - B s, of one example."""
    times, slopes = root_of(block)(outputs, target)
    grad, _ = ravel_pytree(jax.grad(block.judge)(outputs, target))
    return grad - times(slopes).ravel()


def _along_unreached(block: Block, outputs: PyTree, target: PyTree) -> Scalar:
    """The outputs along `_unreached`, which is computed here and not differentiated."""
    return _inner_product(outputs, _unreached(block, jax.lax.stop_gradient(outputs), target))


def _inner_product(outputs: PyTree, direction: Float[Array, " k"]) -> Scalar:
    """The outputs along a direction, as a loss whose target is the direction."""
    flat, _ = ravel_pytree(outputs)
    return jnp.vdot(flat, direction, precision=HIGHEST)


# --- what a capture costs and gives -------------------------------------------------------------


class Passes(NamedTuple):
    """The flops of passes over a capture.

    Attributes:
        apply: the flops of applying every use to its operand.
        deltas: the flops of multiplying every delta by the result of its use.
        jacobian: the flops of the explicit Jacobian of every use.
    """

    apply: float
    deltas: float
    jacobian: float


def count_passes(captured: Captured) -> Passes:
    """The flops of passes over a capture, from its shapes."""
    n, r = captured.shape
    apply = deltas = 0.0
    # W is (b, i, o) and is applied at t places; a look-up reads a row, and multiplies nothing by i.
    for use, delta in zip(captured.program.uses, captured.deltas, strict=True):
        b, t, i, o = use.form.shape
        apply += 2.0 * n * b * t * (1 if use.form.rows else i) * o
        deltas += 2.0 * delta.size
    return Passes(apply, deltas, jacobian=r * apply)


def normal_matrix(captured: Captured, memory_budget: int) -> Float[Array, "P P"]:
    """A^T A, dense, in the order of `ravel_pytree`, from the rows of some examples at a time."""
    r = captured.shape[1]

    def of_examples(some: Captured) -> Array:
        blocks = jax.tree.leaves(jacobian(some))
        columns = [captured.wide(j.reshape(some.shape[0] * r, -1).T) for j in blocks]
        return square(jnp.concatenate(columns))  # On CPU this is faster than J.T @ J.

    size = sum(leaf.size for leaf in jax.tree.leaves(captured.params))
    return blockwise(of_examples, captured, examples_at_once(captured, size, memory_budget))
