"""Kronecker factors from random combinations of an example's rows are right in the mean."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, curvature, flops, losses, rules
from fnn.curvature import kronecker_blocks, structure
from fnn.rules import damping
from fnn.rules.kronecker.layout import layout_of
from tests import loop
from tests.capture.test_captured import equations

RNG = np.random.default_rng(0)
INPUTS, LABELS = jnp.asarray(RNG.normal(size=(6, 4))), jnp.arange(6) % 3
PARAMS = {
    name: jnp.asarray(RNG.normal(size=shape))
    for name, shape in {"b": (5,), "scale": (4,), "v": (5, 3), "w": (4, 5)}.items()
}


def model(params, x):
    x = jnp.sin(params["scale"] * x)
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


KNOWN = structure(model, PARAMS, INPUTS[0])
KNOWN = KNOWN._replace(  # a leaf without factors beside those with
    leaves=tuple(
        leaf._replace(matrix=None) if leaf.path == "['scale']" else leaf for leaf in KNOWN.leaves
    )
)
CLASSES = Objective(model, losses.softmax_cross_entropy)
SQUARES = Objective(model, losses.half_squared_error)
WEIGHTS = jnp.array([0.0, 2, 1, 1, 0.5, 1])


WEIGHED = CLASSES.on((INPUTS, LABELS), weights=WEIGHTS)
BOTH = WEIGHED + 0.1 * SQUARES.on((INPUTS, jnp.zeros((6, 3))), chunk=4)


def measured(value_fn, params, key=None, samples=1):
    """Factors, diagonals and moments in the standard basis, and the bends of two vectors."""
    made = kronecker_blocks(value_fn, params, KNOWN, key=key, samples=samples)
    bases = jax.tree.map(lambda factor: jnp.eye(factor.shape[-1])[None], made.factors)
    return (made.factors, made.diagonals, made.moments(bases)), made.bends(
        params, jax.tree.map(jnp.ones_like, params)
    )


def test_estimates_are_exact_in_the_mean_and_bends_always():
    draws = 400

    @jax.jit
    def found(params):
        keys = jax.random.split(jax.random.key(0), draws)
        drawn = jax.lax.map(lambda key: measured(WEIGHED, params, key)[0], keys)
        bends = measured(BOTH, params, keys[0])[1]
        return measured(WEIGHED, params)[0], drawn, bends

    exact, drawn, bends = found(PARAMS)
    pairs = zip(*map(jax.tree.leaves, jax.device_get((drawn, exact))), strict=True)
    for estimates, expected in pairs:
        deviation = np.std(estimates, axis=0)
        error = np.abs(np.mean(estimates, 0) - expected)
        assert np.all(error < 5 * deviation / draws**0.5 + 1e-12)
    assert np.std(drawn[0]["['w']"].outputs, axis=0).max() > 1e-3  # they are estimates

    @jax.jit
    def explicit(params):
        _, system, _ = curvature.gauss_newton_system(BOTH, params)
        return system.multiply(jax.tree.map(jnp.ones_like, params))

    curved = explicit(PARAMS)
    np.testing.assert_allclose(bends[1, 1], sum(map(jnp.sum, jax.tree.leaves(curved))), rtol=1e-10)


def test_all_signs_come_from_one_draw_whatever_the_chunks():
    """7 examples of 3 classes take 7 words; of chunks of 4 the last one has an empty place."""
    key, data = jax.random.key(0), (jnp.concatenate([INPUTS, INPUTS[:1]]), jnp.arange(7) % 3)
    program = jax.make_jaxpr(lambda: measured(CLASSES.on(data), PARAMS, key))()
    draws = [eqn for eqn in equations(program) if eqn.primitive.name.startswith("random_")]
    drawn = [var.aval.shape for eqn in draws for var in eqn.outvars]
    assert [shape for shape in drawn if shape] == [(7, 1)]

    @jax.jit
    def found(params):
        ways = (CLASSES.on(data, chunk=n) for n in (None, 1, 4))
        return [measured(way, params, key) for way in ways]

    whole, *cut = found(PARAMS)
    for each in cut:
        chex.assert_trees_all_close(each, whole, rtol=1e-12, atol=1e-14)


def test_as_many_samples_as_rows_are_the_exact_sums_at_their_price():
    """Three classes have two rows."""
    value_fn, key = CLASSES.on((INPUTS, LABELS)), jax.random.key(0)

    def of(samples):
        return lambda params: measured(value_fn, params, key, samples)

    exact, *sketches = jax.jit(lambda p: [measured(value_fn, p), of(2)(p), of(7)(p)])(PARAMS)
    for sketch in sketches:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), sketch, exact)
    one, two, four, whole = (
        flops.count(of(samples) if samples else lambda params: measured(value_fn, params), PARAMS)
        for samples in (1, 2, 4, None)
    )
    assert two == four == whole > one


def paid(fn, params):
    """The flops of all trips of loops: a refresh takes one for each matrix that is due."""
    return jax.jit(flops.metered(fn))(params)[1].flops


def test_one_of_many_outputs_costs_about_a_backward_pass():
    wide = Objective(lambda w, x: jnp.tanh(x @ w[0]) @ w[1], losses.half_squared_error)
    params = [jnp.ones((40, 20)), jnp.ones((20, 40))]
    known = structure(wide.model, params, jnp.zeros(40))
    value_fn = wide.on((jnp.ones((64, 40)), jnp.zeros((64, 40))))

    def price(samples):
        rule = rules.kfac(known, 0.1, 0.1, momentum=0.9, policy=damping.constant(), samples=samples)

        return paid(lambda params: loop.update(rule, params, value_fn), params)

    assert price(1) < price(None) / 3
    assert price(64) == price(None)


def test_a_step_on_a_text_costs_as_much_as_it_is_long():
    loss, w = losses.each(losses.softmax_cross_entropy), jnp.ones((2, 6))

    def price(length):
        known = structure(lambda w, x: x @ w, w, jnp.zeros((length, 2)))
        value_fn = Objective(lambda w, x: x @ w, loss).on((
            jnp.ones((5, length, 2)),
            jnp.zeros((5, length), int),
        ))
        rule = rules.kfac(known, samples=1)
        return paid(lambda w: loop.update(rule, w, value_fn), w)

    # A matrix of all outputs would make it four times as much, and its eigenvectors eight times.
    assert price(64) < 2.1 * price(32)


def test_every_step_draws_anew_and_the_running_means_forget_the_noise():
    """At rate 0 on one batch, the means of 200 steps are close to the exact rule's in one."""
    value_fn = CLASSES.on((INPUTS, LABELS))
    still = {"learning_rate": 0.0, "damping": 0.1, "momentum": 0.0, "policy": damping.constant()}

    def run(rule, steps):
        _, states = loop.walk(rule, PARAMS, value_fn, steps)
        return jax.vmap(lambda memory: layout_of(KNOWN).leaf(memory.factors, "['w']"))(
            states.memory
        ).outputs

    (exact,), noisy = jax.jit(
        lambda: [
            run(rules.kfac(KNOWN, **still), 1),
            run(rules.kfac(KNOWN, samples=1, decay=0.9999, refresh=1000, **still), 200),
        ]
    )()
    first, last = (jnp.linalg.norm(noisy[i] - exact) / jnp.linalg.norm(exact) for i in (0, -1))
    assert first > 0.2
    assert last < first / 5


