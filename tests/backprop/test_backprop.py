"""The explicit algorithm of back-propagation, against `jax.grad` and against numbers by hand."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, backprop, l2, layers, losses
from fnn.backprop import Node

sigmoid = layers.elementwise(jax.nn.sigmoid)


def given(numbers):
    return lambda _key, _shape, _dtype: jnp.asarray(numbers)


def two_two_one(start=0.1):
    """The lectures' network, all weights and biases alike."""
    alike = {"weight": jax.nn.initializers.constant(start)}
    alike["bias"] = alike["weight"]
    model = layers.serial(layers.dense(2, **alike), sigmoid, layers.dense(1, **alike), sigmoid)
    return model, model.init(jax.random.key(0), jnp.zeros(2))


def mazur():
    model = layers.serial(
        layers.dense(2, weight=given([[0.15, 0.25], [0.20, 0.30]]), bias=given([0.35, 0.35])),
        sigmoid,
        layers.dense(2, weight=given([[0.40, 0.50], [0.45, 0.55]]), bias=given([0.60, 0.60])),
        sigmoid,
    )
    return model, model.init(jax.random.key(0), jnp.zeros(2))


NETWORKS = {
    "digits": (layers.serial(layers.dense(5), layers.elementwise(jnp.tanh), layers.dense(3)), 4),
    "nested": (
        layers.serial(
            layers.serial(layers.dense(4), layers.serial(layers.elementwise(jax.nn.softplus))),
            layers.residual(layers.serial(layers.dense(4), layers.prelu())),
            layers.maxout(3, 2),
        ),
        4,
    ),
    "empty": (layers.serial(), 3),
    "one piece": (layers.dense(3), 4),
    "images": (
        layers.serial(layers.conv(2, (3, 3)), layers.max_pool((2, 2)), layers.flatten(),
                      layers.dense(3)),
        (4, 4, 1),
    ),
}  # fmt: skip


# --- trace ---


@pytest.mark.parametrize("name", NETWORKS)
def test_trace_is_jax_grad_of_any_serial_network(name):
    """One example and, under vmap, a batch: the mean of the gradients is that of the mean."""
    model, shape = NETWORKS[name]
    shape = shape if isinstance(shape, tuple) else (shape,)
    x = jax.random.normal(jax.random.key(0), (6, *shape))
    t = jnp.arange(6) % 3
    params = jax.jit(model.init)(jax.random.key(1), x[0])
    loss = losses.softmax_cross_entropy

    def value(params, x, t):
        return loss(model.apply(params, x), t)

    @jax.jit
    def ask(params, x, t):
        trace = functools.partial(backprop.trace, model, loss)
        slopes = jax.value_and_grad(value, (0, 1))
        many = [jax.vmap(one, (None, 0, 0))(params, x, t) for one in (trace, slopes)]
        return *many, jax.grad(Objective(model.apply, loss).on((x, t)))(params)

    traced, exact, mean = ask(params, x, t)
    ours = traced.value, (traced.grad, traced.delta)
    assert jax.tree.structure(ours) == jax.tree.structure(exact)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-15), ours, exact)
    ours = jax.tree.map(lambda g: np.mean(g, axis=0), traced.grad)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-15), ours, mean)
    for before, after in zip(traced.parts[:-1], traced.parts[1:], strict=True):
        np.testing.assert_array_equal(before.outputs, after.inputs)


