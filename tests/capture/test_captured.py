"""What a capture promises beside its numbers: transformations, refusals, memory, explanations."""

import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

from fnn import curvature, layers, programs
from fnn.curvature.rows import normal_matrix
from tests.capture.test_exactness import quickly
from tests.capture.zoo import ZOO


def normal(seed, *shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def mlp(sizes, dtype=jnp.float64):
    params = [
        {"w": normal(i, m, n, dtype=dtype) / m**0.5, "b": jnp.zeros(n, dtype)}
        for i, (m, n) in enumerate(pairwise(sizes))
    ]

    def model(params, x):
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        return x @ params[-1]["w"] + params[-1]["b"]

    return model, params


def squared(outputs, target):
    return jnp.eye(outputs.size, dtype=outputs.dtype), outputs - target


def step(model, params, inputs, targets, damping=1e-3):
    """A Levenberg-Marquardt step, and the mean loss, from one capture."""
    captured = curvature.capture(model, params, inputs, squared, targets)
    matrix = curvature.gram(captured)
    rows = jnp.linalg.solve(
        matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype), captured.slopes.reshape(-1)
    )
    update = curvature.transpose_product(captured, rows)
    return jax.tree.map(jnp.subtract, params, update), jnp.mean(captured.slopes**2) / 2


def test_kronecker_factors_of_several_positions():
    """Against operands and deltas written out by hand, K = 2 and three positions."""
    params = {"w": normal(0, 4, 5), "v": normal(1, 5, 2)}
    inputs = normal(2, 6, 3, 4)

    def head(v, z):
        return (jnp.tanh(z) @ v).sum(0)

    leaves = []

    @jax.jit
    def ask(params, inputs):
        captured = curvature.capture(lambda p, x: head(p["v"], x @ p["w"]), params, inputs)
        factors = curvature.kronecker(captured)
        leaves.extend(factor.leaves for factor in factors)
        z = inputs @ params["w"]
        delta = jax.vmap(jax.jacrev(head, 1), (None, 0))(params["v"], z)
        return [(factor.inputs[0], factor.outputs[0]) for factor in factors], z, delta

    (first, second), z, delta = ask(params, inputs)
    assert leaves == [("['w']",), ("['v']",)]
    h = np.tanh(z)
    np.testing.assert_allclose(first[0], np.einsum("nti,ntj->ij", inputs, inputs))
    np.testing.assert_allclose(first[1], np.einsum("nrto,nrtp->op", delta, delta))
    np.testing.assert_allclose(second[0], np.einsum("nti,ntj->ij", h, h))
    np.testing.assert_allclose(second[1], 18 * np.eye(2))


def equations(closed):
    """All equations of a jaxpr, and of those inside."""
    for eqn in closed.jaxpr.eqns:
        yield eqn
        for body in programs.bodies(eqn):
            yield from equations(body)


def many_blocks(captured):
    return curvature.diagonal(captured, memory_budget=1)


@pytest.mark.parametrize("form", ["one place", "every place", "half precision"])
@pytest.mark.parametrize(
    "ask", [curvature.diagonal, many_blocks, curvature.jacobian, curvature.gram, curvature.norms]
)
def test_a_layer_more_is_as_many_equations_more_however_many_there_are(ask, form):
    layer = layers.each(layers.dense(3)) if form == "every place" else layers.dense(3)

    def count(depth):
        model, inputs = layers.serial(*[layer] * depth), jnp.ones((4, 3, 3))
        inputs = inputs if form == "every place" else inputs[:, 0]
        params = model.init(jax.random.key(0), inputs[0])

        def apply(params, x):
            if form == "half precision":
                params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
            return model.apply(params, x)

        def asked(params):
            return ask(curvature.capture(apply, params, inputs))

        return sum(1 for _ in equations(jax.make_jaxpr(asked)(params)))

    assert count(8) - count(4) == 2 * (count(4) - count(2))


