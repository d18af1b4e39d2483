"""Solvers against numpy, against each other, and against what can go wrong."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from fnn import solvers

LIKE = {"b": jnp.zeros(3), "w": jnp.zeros((4, 3)), "z": jnp.zeros(())}
SIZE = 16
PENALTIES = {
    "none": None,
    "number": 0.2,
    "some": {"b": 0.0, "w": jnp.asarray(0.3), "z": jnp.asarray(0.1)},
}
CG = solvers.conjugate_gradients(300, 1e-14, solvers.jacobi)
EVERY = {
    "primal": solvers.primal(),
    "dual": solvers.dual(),
    "cg": CG,
    "automatic": solvers.automatic(),
}


def matrix(rows, decades, rank=None, seed=0):
    """A random matrix whose singular values span so many decades, or end at a rank."""
    draw = np.random.default_rng(seed).normal(size=(rows, SIZE))
    left, values, right = np.linalg.svd(draw, full_matrices=False)
    values = np.logspace(0, -decades, len(values))
    return jnp.asarray(
        (left * np.where(np.arange(len(values)) < (rank or SIZE), values, 0)) @ right
    )


def sides(rows, with_h, seed=1):
    """A right-hand side, with or without h."""
    s, h = np.split(np.random.default_rng(seed).normal(size=rows + SIZE), [rows])
    return solvers.RightHandSide(
        jnp.asarray(s), ravel_pytree(LIKE)[1](jnp.asarray(h)) if with_h else None
    )


def flat(numbers):
    """A number, tree of numbers or tree of arrays as the vector of a diagonal."""
    if numbers is None:
        return np.zeros(SIZE)
    if jax.tree.structure(numbers) != jax.tree.structure(LIKE):
        numbers = jax.tree.map(lambda _: numbers, LIKE)
    full = jax.tree.map(lambda x, leaf: jnp.broadcast_to(x, leaf.shape), numbers, LIKE)
    return np.asarray(ravel_pytree(full)[0])


def expected(rows, rhs, damping, penalty):
    """The step of least norm, the residual and the reduction, by numpy."""
    rows = np.asarray(rows)
    curvature = rows.T @ rows + np.diag(flat(penalty))
    slope = rows.T @ np.asarray(rhs.s) + flat(rhs.h)
    full = curvature + np.diag(flat(damping))
    step = -np.linalg.lstsq(full, slope, rcond=1e-13)[0]
    residual = np.linalg.norm(full @ step + slope) / np.linalg.norm(slope)
    return step, residual, -slope @ step - step @ curvature @ step / 2


def agree(solution, rows, rhs, damping, penalty, tolerance=1e-8):
    """Asserts that a solution is the expected one."""
    step, residual, reduction = expected(rows, rhs, damping, penalty)
    got = np.asarray(ravel_pytree(solution.step)[0])
    assert bool(solution.ok)
    assert np.linalg.norm(got - step) <= tolerance * np.linalg.norm(step)
    assert abs(float(solution.reduction) - reduction) <= tolerance * abs(reduction)
    assert abs(float(solution.residual) - residual) <= tolerance


ladder = jax.jit(solvers.ladder)


def run(solver, system, rhs, damping):
    """One solution, compiled."""
    return jax.jit(lambda rhs, damping: solver.solve(system, rhs, damping))(rhs, damping)


@functools.partial(jax.jit, static_argnames=("name", "penalty"))
def solve(name, a, rhs, damping, penalty="none"):
    """One compiled program for each solver, penalty and shape, shared by many tests."""
    return EVERY[name].solve(solvers.from_rows(a, LIKE, PENALTIES[penalty]), rhs, damping)


@pytest.mark.parametrize(
    ("rows", "penalty", "with_h"),
    [
        (9, "none", False),
        (9, "none", True),
        (9, "number", True),
        (9, "some", True),
        (25, "none", False),
        (25, "some", True),
    ],
)
def test_the_same_step(rows, penalty, with_h):
    rhs = sides(rows, with_h)
    cases = list(itertools.product((0, 1, 4), (1.0, 1e-5)))
    if penalty != "none":  # without a penalty, the system at damping 0 is singular: see below
        cases += [(1, 0.0)]
    for (decades, damping), name in itertools.product(cases, ("primal", "dual", "cg")):
        a = matrix(rows, decades)
        agree(solve(name, a, rhs, damping, penalty), a, rhs, damping, PENALTIES[penalty])


@pytest.mark.parametrize("name", ["primal", "dual", "cg"])
def test_a_damping_that_is_a_tree(name):
    diagonal = jax.tree.map(lambda leaf: 0.5 + jnp.arange(leaf.size).reshape(leaf.shape), LIKE)
    partly = diagonal | {"b": jnp.zeros(3)}
    a = matrix(9, 1, rank=7)
    for damping in (diagonal, partly):  # Marquardt's
        agree(solve(name, a, sides(9, True), damping), a, sides(9, True), damping, None)
    numbers = {"b": 0.1, "w": 2.0, "z": 0.0}
    agree(solve(name, a, sides(9, False), numbers), a, sides(9, False), numbers, None)


@pytest.mark.parametrize(("rows", "rank"), [(9, None), (9, 5), (25, None), (25, 5)])
def test_damping_zero_is_lstsq(rows, rank):
    a, rhs = matrix(rows, 1, rank), sides(rows, False)
    step, *_ = np.linalg.lstsq(np.asarray(a), -np.asarray(rhs.s), rcond=1e-10)
    for name in ("primal", "dual"):
        solution = solve(name, a, rhs, 0.0)
        np.testing.assert_allclose(ravel_pytree(solution.step)[0], step, rtol=0, atol=1e-11)
        assert solution.ok


def test_damping_zero_takes_the_part_of_h_that_has_a_solution():
    for rank, name in itertools.product((None, 5), ("primal", "dual")):
        a, rhs = matrix(9, 1, rank), sides(9, True)
        agree(solve(name, a, rhs, 0.0), a, rhs, 0.0, None)


def test_singular_matrices_that_cholesky_accepts_are_found():
    # rounding makes about half of these numerically positive definite, with harmless-looking pivots
    draws = jax.random.normal(jax.random.key(0), (40, 30, 29))
    grams = draws @ draws.mT
    passed = jnp.isfinite(jax.vmap(jnp.linalg.cholesky)(grams)).all((1, 2))
    assert 5 < passed.sum() < 35
    b = jax.random.normal(jax.random.key(1), (30, 1))
    found = jax.jit(jax.vmap(solvers.ladder, in_axes=(0, None)))(grams, b)
    assert (found.counts.eigen == 1).all()
    reference = np.linalg.pinv(np.asarray(grams), rcond=1e-12, hermitian=True) @ np.asarray(b)
    error = np.linalg.norm(found.inverse - reference, axis=1) / np.linalg.norm(reference, axis=1)
    assert error.max() < 1e-8


@pytest.mark.parametrize("rank", [6, 4])
@pytest.mark.parametrize("damping", [0.5, 0.0])
def test_ladder_of_a_pencil(rank, damping):
    rng = np.random.default_rng(2)
    half, other = rng.normal(size=(6, rank)), rng.normal(size=(6, 6))
    f, s, b = half @ half.T, np.eye(6) + other @ other.T, rng.normal(size=(6, 2))
    found = ladder(*map(jnp.asarray, (f, b, damping, s)))
    root = np.linalg.cholesky(s)
    inverse = np.linalg.inv(root)
    inside = inverse @ f @ inverse.T
    generalized = inverse.T @ np.linalg.pinv(inside + damping * np.eye(6), rcond=1e-12) @ inverse
    np.testing.assert_allclose(found.inverse, generalized @ b, atol=1e-10)
    np.testing.assert_allclose(found.square, generalized @ s @ generalized @ b, atol=1e-9)
    remainder = np.linalg.solve(s, b - f @ generalized @ b)
    np.testing.assert_allclose(found.remainder, remainder, atol=1e-10)
    assert int(found.counts.eigen) == (rank == 4 and damping == 0)


def test_ladder_keeps_the_positive_part():
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (4, 4)))[0]
    b = jax.random.normal(jax.random.key(1), (4, 1))
    values = jnp.array([2.0, 1.0, 0.5, -1.0])
    found = ladder((rotation * values) @ rotation.T, b)
    kept = rotation[:, :3]
    np.testing.assert_allclose(found.inverse, kept @ (kept.T @ b / values[:3, None]), atol=1e-12)
    assert (int(found.counts.eigen), int(found.counts.negative)) == (1, 1)


def test_tiny_systems_do_not_overflow():
    with jax.enable_x64(False):
        found = ladder(1e-25 * jnp.eye(3), jnp.full((3, 1), 1e-3))
        assert found.counts.cholesky == 1
        np.testing.assert_allclose(found.inverse, 1e22, rtol=1e-6)


def test_lanes_where_factorizations_are_batched(monkeypatch):
    # small enough for a CPU to batch; one lane for each rung
    good, singular, bad = jnp.eye(3) + 0.1, jnp.ones((3, 3)), jnp.full((3, 3), jnp.nan)
    stack, b = jnp.stack([good, singular, bad]), jnp.arange(3.0)[:, None]
    mapped = jax.jit(jax.vmap(lambda m: solvers.ladder(m, b)))(stack)

    def elsewhere(*args, default, **_):
        return default(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    program = jax.make_jaxpr(jax.vmap(lambda m: solvers.ladder(m, b)))(stack)
    assert "f64[3,3,3] = cholesky" in str(program)
    batched = jax.jit(jax.vmap(lambda m: solvers.ladder(m, b)))(stack)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-12), batched, mapped)
    assert mapped.counts.cholesky.tolist() == [1, 0, 0]
    assert mapped.counts.eigen.tolist() == [0, 1, 0]
    assert mapped.counts.rejected.tolist() == [0, 0, 1]


@pytest.mark.gate
def test_eight_lanes_of_300_rows_do_not_hang(runs_alone):
    runs_alone("""
        import jax, jax.numpy as jnp
        from fnn import solvers
        def one(key, damping):
            a, s = jax.random.normal(key, (300, 400)), jax.random.normal(key, (300,))
            a = a.at[150:].set(jnp.where(damping == 0, a[:150], a[150:]))
            system = solvers.from_rows(a, jnp.zeros(400))
            return solvers.dual().solve(system, solvers.RightHandSide(s), damping)
        keys, dampings = jax.random.split(jax.random.key(0), 8), jnp.array([0.0, 0.0] + [0.1] * 6)
        together = jax.jit(jax.vmap(one))(keys, dampings)
        alone = jax.jit(one)(keys[7], dampings[7])
        assert jnp.allclose(together.step[7], alone.step, atol=1e-4), "lane 7 differs"
        assert together.counts.eigen.tolist() == [1, 1] + [0] * 6, together.counts
        assert together.counts.cholesky.tolist() == [0, 0] + [1] * 6, together.counts
        assert together.step.dtype == jnp.float32
    """)


def test_float32_is_solved_in_float64(monkeypatch):
    with jax.enable_x64(False):
        draw = jax.random.normal(jax.random.key(0), (60, 80))
        left, *_ = jnp.linalg.svd(draw, full_matrices=False)
        gram = ((left * jnp.logspace(0, -5, 60)) @ left.T).astype(jnp.float32)
        gram, b = (gram + gram.T) / 2, jax.random.normal(jax.random.key(1), (60, 1))
        wide = ladder(gram, b)
        monkeypatch.setattr(jax, "default_backend", lambda: "a device without float64")
        twice = jnp.concatenate([b, b], 1)  # another shape, for another trace
        narrow = jax.jit(lambda *args: solvers.ladder(*args))(gram, twice)
        assert wide.inverse.dtype == narrow.inverse.dtype == jnp.float32
        assert wide.counts.cholesky == narrow.counts.cholesky == 1
    exact = np.linalg.solve(np.asarray(gram, float), np.asarray(b, float))
    found = [x.inverse[:, :1] for x in (wide, narrow)]
    error = [np.linalg.norm(x - exact) / np.linalg.norm(exact) for x in found]
    # seen: 2e-8 (the rounding of the answer) against 5e-4
    assert error[0] < 1e-7
    assert 100 * error[0] < error[1] < 1e-1


def test_float32_follows_float64():
    a, rhs = matrix(9, 2), sides(9, True)
    step, *_ = expected(a, rhs, 1e-2, None)
    narrow = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (a, rhs, LIKE))
    with jax.enable_x64(False):
        a32, rhs32, like = jax.tree.map(jnp.asarray, narrow)
        for solver in (solvers.primal(), solvers.dual(), solvers.conjugate_gradients()):
            one = jax.jit(lambda a, b, s=solver: s.solve(solvers.from_rows(a, like), b, 1e-2))
            got = np.asarray(ravel_pytree(one(a32, rhs32).step)[0])
            assert got.dtype == np.float32
            assert np.linalg.norm(got - step) < 1e-4 * np.linalg.norm(step)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_not_finite_is_rejected(name):
    a, rhs = matrix(9, 1), sides(9, True)
    h = rhs.h | {"b": rhs.h["b"].at[0].set(jnp.inf)}
    cases = [
        (a.at[0, 0].set(jnp.nan), rhs, 0.1),
        (a.at[0, 0].set(jnp.inf), rhs, 0.1),
        (a, rhs._replace(s=rhs.s.at[3].set(jnp.nan)), 0.1),
        (a, rhs._replace(h=h), 0.1),
        (a, rhs, jnp.nan),
    ]
    for case in cases:
        solution = solve(name, *case, "some")
        assert not solution.ok
        assert [int(count) for count in solution.counts][:3] == [0, 0, 1]
        assert not ravel_pytree(solution.step)[0].any()
        assert (float(solution.residual), float(solution.reduction)) == (1.0, 0.0)
    assert solve(name, a, rhs, 0.1, "some").ok


def test_a_gradient_of_zero_is_a_step_of_zero():
    nothing = solvers.RightHandSide(jnp.zeros(9))
    for name in ("primal", "dual", "cg"):
        solution = solve(name, matrix(9, 1), nothing, 0.1)
        assert solution.ok
        assert not ravel_pytree(solution.step)[0].any()
        assert not solution.residual


@pytest.mark.parametrize(
    ("name", "penalty"), [("primal", "some"), ("dual", "number"), ("dual", "some")]
)
def test_a_second_trial_forms_nothing(name, penalty):
    calls = []

    def counted(function):
        return lambda *args: calls.append(function) or function(*args)

    @jax.jit
    def trials(a, rhs, dampings):
        system = solvers.from_rows(a, LIKE, PENALTIES[penalty])
        system = system._replace(gram=counted(system.gram), normal=counted(system.normal))
        trial = EVERY[name].prepare(system)
        return [trial(rhs, damping) for damping in dampings]

    a, rhs, dampings = matrix(9, 1), sides(9, True), (1.0, 0.1)
    for solution, damping in zip(trials(a, rhs, dampings), dampings, strict=True):
        agree(solution, a, rhs, damping, PENALTIES[penalty])
    assert len(calls) == 1


def test_leaves_under_one_penalty_share_a_gram_matrix():
    weight = jnp.asarray(0.1)
    shapes = []

    def gram(inverse):
        shapes.append(inverse["b"])
        return system.gram(inverse)

    system = solvers.from_rows(matrix(9, 1), LIKE, {"b": weight, "w": weight, "z": 0.0})
    text = str(jax.make_jaxpr(lambda: solvers.dual().prepare(system._replace(gram=gram)) and 0)())
    assert len(shapes) == 1
    assert "f64[2,9,9]" in text
    assert "f64[3,9,9]" not in text


def test_conjugate_gradients_need_as_many_iterations_as_eigenvalues():
    rotation = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (SIZE, SIZE)))[0]
    for distinct in (1, 2, 5):
        values = 1.0 + jnp.arange(SIZE) % distinct
        system = solvers.from_rows(rotation.T * jnp.sqrt(values)[:, None], LIKE)
        solution = run(solvers.conjugate_gradients(50, 1e-10), system, sides(SIZE, True), 0.3)
        assert int(solution.counts.iterations) == distinct
        assert float(solution.residual) < 1e-10


def test_jacobi_solves_a_diagonal_at_once():
    system = solvers.from_rows(jnp.diag(jnp.logspace(0, 4, SIZE)), LIKE)
    few = solvers.conjugate_gradients(50, 1e-10, solvers.jacobi)
    assert int(run(few, system, sides(SIZE, True), 0.1).counts.iterations) == 1
    many = run(solvers.conjugate_gradients(50, 1e-10), system, sides(SIZE, True), 0.1)
    assert int(many.counts.iterations) > 10


def test_conjugate_gradients_stop():
    system = solvers.from_rows(matrix(25, 3), LIKE)
    rhs = sides(25, False)
    early = run(solvers.conjugate_gradients(3, 0.0), system, rhs, 0.0)
    assert int(early.counts.iterations) == 3
    assert early.ok
    loose = run(solvers.conjugate_gradients(100, 0.5), system, rhs, 0.0)
    assert float(loose.residual) <= 0.5
    assert int(loose.counts.iterations) < 16
    step = ravel_pytree(loose.step)[0]
    curvature = matrix(25, 3).T @ matrix(25, 3)
    slope = matrix(25, 3).T @ rhs.s
    assert float(loose.residual) == pytest.approx(
        float(jnp.linalg.norm(curvature @ step + slope) / jnp.linalg.norm(slope)), rel=1e-10
    )


def hessian(values):
    """A system without rows."""
    dense = jnp.diag(jnp.asarray(values))
    return solvers.System(
        like=jnp.zeros(len(values)), multiply=lambda v: dense @ v, normal=lambda: dense
    )


def test_negative_curvature():
    cg = solvers.conjugate_gradients()
    # met at once: no step; met later: the step so far, downhill
    at_once = run(cg, hessian([-1.0, -2.0]), solvers.RightHandSide(None, jnp.ones(2)), 0.5)
    assert [int(count) for count in at_once.counts] == [0, 0, 1, 1, 1]
    assert not at_once.step.any()
    slope = jnp.array([3.0, 1.0])
    later = run(cg, hessian([2.0, -1.0]), solvers.RightHandSide(None, slope), 0.0)
    assert [int(count) for count in later.counts] == [0, 0, 0, 1, 2]
    assert later.ok
    assert later.step @ slope < 0 < later.reduction
    # enough damping, and it is a system like any other; the primal keeps the positive part
    enough = run(cg, hessian([2.0, -1.0]), solvers.RightHandSide(None, slope), 2.0)
    np.testing.assert_allclose(enough.step, [-0.75, -1.0], atol=1e-6)
    kept = run(solvers.primal(), hessian([2.0, -1.0]), solvers.RightHandSide(None, slope), 0.0)
    np.testing.assert_allclose(kept.step, [-1.5, 0.0], atol=1e-12)
    assert [int(count) for count in kept.counts] == [0, 1, 0, 1, 0]


def test_conjugate_gradients_stop_where_a_system_without_solution_is_flat():
    system, rhs = solvers.from_rows(matrix(9, 1, rank=5), LIKE), sides(9, True)
    solution = run(solvers.conjugate_gradients(1000, 1e-12), system, rhs, 0.0)
    assert solution.ok
    assert solution.reduction > 0
    assert solution.residual > 0.1
    assert solution.counts.negative == 1
    assert jnp.linalg.norm(ravel_pytree(solution.step)[0]) < 1e8  # 1e33 if rounding is trusted


@pytest.mark.parametrize(
    ("rows", "size", "budget", "name"),
    [
        (10, 1000, 2**30, "dual"),
        (1000, 10, 2**30, "primal"),
        (1000, 100_000, 2**20, "conjugate gradients"),
        (1000, 100_000, 2**30, "dual"),
    ],
)
def test_the_choice_and_its_reason(rows, size, budget, name):
    system = jax.eval_shape(lambda: jnp.zeros((rows, size)))
    made = []
    like = jax.ShapeDtypeStruct((size,), jnp.float64)
    jax.eval_shape(lambda a: made.append(solvers.from_rows(a, like)) or 0, system)
    choice = solvers.choose(made[0], budget)
    assert choice.solver.name == name
    assert choice.reason.endswith(f"{name}.")
    for word in ("dual:", "primal:", "conjugate gradients:", "flops", "MiB"):
        assert word in choice.reason
    assert f"{2 * rows**2 * size + rows**3 / 3:.2g} flops" in choice.reason


def test_the_choice_without_rows():
    multiply = solvers.Cost(10, 10)
    dense = hessian([1.0, 2.0])._replace(costs=solvers.Costs(multiply, None, solvers.Cost(8, 8)))
    assert solvers.choose(dense).solver == solvers.primal()
    free = dense._replace(costs=solvers.Costs(multiply))
    assert solvers.choose(free).solver == solvers.conjugate_gradients()
    solution = run(solvers.automatic(), dense, solvers.RightHandSide(None, jnp.ones(2)), 0.0)
    np.testing.assert_allclose(solution.step, [-1.0, -0.5])


@pytest.mark.parametrize("name", EVERY)
def test_solvers_are_values(name):
    solver = EVERY[name]
    assert not callable(solver)  # or inject_hyperparams takes it for a schedule
    again = {
        "primal": solvers.primal,
        "dual": solvers.dual,
        "cg": lambda: solvers.conjugate_gradients(300, 1e-14, solvers.jacobi),
        "automatic": solvers.automatic,
    }[name]()
    assert solver == again
    assert hash(solver) == hash(again)
    traced = []

    @functools.partial(jax.jit, static_argnames="solver")
    def solve(a, damping, solver):
        traced.append(solver)
        return solver.solve(solvers.from_rows(a, LIKE), rhs, damping)

    a, rhs = matrix(9, 1), sides(9, False)
    one = solve(a, 0.1, solver)
    solve(a, 0.2, again)
    assert len(traced) == 1

    def body(total, damping):
        return total + 1, solver.solve(solvers.from_rows(a, LIKE), rhs, damping)

    dampings = jnp.array([0.1, 0.2])
    _, scanned = jax.jit(lambda dampings: jax.lax.scan(body, 0, dampings))(dampings)
    mapped = jax.jit(jax.vmap(lambda damping: body(0, damping)[1]))(dampings)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    # Rounding, which is another in another program and on another processor, decides about the
    # last iteration.
    one, scanned, mapped = (
        solution._replace(counts=solution.counts._replace(iterations=np.zeros(2)))
        for solution in (one, scanned, mapped)
    )
    jax.tree.map(lambda x, y: close(x[0], y), scanned, one)
    jax.tree.map(close, scanned, mapped)


@pytest.mark.parametrize("name", EVERY)
def test_dtypes_are_kept_and_nothing_is_promoted(name):
    like = {"w": jnp.zeros((2, 3), jnp.bfloat16), "b": jnp.zeros(2, jnp.float32)}
    a = jax.random.normal(jax.random.key(0), (5, 8), jnp.float32)
    rhs = solvers.RightHandSide(jnp.ones(5, jnp.float32), like)
    solution = jax.jit(lambda a: EVERY[name].solve(solvers.from_rows(a, like), rhs, 0.5))(a)
    assert solution.ok
    assert jax.tree.map(lambda leaf: leaf.dtype, solution.step) == jax.tree.map(
        lambda leaf: leaf.dtype, like
    )
    same = jnp.zeros(8, jnp.float32)
    with jax.numpy_dtype_promotion("strict"):
        strict = solvers.RightHandSide(jnp.ones(5, jnp.float32), same)
        solution = jax.eval_shape(
            lambda a: EVERY[name].solve(solvers.from_rows(a, same, 0.1), strict, 0.5), a
        )
    assert solution.step.dtype == solution.residual.dtype == jnp.float32


def test_the_explicit_system_is_its_matrix():
    a = matrix(9, 1)
    system = solvers.from_rows(a, LIKE)
    v, unravel = ravel_pytree(sides(9, True).h)
    tree = unravel(v)
    np.testing.assert_allclose(system.product(tree), a @ v, atol=1e-14)
    np.testing.assert_allclose(ravel_pytree(system.multiply(tree))[0], a.T @ (a @ v), atol=1e-14)
    np.testing.assert_allclose(system.normal(), a.T @ a, atol=1e-14)
    np.testing.assert_allclose(ravel_pytree(system.diagonal())[0], jnp.diag(a.T @ a), atol=1e-14)
    for inverse in (tree, {"b": 2.0, "w": 0.0, "z": 3.0}):
        np.testing.assert_allclose(system.gram(inverse), (a * flat(inverse)) @ a.T, atol=1e-13)
    for seed in range(3):
        u = jax.random.normal(jax.random.key(seed), (9,))
        np.testing.assert_allclose(ravel_pytree(system.transpose(u))[0], a.T @ u, atol=1e-14)


def test_what_overflows_in_the_dtype_of_the_parameters_is_rejected():
    a, like = jnp.array([[1e-2]]), jnp.zeros(1, jnp.float16)
    system = solvers.from_rows(a, like)
    for solver in EVERY.values():
        solution = run(solver, system, solvers.RightHandSide(jnp.array([-2e3])), 0.0)
        assert not solution.ok
        assert (int(solution.counts.rejected), float(solution.step[0])) == (1, 0.0)


def test_leaves_without_entries_are_no_special_case():
    like = {"a": jnp.zeros(0), "w": jnp.zeros(2)}
    system = solvers.from_rows(jnp.eye(2), like)
    damping = jax.tree.map(lambda leaf: 1.0 + jnp.zeros(leaf.shape), like)  # Marquardt's
    for solver in EVERY.values():
        step = run(solver, system, solvers.RightHandSide(jnp.array([2.0, 4.0])), damping).step
        np.testing.assert_allclose(step["w"], [-1.0, -2.0], rtol=1e-6)


def test_the_price_of_a_gram_matrix_counts_the_kinds_of_leaves():
    number, three = 0.5, {"b": 0.1, "w": 0.2, "z": 0.3}
    one, many = (solvers.from_rows(matrix(9, 1), LIKE, penalty) for penalty in (number, three))
    assert solvers.choose(one, 5000).solver.name == "dual"
    assert solvers.choose(many, 5000).solver.name == "conjugate gradients"


def test_misuse_says_what_to_do():
    a, rhs = matrix(9, 1), sides(9, True)
    system = solvers.from_rows(a, LIKE)
    bare = hessian([1.0, 2.0])
    ones = solvers.RightHandSide(None, jnp.ones(2))

    def refused(error, pattern, solver, *args):
        with pytest.raises(error, match=f"(?s)expected.*{pattern}.*try"):
            solver.solve(*args)

    for solver in EVERY.values():
        refused(ValueError, "damping >= 0, got -1", solver, system, rhs, -1)
        refused(ValueError, "damping >= 0, got nan", solver, system, rhs, float("nan"))
        refused(ValueError, r"s of shape \(9,\)", solver, system, rhs._replace(s=jnp.ones(8)), 0.1)
        refused(ValueError, "h like the parameters", solver, system, rhs._replace(h={}), 0.1)
        refused(ValueError, "a number or a tree", solver, system, rhs, {"b": 1.0})
        refused(TypeError, "got neither", solver, system, solvers.RightHandSide(None), 0.1)
        complex_like = jax.tree.map(lambda leaf: leaf.astype(complex), LIKE)
        refused(TypeError, "complex128", solver, system._replace(like=complex_like), rhs, 0.1)
    refused(TypeError, "without product", solvers.dual(), bare, ones, 0.1)
    refused(TypeError, "without normal", solvers.primal(), bare._replace(normal=None), ones, 0.1)
    refused(TypeError, "without diagonal", CG, bare, ones, 0.1)
    refused(TypeError, "counted costs", solvers.automatic(), bare, ones, 0.1)
    refused(
        TypeError, "s in the right-hand side", solvers.dual(), system, rhs._replace(s=None), 0.1
    )
    refused(ValueError, "at least one row", solvers.dual(), system._replace(rows=0), rhs, 0.1)
    for shape in ((0, SIZE), (3, 5), (SIZE,)):
        with pytest.raises(ValueError, match=r"(?s)expected a matrix.*got.*try"):
            solvers.from_rows(jnp.zeros(shape), LIKE)
    for bad in ((0, 1e-6), (3, -1.0)):
        with pytest.raises(ValueError, match=r"expected (iterations|tolerance) .*got.*try"):
            solvers.conjugate_gradients(*bad)
    with pytest.raises(ValueError, match=r"(?s)expected memory_budget.*got.*try"):
        solvers.automatic(0)


# Derivatives of the ladder ------------------------------------------------------------------------


def symmetric(matrix):
    return (matrix + matrix.T) / 2


def drawn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def positive_definite(seed, n=5):
    return drawn(seed, n, n) @ drawn(seed, n, n).T + jnp.eye(n)


DIFFERENTIATED = {
    "cholesky": (
        lambda matrix, rhs, damping: solvers.ladder(symmetric(matrix), rhs, damping),
        (positive_definite(0), drawn(1, 5, 2), jnp.array(0.3)),
    ),
    "with a metric": (
        lambda matrix, rhs, damping, metric: solvers.ladder(
            symmetric(matrix), rhs, damping, symmetric(metric)
        ),
        (positive_definite(0), drawn(1, 5, 2), jnp.array(0.3), positive_definite(2)),
    ),
    "cut off": (
        lambda rows, rhs: solvers.ladder(rows @ rows.T, rhs),
        (drawn(0, 5, 3), drawn(1, 5, 2)),
    ),
    "cut off with a metric": (
        lambda rows, rhs, metric: solvers.ladder(rows @ rows.T, rhs, 0.0, symmetric(metric)),
        (drawn(0, 5, 3), drawn(1, 5, 2), positive_definite(2)),
    ),
    "signed": (
        lambda matrix, rhs: solvers.ladder(symmetric(matrix), rhs, spectrum=solvers.signed),
        (positive_definite(0) - 4 * jnp.eye(5), drawn(1, 5, 2)),
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_derivatives_of_the_ladder_are_those_of_its_solution(name):
    """Forward they are central differences; reverse they are the same, transposed."""
    solve, here = DIFFERENTIATED[name]

    def solved(*args):
        return solve(*args)[:3]

    along = tuple(drawn(seed, *leaf.shape) for seed, leaf in enumerate(here, 7))
    weights = tuple(drawn(seed, *leaf.shape) for seed, leaf in enumerate(solved(*here), 11))

    @jax.jit
    def derived(*args):
        reached, tangent = jax.jvp(solved, args, along)
        return reached, tangent, jax.vjp(solved, *args)[1](weights)

    ends = [
        derived(*(leaf + s * t for leaf, t in zip(here, along, strict=True)))[0]
        for s in (1e-5, -1e-5)
    ]
    _, tangent, back = derived(*here)
    for forward, one, other in zip(tangent, *ends, strict=True):
        np.testing.assert_allclose(forward, (one - other) / 2e-5, rtol=1e-6, atol=1e-6)
    contracted = optax.tree.vdot(weights, tangent), optax.tree.vdot(back, along)
    np.testing.assert_allclose(*contracted, rtol=1e-10)


def test_derivatives_of_a_rejected_solution_are_zero():
    broken = jnp.full((3, 3), jnp.nan)
    found, tangent = jax.jvp(
        lambda m: solvers.ladder(m, jnp.ones((3, 1)))[:3], (broken,), (broken,)
    )
    assert not any(np.any(leaf) for leaf in (*found, *tangent))


def test_second_derivatives_of_a_solution():
    matrix, rhs = positive_definite(0), drawn(1, 5, 1)

    def length(solve, s):
        return jnp.sum(jnp.square(solve(matrix + s * jnp.eye(5), rhs)))

    got, expected = (
        jax.jit(jax.hessian(functools.partial(length, solve)))(0.5)
        for solve in (lambda m, b: solvers.ladder(m, b).inverse, jnp.linalg.solve)
    )
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_who_takes_no_derivative_factors_once():
    program = str(jax.make_jaxpr(solvers.ladder)(jnp.eye(3), jnp.ones((3, 1)), 0.1))
    assert [len(re.findall(rf"= {name}\b", program)) for name in ("cholesky", "eigh")] == [1, 1]
    assert "linear_solve" not in program


@pytest.mark.parametrize("k", [-12, -6, 3, 12])
def test_an_indefinite_matrix_is_solved_in_all_units(k):
    rng = np.random.default_rng(0)
    matrix = np.diag([3.0, -2.0, 1.0, 0.5]) + 0.1 * rng.standard_normal((4, 4))
    matrix, rhs = matrix + matrix.T, rng.standard_normal((4, 1))
    units = 10.0 ** np.array([0, k, 0, -k])[:, None]
    scaled = jnp.asarray(matrix * units * units.T)
    solution = solvers.ladder(scaled, jnp.asarray(rhs * units), spectrum=solvers.signed)
    np.testing.assert_allclose(solution.inverse * units, np.linalg.solve(matrix, rhs), rtol=1e-9)
    assert int(solution.counts.eigen) == int(solution.counts.negative) == 1


def test_an_indefinite_matrix_that_is_singular_in_all_units_is_cut():
    matrix, rhs = jnp.array([[1.0, 1.0, 0], [1.0, 1.0, 0], [0, 0, -2.0]]), jnp.ones((3, 1))
    solution = solvers.ladder(matrix, rhs, spectrum=solvers.signed)
    np.testing.assert_allclose(solution.inverse.ravel(), [0.5, 0.5, -0.5], rtol=1e-12)


def test_a_row_of_zeros_is_known_without_a_second_eigendecomposition():
    """As of a dead unit: in no units is such a matrix regular, and it is not tried in others."""
    matrix, rhs = jnp.diag(jnp.array([4.0, 0.0, -2.0])), jnp.ones((3, 1))
    solution = solvers.ladder(matrix, rhs, spectrum=solvers.signed)
    np.testing.assert_allclose(solution.inverse.ravel(), [0.25, 0, -0.5], rtol=1e-12)
    assert int(solution.counts.eigen) == int(solution.counts.negative) == 1
    damped = solvers.ladder(matrix, rhs, 1.0, spectrum=solvers.signed)
    np.testing.assert_allclose(damped.inverse.ravel(), [0.2, 1, -1], rtol=1e-12)
