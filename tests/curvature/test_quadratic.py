"""The system of a value function against its definition, written out with explicit Jacobians."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

from fnn import curvature, flops, losses, solvers
from fnn.objective import Objective, Penalty, l1, l2, merge, penalty


def normal(seed, *shape, dtype=jnp.float64):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def mlp(p, x, *, key=None):
    h = jnp.tanh(x @ p["w"] + p["b"])
    if key is not None:
        h = h * jax.random.bernoulli(key, 0.7, h.shape) / 0.7
    return h @ p["v"]


def slope(p, x):
    """A differential equation's residual: another model of the same parameters."""
    return jax.jvp(lambda x: mlp(p, x)[0], (x,), (jnp.ones(3),))[1] - x[0]


def pair(p, x):
    """Outputs that are a tree."""
    y = mlp(p, x)
    return {"mean": y[0] * p["b"][0], "rest": (y[1:], y)}


def one_sided(outputs, target):
    """A loss nobody attached a curvature to, straight on one side and not convex on the other."""
    r = outputs - target
    return jnp.sum(jnp.where(r > 0, 1 - jnp.cos(r), -0.3 * r))


PARAMS = {"w": normal(0, 3, 4), "b": normal(1, 4) / 3, "v": normal(2, 4, 2)}
INPUTS, TARGETS, WEIGHTS = normal(3, 7, 3), normal(4, 7, 2), jnp.array([1.0, 2, 0, 1, 3, 0.5, 1])
CLASSES, SIGNS = jnp.arange(7) % 2, jnp.sign(TARGETS)
KEY = jax.random.key(0)
MASK = {"w": True, "b": False, "v": True}

squares = Objective(mlp, losses.half_squared_error)
entropy = Objective(mlp, losses.softmax_cross_entropy)
hinge = Objective(mlp, losses.hinge)
physics = Objective(slope)
huber = Objective(mlp, losses.huber(0.5))
sure = Objective(lambda p, x: 300 * mlp(p, x), losses.softmax_cross_entropy)

# Each makes a value function of (inputs, targets) inside the compiled function.
CASES = {
    "blocks": lambda x, y: (
        physics.on(x[:5], weights=WEIGHTS[:5])
        + 3.0 * squares.on((x, y), weights=WEIGHTS)
        + entropy.on((x[:2], CLASSES[:2]))
    ),
    "penalties": lambda x, y: (
        (squares + l2(0.2, where=MASK)).on((x, y))
        + 2 * l2(0.3)
        + l1(0.1)
        + penalty(lambda p: jnp.sum(p["b"] ** 4))
    ),
    "traced mask": lambda x, y: (
        squares.on((x, y)) + l2(x[0, 0] ** 2, where={k: m & (y[0, 0] < 9) for k, m in MASK.items()})
    ),
    "frozen": lambda x, _: (entropy.on((x, CLASSES)) + l2(0.1, where=MASK)).freeze(
        PARAMS, {"w": False, "b": True, "v": False}
    ),
    "chunks": lambda x, y: (
        2.0 * squares.on((x, y), chunk=3, weights=WEIGHTS)
        + physics.on(x[:4], chunk=2)
        + entropy.on((x[:3], CLASSES[:3]))
    ),
    "dropout in chunks": lambda x, _: (
        entropy.on((x, CLASSES), key=KEY, chunk=4, weights=WEIGHTS) + l2(0.1)
    ),
    "sure": lambda x, y: sure.on((x, CLASSES)) + squares.on((x[:3], y[:3])) + l2(1e-2),
    "no rows": lambda x, y: hinge.on((x, jnp.sign(y))) + l2(0.5),
    "hinge and huber": lambda x, y: hinge.on((x, jnp.sign(y)), chunk=3) + huber.on((x, y), chunk=5),
    "huber": lambda x, y: huber.on((x, y), weights=WEIGHTS) + l2(0.1),
    "a tree of residuals": lambda x, _: Objective(pair).on(x),
    "not convex": lambda x, y: Objective(mlp, one_sided).on((x, y)),
}


