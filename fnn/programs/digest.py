"""A digest of a program, the same in every process that traces the same computation.

Programs have one digest where they do the same operations in the same order, on arrays of the same
kinds and with the same constants. Names of functions and variables, addresses and places in files
do not count. What is not a part of the jaxpr is not seen: a Python function that is called back.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_HIDDEN = "name", "info"
"""Endings of parameters that say where a program was written, such as `debug_info`."""
_KEPT = "axis_name"
"""A parameter of such an ending that means something."""


def digest(program: core.ClosedJaxpr) -> str:
    """A digest of a program and of its constants.

    Args:
        program: what `jax.make_jaxpr` returns.

    Returns:
        A hexadecimal number of 128 bits.

    Example:
        >>> import jax
        >>> def twice(x):
        ...     return 2 * x
        >>> one, same, other = map(jax.make_jaxpr, (twice, lambda y: 2 * y, lambda x: 3 * x))
        >>> digest(one(1.0)) == digest(same(1.0)), digest(one(1.0)) == digest(other(1.0))
        (True, False)
    """
    return _digest_of(program.jaxpr, program.consts)


def _digest_of(jaxpr: core.Jaxpr, consts: Any) -> str:
    """The digest of a jaxpr, whose variables are numbered in the order in which they appear."""
    numbers: dict[Any, int] = {}

    def spelled_atom(atom: Any) -> str:
        if isinstance(atom, core.Literal):
            return f"{_kind(atom.aval)}={spelled(np.asarray(atom.val))}"
        return f"{numbers.setdefault(atom, len(numbers))}:{_kind(atom.aval)}"

    lines = [spelled(list(consts))]
    lines.append(" ".join(map(spelled_atom, [*jaxpr.constvars, *jaxpr.invars])))
    for eqn in jaxpr.eqns:
        operands = " ".join(map(spelled_atom, eqn.invars))
        results = " ".join(map(spelled_atom, eqn.outvars))
        lines.append(f"{results} = {eqn.primitive.name} {spelled(eqn.params)} {operands}")
    lines.append(" ".join(map(spelled_atom, jaxpr.outvars)))
    return _hash("\n".join(lines).encode())


def spelled(value: Any) -> str:
    """A value as text that is the same in every process; of an object of no known kind its type.

    Args:
        value: a parameter of an equation, or any tree of numbers, arrays and containers.

    Returns:
        The text, with a digest in place of the entries of an array.

    Example:
        >>> spelled({"rate": (0.1, 1.0), "rule": abs})
        'dict{rate: (0.1, 1.0), rule: builtin_function_or_method}'
    """
    if isinstance(value, core.ClosedJaxpr):
        return _digest_of(value.jaxpr, value.consts)
    if isinstance(value, core.Jaxpr):
        return _digest_of(value, ())
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _spelled_array(value)
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, np.dtype):
        return str(value)
    return _spelled_tree(value)


def _spelled_tree(value: Any) -> str:
    """A container, part by part."""
    name = type(value).__name__
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        value = dict(zip(names, value, strict=True))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        pairs = {str(key): part for key, part in value.items()}
        shown = [key for key in sorted(pairs) if key == _KEPT or not key.endswith(_HIDDEN)]
        return f"{name}{{{', '.join(f'{key}: {spelled(pairs[key])}' for key in shown)}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(spelled, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(spelled, value)))}}}"
    return value.__name__ if isinstance(value, type) else name


def _spelled_array(value: Any) -> str:
    """The kind of an array and a digest of its bits; of a typed key, those of its data."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    kind = f"{value.dtype}{list(value.shape)}"
    if isinstance(value, jax.Array) and not (
        value.is_fully_addressable or value.is_fully_replicated
    ):
        return kind  # no process has all of it
    return f"{kind}{_hash(np.ascontiguousarray(value).tobytes())}"


def _kind(aval: Any) -> str:
    """The dtype and the shape of a variable; of a token its type."""
    if not hasattr(aval, "dtype"):
        return type(aval).__name__
    weak = "weak " if getattr(aval, "weak_type", False) else ""
    return f"{weak}{aval.dtype}{list(getattr(aval, 'shape', ()))}"


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
