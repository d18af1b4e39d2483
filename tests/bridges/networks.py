"""One network in four frameworks: convolution, batch normalization, dropout, dense.

Of each its bridge, and what its own users would write: training over a list of batches, statistics
by running averages, and inference.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fnn import bridges

MOMENTUM = 0.9
AXIS = "examples"


def mean_loss(outputs, labels):
    return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()


class Network(NamedTuple):
    """A network, without dropout where it is compared with batches of its own."""

    bridge: Callable[[float], bridges.Bridge]  # at a rate of dropout
    train: Callable[..., Any]  # (params, rule, batches) -> own parameters, values
    infer: Callable[..., Any]  # (what the bridge gives back, inputs) -> outputs
    update: Callable[..., Any]  # (params, statistics, inputs) -> the next running averages
    dropped: Callable[..., Any] | None  # (params, inputs, keys) -> outputs with dropout
    wide: bool = False  # whether it computes in float64


def loop(step, carry, batches):
    step, values = jax.jit(step), []
    for batch in batches:
        carry, value = step(carry, batch)
        values.append(value)
    return carry, jnp.stack(values)


# Flax's linen ------------------------------------------------------------------------------------


class Linen(nn.Module):
    rate: float = 0.5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(3, (2, 2))(x)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=MOMENTUM, axis_name=self.axis_name
        )
        x = nn.Dropout(self.rate, deterministic=not train)(nn.relu(norm(x)))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


def linen_bridge(rate):
    return bridges.from_flax(Linen(rate), lambda training: {"train": training})


def linen_variables(params, statistics):
    return {"params": params, "batch_stats": statistics}


def linen_train(variables, rule, batches):
    module = Linen(0.0)

    def step(carry, batch):
        params, statistics, state = carry

        def value(params):
            outputs, changed = module.apply(
                linen_variables(params, statistics), batch[0], train=True, mutable=["batch_stats"]
            )
            return mean_loss(outputs, batch[1]), changed["batch_stats"]

        (value, statistics), grad = jax.value_and_grad(value, has_aux=True)(params)
        updates, state = rule.update(grad, state, params)
        return (optax.apply_updates(params, updates), statistics, state), value

    params, statistics = variables
    (params, _, _), values = loop(step, (params, statistics, rule.init(params)), batches)
    return params, values


def linen_infer(variables, inputs):
    return Linen().apply(variables, inputs, train=False)


def linen_update(params, statistics, inputs):
    variables = linen_variables(params, statistics)
    changed = Linen(0.0).apply(variables, inputs, train=True, mutable=["batch_stats"])[1]
    return changed["batch_stats"]


def linen_dropped(variables, inputs, keys):
    def one(x, key):
        return Linen(axis_name=AXIS).apply(
            linen_variables(*variables),
            x[None],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )[0][0]

    return jax.vmap(one, axis_name=AXIS)(inputs, keys)


# Flax's nnx --------------------------------------------------------------------------------------


class Nnx(nnx.Module):
    def __init__(self, rate, rngs):
        self.conv = nnx.Conv(1, 3, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(3, momentum=MOMENTUM, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.dense = nnx.Linear(48, 3, rngs=rngs)

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.conv(x))))
        return self.dense(x.reshape(x.shape[0], -1))


def nnx_bridge(rate):
    return bridges.from_nnx(Nnx(rate, nnx.Rngs(0)))


def nnx_train(variables, rule, batches):
    module = Nnx(0.0, nnx.Rngs(0))
    nnx.update(module, *variables)
    optimizer = nnx.Optimizer(module, rule, wrt=nnx.Param)
    module.train()

    @nnx.jit
    def step(module, optimizer, batch):
        value, grad = nnx.value_and_grad(lambda m: mean_loss(m(batch[0]), batch[1]))(module)
        optimizer.update(module, grad)
        return value

    values = [step(module, optimizer, batch) for batch in batches]
    return nnx.state(module, nnx.Param), jnp.stack(values)


def nnx_infer(module, inputs):
    module.eval()
    return module(inputs)


def nnx_update(params, statistics, inputs):
    module = Nnx(0.0, nnx.Rngs(0))
    graph, _, _, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    module = nnx.merge(graph, params, statistics, rest, copy=True)
    module.train()
    module(inputs)
    return nnx.state(module, nnx.BatchStat)


# Equinox -----------------------------------------------------------------------------------------


class Equinox(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    dense: eqx.nn.Linear

    def __init__(self, rate, key):
        first, second = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, 3, 2, padding="SAME", key=first)
        self.norm = eqx.nn.BatchNorm(3, AXIS, momentum=MOMENTUM, mode="batch")
        self.dropout = eqx.nn.Dropout(rate)
        self.dense = eqx.nn.Linear(48, 3, key=second)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(jnp.moveaxis(x, -1, 0)), state)
        return self.dense(self.dropout(jax.nn.relu(x), key=key).ravel()), state


def equinox_own(rate):
    return eqx.nn.make_with_state(Equinox)(rate, jax.random.key(0))


def equinox_bridge(rate):
    return bridges.from_equinox(*equinox_own(rate))


def equinox_train(variables, rule, batches):
    module, state = equinox_own(0.0)
    module = eqx.combine(variables.params, module)

    def step(carry, batch):
        params, state, memory = carry

        def value(params):
            run = jax.vmap(eqx.combine(params, module), (0, None), (0, None), axis_name=AXIS)
            outputs, changed = run(batch[0], state)
            return mean_loss(outputs, batch[1]), changed

        (value, changed), grad = jax.value_and_grad(value, has_aux=True)(params)
        updates, memory = rule.update(grad, memory, params)
        return (optax.apply_updates(params, updates), changed, memory), value

    params = variables.params
    (params, _, _), values = loop(step, (params, state, rule.init(params)), batches)
    return params, values


def equinox_infer(pair, inputs):
    module, state = pair
    module = eqx.nn.inference_mode(module)
    return jax.vmap(lambda x: module(x, state)[0])(inputs)


def equinox_update(params, statistics, inputs):
    module, state = equinox_own(0.0)
    module, state = eqx.combine(params, module), eqx.combine(statistics, state)
    run = jax.vmap(module, (0, None), (0, None), axis_name=AXIS)
    return eqx.filter(run(inputs, state)[1], eqx.is_inexact_array)


def equinox_dropped(variables, inputs, keys):
    module, state = equinox_own(0.5)
    module = eqx.combine(variables.params, module)
    return jax.vmap(lambda x, key: module(x, state, key=key)[0], axis_name=AXIS)(inputs, keys)


# Haiku -------------------------------------------------------------------------------------------


@functools.cache
def haiku_own(rate, axis_name=None):
    @hk.transform_with_state
    def net(x, is_training):
        norm = hk.BatchNorm(True, True, MOMENTUM, cross_replica_axis=axis_name)
        x = jax.nn.relu(norm(hk.Conv2D(3, 2)(x), is_training))
        if is_training and rate:
            x = hk.dropout(hk.next_rng_key(), rate, x)
        return hk.Linear(3)(x.reshape(x.shape[0], -1))

    return net


def haiku_bridge(rate):
    return bridges.from_haiku(haiku_own(rate), lambda training: {"is_training": training})


def haiku_train(variables, rule, batches):
    net = haiku_own(0.0)

    def step(carry, batch):
        params, state, memory = carry

        def value(params):
            outputs, changed = net.apply(params, state, None, batch[0], is_training=True)
            return mean_loss(outputs, batch[1]), changed

        (value, changed), grad = jax.value_and_grad(value, has_aux=True)(params)
        updates, memory = rule.update(grad, memory, params)
        return (optax.apply_updates(params, updates), changed, memory), value

    params = variables.params
    state = net.init(jax.random.key(0), batches[0][0], is_training=True)[1]
    (params, _, _), values = loop(step, (params, state, rule.init(params)), batches)
    return params, values


def haiku_infer(pair, inputs):
    return haiku_own(0.5).apply(*pair, None, inputs, is_training=False)[0]


def haiku_update(params, statistics, inputs):
    counter = jnp.array(10_000, jnp.int32)
    state = {name: {"counter": counter, **own} for name, own in statistics.items()}
    state = haiku_own(0.0).apply(params, state, None, inputs, is_training=True)[1]
    return {name: {leaf: own[leaf] for leaf in statistics[name]} for name, own in state.items()}


def haiku_dropped(variables, inputs, keys):
    net = haiku_own(0.5, AXIS)
    counter = jnp.array(0, jnp.int32)
    state = {name: {"counter": counter, **own} for name, own in variables.statistics.items()}

    def one(x, key):
        return net.apply(variables.params, state, key, x[None], is_training=True)[0][0]

    return jax.vmap(one, axis_name=AXIS)(inputs, keys)


NETWORKS = {
    "linen": Network(linen_bridge, linen_train, linen_infer, linen_update, linen_dropped),
    "nnx": Network(nnx_bridge, nnx_train, nnx_infer, nnx_update, None),
    "equinox": Network(
        equinox_bridge, equinox_train, equinox_infer, equinox_update, equinox_dropped, True
    ),
    "haiku": Network(haiku_bridge, haiku_train, haiku_infer, haiku_update, haiku_dropped, True),
}
