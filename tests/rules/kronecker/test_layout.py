"""Equal matrices are stacked and take turns, and Cholesky inverts as eigenvalues do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, layers, losses, rules
from fnn.curvature import Factors, share_out, structure
from fnn.rules import damping
from fnn.rules.kronecker.blocks import inverse, shifted_inverse
from fnn.rules.kronecker.layout import layout_of, turns
from tests import loop

TANH = layers.elementwise(jnp.tanh)


def deep(depth):
    """Equal layers and another one."""
    hidden = [part for _ in range(depth) for part in (layers.dense(4), TANH)]
    return layers.serial(*hidden, layers.dense(3))


def known(model, features=4):
    """The parameters of a model, and their structure."""
    x = jnp.zeros(features)
    params = model.init(jax.random.key(0), x)
    return params, structure(model.apply, params, x)


def test_equal_layers_add_no_array_and_no_loop_to_a_step():
    def of(depth):
        model = deep(depth)
        params, layout = known(model)
        rule = rules.kfac(layout, 0.1, 0.1, momentum=0.9, policy=damping.constant())
        value_fn = Objective(model.apply, losses.half_squared_error).on((
            jnp.ones((2, 4)),
            jnp.ones((2, 3)),
        ))
        text = str(jax.make_jaxpr(lambda p: loop.update(rule, p, value_fn))(params))
        memory = jax.eval_shape(rule.init, params).memory
        return len(jax.tree.leaves(memory)), text.count(" eigh["), text.count(" cholesky ")

    assert of(1) == of(5) == (6, 2, 2)


def test_what_looks_at_no_value_remembers_no_step_and_does_not_mark_the_parameters(monkeypatch):
    model = deep(1)
    params, layout = known(model)
    batch = jnp.ones((2, 4)), jnp.ones((2, 3))
    value_fn = Objective(model.apply, losses.half_squared_error).on(batch)

    def refuse(_):
        raise AssertionError("the parameters are marked")

    def verdict_after(policy):
        rule = rules.kfac(layout, 0.1, 0.1, momentum=0.9, policy=policy)
        _, state = jax.eval_shape(lambda p: loop.update(rule, p, value_fn), params)
        return state.damping.verdict

    assert verdict_after(damping.trust_ratio()) is not None
    monkeypatch.setattr("fnn.rules.trials.mark_of", refuse)
    assert verdict_after(damping.constant()) is None
    with pytest.raises(AssertionError, match="are marked"):
        verdict_after(damping.trust_ratio())


def test_a_damping_is_shared_out_by_the_ratio_of_the_means():
    means = jnp.array([4.0, 0.0, 4.0]), jnp.array([1.0, 4.0, 0.0])
    of_a, of_d = share_out(*means, jnp.array(9.0))
    np.testing.assert_allclose(of_a, [6.0, 3.0, 3.0])
    np.testing.assert_allclose(of_d, [1.5, 3.0, 3.0])


def test_pools_give_every_leaf_its_own_factors_back():
    _, layout = known(deep(3))
    groups = layout_of(layout)
    rng = np.random.default_rng(0)
    factors = {
        path: Factors(*(jnp.asarray(rng.normal(size=(b, n, n))) for n in (i, o)))
        for path, _, (b, i, o) in layout.leaves
    }
    nothing = {
        size: jnp.zeros((count, int(size), int(size))) for size, count in groups.counts.items()
    }
    pools = groups.with_leaves(factors, nothing)
    for path, pair in factors.items():
        jax.tree.map(np.testing.assert_array_equal, groups.leaf(pools, path), pair)
    first, *others = factors  # a leaf that is left out is as before
    kept = groups.with_leaves({path: factors[path] for path in others}, pools)
    jax.tree.map(np.testing.assert_array_equal, groups.leaf(kept, first), factors[first])


def test_turns_share_the_cost_and_one_refresh_is_everybodys():
    _, layout = known(deep(20))
    own = turns(layout, 5)
    assert np.bincount(own["4 x 4"], minlength=5).tolist() == [4] * 5
    assert not any(map(np.any, turns(layout, 1).values()))


def test_every_matrix_waits_for_its_turn_and_the_first_step_makes_all():
    model = deep(3)
    params, layout = known(model)
    fixed = {"learning_rate": 0.0, "momentum": 0.0, "policy": damping.constant()}
    rule = rules.kfac(layout, damping=0.1, refresh=3, decay=0.5, **fixed)
    rng = np.random.default_rng(0)
    batches = jnp.asarray(rng.normal(size=(7, 5, 4))), jnp.asarray(rng.normal(size=(7, 5, 3)))
    objective = Objective(model.apply, losses.half_squared_error)
    states = jax.jit(lambda data: loop.stream(rule, params, objective.on, data)[1])(batches)
    (group,) = [g for g in layout_of(layout).groups if g.name == "4 x 4"]
    bases = np.asarray(states.memory.bases["4"])[:, group.inputs]
    changed = np.any(bases[1:] != bases[:-1], axis=(2, 3))
    own = turns(layout, 3)["4 x 4"]
    np.testing.assert_array_equal(changed, np.arange(1, 7)[:, None] % 3 == own)
    assert np.all(np.any(bases[0] != np.eye(4), axis=(1, 2)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cholesky_inverts_as_eigenvalues_do_where_there_is_an_inverse_and_where_not(dtype):
    rng = np.random.default_rng(0)
    full, thin = rng.normal(size=(8, 8)), rng.normal(size=(8, 3))
    factors = jnp.asarray([full @ full.T, thin @ thin.T, 0 * full, thin @ thin.T], dtype)
    shifts = jnp.asarray([0.1, 0.0, 0.0, 0.1], dtype)

    def explicit(factor, shift):
        values, vectors = jnp.linalg.eigh(factor)
        return vectors * inverse(jnp.maximum(values, 0), shift) @ vectors.T

    found, expected = jax.jit(
        lambda f, s: (
            jax.lax.map(lambda args: shifted_inverse(*args), (f, s)),
            jnp.stack([explicit(*args) for args in zip(f, s, strict=True)]),
        )
    )(factors, shifts)
    atol = 1e3 * float(jnp.finfo(dtype).eps) * float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=atol)
    assert np.isnan(shifted_inverse(jnp.full((2, 2), jnp.nan), shifts[0])).all()


def test_a_fixed_damping_and_a_schedule_that_is_fixed_take_the_same_steps():
    """A number has inverses by Cholesky, a schedule eigenvalues."""
    model = deep(2)
    params, layout = known(model)
    rng = np.random.default_rng(0)
    value_fn = Objective(model.apply, losses.half_squared_error).on((
        jnp.asarray(rng.normal(size=(9, 4))),
        jnp.asarray(rng.normal(size=(9, 3))),
    ))
    fixed = {"momentum": 0.5, "policy": damping.constant(), "refresh": 2}
    make = functools.partial(rules.kfac, layout, 0.1, **fixed)

    @jax.jit
    def paths(params):
        return [
            loop.walk(make(amount), params, value_fn, steps=5)[0] for amount in (0.1, lambda _: 0.1)
        ]

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), *paths(params))
