"""What the scripts of restricted Boltzmann machines share: training by CD-1, and exact sums."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Machine(NamedTuple):
    """Its energy is -v weights h - visible v - hidden h, of units that are 0 or 1."""

    weights: jax.Array
    visible: jax.Array
    hidden: jax.Array


def start(key, inputs, n, scale=0.01):
    """Small weights to n hidden units; visible biases that give each pixel its mean."""
    means = jnp.clip(jnp.mean(inputs, axis=0), 0.01, 0.99)
    weights = scale * jax.random.normal(key, (len(means), n))
    return Machine(weights, jax.scipy.special.logit(means), jnp.zeros(n))


def upwards(machine, v):
    """Probabilities of the hidden units."""
    return jax.nn.sigmoid(machine.hidden + v @ machine.weights)


def downwards(machine, h):
    """Probabilities of the visible units."""
    return jax.nn.sigmoid(machine.visible + h @ machine.weights.T)


def error(machine, v):
    """The mean squared difference of examples and what comes back by way of the hidden units."""
    return jnp.mean((downwards(machine, upwards(machine, v)) - v) ** 2)


def free_energy(machine, v):
    """-log of the sum of exp(-energy) over all hidden states, in closed form."""
    return -v @ machine.visible - jax.nn.softplus(machine.hidden + v @ machine.weights).sum(axis=-1)


def statistics(machine, v, shares):
    """How often units are on, alone and in pairs, where examples have these shares."""
    h = upwards(machine, v)
    return Machine((shares[:, None] * v).T @ h, shares @ v, shares @ h)


def contrast(machine, v, key):
    """CD-1: statistics of data less those a Gibbs step later. No loss has this for a gradient."""
    keys, shares = jax.random.split(key), jnp.full(len(v), 1 / len(v))
    h = jax.random.bernoulli(keys[0], upwards(machine, v)).astype(v.dtype)
    later = jax.random.bernoulli(keys[1], downwards(machine, h)).astype(v.dtype)
    new, old = (statistics(machine, x, shares) for x in (v, later))
    return jax.tree.map(jnp.subtract, new, old)


@functools.partial(jax.jit, static_argnames=("epochs", "watch", "batch"))
def trained(machine, inputs, key, epochs, watch=lambda _: (), rate=0.1, batch=20):
    """The machine after training, and what `watch` saw before each epoch and at the end."""

    def step(machine, key):
        at, gibbs = jax.random.split(key)
        v = inputs[jax.random.randint(at, (batch,), 0, len(inputs))]
        change = contrast(machine, v, gibbs)
        return jax.tree.map(lambda p, c: p + rate * c, machine, change), None

    def epoch(machine, key):
        keys = jax.random.split(key, len(inputs) // batch)
        return jax.lax.scan(step, machine, keys)[0], watch(machine)

    machine, seen = jax.lax.scan(epoch, machine, jax.random.split(key, epochs))
    return machine, jax.tree.map(lambda a, b: jnp.append(a, b[None], 0), seen, watch(machine))


def pretrained(params, widths, inputs, key, epochs):
    """A network's layers as machines learned them, each from the hidden units of the one before."""
    keys, stack = jax.random.split(key, (len(widths), 2)), list(params)
    for (layer, n), (first, then) in zip(widths.items(), keys, strict=True):
        machine, _ = trained(start(first, inputs, n), inputs, then, epochs)
        stack[layer] = {"weight": machine.weights, "bias": machine.hidden}
        inputs = upwards(machine, inputs)
    return tuple(stack)


def states(n):
    """All 2^n states of n units."""
    return jnp.indices((2,) * n).reshape(n, -1).T.astype(float)


def log_likelihood(machine, v):
    """The mean log-probability of examples, by a sum over all visible states."""
    everything = jax.nn.logsumexp(-free_energy(machine, states(v.shape[1])))
    return jnp.mean(-free_energy(machine, v)) - everything


def phases(machine, v):
    """The gradient of the log-likelihood: statistics of the data less those of the machine."""
    every, shares = states(v.shape[1]), jnp.full(len(v), 1 / len(v))
    own = jax.nn.softmax(-free_energy(machine, every))
    positive, negative = statistics(machine, v, shares), statistics(machine, every, own)
    return jax.tree.map(jnp.subtract, positive, negative)


def row(name, params, rule, steps, seconds, fact):
    """Prints a line of a table."""
    count = f"{optax.tree.size(params)} parameters"
    print(f"{name:13}{count:17}{rule:21}{steps:5} steps{seconds:6.1f} s   {fact}")
