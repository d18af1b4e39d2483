"""Losses against their definitions, their derivatives and libraries nobody here wrote."""

import functools
import inspect
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import sklearn.linear_model
import sklearn.metrics
from jax.flatten_util import ravel_pytree

from fnn import losses

K, N = 5, 64
EXTREME = jnp.array([[1e4, -1e4, 0.0], [300.0, 0.0, -300.0], [1e4, 1e4, 1e4 - 1], [0.0, 0.0, 0.0]])


def numbers(key, outputs):
    return jax.random.normal(key, outputs.shape)


def probabilities(key, outputs):
    return jax.random.uniform(key, outputs.shape)


def distributions(key, outputs):
    return jax.nn.softmax(2 * jax.random.normal(key, outputs.shape))


def signs(key, outputs):
    return jax.random.rademacher(key, outputs.shape)


# Every loss the module exports, with a maker of targets for a batch of outputs.
TARGETS = {
    "half_squared_error": numbers,
    "huber": numbers,
    "logistic": probabilities,
    "softmax_cross_entropy": distributions,
    "kl": distributions,
    "perceptron": signs,
    "hinge": signs,
}
SMOOTH = ("half_squared_error", "logistic", "softmax_cross_entropy", "kl")
PROBABILISTIC = ("logistic", "softmax_cross_entropy")

everywhere = pytest.mark.parametrize("name", TARGETS)


def loss_named(name):
    return losses.huber(0.7) if name == "huber" else getattr(losses, name)


def batch(name, scale=1.0, seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    outputs = scale * jax.random.normal(keys[0], (N, K))
    return outputs, TARGETS[name](keys[1], outputs)


def without_curvature(loss):
    return lambda outputs, target: loss(outputs, target)


def over_examples(fn):
    return jax.jit(jax.vmap(fn))


def derivatives(loss):
    return over_examples(lambda o, t: (loss(o, t), jax.grad(loss)(o, t), jax.hessian(loss)(o, t)))


def products(factor):
    """(B B^T, B s), the two things a factor stands for."""

    def of_one(outputs, target):
        B, s = factor(outputs, target)
        return B @ B.T, B @ s

    return over_examples(of_one)


def test_the_table_above_is_complete():
    functions = inspect.getmembers(losses, inspect.isfunction)
    public = {n for n, f in functions if f.__module__ == losses.__name__ and n[0] != "_"}
    about = {"with_curvature", "separable", "curvature", "is_complete", "has_factor", "sampler"}
    assert public == set(TARGETS) | about | {"each", "blocks", "block_diagonal", "root"}


# --- the definitions ---


@pytest.mark.parametrize(
    ("name", "oracle"),
    {
        "half_squared_error": lambda o, t: optax.losses.l2_loss(o, t).sum(),
        "huber": lambda o, t: optax.losses.huber_loss(o, t, delta=0.7).sum(),
        "logistic": lambda o, t: optax.losses.sigmoid_binary_cross_entropy(o, t).sum(),
        "softmax_cross_entropy": optax.losses.softmax_cross_entropy,
        "kl": lambda o, t: scipy.special.rel_entr(t, scipy.special.softmax(o)).sum(),
        "perceptron": lambda o, t: optax.losses.perceptron_loss(o, t).sum(),
        "hinge": lambda o, t: optax.losses.hinge_loss(o, t).sum(),
    }.items(),
)
def test_values_are_those_of_other_libraries(name, oracle):
    outputs, targets = batch(name, scale=2.0)
    expected = [oracle(o, t) for o, t in zip(outputs[:8], targets[:8], strict=True)]
    got = over_examples(loss_named(name))(outputs[:8], targets[:8])
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-15)


def test_classes_and_their_indicators_are_the_same_target():
    outputs, _ = batch("kl", scale=3.0)
    classes = jnp.arange(N) % K
    value = over_examples(losses.softmax_cross_entropy)(outputs, classes)
    expected = sklearn.metrics.log_loss(
        classes, scipy.special.softmax(outputs, axis=1), normalize=False
    )
    np.testing.assert_allclose(value.sum(), expected, rtol=1e-14)
    for loss in (losses.softmax_cross_entropy, losses.kl):
        for factor in (loss, losses.curvature(loss)):
            by_class = over_examples(factor)(outputs, classes.astype(jnp.uint8))
            by_indicator = over_examples(factor)(outputs, jax.nn.one_hot(classes, K, dtype=int))
            for a, b in zip(*map(jax.tree.leaves, (by_class, by_indicator)), strict=True):
                np.testing.assert_array_equal(a, b)
    wide = jnp.zeros(300), jnp.uint8(200)  # more classes than the target's dtype counts
    np.testing.assert_allclose(losses.softmax_cross_entropy(*wide), np.log(300.0), rtol=1e-14)
    # the mean of the lectures: probabilities of the true class 0.8, 0.7, 0.7, 0.6
    p = jnp.array([0.8, 0.7, 0.7, 0.6])
    logits = jnp.log(jnp.stack([p, 1 - p], axis=1))
    mean = over_examples(losses.softmax_cross_entropy)(logits, jnp.zeros(4, int)).mean()
    np.testing.assert_allclose(mean, 0.3618, atol=5e-5)


