"""The machines of the first decades, and what networks can represent: numbers by hand."""

import itertools
import math
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from fnn import Objective, activations, backprop, fit, layers, losses, rules

EXAMPLES = Path(__file__).parents[2] / "examples"
PERCEPTRON = runpy.run_path(str(EXAMPLES / "perceptron.py"))
REGIONS = runpy.run_path(str(EXAMPLES / "regions.py"))
BITS = np.array([*itertools.product([0.0, 1.0], repeat=2)])
SIGNS = 2 * BITS - 1
STEP, SIGN = activations.unipolar_step, activations.bipolar_step


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# --- units ---


def test_mcculloch_pitts_unit():
    """Two excitatory inputs and one inhibitory, threshold 2: fires only for (1, 1, 0)."""
    cases = np.array([*itertools.product([0.0, 1.0], repeat=3)])
    fired = REGIONS["machine"]((np.array([[1.0], [1.0], [-1.0]]), [-2.0]))(cases)[:, 0]
    np.testing.assert_array_equal(cases[fired == 1], [[1, 1, 0]])


def test_hebb():
    """By hand; sgd on -(w.x)^2 / 2 of a linear unit is the rule; and the kernel's sign."""
    hebb = runpy.run_path(str(EXAMPLES / "hebb.py"))["hebb"]
    before, after = np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[1.0], [0.5]])
    np.testing.assert_allclose(hebb(0.1, before, after), [[0.15], [0.05]])
    times = np.array([0.0, 1.0])  # each moment meets the other only: 1 * 1 * g(-1), 1 * 0.5 * g(1)
    changed = hebb(1.0, before, after, jnp.sign, times)
    np.testing.assert_allclose(changed, [[0.5 - 1.0], [0.0 - 1.0]])
    w, x = numbers(0, 3), numbers(1, 3)
    slope = jax.grad(lambda w: -((w @ x) ** 2) / 2)(w)
    np.testing.assert_allclose(-0.1 * slope, hebb(0.1, x[None], (x @ w)[None, None])[:, 0])


def test_signed_distance_to_a_hyperplane():
    """3 x + 4 y - 5: normal (0.6, 0.8); (3, 4) lies 4 before it, the origin 1 behind."""
    w, b = jnp.array([3.0, 4.0]), -5.0
    points = jnp.array([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]])
    scores = points @ w + b
    distance = scores / jnp.linalg.norm(w)
    np.testing.assert_allclose(distance, [4, -1, 0], atol=1e-15)
    feet = points - distance[:, None] * w / jnp.linalg.norm(w)
    np.testing.assert_allclose(feet @ w + b, 0, atol=1e-14)
    np.testing.assert_array_equal(SIGN(jnp.array([4.0, -1.0, 0.0])), [1, -1, 1])


def test_biases_are_weights_of_one():
    layer = layers.dense(3)
    x, params = numbers(0, 4), {"weight": numbers(1, 4, 3), "bias": numbers(2, 3)}
    absorbed = {"weight": np.vstack([params["bias"], params["weight"]])}
    bare = layers.dense(3, bias=None)
    np.testing.assert_allclose(bare.apply(absorbed, np.r_[1, x]), layer.apply(params, x))


# --- perceptron ---


