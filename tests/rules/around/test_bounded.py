"""Within bounds: against scipy's least squares, and to the last bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import fnn
from fnn import Objective, curvature, losses, rules, solvers, training
from fnn.box import Box, Held, Sides, sides_of
from fnn.training import Stop
from tests import bounded, loop

CLASSICS = Objective(bounded.residuals)
EPS = float(np.finfo(float).eps)
LM = functools.partial(rules.levenberg_marquardt, solver=solvers.primal(), acceleration=0)
"""Straight steps compile in half the time; the example of `bounded` takes bent ones."""
close = np.testing.assert_allclose
same = functools.partial(jax.tree.map, np.testing.assert_array_equal)


def solved(rule, value_fn, start, steps):
    """What `fit` would end with; bounds may be traced."""
    source = training.Source(1, lambda _: lambda _: value_fn)
    limits = training.Limits(steps, steps, tolerance=EPS)
    progress, _ = training.advance(
        rule,
        source,
        lambda _: {},
        training.start(rule, start, keep_best=False),
        0,
        limits,
        round_end=lambda r: r + 1,
        capacity=(steps, steps),
    )
    return progress, value_fn(progress.params)


@functools.cache
def classic():
    """One program for all classics."""

    @jax.jit
    def solve(index, start, lower, upper):
        rule = rules.bounded(LM(), lower, upper)
        return solved(rule, CLASSICS.on(index[None]), start, steps=100)

    return solve


@pytest.mark.gate  # their one program compiles for 15 seconds
@pytest.mark.parametrize("name", bounded.PROBLEMS)
def test_it_arrives_where_scipy_does(name):
    problem = bounded.PROBLEMS[name]
    size, index = len(problem.start), bounded.index_of(name)
    numbers = (
        bounded.filled(given, rest)
        for given, rest in ((problem.start, 0.0), (problem.lower, -1.0), (problem.upper, 1.0))
    )
    progress, value = classic()(index, *map(jnp.asarray, numbers))
    found = np.asarray(progress.params)[:size]
    assert (found >= np.array(problem.lower)).all()
    assert (found <= np.array(problem.upper)).all()
    theirs = scipy.optimize.least_squares(
        lambda p: np.asarray(bounded.residuals_of(bounded.filled(p, 0.0), index)),
        problem.start,
        lambda p: np.asarray(bounded.rows_of(bounded.filled(p, 0.0), index)[:, :size]),
        bounds=(problem.lower, problem.upper),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    assert value <= theirs.cost * (1 + 1e-7) + 1e-14
    if name != "powell, free":  # whose curvature vanishes at the minimum, which is 0
        assert progress.stopped == Stop.CONVERGED
        close(found, theirs.x, rtol=1e-3, atol=1e-3 * np.abs(theirs.x).max())
    assert progress.state.rule.info.changed == 0


VALLEY = Objective(lambda p, _: jnp.stack([3 * (p["y"] - p["x"] ** 2), 1 - p["x"]]))
VALUE_FN = VALLEY.on(jnp.zeros(1))
FROM = {"x": jnp.array(-0.5), "y": jnp.array(1.0)}
UPPER = {"x": 0.5, "y": None}  # the minimum is at (0.5, 0.25)
OTHERS = {
    "levenberg_marquardt": (LM(), 100),
    "adam": (rules.adam(optax.exponential_decay(0.1, 100, 0.5)), 1500),
    "sgd": (rules.sgd(0.04), 1500),
    "newton": (rules.newton(damping=1.0), 500),
    "searched gauss_newton": (rules.searched(rules.gauss_newton()), 100),
    "trust_region_newton": (rules.trust_region_newton(), 100),
    "cubic_newton": (rules.cubic_newton(), 100),
    "bfgs": (rules.bfgs(), 100),
    "lbfgs": (optax.lbfgs(), 100),
    "hessian_free": (rules.hessian_free(), 100),
}


FEW = ("adam", "bfgs", "lbfgs", "levenberg_marquardt", "newton", "trust_region_newton")


@pytest.mark.parametrize(
    "name", [n if n in FEW else pytest.param(n, marks=pytest.mark.gate) for n in OTHERS]
)
def test_other_rules_arrive_on_the_bound(name):
    rule, steps = OTHERS[name]
    found = fnn.fit(rules.bounded(rule, upper=UPPER), VALUE_FN, FROM, steps=steps)
    same(found.params["x"], 0.5)
    close(found.params["y"], 0.25, rtol=1e-5)
    assert found.stopped.name in {"CONVERGED"} | (
        {"BUDGET"} if name in ("adam", "lbfgs", "hessian_free") else set()
    )


def test_a_bound_that_cuts_a_step_is_no_curvature_to_quasi_newton_rules():
    """Of these quadratics bfgs left 3 unsolved once, when it took a bound for curvature."""
    random, curved, centers = np.random.default_rng(0), [], []
    for _ in range(24):
        turn, _ = np.linalg.qr(random.normal(size=(6, 6)))
        curved.append(turn * np.logspace(0, 3, 6) @ turn.T)
        centers.append(2 * random.normal(size=6))
    starts = random.uniform(-0.8, 0.8, size=(24, 6))
    rule = rules.bounded(rules.bfgs(), -1.0, 1.0)

    @jax.jit
    @jax.vmap
    def left(matrix, center, start):
        value_fn = fnn.penalty(lambda x: 0.5 * (x - center) @ matrix @ (x - center))
        x, _ = solved(rule, value_fn, start, steps=60)
        grads = (jax.grad(value_fn)(p) for p in (x.params, start))
        ends = zip((x.params, start), grads, strict=True)
        return [jnp.linalg.norm(p - jnp.clip(p - grad, -1, 1)) for p, grad in ends]

    projected, at_first = left(*map(jnp.array, (curved, centers, starts)))
    assert (projected < 1e-5 * at_first).all(), projected / at_first


WALK = jax.jit(loop.walk, static_argnames=("rule", "steps"))


@pytest.mark.parametrize("rule", [rules.adam(0.1), LM()], ids=["adam", "levenberg_marquardt"])
def test_open_bounds_leave_the_path_to_the_bit(rule):
    """And those that nothing meets leave it but for rounding."""
    params, states = WALK(rule, FROM, VALUE_FN, 8)
    others, own = WALK(rules.bounded(rule, {"x": -np.inf, "y": None}, None), FROM, VALUE_FN, 8)
    same(params, others)
    same(states, own.rule)
    assert jax.tree.leaves(own.held) == []
    others, own = WALK(rules.bounded(rule, -9.0, 9.0), FROM, VALUE_FN, 8)
    jax.tree.map(functools.partial(close, rtol=1e-9), params, others)
    assert not any(leaf.any() for leaf in jax.tree.leaves(own.held))


def test_from_a_bound_it_goes_where_the_gradient_leads():
    """The start is on three bounds, of which one is right, one is wrong and one fixes an entry."""
    bowl = Objective(lambda p, x: p - x)
    value_fn, start = bowl.on(jnp.array([[-1.0, 2.0, 5.0]])), jnp.zeros(3)
    rule = rules.bounded(rules.sgd(1.0), jnp.zeros(3), jnp.array([jnp.inf, jnp.inf, 0.0]))
    found = fnn.fit(rule, value_fn, start, steps=30)
    close(found.params, [0, 2, 0], atol=1e-7)
    assert (found.params[0], found.params[2]) == (0, 0)
    assert found.stopped == Stop.CONVERGED
    same(found.state.held[0], np.array([True, False, True]))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_parameters_are_within_bounds_to_the_last_bit(dtype):
    """Of any size, and a second step leads to the bound itself."""
    rng = np.random.default_rng(0)

    def numbers(n=20_000):
        return rng.normal(size=n) * 10.0 ** rng.integers(-12, 12, n)

    pair = np.sort(np.stack([numbers(), numbers()]), axis=0)
    lower, upper = (jnp.asarray(end, dtype) for end in pair)
    sides = Sides(lower, upper)
    start = sides.clip(jnp.asarray(numbers(), dtype))
    none = Held(jnp.zeros(lower.shape, bool), lower)
    box = Box((sides,), (none,))

    @jax.jit
    def move(params, step):
        return optax.apply_updates(params, box.landing(params, step)), params + step

    step, params, aims = jnp.asarray(numbers(), dtype), start, []
    for _ in range(14):  # of bfloat16 each has two digits
        params, aimed = move(params, step)
        assert ((params >= lower) & (params <= upper)).all()
        aims.append(aimed)
    is_over = (aims[1] > upper) | (aims[1] < lower)
    assert is_over.mean() > 0.3
    same(params[is_over], jnp.where(aims[1] > upper, upper, lower)[is_over])
    same(
        params[~is_over & (aimed == sides.clip(aimed))],
        aimed[~is_over & (aimed == sides.clip(aimed))],
    )


def test_what_rounding_left_short_of_a_bound_is_there():
    """From 3 no number leads to 1e-12; the entry counts as held, and is led there next."""
    bowl = Objective(lambda p, x: p + x)
    value_fn, start = bowl.on(jnp.array([[1.0]])), jnp.array([3.0])
    rule = rules.bounded(rules.sgd(1.0), lower=1e-12)
    found = fnn.fit(rule, value_fn, start, steps=30)
    same(found.params[0], 1e-12)
    assert found.stopped == Stop.CONVERGED


def test_a_step_changed_inside_is_seen_and_its_own_projection_is_not():
    halved = optax.chain(LM(), optax.scale(0.5))
    for rule, changed in ((LM(), 0), (halved, 7)):
        _, states = WALK(rules.bounded(rule, upper=UPPER), FROM, VALUE_FN, 8)
        info = states.rule.info if changed == 0 else states.rule[0].info
        assert info.accepted[-1] > 1
        assert bool(info.changed[-1]) == bool(changed)


def test_the_curvature_is_that_of_what_is_free():
    """All solvers make the same step, whose held entries are 0."""
    net = Objective(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"] - x[0], None)
    rng = np.random.default_rng(3)
    params = {"w": jnp.abs(rng.normal(size=(2, 3))), "v": jnp.asarray(rng.normal(size=3))}
    value_fn = net.on(jnp.asarray(rng.normal(size=(9, 2))))
    sides = sides_of("test", {"w": 0.0, "v": None}, None, params)
    mask = jnp.array([[True, False, False], [False, True, False]])
    inside = value_fn.within(Box(sides, (None, Held(mask, params["w"]))))
    grad = jax.grad(inside)(params)
    free = jax.grad(value_fn)(params)
    close(grad["w"], jnp.where(mask, 0, free["w"]), rtol=1e-12)
    close(grad["v"], free["v"], rtol=1e-12)

    @jax.jit
    def steps(inside):
        _, system, rhs = curvature.gauss_newton_system(inside, params)
        each = (solvers.primal(), solvers.dual(), solvers.conjugate_gradients(100))
        return [solver.solve(system, rhs, 1e-2).step for solver in each]

    for step in steps(inside):
        assert (step["w"][mask] == 0).all()
        jax.tree.map(functools.partial(close, rtol=1e-5), step, steps(inside)[0])


def test_a_plain_function_and_frozen_leaves_and_none():
    params = {"x": jnp.array(-0.5), "y": jnp.array(1.0), "z": None}

    def value_fn(p):
        return VALUE_FN({"x": p["x"], "y": p["y"]})

    lower, mask = {"x": -0.7, "y": None, "z": None}, {"x": True, "y": False, "z": None}
    inner = rules.trust_region_newton()
    around, within = (
        rules.bounded(rules.only(inner, mask), lower),
        rules.bounded(inner, lower),
    )
    walk = jax.jit(loop.walk, static_argnames=("rule", "value_fn", "steps"))
    for rule in (around, rules.only(within, mask)):
        path, _ = walk(rule, params, value_fn, 12)
        same(path["x"][-1], -0.7)
        assert (path["y"] == 1).all()


def test_lanes_of_bounds_and_derivatives_of_a_step():
    @jax.jit
    @jax.vmap
    def end(upper):
        rule = rules.bounded(rules.sgd(0.04), upper={"x": upper, "y": None})
        progress, _ = solved(rule, VALUE_FN, FROM, steps=1500)
        return progress.params["x"]

    uppers = jnp.array([0.2, 0.5, 7.0])
    close(end(uppers), jnp.minimum(uppers, 1), rtol=1e-4)
    rule = rules.bounded(rules.sgd(0.1), lower=0.0)

    def step(w):
        updates, _ = rule.update(2 * w, rule.init(w), w)
        return updates

    w = jnp.array([1.0, 2.0])
    close(jax.jvp(step, (w,), (jnp.ones(2),))[1], -0.2 * np.ones(2))


def test_it_keeps_the_contract():
    rule = rules.bounded(rules.adam(0.1), -1.0, 0.5)
    assert rule is rules.bounded(rules.adam(0.1), lower=-1.0, upper=0.5)
    params = {"w": jnp.zeros(3, jnp.float32), "b": jnp.zeros((), jnp.bfloat16)}
    state = rule.init(params)
    same(optax.tree.map_params(rule, lambda leaf: leaf, state), state)
    grad = jax.tree.map(jnp.ones_like, params)
    updates, after = jax.jit(rule.update)(grad, state, params, unknown=1)
    kinds = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), s) for s in (state, after)]
    assert kinds[0] == kinds[1]
    assert jax.tree.map(jnp.result_type, updates) == jax.tree.map(jnp.result_type, params)
    nan = jax.tree.map(lambda leaf: leaf * jnp.nan, grad)
    updates, _ = rule.update(nan, state, params)
    assert jnp.isnan(updates["w"]).all()  # as without bounds


TREE = {"a": jnp.zeros(2), "b": jnp.ones(())}
NARROW = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), TREE)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: rules.bounded(LM(), {"a": [1.0, 3.0], "b": 0.0}, 2.0).init(TREE),
            "structure of params",
        ),
        (
            lambda: rules.bounded(LM(), {"a": np.array([1.0, 3.0]), "b": 0.0}, 2.0).init(TREE),
            r"lower <= upper at params\['a'\]\[1\], got 3.0 and 2.0; try to swap them",
        ),
        (
            lambda: rules.bounded(LM(), upper={"a": None, "b": np.nan}).init(TREE),
            r"lower <= upper at params\['b'\], got -inf and nan; try None or infinity",
        ),
        (
            lambda: rules.bounded(LM(), {"a": np.array([0, 1e-300]), "b": None}).init(NARROW),
            r"lower bounds that float32 holds, .*, got 1e-300 at params\['a'\]\[1\]; try None or",
        ),
        (
            lambda: rules.bounded(LM(), upper=1e300).init(NARROW),
            r"upper bounds that float32 holds, .* 3.4e\+38, got 1e\+300 at params\['a'\]\[0\]; try",
        ),
        (
            lambda: rules.bounded(LM(), 1.0, 1 + 1e-9).init(NARROW),
            r"tells apart, got 1.0 and 1.000000001 at params\['a'\]\[0\]; try equal bounds",
        ),
        (lambda: rules.bounded(LM(), {"a": 0.0}).init(TREE), "expected lower to be a number or a"),
        (
            lambda: rules.bounded(LM(), {"a": np.zeros(3), "b": None}).init(TREE),
            r"lower bounds that broadcast to params\['a'\] of shape \(2,\), got shape \(3,\)",
        ),
        (
            lambda: rules.bounded(LM(), lower={"a": np.array([0, 0.5]), "b": None}).init(TREE),
            r"start within the bounds, got 0.0 at params\['a'\]\[1\]; try jnp.clip",
        ),
        (
            lambda: fnn.fit(rules.bounded(LM(), upper=0.0), VALUE_FN, FROM, steps=1),
            r"start within the bounds, got 1.0 at params\['y'\]; try jnp.clip",
        ),
        (
            lambda: rules.bounded(LM()).update(TREE, None),
            "bounded: expected params, which are to stay within bounds, got None",
        ),
        (
            lambda: loop.update(
                rules.bounded(rules.bounded(LM(), upper=UPPER), lower=-1.0), FROM, VALUE_FN
            ),
            "one rules.bounded with all of them",
        ),
    ],
)
def test_misuse_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_errors_of_a_curve_at_a_bound_leave_the_held_parameter_out():
    """As the docstring of `uncertainty` says."""
    line = Objective(lambda p, x: p["slope"] * x + p["rest"], losses.half_squared_error)
    x = np.linspace(0, 1, 9)
    value_fn = line.on((x, 2 * x - 0.1 + 0.05 * np.cos(20 * x)))
    targets = value_fn.blocks[0].targets
    params = {"slope": jnp.sum(targets * x) / np.sum(x**2), "rest": jnp.array(0.0)}
    free = value_fn.freeze(params, {"slope": False, "rest": True})
    error = curvature.uncertainty(free, params | {"rest": None}).standard_errors()["slope"]
    rest = targets - params["slope"] * x
    close(error, np.sqrt(np.sum(rest**2) / 8 / np.sum(x**2)), rtol=1e-6)


def test_bounds_are_of_real_numbers_for_real_parameters():
    for lower in ("0", 1j):
        with pytest.raises(TypeError, match="expected lower bounds of real numbers, got "):
            rules.bounded(rules.adam(0.1), lower).init(jnp.ones(3))
    mixed = {"a": jnp.ones(2), "i": jnp.arange(2)}
    with pytest.raises(TypeError, match=r"real parameters of floating point, got .*int"):
        rules.bounded(rules.sgd(0.1), 0.0).init(mixed)
    rules.bounded(optax.sgd(0.1), {"a": 0.0, "i": None}).init(mixed)  # nothing is asked of it
