"""Newton, Gauss-Newton and Levenberg-Marquardt solve exact cases, and cost what they claim."""

import functools
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, flops, l2, losses, rules, solvers
from fnn.rules import damping, scaling
from fnn.training import Stop
from tests import loop

RNG = np.random.default_rng(0)
N, M = 5, 12


walk = jax.jit(loop.walk, static_argnames=("rule", "steps"))


def update(rule, params, value_fn, state=None):
    """Each call compiles the update anew, so that a bare function may be the value function."""
    state = rule.init(params) if state is None else state
    return jax.jit(lambda params, state: loop.update(rule, params, value_fn, state))(params, state)


def close(actual, expected, rtol=1e-9, atol=1e-12):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected
    )


# Exact cases --------------------------------------------------------------------------------------

LINEAR = Objective(lambda w, x: jnp.dot(x, w), losses.half_squared_error)


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (1, 3)], ids=["tall", "wide", "one example"])
@pytest.mark.parametrize("deficient", [False, True])
def test_gauss_newton_without_damping_is_lstsq(shape, deficient):
    inputs, targets = RNG.normal(size=shape), RNG.normal(size=shape[0])
    if deficient:
        inputs[:, 2] = inputs[:, 0] + inputs[:, 1]
    updates, state = update(rules.gauss_newton(), jnp.zeros(shape[1]), LINEAR.on((inputs, targets)))
    close(updates, np.linalg.lstsq(inputs, targets)[0], rtol=1e-7)
    assert state.info.counts.rejected == 0


@pytest.mark.parametrize("make", [rules.gauss_newton, rules.newton, rules.levenberg_marquardt])
def test_large_damping_is_gradient_descent(make):
    value_fn, start = LINEAR.on((RNG.normal(size=(M, N)), RNG.normal(size=M))), jnp.ones(N)
    updates, _ = update(make(damping=1e9), start, value_fn)
    close(updates, -jax.grad(value_fn)(start) / 1e9, rtol=1e-8)


def test_newton_solves_a_quadratic_in_one_step():
    factor, x = RNG.normal(size=(N, N)), RNG.normal(size=N)
    solution, _ = update(rules.newton(), jnp.zeros(N), lambda p: jnp.sum((factor @ p - x) ** 2))
    close(solution, np.linalg.solve(factor, x), rtol=1e-6)


def test_newton_goes_to_a_saddle_in_all_lanes():
    signs = jnp.array([[1.0, -1.0], [-1.0, -2.0], [1.0, 3.0]])

    def lane(sign):
        return update(rules.newton(), jnp.array([0.3, -0.2]), lambda p: jnp.sum(sign * p**2))

    updates, state = jax.vmap(lane)(signs)
    close(updates, jnp.tile(jnp.array([-0.3, 0.2]), (3, 1)))
    assert state.info.counts.cholesky.tolist() == [0, 0, 1]
    assert state.info.counts.negative.tolist() == [1, 1, 0]


def test_newton_is_gauss_newton_on_a_linear_model_with_a_convex_loss():
    objective = Objective(lambda w, x: x @ w, losses.softmax_cross_entropy)
    value_fn = objective.on((RNG.normal(size=(M, 3)), np.arange(M) % 4)) + fnn.l2(0.1)
    start = jnp.asarray(RNG.normal(size=(3, 4)))
    newton, _ = update(rules.newton(damping=0.3), start, value_fn)
    for solver in (solvers.primal(), solvers.dual(), solvers.conjugate_gradients(200, 1e-14)):
        close(update(rules.gauss_newton(damping=0.3, solver=solver), start, value_fn)[0], newton)


def test_newton_by_conjugate_gradients_is_newton():
    start, value_fn = jnp.linspace(-1.0, 1.0, N), lambda p: jnp.sum(jnp.cosh(p)) + jnp.sum(p) ** 2
    dense, _ = update(rules.newton(), start, value_fn)
    close(
        update(rules.newton(solver=solvers.conjugate_gradients(50, 1e-14)), start, value_fn)[0],
        dense,
    )
    many = jnp.ones(solvers.DENSE + 1)
    _, state = update(rules.newton(), many, lambda p: jnp.sum(p**4))
    assert state.info.counts.iterations > 0