def test_perceptron_is_sgd_on_its_criterion():
    """w + eta y phi on a mistake (a tie is one), nothing else; with bits half of it.

    D_n = -y (w.phi) >= 0 over the misclassified; the error on the pattern itself shrinks by
    eta |phi|^2 and may grow on others.
    """
    rule, eta = rules.sgd(0.5), 0.5
    phi, y = numbers(0, 20, 3), np.sign(numbers(1, 20))
    w = numbers(2, 3)

    def stepped(w, x, y, loss=losses.perceptron):
        grad = jax.grad(lambda w: loss(x @ w, y))(w)
        return w + rule.update(grad, rule.init(w), w)[0]

    after = jax.vmap(stepped, (None, 0, 0))(w, phi, y)
    wrong = y * (phi @ w) <= 0
    np.testing.assert_allclose(after, w + eta * (wrong * y)[:, None] * phi, rtol=1e-13)
    error = jax.vmap(lambda w, x, y: -y * (x @ w))(after[wrong], phi[wrong], y[wrong])
    before = -y[wrong] * (phi[wrong] @ w)
    assert np.all(before >= 0)
    np.testing.assert_allclose(before - error, eta * np.sum(phi[wrong] ** 2, axis=1), rtol=1e-12)
    others = jax.vmap(lambda w: jax.vmap(losses.perceptron)(phi @ w, y))(after[wrong])
    assert np.any(others > jax.vmap(losses.perceptron)(phi @ w, y) + 1e-9)
    tie = stepped(jnp.zeros(3), phi[0], y[0])
    np.testing.assert_allclose(tie, eta * y[0] * phi[0])
    signed = eta * (y - SIGN(phi @ w))[:, None] * phi
    bits = eta * ((1 + y) / 2 - STEP(phi @ w))[:, None] * phi
    np.testing.assert_allclose(signed, 2 * bits)
    np.testing.assert_allclose(bits, after - w, atol=1e-14)


def test_the_perceptron_theorem():
    """On 200 separable problems at once never more than (R / margin)^2 mistakes, and then none."""
    rng = np.random.default_rng(0)
    normals = rng.standard_normal((200, 4))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    x = rng.standard_normal((200, 15, 4))
    y = np.sign(np.einsum("pnd,pd->pn", x, normals))
    x += (0.2 * y)[:, :, None] * normals[:, None]  # a margin of 0.2 at least
    margins = np.min(y * np.einsum("pnd,pd->pn", x, normals), axis=1)
    bound = np.max(np.sum(x**2, axis=2), axis=1) / margins**2
    path = np.asarray(jax.vmap(PERCEPTRON["learn"], (0, 0, None))(x, y, 60))
    changes = np.any(np.diff(path, axis=1), axis=2)
    counts = changes.sum(axis=1)
    assert np.all(counts <= bound)
    assert not changes[:, -15:].any()
    assert counts.max() > 10
    assert np.all(y * np.einsum("pnd,pd->pn", x, path[:, -1]) > 0)
    assert PERCEPTRON["verdict"](path[0], 15) == f"separated after {counts[0]} mistakes"


def test_what_is_not_separable_cycles_and_says_so():
    """XOR; one class alone is separable; one example too; too few sweeps are no verdict."""
    learn, verdict = PERCEPTRON["learn"], PERCEPTRON["verdict"]
    inputs = np.column_stack([np.ones(4), BITS])
    xor = np.array([-1.0, 1.0, 1.0, -1.0])
    said = "cycles: the weights after sweep 1 are those after sweep 0"
    assert verdict(learn(inputs, xor, 10), 4) == said
    assert verdict(learn(inputs, np.ones(4), 10), 4) == "separated after 1 mistakes"
    assert verdict(learn(inputs[:1], -np.ones(1), 3), 1) == "separated after 1 mistakes"
    few = learn(jnp.array([[1.0, 5.0], [1.0, 4.9]]), np.array([1.0, -1.0]), 1)
    assert verdict(few, 2) == "undecided: try more sweeps"


# --- ADALINE, linear models, logistic regression ---


def test_adaline_is_sgd_on_half_the_squared_error():
    """w + eta (t - w.phi) phi, after every example; MADALINE, layers of them, the same."""
    rule, w, eta = rules.sgd(0.1), numbers(0, 3), 0.1
    phi, t = numbers(1, 10, 3), numbers(2, 10)
    by_hand, state = w, rule.init(w)
    for x, target in zip(phi, t, strict=True):
        by_hand = by_hand + eta * (target - by_hand @ x) * x
        grad = jax.grad(lambda w, x=x, t=target: losses.half_squared_error(x @ w, t))(w)
        updates, state = rule.update(grad, state, w)
        w = w + updates
    np.testing.assert_allclose(w, by_hand, rtol=1e-12)