def oracle(value_fn, params):
    """sum share J^T H J from explicit Jacobians and Hessians of the losses, and the penalties'."""
    flat, unravel = ravel_pytree(params)
    total, diagonal = jnp.zeros((flat.size, flat.size)), jnp.zeros(flat.size)
    for term in value_fn.terms:
        scale, block, held, _ = term
        if isinstance(block, Penalty):
            if block.is_half_squared_norm:
                diagonal += jnp.diagonal(jax.hessian(lambda f, t=term: t(unravel(f)))(flat))
            continue

        def example(x, target, key, block=block, held=held):
            def outputs(flat):
                return block.answer(merge(unravel(flat), held), x, key)

            answer, back = ravel_pytree(outputs(flat))
            jacobian = jax.jacrev(lambda flat: ravel_pytree(outputs(flat))[0])(flat)
            hessian = jax.hessian(lambda o: block.judge(back(o), target))(answer)
            values, vectors = jnp.linalg.eigh(hessian)
            hessian = (vectors * jnp.maximum(values, 0)) @ vectors.T
            return jacobian.T @ hessian @ jacobian

        each = jax.vmap(example)(block.inputs, block.targets, block.keys)
        weights = jnp.ones(len(each)) if block.weights is None else block.weights
        total += scale * jnp.tensordot(weights / weights.sum(), each, 1)
    return total, diagonal


def ask(case, params, x, y):
    """All that a system says, beside what it should say."""
    value_fn = case(x, y)
    if held := value_fn.terms[0].held:
        params = {name: None if held[name] is not None else p for name, p in params.items()}
    value, system, rhs = curvature.gauss_newton_system(value_fn, params)
    s, h, *_ = rhs
    grad = jax.grad(value_fn)(params)
    inside = jax.tree.map(jnp.zeros_like, grad) if s is None else system.transpose(s)
    flat, unravel = ravel_pytree(params)
    v = unravel(jnp.cos(jnp.arange(flat.size)))
    matrix, added = oracle(value_fn, params)
    numbers = solvers.system.shift_of(system, 0.0)
    pairs = {
        "value": (value, value_fn(params)),
        "gradient": (inside if h is None else jax.tree.map(jnp.add, inside, h), grad),
        "penalty": (jax.tree.map(lambda p, d: p * 0 + d, params, numbers), unravel(added)),
        "normal": (system.normal(), matrix),
        "multiply": (system.multiply(v), unravel(matrix @ ravel_pytree(v)[0])),
        "diagonal": (system.diagonal(), unravel(jnp.diagonal(matrix))),
    }
    solved = {"primal": solvers.primal(), "free": solvers.conjugate_gradients(200, 1e-13)}
    if system.rows:
        u = jnp.sin(jnp.arange(system.rows))
        image = jnp.vdot(u, system.product(v))
        pairs["transpose"] = image, solvers.system.inner(system.transpose(u), v)
        sizes = jax.tree.map(lambda p: 1.0 + p.size, params)
        rows = jax.vmap(lambda u: ravel_pytree(system.transpose(u))[0])(jnp.eye(system.rows))
        columns = jax.tree.map(lambda p, size: jnp.full(p.shape, size), params, sizes)
        pairs["gram"] = system.gram(sizes), rows * ravel_pytree(columns)[0] @ rows.T
        solved["dual"] = solvers.dual()
    full = matrix + jnp.diag(added) + 0.1 * jnp.eye(flat.size)
    step = unravel(-jnp.linalg.solve(full, ravel_pytree(grad)[0]))
    found = {name: solver.solve(system, rhs, 0.1) for name, solver in solved.items()}
    ok = jnp.all(jnp.array([solution.ok for solution in found.values()]))
    return pairs, {name: (f.step, step) for name, f in found.items()}, ok


def far(pair):
    a, b = (np.concatenate([*map(np.ravel, jax.tree.leaves(tree)), []]) for tree in pair)
    assert a.shape == b.shape
    return np.max(np.abs(a - b)) / (np.max(np.abs(b)) + 1e-300) if a.size else 0.0


def quickly(fn, *args):
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(fn, compiler_options=options)(*args)


