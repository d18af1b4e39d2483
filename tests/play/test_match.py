"""Two rules on a task: the numbers that are shown are those of the package's own loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from fnn import losses, rules, training
from fnn.objective import Objective, l2
from fnn.play import Settings, match, panels
from fnn.play import task as tasks
from fnn.play.marks import Picture, paint, svg
from fnn.play.settings import DATA, checked

SMALL = Settings(
    data="xor", examples=40, layers="3", first_rate=0.1, seed=1, regularization=1e-3, batch_size=0
)


@pytest.fixture(scope="module")
def begun():
    return match.begin(SMALL)


@pytest.fixture(scope="module")
def ended(begun):
    return match.with_slice(match.with_curvature(match.forward(match.forward(begun, 3), 4)))


def value_fn_of(one):
    """What is minimized, written anew."""

    def model(params, x):
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["weight"] + layer["bias"])
        return x @ params[-1]["weight"] + params[-1]["bias"]

    return Objective(model, losses.logistic).on(one.task.train) + l2(SMALL.regularization)


def test_steps_are_those_of_the_rules(begun, ended):
    value_fn, start = value_fn_of(begun), begun.task.params
    for runner, rule in zip(
        ended.runners, (rules.adam(0.1), rules.levenberg_marquardt()), strict=True
    ):
        params, state = start, rule.init(start)
        step = jax.jit(functools.partial(training.step, rule, value_fn=value_fn))
        for _ in range(7):
            params, state, _ = step(state, params)
        assert [row.step for row in runner.rows] == [0, 3, 7]
        for mine, theirs in zip(*map(jax.tree.leaves, (runner.carry.params, params)), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-3, atol=2e-4)
        assert runner.rows[-1].loss < runner.rows[0].loss
        assert runner.rows[-1].seconds == 7 * runner.price > 0


def test_curvature_and_slope_are_the_values_own(ended):
    value_fn, runner = value_fn_of(ended), ended.runners[0]
    flat, tree = ravel_pytree(runner.carry.params)
    grad_of = jax.grad(lambda w: value_fn(tree(w)))
    grad, hessian = jax.jit(lambda w: (grad_of(w), jax.jacfwd(grad_of)(w)))(flat)
    np.testing.assert_allclose(
        runner.curvature.eigenvalues, np.linalg.eigvalsh(hessian), rtol=1e-3, atol=1e-5
    )
    np.testing.assert_allclose(runner.rows[-1].slope, jnp.linalg.norm(grad), rtol=1e-4)
    np.testing.assert_allclose(
        np.linalg.norm(runner.curvature.slopes), jnp.linalg.norm(grad), rtol=1e-3
    )


def test_the_slice_has_the_start_and_both_ends(ended):
    seen, start = ended.slice, ravel_pytree(ended.task.params)[0]
    for path, runner in zip(seen.paths, ended.runners, strict=True):
        np.testing.assert_allclose(path[0], 0, atol=1e-5)
        length = np.linalg.norm(runner.path[-1] - start)  # of which nothing is out of the plane
        np.testing.assert_allclose(np.linalg.norm(path[-1]), length, rtol=1e-4)
        assert ((seen.corners[:, 0] < path) & (path < seen.corners[:, 1])).all()
    value_fn = value_fn_of(ended)
    low, high = sorted(float(value_fn(runner.carry.params)) for runner in ended.runners)
    assert seen.losses.min() < high
    assert seen.losses.max() > low


def test_a_link_comes_back_to_the_same_state(ended):
    settings = ended.settings._replace(first_steps=7, second_steps=7)
    back = match.caught_up(match.begin(settings))
    for mine, theirs in zip(back.runners, ended.runners, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine.carry, theirs.carry)


def test_batches_are_drawn_anew_at_every_step_and_repeat():
    settings = checked(SMALL, batch_size=4, first="sgd", second="sgd")
    once, again = (match.forward(match.begin(settings), 2) for _ in range(2))
    for mine, theirs in zip(once.runners, again.runners, strict=True):
        jax.tree.map(np.testing.assert_array_equal, mine.carry.params, theirs.carry.params)
    keys = [jax.random.fold_in(once.task.key, step) for step in range(2)]
    first, second = (tasks._drawn(once.task.train, 4, key)[0] for key in keys)
    assert first.shape == (4, 2)
    assert not np.array_equal(first, second)


def test_a_pace_of_seconds_gives_both_as_many(begun):
    timed = begun._replace(settings=begun.settings._replace(pace="seconds", speed=10))
    slow, fast = begun.runners[0]._replace(price=4e-3), begun.runners[1]._replace(price=1e-3)
    timed = match.onward(match.onward(timed._replace(runners=(slow, fast))))
    assert [runner.rows[-1].step for runner in timed.runners] == [5, 20]


def test_a_number_that_is_none_stops_one_rule_and_says_so(begun):
    broken = begun.runners[0].carry
    nan = broken._replace(params=jax.tree.map(lambda leaf: leaf * np.nan, broken.params))
    hurt = (begun.runners[0]._replace(carry=nan), begun.runners[1])
    after = match.forward(begun._replace(runners=hurt), 2)
    assert after.runners[0].trouble == (
        "adam: the loss is not finite at step 2; try a smaller learning rate, and reset"
    )
    assert after.runners[1].trouble == ""
    more = match.forward(after, 1)
    assert [int(runner.carry.step) for runner in more.runners] == [0, 3]
    drawn = panels.panels(match.with_slice(match.with_curvature(more)))
    assert "nan" not in "".join(svg(panel) for panel in drawn.values())


def test_a_linear_model_of_heights_is_drawn():
    one = match.begin(checked(SMALL, layers="", first="sgd", second="sgd", data="sine"))
    drawn = panels.panels(match.forward(one, 1))
    assert svg(drawn["first-network"]).count("<image") == 1
    assert "right" not in svg(drawn["first-regions"])  # which heights are not


def test_of_many_points_of_a_curve_every_other_is_dropped(begun):
    runner = begun.runners[0]
    for step in range(1, 1000):
        carry = runner.carry._replace(step=np.int32(step))
        runner = match._noted(runner._replace(carry=carry))
    steps = [row.step for row in runner.rows]
    assert len(runner.path) == len(steps) <= match.KEPT
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 999)


@pytest.mark.parametrize("data", DATA)
def test_every_set_is_split_and_lies_in_its_box(data):
    task = tasks.task_of(
        checked(Settings(), data=data, examples=50, train=60, features="x,xy,sin y")
    )
    assert (len(task.train[0]), len(task.test[0])) == (30, 20)
    assert task.train[0].shape[1] == task.grid.shape[1] == 3
    assert np.abs(task.points).max() < task.box
    if data not in ("sine", "plane"):
        assert set(task.heights) == {0, 1}


def test_panels_are_written_and_painted_alike(ended):
    drawn = panels.panels(ended)
    assert len(drawn) == 10
    for name, panel in drawn.items():
        text = svg(panel)
        assert text.startswith("<svg viewBox=")
        assert text.count("<image") == sum(isinstance(mark, Picture) for mark in panel.marks)
        image = paint([(0, 0, panel)], int(panel.width), int(panel.height))
        assert image.shape == (panel.height, panel.width, 3)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20, name
    steps = svg(drawn["first-regions"])
    assert "step 7" in steps
    assert "adam" in steps
