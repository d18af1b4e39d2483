"""What flows through a network: how large signals and gradients are, layer by layer.

    for name, signal in signals(model, loss, params, data).items():
        print(name, signal.outputs, signal.deltas, signal.grad, signal.dead)

Vanishing gradients are `deltas` that fall toward the inputs, exploding ones grow; saturated or
vanishing signals show in `outputs`, dead rectified units in `dead`. What reaches each time step of
a recurrent network is the gradient in its inputs, `jax.grad(lambda x: loss(apply(params, x), t))`.
For the curvature at the end point see `fnn.curvature.spectrum`.
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
    """The sizes of what goes forward out of a layer, and of what comes back to it.

    Attributes:
        outputs: the root mean square of its outputs.
        deltas: the root mean square of the derivative of an example's loss in them.
        grad: the norm of the gradient of the mean loss in its parameters; 0 if it has none.
        dead: the share of outputs whose delta is 0 for every example, from which the layers before
            learn nothing. (In a dense layer before rectified units they are never active.)
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

    A perturbation of 0 is added to every output, and one backward pass gives the derivatives in all
    of them. There is no key, so that nothing is dropped.

    Args:
        model: a layer; where it is made of layers, each of these has its own signal.
        loss: `loss(outputs, target) -> scalar` of one example.
        params: the parameters of the model.
        data: inputs and targets.

    Returns:
        The signal of each layer, under its number and name. Inside `each`, positions count as
        examples.

    Example:
        >>> from fnn import layers, losses
        >>> model = layers.serial(layers.dense(2), layers.elementwise(jax.nn.relu))
        >>> params = {"weight": jnp.array([[1.0, -1.0]]), "bias": jnp.zeros(2)}, ()
        >>> data = jnp.array([[1.0], [2.0]]), jnp.zeros((2, 2))
        >>> flow = signals(model, losses.half_squared_error, params, data)
        >>> [(name, float(signal.dead)) for name, signal in flow.items()]
        [('0 dense(2)', 0.5), ('1 elementwise(relu)', 0.5)]
    """
    inputs, targets = jax.tree.map(jnp.asarray, tuple(data))
    n = len(jax.tree.leaves(inputs)[0])

    def run(changes: list | None) -> tuple[Scalar, list[tuple[str, PyTree, PyTree]]]:
        """The sum of losses, and each piece's name, parameters and outputs."""
        # `changes` has for each piece the parameters to take, and what to add to its outputs.
        pieces: list[tuple[str, PyTree, PyTree]] = []

        def visit(layer: Layer, part: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
            if layer.through is not None:
                return layer.through(visit, part, batch)
            own = part if changes is None else changes[len(pieces)][0]
            outputs = jax.vmap(lambda x: layer.apply(own, x), axis_name=EXAMPLES)(batch)
            if changes is not None:
                outputs = jax.tree.map(jnp.add, outputs, changes[len(pieces)][1])
            pieces.append((layer.name, own, outputs))
            return part, outputs

        _, outputs = visit(model, params, inputs)
        return jnp.sum(jax.vmap(loss)(outputs, targets)), pieces

    _, pieces = run(None)
    zeros = [(part, jax.tree.map(jnp.zeros_like, outputs)) for _, part, outputs in pieces]
    grads = jax.grad(lambda changes: run(changes)[0])(zeros)
    digits = len(str(len(pieces) - 1))  # All numbers have as many, because jit sorts a dict's keys.
    return {
        f"{i:0{digits}} {name}": _signal(outputs, deltas, optax.tree.norm(grad) / n)
        for i, ((name, _, outputs), (grad, deltas)) in enumerate(zip(pieces, grads, strict=True))
    }


def _signal(outputs: PyTree, deltas: PyTree, grad: Scalar) -> Signal:
    """The signal of a layer from its outputs, their deltas and the norm of its gradient."""

    def rows(tree: PyTree) -> Float[Array, "n units"]:
        return jnp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(tree)], axis=1)

    y, delta = rows(outputs), rows(deltas)
    is_zero = delta == 0
    return Signal(
        outputs=jnp.sqrt(jnp.mean(y**2)),
        deltas=jnp.sqrt(jnp.mean(delta**2)),
        grad=jnp.asarray(grad),
        dead=jnp.mean(jnp.all(is_zero, axis=0)),
        inactive=jnp.mean(is_zero),
    )
