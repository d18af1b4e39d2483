"""Phases are the rules themselves in turn, and accumulated batches are the full batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, data, losses, rules, solvers
from fnn.training import Stop
from tests import loop

RNG = np.random.default_rng(0)
INPUTS, TARGETS = RNG.normal(size=(24, 3)), RNG.normal(size=24)


def model(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]).sum()


OBJECTIVE = Objective(model, losses.half_squared_error)
WHOLE = OBJECTIVE.on((INPUTS, TARGETS))
START = {"w": jnp.asarray(RNG.normal(size=(3, 2))), "b": jnp.zeros(2)}


def path_of(rule, params, steps):
    """The parameters and states of a rule that walks on all examples, compiled."""
    return jax.jit(functools.partial(loop.walk, rule, value_fn=WHOLE, steps=steps))(params)


def close(actual, expected, rtol=1e-10):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=1e-12), actual, expected
    )


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


# Phases -------------------------------------------------------------------------------------------

ADAM, LM = rules.adam(0.05), rules.levenberg_marquardt()
SEQUENCE = rules.phases([(ADAM, 4), (LM, 3), (ADAM, None)])


def test_each_phase_is_its_rule_from_where_the_one_before_arrived():
    """The third begins from a new state, and a step that is not compiled is the compiled one."""
    path, states = path_of(SEQUENCE, START, 10)
    params, expected = START, []
    for rule, steps in ((ADAM, 4), (LM, 3), (ADAM, 3)):
        own, own_states = path_of(rule, params, steps)
        expected.append(own)
        params = at(own, -1)
    close(path, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *expected))
    np.testing.assert_array_equal(states.phase, [0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(states.steps, [1, 2, 3, 0, 1, 2, 0, 1, 2, 3])
    close(at(states.states[2], -1), at(own_states, -1))
    here, state = at(path, 3), at(states, 3)  # where the second begins; not compiled
    close(loop.step(SEQUENCE, here, WHOLE, state)[0], at(path, 4))


def test_only_the_phase_at_hand_is_run():
    """This holds for mapped lanes, too, as long as all of them are in one phase."""
    calls = []

    def counting(name):
        def update(updates, state, params=None, **_):
            del params
            jax.debug.callback(lambda: calls.append(name))
            return jax.tree.map(lambda g: -0.1 * g, updates), state

        return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)

    stay = rules.Until(tuple, lambda memory, value, _: (memory, value < 0))
    rule = rules.phases([(counting("a"), stay), (counting("b"), None)])
    lanes = jax.jit(jax.vmap(lambda x, state: loop.step(rule, x, lambda x: x, state)))

    def run(starts, state):
        calls.clear()
        params, state = lanes(starts, state)
        jax.effects_barrier()
        return sorted(set(calls)), params, state

    state = jax.vmap(rule.init)(jnp.zeros(2))
    assert run(jnp.array([1.0, 2.0]), state)[0] == ["a"]
    seen, params, state = run(jnp.array([1.0, -2.0]), state)
    assert seen == ["a"]
    np.testing.assert_array_equal(state.phase, [0, 1])
    seen, params, state = run(params, state)  # each in its own: both run, each lane keeps its own
    assert seen == ["a", "b"]
    np.testing.assert_allclose(params, [0.8, -2.2])
    np.testing.assert_array_equal(state.phase, [0, 1])


def test_adam_until_a_plateau_then_levenberg_marquardt():
    """As one rule in `fit`, Adam circles and the second rule arrives."""
    adam = rules.adam(0.1)
    rule = rules.phases([(adam, rules.plateau(patience=5, rtol=1e-3)), (LM, None)])
    trained = fnn.fit(rule, OBJECTIVE + fnn.l2(1e-2), START, (INPUTS, TARGETS), steps=300)
    assert trained.stopped == Stop.CONVERGED
    assert trained.state.phase == 1
    alone = fnn.fit(adam, OBJECTIVE + fnn.l2(1e-2), START, (INPUTS, TARGETS), steps=300)
    switch = len(trained.history.value) - int(trained.state.steps)
    assert 5 < switch < 200
    values = np.asarray(alone.history.value)
    np.testing.assert_allclose(trained.history.value[:switch], values[:switch], rtol=1e-10)
    best = np.minimum.accumulate(values[:switch])
    assert best[-6] * (1 - 1e-3) <= best[-1] * (1 + 2e-3)
    assert trained.history.value[-1] <= values[-1]


def test_plateau_waits_for_patience_and_takes_nan_for_no_progress():
    values = jnp.array([3.0, 2.0, jnp.nan, 1.0, 0.9999, 1.0, 0.5, 0.5, jnp.nan, 0.5])
    condition = rules.plateau(patience=3, rtol=1e-3)

    def look(memory, value):
        return condition.look(memory, value, 0)

    np.testing.assert_array_equal(
        jax.lax.scan(look, condition.start(), values)[1], [False] * 9 + [True]
    )


def test_phases_keep_the_contract():
    """The state keeps its shapes, updates keep their dtypes, and optax's adapters apply."""
    rule = rules.phases([(rules.sgd(0.1), 1), (rules.newton(), None)])
    state = rule.init(START)
    _, after = jax.eval_shape(lambda state: loop.step(rule, START, WHOLE, state), state)
    shapes = functools.partial(jax.tree.map, lambda leaf: (leaf.shape, leaf.dtype))
    assert shapes(after) == shapes(state)
    close(optax.tree.map_params(rule, lambda leaf: leaf, state), state)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), START)
    updates = jax.eval_shape(lambda: loop.step(rule, half, WHOLE)[0])
    assert shapes(updates) == shapes(half)
    masked = rules.only(SEQUENCE, {"w": True, "b": False})
    moved, _ = loop.step(masked, START, WHOLE)
    close(moved["b"], START["b"])
    assert jnp.all(moved["w"] != START["w"])


