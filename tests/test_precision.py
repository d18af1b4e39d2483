"""Precision policies: what is kept wide, what is computed narrow, and that it trains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, curvature, fit, layers, losses, rules, solvers
from fnn.precision import Policy

MODEL = layers.serial(layers.dense(8), layers.elementwise(jnp.tanh), layers.dense(2))
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((40, 3)).astype(np.float32)
TARGETS = np.stack([np.sin(INPUTS.sum(1)), INPUTS[:, 0] * INPUTS[:, 1]], axis=1)
PARAMS = jax.jit(MODEL.init)(jax.random.key(0), INPUTS[0])
WIDE = Objective(MODEL.apply, losses.half_squared_error)


def objective(policy, loss=losses.half_squared_error):
    return Objective(policy.model(MODEL.apply), loss)


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def dots(fn, *args):
    """The dtypes of operands and results of all matrix products of a program, in its own words."""
    text = str(jax.make_jaxpr(fn)(*args))
    return {dtype for dtype in ("bf16", "f32", "f64") for line in text.splitlines()
            if "dot_general" in line and f":{dtype}[" in line.split("=")[0]}  # fmt: skip


def test_the_model_computes_in_half_and_everything_else_is_single():
    policy = Policy()
    half = objective(policy)
    params = policy.keep(jax.tree.map(lambda leaf: leaf.astype("float16"), PARAMS))
    assert dtypes(params) == {"float32"}
    value, grad = jax.jit(jax.value_and_grad(half.on((INPUTS, TARGETS))))(params)
    assert dtypes((value, grad)) == {"float32"}
    assert dots(lambda p: jax.grad(half.on((INPUTS, TARGETS)))(p), params) == {"bf16"}
    assert dots(lambda p: jax.grad(WIDE.on((INPUTS, TARGETS)))(p), params) == {"f32"}
    captured = jax.jit(lambda p: curvature.capture(half.model, p, INPUTS))(params)
    assert dtypes((captured.operands, captured.deltas)) == {"bfloat16"}
    assert dtypes(captured.outputs) == {"float32"}
    np.testing.assert_allclose(
        half.outputs(params, INPUTS), WIDE.outputs(params, INPUTS), atol=0.03
    )


def test_dropout_gets_its_key_and_indices_stay_indices():
    model = layers.serial(layers.embedding(5, 4), layers.each(layers.dropout(0.5)))
    half = Objective(Policy().model(model.apply), losses.half_squared_error)
    assert half.takes_key
    assert not Objective(Policy().model(lambda w, x: w * x), losses.half_squared_error).takes_key
    params = model.init(jax.random.key(0), jnp.arange(3))
    tokens = jnp.arange(3)[None]
    outputs = half.outputs(params, tokens)
    assert float(half.on((tokens, outputs), key=jax.random.key(1))(params)) > 0.1


def test_the_gram_matrix_is_that_of_the_captured_numbers_summed_in_single():
    policy = Policy()
    half = objective(policy)

    @jax.jit
    def found(params):
        captured = curvature.capture(half.model, params, INPUTS)
        exact = curvature.gram(curvature.capture(MODEL.apply, params, INPUTS))
        return curvature.jacobian(captured), curvature.gram(captured), exact

    leaves, made, exact = found(PARAMS)
    rows = np.concatenate([np.reshape(leaf, (80, -1)) for leaf in jax.tree.leaves(leaves)], axis=1)
    assert made.dtype == jnp.float32
    np.testing.assert_allclose(made, rows @ rows.T, rtol=2e-2, atol=2e-2)
    np.testing.assert_allclose(made, exact, atol=0.03 * float(jnp.max(exact)))


@pytest.mark.parametrize("rule", ["levenberg_marquardt", "gauss_newton", "adam"])
def test_it_trains_as_in_single_precision(rule):
    made = {
        "levenberg_marquardt": lambda: rules.levenberg_marquardt(
            0.3, policy=rules.damping.constant()
        ),
        "gauss_newton": lambda: rules.gauss_newton(damping=0.3),
        "adam": lambda: rules.adam(1e-2),
    }[rule]()
    half, wide = (
        fit(made, one, PARAMS, (INPUTS, TARGETS), steps=15) for one in (objective(Policy()), WIDE)
    )
    assert dtypes(half.params) == {"float32"}
    assert dtypes(half.state) <= {"float32", "int32", "bool"}
    assert dtypes(half.state) == dtypes(wide.state)
    np.testing.assert_allclose(half.history.value, wide.history.value, rtol=0.1, atol=3e-3)
    assert half.history.value[-1] < 0.7 * half.history.value[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_spring_takes_later_what_rounding_keeps_from_half_precision(dtype):
    """Each update alone is below half a rounding of the parameter."""
    value_fn = Objective(lambda w, x: w - x).on(jnp.full(1, 2, dtype))
    rule = rules.spring(3e-4, 0.0, 0.0, None)

    @jax.jit
    def reached(w):
        def one(_, carry):
            w, state = carry
            grad = jax.grad(value_fn)(w)
            updates, state = rule.update(grad, state, w, grad=grad, value_fn=value_fn)
            return optax.apply_updates(w, updates), state

        return jax.lax.fori_loop(0, 1000, one, (w, rule.init(w)))[0]

    w = reached(jnp.ones((), dtype))
    assert w.dtype == dtype
    np.testing.assert_allclose(float(w), 2 - np.exp(-0.3), atol=4e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("rule", "reached"), [(rules.spring(0.1), 4e-3), (rules.gauss_newton(damping=1e-2), 2e-3)]
)
def test_in_half_precision_no_value_rises_above_its_start(rule, reached, dtype):
    """Single precision reaches 5e-5 and 2e-4; eight bits of outputs of order 1 allow some 1e-3.

    The first exact step of gauss_newton rises by 0.8 %, and one rounding of bfloat16 is 0.4 %.
    """

    def half(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)

    trained = fit(rule, WIDE, half(PARAMS), half((INPUTS, TARGETS)), steps=200)
    values = np.asarray(trained.history.value, float)
    assert dtypes(trained.params) == {dtype}
    assert np.max(values) < 1.02 * values[0]
    assert np.min(values) < reached


def step(policy, solver, damping=1e-2):
    value_fn = objective(policy).on((INPUTS, TARGETS))
    rule = rules.gauss_newton(damping=damping, solver=solver)

    def update(params):
        grad = jax.grad(value_fn)(params)
        return rule.update(grad, rule.init(params), params, grad=grad, value_fn=value_fn)[0]

    return update


@pytest.mark.parametrize("solver", [solvers.dual(), solvers.primal()])
def test_the_small_system_is_solved_where_the_policy_says(solver):
    single = Policy(compute="float32")
    programs = {
        solve: str(jax.make_jaxpr(step(single._replace(solve=solve), solver))(PARAMS))
        for solve in (None, "float64", "float32")
    }
    assert "cholesky" in programs["float32"]
    assert "f64[2" not in programs["float32"]  # scalars are literals
    assert any(f"f64[{rows}" in programs[None] for rows in ("80,80", "50,50"))
    wide, narrow, default = (
        jax.jit(step(single._replace(solve=solve), solver))(PARAMS)
        for solve in ("float64", "float32", None)
    )
    for one, other, same in zip(*map(jax.tree.leaves, (wide, narrow, default)), strict=True):
        np.testing.assert_array_equal(one, same)
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def test_a_matrix_in_double_is_not_solved_in_less():
    double = jax.tree.map(lambda leaf: leaf.astype(float), PARAMS)
    wide = Policy(params="float64", compute="float64", gram="float64")
    one, two = (
        jax.jit(step(wide._replace(solve=solve), solvers.dual()))(double)
        for solve in (None, "float32")
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_gram_matrix_in_double_is_that_of_the_exact_squares():
    """Nearly undamped, a float32 matrix has lost what a float64 one of the same rows has kept."""

    def truth(params):
        rule = rules.gauss_newton(damping=1e-7, solver=solvers.dual())
        value_fn = WIDE.on((INPUTS.astype(float), TARGETS.astype(float)))
        grad = jax.grad(value_fn)(params)
        return rule.update(grad, rule.init(params), params, grad=grad, value_fn=value_fn)[0]

    expected = jax.jit(truth)(jax.tree.map(lambda leaf: leaf.astype(float), PARAMS))

    def error(gram):
        single = Policy(compute="float32", gram=gram)
        found = jax.jit(step(single, solvers.dual(), 1e-7))(PARAMS)
        assert dtypes(found) == {"float32"}
        away = jax.tree.map(lambda a, b: a - b, found, expected)
        return float(optax.tree.norm(away) / optax.tree.norm(expected))

    assert error("float64") < 0.2 * error("float32")


def test_the_normal_matrix_in_double_is_the_exact_product_of_its_rows():
    def normal(gram):
        value_fn = objective(Policy(compute="float32", gram=gram)).on((INPUTS, TARGETS))
        return jax.jit(lambda p: curvature.gauss_newton_system(value_fn, p).system.normal())(PARAMS)

    rows = jax.jit(lambda p: curvature.jacobian(curvature.capture(MODEL.apply, p, INPUTS)))(PARAMS)
    rows = [np.reshape(leaf, (80, -1)) for leaf in jax.tree.leaves(rows)]
    rows = np.concatenate(rows, 1, dtype=float)
    double, single = normal("float64"), normal("float32")
    assert (double.dtype, single.dtype) == ("float64", "float32")
    exact = rows.T @ rows / 40
    assert np.max(abs(double - exact)) < 1e-7 * np.max(abs(exact))
    assert np.max(abs(double - exact)) < 0.5 * np.max(abs(single - exact))


@pytest.mark.parametrize(
    ("policy", "error", "message"),
    [
        (
            Policy(compute="int8"),
            TypeError,
            "expected compute to be a floating-point dtype, got in",
        ),
        (Policy(params=None), TypeError, "expected params to be a floating-point dtype, got None"),
        (Policy(gram="bfloat16"), ValueError, "expected gram of at least 32 bits, got bfloat16"),
        (Policy(solve="float16"), ValueError, "expected solve of at least 32 bits, got float16"),
    ],
)
def test_misuse(policy, error, message):
    with pytest.raises(error, match=message):
        policy.model(MODEL.apply)


def test_double_needs_x64():
    with jax.enable_x64(False), pytest.raises(ValueError, match="a dtype that JAX has now, got fl"):
        Policy(gram="float64").model(MODEL.apply)