def test_penalties_are_part_of_the_system():
    inputs, targets, weight = RNG.normal(size=(M, N)), RNG.normal(size=M), 0.7
    value_fn = LINEAR.on((inputs, targets)) + fnn.l2(weight)
    updates, _ = update(rules.gauss_newton(), jnp.ones(N), value_fn)
    ridge = np.linalg.solve(inputs.T @ inputs / M + weight * np.eye(N), inputs.T @ targets / M)
    close(1 + updates, ridge)


# Symmetries ---------------------------------------------------------------------------------------

SLOPES = RNG.normal(size=(2 * N, N)) * np.arange(1, N + 1)
ROTATION, _ = np.linalg.qr(RNG.normal(size=(N, N)))
MAPS = {
    "rotation": (ROTATION, 1.0),
    "other units": (np.diag(np.logspace(-2, 2, N)), 1.0),
    "affine map": (ROTATION * np.logspace(-1, 1, N), 1.0),
    "scaling of the loss": (np.eye(N), 1000.0),
}
INVARIANT = {
    "newton": (rules.newton(), set(MAPS)),
    "newton, damped": (rules.newton(damping=0.1), {"rotation"}),
    "gauss_newton": (rules.gauss_newton(), set(MAPS)),
    "gauss_newton, damped": (rules.gauss_newton(damping=0.1), {"rotation"}),
    "identity": (rules.levenberg_marquardt(), {"scaling of the loss"}),
    "identity, number": (rules.levenberg_marquardt(0.1), {"rotation"}),
    "marquardt": (
        rules.levenberg_marquardt(scaling=scaling.marquardt),
        {"other units", "scaling of the loss"},
    ),
    "more": (
        rules.levenberg_marquardt(0.1, scaling=scaling.more),
        {"other units", "scaling of the loss"},
    ),
    "accelerated": (rules.levenberg_marquardt(0.1, acceleration=0.75), {"rotation"}),
    "accelerated, more": (
        rules.levenberg_marquardt(0.1, scaling=scaling.more, acceleration=1e9),
        {"other units", "scaling of the loss"},
    ),
    "spring": (rules.spring(1.0, 0.1), {"rotation"}),
    "hessian_free": (rules.hessian_free(), {"rotation", "scaling of the loss"}),
    "hessian_free, number": (rules.hessian_free(0.1), {"rotation"}),
    "hessian_free, preconditioned": (
        rules.hessian_free(precondition=0.75),
        {"scaling of the loss"},
    ),
}


@pytest.mark.parametrize("name", INVARIANT)
def test_path_is_unchanged_exactly_where_claimed(name):
    """The path on f(T y) from y = T^-1 x is brought back by T."""
    rule, claimed = INVARIANT[name]
    start = np.linspace(-0.5, 1.0, N)

    def residual(y, x):
        turn, row, scale = x
        inner = row @ turn @ y - 1.0
        return jnp.sqrt(scale) * inner * jnp.sqrt(1 + inner**2 / 4)  # its square is convex

    def path(turn, scale):
        rows = (np.tile(turn, (2 * N, 1, 1)), SLOPES, np.full(2 * N, scale))
        ys, _ = walk(rule, np.linalg.solve(turn, start), Objective(residual).on(rows), steps=5)
        return ys @ turn.T

    plain = path(np.eye(N), 1.0)
    assert np.max(np.abs(plain[-1] - plain[0])) > 1e-2
    unchanged = {
        symmetry
        for symmetry, change in MAPS.items()
        if np.max(np.abs(path(*change) - plain)) < 1e-6
    }
    assert unchanged == claimed


# Trials and damping -------------------------------------------------------------------------------

ROOT = Objective(lambda w, x: jnp.sqrt(w) - x)  # NaN below 0
VALLEY = Objective(lambda p, _: jnp.array([10 * (p[1] - p[0] ** 2), 1 - p[0]])).on(jnp.zeros(1))
VALLEY_START = jnp.array([-1.2, 1.0])


@pytest.mark.parametrize(
    "policy", [damping.nielsen(), damping.multiplicative(), damping.trust_ratio()]
)
def test_a_trial_that_is_not_finite_is_rejected(policy):
    rule = rules.levenberg_marquardt(1e-6, policy=policy)
    start, value_fn = jnp.array(4.0), ROOT.on(jnp.array([-5.0]))
    updates, state = update(rule, start, value_fn)
    assert updates == 0
    assert not state.info.stalled
    assert (int(state.info.accepted), int(state.info.rejected), int(state.info.steps)) == (0, 1, 1)
    close(state.damping.value, 1e-6 * policy.increase)
    close(state.info.value, value_fn(start))
    after, states = walk(rule, start, value_fn, steps=40)
    assert states.info.accepted[-1] > 0
    assert jnp.all(jnp.diff(states.info.value) <= 0)
    close(states.info.value, jax.vmap(value_fn)(after))


