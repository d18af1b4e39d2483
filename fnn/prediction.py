"""Outputs of many examples, a few at a time."""

import functools
from numbers import Integral
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from fnn import devices
from fnn.arrays import as_arrays
from fnn.batches import answers, count_examples, require_hashable
from fnn.layers import Layer
from fnn.objective import Model, Objective, ValueFunction

__all__ = ["predict"]
__dir__ = __all__.copy

CHUNK = 1024
"""Examples at a time: of the digits network enough to be as fast as all at once, and of images with
a megabyte of features each no more than a gigabyte."""


def predict(
    model: Model | Objective | Layer, params: PyTree, inputs: PyTree, *, chunk: int | None = None
) -> PyTree:
    """The outputs of a model for any number of examples, without a key (inference).

    The examples go to the device in chunks of one size, the last one filled up, and their outputs
    come back as arrays of NumPy: the device's memory is bounded, and so is the number of programs,
    one for each size of a chunk, kept by the identity of the model.

    Args:
        model: `model(params, x) -> outputs` of one example, of fnn or any other; or a layer; or an
            objective, whose model is meant.
        params: its parameters.
        inputs: a tree of arrays whose first axis counts the examples, in memory or mapped from a
            file; read a chunk at a time.
        chunk: examples at a time, at least 1; None is 1024.

    Returns:
        The outputs, stacked along a first axis.

    Raises:
        ValueError: if `chunk` is not a whole number above 0, or arrays disagree on the number of
            examples, or there are none. (A TypeError refuses a value function, which has data of
            its own and no outputs, and what is no function or one that cannot be hashed.)

    Example:
        >>> import numpy as np
        >>> predict(lambda w, x: w * x, 2.0, np.arange(4.0), chunk=3).tolist()
        [0.0, 2.0, 4.0, 6.0]
    """
    function = _model_of(model)
    require_hashable("predict", function)
    if chunk is not None and not (isinstance(chunk, Integral) and chunk >= 1):
        raise ValueError(
            f"predict: expected chunk to be a whole number above 0, got {chunk!r}; try None, which "
            f"is {CHUNK}"
        )
    inputs = as_arrays("predict", "inputs", inputs)
    n = count_examples(inputs, None)
    size = min(n, CHUNK if chunk is None else int(chunk))
    parts, waiting = [], None
    for first in range(0, n, size):
        rows = functools.partial(_rows, first=first, size=size)
        outputs = _outputs(function, params, jax.tree.map(rows, inputs))
        if waiting is not None:  # it comes back while the device computes the next one
            parts.append(jax.device_get(waiting))
        waiting = outputs
    parts.append(jax.device_get(waiting))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *parts)


def _model_of(model: Any) -> Model:
    """The function of one example that is meant, or the error that it deserves."""
    if isinstance(model, ValueFunction):
        raise TypeError(
            "predict: expected a model or an Objective, got a value function, which has data of "
            "its own and gives a value; try the model that it was made of, with new inputs"
        )
    if isinstance(model, Objective):
        return model.model
    if isinstance(model, Layer):
        return model.apply
    if callable(model):
        return model
    raise TypeError(
        f"predict: expected a model(params, x) -> outputs, got {type(model).__name__}; try a "
        "function of the parameters and one example"
    )


def _rows(leaf: Any, first: int, size: int) -> Any:
    """So many entries from one on; where there are fewer, the last one again."""
    if isinstance(leaf, jax.Array) and first + size <= len(leaf):
        return jax.lax.dynamic_slice_in_dim(leaf, first, size)  # one program, whatever `first` is
    part = leaf[first : first + size]
    missing = size - len(part)
    if not missing:
        return part
    stack = np if isinstance(part, np.ndarray) else jax.numpy
    return stack.concatenate([part, stack.repeat(part[-1:], missing, axis=0)])


_outputs = devices.jit(answers, static_argnames="model")