def test_deltas_are_the_formulas_of_the_lectures():
    """delta_j = h'(a_j) sum_k w_kj delta_k, dE/dw_ji = delta_j z_i: line 19, and two slips of it.

    The slips are the receiver's activation in place of the sender's, and f (f - 1).
    """
    model, params = mazur()
    x, t = jnp.array([0.05, 0.10]), jnp.array([0.01, 0.99])
    traced = backprop.trace(model, losses.half_squared_error, params, x, t)
    first, hidden, last, out = traced.parts
    y, z = out.outputs, hidden.outputs
    np.testing.assert_allclose(out.delta, y - t, rtol=1e-14)
    np.testing.assert_allclose(last.delta, (y - t) * y * (1 - y), rtol=1e-12)
    np.testing.assert_allclose(hidden.delta, last.params["weight"] @ last.delta, rtol=1e-12)
    np.testing.assert_allclose(first.delta, z * (1 - z) * hidden.delta, rtol=1e-12)
    np.testing.assert_allclose(first.grad["weight"], np.outer(x, first.delta), rtol=1e-12)
    np.testing.assert_allclose(last.grad["weight"], np.outer(z, last.delta), rtol=1e-12)
    np.testing.assert_allclose(last.grad["bias"], last.delta, rtol=1e-14)
    assert np.all(abs(last.grad["weight"] - np.outer(y, last.delta)) > 1e-3)
    assert np.all(np.sign(z * (z - 1) * hidden.delta) == -np.sign(first.delta))


def test_matrix_form_of_a_batch():
    """dL/dW = X^T dL/dY, dL/dX = dL/dY W^T, dL/db = column sums, which one example hides."""
    model, n = layers.dense(3), 5
    x = jax.random.normal(jax.random.key(0), (n, 4))
    t = jax.random.normal(jax.random.key(1), (n, 3))
    params = jax.jit(model.init)(jax.random.key(2), x[0])
    trace = functools.partial(backprop.trace, model, losses.half_squared_error)
    traced = jax.jit(jax.vmap(trace, (None, 0, 0)))(params, x, t)
    (part,) = jax.tree.map(np.asarray, traced.parts)
    total = jax.tree.map(lambda g: np.sum(g, axis=0), traced.grad)
    np.testing.assert_allclose(total["weight"], x.T @ part.delta, rtol=1e-11)
    np.testing.assert_allclose(traced.delta, part.delta @ params["weight"].T, rtol=1e-11)
    np.testing.assert_allclose(total["bias"], part.delta.sum(axis=0), rtol=1e-11)
    assert total["bias"].shape != part.delta.shape


def test_the_jacobian_by_one_backward_pass_for_every_output():
    model, params = mazur()
    x = jnp.array([0.05, 0.10])

    def output(k):
        return lambda outputs, _: outputs[k]

    rows = [backprop.trace(model, output(k), params, x, None).delta for k in range(2)]
    forward = jax.jacfwd(lambda x: model.apply(params, x))(x)
    np.testing.assert_allclose(rows, forward, rtol=1e-12)


def test_the_matching_pair_gives_y_minus_t_and_no_other_does():
    """Line 18: logistic with cross-entropy, softmax with its own; squares carry h'(a)."""
    x, t = jnp.array([0.05, 0.10]), jnp.array([0.01, 0.99])
    model, params = mazur()
    raw = layers.serial(*[model._replace(name="whole")])  # logistic outputs inside
    assert len(backprop.trace(raw, losses.half_squared_error, (params,), x, t).parts) == 1
    logits = layers.serial(layers.dense(2), sigmoid, layers.dense(2))
    for loss, output in (
        (losses.half_squared_error, lambda a: a),
        (losses.logistic, jax.nn.sigmoid),
        (losses.softmax_cross_entropy, jax.nn.softmax),
    ):
        last = backprop.trace(logits, loss, params[:3], x, t).parts[-1]
        np.testing.assert_allclose(last.delta, output(last.outputs) - t, rtol=1e-10, atol=1e-15)
    squares = backprop.trace(model, losses.half_squared_error, params, x, t)
    y = squares.parts[-1].outputs
    assert np.all(abs(squares.parts[2].delta - (y - t)) > 0.1)


def test_all_deltas_come_before_any_update():
    """Mazur's hidden gradient is with the weights from before; with those after it is another."""
    model, params = mazur()
    x, t = jnp.array([0.05, 0.10]), jnp.array([0.01, 0.99])
    traced = backprop.trace(model, losses.half_squared_error, params, x, t)
    assert f"{traced.value:.9f}" == "0.298371109"
    assert f"{traced.grad[0]['weight'][0, 0]:.9f}" == "0.000438568"
    after = params[2]["weight"] - 0.5 * traced.grad[2]["weight"]
    z, delta = traced.parts[1].outputs, traced.parts[2].delta
    slipped = np.outer(x, z * (1 - z) * (after @ delta))
    assert f"{slipped[0, 0]:.9f}" != "0.000438568"


