"""Restricted Boltzmann machines: hidden units that explain binary data, with no loss to minimize.

Visible units v and hidden units h are 0 or 1, and a state has the energy

    E(v, h) = -v weights h - visible v - hidden h

and a probability in proportion to exp(-E). Units of one kind do not see each other, so given the
others each is on by itself, with a probability that `upwards` and `downwards` tell, and the sum
over all hidden states has a closed form, the free energy. The likelihood of data needs a sum over
all visible states, too. Contrastive divergence goes without it:

    machine = init(key, inputs, 64)
    machine, _ = train(rules.sgd(0.1), machine, inputs, epochs=50, key=key)
    features = upwards(machine, inputs)

and `pretrain` learns machines on top of each other, for the layers of a deep belief network.

Source: Hinton, "Training products of experts by minimizing contrastive divergence" (2002),
doi:10.1162/089976602760128018; Hinton, Osindero and Teh, "A fast learning algorithm for deep belief
nets" (2006), doi:10.1162/neco.2006.18.7.1527.
"""

import functools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from fnn.batches import require_hashable
from fnn.devices import is_traced
from fnn.products import dot

__all__ = [
    "Machine",
    "contrast",
    "downwards",
    "free_energy",
    "init",
    "log_likelihood",
    "pretrain",
    "states",
    "train",
    "upwards",
]
__dir__ = __all__.copy

_ENUMERABLE = 20  # units: a million states of 160 MB


class Machine(NamedTuple):
    """A restricted Boltzmann machine: its parameters, and a tree like any other.

    Attributes:
        weights: between visible and hidden units.
        visible: biases of the visible units.
        hidden: biases of the hidden units.
    """

    weights: Float[Array, "visible hidden"]
    visible: Float[Array, " visible"]
    hidden: Float[Array, " hidden"]


def init(
    key: PRNGKeyArray, inputs: Float[Array, "n visible"], hidden: int, scale: float = 0.01
) -> Machine:
    """A machine of small Gaussian weights, whose visible biases give each unit its mean in data.

    Args:
        key: of the weights.
        inputs: numbers in [0, 1], the examples that will be learned.
        hidden: units, at least 1.
        scale: standard deviation of the weights, at least 0.

    Returns:
        The machine, in the dtype of `inputs` where that is a floating one.

    Raises:
        ValueError: where `inputs` are no rows of examples, or outside of [0, 1].

    Source:
        Hinton, "A practical guide to training restricted Boltzmann machines" (2010), section 8.

    Example:
        >>> machine = init(jax.random.key(0), jnp.array([[0.0, 1.0], [1.0, 1.0]]), 3)
        >>> machine.weights.shape, machine.hidden.tolist()
        ((2, 3), [0.0, 0.0, 0.0])
    """
    inputs = _require_units("init", inputs)
    if not isinstance(hidden, Integral) or hidden < 1:
        raise ValueError(
            f"init: expected at least 1 hidden unit, a whole number, got {hidden}; try 64"
        )
    means = jnp.clip(jnp.mean(inputs, axis=0), 0.01, 0.99)
    weights = scale * jax.random.normal(key, (len(means), hidden), means.dtype)
    return Machine(weights, jax.scipy.special.logit(means), jnp.zeros(hidden, means.dtype))


def upwards(machine: Machine, v: Float[Array, "*n visible"]) -> Float[Array, "*n hidden"]:
    """The probabilities that hidden units are on, sigmoid(hidden + v weights).

    Args:
        machine: its parameters.
        v: visible units, 0 or 1, or probabilities in their place.

    Returns:
        A probability for each hidden unit.

    Example:
        >>> machine = Machine(jnp.ones((2, 1)), jnp.zeros(2), jnp.array([-2.0]))
        >>> upwards(machine, jnp.ones(2)).tolist()
        [0.5]
    """
    return jax.nn.sigmoid(machine.hidden + v @ machine.weights)


def downwards(machine: Machine, h: Float[Array, "*n hidden"]) -> Float[Array, "*n visible"]:
    """The probabilities that visible units are on, sigmoid(visible + weights h).

    Args:
        machine: its parameters.
        h: hidden units, 0 or 1, or probabilities in their place.

    Returns:
        A probability for each visible unit.

    Example:
        >>> machine = Machine(jnp.ones((2, 1)), jnp.array([-1.0, -1.0]), jnp.zeros(1))
        >>> downwards(machine, jnp.ones(1)).tolist()
        [0.5, 0.5]
    """
    return jax.nn.sigmoid(machine.visible + h @ machine.weights.T)