def test_gradients_at_the_canonical_link_are_probability_minus_target():
    # scipy's probabilities; both losses at moderate and at extreme logits
    for name, probability in (
        ("half_squared_error", lambda z: z),
        ("logistic", scipy.special.expit),
        ("softmax_cross_entropy", lambda z: scipy.special.softmax(z, axis=1)),
        ("kl", lambda z: scipy.special.softmax(z, axis=1)),
    ):
        gradient = over_examples(jax.grad(loss_named(name)))
        for scale in (1.0, 30.0, 1e4):
            outputs, targets = batch(name, scale)
            exact = probability(np.asarray(outputs)) - targets
            np.testing.assert_allclose(gradient(outputs, targets), exact, rtol=1e-13, atol=1e-15)


def test_perceptron_learns_what_scikit_learn_learns_from_weights_of_zero():
    x, y = np.asarray(jax.random.normal(jax.random.key(0), (40, 3))), np.ones(40)
    y[x @ [1.0, -2.0, 0.5] < 0.3] = -1.0
    ours = np.zeros(4)
    inputs = np.column_stack([x, np.ones(40)])
    gradient = jax.jit(jax.grad(lambda w, x, y: losses.perceptron(x @ w, y)))
    for _ in range(3):
        for x_n, y_n in zip(inputs, y, strict=True):
            ours = ours - gradient(ours, x_n, y_n)
    theirs = sklearn.linear_model.Perceptron(shuffle=False, max_iter=3, tol=None).fit(x, y)
    assert theirs.score(x, y) > 0.9
    np.testing.assert_allclose(ours, [*theirs.coef_[0], *theirs.intercept_], rtol=1e-12)


def test_ties_count_as_mistakes():
    for target in (-1.0, 1.0):
        assert jax.grad(losses.perceptron)(0.0, target) == -target
        assert jax.grad(losses.hinge)(target, target) == -target  # exactly on the margin
        assert losses.perceptron(0.0, target) == losses.hinge(target, target) == 0


# --- symmetries ---


def test_softmax_ignores_a_shift_and_follows_a_permutation():
    outputs, targets = batch("kl", scale=3.0)
    order = jnp.array([3, 1, 4, 0, 2])
    for loss in map(over_examples, (losses.softmax_cross_entropy, losses.kl)):
        value = loss(outputs, targets)
        np.testing.assert_allclose(loss(outputs + 7.0, targets), value, rtol=1e-12)
        np.testing.assert_allclose(loss(outputs[:, order], targets[:, order]), value, rtol=1e-12)


def test_logistic_is_softmax_of_two_classes_and_swaps_with_the_sign():
    z, t = jnp.array([-20.0, -1.0, 0.0, 0.3, 20.0]), jnp.array([0.0, 1.0, 0.5, 0.2, 1.0])
    value = jax.vmap(losses.logistic)(z, t)
    np.testing.assert_allclose(jax.vmap(losses.logistic)(-z, 1 - t), value, rtol=1e-15)
    pairs = jnp.stack([z, jnp.zeros(5)], 1), jnp.stack([t, 1 - t], 1)
    as_softmax = jax.vmap(losses.softmax_cross_entropy)(*pairs)
    np.testing.assert_allclose(as_softmax, value, rtol=1e-12, atol=1e-15)
    # K logistics are their sum
    np.testing.assert_allclose(losses.logistic(z, t), value.sum(), rtol=1e-15)


def test_huber_scales_and_ends_in_squares_and_in_absolute_values():
    outputs, targets = batch("huber", scale=3.0)
    for o, t in zip(outputs[:3], targets[:3], strict=True):
        value = losses.huber(0.5)(o, t)
        np.testing.assert_allclose(losses.huber(1.5)(3 * o, 3 * t), 9 * value, rtol=1e-13)
        np.testing.assert_allclose(losses.huber(1e3)(o, t), losses.half_squared_error(o, t))
        absolute = losses.huber(1e-9)(o, t) / 1e-9
        np.testing.assert_allclose(absolute, jnp.abs(o - t).sum(), rtol=1e-7)
    B, s = losses.curvature(losses.huber(0.5))(jnp.array([0.25, -3.0]), jnp.zeros(2))
    np.testing.assert_array_equal(B, jnp.diag(jnp.array([1.0, 0.0])))
    np.testing.assert_array_equal(s, [0.25, 0.0])


