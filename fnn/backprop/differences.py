"""Gradients from values alone, with which to check those that someone derived."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree, Scalar


class Check(NamedTuple):
    """How far a gradient is from central differences.

    Attributes:
        error: the largest |exact - numeric|, over the largest |numeric| (or 1 if that is 0).
        where: the entry with this error, as a path into the tree.
        exact: the gradient that was checked.
        numeric: the gradient by differences.
    """

    error: float
    where: str
    exact: PyTree
    numeric: PyTree


def numeric_gradient(
    fn: Callable[[PyTree], Scalar], at: PyTree, step: float | None = None
) -> PyTree:
    """(fn(at + step e_i) - fn(at - step e_i)) / (2 step), one entry after the other.

    Its error is of the order of step^2 by the third derivative and of eps / step by rounding. It
    costs two values for each entry, where back-propagation costs about three in all.

    Args:
        fn: any function of a tree of floating arrays to a scalar: a value function, or
            `value_after` for a delta.
        at: the point.
        step: the length of the step, > 0; None is the cube root of the dtype's eps, where both
            errors are of one size for entries of order one.

    Returns:
        The gradient, of the structure of `at`.

    Raises:
        ValueError: if `step` is not above zero, or there is nothing to perturb.
        TypeError: if `at` holds anything but floating-point numbers.

    Example:
        >>> numeric_gradient(lambda w: w[0] * w[1], jnp.array([2.0, 3.0])).round(2).tolist()
        [3.0, 2.0]
    """
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(at)]
    kinds = {str(leaf.dtype) for leaf in leaves if not jnp.issubdtype(leaf.dtype, jnp.floating)}
    if kinds:
        raise TypeError(
            f"numeric_gradient: expected floating-point numbers, got {', '.join(sorted(kinds))}; "
            "try jax.tree.map(lambda leaf: leaf.astype(float), at)"
        )
    flat, unravel = ravel_pytree(at)
    if flat.size == 0:
        raise ValueError("numeric_gradient: expected numbers to perturb, got none; try params")
    length = float(jnp.finfo(flat.dtype).eps) ** (1 / 3) if step is None else step
    if not length > 0:
        raise ValueError(f"numeric_gradient: expected a step above 0, got {length}; try None")

    def slope(i):
        up, down = flat.at[i].add(length), flat.at[i].add(-length)
        # The distance is the one that rounding has left.
        return (fn(unravel(up)) - fn(unravel(down))) / (up[i] - down[i])

    return unravel(jax.lax.map(slope, jnp.arange(flat.size)))


def check(
    fn: Callable[[PyTree], Scalar],
    at: PyTree,
    grad: PyTree | None = None,
    step: float | None = None,
) -> Check:
    """Compares a gradient with central differences.

    Args:
        fn: any function of a tree of floating arrays to a scalar.
        at: the point.
        grad: the gradient to be checked; None asks `jax.grad` for one.
        step: as in `numeric_gradient`.

    Returns:
        The largest error, and where it is.

    Raises:
        ValueError: if `grad` has another structure or other shapes than `at`.

    Example:
        >>> wrong = {"w": jnp.array([0.2, 5.0])}
        >>> result = check(lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.array([0.1, 0.2])}, wrong)
        >>> result.where, round(result.error)
        ("['w'][1]", 12)
    """
    exact = jax.grad(fn)(at) if grad is None else grad
    numeric = numeric_gradient(fn, at, step)
    got, expected = (
        (jax.tree.structure(tree), [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (exact, at)
    )
    if got != expected:
        raise ValueError(
            f"check: expected a gradient of shapes {expected[1]} in {expected[0]}, "
            f"got {got[1]} in {got[0]}; try grad=None"
        )
    claim, measurement = ravel_pytree(exact)[0], ravel_pytree(numeric)[0]
    largest = float(jnp.abs(measurement).max())
    errors = jnp.abs(claim - measurement) / (largest or 1.0)
    errors = jnp.where(jnp.isnan(errors), jnp.inf, errors)  # A NaN is as wrong as can be.
    worst = int(errors.argmax())
    return Check(float(errors[worst]), entries(at)[worst], exact, numeric)


def entries(tree: PyTree) -> list[str]:
    """The names of all numbers of a tree in their order, `[0]['weight'][1, 2]`."""
    names = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        place = jax.tree_util.keystr(path)
        for i in range(jnp.size(leaf)):
            index = ", ".join(str(int(k)) for k in jnp.unravel_index(i, jnp.shape(leaf)))
            names.append(f"{place}[{index}]" if index else place)
    return names