@pytest.mark.parametrize("name", CASES)
def test_the_system_is_what_it_says_and_every_solver_takes_its_step(name):
    pairs, steps, ok = quickly(lambda p, x, y: ask(CASES[name], p, x, y), PARAMS, INPUTS, TARGETS)
    assert bool(ok)
    differences = {what: far(pair) for what, pair in pairs.items()}
    assert {what: d for what, d in differences.items() if not d < 1e-12} == {}
    differences = {what: far(pair) for what, pair in steps.items()}
    assert {what: d for what, d in differences.items() if not d < 1e-8} == {}


def test_what_vanishes_while_tracing_costs_nothing():
    """No penalty and a complete loss: h is None, and the gradient costs what a gradient costs."""

    def factor(outputs, target):
        return jnp.eye(outputs.size), outputs - target

    told = losses.with_curvature(losses.half_squared_error, factor, complete=True)
    untold = losses.with_curvature(losses.half_squared_error, factor)
    sizes = [(3, 64), (64,), (64, 1)]
    params = dict(zip("wbv", [jax.ShapeDtypeStruct(s, "float64") for s in sizes], strict=True))

    def price(loss, ask):
        x, y = (jax.ShapeDtypeStruct((50, k), "float64") for k in (3, 1))
        return flops.count(lambda p, x, y: ask(Objective(mlp, loss).on((x, y)), p), params, x, y)

    def gradient(value_fn, params):
        value, system, (s, h, *_) = curvature.gauss_newton_system(value_fn, params)
        assert (h is None) == (value_fn.terms[0].block.loss is told)
        return value, system.transpose(s), h

    one = price(told, lambda f, p: jax.value_and_grad(f)(p))
    assert price(told, gradient) < 1.25 * one
    assert price(told, gradient) + 0.7 * one < price(untold, gradient)
    assert price(told, lambda f, p: curvature.gauss_newton_system(f, p).value) < 0.6 * one


def test_leaves_under_the_same_penalties_share_one_object():
    def penalties(*terms):
        value_fn = sum(terms, start=squares.on((INPUTS, TARGETS)))
        found = []
        jax.eval_shape(
            lambda p: found.append(curvature.gauss_newton_system(value_fn, p).system), PARAMS
        )
        return found[0].penalty

    numbers = penalties(l2(0.5, where=MASK), 3 * l2(0.5, where=MASK), l1(1.0))
    assert numbers == {"w": 2.0, "b": 0.0, "v": 2.0}
    assert numbers["w"] is numbers["v"]
    assert [penalties(l2(0.5), l2(0.25)), penalties()] == [0.75, None]


def test_masks_pass_through_jit_and_share_one_object():
    params = {str(i): jnp.ones(2) for i in range(8)}
    where = {name: int(name) < 4 for name in params}
    kinds = []

    @jax.jit
    def ask(value_fn, params):
        system = curvature.gauss_newton_system(value_fn, params).system
        kinds.append(len({id(number) for number in system.penalty.values()}))

    objective = Objective(lambda p, x: sum(p.values()) @ x)
    ask(objective.on(INPUTS[:, :2]) + l2(0.1, where=where), params)
    assert kinds == [2]