def test_the_value_never_rises_and_the_policy_is_followed():
    rule = rules.levenberg_marquardt(1e-3, acceleration=0)
    xs, states = walk(rule, VALLEY_START, VALLEY, steps=30)
    close(states.info.value, jax.vmap(VALLEY)(xs), rtol=1e-12)
    assert jnp.all(jnp.diff(states.info.value) <= 0)
    assert 0 < states.info.rejected[-1] < 15
    number, growth, before = 1e-3, 2.0, 0
    info, dampings = states.info, states.damping.value
    for gain, accepted, after in zip(info.gain, info.accepted, dampings, strict=True):
        if accepted > before:
            number, growth = number * max(1 / 3, 1 - (2 * min(gain, 1) - 1) ** 3), 2.0
        else:
            number, growth = number * growth, growth * 2
        before = accepted
        if accepted < 12:  # later the gain ratio is rounding
            close(after, number, rtol=1e-6)


def test_automatic_damping_is_a_thousandth_of_the_largest_curvature():
    _, state = update(rules.levenberg_marquardt(policy=damping.constant()), VALLEY_START, VALLEY)
    jacobian = jnp.array([[24.0, 10.0], [-1.0, 0.0]])
    close(state.damping.value, 1e-3 * jnp.max(jnp.diag(jacobian.T @ jacobian)))
    close(update(rules.levenberg_marquardt(), VALLEY_START, VALLEY)[1].damping.unit, 577.0)


def test_constant_damping_follows_a_schedule():
    schedule = optax.piecewise_constant_schedule(1e4, {1: 0.5, 2: 0.5})
    rule = rules.levenberg_marquardt(schedule, policy=damping.constant())
    _, states = walk(rule, VALLEY_START, VALLEY, steps=3)
    close(states.damping.value, jnp.array([1e4, 5e3, 2.5e3]))


def test_several_trials_are_several_updates_on_one_system():
    one, many = rules.levenberg_marquardt(1e-3), rules.levenberg_marquardt(1e-3, trials=10)
    xs, states = walk(one, VALLEY_START, VALLEY, steps=25)
    moved = np.flatnonzero(np.diff(states.info.accepted, prepend=0))
    ys, others = walk(many, VALLEY_START, VALLEY, steps=len(moved))
    close(ys[:10], xs[moved][:10])
    close(others.damping.value[:10], states.damping.value[moved][:10])
    assert others.info.rejected[9] == states.info.rejected[moved][9] > 0


def test_policies_may_be_mapped():
    def last(increase):
        policy = damping.multiplicative(increase=increase)
        rule = rules.levenberg_marquardt(1e-6, policy=policy)
        return loop.update(rule, VALLEY_START, VALLEY, rule.init(VALLEY_START))[1].damping.value

    dampings = jax.jit(jax.vmap(last))(jnp.array([3.0, 10.0]))
    close(dampings, jnp.array([3e-6, 1e-5]))


def test_policies_are_values():
    for make in (damping.nielsen, damping.multiplicative, damping.trust_ratio, damping.constant):
        assert make() == make()
        assert hash(make()) == hash(make())
        assert not callable(make())
    for thing in (scaling.identity, scaling.marquardt, scaling.more):
        assert hash(thing) is not None
        assert not callable(thing)


def curve_fit(dtype):
    inputs = jnp.linspace(-1.0, 1.0, 20, dtype=dtype)
    curve = Objective(lambda p, x: p["a"] * jnp.tanh(p["b"] * x), losses.half_squared_error)
    start = {"a": jnp.array(0.5, dtype), "b": jnp.array(1.0, dtype)}
    return (inputs, jnp.sin(3 * inputs)), curve, start


def test_float32_arrives_where_float64_does():
    (data, curve, start), (wide, _, _) = curve_fit(jnp.float32), curve_fit(float)
    fitted = fnn.fit(rules.levenberg_marquardt(), curve, start, data, steps=200)
    assert fitted.stopped == Stop.CONVERGED
    assert fitted.state.damping.value.dtype == fitted.params["a"].dtype == jnp.float32
    grad = jax.grad(curve.on(wide))(jax.tree.map(lambda leaf: leaf.astype(float), fitted.params))
    assert optax.tree.norm(grad) < 1e-3


