"""Shampoo and SOAP follow the recursions of their authors, and know rotations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import layers, losses, programs, rules
from fnn.rules.kronecker.sides import cut

RNG = np.random.default_rng(0)
BOTH = pytest.mark.parametrize("make", [rules.soap, rules.shampoo])
STEPS, REFRESH, B1, B2, EPS, RATE = 50, 7, 0.9, 0.95, 1e-8, 0.1


def walk(rule, params, grads):
    """The parameters after every step of given gradients, stacked, one compiled program."""

    def step(carry, grad):
        params, state = carry
        updates, state = rule.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    return jax.jit(lambda: jax.lax.scan(step, (params, rule.init(params)), grads)[1])()


def gradients(*shape, scales=1.0):
    return RNG.normal(size=(STEPS, *shape)) * scales


# The authors' recursions, in NumPy ----------------------------------------------------------------


def unfolded(x, axis):
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def turned(x, matrices):
    """The array times the transpose of a matrix along every axis."""
    for axis, matrix in enumerate(matrices):
        x = np.moveaxis(np.tensordot(matrix, x, (0, axis)), 0, axis)
    return x


def soap_by_hand(w, grads, stale=False, still=False):
    """SOAP's parameters after every step; with `stale`, mu stays in the basis of its time.

    With `still`, nu stays where it is when the order of the eigenvectors changes.
    """
    path, mu, nu = [], np.zeros(w.shape), np.zeros(w.shape)
    sides = [np.zeros((n, n)) for n in w.shape]
    bases = None
    for t, g in enumerate(grads):
        if t > 0:
            g_turned = turned(g, bases)
            mu = B1 * mu + (1 - B1) * g_turned
            nu = B2 * nu + (1 - B2) * g_turned**2
            divisor = np.sqrt(nu / (1 - B2**t)) + EPS
            w = w - RATE * turned(mu / (1 - B1**t) / divisor, [q.T for q in bases])
        for axis in range(g.ndim):
            rows = unfolded(g, axis)
            sides[axis] = B2 * sides[axis] + (1 - B2) * rows @ rows.T
        if t == 0:
            bases = [np.linalg.eigh(side)[1][:, ::-1] for side in sides]
        elif t % REFRESH == 0:
            if not stale:
                mu = turned(mu, [q.T for q in bases])
            for axis, side in enumerate(sides):
                order = np.argsort(-np.diagonal(bases[axis].T @ side @ bases[axis]))
                if not still:
                    nu = np.take(nu, order, axis)
                bases[axis] = np.linalg.qr(side @ bases[axis][:, order])[0]
            if not stale:
                mu = turned(mu, bases)
        path.append(w)
    return np.stack(path)


def shampoo_by_hand(w, grads, ridge=1e-6):
    """Shampoo's parameters after every step."""
    path, mu, nu = [], np.zeros(w.shape), np.zeros(w.shape)
    sides, roots = [np.zeros((n, n)) for n in w.shape], [None] * w.ndim
    for t, g in enumerate(grads, start=1):
        mu, nu = B1 * mu + (1 - B1) * g, B2 * nu + (1 - B2) * g**2
        adam = mu / (1 - B1**t) / (np.sqrt(nu / (1 - B2**t)) + EPS)
        for axis in range(g.ndim):
            rows = unfolded(g, axis)
            sides[axis] = B2 * sides[axis] + (1 - B2) * rows @ rows.T
            if t == 1 or t % REFRESH == 0:
                values, vectors = np.linalg.eigh(sides[axis] / (1 - B2**t))
                powers = (values + ridge * values[-1]) ** (-1 / (2 * w.ndim))
                roots[axis] = vectors * powers @ vectors.T
        direction = turned(mu, roots)  # they are symmetric
        w = w - RATE * np.linalg.norm(adam) / np.linalg.norm(direction) * direction
        path.append(w)
    return np.stack(path)


NUMBERS = {"b1": B1, "b2": B2, "eps": EPS, "refresh": REFRESH}


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 5)], ids=str)
@pytest.mark.parametrize(
    ("make", "by_hand"), [(rules.soap, soap_by_hand), (rules.shampoo, shampoo_by_hand)]
)
def test_fifty_steps_are_those_of_the_authors(make, by_hand, shape):
    start, grads = RNG.normal(size=shape), gradients(*shape, scales=np.arange(1.0, shape[-1] + 1))
    path = walk(make(RATE, **NUMBERS), jnp.asarray(start), jnp.asarray(grads))
    np.testing.assert_allclose(path, by_hand(start, grads), rtol=0, atol=1e-12)


def test_stale_moments_and_a_wrong_order_are_other_paths():
    """What the test above would not see if both sides had it, differs by more than a hundredth."""
    start = RNG.normal(size=(5, 5))
    grads = gradients(5, 5, scales=np.linspace(3, 1, STEPS)[:, None, None] ** np.arange(5))
    right = soap_by_hand(start, grads)
    assert abs(soap_by_hand(start, grads, stale=True) - right).max() > 1e-2
    assert abs(soap_by_hand(start, grads, still=True) - right).max() > 1e-2
    path = walk(rules.soap(RATE, **NUMBERS), jnp.asarray(start), jnp.asarray(grads))
    np.testing.assert_allclose(path, right, rtol=0, atol=1e-12)