def test_two_two_one_to_the_digits_of_the_lectures():
    """Both examples with momentum in the textbook's form, from traces alone."""
    model, params = two_two_one()
    trace = jax.jit(functools.partial(backprop.trace, model, losses.half_squared_error))
    velocity = jax.tree.map(jnp.zeros_like, params)
    steps = (
        ((1.0, 0.0), 0.9, "0.5498 0.5498 0.5523 0.0860 0.00213",
         "0.1095 0.1172 0.1004 0.1000 0.1004"),
        ((0.0, 1.0), -0.3, "0.5499 0.5499 0.5591 -0.2118 -0.00574",
         "0.0947 0.0903 0.1008 0.0989 0.0997"),
    )  # fmt: skip
    for x, t, before, after in steps:
        traced = trace(params, jnp.array(x), jnp.array([t]))
        h, y = traced.parts[1].outputs, traced.parts[3].outputs
        delta, hidden = -traced.parts[2].delta[0], -traced.parts[0].delta[0]
        numbers = f"{h[0]:.4f} {h[1]:.4f} {y[0]:.4f} {delta:.4f} {hidden:.5f}"
        assert numbers == before
        velocity = jax.tree.map(lambda v, g: -0.2 * g + 0.9 * v, velocity, traced.grad)
        params = jax.tree.map(jnp.add, params, velocity)
        first, last = params[0], params[2]
        numbers = (last["weight"][0, 0], last["bias"][0], *first["weight"][:, 0], first["bias"][0])
        assert " ".join(f"{number:.4f}" for number in numbers) == after
        np.testing.assert_array_equal(first["weight"][:, 0], first["weight"][:, 1])
    assert f"{model.apply(params, jnp.ones(2))[0]:.4f}" == "0.5496"
    assert model.apply(params, jnp.ones(2))[0] > 0 > -0.3  # which no logistic reaches


def test_refusals_of_trace():
    model, params = two_two_one()
    x, t, loss = jnp.ones(2), jnp.ones(1), losses.half_squared_error
    with pytest.raises(TypeError, match="trace: expected a Layer, got apply"):
        backprop.trace(model.apply, loss, params, x, t)
    with pytest.raises(ValueError, match="serial: expected params for 4 layers, got 2"):
        backprop.trace(model, loss, params[:2], x, t)
    with pytest.raises(ValueError, match=r"dense\(2\): expected one example"):
        backprop.trace(model, loss, params, x[None], t)
    with pytest.raises(IndexError, match=r"expected a part in 0..3, got 4; try -1"):
        backprop.value_after(model, loss, params, t, 4)


# --- the table ---


def test_the_table_is_the_blackboard():
    model, params = two_two_one()
    traced = backprop.trace(
        model, losses.half_squared_error, params, jnp.array([1.0, 0.0]), jnp.array([0.9])
    )
    table = backprop.table(traced, 0.2)
    text = str(table)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["E", "=", "0.0604"]
    assert ["dense(1)", "0", "0.2100", "-0.0860"] in lines
    assert ["elementwise(sigmoid)", "0", "0.5523", "-0.3477"] in lines
    assert ["[2]['bias'][0]", "0.1000", "-0.0860", "0.1172"] in lines
    assert ["[2]['weight'][1,", "0]", "0.1000", "-0.0473", "0.1095"] in lines
    assert "-0.0000" not in text
    assert len(table.units) == 2 + 2 + 2 + 1 + 1
    assert len(table.parameters) == 9
    page = table._repr_html_()
    assert page.count("<tr>") == 2 + len(table.units) + len(table.parameters)
    assert "[&#x27;bias&#x27;]" in page
    with pytest.raises(ValueError, match="expected digits >= 0, got -1"):
        backprop.table(traced, 0.2, digits=-1)
    batch = jax.tree.map(lambda a: a[None], traced)
    with pytest.raises(ValueError, match=r"trace of one example, got losses of shape \(1,\)"):
        backprop.table(batch, 0.2)