def test_madaline_computes_xor_that_no_adaline_does():
    """Two ADALINEs behind signs and an AND of their outputs; least squares alone gives zero."""
    design = np.column_stack([np.ones(4), SIGNS])
    xor = -np.prod(SIGNS, axis=1)
    np.testing.assert_allclose(np.linalg.lstsq(design, xor)[0], 0, atol=1e-15)
    madaline = REGIONS["machine"](*REGIONS["SIGNED_XOR"], unit=SIGN)
    np.testing.assert_array_equal(madaline(SIGNS)[:, 0], xor)


def test_normal_equations_are_where_gradient_descent_goes():
    """Linear in fixed features 1, x, x^2: one undamped step, many small steps, and lstsq agree."""
    x = np.linspace(-1, 1, 30)
    phi, t = np.stack([np.ones(30), x, x**2], axis=1), np.exp(x)
    objective = Objective(lambda w, x: x @ w, losses.half_squared_error)
    exact = np.linalg.lstsq(phi, t)[0]
    for rule, steps in (
        (rules.levenberg_marquardt(0.0, policy=rules.damping.constant()), 1),
        (rules.sgd(1.0), 1000),
    ):
        found = fit(rule, objective, jnp.zeros(3), (phi, t), steps=steps).params
        np.testing.assert_allclose(found, exact, rtol=1e-7)


def test_logistic_regression():
    """Gradient sum (sigma - y) x; loss >= 0 and near 0 at a perfect fit; boundary at p = 1/2."""
    x, y, w = numbers(0, 12, 3), (numbers(1, 12) > 0).astype(float), numbers(2, 3)
    objective = Objective(lambda w, x: x @ w, losses.logistic)
    grad = 12 * jax.grad(objective.on((x, y)))(w)
    np.testing.assert_allclose(grad, (jax.nn.sigmoid(x @ w) - y) @ x, rtol=1e-12)
    labels = (x @ w > 0).astype(float)
    assert objective.on((x, y))(w) > objective.on((x, labels))(1e5 * w) >= 0
    assert float(objective.on((x, labels))(1e5 * w)) < 1e-12
    on_plane = x - np.outer(x @ w, w) / (w @ w)
    np.testing.assert_allclose(jax.nn.sigmoid(on_plane @ w), 0.5, rtol=1e-14)


def test_ridge_functions_are_constant_across_their_direction():
    """Projection pursuit: sum_m phi_m(w_m.x) does not see what is orthogonal to all w_m."""
    bases = runpy.run_path(str(EXAMPLES / "bases.py"))
    model = bases["PURSUIT"]
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros(3))
    x, across = numbers(0, 3), np.cross(*np.asarray(params[0]["weight"]).T)
    np.testing.assert_allclose(
        model.apply(params, x + 7 * across), model.apply(params, x), rtol=1e-11
    )


def test_radial_bases_interpolate():
    """A center at every point: exact, whatever the targets; and the bump by hand."""
    x, t = numbers(0, 6, 2), numbers(1, 6)
    layer = layers.radial(6)
    params = {"center": x.T, "width": np.full(6, 0.5)}
    gram = jax.vmap(lambda x: layer.apply(params, x))(x)
    distances = np.sum((x[:, None] - x[None]) ** 2, axis=2)
    np.testing.assert_allclose(gram, np.exp(-2 * distances), rtol=1e-12)
    np.testing.assert_allclose(gram @ np.linalg.solve(gram, t), t, rtol=1e-9)


# --- logic and regions ---


def test_or_and_and_by_their_weights():
    """Bits and signs: x1 + x2 - 1/2, - 3/2; x1 + x2 + 3/2, - 3/2."""
    machine = REGIONS["machine"]
    either, both = BITS.max(axis=1), BITS.min(axis=1)
    logic = machine((np.ones((2, 2)), [-0.5, -1.5]))(BITS)
    np.testing.assert_array_equal(logic, np.stack([either, both], axis=1))
    logic = machine((np.ones((2, 2)), [1.5, -1.5]), unit=SIGN)(SIGNS)
    np.testing.assert_array_equal(logic, 2 * np.stack([either, both], axis=1) - 1)


