"""Lanes are honest: each is the run that it would be alone, and counts what that run costs."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import flops, layers, losses, rules
from fnn.objective import SCOPE, Objective, ValueFunction
from fnn.problems import Budget, Measure, Problem
from fnn.race import lanes, meter
from fnn.race.entrants import ALL, ENTRANTS, Entrant
from fnn.race.protocol import LAPS, TUNING_SEEDS
from fnn.race.search import settings
from fnn.race.spaces import value_at
from fnn.training import Stop, source_of, start

STEPS, SEEDS = 20, [0, 1, 2]


def sine(n=260):
    """260 rows, 13 parameters; noisy, so that steps are rejected at the end."""
    model = layers.serial(layers.dense(4), layers.elementwise(jnp.tanh), layers.dense(1))
    key = jax.random.key(7)
    x = jnp.linspace(-1, 1, n)[:, None]
    data = x, jnp.sin(3 * x) + 0.1 * jax.random.normal(key, x.shape)
    objective = Objective(model.apply, losses.half_squared_error)
    return Problem(
        name="sine",
        summary="a sine",
        source="made here",
        init=lambda key: model.init(key, x[0]),
        objective=objective,
        train=data,
        validation=jax.tree.map(lambda a: a[::2], data),
        test=data,
        measure=Measure("loss", lambda params, test: objective.on(test)(params)),
        batch_size=64,
        budget=Budget(STEPS, "steps"),
        target=0.01,
    )


PROBLEM = sine()


def alone(entrant, setting, seed):
    """A run as a loop of steps: losses on the validation data, and what was spent; for `jit`."""
    rule = optax.with_extra_args_support(entrant.make(PROBLEM, **setting))
    key = jax.random.key(seed)
    source = source_of(
        PROBLEM.objective, PROBLEM.train, batch_size=entrant.examples(PROBLEM), key=key
    )

    def step(params, state, value_fn):
        value, grad = jax.value_and_grad(value_fn)(params)
        return rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)

    def body(i, carry):
        params, state, seen, spent = carry
        value_fn = source.epoch(i // source.steps)(i % source.steps)
        (updates, state), tally = flops.metered(step, SCOPE)(params, state, value_fn)
        params = optax.apply_updates(params, updates)
        seen = seen.at[i].set(PROBLEM.objective.on(PROBLEM.validation)(params))
        return params, state, seen, spent.at[i].set(tally.flops)

    params = PROBLEM.init(key)
    start = params, rule.init(params), jnp.zeros(STEPS), jnp.zeros(STEPS)
    return jax.lax.fori_loop(0, STEPS, body, start)[2:]


# Conjugate gradients multiply rounding by the condition of their system; where the damping goes on
# shrinking, a lane and the run alone part after five to eight steps.
STEADY = {
    "hessian_free": ENTRANTS["hessian_free"]._replace(
        make=lambda _, damping: rules.hessian_free(10 * damping, policy=rules.damping.constant())
    )
}


# These stand for the others until the gate.
FEW = {"adam", "newton", "levenberg_marquardt", "kfac", "soap", "hessian_free", "lbfgs"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.gate) for n in ENTRANTS]
)
def test_a_lane_is_the_run_alone(name):
    entrant = STEADY.get(name, ENTRANTS[name])
    tried = [{k: value_at(v, p) for k, v in entrant.space.items()} for p in (0.5, 0.25, 0.75)]
    seen = lanes.programs(PROBLEM, entrant, tried[0], 3).run(tried, SEEDS, Budget(STEPS, "steps"))
    # Numbers are traced here as well: products of Python's own cost no flops.
    values, spent = jax.jit(functools.partial(alone, entrant))(tried[1], SEEDS[1])
    assert seen.steps[1].tolist() == list(range(1, STEPS + 1))
    np.testing.assert_allclose(seen.validation[1], np.minimum.accumulate(values), rtol=1e-9)
    np.testing.assert_allclose(seen.flops[1], np.cumsum(spent), rtol=1e-5)
    assert (seen.model[1] <= seen.flops[1]).all()
    assert (seen.stopped == Stop.BUDGET).all()


def explode(problem, learning_rate):
    """A rule that goes wrong wherever its rate is above 1."""
    del problem
    return optax.chain(rules.sgd(0.1), optax.scale(jnp.where(learning_rate > 1, 1e300, 1.0)))


def test_a_lane_that_diverges_stops_alone():
    lost = Entrant("explode", explode, {"learning_rate": (0.1, 10.0)})
    given = [{"learning_rate": rate} for rate in (0.5, 2.0, 0.5)]
    seen = lanes.programs(PROBLEM, lost, given[0], 3).run(given, SEEDS, Budget(40, "steps"))
    assert seen.stopped.tolist() == [Stop.BUDGET, Stop.NON_FINITE, Stop.BUDGET]
    assert np.isfinite(seen.validation[::2]).all()


def leave(problem, learning_rate):
    """A rule that goes to where it is told, and away again."""
    del problem, learning_rate
    return optax.sgd(lambda count: jnp.where(count < 10, 0.1, -0.1))


def test_a_run_is_worth_the_best_that_it_came_by():
    there = Entrant("leave", leave, {"learning_rate": (0.1, 10.0)})._replace(batch=ALL)
    given = [{"learning_rate": 1.0}]
    run = lanes.programs(PROBLEM, there, given[0], 1).run
    seen, best = (run(given, [0], Budget(n, "steps")) for n in (40, 10))
    np.testing.assert_array_equal(seen.test, best.test)
    np.testing.assert_array_equal(seen.validation[:, -1], best.validation[:, -1])
    assert (np.diff(seen.validation) <= 0).all()
    assert seen.train[0, -1] > best.train[0, -1]


def test_laps_lie_evenly_from_the_first_step_to_the_budget():
    given = [{"learning_rate": 0.1}, {"learning_rate": 0.05}]
    run = lanes.programs(PROBLEM, ENTRANTS["momentum"], given[0], 2).run
    seen = run(given, [3, 4], Budget(300, "steps"))
    assert seen.steps.shape == (2, LAPS)
    assert seen.steps[:, [0, 1, -1]].tolist() == [[1, 2, 300]] * 2
    late = seen.steps[0, -15:]  # Marks of earlier laps are less than a step apart.
    np.testing.assert_allclose(late[1:] / late[:-1], 300 ** (1 / (LAPS - 1)), atol=0.03)


def test_a_lane_stops_by_its_own_meter_and_does_not_depend_on_the_others():
    """The line searches of each seed take other trials; each is looked at by its own spending."""
    budget, lbfgs = Budget(60, "gradients"), ENTRANTS["lbfgs"]
    together, one = (
        lanes.programs(PROBLEM, lbfgs, {}, len(seeds)).run([{}] * len(seeds), seeds, budget)
        for seeds in (SEEDS, SEEDS[1:2])
    )
    spent = meter.in_gradients(together.flops, together.model, meter.gradient_flops(PROBLEM))
    assert len(set(together.steps[:, -1].tolist())) > 1
    for steps, gradients in zip(together.steps, spent, strict=True):
        assert gradients[-1] >= 60 * (1 - 1e-6)
        assert gradients[steps < steps[-1]].max() < 60
    laps = one.steps.shape[1]
    np.testing.assert_array_equal(together.steps[1, :laps], one.steps[0])
    np.testing.assert_allclose(together.validation[1, :laps], one.validation[0], rtol=1e-6)
    assert (together.stopped == Stop.BUDGET).all()


def test_a_gradient_is_the_unit_of_gradients():
    entrant = ENTRANTS["sgd"]._replace(batch=ALL)
    setting = {"learning_rate": 0.1}
    run = lanes.programs(PROBLEM, entrant, setting, 1).run
    seen = run([setting], [0], Budget(5, "steps"))
    unit = meter.gradient_flops(PROBLEM)
    np.testing.assert_allclose(seen.model[0] / unit, [1, 2, 3, 4, 5], rtol=1e-5)


def test_the_sum_of_many_flops_keeps_its_digits():
    rule = meter.with_meter(optax.sgd(0.1))
    params = jax.tree.map(lambda a: a.astype(jnp.float32), jax.jit(PROBLEM.init)(jax.random.key(0)))
    with jax.enable_x64(False):
        data = jax.tree.map(lambda a: a.astype(jnp.float32), PROBLEM.train)
        value_fn = PROBLEM.objective.on(data)

        def body(_, state):
            return rule.update(params, state, params, value_fn=value_fn)[1]

        one, many = (
            jax.jit(lambda n: jax.lax.fori_loop(0, n, body, rule.init(params)))(n).flops[0]
            for n in (1, 3001)
        )
    assert float(many) == pytest.approx(3001 * float(one), rel=2e-7)


def test_batches_are_the_problems_or_larger():
    assert ENTRANTS["adam"].examples(PROBLEM) == 64
    assert ENTRANTS["kfac"].examples(PROBLEM) == 128
    assert ENTRANTS["levenberg_marquardt"].examples(PROBLEM) == 260
    assert ENTRANTS["adam"].examples(PROBLEM._replace(objective=None)) == 1


def test_who_misses_what():
    function = PROBLEM._replace(objective=None, train=ValueFunction(()))
    assert "examples" in ENTRANTS["kfac"].misses(function)
    assert "residuals" in ENTRANTS["levenberg_marquardt"].misses(function)
    large = PROBLEM._replace(init=lambda _: jnp.zeros(4000))
    assert "at most 3000 parameters, and there are 4000" in ENTRANTS["bfgs"].misses(large)
    assert ENTRANTS["adam"].misses(function) is None
    for size, amount, unit, is_missing in [
        (100, 150, "gradients", True),
        (100, 200, "gradients", False),
        (100, 150, "steps", False),
        (3000, 150, "gradients", False),  # by products alone
    ]:
        made = PROBLEM._replace(
            init=lambda _, size=size: jnp.zeros(size), budget=Budget(amount, unit)
        )
        missing = ENTRANTS["newton"].misses(made)
        assert (missing is not None) == is_missing
        assert not is_missing or "200 gradients for its first step, and there are 150" in missing


def test_the_space_of_every_hyperparameter_spans_two_decades():
    for entrant in ENTRANTS.values():
        for low, high in entrant.space.values():
            np.testing.assert_allclose(high / low, 100)
        assert set(entrant.defaults) <= set(entrant.space)
        tried = settings(entrant, 5)
        assert len({tuple(one.items()) for one in tried}) == (4 if entrant.space else 1)
        assert entrant.defaults.items() <= tried[0].items()
        for one in tried[1:]:
            assert all(entrant.space[k][0] <= v <= entrant.space[k][1] for k, v in one.items())


def test_the_tuning_seed_is_nobodys():
    assert set(TUNING_SEEDS).isdisjoint(range(10_000))


def test_lanes_run_in_turns_where_memory_is_short(monkeypatch):
    """Seven lanes in programs of two, the last of them filled up."""
    given, seeds = [{"learning_rate": 0.01 * (i + 1)} for i in range(7)], list(range(7))
    asked = PROBLEM, ENTRANTS["sgd"], given[0], 7
    whole = lanes.programs(*asked).run(given, seeds, Budget(9, "steps"))
    one = lanes.bytes_a_lane(
        PROBLEM, start(rules.sgd(0.1), jax.jit(PROBLEM.init)(jax.random.key(0)), keep_best=True),
        PROBLEM.train,
    )  # fmt: skip
    monkeypatch.setattr(lanes, "MEMORY", int(2.9 * one))
    turns = lanes.programs(*asked).run(given, seeds, Budget(9, "steps"))
    for ours, theirs in zip(turns, whole, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


class Arrived(NamedTuple):
    stalled: jax.Array


def arrive(problem):
    """A rule that says after its first step that it can go no further."""
    del problem
    return optax.GradientTransformation(
        lambda _: Arrived(jnp.zeros((), bool)),
        lambda updates, *_: (optax.tree.scale(-0.01, updates), Arrived(jnp.ones((), bool))),
    )


def test_lanes_that_have_all_arrived_keep_what_they_reached():
    stays = Entrant("arrive", arrive, batch=ALL)
    seen = lanes.programs(PROBLEM, stays, {}, 2).run([{}, {}], [0, 1], Budget(30, "steps"))
    assert (seen.stopped == Stop.STALLED).all()
    assert seen.steps.tolist() == [[1], [1]]
    assert seen.validation.shape == (2, 1)
    assert np.isfinite(seen.validation).all()
    assert np.isfinite(seen.flops).all()
