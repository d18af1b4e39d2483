"""Training works whatever switch of JAX is turned: donation, NaN hunts, strictness, no jit, keys.

Rules are found by introspection, as in `rules.test_contract`, with the wrappers that are rules
themselves; none is skipped. Switches that do not hide each other are turned together, so that one
compiled program answers for all of them.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, fit, l2, layers, losses, rules, solvers
from fnn.curvature import structure
from tests import loop
from tests.layers.test_contract import CASES as LAYERS
from tests.layers.test_contract import EXAMPLES, draw, in_training
from tests.rules.test_contract import OBJECTIVE, RULES, data, initial, make, model

STEPS = 3


def planned(params):
    return structure(model, params, jnp.zeros(len(params["w"])))


def in_phases(params):
    del params
    first, second = (rules.adam(1e-2), 1), (rules.levenberg_marquardt(), rules.plateau(1))
    return rules.phases([first, second, (rules.sgd(1e-2), None)])


def bound(params):
    return rules.bind(rules.levenberg_marquardt(), OBJECTIVE, data(dtype=str(params["w"].dtype)))


# What wraps a rule, and arguments that lead into code of their own: `(params) -> rule`.
AROUND = {
    "phases": in_phases,
    "accumulate": lambda _: rules.accumulate(1),
    "searched": lambda _: rules.searched(rules.gauss_newton()),
    "only": lambda _: rules.only(rules.levenberg_marquardt(), {"w": True, "b": False}),
    "bind": bound,
    "sgd with a trace": lambda _: rules.sgd(0.1, 0.9, nesterov=True),
    "rmsprop centered": lambda _: rules.rmsprop(0.1, centered=True, momentum=0.9),
    "adam of a schedule": lambda _: rules.adam(optax.constant_schedule(0.1), nesterov=True),
    "kfac with samples": lambda params: rules.kfac(planned(params), samples=1, examples=6),
    "marquardt": lambda _: rules.levenberg_marquardt(
        scaling=rules.scaling.marquardt, acceleration=0.75
    ),
    "several trials": lambda _: rules.levenberg_marquardt(trials=3),
    "conjugate gradients": lambda _: rules.gauss_newton(
        damping=0.1, solver=solvers.conjugate_gradients()
    ),
    "dual": lambda _: rules.gauss_newton(damping=0.1, solver=solvers.dual()),
    "dual, cut off": lambda _: rules.gauss_newton(solver=solvers.dual()),
    "subspace": lambda _: rules.trust_region_newton(subspace=4),
}
EVERY = {name: functools.partial(make, factory) for name, factory in RULES.items()} | AROUND
every_rule = pytest.mark.parametrize("name", EVERY)

# Where all take minutes, these stand for the others until the gate.
FEW = {"adam", "newton", "gauss_newton", "levenberg_marquardt", "kfac", "searched", "phases"}
few_before_the_gate = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.gate) for n in EVERY]
)


@functools.cache
def rule_of(name, dtype="float64"):
    return EVERY[name](cast(initial(), dtype))


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def everything(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def step(name, params, state, batch):
    """The README's step, of the rule of a name."""
    rule = rule_of(name, str(params["w"].dtype))
    return loop.step(rule, params, OBJECTIVE.on(batch), state)


