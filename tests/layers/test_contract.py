"""What every exported layer must satisfy; the layers are found by introspection."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import layers

EXAMPLES = 3


def image(n=4, features=4):
    return jax.ShapeDtypeStruct((n, n, features), jnp.float64)


def text(n=5, features=4):
    return jax.ShapeDtypeStruct((n, features), jnp.float64)


def vector(features=4):
    return jax.ShapeDtypeStruct((features,), jnp.float64)


# One layer of every kind, with an example for it. Kinds that take layers get a batch norm and a
# dropout inside, which are the two that care for a key.
INSIDE = layers.serial(layers.batch_norm(), layers.dense(4), layers.dropout(0.5))
CASES = {
    "average_pool": (layers.average_pool((2, 2)), image()),
    "batch_norm": (layers.batch_norm(), image()),
    "bidirectional": (layers.bidirectional(layers.gru(3), layers.lstm(2)), text()),
    "conv": (layers.conv(6, (3, 3), strides=2, groups=2), image()),
    "conv_transpose": (layers.conv_transpose(6, (3, 3), strides=2), image()),
    "dense": (layers.dense(3), vector()),
    "dropout": (layers.dropout(0.5), image()),
    "each": (layers.each(layers.each(INSIDE)), image()),
    "elementwise": (layers.elementwise(jax.nn.silu), image()),
    "embedding": (layers.embedding(7, 3), jax.ShapeDtypeStruct((5,), jnp.int32)),
    "fan_in_add": (layers.fan_in_add(), (vector(), vector())),
    "fan_in_concatenate": (layers.fan_in_concatenate(), (vector(), vector(2))),
    "fan_out": (layers.fan_out(INSIDE, layers.serial(), layers.dense(2)), vector()),
    "flatten": (layers.flatten(), image()),
    "group_norm": (layers.group_norm(2), image()),
    "layer_norm": (layers.layer_norm(), image()),
    "learned_positions": (layers.learned_positions(5), text()),
    "max_pool": (layers.max_pool((2, 2), padding="SAME"), image()),
    "max_pool_indices": (layers.max_pool_indices((2, 2), padding="SAME"), image()),
    "maxout": (layers.maxout(3, 2), vector()),
    "multi_head_attention": (layers.multi_head_attention(2, mask=layers.causal), text()),
    "parallel": (layers.parallel(INSIDE, layers.dense(2)), (vector(), vector(3))),
    "pooled": (layers.pooled(layers.conv(4, (2, 2)), (2, 2)), image()),
    "prelu": (layers.prelu(), image()),
    "radial": (layers.radial(3), vector()),
    "residual": (layers.residual(INSIDE), vector()),
    "rms_norm": (layers.rms_norm(), image()),
    "scan_from": (layers.scan_from(layers.gru(3)), (vector(3), text())),
    "scan_over": (layers.scan_over(layers.gru(3)), text()),
    "serial": (layers.serial(INSIDE, layers.layer_norm(), layers.dense(2)), vector()),
    "sinusoidal_positions": (layers.sinusoidal_positions(), text()),
    "stack": (layers.stack(layers.dense(4), 3), vector()),
    "upsample": (layers.upsample((2, 3), method="linear"), image()),
}
CELLS = {"elman": layers.elman(3), "gru": layers.gru(3), "lstm": layers.lstm(3)}
CASES |= {f"scan_over {name}": (layers.scan_over(cell), text()) for name, cell in CELLS.items()}


def returning(kind):
    public = {name: getattr(layers, name) for name in layers.__all__}
    return {
        name
        for name, f in public.items()
        if inspect.isfunction(f) and inspect.signature(f).return_annotation is kind
    }


def test_every_layer_and_cell_is_a_case():
    assert {name for name in CASES if " " not in name} == returning(layers.Layer)
    assert set(CELLS) == returning(layers.Cell)


def draw(shapes, *batch):
    """Random arrays of these shapes; variances are positive."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return rng.integers(0, 7, (*batch, *leaf.shape), leaf.dtype)
        values = rng.standard_normal((*batch, *leaf.shape)).astype(leaf.dtype)
        return abs(values) if jax.tree_util.keystr(path).endswith("['var']") else values

    return jax.tree_util.tree_map_with_path(one, shapes)


def cast(x, dtype):
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, dtype if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
        ),
        x,
    )


def floating(tree):
    """The leaves that are no indices."""
    return [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def in_training(layer):
    return jax.vmap(
        lambda params, x, key: layer.apply(params, x, key=key), (None, 0, 0), axis_name="examples"
    )


@functools.cache
def behavior(name):
    """Everything the tests below look at, compiled once for each layer."""
    layer, x = CASES[name]

    @jax.jit
    def run(params, inputs, keys):
        def scalar(params, inputs):
            outputs = in_training(layer)(params, inputs, keys)
            return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outputs))

        return {
            "one": layer.apply(params, jax.tree.map(lambda a: a[0], inputs)),
            "mapped": jax.vmap(layer.apply, (None, 0))(params, inputs),
            "training": in_training(layer)(params, inputs, keys),
            "grad": jax.grad(scalar, (0, 1), allow_int=True)(params, inputs),
        }

    params = draw(jax.eval_shape(layer.init, jax.random.key(0), x))
    return run(params, draw(x, EXAMPLES), jax.random.split(jax.random.key(3), EXAMPLES))


