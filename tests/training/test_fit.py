"""`fit` against loops written out, its stop reasons, its compilations, and its lanes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import fnn
from fnn import rules, training
from fnn.training import Stop, fit
from fnn.training.job import Request, job_of, require_finite
from fnn.training.sources import shuffled
from fnn.training.stretches import stretches
from tests.line import loss, model

KEY = jax.random.key(0)
INPUTS = jax.random.normal(jax.random.fold_in(KEY, 1), (10, 3))
WEIGHT = jnp.array([1.0, -2.0, 0.5])
TARGETS = INPUTS @ WEIGHT + 0.1 * jax.random.normal(jax.random.fold_in(KEY, 2), (10,))
DATA = INPUTS, TARGETS
START = {"weight": jnp.zeros(3), "bias": jnp.zeros(())}
RULE = optax.adam(0.1)

OBJECTIVE = fnn.Objective(model, loss)


def written_out(value_fns, params=START, rule=RULE):
    """The loop of the README, one step for each value function."""
    rule = optax.with_extra_args_support(rule)
    state, values = rule.init(params), []

    @jax.jit
    def step(params, state, value_fn):
        value, grad = jax.value_and_grad(value_fn)(params)
        extra = {"value": value, "grad": grad, "value_fn": value_fn}
        updates, state = rule.update(grad, state, params, **extra)
        return optax.apply_updates(params, updates), state, value

    for value_fn in value_fns:
        params, state, value = step(params, state, value_fn)
        values.append(value)
    return params, state, np.array(values)


def assert_close(a, b, rtol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-14), a, b)


def batches(size, objective=OBJECTIVE):
    return [objective.on((INPUTS[i : i + size], TARGETS[i : i + size])) for i in range(0, 10, size)]


@pytest.mark.parametrize("rule", [RULE, optax.lbfgs()])
def test_full_batch(rule):
    fitted = fit(rule, OBJECTIVE, START, DATA, steps=6)
    params, state, values = written_out([OBJECTIVE.on(DATA)] * 6, rule=rule)
    assert_close((fitted.params, fitted.state, fitted.history.value), (params, state, values))
    assert fitted.stopped == Stop.BUDGET
    np.testing.assert_array_equal(fitted.history.steps, np.arange(1, 7))


@pytest.mark.filterwarnings("ignore:fit. without a key")
@pytest.mark.parametrize("size", [5, 4])
def test_mini_batches_come_in_order_without_a_key(size):
    fitted = fit(RULE, OBJECTIVE, START, DATA, epochs=3, batch_size=size)
    params, state, values = written_out(batches(size) * 3)
    assert_close((fitted.params, fitted.state, fitted.history.value), (params, state, values))
    np.testing.assert_array_equal(fitted.history.steps, len(batches(size)) * np.arange(1, 4))


@pytest.mark.filterwarnings("ignore:fit. without a key")
def test_streams_of_batches():
    class Batches:
        def __iter__(self):
            return ((INPUTS[i : i + 4], TARGETS[i : i + 4]) for i in range(0, 10, 4))

    streamed = fit(RULE, OBJECTIVE, START, Batches(), epochs=3, validation=DATA)
    arrays = fit(RULE, OBJECTIVE, START, DATA, epochs=3, batch_size=4, validation=DATA)
    assert_close(streamed, arrays)

    cut = fit(RULE, OBJECTIVE, START, Batches(), steps=7, validation=DATA)
    assert_close(cut, fit(RULE, OBJECTIVE, START, DATA, steps=7, batch_size=4, validation=DATA))

    ended = fit(RULE, OBJECTIVE, START, iter(Batches()), epochs=3)
    assert ended.stopped == Stop.DATA
    assert len(ended.history.value) == 3


def test_a_value_function_of_several_blocks():
    value_fn = OBJECTIVE.on(DATA) + 3.0 * OBJECTIVE.on((INPUTS[:2], TARGETS[:2])) + fnn.l2(0.1)
    fitted = fit(RULE, value_fn, START, steps=5, validation=OBJECTIVE.on(DATA))
    params, _, values = written_out([value_fn] * 5)
    assert_close((fitted.params, fitted.history.value), (params, values))
    np.testing.assert_allclose(fitted.history.validation["loss"][-1], OBJECTIVE.on(DATA)(params))


@pytest.mark.filterwarnings("ignore:fit. without a key")
def test_a_penalized_objective_penalizes_every_batch_but_not_the_validation():
    objective = OBJECTIVE + fnn.l2(0.1)
    fitted = fit(RULE, objective, START, DATA, epochs=2, batch_size=4, validation=DATA)
    params, _, values = written_out(batches(4, objective) * 2)
    assert_close((fitted.params, fitted.history.value), (params, values))
    np.testing.assert_allclose(fitted.history.validation["loss"][-1], OBJECTIVE.on(DATA)(params))


def test_fresh_points_are_drawn_at_every_step():
    def draw(key):
        inputs = jax.random.normal(key, (4, 3))
        return OBJECTIVE.on((inputs, inputs @ WEIGHT))

    fitted = fit(RULE, draw, START, steps=200, key=KEY)
    assert len(set(fitted.history.value.tolist())) == 200
    np.testing.assert_allclose(fitted.params["weight"], WEIGHT, atol=1e-2)
    assert_close(fitted, fit(RULE, draw, START, steps=200, key=KEY))


def test_orders_are_equally_likely_and_hold_every_example():
    """The 24 orders of four examples by Pearson's test; long ones; and vmapped."""
    keys = jax.random.split(jax.random.key(0), 24_000)
    _, counts = np.unique(jax.vmap(lambda key: shuffled(key, 4))(keys), axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    for n in (1, 2, 3, 1024, 1025, 2**20 + 1):
        order = np.asarray(shuffled(keys[0], n))
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
        assert n < 4 or (order != np.asarray(shuffled(keys[1], n))).mean() > 0.9


def test_a_key_shuffles_each_epoch_anew_and_every_example_counts_once():
    still = optax.sgd(0.0)
    history = fit(still, OBJECTIVE, START, DATA, epochs=5, batch_size=2, key=KEY).history
    epochs = history.value.reshape(5, 5)
    np.testing.assert_allclose(epochs.mean(1), OBJECTIVE.on(DATA)(START), rtol=1e-12)
    assert len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.filterwarnings("ignore:fit. the model draws")
def test_a_model_gets_a_key_only_in_training():
    def noisy(params, x, *, key=None):
        return model(params, x) if key is None else jnp.asarray(jax.random.normal(key))

    objective = fnn.Objective(noisy, loss)
    trained = fit(RULE, objective, START, DATA, steps=3, key=KEY, validation=DATA)
    assert len(set(trained.history.value.tolist())) == 3
    silent = fit(RULE, objective, START, DATA, steps=3, validation=DATA)
    assert_close(silent, fit(RULE, OBJECTIVE, START, DATA, steps=3, validation=DATA))
    validation = OBJECTIVE.on(DATA)(trained.params)
    np.testing.assert_allclose(trained.history.validation["loss"][-1], validation)


def test_how_a_run_is_cut_into_chunks_does_not_matter():
    calls = []
    options = {"epochs": 30, "batch_size": 3, "key": KEY, "validation": DATA, "every": 2}
    whole = fit(RULE, OBJECTIVE, START, DATA, **options)
    cut = fit(RULE, OBJECTIVE, START, DATA, **options, callback=calls.append)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, cut))
    assert [len(call.history.steps) for call in calls] == list(range(1, 16))


