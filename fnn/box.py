"""A box: bounds of parameters, the projection onto them, and the entries that are held at one.

An entry is *held* where it is at a bound and the gradient points out of the box: no small step
lowers the value along it. To a rule that minimizes within a box, a value function is

    params -> value(projection of params, held entries at their bounds)

whose gradient and whose columns vanish in what is held, and elsewhere are those of the value.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PyTree


class Sides(NamedTuple):
    """The bounds of one leaf, of its shape and dtype; infinite where it is open."""

    lower: Array
    upper: Array

    def clip(self, leaf: Array) -> Array:
        """The leaf, each entry at the nearest place within the bounds; NaN stays."""
        # Where an entry is at a bound `jnp.clip` has half a derivative, and here it has all of it.
        return jnp.where(
            leaf < self.lower, self.lower, jnp.where(leaf > self.upper, self.upper, leaf)
        )


class Held(NamedTuple):
    """The entries of a leaf that are held, and the bounds that they are held at."""

    mask: Bool[Array, "*shape"]
    at: Array


class Box(NamedTuple):
    """Bounds of the leaves of a tree, and what is held.

    Attributes:
        sides: of each leaf of the parameters, None counting as a leaf; None where a leaf is open.
        held: of each of these.
    """

    sides: tuple[Sides | None, ...]
    held: tuple[Held | None, ...]

    def hold(self, params: PyTree) -> PyTree:
        """The projection of the parameters, held entries at their bounds."""

        def place(leaf: Array, sides: Sides, held: Held) -> Array:
            return jnp.where(held.mask, held.at, sides.clip(leaf))

        return _map(place, params, self.sides, self.held)

    def without_held(self, tree: PyTree) -> PyTree:
        """A tree like the parameters with 0 where they are held; open leaves stay objects."""
        return _map(lambda leaf, held: jnp.where(held.mask, 0, leaf), tree, self.held)

    def landing(self, params: PyTree, step: PyTree) -> PyTree:
        """The step to the projection of where a step leads, into the box to the last bit."""
        # Where rounding leaves no number that leads to a bound, it leads short of it.
        leaves = jax.tree.leaves(params, is_leaf=_is_none)

        def land(change: Array, sides: Sides, held: Held, leaf: Array) -> Array:
            goal = jnp.where(held.mask, held.at, sides.clip(leaf + change))
            is_moved = held.mask | (leaf + change != goal)
            change = jnp.where(is_moved & ~jnp.isnan(goal), goal - leaf, change)
            # A difference is rounded by half of its last digit: one digit less leads inside.
            change = jnp.where(leaf + change > sides.upper, _next(change, -math.inf), change)
            return jnp.where(leaf + change < sides.lower, _next(change, math.inf), change)

        landed = _map(land, step, self.sides, self.held, leaves)
        # Fused with what it is made of, the last addition might round in another way.
        return jax.lax.optimization_barrier(landed)


def _next(number: Array, towards: float) -> Array:
    """The neighbor of a number, which is a constant to derivatives."""
    still = jax.lax.stop_gradient(number)
    return number + (jnp.nextafter(still, jnp.full_like(still, towards)) - still)


def sides_of(name: str, lower: Any, upper: Any, params: PyTree) -> tuple[Sides | None, ...]:
    """The bounds of every leaf, or the error that they deserve, which begins with a name."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_none)
    bounds = [_spread(name, which, tree, treedef) for which, tree in
              (("lower", lower), ("upper", upper))]  # fmt: skip
    return tuple(
        None if leaf is None else _sides(name, f"params{jax.tree_util.keystr(path)}", leaf, *pair)
        for (path, leaf), *pair in zip(paths, *bounds, strict=True)
    )


def held_at(
    sides: tuple[Sides | None, ...], params: PyTree, grad: PyTree, slack: tuple[Array | None, ...]
) -> tuple[Held | None, ...]:
    """What is held: at a bound up to a slack, and by the gradient driven out of the box."""

    def of_leaf(bounds: Sides, leaf: Array, slope: Array, near: Array) -> Held:
        is_low = (leaf <= bounds.lower + near) & (slope > 0)
        is_high = (leaf >= bounds.upper - near) & (slope < 0)
        mask = is_low | is_high | (bounds.lower == bounds.upper)
        return Held(mask, jnp.where(is_low, bounds.lower, bounds.upper))

    leaves, slopes = (jax.tree.leaves(tree, is_leaf=_is_none) for tree in (params, grad))
    return tuple(
        None if own is None or near is None else of_leaf(own, leaf, slope, near)
        for own, leaf, slope, near in zip(sides, leaves, slopes, slack, strict=True)
    )


def outside(sides: tuple[Sides | None, ...], params: PyTree) -> tuple[Array | None, ...]:
    """Of every bounded leaf the place of the first entry out of bounds, -1 where there is none."""

    def first(own: Sides, leaf: Array) -> Array:
        is_out = ((leaf < own.lower) | (leaf > own.upper)).ravel()
        return jnp.where(is_out.any(), jnp.argmax(is_out), -1).astype(jnp.int32)

    leaves = jax.tree.leaves(params, is_leaf=_is_none)
    return tuple(None if s is None else first(s, p) for s, p in zip(sides, leaves, strict=True))


