"""What a bridge says of modules that it cannot take, and small modules that it can."""

import sys

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fnn import Objective, bridges, fit, layers, losses, rules, solvers

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (8, 2), jnp.float32)
DATA = INPUTS, INPUTS[:, :1]


def told(training):
    return {"train": training}


def averaging(training):
    return {"use_running_average": not training}


def batch_norm(x, train, axis=None):
    return hk.BatchNorm(True, True, 0.9, cross_replica_axis=axis)(x, train)


class Normalized(nnx.Module):
    def __init__(self, axis=None):
        self.norm = nnx.BatchNorm(2, axis_name=axis, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.norm(x)


# Modules without state ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bridge", "own"),
    [
        (bridges.from_flax(nn.Dense(1)), lambda own, x: nn.Dense(1).apply(own, x)),
        (bridges.from_nnx(nnx.Linear(2, 1, rngs=nnx.Rngs(0))), lambda own, x: own(x)),
        (
            bridges.from_equinox(eqx.nn.Linear(2, 1, dtype=jnp.float32, key=KEY)),
            lambda own, x: jax.vmap(own[0])(x),
        ),
        (
            bridges.from_haiku(net := hk.transform(lambda x: hk.Linear(1)(x))),
            lambda own, x: net.apply(own[0], None, x),
        ),
    ],
    ids=["linen", "nnx", "equinox", "haiku"],
)
def test_a_module_without_state_is_a_layer_too(bridge, own):
    params = bridge.model.init(KEY, INPUTS[0])
    assert jax.tree.leaves(params.statistics) == []
    ours = jax.vmap(bridge.model.apply, (None, 0))(params, INPUTS)
    np.testing.assert_allclose(ours, own(bridge.back(params), INPUTS), rtol=1e-6)
    with_key = bridge.model.apply(params, INPUTS[0], key=KEY)
    np.testing.assert_allclose(with_key, ours[0], rtol=1e-6)
    same = layers.calibrate(bridge.model, params, INPUTS)
    assert jax.tree.structure(same) == jax.tree.structure(params)