def test_a_run_goes_on_from_its_state():
    whole = fit(RULE, OBJECTIVE, START, DATA, steps=8)
    first = fit(RULE, OBJECTIVE, START, DATA, steps=3)
    second = fit(RULE, OBJECTIVE, first.params, DATA, steps=5, state=first.state)
    assert_close(second.params, whole.params)


# Validation and stopping --------------------------------------------------------------------------


def test_metrics_see_all_outputs_and_targets():
    metrics = {"worst": lambda outputs, targets: jnp.abs(outputs - targets).max()}
    fitted = fit(RULE, OBJECTIVE, START, DATA, steps=4, validation=DATA, metrics=metrics)
    worst = jnp.abs(OBJECTIVE.outputs(fitted.params, INPUTS) - TARGETS).max()
    np.testing.assert_allclose(fitted.history.validation["worst"][-1], worst)
    assert len(fitted.history.validation["worst"]) == 4


def test_patience_returns_the_best_parameters():
    other = INPUTS, INPUTS @ (0.5 * WEIGHT)  # passed by on the way from zero to WEIGHT
    fitted = fit(optax.sgd(0.02), OBJECTIVE, START, DATA, steps=500, validation=other, patience=5)
    losses = fitted.history.validation["loss"]
    assert fitted.stopped == Stop.PATIENCE
    assert 0 < losses.argmin() == len(losses) - 6
    np.testing.assert_allclose(OBJECTIVE.on(other)(fitted.params), losses.min(), rtol=1e-12)


