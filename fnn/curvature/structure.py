"""Kronecker factors of a value function: small parts of its Gauss-Newton matrix, leaf by leaf.

A leaf W that meets data in a linear way has, for example n and row r, the Jacobian

    G_nr = sum over positions t of a_nt delta_nrt^T

(see `uses`), and its block of the Gauss-Newton matrix is the sum of `vec(G_nr) vec(G_nr)^T`. Its
Kronecker approximation `A (x) D`, in the expand form that takes every position for an example,

    A = mean over n, t of a_nt a_nt^T            D = sum over n, r, t of delta_nrt delta_nrt^T

needs i^2 + o^2 numbers in place of (i o)^2. It is exact where there is one position and a is
independent of delta: in linear networks, and for biases, whose a is 1. Examples have the weights of
the value function. `structure` reads from shapes which leaves have such factors; a leaf without
factors has its diagonal.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from fnn.capture import (
    Captured,
    Program,
    blockwise,
    diagonal_of,
    examples_at_once,
    outer,
    outer_sums,
    scale,
    settle,
    trace,
)
from fnn.curvature.rows import Source, Stack, sum_trees
from fnn.curvature.sketch import sketch
from fnn.curvature.terms import terms_of
from fnn.dtypes import widest
from fnn.objective import ValueFunction, wide
from fnn.products import HIGHEST, dot

LARGEST = 4096
"""The most rows of a factor unless told: inverting one of so many takes seconds."""


MANY = 512
"""As many rows are enough for a factor that is only to be near: a fifth of those of digits."""


class Axes(NamedTuple):
    """A leaf as the Kronecker factors see it.

    Attributes:
        path: its place in the parameters.
        shape: its shape.
        matrix: the numbers (b, i, o) of the batch of matrices that it is; None for a leaf without
            Kronecker factors, which has its diagonal.
    """

    path: str
    shape: tuple[int, ...]
    matrix: tuple[int, int, int] | None


class Structure(NamedTuple):
    """What `kfac` has to know of a model before it sees one, as a hashable value.

    Attributes:
        leaves: the `Axes` of every leaf, in the order of the parameters.
    """

    leaves: tuple[Axes, ...]

    def __str__(self) -> str:
        """A table with a line for every leaf."""
        width = max((len(leaf.path) for leaf in self.leaves), default=0)
        return "\n".join(
            f"{leaf.path.ljust(width)}  {leaf.shape}: "
            + ("diagonal" if leaf.matrix is None else "{} x {}^2 (x) {}^2".format(*leaf.matrix))
            for leaf in self.leaves
        )


class Factors(NamedTuple):
    """The Kronecker factors of a leaf, `A (x) D`, or its eigenvectors laid out alike."""

    inputs: Float[Array, "b i i"]
    outputs: Float[Array, "b o o"]


class Blocks(NamedTuple):
    """The Gauss-Newton matrix of a value function, leaf by leaf; dictionaries are by leaves' paths.

    Attributes:
        factors: the Kronecker factors of the leaves that have them.
        diagonals: the diagonals of the others.
        moments: `bases -> moments`, the exact diagonal of each block in an orthogonal basis that is
            given by factors, (b, i, o); a leaf that `bases` leaves out costs nothing.
        bends: `v^T C w` for all pairs of some trees like the parameters, (k, k); C is the whole
            matrix, not its blocks, with the penalties' part.
        penalty: the diagonal curvature of penalties, a number for each leaf.
        matrices: turns a tree like the parameters into its leaves by their paths, those with
            factors as matrices (b, i, o), all of them wide.
        tree: turns such a dictionary back into a tree.
    """

    factors: dict[str, Factors]
    diagonals: dict[str, Array]
    moments: Callable[[dict[str, Factors]], dict[str, Float[Array, "b i o"]]]
    bends: Callable[..., Float[Array, "k k"]]
    penalty: dict[str, Any]
    matrices: Callable[[PyTree], dict[str, Array]]
    tree: Callable[[dict[str, Array]], PyTree]


def structure(
    model: Callable[..., Any], params: PyTree, x: PyTree, *, largest: int = LARGEST
) -> Structure:
    """Which leaves of a model have Kronecker factors, and of which sizes, from shapes alone.

    A leaf has them if it is a matrix (or several, or a kernel, a table, a bias) in every equation
    through which it meets data, and the same one in all of them; it may be reshaped, transposed or
    scaled by a number on its way. Weights that are shared among positions, patches, time steps or
    calls have them. A leaf that is used in parts of one shape, all of them, has a pair for each
    part: layers that are stacked and scanned over, or read as `ws[0]`, `ws[1]`, are several
    matrices. A leaf that is used in other parts, or beside its own transpose, has none.

    Args:
        model: any function `(params, x) -> outputs` of one example; the residual of an objective
            without a loss.
        params: arrays, or their shapes and dtypes.
        x: one example, arrays or their shapes and dtypes.
        largest: the most rows of a factor, at least 1; a leaf with a larger factor has its
            diagonal.

    Returns:
        A hashable value, to be given to `rules.kfac` and `rules.ekfac`.

    Raises:
        ValueError: if `largest` is not positive.

    Example:
        >>> params = {"b": jnp.zeros(9), "table": jnp.zeros((50, 3)), "w": jnp.zeros((3, 9))}
        >>> model = lambda p, x: p["table"][x] @ p["w"] + p["b"]
        >>> print(structure(model, params, jnp.array(0), largest=40))
        ['b']      (9,): 1 x 1^2 (x) 9^2
        ['table']  (50, 3): diagonal
        ['w']      (3, 9): 1 x 3^2 (x) 9^2
    """
    if largest < 1:
        raise ValueError(f"structure: expected largest >= 1, got {largest}; try 4096")

    def flat(params: PyTree, x: PyTree) -> Array:
        return ravel_pytree(model(params, x))[0]

    params, x = jax.eval_shape(lambda *trees: trees, params, x)
    program, _ = trace(flat, params, x, 1)
    return Structure(
        tuple(
            Axes(jax.tree_util.keystr(path), leaf.shape, _matrix(program, i, largest))
            for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(params))
        )
    )


def common_structure(params: PyTree, stacks: Sequence[Stack]) -> Structure:
    """The structure of the models of all stacks; a leaf that is not alike in them has none."""
    programs = [stack.shapes().program for stack in stacks]

    def matrix(leaf: int) -> tuple[int, int, int] | None:
        parts = [_parts(program, leaf) for program in programs if program.uses_of(leaf)]
        entries = [each.entries for each in parts if each is not None]
        if not entries or len(entries) < len(parts):
            return None
        first, *others = entries
        if not all(np.array_equal(first, other) for other in others):
            return None
        b, i, o = first.shape
        return (b, i, o) if max(i, o) <= LARGEST else None

    return Structure(
        tuple(
            Axes(jax.tree_util.keystr(path), leaf.shape, matrix(i))
            for i, (path, leaf) in enumerate(jax.tree.leaves_with_path(params))
        )
    )


class _Parts(NamedTuple):
    """A leaf as a batch of matrices, of which a use may read some.

    Attributes:
        entries: the numbers of the leaf's entries, laid out as these matrices (b, i, o).
        places: for each use of the leaf, the numbers in the batch of the matrices that it reads.
    """

    entries: np.ndarray
    places: list[np.ndarray]


def _parts(program: Program, leaf: int) -> _Parts | None:
    """The matrices of one shape that a leaf is in all of its uses; None if it is not."""
    shape = program.params[leaf].aval.shape
    indices = np.arange(math.prod(shape)).reshape(shape)
    uses = [program.uses[i] for i in program.uses_of(leaf)]
    if any(use.weight.leaves != {leaf} or leaf not in use.weight.views for use in uses):
        return None
    entries = [use.form.matrix(use.weight.views[leaf](indices)) for use in uses]
    if len({each.shape[1:] for each in entries}) != 1:
        return None
    if len(uses) == 1:
        (matrices,) = entries
        order = np.argsort(matrices.min((1, 2), initial=indices.size))  # as below
        if matrices.size != indices.size:
            return None
        in_order = np.array_equal(order, np.arange(len(order)))
        return _Parts(matrices if in_order else matrices[order], [np.argsort(order)])
    known = {matrix.tobytes(): matrix for each in entries for matrix in each}
    order = sorted(known, key=lambda key: known[key].min())  # in every program the same one
    matrices = np.stack([known[key] for key in order])
    is_read = np.zeros(indices.size, bool)
    is_read[matrices] = True
    if matrices.size != indices.size or not is_read.all():
        return None
    number = {key: i for i, key in enumerate(order)}
    return _Parts(
        matrices, [np.array([number[matrix.tobytes()] for matrix in each]) for each in entries]
    )


def _matrix(program: Program, leaf: int, largest: float = math.inf) -> tuple[int, int, int] | None:
    """The numbers (b, i, o) of the matrices that a leaf is in all of its uses."""
    parts = _parts(program, leaf)
    if parts is None or max(parts.entries.shape[1:]) > largest:
        return None
    b, i, o = parts.entries.shape
    return b, i, o


def _laid_out(program: Program, leaf: int, parts: _Parts) -> Callable[[Array], Array]:
    """The function that lays a leaf out as its matrices."""
    firsts: list[tuple[Any, np.ndarray]] = []
    order: list[int] = []
    for index, places in zip(program.uses_of(leaf), parts.places, strict=True):
        rows = np.flatnonzero(~np.isin(places, order))
        if rows.size:
            firsts.append((program.uses[index], rows))
            order.extend(places[rows])

    def matrices(w: Array) -> Array:
        laid = [use.form.matrix(use.weight.views[leaf](w))[rows] for use, rows in firsts]
        return jnp.concatenate(laid)[np.argsort(order)]

    def whole(w: Array) -> Array:
        use = firsts[0][0]
        return use.form.matrix(use.weight.views[leaf](w))

    return whole if len(firsts) == 1 and order == sorted(order) else matrices


# --- of a value function ------------------------------------------------------------------------


def kronecker_blocks(
    value_fn: ValueFunction,
    params: PyTree,
    structure: Structure,
    *,
    key: Key[Array, ""] | None = None,
    samples: int = 1,
    memory_budget: int = 2**30,
) -> Blocks:
    """The Gauss-Newton matrix of a value function, leaf by leaf, from one capture.

    Args:
        value_fn: made by `Objective.on`, penalties and sums of them.
        params: the point; the parameters of the structure, perhaps without some leaves.
        structure: the structure of the model in `value_fn`.
        key: without one, sums over an example's rows are exact; with one, factors, diagonals and
            moments are unbiased estimates from `samples` random combinations of the rows (or from
            all rows where there are no more), each for the price of a backward pass. `bends` are
            exact in either case.
        samples: the number of combinations for each example, >= 1.
        memory_budget: bytes that a block of examples' Jacobians may take, where they are needed.

    Returns:
        Factors, diagonals and products. Build and use it inside one traced function. (A structure
        of another model raises a ValueError, as does what `gauss_newton_system` refuses.)

    Raises:
        ValueError: if `samples` is not positive.

    Source:
        Martens and Grosse (2015), arXiv:1503.05671; Grosse and Martens (2016), arXiv:1602.01407;
        Eschenhagen et al. (2023), arXiv:2311.00636, the expand form.

    Example:
        >>> from fnn import Objective, losses
        >>> model = lambda w, x: x @ w
        >>> w = jnp.ones(2)
        >>> value_fn = Objective(model, losses.half_squared_error).on((jnp.eye(2), jnp.zeros(2)))
        >>> blocks = kronecker_blocks(value_fn, w, structure(model, w, jnp.zeros(2)))
        >>> inputs, outputs = blocks.factors[""]
        >>> inputs.round(4).tolist(), outputs.round(4).tolist()
        ([[[0.5, 0.0], [0.0, 0.5]]], [[[1.0]]])
    """
    if samples < 1:
        raise ValueError(
            f"kronecker_blocks: expected samples >= 1, got {samples}; try more for less noise"
        )
    params, sources, _, penalty = terms_of(value_fn, params)
    sketched = sources
    if key is not None:
        sketched = [sketch(s, jax.random.fold_in(key, i), samples) for i, s in enumerate(sources)]
    stacks = [source.stack() for source in sketched]
    layout = Layout.of(structure, params, stacks)
    numbers = jax.tree.leaves(penalty) or [0.0]
    numbers = numbers if len(numbers) == len(layout.paths) else numbers * len(layout.paths)
    factors, diagonals = factors_and_diagonals(layout, stacks, memory_budget)

    def bends(*vectors: PyTree) -> Array:
        weights = None if penalty is None else layout.tree.unflatten(numbers)
        return _inner_products(sources, weights, vectors)

    return Blocks(
        factors,
        diagonals,
        moments=partial(_moments, layout, stacks, memory_budget),
        bends=bends,
        penalty=dict(zip(layout.paths, numbers, strict=True)),
        matrices=layout.matrices,
        tree=layout.unflatten,
    )


class Layout(NamedTuple):
    """The leaves of the parameters by their paths, and how some of them are matrices.

    Attributes:
        paths: the paths of all leaves.
        leaves: the parameters.
        tree: their structure.
        axes: the numbers (b, i, o) of the leaves with factors, by the leaf's number.
        matrix: for the same leaves, the function that lays one out as matrices (b, i, o).
    """

    paths: list[str]
    leaves: list[Array]
    tree: Any
    axes: dict[int, tuple[int, int, int]]
    matrix: dict[int, Callable[[Array], Array]]

    @classmethod
    def of(cls, structure: Structure, params: PyTree, stacks: Sequence[Stack]) -> "Layout":
        """The layout of the parameters as a structure says, which the stacks must agree with."""
        leaves, tree = jax.tree.flatten(params)
        paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
        by_path = {leaf.path: leaf for leaf in structure.leaves}
        matrix = _layouts(stacks, by_path, paths, leaves)
        axes = {i: cast("tuple[int, int, int]", by_path[paths[i]].matrix) for i in matrix}
        return cls(paths, leaves, tree, axes, matrix)

    def matrices(self, like: PyTree) -> dict[str, Array]:
        """The leaves of a tree like the parameters, wide, those with factors as matrices."""
        return {
            path: self.matrix[i](wide(leaf)) if i in self.matrix else wide(leaf)
            for i, (path, leaf) in enumerate(zip(self.paths, jax.tree.leaves(like), strict=True))
        }

    def unflatten(self, matrices: dict[str, Array]) -> PyTree:
        """The tree like the parameters with these `matrices`."""
        return self.tree.unflatten(self._leaf(i, matrices[p]) for i, p in enumerate(self.paths))

    def _leaf(self, i: int, matrix: Array) -> Array:
        """A leaf from its matrices, in its own shape."""
        if i not in self.matrix:
            return matrix
        shape = jax.ShapeDtypeStruct(self.leaves[i].shape, matrix.dtype)
        return jax.linear_transpose(self.matrix[i], shape)(matrix)[0]


def factors_and_diagonals(
    layout: Layout, stacks: Sequence[Stack], memory_budget: int, few: bool = False
) -> tuple[dict[str, Factors], dict[str, Array]]:
    """The factors of the leaves that have them, D perhaps from few rows; diagonals of others."""
    others = [i for i in range(len(layout.paths)) if i not in layout.axes]

    def sums(captured: Captured, share: Array) -> tuple[dict[int, Any], dict[int, Array]]:
        squares = diagonal_of(captured, others, memory_budget) if others else {}
        return (
            {i: _sums(captured, i, share, axes, few) for i, axes in layout.axes.items()},
            {i: wide(each) for i, each in squares.items()},
        )

    def of_stack(stack: Stack) -> tuple[dict[int, Any], dict[int, Array]]:
        source = stack.source
        return stack.sum(lambda c, part: sums(c, source.share_or_shares(part)), source.parts)

    totals, diagonals = sum_trees([of_stack(stack) for stack in stacks])
    factors = {
        layout.paths[i]: Factors(inputs / count, outputs)
        for i, (inputs, outputs, count) in totals.items()
    }
    return factors, {layout.paths[i]: squares for i, squares in diagonals.items()}


def _moments(
    layout: Layout, stacks: Sequence[Stack], memory_budget: int, bases: dict[str, Factors]
) -> dict[str, Array]:
    """The diagonals of the blocks of some leaves, in their bases."""

    def of_capture(captured: Captured) -> dict[str, Array]:
        return {
            path: _leaf_moments(captured, i, bases[path], memory_budget)
            for i, path in enumerate(layout.paths)
            if i in layout.axes and path in bases
        }

    return sum_trees([stack.sum(of_capture) for stack in stacks])


def _inner_products(
    sources: Sequence[Source], weights: PyTree, vectors: Sequence[PyTree]
) -> Float[Array, "k k"]:
    """v^T (A^T A + weights) w of all pairs of vectors, with all rows of every example."""

    def of_source(source: Source) -> Array:
        return source.sum_parts(partial(source.inner_products, vectors))

    among_rows = reduce(jnp.add, map(of_source, sources))
    if weights is None:
        return among_rows
    sides = [jax.tree.map(wide, v) for v in vectors]
    weighted = [jax.tree.map(jnp.multiply, weights, v) for v in sides]
    return among_rows + jnp.array([[optax.tree.vdot(v, w) for w in weighted] for v in sides])


def _layouts(
    stacks: Sequence[Stack], by_path: dict[str, Axes], paths: Sequence[str], leaves: Sequence[Array]
) -> dict[int, Callable[[Array], Array]]:
    """For each leaf with factors, the function that lays it out as matrices."""
    remedy = "try curvature.structure(model, params, x) of the model in value_fn"
    programs = [stack.shapes().program for stack in stacks]
    if not programs:
        raise ValueError(
            "kronecker_blocks: expected a value function with a loss that has curvature, got "
            "none; try a rule of first order"
        )
    layouts = {}
    for i, (path, leaf) in enumerate(zip(paths, leaves, strict=True)):
        if path not in by_path or by_path[path].shape != leaf.shape:
            raise ValueError(
                f"kronecker_blocks: expected parameters of the structure, got params{path} of "
                f"shape {leaf.shape}, known as {by_path.get(path)}; {remedy}"
            )
        expected = by_path[path].matrix
        if expected is None:
            continue
        users = [p for p in programs if p.uses_of(i)]
        parts = [_parts(p, i) for p in users]
        got = {part and part.entries.shape for part in parts}
        if got != {expected}:
            raise ValueError(
                f"kronecker_blocks: expected params{path} to be {expected} matrices (b, i, o) as "
                f"the structure says, got {sorted(got, key=str) or 'no use'}; {remedy}"
            )
        first, *others = cast("list[_Parts]", parts)
        if not all(np.array_equal(first.entries, other.entries) for other in others):
            raise ValueError(
                f"kronecker_blocks: expected params{path} to be the same matrices in every part of "
                "the value function, got one beside its transpose; try rules.only to train this "
                "leaf by another rule"
            )
        layouts[i] = _laid_out(users[0], i, first)
    return layouts


def _sums(
    captured: Captured, leaf: int, share: Array, matrix: tuple[int, int, int], few: bool
) -> tuple[Array, Array, Array]:
    """The sums of a a^T, of delta delta^T and of the weights of both, over the uses of a leaf."""
    b, i, o = matrix
    dtype = widest(captured.outputs.dtype, jnp.float32)
    inputs, outputs = jnp.zeros((b, i, i), dtype), jnp.zeros((b, o, o), dtype)
    positions = np.zeros((b, 1, 1), int)
    total = jnp.sum(jnp.broadcast_to(share, captured.shape[:1]))
    for index, places in _uses_and_places(captured.program, leaf):
        left, right = _outer(captured, index, leaf)
        t = right.shape[3]
        if left is None:
            part = jnp.full((len(places), 1, 1), t * total.astype(right.dtype))
        else:
            part = _weighted_square(left, share.astype(left.dtype))
        inputs = _added(inputs, places, part)
        outputs = _added(outputs, places, _square(captured, index, leaf, few))
        positions[places] += t
    return (
        inputs,
        outputs,
        jnp.asarray(positions, inputs.dtype) * total.astype(inputs.dtype),
    )


def _weighted_square(
    left: Float[Array, "n r b t i"], share: Float[Array, " n"] | Float[Array, ""]
) -> Float[Array, "b i i"]:
    """The sum of a a^T, each with the share of its example, over examples and places."""
    weighted = left * share[:, None, None, None, None] if share.ndim else left
    squares = outer_sums(weighted, left)
    return squares if share.ndim else share * squares


def _uses_and_places(program: Program, leaf: int) -> list[tuple[int, np.ndarray]]:
    """The numbers of a leaf's uses, and the places of the matrices that each of them reads."""
    parts = _parts(program, leaf)
    return list(zip(program.uses_of(leaf), parts.places if parts else [], strict=True))