@everywhere
def test_losses_are_convex_and_not_negative(name):
    a, targets = batch(name, scale=5.0)
    b, _ = batch(name, scale=5.0, seed=1)
    loss = over_examples(loss_named(name))
    middle = loss((a + b) / 2, targets)
    assert np.all(middle <= (loss(a, targets) + loss(b, targets)) / 2 + 1e-12)
    assert np.all(middle >= 0)


# --- curvature ---


@everywhere
def test_attached_factor_is_the_derivative(name):
    loss = loss_named(name)
    outputs, targets = batch(name)
    _, grad, hessian = derivatives(loss)(outputs, targets)
    square, slope = products(losses.curvature(loss))(outputs, targets)
    derived_square, derived_slope = products(losses.curvature(without_curvature(loss)))(
        outputs, targets
    )
    np.testing.assert_allclose(square, hessian, atol=1e-13)
    np.testing.assert_allclose(derived_square, hessian, atol=1e-13)
    np.testing.assert_allclose(slope, derived_slope, atol=1e-13)
    # the rest of the gradient is outside the range of B, and there is none for smooth losses
    rest = grad - slope
    np.testing.assert_allclose(jnp.einsum("nij,nj->ni", square, rest), 0, atol=1e-13)
    assert (jnp.abs(rest).max() < 1e-13) == (name in SMOOTH) == losses.is_complete(loss)
    assert not losses.is_complete(without_curvature(loss))


@everywhere
def test_sampled_targets_have_the_curvature_as_their_fisher_information(name):
    loss = loss_named(name)
    sample = losses.sampler(loss)
    assert (sample is not None) == (name in SMOOTH)
    if sample is None:
        return
    outputs = jnp.array([0.5, -1.0, 2.0])
    targets = jax.vmap(sample, (0, None))(jax.random.split(jax.random.key(0), 20_000), outputs)
    grads = jax.vmap(jax.grad(loss), (None, 0))(outputs, targets)
    B, _ = losses.curvature(loss)(outputs, targets[0])
    # entries of g g^T have a variance below 2 (a Gaussian's fourth moment): four deviations
    np.testing.assert_allclose(grads.T @ grads / len(grads), B @ B.T, atol=4 * (2 / 20_000) ** 0.5)
    np.testing.assert_allclose(grads.mean(0), 0, atol=4 * 20_000**-0.5)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", PROBABILISTIC)
def test_saturated_logits_have_exact_values_slopes_and_factors(name, dtype):
    # the reference is the same loss in float64 by scipy, at every pair of logits and classes
    loss = loss_named(name)
    logits = np.repeat(EXTREME, 3, axis=0)
    targets = np.tile(np.eye(3), (len(EXTREME), 1))
    if name == "logistic":
        p = scipy.special.expit(logits)
        value = -(targets * scipy.special.log_expit(logits)).sum(1) - (
            (1 - targets) * scipy.special.log_expit(-logits)
        ).sum(1)
        hessian = np.stack([np.diag(row) for row in p * scipy.special.expit(-logits)])
    else:
        p = scipy.special.softmax(logits, axis=1)
        value = -(targets * scipy.special.log_softmax(logits, axis=1)).sum(1)
        hessian = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    outputs = jnp.asarray(logits, dtype)
    got_value, grad, got_hessian = derivatives(loss)(outputs, targets)
    square, slope = products(losses.curvature(loss))(outputs, targets)
    eps = jnp.finfo(dtype).eps
    np.testing.assert_allclose(
        got_value, value, rtol=4 * eps, atol=0 if name == "logistic" else eps
    )
    for got, exact in (
        (grad, p - targets),
        (slope, p - targets),
        (got_hessian, hessian),
        (square, hessian),
    ):
        np.testing.assert_allclose(got, exact, atol=8 * eps)


def test_confident_logistic_keeps_relative_precision():
    z = jnp.array([40.0, 300.0])
    tail = np.exp(-np.asarray(z))
    for outputs, target, sign in ((z, 1.0, -1), (-z, 0.0, 1)):
        targets = jnp.full(2, target)
        np.testing.assert_allclose(jax.vmap(losses.logistic)(outputs, targets), tail, rtol=1e-13)
        slopes = jax.vmap(jax.grad(losses.logistic))(outputs, targets)
        np.testing.assert_allclose(slopes, sign * tail, rtol=1e-13)
        B, s = losses.curvature(losses.logistic)(outputs, targets)
        np.testing.assert_allclose(B @ s, sign * tail, rtol=1e-13)


def test_targets_of_any_sum_weigh_their_example():
    # -sum t log p as written, padding (all zeros) included
    outputs, targets = batch("kl")
    targets = targets * jnp.arange(N)[:, None]
    _, grad, hessian = derivatives(losses.softmax_cross_entropy)(outputs, targets)
    square, slope = products(losses.curvature(losses.softmax_cross_entropy))(outputs, targets)
    np.testing.assert_allclose(square, hessian, atol=1e-12)
    np.testing.assert_allclose(slope, grad, atol=1e-12)
    for dtype in (jnp.float32, jnp.bfloat16):
        saturated = jnp.array([1e4, -1e4, 0.0], dtype)
        B, s = losses.curvature(losses.softmax_cross_entropy)(saturated, jnp.zeros(3))
        assert jnp.isfinite(B).all()
        assert jnp.abs(s).max() < 1e-15


