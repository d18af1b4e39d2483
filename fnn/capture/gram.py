"""The Gram matrix of a batch: J J^T, from what was captured.

For one leaf, a use with left and right (see `uses`) contributes to the entry of rows (n, r), (m, s)

    sum over b, t, u of <left[n, b, t], left[m, b, u]> <right[n, r, b, t], right[m, s, b, u]>

the *factored* form: for one position, (A A^T) * (Delta Delta^T) element by element. With many
positions it is cheaper to write J out, leaf by leaf: the *explicit* form. Of the two, the one with
fewer flops is taken, from shapes alone.

When one leaf has several uses, those that read the same entries have cross terms of the same form
(with left and right exchanged where W is used beside its transpose), those that read disjoint
entries have none; anything else is explicit.

A large matrix is made of tiles, block of examples against block of examples, on and below the
diagonal, and mirrored: of a few unrolled ones that run side by side, or, where these would take
more than the memory budget, of many in a loop.

Where examples are split over devices, each device makes the rows of its own examples. For that it
needs the left and right of all others, which travel; Jacobians are made where they are needed.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from fnn import devices
from fnn.capture.captured import (
    Captured,
    Outer,
    examples,
    leaf_jacobian,
    outer,
    scale,
    square,
)
from fnn.capture.program import Program, settle
from fnn.dtypes import widest
from fnn.products import dot

_LARGE, _DEAR, _TILES = 512, 1e9, 4
"""From how many rows and flops on a matrix is cut, and in how many blocks of examples.

A cheaper one saves less than a millisecond and takes a second more to compile. Measured on two CPU
cores that others used too, with four products of 1024 columns: of 1024 rows in float32 4 blocks
take 0.57 to 0.66 of the time of the whole, 2 take 0.65 to 0.70, and 8 as long as 4, but twice as
long to compile."""


class Side(NamedTuple):
    """A use on one side of the Gram matrix, perhaps with its left and right exchanged."""

    use: int
    is_swapped: bool


class Group(NamedTuple):
    """Uses that read the same entries of a leaf: each on the left meets each on the right."""

    left: list[Side]
    right: list[Side]


class Memory(NamedTuple):
    """The bytes that a leaf adds to a tile, for each pair of examples and for each example."""

    of_pair: float
    of_example: float


class Choice(NamedTuple):
    """How one leaf enters the Gram matrix.

    Attributes:
        groups: the uses whose cross terms count; None for the explicit form.
        why: the equations, and what decided the form.
        flops: the price of the leaf's part of the full matrix in this form.
        memory: the bytes that it adds to a tile.
    """

    groups: list[Group] | None
    why: str
    flops: float
    memory: Memory


def choices(
    one: Program, two: Program, rows: tuple[int, int], columns: tuple[int, int], itemsize: int = 4
) -> list[Choice]:
    """For every leaf, the cheaper exact form of its part of the matrix; (N, R) of either side."""
    leaves = range(len(one.params))
    return [_choice(one, two, leaf, rows, columns, itemsize) for leaf in leaves]


def _choice(
    one: Program,
    two: Program,
    leaf: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    itemsize: int,
) -> Choice:
    """The cheaper exact form of one leaf's part of the Gram matrix."""
    (n, r), (m, s) = rows, columns
    sides = [(one, n, r)] if one is two else [(one, n, r), (two, m, s)]
    size = math.prod(one.params[leaf].aval.shape)
    if not one.params[leaf].leaves:
        return Choice([], "a constant: not a real number", 0.0, Memory(0.0, 0.0))
    if not all(program.uses_of(leaf) for program, _, _ in sides):
        return Choice([], "not used", 0.0, Memory(0.0, 0.0))
    uses = [p.uses[i] for p, _, _ in sides for i in p.uses_of(leaf)]
    names = ", ".join(sorted({use.name for use in uses}))
    jacobians = sum(_jacobian_flops(program, leaf, count * each) for program, count, each in sides)
    explicit = Choice(
        None,
        f"{names}: ",
        jacobians + 2.0 * n * r * m * s * size,
        Memory(0.0, itemsize * max(r, s) * size),
    )
    if any(leaf not in use.weight.views for use in uses):
        return explicit._replace(why=f"{explicit.why}not a view of its entries")
    groups = _groups(one, two, leaf)
    if groups is None:
        return explicit._replace(why=f"{explicit.why}uses that overlap in part")
    flops = of_pair = 0.0
    for left, right in groups:
        is_swapping = any(side.is_swapped for side in (*left, *right))
        for i, _ in left:
            for j, _ in right:
                pairs = 1.0 * one.uses[i].form.shape[1] * two.uses[j].form.shape[1]
                b, _, width_in, width_out = one.uses[i].form.shape
                are_look_ups = one.uses[i].form.rows and two.uses[j].form.rows
                are_plain = one.uses[i].operand is None and two.uses[j].operand is None
                width_in = 0 if are_plain else 1 if are_look_ups else width_in
                lefts = r * s if is_swapping else 1
                flops += 2 * b * n * m * pairs * (width_in * lefts + width_out * r * s)
                # Three arrays: inner products of lefts and of rights, and their product.
                apart = 1 if are_plain else b
                of_pair = max(of_pair, 3 * itemsize * apart * pairs * r * s)
    if explicit.flops < flops:
        return explicit._replace(why=f"{explicit.why}explicit is cheaper")
    return Choice(groups, names, flops, Memory(of_pair, 0.0))


