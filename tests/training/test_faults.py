"""What `fit` does when something breaks: each fault, and what is left of the training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import rules
from fnn.training import Checkpoints, Stop, fit
from tests.line import loss, model
from tests.training import faults

# What TensorStore's callbacks say when a checkpoint cannot be read or written.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning",
    "ignore:fit. all steps were taken",  # some of these few steps lead up
)

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (40, 3))
TARGETS = INPUTS @ jnp.array([1.0, -2.0, 0.5]) + 1.0
START = {"weight": jnp.zeros(3), "bias": jnp.zeros(())}
ADAM = optax.adam(0.1)
LEVENBERG_MARQUARDT = rules.levenberg_marquardt()

LINE = fnn.Objective(model, loss)


def batches(epochs=1):
    for _ in range(epochs):
        for i in range(0, 40, 4):
            yield INPUTS[i : i + 4], TARGETS[i : i + 4]


def assert_equal(one, other):
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("rule", [ADAM, LEVENBERG_MARQUARDT], ids=["adam", "levenberg_marquardt"])
def test_a_number_that_is_none_in_a_batch_ends_a_run_with_the_parameters_before(rule, value):
    """Streams are trained on 32 batches at a time; the number is in the second lot."""
    waves = [(x, y + jnp.sin(9 * x[:, 0])) for x, y in batches(5)]  # no line fits them
    fitted = fit(rule, LINE, START, faults.poisoned(waves, 40, value), steps=41)
    assert fitted.stopped == Stop.NON_FINITE
    assert_equal(fitted.params, fit(rule, LINE, START, waves, steps=32).params)
    assert len(fitted.history.value) == 41
    assert not np.isfinite(fitted.history.value[-1])


def test_an_infinite_gradient_ends_a_run():
    steep = faults.infinite_below(10.0)
    objective = fnn.Objective(lambda params, x: steep(model(params, x)), loss)
    for rule in (ADAM, rules.gauss_newton()):
        fitted = fit(rule, objective, START, (INPUTS, TARGETS), steps=5)
        assert fitted.stopped == Stop.NON_FINITE
        assert len(fitted.history.value) == 1
        assert_equal(fitted.params, START)


def test_a_model_survives_a_callback_that_fails():
    def fail(fitted):
        if len(fitted.history.value) == 3:
            raise RuntimeError("the picture could not be drawn")

    with pytest.raises(RuntimeError, match="picture") as failure:
        fit(ADAM, LINE, START, (INPUTS, TARGETS), steps=5, callback=fail)
    assert_equal(
        failure.value.fit.params, fit(ADAM, LINE, START, (INPUTS, TARGETS), steps=3).params
    )
    assert any("attribute `fit`" in note for note in failure.value.__notes__)


def test_a_gram_matrix_that_is_not_positive_definite_is_solved_by_least_squares():
    """More examples than parameters, and one of these twice: both systems are singular."""
    twice = fnn.Objective(lambda params, x: model(params, x) + params["again"], loss)
    start = {**START, "again": jnp.zeros(())}
    for solver in (fnn.solvers.dual(), fnn.solvers.primal()):
        rule = rules.gauss_newton(damping=0.0, solver=solver)
        fitted = fit(rule, twice, start, (INPUTS, TARGETS), steps=2)
        assert fitted.state.info.counts.eigen == 2
        np.testing.assert_allclose(fitted.params["bias"], 0.5, rtol=1e-9)
        np.testing.assert_allclose(fitted.params["weight"], [1.0, -2.0, 0.5], rtol=1e-9)


def test_where_memory_runs_out_fewer_examples_are_taken_at_a_time():
    data, options = (INPUTS, TARGETS), {"steps": 6, "validation": (INPUTS, TARGETS)}
    whole = fit(ADAM, LINE, START, data, **options)
    small, tried = faults.memory_for(10, model)
    with pytest.warns(
        UserWarning, match="out of memory; going on with 10 examples at a time"
    ) as warned:
        fitted = fit(ADAM, fnn.Objective(small, loss), START, data, **options)
    assert list(dict.fromkeys(tried)) == [40, 20, 10]
    assert tried[-1] == 10
    assert len(warned) == 1
    assert warned[0].filename == __file__
    np.testing.assert_allclose(fitted.history.value, whole.history.value, rtol=1e-9, atol=1e-15)


def test_where_memory_runs_out_in_a_stream():
    whole = fit(ADAM, LINE, START, batches(), steps=9)
    small, tried = faults.memory_for(2, model)
    with pytest.warns(UserWarning, match="going on with 2 examples at a time"):
        fitted = fit(ADAM, fnn.Objective(small, loss), START, batches(), steps=9)
    assert list(dict.fromkeys(tried)) == [4, 2]
    np.testing.assert_allclose(fitted.history.value, whole.history.value, rtol=1e-9)


@pytest.mark.parametrize("stream", [False, True])
def test_a_device_without_room_for_one_example_is_an_error(stream):
    data = batches() if stream else (INPUTS, TARGETS)
    small, tried = faults.memory_for(0, model)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        fit(ADAM, fnn.Objective(small, loss), START, data, steps=3)
    assert tried[-1] == 1


def test_an_error_of_the_batches_passes_on_and_what_was_trained_is_kept(tmp_path):
    job = {"steps": 45, "checkpoint": tmp_path / "run"}
    with pytest.raises(OSError, match="the disk is gone") as error:
        fit(ADAM, LINE, START, faults.broken(batches(5), 40), **job)
    notes = " ".join(error.value.__notes__)
    assert "from the batches, after 32 steps" in notes
    assert f"the 32 steps before that are kept in {tmp_path / 'run'}" in notes
    fitted = fit(ADAM, LINE, START, batches(5), **job)
    assert_equal(fitted, fit(ADAM, LINE, START, batches(5), steps=45))


def test_a_full_disk_costs_checkpoints_and_not_the_training(tmp_path):
    data, rule = (INPUTS, TARGETS), ADAM
    begun = fit(rule, LINE, START, data, steps=5, checkpoint=tmp_path)
    with (
        faults.full_disk(),
        pytest.warns(
            UserWarning, match=r"steps could not be written .* those written before stay"
        ) as warned,
    ):
        fitted = fit(rule, LINE, START, data, steps=9, checkpoint=Checkpoints(tmp_path, seconds=0))
    assert "after 9 steps" in str(warned[-1].message)
    assert_equal(fitted, fit(rule, LINE, START, data, steps=9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "job.json", "lock"]
    assert_equal(begun, fit(rule, LINE, START, data, steps=5, checkpoint=tmp_path))


@pytest.mark.parametrize("damage", [faults.cut, faults.flip, faults.forget])
def test_the_checkpoint_before_a_damaged_one_is_used_and_it_is_said(tmp_path, damage):
    wide = fnn.Objective(lambda params, x: x @ params.sum(1), loss)
    start, data = jax.random.normal(KEY, (3, 500)), (INPUTS, TARGETS)
    for steps in (5, 8):
        fit(ADAM, wide, start, data, steps=steps, checkpoint=tmp_path)
    damage(tmp_path)
    with pytest.warns(UserWarning, match=r"got damaged: 2 .*; going on from the one after 5 steps"):
        fitted = fit(ADAM, wide, start, data, steps=12, checkpoint=tmp_path)
    assert_equal(fitted, fit(ADAM, wide, start, data, steps=12))
    assert_equal(fitted, fit(ADAM, wide, start, data, steps=12, checkpoint=tmp_path))


def test_damaged_checkpoints_alone_are_an_error(tmp_path):
    fit(ADAM, LINE, START, (INPUTS, TARGETS), steps=5, checkpoint=tmp_path)
    faults.forget(tmp_path)
    with pytest.raises(ValueError, match=r"damaged: 1 .* none that is whole; try a new folder"):
        fit(ADAM, LINE, START, (INPUTS, TARGETS), steps=5, checkpoint=tmp_path)