# Symmetries and units -----------------------------------------------------------------------------


@BOTH
def test_all_leaves_are_renewed_under_one_condition(make):
    """Each condition of XLA copies what it reads, so that six of them cost as much as the rest."""
    params = [jnp.zeros((3, 2)), jnp.zeros(3), jnp.zeros((2, 3, 4)), jnp.zeros((3, 2))]
    rule = make(RATE)
    program = jax.make_jaxpr(rule.update)(params, rule.init(params))

    def conditions(jaxpr):
        inside = [body for eqn in jaxpr.eqns for body in programs.bodies(eqn)]
        here = sum(eqn.primitive.name == "cond" for eqn in jaxpr.eqns)
        return here + sum(conditions(body.jaxpr) for body in inside)

    assert conditions(program.jaxpr) == 1


@BOTH
def test_leaves_together_go_as_each_alone(make):
    """With a leaf among them that has no gradient, and one that has no side."""
    shapes = {"a": (3, 2), "b": (4,), "c": (2, 3), "d": (3, 3)}
    params = {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}
    grads = {name: jnp.asarray(gradients(*shape)) for name, shape in shapes.items()}
    rule = make(RATE, **NUMBERS)
    state = rule.init(params)
    step = jax.jit(rule.update)
    alone = {name: walk(rule, params[name], grads[name]) for name in shapes if name != "c"}
    for k in range(2 * REFRESH):
        updates, state = step({name: g[k] for name, g in grads.items()} | {"c": None}, state)
        for name, path in alone.items():
            params[name] += updates[name]
            np.testing.assert_allclose(params[name], path[k], rtol=0, atol=1e-12)


def test_rotations_of_inputs_and_outputs_leave_the_path_of_soap():
    u, v = (np.linalg.qr(RNG.normal(size=(5, 5)))[0] for _ in range(2))
    start, grads = RNG.normal(size=(5, 5)), gradients(5, 5)
    rule = rules.soap(RATE, **NUMBERS)
    path = walk(rule, jnp.asarray(start), jnp.asarray(grads))
    rotated = walk(rule, jnp.asarray(u @ start @ v), jnp.asarray(u @ grads @ v))
    np.testing.assert_allclose(rotated, u @ path @ v, atol=1e-9)


@BOTH
@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_the_unit_of_the_loss_does_not_matter(make, unit):
    start, grads = jnp.ones((4, 3)), jnp.asarray(gradients(4, 3))
    rule = make(RATE, eps=0.0)
    np.testing.assert_allclose(
        walk(rule, start, unit * grads), walk(rule, start, grads), rtol=1e-6, atol=1e-9
    )


@BOTH
def test_vectors_are_adams(make):
    """From the second step on, where SOAP's first step is none."""
    first = 1 if make is rules.soap else 0
    grads = jnp.asarray(gradients(6))
    found = walk(make(RATE, 0.9, 0.95), jnp.zeros(6), grads)
    adam = walk(rules.adam(RATE, 0.9, 0.95), jnp.zeros(6), grads[first:])
    np.testing.assert_allclose(found[first:], adam, rtol=1e-12)


# Blocks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7, 5), (2, 7, 3), (4,), (), (1, 9), (2, 1, 3, 2, 5)], ids=str)
def test_an_array_is_cut_and_joined(shape):
    of = cut(shape, block_size=3, longest=8)
    x = jnp.asarray(RNG.normal(size=shape))
    np.testing.assert_array_equal(of.joined(of.blocks(x)), x)
    assert all(n <= 3 for n, has in zip(of.sizes, of.has_side, strict=True) if has)
    assert not any(of.has_side[i] for i, n in enumerate(shape) if n == 1 or n > 8)


@BOTH
def test_a_block_is_an_array_of_its_own(make):
    """Four blocks of (4, 3) in (7, 5) with a row and a column of padding."""
    grads = jnp.asarray(gradients(7, 5))
    whole = walk(make(RATE, refresh=3, block_size=4), jnp.zeros((7, 5)), grads)
    padded = jnp.pad(grads, ((0, 0), (0, 1), (0, 1)))
    if make is rules.soap:  # whose length is that of no other block
        for rows, columns in ((slice(0, 4), slice(0, 3)), (slice(4, 8), slice(3, 6))):
            block = walk(make(RATE, refresh=3), jnp.zeros((4, 3)), padded[:, rows, columns])
            seen = jnp.pad(whole, ((0, 0), (0, 1), (0, 1)))[:, rows, columns]
            np.testing.assert_allclose(seen, block, atol=1e-9)
    assert jnp.isfinite(whole).all()


def test_an_axis_that_is_too_long_has_no_side():
    state = rules.soap(RATE, longest=4).init({"w": jnp.zeros((3, 9)), "v": jnp.zeros((9, 9))})
    sides = optax.tree.get(state, "sides")
    assert [side is None for side in sides["w"]] == [False, True]
    assert sides["v"] == (None, None)