def test_cross_entropy_has_one_row_less_than_classes_whichever_is_most_probable():
    factor = jax.jit(losses.curvature(losses.softmax_cross_entropy))
    # Both ends and the middle, a tie, and a class of probability zero that came true.
    for logits in ([3.0, 0, 1], [0.0, 3, 1], [0.0, 1, 3], [2.0, 2, 2], [-1e4, 0, 1e4]):
        for dtype, error in ((jnp.float64, 1e-15), (jnp.float32, 1e-6)):
            outputs = jnp.array(logits, dtype)
            for target in jnp.eye(3, dtype=dtype):
                B, s = factor(outputs, target)
                p = jax.nn.softmax(outputs)
                assert (B.shape, s.shape) == ((3, 2), (2,))
                np.testing.assert_allclose(B @ B.T, jnp.diag(p) - jnp.outer(p, p), atol=error)
                np.testing.assert_allclose(B @ s, p - target, atol=error)


def test_cross_entropy_of_two_classes_has_the_row_of_logistic():
    outputs = jnp.array([0.3, -1.1])
    B, s = losses.curvature(losses.softmax_cross_entropy)(outputs, jnp.array([0.2, 0.8]))
    one, slope = losses.curvature(losses.logistic)(outputs[:1] - outputs[1:], jnp.array([0.2]))
    np.testing.assert_allclose(jnp.abs(B), jnp.full((2, 1), one[0, 0]), rtol=1e-14)
    np.testing.assert_allclose(B @ s, jnp.array([1, -1]) * (one @ slope), rtol=1e-14)


def test_a_class_ruled_out_by_an_infinite_logit():
    outputs, target = jnp.array([1.0, -jnp.inf, 0.0]), jnp.array([1.0, 0.0, 0.0])
    value, grad = jax.value_and_grad(losses.softmax_cross_entropy)(outputs, target)
    B, s = losses.curvature(losses.softmax_cross_entropy)(outputs, target)
    np.testing.assert_allclose(value, losses.softmax_cross_entropy(outputs[::2], 0))
    np.testing.assert_allclose(B @ s, grad, atol=1e-15)


def test_derived_curvature_of_any_tree_and_any_loss():
    def loss(outputs, target):  # not convex: one positive, one negative, one zero eigenvalue
        a, b = outputs["a"], outputs["b"]
        return a[0] ** 2 + jnp.sin(a[0] * b) - a[1] ** 2 / 2 + 3 * a[2] * target

    outputs = {"a": jnp.array([0.3, -0.2, 1.0]), "b": jnp.array(0.9)}
    B, s = jax.jit(losses.curvature(loss))(outputs, 2.0)
    flat, unravel = jax.flatten_util.ravel_pytree(outputs)
    hessian = jax.jit(jax.hessian(lambda z: loss(unravel(z), 2.0)))(flat)
    grad = jax.flatten_util.ravel_pytree(jax.grad(loss)(outputs, 2.0))[0]
    values, vectors = np.linalg.eigh(hessian)
    assert values.min() < -0.5
    positive = (vectors * np.maximum(values, 0)) @ vectors.T
    np.testing.assert_allclose(B @ B.T, positive, atol=1e-13)
    onto = vectors[:, values > 1e-9]
    np.testing.assert_allclose(B @ s, onto @ onto.T @ grad, atol=1e-13)


def test_rounding_noise_in_the_hessian_is_no_curvature():
    # of rank one in eight outputs, with a slope in all directions: s has no share in the noise
    u, v = jax.random.normal(jax.random.key(0), (2, 8))
    u = u / jnp.linalg.norm(u)

    def loss(outputs, target):
        return (outputs @ u - target) ** 2 / 2 + outputs @ v

    B, s = jax.jit(losses.curvature(loss))(jnp.zeros(8), 3.0)
    assert np.count_nonzero(np.any(B != 0, axis=0)) == np.count_nonzero(s) == 1
    np.testing.assert_allclose(B @ s, (u @ v - 3.0) * u, atol=1e-14)


def test_derived_curvature_needs_no_decomposition_for_one_output():
    derived = losses.curvature(without_curvature(losses.logistic))
    for outputs in (jnp.array(0.7), jnp.array([0.7])):
        target = jnp.ones_like(outputs)
        assert "eigh" not in str(jax.make_jaxpr(derived)(outputs, target))
        exact = losses.curvature(losses.logistic)(outputs, target)
        for a, b in zip(jax.jit(derived)(outputs, target), exact, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-14)
    B, s = jax.jit(derived)(jnp.array([1e4]), jnp.zeros(1))  # flat: the gradient is all outside
    assert B == s == 0
    two = jnp.zeros(2)
    assert "eigh" in str(jax.make_jaxpr(derived)(two, two))


