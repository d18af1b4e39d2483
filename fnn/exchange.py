"""Parameters in a file that other programs read: safetensors, names and arrays and nothing else.

`save` writes a tree of arrays, each under the path of its leaf ("0.weight" is params[0]["weight"]),
and `load` reads them back, alone or into the shape of a tree. There is no code in such a file, and
nothing in it is ever unpickled. What a training needs to go on is kept by `fit(..., checkpoint=)`.

Source: Hugging Face, "Safetensors", https://huggingface.co/docs/safetensors.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from fnn import requirements

__all__ = ["load", "save"]
__dir__ = __all__.copy


def save(path: str | Path, params: PyTree) -> Path:
    """Writes parameters to a safetensors file, whole or not at all.

    Args:
        path: the file; one that is there is replaced once the new one is written.
        params: a tree of arrays.

    Returns:
        The file.

    Raises:
        ValueError: if two leaves have the same name, as those of {"a.b": x} and {"a": {"b": x}},
            or if there are none.
        TypeError: if a leaf is not an array of numbers.
        OSError: if the file cannot be written; one that was there stays.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save(f"{folder}/line.safetensors", [{"bias": jnp.ones(2)}, jnp.ones(())])
        ...     sorted(load(file))
        ['0.bias', '1']
    """
    arrays = {}
    for name, leaf in _named(params):
        if name in arrays:
            raise ValueError(
                f"exchange.save: expected a name for every leaf, got two of the name {name}; try "
                "keys without dots"
            )
        if not (isinstance(leaf, jax.Array | np.ndarray) and _is_number(leaf)):
            raise TypeError(
                f"exchange.save: expected arrays of numbers, got {leaf!r} as {name}; try "
                "jnp.asarray, or jax.random.key_data for a key"
            )
        arrays[name] = jnp.asarray(leaf)
    if not arrays:
        raise ValueError("exchange.save: expected arrays, got a tree without any")
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    save_file = _safetensors().save_file
    try:
        save_file(arrays, str(beside))
        os.replace(beside, path)
    except Exception as error:
        raise OSError(f"exchange.save: expected to write {path}, got {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def load(path: str | Path, like: PyTree = None) -> PyTree:
    """Reads parameters from a safetensors file.

    Args:
        path: the file.
        like: a tree of arrays or of `jax.ShapeDtypeStruct`, such as `jax.eval_shape(layer.init,
            key, x)` gives, that says what is expected.

    Returns:
        A tree of the structure of `like`; without it, arrays by their names.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: without the extra `checkpoint`.
        ValueError: if the file is damaged or of another format, or has leaves that are missing,
            too many, or of another shape or dtype.

    Example:
        >>> import tempfile
        >>> params = {"weight": jnp.arange(3, dtype=jnp.bfloat16)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = save(f"{folder}/weights.safetensors", params)
        ...     load(file, like=params)
        {'weight': Array([0, 1, 2], dtype=bfloat16)}
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"exchange.load: expected a file, got {path}; try another path")
    try:
        arrays: dict[str, Array] = _safetensors().load_file(str(path))
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(
            f"exchange.load: expected a safetensors file, got {path} ({error}); try to fetch it "
            "again"
        ) from error
    if like is None:
        return arrays
    expected = {name: _kind(leaf) for name, leaf in _named(like)}
    present = {name: _kind(array) for name, array in arrays.items()}
    differ = [
        f"{name} of {expected.get(name, 'no such name')}, got {present.get(name, 'none')}"
        for name in expected | present
        if expected.get(name) != present.get(name)
    ]
    if differ:
        raise ValueError(
            f"exchange.load: expected in {path} {'; '.join(differ[:4])}"
            f"{'; ...' * (len(differ) > 4)}; try load without like= and build the tree from that"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name, _ in _named(like)])


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    leaves = jax.tree.leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in leaves]


def _kind(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _is_number(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool


def _safetensors() -> Any:
    return requirements.load("exchange", "safetensors.flax")