def test_half_precision_in_chunks_is_summed_in_single():
    ones = jnp.ones(4096, jnp.bfloat16)
    line = Objective(lambda w, x: w * x, losses.half_squared_error)

    @jax.jit
    def ask(w):
        found = []
        for chunk in (8, None):
            value_fn = line.on((ones, 0 * ones), chunk=chunk)
            value, system, rhs = curvature.gauss_newton_system(value_fn, w)
            step = solvers.primal().solve(system, rhs, 0.0).step
            found += [system.multiply(w), system.diagonal(), 2 * value]
            found += [system.transpose(rhs.s), system.normal()[0, 0], -step]
        return found

    found = ask(jnp.ones((), jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(found, float), 1.0, rtol=1e-2)


def test_half_precision_in_blocks_is_summed_in_single():
    """The explicit form of the diagonal, one example after the other."""
    captured = curvature.capture(
        lambda w, x: (x @ w).sum(), jnp.ones(2, jnp.bfloat16), jnp.ones((1000, 3, 2), jnp.bfloat16)
    )
    found = jax.jit(lambda c: curvature.diagonal(c, 1))(captured)
    np.testing.assert_allclose(np.asarray(found, float), 9000.0, rtol=1e-2)


def test_targets_alone_are_data():
    value_fn = Objective(lambda p, _: p, losses.half_squared_error).on((None, TARGETS), chunk=4)

    def steps(p):
        gauss, newton = curvature.gauss_newton_system(value_fn, p), curvature.hessian_system
        solve = solvers.primal().solve
        drawn = curvature.fisher(value_fn, p, key=KEY).dense()
        return solve(*gauss[1:], 0.0).step, solve(*newton(value_fn, p)[1:], 0.0).step, drawn

    one, two, drawn = quickly(steps, jnp.zeros(2))
    np.testing.assert_allclose(one, TARGETS.mean(0), rtol=1e-12)
    np.testing.assert_allclose(one, two, rtol=1e-12)
    assert drawn.shape == (2, 2)


def test_a_traced_negative_penalty_is_a_rejected_step():
    def step(weight):
        value_fn = squares.on((INPUTS, TARGETS)) - weight * l2(1.0)
        _, system, rhs = curvature.gauss_newton_system(value_fn, PARAMS)
        solved = solvers.primal(), solvers.dual(), solvers.conjugate_gradients()
        return [solver.solve(system, rhs, 0.1) for solver in solved]

    for solution in quickly(step, 0.01):
        assert (bool(solution.ok), int(solution.counts.rejected)) == (False, 1)
    value_fn = squares.on((INPUTS, TARGETS)) - l2(0.01)
    with pytest.raises(
        ValueError, match=r"a scale of at least 0, got -0\.01; .* try rules\.newton"
    ):
        curvature.gauss_newton_system(value_fn, PARAMS)


def test_float32_and_lanes():
    """Lanes of single precision: dtypes kept, the steps as in double precision."""

    def step(params, x, y):
        value_fn = (entropy + l2(0.01)).on((x, y)) + squares.on((x, x[:, :2]), chunk=4)
        value, system, rhs = curvature.gauss_newton_system(value_fn, params)
        return value, solvers.dual().solve(system, rhs, 0.1).step

    lanes = jax.tree.map(lambda p: jnp.stack([p, -p, 2 * p]), PARAMS)
    single = jax.tree.map(lambda p: p.astype(jnp.float32), lanes)
    x = INPUTS.astype(jnp.float32)
    many = quickly(jax.vmap(step, (0, None, None)), single, x, CLASSES)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(many)} == {"float32"}
    alone = quickly(lambda p, x, y: lax.map(lambda p: step(p, x, y), p), lanes, INPUTS, CLASSES)
    assert far((many, alone)) < 2e-5


def layers(params, x):
    *hidden, last = params
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return x @ last[0] + last[1]


@pytest.mark.parametrize(
    ("sizes", "n", "chunk", "name"),
    [
        ((8, 1024, 1024, 1), 1024, None, "dual"),
        ((2, 50, 50, 1), 1000, None, "dual"),
        ((2, 50, 50, 1), 1000, 250, "dual"),
        ((1, 20, 1), 200, None, "primal"),
        ((1, 20, 1), 200, 50, "primal"),
        ((10, 300, 10), 60_000, 1000, "conjugate gradients"),
    ],
)
def test_prices_are_those_of_the_flops_and_the_choice_follows(sizes, n, chunk, name):
    objective = Objective(layers, losses.half_squared_error)
    said = []

    def ask(params, x, y):
        system = curvature.gauss_newton_system(objective.on((x, y), chunk=chunk), params).system
        said.append(solvers.choose(system))
        ones = jax.tree.map(lambda _: 1.0, params)
        counted = [flops.count(system.multiply, params), flops.count(system.gram, ones)]
        said.append((*counted, flops.count(system.normal)))
        said.append(tuple(cost.flops for cost in system.costs))
        return system.diagonal()

    def shape(*dimensions):
        return jax.ShapeDtypeStruct(dimensions, "float32")

    params = [(shape(i, o), shape(o)) for i, o in itertools.pairwise(sizes)]
    jax.eval_shape(ask, params, shape(n, sizes[0]), shape(n, sizes[-1]))
    choice, counted, priced = said
    assert choice.solver.name == name, choice.reason
    np.testing.assert_allclose(priced, counted, rtol=0.4)


