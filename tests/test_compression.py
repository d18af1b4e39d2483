"""Smaller networks: which weights go, how near what stays is, and what it costs on digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import Objective, compression, data, layers, losses, rules
from fnn.compression import LowRank, Quantized

RNG = np.random.default_rng(0)
PARAMS = (
    {"weight": jnp.asarray(RNG.normal(size=(12, 9))), "bias": jnp.asarray(RNG.normal(size=9))},
    (),
    {"weight": jnp.asarray(3 * RNG.normal(size=(3, 3, 2, 5))), "bias": jnp.zeros(5)},
)
MODEL = layers.serial(layers.dense(64), layers.elementwise(jax.nn.relu), layers.dense(10))
LOSS = losses.softmax_cross_entropy
OBJECTIVE = Objective(MODEL.apply, LOSS)


@functools.cache
def digits():
    return data.split(data.digits(), (0.7, 0.3), jax.random.key(0))


@functools.cache
def trained():
    train, _ = digits()
    start = jax.jit(MODEL.init)(jax.random.key(1), train.inputs[0])
    return fit(OBJECTIVE, start, train, 30)


def fit(objective, params, examples, epochs):
    plan = {"epochs": epochs, "batch_size": 64, "key": jax.random.key(2)}
    return fnn.fit(rules.adam(3e-3), objective, params, examples, **plan).params


def accuracy(params, model=MODEL):
    _, test = digits()
    outputs = jax.vmap(model.apply, (None, 0))(params, test.inputs)
    return float(jnp.mean(outputs.argmax(axis=-1) == test.targets))


# --- what they do to numbers ---


@pytest.mark.parametrize("keep", [1.0, 0.3, 1e-9])
def test_the_largest_weights_of_all_layers_stay_and_biases_do(keep):
    mask = compression.magnitude_mask(PARAMS, keep)
    pruned = compression.prune(PARAMS, mask)
    kept, all_of_them = (
        np.concatenate([np.abs(tree[i]["weight"]).ravel() for i in (0, 2)])
        for tree in (pruned, PARAMS)
    )
    count = max(1, round(keep * all_of_them.size))
    assert np.count_nonzero(kept) == count
    np.testing.assert_array_equal(np.sort(kept)[::-1][:count], np.sort(all_of_them)[::-1][:count])
    np.testing.assert_array_equal(pruned[0]["bias"], PARAMS[0]["bias"])
    equal = compression.magnitude_mask({"w": jnp.ones((2, 2))}, 0.5)
    assert equal["w"].tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("rule", [rules.adam(0.1), rules.levenberg_marquardt()], ids=["adam", "lm"])
def test_masked_weights_stay_where_they_are_by_every_rule(rule):
    """A linear model without the column that is masked: least squares of the others."""
    x, t = RNG.normal(size=(30, 3)), RNG.normal(size=30)
    mask = jnp.array([True, False, True])
    model = compression.masked(lambda w, x: w @ x, mask)
    objective = Objective(model, losses.half_squared_error)
    params = fnn.fit(rule, objective, jnp.array([0.0, 7.0, 0.0]), (x, t), steps=300).params
    assert params[1] == 7
    np.testing.assert_allclose(params[::2], np.linalg.lstsq(x[:, ::2], t)[0], atol=1e-4)
    keyed = compression.masked(lambda w, x, *, key=None: (w * x, key), mask)
    assert keyed(jnp.ones(3), 2.0, key=5)[1] == 5


def test_low_rank_is_the_nearest_and_exact_where_the_rank_is():
    """Eckart and Young: what is lost is the sum of squares of the other singular values."""
    weight = PARAMS[0]["weight"]
    values = np.linalg.svd(weight, compute_uv=False)
    for rank in (1, 3, 5):
        made = compression.low_rank(PARAMS, rank)
        assert isinstance(made[0]["weight"], LowRank)
        lost = jnp.sum((compression.restored(made)[0]["weight"] - weight) ** 2)
        np.testing.assert_allclose(lost, np.sum(values[rank:] ** 2), rtol=1e-9)
        assert made[2]["weight"] is PARAMS[2]["weight"]  # a kernel is no matrix
    whole = compression.low_rank(PARAMS, 6)[0]["weight"]
    assert whole is weight  # 6 (12 + 9) numbers are more than 12 * 9
    thin = {"w": weight[:, :2] @ jnp.asarray(RNG.normal(size=(2, 9)))}
    exact = compression.restored(compression.low_rank(thin, 2))
    np.testing.assert_allclose(exact["w"], thin["w"], atol=1e-12)


def test_factors_are_two_dense_layers_and_can_be_trained():
    factors = compression.low_rank(PARAMS[0], 3)
    x = jnp.asarray(RNG.normal(size=12))
    two = layers.serial(layers.dense(3, bias=None), layers.dense(9))
    as_layers = ({"weight": factors["weight"].left},
                 {"weight": factors["weight"].right, "bias": factors["bias"]})  # fmt: skip
    one = layers.dense(9).apply(compression.restored(factors), x)
    np.testing.assert_allclose(two.apply(as_layers, x), one, atol=1e-12)
    objective = Objective(
        lambda p, x: layers.dense(9).apply(compression.restored(p), x), losses.half_squared_error
    )
    inputs = jnp.asarray(RNG.normal(size=(50, 12)))
    targets = jax.vmap(lambda x: layers.dense(9).apply(PARAMS[0], x))(inputs)
    value_fn = objective.on((inputs, targets))
    better = fnn.fit(rules.levenberg_marquardt(), value_fn, factors, steps=20).params
    assert value_fn(better) < 0.99 * value_fn(factors)


def test_quantized_weights_are_within_half_a_step():
    made = compression.quantized(PARAMS)
    for i in (0, 2):
        small, weight = made[i]["weight"], PARAMS[i]["weight"]
        assert isinstance(small, Quantized)
        assert small.steps.dtype == jnp.int8
        assert jnp.abs(small.steps).max(axis=tuple(range(weight.ndim - 1))).tolist() == [127] * len(
            small.size
        )
        assert jnp.all(jnp.abs(small.restored() - weight) <= small.size * (0.5 + 1e-9))
        np.testing.assert_array_equal(made[i]["bias"], PARAMS[i]["bias"])
    # as often compressed as one likes; zeros stay zeros, a unit of zeros too
    again = compression.quantized(compression.restored(made))
    np.testing.assert_array_equal(again[0]["weight"].steps, made[0]["weight"].steps)
    nothing = compression.quantized({"w": jnp.zeros((3, 2))})
    np.testing.assert_array_equal(compression.restored(nothing)["w"], jnp.zeros((3, 2)))
    single = jax.tree.map(lambda p: p.astype(jnp.float32), trained())
    assert compression.size(compression.quantized(single)) < compression.size(single) / 3.5
    assert compression.restored(compression.quantized(single))[0]["weight"].dtype == jnp.float32


def test_distillation_is_cross_entropy_at_a_temperature():
    outputs, teacher = (jnp.asarray(RNG.normal(size=5)) for _ in range(2))
    loss = compression.distillation(3.0, share=1.0)
    soft = jax.nn.softmax(teacher / 3)
    value = -9 * jnp.sum(soft * jax.nn.log_softmax(outputs / 3))
    np.testing.assert_allclose(loss(outputs, (teacher, 2)), value)
    slope = jax.grad(loss)(outputs, (teacher, 2))
    np.testing.assert_allclose(slope, 3 * (jax.nn.softmax(outputs / 3) - soft))
    np.testing.assert_allclose(jax.grad(loss)(teacher, (teacher, 2)), 0, atol=1e-12)
    # in the limit of high temperatures, matching (centered) logits
    hot = jax.grad(compression.distillation(1e4, share=1.0))(outputs, (teacher, 2))
    away = outputs - teacher
    np.testing.assert_allclose(hot, (away - away.mean()) / 5, rtol=1e-3)
    hard = compression.distillation(3.0, share=0.0)(outputs, (teacher, 2))
    np.testing.assert_allclose(hard, LOSS(outputs, 2))


# --- what they cost on digits ---


def test_pruning_to_a_fifth_and_training_again_costs_less_than_two_points():
    train, _ = digits()
    mask = compression.magnitude_mask(trained(), 0.2)
    cut = compression.prune(trained(), mask)
    again = fit(Objective(compression.masked(MODEL.apply, mask), LOSS), cut, train, 20)
    again = compression.prune(again, mask)
    assert jnp.mean(again[0]["weight"] != 0) < 0.25
    assert accuracy(trained()) > 0.95
    assert accuracy(cut) < accuracy(trained()) - 0.03
    assert accuracy(again) > accuracy(trained()) - 0.02


def test_eight_bits_cost_nothing_and_half_the_numbers_little():
    assert accuracy(compression.restored(compression.quantized(trained()))) == pytest.approx(
        accuracy(trained()), abs=0.004
    )
    small = compression.low_rank(trained(), 16)
    assert compression.size(small) < 0.6 * compression.size(trained())
    assert accuracy(compression.restored(small)) > accuracy(trained()) - 0.03


def test_a_small_student_learns_more_from_the_teacher_than_from_few_labels():
    """Eight hidden units, 200 labels; the teacher answers for all training digits."""
    train, _ = digits()
    student = layers.serial(layers.dense(8), layers.elementwise(jax.nn.relu), layers.dense(10))
    start = jax.jit(student.init)(jax.random.key(5), train.inputs[0])
    teacher = OBJECTIVE.outputs(trained(), train.inputs)
    few = jax.tree.map(lambda a: a[:200], train)
    alone = fit(Objective(student.apply, LOSS), start, few, 120)
    taught = Objective(student.apply, compression.distillation(2.0, share=1.0))
    taught = fit(taught, start, (train.inputs, (teacher, train.targets)), 60)
    assert accuracy(taught, student) > accuracy(alone, student) + 0.02
    assert accuracy(taught, student) > accuracy(trained()) - 0.06


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compression.magnitude_mask(PARAMS, 0.0), r"expected keep in \(0, 1\], got 0.0"),
        (lambda: compression.magnitude_mask([jnp.ones(3)], 0.5), "two axes or more, got none"),
        (lambda: compression.low_rank(PARAMS, 0), "low_rank: expected rank >= 1, got 0; try 8"),
        (lambda: compression.distillation(0.0), "temperature > 0 .* got 0.0 and 0.5"),
        (lambda: compression.distillation(1.0, 1.5), r"share in \[0, 1\], got 1.0 and 1.5"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