def test_xor_by_two_layers():
    """Three regions with bits, four with signs; all of the plane is cut into no others."""
    xor = BITS.sum(axis=1) == 1
    machine = REGIONS["machine"]
    np.testing.assert_array_equal(machine(*REGIONS["XOR"])(BITS)[:, 0], xor)
    signed = machine(*REGIONS["SIGNED_XOR"], unit=SIGN)(SIGNS)[:, 0]
    np.testing.assert_array_equal(signed, 2 * xor - 1)
    plane = 4 * numbers(0, 4000, 2)
    cut = machine(REGIONS["OR_AND"])(plane)
    assert len(np.unique(cut, axis=0)) == 3
    crossed = machine((np.eye(2), [0.0, 0.0]))(plane)  # f = h1 h2' + h1' h2, h the signs of x
    assert len(np.unique(crossed, axis=0)) == 4


def test_xor_is_not_separable():
    """Summed over the cases, the four inequalities of any (w, b) say 0 > 0."""
    weights = numbers(0, 20_000, 3)
    scores = weights @ np.column_stack([BITS, np.ones(4)]).T
    np.testing.assert_allclose(scores @ [1, -1, -1, 1], 0, atol=1e-13)
    right = np.all((scores > 0) == (BITS.sum(axis=1) == 1), axis=1)
    assert not right.any()


def test_xor_by_rectified_units():
    """W = ones, c = (0, -1), w = (1, -2): hidden points (0,0), (1,0), (1,0), (2,1)."""
    model = layers.serial(layers.dense(2), layers.elementwise(jax.nn.relu), layers.dense(1))
    params = (
        {"weight": jnp.ones((2, 2)), "bias": jnp.array([0.0, -1.0])},
        (),
        {"weight": jnp.array([[1.0], [-2.0]]), "bias": jnp.zeros(1)},
    )
    trace = jax.vmap(
        lambda x: backprop.trace(model, losses.half_squared_error, params, x, jnp.zeros(1))
    )(BITS)
    np.testing.assert_array_equal(trace.parts[1].outputs, [[0, 0], [1, 0], [1, 0], [2, 1]])
    np.testing.assert_array_equal(trace.parts[2].outputs[:, 0], [0, 1, 1, 0])
    hidden = np.column_stack([np.ones(4), trace.parts[1].outputs])
    path = PERCEPTRON["learn"](hidden, np.array([-1.0, 1.0, 1.0, -1.0]), 60)
    assert PERCEPTRON["verdict"](path, 4).startswith("separated")


@pytest.mark.parametrize(("p", "d"), [(3, 2), (5, 2), (4, 3), (3, 3)])
def test_hyperplanes_cut_space_into_sum_of_binomials(p, d):
    """3 lines: 7 regions of 8 vertices. Every region is a vertex of its own."""
    expected = sum(math.comb(p, i) for i in range(d + 1))
    normals, offsets = numbers(3, d, p), 0.3 * numbers(4, p)
    points = np.random.default_rng(5).standard_cauchy((400_000, d))
    vertices = np.unique((points @ normals + offsets >= 0) @ 2 ** np.arange(p))
    assert len(vertices) == expected <= 2**p
    assert (p > d) == (expected < 2**p)


def test_three_layers_represent_a_union_of_polyhedra():
    """Hyperplanes, one AND for every vertex, OR: exact on a grid, and convex it is not."""
    normals, offsets = REGIONS["NORMALS"], REGIONS["OFFSETS"]
    vertices = REGIONS["cells"]()
    grid = np.stack(np.meshgrid(*[np.linspace(-2, 2, 201)] * 2), axis=-1).reshape(-1, 2)
    sides = grid @ normals + offsets >= 0
    triangle, square = np.all(sides[:, :3], axis=1), np.all(sides[:, 3:], axis=1)
    outputs = REGIONS["union"](normals, offsets, vertices)(grid)[:, 0]
    np.testing.assert_array_equal(outputs, triangle | square)
    assert triangle.sum() > 1000 < square.sum() + 1000
    assert len(vertices) > 2  # a region of the plane is in parts where other lines cross it


