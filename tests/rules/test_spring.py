"""SPRING against the formula of its paper, on explicit Jacobians."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, l2, layers, rules, solvers
from fnn.differential import laplacian

RNG = np.random.default_rng(0)
N, M, STEPS = 7, 3, 4
BATCHES = RNG.normal(size=(STEPS, M, N + 1))
START = jnp.asarray(RNG.normal(size=N))
OBJECTIVE = Objective(lambda w, x: jnp.tanh(x[:-1] @ w) - x[-1])


def path(rule, penalty=0.0):
    """The updates, and the parameters before each."""

    def step(carry, batch):
        params, state = carry
        value_fn = OBJECTIVE.on(batch) + l2(penalty)
        grad = jax.grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
        return (optax.apply_updates(params, updates), state), (updates, params)

    (_, state), found = jax.jit(
        lambda start: jax.lax.scan(step, (start, rule.init(start)), jnp.asarray(BATCHES))
    )(START)
    return *found, state


@jax.jit
def explicit(w, batch):
    """Rows and residuals, divided by the root of their number."""

    def residuals(w):
        return jax.vmap(lambda x: OBJECTIVE.model(w, x))(batch) / M**0.5

    return jax.jacobian(residuals)(w), residuals(w)


@pytest.mark.parametrize("solver", [solvers.dual(), solvers.primal()], ids=["dual", "primal"])
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_every_step_is_that_of_the_paper(solver, decay):
    rate, damping = 0.3, 1e-2
    updates, params, state = path(rules.spring(rate, damping, decay, None, solver))
    phi = np.zeros(N)
    for update, w, batch in zip(updates, params, BATCHES, strict=True):
        rows, residuals = explicit(w, batch)
        gram = rows @ rows.T + damping * np.eye(M)
        phi = rows.T @ np.linalg.solve(gram, residuals - decay * rows @ phi) + decay * phi
        np.testing.assert_allclose(update, -rate * phi, rtol=1e-8)
    np.testing.assert_allclose(state.last, -phi, rtol=1e-8)
    assert (int(state.info.steps), int(state.info.counts.cholesky)) == (STEPS, STEPS)


def test_without_memory_it_is_gauss_newton():
    plain = path(rules.gauss_newton(0.3, 1e-2))
    np.testing.assert_allclose(path(rules.spring(0.3, 1e-2, 0.0, None))[0], plain[0], rtol=1e-9)


def test_penalties_count_where_the_step_leads():
    decay, damping, penalty = 0.9, 1e-2, 0.5
    for solver in (solvers.dual(), solvers.conjugate_gradients(50, 1e-13)):
        updates, params, _ = path(rules.spring(1.0, damping, decay, None, solver), penalty)
        last = np.zeros(N)
        for update, w, batch in zip(updates, params, BATCHES, strict=True):
            rows, residuals = explicit(w, batch)
            matrix = rows.T @ rows + (penalty + damping) * np.eye(N)
            grad = rows.T @ residuals + penalty * w
            last = np.linalg.solve(matrix, damping * decay * last - grad)
            np.testing.assert_allclose(update, last, rtol=1e-8)


def test_long_updates_are_shortened_and_short_ones_kept():
    free, *_ = path(rules.spring(0.3, 1e-2, max_norm=None))
    longest = float(np.linalg.norm(free[0])) / 2
    short, _, state = path(rules.spring(0.3, 1e-2, max_norm=longest))
    lengths = np.linalg.norm(short, axis=1)
    assert np.all(lengths < longest * (1 + 1e-12))
    np.testing.assert_allclose(short[0], free[0] / 2)
    kept, *_ = path(rules.spring(0.3, 1e-2, max_norm=1e3))
    np.testing.assert_array_equal(kept, free)
    assert not np.any(path(rules.spring(0.3, max_norm=0.0))[0])
    assert np.any(state.last)


def test_by_default_an_equation_of_second_order_does_not_diverge():
    """Helmholtz' equation with the source of sin(pi x) sin(4 pi y), new points in every step."""
    model = layers.serial(
        layers.dense(16), layers.elementwise(jnp.tanh), layers.dense(16),
        layers.elementwise(jnp.tanh), layers.dense(1),
    )  # fmt: skip

    def residual(params, x):
        waves = jnp.sin(jnp.pi * x[0]) * jnp.sin(4 * jnp.pi * x[1])
        u = laplacian(model.apply)(params, x) + model.apply(params, x)
        return u - (1 - 17 * jnp.pi**2) * waves

    equation = Objective(residual)
    start = model.init(jax.random.key(0), jnp.zeros(2))
    fixed = equation.on(jax.random.uniform(jax.random.key(9), (200, 2)))

    @jax.jit
    def reached(max_norm):
        rule = rules.spring(0.1, max_norm=max_norm)

        def step(carry, key):
            params, state = carry
            value_fn = equation.on(jax.random.uniform(key, (24, 2)))
            value, grad = jax.value_and_grad(value_fn)(params)
            updates, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
            return (optax.apply_updates(params, updates), state), value

        keys = jax.random.split(jax.random.key(1), 100)
        (params, _), values = jax.lax.scan(step, (start, rule.init(start)), keys)
        return fixed(params), jnp.max(values)

    default = inspect.signature(rules.spring).parameters["max_norm"].default
    before = fixed(start)
    last, highest = reached(default)
    assert last < before
    assert highest < 2 * before
    assert reached(1e30)[1] > 100 * before


