"""`capture`: what a batch's Jacobian is made of, and the products that follow from it.

The Jacobian J of a batch has one row for every example n and every cotangent r of its outputs
(N * R rows), one column for every parameter. `capture` runs the program of the model (see
`program`) forward and backward once, and keeps for every use the operand a and the deltas. From
them, with no Jacobian and no further pass through the model:

    product(v)             = J v        rows: sum over uses of <delta, apply(a, dW)>
    transpose_product(u)   = J^T u      sum over uses of apply(a, .)^T (sum over r of u * delta)
    diagonal               = diag J^T J
    kronecker              = A^T A and Delta^T Delta of every use
    jacobian               = J itself, for those who can afford it

The Gram matrix J J^T has a module of its own, `gram`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from fnn import devices
from fnn.capture.program import Environment, Program, Use, Value, replay, settle, trace
from fnn.dtypes import wide, widest
from fnn.names import EXAMPLES
from fnn.products import HIGHEST, dot


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Captured:
    """The parts that the Jacobian of a batch is made of.

    Attributes:
        outputs: the model's outputs, examples first.
        slopes: the second result of `factor`, (N, R); None without a factor.
        params: the parameters at which it was captured.
        closed_over: the arrays that the model closes over.
        operands: for every use that has one, its operand (N, ...).
        deltas: for every use, the derivatives of the rows in its result (N, R, ...).
        program: the program of the model.
    """

    outputs: Array
    slopes: Array | None
    params: PyTree
    closed_over: list[Array]
    operands: dict[int, Array]
    deltas: list[Array]
    program: Program = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """The number of examples N and of rows R for each."""
        if self.deltas:
            n, r, *_ = self.deltas[0].shape
            return n, r
        rows = self.outputs if self.slopes is None else self.slopes
        return len(self.outputs), rows[0].size

    def wide(self, x: Array) -> Array:
        """Numbers that come from this capture, in its dtype and at least in single precision."""
        dtype = widest(self.outputs.dtype, jnp.float32)
        return x.astype(widest(x.dtype, dtype))

    def widened(self, dtype: DTypeLike) -> "Captured":
        """The same numbers in a wider dtype, in which their products are then summed."""

        def cast(x: Array) -> Array:
            floating = jnp.issubdtype(x.dtype, jnp.floating)
            return x.astype(widest(x.dtype, dtype)) if floating else x

        # `wide` casts to single precision later, so that nothing has to be copied for it here.
        if widest(dtype, jnp.float32) == jnp.float32:
            return self
        outputs, operands, deltas = jax.tree.map(cast, (self.outputs, self.operands, self.deltas))
        return dataclasses.replace(self, outputs=outputs, operands=operands, deltas=deltas)


def capture(
    model: Callable[..., Array],
    params: PyTree,
    inputs: PyTree,
    factor: Callable[..., tuple[Array, Array]] | None = None,
    targets: PyTree = None,
) -> Captured:
    """The parts of a batch's Jacobian, from one forward and one backward pass.

    Exact for every model that JAX can differentiate in reverse mode: a parameter that enters the
    model in a way not known here costs its own explicit Jacobian (`explain` says which and why).
    Integer leaves of the parameters are constants. May be used under jit, vmap and scan.

    Args:
        model: any function `(params, x) -> outputs` of one example, outputs one real array.
        params: the parameters.
        inputs: a tree of arrays with the examples first.
        factor: `(outputs, target) -> (B, s)` of one example; the rows are those of B^T J, B of
            shape (*outputs.shape, R). Without it, the rows are the outputs themselves.
        targets: a tree of arrays with the examples first, for `factor`.

    Returns:
        The value that the products of this module and `gram` take.

    Raises:
        ValueError: if inputs and targets have no axis of examples in common.

    Example:
        >>> import jax.numpy as jnp
        >>> model = lambda params, x: jnp.tanh(x @ params["w"] + params["b"])
        >>> params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}
        >>> captured = capture(model, params, jnp.ones((5, 3)))
        >>> captured.outputs.shape, captured.shape
        ((5, 2), (5, 2))
    """
    flat = jax.tree.leaves((inputs, targets))
    sizes = {jnp.shape(x)[:1] for x in flat}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            "capture: expected inputs that are arrays with the examples first, as many in each, "
            f"got shapes {[jnp.shape(x) for x in flat]}; try inputs[None] for one example"
        )
    examples = len(flat[0])
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs)
    program, closed_over = trace(model, params, one, examples)
    env = settle(program, jax.tree.leaves(params), closed_over)
    zeros = [jnp.zeros(use.result.shape, use.result.dtype) for use in program.uses]

    def example(x, target):
        x = jax.tree.leaves(x)
        outputs, pull, operands = jax.vjp(
            lambda noise: replay(program, env, x, dict(enumerate(noise))), zeros, has_aux=True
        )
        if factor is None:
            rows, slopes = _identity(outputs), None
        else:
            columns, slopes = factor(outputs, target)
            rows = jnp.moveaxis(columns, -1, 0).astype(outputs.dtype)
        # Without an axis of rows, the pass of a transformer takes a CPU a tenth less time.
        (deltas,) = pull(rows[0]) if len(rows) == 1 else jax.vmap(pull)(rows)
        return outputs, slopes, operands, deltas

    outputs, slopes, operands, deltas = jax.vmap(example, axis_name=EXAMPLES)(inputs, targets)
    # Uses that share one delta go on to do so, see `product`.
    by_row = {
        id(delta): delta if delta.ndim > zero.ndim + 1 else delta[:, None]
        for delta, zero in zip(deltas, zeros, strict=True)
    }
    deltas = [by_row[id(delta)] for delta in deltas]
    return Captured(outputs, slopes, params, closed_over, operands, deltas, program)


def _identity(outputs: Array) -> Array:
    """The cotangents whose rows are the outputs themselves."""
    return jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape)


# --- the parameters' side -----------------------------------------------------------------------


def _weights_of_leaves(
    captured: Captured, weights: Sequence[Value], numbers: Sequence[int]
) -> tuple[Callable[[Sequence[Array]], list[Array]], list[Array]]:
    """The weights as a function of the leaves with these numbers, and those leaves."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(captured.params)]

    def values(arguments):
        arrays = list(leaves)
        for i, leaf in zip(numbers, arguments, strict=True):
            arrays[i] = leaf
        env = settle(captured.program, arrays, captured.closed_over, weights)
        return [env[weight] for weight in weights]

    return values, [leaves[i] for i in numbers]


