"""Value functions: means, weights, chunks, keys, sums, frozen leaves, penalties, compilations."""

import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses
from fnn.objective import EXAMPLES, ValueFunction

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.fold_in(KEY, 1), (7, 3))
TARGETS = jax.random.normal(jax.random.fold_in(KEY, 2), (7, 2))
PARAMS = {
    "weight": jax.random.normal(jax.random.fold_in(KEY, 3), (3, 2)),
    "bias": jax.random.normal(jax.random.fold_in(KEY, 4), (2,)),
}


def model(params, x, *, key=None):
    outputs = jnp.tanh(x @ params["weight"] + params["bias"])
    return outputs if key is None else outputs * jax.random.bernoulli(key, 0.5, outputs.shape)


def loss(outputs, target):
    return 0.5 * jnp.sum((outputs - target) ** 2)


OBJECTIVE = fnn.Objective(model, loss)
DATA = (INPUTS, TARGETS)


def assert_same(value_fn, other, params=PARAMS):
    """Two value functions, or lists of them, agree in values and gradients."""

    @jax.jit
    def both(params):
        every = jax.tree.leaves((value_fn, other), is_leaf=callable)
        return [jax.value_and_grad(f)(params) for f in every]

    results = both(params)
    for ours, theirs in zip(
        results[: len(results) // 2], results[len(results) // 2 :], strict=True
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), ours, theirs)


def explicit(params, weights=None):
    """The mean loss written out with NumPy."""
    weights = np.ones(7) if weights is None else np.asarray(weights)
    hidden = np.tanh(np.asarray(INPUTS) @ params["weight"] + np.asarray(params["bias"]))
    losses = 0.5 * ((hidden - TARGETS) ** 2).sum(1)
    return (weights * losses).sum() / weights.sum()


def test_the_value_is_the_mean_over_examples():
    np.testing.assert_allclose(OBJECTIVE.on(DATA)(PARAMS), explicit(PARAMS), rtol=1e-14)


def test_weight_two_repeats_an_example_and_weight_zero_drops_it():
    weights = jnp.array([1.0, 2, 0, 1, 1, 3, 0])
    rows = np.repeat(np.arange(7), np.asarray(weights, int))
    np.testing.assert_allclose(
        OBJECTIVE.on(DATA, weights=weights)(PARAMS), explicit(PARAMS, weights), rtol=1e-14
    )
    assert_same(OBJECTIVE.on(DATA, weights=weights), OBJECTIVE.on((INPUTS[rows], TARGETS[rows])))


def test_padding_may_hold_anything():
    weights = jnp.ones(7).at[2].set(0)
    padded = (INPUTS.at[2].set(jnp.nan), TARGETS.at[2].set(jnp.nan))
    assert_same(
        [OBJECTIVE.on(padded, weights=weights), OBJECTIVE.on(padded, weights=weights, chunk=3)],
        [OBJECTIVE.on(DATA, weights=weights)] * 2,
    )


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunks_change_nothing(chunk):
    weights = jnp.linspace(0.0, 2.0, 7)
    every = {}, {"weights": weights}, {"key": KEY}, {"weights": weights, "key": KEY}
    assert_same(
        [OBJECTIVE.on(DATA, chunk=chunk, **options) for options in every],
        [OBJECTIVE.on(DATA, **options) for options in every],
    )


def test_chunks_keep_memory_flat(memory):
    def temporary_bytes(n, chunk):
        value_fn = OBJECTIVE.on((jnp.ones((n, 3)), jnp.ones((n, 2))), chunk=chunk)
        return memory(lambda f, p: jax.grad(f)(p), value_fn, PARAMS).temp_size_in_bytes

    growth = temporary_bytes(16384, 64) - temporary_bytes(4096, 64)
    assert growth < 0.1 * (temporary_bytes(16384, None) - temporary_bytes(4096, None))


def test_a_key_is_split_over_the_examples():
    keys = jax.random.split(KEY, 7)
    one = [loss(model(PARAMS, x, key=k), t) for x, t, k in zip(*DATA, keys, strict=True)]
    np.testing.assert_allclose(OBJECTIVE.on(DATA, key=KEY)(PARAMS), np.mean(one), rtol=1e-14)


def test_without_a_loss_the_residual_is_squared_and_takes_inputs_alone():
    def residual(params, x):
        return {"a": x @ params["weight"], "b": x[0]}

    value_fn = fnn.Objective(residual).on(INPUTS)
    products = np.asarray(INPUTS @ PARAMS["weight"])
    expected = 0.5 * (np.sum(products**2) + np.sum(np.asarray(INPUTS)[:, 0] ** 2)) / 7
    np.testing.assert_allclose(value_fn(PARAMS), expected, rtol=1e-14)


