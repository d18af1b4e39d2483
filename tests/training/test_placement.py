"""Many devices run one program on split examples, and take the path of a single device.

The devices are eight that XLA makes of one CPU (see `conftest`); what they send each other is read
from the compiled program.
"""

import functools
import inspect
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks.traffic import collectives
from fnn import Objective, fit, l2, losses, rules, solvers
from fnn.training import placement, source_of
from tests import loop
from tests.rules.test_contract import RULES, model, needed

DEVICES = 8
MESH = Mesh(np.array(jax.devices()), ("examples",))
SPLIT = NamedSharding(MESH, PartitionSpec("examples"))
WHOLE = NamedSharding(MESH, PartitionSpec())
OBJECTIVE = Objective(model, losses.half_squared_error)
STEPS = 20


def data(examples=16, noise=0.0):
    keys = jax.random.split(jax.random.key(1), 3)
    inputs = jax.random.normal(keys[0], (examples, 3))
    truth = {"w": jax.random.normal(keys[1], (3, 2)), "b": jnp.array([0.1, 0.2])}
    targets = jax.vmap(lambda x: model(truth, x))(inputs)
    return inputs, targets + noise * jax.random.normal(keys[2], targets.shape)


def initial():
    return {"w": jnp.full((3, 2), 0.5), "b": jnp.array([0.3, -0.2])}


def assert_same(actual, expected, atol=1e-10):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=atol), actual, expected
    )


def walk(rule, steps=STEPS):
    """A compiled function of start and value function to the parameters after every step."""

    return jax.jit(lambda params, value_fn: loop.walk(rule, params, value_fn, steps)[0])


# Every rule ---------------------------------------------------------------------------------------


def tamed(factory):
    """A rule with a damping of a tenth of the curvature or more, that does not change."""
    names = inspect.signature(factory).parameters
    chosen = {"damping": 0.1, "policy": rules.damping.constant(), "iterations": 4}
    return factory(**(needed(factory) | {n: v for n, v in chosen.items() if n in names}))


@pytest.mark.parametrize("factory", RULES.values(), ids=RULES)
def test_every_rule_takes_the_path_of_a_single_device(factory):
    path, value_fn = walk(tamed(factory)), OBJECTIVE.on(data())
    split = OBJECTIVE.on(jax.device_put(data(), SPLIT))
    alone, shared = path(initial(), value_fn), path(initial(), split)
    # SOAP divides by eps what gradients have along directions where they have nothing.
    assert_same(shared, alone, atol=1e-7 if factory is rules.soap else 1e-10)
    assert np.any(alone["w"][0] != alone["w"][-1])


# What travels -------------------------------------------------------------------------------------


def network(sizes):
    def wide_model(params, x):
        *hidden, last = params
        for weight, bias in hidden:
            x = jnp.tanh(x @ weight + bias)
        return x @ last[0] + last[1]

    shapes = itertools.pairwise(sizes)
    params = [
        (jax.ShapeDtypeStruct((i, o), jnp.float64, sharding=WHOLE),
         jax.ShapeDtypeStruct((o,), jnp.float64, sharding=WHOLE))
        for i, o in shapes
    ]  # fmt: skip
    return wide_model, params


def compiled_step(rule, objective, params, examples, sizes):
    """The text of a whole step, compiled for eight devices and never run."""
    batch = tuple(
        jax.ShapeDtypeStruct((examples, size), jnp.float64, sharding=SPLIT)
        for size in (sizes[0], sizes[-1])
    )

    def step(params, state, batch):
        return loop.step(rule, params, objective.on(batch), state)

    state = jax.eval_shape(rule.init, params)
    state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=WHOLE), state)
    return jax.jit(step, out_shardings=WHOLE).lower(params, state, batch).compile().as_text()


def moved(text):
    return sum(one.bytes for one in collectives(text))


def test_no_jacobian_travels():
    """Operands, deltas, a matrix among the rows and J^T u travel, and nothing else."""
    sizes, examples, word = (8, 1024, 1024, 1), 256, 8
    wide_model, params = network(sizes)
    objective = Objective(wide_model, losses.half_squared_error)
    rule = rules.levenberg_marquardt(solver=solvers.dual())
    moves = moved(compiled_step(rule, objective, params, examples, sizes))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    captured = examples * (sum(sizes[:-1]) + 2 * sum(sizes[1:]))
    assert examples * sum(sizes[:-1]) * word < moves
    assert moves < word * (2 * count + captured + 2 * examples**2) < word * examples * count / 50