def test_branches_and_factorizations_of_stacked_weights_run_one_by_one():
    """A mapped branch runs both arms, and batched calls of LAPACK may deadlock on a CPU."""
    model, params, inputs = ZOO["stacked_branches"]()

    def ask(params):
        captured = curvature.capture(model, params, inputs)
        return curvature.product(captured, params), curvature.transpose_product(
            captured, captured.outputs
        )

    found = {"cond": 0, "cholesky": 0, "triangular_solve": 0}
    for eqn in equations(jax.make_jaxpr(ask)(params)):
        if eqn.primitive.name in found:
            found[eqn.primitive.name] += 1
            assert eqn.primitive.name == "cond" or len(eqn.invars[0].aval.shape) == 2
    assert min(found.values()) > 0


def test_gauss_newton_products_of_stacked_branches_are_plain_ones():
    """J^T J v beside jax.jvp and jax.vjp; the arm that is not taken is NaN."""
    model, params, inputs = ZOO["stacked_branches"]()

    def outputs(params):
        return jax.vmap(lambda x: model(params, x))(inputs)

    def both(params):
        v = jax.tree.map(jnp.cos, params)
        captured = curvature.capture(model, params, inputs)
        product = curvature.transpose_product(captured, curvature.product(captured, v))
        return product, jax.vjp(outputs, params)[1](jax.jvp(outputs, (params,), (v,))[1])[0]

    for got, expected in zip(*map(jax.tree.leaves, quickly(both, params)), strict=True):
        assert expected.any()
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12 * np.max(abs(expected)))


def test_lanes_and_scans():
    """Steps in a scan, in vmapped lanes, equal steps one after another."""
    model, params = mlp([3, 4, 2])
    lanes = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    inputs, targets = normal(7, 5, 3), normal(8, 5, 2)

    def two(params):
        return lax.scan(lambda p, _: step(model, p, inputs, targets), params, length=2)

    final, values = jax.jit(jax.vmap(two))(lanes)
    one = jax.jit(lambda params: step(model, params, inputs, targets))
    for lane in range(2):
        alone = jax.tree.map(lambda p, lane=lane: p[lane], lanes)
        for i in range(2):
            alone, value = one(alone)
            np.testing.assert_allclose(values[lane, i], value, rtol=1e-9)
        for ours, its in zip(jax.tree.leaves(final), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[lane], its, rtol=1e-8)


def test_a_capture_is_a_value():
    """It leaves and enters compiled functions, with what the model closes over."""
    weight = normal(0, 3, 2)

    @jax.jit
    def make(shift, params, inputs):
        return curvature.capture(lambda p, x: jnp.tanh(x @ (p * shift)), params, inputs)

    inputs = normal(1, 4, 3)
    captured = make(2.0, weight, inputs)

    @jax.jit
    def direct(weight, inputs):
        captured = curvature.capture(lambda p, x: jnp.tanh(x @ (p * 2.0)), weight, inputs)
        return curvature.gram(captured)

    np.testing.assert_allclose(jax.jit(curvature.gram)(captured), direct(weight, inputs))


def test_an_adjoint_pair():
    model, params = mlp([3, 4, 2])
    u, v = normal(1, 5, 2), jax.tree.map(lambda p: normal(p.size, *p.shape), params)

    @jax.jit
    def ask(params, inputs):
        captured = curvature.capture(model, params, inputs)
        one = jnp.vdot(u, curvature.product(captured, v))
        return one, optax.tree.vdot(curvature.transpose_product(captured, u), v)

    np.testing.assert_allclose(*ask(params, normal(7, 5, 3)), rtol=1e-12)


def test_the_gram_matrix_is_symmetric_to_the_last_bit():
    """A matrix of several panels, in single precision."""
    model, params = mlp([3, 7, 1], jnp.float32)

    @jax.jit
    def ask(params, inputs):
        captured = curvature.capture(model, params, inputs)
        return curvature.gram(captured), curvature.jacobian(captured)

    matrix, jacobian = ask(params, normal(7, 1031, 3, dtype=jnp.float32))
    rows = np.concatenate([j.reshape(1031, -1) for j in jax.tree.leaves(jacobian)], 1)
    assert matrix.dtype == jnp.float32
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix, rows @ rows.T, rtol=1e-4, atol=1e-5)