@contextlib.contextmanager
def strict():
    """Nothing is promoted unasked."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@contextlib.contextmanager
def hunting():
    """Nothing that leaves a compiled program may be NaN or infinite."""
    with jax.debug_nans(True), jax.debug_infs(True):
        yield


def mean_square(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets))


def fitted(name, **options):
    start, known = initial(), data()
    look = {"validation": known, "metrics": {"mean square": mean_square}, "patience": 2}
    return fit(rule_of(name), OBJECTIVE, start, known, steps=STEPS, **look, **options)


# The loop and `fit` -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.gate), "float64"])
@every_rule
def test_the_loop_with_donation_under_strict_promotion(name, dtype):
    """Nothing drifts to float64 from float32, although x64 is on."""
    params, batch, rule = cast(initial(), dtype), data(dtype=dtype), rule_of(name, dtype)
    with strict():
        state = rule.init(params)
        run = jax.jit(functools.partial(step, name), donate_argnums=(0, 1))
        for _ in range(STEPS if dtype == "float64" else 2):
            given = params
            params, state = run(params, state, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
        assert everything((params, state))
        assert params["w"].dtype == dtype


@every_rule
def test_a_state_is_in_memory_of_its_own(name):
    params = initial()
    state = rule_of(name).init(params)
    leaves = jax.tree.leaves((params, state))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@few_before_the_gate
def test_fit_is_strict_and_holds_no_nan_and_no_infinity(name):
    """Mini-batches, an old key, validation, metrics and patience are used at once."""
    rule_of(name)  # a rule's making is the user's own code
    with strict(), hunting():
        trained = fitted(name, batch_size=5, key=jax.random.PRNGKey(0))
    assert len(trained.history.value) == STEPS
    assert everything((trained.params, trained.history))


@few_before_the_gate
def test_loop_and_fit_without_jit(name):
    with jax.disable_jit():
        params = initial()
        params, _ = step(name, params, rule_of(name).init(params), data())
        trained = fit(
            rule_of(name),
            OBJECTIVE,
            initial(),
            data(),
            steps=1,
            validation=data(),
            metrics={"mean square": mean_square},
            patience=1,
        )
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(trained.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


# Derivatives --------------------------------------------------------------------------------------

# A loop of trials, whose number no one knows beforehand, or a map of lanes: forward alone.
FORWARD = {
    "bfgs",
    "sr1",
    "hessian_free",
    "several trials",
    "conjugate gradients",
    "kfac",
    "ekfac",
    "kfac with samples",
    "shampoo",
    "soap",
    "trust_region_newton",
    "cubic_newton",
    "subspace",
}


def tangents(dtype="float64"):
    rng = np.random.default_rng(0)
    tree = initial(), data()
    return jax.tree.map(
        lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape).astype(dtype)), tree
    )


def derivatives(name, dtype="float64"):
    """`(params, batch, state) -> (step, its derivative along tangents, its gradient)`, compiled."""
    along = tangents(dtype)

    def moved(state, params, batch):
        return step(name, params, state, batch)[0]

    def run(params, batch, state):
        of_state = functools.partial(moved, state)
        reached, tangent = jax.jvp(of_state, (params, batch), along)
        grad = None
        if name not in FORWARD:
            _, back = jax.vjp(of_state, params, batch)
            grad = back(along[0])
        return reached, tangent, grad

    return jax.jit(run)


@few_before_the_gate
def test_the_derivative_of_a_step_is_the_central_difference_and_the_same_without_x64(name):
    """In parameters and in data. The gradient contracts to it; float32 has some digits of it."""
    along, here, size = tangents(), (initial(), data()), 1e-5
    state, run = rule_of(name).init(initial()), derivatives(name)
    ends = [
        run(*jax.tree.map(lambda leaf, t, s=s: leaf + s * t, here, along), state)[0]
        for s in (size, -size)
    ]
    _, tangent, grad = run(*here, state)
    for forward, one, other in zip(*map(jax.tree.leaves, (tangent, *ends)), strict=True):
        np.testing.assert_allclose(forward, (one - other) / (2 * size), rtol=1e-5, atol=1e-7)
    if name not in FORWARD:
        contracted = optax.tree.vdot(grad, along), optax.tree.vdot(along[0], tangent)
        np.testing.assert_allclose(*contracted, rtol=1e-9)

    params, batch = cast(initial(), "float32"), data(dtype="float32")  # drawn with x64
    with jax.enable_x64(False):
        state = rule_of(name, "float32").init(params)
        _, found, grad = derivatives(name, "float32")(params, batch, state)
    for one, other in zip(*map(jax.tree.leaves, (found, tangent)), strict=True):
        assert one.dtype == jnp.float32
        assert everything(one)
        if name != "kfac with samples":  # which draws other examples in float32
            np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-3)
    assert everything(grad)


@pytest.mark.parametrize("name", sorted(FORWARD))
def test_where_there_is_no_gradient_an_error_says_so(name):
    state, batch = rule_of(name).init(initial()), data()

    def loss(params):
        return optax.tree.norm(step(name, params, state, batch)[0])

    with pytest.raises(ValueError, match=r"Reverse-mode|Linearization failed"):
        jax.eval_shape(jax.grad(loss), initial())


# Layers and losses --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_strict_and_take_old_keys(name):
    layer, x = LAYERS[name]
    with strict(), hunting():
        params = layer.init(jax.random.PRNGKey(0), x)
        inputs = jax.tree.map(jnp.asarray, draw(x, EXAMPLES))
        keys = jax.random.split(jax.random.PRNGKey(1), EXAMPLES)

        @jax.jit
        def run(params, inputs, keys):
            def scalar(params):
                outputs = jax.tree.leaves(in_training(layer)(params, inputs, keys))
                numbers = [leaf for leaf in outputs if jnp.issubdtype(leaf.dtype, jnp.floating)]
                return sum(jnp.sum(jnp.sin(leaf)) for leaf in numbers)

            return jax.grad(scalar)(params), jax.vmap(layer.apply, (None, 0))(params, inputs)

        assert everything(run(params, inputs, keys))


NUMBERS = jnp.array([1.0, 2.0, 3.0])
LOSSES = {
    "half_squared_error": (losses.half_squared_error, jnp.array([0.0, 1.0, 2.0])),
    "huber": (losses.huber(), jnp.array([0.0, 1.0, -2.0])),
    "logistic": (losses.logistic, jnp.array([0, 1, 1])),
    "softmax_cross_entropy": (losses.softmax_cross_entropy, jnp.array(1)),
    "softmax_cross_entropy of a distribution": (
        losses.softmax_cross_entropy,
        jnp.array([0.2, 0.3, 0.5]),
    ),
    "kl": (losses.kl, jnp.array([0.0, 0.5, 0.5])),
    "hinge": (losses.hinge, jnp.array([1, -1, 1])),
    "perceptron": (losses.perceptron, jnp.array([1, -1, 1])),
    "derived": (lambda outputs, target: jnp.sum(jnp.cosh(outputs - target)), NUMBERS + 1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_strict(name):
    loss, target = LOSSES[name]
    sample = losses.sampler(loss)
    with strict(), hunting():
        run = jax.jit(
            lambda *args: (jax.value_and_grad(loss)(*args), losses.curvature(loss)(*args))
        )
        assert everything(run(NUMBERS, target))
        if sample is not None:
            assert everything(jax.jit(sample)(jax.random.PRNGKey(0), NUMBERS))


NETWORK = layers.serial(
    layers.conv(4, (2, 2)),
    layers.batch_norm(),
    layers.elementwise(jnp.tanh),
    layers.flatten(),
    layers.dropout(0.2),
    layers.dense(3),
)


@pytest.mark.parametrize("switch", ["strict", pytest.param("without jit", marks=pytest.mark.gate)])
def test_a_network_with_all_of_it(switch, tmp_path):
    """Dropout, batch norm and convolution; penalties, calibration, an old key, a checkpoint."""
    inputs = jax.random.normal(jax.random.PRNGKey(2), (6, 4, 4, 2))
    known = inputs, jnp.arange(6) % 3
    objective = Objective(NETWORK.apply, losses.softmax_cross_entropy)
    params = NETWORK.init(jax.random.PRNGKey(0), inputs[0])
    rule = rules.adam(1e-2)

    def prepare(params):
        return layers.calibrate(NETWORK, params, inputs)

    options = {"steps": 2, "patience": 2, "validation": known, "key": jax.random.PRNGKey(1)}
    with jax.disable_jit() if switch == "without jit" else strict():
        trained = fit(rule, objective, params, known, prepare=prepare, batch_size=4, **options)
        options["prepare"] = prepare
        kept = fit(
            rule, objective, params, known, checkpoint=tmp_path / "run", batch_size=4, **options
        )
        streamed = fit(rule, objective, params, [known, known], **options)
        value_fn = objective.on(known, key=jax.random.PRNGKey(3)) + l2(1e-3)
        assert everything((trained.params, kept.params, streamed.params, value_fn(params)))