def test_value_functions_add_and_scale():
    first, second = OBJECTIVE.on(DATA), OBJECTIVE.on((INPUTS[:3], TARGETS[:3]))
    together = first + 100.0 * second * 0.5 + fnn.l2(1e-2)

    def written_out(params):
        squares = sum(jnp.sum(p**2) for p in jax.tree.leaves(params))
        return first(params) + 50 * second(params) + 0.5 * 1e-2 * squares

    assert_same(together, written_out)
    assert_same(sum([first, second]), lambda params: first(params) + second(params))
    assert_same(-first - second / 2, lambda params: -first(params) - second(params) / 2)


def test_a_penalized_objective_is_the_sum_on_any_data():
    assert_same((OBJECTIVE + fnn.l2(0.1) + fnn.l1(0.2)).on(DATA),
                OBJECTIVE.on(DATA) + fnn.l2(0.1) + fnn.l1(0.2))  # fmt: skip


def test_penalties_take_the_leaves_they_are_given():
    where = {"weight": True, "bias": False}
    weight = np.asarray(PARAMS["weight"])
    np.testing.assert_allclose(
        fnn.l2(0.3, where=where)(PARAMS), 0.15 * np.sum(weight**2), rtol=1e-14
    )
    np.testing.assert_allclose(fnn.l1(0.3, where=where)(PARAMS), 0.3 * np.abs(weight).sum())
    np.testing.assert_allclose(fnn.penalty(lambda p: p["bias"][0])(PARAMS), PARAMS["bias"][0])


@pytest.mark.parametrize("penalized", [False, True])
def test_frozen_leaves_are_held(penalized):
    whole = OBJECTIVE.on(DATA) + fnn.l2(0.1) if penalized else OBJECTIVE.on(DATA)
    free = {"weight": PARAMS["weight"], "bias": None}
    frozen = whole.freeze(PARAMS, {"weight": False, "bias": True})
    assert isinstance(frozen, ValueFunction)
    value, grad = jax.value_and_grad(frozen)(free)
    expected_value, expected = jax.value_and_grad(whole)(PARAMS)
    assert grad["bias"] is None
    np.testing.assert_allclose(value, expected_value)
    np.testing.assert_allclose(grad["weight"], expected["weight"])

    with pytest.raises(ValueError, match=r"None in place of the frozen leaf params\['bias'\]"):
        frozen(PARAMS)
    assert jnp.isfinite((frozen + fnn.l2(0.1, where={"weight": True, "bias": True}))(free))

    twice = frozen.freeze(free, {"weight": True, "bias": None})
    np.testing.assert_allclose(twice({"weight": None, "bias": None}), expected_value)


def test_a_sample_is_right_in_the_mean_and_draws_by_the_weights():
    weights = jnp.array([1.0, 0, 2, 1, 1, 0, 1])
    value_fn = 2.0 * OBJECTIVE.on(DATA, weights=weights) + fnn.l2(0.1)
    keys = jax.random.split(KEY, 2000)
    sampled = jax.vmap(lambda key: value_fn.sample(key, 3)(PARAMS))
    drawn = jax.jit(sampled)(keys)
    deviation = jnp.std(drawn) / len(keys) ** 0.5
    assert abs(jnp.mean(drawn) - value_fn(PARAMS)) < 5 * deviation
    assert value_fn.sample(KEY, 7)(PARAMS) == value_fn(PARAMS)
    some = value_fn.sample(KEY, 6).terms[0].block
    assert some.count == 6
    assert all(np.any(np.all(INPUTS[weights > 0] == x, axis=1)) for x in some.inputs)


def test_the_axis_of_examples_has_its_name():
    def centred(params, x):
        return params * (x - jax.lax.pmean(x, EXAMPLES))

    value = fnn.Objective(centred, lambda y, t: (y - t) ** 2).on((INPUTS[:, 0], INPUTS[:, 1]))(2.0)
    x, t = np.asarray(INPUTS)[:, :2].T
    np.testing.assert_allclose(value, np.mean((2 * (x - x.mean()) - t) ** 2))


def test_outputs_are_those_of_inference():
    np.testing.assert_allclose(
        OBJECTIVE.outputs(PARAMS, INPUTS), jax.vmap(lambda x: model(PARAMS, x))(INPUTS)
    )


def flax_model():
    module = flax.linen.Dense(2)
    return jax.jit(module.init)(KEY, INPUTS[0]), module.apply


def equinox_model():
    params, static = equinox.partition(equinox.nn.Linear(3, 2, key=KEY), equinox.is_array)
    return params, lambda p, x: equinox.combine(p, static)(x)


@pytest.mark.parametrize("make", [lambda: (PARAMS, model), flax_model, equinox_model])
def test_a_new_batch_never_recompiles(make):
    params, apply = make()
    objective = fnn.Objective(apply, loss)
    traces = 0

    @jax.jit
    def value_and_grad(value_fn, params):
        nonlocal traces
        traces += 1
        return jax.value_and_grad(value_fn)(params)

    for n in range(3):
        batch = INPUTS + n, TARGETS
        blocks = objective.on(batch) + (1.0 + n) * objective.on(batch, key=None)
        value, grad = value_and_grad(blocks + fnn.l2(0.1 * n), params)
        assert jnp.isfinite(value)
        assert jax.tree.structure(grad) == jax.tree.structure(params)
    assert traces == 1


