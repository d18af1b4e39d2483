"""The derivative of a solution against solutions that were found again nearby."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import curvature, solvers
from fnn.curvature import implicit

INPUTS = jnp.linspace(-1.0, 2.0, 8)
TARGETS = jnp.sin(2 * INPUTS) + jnp.array([0.1, -0.2, 0.1, 0.0, 0.2, -0.1, 0.1, 0.0])
HELD_OUT = jnp.linspace(-0.9, 1.9, 5), jnp.sin(2 * jnp.linspace(-0.9, 1.9, 5))
START = {"a": jnp.array(1.0), "b": jnp.array([1.5, 0.1])}
THETA = {"l2": jnp.array(0.05), "targets": TARGETS, "inputs": INPUTS, "weights": jnp.ones(8)}


def model(params, x):
    return params["a"] * jnp.tanh(params["b"][0] * x + params["b"][1])


def loss(output, target):
    return 0.5 * (output - target) ** 2


OBJECTIVE = fnn.Objective(model, loss)


def value_fn_of(theta):
    data = theta["inputs"], theta["targets"]
    return OBJECTIVE.on(data, weights=theta["weights"]) + fnn.l2(theta["l2"])


@jax.jit
def refitted(theta):
    """The solution by Newton's method, from the same start."""
    flat, unravel = ravel_pytree(START)

    def value(flat):
        return value_fn_of(theta)(unravel(flat))

    def step(_, flat):
        return flat - jnp.linalg.solve(jax.hessian(value)(flat), jax.grad(value)(flat))

    return unravel(jax.lax.fori_loop(0, 12, step, flat))


@functools.cache
def solution():
    with jax.ensure_compile_time_eval():  # numbers, also where a trace asks first
        return refitted(THETA)


VECTOR, UNRAVEL = ravel_pytree(THETA)  # inputs, l2, targets, weights
L2, LAST_TARGET, WEIGHTS = 8, 16, slice(17, 25)


def solved(theta, params=None, **options):
    return implicit(value_fn_of(theta), solution() if params is None else params, **options)


def flat_solved(vector):
    return ravel_pytree(solved(UNRAVEL(vector)))[0]


@functools.cache
def exam():
    """Of all leaves at once: reverse, forward, and by differences of refitted solutions."""

    def difference(direction):
        ends = (refitted(UNRAVEL(VECTOR + sign * 1e-5 * direction)) for sign in (1, -1))
        up, down = (ravel_pytree(end)[0] for end in ends)
        return (up - down) / 2e-5

    @jax.jit
    def answers(vector):
        both = jax.jacrev(flat_solved)(vector), jax.jacfwd(flat_solved)(vector)
        return *both, jax.vmap(difference)(jnp.eye(len(vector))).T

    return answers(VECTOR)


def test_it_begins_at_a_minimum_with_residuals():
    value, grad = jax.value_and_grad(value_fn_of(THETA))(solution())
    assert value > 1e-3  # so that the Gauss-Newton matrix is not the Hessian
    assert abs(ravel_pytree(grad)[0]).max() < 1e-13


def test_derivatives_in_inputs_targets_weights_and_l2_are_those_of_refitted_solutions():
    reverse, forward, differences = exam()
    np.testing.assert_allclose(reverse, forward, atol=1e-12)
    np.testing.assert_allclose(reverse, differences, rtol=1e-6, atol=1e-6)
    assert abs(differences).max(axis=1).min() > 1e-2


def test_the_derivative_of_a_validation_loss_in_the_weight_of_a_penalty():
    validation = OBJECTIVE.on(HELD_OUT)

    def loss_of(weight):
        return validation(solved(THETA | {"l2": weight}))

    slope = jax.grad(loss_of)(THETA["l2"])  # no jit: the numbers are known, and nothing is warned
    ends = (validation(refitted(THETA | {"l2": 0.05 + step})) for step in (1e-5, -1e-5))
    up, down = ends
    np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6)


def test_influence_tells_the_solution_without_an_example():
    influence = -exam()[0][:, WEIGHTS]
    for index in (1, 4):
        weights = THETA["weights"].at[index].set(0.0)
        without = ravel_pytree(refitted(THETA | {"weights": weights}))[0]
        moved = without - ravel_pytree(solution())[0]
        cosine = moved @ influence[:, index]
        cosine /= np.linalg.norm(moved) * np.linalg.norm(influence[:, index])
        assert cosine > 0.8  # of first order, and one example in eight is much


