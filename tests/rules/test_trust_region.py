"""Saddle-free, trust-region and cubic Newton leave saddles, and reject what raises the value."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, losses, rules
from fnn.training import Stop
from tests import loop

N = 5
RNG = np.random.default_rng(0)
EVERY = [rules.saddle_free_newton, rules.trust_region_newton, rules.cubic_newton]
TRUSTING = EVERY[1:]
both = pytest.mark.parametrize("make", TRUSTING, ids=["trust_region", "cubic"])


walk = jax.jit(loop.walk, static_argnames=("rule", "value_fn", "steps"))


def close(actual, expected, rtol=1e-9, atol=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


# Exact cases --------------------------------------------------------------------------------------

FACTOR, TARGET = RNG.normal(size=(N, N)), RNG.normal(size=N)


def bowl(p):
    return jnp.sum((FACTOR @ p - TARGET) ** 2) / 2


@pytest.mark.parametrize(
    "rule",
    [
        rules.saddle_free_newton(),
        rules.saddle_free_newton(subspace=N),
        rules.trust_region_newton(1e3),
        rules.trust_region_newton(1e3, subspace=N),
        rules.cubic_newton(1e-12),
    ],
)
def test_a_quadratic_is_solved_in_one_step(rule):
    close(walk(rule, jnp.zeros(N), bowl)[0][0], np.linalg.solve(FACTOR, TARGET), rtol=1e-6)


def test_little_trust_is_gradient_descent():
    grad = jax.grad(bowl)(jnp.zeros(N))
    free = walk(rules.saddle_free_newton(damping=1e9), jnp.zeros(N), bowl)[0][0]
    close(free, -grad / 1e9, rtol=1e-6)
    for make, trust in ((rules.trust_region_newton, 1e-8), (rules.cubic_newton, 1e16)):
        first = walk(make(trust), jnp.zeros(N), bowl)[0][0]
        close(first / jnp.linalg.norm(first), -grad / jnp.linalg.norm(grad), rtol=1e-6)
    close(jnp.linalg.norm(first), jnp.sqrt(jnp.linalg.norm(grad) / 1e16), rtol=1e-6)


def test_the_first_trust_is_a_gradient_step_at_the_largest_curvature():
    """In the cubic, where the weight alone holds back, it is at most that."""
    length = jnp.linalg.norm(jax.grad(bowl)(jnp.zeros(N)))
    largest = np.linalg.norm(FACTOR, 2) ** 2
    _, state = walk(rules.trust_region_newton(), jnp.zeros(N), bowl)
    close(state.damping.unit[0], length / largest)
    first, state = walk(rules.cubic_newton(), jnp.zeros(N), bowl)
    close(state.damping.unit[0], largest**2 / length)
    assert length / largest / 2 < jnp.linalg.norm(first) < length / largest


# Symmetries ---------------------------------------------------------------------------------------

SLOPES = RNG.normal(size=(3 * N, N))
ROTATION, _ = np.linalg.qr(RNG.normal(size=(N, N)))
MAPS = {
    "rotation": (ROTATION, 1.0),
    "another unit": (100 * np.eye(N), 1.0),
    "other units": (np.diag(np.logspace(-1, 1, N)), 1.0),
    "scaling of the loss": (np.eye(N), 1000.0),
}
SCALES = {"another unit", "scaling of the loss"}
INVARIANT = {
    "saddle-free": (rules.saddle_free_newton(), {"rotation"} | SCALES),
    "saddle-free, damped": (rules.saddle_free_newton(damping=0.3), {"rotation"}),
    "saddle-free, Lanczos": (rules.saddle_free_newton(subspace=3), {"rotation"} | SCALES),
    "trust region": (rules.trust_region_newton(), {"rotation"} | SCALES),
    "trust region, number": (
        rules.trust_region_newton(0.2),
        {"rotation", "scaling of the loss"},
    ),
    "trust region, Lanczos": (rules.trust_region_newton(subspace=3), {"rotation"} | SCALES),
    "cubic": (rules.cubic_newton(), {"rotation"} | SCALES),
    "cubic, number": (rules.cubic_newton(2.0), {"rotation"}),
    "cubic, Lanczos": (rules.cubic_newton(subspace=3), {"rotation"} | SCALES),
}


@pytest.mark.parametrize("name", INVARIANT)
def test_path_is_unchanged_exactly_where_claimed(name):
    """The path on f(T y) from y = T^-1 x, which crosses saddles, is brought back by T."""
    rule, claimed = INVARIANT[name]
    turns, scales = zip((np.eye(N), 1.0), *MAPS.values(), strict=True)

    @jax.jit
    @jax.vmap
    def path(turn, scale):
        def f(y):
            x = turn @ y
            return scale * (jnp.sum(jnp.sin(SLOPES @ x)) + jnp.sum(x**4))

        ys, states = loop.walk(rule, jnp.linalg.solve(turn, jnp.linspace(-0.3, 0.4, N)), f, steps=5)
        return ys @ turn.T, states.info.counts.negative

    (plain, *paths), negative = path(np.stack(turns), np.stack(scales))
    assert np.max(np.abs(plain[-1] - plain[0])) > 1e-2
    assert negative[0, -1] > 0
    unchanged = {
        symmetry
        for symmetry, path in zip(MAPS, paths, strict=True)
        if np.max(np.abs(path - plain)) < 1e-6
    }
    assert unchanged == claimed


# Saddles ------------------------------------------------------------------------------------------


def saddle(p):
    return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4


@pytest.mark.parametrize("make", EVERY)
def test_a_minimum_is_reached_from_beside_a_saddle(make):
    """It takes 40 steps from 1e-8; Newton goes to the saddle, and sgd needs over 90."""
    starts = 1e-8 * jnp.array([[0.0, 1.0], [1.0, -1.0], [1e8, 1.0]])

    def end(rule, steps):
        return jax.vmap(lambda p: walk(rule, p, saddle, steps)[0][-1])(starts)

    minima = jnp.array([[0, 1], [0, -1], [0, 1]]) * 2**0.5
    close(end(make(), 40), minima, atol=1e-6)
    close(end(rules.newton(), 40), 0.0, atol=1e-20)
    assert jnp.min(jnp.linalg.norm(end(rules.sgd(0.1), 90) - minima, axis=1)) > 0.1


@both
@pytest.mark.parametrize("subspace", [None, 12], ids=["dense", "lanczos"])
def test_a_network_without_weights_is_left(make, subspace):
    """All gradients are zero there, and the curvature shows the way."""
    inputs = jax.random.normal(jax.random.key(0), (20, 3))
    objective = Objective(lambda p, x: jnp.tanh(x @ p[0]) @ p[1], losses.half_squared_error)
    value_fn = objective.on((inputs, jnp.tanh(inputs @ jnp.array([1.0, -1.0, 2.0]))[:, None]))
    start = jnp.zeros((3, 4)), jnp.zeros((4, 1))
    assert optax.tree.norm(jax.grad(value_fn)(start)) == 0
    rule = make(subspace=subspace)
    fitted = fnn.fit(rule, value_fn, start, steps=40)
    assert value_fn(fitted.params) < 1e-3 * value_fn(start)


# Trials -------------------------------------------------------------------------------------------


def valley(p):
    return 50 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2 / 2


VALLEY_START = jnp.array([-1.2, 1.0])


@jax.jit
def explaining_weight(x, u):
    """The weight of the cubic model that is exact at the end of a step."""
    model = valley(x) + jax.grad(valley)(x) @ u + u @ jax.hessian(valley)(x) @ u / 2
    return 3 * (valley(x + u) - model) / jnp.linalg.norm(u) ** 3


@both
def test_the_value_never_rises_and_the_trust_is_followed(make):
    xs, states = walk(make(), VALLEY_START, valley, steps=60)
    close(states.info.value, jax.vmap(valley)(xs))
    assert jnp.all(jnp.diff(states.info.value) <= 0)
    close(xs[-1], jnp.ones(2), atol=1e-6)
    assert states.info.stalled[-1] or make is rules.cubic_newton
    trust, before, x, fall = states.damping.unit[0], 0, VALLEY_START, 1 / 4
    assert 0 < states.info.rejected[29] < 15
    for i in range(25):
        moved = states.info.accepted[i] > before
        assert bool(moved) == bool(states.info.gain[i] >= 0.1)
        gain, length = states.info.gain[i], jnp.linalg.norm(xs[i] - x)
        if make is rules.cubic_newton:
            factor = states.damping.value[i] / trust
            if not moved:
                assert 2 <= factor <= 1000
            elif gain <= 0.9:
                close(factor, 1)
            else:
                wanted = explaining_weight(x, xs[i] - x) / trust
                close(factor, np.clip(wanted, fall, 1 / 2), rtol=1e-5)
            fell_as_far = moved and gain > 0.9 and factor < fall * (1 + 1e-9)
            fall = fall**2 if fell_as_far else 1 / 4
        elif moved and gain >= 0.25:
            grows = gain > 0.75 and length > 0.99 * trust
            close(states.damping.value[i], 2 * trust if grows else trust)
        elif moved:
            close(states.damping.value[i], length / 4)
        else:
            assert states.damping.value[i] <= trust / 4
        assert make is rules.cubic_newton or length <= trust * (1 + 1e-9)
        trust, before, x = states.damping.value[i], states.info.accepted[i], xs[i]


@both
def test_a_minimum_without_curvature_is_approached_in_whole_newton_steps(make):
    """SISSER of CUTEst: a step leaves 2/3 of the way; the weight falls with the curvature."""

    def quartic(p):
        return 3 * p[0] ** 4 - 2 * (p[0] * p[1]) ** 2 + 3 * p[1] ** 4

    _, states = walk(make(), jnp.array([1.0, 0.1]), quartic, steps=60)
    close(states.info.value[20:] / states.info.value[19:-1], (2 / 3) ** 4, rtol=0.05)
    assert states.info.rejected[-1] == 0


@both
def test_several_trials_are_several_updates_on_one_basis(make):
    wild = 1e3 if make is rules.trust_region_newton else 1e-9
    xs, states = walk(make(wild), VALLEY_START, valley, steps=60)
    moved = np.flatnonzero(np.diff(states.info.accepted, prepend=0))[:6]
    ys, others = walk(make(wild, trials=50), VALLEY_START, valley, steps=6)
    close(ys, xs[moved])
    close(others.damping.value, states.damping.value[moved])
    assert others.info.rejected[-1] == states.info.rejected[moved][-1] > 0


@both
@pytest.mark.parametrize("trials", [1, 60])
def test_a_trial_that_is_not_finite_is_rejected(make, trials):
    """The model sends the first trials below zero, where there is no value."""

    def value_fn(p):
        return jnp.sum(p - 2 * jnp.sqrt(p)) + jnp.sum(p)

    wild = 1e3 if make is rules.trust_region_newton else 1e-9
    start = jnp.array([9.0])
    xs, states = walk(make(wild, trials=trials), start, value_fn, steps=60 if trials == 1 else 12)
    assert states.info.rejected[0] >= 1
    if trials == 1:
        close(xs[0], start)
    assert jnp.all(jnp.isfinite(xs))
    close(xs[-1], 0.25, atol=1e-6)


@both
def test_fit_ends_at_a_minimum_and_says_so(make):
    for dtype in (jnp.float32, float):
        fitted = fnn.fit(make(), value_fn_of(dtype), VALLEY_START.astype(dtype), steps=300)
        assert fitted.stopped == Stop.CONVERGED
        assert fitted.params.dtype == fitted.state.damping.value.dtype == dtype
        close(fitted.params, 1.0, atol=1e-2 if dtype == jnp.float32 else 1e-6)


def value_fn_of(dtype):
    return Objective(lambda p, _: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])).on(
        jnp.zeros(1, dtype)
    )


# Bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", EVERY)
def test_bad_points_are_steps_of_zero(make):
    """NaN is in the curvature alone; then a healthy step is as if nothing had happened."""
    rule, start = make(), jnp.array([0.5, 1.0])

    @jax.jit
    def run(broken, state):
        def value_fn(p):
            # Where the first is zero the gradient is finite and its derivative is not.
            return jnp.sum(jnp.abs(p * (1 - broken)) ** 1.5) + saddle(p)

        return loop.update(rule, start, value_fn, state)

    updates, state = run(1.0, rule.init(start))
    close(updates, 0.0)
    assert state.info.counts.rejected == 1
    assert jax.tree.all(jax.tree.map(lambda leaf: jnp.all(jnp.isfinite(leaf)), state))
    close(run(0.0, state)[0], run(0.0, rule.init(start))[0])
    assert jnp.any(run(0.0, state)[0] != 0)


@both
def test_without_curvature_the_step_is_downhill_and_one_parameter_is_enough(make):
    def slope(p):
        return 3 * p

    xs, states = walk(make(), jnp.array(1.0), slope, steps=5)
    assert jnp.all(jnp.diff(xs) < 0)
    assert states.info.accepted[-1] == 5
    xs, states = walk(make(), jnp.ones(2), lambda p: jnp.sum(0 * p), steps=2)
    close(xs, 1.0)
    assert states.info.accepted[-1] == 0
    # Without any curvature it is gradient descent.
    close(walk(rules.saddle_free_newton(), jnp.array(1.0), slope)[0], -2.0)


@pytest.mark.parametrize("make", EVERY)
def test_misuse_is_named(make):
    for wrong in ("subspace", "memory_budget"):
        with pytest.raises(ValueError, match=rf"{make.__name__}: expected {wrong} in .*try"):
            make(**{wrong: 0})
    if make in TRUSTING:
        with pytest.raises(ValueError, match=rf"{make.__name__}: expected trials in .*got 0"):
            make(trials=0)
    with pytest.raises(TypeError, match="expected value_fn= beside"):
        make().update(jnp.ones(2), make().init(jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_falls_of_the_weight_in_a_row_can_be_taken_back(dtype):
    """A quadratic function lets the weight fall by squares, a wall behind it asks it back."""
    rule = rules.cubic_newton(1e-3)

    @jax.jit
    def step(p, state, wall):
        return loop.step(rule, p, lambda p: jnp.sum((p - 1) ** 2) + wall * jnp.sum(p**4), state)

    start = jnp.full(2, 50.0, dtype)
    state = rule.init(start)
    for _ in range(12):
        _, state = step(start, state, jnp.zeros((), dtype))
        state = state._replace(damping=state.damping.awaiting_verdict())
        assert 0 < state.damping.growth <= 1
    weights = [state.damping.value]
    for _ in range(12):
        _, state = step(start, state, jnp.ones((), dtype))
        weights.append(state.damping.value)
    assert not state.info.stalled
    assert jnp.all(jnp.isfinite(jnp.array(weights)))
    assert max(weights) < 1e10