def test_derived_curvature_of_many_outputs_is_never_batched():
    derived = losses.curvature(without_curvature(losses.softmax_cross_entropy))
    outputs = jax.random.normal(jax.random.key(0), (2, 130))
    B, s = jax.jit(jax.vmap(derived))(outputs, jnp.array([3, 129]))
    exact = jax.vmap(losses.curvature(losses.softmax_cross_entropy))(outputs, jnp.array([3, 129]))
    for (a, b), (c, d) in zip(zip(B, s, strict=True), zip(*exact, strict=True), strict=True):
        np.testing.assert_allclose(a @ a.T, c @ c.T, atol=1e-14)
        np.testing.assert_allclose(a @ b, c @ d, atol=1e-13)
    for k, decomposed in ((130, "f64[130,130]"), (8, "f64[2,8,8]")):
        jaxpr = str(jax.make_jaxpr(jax.vmap(derived))(outputs[:, :k], jnp.array([3, 7])))
        (line,) = re.findall(r"(\S+) \S+ = eigh\[", jaxpr)
        assert line.endswith(decomposed)


def test_separable_is_the_diagonal_and_what_is_flat_is_left_to_the_rest():
    def loss(outputs, target):
        bent, flat, counted = outputs["bent"], outputs["flat"], outputs["counted"]
        squares = jnp.sum(target["weight"] * (counted - 1) ** 2)
        return losses.logistic(bent, target["event"]) + 3 * jnp.sum(flat) + squares

    outputs = {"bent": jnp.array([0.5, -200.0]), "flat": jnp.ones(2), "counted": jnp.zeros((1, 2))}
    target = {"event": jnp.array([1.0, 0.0]), "weight": jnp.array([[2.0, 0.0]])}
    B, s = jax.jit(losses.curvature(losses.separable(loss)))(outputs, target)
    flat, unravel = ravel_pytree(outputs)
    hessian = jax.jit(jax.hessian(lambda flat: loss(unravel(flat), target)))(flat)
    np.testing.assert_allclose(B @ B.T, hessian, rtol=1e-12, atol=1e-90)
    rest = jax.grad(lambda flat: loss(unravel(flat), target))(flat) - B @ s
    np.testing.assert_allclose(rest, [0, 0, 0, 0, 3, 3], atol=1e-12)
    assert not losses.is_complete(losses.separable(loss))
    assert losses.is_complete(losses.separable(loss, complete=True))


@everywhere
def test_each_is_the_mean_over_positions_with_a_block_for_each(name):
    inner = loss_named(name)
    loss = losses.each(inner)
    outputs, targets = (a[:6].reshape(2, 3, *a.shape[1:]) for a in batch(name))

    def plain(outputs, targets):
        return jnp.mean(jax.vmap(inner)(outputs, targets))

    def flat_derivatives(outputs, targets):
        def of_flat(flat):
            return plain(flat.reshape(outputs.shape), targets)

        flat = outputs.ravel()
        return (
            loss(outputs, targets),
            of_flat(flat),
            jax.grad(of_flat)(flat),
            jax.hessian(of_flat)(flat),
        )

    value, expected, grad, hessian = over_examples(flat_derivatives)(outputs, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    square, slope = products(losses.curvature(loss))(outputs, targets)
    np.testing.assert_allclose(square, hessian, atol=1e-13)
    assert losses.is_complete(loss) == (name in SMOOTH)
    if name in SMOOTH:
        np.testing.assert_allclose(slope, grad, atol=1e-13)
    assert losses.sampler(loss) is None  # a mean is no likelihood


@pytest.mark.parametrize("is_each", [False, True])
@everywhere
def test_the_root_is_the_product_with_the_blocks(name, is_each):
    loss, (outputs, target) = loss_named(name), (a[:6] for a in batch(name))
    if is_each:
        loss = losses.each(losses.each(loss))
        outputs, target = (a.reshape(1, 2, 3, *a.shape[1:]) for a in (outputs, target))

    def both(outputs, target):
        columns, slopes = losses.blocks(loss)(outputs, target)
        times, same = losses.root(loss)(outputs, target)
        v = jnp.cos(jnp.arange(slopes.size)).reshape(slopes.shape)
        image = jnp.einsum("gkr,gr->gk", columns, v)
        (back,) = jax.linear_transpose(times, v)(image)
        across = jnp.einsum("gkr,gk->gr", columns, image)
        return (times(v), same, back), (image, slopes, across)

    got, expected = jax.jit(jax.vmap(both))(outputs, target)
    assert got[0].dtype == outputs.dtype
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), got, expected)


