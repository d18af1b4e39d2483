"""Metered functions: the same results, and the flops of the trips and branches that were taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.custom_batching import sequential_vmap

from fnn import flops


def metered(fn, *args, scope=""):
    results, tally = jax.jit(flops.metered(fn, scope))(*args)
    jax.tree.map(np.testing.assert_array_equal, results, jax.jit(fn)(*args))
    return tally


def halve(x):
    return jax.lax.while_loop(lambda x: jnp.max(x) > 1, lambda x: 0.5 * x, x)


def test_what_has_no_loops_costs_what_is_counted():
    def fn(x, y):
        unused = x @ x  # deleted by the compiler, not counted
        return {"a": jnp.tanh(x @ y), "b": jax.nn.relu(y)}, unused.shape

    x, y = jnp.ones((3, 3)), jnp.ones((3, 2))
    assert metered(lambda x, y: fn(x, y)[0], x, y).flops == flops.count(lambda *a: fn(*a)[0], x, y)


@pytest.mark.parametrize("trips", range(4))
def test_a_loop_costs_its_trips_and_one_more_look(trips):
    x = jnp.full(5, 2.0**trips)
    assert metered(halve, x).flops == trips * 5 + (trips + 1) * (5 + 1)  # products, maximum, >


def test_a_branch_costs_what_was_taken():
    def fn(dear, x):
        return jax.lax.cond(dear, lambda: x @ x, lambda: x)

    x = jnp.ones((4, 4))
    assert metered(fn, True, x).flops == 2 * 4**3
    assert metered(fn, False, x).flops == 0


def test_loops_within_loops_calls_and_scans():
    def fn(xs):
        total, ends = jax.lax.scan(lambda c, x: (c + halve(x), jax.jit(halve)(x)), 0.0, xs)
        return total + jnp.sum(ends)

    trips = np.array([0, 3, 1])
    assert metered(fn, 2.0**trips).flops == 3 + 3 + 1 + 2 * np.sum(trips + 2 * (trips + 1))


def test_each_lane_counts_its_own_trips():
    x = 2.0 ** jnp.arange(4)
    _, tally = jax.jit(jax.vmap(flops.metered(halve)))(x)
    np.testing.assert_array_equal(tally.flops, [metered(halve, number).flops for number in x])


def test_lanes_in_turn_stay_in_turn_and_are_counted():
    @sequential_vmap
    def fn(x):
        return jax.lax.cond(x[0] > 1, lambda: jnp.cumsum(x @ jnp.outer(x, x)), lambda: x)

    x = jnp.arange(6.0).reshape(3, 2)
    results, tally = jax.jit(jax.vmap(flops.metered(fn)))(x)
    np.testing.assert_array_equal(results, jax.vmap(fn)(x))
    assert tally.flops[0] < tally.flops[1] == tally.flops[2]


def test_a_scope_is_told_apart_with_its_derivatives():
    def model(w, x):
        with jax.named_scope("model"):
            return jnp.tanh(x @ w)

    def fn(w, x):
        grad = jax.grad(lambda w: jnp.sum(model(w, x)))(w)
        return jnp.linalg.solve(grad.T @ grad + jnp.eye(2), jnp.ones(2))

    w, x = jnp.ones((3, 2)), jnp.ones((5, 3))
    tally = metered(fn, w, x, scope="model")
    inside = flops.count(lambda w: jax.grad(lambda w: jnp.sum(model(w, x)))(w), w)
    assert 0.9 * inside <= tally.within <= inside  # the sum is outside
    assert tally.flops > tally.within + 2 * 2 * 2 * 3
    assert flops.count_within("model", fn, w, x) == pytest.approx(tuple(map(float, tally)))


def test_float64_within_a_function_of_float32():
    def fn(x):
        with jax.enable_x64(True):
            wide = jnp.linalg.cholesky(x.astype(jnp.float64) + 3 * jnp.eye(3, dtype=jnp.float64))
            return halve(wide).astype(jnp.float32)

    with jax.enable_x64(False):
        x = jnp.ones((3, 3), jnp.float32)
        tally = metered(fn, x)
        assert tally.flops.dtype == jnp.float32
        assert tally.flops > 27 / 3


def test_what_cannot_be_counted_is_refused():
    matrix = jnp.eye(2)

    def fn(b):
        return jax.lax.custom_linear_solve(lambda x: matrix @ x, b, lambda _, b: halve(b))

    with pytest.raises(NotImplementedError, match=r"custom_linear_solve; try flops\.count"):
        flops.metered(fn)(jnp.ones(2))
