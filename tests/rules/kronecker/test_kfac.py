"""K-FAC and EKFAC are exact where they can be, and else close to the Gauss-Newton matrix.

What the two share is tried on one of them, or on both in one compiled function.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import fnn
from fnn import Objective, flops, losses, rules
from fnn.curvature import Factors, gauss_newton_system, kronecker_blocks, structure
from fnn.rules import damping
from fnn.rules.kronecker.layout import layout_of
from fnn.rules.kronecker.two_step_sizes import Plane, lowest, promise
from tests import loop
from tests.capture.zoo import ZOO

RNG = np.random.default_rng(0)
BOTH = [rules.kfac, rules.ekfac]
# The step alone: no quadratic model, no look at the value.
PLAIN = {"learning_rate": 1.0, "momentum": 0.0, "policy": damping.constant()}


@functools.partial(jax.jit, static_argnames="made")
def steps(made, params, value_fn):
    """The first updates and states of some rules."""
    return [loop.update(rule, params, value_fn) for rule in made]


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def close(actual, expected, rtol=1e-7, atol=1e-10):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected
    )


def exact_blocks(value_fn, params, made):
    """The blocks of the exact Gauss-Newton matrix, in the order of the matrices (b, i, o)."""
    whole = gauss_newton_system(value_fn, params).system.normal()
    flat, unravel = ravel_pytree(params)
    places = made.matrices(unravel(jnp.arange(flat.size, dtype=float)))
    orders = {path: place.ravel().astype(int) for path, place in places.items()}
    return {path: whole[order][:, order] for path, order in orders.items()}


def assembled(factors):
    """A (x) D, block diagonal over b."""
    return jax.scipy.linalg.block_diag(*jax.vmap(jnp.kron)(*factors))


# Exact cases --------------------------------------------------------------------------------------


def deep_linear(params, x):
    for w, b in params:
        x = x @ w + b
    return x


LINEAR = Objective(deep_linear, losses.half_squared_error)


def test_on_a_linear_network_every_block_and_its_step_are_exact():
    """Bernacchia et al. (2018) show it. Examples have weights, one of them 0; chunks are summed."""
    params = [(normal(i, o), normal(o)) for i, o in itertools.pairwise((4, 3, 3, 2))]
    data, weights = (normal(9, 4), normal(9, 2)), jnp.array([0.0, 2, 1, 1, 0.5, 1, 1, 3, 1])
    known = structure(deep_linear, params, data[0][0])

    @jax.jit
    def found(params):
        value_fn = 0.3 * LINEAR.on(data, weights=weights)
        made = kronecker_blocks(value_fn, params, known)
        again = kronecker_blocks(0.3 * LINEAR.on(data, weights=weights, chunk=4), params, known)
        taken = [loop.update(make(known, damping=0.0, **PLAIN), params, value_fn) for make in BOTH]
        trees = jax.grad(value_fn)(params), *(step for step, _ in taken)
        flat = [{k: m.ravel() for k, m in made.matrices(tree).items()} for tree in trees]
        return made.factors, again.factors, exact_blocks(value_fn, params, made), flat

    factors, chunked, blocks, (grads, *taken) = found(params)
    assert len(blocks) == 6
    close({path: assembled(pair) for path, pair in factors.items()}, blocks)
    close(chunked, factors)
    expected = {path: -np.linalg.pinv(blocks[path], 1e-10) @ grads[path] for path in blocks}
    for step in taken:
        close(step, expected)


def test_examples_of_equal_weight_are_those_without_weights():
    """Without weights the factors are summed first, and divided afterwards."""
    params = [(normal(i, o), normal(o)) for i, o in itertools.pairwise((4, 3, 2))]
    data, known = (normal(9, 4), normal(9, 2)), structure(deep_linear, params, jnp.zeros(4))

    @jax.jit
    def factors(weights):
        value_fns = LINEAR.on(data, weights=weights), LINEAR.on(data)
        return [kronecker_blocks(value_fn, params, known).factors for value_fn in value_fns]

    close(*factors(jnp.full(9, 3.0)))


@pytest.mark.parametrize("shape", [(12, 5), (3, 5)], ids=["tall", "wide"])
def test_one_linear_layer_is_gauss_newton_and_solved_in_one_step(shape):
    """Learning rate and momentum come from the model, whose minimum is the step itself."""

    def model(w, x):
        return x @ w

    value_fn = Objective(model, losses.half_squared_error).on((normal(*shape), normal(shape[0], 2)))
    w = normal(5, 2)
    known = structure(model, w, jnp.zeros(5))
    made = rules.gauss_newton(), *(make(known, damping=0.0) for make in BOTH)
    (exact, _), *others = steps(made, w, value_fn)
    for step, state in others:
        close(step, exact)
        np.testing.assert_allclose(state.info.gain, 1, rtol=1e-8)


# Blocks -------------------------------------------------------------------------------------------


def perceptron(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def convolutional(params, x):
    kernel = {"dimension_numbers": ("NCHW", "HWIO", "NCHW"), "feature_group_count": 2}
    y = jax.lax.conv_general_dilated(x.reshape(1, 2, 3, 2), params["w"], (1, 1), "SAME", **kernel)
    return jnp.tanh(y + params["b"][:, None, None]).ravel() @ params["v"]


def shared(params, x):
    """One weight is used in a scan and outside of it, transposed and scaled."""

    def cell(h, x):
        return jnp.tanh((h + x) @ (0.5 * params["w"].T)), None

    start = params["table"][(x[0] > 0).astype(int)]
    h, _ = jax.lax.scan(cell, start, x.reshape(4, 3))
    return params["scale"] * (h @ (0.5 * params["w"].T)) @ params["v"]


MODELS = {
    "perceptron": (perceptron, {"w": (12, 5), "b": (5,), "v": (5, 3)}),
    "convolutional": (convolutional, {"w": (2, 2, 1, 4), "b": (4,), "v": (24, 3)}),
    "shared": (shared, {"w": (3, 3), "scale": (3,), "table": (2, 3), "v": (3, 3)}),
}


@pytest.mark.parametrize("name", MODELS)
def test_ekfac_is_closer_to_gauss_newton_than_kfac_block_by_block(name):
    model, shapes = MODELS[name]
    params = {key: normal(*shape) for key, shape in shapes.items()}
    value_fn = Objective(model, losses.softmax_cross_entropy).on((normal(7, 12), jnp.arange(7) % 3))
    known = structure(model, params, jnp.zeros(12))
    assert all(leaf.matrix for leaf in known.leaves)

    @jax.jit
    def measured(params):
        made = kronecker_blocks(value_fn, params, known, memory_budget=4000)
        bases = jax.tree.map(lambda factor: jnp.linalg.eigh(factor)[1], made.factors)
        return made.factors, bases, made.moments(bases), exact_blocks(value_fn, params, made)

    factors, bases, moments, blocks = measured(params)
    for path, exact in blocks.items():
        basis = assembled(bases[path])
        inside = basis.T @ exact @ basis
        close(moments[path].ravel(), jnp.diag(inside), atol=1e-9)
        ekfac = jnp.linalg.norm(inside - jnp.diag(moments[path].ravel()))
        kfac = jnp.linalg.norm(exact - assembled(factors[path]))
        assert ekfac <= kfac + 1e-9
        if path == "['w']":
            assert ekfac < 0.99 * kfac
        if (name, path) == ("perceptron", "['b']"):  # the block of a bias is exact
            assert kfac < 1e-9


def signed(params, x):
    """Every leaf is used with both signs, and slices of a stack with one each and twice."""
    (first, second), w, b = params["stack"], params["w"], params["b"]
    h = jnp.tanh(x @ w - x @ first + b)
    h = jnp.tanh(h @ (-w) + h @ (2 * -second) + (-b))
    return jnp.tanh(h @ (-first)) @ -params["v"]


def tied(params, x):
    """A weight beside its transpose, in an autoencoder and where both have one shape."""
    h = jnp.tanh(x @ params["w"])
    h = jnp.tanh(h @ params["square"]) + h @ params["square"].T
    return h @ params["w"].T


def reversed_stack(params, x):
    """One use, of a stack in another order than its own."""
    return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["stack"][::-1])[0]


USED = {
    "signed": (signed, {"w": (4, 4), "b": (4,), "stack": (2, 4, 4), "v": (4, 3)}),
    "tied": (tied, {"w": (4, 3), "square": (3, 3)}),
    "reversed": (reversed_stack, {"stack": (3, 4, 4)}),
}


@pytest.mark.parametrize("name", USED)
def test_moments_and_diagonals_are_those_of_gradients_that_jax_takes_by_example(name):
    """Factors are none of two layouts at once: there the diagonal is exact, and the refusal."""
    model, shapes = USED[name]
    params = {key: normal(*shape) / 2 for key, shape in shapes.items()}
    inputs = normal(6, 4)
    outputs = jax.eval_shape(model, params, inputs[0])
    value_fn = Objective(model, losses.half_squared_error).on((inputs, normal(6, *outputs.shape)))
    known = structure(model, params, inputs[0])
    assert {bool(leaf.matrix) for leaf in known.leaves} == {name != "tied"}

    @jax.jit
    def measured(params):
        made = kronecker_blocks(value_fn, params, known)
        bases = jax.tree.map(lambda factor: jnp.linalg.eigh(factor)[1], made.factors)
        jacobian = jax.vmap(jax.jacrev(model), (None, 0))(params, inputs)
        rows = [made.matrices(jax.tree.map(lambda j, i=i, k=k: j[i, k], jacobian))
                for i in range(6) for k in range(outputs.size)]  # fmt: skip
        rows = jax.tree.map(lambda *each: jnp.stack(each), *rows)
        rotated = {
            path: jnp.einsum("bji,rbjp,bpo->rbio", bases[path].inputs, row, bases[path].outputs)
            if path in bases
            else row
            for path, row in rows.items()
        }
        expected = {path: jnp.sum(row**2, 0) / 6 for path, row in rotated.items()}
        return made.moments(bases) | made.diagonals, expected

    found, expected = measured(params)
    assert found.keys() == expected.keys()
    close(found, expected, rtol=1e-10, atol=1e-12)


def test_stacks_in_any_order_are_the_same_matrices_and_a_transpose_is_not():
    def in_order(params, x):
        return jax.lax.scan(lambda h, w: (jnp.sin(h @ w), None), x, params["stack"])[0]

    def transposed(params, x):
        return jax.lax.scan(lambda h, w: (w @ h, None), x, params["stack"])[0]

    params, data = {"stack": normal(3, 4, 4)}, (normal(5, 4), normal(5, 4))
    one, two, other = (
        Objective(model, losses.half_squared_error).on(data)
        for model in (reversed_stack, in_order, transposed)
    )
    known = structure(in_order, params, data[0][0])

    @jax.jit
    def factors(params):
        parts = [kronecker_blocks(fn, params, known).factors for fn in (one, two, one + two)]
        return [part["['stack']"].outputs for part in parts]

    first, second, both = factors(params)
    close(both, first + second)
    with pytest.raises(ValueError, match="got one beside its transpose; try"):
        kronecker_blocks(one + other, params, known)


def test_structure_says_what_has_factors():
    def model(params, x):
        inside = jnp.tanh(x @ params["tied"])
        outside = inside @ params["tied"].T + params["large"]
        return params["square"] ** 2 * outside[:2] + (params["part"].T @ x)[:2]

    shapes = {"large": (6,), "part": (6, 3), "square": (2,), "tied": (6, 4), "unused": (3,)}
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    known = structure(model, params, jnp.ones(6))
    assert [leaf.matrix for leaf in known.leaves] == [(1, 1, 6), (1, 6, 3), None, None, None]
    assert str(known).splitlines()[1:3] == [
        "['part']    (6, 3): 1 x 6^2 (x) 3^2",
        "['square']  (2,): diagonal",
    ]
    small = structure(model, jax.eval_shape(lambda: params), jnp.ones(6), largest=5)
    assert {leaf.matrix for leaf in small.leaves} == {None}
    assert hash(known) == hash(structure(model, params, jax.ShapeDtypeStruct((6,), float)))
    assert known != small


def test_a_large_table_has_a_block_for_each_row():
    entry = ZOO["large_table"]()
    known = structure(entry.model, entry.params, entry.inputs[0])
    assert "(18, 15): 18 x 1^2 (x) 15^2" in str(known)

    @jax.jit
    def found(params):
        value_fn = Objective(entry.model, losses.half_squared_error).on((
            entry.inputs,
            jnp.zeros((len(entry.inputs), 2)),
        ))
        jacobian = jax.jacobian(lambda p: jax.vmap(entry.model, (None, 0))(p, entry.inputs))
        return kronecker_blocks(value_fn, params, known).factors, jacobian(params)["table"]

    factors, rows = found(entry.params)
    expected = jnp.einsum("nrbo,nrbp->bop", rows, rows) / len(entry.inputs)
    np.testing.assert_allclose(factors["['table']"].outputs, expected, atol=1e-12)
    np.testing.assert_allclose(factors["['table']"].inputs, 1, rtol=1e-12)


def test_leaves_without_factors_use_their_diagonal_and_penalties_damp():
    def model(params, x):
        return jnp.sin(params["a"] * x) @ params["w"]

    params = {"a": normal(4), "w": normal(4, 2)}
    value_fn = Objective(model, losses.half_squared_error).on((normal(9, 4), normal(9, 2)))
    known = structure(model, params, jnp.zeros(4), largest=3)
    assert {leaf.matrix for leaf in known.leaves} == {None}
    penalized = value_fn + fnn.l2(0.5, where={"a": True, "w": False})
    taken = steps(tuple(make(known, damping=0.3, **PLAIN) for make in BOTH), params, penalized)
    grad, diagonal = jax.jit(
        lambda p: (jax.grad(penalized)(p), gauss_newton_system(value_fn, p).system.diagonal())
    )(params)
    shift = {"a": 0.8, "w": 0.3}
    for step, _ in taken:
        close(step, jax.tree.map(lambda g, d, s: -g / (d + s), grad, diagonal, shift))


# The plane of step and velocity -------------------------------------------------------------------


@pytest.mark.parametrize("rate", [None, 0.3])
@pytest.mark.parametrize("momentum", [None, 0.4])
def test_learning_rate_and_momentum_are_where_the_model_is_least(rate, momentum):
    root, slope = normal(2, 2), normal(2)
    model = Plane(slope, root @ root.T, 0.1 * jnp.eye(2))
    found = jnp.stack(lowest(model, rate, momentum))
    left = slope - (model.curvature + model.damping) @ found
    for given, number, rest in zip((rate, momentum), found, left, strict=True):
        close(*((rest, 0.0) if given is None else (number, given)))
    close(promise(model, *found), found @ slope - found @ model.curvature @ found / 2)


def test_velocities_that_are_parallel_or_missing_bring_no_momentum():
    zero = jnp.zeros((2, 2))
    for singular in (jnp.array([[1.0, 2.0], [2.0, 4.0]]), jnp.diag(jnp.array([1.0, 0.0]))):
        found = lowest(Plane(jnp.array([3.0, 6.0]), singular, zero), None, None)
        assert jnp.stack(found).tolist() == [3, 0]
    assert jnp.stack(lowest(Plane(jnp.ones(2), zero, zero), None, None)).tolist() == [0, 0]


def test_the_plane_sees_the_whole_matrix_and_the_penalties():
    """The first step is the least along itself, and promises what the exact model does."""
    params = [(normal(4, 3), normal(3)), (normal(3, 2), normal(2))]
    value_fn = LINEAR.on((normal(9, 4), normal(9, 2))) + fnn.l2(0.1)
    rule = rules.kfac(structure(deep_linear, params, jnp.zeros(4)), damping=0.2)
    ((step, state),) = steps((rule,), params, value_fn)

    @jax.jit
    def along(params, step):
        curved = gauss_newton_system(value_fn, params).system.multiply(step)
        slope = optax.tree.vdot(step, jax.grad(value_fn)(params))
        length = optax.tree.norm(step, squared=True)
        fall = value_fn(params) - value_fn(optax.apply_updates(params, step))
        return slope, optax.tree.vdot(step, curved) + 0.1 * length, length, fall

    slope, bend, length, fall = along(params, step)
    close(slope + bend + 0.2 * length, 0.0)
    close(state.info.gain, fall / (-slope - bend / 2))


# Memory -------------------------------------------------------------------------------------------


def test_factors_and_moments_are_running_means_and_bases_wait_for_their_refresh():
    """The learning rate is 0, so that all batches are seen from one point."""
    objective, decay = Objective(perceptron, losses.half_squared_error), 0.8
    params = {"w": normal(3, 4), "b": normal(4), "v": normal(4, 2)}
    batches = normal(5, 8, 3), normal(5, 8, 2)
    known = structure(perceptron, params, jnp.zeros(3))
    rule = rules.ekfac(known, decay=decay, refresh=3, **(PLAIN | {"learning_rate": 0.0}))

    def seen(batches):
        whole = {"['w']": Factors(jnp.eye(3)[None], jnp.eye(4)[None])}

        def trace(batch):
            blocks = kronecker_blocks(objective.on(batch), params, known)
            return jnp.sum(blocks.moments(whole)["['w']"])

        return loop.stream(rule, params, objective.on, batches)[1], jax.lax.map(trace, batches)

    states, traces = jax.jit(seen)(batches)
    layout = layout_of(known)
    kept, bases = (
        jax.vmap(lambda pools: layout.leaf(pools, "['w']"))(pools)
        for pools in (states.memory.factors, states.memory.bases)
    )
    weights = jnp.array([
        [(1 - decay) * decay ** (k - i) / (1 - decay ** (k + 1)) * (i <= k) for i in range(5)]
        for k in range(5)
    ])
    inputs = jnp.einsum("kni,knj->kij", batches[0], batches[0]) / 8
    close(kept.inputs[:, 0], jnp.tensordot(weights, inputs, 1))
    u = bases.inputs[:, 0]
    close(u[jnp.array([1, 2, 4])], u[jnp.array([0, 0, 3])])
    turned = u.mT @ kept.inputs[:, 0] @ u
    off = jnp.abs(turned - turned * jnp.eye(3)).max((1, 2))
    assert np.all((off < 1e-9) == np.array([True, False, False, True, False]))
    close(
        jnp.sum(states.memory.moments["3 x 4"], (1, 2, 3)), weights @ traces
    )  # kept by every change of basis


def test_batches_between_are_not_measured_and_cost_no_curvature():
    """The learning rate is 0, so that all batches are seen from one point."""
    objective = Objective(perceptron, losses.half_squared_error)
    params = {"w": normal(3, 4), "b": normal(4), "v": normal(4, 2)}
    known = structure(perceptron, params, jnp.zeros(3))
    inputs, targets = normal(5, 8, 3), normal(5, 8, 2)
    inputs = inputs.at[0].set(jnp.nan)  # a batch that does not count
    measured = jnp.array([1, 2, 4])  # until one counts, and then every second
    still = PLAIN | {"learning_rate": 0.0, "decay": 0.8, "refresh": 1}
    some, each = (rules.ekfac(known, every=every, **still) for every in (2, 1))

    @jax.jit
    def seen(inputs, targets):
        _, states = loop.stream(some, params, objective.on, (inputs, targets))
        few = inputs[measured], targets[measured]
        _, expected = loop.stream(each, params, objective.on, few)
        first = jax.tree.map(lambda a: a[1], states)
        batch = objective.on((inputs[1], targets[1]))

        def price(steps):
            info = first.info._replace(steps=jnp.int32(steps))
            step = flops.metered(lambda p, s: loop.update(some, p, batch, s))
            return step(params, first._replace(info=info))[1].flops

        return states, expected, price(2), price(3)

    states, expected, dear, cheap = seen(inputs, targets)
    assert states.batches.tolist() == [0, 1, 2, 2, 3]

    def kept(memory):
        return memory.factors, memory.moments

    close(
        jax.tree.map(lambda a: a[1:], kept(states.memory)),
        jax.tree.map(lambda a: a[jnp.array([0, 1, 1, 2])], kept(expected.memory)),
    )
    gradient = flops.count(
        lambda p: loop.evaluate(p, objective.on((inputs[1], targets[1]))), params
    )
    assert cheap + gradient < dear


# Symmetries ---------------------------------------------------------------------------------------

WIDE, DEEP = 4, 3
ONCE = {"w": normal(WIDE, 5), "b": normal(5), "v": normal(5, DEEP)}
KNOWN = structure(perceptron, ONCE, jnp.zeros(WIDE))
DATA = normal(40, WIDE), normal(40, DEEP)
ALL = {"linear", "rotation", "scaling"}
# The damping, and what is claimed.
CASES = {
    "kfac": (rules.kfac, {0.0: ALL, 0.1: {"rotation"}}),
    "ekfac": (rules.ekfac, {0.0: ALL - {"linear"}, 0.1: {"rotation"}}),
    "ekfac, automatic": (rules.ekfac, {None: {"scaling", "rotation"}}),
}


@pytest.mark.parametrize("name", CASES)
def test_path_is_unchanged_exactly_where_claimed(name):
    make, claims = CASES[name]
    fixed = PLAIN | {"learning_rate": 0.3, "momentum": 0.3, "refresh": 2}

    def loss(outputs, target):
        value, back = target
        return losses.half_squared_error(outputs @ back, value)

    objective = Objective(perceptron, loss)

    def walk(strength, into, out, scale):
        """Inputs are changed by into^-1 and outputs by out; the path is brought back."""
        rule = make(KNOWN) if strength is None else make(KNOWN, damping=strength, **fixed)
        inward, back = jnp.linalg.inv(into), jnp.linalg.inv(out)
        targets = DATA[1], jnp.broadcast_to(back, (len(DATA[1]), *back.shape))
        value_fn = scale * objective.on((DATA[0] @ inward, targets))

        start = ONCE | {"w": into @ ONCE["w"], "v": ONCE["v"] @ out}
        path, _ = loop.walk(rule, start, value_fn, steps=5)
        return [inward @ path["w"], path["b"], path["v"] @ back]

    turn, other = (np.linalg.qr(RNG.normal(size=(n, n)))[0] for n in (WIDE, DEEP))
    into = np.stack([np.eye(WIDE), turn * np.arange(1, 5), turn, np.eye(WIDE)])
    out = np.stack([np.eye(DEEP), other * np.arange(1, 4), other, np.eye(DEEP)])
    lanes = jax.vmap(walk, (None, 0, 0, 0))
    if None in claims:
        paths = [jax.jit(functools.partial(lanes, None))(into, out, np.array([1.0, 1, 1, 100]))]
    else:
        lanes = jax.jit(jax.vmap(lanes, (0, None, None, None)))
        paths = lanes(np.array([*claims]), into, out, np.array([1.0, 1, 1, 100]))
        paths = [jax.tree.map(lambda x, k=k: x[k], paths) for k in range(len(claims))]
    for path, claimed in zip(paths, claims.values(), strict=True):
        flat = np.concatenate([leaf.reshape(4, -1) for leaf in path], axis=1)
        apart = dict(zip(sorted(ALL), np.max(np.abs(flat[1:] - flat[0]), axis=1), strict=True))
        assert {symmetry for symmetry in ALL if apart[symmetry] < 1e-7} == claimed, apart


# Bad input ----------------------------------------------------------------------------------------

FITTED = Objective(perceptron, losses.half_squared_error)


def test_what_is_not_finite_is_rejected_and_leaves_no_trace():
    inputs, targets, rule = normal(4, 8, WIDE), normal(4, 8, DEEP), rules.ekfac(KNOWN)
    broken = inputs.at[1].set(jnp.nan), inputs.at[1, 0].set(jnp.inf), inputs
    batches = jnp.stack(broken), jnp.stack([targets, targets, targets.at[1].set(jnp.nan)])
    states = jax.jit(jax.vmap(lambda *lane: loop.stream(rule, ONCE, FITTED.on, lane)[1]))(*batches)
    np.testing.assert_array_equal(states.info.rejected[:, :2], [[0, 1]] * 3)
    assert np.all(states.info.accepted[:, -1] > states.info.accepted[:, 1])
    memory = states._replace(info=states.info._replace(value=None))  # a broken batch has no value
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(memory))
    np.testing.assert_array_equal(states.batches, [[1, 1, 2, 3], [1, 1, 2, 3], [1, 2, 3, 4]])
    close(*(jax.tree.map(lambda x, k=k: x[:2, k], states.memory) for k in (0, 1)))


def test_zero_curvature_and_factors_without_inverse_stay_finite():
    def run(start, size, strength):
        value_fn = FITTED.on((size * jnp.ones((2, WIDE)), jnp.ones((2, DEEP))))
        return [loop.update(make(KNOWN, damping=strength), start, value_fn) for make in BOTH]

    dead = ONCE | {"v": jnp.zeros((5, DEEP))}  # no curvature in w and b
    starts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[ONCE] * 4, *[dead] * 4)
    sizes, strengths = jnp.array([0.0, 1.0, 1e-200, 1e150] * 2), jnp.array([0.0, 0.1] * 4)
    taken = jax.jit(jax.vmap(run))(starts, sizes, strengths)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(taken))


def curve(w, x):
    return jnp.tanh(w * x)


def test_one_parameter_one_example_and_steps_that_do_not_lower_the_value():
    """Undamped, the step would lead from 2 to about -25; without weight there is no value."""
    objective, one = Objective(curve, losses.half_squared_error), jnp.ones(1)
    rule = rules.kfac(structure(curve, jnp.ones(()), jnp.ones(())), damping=1e-6)

    def run(w, weight):
        value_fn = objective.on((one, 0 * one), weights=weight * one)
        return loop.update(rule, w, value_fn)

    step, state = jax.jit(jax.vmap(run))(jnp.array([2.0, 0.1, 0.1]), jnp.array([1.0, 1.0, 0.0]))
    assert state.info.accepted.tolist() == [0, 1, 0]
    close(step, jnp.array([0.0, -0.1, 0.0]), atol=1e-3)
    close(state.damping.value[0], 1.5e-6)
    assert state.info.gain[0] < 0


def test_misuse_is_named():
    params = {"w": jnp.ones((3, 2))}
    known = structure(lambda p, x: x @ p["w"], params, jnp.ones(3))
    for make in BOTH:
        name = make.__name__
        with pytest.raises(ValueError, match=rf"{name}: expected refresh in \[1, .*got 0.*try 1"):
            make(known, refresh=0)
        with pytest.raises(ValueError, match=rf"{name}: expected every in \[1, .*got 0.*try 1"):
            make(known, every=0)
        with pytest.raises(ValueError, match=rf"{name}: expected memory_budget"):
            make(known, memory_budget=0)
        with pytest.raises(TypeError, match=rf"{name}: expected a structure, got dict; try"):
            make(params)
    with pytest.raises(ValueError, match="structure: expected largest >= 1, got 0; try"):
        structure(lambda p, x: x @ p["w"], params, jnp.ones(3), largest=0)

    rule = rules.kfac(known)

    def refused(match, model, loss=losses.half_squared_error, outputs=(2,), **more):
        value_fn = Objective(model, loss).on((jnp.ones((4, 3)), jnp.ones((4, *outputs))))
        with pytest.raises(ValueError, match=match):
            jax.eval_shape(lambda p: loop.update(rule, p, value_fn), params | more)

    squares = r"params\['w'\] to be \(1, 3, 2\) .*got \[None\]; try curvature.structure"
    refused(squares, lambda p, x: x @ p["w"] ** 2)
    refused(r"params\['w'\] to be .*got no use; try", lambda _, x: x[:2])
    more = r"of the structure, got params\['v'\] of shape \(2,\), known as None; try"
    refused(more, lambda p, x: x @ p["w"] + p["v"], v=jnp.ones(2))
    without = "with a loss that has curvature, got none; try"
    refused(without, lambda p, x: (x @ p["w"])[0], losses.hinge, ())
    with pytest.raises(TypeError, match=r"try fnn\.Objective"):
        loop.update(rule, params, lambda p: jnp.sum(p["w"]))
