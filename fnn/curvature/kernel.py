"""The Gram matrix of a batch: J J^T, from what was captured.

For one leaf, a use with left and right (see `uses`) contributes to the entry of rows (n, r), (m, s)

    sum over b, t, u of <left[n, b, t], left[m, b, u]> <right[n, r, b, t], right[m, s, b, u]>

the *factored* form: for one position, (A A^T) * (Delta Delta^T) element by element. With many
positions it is cheaper to write J out, leaf by leaf: the *explicit* form. Of the two, the one with
fewer flops is taken, from shapes alone.

When one leaf has several uses, those that read the same entries have cross terms of the same form
(with left and right exchanged where W is used beside its transpose), those that read disjoint
entries have none; anything else is explicit.

The matrix is made of tiles, block of examples against block of examples, on and below the diagonal;
a tile takes no more than the memory budget.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree

from fnn.curvature.products import (
    HIGHEST,
    Captured,
    Outer,
    examples,
    leaf_jacobian,
    outer,
    scale,
)
from fnn.curvature.program import Program, Use, settle

_PANEL = 512  # rows: in lower panels, products lose what symmetry saves, and compile longer


class Choice(NamedTuple):
    """How one leaf enters the Gram matrix.

    Attributes:
        groups: the uses whose cross terms count, each with whether left and right are exchanged;
            None for the explicit form.
        why: in words.
        flops: of the full matrix, in this form.
        memory: bytes that it adds to a tile, for every pair of examples and for every example.
    """

    groups: list[list[tuple[int, bool]]] | None
    why: str
    flops: float
    memory: tuple[float, float]


def choices(program: Program, n: int, r: int, itemsize: int = 4) -> list[Choice]:
    """For every leaf, the cheaper exact form of its part of the Gram matrix.

    Args:
        program: the model's.
        n: number of examples.
        r: number of rows of each.
        itemsize: bytes of a number.

    Returns:
        One choice for every leaf of the parameters.
    """
    return [_choice(program, leaf, n, r, itemsize) for leaf in range(len(program.params))]


def _choice(program: Program, leaf: int, n: int, r: int, itemsize: int) -> Choice:
    touching = [i for i, use in enumerate(program.uses) if leaf in use.weight.leaves]
    size = math.prod(program.params[leaf].aval.shape)
    if not program.params[leaf].leaves:
        return Choice([], "a constant: not a real number", 0.0, (0.0, 0.0))
    if not touching:
        return Choice([], "not used", 0.0, (0.0, 0.0))
    used = [program.uses[i] for i in touching]
    entering = sorted({use.name for use in used})
    forming = sum(2.0 * n * r * _positions(u) * math.prod(u.form.shape) for u in used if u.operand)
    explicit = Choice(
        None,
        f"{', '.join(entering)}: ",
        forming + 2.0 * (n * r) ** 2 * size,
        (0, itemsize * r * size),
    )
    unviewed = [use.name for use in used if leaf not in use.weight.views]
    if unviewed:
        return explicit._replace(why=f"{explicit.why}not a view of its entries")
    groups = _groups(program, leaf, touching)
    if groups is None:
        return explicit._replace(why=f"{explicit.why}uses that overlap in part")
    flops = widest = 0.0
    for group in groups:
        for i, _ in group:
            for j, _ in group:
                one, two = program.uses[i], program.uses[j]
                pairs = 1.0 * n * n * _positions(one) * _positions(two)
                b, _, width_in, width_out = one.form.shape
                width_in = 0 if one.operand is None else 1 if one.form.rows else width_in
                both = 1 if not any(swapped for _, swapped in group) else r * r
                flops += 2 * b * pairs * (width_in * both + width_out * r * r)
                widest = max(widest, 3 * itemsize * b * pairs * r * r / n / n)
    if explicit.flops < flops:
        return explicit._replace(why=f"{explicit.why}explicit is cheaper")
    return Choice(groups, ", ".join(entering), flops, (widest, 0.0))


def _positions(use: Use) -> int:
    return use.form.shape[1] * math.prod(use.lead)


def _groups(program: Program, leaf: int, touching: Sequence[int]) -> list | None:
    """Uses of a leaf that read the same entries; None if some overlap in part."""
    if len(touching) == 1:
        return [[(touching[0], False)]]
    size, shape = math.prod(program.params[leaf].aval.shape), program.params[leaf].aval.shape
    indices = np.arange(size).reshape(shape)
    groups: list[tuple[np.ndarray, list[tuple[int, bool]]]] = []
    for i in touching:
        use = program.uses[i]
        entries = use.form.matrix(use.weight.views[leaf](indices))
        for reference, group in groups:
            if np.array_equal(entries, reference):
                group.append((i, False))
                break
            if np.array_equal(entries.swapaxes(1, 2), reference):
                group.append((i, True))
                break
            if np.intersect1d(entries, reference).size:
                return None
        else:
            groups.append((entries, [(i, False)]))
    return [group for _, group in groups]


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
        other: the rows on the right, captured from the same model at the same parameters; by
            default the same. With it, the empirical neural tangent kernel of two sets of inputs.
        scales: a tree like the parameters with one number for every leaf.
        memory_budget: bytes that the making of a tile may take.

    Returns:
        The Gram matrix, symmetric to the last bit without `other`.

    Raises:
        ValueError: the captures are not of one model, or `scales` has not one number a leaf.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn.curvature.products import capture
        >>> captured = capture(lambda w, x: w @ x, jnp.ones(3), jnp.eye(2, 3))
        >>> gram(captured)
        Array([[1., 0.],
               [0., 1.]], ...)
    """
    two = captured if other is None else other
    n, r = captured.shape
    names = [[use.name for use in one.program.uses] for one in (captured, two)]
    if names[0] != names[1]:
        raise ValueError(
            f"gram: expected two captures of one model, got uses {names[0]} and {names[1]}; "
            "try the same model and parameters for both"
        )
    leaves = len(captured.program.params)
    weighting = [1.0] * leaves if scales is None else jax.tree.leaves(scales)
    if len(weighting) != leaves:
        raise ValueError(
            f"gram: expected scales with one number for each of {leaves} leaves, got "
            f"{len(weighting)}; try jax.tree.map over the parameters"
        )
    itemsize = jnp.promote_types(captured.outputs.dtype, jnp.float32).itemsize
    most = max(n, two.shape[0]), max(r, two.shape[1])
    chosen = choices(captured.program, *most, itemsize)
    block = _block(chosen, most[0], memory_budget)
    rectangle = partial(
        _rectangle, block=block, tile=partial(_tile, chosen=chosen, scales=weighting)
    )
    if other is not None:
        return rectangle(captured, two)

    # Panels reach from the left edge to the diagonal: two save 1/4 of the products, four 3/8.
    height = -(-n // min(4, max(1, n * r // _PANEL)))
    ends = [*range(height, n, height), n]
    starts = [0, *ends[:-1]]
    panels = [
        rectangle(examples(captured, start, end - start), examples(captured, 0, end))
        for start, end in zip(starts, ends, strict=True)
    ]
    return _mirrored(panels, [start * r for start in starts])


def _mirrored(panels: Sequence[Array], starts: Sequence[int]) -> Array:
    """The symmetric matrix whose lower triangle the panels are."""
    rows = []
    for i, start in enumerate(starts):
        height = len(panels[i])
        square = panels[i][:, start:]
        above = [panel[:, start : start + height].T for panel in panels[i + 1 :]]
        rows.append(jnp.concatenate([panels[i][:, :start], (square + square.T) / 2, *above], 1))
    return jnp.concatenate(rows)


def _rectangle(one: Captured, two: Captured, *, block: int, tile: Callable) -> Array:
    """The Gram matrix of two captures, by tiles of at most `block` examples a side."""
    (n, r), (m, s) = one.shape, two.shape
    height, width = min(block, n), min(block, m)
    if (height, width) == (n, m):
        return tile(one, two)
    pairs = [(i, j) for i in _starts(n, height) for j in _starts(m, width)]

    def place(matrix, pair):
        i, j = pair
        part = tile(examples(one, i, height), examples(two, j, width))
        return lax.dynamic_update_slice(matrix, part, (i * r, j * s)), None

    dtype = jnp.promote_types(one.outputs.dtype, jnp.float32)
    return lax.scan(place, jnp.zeros((n * r, m * s), dtype), _columns(pairs))[0]


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[Array, Array]:
    one, two = zip(*pairs, strict=True)
    return jnp.array(one), jnp.array(two)


def _block(chosen: Sequence[Choice], n: int, memory_budget: int) -> int:
    """The largest number of examples whose tiles obey the budget."""
    block = n
    while block > 1 and any(
        pair * block**2 + 2 * each * block > memory_budget
        for pair, each in (c.memory for c in chosen)
    ):
        block = -(-block // 2)
    return block


def _starts(n: int, block: int) -> Sequence[int]:
    """Where blocks begin; the last one ends at n and may overlap the one before it."""
    return [*range(0, n - block, block), n - block]


def _tile(
    one: Captured, two: Captured, *, chosen: Sequence[Choice], scales: Sequence[Any]
) -> Array:
    """The Gram matrix of two blocks of examples."""
    program = one.program
    (n, r), (m, s) = one.shape, two.shape
    env = settle(program, jax.tree.leaves(one.params), one.closed_over)
    left = {i: outer(one, i) for i in range(len(program.uses))}
    right = {i: outer(two, i) for i in range(len(program.uses))}
    total = jnp.zeros((n, r, m, s), jnp.promote_types(one.outputs.dtype, jnp.float32))
    for leaf, choice in enumerate(chosen):
        if choice.groups is None:
            a, b = (leaf_jacobian(x, leaf) for x in (one, two))
            part = jnp.matmul(
                a.reshape(n * r, -1), b.reshape(m * s, -1).T, precision=HIGHEST
            ).reshape(n, r, m, s)
            total += scales[leaf] * part
            continue
        for group in choice.groups:
            for i, swap_i in group:
                for j, swap_j in group:
                    number = scale(program.uses[i], leaf, env) * scale(program.uses[j], leaf, env)
                    part = _factored(left[i], right[j], swap_i, swap_j)
                    total += scales[leaf] * number * part
    return total.reshape(n * r, m * s)


def _factored(one: Outer, two: Outer, swap_one: bool, swap_two: bool) -> Array:
    """<left, left> <right, right> summed over b, t, u: (n, r, m, s)."""
    if swap_one == swap_two and one.rows is not None and two.rows is not None:
        rows = one.rows[:, None, :, None, None, None]
        same = (rows == two.rows[:, None, :]) & (rows >= 0)
        lefts = same[None].astype(one.right.dtype)
        rights = _inner(one.right, two.right)
    elif one.left is None and two.left is None:
        lefts, rights = 1.0, _inner(one.right, two.right)
    else:
        a, b = _sides(one, swap_one)
        c, d = _sides(two, swap_two)
        lefts, rights = _inner(a, c), _inner(b, d)
    return jnp.sum(lefts * rights, (0, 3, 6))


def _sides(use: Outer, swap: bool) -> tuple[Array, Array]:
    """Left and right, exchanged where asked for."""
    left = jnp.ones_like(use.right[:, :1, ..., :1]) if use.left is None else use.left
    return (use.right, left) if swap else (left, use.right)


def _inner(x: Float[Array, "n r b t i"], y: Float[Array, "m s b u i"]) -> Array:
    """Inner products of all rows, (b, n, r, t, m, s, u)."""
    (n, r, b, t, i), (m, s, _, u, _) = x.shape, y.shape
    x, y = (z.swapaxes(1, 2).swapaxes(0, 1).reshape(b, -1, i) for z in (x, y))
    multiply = partial(jnp.matmul, precision=HIGHEST)
    inner = multiply(x[0], y[0].T)[None] if b == 1 else multiply(x, y.swapaxes(1, 2))
    return inner.reshape(b, n, r, t, m, s, u)


# --- what follows -------------------------------------------------------------------------------


def norms(captured: Captured, memory_budget: int = 2**30) -> Float[Array, "n r"]:
    """The norm of every row of J: of every example's gradient, for rows that are gradients.

    Each is the square root of a Gram matrix of one row.

    Args:
        captured: from `capture`.
        memory_budget: bytes that the examples treated at once may take.

    Returns:
        One norm for every example and row.
    """
    dtype = jnp.promote_types(captured.outputs.dtype, jnp.float32)
    if not captured.deltas:
        return jnp.zeros(captured.shape, dtype)
    chosen = choices(captured.program, 1, 1, dtype.itemsize)
    ones = [1.0] * len(chosen)

    def square(operands, deltas):
        one = dataclasses.replace(captured, operands=operands, deltas=deltas)
        return _tile(one, one, chosen=chosen, scales=ones)[0, 0]

    def example(arrays):
        operands, deltas = jax.tree.map(lambda x: x[None], arrays)
        rows = [delta[:, :, None] for delta in deltas]
        return jax.vmap(square, (None, 1))(operands, rows)

    each = captured.shape[1] * sum(sum(choice.memory) for choice in chosen)
    size = max(1, min(captured.shape[0], int(memory_budget / max(1.0, each))))
    arrays = (captured.operands, captured.deltas)
    return jnp.sqrt(lax.map(example, arrays, batch_size=size))
