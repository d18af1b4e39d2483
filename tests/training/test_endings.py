"""Why a training ended: true of minima, of stalls, of numbers that are not finite, in any unit."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, fit, losses, rules
from fnn.differential import forward
from fnn.training import Stop, account

X = jnp.zeros(1)  # a residual of the parameters alone


def ending(rule, residual, start, steps=200, **options):
    return fit(rule, Objective(residual), jnp.asarray(start), X, steps=steps, **options)


def valley(p, _):
    """Least squares whose minimum, at the origin, is 1."""
    return jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0], p[0] + 1, p[1]])


# What is not finite -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        rules.gauss_newton,
        rules.levenberg_marquardt,
        rules.newton,
        rules.trust_region_newton,
        rules.hessian_free,
        rules.bfgs,
        lambda: rules.adam(1e-2),
    ],
)
def test_a_gradient_that_is_not_finite_ends_training_and_the_leaf_is_named(make):
    """The value is 0, its slope in b is not a number."""
    curve = Objective(lambda p, x: p["a"] * jnp.sqrt(x * p["b"]))
    start = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
    trained = fit(make(), curve, start, X, steps=20)
    assert trained.stopped == Stop.NON_FINITE
    assert len(trained.history.value) == 1
    assert "at params['b'] are NaN" in str(trained.stopped)
    jax.tree.map(np.testing.assert_array_equal, trained.params, start)


def test_an_infinite_gradient_is_named():
    trained = ending(rules.levenberg_marquardt(), lambda p, _: jnp.sqrt(p) - 1, 0.0)
    assert trained.stopped == Stop.NON_FINITE
    assert "of its gradient 1 of 1 entries at params are NaN or infinite" in str(trained.stopped)


def test_a_value_that_is_not_finite_is_named():
    trained = ending(rules.gauss_newton(), lambda p, _: jnp.log(p), -1.0)
    assert trained.stopped == Stop.NON_FINITE
    assert "There the value is nan" in str(trained.stopped)


def branch(p, _):
    return jnp.where(p > 1, jnp.sqrt(p - 1) + 1, p)


def test_a_branch_not_taken_is_named_and_forward_mode_goes_through():
    reverse = ending(rules.levenberg_marquardt(), branch, 1.5)
    assert reverse.stopped == Stop.NON_FINITE
    assert "try fnn.differential.forward(model)" in str(reverse.stopped)
    trained = ending(rules.levenberg_marquardt(), forward(branch), 1.5)
    assert trained.stopped == Stop.CONVERGED
    assert abs(trained.params) < 1e-6


def test_a_residual_with_a_while_loop():
    def halves(p, _):
        return jax.lax.while_loop(lambda y: jnp.abs(y) > 1, lambda y: y / 2, p) - 0.75

    with pytest.raises(ValueError, match="Reverse-mode") as error:
        ending(rules.levenberg_marquardt(), halves, 10.0)
    assert any("differential.forward" in note for note in error.value.__notes__)
    trained = ending(rules.levenberg_marquardt(), forward(halves), 10.0)
    assert trained.stopped == Stop.CONVERGED
    assert trained.history.value[-1] < 1e-20


def test_forward_derivatives_are_those_of_the_model():
    def network(params, x):
        return {"out": jnp.tanh(params["w"] @ x) * params["b"]}

    params = {"w": jnp.arange(6.0).reshape(2, 3) / 7, "b": jnp.array([0.5, -1.0])}
    inputs = jnp.array([[0.3, -0.2, 1.0], [1.0, 0.0, -2.0]])

    def total(model, params):
        return sum(jnp.sum(jax.vmap(model, (None, 0))(params, inputs)["out"] ** 2) for _ in "a")

    for derivative in (jax.grad, jax.hessian):
        ours, theirs = (
            jax.jit(derivative(lambda p, m=m: total(m, p)))(params)
            for m in (forward(network), network)
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, theirs)


# Minima and stalls --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        rules.levenberg_marquardt,
        rules.gauss_newton,
        rules.newton,
        rules.trust_region_newton,
        rules.cubic_newton,
        rules.hessian_free,
        rules.bfgs,
        rules.sr1,
        optax.lbfgs,
    ],
)
def test_a_minimum_ends_training(make):
    trained = ending(make(), valley, [1.2, 1.0], steps=500)
    assert trained.stopped == Stop.CONVERGED
    assert len(trained.history.value) < 50
    assert jnp.max(jnp.abs(trained.params)) < 1e-6
    assert str(trained.stopped).startswith("A minimum within the tolerance")


def test_no_minimum_is_claimed_where_newton_stands_still():
    """Newton's method goes to the origin, from where the second leads downhill."""
    trained = fit(
        rules.newton(),
        lambda p: p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4,
        jnp.array([1.0, 0.1]),
        steps=20,
    )
    assert trained.stopped == Stop.BUDGET
    np.testing.assert_allclose(trained.params, [0, 0], atol=1e-9)


