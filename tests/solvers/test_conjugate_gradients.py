"""Preconditioners, warm starts and the stop by progress, against dense algebra and theory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fnn import Objective, curvature, losses, rules, solvers

SIZE, MU = 60, 1e-3
VALUES = 10.0 ** -(np.arange(SIZE) / 4)  # a decade for every four eigenvalues


def spectral(seed=0, values=VALUES):
    """Rows whose A^T A has these eigenvalues."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIZE, SIZE)))
    return jnp.asarray(np.sqrt(values)[:, None] * turn.T)


def slopes(seed=1):
    return solvers.RightHandSide(None, jax.random.normal(jax.random.key(seed), (SIZE,)))


def system(rows):
    return solvers.from_rows(rows, jnp.zeros(rows.shape[1], rows.dtype))


@functools.partial(jax.jit, static_argnames="rank")
def inverse(rows, shift, rank):
    """P^-1 as a matrix."""
    improve = solvers.nystrom(rank)(system(rows), shift)
    return jax.vmap(improve)(jnp.eye(rows.shape[1], dtype=rows.dtype))


@functools.partial(jax.jit, static_argnames="solver")
def solve(solver, rows, rhs, damping):
    return solver.solve(system(rows), rhs, damping)


def condition(rows, inverse_):
    damped = np.asarray(rows).T @ np.asarray(rows) + MU * np.eye(SIZE)
    values = np.linalg.eigvals(np.asarray(inverse_) @ damped).real
    return values.max() / values.min()


def test_the_condition_number_falls_as_theory_says():
    """Below 1 + |C - N| / D always, and below 28 at thrice the effective dimension."""
    rows = spectral()
    dense = np.asarray(rows.T @ rows)
    effective = np.sum(VALUES / (VALUES + MU))
    enough = 2 * math.ceil(1.5 * effective) + 1
    assert 10 < enough < SIZE
    found = []
    for rank in (2, 6, 10, enough):
        made = np.asarray(inverse(rows, jnp.full(SIZE, MU), rank))
        np.testing.assert_allclose(made, made.T, atol=1e-9 * np.abs(made).max())
        left = np.linalg.eigvalsh(dense + MU * np.eye(SIZE) - np.linalg.inv(made))
        assert left.min() > -1e-9  # N is at most C
        found.append(condition(rows, made))
        assert found[-1] <= (1 + left.max() / MU) * (1 + 1e-6)
    assert found == sorted(found, reverse=True)
    assert 2 * found[1] < found[0]
    assert 2 * found[2] < found[1]
    assert found[3] < 28 < found[0] < (1 + MU) / MU


def test_as_many_directions_as_parameters_solve_at_once_and_more_are_no_more():
    rows = spectral(values=np.where(np.arange(SIZE) < 7, 1.0, 0.0))  # of rank 7
    step = {}
    for rank in (9, 200):
        solution = solve(
            solvers.conjugate_gradients(50, 1e-9, solvers.nystrom(rank)), rows, slopes(), 0.1
        )
        assert int(solution.counts.iterations) <= 2
        step[rank] = np.asarray(solution.step)
    dense = np.asarray(rows.T @ rows) + 0.1 * np.eye(SIZE)
    for each in step.values():
        np.testing.assert_allclose(each, -np.linalg.solve(dense, slopes().h), rtol=1e-9)