def _added(total: Array, places: np.ndarray, part: Array, axis: int = 0) -> Array:
    """The total with a part added at some places along an axis."""
    if np.array_equal(places, np.arange(total.shape[axis])):
        return total + part
    return total.at[(slice(None),) * axis + (places,)].add(part)


def _leaf_moments(captured: Captured, leaf: int, basis: Factors, memory_budget: int) -> Array:
    """The diagonal of a leaf's block in a basis: the sum over rows of the squares of U^T G V."""
    users = _uses_and_places(captured.program, leaf)
    (b, i, _), (_, _, o) = basis.inputs.shape, basis.outputs.shape
    zeros, positions = jnp.zeros((b, i, o), basis.inputs.dtype), np.zeros(b, int)
    for index, places in users:
        positions[places] += captured.program.uses[index].form.shape[1]
    if np.all(positions <= 1):  # (A leaf without any is one of another block.)
        total = zeros
        for index, places in users:
            of_use = _moments_of_one_position(captured, index, leaf, _at(basis, places))
            total = _added(total, places, of_use)
        return total

    def squares(part: Captured) -> Array:
        rotated = jnp.zeros((*part.shape, b, i, o), basis.inputs.dtype)
        for index, places in users:
            left, right = _rotated(part, index, leaf, _at(basis, places))
            products = jnp.einsum("nbti,nrbto->nrbio", left, right, precision=HIGHEST)
            rotated = _added(rotated, places, products, axis=2)
        return jnp.sum(jnp.square(rotated), (0, 1))

    return blockwise(squares, captured, examples_at_once(captured, b * i * o, memory_budget))