def test_wanted_vertices_may_be_an_xor_again():
    """Then two layers do not do: opposite quadrants by two lines; a perceptron behind cycles."""
    corners = np.column_stack([np.ones(4), BITS])
    path = PERCEPTRON["learn"](corners, np.array([1.0, -1.0, -1.0, 1.0]), 20)
    assert PERCEPTRON["verdict"](path, 4).startswith("cycles")
    quadrants = REGIONS["union"](np.eye(2), np.zeros(2), [[0, 0], [1, 1]])
    plane = numbers(0, 500, 2)
    np.testing.assert_array_equal(quadrants(plane)[:, 0], np.prod(plane, axis=1) > 0)


# --- symmetries and equivalences ---


def test_linear_activations_collapse_and_x_squared_is_not_enough():
    """An equivalent network without hidden units; sums of squares of lines are quadratics only."""
    model = layers.serial(layers.dense(5), layers.dense(3))
    x = numbers(0, 7, 4)
    params = jax.jit(model.init)(jax.random.key(0), x[0])
    (A, a), (B, b) = ((p["weight"], p["bias"]) for p in params)
    one = {"weight": A @ B, "bias": a @ B + b}
    for row in x:
        np.testing.assert_allclose(
            model.apply(params, row), layers.dense(3).apply(one, row), rtol=1e-11, atol=1e-14
        )
    squares = layers.serial(layers.dense(9), layers.elementwise(jnp.square), layers.dense(1))
    params = jax.jit(squares.init)(jax.random.key(1), jnp.zeros(1))
    third = jax.grad(jax.grad(jax.grad(lambda z: squares.apply(params, z[None])[0])))
    np.testing.assert_allclose(third(0.7), 0, atol=1e-13)  # x^3 is out of reach at any width


def test_symmetries_of_weight_space():
    """M! 2^M tanh networks are one function; ReLU units may be rescaled; logistic by 1 - sigma."""
    x, W, b, v = numbers(0, 5), numbers(1, 5, 3), numbers(2, 3), numbers(3, 3)
    value = np.tanh(x @ W + b) @ v
    copies = set()
    for order in itertools.permutations(range(3)):
        for signs in itertools.product([-1.0, 1.0], repeat=3):
            w, c, u = W[:, order] * signs, b[[*order]] * signs, v[[*order]] * signs
            np.testing.assert_allclose(np.tanh(x @ w + c) @ u, value, rtol=1e-12)
            copies.add(tuple(w.ravel()))
    assert len(copies) == math.factorial(3) * 2**3 == 48
    for scale in (0.1, 2.0, 30.0):
        rescaled = jax.nn.relu(x @ (scale * W) + scale * b) @ (v / scale)
        np.testing.assert_allclose(rescaled, jax.nn.relu(x @ W + b) @ v, rtol=1e-12)
    flipped = (1 - jax.nn.sigmoid(-(x @ W + b))) @ v
    np.testing.assert_allclose(flipped, jax.nn.sigmoid(x @ W + b) @ v, rtol=1e-12)


def test_zero_padded_units_are_masked_or_say_one_half():
    """A skip connection as a layered network: pad to equal width; sigma(0) = 1/2 must not count."""
    x, W, v = numbers(0, 3), numbers(1, 3, 2), numbers(2, 2)
    padded = jax.nn.sigmoid(x @ np.column_stack([W, np.zeros((3, 2))]))
    np.testing.assert_array_equal(padded[2:], 0.5)
    exact = jax.nn.sigmoid(x @ W) @ v
    np.testing.assert_allclose(padded @ np.r_[v, 0, 0], exact, rtol=1e-14)  # zero weights out, too
    assert abs(padded @ np.r_[v, 1, 1] - exact - 1) < 1e-12  # unmasked each adds a half
    np.testing.assert_allclose(
        (padded * np.array([1, 1, 0, 0])) @ np.r_[v, 1, 1], exact, rtol=1e-14
    )


