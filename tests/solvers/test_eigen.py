"""Steps from an eigenbasis: certificates of optimality, Lanczos against the whole, bad input."""

import functools

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import solvers

SIZE = 7
RNG = np.random.default_rng(0)
ROTATION, _ = np.linalg.qr(RNG.normal(size=(SIZE, SIZE)))
SOME = RNG.normal(size=SIZE)
INDEFINITE = np.array([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 5.0])

# Eigenvalues and gradients along them.
MODELS = {
    "convex": (np.arange(1.0, SIZE + 1), SOME),
    "ill-conditioned": (np.logspace(-9, 3, SIZE), SOME),
    "singular": (np.maximum(INDEFINITE, 0), SOME),
    "indefinite": (INDEFINITE, SOME),
    "hard": (INDEFINITE, SOME * (np.arange(SIZE) > 0)),
    "nearly hard": (INDEFINITE, np.where(np.arange(SIZE) > 0, SOME, 1e-13)),
    "hard, twice": (np.maximum(INDEFINITE, -1), SOME * (np.arange(SIZE) > 1)),
    "negative multiple of the identity": (np.full(SIZE, -2.0), SOME),
    "saddle": (INDEFINITE, np.zeros(SIZE)),
    "bowl": (np.ones(SIZE), np.zeros(SIZE)),
    "no curvature": (np.zeros(SIZE), SOME),
    "nothing": (np.zeros(SIZE), np.zeros(SIZE)),
    "tiny": (1e-30 * INDEFINITE, 1e-40 * SOME),
}


def dense(matrix, penalty=None):
    """The system of a symmetric matrix."""
    like = jnp.zeros(len(matrix), matrix.dtype)
    return solvers.System(like, lambda v: matrix @ v, lambda: matrix, penalty=penalty)


def basis_of(matrix, grad, subspace=None):
    return solvers.eigenbasis(dense(matrix), solvers.RightHandSide(None, grad), subspace)


# All models, turned so that no eigenvector is an axis.
VALUES, SLOPES = (np.array(column) for column in zip(*MODELS.values(), strict=True))
MATRICES = np.einsum("ij,mj,kj->mik", ROTATION, VALUES, ROTATION)
GRADS = SLOPES @ ROTATION.T


@functools.partial(jax.jit, static_argnames=("method", "subspace"))
def solve(method, numbers, subspace=None):
    """Steps and promises, for every model with every number."""

    def one(matrix, grad, number):
        basis = basis_of(matrix, grad, subspace)
        solution = basis.solution(method(basis, number))
        return solution.step, solution.reduction, solution.ok

    return jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(MATRICES, GRADS, numbers)


RADII = np.array([0.01, 0.3, 1.0, 30.0])


@pytest.mark.parametrize("subspace", [None, SIZE], ids=["dense", "lanczos"])
@pytest.mark.parametrize("method", [solvers.trust_region, solvers.cubic])
def test_the_step_is_the_global_minimum(method, subspace):
    """By the conditions that hold there and nowhere else."""
    steps, promises, ok = map(np.asarray, solve(method, RADII, subspace))
    assert ok.all()
    for m, name in enumerate(MODELS):
        matrix, grad = MATRICES[m], GRADS[m]
        lowest = np.linalg.eigvalsh(matrix)[0]
        scale = max(np.abs(matrix).max(), np.linalg.norm(grad), 1e-300)
        for number, d, promise in zip(RADII, steps[m], promises[m], strict=True):
            length, pull = np.linalg.norm(d), matrix @ d + grad
            if method is solvers.cubic:
                shift = number * length
            else:
                shift = -d @ pull / length**2 if length > 0 else 0.0
                assert length <= number * (1 + 1e-12), name
                assert (number - length) / number * shift <= 1e-6 * scale, name
            assert shift >= max(0, -lowest) - 1e-6 * scale, name
            # The least shift of a convex model is rounding where the step is inside.
            np.testing.assert_allclose(
                pull, -shift * d, atol=1e-7 * scale * max(1, length), err_msg=name
            )
            expected = -grad @ d - d @ matrix @ d / 2
            np.testing.assert_allclose(promise, expected, rtol=1e-6, atol=1e-12 * scale)


