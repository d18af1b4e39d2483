"""What settings ask to be learned: examples, a network, and the compiled functions that look."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import curvature, data, devices, layers, losses, training
from fnn.objective import Objective, ValueFunction, l2
from fnn.play.settings import Settings
from fnn.problems import Budget, Measure, Problem
from fnn.race import ENTRANTS

TURNS = 2.5
"""With so many turns 2-8-8-1 separates the arms, and first-order rules take thousands of steps to
(`benchmarks/playing.py`)."""

CELLS = 48
"""The decision grid has so many cells along each axis; the browser smooths them."""

THUMB = 16
"""Likewise for the output of one hidden unit, which is drawn a fifth as large."""

SLICE = 22
"""Likewise for the slice of the loss, at each of which all examples are judged."""

MOST_CURVED = 400
"""The most parameters whose Hessian is made and taken apart for a picture: 60 ms on one core."""

_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "sin": jnp.sin,
}
_FEATURES: dict[str, Callable[[Array], Array]] = {
    "x": lambda xy: xy[:, 0],
    "y": lambda xy: xy[:, 1],
    "x^2": lambda xy: xy[:, 0] ** 2,
    "y^2": lambda xy: xy[:, 1] ** 2,
    "xy": lambda xy: xy[:, 0] * xy[:, 1],
    "sin x": lambda xy: jnp.sin(xy[:, 0]),
    "sin y": lambda xy: jnp.sin(xy[:, 1]),
}


class Task(NamedTuple):
    """What is learned.

    Attributes:
        points: all points, first those that are trained on.
        heights: their targets, classes as 0 and 1.
        trained: how many are trained on.
        train: examples as the objective takes them.
        test: likewise.
        box: pictures show the square [-box, box]^2.
        grid: features of the cells of the decision grid, row by row from the top.
        thumbs: likewise for pictures of units.
        params: the starting point of both rules.
        key: of the batches.
    """

    points: Float[np.ndarray, "n 2"]
    heights: Float[np.ndarray, " n"]
    trained: int
    train: tuple[Array, Array]
    test: tuple[Array, Array]
    box: float
    grid: Float[Array, "cells features"]
    thumbs: Float[Array, "cells features"]
    params: PyTree
    key: Array


class Network(NamedTuple):
    """What programs are compiled for: no number that a slider moves."""

    units: tuple[int, ...]
    activation: str
    is_regression: bool


class Look(NamedTuple):
    """What is seen of a network.

    Attributes:
        loss: the mean over the training examples, without regularization.
        test: the mean over the test examples.
        right: the share of the test examples in the right class.
        slope: the norm of the gradient of what is minimized.
        grid: outputs on the decision grid.
        hidden: outputs of each hidden unit on the small grid, a row for each unit.
    """

    loss: Scalar
    test: Scalar
    right: Scalar
    slope: Scalar
    grid: Float[Array, "cells cells"]
    hidden: Float[Array, "units thumb thumb"]


class Curvature(NamedTuple):
    """The Hessian's eigenvalues, ascending, and the gradient's components along its vectors."""

    eigenvalues: Float[Array, " P"]
    slopes: Float[Array, " P"]


def task_of(settings: Settings) -> Task:
    """The examples and the starting point that settings ask for."""
    maker = getattr(data, settings.data)
    more = {"turns": TURNS} if settings.data == "spirals" else {}
    drawn = maker(settings.examples, noise=settings.noise, seed=settings.seed, **more)
    order = np.random.default_rng(settings.seed).permutation(settings.examples)
    points, heights = drawn.inputs[order], drawn.targets[order].astype(np.float32)
    trained = max(1, settings.examples * settings.train // 100)
    points = data.standardization(points[:trained]).apply(points).astype(np.float32)
    box = 1.08 * float(np.abs(points).max())
    start, key = jax.random.split(jax.random.key(settings.seed))

    def features(xy: np.ndarray) -> Array:
        return jnp.stack([_FEATURES[name](jnp.asarray(xy)) for name in settings.seen], -1)

    inputs, targets = features(points), jnp.asarray(heights)[:, None]
    params = _model(network_of(settings))[0](start, inputs[0])
    return Task(
        points,
        heights,
        trained,
        (inputs[:trained], targets[:trained]),
        (inputs[trained:], targets[trained:]),
        box,
        features(cells(box, CELLS)),
        features(cells(box, THUMB)),
        params,
        key,
    )


def network_of(settings: Settings) -> Network:
    """The network that settings ask for."""
    return Network(settings.units, settings.activation, settings.is_regression)


def cells(box: float, count: int) -> Float[np.ndarray, "cells 2"]:
    """The middles of the cells of a picture, row by row from the top."""
    middles = (np.arange(count, dtype=np.float32) + 0.5) / count * 2 * box - box
    return np.stack(np.meshgrid(middles, middles[::-1]), -1).reshape(-1, 2)


# The network --------------------------------------------------------------------------------------


@functools.lru_cache(16)
def _model(network: Network) -> tuple[Callable[..., PyTree], Callable[..., Any], Objective]:
    """Its start, `trace(params, x)` with the outputs of all layers, and the objective."""
    widths = (*network.units, 1)
    dense = [layers.dense(width) for width in widths]
    activation = _ACTIVATIONS[network.activation]

    def init(key: Array, x: Array) -> PyTree:
        params = []
        for layer, layer_key in zip(dense, jax.random.split(key, len(dense)), strict=True):
            params.append(layer.init(layer_key, x))
            x = layer.apply(params[-1], x)
        return params

    def trace(params: PyTree, x: Array) -> list[Array]:
        outputs = []
        for place, (layer, mine) in enumerate(zip(dense, params, strict=True)):
            x = layer.apply(mine, x)
            x = x if place == len(dense) - 1 else activation(x)
            outputs.append(x)
        return outputs

    loss = losses.half_squared_error if network.is_regression else losses.logistic
    return init, trace, Objective(lambda params, x: trace(params, x)[-1], loss)


def objective_of(network: Network) -> Objective:
    """The model with its loss."""
    return _model(network)[2]


def minimized(
    network: Network, weight: Scalar | None, examples: tuple[Array, Array]
) -> ValueFunction:
    """The loss with its regularization, if there is any."""
    loss = objective_of(network).on(examples)
    return loss if weight is None else loss + l2(weight)


# Programs -----------------------------------------------------------------------------------------


class Carry(NamedTuple):
    """Where a rule stands."""

    params: PyTree
    state: PyTree
    step: Array


class Program(NamedTuple):
    """A rule on a network, compiled once for all numbers of its sliders."""

    start: Callable[..., Carry]
    advance: Callable[..., Carry]


@functools.lru_cache(16)
def program_of(network: Network, features: int, trained: int, batch: int, rule: str) -> Program:
    """The compiled functions of a rule; 16 of them are kept, so that memory is flat."""
    entrant = ENTRANTS[rule]
    problem = _problem_of(network, features, trained, batch)
    if missing := entrant.misses(problem):
        raise ValueError(f"{rule}: expected {missing}; try another rule")
    size = entrant.examples(problem)

    def start(numbers: dict[str, Scalar], params: PyTree) -> Carry:
        return Carry(params, entrant.make(problem, **numbers).init(params), jnp.int32(0))

    def advance(
        numbers: dict[str, Scalar],
        weight: Scalar | None,
        examples: tuple[Array, Array],
        key: Array,
        carry: Carry,
        steps: Array,
    ) -> Carry:
        made = entrant.make(problem, **numbers)

        def one(_: Array, carry: Carry) -> Carry:
            batch = _drawn(examples, size, jax.random.fold_in(key, carry.step))
            value_fn = minimized(network, weight, batch)
            params, state, _ = training.step(made, carry.state, carry.params, value_fn)
            return Carry(params, state, carry.step + 1)

        return jax.lax.fori_loop(0, steps, one, carry)

    return Program(devices.jit(start), devices.jit(advance))


def _problem_of(network: Network, features: int, trained: int, batch: int) -> Problem:
    """What a rule is made for: shapes alone, whose numbers are not read."""
    init, _, objective = _model(network)
    inputs = jnp.zeros((trained, features), jnp.float32)
    return Problem(
        name="playground",
        summary="",
        source="",
        init=lambda key: init(key, inputs[0]),
        objective=objective,
        train=(inputs, inputs[:, :1]),
        validation=None,
        test=None,
        measure=Measure("", lambda *_: jnp.zeros(())),
        batch_size=batch or None,
        budget=Budget(1, "steps"),
        target=0.0,
    )


def _drawn(examples: tuple[Array, Array], size: int, key: Array) -> tuple[Array, Array]:
    """A batch of so many examples; all of them where there are no more."""
    n = len(examples[0])
    if size >= n:
        return examples
    chosen = jax.random.choice(key, n, (size,), replace=False)
    return examples[0][chosen], examples[1][chosen]


class Views(NamedTuple):
    """The compiled functions that look at a network."""

    look: Callable[..., Look]
    curvature: Callable[..., Curvature]
    on_slice: Callable[..., Array]


@functools.lru_cache(16)
def views_of(network: Network) -> Views:
    """The compiled functions that look at a network of this kind."""
    _, trace, objective = _model(network)

    def look(params: PyTree, weight: Scalar | None, task: tuple[Any, ...]) -> Look:
        train, test, grid, thumbs = task
        answers = objective.outputs(params, test[0])
        hidden = jax.vmap(trace, (None, 0))(params, thumbs)[:-1]
        units = jnp.concatenate([thumbs[:, :0], *hidden], -1)
        grad = jax.grad(minimized(network, weight, train))(params)
        squares = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad))
        return Look(
            objective.on(train)(params),
            objective.on(test)(params),
            jnp.mean((answers > 0) == (test[1] > 0.5)),
            jnp.sqrt(squares),
            objective.outputs(params, grid).reshape(CELLS, CELLS),
            units.T.reshape(-1, THUMB, THUMB),
        )

    def curved(params: PyTree, weight: Scalar | None, train: tuple[Array, Array]) -> Curvature:
        seen = curvature.hessian(minimized(network, weight, train), params)
        grad, _ = ravel_pytree(seen.grad)
        eigenvalues, vectors = jnp.linalg.eigh(seen.dense())
        return Curvature(eigenvalues, vectors.T @ grad)

    def on_slice(
        start: PyTree,
        axes: Array,
        corners: Array,
        weight: Scalar | None,
        train: tuple[Array, Array],
    ) -> Array:
        value_fn = minimized(network, weight, train)
        flat, tree = ravel_pytree(start)
        ticks = (jnp.arange(SLICE) + 0.5) / SLICE
        across, up = corners[:, :1] + ticks * (corners[:, 1:] - corners[:, :1])
        places = jnp.stack(jnp.meshgrid(across, up[::-1]), -1).reshape(-1, 2)
        values = jax.lax.map(lambda at: value_fn(tree(flat + at @ axes)), places, batch_size=SLICE)
        return values.reshape(SLICE, SLICE)

    return Views(*map(devices.jit, (look, curved, on_slice)))


def size_of(params: PyTree) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
