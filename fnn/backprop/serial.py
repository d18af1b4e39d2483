"""Forward and backward through a serial network, one part after the other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree, Scalar

from fnn.layers import Layer, require_layers


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Part:
    """What passes through one part of a network, forward and backward.

    The outputs of a dense layer are the pre-activations a of its units, and those of the function
    after it their activations z.

    Attributes:
        params: the parameters of the part.
        inputs: the inputs of the part.
        outputs: the outputs of the part.
        delta: dE/d outputs, of the structure of the outputs.
        grad: dE/d params, of the structure of the parameters.
        name: the name of the part.
    """

    params: PyTree
    inputs: PyTree
    outputs: PyTree
    delta: PyTree
    grad: PyTree
    name: str = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Trace:
    """One example's way through a network, and back.

    Attributes:
        value: the loss E.
        parts: the parts, from the inputs to the outputs.
        delta: dE/dx, the derivative in the example itself.
        grad: dE/d params, of the structure of the parameters.
    """

    value: Scalar
    parts: tuple[Part, ...]
    delta: PyTree
    grad: PyTree


def trace(
    model: Layer, loss: Callable[[Any, Any], Scalar], params: PyTree, x: PyTree, t: PyTree
) -> Trace:
    """Back-propagation of one example: every activation, pre-activation, delta and gradient.

        forward     outputs_i = part_i(params_i, outputs_(i-1)),  outputs_0 = x
        backward    delta_n = dE/d outputs_n
                    grad_i, delta_(i-1) = delta_i times the derivatives of part_i

    For a dense part the second line of the backward pass is grad = (z delta^T, delta) and
    delta_(i-1) = W delta; for a function of every unit alone it is delta_(i-1) = h'(a) delta.
    All deltas are computed before any update.

    A batch is `jax.vmap(trace, (None, None, None, 0, 0))` (model and loss bound): the gradient of
    the mean loss is the mean of its gradients.

    Args:
        model: a `serial` network, perhaps with others in it; each other layer is one part.
        loss: `loss(outputs, target) -> scalar`.
        params: the model's parameters.
        x: one example.
        t: its target.

    Returns:
        The trace.

    Source:
        Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
        Nature 323 (1986), doi:10.1038/323533a0.

    Example:
        >>> from fnn import layers, losses
        >>> model = layers.serial(layers.dense(1), layers.elementwise(jnp.tanh))
        >>> params = ({"weight": jnp.zeros((2, 1)), "bias": jnp.zeros(1)}, ())
        >>> x, t = jnp.array([3.0, 4.0]), jnp.ones(1)
        >>> traced = trace(model, losses.half_squared_error, params, x, t)
        >>> [part.delta.tolist() for part in traced.parts]
        [[-1.0], [-1.0]]
        >>> traced.grad[0]["weight"].tolist()
        [[-3.0], [-4.0]]
    """
    require_layers("trace", model)
    jax.eval_shape(model.apply, params, x)  # An example that does not fit is refused by its layer.
    pieces, order = _pieces(model, params)

    signals, backs = [x], []
    for layer, own in pieces:
        outputs, back = jax.vjp(layer.apply, own, signals[-1])
        signals.append(outputs)
        backs.append(back)

    value, delta = jax.value_and_grad(loss)(signals[-1], t)

    parts: list[Part] = []
    for (layer, own), back, inputs, outputs in reversed([
        *zip(pieces, backs, signals[:-1], signals[1:], strict=True)
    ]):
        grad, before = back(delta)
        parts.insert(0, Part(own, inputs, outputs, delta, grad, layer.name))
        delta = before
    return Trace(value, tuple(parts), delta, jax.tree.map(lambda i: parts[i].grad, order))


def value_after(
    model: Layer,
    loss: Callable[[Any, Any], Scalar],
    params: PyTree,
    t: PyTree,
    part: int,
) -> Callable[[PyTree], Scalar]:
    """E as a function of one part's outputs, whose gradient is that part's delta.

    Args:
        model: a `serial` network.
        loss: `loss(outputs, target) -> scalar`.
        params: the model's parameters.
        t: the target of the example.
        part: the number of the part, as in `Trace.parts`; -1 is the last.

    Returns:
        `value(outputs)`, a function to be perturbed in one of the outputs.

    Raises:
        IndexError: if there is no such part.

    Example:
        >>> from fnn import layers, losses
        >>> model = layers.serial(layers.elementwise(jnp.tanh), layers.elementwise(jnp.square))
        >>> value = value_after(model, losses.half_squared_error, ((), ()), jnp.array([1.0]), 0)
        >>> float(value(jnp.array([3.0])))
        32.0
    """
    require_layers("value_after", model)
    pieces, _ = _pieces(model, params)
    if not -len(pieces) <= part < len(pieces):
        raise IndexError(
            f"value_after: expected a part in 0..{len(pieces) - 1}, got {part}; try -1, the last"
        )
    after = pieces[part % len(pieces) + 1 :]

    def value(outputs: PyTree) -> Scalar:
        for layer, own in after:
            outputs = layer.apply(own, outputs)
        return loss(outputs, t)

    return value


def _pieces(model: Layer, params: PyTree) -> tuple[list[tuple[Layer, PyTree]], PyTree]:
    """The layers of nested serials in a row, and the parameters' tree with the number of each."""
    pieces: list[tuple[Layer, PyTree]] = []

    def visit(layer: Layer, own: PyTree, nothing: None) -> tuple[PyTree, None]:
        if layer.name == "serial" and layer.through is not None:
            return layer.through(visit, own, nothing)
        pieces.append((layer, jax.tree.map(jnp.asarray, own)))
        return len(pieces) - 1, nothing

    order, _ = visit(model, params, None)
    return pieces, order