# --- finite differences ---


def test_checking_finds_right_gradients_right_and_names_the_wrong_entry():
    """Of weights and, by perturbing one a_j, of every delta (line 26)."""
    model, params = mazur()
    x, t = jnp.array([0.05, 0.10]), jnp.array([0.01, 0.99])
    loss = losses.half_squared_error
    value_fn = Objective(model.apply, loss).on((x[None], t[None])) + l2(1e-2)
    assert backprop.check(value_fn, params).error < 1e-8
    traced = backprop.trace(model, loss, params, x, t)
    for i, part in enumerate(traced.parts):
        value = backprop.value_after(model, loss, params, t, i)
        assert backprop.check(value, part.outputs, part.delta).error < 1e-8
    assert (
        backprop.value_after(model, loss, params, t, -1)(traced.parts[-1].outputs) == traced.value
    )

    value_fn = Objective(model.apply, loss).on((x[None], t[None]))
    wrong = jax.tree.map(lambda g: g, traced.grad)
    wrong[2]["weight"] = wrong[2]["weight"].at[1, 0].multiply(1.01)
    found = backprop.check(value_fn, params, wrong)
    assert found.where == "[2]['weight'][1, 0]"
    assert 1e-3 < found.error < 1e-2
    climbing = jax.tree.map(jnp.negative, traced.grad)  # the sign slipped
    assert backprop.check(value_fn, params, climbing).error > 1
    broken = jax.tree.map(lambda g: g * jnp.nan, traced.grad)
    assert backprop.check(value_fn, params, broken).error == np.inf


def test_central_differences_err_with_the_square_of_the_step_and_then_with_rounding():
    """Symbolic, numeric and automatic differentiation of x exp(-x^2) compared (line 25)."""

    def fn(x):
        return x * jnp.exp(-(x**2))

    x = 0.7
    symbolic = (1 - 2 * x**2) * np.exp(-(x**2))
    np.testing.assert_allclose(jax.grad(fn)(x), symbolic, rtol=1e-13)
    errors = {
        h: abs(float(backprop.numeric_gradient(fn, jnp.asarray(x), h)) - symbolic)
        for h in (1e-2, 1e-3, 1e-13)
    }
    assert errors[1e-2] / errors[1e-3] == pytest.approx(100, rel=1e-2)
    assert errors[1e-13] > 1e-6 > errors[1e-3]
    at_best = backprop.numeric_gradient(fn, jnp.asarray(x))
    np.testing.assert_allclose(at_best, symbolic, rtol=1e-8)
    single = backprop.numeric_gradient(fn, jnp.asarray(x, jnp.float32))
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, symbolic, rtol=1e-3, atol=1e-4)


def test_refusals_of_differences():
    def fn(w):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(w))

    with pytest.raises(TypeError, match=r"floating-point numbers, got int64; .*astype\(float\)"):
        backprop.numeric_gradient(fn, jnp.arange(3))
    with pytest.raises(ValueError, match="expected numbers to perturb, got none"):
        backprop.numeric_gradient(fn, ())
    with pytest.raises(ValueError, match="a step above 0, got 0"):
        backprop.numeric_gradient(fn, jnp.ones(2), 0)
    with pytest.raises(ValueError, match=r"expected a gradient of shapes \[\(2,\)\] .*grad=None"):
        backprop.check(fn, jnp.ones(2), jnp.ones((2, 1)))


# --- graphs ---

PRODUCT_OF_SUM = {"s": Node(operator.add, ("a", "b")), "d": Node(operator.mul, ("a", "s"))}


