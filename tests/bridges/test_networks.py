"""One network in four frameworks: trained as there, calibrated, inferred, and taken back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, curvature, fit, layers, losses, rules
from tests.bridges.networks import AXIS, NETWORKS

each = pytest.mark.parametrize("name", NETWORKS)
INPUTS = np.asarray(jax.random.normal(jax.random.key(0), (40, 4, 4, 1)))
LABELS = (INPUTS.sum((1, 2, 3)) > 0).astype(int) + (INPUTS[:, 0, 0, 0] > 1)
RULE = rules.adam(1e-2, eps=1e-3)  # the gradient of a bias before a normalization is mere rounding


def data_of(name):
    return INPUTS.astype(np.float64 if NETWORKS[name].wide else np.float32), LABELS


def tolerance_of(name):
    return 1e-9 if NETWORKS[name].wide else 1e-4


def close(one, two, **tolerances):
    """Two trees, leaf by leaf."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerances), one, two)


@functools.cache
def trained(name):
    """The bridge without dropout, its first variables, and what `fit` makes of five batches."""
    inputs, labels = data_of(name)
    model, back = NETWORKS[name].bridge(0.0)
    params = jax.jit(model.init)(jax.random.key(1), inputs[0])
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    batches = [(inputs[i : i + 8], labels[i : i + 8]) for i in range(0, 40, 8)]
    result = fit(RULE, objective, params, batches, epochs=1, key=jax.random.key(2))
    calibrated = layers.calibrate(model, result.params, inputs)
    return model, back, params, batches, result, calibrated


@each
def test_training_is_that_of_the_framework_s_own_loop(name):
    _, _, params, batches, result, _ = trained(name)
    own, values = NETWORKS[name].train(params, RULE, batches)
    np.testing.assert_allclose(result.history.value, values, rtol=tolerance_of(name))
    close(result.params.params, own, atol=tolerance_of(name))
    close(result.params.statistics, params.statistics, atol=0)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), params.params, own)
    assert max(jax.tree.leaves(moved)) > 1e-2


@each
def test_statistics_are_those_at_which_the_module_s_own_averages_settle(name):
    _, _, _, _, result, calibrated = trained(name)
    inputs, _ = data_of(name)
    update = NETWORKS[name].update

    @jax.jit
    def settled(params, statistics):
        def turn(_, statistics):
            return update(params, statistics, inputs)

        return jax.lax.fori_loop(0, 300, turn, statistics)

    close(calibrated.params, result.params.params, atol=0)
    own = settled(*result.params)
    dtypes = [
        {leaf.dtype for leaf in jax.tree.leaves(tree)} for tree in (calibrated, result.params)
    ]
    assert dtypes[0] == dtypes[1]
    close(calibrated.statistics, own, rtol=tolerance_of(name) / 10, atol=1e-6)


@each
def test_what_goes_back_infers_the_same(name):
    model, back, _, _, _, calibrated = trained(name)
    inputs, _ = data_of(name)
    ours = jax.jit(jax.vmap(model.apply, (None, 0)))(calibrated, inputs)
    own = NETWORKS[name].infer(back(calibrated), inputs)
    np.testing.assert_allclose(ours, own, rtol=tolerance_of(name), atol=1e-6)
    by_batch = jax.vmap(lambda x: model.apply(calibrated, x, key=jax.random.key(0)), axis_name=AXIS)
    np.testing.assert_allclose(ours, jax.jit(by_batch)(inputs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "nnx"])
def test_dropout_is_what_the_framework_draws_from_each_example_s_key(name):
    params = trained(name)[2]
    inputs = data_of(name)[0][:8]
    keys = jax.random.split(jax.random.key(3), 8)
    model = NETWORKS[name].bridge(0.5).model

    def apply(params, x, key):
        return model.apply(params, x, key=key)

    ours = jax.jit(jax.vmap(apply, (None, 0, 0), axis_name=AXIS))(params, inputs, keys)
    own = jax.jit(NETWORKS[name].dropped)(params, inputs, keys)
    np.testing.assert_allclose(ours, own, rtol=tolerance_of(name), atol=1e-6)


@each
def test_kernels_have_kronecker_factors(name):
    model, _, params, *_ = trained(name)
    told = str(curvature.structure(model.apply, params, data_of(name)[0][0]))
    assert [told.count(factor) for factor in ("1 x 4^2 (x) 3^2", "1 x 48^2 (x) 3^2")] == [1, 1]


@pytest.mark.gate
@pytest.mark.parametrize("second", ["levenberg_marquardt", "kfac"])
@each
def test_a_second_order_rule_goes_on_in_inference(name, second):
    model, back, _, _, _, calibrated = trained(name)
    inputs, labels = data_of(name)

    def fixed(params, x):
        return model.apply(params, x)

    objective = Objective(fixed, losses.softmax_cross_entropy)
    rule = rules.levenberg_marquardt()
    if second == "kfac":
        rule = rules.kfac(curvature.structure(fixed, calibrated, inputs[0]))
    before = objective.on((inputs, labels))(calibrated)
    result = fit(rule, objective, calibrated, (inputs, labels), steps=20)
    assert objective.on((inputs, labels))(result.params) < before / 2
    close(result.params.statistics, calibrated.statistics, atol=0)
    own = NETWORKS[name].infer(back(result.params), jnp.asarray(inputs))
    ours = objective.outputs(result.params, inputs)
    np.testing.assert_allclose(ours, own, rtol=tolerance_of(name), atol=1e-5)
