"""Networks of the lectures end to end: digits from files and from scikit-learn, sharing, skips."""

import struct

import jax
import jax.numpy as jnp
import numpy as np

import fnn
from fnn import Objective, data, layers, losses, problems, rules


def idx(array):
    """The bytes of an IDX file of unsigned bytes."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def network(hidden):
    return layers.serial(layers.dense(hidden), layers.elementwise(jax.nn.sigmoid), layers.dense(10))


def test_784_15_10_on_files_of_mnists_format(tmp_path):
    """Digits of scikit-learn, three pixels wide each, in the corner of 28 x 28 bytes."""
    inputs, targets = data.digits()
    small = np.round(255 * inputs[:900].reshape(-1, 8, 8)).repeat(3, axis=1).repeat(3, axis=2)
    images = np.pad(small, ((0, 0), (2, 2), (2, 2)))
    for part, rows in (("train", slice(0, 600)), ("t10k", slice(600, 900))):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images[rows]))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(targets[:900][rows]))
    train, test = data.mnist(tmp_path)
    assert train.inputs.shape == (600, 784)
    assert (train.inputs.min(), train.inputs.max()) == (0, 1)

    model = network(15)
    params = jax.tree.map(
        lambda p: p.astype(jnp.float32), jax.jit(model.init)(jax.random.key(0), train.inputs[0])
    )
    assert sum(p.size for p in jax.tree.leaves(params)) == 784 * 15 + 15 + 15 * 10 + 10
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    plan = {"epochs": 30, "batch_size": 50, "key": jax.random.key(1)}
    params = fnn.fit(rules.adam(0.01), objective, params, train, **plan).params
    outputs = objective.outputs(params, test.inputs)
    assert problems.problem.accuracy(outputs, test.targets) > 0.85
    # softmax changes no answer
    assert jnp.all(jax.nn.softmax(outputs).argmax(axis=1) == outputs.argmax(axis=1))
    assert problems.get("mnist", tmp_path).train.inputs.shape == (550, 784)
    raced = problems.get("mnist-15", tmp_path)
    start = jax.eval_shape(raced.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, params)


def test_64_15_10_on_digits_by_cross_entropy_and_slower_by_squared_error():
    train, test = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    model = network(15)
    outputs_of = layers.serial(model, layers.elementwise(jax.nn.sigmoid))

    def squared(outputs, target):
        return losses.half_squared_error(outputs, jax.nn.one_hot(target, 10))

    reached = {}
    for name, objective in (
        ("cross-entropy", Objective(model.apply, losses.softmax_cross_entropy)),
        ("squared error", Objective(lambda p, x: outputs_of.apply((p, ()), x), squared)),
    ):
        params = jax.jit(model.init)(jax.random.key(1), train.inputs[0])
        plan = {"batch_size": 20, "key": jax.random.key(2), "validation": test}
        plan |= {"metrics": {"accuracy": problems.problem.accuracy}}
        run = fnn.fit(rules.sgd(0.5), objective, params, train, epochs=40, **plan)
        reached[name] = run.history.validation["accuracy"]
    fast, slow = reached.values()
    assert fast[-1] > 0.93
    assert np.argmax(slow > 0.85) > 3 * max(np.argmax(fast > 0.85), 1)


def test_a_convolution_is_a_dense_layer_that_shares_its_weights():
    """One kernel in every row: a band matrix, with the gradient summed over where it stands."""
    kernel, x = jnp.array([1.0, -2.0, 0.5]), jnp.array([3.0, 1.0, 4.0, 1.0, 5.0])
    conv = layers.conv(1, (3,), padding="VALID", bias=None)
    band = sum(jnp.eye(5, 3, -k) * kernel[k] for k in range(3))

    def shared(kernel):
        return jnp.sum(conv.apply({"weight": kernel[:, None, None]}, x[:, None]) ** 2)

    np.testing.assert_allclose(conv.apply({"weight": kernel[:, None, None]}, x[:, None])[:, 0],
                               x @ band)  # fmt: skip
    own = jax.grad(lambda band: jnp.sum((x @ band) ** 2))(band)
    summed = [jnp.sum(own * jnp.eye(5, 3, -k)) for k in range(3)]
    np.testing.assert_allclose(jax.grad(shared)(kernel), summed)


def test_a_residual_layer_starts_as_the_identity_and_passes_gradients_on():
    inner = layers.serial(layers.dense(4, weight=jax.nn.initializers.zeros),
                          layers.elementwise(jnp.tanh))  # fmt: skip
    deep = layers.serial(*[layers.residual(inner)] * 50)
    x = jnp.arange(4.0)
    params = deep.init(jax.random.key(0), x)
    np.testing.assert_array_equal(deep.apply(params, x), x)
    np.testing.assert_array_equal(jax.jacobian(deep.apply, 1)(params, x), jnp.eye(4))


def test_a_recurrent_network_is_a_deep_one_with_shared_weights():
    """Unrolled over three steps it is three layers, whose gradients add up."""
    layer = layers.scan_over(layers.elman(2))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    params = layer.init(jax.random.key(0), x)

    def unrolled(*steps):
        h = jnp.zeros(2)
        for step, now in zip(steps, x, strict=True):
            h = jnp.tanh(now @ step["weight"] + h @ step["recurrent"] + step["bias"])
        return jnp.sum(h)

    whole = jax.grad(lambda p: jnp.sum(layer.apply(p, x)[-1]))(params)
    parts = jax.grad(unrolled, argnums=(0, 1, 2))(params, params, params)
    summed = jax.tree.map(lambda *grads: sum(grads), *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), whole, summed)


def test_one_class_and_one_example_are_learned_and_stay_finite():
    """Nothing tells the classes apart: the only class seen is the answer everywhere."""
    inputs, targets = data.digits()
    model = network(15)
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    start = jax.jit(model.init)(jax.random.key(0), inputs[0])
    for rows in (targets == 3, np.arange(1)):
        seen = inputs[rows], targets[rows]
        run = fnn.fit(rules.sgd(0.5), objective, start, seen, steps=100)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
        assert run.history.value[-1] < 0.1
        answers = objective.outputs(run.params, inputs).argmax(axis=1)
        assert jnp.mean(answers == seen[1][0]) > 0.9