def _at(basis: Factors, places: np.ndarray) -> Factors:
    """The bases at some places."""
    whole = np.array_equal(places, np.arange(len(basis.inputs)))
    return basis if whole else Factors(*(side[places] for side in basis))


def _rotated(captured: Captured, index: int, leaf: int, basis: Factors) -> tuple[Array, Array]:
    """The left (n, b, t, i) and right (n, r, b, t, o) of a use in a basis."""
    left, right = _outer(captured, index, leaf)
    n, _, b, t, _ = right.shape
    left = jnp.ones((n, 1, b, t, 1), right.dtype) if left is None else left
    left = jnp.einsum("nrbti,bij->nbtj", left, basis.inputs, precision=HIGHEST)
    return left, jnp.einsum("nrbto,bop->nrbtp", right, basis.outputs, precision=HIGHEST)


def _moments_of_one_position(captured: Captured, index: int, leaf: int, basis: Factors) -> Array:
    """The moments of matrices that one use reads at one position."""
    if captured.program.uses[index].operand is None:  # The block is D itself, from `_square`.
        outputs = _square(captured, index, leaf)
        images = dot(outputs, basis.outputs)
        return jnp.einsum("bop,bop->bp", basis.outputs, images, precision=HIGHEST)[:, None]
    left, right = _rotated(captured, index, leaf, basis)
    sums = jnp.sum(right * right, 1)[:, :, 0]
    return jnp.einsum("nbi,nbo->bio", jnp.square(left[:, :, 0]), sums, precision=HIGHEST)


def _outer(captured: Captured, index: int, leaf: int) -> tuple[Array | None, Array]:
    """The left (n, 1, b, t, i) and right (n, r, b, t, o) of a use, scaled as the leaf is."""
    use, (left, right, _) = captured.program.uses[index], outer(captured, index)
    view = use.weight.views[leaf]
    if not view.scale and not view.negative:
        return left, right
    leaves, wanted = jax.tree.leaves(captured.params), [value for value, _ in view.scale]
    env = settle(captured.program, leaves, captured.closed_over, wanted)
    return left, right * wide(scale(use, leaf, env))


def _square(captured: Captured, index: int, leaf: int, few: bool = False) -> Float[Array, "b o o"]:
    """The sum of delta delta^T over a use, of all examples or of some that stand for them."""
    _, right = _outer(captured, index, leaf)
    n, r, _, t, o = right.shape
    # Some times as many rows as there are columns give a matrix as good to invert.
    stride = max(1, n * r * t // max(MANY, 8 * o)) if few else 1
    some = right[::stride]
    square = outer_sums(some, some)
    return square if stride == 1 else square * (n / len(some))