@pytest.mark.parametrize("decades", [2, 8])
def test_preconditioned_steps_are_the_dense_one(decades):
    rows = spectral(values=np.logspace(0, -decades, SIZE))
    rhs = solvers.RightHandSide(jax.random.normal(jax.random.key(2), (SIZE,)), slopes().h)
    damping = {2: jnp.full(SIZE, 0.1), 8: jnp.logspace(-4, 1, SIZE)}[decades]  # Marquardt's
    dense = solve(solvers.primal(), rows, rhs, damping)
    for way in (None, solvers.jacobi, solvers.nystrom(20)):
        got = solve(solvers.conjugate_gradients(2000, 1e-13, way), rows, rhs, damping)
        size = np.linalg.norm(dense.step)
        assert np.linalg.norm(got.step - dense.step) < 1e-10 * size
        for one, other in zip(got[1:4], dense[1:4], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


def test_directions_are_drawn_once():
    rows, shift = spectral(), jnp.full(SIZE, MU)
    assert solvers.nystrom(5) is solvers.nystrom(5)  # and a solver with it compiles once
    one = solvers.nystrom(5)(system(rows), shift)(jnp.ones(SIZE))
    same = solvers.nystrom(5, seed=0)(system(rows), shift)(jnp.ones(SIZE))
    other = solvers.nystrom(5, seed=1)(system(rows), shift)(jnp.ones(SIZE))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_no_curvature_and_no_damping():
    """Of rank 0 the preconditioner is 1 / D; what C sees of a system without damping is solved."""
    nothing = jnp.zeros((3, SIZE))
    solver = solvers.conjugate_gradients(20, 1e-9, solvers.nystrom(4), 1e-9, warm=True)
    for_nothing = solve(solver, nothing, slopes(), 0.5)
    np.testing.assert_allclose(for_nothing.step, -2 * slopes().h, rtol=1e-12)
    assert int(for_nothing.counts.iterations) == 1
    undamped = inverse(nothing, jnp.zeros(SIZE), 4)
    np.testing.assert_allclose(undamped, np.eye(SIZE), atol=1e-15)
    few = jnp.zeros((3, SIZE)).at[0, 0].set(2.0).at[1, 1].set(1.0)  # rows of zeros among them
    rhs = solvers.RightHandSide(jnp.array([1.0, 1.0, 0.0]))
    step = solve(solver, few, rhs, 0.0).step
    np.testing.assert_allclose(step[:2], [-0.5, -1.0], rtol=1e-6)
    assert np.abs(step[2:]).max() < 1e-6


def test_what_is_not_finite_is_rejected_with_a_preconditioner_and_a_start():
    solver = solvers.conjugate_gradients(20, 1e-9, solvers.nystrom(4), 1e-3, warm=True)
    rows, rhs = spectral(), slopes()._replace(start=jnp.ones(SIZE))
    cases = [
        (rows.at[0, 0].set(jnp.nan), rhs, 0.1),
        (rows, rhs._replace(h=rhs.h.at[3].set(jnp.inf)), 0.1),
        (rows, rhs, jnp.nan),
    ]
    for case in cases:
        solution = solve(solver, *case)
        assert not solution.ok
        assert not np.any(solution.step)
    from_nan = solve(solver, rows, rhs._replace(start=jnp.full(SIZE, jnp.nan)), 0.1)
    cold = solve(solver, rows, slopes(), 0.1)
    np.testing.assert_array_equal(from_nan.step, cold.step)


def test_single_precision_and_lanes():
    rows, rhs = spectral(values=np.logspace(0, -4, SIZE)), slopes()
    dense = solve(solvers.primal(), rows, rhs, 1e-2).step
    solver = solvers.conjugate_gradients(60, 1e-6, solvers.nystrom(20))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (rows, rhs))
    with jax.numpy_dtype_promotion("strict"):
        step = solve(solver, *narrow, jnp.float32(1e-2)).step
    assert step.dtype == jnp.float32
    assert np.linalg.norm(step - dense) < 1e-4 * np.linalg.norm(dense)
    dampings = jnp.array([1e-2, 1.0, 10.0])
    lanes = jax.jit(jax.vmap(lambda d: solver.solve(system(rows), rhs, d)))(dampings)
    for i, damping in enumerate(dampings):
        alone = solve(solver, rows, rhs, damping)
        np.testing.assert_allclose(lanes.step[i], alone.step, rtol=1e-6, atol=1e-9)


def test_a_start_is_never_worse_than_none():
    rows, rhs = spectral(), slopes()
    exact = solve(solvers.primal(), rows, rhs, MU)
    few = solvers.conjugate_gradients(3, 0.0, warm=True)
    cold = solve(few, rows, rhs, MU)

    def model(step):
        image = rows @ step
        return float(rhs.h @ step + image @ image / 2 + MU * step @ step / 2)

    starts = {
        "there": -3.0 * exact.step,  # of the wrong length and sign
        "near": exact.step + 0.1 * jnp.linalg.norm(exact.step) * jnp.ones(SIZE) / SIZE**0.5,
        "anywhere": jax.random.normal(jax.random.key(5), (SIZE,)),
        "nowhere": jnp.zeros(SIZE),
    }
    reached = {}
    for name, start in starts.items():
        solution = solve(few, rows, rhs._replace(start=start), MU)
        reached[name] = model(solution.step)
        assert solution.ok
        assert reached[name] < 0
    assert reached["there"] == pytest.approx(model(exact.step), rel=1e-10)
    assert reached["near"] < model(cold.step)
    assert reached["nowhere"] == pytest.approx(model(cold.step), rel=1e-12)
    with pytest.raises(ValueError, match=r"(?s)expected start like the parameters.*try the last"):
        solve(few, rows, rhs._replace(start=jnp.ones(3)), MU)