def test_fit_ends_at_a_minimum_and_says_so():
    data, curve, start = curve_fit(float)
    fitted = fnn.fit(rules.levenberg_marquardt(), curve, start, data, steps=500)
    assert fitted.stopped == Stop.CONVERGED
    assert "A minimum" in str(fitted.stopped)
    assert len(fitted.history.value) < 100
    assert optax.tree.norm(jax.grad(curve.on(data))(fitted.params)) < 1e-7
    chained = optax.chain(rules.levenberg_marquardt(), rules.levenberg_marquardt())
    assert not fnn.training.loop.is_stalled(chained.init(start))


def test_mini_batches():
    inputs = jax.random.normal(jax.random.key(0), (64, 3))
    data = inputs, jnp.tanh(inputs @ jnp.array([1.0, -2.0, 0.5]))
    objective = Objective(lambda w, x: jnp.tanh(x @ w), losses.half_squared_error)
    fitted = fnn.fit(
        rules.levenberg_marquardt(),
        objective,
        jnp.zeros(3),
        data,
        epochs=10,
        batch_size=16,
        key=jax.random.key(1),
    )
    close(fitted.params, jnp.array([1.0, -2.0, 0.5]), rtol=1e-6)


# Bad systems --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [rules.gauss_newton, rules.newton, rules.levenberg_marquardt])
def test_nan_in_one_example_is_a_step_of_zero(make):
    inputs, targets = RNG.normal(size=(M, N)), RNG.normal(size=M)
    whole, broken = (LINEAR.on((rows, targets)) for rows in (inputs, inputs.copy()))
    broken.terms[0].block.inputs[3, 2] = np.nan
    rule, start = make(), jnp.ones(N)
    updates, state = update(rule, start, broken)
    close(updates, jnp.zeros(N))
    assert state.info.counts.rejected == 1
    updates, state = update(rule, start, whole, state)  # as if nothing had happened
    close(updates, update(rule, start, whole)[0])
    assert state.info.steps == 2


def test_a_model_without_curvature_stalls_and_stays():
    updates, state = update(
        rules.levenberg_marquardt(),
        jnp.ones(N),
        Objective(lambda w, x: 0 * w.sum() + x).on(jnp.ones(3)),
    )
    close(updates, jnp.zeros(N))
    assert jnp.isfinite(state.damping.value)


def test_unused_parameters_under_every_scaling():
    value_fn = Objective(lambda w, x: w[0] * x - 1).on(jnp.ones(3))
    for chosen in (scaling.identity, scaling.marquardt, scaling.more):
        updates, state = update(
            rules.levenberg_marquardt(1e-9, scaling=chosen), jnp.zeros(2), value_fn
        )
        close(updates, jnp.array([1.0, 0.0]), rtol=1e-6)
        assert state.info.accepted == 1


@pytest.mark.gate
def test_eight_lanes_with_300_rows_do_not_deadlock(runs_alone):
    runs_alone("""
        import jax, jax.numpy as jnp, fnn
        from fnn import losses, rules
        objective = fnn.Objective(lambda w, x: jnp.tanh(x @ w), losses.half_squared_error)
        data = jax.random.normal(jax.random.key(0), (300, 400)), jnp.zeros(300)

        @jax.jit
        @jax.vmap
        def lane(damping):
            rule = rules.levenberg_marquardt(damping)
            w, value_fn = jnp.ones(400) / 100, objective.on(data)
            state = rule.init(w)
            for _ in range(2):
                grad = jax.grad(value_fn)(w)
                updates, state = rule.update(grad, state, w, grad=grad, value_fn=value_fn)
                w = w + updates
            return state.info.counts

        counts = lane(jnp.logspace(-6, 1, 8))
        assert counts.cholesky.tolist() == [2] * 8, counts
    """)


@pytest.mark.parametrize(
    "rule", [rules.gauss_newton(solver=solvers.primal()), rules.newton()], ids=["gauss", "newton"]
)
def test_a_step_that_overflows_is_rejected(rule):
    value_fn = Objective(lambda w, x: w * x[0] - x[1]).on(jnp.array([[0.01, 2000.0]], jnp.float16))
    updates, state = update(rule, jnp.zeros((), jnp.float16), value_fn)
    assert (float(updates), int(state.info.counts.rejected)) == (0.0, 1)