def _real_leaves(program: Program) -> list[int]:
    """The numbers of the leaves that are not constants."""
    return [i for i, leaf in enumerate(program.params) if leaf.leaves]


def _batched(use: Use, captured: Captured, index: int) -> Callable[[Array], Array]:
    """`W -> z` of a use for all examples, (N, ...)."""
    if use.operand is None:
        examples = captured.shape[0]
        return lambda w: jnp.broadcast_to(w, (examples, *w.shape))
    operands = wide(captured.operands[index])
    return lambda w: jax.vmap(use.form.apply, (0, None))(operands, w)


def _weights(program: Program) -> list[Value]:
    """The weights of all uses, each of them once."""
    return list(dict.fromkeys(use.weight for use in program.uses))


def product(captured: Captured, tangent: PyTree) -> Float[Array, "n r"]:
    """J v, from the capture, with no pass through the model.

    Args:
        captured: from `capture`.
        tangent: v, a tree like the parameters; its integer leaves are ignored.

    Returns:
        One number for every example and row.

    Example:
        >>> captured = capture(lambda w, x: x @ w, jnp.ones(2), jnp.array([[3.0, 4.0]]))
        >>> product(captured, jnp.array([1.0, 1.0])).tolist()
        [[7.0]]
    """
    program, weights = captured.program, _weights(captured.program)
    numbers = _real_leaves(program)
    values, leaves = _weights_of_leaves(captured, weights, numbers)
    tangents = jax.tree.leaves(tangent)
    tangents = [
        jnp.asarray(tangents[i], leaf.dtype) for i, leaf in zip(numbers, leaves, strict=True)
    ]
    # Forward is the transpose of backward, because custom_vjp allows no other.
    arrays, pull = jax.vjp(values, leaves)
    (changes,) = jax.vjp(pull, jax.tree.map(jnp.zeros_like, arrays))[1]((tangents,))
    change = dict(zip(weights, changes, strict=True))
    # Uses whose results are added up, as of a weight and a bias, have the same delta, once.
    results: dict[int, tuple[Array, Any]] = {}
    for index, use in enumerate(program.uses):
        delta = captured.deltas[index]
        result = _batched(use, captured, index)(wide(change[use.weight]))
        _, others = results.get(id(delta), (delta, 0.0))
        results[id(delta)] = delta, others + result
    rows = jnp.zeros(captured.shape, captured.outputs.dtype)
    for delta, result in results.values():
        delta = wide(delta).reshape(*delta.shape[:2], -1)
        result = result.reshape(delta.shape[0], -1)
        rows = rows + jnp.einsum("nz,nrz->nr", result, delta, precision=HIGHEST)
    return rows