def test_a_batch_that_is_not_finite_moves_nothing_and_nothing_is_forgotten():
    rule = rules.spring(0.3, 1e-2)

    @jax.jit
    def step(state, batch):
        value_fn = OBJECTIVE.on(batch)
        grad = jax.grad(value_fn)(START)
        return rule.update(grad, state, START, grad=grad, value_fn=value_fn)

    _, before = step(rule.init(START), jnp.asarray(BATCHES[0]))
    updates, after = step(before, jnp.asarray(BATCHES[1]).at[1, 2].set(jnp.nan))
    assert not np.any(updates)
    np.testing.assert_array_equal(after.last, before.last)
    assert (int(after.info.counts.rejected), int(after.info.steps)) == (1, 2)


def test_random_rows_are_learned_in_fewer_steps_than_without_memory():
    """A consistent linear system with a long valley, two rows at a time: Kaczmarz and its heir."""
    size = 20
    rows = RNG.normal(size=(40, size)) * np.logspace(0, -1, size)
    data = jnp.asarray(np.column_stack([rows, rows @ RNG.normal(size=size)]))
    linear = Objective(lambda w, x: x[:-1] @ w - x[-1])
    batches = jax.random.choice(jax.random.key(0), data, (300, 2))

    @jax.jit
    @jax.vmap
    def reached(decay, rate):
        rule = rules.spring(rate, 1e-3, decay, None)

        def step(carry, batch):
            w, state = carry
            value_fn = linear.on(batch)
            grad = jax.grad(value_fn)(w)
            updates, state = rule.update(grad, state, w, grad=grad, value_fn=value_fn)
            return (w + updates, state), None

        w = jnp.zeros(size)
        return linear.on(data)(jax.lax.scan(step, (w, rule.init(w)), batches)[0][0])

    rates = jnp.array([0.1, 0.2, 0.5, 1.0])
    with_memory = reached(jnp.full(4, 0.9), rates)
    without = reached(jnp.zeros(4), rates)
    assert jnp.min(with_memory) < jnp.min(without) / 10


def test_misuse_is_named():
    with pytest.raises(ValueError, match=r"spring: expected decay in \[0, 1\), got 1.0"):
        rules.spring(0.1, decay=1.0)
    state = rules.spring(0.1).init(jnp.ones(3))
    with pytest.raises(ValueError, match=r"(?s)updates and state of one shape.*try"):
        rules.spring(0.1).update(START, state, START, grad=START, value_fn=l2(1.0))


# Half precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [1e-3, 1.0])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_small_updates_in_half_precision_are_taken_once(dtype, start):
    """Updates of -2e-5, which float16 holds beside 1e-3 and loses beside 1."""
    rule = rules.spring(2e-5, damping=0.0, decay=0.0, max_norm=None)
    inputs = jnp.ones((1, 1), dtype)

    @jax.jit
    def walk(w):
        def step(carry, _):
            w, state = carry
            # The residual is 1 at every step, whatever the parameter.
            value_fn = Objective(lambda p, x: (p - jax.lax.stop_gradient(p)) * x[0] + x[0])
            grad = jax.grad(value_fn.on(inputs))(w)
            updates, state = rule.update(grad, state, w, grad=grad, value_fn=value_fn.on(inputs))
            return (optax.apply_updates(w, updates), state), None

        return jax.lax.scan(step, (w, rule.init(w)), length=1000)[0]

    start = jnp.array(start, dtype)
    last, state = walk(start)
    whole = float(last) - float(start) + float(state.rest)
    assert last.dtype == dtype
    assert whole == pytest.approx(-1000 * 2e-5, rel=1e-3)
    assert abs(state.rest) <= float(jnp.finfo(dtype).eps) * max(abs(float(start)), abs(float(last)))


def test_a_rejected_step_in_half_precision_moves_nothing_and_keeps_the_rest():
    rule, w = rules.spring(1e-3, max_norm=None), jnp.ones(N, "bfloat16")

    @jax.jit
    def step(state, batch):
        value_fn = OBJECTIVE.on(batch)
        grad = jax.grad(value_fn)(w)
        return rule.update(grad, state, w, grad=grad, value_fn=value_fn)

    batch = jnp.asarray(BATCHES[0], "bfloat16")
    _, before = step(rule.init(w), batch)
    assert np.any(before.rest)
    updates, after = step(before, batch.at[1, 2].set(jnp.nan))
    assert not np.any(updates)
    np.testing.assert_array_equal(after.rest, before.rest)


def test_the_state_begins_with_any_numbers():
    assert rules.spring(0.1).init({"w": 1.0}).rest is None
    assert rules.spring(0.1).init({"w": np.float16(1)}).rest["w"].dtype == jnp.float32