@pytest.mark.parametrize("stream", [False, True])
def test_the_best_parameters_come_back_whatever_the_reason(stream):
    other = INPUTS, INPUTS @ (0.5 * WEIGHT)
    rule = optax.sgd(0.02, momentum=0.5)

    def run(reason, **options):
        data = ([DATA] if reason != Stop.DATA else iter([DATA] * 30)) if stream else DATA
        fitted = fit(rule, OBJECTIVE, START, data, validation=other, **options)
        assert fitted.stopped == reason
        best = fitted.history.validation["loss"].argmin()
        again = fit(rule, OBJECTIVE, START, DATA, steps=int(best) + 1)
        if best < len(fitted.history.steps) - 1 or reason != Stop.DATA:
            assert_close((fitted.params, fitted.state), (again.params, again.state))
        return fitted

    run(Stop.PATIENCE, epochs=300, patience=5)
    run(Stop.BUDGET, steps=60, patience=99)
    run(Stop.GOAL, epochs=60, patience=99, goal=0.5)
    if stream:
        assert run(Stop.DATA, epochs=4, patience=99).history.validation["loss"].shape == (1,)


def test_a_validation_loss_that_is_not_finite_ends_a_run():
    def fragile(params, x):
        return jnp.log(x[0]) * params["bias"]

    objective = fnn.Objective(fragile, loss)
    positive = jnp.abs(INPUTS), TARGETS
    options = {"steps": 9, "validation": (INPUTS, TARGETS), "patience": 4}
    assert fit(RULE, objective, START, positive, **options).stopped == Stop.NON_FINITE


def test_what_is_prepared_is_what_is_validated():
    def centred(params, x):
        return model(params, x) - params["mean"]

    def prepare(params):
        return {**params, "mean": jnp.mean(INPUTS @ params["weight"])}

    objective, start = fnn.Objective(centred, loss), {**START, "mean": jnp.zeros(())}
    options = {"steps": 3, "validation": DATA, "prepare": prepare}
    fitted = fit(optax.sgd(0.1), objective, start, DATA, **options)
    prepared = prepare(fitted.params)
    np.testing.assert_allclose(
        fitted.history.validation["loss"][-1], objective.on(DATA)(prepared), rtol=1e-12
    )


@pytest.mark.filterwarnings("ignore:fit. without a key")
def test_sums_of_half_precision_neither_stick_nor_overflow():
    constant = fnn.Objective(lambda w, x: w * 0 + x, lambda output, _: output)
    for dtype, number in ((jnp.bfloat16, 1.0), (jnp.float16, 100.0)):
        data = jnp.full(1000, number, dtype), jnp.zeros(1000, dtype)
        start = jnp.full(3, 300.0, dtype)[0]
        fitted = fit(optax.sgd(0.1), constant, start, data, epochs=1, batch_size=1, goal=0.5)
        assert fitted.stopped == Stop.BUDGET
        assert fitted.params.dtype == dtype


def test_a_frozen_leaf_stays():
    frozen = OBJECTIVE.on(DATA).freeze(START, {"weight": True, "bias": False})
    fitted = fit(RULE, frozen + fnn.l2(0.1), {**START, "weight": None}, steps=50)
    assert fitted.params["weight"] is None
    assert fitted.params["bias"] != 0
    with pytest.raises(ValueError, match=r"frozen leaf params\['weight'\]"):
        fit(RULE, frozen, START, steps=1)