def test_a_matrix_in_blocks_is_that_of_all_rows(monkeypatch):
    """Of two rows an example; a leaf by its factors, one by its Jacobian, in blocks of 65 or 66."""

    def model(params, x):
        hidden = jnp.tanh(params["v"] * x @ params["w"])  # v is no view of an entry
        return hidden @ params["w"][:, :2]

    monkeypatch.setattr(sys.modules["fnn.capture.gram"], "_DEAR", 0)
    params = {"v": normal(0, 3), "w": normal(1, 3, 3)}
    captured = curvature.capture(model, params, normal(2, 262, 3))
    jacobian = curvature.jacobian(captured)
    rows = {name: np.asarray(j).reshape(524, -1) for name, j in jacobian.items()}
    whole = curvature.gram(captured, scales={"v": 2.0, "w": 3.0})
    expected = 2 * rows["v"] @ rows["v"].T + 3 * rows["w"] @ rows["w"].T
    np.testing.assert_allclose(whole, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(whole, whole.T)
    weights = jnp.arange(9.0).reshape(3, 3)
    scaled = curvature.gram(captured, scales={"v": 0.0, "w": weights})
    np.testing.assert_allclose(scaled, rows["w"] * weights.ravel() @ rows["w"].T, atol=1e-12)


def test_half_precision_is_accumulated_in_single():
    model, params = mlp([3, 4, 2], jnp.bfloat16)

    @jax.jit
    def ask(inputs):
        captured = curvature.capture(model, params, inputs)
        pulled = curvature.transpose_product(captured, jnp.ones((5, 2), jnp.float32))
        return curvature.gram(captured), pulled, curvature.jacobian(captured)

    gram, pulled, jacobian = ask(normal(7, 5, 3, dtype=jnp.bfloat16))
    assert gram.dtype == jnp.float32
    assert {leaf.dtype.name for leaf in jax.tree.leaves(pulled)} == {"float32"}
    blocks = [j.reshape(10, -1).astype(jnp.float32) for j in jax.tree.leaves(jacobian)]
    rows = jnp.concatenate(blocks, 1)
    sums = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(pulled)])
    assert not np.array_equal(sums, sums.astype(jnp.bfloat16))  # rounded only as its terms are
    np.testing.assert_allclose(sums, rows.sum(0), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(gram, rows @ rows.T, rtol=0.05, atol=0.05)


def test_no_jacobian(memory):
    """The step of a network 1024 wide, on 1024 examples: its Jacobian would take 4.3 GB."""
    model, params = mlp([8, 1024, 1024, 1], jnp.float32)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    inputs, targets = (jax.ShapeDtypeStruct((1024, n), jnp.float32) for n in (8, 1))
    taken = memory(lambda *args: step(model, *args), shapes, inputs, targets)
    assert taken.temp_size_in_bytes + taken.output_size_in_bytes < 150e6


def test_no_parameter_and_no_row_is_no_special_case():
    captured = curvature.capture(lambda _, x: jnp.tanh(x), {}, jnp.ones((3, 2)))
    assert curvature.gram(captured).shape == (6, 6)
    assert not curvature.gram(captured).any()
    assert curvature.transpose_product(captured, jnp.ones((3, 2))) == {}
    np.testing.assert_array_equal(curvature.norms(captured), jnp.zeros((3, 2)))


# --- refusals -----------------------------------------------------------------------------------


def test_complex_parameters_are_refused():
    with pytest.raises(
        TypeError, match=r"expected real parameters, got complex128 at params\['w'\]"
    ):
        curvature.capture(lambda p, x: x * p["w"].real, {"w": 1j * jnp.ones(2)}, jnp.ones((3, 2)))


@pytest.mark.parametrize(
    "model",
    [lambda p, x: (x * p, x), lambda p, x: x > p, lambda p, x: x * (p + 1j)],
    ids=["two outputs", "booleans", "complex"],
)
def test_outputs_that_are_not_one_real_array_are_refused(model):
    with pytest.raises(TypeError, match="expected outputs that are one real array"):
        curvature.capture(model, jnp.ones(2), jnp.ones((3, 2)))


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_examples_that_meet_are_refused(wrap):
    model = wrap(lambda p, x: p * (x - lax.pmean(x, "examples")))
    with pytest.raises(ValueError, match="without a key, or another normalization"):
        curvature.capture(model, jnp.ones(2), jnp.ones((3, 2)))


def test_the_number_of_an_example_may_be_asked_for():
    def model(p, x):
        return p * x * (1 + lax.axis_index("examples"))

    captured = curvature.capture(model, jnp.ones(2), jnp.ones((3, 2)))
    np.testing.assert_array_equal(captured.outputs, [[1, 1], [2, 2], [3, 3]])


def test_arguments_that_do_not_fit_are_refused():
    one = curvature.capture(lambda p, x: p * x, jnp.ones(2), jnp.ones((3, 2)))
    two = curvature.capture(lambda p, x: x @ p, jnp.ones(3), jnp.ones((3, 3)))
    with pytest.raises(ValueError, match=r"at the same parameters, got shapes \(2,\) and \(3,\)"):
        curvature.gram(one, two)
    with pytest.raises(ValueError, match="one number for each of 1 leaves, got 2"):
        curvature.gram(one, scales=[1.0, 2.0])
    for inputs in (jnp.ones(()), {}):
        with pytest.raises(ValueError, match=r"explain: expected .* the examples first, .*; try"):
            curvature.explain(lambda p, _: p, jnp.ones(2), inputs)
    for inputs in (jnp.ones(()), (jnp.ones(3), jnp.ones(4)), ()):
        with pytest.raises(ValueError, match="arrays with the examples first"):
            curvature.capture(lambda p, _: p, jnp.ones(2), inputs)


# --- explanations -------------------------------------------------------------------------------


def test_explain():
    def model(p, x):
        h = jax.nn.relu(x @ p["w"] + p["b"])
        h = h @ (p["v"] / jnp.linalg.norm(p["v"]))
        return h @ p["t"] + jnp.sin(h) @ p["t"][:, ::-1] + jnp.maximum(h, p["floor"]).sum()

    shapes = {"w": (30, 20), "b": (20,), "v": (20, 3), "t": (3, 4), "floor": (3,), "spare": (2,)}
    params = {k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()}
    params["count"] = jax.ShapeDtypeStruct((), jnp.int32)
    told = curvature.explain(model, params, jax.ShapeDtypeStruct((50, 30), jnp.float32), rows=1)
    said = {leaf.path[2:-2]: (leaf.form, leaf.why) for leaf in told.leaves}
    assert said == {
        "b": ("factored", "add"),
        "count": ("none", "a constant: not a real number"),
        "floor": ("factored", "max"),
        "spare": ("none", "not used"),
        "t": ("explicit", "dot_general: uses that overlap in part"),
        "v": ("explicit", "dot_general: not a view of its entries"),
        "w": ("factored", "dot_general"),
    }
    assert len(str(told).splitlines()) == 9
    costs = {leaf.path[2:-2]: leaf for leaf in told.leaves}
    assert costs["w"].flops == 2 * 50**2 * (30 + 20)
    assert costs["w"].memory == 4 * 50 * (30 + 20)
    assert costs["v"].memory == 4 * 50 * (20 + 3 + 60)


def test_explain_calls_a_convolution_what_it_is():
    """Of `layers`, inside of a stack and transposed, too."""
    same = layers.conv(4, (3, 3))
    model = layers.serial(
        layers.conv(6, (1, 1)),
        layers.conv(6, (3, 3), groups=6),
        layers.conv(12, (1, 3), groups=6),
        layers.conv(8, (3, 3), groups=2),
        layers.conv(4, (1, 1), strides=2),
        layers.stack(same, 2),
        layers.conv_transpose(3, (2, 2), strides=2),
        layers.flatten(),
    )
    image = jax.ShapeDtypeStruct((6, 6, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)
    batch = jax.ShapeDtypeStruct((5, 6, 6, 3), jnp.float32)
    told = curvature.explain(model.apply, params, batch)
    assert [leaf.why.split(":")[0] for leaf in told.leaves if "weight" in leaf.path] == [
        "1 x 1 convolution",
        "3 x 3 depthwise convolution",
        "1 x 3 depthwise convolution",
        "3 x 3 convolution in 2 groups",
        "1 x 1 convolution",
        "3 x 3 convolution",
        "2 x 2 convolution",
    ]


def test_slices_that_python_takes_apart_are_views():
    """Newer versions of JAX have an equation of their own for it."""
    model, params, inputs = ZOO["stacked_and_unpacked"]()
    told = curvature.explain(model, params, inputs)
    assert {leaf.why.split(":")[-1] for leaf in told.leaves} == {"dot_general"}
    known = curvature.structure(model, params, inputs[0])
    assert [leaf.matrix for leaf in known.leaves] == [None, (2, 4, 4)]  # a part of u is not read


# --- numbers ------------------------------------------------------------------------------------


def test_norms_near_zero_are_not_negative_roots():
    """Factored, the square of a row that cancels is rounding, of either sign."""
    weight = normal(0, 30, 20, dtype=jnp.float32)
    a, c = normal(1, 64, 1, 30, dtype=jnp.float32), jnp.array([1, 1, -1], jnp.float32)
    inputs = a * jnp.array([0.3, 0.7, 1.0], jnp.float32)[:, None]

    @jax.jit
    def ask(weight, inputs):
        return curvature.norms(curvature.capture(lambda w, x: c @ (x @ w), weight, inputs))

    norms = np.asarray(ask(weight, inputs))
    assert np.all(norms >= 0)
    assert np.max(norms) < 1e-2


def test_a_slice_clamps_its_index_as_the_model_does():
    w, i = jnp.arange(5.0), jnp.array([-7, -5, -1, 0, 4, 9])
    v, u = normal(0, 5), normal(1, 6)

    def ask(model, w, i):
        captured = curvature.capture(model, w, i)
        (jacobian,) = jax.tree.leaves(jax.vmap(jax.grad(model), (None, 0))(w, i))
        said = curvature.product(captured, v)[:, 0], curvature.transpose_product(captured, u)
        return (*said, curvature.gram(captured)), (
            jacobian @ v,
            u @ jacobian,
            jacobian @ jacobian.T,
        )

    for model in (lambda w, i: lax.dynamic_index_in_dim(w, i, keepdims=False), lambda w, i: w[i]):
        said, expected = jax.jit(ask, static_argnums=0)(model, w, i)
        for one, other in zip(said, expected, strict=True):
            np.testing.assert_allclose(one, other)


def test_a_memory_budget_may_be_a_float():

    @jax.jit
    def ask(w, x):
        captured = curvature.capture(lambda w, x: jnp.sin(x @ w), w, x)
        small = [of(captured, 1e3) for of in (curvature.diagonal, curvature.norms, normal_matrix)]
        large = [curvature.diagonal(captured), curvature.norms(captured)]
        return small, [*large, normal_matrix(captured, 2**30)]

    small, large = ask(jnp.ones(3), jnp.ones((300, 2, 3)))
    for one, other, rtol in zip(small, large, (1e-12, 1e-7, 1e-12), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol)


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_weight_and_its_bias_share_their_delta(outputs):
    def model(params, x):
        hidden = jnp.tanh(x @ params["w"] + params["b"])
        return hidden @ params["v"]

    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4), "v": jnp.ones((4, outputs))}

    def deltas(params, x):
        captured = curvature.capture(model, params, x)
        assert len({id(delta) for delta in captured.deltas}) == 2 < len(captured.deltas)
        return captured.deltas

    jax.eval_shape(deltas, params, jnp.ones((5, 3)))