def test_gradient_descent_ends_where_it_arrived():
    trained = ending(optax.sgd(2e-3), valley, [1.2, 1.0], steps=20_000)
    assert trained.stopped == Stop.CONVERGED
    assert len(trained.history.value) < 15_000


def test_no_minimum_is_claimed_where_the_gradient_is_large():
    """Powell's badly conditioned pair: the second column vanishes on the way."""

    def pair(p, _):
        return jnp.array([p[0] ** 2, 10 * p[0] / (p[0] + 0.1) + 2 * p[1] ** 2])

    rule = rules.levenberg_marquardt(scaling=rules.scaling.marquardt)
    trained = ending(rule, pair, [3.0, 1.0], steps=1000)
    value_fn = Objective(pair).on(X)
    if trained.stopped == Stop.CONVERGED:
        assert optax.tree.norm(jax.grad(value_fn)(trained.params)) < 1e-6
    else:
        assert "minimum" not in str(trained.stopped)
        assert "rejected)" in str(trained.stopped)


def test_no_minimum_is_claimed_of_a_parameter_that_has_died_away():
    """Damping keeps steps away from its column, and MINPACK's cosine of that column is 0.86."""
    times = jnp.arange(4.0)

    def decay(p, _):
        return p[0] * jnp.exp(-p[1] * times) - jnp.exp(-times / 2)

    trained = ending(rules.levenberg_marquardt(), decay, [0.5, 40.0], steps=60)
    assert trained.stopped != Stop.CONVERGED or trained.history.value[-1] < 1e-20


def test_no_minimum_is_claimed_while_one_entry_of_a_vector_is_as_steep_as_ever():
    """A quasi-Newton rule does not see the second, whose gradient is a 10^9th of the first."""

    def fn(p):
        return 1e9 * (jnp.cosh(p[0]) - 1) + p[1]

    trained = fit(rules.sr1(), fn, jnp.array([1.0, 0.0]), steps=60)
    assert trained.stopped != Stop.CONVERGED


def test_rounding_in_one_entry_of_a_vector_is_no_slope():
    """By symmetry the gradient in the second is 0, but for what the sum is rounded by."""
    x = jnp.linspace(-1, 1, 21)
    noise = jnp.sin(7 * x)

    def fn(p):
        return jnp.mean((p[0] * x + p[1] - x - 0.1 * noise) ** 2)

    assert fit(rules.bfgs(), fn, jnp.array([3.0, 0.0]), steps=60).stopped == Stop.CONVERGED


@pytest.mark.parametrize("make", [rules.trust_region_newton, rules.cubic_newton])
def test_a_saddle_is_no_minimum(make):
    def saddle(p):
        return p[0] ** 2 - p[1] ** 2 + p[1] ** 4 / 4

    trained = fit(make(), saddle, jnp.array([1.0, 0.0]), steps=100)
    assert trained.stopped == Stop.CONVERGED
    np.testing.assert_allclose(np.abs(trained.params), [0.0, 2**0.5], atol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        rules.newton(),
        rules.newton(damping=0.1),
        rules.saddle_free_newton(),
        rules.saddle_free_newton(subspace=2),
        rules.searched(rules.newton()),
        rules.searched(rules.saddle_free_newton()),
        rules.trust_region_newton(),
        rules.cubic_newton(),
    ],
)
def test_a_slope_without_curvature_is_gone_down(rule):
    """At the start the Hessian is diag(0, 2), and the gradient (-3, 2)."""
    trained = fit(
        rule, lambda p: p[0] ** 3 - 3 * p[0] + (p[1] - 1) ** 2, jnp.array([0.0, 2.0]), steps=50
    )
    assert trained.stopped == Stop.CONVERGED
    assert len(trained.history.value) < 15
    np.testing.assert_allclose(trained.params, [1.0, 1.0], atol=1e-6)


def test_no_minimum_is_claimed_by_what_says_nothing_of_the_slope():
    """Newton's saddle, and an undamped Gauss-Newton method on the arm of a loss."""
    with pytest.warns(UserWarning, match="the value rose"):
        saddle = fit(rules.newton(), lambda p: p**4 - p**2, jnp.array(0.1), steps=20)
    assert abs(saddle.params) < 1e-12
    line = Objective(lambda p, x: p * x, losses.huber(0.1))
    arm = fit(rules.gauss_newton(), line, jnp.array(5.0), (jnp.ones(1), jnp.zeros(1)), steps=5)
    for trained in (saddle, arm):
        assert trained.stopped == Stop.BUDGET
        assert "minimum" not in str(trained.stopped)