def test_forward_and_reverse_on_a_times_a_plus_b():
    """d = a (a + b) at (4, 3): 11 and 4; a forward sweep for each input, one reverse for both."""
    at = {"a": 4.0, "b": 3.0}
    assert backprop.evaluate(PRODUCT_OF_SUM, at) == {"a": 4, "b": 3, "s": 7, "d": 28}
    assert backprop.forward(PRODUCT_OF_SUM, at, "a") == {"a": 1, "b": 0, "s": 1, "d": 11}
    assert backprop.forward(PRODUCT_OF_SUM, at, "b") == {"a": 0, "b": 1, "s": 1, "d": 4}
    assert backprop.reverse(PRODUCT_OF_SUM, at, "d") == {"a": 11, "b": 4, "s": 4, "d": 1}
    assert backprop.reverse(PRODUCT_OF_SUM, at, "s") == {"a": 1, "b": 1, "s": 1, "d": 0}
    assert backprop.path_sum(PRODUCT_OF_SUM, at, "a", "d") == (11, 2)
    assert backprop.path_sum(PRODUCT_OF_SUM, at, "b", "d") == (4, 1)
    assert backprop.path_sum(PRODUCT_OF_SUM, at, "d", "s") == (0, 0)


def test_thirty_two_paths():
    """Five layers of two nodes that multiply what comes: o = w^32, do/dw = 32 w^31 (line 24).

    From the output back w^16, 2 w^24, 4 w^28, 8 w^30, 16 w^31. The slip is 2 w^16 for the first:
    doubled in every layer that should have been, it ends at 1024 w^31.
    """
    graph = {f"1{side}": Node(operator.pos, ("w",)) for side in "ab"}
    for layer in range(2, 6):
        both = f"{layer - 1}a", f"{layer - 1}b"
        graph |= {f"{layer}{side}": Node(operator.mul, both) for side in "ab"}
    graph["o"] = Node(operator.mul, ("5a", "5b"))
    w = 1.1
    adjoints = backprop.reverse(graph, {"w": w}, "o")
    expected = {"5": w**16, "4": 2 * w**24, "3": 4 * w**28, "2": 8 * w**30, "1": 16 * w**31}
    for layer, exact in expected.items():
        for side in "ab":
            np.testing.assert_allclose(adjoints[layer + side], exact, rtol=1e-13)
    derivative, paths = backprop.path_sum(graph, {"w": w}, "w", "o")
    assert paths == 32
    tangent = backprop.forward(graph, {"w": w}, "w")["o"]
    for way in (derivative, adjoints["w"], tangent):
        np.testing.assert_allclose(way, 32 * w**31, rtol=1e-13)
    np.testing.assert_allclose(backprop.evaluate(graph, {"w": w})["o"], w**32, rtol=1e-13)


def test_graphs_of_the_lectures():
    """A product, a logistic unit, f(f(f(w))), and parameters that come twice, against jax.grad."""
    cases = [
        ({"z": Node(operator.mul, ("x", "y"))}, {"x": 3.0, "y": 4.0}, lambda x, y: x * y),
        (
            {
                "u": Node(operator.mul, ("w", "x")),
                "a": Node(operator.add, ("u", "b")),
                "p": Node(jax.nn.sigmoid, ("a",)),
                "E": Node(lambda p: -jnp.log(p), ("p",)),
            },
            {"w": 0.5, "x": 2.0, "b": -0.3},
            lambda w, x, b: jax.nn.softplus(-(w * x + b)),
        ),
        (
            {f: Node(jnp.sin, (before,)) for f, before in (("1", "w"), ("2", "1"), ("3", "2"))},
            {"w": 0.9},
            lambda w: jnp.sin(jnp.sin(jnp.sin(w))),
        ),
        ({"z": Node(operator.mul, ("x", "x"))}, {"x": 3.0}, lambda x: x**2),
    ]
    for graph, inputs, fn in cases:
        exact = jax.grad(fn, tuple(range(len(inputs))))(*inputs.values())
        adjoints = backprop.reverse(graph, inputs, [*graph][-1])
        for name, slope in zip(inputs, exact, strict=True):
            for way in (
                adjoints[name],
                backprop.forward(graph, inputs, name)[[*graph][-1]],
                backprop.path_sum(graph, inputs, name, [*graph][-1]).derivative,
            ):
                np.testing.assert_allclose(way, slope, rtol=1e-13)


