"""Convolutions in loops have the order of axes that a CPU is fast at, and are the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.custom_batching import sequential_vmap

import fnn
from fnn import data, devices, flops, layers, losses, programs, rules
from fnn.programs import convolutions

RNG = np.random.default_rng(0)
FIRST, LAST = ("NCHW", "OIHW", "NCHW"), ("NHWC", "HWIO", "NHWC")


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


def squares(order, window=(1, 1), **options):
    """The sum of squares of a convolution, whose gradient has two in other orders."""

    def value(kernel, x):
        y = lax.conv_general_dilated(x, kernel, window, "SAME", dimension_numbers=order, **options)
        return jnp.sum(jax.nn.relu(y) ** 2)

    return value


KINDS = {
    "channels first": (squares(FIRST), (4, 3, 3, 3), (2, 3, 5, 6)),
    "channels last": (squares(LAST), (3, 3, 3, 4), (2, 5, 6, 3)),
    "strides": (squares(LAST, (2, 1)), (3, 2, 3, 4), (2, 5, 6, 3)),
    "holes": (squares(LAST, rhs_dilation=(2, 1)), (3, 3, 3, 4), (2, 5, 6, 3)),
    "groups": (squares(FIRST, feature_group_count=3), (6, 1, 3, 3), (2, 3, 5, 6)),
    "one axis": (squares(("NCH", "OIH", "NCH"), (1,)), (4, 3, 3), (2, 3, 7)),
    "three axes": (
        squares(("NCDHW", "OIDHW", "NCDHW"), (1, 1, 1)),
        (2, 3, 2, 2, 2),
        (2, 3, 4, 3, 3),
    ),
}


def scanned(value, w, x):
    return lax.scan(lambda w, _: (w - 0.01 * jax.grad(value)(w, x), value(w, x)), w, None, 3)


def until_small(value, w, x):
    return lax.while_loop(
        lambda w: value(w, x) > 1.0, lambda w: w - 0.05 * jax.jit(jax.grad(value))(w, x), w
    )


def chosen(value, w, x):
    return lax.cond(x.sum() > 0, jax.grad(jax.checkpoint(value)), lambda w, _: w, w, x)


def mapped_and_random(value, w, x):
    def body(key, w):
        noisy = w + jax.random.normal(key, w.shape)
        return jax.random.fold_in(key, 1), jax.vmap(jax.grad(value), (0, None))(
            jnp.stack([w, noisy]), x
        )

    return lax.scan(body, jax.random.key(0), jnp.stack([w, 2 * w]))[1]


def with_rules_of_their_own(value, w, x):
    kept = jax.custom_vjp(jax.grad(value))
    kept.defvjp(lambda w, x: (kept(w, x), None), lambda _, g: (g, x))
    forward = jax.custom_jvp(lambda w, x: kept(w, x))
    forward.defjvp(lambda primals, tangents: (forward(*primals), tangents[0]))
    one = sequential_vmap(forward)
    return lax.scan(lambda w, _: (w, one(w, x)), w, None, 2)[1]


PROGRAMS = scanned, until_small, chosen, mapped_and_random, with_rules_of_their_own


@pytest.mark.parametrize("kind", KINDS)
def test_loops_and_branches_compute_the_same(kind):
    value, of_kernel, of_input = KINDS[kind]
    w, x = 0.1 * normal(*of_kernel), jnp.abs(normal(*of_input))
    made = [functools.partial(program, value) for program in PROGRAMS]
    fast = [programs.with_fast_convolutions(fn) for fn in made]
    assert all(programs.has_slow_convolutions(jax.make_jaxpr(fn)(w, x)) for fn in made)
    assert not any(programs.has_slow_convolutions(jax.make_jaxpr(fn)(w, x)) for fn in fast)
    both = jax.jit(lambda w, x: [[fn(w, x) for fn in fns] for fns in (made, fast)])
    expected, found = both(w, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected
    )


def test_float64_within_a_program_of_float32_stays_what_it_is():
    """As in a race: the meter sums in float64, and second-order rules factor in it."""
    value, of_kernel, of_input = KINDS["channels last"]

    def length(g):
        with jax.enable_x64(True):
            wide = g.astype(jnp.float64)
            return jnp.sqrt(jnp.sum(wide * wide)).astype(jnp.float32)

    def step(w, x):
        g = jax.grad(value)(w, x)
        return w - 0.01 * g / length(g)

    @flops.metered
    def walk(w, x):
        return lax.while_loop(
            lambda state: state[0] < 3, lambda state: (state[0] + 1, step(state[1], x)), (0, w)
        )

    with jax.enable_x64(False):
        w = jnp.asarray(0.1 * RNG.normal(size=of_kernel))
        x = jnp.abs(jnp.asarray(RNG.normal(size=of_input)))
        fast = programs.with_fast_convolutions(walk)
        assert programs.has_slow_convolutions(jax.make_jaxpr(walk)(w, x))
        assert not programs.has_slow_convolutions(jax.make_jaxpr(fast)(w, x))
        expected, found = jax.jit(lambda w, x: (walk(w, x), fast(w, x)))(w, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected)
    assert found[0][1].dtype == jnp.float32


def test_what_only_its_own_equation_knows_is_left_alone():
    value, of_kernel, of_input = KINDS["channels first"]
    mesh = jax.make_mesh((1,), ("devices",))
    spec = jax.sharding.PartitionSpec()

    def fn(w, x):
        mean = jax.shard_map(
            lambda w, x: lax.pmean(jax.grad(value)(w, x), "devices"),
            mesh=mesh, in_specs=(spec, spec), out_specs=spec,
        )  # fmt: skip
        return lax.scan(lambda w, _: (w - 0.01 * mean(w, x), None), w, None, 2)[0]

    w, x = normal(*of_kernel), normal(*of_input)
    np.testing.assert_array_equal(devices.jit(fn)(w, x), jax.jit(fn)(w, x))


def test_the_entry_of_a_program_is_left_to_xla():
    value, of_kernel, of_input = KINDS["channels first"]
    shapes = jnp.zeros(of_kernel), jnp.zeros(of_input)
    assert not programs.has_slow_convolutions(jax.make_jaxpr(jax.jit(jax.grad(value)))(*shapes))
    value, shapes = squares(LAST), (jnp.zeros((3, 3, 3, 4)), jnp.zeros((2, 5, 6, 3)))
    forward = jax.make_jaxpr(lambda w, x: lax.map(lambda x: value(w, x[None]), x))(*shapes)
    assert not programs.has_slow_convolutions(forward)


@pytest.fixture
def rewritten(monkeypatch):
    """The programs that are written anew, bodies of loops among them."""
    seen, results = [], convolutions._results
    monkeypatch.setattr(
        convolutions,
        "_results",
        lambda closed, operands: seen.append(closed) or results(closed, operands),
    )
    return seen


def test_a_training_by_mini_batches_is_written_anew_and_learns_what_a_loop_does(rewritten):
    inputs, targets = data.digits()
    examples = inputs[:64].reshape(64, 8, 8, 1), targets[:64]
    model = layers.serial(
        layers.conv(2, (3, 3)), layers.elementwise(jnp.tanh), layers.flatten(), layers.dense(10)
    )
    objective = fnn.Objective(model.apply, losses.softmax_cross_entropy)
    params, rule = model.init(jax.random.key(0), examples[0][0]), rules.sgd(0.1)
    run = fnn.fit(rule, objective, params, examples, epochs=2, batch_size=64, key=jax.random.key(1))
    assert rewritten
    step = jax.jit(lambda p: optax.tree.add_scale(p, -0.1, jax.grad(objective.on(examples))(p)))
    for _ in range(2):
        params = step(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), run.params, params)


def test_arguments_by_name_static_ones_and_donated_ones_stay_what_they_are(rewritten):
    value, of_kernel, of_input = KINDS["channels last"]

    def train(value, w, x, *, steps, rate):
        assert isinstance(steps, int)
        return lax.scan(lambda w, _: (w - rate * jax.grad(value)(w, x), None), w, None, steps)[0]

    fast = devices.jit(train, static_argnames=("value", "steps"), donate_argnames="w")
    w, x = normal(*of_kernel), normal(*of_input)
    expected = jax.jit(train, static_argnames=("value", "steps"))(value, w, x, steps=2, rate=0.01)
    given = jnp.copy(w)
    np.testing.assert_allclose(fast(value, given, x, steps=2, rate=0.01), expected, rtol=1e-12)
    assert given.is_deleted()
    assert rewritten
    rewritten.clear()
    made = devices.traced(lambda w: scanned(value, w, x), w)
    np.testing.assert_allclose(devices.compiled(made)(w)[0], scanned(value, w, x)[0], rtol=1e-12)
    assert rewritten