def test_two_valleys_of_one_unit_are_one_function():
    """Equal minima on the surface of v tanh(w x): (w, v) and (-w, -v), with a saddle between."""
    x = jnp.linspace(-2, 2, 21)[:, None]
    objective = Objective(lambda p, x: p[1] * jnp.tanh(p[0] * x), losses.half_squared_error)
    value_fn = objective.on((x, jnp.tanh(1.5 * x)))
    ends = [
        fit(rules.levenberg_marquardt(), value_fn, jnp.array(start), steps=60).params
        for start in ([0.5, 0.5], [-0.5, -0.5])
    ]
    np.testing.assert_allclose(ends[0], [1.5, 1.0], rtol=1e-5)
    np.testing.assert_allclose(ends[1], -ends[0], rtol=1e-5)
    lowest, highest = np.linalg.eigvalsh(jax.hessian(value_fn)(jnp.zeros(2)))
    assert lowest < 0 < highest


# --- activations, losses ---


def test_derivatives_of_activations():
    """sigma (1 - sigma), not sigma (sigma - 1); (1 - tanh)(1 + tanh); sech; the bend at -b/w."""
    x = jnp.linspace(-3, 3, 13)

    def slope(f):
        return jax.vmap(jax.grad(f))(x)

    s, t = jax.nn.sigmoid(x), jnp.tanh(x)
    np.testing.assert_allclose(slope(jax.nn.sigmoid), s * (1 - s), rtol=1e-12)
    assert np.all(s * (s - 1) < 0)
    assert np.all(slope(jax.nn.sigmoid) > 0)
    np.testing.assert_allclose(slope(jnp.tanh), (1 - t) * (1 + t), rtol=1e-12)
    np.testing.assert_allclose(slope(activations.gudermannian), 1 / np.cosh(x), rtol=1e-12)
    w, b = 4.0, -2.0
    np.testing.assert_array_equal(jax.nn.sigmoid(w * (-b / w) + b), 0.5)
    assert jax.grad(jax.nn.sigmoid)(40.0) < 1e-15  # saturated
    inside = slope(jax.nn.hard_tanh)[abs(x) != 1]
    np.testing.assert_array_equal(inside, abs(x)[abs(x) != 1] < 1)


def test_dead_rectified_units_and_their_cures():
    """A bias of -10: inactive on all inputs, no gradient; leaky and maxout units get one."""
    x = numbers(0, 50, 3)
    params = {"weight": numbers(1, 3, 2), "bias": jnp.array([0.0, -10.0])}
    target = np.ones((50, 2))

    def gradient(f):
        model = layers.serial(layers.dense(2), layers.elementwise(f))
        value_fn = Objective(model.apply, losses.half_squared_error).on((x, target))
        return jax.grad(value_fn)((params, ()))[0]["weight"][:, 1]

    inactive = np.mean(x @ params["weight"] + params["bias"] <= 0, axis=0)
    assert inactive[1] == 1 > inactive[0] > 0
    np.testing.assert_array_equal(gradient(jax.nn.relu), 0)
    assert np.all(gradient(lambda a: activations.parametric_relu(a, 0.01)) != 0)
    maxout = layers.maxout(1, 2)
    pair = {"weight": params["weight"], "bias": params["bias"]}
    grads = jax.vmap(lambda x: jax.grad(lambda p: maxout.apply(p, x)[0])(pair)["weight"])(x)
    assert np.all(np.any(grads, axis=(1, 2)))  # one of its pieces always learns


def test_maxout_becomes_any_convex_function():
    """k tangents of x^2 lie below it by at most a quarter of their distance squared."""
    x = jnp.linspace(-1, 1, 401)
    for k in (2, 4, 8, 16):
        at = jnp.linspace(-1, 1, k)
        params = {"weight": 2 * at[None], "bias": -(at**2)}
        outputs = jax.vmap(lambda x, p=params, k=k: layers.maxout(1, k).apply(p, x[None])[0])(x)
        gap = np.max(x**2 - outputs)
        np.testing.assert_allclose(gap, (1 / (k - 1)) ** 2, rtol=2e-2)


def test_sums_halves_and_means():
    """Half the sum: y - t. Mean of squares over n outputs: 2 (y - t) / n. Mean over examples."""
    y, t = numbers(0, 4), numbers(1, 4)
    np.testing.assert_allclose(jax.grad(losses.half_squared_error)(y, t), y - t, rtol=1e-13)
    mean = jax.grad(lambda y: jnp.mean((y - t) ** 2))(y)
    np.testing.assert_allclose(mean, 2 * (y - t) / 4, rtol=1e-13)
    value_fn = Objective(lambda w, x: w * x, losses.half_squared_error).on((y, t))
    np.testing.assert_allclose(value_fn(0.5), np.mean((0.5 * y - t) ** 2) / 2, rtol=1e-13)