def transpose_product(captured: Captured, rows: Float[Array, "n r"]) -> PyTree:
    """J^T u, from the capture, with no second backward pass.

    Args:
        captured: from `capture`.
        rows: u, one number for every example and row, (N, R) or flat.

    Returns:
        A tree like the parameters, in at least single precision; integer leaves and leaves that are
        not used are zero.

    Example:
        >>> captured = capture(lambda w, x: x @ w, jnp.ones(2), jnp.array([[3.0, 4.0]]))
        >>> transpose_product(captured, jnp.array([2.0])).tolist()
        [6.0, 8.0]
    """
    program, weights = captured.program, _weights(captured.program)
    rows = rows.reshape(captured.shape)
    cotangent: dict[Value, Any] = dict.fromkeys(weights, 0.0)
    for index, use in enumerate(program.uses):
        delta = wide(captured.deltas[index])
        delta = jnp.einsum("nr,nr...->n...", rows, delta, precision=HIGHEST)
        if use.operand is None:
            part = delta.sum(0)
        else:
            weight = jax.ShapeDtypeStruct(use.weight.whole.shape, delta.dtype)
            (part,) = jax.linear_transpose(_batched(use, captured, index), weight)(delta)
        cotangent[use.weight] += part
    return _pull_back(captured, [cotangent[w] for w in weights], weights)


def _pull_back(captured: Captured, cotangents: Sequence[Array], weights: Sequence[Value]) -> PyTree:
    """The cotangent of the parameters, in at least single precision, from those of the weights."""
    arrays, structure = jax.tree.flatten(jax.tree.map(jnp.zeros_like, captured.params))
    numbers, params = _real_leaves(captured.program), captured.program.params
    # The weights' own dtype would round these sums, of which a system that is solved with them
    # makes several times as much: 3 % of a first step in bfloat16, where 1 % is left.
    own = {w: c for w, c in zip(weights, cotangents, strict=True) if w in params}
    _, pull = jax.vjp(*_weights_of_leaves(captured, weights, numbers))
    (leaves,) = pull([
        (jnp.zeros_like(c) if w in own else c).astype(w.aval.dtype)
        for c, w in zip(cotangents, weights, strict=True)
    ])
    for i, leaf in zip(numbers, leaves, strict=True):
        leaf = wide(leaf)
        arrays[i] = leaf + own[params[i]].astype(leaf.dtype) if params[i] in own else leaf
    return structure.unflatten(arrays)


# --- outer products -----------------------------------------------------------------------------


class Outer(NamedTuple):
    """A use of a batch as sums of outer products: left (n, 1, b, t, i), right (n, r, b, t, o).

    `left` is None for ones; `rows` (n, t) are the places of the ones of a one-hot left.
    """

    left: Array | None
    right: Array
    rows: Array | None