def _map(fn: Any, tree: PyTree, *parts: Any) -> PyTree:
    """A function of the leaves and their parts, where all of these are there."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=_is_none)
    return treedef.unflatten(
        leaf if leaf is None or own[0] is None else fn(leaf, *own)
        for leaf, *own in zip(leaves, *parts, strict=True)
    )


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _spread(name: str, which: str, bounds: Any, treedef: Any) -> list:
    """A bound for every leaf: a number for all of them, or a tree of their structure."""
    leaves, own = jax.tree.flatten(bounds, is_leaf=_is_none)
    if own == treedef:
        return leaves
    if bounds is None or (len(leaves) == 1 and jnp.ndim(leaves[0]) == 0 and leaves[0] is bounds):
        return [bounds] * treedef.num_leaves
    raise ValueError(
        f"{name}: expected {which} to be a number or a tree of the structure of params, {treedef}, "
        f"got {own}; try jax.tree.map(lambda leaf: ..., params), None for a leaf without a bound"
    )


def _sides(name: str, path: str, leaf: Any, lower: Any, upper: Any) -> Sides | None:
    """The bounds of one leaf; None where both sides are open."""
    shape, dtype = jnp.shape(leaf), jnp.result_type(leaf)
    if lower is None and upper is None:
        return None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected bounds of real parameters of floating point, got {path} of {dtype}; "
            "try a tree of bounds with None for that leaf"
        )
    given = {"lower": -math.inf if lower is None else lower}
    given |= {"upper": math.inf if upper is None else upper}
    for which, bound in given.items():
        if not _is_real(bound):
            raise TypeError(
                f"{name}: expected {which} bounds of real numbers, got {bound!r} for {path}; try "
                "0.0, or None for an open side"
            )
        try:
            is_spread = np.broadcast_shapes(jnp.shape(bound), shape) == shape
        except ValueError:
            is_spread = False
        if not is_spread:
            raise ValueError(
                f"{name}: expected {which} bounds that broadcast to {path} of shape {shape}, got "
                f"shape {jnp.shape(bound)}; try one number, or an array of that shape"
            )
    try:
        known = {which: np.broadcast_to(np.asarray(b), shape) for which, b in given.items()}
    except jax.errors.TracerArrayConversionError:  # traced bounds are not checked
        return _sides_from(given, shape, dtype)
    for which, bound in known.items():
        _require_held(name, which, path, bound, dtype)
    low, high = (bound.astype(dtype) for bound in known.values())
    _require_order(name, path, low, high)
    _require_apart(name, path, known["lower"], known["upper"], low == high)
    if np.isneginf(low).all() and np.isposinf(high).all():
        return None
    return _sides_from(given, shape, dtype)


def _is_real(bound: Any) -> bool:
    """Whether a bound is a real number or an array of such."""
    try:
        dtype = jnp.result_type(bound)
    except (TypeError, ValueError):
        return False
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def _sides_from(given: dict[str, Any], shape: tuple[int, ...], dtype: Any) -> Sides:
    """The bounds of one leaf as arrays of its shape."""
    return Sides(*(jnp.broadcast_to(jnp.asarray(b, dtype), shape) for b in given.values()))


def _require_held(name: str, which: str, path: str, bound: np.ndarray, dtype: Any) -> None:
    """Require bounds that a dtype makes neither 0 nor infinite."""
    least, most = float(jnp.finfo(dtype).tiny), float(jnp.finfo(dtype).max)
    size = np.abs(bound.astype(np.float64))
    bad = ((size > most) & np.isfinite(size)) | ((size > 0) & (size < least))
    if bad.any():
        index = int(np.argmax(bad.ravel()))
        raise ValueError(
            f"{name}: expected {which} bounds that {jnp.dtype(dtype)} holds, of sizes from "
            f"{least:.2g} to {most:.2g}, got {bound.ravel()[index]} at "
            f"{place_of(path, index, bad.shape)}; try None or infinity for an open side, other "
            "units, or parameters of float64"
        )


def _require_apart(
    name: str, path: str, lower: np.ndarray, upper: np.ndarray, are_equal: np.ndarray
) -> None:
    """Require bounds that differ to differ in the dtype of the parameters, too."""
    bad = are_equal & (lower != upper)
    if bad.any():
        index = int(np.argmax(bad.ravel()))
        raise ValueError(
            f"{name}: expected bounds that the dtype of {path} tells apart, got "
            f"{lower.ravel()[index]} and {upper.ravel()[index]} at "
            f"{place_of(path, index, bad.shape)}; try equal bounds, which fix an entry, other "
            "units, or parameters of float64"
        )


def _require_order(name: str, path: str, low: np.ndarray, high: np.ndarray) -> None:
    """Require bounds that are numbers, the lower ones not above the upper ones."""
    bad = ~(low <= high)
    if not bad.any():
        return
    place = place_of(path, int(np.argmax(bad.ravel())), bad.shape)
    one, other = low.ravel()[np.argmax(bad.ravel())], high.ravel()[np.argmax(bad.ravel())]
    remedy = "None or infinity for an open side" if np.isnan([one, other]).any() else "to swap them"
    raise ValueError(
        f"{name}: expected lower <= upper at {place}, got {one} and {other}; try {remedy}"
    )


def place_of(path: str, index: int, shape: tuple[int, ...]) -> str:
    """The name of an entry of a leaf."""
    entry = ", ".join(str(int(i)) for i in np.unravel_index(index, shape))
    return f"{path}[{entry}]" if shape else path