def test_vector_chain_rule_and_the_jacobian_that_slipped():
    """y = (x1, x1 sin x2), f = y1 + 2 y2: gradient (1 + 2 sin x2, 2 x1 cos x2) (line 23)."""
    x = jnp.array([0.7, 0.4])

    def inner(x):
        return jnp.array([x[0], x[0] * jnp.sin(x[1])])

    jacobian = jax.jacrev(inner)(x)
    np.testing.assert_allclose(jacobian[1], [np.sin(0.4), 0.7 * np.cos(0.4)], rtol=1e-14)
    grad = jax.grad(lambda x: inner(x) @ jnp.array([1.0, 2.0]))(x)
    np.testing.assert_allclose(grad, jacobian.T @ jnp.array([1.0, 2.0]), rtol=1e-14)
    np.testing.assert_allclose(grad, [1 + 2 * np.sin(0.4), 2 * 0.7 * np.cos(0.4)], rtol=1e-14)


def test_the_derivative_is_a_program_again_and_may_recompute():
    """f(f(f(w))) differentiates again and again; `jax.checkpoint` computes sines twice, to save."""

    def thrice(w):
        return jnp.sin(jnp.sin(jnp.sin(w)))

    stored, recomputed = thrice, jax.checkpoint(thrice)
    programs = [str(jax.make_jaxpr(jax.grad(f))(0.9)) for f in (stored, recomputed)]
    assert [program.count("= sin ") for program in programs] == [3, 5]
    for order in range(1, 4):
        stored, recomputed = jax.grad(stored), jax.grad(recomputed)
        np.testing.assert_allclose(recomputed(0.9), stored(0.9), rtol=1e-13, err_msg=str(order))


def test_weight_decay_of_a_hidden_layer_leaves_biases_free():
    """Cross-entropy + lambda (sum W1^2 + sum W2^2): the gradient of the penalty is 2 lambda W."""
    model = NETWORKS["digits"][0]
    x, t = jax.random.normal(jax.random.key(0), (6, 4)), jnp.arange(6) % 3
    params = jax.jit(model.init)(jax.random.key(1), x[0])
    weights = jax.tree_util.tree_map_with_path(lambda path, _: "weight" in str(path), params)
    objective, decay = Objective(model.apply, losses.softmax_cross_entropy), 0.01

    @jax.jit
    def ask(params):
        value_fn = objective.on((x, t))
        decayed = value_fn + l2(2 * decay, where=weights)  # l2 halves
        return jax.tree.map(jnp.subtract, jax.grad(decayed)(params), jax.grad(value_fn)(params))

    more = ask(params)
    for part in (0, 2):
        np.testing.assert_allclose(more[part]["weight"], 2 * decay * params[part]["weight"])
        np.testing.assert_array_equal(more[part]["bias"], 0)


def test_refusals_of_graphs():
    at = {"a": 4.0, "b": 3.0}
    swapped = dict(reversed(PRODUCT_OF_SUM.items()))
    with pytest.raises(ValueError, match=r"node 'd' .* among a, b, got \('a', 's'\); .*order"):
        backprop.evaluate(swapped, at)
    with pytest.raises(ValueError, match="node 's' to be new"):
        backprop.evaluate(PRODUCT_OF_SUM, at | {"s": 1.0})
    for call, message in (
        (lambda: backprop.forward(PRODUCT_OF_SUM, at, "s"), "an input, got 's'; try a, b"),
        (lambda: backprop.reverse(PRODUCT_OF_SUM, at, "a"), "a node, got 'a'; try s, d"),
        (lambda: backprop.path_sum(PRODUCT_OF_SUM, at, "c", "d"), "node or input, got 'c'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
