"""Arrays of numbers: what another package calls an array is made one, the rest is told what to do.

JAX takes a list for a tree. A nested list of numbers is therefore a tree of scalars, and a list of
rows a tree of short arrays: both are refused by name where they cannot be meant.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def as_arrays(door: str, name: str, tree: PyTree) -> PyTree:
    """The tree, with an array of numbers in every leaf.

    Args:
        door: the public function that was given the tree.
        name: what the tree is called there.
        tree: of arrays of JAX and NumPy, or of what NumPy makes an array of (a frame, a tensor).

    Returns:
        The tree; arrays of JAX and NumPy are left as they are. (A TypeError names the leaf that is
        none, or the list of numbers, and what to try.)

    Example:
        >>> as_arrays("fit", "inputs", {"x": [[1.0, 2.0], [3.0, 4.0]]})
        Traceback (most recent call last):
        TypeError: fit: expected arrays, got a list of numbers at inputs['x'], a tree of scalars to
        JAX; try np.asarray
    """
    convert = functools.partial(_as_array, door, name)
    return jax.tree_util.tree_map_with_path(convert, tree, is_leaf=_is_list_of_numbers)


def _as_array(door: str, name: str, path: Any, leaf: Any) -> Any:
    """A leaf as an array, or the error that it deserves."""
    got = _of_list(leaf) if isinstance(leaf, list | tuple) else _of_leaf(leaf)
    if not isinstance(got, _Refusal):
        return got
    where = f"{name}{jax.tree_util.keystr(path)}"
    raise TypeError(f"{door}: expected arrays, got {got.what} at {where}{got.remedy}")


class _Refusal(NamedTuple):
    """What a leaf is in place of an array of numbers, and what to try."""

    what: str
    remedy: str


def _of_list(numbers: list | tuple) -> _Refusal:
    """Why a list of numbers is no array."""
    try:
        array = np.asarray(numbers)
    except ValueError:
        return _Refusal("a list of rows of several lengths", "; try to pad them to one length")
    if not _is_numeric(array.dtype):
        return _of_dtype(array)
    return _Refusal("a list of numbers", ", a tree of scalars to JAX; try np.asarray")


def _of_leaf(leaf: Any) -> Any:
    """A leaf as an array, or why it is none."""
    if isinstance(leaf, np.ma.MaskedArray):
        return _Refusal("a masked array", "; try .filled(0), and weights of 0 for what is masked")
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | int | float | complex):
        return leaf
    if hasattr(leaf, "__jax_array__"):  # a variable of another package, perhaps traced
        return leaf.__jax_array__()
    if not isinstance(leaf, np.ndarray | np.generic):
        if not hasattr(leaf, "__array__"):
            kind = type(leaf).__name__
            return _Refusal(kind, "; try np.asarray, or to keep what is no number out of it")
        try:
            leaf = np.asarray(leaf)
        except Exception as error:  # a tensor on another device, or with a gradient
            return _Refusal(type(leaf).__name__, f", of which NumPy makes no array: {error}")
    if leaf.dtype.kind in "fiuc" and not leaf.dtype.isnative:  # as files have them
        leaf = leaf.astype(leaf.dtype.newbyteorder("="))
    return leaf if _is_numeric(leaf.dtype) else _of_dtype(np.asarray(leaf))


def _of_dtype(array: np.ndarray) -> _Refusal:
    """Why an array holds no numbers that JAX knows."""
    if array.dtype.kind == "O":
        return _of_objects(array)
    what = "text" if array.dtype.kind in "SUT" else f"an array of {array.dtype}"
    remedy = {
        "M": "(times - times[0]) / np.timedelta64(1, 's')",
        "m": "a quotient by np.timedelta64(1, 's')",
        "V": "np.lib.recfunctions.structured_to_unstructured",
    }.get(array.dtype.kind, "np.unique(..., return_inverse=True)[1], which counts classes from 0")
    if array.dtype.kind in "fc":  # wider than JAX knows
        remedy = ".astype(float)"
    return _Refusal(what, f"; try {remedy}")


def _of_objects(array: np.ndarray) -> _Refusal:
    """Why an array of objects holds no numbers, by the first that is none."""
    what, remedy = "an array of objects", ".astype(float)"
    shapes = {np.shape(entry) for entry in array.flat if isinstance(entry, np.ndarray | list)}
    if len(shapes) > 1:
        return _Refusal(
            f"{what}, arrays of shapes {sorted(shapes)}", "; try to pad them to one shape"
        )
    if shapes:
        return _Refusal(f"{what} that are arrays", "; try np.stack")
    for index, entry in np.ndenumerate(array):
        if not isinstance(entry, int | float | complex | np.number):
            what += f", {type(entry).__name__} at index {index}"
            remedy = "np.nan_to_num or to leave out that example" if entry is None else "numbers"
            break
    return _Refusal(what, f"; try {remedy}")


def _is_numeric(dtype: Any) -> bool:
    """Whether JAX has arrays of a dtype: of this machine's byte order, and no wider than double."""
    widest = 16 if dtype.kind == "c" else 8
    is_known = jnp.issubdtype(dtype, np.number) or dtype.kind == "b"
    return is_known and dtype.isnative and dtype.itemsize <= widest


def _is_list_of_numbers(tree: Any) -> bool:
    """Whether this is a list, perhaps of lists, of scalars alone."""
    if not isinstance(tree, list | tuple) or not tree:
        return False
    return all(_is_scalar(entry) or _is_list_of_numbers(entry) for entry in tree) and not all(
        entry is None for entry in tree
    )


_SCALAR = int | float | complex | str | np.generic | None


def _is_scalar(entry: Any) -> bool:
    return isinstance(entry, _SCALAR) or getattr(entry, "shape", None) == ()