def test_a_stream_is_read_no_further_than_it_is_used():
    reads = itertools.count()
    endless = ((next(reads), DATA)[1] for _ in itertools.repeat(None))
    fitted = fit(RULE, OBJECTIVE, START, endless, steps=40, validation=DATA)
    assert next(reads) == 40
    assert fitted.stopped == Stop.BUDGET
    assert len(fitted.history.validation["loss"]) == 1


def test_the_goal_ends_a_run():
    fitted = fit(RULE, OBJECTIVE, START, DATA, steps=1000, goal=0.1)
    assert fitted.stopped == Stop.GOAL
    assert fitted.history.value[-1] <= 0.1 < fitted.history.value[-2]


def test_a_value_that_is_not_finite_ends_a_run_with_the_parameters_before_it():
    def fragile(params, x):
        return jnp.sqrt(1.0 - params["bias"]) + 0.0 * x[0]

    objective = fnn.Objective(fragile, lambda output, _: output)
    fitted = fit(optax.sgd(0.2), objective, START, DATA, steps=100)
    assert fitted.stopped == Stop.NON_FINITE
    assert np.isnan(fitted.history.value[-1])
    assert np.isfinite(fitted.history.value[:-1]).all()
    assert jnp.isfinite(OBJECTIVE.on(DATA)(fitted.params))
    assert "finite" in str(fitted.stopped)


def test_a_gradient_that_is_not_finite_never_reaches_the_parameters():
    objective = fnn.Objective(lambda params, x: jnp.sqrt(params["bias"] * x[0]), loss)
    fitted = fit(optax.sgd(0.1), objective, START, (INPUTS**2, TARGETS), steps=5)
    assert fitted.stopped == Stop.NON_FINITE
    assert_close(fitted.params, START)


def test_a_history_that_was_seen_stays_as_it_was_and_is_not_copied_for_the_next_look():
    fits = []
    fitted = fit(RULE, OBJECTIVE, START, DATA, steps=200, validation=DATA, callback=fits.append)
    for number, at in enumerate(fits, 1):
        np.testing.assert_array_equal(at.history.value, fitted.history.value[:number])
        np.testing.assert_array_equal(at.history.steps, np.arange(1, number + 1))
        losses = fitted.history.validation["loss"][:number]
        np.testing.assert_array_equal(at.history.validation["loss"], losses)
    assert len({id(at.history.value.base) for at in fits}) < 10


def test_a_callback_can_end_a_run():
    fitted = fit(RULE, OBJECTIVE, START, DATA, steps=50, callback=lambda f: f.history.steps[-1] > 9)
    assert fitted.stopped == Stop.CALLBACK
    assert len(fitted.history.value) == 10


def test_every_reason_reads_as_a_sentence():
    assert all(str(reason).endswith(".") for reason in Stop)


# Cost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"batch_size": 4, "key": KEY}, {"validation": DATA, "patience": 9}],
)
def test_a_second_call_compiles_nothing(compilations, options):
    rule, other = optax.adam(0.1), jax.tree.map(jnp.ones_like, START)
    fit(rule, OBJECTIVE, START, DATA, epochs=3, **options)
    assert compilations, "the first call compiles, or the listener does not listen"
    compilations.clear()
    fit(rule, OBJECTIVE, START, DATA, epochs=700, **options)
    fit(rule, OBJECTIVE, other, DATA, steps=5, **options)
    assert not compilations


def test_a_first_call_compiles_a_look_at_the_loss_the_start_and_the_loop(compilations):
    def given(features):
        inputs = jnp.ones((43, features))
        start = {"weight": jnp.zeros(features), "bias": jnp.zeros(())}
        return start, (inputs, inputs @ jnp.ones(features))

    other, sizes = given(8), given(9)
    fit(rules.levenberg_marquardt(), OBJECTIVE, *other, steps=3)  # asks XLA for its options, too
    compilations.clear()
    fit(rules.levenberg_marquardt(), OBJECTIVE, *sizes, steps=3)
    assert len(compilations) == 3


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "complex128"])
def test_an_array_that_is_not_finite_is_named(monkeypatch, dtype, few):
    monkeypatch.setattr("fnn.training.job._FEW", few)
    good, bad = jnp.ones((40, 2), dtype), jnp.ones((40, 2), dtype).at[3, 1].set(jnp.nan)
    require_finite({"data": (good, jnp.ones(3, int), 1.0)})
    with pytest.raises(ValueError, match=r"got 1 that are NaN or infinite in .* \(3, 1\)"):
        require_finite({"data": (good, bad)})


