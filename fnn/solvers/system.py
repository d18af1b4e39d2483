"""The nouns: a system, a right-hand side, a solver, a solution."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from fnn.dtypes import widest
from fnn.products import dot
from fnn.reductions import all_of, stacked


class Cost(NamedTuple):
    """The counted price of one operation.

    Attributes:
        flops: Additions and multiplications.
        bytes: Memory that it needs at once, its result included.
    """

    flops: float
    bytes: float


class Costs(NamedTuple):
    """The prices by which `choose` chooses.

    Attributes:
        multiply: One product with the curvature.
        gram: The Gram matrix, once for all leaves; None where there is none.
        normal: The dense curvature; None where there is none.
    """

    multiply: Cost
    gram: Cost | None = None
    normal: Cost | None = None


class System(NamedTuple):
    """A curvature C (P x P), as the operations that its owner can do.

    With rows, `C = A^T A`, and the row operations are there. Without (a Hessian), only `multiply`
    and perhaps `normal` and `diagonal` are.

    Attributes:
        like: Tree of arrays or `jax.ShapeDtypeStruct`: shapes and dtypes of the parameters.
        multiply: `v -> C v`, tree to tree.
        normal: `() -> C`, dense (P, P) in the order of `jax.flatten_util.ravel_pytree`.
        diagonal: `() -> diag C`, a tree.
        rows: Number R of rows of A; 0 without rows.
        product: `v -> A v`, tree to (R,).
        transpose: `u -> A^T u`, (R,) to tree.
        gram: `inverse -> A diag(inverse) A^T`, (R, R). `inverse` is a tree with a number for each
            leaf, or an array of the leaf's shape (only Marquardt's scaling asks for this). Linear
            in `inverse`; under `jax.vmap` the work should be done once and scaled many times.
        penalty: P, the diagonal curvature of penalties: None, a number for all leaves, or a
            tree with a number or an array for each. Leaves that hold the same object (`is`, not
            equal) share one Gram matrix in the dual.
        costs: Counted prices; only the automatic choice needs them.
        precision: The dtype of the algebra where it is wider than the leaves; None where it is not.
        solve: In which dtype dense matrices are factored; None is float64 where the device has it.
        kronecker: `D -> (v -> about (C + D)^-1 v)`, symmetric and positive definite: what the owner
            knows of the inverse, cheaply, for conjugate gradients to go through.
    """

    like: PyTree
    multiply: Callable[[PyTree], PyTree]
    normal: Callable[[], Array] | None = None
    diagonal: Callable[[], PyTree] | None = None
    rows: int = 0
    product: Callable[[PyTree], Array] | None = None
    transpose: Callable[[Array], PyTree] | None = None
    gram: Callable[[PyTree], Array] | None = None
    penalty: PyTree = None
    costs: Costs | None = None
    precision: Any = None
    solve: Any = None
    kronecker: Callable[[PyTree], Callable[[PyTree], PyTree]] | None = None


class RightHandSide(NamedTuple):
    """A gradient in two parts, `g = A^T s + h`.

    Attributes:
        s: The part among the rows, (R,); None in a system without rows.
        h: The rest, a tree; None where there is no rest, and then nothing is computed for it.
        inside: A^T s, where it was summed without writing s down: who reads it and not s needs no
            memory for the rows. None where `System.transpose` makes it.
        start: A step along which an iterative solver may begin; None for none. Others ignore it.
    """

    s: Float[Array, " rows"] | None
    h: PyTree = None
    inside: PyTree = None
    start: PyTree = None


class Counts(NamedTuple):
    """What a solver did, as integers that add up over steps.

    Attributes:
        cholesky: Solved by a Cholesky factorization.
        eigen: Solved by an eigendecomposition.
        rejected: Not solved; the step is zero.
        negative: Negative curvature was met (and not followed, unless `signed` was asked for).
        iterations: Iterations of conjugate gradients, or of Lanczos.
    """

    cholesky: Int[Array, ""]
    eigen: Int[Array, ""]
    rejected: Int[Array, ""]
    negative: Int[Array, ""]
    iterations: Int[Array, ""]

    @classmethod
    def of(cls, **counts: Array) -> "Counts":
        """Counts with the given entries, zero elsewhere, all int32.

        Args:
            **counts: Entries by name, numbers or booleans.

        Returns:
            The counts.
        """
        zero = dict.fromkeys(cls._fields, jnp.zeros((), jnp.int32))
        return cls(**zero | {name: count.astype(jnp.int32) for name, count in counts.items()})


class Solution(NamedTuple):
    """A step and what is known about it.

    Attributes:
        step: Tree like the parameters; zero when not ok.
        residual: `|(C + P + damping) d + g| / |g|`, measured; 1 when not ok. A compiler drops its
            computation where nobody reads it.
        reduction: `q(0) - q(d)`, what the model without damping promises: the denominator of a gain
            ratio; 0 when not ok.
        curvature_along: `d . (C + P) d`; 0 when not ok.
        ok: Whether the step is finite and the model does not promise a loss.
        counts: What was done.
    """

    step: PyTree
    residual: Float[Array, ""]
    reduction: Float[Array, ""]
    curvature_along: Float[Array, ""]
    ok: Bool[Array, ""]
    counts: Counts


class Solver(NamedTuple):
    """A way to solve systems: a value, hashable, equal to its like.

    Attributes:
        name: What it is called in a reason or a table.
        prepare: `system -> trial`, does what does not depend on the damping; then
            `trial(rhs, damping) -> Solution`, as often as wanted.
        warm: Whether it asks the rule for the last step, as `RightHandSide.start`.
    """

    name: str
    prepare: Callable[[System], Callable[[RightHandSide, PyTree], Solution]]
    warm: bool = False

    def solve(self, system: System, rhs: RightHandSide, damping: PyTree) -> Solution:
        """One trial.

        Args:
            system: The curvature.
            rhs: The gradient.
            damping: Number >= 0, or a tree with a number or an array for each leaf.

        Returns:
            The solution.
        """
        return self.prepare(system)(rhs, damping)


def from_rows(matrix: Float[Array, "rows P"], like: PyTree, penalty: PyTree = None) -> System:
    """The system of an explicit matrix A.

    Args:
        matrix: A; columns in the order of `jax.flatten_util.ravel_pytree`.
        like: Tree of arrays or `jax.ShapeDtypeStruct` with P entries.
        penalty: See `System`.

    Returns:
        The system, with its costs.

    Raises:
        ValueError: If the matrix is empty or its columns are not the entries of `like`.

    >>> system = from_rows(jnp.eye(2, 3), {"w": jnp.zeros(2), "b": jnp.zeros(())})
    >>> system.product({"w": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}).tolist()
    [3.0, 1.0]
    """
    size = entries(like)
    if matrix.ndim != 2 or matrix.shape[1] != size or 0 in matrix.shape:
        raise ValueError(
            f"from_rows: expected a matrix (rows >= 1, {size}), one column for each entry of "
            f"`like`, got {matrix.shape}; try `like=` the tree that the columns were taken from"
        )
    rows = len(matrix)
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like))
    leaves, treedef = jax.tree.flatten(like)
    stops = list(itertools.accumulate(math.prod(leaf.shape) for leaf in leaves[:-1]))
    blocks = jnp.split(matrix, stops, axis=1)

    def gram(inverse: PyTree) -> Array:
        def one(block: Array, scale: Array) -> Array:
            scale = jnp.asarray(scale, matrix.dtype)
            return (
                scale * dot(block, block.T)
                if scale.ndim == 0
                else dot(block * scale.ravel(), block.T)
            )

        return sum(map(one, blocks, treedef.flatten_up_to(inverse)), jnp.zeros((), matrix.dtype))

    def product(v: PyTree) -> Array:
        return dot(matrix, ravel_pytree(v)[0])

    def transpose(u: Array) -> PyTree:
        return unravel(dot(matrix.T, u))

    word = matrix.dtype.itemsize
    return System(
        like=like,
        multiply=lambda v: transpose(product(v)),
        normal=lambda: dot(matrix.T, matrix),
        diagonal=lambda: unravel(jnp.sum(matrix**2, axis=0)),
        rows=rows,
        product=product,
        transpose=transpose,
        gram=gram,
        penalty=penalty,
        costs=Costs(
            multiply=Cost(4 * rows * size, word * (rows + size)),
            gram=Cost(2 * rows**2 * size, word * rows**2),
            normal=Cost(2 * rows * size**2, word * size**2),
        ),
    )


# --- what the solvers share ---------------------------------------------------------------------


def entries(like: PyTree) -> int:
    """The number P of parameters."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(like))


