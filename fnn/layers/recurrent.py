"""Recurrent cells, and the scan that runs one over a sequence.

A `Cell` is one step of a recurrence, from a state and an input to the next state and an output;
`scan_over(cell)` is the layer that takes a sequence through it. Weights of the input ("weight") and
of the state ("recurrent") are stored (fan_in, gates * features), the gates side by side, so that a
step is two matrix products. Both start with variance 1 / fan_in; `jax.nn.initializers.orthogonal()`
for `recurrent` is the usual alternative.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from fnn.dtypes import widest
from fnn.layers.combinators import fan_in_concatenate, fan_out
from fnn.layers.layer import (
    LECUN_NORMAL,
    Initializer,
    Layer,
    draw,
    require_example,
    require_features,
    require_kept,
    require_params,
    require_positions,
    require_positive,
)


class Cell(NamedTuple):
    """One step of a recurrence: three pure functions.

        init(key, x) -> params
        start(params, x) -> state
        step(params, state, x, *, key=None) -> (state, outputs)

    x is the input of one step. The state is any tree of arrays, whose shapes and dtypes no step
    changes. A key means training, as in a `Layer`.

    Attributes:
        init: makes the parameters.
        start: makes the state before the first step.
        step: makes the next state and the outputs.
        name: what errors call the cell.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> total = layers.Cell(
        ...     init=lambda key, x: (),
        ...     start=lambda params, x: jnp.zeros_like(x),
        ...     step=lambda params, state, x, *, key=None: (state + x, state + x),
        ... )
        >>> layers.scan_over(total).apply((), jnp.array([1.0, 2.0, 3.0])).tolist()
        [1.0, 3.0, 6.0]
    """

    init: Callable[[PRNGKeyArray, Any], PyTree]
    start: Callable[[PyTree, Any], PyTree]
    step: Callable[..., tuple[PyTree, Any]]
    name: str = "cell"


def scan_over(cell: Cell, *, reverse: bool = False) -> Layer:
    """A recurrence over the first axis of the inputs: the outputs of every step.

    The last output alone is `serial(scan_over(cell), elementwise(lambda h: h[-1]))`; for the last
    state, and another first one, see `scan_from`.

    Args:
        cell: the step.
        reverse: whether it starts at the last position; outputs stay beside their inputs.

    Shapes: (steps, *shape) to (steps, *outputs).

    Returns:
        A layer with the params of the cell.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> layer = layers.scan_over(layers.gru(8))
        >>> text = jax.ShapeDtypeStruct((5, 3), "float32")
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), text)
        >>> jax.eval_shape(layer.apply, params, text).shape
        (5, 8)
    """
    scan, name = _scan("scan_over", cell, reverse)

    def init(key: PRNGKeyArray, x: Any) -> PyTree:
        return scan.init(key, (None, x))

    def apply(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> Any:
        return scan.apply(params, (None, x), key=key)[1]

    return Layer(init, apply, name)


def scan_from(cell: Cell, *, reverse: bool = False) -> Layer:
    """A recurrence from a given state: (state, inputs) to (last state, outputs).

    An encoder hands its last state to a decoder:

        state, memory = encoder.apply(params["encoder"], (None, source))
        state, outputs = decoder.apply(params["decoder"], (state, target))

    Args:
        cell: the step.
        reverse: whether it starts at the last position; outputs stay beside their inputs.

    Shapes: a state of the cell, or None for the one that it starts from, and (steps, *shape), to a
        state and (steps, *outputs). Without a step, the state comes out as it came in.

    Returns:
        A layer with the params of the cell; its `apply` raises a ValueError for a state of other
        shapes than the cell's.

    Source: Sutskever, Vinyals and Le (2014), arXiv:1409.3215, the encoder and decoder.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer = layers.scan_from(layers.elman(1, activation=lambda h: h))
        >>> params = {"weight": jnp.eye(1), "recurrent": jnp.eye(1), "bias": jnp.zeros(1)}
        >>> state, outputs = layer.apply(params, (jnp.array([5.0]), jnp.array([[1.0], [2.0]])))
        >>> state.tolist(), outputs.ravel().tolist()
        ([8.0], [6.0, 8.0])
    """
    return _scan("scan_from", cell, reverse)[0]


def bidirectional(forward: Cell, backward: Cell) -> Layer:
    """Two recurrences, one from either end, their outputs side by side.

    Args:
        forward: the step of the one that starts at the first position.
        backward: the step of the one that starts at the last.

    Shapes: (steps, *shape) to (steps, features of forward + features of backward).

    Returns:
        A layer with a tuple of the params of both cells.

    Source: Schuster and Paliwal (1997), doi:10.1109/78.650093.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> layer = layers.bidirectional(layers.gru(8), layers.gru(8))
        >>> text = jax.ShapeDtypeStruct((5, 3), "float32")
        >>> params = jax.eval_shape(layer.init, jax.random.key(0), text)
        >>> jax.eval_shape(layer.apply, params, text).shape
        (5, 16)
    """
    for cell in (forward, backward):
        _require_cell("bidirectional", cell)
    both = fan_out(scan_over(forward), scan_over(backward, reverse=True))
    join = fan_in_concatenate()

    def apply(params: PyTree, x: Any, *, key: PRNGKeyArray | None = None) -> Array:
        return join.apply((), both.apply(params, x, key=key))

    return Layer(both.init, apply, f"bidirectional({forward.name}, {backward.name})")


def _scan(kind: str, cell: Cell, reverse: bool) -> tuple[Layer, str]:
    """The layer from (state, x) to (last state, outputs), and its name."""
    _require_cell(kind, cell)
    name = f"{kind}({cell.name})"

    def init(key: PRNGKeyArray, x: tuple[PyTree, Any]) -> PyTree:
        _, sequence = pair(x)
        return cell.init(key, one_step(sequence))

    def apply(
        params: PyTree, x: tuple[PyTree, Any], *, key: PRNGKeyArray | None = None
    ) -> tuple[PyTree, Any]:
        state, sequence = pair(x)
        keys = None if key is None else jax.random.split(key, require_positions(name, sequence))

        def step(state: PyTree, inputs: tuple[Any, PRNGKeyArray | None]) -> tuple[PyTree, Any]:
            x, key = inputs
            after, outputs = cell.step(params, state, x, key=key)
            require_kept(name, "step", state, after, "a start of the state's own shape")
            return after, outputs

        start = from_state(cell.start(params, one_step(sequence)), state)
        return jax.lax.scan(step, start, (sequence, keys), reverse=reverse)

    def pair(x: Any) -> tuple[PyTree, Any]:
        if not (isinstance(x, (tuple, list)) and len(x) == 2):
            raise TypeError(
                f"{name}: expected a tuple (state, inputs), got {type(x).__name__}; try "
                "(None, inputs), which starts as the cell does"
            )
        require_positions(name, x[1])
        return x[0], x[1]

    def from_state(start: PyTree, state: PyTree) -> PyTree:
        if state is None:
            return start
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (start, state)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"{name}: expected a state of shapes {shapes[0]}, got {shapes[1]}; try None"
            )
        return jax.tree.map(lambda a, b: jnp.asarray(b).astype(widest(a, b)), start, state)

    def one_step(x: Any) -> Any:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), x)

    return Layer(init, apply, name), name


def _require_cell(kind: str, cell: Any) -> None:
    """Refuse what is no cell."""
    if not isinstance(cell, Cell):
        raise TypeError(
            f"{kind}: expected a Cell, got {type(cell).__name__}; try layers.gru(8), or "
            "layers.each for a layer without a state"
        )


def elman(
    features: int,
    *,
    activation: Callable[[Array], Array] = jnp.tanh,
    weight: Initializer = LECUN_NORMAL,
    recurrent: Initializer = LECUN_NORMAL,
) -> Cell:
    """The simple recurrent network: h = activation(x @ weight + h @ recurrent + bias).

    The outputs are the state h, which starts at zero.

    Args:
        features: size of the state, > 0.
        activation: of the state.
        weight: initializer of the (fan_in, features) weights of the inputs.
        recurrent: initializer of the (features, features) weights of the state.

    Shapes: inputs (fan_in,); state and outputs (features,).

    Returns:
        A cell with params {"weight", "recurrent", "bias"}.

    Source: Elman (1990), Finding structure in time, doi:10.1207/s15516709cog1402_1.

    Differs: tanh in place of the logistic function.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnn import layers
        >>> layer = layers.scan_over(layers.elman(1, activation=lambda h: h))
        >>> params = {"weight": jnp.eye(1), "recurrent": jnp.eye(1), "bias": jnp.zeros(1)}
        >>> layer.apply(params, jnp.array([[1.0], [2.0]])).tolist()
        [[1.0], [3.0]]
    """
    name = f"elman({features})"
    require_positive(name, features)

    def step(
        params: PyTree, state: Array, x: Array, *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, Array]:
        del key
        from_x, from_state, bias = _products(name, params, state, x)
        state = activation(from_x + from_state + bias)
        return state, state

    def start(params: PyTree, x: Any) -> Array:
        return _zeros(features, params, x)

    return Cell(_init(name, features, 1, weight, recurrent), start, step, name)


def gru(
    features: int, *, weight: Initializer = LECUN_NORMAL, recurrent: Initializer = LECUN_NORMAL
) -> Cell:
    """The gated recurrent unit.

    With reset gate r, update gate z and candidate n, the gates in this order in the parameters:

        r = sigmoid(x W_r + h U_r + b_r)
        z = sigmoid(x W_z + h U_z + b_z)
        n = tanh(x W_n + b_n + r * (h U_n + c))
        h = (1 - z) * n + z * h

    The outputs are the state h, which starts at zero.

    Args:
        features: size of the state, > 0.
        weight: initializer of W, (fan_in, features) for each gate.
        recurrent: initializer of U, (features, features) for each gate.

    Shapes: inputs (fan_in,); state and outputs (features,).

    Returns:
        A cell with params {"weight": W, "recurrent": U, "bias": b, "recurrent_bias": c}.

    Source: Cho et al. (2014), arXiv:1406.1078.

    Differs: the reset gate acts after the product with U_n, not before, so that one product serves
    all gates; most libraries do the same.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> cell, x = layers.gru(8), jax.ShapeDtypeStruct((3,), "float32")
        >>> jax.eval_shape(cell.init, jax.random.key(0), x)["recurrent"].shape
        (8, 24)
    """
    name = f"gru({features})"
    require_positive(name, features)
    init_gates = _init(name, features, 3, weight, recurrent)

    def init(key: PRNGKeyArray, x: Float[Array, " fan_in"]) -> dict[str, Array]:
        params = init_gates(key, x)
        return params | {"recurrent_bias": jnp.zeros_like(params["bias"], shape=(features,))}

    def step(
        params: PyTree, state: Array, x: Array, *, key: PRNGKeyArray | None = None
    ) -> tuple[Array, Array]:
        del key
        from_x, from_state, bias = _products(name, params, state, x)
        (recurrent_bias,) = require_params(name, params, "recurrent_bias")
        reset_x, update_x, candidate_x = jnp.split(from_x + bias, 3)
        reset_h, update_h, candidate_h = jnp.split(from_state, 3)
        reset, update = jax.nn.sigmoid(reset_x + reset_h), jax.nn.sigmoid(update_x + update_h)
        candidate = jnp.tanh(candidate_x + reset * (candidate_h + recurrent_bias))
        state = (1 - update) * candidate + update * state
        return state, state

    def start(params: PyTree, x: Any) -> Array:
        return _zeros(features, params, x)

    return Cell(init, start, step, name)


def lstm(
    features: int, *, weight: Initializer = LECUN_NORMAL, recurrent: Initializer = LECUN_NORMAL
) -> Cell:
    """Long short-term memory.

    With input, forget and output gates i, f, o and candidate g, in the order i, f, g, o in the
    parameters:

        i, f, o = sigmoid(x W + h U + b), each with its own W, U, b
        g = tanh(x W_g + h U_g + b_g)
        c = f * c + i * g
        h = o * tanh(c)

    The state is (h, c) and starts at zero; the outputs are h. The biases of the forget gate start
    at 1, all others at 0.

    Args:
        features: size of h and c, > 0.
        weight: initializer of W, (fan_in, features) for each gate.
        recurrent: initializer of U, (features, features) for each gate.

    Shapes: inputs (fan_in,); state (features,) twice; outputs (features,).

    Returns:
        A cell with params {"weight": W, "recurrent": U, "bias": b}.

    Source: Hochreiter and Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; the forget gate of
    Gers, Schmidhuber and Cummins (2000), doi:10.1162/089976600300015015; its bias of Jozefowicz,
    Zaremba and Sutskever (2015), https://proceedings.mlr.press/v37/jozefowicz15.html.

    Example:
        >>> import jax
        >>> from fnn import layers
        >>> cell, x = layers.lstm(2), jax.ShapeDtypeStruct((3,), "float32")
        >>> jax.eval_shape(cell.init, jax.random.key(0), x)["weight"].shape
        (3, 8)
    """
    name = f"lstm({features})"
    require_positive(name, features)
    init_gates = _init(name, features, 4, weight, recurrent)

    def init(key: PRNGKeyArray, x: Float[Array, " fan_in"]) -> dict[str, Array]:
        params = init_gates(key, x)
        return params | {"bias": params["bias"].at[features : 2 * features].set(1)}

    def step(
        params: PyTree,
        state: tuple[Array, Array],
        x: Array,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[tuple[Array, Array], Array]:
        del key
        hidden, memory = state
        from_x, from_state, bias = _products(name, params, hidden, x)
        write, keep, candidate, read = jnp.split(from_x + from_state + bias, 4)
        memory = jax.nn.sigmoid(keep) * memory + jax.nn.sigmoid(write) * jnp.tanh(candidate)
        hidden = jax.nn.sigmoid(read) * jnp.tanh(memory)
        return (hidden, memory), hidden

    def start(params: PyTree, x: Any) -> tuple[Array, Array]:
        zeros = _zeros(features, params, x)
        return zeros, zeros

    return Cell(init, start, step, name)


def _init(
    name: str, features: int, gates: int, weight: Initializer, recurrent: Initializer
) -> Callable[[PRNGKeyArray, Any], dict[str, Array]]:
    """The weights of all gates side by side, each gate drawn by itself for the sake of its fans."""

    def init(key: PRNGKeyArray, x: Float[Array, " fan_in"]) -> dict[str, Array]:
        example = require_example(name, x, "features")

        def side_by_side(initializer: Initializer, key: PRNGKeyArray, fan_in: int) -> Array:
            shape, keys = (fan_in, features), jax.random.split(key, gates)
            return jnp.concatenate([draw(initializer, k, shape, example.dtype) for k in keys], 1)

        weight_key, recurrent_key = jax.random.split(key)
        return {
            "weight": side_by_side(weight, weight_key, example.shape[0]),
            "recurrent": side_by_side(recurrent, recurrent_key, features),
            "bias": jnp.zeros(gates * features, example.dtype),
        }

    return init


def _products(name: str, params: PyTree, state: Array, x: Array) -> tuple[Array, Array, Array]:
    """The gates' sums from the inputs and from the state, and the biases."""
    require_example(name, x, "features")
    weight, recurrent, bias = require_params(name, params, "weight", "recurrent", "bias")
    require_features(name, x.shape[0], weight.shape[0])
    return x @ weight, state @ recurrent, bias


def _zeros(features: int, params: PyTree, x: Any) -> Array:
    """The state at the start, in the dtype that every later state has."""
    return jnp.zeros(features, widest(x.dtype, *jax.tree.leaves(params)))