@pytest.mark.parametrize("make", [rules.levenberg_marquardt, lambda: rules.adam(0.1)])
def test_ten_calls_with_rules_made_anew_compile_once(compilations, make):
    counts = []
    for _ in range(10):
        fit(make(), OBJECTIVE, START, DATA, steps=3)
        counts.append(len(compilations))
    assert counts[0] > 0
    assert counts == counts[:1] * 10


def test_python_looks_in_between_segments_only():
    job = job_of(Request(RULE, OBJECTIVE, START, DATA, steps=4000, tolerance=0))
    looks = [stretch.end.steps for stretch in stretches(job, job.begin)]
    assert looks[-1] == 4000
    assert len(looks) < 40


def test_lanes_that_diverge_do_not_disturb_the_others():
    rates = jnp.array([0.1, 1e200, 0.01])
    value_fn = OBJECTIVE.on(DATA)
    source = training.source_of(None, value_fn)
    limits = training.Limits(steps=20, rounds=10)

    def lane(rate):
        rule = optax.sgd(rate)
        progress = training.start(rule, START, keep_best=False)
        return training.advance(
            rule,
            source,
            lambda _: {},
            progress,
            0,
            limits,
            round_end=lambda r: 2 * (r + 1),
            capacity=(20, 10),
        )

    progress, records = jax.jit(jax.vmap(lane))(rates)
    assert progress.stopped.tolist() == [Stop.RUNNING, Stop.NON_FINITE, Stop.RUNNING]
    assert progress.step.tolist()[::2] == [20, 20]
    assert progress.step[1] < 20
    for i in (0, 2):
        params, _, values = written_out([value_fn] * 20, rule=optax.sgd(float(rates[i])))
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], (progress.params, records.value))
        assert_close(mine, (params, values))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(progress.params))


def test_rounds_may_end_within_epochs_and_calls_within_rounds():
    """Seven steps of batches of three, looked at after 1, 2 and 7, are the steps of `fit`."""
    data = jax.tree.map(lambda a: a[:7], DATA)
    key, ends = jax.random.key(3), jnp.array([1, 2, 7])
    source = training.source_of(OBJECTIVE, data, batch_size=3, key=key)
    whole = fit(RULE, OBJECTIVE, START, data, steps=7, batch_size=3, key=key)

    @functools.partial(jax.jit, static_argnames="rounds")
    def go_on(progress, first, ends, rounds):
        return training.advance(
            RULE, source, lambda p: {"loss": OBJECTIVE.on(data)(p.params)}, progress, first,
            training.Limits(steps=7, rounds=rounds), round_end=lambda r: ends[r], capacity=(7, 3),
        )  # fmt: skip

    begun = training.start(RULE, START, keep_best=False)
    progress, records = go_on(begun, 0, ends, 3)
    assert records.steps.tolist() == [1, 2, 7]
    assert_close(progress.params, whole.params)
    assert_close(records.value, whole.history.value)
    progress, first = go_on(begun, 0, ends, 2)
    progress, second = go_on(progress, 2, ends[2:] - 2, 1)
    assert_close(progress.params, whole.params)
    assert_close(
        jnp.concatenate([first.evaluated["loss"][:2], second.evaluated["loss"][:1]]),
        records.evaluated["loss"],
    )


# Misuse -------------------------------------------------------------------------------------------