def test_a_product_without_arrays_has_positions():
    def squares(outputs, target):
        return jnp.sum((outputs - target) ** 2) / 2

    def factor(outputs, target):
        return jax.tree_util.Partial(lambda v: v), outputs - target

    each = losses.each(losses.with_curvature(squares, factor, complete=True))
    columns, slopes = losses.blocks(each)(jnp.ones((4, 3)), jnp.zeros((4, 3)))
    np.testing.assert_allclose(columns, jnp.tile(jnp.eye(3) / 2, (4, 1, 1)))
    np.testing.assert_allclose(slopes, jnp.ones((4, 3)) / 2)


def test_of_many_classes_no_matrix_is_made():
    text = losses.each(losses.softmax_cross_entropy)
    outputs, targets = jnp.zeros((5, 1000)), jnp.arange(5)

    def there_and_back(outputs):
        times, slopes = losses.root(text)(outputs, targets)
        return jax.linear_transpose(times, slopes)(times(slopes))

    program = jax.jit(there_and_back).lower(outputs).as_text()
    shapes = re.findall(r"tensor<((?:\d+x)+)", program)
    assert max(math.prod(map(int, shape.split("x")[:-1])) for shape in shapes) <= 5 * 1002


def test_a_factor_may_be_a_product():
    def poisson(outputs, target):
        return jnp.sum(jnp.exp(outputs) - target * outputs)

    def factor(outputs, target):
        root = jnp.exp(outputs / 2)
        return jax.tree_util.Partial(jnp.multiply, root), root - target / root

    curved = losses.with_curvature(poisson, factor, complete=True)
    outputs, target = jnp.array([0.0, 1.0, -2.0]), jnp.array([1.0, 0.0, 3.0])
    B, s = losses.curvature(curved)(outputs, target)
    np.testing.assert_allclose(B @ B.T, jax.hessian(poisson)(outputs, target), atol=1e-14)
    np.testing.assert_allclose(B @ s, jax.grad(poisson)(outputs, target), atol=1e-14)
    columns, _ = losses.blocks(losses.each(curved))(outputs[None], target[None])
    np.testing.assert_allclose(columns[0], B, atol=1e-14)
    wrong = losses.with_curvature(poisson, lambda o, t: (factor(o, t)[0], jnp.ones(1)))
    with pytest.raises(ValueError, match=r"for 4 outputs.*got a product and \(1,\)"):
        losses.curvature(wrong)(jnp.zeros((2, 2)), jnp.zeros((2, 2)))
    double = losses.with_curvature(poisson, lambda o, _: (factor(outputs, target)[0], o))
    with pytest.raises(TypeError, match=r"dtype of v, got float64 for float32"):
        losses.curvature(double)(outputs.astype("float32"), target)
    bare = losses.with_curvature(poisson, lambda o, _: (lambda v: v, o))
    with pytest.raises(TypeError, match=r"got function; try Partial\(product, \*arrays\)"):
        losses.curvature(bare)(outputs, target)


def test_each_of_each_has_a_block_for_every_pixel():
    pixels = losses.each(losses.each(losses.softmax_cross_entropy))
    outputs = jax.random.normal(jax.random.key(0), (2, 3, 4))
    labels = jnp.array([[0, 1, 2], [3, 0, 1]])
    columns, slopes = jax.jit(losses.blocks(pixels))(outputs, labels)
    assert (columns.shape, slopes.shape) == ((6, 4, 3), (6, 3))

    def plain(flat):
        logs = jax.nn.log_softmax(flat.reshape(2, 3, 4))
        return -jnp.mean(jnp.take_along_axis(logs, labels[..., None], axis=-1))

    B, s = losses.block_diagonal(columns), slopes.ravel()
    np.testing.assert_allclose(B @ B.T, jax.jit(jax.hessian(plain))(outputs.ravel()), atol=1e-13)
    np.testing.assert_allclose(B @ s, jax.grad(plain)(outputs.ravel()), atol=1e-13)


def test_a_position_of_weight_zero_does_not_count():
    outputs = jax.random.normal(jax.random.key(0), (3, 4))
    target = jax.nn.one_hot(jnp.array([1, 2, 0]), 4) * jnp.array([[1.0], [1.0], [0.0]])
    text = losses.each(losses.softmax_cross_entropy)
    some = losses.each(losses.softmax_cross_entropy)(outputs[:2], target[:2])
    np.testing.assert_allclose(3 * text(outputs, target), 2 * some, rtol=1e-14)
    B, s = losses.curvature(text)(outputs, target)
    assert np.all(np.isfinite(B @ s))
    np.testing.assert_allclose((B @ B.T)[8:], 0, atol=1e-90)