def close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), a, b)


each_case = pytest.mark.parametrize("name", CASES)


@each_case
def test_params_are_plain_containers_of_arrays(name):
    layer, x = CASES[name]
    params = jax.eval_shape(layer.init, jax.random.key(0), x)

    def check(params):
        if isinstance(params, dict):
            # Rules that look into their state read a key "value" or "grad" as theirs.
            assert all(isinstance(k, str) and k not in ("value", "grad") for k in params)
            params = tuple(params.values())
        if type(params) is tuple:
            list(map(check, params))
        else:
            assert isinstance(params, jax.ShapeDtypeStruct)

    check(params)
    from_arrays = jax.eval_shape(layer.init, jax.random.key(0), draw(x))
    assert from_arrays == params


def test_init_runs_under_jit_and_depends_on_its_key():
    models = {name: CASES[name] for name in ("conv", "dense", "embedding", "scan_over elman")}

    @jax.jit
    def init(key):
        return {name: layer.init(key, x) for name, (layer, x) in models.items()}

    one, other = init(jax.random.key(0)), init(jax.random.key(1))
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert np.all(np.isfinite(a)), path
        bias = path[-1] == jax.tree_util.DictKey("bias")
        assert np.all(a == 0) if bias else np.all(a != b), path


@each_case
def test_one_example_is_a_slice_of_many(name):
    result = behavior(name)
    close(result["one"], jax.tree.map(lambda a: a[0], result["mapped"]))


@each_case
def test_only_batch_norm_and_dropout_care_for_a_key(name):
    result = behavior(name)
    same = all(
        np.allclose(a, b)
        for a, b in zip(*map(jax.tree.leaves, (result["training"], result["mapped"])), strict=True)
    )
    cares = {"batch_norm", "dropout", "each", "fan_out", "parallel", "residual", "serial"}
    assert same == (name not in cares)


@each_case
def test_gradients_are_finite_and_reach_every_parameter(name):
    for path, grad in jax.tree.leaves_with_path(behavior(name)["grad"]):
        if grad.dtype != jax.dtypes.float0:
            assert np.all(np.isfinite(grad)), path
            still = path[-1] in (jax.tree_util.DictKey("mean"), jax.tree_util.DictKey("var"))
            assert np.any(abs(grad) > 1e-6) != still, path


@each_case
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept(name, dtype):
    layer, x = CASES[name]
    x = cast(x, dtype)
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    kept = jnp.float64 if name == "embedding" else dtype  # of indices comes the default dtype
    statistics = {"mean", "var"}
    for path, leaf in jax.tree.leaves_with_path(params):
        wide = statistics & {getattr(path[-1], "key", None)}
        assert leaf.dtype == (jnp.float32 if wide else kept), path
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct((EXAMPLES, *a.shape), a.dtype), x)
    keys = jax.random.split(jax.random.key(0), EXAMPLES)
    for outputs in (
        jax.eval_shape(layer.apply, params, x),
        jax.eval_shape(in_training(layer), params, batch, keys),
    ):
        assert {leaf.dtype for leaf in floating(outputs)} == {jnp.dtype(kept)}


@each_case
def test_strict_promotion_and_float32_parameters_under_bfloat16_inputs(name):
    layer, x = CASES[name]
    with jax.numpy_dtype_promotion("strict"):
        params = jax.eval_shape(layer.init, jax.random.key(0), x)
        jax.eval_shape(layer.apply, params, x)
    params = jax.eval_shape(layer.init, jax.random.key(0), cast(x, jnp.float32))
    outputs = jax.eval_shape(layer.apply, params, cast(x, jnp.bfloat16))
    if jax.tree.leaves(params) and name != "embedding":  # `serial()` in fan_out hands on bfloat16
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(outputs)}
        assert dtypes - {jnp.dtype(jnp.bfloat16)} == {jnp.dtype(jnp.float32)}


@each_case
def test_without_x64_numpy_arrays_of_float64_become_float32(name):
    layer, x = CASES[name]
    with jax.enable_x64(False):
        params = jax.eval_shape(layer.init, jax.random.key(0), draw(x))
        outputs = jax.eval_shape(layer.apply, params, draw(x))
    for leaf in floating((params, outputs)):
        assert leaf.dtype == jnp.float32


@each_case
def test_names_itself(name):
    layer, _ = CASES[name]
    assert layer.name.startswith(name.split()[0])


def test_two_functions_make_a_layer():
    def apply(params, x, *, key=None):
        return 2 * x if key is None else params

    layer = layers.Layer(lambda *_: (), apply)
    assert layer.through is None
    model = layers.serial(layer, layer)
    assert model.init(jax.random.key(0), jnp.array(1.0)) == ((), ())
    assert model.apply(((), ()), jnp.array(1.0)) == 4
