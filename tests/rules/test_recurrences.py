"""First-order rules against the recurrences of their sources, in NumPy, and against optax."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import rules

STEPS = 50
RATE = 0.1
GRADS = np.random.default_rng(0).normal(size=(STEPS, 7)) * np.logspace(-3, 2, 7)
DECAYING = optax.linear_schedule(RATE, RATE / 100, 30)
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=0)


def follow(rule, grads=GRADS):
    """The updates of a rule along given gradients, the parameters starting from 1."""

    def step(carry, g):
        params, state = carry
        updates, state = rule.update(g, state, params)
        return (optax.apply_updates(params, updates), state), updates

    params = jax.tree.map(lambda g: jnp.ones_like(g[0]), grads)
    return jax.lax.scan(step, (params, rule.init(params)), grads)[1]


# Recurrences as the sources write them ------------------------------------------------------------
# step(k, g, *memory) -> update, *memory. Goodfellow, Bengio and Courville, Deep Learning (2016).


ALPHA = np.minimum(np.arange(STEPS) / 30, 1.0)
RATES = (1 - ALPHA) * RATE + ALPHA * RATE / 100  # equation 8.14, tau = 30


def tabulated(count):
    return jnp.asarray(RATES)[count]


def test_linear_decay_of_the_book_is_a_schedule_of_optax():
    counts = jnp.arange(STEPS, dtype=jnp.int32)
    assert_close(DECAYING(counts), RATES, rtol=1e-5)  # computed in float32


def book_sgd(k, g):
    """Algorithm 8.1 with linear decay."""
    return (-RATES[k] * g,)


def book_sgd_harmonic(k, g):
    """Algorithm 8.1 with a rate as 1/t."""
    return (-RATE / (1 + k) * g,)


def book_momentum(k, g, v):
    """Algorithm 8.2 with linear decay."""
    v = 0.5 * v - RATES[k] * g
    return v, v


def bengio_nesterov(k, g, v):
    """Bengio et al. (2012), arXiv:1212.0901, the velocity ahead included in the parameters."""
    v = 0.5 * v - RATES[k] * g
    return 0.5 * v - RATES[k] * g, v


def book_adagrad(_, g, r):
    """Algorithm 8.4."""
    r = r + g * g
    return -RATE / (1e-7 + np.sqrt(r)) * g, r


def book_rmsprop(_, g, r):
    """Algorithm 8.5."""
    r = 0.9 * r + (1 - 0.9) * g * g
    return -RATE / np.sqrt(1e-6 + r) * g, r


def book_adam(k, g, s, r):
    """Algorithm 8.7."""
    s = 0.9 * s + (1 - 0.9) * g
    r = 0.999 * r + (1 - 0.999) * g * g
    s_hat, r_hat = s / (1 - 0.9 ** (k + 1)), r / (1 - 0.999 ** (k + 1))
    return -RATE * s_hat / (np.sqrt(r_hat) + 1e-8), s, r


def graves_rmsprop(_, g, n, mean, delta):
    """Graves (2013), arXiv:1308.0850: centered, with a velocity."""
    n = 0.95 * n + 0.05 * g * g
    mean = 0.95 * mean + 0.05 * g
    delta = 0.9 * delta - RATE * g / np.sqrt(n - mean * mean + 1e-4)
    return delta, n, mean, delta


@np.vectorize
def igel_rprop(_, g, size, previous):
    """Igel and Huesken (2003), iRprop-, one weight at a time as printed."""
    if previous * g > 0:
        size = min(size * 1.2, 1.0)
    elif previous * g < 0:
        size = max(size * 0.5, 1e-6)
        g = 0.0
    return -np.sign(g) * size, size, g


BOOK = {
    "linear decay": (book_sgd, rules.sgd(tabulated)),
    "1/t": (book_sgd_harmonic, rules.sgd(lambda count: RATE / (1 + count))),
    "momentum": (book_momentum, rules.momentum(tabulated, 0.5), 0.0),
    "nesterov": (bengio_nesterov, rules.nesterov(tabulated, 0.5), 0.0),
    "adagrad": (book_adagrad, rules.adagrad(RATE, 0.0, eps_in_sqrt=False), 0.0),
    "rmsprop": (book_rmsprop, rules.rmsprop(RATE, eps=1e-6), 0.0),
    "centered": (
        graves_rmsprop,
        rules.rmsprop(RATE, 0.95, 1e-4, centered=True, momentum=0.9),
        *(0.0, 0.0, 0.0),
    ),
    "adam": (book_adam, rules.adam(RATE), 0.0, 0.0),
    "rprop": (igel_rprop, rules.rprop(RATE, max_step_size=1.0), RATE, 0.0),
}


@pytest.mark.parametrize("name", BOOK)
def test_rule_is_the_recurrence_of_its_source(name):
    recurrence, rule, *memory = BOOK[name]
    expected = []
    for k, g in enumerate(GRADS):
        update, *memory = recurrence(k, g, *memory)
        expected.append(update)
    assert_close(follow(rule), expected)


# Momentum, which has several forms ----------------------------------------------------------------


def test_both_forms_of_momentum_agree_while_the_rate_is_constant():
    assert_close(follow(rules.momentum(RATE, 0.9)), follow(rules.sgd(RATE, 0.9)), atol=1e-12)
    ahead = follow(rules.sgd(RATE, 0.9, nesterov=True))
    assert_close(follow(rules.nesterov(RATE, 0.9)), ahead, atol=1e-12)


def test_the_velocity_is_the_trace_of_gradients_times_their_own_rates():
    """So a new rate leaves old gradients alone, where optax's trace scales them too."""
    own = RATE * GRADS
    own[20:] *= 0.1
    dropping = optax.piecewise_constant_schedule(RATE, {20: 0.1})
    velocity, trace = follow(rules.momentum(dropping, 0.9)), follow(rules.sgd(dropping, 0.9))
    assert_close(velocity, follow(rules.sgd(1.0, 0.9), own), atol=1e-12)
    assert_close(velocity[:20], trace[:20], atol=1e-12)
    # the memory of the first 20 steps: kept by the velocity, cut to a tenth in the trace
    memory = (velocity[20] + own[20]) / 0.9, (trace[20] + own[20]) / 0.9
    assert_close(memory[0], velocity[19], atol=1e-12)
    assert_close(memory[1], 0.1 * trace[19], atol=1e-12)


