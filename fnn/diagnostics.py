"""What flows through a network: how large signals and gradients are, layer by layer.

    for name, signal in signals(model, loss, params, data).items():
        print(name, signal.outputs, signal.deltas, signal.grad, signal.dead)

Vanishing gradients are `deltas` that fall toward the inputs, exploding ones grow; saturated or
vanishing signals show in `outputs`, dead rectified units in `dead`. What reaches each time step of
a recurrent network is the gradient in its inputs, `jax.grad(lambda x: loss(apply(params, x), t))`.
The curvature at the end point is `fnn.curvature.spectrum`'s to tell.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree, Scalar

from fnn.layers import Layer
from fnn.objective import EXAMPLES, Loss

__all__ = ["Signal", "signals"]
__dir__ = __all__.copy


class Signal(NamedTuple):
    """What goes forward out of a layer, and what comes back to it.

    Attributes:
        outputs: root mean square of its outputs.
        deltas: root mean square of the derivative of an example's loss in them.
        grad: norm of the gradient of the mean loss in its parameters; 0 if it has none.
        dead: the share of outputs whose delta is 0 for every example: what is before them does not
            learn from them. (Of a dense layer before rectified units, those that are never active.)
        inactive: the share of outputs and examples whose delta is 0.
    """

    outputs: Scalar
    deltas: Scalar
    grad: Scalar
    dead: Scalar
    inactive: Scalar


def signals(
    model: Layer, loss: Loss, params: PyTree, data: tuple[PyTree, PyTree]
) -> dict[str, Signal]:
    """Signals and gradients at every layer that is a single piece, in the order of data flow.

    Every output gets a perturbation of 0, and one backward pass the derivatives in all of them.
    There is no key: nothing is dropped.

    Args:
        model: a layer; what is made of layers is seen into.
        loss: `loss(outputs, target) -> scalar` of one example.
        params: the model's.
        data: inputs and targets.

    Returns:
        A signal for each, under its number and name. Inside `each`, positions count as examples.

    Example:
        >>> from fnn import layers, losses
        >>> model = layers.serial(layers.dense(2), layers.elementwise(jax.nn.relu))
        >>> params = {"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}, ()
        >>> data = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 2))
        >>> seen = signals(model, losses.half_squared_error, params, data)
        >>> [(name, float(signal.dead)) for name, signal in seen.items()]
        [('0 dense(2)', 0.5), ('1 elementwise(relu)', 0.5)]
    """
    inputs, targets = jax.tree.map(jnp.asarray, tuple(data))
    n = len(jax.tree.leaves(inputs)[0])

    def run(replaced: list | None) -> tuple[Scalar, list[tuple[str, PyTree, PyTree]]]:
        # The sum of losses, and of each piece its name, parameters and outputs. `replaced` has for
        # each piece its parameters and what is added to its outputs.
        pieces: list[tuple[str, PyTree, PyTree]] = []

        def visit(layer: Layer, part: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
            if layer.through is not None:
                return layer.through(visit, part, batch)
            own = part if replaced is None else replaced[len(pieces)][0]
            outputs = jax.vmap(lambda x: layer.apply(own, x), axis_name=EXAMPLES)(batch)
            if replaced is not None:
                outputs = jax.tree.map(jnp.add, outputs, replaced[len(pieces)][1])
            pieces.append((layer.name, own, outputs))
            return part, outputs

        _, outputs = visit(model, params, inputs)
        return jnp.sum(jax.vmap(loss)(outputs, targets)), pieces

    _, pieces = run(None)
    at = [(part, jax.tree.map(jnp.zeros_like, outputs)) for _, part, outputs in pieces]
    grads = jax.grad(lambda replaced: run(replaced)[0])(at)
    digits = len(str(len(pieces) - 1))  # for jit sorts the keys of a dict
    return {
        f"{i:0{digits}} {name}": _signal(outputs, deltas, optax.tree.norm(grad) / n)
        for i, ((name, _, outputs), (grad, deltas)) in enumerate(zip(pieces, grads, strict=True))
    }


def _signal(outputs: PyTree, deltas: PyTree, grad: Scalar) -> Signal:
    def rows(tree: PyTree) -> Float[Array, "n units"]:
        return jnp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(tree)], axis=1)

    y, delta = rows(outputs), rows(deltas)
    silent = delta == 0
    return Signal(
        outputs=jnp.sqrt(jnp.mean(y**2)),
        deltas=jnp.sqrt(jnp.mean(delta**2)),
        grad=jnp.asarray(grad),
        dead=jnp.mean(jnp.all(silent, axis=0)),
        inactive=jnp.mean(silent),
    )