def test_lanes_measure_the_curvature_once(monkeypatch):
    """Under vmap a cond runs both branches: what only the first update needs is in a loop."""
    value_fn, start = LINEAR.on((RNG.normal(size=(M, N)), RNG.normal(size=M))), jnp.ones(N)
    rule, calls = rules.levenberg_marquardt(0.1), []

    def counted(value_fn, params, *rest):
        model = quadratic(value_fn, params, *rest)

        def diagonal():
            jax.debug.callback(lambda: calls.append(1))
            return model.system.diagonal()

        return model._replace(system=model.system._replace(diagonal=diagonal))

    quadratic = sys.modules[rules.gauss_newton.__module__].quadratic
    module = sys.modules[rules.levenberg_marquardt.__module__]
    monkeypatch.setattr(module, "quadratic", counted)
    lanes = jax.jit(jax.vmap(lambda state: loop.update(rule, start, value_fn, state)))
    states = jax.tree.map(lambda a: jnp.stack([a] * 3), rule.init(start))
    updates, states = lanes(states)
    jax.effects_barrier()
    assert calls
    calls.clear()
    _, again = lanes(states)
    jax.effects_barrier()
    assert not calls
    close(again.damping.unit, jnp.full(3, update(rule, start, value_fn)[1].damping.unit))
    close(updates[2], update(rule, start, value_fn)[0])


# Transformed gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver", [solvers.primal(), solvers.dual(), solvers.conjugate_gradients(99, 1e-14)]
)
def test_a_clipped_gradient_is_the_gradient(solver):
    value_fn, start = LINEAR.on((RNG.normal(size=(M, N)), RNG.normal(size=M))), jnp.ones(N)
    rule = optax.chain(optax.clip(0.05), rules.gauss_newton(damping=0.2, solver=solver))
    updates, _ = update(rule, start, value_fn)
    matrix, grad = jax.jit(lambda w: (jax.hessian(value_fn)(w), jax.grad(value_fn)(w)))(start)
    clipped = np.clip(grad, -0.05, 0.05)
    close(updates, -np.linalg.solve(matrix + 0.2 * np.eye(N), clipped))