def _jacobian_flops(program: Program, leaf: int, rows: int) -> float:
    """The flops of a leaf's explicit Jacobian."""
    uses = [program.uses[i] for i in program.uses_of(leaf)]
    return sum(2.0 * rows * math.prod(u.form.shape) for u in uses if u.operand is not None)


def _groups(one: Program, two: Program, leaf: int) -> list[Group] | None:
    """The uses of a leaf that read the same entries; None if some overlap in part."""
    sides = [one] if one is two else [one, two]
    places = [(side, i) for side, program in enumerate(sides) for i in program.uses_of(leaf)]
    if len(places) == 1:
        ((_, only),) = places
        return [Group([Side(only, False)], [Side(only, False)])]
    shape = one.params[leaf].aval.shape
    indices = np.arange(math.prod(shape)).reshape(shape)
    groups: list[tuple[np.ndarray, Group]] = []
    for side, i in places:
        use = sides[side].uses[i]
        entries = use.form.matrix(use.weight.views[leaf](indices))
        for reference, group in groups:
            if np.array_equal(entries, reference):
                group[side].append(Side(i, False))
                break
            if np.array_equal(entries.swapaxes(1, 2), reference):
                group[side].append(Side(i, True))
                break
            if np.intersect1d(entries, reference).size:
                return None
        else:
            only = [Side(i, False)]
            groups.append((entries, Group([], only) if side else Group(only, [])))
    return [Group(left, left if one is two else right) for _, (left, right) in groups]


# --- tiles --------------------------------------------------------------------------------------