def outer(captured: Captured, index: int) -> Outer:
    """The outer products of a use."""
    form = captured.program.uses[index].form
    right = jax.vmap(jax.vmap(form.right))(wide(captured.deltas[index]))
    if form.left is None:
        return Outer(None, right, None)
    operand = captured.operands[index]
    rows = None if form.rows is None else jax.vmap(form.rows)(operand)
    return Outer(jax.vmap(form.left)(wide(operand))[:, None], right, rows)


def _weight_jacobian(captured: Captured, index: int) -> Array:
    """The Jacobian of a use in its weight, (N, R, *shape)."""
    use, (left, right, _) = captured.program.uses[index], outer(captured, index)
    if left is None:
        matrix = right
    elif right.shape[3] == 1:
        matrix = left.swapaxes(3, 4) * right
    else:
        matrix = jnp.einsum("nbti,nrbto->nrbio", left[:, 0], right, precision=HIGHEST)
    matrix = matrix.reshape(*right.shape[:2], *use.form.shape[:1], *use.form.shape[2:])
    return jax.vmap(jax.vmap(lambda m: unmatrix(use, m)))(matrix)


def unmatrix(use: Use, matrix: Array) -> Array:
    """A matrix (b, i, o) in the shape of the use's weight."""
    weight = jax.ShapeDtypeStruct(use.weight.whole.shape, matrix.dtype)
    return jax.linear_transpose(use.form.matrix, weight)(matrix)[0]


def leaf_jacobian(captured: Captured, leaf: int) -> Array:
    """The Jacobian in leaf number `leaf`, (N, R, *leaf.shape)."""
    program = captured.program
    indices = program.uses_of(leaf)
    weights = list(dict.fromkeys(program.uses[i].weight for i in indices))
    if not indices:
        array = jax.tree.leaves(captured.params)[leaf]
        return jnp.zeros((*captured.shape, *jnp.shape(array)), jnp.result_type(array))
    blocks: dict[Value, Any] = dict.fromkeys(weights, 0.0)
    for i in indices:
        blocks[program.uses[i].weight] += _weight_jacobian(captured, i)
    _, pull = jax.vjp(*_weights_of_leaves(captured, weights, [leaf]))
    cotangents = [blocks[w].astype(w.aval.dtype) for w in weights]
    return jax.vmap(jax.vmap(lambda c: pull(c)[0][0]))(cotangents)


def jacobian(captured: Captured) -> PyTree:
    """J itself, as a tree like the parameters of arrays (N, R, *leaf.shape).

    Args:
        captured: from `capture`.

    Returns:
        The explicit Jacobian; integer leaves and leaves that are not used are zero.

    Example:
        >>> captured = capture(lambda w, x: x @ w, jnp.ones(2), jnp.array([[3.0, 4.0]]))
        >>> jacobian(captured).tolist()
        [[[3.0, 4.0]]]
    """
    leaves, structure = jax.tree.flatten(captured.params)
    return structure.unflatten(leaf_jacobian(captured, i) for i in range(len(leaves)))


def examples(captured: Captured, start: Any, size: int) -> Captured:
    """The capture of `size` consecutive examples."""
    return _map_examples(captured, lambda x: lax.dynamic_slice_in_dim(x, start, size))


def _map_examples(captured: Captured, fn: Callable[[Array], Array]) -> Captured:
    """The capture with a function applied to every array whose first axis counts the examples."""
    arrays = (captured.outputs, captured.slopes, captured.operands, captured.deltas)
    outputs, slopes, operands, deltas = jax.tree.map(fn, arrays)
    return dataclasses.replace(
        captured, outputs=outputs, slopes=slopes, operands=operands, deltas=deltas
    )


def scale(use: Use, leaf: int, env: Environment) -> Array | float:
    """The number that a leaf's entries are multiplied by to give those of a use's weight."""
    view = use.weight.views[leaf]
    number = -1.0 if view.negative else 1.0
    for value, power in view.scale:
        number = number * env[value] ** power
    return number