def test_value_functions_map_over_lanes_of_data():
    lanes = jnp.stack([INPUTS, 2 * INPUTS])
    values = jax.vmap(lambda inputs: OBJECTIVE.on((inputs, TARGETS))(PARAMS))(lanes)
    expected = [OBJECTIVE.on((inputs, TARGETS))(PARAMS) for inputs in lanes]
    np.testing.assert_allclose(values, expected)


def test_takes_key():
    assert OBJECTIVE.takes_key
    # flax's apply takes any keyword and hands it on to a model that does not.
    assert not fnn.Objective(lambda w, x, **options: w * x / len(options), loss).takes_key
    assert not fnn.Objective(lambda w, x: w * x, loss).takes_key


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OBJECTIVE.on(INPUTS), r"expected data = \(inputs, targets\), got one array"),
        (lambda: OBJECTIVE.on((INPUTS, TARGETS, TARGETS)), "got a tuple of 3"),
        (lambda: OBJECTIVE.on((INPUTS, TARGETS[:3])), r"same number .* inputs: 7, targets: 3"),
        (lambda: OBJECTIVE.on((INPUTS[:0], TARGETS[:0])), "at least one example"),
        (lambda: OBJECTIVE.on((INPUTS, jnp.array(1.0))), r"scalar targets; .* x\[None\]"),
        (lambda: OBJECTIVE.on((None, None)), "expected arrays of examples, got none"),
        (lambda: OBJECTIVE.on(DATA, weights=jnp.ones(3)), r"shape \(7,\).* got \(3,\); try"),
        (
            lambda: OBJECTIVE.on(DATA, weights=-jnp.ones(7)),
            "weights >= 0, got one of -1.0 at index 0; try",
        ),
        (
            lambda: OBJECTIVE.on(DATA, weights=np.full(7, np.nan)),
            "weights >= 0, got one of nan at index 0; try",
        ),
        (lambda: OBJECTIVE.on(DATA, chunk=0), "chunk >= 1, got 0; try"),
        (lambda: fnn.Objective(model, lambda o, t: o - t).on(DATA)(PARAMS), r"scalar, got shape"),
        (lambda: fnn.l2(-1.0), "l2: expected a weight of at least 0, got -1.0; try"),
        (lambda: fnn.l1(float("nan")), "l1: expected a weight of at least 0, got nan; try"),
        (lambda: fnn.l2(1.0).freeze(PARAMS, {"weight": True}), "mask of the structure.*; try"),
    ],
)
def test_misuse_says_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_adding_something_else_is_a_type_error():
    for other in (1.0, jnp.sum):
        with pytest.raises(TypeError):
            OBJECTIVE.on(DATA) + other
        with pytest.raises(TypeError):
            OBJECTIVE + other
    with pytest.raises(TypeError):
        OBJECTIVE.on(DATA) * INPUTS


# Half precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_summed_in_single(dtype):
    """A sum of ones in bfloat16 stays at 256, and float16 cannot count to 70000."""
    ones = jnp.ones(70_000, dtype)
    targets = ones.at[35_000:].set(2)
    line = fnn.Objective(lambda w, x: w * x, losses.half_squared_error)
    options = {}, {"weights": ones}, {"chunk": 8}, {"chunk": 9, "weights": ones}

    @jax.jit
    def ask(w):
        return [jax.value_and_grad(line.on((ones, targets), **o))(w) for o in options]

    said = ask(jnp.asarray(2, dtype))
    assert [(value.dtype, float(value)) for value, _ in said] == [(dtype, 0.25)] * 4
    # Without chunks it is the model's own backward pass that sums.
    assert [(grad.dtype, float(grad)) for _, grad in said[2:]] == [
        (dtype, pytest.approx(0.5, rel=2e-3))
    ] * 2


def test_masks_of_booleans_are_structure_and_masks_of_arrays_are_leaves():
    penalties = [fnn.l2(0.3, where={"weight": m, "bias": np.bool_(False)}) for m in (True, False)]
    one, two = map(jax.tree.structure, penalties)
    assert one != two
    assert [len(jax.tree.leaves(p)) for p in penalties] == [1, 1]
    traced = fnn.l2(0.3, where={"weight": jnp.array(True), "bias": False})
    assert len(jax.tree.leaves(traced)) == 2
    assert_same(traced, penalties[0])
    assert penalties[1](PARAMS) == 0


def test_targets_alone_are_data():
    value_fn = fnn.Objective(lambda p, _: p, losses.half_squared_error).on((None, TARGETS))
    assert value_fn(jnp.zeros(2)) == pytest.approx(0.5 * np.sum(np.asarray(TARGETS) ** 2) / 7)