def test_nesterov_is_the_path_of_sutskever_seen_a_velocity_ahead():
    grad = jax.jit(jax.grad(lambda x: jnp.sum(jnp.cosh(x)) + 0.5 * jnp.sum(x) ** 2))
    theta, v = jnp.array([1.0, -2.0, 0.5]), jnp.zeros(3)
    rule = rules.nesterov(0.05, decay=0.8)
    params, state = theta, rule.init(theta)
    for _ in range(10):
        v = 0.8 * v - 0.05 * grad(theta + 0.8 * v)  # equations 3 and 4 of the source
        theta = theta + v
        updates, state = rule.update(grad(params), state)
        params = params + updates
        assert_close(params, theta + 0.8 * v)


# optax --------------------------------------------------------------------------------------------

COMPLEX = np.random.default_rng(1).normal(size=(STEPS, 3, 2)) @ np.array([1, 1j])
TREE = {"a": GRADS, "b": (COMPLEX,)}
MASK = {"a": True, "b": False}
OPTAX = [
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adagrad", {}),
    ("adagrad", {"initial_accumulator_value": 0.0, "eps": 1e-3}),
    ("rmsprop", {}),
    ("rmsprop", {"decay": 0.8, "eps_in_sqrt": False, "initial_scale": 1.0}),
    ("rmsprop", {"centered": True, "momentum": 0.9}),
    ("rmsprop", {"centered": True, "eps_in_sqrt": False, "eps": 1e-2}),
    ("rmsprop", {"bias_correction": True, "momentum": 0.9, "nesterov": True}),
    ("adam", {}),
    ("adam", {"b1": 0.7, "b2": 0.9, "eps": 1e-3, "eps_root": 1e-2}),
    ("adam", {"nesterov": True}),
    ("adamw", {}),
    ("adamw", {"weight_decay": tabulated, "mask": MASK, "nesterov": True}),
]
CASES = [(name, tabulated, options) for name, options in OPTAX]
CASES += [(name, RATE, {}) for name in ("sgd", "adagrad", "rmsprop", "adam", "adamw")]