def test_brackets_of_the_cross_entropies():
    """K logistics take -sum [c log p + (1 - c) log(1 - p)], softmax takes -sum c log p."""
    a, c = numbers(0, 3), np.array([0.0, 1.0, 0.0])
    p = jax.nn.sigmoid(a)
    bernoulli = -np.sum(c * np.log(p) + (1 - c) * np.log(1 - p))
    np.testing.assert_allclose(losses.logistic(a, c), bernoulli, rtol=1e-12)
    q = jax.nn.softmax(a)
    np.testing.assert_allclose(losses.softmax_cross_entropy(a, c), -np.log(q[1]), rtol=1e-12)
    slipped = -np.sum(c * np.log(q) + (1 - c) * np.log(1 - q))
    assert slipped - losses.softmax_cross_entropy(a, c) > 0.1


def test_likelihoods_behind_the_losses():
    """Gaussian, Bernoulli and categorical: -log of the density is the loss plus a constant."""
    y, t, a = 0.3, 1.7, numbers(0, 3)
    gaussian = -stats.norm.logpdf(t, y)
    half = losses.half_squared_error(jnp.array(y), t)
    np.testing.assert_allclose(gaussian - half, 0.5 * np.log(2 * np.pi), rtol=1e-12)
    bernoulli = -stats.bernoulli.logpmf(1, jax.nn.sigmoid(y))
    np.testing.assert_allclose(losses.logistic(jnp.array(y), 1), bernoulli, rtol=1e-12)
    categorical = -stats.multinomial.logpmf([0, 0, 1], 1, np.asarray(jax.nn.softmax(a)))
    np.testing.assert_allclose(losses.softmax_cross_entropy(a, 2), categorical, rtol=1e-9)


# --- batches ---


def test_the_minibatch_gradient_is_unbiased():
    """Over all batches of 2 of 6 its mean is the full gradient; on-line, one example at a time."""
    x, t, w = numbers(0, 6, 3), numbers(1, 6), numbers(2, 3)
    objective = Objective(lambda w, x: x @ w, losses.half_squared_error)
    gradient = jax.jit(jax.grad(lambda w, data: objective.on(data)(w)))
    full = gradient(w, (x, t))
    for size in (1, 2, 3):
        picks = np.array([*itertools.combinations(range(6), size)])
        each = jax.vmap(gradient, (None, 0))(w, (x[picks], t[picks]))
        np.testing.assert_allclose(each.mean(axis=0), full, rtol=1e-12)
    assert each.std(axis=0).min() > 0


def test_epochs_visit_every_example_once_in_random_order():
    """fit: 6 examples in batches of 2 are 3 steps an epoch, another order in each."""
    objective = Objective(lambda w, x: w * x, lambda y, t: y * 0.0 + t)
    trained = fit(
        rules.sgd(0.1), objective, jnp.zeros(()), (jnp.ones(6), 2.0 ** jnp.arange(6)),
        epochs=4, batch_size=2, key=jax.random.key(0),
    )  # fmt: skip
    seen = (2 * trained.history.value).reshape(4, 3)
    np.testing.assert_allclose(seen.sum(axis=1), 63)
    assert len(np.unique(np.sort(seen, axis=1), axis=0)) > 1


def test_textbook_momentum():
    """Delta w(t) = -eta g + alpha Delta w(t - 1), by hand on g = 1, 1, 1."""
    rule = rules.momentum(0.1, 0.5)
    state, w, steps = rule.init(0.0), 0.0, []
    for _ in range(3):
        updates, state = rule.update(jnp.ones(()), state, w)
        w = optax.apply_updates(w, updates)
        steps.append(float(updates))
    np.testing.assert_allclose(steps, [-0.1, -0.15, -0.175], rtol=1e-12)