def free_energy(machine: Machine, v: Float[Array, "*n visible"]) -> Float[Array, "*n"]:
    """-log of the sum of exp(-E(v, h)) over all hidden states, in closed form.

    The lower it is, the likelier the visible state; differences of two states are differences of
    their log-probabilities, which need no sum over visible states.

    Args:
        machine: its parameters.
        v: visible units, 0 or 1.

    Returns:
        An energy for each example.

    Example:
        >>> machine = Machine(jnp.zeros((2, 3)), jnp.zeros(2), jnp.zeros(3))
        >>> round(float(free_energy(machine, jnp.ones(2))), 4)  # -log(2^3)
        -2.0794
    """
    softplus = jax.nn.softplus(machine.hidden + dot(v, machine.weights))
    return -dot(v, machine.visible) - softplus.sum(axis=-1)


def log_likelihood(machine: Machine, v: Float[Array, "*n visible"]) -> Float[Array, ""]:
    """The mean of log p(v) over examples, in nats, by a sum over all visible states.

    It is exact and differentiable, so that any rule can train a small machine on
    `fnn.penalty(lambda machine: -log_likelihood(machine, v))`.

    Args:
        machine: of at most 20 visible units (`states` refuses more).
        v: examples, of units that are 0 or 1.

    Returns:
        At most 0.

    Example:
        >>> machine = Machine(jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros(1))
        >>> round(float(log_likelihood(machine, jnp.ones((1, 2)))), 4)  # one of four states
        -1.3863
    """
    everything = jax.nn.logsumexp(-free_energy(machine, states(machine.visible.shape[0])))
    return jnp.mean(-free_energy(machine, v)) - everything