def diagonal(captured: Captured, memory_budget: int = 2**30) -> PyTree:
    """The diagonal of J^T J, the Gauss-Newton matrix of the rows.

    A leaf that meets one position per example has (A*A)^T (sum over rows of Delta*Delta); the
    others have the squares of their explicit Jacobian, summed block by block of examples.

    Args:
        captured: from `capture`.
        memory_budget: bytes that a block may take.

    Returns:
        A tree like the parameters.

    Example:
        >>> captured = capture(lambda w, x: x @ w, jnp.ones(2), jnp.array([[3.0, 4.0]]))
        >>> diagonal(captured).tolist()
        [9.0, 16.0]
    """
    leaves, structure = jax.tree.flatten(captured.params)
    squares = diagonal_of(captured, range(len(leaves)), memory_budget)
    return structure.unflatten(squares[leaf] for leaf in range(len(leaves)))


def diagonal_of(captured: Captured, numbers: Sequence[int], memory_budget: int) -> dict[int, Array]:
    """The parts of the diagonal of the leaves with some numbers."""
    program, leaves = captured.program, jax.tree.leaves(captured.params)
    env = settle(program, leaves, captured.closed_over)
    single = {leaf: index for leaf in numbers if (index := _single_use(program, leaf)) is not None}
    indices = sorted(set(single.values()))
    cotangents = [_squares_of_use(captured, index) for index in indices]
    weights = [program.uses[index].weight for index in indices]
    pulled = jax.tree.leaves(_pull_back(captured, cotangents, weights))
    squares = {leaf: pulled[leaf] * scale(program.uses[i], leaf, env) for leaf, i in single.items()}

    def of_jacobians(part: Captured) -> dict[int, Array]:
        return {i: jnp.sum(wide(leaf_jacobian(part, i)) ** 2, (0, 1)) for i in explicit}

    explicit = [leaf for leaf in numbers if leaf not in single]
    if explicit:  # in one loop, which cuts the batch into blocks once
        entries = sum(jnp.size(leaves[leaf]) for leaf in explicit)
        block = examples_at_once(captured, entries, memory_budget)
        squares |= blockwise(of_jacobians, captured, block)
    return {leaf: x.astype(jnp.result_type(leaves[leaf])) for leaf, x in squares.items()}


def _single_use(program: Program, leaf: int) -> int | None:
    """The number of a leaf's only use, if that meets one position per example; else None."""
    indices = program.uses_of(leaf)
    if len(indices) != 1 or leaf not in program.uses[indices[0]].weight.views:
        return None
    return indices[0] if program.uses[indices[0]].form.shape[1] == 1 else None


def _squares_of_use(captured: Captured, index: int) -> Array:
    """The diagonal of the block of a use's weight, where it meets one position per example."""
    left, right, _ = outer(captured, index)
    squares = jnp.sum(right * right, 1)[:, :, 0]
    inputs = jnp.ones_like(squares[..., :1]) if left is None else left[:, 0, :, 0]
    matrix = jnp.einsum("nbi,nbo->bio", inputs * inputs, squares, precision=HIGHEST)
    return unmatrix(captured.program.uses[index], matrix)


# More bands leave out more of the upper half, (1 - 1 / _BANDS) / 2 of all products, but smaller
# products run slower, and mirroring has its price. Measured with 1000 and 4000 columns on two CPU
# cores that others used too: in float64, 8 bands take a third more time than the whole at 512 rows
# and about a tenth less at 1024; in float32 they begin to pay between 2048 and 4096 rows. 4 bands
# do as well as 8.
_LARGE, _BANDS = 1024, 8