def bend(p, _):
    """Least squares with a minimum of 0 at (1, -1), to where the damping falls at every step."""
    return jnp.array([p[0] + 0.1 * p[0] ** 2 - 1.1, 1 + p[1] + 0.1 * p[0] * (p[1] + 1)])


@pytest.mark.parametrize(
    ("rule", "after"),
    [
        (rules.levenberg_marquardt(), optax.keep_params_nonnegative()),
        (rules.levenberg_marquardt(), optax.clip(0.05)),
        (rules.levenberg_marquardt(), optax.ema(0.5)),
    ],
)
def test_steps_that_are_changed_after_they_were_judged_are_counted_and_named(rule, after):
    with pytest.warns(UserWarning, match=r"were changed before they were taken.*Try"):
        changed = ending(optax.chain(rule, after), bend, [3.0, 2.0], steps=12)
    assert int(changed.state[0].info.changed) >= 4
    plain = ending(rule, bend, [3.0, 2.0], steps=12)  # no word
    assert int(plain.state.info.changed) == 0
    assert plain.stopped == Stop.CONVERGED


@pytest.mark.parametrize(
    "rule",
    [
        rules.levenberg_marquardt(),
        rules.levenberg_marquardt(trials=3),
        rules.trust_region_newton(),
        rules.hessian_free(),
    ],
)
def test_half_of_every_step_leads_to_the_minimum_and_the_damping_follows(rule):
    with pytest.warns(UserWarning, match="were changed"):
        halved = ending(optax.chain(rule, optax.scale(0.5)), bend, [3.0, 2.0], steps=40)
    assert halved.history.value[-1] < 1e-16 * halved.history.value[0]
    assert int(halved.state[0].info.rejected) <= 1


def test_a_change_of_one_step_in_a_hundred_is_no_word_worth():
    """The rule accepts every step of its 100th; two of them are halved."""
    rule = rules.levenberg_marquardt(100.0, rules.damping.constant())
    half = optax.scale_by_schedule(lambda count: jnp.where((count == 5) | (count == 9), 0.5, 1))
    options = {"rule": optax.chain(rule, half), "residual": lambda p, _: p, "tolerance": 0}
    with pytest.warns(UserWarning, match="of 100 steps that the rule accepted, 2 were changed"):
        ending(start=[3.0], steps=100, **options)
    some = ending(start=[3.0], steps=300, **options)  # no word
    assert int(some.state[0].info.changed) == 2


@pytest.mark.parametrize("exponent", [-12, -6, 0, 6, 12])
def test_endings_do_not_depend_on_units(exponent):
    """Parameters and values in units of 10^k: the same steps, the same ending."""
    unit = 10.0**exponent

    def curve(p, x):
        return unit * (p[0] / unit * jnp.exp(-x * p[1]) - (1.2 * jnp.exp(-0.7 * x) + 0.01 * x))

    x = jnp.linspace(0, 2, 30)
    start = jnp.array([unit, 1.0])
    rule = rules.levenberg_marquardt(scaling=rules.scaling.more)
    trained = fit(rule, Objective(curve), start, x, steps=100)
    assert trained.stopped == Stop.CONVERGED
    assert len(trained.history.value) < 15
    np.testing.assert_allclose(trained.params, [unit * 1.194972946, 0.674849309], rtol=1e-8)


def test_a_tolerance_ends_earlier_and_zero_never():
    ends = [
        len(ending(rules.levenberg_marquardt(), valley, [1.2, 1.0], tolerance=t).history.value)
        for t in (1e-2, 1e-6, None)
    ]
    assert ends == sorted(ends)
    assert ends[0] < ends[-1]
    every = ending(rules.newton(), valley, [1.2, 1.0], steps=60, tolerance=0)
    assert every.stopped == Stop.BUDGET
    assert len(every.history.value) == 60


@pytest.mark.parametrize("tolerance", [-1e-3, 1.0, float("nan")])
def test_a_tolerance_is_below_one(tolerance):
    with pytest.raises(ValueError, match=r"expected tolerance in \[0, 1\)"):
        ending(rules.newton(), valley, [1.2, 1.0], tolerance=tolerance)
    with pytest.raises(ValueError, match="judged on arrays"):
        fit(rules.adam(1e-3), Objective(valley), jnp.ones(2), iter([X]), epochs=1, tolerance=1e-3)


def test_a_rise_warns():
    steep = Objective(lambda p, _: p**2)
    with pytest.warns(UserWarning, match="the value rose from"):
        trained = fit(optax.sgd(0.2), steep, jnp.array(3.0), X, steps=1 + 1)
    assert trained.stopped == Stop.BUDGET