def test_blocks_that_a_user_attaches_are_those_of_the_whole_matrix():
    def quartic(outputs, target):
        return jnp.sum((outputs - target) ** 4)

    def factor(outputs, target):
        off = (outputs - target).reshape(-1, 1)
        return (12**0.5 * off)[:, None], 4 * off**2 / 12**0.5

    outputs, target = jnp.array([1.0, -2.0, 0.5]), jnp.zeros(3)
    attached = losses.with_curvature(quartic, factor, complete=True)
    B, s = losses.curvature(attached)(outputs, target)
    np.testing.assert_allclose(B @ B.T, jax.hessian(quartic)(outputs, target), atol=1e-12)
    np.testing.assert_allclose(B @ s, jax.grad(quartic)(outputs, target), atol=1e-12)
    badly = losses.with_curvature(quartic, lambda *_: (jnp.ones((2, 2, 2)), jnp.ones((2, 2))))
    with pytest.raises(ValueError, match=r"\(3, R\) .*\(g, 3 / g, r\).* got \(2, 2, 2\)"):
        losses.curvature(badly)(outputs, target)


def test_a_derived_matrix_of_many_outputs_is_warned_of():
    def unknown(outputs, target):
        return jnp.mean(jnp.cosh(outputs - target))

    many = jax.ShapeDtypeStruct((300,), float)
    with pytest.warns(UserWarning, match=r"unknown is not attached.* 300 x 300 .*losses\.each"):
        jax.eval_shape(losses.curvature(unknown), many, many)
    jax.eval_shape(losses.curvature(losses.separable(unknown)), many, many)


def test_with_curvature_leaves_the_loss_alone_and_is_not_inherited():
    def doubled(outputs, target):
        """Twice the squares."""
        return jnp.sum((outputs - target) ** 2)

    def factor(outputs, target):
        return jnp.sqrt(2) * jnp.eye(outputs.size), jnp.sqrt(2) * (outputs - target)

    attached = losses.with_curvature(doubled, factor, complete=True)
    x = jnp.array([1.0, 3.0]), jnp.array([0.0, 0.0])
    assert attached is not doubled
    assert vars(doubled) == {}
    assert (attached.__name__, attached.__doc__) == ("doubled", "Twice the squares.")
    np.testing.assert_allclose(attached(*x), 10.0)
    np.testing.assert_allclose(losses.curvature(attached)(*x)[1], jnp.sqrt(2) * x[0])

    @functools.wraps(attached)
    def halved(outputs, target):
        return attached(outputs, target) / 4

    np.testing.assert_allclose(losses.curvature(halved)(*x)[0], jnp.eye(2) / jnp.sqrt(2))
    assert losses.is_complete(attached)
    assert not losses.is_complete(halved)
    again = losses.with_curvature(attached, losses.curvature(losses.half_squared_error))
    np.testing.assert_array_equal(losses.curvature(again)(*x)[0], jnp.eye(2))
    assert not losses.is_complete(again)  # nobody promised
    np.testing.assert_allclose(losses.curvature(attached)(*x)[0], jnp.sqrt(2) * jnp.eye(2))


