"""Curvature as linear maps, against dense derivatives and against one another."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fnn import curvature, losses, solvers
from fnn.objective import Objective, l2


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def mlp(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]


def linear(p, x):
    return x @ p["w"] + p["b"]


PARAMS = {"w": normal(0, 3, 2), "b": normal(1, 2) / 3, "v": normal(2, 2, 2)}
INPUTS, TARGETS, CLASSES = normal(3, 6, 3), normal(4, 6, 2), jnp.arange(6) % 2
WEIGHTS = jnp.array([1.0, 2, 0, 1, 3, 1])

squares = Objective(mlp, losses.half_squared_error)
entropy = Objective(mlp, losses.softmax_cross_entropy)
yes_or_no = Objective(mlp, losses.logistic)
residual = Objective(lambda p, x: {"a": mlp(p, x), "b": p["b"][0] * x[0]})


def likelihoods():
    return (
        3.0 * squares.on((INPUTS, TARGETS), weights=WEIGHTS, chunk=4)
        + entropy.on((INPUTS, CLASSES), weights=WEIGHTS)
        + yes_or_no.on((INPUTS[:4], TARGETS[:4] > 0))
        + residual.on(INPUTS)
        + l2(0.1, where={"w": True, "b": False, "v": True})
    )


def quickly(fn, *args):
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn, compiler_options=options)(*args)


def everything(operator):
    value, grad, product, dense, diagonal = operator
    flat, unravel = ravel_pytree(grad)
    columns = jax.lax.map(lambda v: ravel_pytree(product(unravel(v)))[0], jnp.eye(flat.size))
    return value, grad, columns, dense(), diagonal(), operator.trace()


def assert_is(said, value, grad, matrix):
    columns = said[2:]
    expected = value, grad, matrix, matrix, jnp.diagonal(matrix), jnp.trace(matrix)
    for ours, its in zip((*said[:2], *columns), expected, strict=True):
        ours, its = ravel_pytree(ours)[0], ravel_pytree(its)[0]
        np.testing.assert_allclose(ours, its, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("memory_budget", [1, 2**30])
def test_the_hessian(memory_budget):
    flat, unravel = ravel_pytree(PARAMS)

    def f(flat):
        return likelihoods()(unravel(flat))

    def ask(params):
        operator = curvature.hessian(likelihoods(), params, memory_budget=memory_budget)
        return everything(operator), (f(flat), jax.grad(f)(flat), jax.hessian(f)(flat))

    said, expected = quickly(ask, PARAMS)
    assert_is(said, *expected)


def test_any_function_has_one_and_is_traced_once():
    traces = []

    def rosenbrock(p):
        traces.append(p)
        return 100 * (p["y"] - p["x"] ** 2) ** 2 + (1 - p["x"]) ** 2

    value, grad, product, dense, _ = curvature.hessian(rosenbrock, {"x": 0.5, "y": 1.0})
    for _ in range(3):
        product({"x": jnp.ones(()), "y": jnp.zeros(())})
    assert len(traces) == 1
    assert (float(value), float(grad["x"]), float(grad["y"])) == (56.5, -151.0, 150.0)
    np.testing.assert_allclose(dense(), [[-98.0, -200.0], [-200.0, 200.0]])


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    params = {"w": PARAMS["w"], "b": PARAMS["b"]}
    value_fn = Objective(linear, losses.softmax_cross_entropy).on((INPUTS, CLASSES)) + l2(0.1)

    def ask(params):
        exact = curvature.hessian(value_fn, params)
        return everything(curvature.gauss_newton(value_fn, params)), everything(exact)

    said, (value, grad, _, matrix, *_) = quickly(ask, params)
    assert_is(said, value, grad, matrix)


def test_newton_solves_a_quadratic_in_one_step():
    value_fn = Objective(linear, losses.half_squared_error).on((INPUTS, TARGETS)) + l2(0.1)
    params = {"w": PARAMS["w"], "b": PARAMS["b"]}

    def ask(params):
        value, system, rhs = curvature.hessian_system(value_fn, params)
        free = solvers.conjugate_gradients(100, 1e-14)
        steps = [s.solve(system, rhs, 0.0) for s in (solvers.automatic(), solvers.primal(), free)]
        return [jax.grad(value_fn)(optax.apply_updates(params, s.step)) for s in steps], [
            value - s.reduction - value_fn(optax.apply_updates(params, s.step)) for s in steps
        ]

    for leaf in jax.tree.leaves(quickly(ask, params)):
        np.testing.assert_allclose(leaf, 0, atol=1e-12)


def test_the_fisher_of_likelihoods_is_gauss_newton_and_the_limit_of_samples():
    """The error of S sampled targets falls as 1 / sqrt(S), and so does that of a mean of such."""
    few, many = 4, 100

    def ask(params, keys):
        value_fn = likelihoods()

        def sampled(samples):
            return lambda key: curvature.fisher(value_fn, params, key=key, samples=samples).dense()

        newton = curvature.gauss_newton(value_fn, params)
        one = curvature.fisher(value_fn, params, key=keys[0], samples=few)
        return (
            everything(curvature.fisher(value_fn, params)),
            (newton.value, newton.grad, newton.dense()),
            (one.value, one.grad),
            *(jax.lax.map(sampled(samples), keys) for samples in (few, many)),
        )

    keys = jax.random.split(jax.random.key(0), 200)
    exact, (value, grad, matrix), still, by_few, by_many = quickly(ask, PARAMS, keys)
    assert_is(exact, value, grad, matrix)
    for ours, its in zip(jax.tree.leaves(still), jax.tree.leaves((value, grad)), strict=True):
        np.testing.assert_allclose(ours, its)  # of the targets, not of the samples
    size = jnp.linalg.norm(matrix)
    errors = [
        jnp.sqrt(jnp.mean(jnp.sum((found - matrix) ** 2, (1, 2)))) / size
        for found in (by_few, by_many)
    ]
    assert errors[0] > 0.1
    np.testing.assert_allclose(errors[0] / errors[1], (many / few) ** 0.5, rtol=0.2)
    # no bias: the mean of all is as close as as many samples are
    assert jnp.linalg.norm(by_many.mean(0) - matrix) / size < 2 * errors[1] / len(keys) ** 0.5
    for found in (by_few[0], by_many[0]):
        assert jnp.linalg.eigvalsh(found).min() > -1e-12


def test_the_rank_of_an_estimate_is_at_most_the_number_of_samples():
    value_fn = entropy.on((INPUTS[:2], CLASSES[:2]))
    matrix = quickly(
        lambda p: curvature.fisher(value_fn, p, key=jax.random.key(1), samples=2).dense(), PARAMS
    )
    assert np.linalg.matrix_rank(matrix, tol=1e-10) <= 4


def test_bad_input_is_refused():
    value_fn = Objective(mlp, losses.hinge).on((INPUTS, jnp.sign(TARGETS)))
    with pytest.raises(
        TypeError, match=r"that are likelihoods, got hinge; try curvature\.gauss_new"
    ):
        curvature.fisher(value_fn, PARAMS)
    with pytest.raises(ValueError, match="samples >= 1, got 0"):
        curvature.fisher(value_fn, PARAMS, samples=0)
    for ask in (curvature.gauss_newton, curvature.fisher):
        with pytest.raises(TypeError, match="expected a value function made by Objective"):
            ask(lambda p: p @ p, jnp.ones(2))
    with pytest.raises(TypeError, match="expected real floating-point parameters, got complex128"):
        curvature.hessian(lambda p: jnp.abs(p), jnp.array(1j))