def states(n: int) -> Float[Array, "2^n n"]:
    """All states of n units that are 0 or 1.

    Args:
        n: units, in [0, 20].

    Returns:
        A row for each state, in the order of binary numbers.

    Raises:
        ValueError: where n is out of this range.

    Example:
        >>> states(2).tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    if not isinstance(n, Integral) or not 0 <= n <= _ENUMERABLE:
        raise ValueError(
            f"states: expected at most {_ENUMERABLE} units to enumerate, got {n}; try free_energy, "
            "whose differences compare two states of any machine"
        )
    return jnp.indices((2,) * n).reshape(n, 2**n).T.astype(float)


def contrast(machine: Machine, v: Float[Array, "n visible"], key: PRNGKeyArray) -> Machine:
    """CD-1: how often units are on, alone and in pairs, in the data less a Gibbs step later.

    To follow it raises the likelihood roughly; no function has it for a gradient. Its mean is zero
    where the data are the machine's own.

    Args:
        machine: whose parameters are to change.
        v: examples of 0 and 1, or of probabilities.
        key: of the Gibbs step.

    Returns:
        A direction for each parameter.

    Example:
        >>> machine = Machine(jnp.zeros((2, 1)), jnp.zeros(2), jnp.zeros(1))
        >>> contrast(machine, jnp.ones((1000, 2)), jax.random.key(0)).visible.round(1).tolist()
        [0.5, 0.5]
    """
    keys = jax.random.split(key)
    h = jax.random.bernoulli(keys[0], upwards(machine, v)).astype(v.dtype)
    later = jax.random.bernoulli(keys[1], downwards(machine, h)).astype(v.dtype)
    return jax.tree.map(jnp.subtract, _statistics(machine, v), _statistics(machine, later))


def train(
    rule: optax.GradientTransformation,
    machine: Machine,
    inputs: Float[Array, "n visible"],
    *,
    epochs: int,
    key: PRNGKeyArray,
    batch_size: int = 20,
    watch: Callable[[Machine], Any] = lambda _: (),
) -> tuple[Machine, Any]:
    """A machine after some epochs of contrastive divergence, in one compiled program.

    Args:
        rule: what turns directions into updates, such as `rules.sgd(0.1)`: of first order and
            without a value, for there is none.
        machine: where to start, see `init`.
        inputs: examples of 0 and 1, or of probabilities.
        epochs: of `n // batch_size` batches each, drawn with replacement; at least 0.
        key: of batches and Gibbs steps.
        batch_size: examples of a batch, in [1, n].
        watch: `machine -> tree of arrays`, looked at before each epoch and at the end; pass the
            same function again, or it is compiled anew.

    Returns:
        The machine, and what `watch` saw, stacked along a first axis of `epochs + 1`.

    Raises:
        TypeError: where the rule is none.
        ValueError: where shapes do not fit, inputs are outside of [0, 1], or a batch is larger
            than the data.

    Example:
        >>> from fnn import rules
        >>> inputs = jnp.tile(jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), (20, 1))
        >>> start = init(jax.random.key(0), inputs, 2)
        >>> plan = {"epochs": 100, "key": jax.random.key(1)}
        >>> machine, _ = train(rules.sgd(0.5), start, inputs, **plan)
        >>> bool(log_likelihood(machine, inputs) > log_likelihood(start, inputs) + 0.5)
        True
    """
    inputs = _require_units("train", inputs)
    if inputs.shape[1] != machine.visible.shape[0]:
        raise ValueError(
            f"train: expected examples of {machine.visible.shape[0]} visible units, got "
            f"{inputs.shape[1]}; try init(key, inputs, hidden)"
        )
    if not isinstance(rule, optax.GradientTransformation):
        raise TypeError(f"train: expected a rule, got {rule!r}; try rules.sgd(0.1)")
    if not isinstance(batch_size, Integral) or not 1 <= batch_size <= len(inputs):
        raise ValueError(
            f"train: expected a batch_size of 1 to {len(inputs)} examples, got {batch_size}; try "
            f"{min(20, len(inputs))}"
        )
    if not isinstance(epochs, Integral) or epochs < 0:
        raise ValueError(
            f"train: expected epochs to be a whole number of at least 0, got {epochs}; try 50"
        )
    require_hashable("train", watch)
    return _trained(rule, machine, inputs, key, epochs, batch_size, watch)


def pretrain(
    rule: optax.GradientTransformation,
    widths: Sequence[int],
    inputs: Float[Array, "n visible"],
    *,
    epochs: int,
    key: PRNGKeyArray,
    batch_size: int = 20,
) -> list[Machine]:
    """Machines on top of each other, each trained on the hidden units of the one before.

    As layers of logistic units, `weights` and `hidden` of each machine are where fine-tuning
    starts.

    Args:
        rule: see `train`.
        widths: hidden units of each machine.
        inputs: examples of 0 and 1, or of probabilities.
        epochs: for each machine.
        key: of weights, batches and Gibbs steps.
        batch_size: examples of a batch.

    Returns:
        A machine for each width, the one that sees the inputs first.

    Source:
        Hinton, Osindero and Teh (2006); Bengio et al., "Greedy layer-wise training of deep
        networks" (2006).

    Example:
        >>> from fnn import rules
        >>> plan = {"epochs": 1, "key": jax.random.key(0), "batch_size": 2}
        >>> machines = pretrain(rules.sgd(0.1), [4, 3], jnp.eye(6), **plan)
        >>> [machine.weights.shape for machine in machines]
        [(6, 4), (4, 3)]
    """
    machines, train_on = [], functools.partial(train, epochs=epochs, batch_size=batch_size)
    for hidden, (start, steps) in zip(widths, jax.random.split(key, (len(widths), 2)), strict=True):
        machine, _ = train_on(rule, init(start, inputs, hidden), inputs, key=steps)
        inputs = upwards(machine, inputs)
        machines.append(machine)
    return machines


@functools.partial(jax.jit, static_argnames=("rule", "epochs", "batch_size", "watch"))
def _trained(
    rule: optax.GradientTransformation,
    machine: Machine,
    inputs: Array,
    key: PRNGKeyArray,
    epochs: int,
    batch_size: int,
    watch: Callable[[Machine], Any],
) -> tuple[Machine, Any]:
    """`train`, compiled."""

    def step(carry: tuple[Machine, Any], key: PRNGKeyArray) -> tuple[tuple[Machine, Any], None]:
        machine, state = carry
        at, gibbs = jax.random.split(key)
        v = inputs[jax.random.randint(at, (batch_size,), 0, len(inputs))]
        downhill = jax.tree.map(jnp.negative, contrast(machine, v, gibbs))
        updates, state = rule.update(downhill, state, machine)
        moved: Any = optax.apply_updates(machine, updates)
        return (moved, state), None

    def epoch(carry: tuple[Machine, Any], key: PRNGKeyArray) -> tuple[tuple[Machine, Any], Any]:
        keys = jax.random.split(key, len(inputs) // batch_size)
        return jax.lax.scan(step, carry, keys)[0], watch(carry[0])

    start = machine, rule.init(machine)
    (machine, _), seen = jax.lax.scan(epoch, start, jax.random.split(key, epochs))
    return machine, jax.tree.map(lambda a, b: jnp.append(a, b[None], 0), seen, watch(machine))


def _statistics(machine: Machine, v: Array) -> Machine:
    """How often units are on in examples, alone and in pairs."""
    h = upwards(machine, v)
    return Machine(v.T @ h / len(v), jnp.mean(v, axis=0), jnp.mean(h, axis=0))


def _require_units(name: str, inputs: Any) -> Array:
    """Rows of numbers in [0, 1]; what is traced is not looked at."""
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        inputs = inputs.astype(float)
    if inputs.ndim != 2 or not inputs.size:
        raise ValueError(
            f"{name}: expected inputs of shape (examples, visible units), got "
            f"{inputs.shape}; try inputs.reshape(len(inputs), -1)"
        )
    if not is_traced(inputs) and not bool(((inputs >= 0) & (inputs <= 1)).all()):
        raise ValueError(
            f"{name}: expected inputs in [0, 1], got {float(inputs.min()):.3g} to "
            f"{float(inputs.max()):.3g}; try data > threshold"
        )
    return inputs
