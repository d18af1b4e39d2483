"""Flops: exact formulas, multiplicities, and XLA's own count where XLA can count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import flops


def shape(*axes, dtype="float32"):
    return jax.ShapeDtypeStruct(axes, dtype)


def xla(fn, *args):
    return jax.jit(fn).lower(*args).cost_analysis()["flops"]


def dense_loss(weights, x):
    for weight in weights:
        x = jax.nn.relu(x @ weight)
    return jnp.sum(x * x)


WEIGHTS, BATCH = [shape(64, 32), shape(32, 8)], shape(16, 64)


def test_forward_and_backward_of_a_network_as_xla_counts_them():
    forward = flops.count(dense_loss, WEIGHTS, BATCH)
    products = 2 * 16 * (64 * 32 + 32 * 8)
    assert forward == products + 16 * (32 + 8) + 2 * 16 * 8
    assert forward == pytest.approx(xla(dense_loss, WEIGHTS, BATCH), rel=1e-3)
    backward = jax.grad(dense_loss)
    assert flops.count(backward, WEIGHTS, BATCH) == pytest.approx(
        xla(backward, WEIGHTS, BATCH), rel=0.02
    )


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 3), "padding": "SAME"},
        {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)},
        {"window_strides": (2, 1), "padding": ((1, 2), (0, 3)), "lhs_dilation": (2, 3)},
        {"window_strides": (2, 1), "padding": "SAME", "feature_group_count": 2},
    ],
)
def test_convolutions_and_their_transposes_are_exactly_those_of_xla(options):
    groups = options.get("feature_group_count", 1)
    x, kernel = shape(2, 13, 11, 4), shape(3, 5, 4 // groups, 6)

    def conv(x, kernel):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **options)

    def transposes(x, kernel, outputs):
        return jax.vjp(conv, x, kernel)[1](outputs)

    assert flops.count(conv, x, kernel) == xla(conv, x, kernel)
    args = (x, kernel, jax.eval_shape(conv, x, kernel))
    assert flops.count(transposes, *args) == xla(transposes, *args)


def test_batched_products():
    def product(a, b):
        return jnp.einsum("nij,njk->nik", a, b)

    assert flops.count(product, shape(5, 2, 3), shape(5, 3, 4)) == 2 * 5 * 2 * 3 * 4
    mapped = jax.vmap(jnp.dot, (0, None))
    assert flops.count(mapped, shape(7, 2, 3), shape(3, 4)) == 2 * 7 * 2 * 3 * 4


def test_loops_count_their_trips():
    def body(carry, x):
        return jnp.tanh(carry) + x, carry

    def loop(start, xs):
        return jax.lax.scan(body, start, xs)

    assert flops.count(loop, shape(3), shape(10, 3)) == 10 * 6

    def inner(_, carry):
        return loop(carry, jnp.ones((4, 3), "float32"))[0]

    nested = functools.partial(jax.lax.fori_loop, 0, 5, inner)
    assert flops.count(nested, shape(3)) == 5 * 4 * 6

    def until(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 7, lambda x: x * x, x)

    assert flops.count(until, shape(3)) == 3 + 1 + 3  # one trip


def test_a_branch_counts_as_the_dearest():
    def branch(i, x):
        return jax.lax.switch(i, [jnp.sin, lambda x: x @ x, lambda x: x], x)

    assert flops.count(branch, shape(dtype="int32"), shape(4, 4)) == 2 * 4**3


@jax.custom_jvp
def custom_jvp(x):
    return x * x


@jax.custom_vjp
def custom_vjp(x):
    return x * x


custom_jvp.defjvp(lambda primals, tangents: (custom_jvp(*primals), tangents[0]))
custom_vjp.defvjp(lambda x: (x * x, None), lambda _, g: (g,))
custom_vmap = jax.custom_batching.sequential_vmap(lambda x: x * x)


@pytest.mark.parametrize(
    "wrapped",
    [
        jax.jit(lambda x: x * x),
        jax.checkpoint(lambda x: x * x),
        jax.named_call(lambda x: x * x),
        custom_jvp,
        custom_vjp,
        custom_vmap,
    ],
)
def test_calls_are_walked_into(wrapped):
    assert flops.count(wrapped, shape(5)) == 5
    assert flops.count(lambda x: jax.jit(wrapped)(wrapped(x)), shape(5)) == 10


def test_moving_and_integer_work_are_free():
    def move(x):
        y = jnp.concatenate([x.T[::-1].reshape(2, 6), x[:2, jnp.array([0, 1, 2, 3, 0, 1])]])
        y = jnp.stack(jnp.unstack(y, axis=1))
        return jnp.pad(y.astype("float64").astype("float32"), 1), jnp.arange(3) * 2 + 1

    assert flops.count(move, shape(3, 4)) == 0
    assert flops.count(lambda key: jax.random.bits(key, (9,)), jax.random.key(0)) == 0


def test_what_nothing_reads_is_not_counted():
    """As the compiler deletes it: through calls, scans and branches."""

    def body(carry, x):
        used, unused = carry
        return (used + x, unused @ unused), (unused @ unused, x)

    def model(x, matrix):
        (total, _), (_, xs) = jax.lax.scan(body, (x[0], matrix), x)
        pair = jax.jit(lambda a: (a * a, a @ a))(matrix)
        either = jax.lax.cond(x[0, 0] > 0, lambda a: (a, a @ a), lambda a: (-a, a @ a), matrix)
        return total, xs, pair[0], either[0]

    assert flops.count(model, shape(6, 3), shape(4, 4)) == 6 * 3 + 16 + 1 + 16

    def through_the_carry(x, matrix):
        """Here the second part of the carry reaches the first one step later."""

        def step(carry, _):
            return (carry[1], carry[1] @ matrix), None

        return jax.lax.scan(step, (x, x), None, length=3)[0][0]

    assert flops.count(through_the_carry, shape(4, 4), shape(4, 4)) == 3 * 2 * 4**3


N = 6
LINEAR_ALGEBRA = {
    # Beside the factorization (A + A^T) / 2, and a selection of the triangle.
    "cholesky": (jax.lax.linalg.cholesky, [(N, N)], N**3 / 3 + 3 * N**2),
    "a stack of cholesky": (
        lambda a: jax.lax.linalg.cholesky(a, symmetrize_input=False),
        [(3, N, N)],
        3 * (N**3 / 3 + N**2),
    ),
    "triangular solve": (
        lambda a, b: jax.lax.linalg.triangular_solve(a, b, left_side=True),
        [(N, N), (N, 2)],
        2 * N**2,
    ),
    "lu": (jax.lax.linalg.lu, [(N, N)], 2 * N**3 / 3),
    "eigh": (lambda a: jax.lax.linalg.eigh(a, symmetrize_input=False), [(N, N)], 9 * N**3),
    "qr": (lambda a: jnp.linalg.qr(a), [(9, N)], 2 * (2 * 9 * N**2 - 2 * N**3 / 3)),
    "full qr": (
        lambda a: jnp.linalg.qr(a, mode="complete"),
        [(9, N)],
        (2 * 9 * N**2 - 2 * N**3 / 3) + (4 * 81 * N - 4 * 9 * N**2 + 4 * N**3 / 3),
    ),
    "svd": (
        lambda a: jnp.linalg.svd(a, full_matrices=False),
        [(N, 9)],
        6 * 9 * N**2 + 20 * N**3,
    ),
    "full svd": (lambda a: jnp.linalg.svd(a), [(9, N)], 4 * 81 * N + 22 * N**3),
    "singular values": (
        lambda a: jnp.linalg.svd(a, compute_uv=False),
        [(9, N)],
        2 * 9 * N**2 + 2 * N**3,
    ),
    "eig": (jax.lax.linalg.eig, [(N, N)], 25 * N**3),
    "schur": (jax.lax.linalg.schur, [(N, N)], 25 * N**3),
    "hessenberg": (jax.lax.linalg.hessenberg, [(N, N)], 10 * N**3 / 3),
    "tridiagonal": (
        lambda a: jax.lax.linalg.tridiagonal(a, lower=True),
        [(N, N)],
        4 * N**3 / 3,
    ),
    "tridiagonal solve": (
        jax.lax.linalg.tridiagonal_solve,
        [(N,), (N,), (N,), (N, 2)],
        8 * 2 * N,
    ),
    "reflections": (
        jax.lax.linalg.householder_product,
        [(9, N), (N,)],
        2 * 9 * N**2 - 2 * N**3 / 3,
    ),
    "sort": (lambda a: jnp.sort(a, axis=0), [(8, 3)], 8 * 3 * 3),
    "top k": (lambda a: jax.lax.top_k(a, 4), [(16,)], 16 * 2),
    "fft": (lambda a: jnp.fft.fft(a.astype("complex64")), [(3, 8)], 5 * 3 * 8 * 3),
    "rfft": (jnp.fft.rfft, [(8,)], 2.5 * 8 * 3),
    "irfft": (lambda a: jnp.fft.irfft(a.astype("complex64")), [(5,)], 2.5 * 8 * 3),
    "sum": (jnp.sum, [(3, 4)], 12),
    "argmax": (jnp.argmax, [(3, 4)], 12),
    "cumsum": (jnp.cumsum, [(12,)], 12),
    "scatter": (lambda a, b: a.at[jnp.array([0, 0])].add(b), [(9, 3), (2, 3)], 6),
    "window": (
        lambda a: jax.lax.reduce_window(a, -jnp.inf, jax.lax.max, (3,), (1,), "VALID"),
        [(8,)],
        6 * 3,
    ),
    "tanh": (jnp.tanh, [(5,)], 5),
}


@pytest.mark.parametrize("name", LINEAR_ALGEBRA)
def test_formula(name):
    fn, shapes, expected = LINEAR_ALGEBRA[name]
    assert flops.count(fn, *(shape(*axes) for axes in shapes)) == pytest.approx(expected, rel=1e-12)


def test_a_linear_solve_counts_the_factorization_and_two_triangular_solves_for_each_side():
    columns = 2
    counted = flops.count(jnp.linalg.solve, shape(40, 40), shape(40, columns))
    assert counted == pytest.approx(2 * 40**3 / 3 + 2 * 40**2 * columns, rel=0.01)


def test_gradient_of_pooling():
    def pooled(x):
        return jnp.sum(jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (4,), (4,), "VALID"))

    assert flops.count(jax.grad(pooled), shape(12)) == 3 * 4


def test_arguments_may_be_trees_keywords_and_tracers():
    def product(pair, *, b):
        return pair["a"] @ b

    assert flops.count(product, {"a": shape(2, 3)}, b=np.ones((3, 4))) == 2 * 2 * 3 * 4
    seen = []
    jax.jit(lambda a: seen.append(flops.count(jnp.sin, a)) or a)(jnp.ones(7))
    assert seen == [7]


def test_the_count_is_a_float_and_zero_for_the_identity():
    count = flops.count(lambda x: x, shape(3))
    assert (type(count), count) == (float, 0.0)