def working_dtype(system: System) -> Any:
    """The dtype of the algebra: the widest of the leaves, at least float32 and `precision`."""
    for leaf in jax.tree.leaves(system.like):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                f"solvers: expected real floating-point parameters, got {leaf.dtype}; "
                "try its real and imaginary parts as two leaves, or leave the leaf out"
            )
    least = jnp.float32 if system.precision is None else system.precision
    return widest(least, *(leaf.dtype for leaf in jax.tree.leaves(system.like)))


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether all numbers of a tree are finite.

    Args:
        tree: Tree of arrays.

    Returns:
        True or False.

    Example:
        >>> bool(all_finite({"a": jnp.ones(2), "b": jnp.array([1.0, jnp.nan])}))
        False
    """
    return all_of([jnp.all(jnp.isfinite(leaf)) for leaf in stacked(jax.tree.leaves(tree))])


def largest_entry(tree: PyTree) -> Float[Array, ""]:
    """The largest magnitude in a tree, 1 for a tree of zeros: what is divided by it can be squared.

    Args:
        tree: Tree of arrays.

    Returns:
        A positive number, or NaN.

    Example:
        >>> print(largest_entry({"a": jnp.array([1.0, -3.0]), "b": jnp.zeros(2)}))
        3.0
    """
    entries = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    largest = functools.reduce(jnp.maximum, entries)
    return jnp.where(largest == 0, 1, largest)


def over(number: Array, divisor: Array) -> Array:
    """A quotient, 0 where the divisor is not positive: the gain ratio of a step, by its promise.

    Args:
        number: What is divided.
        divisor: By what.

    Returns:
        The quotient.

    Example:
        >>> over(jnp.array([6.0, 6.0]), jnp.array([3.0, 0.0])).tolist()
        [2.0, 0.0]
    """
    known = divisor > 0
    return jnp.where(known, number / jnp.where(known, divisor, 1), 0)


def curvature_bound(numbers: Array) -> Float[Array, ""]:
    """A bound on all curvatures from a matrix or its eigenvalues; 1 where there is no curvature.

    Args:
        numbers: A symmetric matrix, or its eigenvalues.

    Returns:
        The root of the sum of squares.

    Example:
        >>> print(curvature_bound(jnp.array([3.0, -4.0])), curvature_bound(jnp.zeros(2)))
        5.0 1.0
    """
    largest = jnp.max(jnp.abs(numbers))
    is_curved = largest > 0
    unit = jnp.where(is_curved, largest, 1.0)  # squares of small numbers would underflow
    length = jnp.linalg.norm(jnp.ravel(jnp.where(is_curved, numbers / unit, 1.0)))
    return jnp.where(is_curved, unit * length, 1.0)


def cast(tree: PyTree, like: PyTree) -> PyTree:
    """A tree with the dtypes of another."""
    return jax.tree.map(lambda leaf, model: leaf.astype(model.dtype), tree, like)


def widen(system: System, tree: PyTree) -> PyTree:
    """A tree in the working dtype; None has no leaves and stays None."""
    dtype = working_dtype(system)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def needs(system: System, solver: str, *fields: str) -> list[Callable]:
    """The named operations of a system.

    Args:
        system: The system.
        solver: Who asks, for the message.
        *fields: Names of operations.

    Returns:
        The operations.

    Raises:
        TypeError: If one is missing.
        ValueError: If row operations are asked for and there are no rows.

    >>> (diagonal,) = needs(from_rows(jnp.eye(2), jnp.zeros(2)), "mine", "diagonal")
    >>> diagonal().tolist()
    [1.0, 1.0]
    """
    missing = [field for field in fields if getattr(system, field) is None]
    if missing:
        raise TypeError(
            f"{solver}: expected a system with {', '.join(fields)}, got one without "
            f"{', '.join(missing)}; try solvers.conjugate_gradients(), which needs only `multiply`"
        )
    if "transpose" in fields and system.rows < 1:
        raise ValueError(
            f"{solver}: expected at least one row, got rows={system.rows}; "
            "try a batch that is not empty"
        )
    return [getattr(system, field) for field in fields]


def require_matching(system: System, rhs: RightHandSide, damping: PyTree) -> RightHandSide:
    """The right-hand side in the working dtype, if it and the damping fit the system."""
    for number in jax.tree.leaves(damping):
        if isinstance(number, (int, float)) and not number >= 0:
            raise ValueError(f"solvers: expected damping >= 0, got {number}; try 0.0 for none")
    s, h, *_ = rhs
    if s is None and h is None:
        raise TypeError("solvers: expected s or h in the right-hand side, got neither; try h=grad")
    if s is not None and (system.transpose is None or jnp.shape(s) != (system.rows,)):
        raise ValueError(
            f"solvers: expected s of shape ({system.rows},), one entry for each row, got "
            f"{jnp.shape(s)}; try s=None and h=grad in a system without rows"
        )
    expected = jax.tree.map(lambda leaf: tuple(leaf.shape), system.like)
    for name, part in (("h", h), ("start", rhs.start)):
        got = expected if part is None else jax.tree.map(jnp.shape, part)
        if got != expected:
            raise ValueError(
                f"solvers: expected {name} like the parameters, {expected}, got {got}; "
                f"try {'the gradient' if name == 'h' else 'the last step'}"
            )
    return RightHandSide(*(widen(system, part) for part in rhs))


def inner(left: PyTree, right: PyTree) -> Float[Array, ""]:
    """The inner product `<left, right>` in the highest precision."""
    return jnp.asarray(optax.tree.vdot(left, right))


def is_number(numbers: PyTree) -> bool:
    """Whether one number, traced or not, stands for all leaves."""
    return jax.tree_util.all_leaves([numbers]) and jnp.ndim(numbers) == 0


def spread(system: System, numbers: PyTree) -> PyTree:
    """A number for all leaves as a tree with a number for each, in the working dtype.

    Args:
        system: The system.
        numbers: The number, or already a tree with a number or an array for each leaf.

    Returns:
        The tree.

    Raises:
        ValueError: If it is neither.

    >>> system = from_rows(jnp.eye(2), {"w": jnp.zeros(1), "b": jnp.zeros(1)})
    >>> jax.tree.map(float, spread(system, 3.0))
    {'b': 3.0, 'w': 3.0}
    """
    structure = jax.tree.structure(system.like)
    if is_number(numbers):
        numbers = jax.tree.unflatten(structure, [numbers] * structure.num_leaves)
    elif jax.tree.structure(numbers) != structure:
        raise ValueError(
            f"solvers: expected a number or a tree {structure} for damping and penalty, got "
            f"{jax.tree.structure(numbers)}; try one number for all leaves"
        )
    return widen(system, numbers)


def shift_of(system: System, damping: PyTree) -> PyTree:
    """`D = P + damping`, a tree with a number or an array for each leaf."""
    shift = spread(system, damping)
    if system.penalty is None:
        return shift
    return optax.tree.add(shift, spread(system, system.penalty))


def flat_shift(system: System, damping: PyTree) -> Float[Array, " P"]:
    """D as one array, with an entry for each parameter."""
    shift = shift_of(system, damping)
    whole = jax.tree.map(lambda d, leaf: jnp.broadcast_to(d, leaf.shape), shift, system.like)
    return ravel_pytree(whole)[0]


def gradient(system: System, rhs: RightHandSide) -> PyTree:
    """`g = A^T s + h`, in the working dtype."""
    s, h, inside, _ = rhs
    if s is None or system.transpose is None:
        return h
    if inside is None:
        inside = widen(system, system.transpose(s))
    return inside if h is None else optax.tree.add(inside, h)


def conclude(
    system: System,
    step: PyTree,
    *,
    slope: Array,
    curvature_along: Array,
    residual: Array,
    scale: Array,
    counts: Counts,
    convex: bool = True,
) -> Solution:
    """The solution of a step d from g . d, d . C d, |(C + D) d + g| and |g|, in this order."""
    if system.penalty is not None:
        weighted = optax.tree.mul(spread(system, system.penalty), step)
        curvature_along = curvature_along + inner(weighted, step)
    reduction = -slope - curvature_along / 2
    step = cast(step, system.like)  # which may overflow
    # An exact step gains at least half its slope, and conjugate gradients never lose: a model that
    # promises a loss was solved wrongly (a singular system with no solution).
    # A model that is not convex may promise one: its step may lead to a saddle.
    sound = (counts.rejected == 0) & (reduction >= 0 if convex else True)
    ok = all_finite((step, reduction)) & sound
    relative = over(residual, scale)
    return Solution(
        step=jax.tree.map(lambda leaf: jnp.where(ok, leaf, 0), step),
        residual=jnp.where(ok, relative, 1.0),
        reduction=jnp.where(ok, reduction, 0.0),
        curvature_along=jnp.where(ok, curvature_along, 0.0),
        ok=ok,
        counts=counts._replace(
            cholesky=jnp.where(ok, counts.cholesky, 0),
            eigen=jnp.where(ok, counts.eigen, 0),
            rejected=(~ok).astype(jnp.int32),
        ),
    )