def steihaug(matrix, grad, radius, products):
    """Conjugate gradients until they leave the region or meet negative curvature."""
    d, rest = np.zeros_like(grad), grad.copy()
    p = -rest
    for _ in range(products):
        image = matrix @ p
        curvature, length = p @ image, np.linalg.norm
        step = rest @ rest / curvature
        if curvature <= 0 or length(d + step * p) >= radius:
            a, b, c = p @ p, 2 * d @ p, d @ d - radius**2
            return d + (-b + np.sqrt(b**2 - 4 * a * c)) / (2 * a) * p
        d, before = d + step * p, rest @ rest
        rest = rest + step * image
        p = -rest + rest @ rest / before * p
    return d


def test_the_step_in_a_subspace_is_no_worse_than_that_of_conjugate_gradients():
    rng, worse = np.random.default_rng(1), 0
    matrices = rng.normal(size=(6, 60, 60)) + 6 * np.eye(60)
    matrices, grads = matrices + matrices.transpose(0, 2, 1), rng.normal(size=(6, 60))

    @jax.jit
    @jax.vmap
    def promise(matrix, grad, radius):
        basis = basis_of(matrix, grad, subspace=10)
        return basis.solution(solvers.trust_region(basis, radius)).reduction

    radii = np.array([0.03, 0.1, 0.3, 1.0, 3.0, 10.0])
    for matrix, grad, radius, gained in zip(
        matrices, grads, radii, promise(matrices, grads, radii), strict=True
    ):
        d = steihaug(matrix, grad, radius, products=10)
        other = -grad @ d - d @ matrix @ d / 2
        assert gained >= other * (1 - 1e-9)
        worse += gained > other * (1 + 1e-3)
    assert worse > 0


def test_the_absolute_step():
    """That of numpy's |C|, penalty included; Newton's where C is positive."""

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.vmap, in_axes=(None, 0, 0))
    def step(solver, matrix, grad):
        system = dense(matrix - 0.2 * jnp.eye(SIZE), penalty=0.2)
        return solver.solve(system, solvers.RightHandSide(None, grad), 0.3)

    some = [[*MODELS].index("convex"), [*MODELS].index("indefinite")]
    matrices, grads = MATRICES[some], GRADS[some]
    for solver in (solvers.absolute(), solvers.absolute(SIZE)):
        found = step(solver, matrices, grads)
        for i, (matrix, grad) in enumerate(zip(matrices, grads, strict=True)):
            values, vectors = np.linalg.eigh(matrix)
            size = (vectors * np.abs(values)) @ vectors.T
            d = -np.linalg.solve(size + 0.3 * np.eye(SIZE), grad)
            np.testing.assert_allclose(found.step[i], d, rtol=1e-9)
            np.testing.assert_allclose(found.reduction[i], -grad @ d - d @ matrix @ d / 2)
        assert found.counts.negative.tolist() == [0, 1]
        assert found.residual[0] < 1e-12 < 0.1 < found.residual[1]