@pytest.mark.parametrize(
    ("solver", "chunk", "loss"),
    [
        (solvers.dual(), None, losses.half_squared_error),
        (solvers.dual(), 16, losses.half_squared_error),
        (solvers.primal(), None, losses.half_squared_error),
        (solvers.conjugate_gradients(5), 16, losses.huber(0.5)),  # whose rest is put in order
    ],
    ids=["dual", "dual in chunks", "primal", "conjugate gradients in chunks"],
)
def test_tiles_and_chunks_are_of_shared_examples(solver, chunk, loss):
    """With a small budget, or chunks, the step is the same, and captures alone travel."""
    sizes, examples = (8, 8, 2), 64
    wide_model, params = network(sizes)
    objective = Objective(wide_model, loss)
    keys = iter(jax.random.split(jax.random.key(0), 9))
    params = jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), params)
    batch = tuple(jax.random.normal(next(keys), (examples, size)) for size in (8, 2))
    rule = rules.gauss_newton(damping=0.1, solver=solver, memory_budget=2**14)
    path = walk(rule, 1)
    split = objective.on(jax.device_put(batch, SPLIT), chunk=chunk)
    shared = path.lower(params, split).compile()
    assert_same(shared(params, split), path(params, objective.on(batch, chunk=chunk)))
    found = collectives(shared.as_text())
    gathered = max([one.bytes for one in found if one.kind == "all-gather"], default=0)
    if solver is solvers.dual():
        assert gathered == (2 * examples) ** 2 * 8
    else:
        assert gathered == 0


def test_weights_send_one_example():
    """The one that is sent is not padding."""
    inputs, targets = data(128)
    batch = inputs.at[0].set(jnp.nan), targets

    @jax.jit
    def value(batch):
        return OBJECTIVE.on(batch, weights=jnp.arange(128.0))(initial())

    shared = value.lower(jax.device_put(batch, SPLIT)).compile()
    assert_same(shared(jax.device_put(batch, SPLIT)), value(batch))
    assert moved(shared.as_text()) < 100


def test_collectives_are_read_from_compiled_programs():
    """They are counted in a loop and outside of one; on one device there are none."""

    def fn(x):
        total = x.sum(0)
        return jax.lax.fori_loop(0, x.shape[1], lambda _, s: s + (x + s).sum(0), total)

    x = jax.ShapeDtypeStruct((16, 5), jnp.float32, sharding=SPLIT)
    found = collectives(jax.jit(fn).lower(x).compile().as_text())
    assert [(one.kind, one.bytes) for one in found] == [("all-reduce", 20)] * 2
    assert {one.looped for one in found} == {True, False}
    assert not collectives(jax.jit(fn).lower(jnp.ones((16, 5))).compile().as_text())
    gpu = """
    %ag = ((f32[4], u8[8]), (f32[8], u8[16])) all-gather-start(%a, %b), replica_groups={{0,1}}
    %agd = (f32[8], u8[16]) all-gather-done(%ag)
    %rs = bf16[6]{0} reduce-scatter(%c), replica_groups=[2,4]<=[8], dimensions={0}
    %ar = (f32[2]{0}, pred[3]{0}) all-reduce(%d, %e), replica_groups={}
    """
    assert [one.bytes for one in collectives(gpu)] == [48, 48, 11]


# fit ----------------------------------------------------------------------------------------------


def shared_fit(*args, **options):
    return fit(*args, **options, sharding=SPLIT)


def same_fits(rule, objective, examples, **options):
    """The fits of one device and of eight, which must arrive at the same."""
    alone, shared = (
        run(rule, objective, initial(), examples, **options) for run in (fit, shared_fit)
    )
    assert_same(shared.params, alone.params)
    assert_same(shared.history, alone.history)
    assert shared.stopped == alone.stopped
    for leaf in jax.tree.leaves((shared.params, shared.state)):
        assert leaf.sharding.is_equivalent_to(WHOLE, leaf.ndim)
    return shared


def test_fit_shuffles_and_validates_like_one_device():
    """The devices do not divide the number of examples, and the last batch is padded."""
    examples = jax.tree.map(lambda a: a[:-5], data(64, noise=0.1))
    validation = jax.tree.map(lambda a: a[:21], data(64))
    same_fits(
        rules.gauss_newton(damping=0.1, solver=solvers.dual()),
        OBJECTIVE + l2(1e-2),
        examples,
        epochs=4,
        batch_size=24,
        key=jax.random.key(0),
        validation=validation,
        patience=3,
        metrics={"largest": lambda outputs, _: jnp.max(outputs)},
    )