@pytest.mark.parametrize(("name", "learning_rate", "options"), CASES)
def test_same_numbers_as_optax(name, learning_rate, options):
    ours, theirs = jax.jit(
        lambda: [follow(getattr(m, name)(learning_rate, **options), TREE) for m in (rules, optax)]
    )()
    jax.tree.map(functools.partial(assert_close, atol=1e-12), ours, theirs)


# Gradients of special kinds -----------------------------------------------------------------------


def test_a_centered_variance_never_rounds_to_a_negative_number():
    same = jnp.ones((STEPS, 1), jnp.float32) * jnp.linspace(0.5, 2.0, 64, dtype=jnp.float32)
    rule = rules.rmsprop(RATE, decay=0.5, eps=0.0, centered=True)
    assert jnp.all(jnp.isfinite(follow(rule, same)))


@pytest.mark.parametrize("factory", [rules.adagrad, rules.rmsprop, rules.adam])
def test_a_lost_state_is_not_hidden(factory):
    """NaN in an accumulator stays visible; only 0 / 0 is taken as 0."""
    updates = follow(factory(RATE, eps=0.0), jnp.array([[1.0, 0.0], [math.nan, 0.0], [1.0, 0.0]]))
    assert jnp.isnan(updates[1:, 0]).all()


def state_of(name, state):
    """What a state holds for one of the parameters."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return [leaf.tolist() for path, leaf in leaves if jax.tree_util.DictKey(name) in path]


@pytest.mark.parametrize("factory", [rules.momentum, rules.adagrad, rules.adam, rules.rprop])
def test_leaves_without_gradient_keep_their_state(factory):
    rule, params = factory(RATE), {"a": jnp.ones(2), "b": {"c": jnp.ones(3), "d": jnp.ones(())}}
    grad = jax.tree.map(jnp.ones_like, params)
    _, state = rule.update(grad, rule.init(params), params)
    updates, after = rule.update(grad | {"b": None}, state, params)
    expected, _ = rule.update(grad, state, params)
    assert updates["b"] is None
    assert_close(updates["a"], expected["a"])
    assert state_of("b", after) == state_of("b", state) != []


# Complex numbers and dtypes -----------------------------------------------------------------------


@pytest.mark.parametrize("factory", [rules.momentum, rules.adagrad, rules.rmsprop, rules.adam])
def test_complex_parameters_have_moduli(factory):
    """|g|^2 and not g^2: turning the complex plane turns the path."""
    turn = np.exp(0.7j)
    plain, turned = follow(factory(RATE), (COMPLEX, turn * COMPLEX))
    assert_close(turned, turn * plain)


def test_rprop_refuses_complex_parameters():
    with pytest.raises(TypeError, match=r"expected parameters of floating dtype, got complex128"):
        rules.rprop(RATE).init({"z": jnp.ones(2, complex)})


def test_accumulators_have_the_dtype_asked_for():
    params = jnp.ones(2, jnp.float32)
    assert rules.adam(RATE, mu_dtype="bfloat16").init(params)[0].mu.dtype == jnp.bfloat16
    assert rules.sgd(RATE, 0.9, accumulator_dtype=float).init(params)[0].trace.dtype == jnp.float64


def test_a_real_accumulator_refuses_a_complex_gradient():
    rule, params = rules.adam(RATE, mu_dtype="float32"), jnp.ones(2, complex)
    with pytest.raises(TypeError, match=r"both real or both complex, got complex128 to be kept as"):
        rule.update(params, rule.init(params))


# Misuse of one rule -------------------------------------------------------------------------------


def test_numbers_just_outside_their_range():
    with pytest.raises(
        ValueError, match=r"adam: expected b1 in \[0, 1\), got 1.0; try a number bel"
    ):
        rules.adam(RATE, b1=1.0)
    with pytest.raises(ValueError, match=r"rprop: expected eta_plus in \[1, inf\), got 0.9; try 1"):
        rules.rprop(RATE, eta_plus=0.9)
    with pytest.raises(ValueError, match=r"sgd: expected learning_rate in .*, got -0.1; try 0.1"):
        rules.sgd(-0.1)


def test_weight_decay_needs_parameters_and_a_tree_as_mask():
    rule, grad = rules.adamw(RATE), jnp.ones(2)
    with pytest.raises(ValueError, match="params"):
        rule.update(grad, rule.init(grad))
    with pytest.raises(TypeError, match=r"adamw: expected mask to be a tree .* try mask\(params\)"):
        rules.adamw(RATE, mask=lambda params: params)