def test_misuse_of_phases_is_named():
    for wrong in ([], [(ADAM, 3)], [(ADAM, None), (LM, None)]):
        with pytest.raises(ValueError, match=r"expected an end for every phase but the last.*try"):
            rules.phases(wrong)
    with pytest.raises(ValueError, match="expected at least 1 step in a phase, got 0; try 1"):
        rules.phases([(ADAM, 0), (LM, None)])
    with pytest.raises(ValueError, match="plateau: expected patience in"):
        rules.plateau(patience=0)
    rule = rules.phases([(ADAM, rules.plateau()), (ADAM, None)])
    with pytest.raises(TypeError, match=r"plateau: expected the value.*try.*value=value"):
        rule.update(START, rule.init(START), START)
    with pytest.raises(ValueError, match="phases: expected params"):
        rule.update(START, rule.init(START), value=1.0)


# Accumulation -------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="k")
def accumulated(k, damping, params, state, value_fn):
    return loop.step(rules.accumulate(k, damping=damping), params, value_fn, state)


@functools.partial(jax.jit, static_argnames="rule")
def compiled(rule, params, value_fn):
    return loop.step(rule, params, value_fn)[0]


def test_batches_are_the_full_batch():
    """They may be equal, or unequal with padding, or chunks of one, and have a penalty."""
    objective = OBJECTIVE + fnn.l2(0.1)
    of = jnp.repeat(jnp.arange(3), jnp.array([12, 11, 1]))
    thirds = [objective.on((INPUTS[i::3], TARGETS[i::3])) for i in range(3)]
    padded = [objective.on((INPUTS, TARGETS), weights=1.0 * (of == i)) for i in range(3)]
    for damping in (0.0, 0.1):
        exact = rules.gauss_newton(damping=damping, solver=solvers.primal())
        expected = compiled(exact, START, objective.on((INPUTS, TARGETS)))
        close(compiled(exact, START, objective.on((INPUTS, TARGETS), chunk=5)), expected)
        state = rules.accumulate(3).init(START)
        for pieces in (thirds, padded):
            params = START
            for piece in pieces:
                assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(START)))
                params, state = accumulated(3, damping, params, state, piece)
            close(params, expected)
        assert (int(state.info.steps), int(state.batches), float(state.weight)) == (2, 0, 0.0)


def test_an_epoch_of_fit_is_a_step():
    """The examples are shuffled, and the last batch is padded."""
    rule, key = rules.accumulate(4, damping=0.1), jax.random.key(0)
    examples = data.Data(INPUTS, TARGETS)
    trained = fnn.fit(rule, OBJECTIVE, START, examples, epochs=3, batch_size=7, key=key)
    exact = rules.gauss_newton(damping=0.1)
    path, _ = path_of(exact, START, 3)
    close(trained.params, at(path, -1), rtol=1e-8)
    assert trained.state.info.steps == 3


def test_accumulated_nan_is_a_rejected_step():
    """Mapped lanes equal runs, and one parameter without curvature stays where it is."""
    first, second = (OBJECTIVE.on((INPUTS[i::2], TARGETS[i::2])) for i in range(2))
    params, state = accumulated(2, 0.0, START, rules.accumulate(2).init(START), first * jnp.nan)
    params, state = accumulated(2, 0.0, params, state, second)
    close(params, START)
    assert (int(state.info.counts.rejected), int(state.info.steps)) == (1, 1)
    _, state = accumulated(2, 0.0, params, state, first * 1.0)
    lanes = jax.vmap(lambda damping: accumulated(2, damping, params, state, second))
    close(at(lanes(jnp.array([1.0, 0.0])), 1), accumulated(2, 0.0, params, state, second))
    line = Objective(lambda w, x: w * x[0] - x[1])
    start, state = jnp.zeros(()), rules.accumulate(1).init(jnp.zeros(()))
    for slope, expected in ((1.0, 2.0), (0.0, 0.0)):
        moved, _ = accumulated(1, 0.0, start, state, line.on(jnp.array([[slope, 2.0]])))
        close(moved, expected)


def test_misuse_of_accumulate_is_named():
    with pytest.raises(ValueError, match="accumulate: expected k >= 1, got 0; try 1"):
        rules.accumulate(0)
    with pytest.raises(ValueError, match="accumulate: expected damping in"):
        rules.accumulate(2, damping=-1.0)
    with pytest.raises(ValueError, match=r"8 x 8 numbers.*got 512; try gauss_newton"):
        rules.accumulate(2, memory_budget=511).init(START)
    rule = rules.accumulate(2)
    with pytest.raises(TypeError, match=r"got function <lambda>.*try fnn\.Objective"):
        loop.step(rule, START, lambda p: jnp.sum(p["w"]))
    for other in (START | {"c": jnp.ones(2)}, START | {"w": jnp.ones((4, 2))}):
        with pytest.raises(ValueError, match=r"(?s)expected updates and state of one.*try"):
            loop.step(rule, START, WHOLE, rule.init(other))