def test_fit_takes_value_functions_drawn_ones_and_streams():
    rule = rules.adam(1e-2)
    whole = OBJECTIVE.on(data(), weights=jnp.arange(16.0)) + l2(1e-2)
    same_fits(rule, whole, None, steps=6, validation=whole)
    batches = [tuple(np.asarray(a[i : i + 16]) for a in data(56)) for i in range(0, 56, 16)]
    same_fits(rule, OBJECTIVE, batches, epochs=3, validation=data())

    def draw(key):
        return Objective(lambda p, x: model(p, x)).on(jax.random.normal(key, (16, 3)))

    same_fits(rule, draw, None, steps=6, key=jax.random.key(3))


def test_a_second_call_compiles_nothing():
    traces = []

    def counted(params, x):
        traces.append(1)
        return model(params, x)

    objective, rule = Objective(counted, losses.half_squared_error), rules.adam(1e-2)
    first = shared_fit(rule, objective, initial(), data(), steps=3)
    before = len(traces)
    shared_fit(rule, objective, first.params, data(), steps=5, state=first.state)
    assert len(traces) - before <= 1  # the check of the data


def test_batches_do_not_travel():
    """Each device holds the data where batches are drawn from them, and takes its share."""
    rule = rules.sgd(1e-2)
    source = source_of(OBJECTIVE, data(64), batch_size=16, key=jax.random.key(0))

    @jax.jit
    def step(params, number):
        value_fn = placement.split(source.epoch(number)(0), SPLIT)
        return loop.update(rule, params, value_fn)[0]

    placed = placement.placed((initial(), jnp.asarray(1)), WHOLE)
    found = collectives(step.lower(*placed).compile().as_text())
    assert found
    assert sum(one.bytes for one in found) < 16 * 3 * 8


def test_what_lies_on_the_mesh_stays_and_explicit_meshes_are_welcome():
    """Parameters may be split too; `jax.make_mesh` makes a mesh of explicit axes."""
    mesh = jax.make_mesh((4, 2), ("examples", "outputs"), axis_types=(AxisType.Explicit,) * 2)
    columns = NamedSharding(mesh, PartitionSpec(None, "outputs"))
    start = initial() | {"w": jax.device_put(initial()["w"], columns)}
    rule = rules.adam(1e-2)
    over = NamedSharding(mesh, PartitionSpec("examples"))
    shared = fit(rule, OBJECTIVE, start, data(), steps=5, sharding=over)
    assert_same(shared.params, fit(rule, OBJECTIVE, initial(), data(), steps=5).params)
    assert shared.params["w"].sharding.spec == columns.spec


@pytest.mark.parametrize(
    ("sharding", "kind", "message"),
    [
        (MESH, TypeError, r"expected sharding to be a jax.NamedSharding, got Mesh; try"),
        (WHOLE, ValueError, r"along an axis of the mesh, 'examples', .*got P.*; try jax.P\('ex"),
        (NamedSharding(MESH, PartitionSpec(None, "examples")), ValueError, r"and of no other axis"),
    ],
    ids=["a mesh", "no axis", "another axis"],
)
def test_what_is_no_sharding_of_examples_is_named(sharding, kind, message):
    with pytest.raises(kind, match=rf"(?s)fit: .*{message}"):
        fit(rules.sgd(0.1), OBJECTIVE, initial(), data(), steps=1, sharding=sharding)


@pytest.mark.parametrize(
    ("objective", "examples", "options"),
    [
        (OBJECTIVE, data(20), {"steps": 1}),
        (OBJECTIVE, data(32), {"steps": 1, "batch_size": 12, "key": jax.random.key(0)}),
        (OBJECTIVE, [data(20)], {"steps": 1}),
        (OBJECTIVE.on(data(20)), None, {"steps": 1}),
        (lambda _: OBJECTIVE.on(data(20)), None, {"steps": 1, "key": jax.random.key(0)}),
    ],
    ids=["data", "batches", "a stream", "a value function", "drawn"],
)
def test_batches_that_devices_cannot_share_are_refused(objective, examples, options):
    with pytest.raises(ValueError, match=r"8 devices share equally, got (20|12) .*; try (16|8) "):
        shared_fit(rules.sgd(0.1), objective, initial(), examples, **options)


def test_devices_of_different_kinds_are_refused():
    devices = [SimpleNamespace(device_kind=kind) for kind in ("H100", "A100", "H100")]
    with pytest.raises(ValueError, match="of one kind, got A100 and H100; try"):
        placement.require_one_kind(devices)
    placement.require_one_kind(devices[::2])