def test_chunks_are_flat_in_memory(memory):
    objective = Objective(layers, losses.half_squared_error)
    params = [(normal(i, a, b), jnp.zeros(b)) for i, (a, b) in enumerate([(3, 64), (64, 2)])]

    def bytes_of(n):
        def ask(params, x, y):
            value, system, (s, *_) = curvature.gauss_newton_system(
                objective.on((x, y), chunk=32), params
            )
            return (
                value,
                system.transpose(s),
                system.multiply(params),
                system.diagonal(),
                system.normal(),
                system.product(params).sum(),
            )

        x, y = (jax.ShapeDtypeStruct((n, k), "float64") for k in (3, 2))
        return memory(ask, params, x, y).temp_size_in_bytes

    few, many = bytes_of(64), bytes_of(4096)
    rows = 8 * 2 * 4096  # s and J v are as long as the data
    assert many < few + 12 * rows
    assert 12 * rows < 8 * 4096 * 64  # which is less than one layer's operands


# --- bad input ----------------------------------------------------------------------------------


def test_what_is_not_a_value_function_is_refused():
    def f(params):
        return jnp.sum(params**2)

    message = r"made by Objective\.on, got function f; .* try .* rules\.newton, which needs only"
    with pytest.raises(TypeError, match=message):
        curvature.gauss_newton_system(f, jnp.ones(2))
    for system in (curvature.gauss_newton_system, curvature.hessian_system):
        with pytest.raises(ValueError, match="at least one parameter, got none; try to freeze few"):
            system(l2(1.0), {"w": None})


@pytest.mark.parametrize(
    ("error", "message", "model", "scale", "params"),
    [
        (TypeError, "real floating-point parameters, got complex128 at params", jnp.dot, 1, 1j),
        (TypeError, "real floating-point parameters, got int", jnp.dot, 1, 1),
        (ValueError, "a scale of at least 0, got -2", jnp.dot, -2, 1.0),
        (TypeError, r"real arrays, got int.* at outputs\['a'\]", lambda *_: {"a": 3}, 1, 1.0),
        (
            ValueError,
            "without a key, or another normalization",
            lambda p, x: p @ (x - lax.pmean(x, "examples")),
            1,
            1.0,
        ),
    ],
)
def test_bad_input_is_refused_before_anything_runs(error, message, model, scale, params):
    value_fn = scale * Objective(model).on(INPUTS)
    with pytest.raises(error, match=message):
        jax.eval_shape(
            lambda p: curvature.gauss_newton_system(value_fn, p).value,
            params * jnp.ones(3, type(params)),
        )


def test_a_loss_without_curvature_leaves_the_gradient():
    """Rows of a loss that has none: one iteration, gradient descent of length 1 / damping."""

    def step(params):
        value_fn = hinge.on((INPUTS, SIGNS))
        _, system, rhs = curvature.gauss_newton_system(value_fn, params)
        assert (system.rows, rhs.s) == (0, None)
        assert "nothing" in solvers.choose(system).reason
        return solvers.automatic().solve(system, rhs, 4.0), jax.grad(value_fn)(params)

    solution, grad = quickly(step, PARAMS)
    assert far((solution.step, jax.tree.map(lambda g: -g / 4, grad))) < 1e-12
    assert int(solution.counts.iterations) == 1


def test_nan_in_one_example_is_a_rejected_step():
    def step(x):
        _, system, rhs = curvature.gauss_newton_system(squares.on((x, TARGETS)), PARAMS)
        return [solver.solve(system, rhs, 0.1) for solver in (solvers.primal(), solvers.dual())]

    for solution in quickly(step, INPUTS.at[3, 1].set(jnp.nan)):
        assert not solution.ok
        assert int(solution.counts.rejected) == 1
        assert not any(leaf.any() for leaf in jax.tree.leaves(solution.step))