def test_a_transformed_gradient_warns_in_float32_alone():
    rule = optax.chain(optax.clip(1.0), rules.levenberg_marquardt(0.1))
    value_fn = LINEAR.on((np.float32(RNG.normal(size=(M, N))), np.zeros(M, np.float32)))

    def look(rule, start):  # it warns while it is traced
        jax.eval_shape(lambda start: loop.update(rule, start, value_fn, rule.init(start)), start)

    with pytest.warns(UserWarning, match="transformed before a Gauss-Newton rule.*float32.*Try"):
        look(rule, jnp.ones(N, jnp.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look(rule, jnp.ones(N))
        look(rules.levenberg_marquardt(0.1), jnp.ones(N, jnp.float32))
        whole, grad = rules.gauss_newton(), np.ones(N, np.float32)  # as it comes from a file
        jax.eval_shape(
            lambda start: whole.update(
                grad, whole.init(start), start, grad=grad, value_fn=value_fn
            ),
            jnp.ones(N, jnp.float32),
        )


# Cost ---------------------------------------------------------------------------------------------


def network(width):
    def model(params, x):
        first, second, last = params
        return jnp.tanh(jnp.tanh(x @ first) @ second) @ last

    shapes = (8, width), (width, width), (width, 1)
    keys = jax.random.split(jax.random.key(0), 3)
    params = [jax.random.normal(k, s) / s[0] ** 0.5 for k, s in zip(keys, shapes, strict=True)]
    data = jax.random.normal(jax.random.key(1), (128, 8)), jnp.ones((128, 1))
    return params, Objective(model, losses.half_squared_error).on(data)


@pytest.mark.parametrize("rule", [rules.gauss_newton(damping=0.1), rules.levenberg_marquardt()])
def test_value_and_gradient_of_the_loop_are_deleted(rule):
    params, value_fn = network(16)
    state = rule.init(params)

    def offered(params):
        return loop.update(rule, params, value_fn, state)[0]

    def bare(params):
        return rule.update(params, state, params, grad=params, value_fn=value_fn)[0]

    backward = flops.count(jax.grad(value_fn), params)
    assert abs(flops.count(offered, params) - flops.count(bare, params)) < 0.01 * backward


def test_no_jacobian_is_formed(memory):
    params, value_fn = network(256)
    rule = rules.levenberg_marquardt()
    state = rule.init(params)
    taken = memory(functools.partial(loop.update, rule), params, value_fn, state)
    size = sum(leaf.size for leaf in params)
    assert taken.temp_size_in_bytes < 128 * size * 8 / 10


# Misuse -------------------------------------------------------------------------------------------


def test_misuse_is_named():
    start, bowl = jnp.ones(3), lambda p: jnp.sum(p**2)
    value_fn = LINEAR.on((np.ones((2, 3)), np.zeros(2)))
    for make in (rules.levenberg_marquardt, rules.gauss_newton):
        with pytest.raises(TypeError, match=r"got function <lambda>.*try fnn\.Objective"):
            update(make(), start, bowl)
        with pytest.raises(TypeError, match=r"expected value_fn= beside"):
            make().update(start, make().init(start), start, grad=start)
    for make in (rules.levenberg_marquardt, rules.gauss_newton, rules.newton):
        rule = make()
        with pytest.raises(ValueError, match="expected params, where the curvature is, got None"):
            rule.update(start, rule.init(start), None, grad=start, value_fn=value_fn)
        with pytest.raises(TypeError, match=r"expected parameters of floating.*complex128"):
            rule.init(start + 1j)
        frozen, tied = rules.only(rule, [False]), Objective(lambda p, x: p[0] * x)
        with pytest.raises(ValueError, match=r"got a tree without leaves; try a mask"):
            update(frozen, [start], tied.on(np.ones((2, 3))))
    split = optax.partition({"a": rules.gauss_newton(), "b": optax.sgd(1.0)}, ["a", "b"])
    with pytest.raises(TypeError, match=r"got MaskedNode in 1 of 2 places.*try rules\.only"):
        split.init([start, start])
    with pytest.raises(ValueError, match="empty batch"):
        update(rules.gauss_newton(), start, LINEAR.on((np.ones((0, 3)), np.zeros(0))))
    with pytest.raises(ValueError, match="levenberg_marquardt: expected trials >= 1, got 0"):
        rules.levenberg_marquardt(trials=0)
    with pytest.raises(ValueError, match=r"expected a mask of the structure of params"):
        rules.only(rules.newton(), {"w": True}).init(start)
    with pytest.raises(ValueError, match="multiplicative: expected increase in"):
        damping.multiplicative(increase=0.5)
    with pytest.raises(ValueError, match="nielsen: expected decrease in"):
        damping.nielsen(decrease=1.5)
    for make in (damping.multiplicative, damping.nielsen, damping.trust_ratio):
        with pytest.raises(ValueError, match=r"expected minimum <= maximum, got 1 and 0\.5; try"):
            make(minimum=1, maximum=0.5)
    for make in (rules.newton, rules.gauss_newton, rules.levenberg_marquardt):
        with pytest.raises(ValueError, match=r"expected memory_budget in .*, got 0\.0; try"):
            make(memory_budget=0, solver=solvers.primal())
        pair, both = {"a": start, "b": start}, Objective(lambda p, x: (p["a"] + p["b"]) @ x)
        some, rule = {"a": start, "b": None}, make()
        with pytest.raises(ValueError, match=r"a gradient of every parameter.*'b'.*rules\.only"):
            rule.update(some, rule.init(pair), pair, grad=some, value_fn=both.on(np.ones((2, 3))))
    bound = rules.bind(rules.newton(), LINEAR)
    with pytest.raises(ValueError, match=r"bind: expected a batch, got None; try .*batch=batch"):
        bound.update(start, bound.init(start), start)
    with pytest.raises(ValueError, match="bind: expected params"):
        rules.bind(rules.newton(), LINEAR, (np.ones((2, 3)), np.zeros(2))).update(start, None)


def test_what_a_gauss_newton_step_tells_costs_no_product():
    """Beside a penalty it asks which rung of the ladder held, and measures no residual."""
    params, value_fn = network(16)
    rule, value_fn = rules.gauss_newton(damping=0.1, solver=solvers.dual()), value_fn + l2(1e-3)
    state = rule.init(params)

    def whole(params):
        return loop.update(rule, params, value_fn, state)

    def step_alone(params):
        return whole(params)[0]

    product = flops.count(jax.grad(value_fn), params)
    assert flops.count(whole, params) < flops.count(step_alone, params) + 0.1 * product