def gram(
    captured: Captured,
    other: Captured | None = None,
    *,
    scales: PyTree | None = None,
    memory_budget: int = 2**30,
) -> Float[Array, "rows columns"]:
    """J diag(scales) J^T, rows ordered by example, then by row of the example.

    Args:
        captured: from `capture`.
        other: the rows on the right, captured at the same parameters; by default those on the left.
            With it, the result is the empirical neural tangent kernel of two sets of inputs, or of
            two models.
        scales: a tree like the parameters with one number for every leaf, or an array of the leaf's
            shape, which takes the leaf's explicit form.
        memory_budget: bytes that a tile may take while it is made.

    Returns:
        The Gram matrix, without `other` symmetric to rounding.

    Raises:
        ValueError: if the captures are of other parameters, or `scales` has not one number a leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.capture.captured import capture
        >>> captured = capture(lambda w, x: w @ x, jnp.ones(3), jnp.eye(2, 3))
        >>> gram(captured)
        Array([[1., 0.],
               [0., 1.]], ...)
    """
    two = captured if other is None else other
    n, r = captured.shape
    trees = [jax.tree.flatten(one.params) for one in (captured, two)]  # nodes have their own "=="
    kinds = [(structure, [*map(jnp.shape, leaves)]) for leaves, structure in trees]
    if kinds[0] != kinds[1]:
        shapes = [jax.tree.map(jnp.shape, one.params) for one in (captured, two)]
        raise ValueError(
            f"gram: expected two captures at the same parameters, got shapes {shapes[0]} and "
            f"{shapes[1]}; try the same params for both"
        )
    leaves = len(captured.program.params)
    numbers = [1.0] * leaves if scales is None else jax.tree.leaves(scales)
    if len(numbers) != leaves:
        raise ValueError(
            f"gram: expected scales with one number for each of {leaves} leaves, got "
            f"{len(numbers)}; try jax.tree.map over the parameters"
        )
    itemsize = widest(captured.outputs.dtype, jnp.float32).itemsize
    forms = choices(captured.program, two.program, captured.shape, two.shape, itemsize)
    for leaf, (choice, number) in enumerate(zip(forms, numbers, strict=True)):
        if jnp.ndim(number) and choice.groups:
            bytes_each = itemsize * max(r, two.shape[1]) * jnp.size(number)
            forms[leaf] = choice._replace(groups=None, memory=Memory(0.0, bytes_each))
    block = _block(forms, max(n, two.shape[0]), memory_budget)
    side, tile = partial(_side, forms=forms, scales=numbers), partial(_tile, forms, numbers)
    m, s = two.shape
    device_count = devices.count(captured.deltas)
    if device_count > 1:
        operands, deltas = devices.everywhere((two.operands, two.deltas))
        two = dataclasses.replace(two, operands=operands, deltas=deltas)
    if block >= max(n, m):
        count = _count(forms, n, r)
        if other is None and device_count == 1 and count > 1:
            edges = [n * i // count for i in range(count + 1)]
            parts = [examples(captured, i, j - i) for i, j in itertools.pairwise(edges)]
            return _mirrored(tile, [side(part) for part in parts])
        one = side(captured)
        return tile(one, one if other is None and two is captured else side(two))
    height, width = min(block, n), min(block, m)
    if device_count > 1:  # A tile has all rows, so that each device makes those it holds.
        height, width = n, max(1, min(m, block**2 * device_count // n))
    is_mirrored = other is None and device_count == 1
    pairs = [
        (i, j) for i in _starts(n, height) for j in _starts(m, width) if not is_mirrored or i >= j
    ]

    def place(matrix, pair):
        i, j = pair
        part = tile(side(examples(captured, i, height)), side(examples(two, j, width)))
        if is_mirrored:
            matrix = lax.dynamic_update_slice(matrix, part.T, (j * s, i * r))
        return lax.dynamic_update_slice(matrix, part, (i * r, j * s)), None

    dtype = widest(captured.outputs.dtype, jnp.float32)
    return lax.scan(place, jnp.zeros((n * r, m * s), dtype), _columns(pairs))[0]


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    """The first numbers of all pairs, and the second ones."""
    one, two = zip(*pairs, strict=True)
    return jnp.array(one), jnp.array(two)


def _block(forms: Sequence[Choice], n: int, memory_budget: int) -> int:
    """The number of examples, halved from n on, whose tiles obey the budget."""
    block = n
    # Factored leaves come one after another; the Jacobians of explicit ones stand side by side.
    of_pair = max((choice.memory.of_pair for choice in forms), default=0.0)
    of_example = sum(choice.memory.of_example for choice in forms)
    while block > 1 and max(of_pair * block**2, 2 * of_example * block) > memory_budget:
        block = -(-block // 2)
    return block


def _starts(n: int, block: int) -> Sequence[int]:
    """Where blocks begin; the last one ends at n and may overlap the one before it."""
    return [*range(0, n - block, block), n - block]


class _Side(NamedTuple):
    """Some examples as the rows or the columns of tiles, made once for all of these.

    Attributes:
        captured: their capture.
        env: its fixed values.
        outers: the outer products of its uses, by their numbers.
        columns: the columns of J of the leaves of explicit form, in the order of `_explicit`.
    """

    captured: Captured
    env: Any
    outers: dict[int, Outer]
    columns: list[Array]


def _side(captured: Captured, *, forms: Sequence[Choice], scales: Sequence[Any]) -> _Side:
    """The side of some examples."""
    program = captured.program
    return _Side(
        captured,
        settle(program, jax.tree.leaves(captured.params), captured.closed_over),
        {i: outer(captured, i) for i in range(len(program.uses))},
        [_columns_of(captured, leaves) for _, leaves in _explicit(forms, scales)],
    )


def _mirrored(tile: Callable[[_Side, _Side], Array], sides: Sequence[_Side]) -> Array:
    """The symmetric matrix of all sides, from the tiles on and below its diagonal."""
    lower = [[tile(one, two) for two in sides[: i + 1]] for i, one in enumerate(sides)]
    count = range(len(sides))
    return jnp.block([[lower[i][j] if j <= i else lower[j][i].T for j in count] for i in count])


def _count(forms: Sequence[Choice], n: int, r: int) -> int:
    """The number of blocks of examples in a matrix of all pairs of so many."""
    is_large = n * r >= _LARGE and sum(choice.flops for choice in forms) >= _DEAR
    return min(n, _TILES) if is_large else 1


def gram_flops(one: Captured, other: Captured | None, itemsize: int = 4) -> float:
    """The flops of the Gram matrix of one capture, or of two, each leaf in its cheaper form."""
    two = one if other is None else other
    forms = choices(one.program, two.program, one.shape, two.shape, itemsize)
    share = 1.0 if other is not None else (1 + 1 / _count(forms, *one.shape)) / 2
    return share * sum(choice.flops for choice in forms)


def _tile(forms: Sequence[Choice], scales: Sequence[Any], left: _Side, right: _Side) -> Array:
    """The Gram matrix of two blocks of examples."""
    one, two = left.captured, right.captured
    (n, r), (m, s) = one.shape, two.shape
    total = jnp.zeros((n, r, m, s), widest(one.outputs.dtype, jnp.float32))
    columns = zip(_explicit(forms, scales), left.columns, right.columns, strict=True)
    for (number, _), a, b in columns:
        if jnp.ndim(number):
            part = dot(a * number.reshape(1, -1), b.T)
        else:
            part = number * (square(a) if a is b else dot(a, b.T))
        total += part.reshape(n, r, m, s)
    for leaf, choice in enumerate(forms):
        for group in choice.groups or []:
            for i, swap_i in group.left:
                for j, swap_j in group.right:
                    first, second = one.program.uses[i], two.program.uses[j]
                    number = scale(first, leaf, left.env) * scale(second, leaf, right.env)
                    part = _factored(left.outers[i], right.outers[j], swap_i, swap_j)
                    total += scales[leaf] * number * part
    return total.reshape(n * r, m * s)


def _explicit(forms: Sequence[Choice], scales: Sequence[Any]) -> list[tuple[Any, list[int]]]:
    """The leaves of explicit form, grouped by the number (as an object) that they share."""
    groups: dict[int, tuple[Any, list[int]]] = {}
    for leaf, choice in enumerate(forms):
        if choice.groups is None:
            number = scales[leaf]
            key = -1 - leaf if jnp.ndim(number) else id(number)
            groups.setdefault(key, (number, []))[1].append(leaf)
    return list(groups.values())


def _columns_of(captured: Captured, leaves: Sequence[int]) -> Array:
    """The columns of J of some leaves, (N * R, entries)."""
    n, r = captured.shape
    rows = [leaf_jacobian(captured, leaf).reshape(n * r, -1) for leaf in leaves]
    blocks = [captured.wide(part) for part in rows]
    return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)


def _factored(one: Outer, two: Outer, swap_one: bool, swap_two: bool) -> Array:
    """<left, left> <right, right> summed over b, t, u: (n, r, m, s)."""
    if swap_one == swap_two and one.rows is not None and two.rows is not None:
        rows = one.rows[:, None, :, None, None, None]
        is_same = (rows == two.rows[:, None, :]) & (rows >= 0)
        lefts = is_same[None].astype(one.right.dtype)
        rights = _inner(one.right, two.right)
    elif one.left is None and two.left is None:
        lefts, rights = 1.0, _inner(_as_one(one.right), _as_one(two.right))
    else:
        a, b = _sides(one, swap_one)
        c, d = _sides(two, swap_two)
        lefts, rights = _inner(a, c), _inner(b, d)
    return jnp.sum(lefts * rights, (0, 3, 6))


def _as_one(right: Float[Array, "n r b t o"]) -> Float[Array, "n r 1 t b*o"]:
    """The rows of several matrices of one row as those of one."""
    n, r, b, t, o = right.shape
    return jnp.moveaxis(right, 2, 3).reshape(n, r, 1, t, b * o)


def _sides(use: Outer, swap: bool) -> tuple[Array, Array]:
    """The left and right of a use, exchanged if `swap`."""
    left = jnp.ones_like(use.right[:, :1, ..., :1]) if use.left is None else use.left
    return (use.right, left) if swap else (left, use.right)


def _inner(x: Float[Array, "n r b t i"], y: Float[Array, "m s b u i"]) -> Array:
    """The inner products of all rows, (b, n, r, t, m, s, u)."""
    (n, r, b, t, i), (m, s, _, u, _) = x.shape, y.shape
    x = jnp.moveaxis(x, 2, 0).reshape(b, n * r * t, i)
    y = jnp.moveaxis(y, 2, 0).reshape(b, m * s * u, i)
    inner = dot(x[0], y[0].T)[None] if b == 1 else dot(x, y.swapaxes(1, 2))
    return inner.reshape(b, n, r, t, m, s, u)


# --- what follows -------------------------------------------------------------------------------


def norms(captured: Captured, memory_budget: int = 2**30) -> Float[Array, "n r"]:
    """The norm of every row of J: of every example's gradient, where rows are gradients.

    Each is the square root of a Gram matrix of one row, so that where the parts of a row cancel, a
    norm keeps half the digits of the parts.

    Args:
        captured: from `capture`.
        memory_budget: bytes that the examples treated at once may take.

    Returns:
        One norm for every example and row.

    Example:
        >>> from fnn.capture.captured import capture
        >>> captured = capture(lambda w, x: x @ w, jnp.ones(2), jnp.array([[3.0, 4.0]]))
        >>> norms(captured).tolist()
        [[5.0]]
    """
    dtype = widest(captured.outputs.dtype, jnp.float32)
    if not captured.deltas:
        return jnp.zeros(captured.shape, dtype)
    forms = choices(captured.program, captured.program, (1, 1), (1, 1), dtype.itemsize)
    ones = [1.0] * len(forms)

    def square_of_row(operands, deltas):
        one = dataclasses.replace(captured, operands=operands, deltas=deltas)
        side = _side(one, forms=forms, scales=ones)
        return _tile(forms, ones, side, side)[0, 0]

    def example(arrays):
        operands, deltas = jax.tree.map(lambda x: x[None], arrays)
        rows = [delta[:, :, None] for delta in deltas]
        return jax.vmap(square_of_row, (None, 1))(operands, rows)

    bytes_each = captured.shape[1] * sum(sum(choice.memory) for choice in forms)
    at_once = max(1, min(captured.shape[0], int(memory_budget / max(1.0, bytes_each))))
    arrays = (captured.operands, captured.deltas)
    squares = lax.map(example, arrays, batch_size=at_once)
    return jnp.sqrt(jnp.maximum(squares, 0))  # Rounding may have made a square negative.