def square(matrix: Float[Array, "rows k"]) -> Float[Array, "rows rows"]:
    """A A^T; of a large matrix the lower half is computed, band by band, and mirrored."""
    rows = len(matrix)
    if rows < _LARGE:
        return dot(matrix, matrix.T)
    height = -(-rows // _BANDS)
    bands = []
    for start in range(0, rows, height):
        stop = min(start + height, rows)
        band = dot(matrix[start:stop], matrix[:stop].T)
        bands.append(jnp.pad(band, ((0, 0), (0, rows - stop))))
    lower = jnp.concatenate(bands)
    return jnp.tril(lower) + jnp.tril(lower, -1).T


def square_share(rows: int) -> float:
    """The share of the products of A A^T that `square` computes, between 1/2 and 1."""
    return 1.0 if rows < _LARGE else (1 + 1 / _BANDS) / 2


def examples_at_once(captured: Captured, entries: int, memory_budget: int) -> int:
    """The number of examples whose Jacobians, of so many entries a row, the budget holds."""
    n, r = captured.shape
    entry = 16  # bytes of two float64: one in the Jacobian, one in what is computed from it
    return max(1, min(n, int(memory_budget // max(1, entry * r * entries))))


def blockwise(fn: Callable[[Captured], PyTree], captured: Captured, block: int) -> PyTree:
    """The sum of a function over captures of `block` examples at a time on each device."""
    n = captured.shape[0]
    block = min(n, block * devices.count(captured.deltas))
    count, remainder = divmod(n, block)
    if count == 1 and not remainder:
        return fn(captured)

    def part(i: Any) -> Captured:
        # The examples of a block lie apart, so that each device has its share of every block.
        def of_block(x: Array) -> Array:
            blocks = x[: count * block].reshape(block, count, *x.shape[1:])
            return lax.dynamic_index_in_dim(blocks, i, axis=1, keepdims=False)

        return _map_examples(captured, of_block)

    total = lax.fori_loop(1, count, lambda i, sum_: optax.tree.add(sum_, fn(part(i))), fn(part(0)))
    if not remainder:
        return total
    return optax.tree.add(total, fn(examples(captured, n - remainder, remainder)))


class Kronecker(NamedTuple):
    """The two factors of a use, sums over examples and positions (expand form).

    Attributes:
        leaves: the parameters (as key paths) that its weight depends on.
        inputs: A^T A, (b, i, i).
        outputs: Delta^T Delta, summed over rows too, (b, o, o).
    """

    leaves: tuple[str, ...]
    inputs: Float[Array, "b i i"]
    outputs: Float[Array, "b o o"]


def kronecker(captured: Captured) -> list[Kronecker]:
    """The Kronecker factors of every use, in the order of the model.

    A plain use (a bias) has the operand 1 in every example.

    Args:
        captured: from `capture`.

    Returns:
        One pair of factors for every use.

    Source:
        Martens and Grosse (2015), arXiv:1503.05671; Grosse and Martens (2016), arXiv:1602.01407;
        the expand form: Eschenhagen et al. (2023), arXiv:2311.00636.

    Example:
        >>> captured = capture(lambda w, x: x @ w, jnp.ones(2), jnp.array([[3.0, 4.0]]))
        >>> [(leaves, inputs, outputs)] = kronecker(captured)
        >>> inputs.tolist(), outputs.tolist()
        ([[[9.0, 12.0], [12.0, 16.0]]], [[[1.0]]])
    """
    paths = [
        jax.tree_util.keystr(path)
        for path, _ in jax.tree_util.tree_leaves_with_path(captured.params)
    ]
    factors = []
    for index, use in enumerate(captured.program.uses):
        left, right, _ = outer(captured, index)
        n, _, b, t, _ = right.shape
        left = jnp.ones((n, 1, b, t, 1), right.dtype) if left is None else left
        factors.append(
            Kronecker(
                tuple(paths[i] for i in sorted(use.weight.leaves)),
                outer_sums(left, left),
                outer_sums(right, right),
            )
        )
    return factors


def outer_sums(
    one: Float[Array, "n r b t i"], other: Float[Array, "n r b t j"]
) -> Float[Array, "b i j"]:
    """The sums of the outer products of two sides over examples, rows and positions."""
    n, r, b, t, _ = one.shape
    one, other = (jnp.moveaxis(x, 2, 0).reshape(b, n * r * t, x.shape[4]) for x in (one, other))
    if b == 1:  # On a CPU a product of stacks of one takes up to twice as long.
        return dot(one[0].T, other[0])[None]
    return dot(one.mT, other)