def test_the_way_to_the_solution_has_no_derivative():
    def along(weight):  # a stop that moves as it likes, ten times as fast
        moved = jax.tree.map(lambda leaf: leaf + 10 * (weight - 0.05), solution())
        return ravel_pytree(solved(THETA | {"l2": weight}, moved))[0]

    slope = jax.jit(jax.jacfwd(along))(THETA["l2"])
    np.testing.assert_allclose(slope, exam()[0][:, L2], rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": solvers.conjugate_gradients(20, 1e-12)},
        {"solver": solvers.primal()},
    ],
    ids=["conjugate gradients", "primal"],
)
def test_other_solvers_give_the_same(options):
    def solution_of(weight):
        return ravel_pytree(solved(THETA | {"l2": weight}, **options))[0]

    np.testing.assert_allclose(
        jax.jit(jax.jacrev(solution_of))(THETA["l2"]), exam()[0][:, L2], rtol=1e-8
    )


LINE = fnn.Objective(lambda w, x: x @ w, loss)


@pytest.mark.parametrize("solver", [None, solvers.dual()], ids=["dense", "dual"])
def test_gauss_newton_is_exact_for_a_linear_model(solver):
    x, y = jax.random.normal(jax.random.key(0), (2, 3)), jnp.array([1.0, -2.0])

    def ridge(weight):
        return jnp.linalg.solve(x.T @ x / 2 + weight * jnp.eye(3), x.T @ y / 2)

    def solution_of(weight, params):
        value_fn = LINE.on((x, y)) + fnn.l2(weight)
        system = curvature.gauss_newton_system
        return implicit(value_fn, params, system=system, solver=solver)

    weights = jnp.array([0.1, 1.0])
    slopes = jax.jit(jax.vmap(jax.jacfwd(solution_of)))(weights, jax.vmap(ridge)(weights))
    np.testing.assert_allclose(slopes, jax.vmap(jax.jacfwd(ridge))(weights), rtol=1e-9)


def test_a_singular_hessian_gives_the_derivative_of_least_norm():
    x, y = jax.random.normal(jax.random.key(1), (2, 4)), jnp.array([1.0, -2.0])
    params = jnp.linalg.pinv(x) @ y + jnp.array([1.0, 2.0, 0.0, 0.0])
    params -= jnp.linalg.pinv(x) @ (x @ params - y)  # another of the solutions
    slope = jax.jacrev(lambda y: implicit(LINE.on((x, y)), params))(y)
    np.testing.assert_allclose(slope, jnp.linalg.pinv(x), atol=1e-10)


def test_traced_numbers_count_wherever_they_hide():
    params = jnp.array([4.0, 9.0])

    def bare(theta):
        return implicit(lambda w: 0.5 * jnp.sum((w - theta**2) ** 2), params)

    def partial(theta):
        fn = jax.tree_util.Partial(lambda t, w: 0.5 * jnp.sum((w - t**2) ** 2), theta)
        return implicit(fn, params)

    def in_a_model(theta):
        hidden = fnn.Objective(lambda w, x: x * (w - theta**2))
        return implicit(hidden.on(jnp.ones(1)), params)

    theta = jnp.array([2.0, 3.0])
    for fn in (bare, partial, in_a_model):
        np.testing.assert_allclose(jax.jacrev(fn)(theta), jnp.diag(2 * theta))
        np.testing.assert_allclose(jax.jit(jax.jacfwd(fn))(theta), jnp.diag(2 * theta))


def test_a_module_with_names_and_functions_in_it_is_a_value_function():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class Bowl:
        center: jax.Array
        power: int
        shape: Callable
        name: str

        def __call__(self, w):
            return self.shape(sum([(w - self.center**2) ** 2] * self.power))

    def solution(theta):
        return implicit(Bowl(theta, 3, jnp.sum, "bowl"), jnp.array([4.0, 9.0]))

    theta = jnp.array([2.0, 3.0])
    np.testing.assert_allclose(solution(theta), [4.0, 9.0])
    np.testing.assert_allclose(jax.jacrev(solution)(theta), jnp.diag(2 * theta))