def test_an_ending_is_its_stop_and_says_more():
    trained = ending(rules.levenberg_marquardt(), valley, [1.2, 1.0])
    stopped = trained.stopped
    assert stopped == Stop.CONVERGED
    assert stopped.name == "CONVERGED"
    assert repr(stopped) == repr(Stop.CONVERGED)
    assert f"{stopped}" == str(stopped)
    assert f"{trained.state.info.accepted} accepted" in str(stopped)
    for other in (copy.deepcopy(stopped), pickle.loads(pickle.dumps(stopped))):
        assert other == stopped
        assert str(other) == str(stopped)
    assert len(jax.tree.leaves(jax.tree.map(np.asarray, trained))) > 0


# What leaves the range of a dtype -----------------------------------------------------------------


def ending_of_a_line(rule, dtype, size, unit=1.0, steps=30):
    """Least squares of a line of slope 3, its outputs in one unit and its inputs in another."""
    x = np.linspace(1, 2, 5)
    line = Objective(lambda p, x: p * x, losses.half_squared_error)
    data = jnp.asarray(x * unit, dtype), jnp.asarray(3 * size * x, dtype)
    return fit(rule, line, jnp.zeros((), dtype), data, steps=steps)


NEWTON, GIVEN = rules.newton(), rules.levenberg_marquardt()


@pytest.mark.parametrize(
    ("dtype", "size", "unit", "what"),
    [
        ("float32", 1e-22, 1.0, "The value underflows in float32"),
        ("float64", 1e-180, 1.0, "The value underflows in float64"),
        ("float32", 1e-15, 1e-25, "The gradient at params underflows in float32"),
    ],
)
def test_what_underflows_is_no_minimum(dtype, size, unit, what):
    trained = ending_of_a_line(GIVEN, dtype, size, unit)
    assert trained.stopped == Stop.STALLED
    assert what in str(trained.stopped)
    assert "Try other units" in str(trained.stopped)


@pytest.mark.parametrize(("size", "unit"), [(1e-20, 1e-12), (1e-19, 1e-13)])
def test_a_gradient_that_vanishes_on_the_way_is_a_minimum(size, unit):
    trained = ending_of_a_line(NEWTON, "float32", size, unit)
    np.testing.assert_allclose(trained.params, 3 * size / unit, rtol=1e-6)
    assert trained.stopped == Stop.CONVERGED


def test_a_leaf_that_nothing_reads_asks_for_no_second_look(monkeypatch):
    def value(p):
        return (p["read"] - 3) ** 2 + 1 + 0 * jax.lax.stop_gradient(p["held"]).sum()

    monkeypatch.delattr(account, "_steepness")
    start = {
        "held": jnp.ones(2),
        "not": jnp.ones((2, 3)),
        "read": jnp.ones(()),
        "zero": jnp.ones(()),
    }
    trained = fit(rules.newton(damping=1e-3), value, start, steps=20)
    assert trained.stopped == Stop.CONVERGED


@pytest.mark.parametrize("rule", [rules.adam(1e-2), GIVEN, NEWTON])
@pytest.mark.parametrize(
    ("dtype", "size", "unit"),
    [("float32", 1e20, 1.0), ("float16", 300.0, 1.0), ("float32", 1e15, 1e25)],
)
def test_what_overflows_is_named(rule, dtype, size, unit):
    trained = ending_of_a_line(rule, dtype, size, unit)
    assert trained.stopped == Stop.NON_FINITE
    assert f"It overflows in {dtype}" in str(trained.stopped)


def test_a_logarithm_of_0_does_not_overflow():
    trained = ending(rules.adam(1e-2), lambda p, _: jnp.log(p), 0.0)
    assert trained.stopped == Stop.NON_FINITE
    assert "overflows" not in str(trained.stopped)


def test_a_value_of_0_at_a_minimum_is_one():
    trained = ending_of_a_line(GIVEN, "float32", 1.0)
    assert trained.stopped == Stop.CONVERGED
    flat = ending(rules.newton(), lambda p, _: jnp.where(p > 5, p, 0.0), 1.0)
    assert flat.stopped == Stop.CONVERGED  # nothing moves it


@pytest.mark.parametrize("size", [1e-50, 1e40])
def test_data_that_the_dtype_of_jax_cannot_hold(size):
    line = Objective(lambda p, x: p * x, losses.half_squared_error)
    x = np.linspace(1, 2, 5)
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"numbers that float32 holds.*1\]"):
        fit(GIVEN, line, jnp.zeros(()), (x, size * x), steps=3)