BROKEN = INPUTS.at[3, 1].set(jnp.nan)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((OBJECTIVE, START, DATA), {}, "either steps= or epochs="),
        ((OBJECTIVE, START, DATA), {"steps": 1, "epochs": 1}, "either steps= or epochs="),
        ((OBJECTIVE, START, DATA), {"steps": 0}, "steps to be a whole number above 0, got 0"),
        (
            (OBJECTIVE, START, DATA),
            {"steps": 1, "batch_size": -2},
            "batch_size to be a whole number",
        ),
        ((OBJECTIVE, START, DATA), {"epochs": 2.5}, "epochs to be a whole number above 0, got 2.5"),
        ((OBJECTIVE, START, DATA), {"steps": 1, "patience": 3}, "pass validation="),
        ((OBJECTIVE, START, DATA), {"steps": 1, "metrics": {"x": max}}, "metrics need validation"),
        (
            (OBJECTIVE, START, DATA),
            {"steps": 1, "validation": DATA, "metrics": {"loss": max}},
            "other names than 'loss'",
        ),
        ((OBJECTIVE, START, DATA), {"steps": 1, "validation": (*DATA, 1)}, "got a tuple of 3"),
        ((OBJECTIVE, START, DATA), {"steps": 1, "state": ()}, "expected a state of this rule"),
        ((OBJECTIVE.on(DATA), START), {"steps": 1, "validation": DATA}, "to be a value function"),
        ((lambda _: OBJECTIVE.on(DATA), START, DATA), {"steps": 1}, "draws its own"),
        ((OBJECTIVE, START, [(INPUTS, TARGETS[:2])]), {"steps": 1}, r"arrays of \[2, 10\]"),
        ((OBJECTIVE, START), {"steps": 1}, "an Objective needs data"),
        ((OBJECTIVE, START, INPUTS), {"steps": 1}, r"expected data = \(inputs, targets\)"),
        ((OBJECTIVE, START, (INPUTS[:0], TARGETS[:0])), {"steps": 1}, "at least one example"),
        ((OBJECTIVE, START, (BROKEN, TARGETS)), {"steps": 1}, r"data\[0\], .* index \(3, 1\)"),
        ((OBJECTIVE, START, DATA), {"steps": 1, "validation": (BROKEN, TARGETS)}, "validation"),
        ((OBJECTIVE, {**START, "bias": jnp.inf}, DATA), {"steps": 1}, r"params\['bias'\]"),
        ((OBJECTIVE, {"weight": None}, DATA), {"steps": 1}, "a tree without leaves"),
        ((OBJECTIVE.on(DATA), START, DATA), {"steps": 1}, "brings its own"),
        ((OBJECTIVE.on(DATA), START), {"steps": 1, "batch_size": 2}, "batch_size= cuts arrays"),
        ((lambda _: OBJECTIVE.on(DATA), START), {"steps": 1}, "needs a key"),
        ((OBJECTIVE, START, iter([])), {"steps": 1}, "iterable without any"),
        (
            (OBJECTIVE, START, iter([(INPUTS[:2], TARGETS[:2]), DATA])),
            {"steps": 9},
            "batches of 1 to 2 examples",
        ),
    ],
)
def test_misuse_raises_before_anything_runs(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fit(RULE, *arguments, **options)


def test_a_metric_is_one_number():
    for score, got in ((jnp.square, r"shape \(10,\)"), (str, "str"), (lambda _: None, "NoneType")):
        plan = {"validation": DATA, "metrics": {"v": lambda o, _, score=score: score(o)}}
        with pytest.raises(TypeError, match=f"metric 'v' to be one number .* got {got}"):
            fit(RULE, OBJECTIVE, START, DATA, steps=1, **plan)


def test_parameters_that_are_not_real_numbers_are_named():
    for bias, dtype in ((jnp.array(0), "int"), (jnp.array(1j), "complex")):
        with pytest.raises(TypeError, match=rf"floating point, got params\['bias'\] of {dtype}"):
            fit(RULE, OBJECTIVE, {**START, "bias": bias}, DATA, steps=1)


def test_a_rule_that_was_not_called_is_named():
    with pytest.raises(TypeError, match="expected a rule such as"):
        fit(optax.adam, OBJECTIVE, START, DATA, steps=1)


def test_an_error_in_the_model_says_what_it_was_given():
    with pytest.raises(TypeError, match="dot_general") as error:
        fit(RULE, OBJECTIVE, {**START, "weight": jnp.zeros(4)}, DATA, steps=1)
    notes = " ".join(error.value.__notes__)
    assert "float64[4]" in notes
    assert "float64[10, 3]" in notes