def test_misuse_is_named():
    for make in (rules.kfac, rules.ekfac):
        for count in ("samples", "examples"):
            with pytest.raises(ValueError, match=f"{make.__name__}: expected {count} in .*got 0"):
                make(KNOWN, **{count: 0})
        assert {"samples", "examples"} <= set(rules.static_arguments(make))
    value_fn = CLASSES.on((INPUTS, LABELS))
    with pytest.raises(ValueError, match="kronecker_blocks: expected samples >= 1, got 0; try"):
        kronecker_blocks(value_fn, PARAMS, KNOWN, key=jax.random.key(0), samples=0)


def test_the_curvature_of_some_examples_is_the_estimate_of_theirs():
    """The factors are those of the sample, the gradient is that of the batch."""
    still = {"damping": 0.1, "policy": damping.constant(), "learning_rate": 0.1, "momentum": 0.0}
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 1)

    @jax.jit
    def found():
        value, grad = jax.value_and_grad(WEIGHED)(PARAMS)
        extra = {"value": value, "value_fn": WEIGHED}

        def step(**sampling):
            rule = rules.kfac(KNOWN, **sampling, **still)
            return rule.update(grad, rule.init(PARAMS), PARAMS, **extra)

        steps = step(examples=3), step(examples=6), step()
        return measured(WEIGHED.sample(key, 3), PARAMS)[0][0], *steps

    factors, (updates, state), (whole, _), (exact, _) = found()
    jax.tree.map(
        lambda block, factor: np.testing.assert_allclose(block, factor, rtol=1e-10),
        {path: layout_of(KNOWN).leaf(state.memory.factors, path) for path in factors},
        factors,
    )
    jax.tree.map(np.testing.assert_array_equal, whole, exact)
    assert np.any(updates["w"] != exact["w"])