@pytest.mark.parametrize("solver", [solvers.absolute(), solvers.primal(solvers.signed)])
def test_without_damping_a_slope_without_curvature_is_gone_down(solver):
    """By the root of the sum of squares of all curvatures, and by 1 where there is none."""

    @jax.jit
    def step(diagonal, grad):
        return solver.solve(dense(jnp.diag(diagonal)), solvers.RightHandSide(None, grad), 0.0)

    across = np.array([2.0, 0.0, -4.0])
    signs = np.array([1.0, 1.0, 1.0 if solver.name == "absolute" else -1.0])
    expected = np.array([-0.5, -1 / 20**0.5, -0.25]) * signs
    for unit in (1e-150, 1.0, 1e150):
        found = step(unit * across, unit * np.ones(3))
        np.testing.assert_allclose(found.step, expected, rtol=1e-12)
    level = step(across, np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(level.step, expected * [1, 0, 1], atol=1e-15)
    nothing = step(np.zeros(3), np.ones(3))
    np.testing.assert_array_equal(nothing.step, -np.ones(3))
    assert nothing.ok


def test_lanczos_goes_on_where_its_subspace_is_invariant():
    """Its values are those of the whole, also from a gradient of zero or in an eigenvector."""
    whole = jax.jit(jax.vmap(lambda m, g: basis_of(m, g, SIZE).values))(MATRICES, GRADS)
    scale = np.abs(VALUES).max(axis=1, keepdims=True) + 1e-300
    np.testing.assert_allclose(whole / scale, np.sort(VALUES) / scale, atol=1e-13)
    signs = np.diag([1.0, 1.0, 1.0, -1.0])
    part = jax.jit(lambda g: basis_of(signs, g, subspace=3).values)(np.eye(4)[0])
    assert part[0] < -0.1  # which the gradient does not see


def test_large_systems_are_not_diagonalized():
    def dimension(matrix, size, **options):
        like = jax.ShapeDtypeStruct((size,), float)
        system = solvers.System(like, lambda v: 2 * v, matrix)
        found = jax.eval_shape(
            lambda g: solvers.eigenbasis(system, solvers.RightHandSide(None, g), **options).values,
            like,
        )
        return found.size

    most, some = solvers.DENSE, solvers.eigen.SUBSPACE
    assert dimension(lambda: jnp.eye(most), most) == most
    assert dimension(lambda: jnp.eye(20), 20, memory_budget=20 * 8 * 3) == 3
    assert dimension(lambda: jnp.eye(20), 20, subspace=5) == 5
    assert dimension(None, most + 1) == dimension(None, most) == some
    assert dimension(None, most + 1, memory_budget=5 * 8 * (most + 1)) == 5
    assert dimension(None, 20) == dimension(None, 20, subspace=40) == 20


def test_eigendecompositions_are_never_batched():
    def shapes(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "eigh":
                yield eqn.invars[0].aval.shape
            for inner in jex.jaxprs_in_params(eqn.params):
                yield from shapes(inner)

    lanes = jax.make_jaxpr(jax.vmap(lambda m, g: basis_of(m, g).values))(MATRICES, GRADS)
    assert {*shapes(lanes.jaxpr)} == {(SIZE, SIZE)}


@pytest.mark.parametrize("subspace", [None, 2])
def test_what_is_not_finite_is_rejected(subspace):
    healthy = jnp.eye(3)

    @jax.jit
    @jax.vmap
    def trial(matrix, grad):
        basis = basis_of(matrix, grad, subspace)
        steps = [basis.solution(f(basis, 1.0)) for f in (solvers.trust_region, solvers.cubic)]
        rhs = solvers.RightHandSide(None, grad)
        return [*steps, solvers.absolute(subspace).solve(dense(matrix), rhs, 0.0)]

    broken = np.stack([healthy.at[1, 1].set(np.nan), healthy * np.inf, healthy, healthy])
    grads = np.ones((4, 3))
    grads[2, 0], grads[3, 0] = np.nan, np.inf
    for solution in trial(broken, grads):
        np.testing.assert_array_equal(solution.step, 0.0)
        np.testing.assert_array_equal(solution.counts.rejected, 1)
        np.testing.assert_array_equal(solution.counts.eigen, 0)
        assert not solution.ok.any()


@pytest.mark.parametrize("subspace", [None, 3])
def test_float32(subspace):
    m = [*MODELS].index("nearly hard")

    @jax.jit
    def trial(matrix, grad):
        basis = basis_of(matrix, grad, subspace)
        return basis.solution(solvers.trust_region(basis, 2.0))

    narrow = trial(np.float32(MATRICES[m]), np.float32(GRADS[m]))
    wide = trial(MATRICES[m], GRADS[m])
    assert narrow.step.dtype == narrow.reduction.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(narrow.step), 2.0, rtol=1e-5)
    np.testing.assert_allclose(narrow.reduction, wide.reduction, rtol=1e-5)


def test_misuse_is_named():
    system, rhs = dense(jnp.eye(2)), solvers.RightHandSide(None, jnp.ones(2))
    with pytest.raises(ValueError, match="eigenbasis: expected subspace >= 1, got 0; try None"):
        solvers.eigenbasis(system, rhs, 0)
    with pytest.raises(ValueError, match="expected h like the parameters"):
        solvers.eigenbasis(system, solvers.RightHandSide(None, jnp.ones(3)))
    with pytest.raises(ValueError, match="expected damping >= 0, got -1"):
        solvers.absolute().solve(system, rhs, -1)
    pair = solvers.System((jnp.ones(1), jnp.ones(1)), lambda v: v)
    with pytest.raises(TypeError, match=r"absolute: expected one number.*try solvers\.primal"):
        solvers.absolute().solve(pair, solvers.RightHandSide(None, pair.like), (1.0, 2.0))
