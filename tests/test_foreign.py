"""Modules of other packages that are no pure functions: what is said, and that the remedy works."""

import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fnn import Objective, curvature, fit, losses, rules

INPUTS = jax.random.normal(jax.random.key(0), (12, 2), jnp.float32)  # as nnx keeps its statistics
DATA = INPUTS, INPUTS[:, :1]
RULE = rules.adam(1e-3)


def objective(model):
    return Objective(model, losses.half_squared_error)


def refused(match, model, params):
    """The value function and `fit` both say so."""
    with pytest.raises(TypeError, match=rf"(?s)Objective: expected .*{match}") as caught:
        objective(model).on(DATA)(params)
    assert caught.value.__cause__ is not None
    with pytest.raises(TypeError, match=rf"(?s)Objective: expected .*{match}"):
        fit(RULE, objective(model), params, DATA, steps=1)


class Normalized(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(1, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(self.dense(x))


class Dropping(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.dropout(self.dense(x))


@pytest.mark.parametrize("make", [Normalized, Dropping])
def test_a_module_of_nnx_that_changes_itself(make):
    module = make()
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    refused("copy=True", lambda p, x: nnx.merge(graphdef, p, rest)(x), params)

    def updating(p, x):
        nnx.update(module, p)
        return module(x)

    refused("copy=True", updating, params)

    def remedy(p, x):
        return nnx.merge(graphdef, p, rest, copy=True)(x)

    trained = fit(RULE, objective(remedy), params, DATA, steps=1)
    assert np.isfinite(trained.history.value).all()


class Linen(nn.Module):
    rate: float = 0.0

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(1)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(self.rate, deterministic=not train)(x)


MODULE = Linen()
VARIABLES = MODULE.init(jax.random.key(0), INPUTS[0])
PARAMS = VARIABLES["params"]
STATISTICS = {"batch_stats": VARIABLES["batch_stats"]}


def test_a_module_of_linen_that_changes_its_statistics():
    def fixed(p, x):
        return MODULE.apply({"params": p} | STATISTICS, x)

    def pair(p, x):
        return MODULE.apply({"params": p} | STATISTICS, x, mutable=["batch_stats"])

    refused(r"mutable=\['batch_stats'\]\)\[0\]", fixed, PARAMS)
    refused(r"got a tuple .*model\(params, x\)\[0\]", pair, PARAMS)
    with pytest.raises(TypeError, match="got a tuple"):
        curvature.gauss_newton(objective(pair).on(DATA), PARAMS)
    theirs = Objective(pair, lambda y, t: jnp.sum((y - t) ** 2))
    with pytest.raises(TypeError, match=r"got a tuple .*model\(params, x\)\[0\]"):
        theirs.on(DATA)(PARAMS)
    trained = fit(RULE, objective(lambda p, x: pair(p, x)[0]), PARAMS, DATA, steps=1)
    assert np.isfinite(trained.history.value).all()


def test_a_module_of_linen_without_a_key_or_with_other_collections():
    dropping = Linen(rate=0.5)

    def drops(p, x):
        return dropping.apply({"params": p} | STATISTICS, x, mutable=["batch_stats"])[0]

    refused("rngs={'dropout': key}", drops, PARAMS)
    refused(r"module\.apply\({'params': params}, x\)", MODULE.apply, PARAMS)
    refused(r"got a module.*module\.apply", MODULE, PARAMS)


def test_statistics_among_the_parameters():
    def model(variables, x):
        return MODULE.apply(variables, x, train=False)

    with pytest.warns(UserWarning, match="statistics of batch normalization, which would be"):
        fit(RULE, objective(model), VARIABLES, DATA, steps=1)
    module = Normalized()
    module.eval()
    graphdef, state = nnx.split(module)
    with pytest.warns(UserWarning, match=r"nnx\.state\(module, nnx\.Param\)"):
        fit(RULE, objective(lambda p, x: nnx.merge(graphdef, p)(x)), state, DATA, steps=1)


def test_a_module_of_haiku_that_returns_its_state():
    net = hk.transform_with_state(lambda x: hk.Linear(1)(x))
    params, state = net.init(jax.random.key(0), INPUTS[0])
    with pytest.raises(TypeError, match=r"got a tuple .*model\(params, x\)\[0\]"):
        objective(lambda p, x: net.apply(p, state, None, x)).on(DATA)(params)


def test_a_model_that_keeps_traced_values():
    kept = []

    def model(p, x):
        kept.append(x @ p)
        return kept[0]

    value_fn = objective(model).on(DATA)
    jax.eval_shape(value_fn, jnp.zeros((2, 1), jnp.float32))
    with pytest.raises(TypeError, match="keeps traced values"):
        objective(lambda p, x: model(p, x) + 1).on(DATA)(jnp.zeros((2, 1), jnp.float32))


def test_what_jax_says_about_traced_values_is_left_alone():
    """A condition on a number is no affair of lists and tuples."""

    def branching(p, x):
        return (x @ p, 1.0)

    def of_pair(outputs, target):
        return outputs[0] if outputs[0] > 0 else target

    def of_list(p, x):
        return x[0] @ p if x[0][0] > 0 else x[0] @ -p

    start = jnp.zeros(2, jnp.float32)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        Objective(branching, of_pair).on((INPUTS, INPUTS[:, 0]))(start)
    with pytest.raises(jax.errors.TracerBoolConversionError):
        Objective(of_list).on([INPUTS])(start)


def test_a_tuple_that_the_loss_takes_says_what_failed():
    def loss(*_):
        raise ValueError("of another cause")

    with pytest.raises(TypeError, match=r"tuple .*ValueError: of another cause"):
        Objective(lambda p, x: (x @ p, p), loss).on(DATA)(jnp.zeros((2, 1)))