def test_numbers_hidden_from_gauss_newton_are_named():
    def solution(theta):
        value_fn = fnn.Objective(lambda w, x: x * (w - theta**2)).on(jnp.ones(1))
        return implicit(value_fn, jnp.array(4.0), system=curvature.gauss_newton_system)

    with pytest.raises(
        TypeError, match=r"^implicit: .* got 1 that these read .*; try to make them"
    ):
        jax.grad(solution)(2.0)

    def seen(theta):  # as a part of the inputs
        value_fn = fnn.Objective(lambda w, x: x[0] * (w - x[1] ** 2))
        on_data = value_fn.on((jnp.ones(1), jnp.full(1, theta)))
        return implicit(on_data, jnp.array(4.0), system=curvature.gauss_newton_system)

    np.testing.assert_allclose(jax.grad(seen)(2.0), 4.0)


def quadratic(theta):
    return implicit(lambda w: 0.5 * (w - theta) ** 2, jnp.array(1.0))


@pytest.mark.parametrize(
    "twice",
    [
        lambda fn: jax.grad(jax.grad(fn)),
        lambda fn: jax.jacfwd(jax.grad(fn)),
        lambda fn: jax.jit(jax.hessian(fn)),
    ],
)
def test_a_second_derivative_is_refused(twice):
    with pytest.raises(NotImplementedError, match="differentiated once, got a second derivative"):
        twice(quadratic)(1.0)


def test_a_point_that_is_not_stationary_is_named():
    with pytest.warns(UserWarning, match=r"expected a stationary point, got one with a gradient"):
        jax.grad(quadratic)(1.5)


def test_a_saddle_is_named_and_its_derivative_right():
    def saddle(theta):
        return implicit(lambda w: 0.5 * w[0] ** 2 - 0.5 * (w[1] - theta) ** 2, jnp.array([0.0, 1]))

    with pytest.warns(UserWarning, match="expected a minimum, got negative curvature"):
        slope = jax.jacrev(saddle)(1.0)
    np.testing.assert_allclose(slope, [0.0, 1.0])


def test_what_is_not_solved_is_nan_and_no_number():
    def solution_of(theta):
        solver = solvers.conjugate_gradients()
        return implicit(lambda w: -0.5 * (w - theta) ** 2, jnp.array(1.0), solver=solver)

    assert jnp.isnan(jax.jit(jax.grad(solution_of))(1.0))


def test_parameters_and_derivatives_keep_their_dtype():
    params = jnp.ones(2, jnp.float32)
    slope = jax.jacrev(lambda t: implicit(lambda w: jnp.sum((w - t) ** 2), params))(params)
    assert slope.dtype == jnp.float32
    np.testing.assert_allclose(slope, np.eye(2), rtol=1e-6)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match=r"at most 4096 parameters.*got 5000; try"):
        implicit(fnn.l2(1.0), jnp.zeros(5000))
    with pytest.raises(TypeError, match=r"implicit: expected real floating-point parameters"):
        implicit(fnn.l2(1.0), jnp.arange(3))
    with pytest.raises(ValueError, match=r"implicit: expected at least one parameter"):
        implicit(fnn.l2(1.0), {})


def test_integers_and_keys_that_are_traced_are_no_hindrance():
    """d/da of the sum of a k over two parameters is 2 k; of noise drawn within, what was drawn."""

    def solution(a, k, key):
        aim = a * k * jax.random.uniform(key, 2)
        value_fn = lambda w: jnp.sum((w - a * k * jax.random.uniform(key, 2)) ** 2)  # ruff: ignore[lambda-assignment]
        return implicit(value_fn, jax.lax.stop_gradient(aim)).sum()

    key = jax.random.key(0)
    expected = 2 * jax.random.uniform(key, 2).sum()
    assert jax.grad(jax.jit(solution))(1.0, 2, key) == pytest.approx(float(expected))


def test_what_is_no_function_is_refused():
    objective = fnn.Objective(lambda w, x: w * x, loss)
    with pytest.raises(TypeError, match=r"implicit: expected a value function.*objective.on"):
        implicit(objective, jnp.ones(2))