def test_progress_ends_the_iterations():
    rows, rhs = spectral(), slopes()
    whole, hasty = (
        solve(solvers.conjugate_gradients(200, 1e-12, progress=progress), rows, rhs, MU)
        for progress in (0.0, 0.02)
    )
    promised = [float(each.reduction + MU * 0) for each in (whole, hasty)]
    assert int(hasty.counts.iterations) < int(whole.counts.iterations) / 2
    assert promised[1] > 0.7 * promised[0]
    at_once = solve(solvers.conjugate_gradients(200, 1e-12, progress=10.0), rows, rhs, MU)
    assert int(at_once.counts.iterations) == 4  # the first that has three before it


def test_misuse_says_what_to_do():
    with pytest.raises(ValueError, match="nystrom: expected rank to be an integer >= 1, got 0"):
        solvers.nystrom(0)
    for wrong in ({"progress": -1}, {"iterations": 10.0}, {"tolerance": jnp.ones(2)}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"conjugate_gradients: expected {name} to be .*try"):
            solvers.conjugate_gradients(**wrong)
    with pytest.raises(TypeError, match="precondition to be a function or None, got 'jacobi'"):
        solvers.conjugate_gradients(precondition="jacobi")
    bare = system(spectral())
    with pytest.raises(TypeError, match=r"(?s)kronecker: expected a system with kronecker.*try"):
        solvers.conjugate_gradients(3, 0.0, solvers.kronecker).solve(bare, slopes(), 0.1)


# Of networks --------------------------------------------------------------------------------------


def network(params, x):
    """Two layers, a scale that is used twice, and a leaf that is not used."""
    hidden = jnp.tanh(x @ params["w"] + params["b"])
    return params["scale"] * (hidden @ params["v"]) + params["scale"]


def classification():
    keys = jax.random.split(jax.random.key(0), 5)
    params = {
        "w": jax.random.normal(keys[0], (4, 5)),
        "b": jax.random.normal(keys[1], (5,)),
        "v": jax.random.normal(keys[2], (5, 3)),
        "scale": jnp.ones(()),
        "unused": jnp.ones(2),
    }
    data = jax.random.normal(keys[3], (20, 4)), jax.random.randint(keys[4], (20,), 0, 3)
    return params, Objective(network, losses.softmax_cross_entropy).on(data)


def test_the_kronecker_inverse_is_that_of_the_damped_factors():
    params, value_fn = classification()
    made = curvature.gauss_newton_system(value_fn, params).system
    shift, v = jax.tree.map(lambda _: 0.3, params), jax.tree.map(jnp.ones_like, params)
    got = solvers.kronecker(made, solvers.spread(made, shift))(v)
    structure = curvature.structure(network, params, jnp.zeros(4))
    factors = curvature.kronecker_blocks(value_fn, params, structure).factors
    a, d = (np.asarray(side[0]) for side in factors["['w']"])
    ratio = np.sqrt(np.mean(np.diag(a)) / np.mean(np.diag(d)))
    a, d = (x + y * 0.3**0.5 * np.eye(len(x)) for x, y in ((a, ratio), (d, 1 / ratio)))
    np.testing.assert_allclose(got["w"], np.linalg.solve(a, np.ones((4, 5))) @ np.linalg.inv(d))
    block = np.asarray(factors["['b']"].outputs[0]) + 0.3 * np.eye(5)  # exact, of a bias
    np.testing.assert_allclose(got["b"], np.linalg.solve(block, np.ones(5)))
    scale = 1 / (0.3 + made.diagonal()["scale"])
    np.testing.assert_allclose(got["scale"], scale, rtol=1e-10)
    np.testing.assert_allclose(got["unused"], 1 / 0.3, rtol=1e-10)


def test_levenberg_marquardt_takes_the_exact_step_when_it_converged():
    """For several steps, from warm starts."""
    params, value_fn = classification()
    solver = solvers.conjugate_gradients(300, 1e-12, solvers.kronecker, warm=True)

    def trained(solver):
        rule = rules.levenberg_marquardt(0.1, solver=solver)

        def step(carry, _):
            params, state = carry
            value, grad = jax.value_and_grad(value_fn)(params)
            updates, state = rule.update(grad, state, params, grad=grad, value_fn=value_fn)
            return (optax.apply_updates(params, updates), state), value

        return jax.jit(lambda p: jax.lax.scan(step, (p, rule.init(p)), None, 4))(params)

    (exact, state), values = trained(solvers.dual())
    (reached, warm), others = trained(solver)
    assert state.last is None
    assert int(warm.info.accepted) == int(state.info.accepted) > 1
    np.testing.assert_allclose(values, others, rtol=1e-10)
    flat = [ravel_pytree(tree)[0] for tree in (reached, exact)]
    assert np.linalg.norm(flat[0] - flat[1]) < 1e-10 * np.linalg.norm(flat[1])
    assert np.any(warm.last["w"])
