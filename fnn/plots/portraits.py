"""A portrait of a trained model: every picture that its data and its size allow."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fnn import curvature
from fnn.objective import Block, Objective, ValueFunction
from fnn.plots.networks import (
    confusion,
    decision_regions,
    features,
    function_fit,
    loss_slice,
    loss_surface,
    spectrum,
)

DENSE = 3000
"""The most parameters of a curvature that is written down for its eigenvalues. Two matrices of so
many rows take 144 megabytes in float64, and the eigenvalues of one took a minute on two cores that
others used as well."""


def portraits(
    value_fn: ValueFunction,
    params: PyTree,
    objective: Objective | None = None,
    data: tuple[Any, Any] | None = None,
    *,
    key: Key[Array, ""],
) -> dict[str, Figure]:
    """Pictures of a model at its parameters.

    Args:
        value_fn: the loss that it was trained on, for `slice`, `surface` and, up to `DENSE`
            parameters, `spectrum`, the eigenvalues of Hessian and Gauss-Newton matrix.
        params: the parameters.
        objective: the model, if there is one.
        data: inputs and targets to show it on: classes of points in the plane as `regions`, a
            function of one variable as `fit`, classes as `confusion`. Where an example is a square
            image and a weight has a row for each pixel, its columns are shown as `features`.
        key: of the two random directions of slice and surface; leaf by leaf they are as long as
            the parameters.

    Returns:
        A figure for each name.

    Source:
        Li, Xu, Taylor, Studer and Goldstein, "Visualizing the loss landscape of neural nets"
        (2018), arXiv:1712.09913, for the length of the directions.

    Example:
        >>> import fnn
        >>> line = fnn.Objective(lambda w, x: w * x, lambda y, t: jnp.sum((y - t) ** 2))
        >>> data = jnp.arange(4.0)[:, None], 3 * jnp.arange(4.0)[:, None]
        >>> sorted(portraits(line.on(data), jnp.ones(1), line, data, key=jax.random.key(0)))
        ['fit', 'slice', 'spectrum', 'surface']
    """
    figures: dict[str, Figure] = {}

    def blank(name: str, title: str, size: tuple[float, float] = (5.2, 4)) -> Axes:
        figures[name] = Figure(figsize=size, layout="constrained")
        axes = figures[name].subplots()
        axes.set_title(title, fontsize="medium")
        return axes

    # Pictures are of inputs that are one array, not of pairs.
    if objective is not None and data is not None and len(jax.tree.leaves(data)) == 2:
        _answers(blank, params, objective, data)
        size = math.prod(np.shape(data[0])[1:])
        weights = _images(params, size)
        if weights is not None:
            side = math.isqrt(size)
            features(blank("features", "weights of the hidden units"), weights.T, (side, side))

    first, second = (_direction(part, params) for part in jax.random.split(key))
    ways = {"a random direction": first, "another": second}
    loss_slice(blank("slice", "loss along lines"), value_fn, params, ways).legend(frameon=False)
    axes = blank("surface", "loss on a plane, the end marked")
    loss_surface(axes, value_fn, params, (first, second))
    if sum(leaf.size for leaf in jax.tree.leaves(params)) <= DENSE:
        axes = blank("spectrum", "curvature at the end")
        spectrum(axes, _eigenvalues(value_fn, params)).legend(frameon=False)
    return figures


def _answers(
    blank: Callable[..., Axes], params: PyTree, objective: Objective, data: tuple[Any, Any]
) -> None:
    """Draws what the model answers: to which class an example belongs, or a function of x."""
    inputs, targets = map(np.asarray, data)
    outputs = np.asarray(jax.jit(objective.outputs)(params, data[0]))
    classes = _classes(outputs, targets)
    if classes is not None:
        answers, truth = classes
        title = f"{np.mean(answers == truth):.1%} are right"
        confusion(blank("confusion", title, (4.4, 4.4)), answers, truth)
        if inputs.shape[1:] == (2,):
            low, high = inputs.min(axis=0), inputs.max(axis=0)
            margin, model = (high - low) / 10, objective.model
            xlim, ylim = zip(low - margin, high + margin, strict=True)
            axes = blank("regions", title)
            decision_regions(axes, lambda x: model(params, x), xlim, ylim, data=(inputs, truth))
    elif inputs.shape == targets.shape == outputs.shape == (len(inputs), 1):
        error = np.sqrt(np.mean((outputs - targets) ** 2))
        axes = blank("fit", f"root mean square error {error:.2g}")
        function_fit(axes, inputs[:, 0], targets[:, 0], outputs[:, 0])
        axes.legend(frameon=False)


def _classes(outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The answers and the true classes, where targets are classes."""
    if np.issubdtype(targets.dtype, np.integer) and outputs.ndim == targets.ndim + 1 == 2:
        return outputs.argmax(axis=1), targets
    if outputs.shape == targets.shape and outputs[0].size == 1:
        labels = set(np.unique(targets).tolist())
        if labels in ({0.0, 1.0}, {-1.0, 1.0}):
            return (outputs.ravel() > 0).astype(int), (targets.ravel() > 0).astype(int)
    return None


def _images(params: PyTree, size: int) -> np.ndarray | None:
    """The first matrix with a row for each pixel of a square image of at least 4 x 4."""
    if size < 16 or math.isqrt(size) ** 2 != size:
        return None
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(params))
    return next((leaf for leaf in leaves if leaf.ndim == 2 and len(leaf) == size), None)


def _direction(key: Array, params: PyTree) -> PyTree:
    """A random tree, each of whose leaves is as long as that of the parameters."""

    def along_leaf(key: Array, leaf: Array) -> Array:
        noise = jax.random.normal(key, leaf.shape, leaf.dtype)
        return noise * jnp.linalg.norm(leaf.ravel()) / jnp.linalg.norm(noise.ravel())

    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.asarray, params))
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [*map(along_leaf, keys, leaves)])


def _eigenvalues(value_fn: ValueFunction, params: PyTree) -> dict[str, np.ndarray]:
    """The eigenvalues of the Hessian and, where the loss is seen, of the Gauss-Newton matrix."""
    operators: dict[str, Callable[..., curvature.Operator]] = {"Hessian": curvature.hessian}
    if any(isinstance(term.block, Block) for term in value_fn.terms):
        operators["Gauss-Newton"] = curvature.gauss_newton

    @jax.jit
    def eigenvalues(value_fn: ValueFunction, params: PyTree) -> dict[str, Array]:
        return {
            name: jnp.linalg.eigvalsh(operator(value_fn, params).dense())
            for name, operator in operators.items()
        }

    return {name: np.asarray(values) for name, values in eigenvalues(value_fn, params).items()}