# --- dtypes, transformations, refusals ---


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16])
@everywhere
def test_the_outputs_dtype_rules(name, dtype):
    loss = loss_named(name)
    outputs, targets = (a[0] for a in batch(name))
    targets = np.asarray(targets, np.int8 if name in ("perceptron", "hinge") else np.float64)

    def answers(outputs, loss=loss):
        return loss(outputs, targets), *losses.curvature(loss)(outputs, targets)

    with jax.numpy_dtype_promotion("strict"):
        value, B, s = jax.jit(answers)(outputs.astype(dtype))
        gradient = jax.eval_shape(jax.grad(loss), outputs.astype(dtype), targets)
        derive = functools.partial(answers, loss=without_curvature(loss))
        derived = jax.eval_shape(derive, outputs.astype(dtype))
    assert {a.dtype for a in (value, B, s, gradient, *derived)} == {jnp.dtype(dtype)}
    exact_value, exact_B, _ = answers(outputs)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(float(value), exact_value, rtol=8 * eps)
    np.testing.assert_allclose((B @ B.T).astype(float), exact_B @ exact_B.T, atol=8 * eps)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_derived_curvature_in_low_precision(dtype):
    outputs, targets = (a.astype(dtype) for a in batch("kl"))
    square, slope = products(losses.curvature(without_curvature(losses.kl)))(outputs, targets)
    _, grad, hessian = derivatives(losses.kl)(outputs.astype(float), targets.astype(float))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(square.astype(float), hessian, atol=8 * eps)
    rest = grad - slope  # may be more than rounding: eps cuts true eigenvalues here
    np.testing.assert_allclose(jnp.einsum("nij,nj->ni", hessian, rest), 0, atol=8 * eps)


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"softmax_cross_entropy", "kl"}))
def test_any_shape_of_outputs_is_summed_and_flattened(name):
    loss = loss_named(name)
    outputs, targets = (a[:3] for a in batch(name))
    np.testing.assert_allclose(
        loss(outputs, targets), jax.vmap(loss)(outputs, targets).sum(), rtol=1e-14
    )
    B, s = losses.curvature(loss)(outputs, targets)
    flat = losses.curvature(loss)(outputs.ravel(), targets.ravel())
    np.testing.assert_array_equal(B, flat[0])
    np.testing.assert_array_equal(s, flat[1])
    one = losses.curvature(loss)(outputs[0, 0], targets[0, 0])
    assert one[0].shape == (1, B.shape[1] // B.shape[0])


@everywhere
def test_a_nan_in_the_outputs_is_a_nan_in_the_loss(name):
    outputs, targets = (a[0] for a in batch(name))
    assert jnp.isnan(loss_named(name)(outputs.at[1].set(jnp.nan), targets))


BATCH = jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: losses.half_squared_error(BATCH[0, :1], 1.0), ValueError, r"targets\[:, None\]"),
        (lambda: losses.half_squared_error(BATCH[0], 2), ValueError, r"\(4,\) and \(\).*one_hot"),
        (lambda: losses.huber()(BATCH, BATCH[0]), ValueError, r"huber: expected .* of one shape"),
        (lambda: losses.logistic(BATCH[0], BATCH), ValueError, r"logistic: expected"),
        (lambda: losses.logistic(BATCH[0, 0], -1), ValueError, r"\[0, 1\], got -1.*\(1 \+ target"),
        (lambda: losses.perceptron(0.5, 0), ValueError, r"-1 and \+1, got 0.*2 \* target - 1"),
        (lambda: losses.hinge(BATCH[0], BATCH[0]), ValueError, r"hinge: expected labels"),
        (lambda: losses.half_squared_error(3, 1.0), TypeError, r"floating dtype, got int"),
        (lambda: losses.kl(jnp.arange(3), BATCH[0, :3]), TypeError, r"outputs before the target"),
        (lambda: losses.softmax_cross_entropy(BATCH[0], 4), ValueError, r"class in 0..3, got 4"),
        (lambda: losses.softmax_cross_entropy(BATCH[0], -1), ValueError, r"got -1.* last layer"),
        (lambda: losses.softmax_cross_entropy(BATCH[0], 2.0), ValueError, r"astype\(int\)"),
        (lambda: losses.softmax_cross_entropy(BATCH[0], BATCH), ValueError, r"got .*\(3, 4\)"),
        (lambda: losses.softmax_cross_entropy(BATCH[0], -1 + BATCH[0]), ValueError, r">= 0"),
        (lambda: losses.softmax_cross_entropy(BATCH, 2), ValueError, r"\(3, 4\).*losses\.each"),
        (lambda: losses.kl(BATCH[0, :1], 0), ValueError, r"K >= 2, got \(1,\); try logistic"),
        (lambda: losses.kl(0.0, 0), ValueError, r"kl: expected logits"),
        (lambda: losses.each(losses.hinge)(1.0, 1.0), ValueError, r"each: .*positions.* got float"),
        (lambda: losses.each(losses.hinge)(BATCH[:0], BATCH[:0]), ValueError, r"got \(0, 4\)"),
        (lambda: losses.each(losses.hinge)(BATCH[0, 0], 1), ValueError, r"each: .*got \(\)"),
        (
            lambda: losses.each(losses.softmax_cross_entropy)(BATCH, jnp.zeros(2, int)),
            ValueError,
            r"each of 3 positions, got shapes \[\(2,\)\]",
        ),
        (lambda: losses.each(losses.hinge)({"a": BATCH}, BATCH), ValueError, r"each: .*got dict"),
        (lambda: losses.each(3), TypeError, r"losses\.each: expected a loss, .* got int"),
        (lambda: losses.separable("kl"), TypeError, r"losses\.separable: expected .* got str"),
        (lambda: losses.with_curvature(None, losses.hinge), TypeError, r"got NoneType"),
        (lambda: losses.huber(0.0), ValueError, r"huber: expected a delta above 0, got 0"),
        (lambda: losses.huber(jnp.nan), ValueError, r"huber: expected a delta above 0, got nan"),
        (
            lambda: losses.curvature(
                losses.with_curvature(lambda o, _: o.sum(), lambda o, _: (o, o))
            )(BATCH, 0),
            ValueError,
            r"expected \(B, s\) of shapes \(12, R\).*got \(3, 4\) and \(3, 4\)",
        ),
    ],
)
def test_refusals_say_what_to_try(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.kl])
def test_a_traced_class_out_of_range_is_a_nan(loss):
    classes = jnp.array([0, 3, 4, -1])
    value = jax.vmap(loss, in_axes=(None, 0))(BATCH[0], classes)
    np.testing.assert_array_equal(jnp.isnan(value), [False, False, True, True])
    B, _ = jax.jit(losses.curvature(loss))(BATCH[0], 4)
    assert jnp.isnan(B).all()


def test_shapes_are_refused_while_tracing():
    with pytest.raises(ValueError, match="of one shape"):
        jax.eval_shape(losses.hinge, BATCH[0], BATCH[0, 0])