# Bad input, dtypes, loops -------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_no_input_makes_parameters_of_nan(make, dtype):
    """Gradients of zeros, a dead unit, rank 0, 1 and 5, one entry, blocks that do not divide."""
    shapes = (), (1,), (3,), (1, 1), (4, 5), (5, 1), (2, 1, 3, 2, 2), (0, 3)
    params = [jnp.ones(shape, dtype) for shape in shapes]
    grads = [jnp.asarray(RNG.normal(size=(6, *shape)), dtype) for shape in shapes]
    grads[4] = grads[4].at[:, 1].set(0)  # dead
    grads = jax.tree.map(lambda g: g.at[0].set(0).at[3].set(0), grads)  # nothing is learned
    path = walk(make(0.1, refresh=2, block_size=3), params, grads)
    for before, after in zip(params, path, strict=True):
        assert after.dtype == before.dtype
        assert jnp.isfinite(after.astype(jnp.float32)).all()
    assert (path[4][:, 1] == 1).all()
    assert (path[4][-1, 0] != 1).all()


@BOTH
def test_complex_parameters_train(make):
    rng = np.random.default_rng(1)  # of its own: others draw from RNG in any order
    target = jnp.asarray(rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)))

    def step(carry, _):
        w, state = carry
        updates, state = rule.update(w - target, state, w)
        return (optax.apply_updates(w, updates), state), None

    rule = make(optax.cosine_decay_schedule(0.3, 200))
    begin = jnp.zeros((3, 3), complex)
    (w, _), _ = jax.jit(lambda: jax.lax.scan(step, (begin, rule.init(begin)), length=200))()
    np.testing.assert_allclose(w, target, atol=0.05)


@BOTH
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"refresh": 0}, "expected refresh to be an integer >= 1, got 0"),
        ({"block_size": 2.5}, "expected block_size to be an integer >= 1, got 2.5"),
        ({"longest": True}, "expected longest to be an integer >= 1, got True"),
        ({"b1": 1.0}, r"expected b1 in \[0, 1\), got 1.0"),
        ({"eps": -1.0}, "expected eps in"),
    ],
)
def test_wrong_numbers_are_named(make, given, message):
    with pytest.raises(ValueError, match=f"{make.__name__}: {message}"):
        make(0.1, **given)


@BOTH
def test_the_state_of_another_shape_is_refused(make):
    rule = make(0.1)
    with pytest.raises(ValueError, match=r"got \(3, 3\) and blocks of \(1, 2, 2\)"):
        rule.update(jnp.ones((3, 3)), rule.init(jnp.ones((2, 2))), jnp.ones((3, 3)))


@functools.cache
def spread():
    """A network and data whose inputs are of very different sizes."""
    x = RNG.normal(size=(64, 8)) @ (np.logspace(-1.5, 0.5, 8)[:, None] * RNG.normal(size=(8, 8)))
    model = layers.serial(layers.dense(16), layers.elementwise(jnp.tanh), layers.dense(1))
    return model, (jnp.asarray(x), jnp.asarray(np.sin(x[:, :1])))


def test_fit_takes_them_and_soap_learns_more_than_adam():
    model, examples = spread()
    params = model.init(jax.random.key(0), examples[0][0])
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    soap, shampoo, adam = (
        fnn.fit(make(0.01), objective, params, examples, steps=150).history.value
        for make in (rules.soap, rules.shampoo, rules.adam)
    )
    assert soap[-1] < 0.8 * adam[-1]
    assert shampoo[-1] < 0.2 * shampoo[0]


@BOTH
def test_lanes_are_those_of_single_runs(make):
    """Under vmap, where a condition would become a selection of both branches."""
    grads = jnp.asarray(RNG.normal(size=(3, STEPS, 4, 3)))
    rule = make(RATE, refresh=5)
    lanes = jax.vmap(lambda g: walk(rule, jnp.zeros((4, 3)), g))(grads)
    for lane, g in zip(lanes, grads, strict=True):
        np.testing.assert_allclose(lane, walk(rule, jnp.zeros((4, 3)), g), atol=1e-9)


def test_what_had_no_gradient_at_first_learns_when_it_has_one():
    """A side of zeros has no inverse root; until there is one its leaf goes along its gradients."""
    w, g = jnp.ones((3, 2)), jnp.arange(6.0).reshape(3, 2) - 2
    rule = rules.shampoo(0.1)
    _, state = rule.update(jnp.zeros_like(w), rule.init(w), w)
    updates, _ = rule.update(g, state, w)
    np.testing.assert_allclose(updates / jnp.linalg.norm(updates), -g / jnp.linalg.norm(g))
    assert jnp.abs(updates).max() > 0.01


def test_a_foreign_state_is_refused():
    w = jnp.ones((3, 2))
    with pytest.raises(TypeError, match="expected the state of soap or shampoo"):
        rules.soap(0.1).update(w, rules.adam(0.1).init(w), w)
    with pytest.raises(ValueError, match="expected updates and state of one shape"):
        rules.soap(0.1).update(w, rules.soap(0.1, longest=2).init(w), w)