def test_a_bridge_is_a_layer_among_others():
    model = layers.serial(layers.dense(2), bridges.from_nnx(Normalized()).model, layers.dense(1))
    params = model.init(KEY, INPUTS[0])
    params = layers.calibrate(model, params, 10 + INPUTS)
    before = jax.vmap(layers.dense(2).apply, (None, 0))(params[0], 10 + INPUTS)
    mean, var = jax.tree.leaves(params[1].statistics)
    np.testing.assert_allclose(mean, before.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(var, before.var(axis=0), rtol=1e-3)


def test_dropout_of_nnx_draws_anew_for_each_key_and_layer():
    module = nnx.Sequential(*(nnx.Dropout(0.5, rngs=nnx.Rngs(0)) for _ in range(2)))
    model, _ = bridges.from_nnx(module)
    x = jnp.ones(4000, jnp.float32)
    params = model.init(KEY, x)
    assert (model.apply(params, x) == x).all()
    draws = [model.apply(params, x, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()
    assert set(np.unique(draws[0])) == {0.0, 4.0}
    np.testing.assert_allclose(jnp.mean(draws[0] > 0), 0.25, atol=0.03)


def test_the_module_is_left_as_it_is():
    module = Normalized()
    model, back = bridges.from_nnx(module)
    params = layers.calibrate(model, model.init(KEY, INPUTS[0]), INPUTS)
    assert module.norm.axis_name is back(params).norm.axis_name is None
    assert module.norm.use_running_average is False
    np.testing.assert_array_equal(module.norm.mean[...], 0)
    nnx.update(module, *params)
    np.testing.assert_allclose(module.norm.mean[...], INPUTS.mean(axis=0), rtol=1e-4)
    model, _ = bridges.from_nnx(nnx.BatchNorm(2, momentum=1.0, rngs=nnx.Rngs(0)))
    params = model.init(KEY, INPUTS[0])
    mean, var = jax.tree.leaves(layers.calibrate(model, params, INPUTS).statistics)
    np.testing.assert_array_equal([mean, var], [[0, 0], [1, 1]])
    linen = nn.BatchNorm(use_running_average=True)
    model, _ = bridges.from_flax(nn.Sequential([linen]))
    model.init(KEY, INPUTS[0])
    assert (linen.axis_name, linen.use_running_average) == (None, True)


def conditional(x, train):
    """Scale and offset are arguments, by position."""
    norm = hk.BatchNorm(create_scale=False, create_offset=False, decay_rate=0.9)
    return batch_norm(norm(x, train, False, 3.0 * jnp.ones(2), x[:, :1]), train)


class Derived(nn.BatchNorm):
    @nn.compact
    def __call__(self, x, gain, train):
        return gain * super().__call__(x, not train)


class Block(nn.Module):
    """Batch normalization inside of other transformations."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.remat(Derived, static_argnums=(3,))(name="first")(x, 2.0, train)
        blocks = nn.scan(
            Inner,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=2,
        )
        return blocks(train)(x, None)[0]


class Inner(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x, _):
        return nn.BatchNorm(use_running_average=not self.train)(jnp.sin(x)), None


class DerivedHaiku(hk.BatchNorm):
    def __call__(self, x, gain, train):
        return gain * super().__call__(x, train)


def derived(x, train):
    return jnp.sin(DerivedHaiku(True, True, 0.9)(x, 2.0, train))


@pytest.mark.parametrize(
    "bridge",
    [
        lambda: bridges.from_flax(Block(), told),
        lambda: bridges.from_haiku(hk.transform_with_state(derived), told),
    ],
    ids=["linen", "haiku"],
)
def test_classes_derived_from_batch_normalization_with_arguments_of_their_own(bridge):
    model = bridge().model
    params = model.init(KEY, INPUTS[0])
    apply = jax.vmap(lambda x: model.apply(params, x, key=KEY), axis_name="examples")
    settled = layers.calibrate(model, params, INPUTS)
    np.testing.assert_allclose(
        jax.vmap(lambda x: model.apply(settled, x))(INPUTS), apply(INPUTS), rtol=1e-3, atol=1e-4
    )


def test_what_stands_behind_the_mode_is_kept_when_statistics_are_set():
    model, _ = bridges.from_haiku(hk.transform_with_state(conditional), told)
    params = layers.calibrate(model, model.init(KEY, INPUTS[0]), INPUTS)
    scaled = 3 * (INPUTS - INPUTS.mean(0)) / INPUTS.std(0) + INPUTS[:, :1]
    found = params.statistics["batch_norm/~/mean_ema"], params.statistics["batch_norm_1/~/mean_ema"]
    for one, rows in zip(found, (INPUTS, scaled), strict=True):
        np.testing.assert_allclose(one["average"][0], rows.mean(0), rtol=1e-3, atol=1e-4)


def equinox_normalized():
    return bridges.from_equinox(
        *eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "examples", mode="batch")
    )


@pytest.mark.parametrize(
    "bridge",
    [
        lambda: bridges.from_flax(nn.BatchNorm(), averaging),
        lambda: bridges.from_nnx(Normalized()),
        equinox_normalized,
        lambda: bridges.from_haiku(hk.transform_with_state(batch_norm), told),
    ],
    ids=["linen", "nnx", "equinox", "haiku"],
)
def test_at_every_position_statistics_are_those_of_all_positions(bridge):
    """As `layers.batch_norm` inside `layers.each` has them, in training and calibrated."""
    model, own = layers.each(bridge().model), layers.each(layers.batch_norm())
    x = INPUTS.reshape(4, 2, 2)

    def trained(layer):
        params = layer.init(KEY, x[0])
        rows = jax.vmap(lambda x: layer.apply(params, x, key=KEY), axis_name="examples")(x)
        settled = layers.calibrate(layer, params, x)
        return rows, jax.vmap(lambda x: layer.apply(settled, x))(x)

    for one, other in zip(trained(model), trained(own), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


class Twice(nn.Module):
    """A dropout, and noise of a stream that is drawn from that of the parameters."""

    @nn.compact
    def __call__(self, x, train):
        if not train:
            return x
        kept = jax.random.uniform(self.make_rng("dropout"), x.shape)
        return x + kept - jax.random.uniform(self.make_rng("noise"), x.shape)


class Passing(eqx.Module):
    """Hands on what it is called with."""

    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, **kwargs):
        return self.dropout(x, **kwargs)


def test_every_stream_has_its_own_numbers_and_keys_are_handed_on():
    x = jnp.zeros(50)
    model = bridges.from_flax(Twice(), told).model
    assert (model.apply(model.init(KEY, x), x, key=KEY) != 0).all()
    model = bridges.from_equinox(Passing()).model
    params = model.init(KEY, x)
    assert set(np.unique(model.apply(params, x + 1, key=KEY))) == {0.0, 2.0}
    np.testing.assert_array_equal(model.apply(params, x + 1), x + 1)


# Training ----------------------------------------------------------------------------------------


def test_fit_asks_for_prepare_and_says_nothing_of_statistics():
    module = nnx.Sequential(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), nnx.BatchNorm(1, rngs=nnx.Rngs(0)))
    model, _ = bridges.from_nnx(module)
    params = model.init(KEY, INPUTS[0])
    objective = Objective(model.apply, losses.half_squared_error)
    arguments = rules.sgd(1e-2), objective, params, DATA
    with pytest.raises(ValueError, match=r"prepare=lambda params: layers\.calibrate\(model"):
        fit(*arguments, steps=1, key=KEY, validation=DATA)
    options = {"steps": 1, "key": KEY, "batch_size": 4, "validation": DATA}  # warnings are errors
    trained = fit(*arguments, **options, prepare=lambda p: layers.calibrate(model, p, INPUTS))
    assert np.isfinite(trained.history.value).all()


class Line(eqx.Module):
    dense: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self):
        self.dense = eqx.nn.Linear(2, 1, key=KEY)
        self.norm = eqx.nn.BatchNorm(1, "examples", mode="batch")

    def __call__(self, x, state):
        return self.norm(self.dense(x), state)


def test_in_inference_least_squares_solves_a_module():
    """Statistics stay, and have nodes that are equal to none but themselves."""
    model, back = bridges.from_equinox(*eqx.nn.make_with_state(Line)())
    x = np.asarray(INPUTS, float)
    params = layers.calibrate(model, model.init(KEY, x[0]), x)
    value_fn = Objective(model.apply, losses.half_squared_error).on((x, x @ [[1.0], [2.0]] + 3.0))
    rule = rules.gauss_newton(damping=1e-8, solver=solvers.dual())

    @jax.jit
    def step(params, state):
        grad = jax.grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    state = rule.init(params)
    stepped, state = step(params, state)
    for _ in range(5):  # scale times weight is no linear function of both
        stepped, state = step(stepped, state)
    before, after = value_fn(params), value_fn(stepped)
    assert after < 1e-12 < before
    for one, two in zip(
        *map(jax.tree.leaves, (params.statistics, stepped.statistics)), strict=True
    ):
        np.testing.assert_array_equal(one, two)
    module, state = back(stepped)
    own = eqx.nn.inference_mode(module)(x[0], state)[0]
    np.testing.assert_allclose(own, x[0] @ [1.0, 2.0] + 3.0, atol=1e-5)


def test_a_key_outside_of_the_examples():
    model, _ = bridges.from_nnx(Normalized())
    params = model.init(KEY, INPUTS[0])
    with pytest.raises(ValueError, match="from_nnx: expected the axis name 'examples', got a key"):
        model.apply(params, INPUTS[0], key=KEY)
    with pytest.raises(TypeError, match=r"expected Variables\(params, statistics\), got dict"):
        model.apply({}, INPUTS[0])


# Modules that cannot be taken --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["from_flax", "from_nnx", "from_equinox", "from_haiku"])
def test_what_is_no_module(name):
    with pytest.raises(TypeError, match=rf"{name}: expected .*, got function; try"):
        getattr(bridges, name)(lambda x: x)


class Silent(eqx.Module):
    weight: jax.Array


def test_a_module_that_cannot_be_called():
    with pytest.raises(TypeError, match=r"from_equinox: expected .* called, got Silent, .*; try a"):
        bridges.from_equinox(Silent(jnp.ones(2)))


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("from_flax", "flax.linen", "flax"), ("from_haiku", "haiku", "dm-haiku")],
)
def test_a_framework_that_is_not_installed(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{name}: expected {package}, got .* install {package}"):
        getattr(bridges, name)(None)


def linen_over(axis):
    return bridges.from_flax(nn.BatchNorm(axis_name=axis), averaging)


def haiku_over(axis):
    net = hk.transform_with_state(lambda x, train: batch_norm(x, train, axis))
    return bridges.from_haiku(net, told)


def equinox_over(axis):
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    return bridges.from_equinox(*make(2, axis, mode="batch"))


@pytest.mark.parametrize(
    "make",
    [linen_over, lambda axis: bridges.from_nnx(Normalized(axis)), equinox_over, haiku_over],
    ids=["linen", "nnx", "equinox", "haiku"],
)
def test_another_axis_than_that_of_the_examples(make):
    with pytest.raises(ValueError, match=r"(axis_name|replica_axis)='batch'; try .*='examples'"):
        make("batch").model.init(KEY, INPUTS[0])
    assert make("examples").model.init(KEY, INPUTS[0])


class Counting(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("counts", "calls", lambda: jnp.zeros(()))
        return nn.SpectralNorm(nn.Dense(1))(x, update_stats=False)


class Cached(nnx.Module):
    def __init__(self):
        self.calls = nnx.Cache(jnp.zeros(()))

    def __call__(self, x):
        return x


def counted(x):
    hk.set_state("calls", 1 + hk.get_state("calls", (), init=jnp.zeros))
    return x


def test_state_that_is_not_that_of_batch_normalization():
    with pytest.raises(ValueError, match=r"got batch_stats\[.*\]\['Dense_0/kernel/sigma'\], .*cou"):
        bridges.from_flax(Counting()).model.init(KEY, INPUTS[0])
    with pytest.raises(ValueError, match=r"from_nnx: expected no state .*, got Cache calls; fit"):
        bridges.from_nnx(Cached())
    layer = nnx.SpectralNorm(nnx.Linear(2, 1, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"from_nnx: expected no state .*, got BatchStat"):
        bridges.from_nnx(layer)
    make = eqx.nn.make_with_state(
        lambda: eqx.nn.SpectralNorm(eqx.nn.Linear(2, 1, key=KEY), "weight", key=KEY)
    )
    with pytest.raises(ValueError, match=r"from_equinox: expected no state .*, got StateIndex"):
        bridges.from_equinox(*make())
    with pytest.raises(ValueError, match=r"from_haiku: expected no state .*, got ~; fit"):
        bridges.from_haiku(hk.transform_with_state(counted)).model.init(KEY, INPUTS[0])


class OwnNorm(nn.Module):
    """Batch normalization of another class, in the usual collection and by the usual names."""

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(x.shape[1:]))
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        return nn.BatchNorm(use_running_average=not train, name="known")(x - mean.value)


def own_norm(x, train):
    average = hk.ExponentialMovingAverage(0.9, name="mean_ema")
    return batch_norm(x - (average(x.mean(0)) if train else average.average), train)


def test_batch_normalization_of_another_class():
    """A batch of one would be its whole batch."""
    with pytest.raises(ValueError, match=r"framework's own .*, got batch_stats\['mean'\]; fit"):
        bridges.from_flax(OwnNorm(), told).model.init(KEY, INPUTS[0])
    net = hk.transform_with_state(own_norm)
    with pytest.raises(ValueError, match=r"framework's own .*, got mean_ema; fit"):
        bridges.from_haiku(net, told).model.init(KEY, INPUTS[0])


def test_state_of_equinox():
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    module, _ = make(2, "examples", mode="batch")
    with pytest.raises(ValueError, match=r"got None; try .*make_with_state"):
        bridges.from_equinox(module)
    with pytest.raises(ValueError, match=r"got mode='ema', whose .*; try mode='batch'"):
        bridges.from_equinox(*make(2, "examples", mode="ema"))


class Flattening(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dropout(0.5, deterministic=not train)(x.ravel())


class Drawing(eqx.Module):
    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x):
        return self.dropout(x)


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x.reshape(x.shape[0], -1))


def test_variables_of_a_batch_are_refused_where_one_example_meets_them():
    model = bridges.from_flax(Flat()).model
    params = model.init(KEY, INPUTS)
    with pytest.raises(TypeError, match=r"Objective: expected .*to initialize it by one example"):
        Objective(model.apply, losses.half_squared_error).on(DATA)(params)


def test_modules_that_cannot_be_called_say_why_at_init():
    flattening = bridges.from_flax(Flattening()).model
    with pytest.raises(TypeError, match=r"shape \(2,\), .*'train'; try from_flax\(module, lambda"):
        flattening.init(KEY, INPUTS[0])
    changing = bridges.from_flax(nn.BatchNorm(use_running_average=False)).model
    with pytest.raises(TypeError, match=r"(?s)from_flax: .*\"batch_stats\" is .*; try from_flax\("):
        changing.init(KEY, INPUTS[0])
    flattening = bridges.from_flax(Flattening(), told).model
    with pytest.raises(
        ValueError, match=r"from_flax: expected a module of batches, .*shape \(2,\)"
    ):
        flattening.init(KEY, INPUTS[0])
    undrawn = bridges.from_nnx(nnx.Dropout(0.5)).model
    with pytest.raises(
        TypeError, match=r"(?s)from_nnx: .* in training .*; try .* with rngs for its dropout"
    ):
        undrawn.init(KEY, INPUTS[0])
    drawing = bridges.from_equinox(Drawing()).model
    with pytest.raises(TypeError, match=r"from_equinox: .* in training .*module\(x, key=key\)"):
        drawing.init(KEY, INPUTS[0])
    linear = bridges.from_equinox(eqx.nn.Linear(2, 1, key=KEY)).model
    with pytest.raises(TypeError, match=r"one example, of shape \(8, 2\), .*; and one example for"):
        linear.init(KEY, INPUTS)
    net = hk.transform_with_state(lambda x, train: batch_norm(x, train))
    with pytest.raises(TypeError, match=r"from_haiku: .*; try from_haiku\(net, lambda training"):
        bridges.from_haiku(net).model.init(KEY, INPUTS[0])
