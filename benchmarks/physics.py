"""Where second order wins: physics-informed networks, and regression to machine precision.

    uv run --group bench benchmarks/physics.py [SECTION ...]

All in float64, tanh networks, seeds 0 to 4; a row is the median over seeds. The clock runs while
the compiled steps run; compiling is timed apart, and the error, looked at between chunks of steps,
is not on the clock. Every problem is given to one rule, `rules.levenberg_marquardt` with its
defaults and `acceleration=0.75` (looked for by hand on seeds 0 and 1, as the papers looked for
theirs); the first and the last of them also to Adam with the best of three rates: for ten times the
seconds of each seed, or for 20,000 steps.

    poisson     -Laplace u = f on the unit square, set-up of Mueller and Zeinhofer (ICML 2023)
    dangel      the same, set-up of Dangel, Mueller and Zeinhofer (arXiv:2405.15603): 2-64-1
    heat        u_t = u_xx / 4, theirs: 2-64-1
    fit         sin(4x) cos(3y) at 1000 points by a 2-50-50-1 network
    fresh       the equation of `dangel` on points drawn anew in every step, by SOAP, SPRING,
                Levenberg-Marquardt and Adam: three settings each on seed 0, the best of them on all
                seeds, ten seconds a run
    step        one exact Gauss-Newton step of a 5-64-64-48-48-1 network on 3000 + 500 points,
                beside the same step from an explicit Jacobian in plain JAX
    operators   the Laplacian by nested jvp, by jax.experimental.jet and as `fnn.differential` does

Errors are L2 errors on points of a finer grid (`poisson`: relative; `dangel`, `heat`: the root of
the mean square, which on the unit square is the absolute one); that of `fit` is the mean squared
error at its points.
"""

import functools
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn import devices, layers, rules
from fnn.differential import derivative, laplacian

SEEDS, CHUNK, LONGEST, PROBE = 5, 0.1, 60.0, 200
RATES = 1e-2, 3e-3, 1e-3


def network(*widths):
    """A tanh network."""
    *hidden, last = widths
    stack = [part for w in hidden for part in (layers.dense(w), layers.elementwise(jnp.tanh))]
    return layers.serial(*stack, layers.dense(last))


class Problem(NamedTuple):
    """Something to solve, and when it is solved."""

    name: str
    model: layers.Layer
    points: Callable  # seed -> arrays
    value_fn: Callable  # arrays -> value function
    error: Callable  # params -> scalar
    goal: float
    seconds: float
    adam_stays_above: float = 0.0


def square(n):
    """A grid of n x n points, borders included."""
    at = np.linspace(0, 1, n)
    return np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)


def poisson_blocks(model):
    """Equation and border of -Laplace u = 2 pi^2 sin(pi x) sin(pi y), u = 0."""

    def interior(params, x):
        u = functools.partial(model.apply, params)
        return laplacian(u)(x) + 2 * jnp.pi**2 * jnp.prod(jnp.sin(jnp.pi * x))

    inside, border = fnn.Objective(interior), fnn.Objective(model.apply)
    return lambda points: inside.on(points[0]) + border.on(points[1])


def root_mean_square(model, truth, points, relative):
    """The L2 error on points."""
    exact = truth(points)
    scale = jnp.sqrt(jnp.mean(exact**2)) if relative else 1.0

    def error(params):
        outputs = jax.vmap(functools.partial(model.apply, params))(points)[:, 0]
        return jnp.sqrt(jnp.mean((outputs - exact) ** 2)) / scale

    return error


def product_of_sines(points):
    """The solution of both Poisson problems."""
    return np.prod(np.sin(np.pi * points), axis=1)


def poisson():
    """30 x 30 points within, 30 on each side."""
    model = network(32, 1)
    at, along = np.arange(1, 31) / 31, np.arange(30) / 29
    inside = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
    zero, one = np.zeros(30), np.ones(30)
    sides = (along, zero), (along, one), (zero, along), (one, along)
    border = np.concatenate([np.stack(side, 1) for side in sides])
    return Problem(
        "poisson",
        model,
        lambda _: (inside, border),
        poisson_blocks(model),
        root_mean_square(model, product_of_sines, square(100), relative=True),
        goal=1e-6,
        seconds=10.0,
        adam_stays_above=1e-4,
    )


def on_border(rng, n):
    """Points drawn on the four sides of the unit square."""
    points = rng.uniform(size=(n, 2))
    points[np.arange(n), rng.integers(0, 2, n)] = rng.integers(0, 2, n)
    return points


def dangel():
    """900 random points within, 120 on the border; the same in all steps."""
    model = network(64, 1)

    def points(seed):
        rng = np.random.default_rng(seed)
        return rng.uniform(size=(900, 2)), on_border(rng, 120)

    return Problem(
        "dangel",
        model,
        points,
        poisson_blocks(model),
        root_mean_square(model, product_of_sines, square(100), relative=False),
        goal=2e-7,
        seconds=20.0,
    )


def heat():
    """900 random points within; 60 at time 0 and 60 at the ends."""
    model = network(64, 1)

    def interior(params, x):
        u = functools.partial(model.apply, params)
        return derivative(u, 0)(x) - 0.25 * derivative(u, 1, 1)(x)

    def start(params, x):
        return model.apply(params, x)[0] - jnp.sin(jnp.pi * x[1])

    def truth(points):
        return np.exp(-(np.pi**2) / 4 * points[:, 0]) * np.sin(np.pi * points[:, 1])

    def points(seed):
        rng = np.random.default_rng(seed)
        begin, ends = rng.uniform(size=(60, 2)), rng.uniform(size=(60, 2))
        begin[:, 0] = 0
        ends[:, 1] = rng.integers(0, 2, 60)
        return rng.uniform(size=(900, 2)), np.concatenate([begin, ends])

    inside, border = fnn.Objective(interior), fnn.Objective(start)
    return Problem(
        "heat",
        model,
        points,
        lambda points: inside.on(points[0]) + border.on(points[1]),
        root_mean_square(model, truth, square(100), relative=False),
        goal=3e-8,
        seconds=math.inf,
    )


def fit():
    """A function of two numbers, exactly."""
    model = network(50, 50, 1)
    inputs = np.random.default_rng(0).uniform(-1, 1, (1000, 2))
    targets = (np.sin(4 * inputs[:, 0]) * np.cos(3 * inputs[:, 1]))[:, None]
    objective = fnn.Objective(model.apply, fnn.losses.half_squared_error)
    return Problem(
        "fit",
        model,
        lambda _: (inputs, targets),
        objective.on,
        lambda params: 2 * objective.on((inputs, targets))(params),
        goal=1e-10,
        seconds=10.0,
        adam_stays_above=1e-7,
    )


PROBLEMS = poisson, dangel, heat, fit


class Runner:
    """A rule on a problem, compiled once."""

    def __init__(self, problem, rule):
        """Compiles, and measures a step."""
        self.problem = problem

        @functools.partial(devices.jit, donate_argnums=0)
        def advance(carry, points, steps):
            def step(_, carry):
                params, state = carry
                value_fn = problem.value_fn(points)
                value, grad = jax.value_and_grad(value_fn)(params)
                updates, state = rule.update(
                    grad, state, params, value=value, grad=grad, value_fn=value_fn
                )
                return optax.apply_updates(params, updates), state

            return jax.lax.fori_loop(0, steps, step, carry)

        def begin(key, points):
            params = problem.model.init(key, points[0][0])
            return params, rule.init(params)

        self.begin, self.error = devices.jit(begin), devices.jit(problem.error)
        carry, points = self._start(0)
        began = time.perf_counter()
        self.advance = advance.lower(carry, points, 1).compile()
        self.compile_seconds = time.perf_counter() - began
        carry = jax.block_until_ready(self.advance(carry, points, 1))
        began = time.perf_counter()
        jax.block_until_ready(self.advance(carry, points, 20))
        self.step_seconds = (time.perf_counter() - began) / 20

    def _start(self, seed):
        points = jax.tree.map(jnp.asarray, self.problem.points(seed))
        carry = self.begin(jax.random.key(seed), points)
        return jax.tree.map(jnp.copy, carry), points

    def run(self, seed, seconds, goal=0.0, steps=math.inf):
        """Seconds, steps and errors along a run."""
        carry, points = self._start(seed)
        jax.block_until_ready((carry, points))
        chunk = max(1, round(CHUNK / self.step_seconds))
        clock, count, curve = 0.0, 0, [(0.0, 0, float(self.error(carry[0])))]
        while clock < seconds and count < steps and curve[-1][2] > goal:
            began = time.perf_counter()
            carry = jax.block_until_ready(self.advance(carry, points, chunk))
            clock, count = clock + time.perf_counter() - began, count + chunk
            curve.append((clock, count, float(self.error(carry[0]))))
            if bool(getattr(carry[1], "stalled", False)):
                break
        return curve


def ours():
    """The rule that all problems get."""
    return rules.levenberg_marquardt(acceleration=0.75)


def solve(problem):
    """The rows of a problem."""
    runner = Runner(problem, ours())
    stop = min(problem.goal, 6e-8) if problem.name == "dangel" else problem.goal
    curves = [runner.run(seed, LONGEST, stop) for seed in range(SEEDS)]
    to_goal = [first(curve, problem.goal) for curve in curves]
    row = {
        "goal": problem.goal,
        "allowed_seconds": problem.seconds,
        "seconds_to_goal": [seconds for seconds, _ in to_goal],
        "steps_to_goal": [steps for _, steps in to_goal],
        "median_seconds_to_goal": statistics.median(seconds for seconds, _ in to_goal),
        "median_steps_to_goal": statistics.median(steps for _, steps in to_goal),
        "load": os.getloadavg()[0],
        "median_final_error": statistics.median(min(e for *_, e in curve) for curve in curves),
        "final_errors": [min(e for *_, e in curve) for curve in curves],
        "milliseconds_a_step": 1e3 * statistics.median(c[-1][0] / c[-1][1] for c in curves),
        "compile_seconds": runner.compile_seconds,
        "curves": [[" ".join(f"{x:.4g}" for x in point) for point in thin(c)] for c in curves],
    }
    if problem.name == "dangel":
        to = [first(curve, 6e-8) for curve in curves]
        row["median_seconds_to_6e-8"] = statistics.median(seconds for seconds, _ in to)
    print(
        f"{problem.name}: goal {problem.goal:.0e} after {row['median_seconds_to_goal']:.2f} s and "
        f"{row['median_steps_to_goal']} steps of {row['milliseconds_a_step']:.2f} ms, compiled in "
        f"{row['compile_seconds']:.1f} s; at last {row['median_final_error']:.2e}\n  "
        f"{' '.join(f'{s:.2f}' for s in row['seconds_to_goal'])} | "
        f"{' '.join(f'{e:.1e}' for e in row['final_errors'])}",
        flush=True,
    )
    if problem.adam_stays_above > 0:
        row["adam"] = adam(problem, row["seconds_to_goal"])
    return row


def thin(curve, points=25):
    """Some points of a curve, the last among them."""
    return curve[:: -(-len(curve) // points)] + curve[-1:]


def first(curve, goal):
    """Seconds and steps to an error."""
    return next(((t, n) for t, n, e in curve if e <= goal), (math.inf, math.inf))


def adam(problem, seconds):
    """Adam with the best of three rates: ten times the seconds of each seed, or 20,000 steps."""
    steps, times = math.inf, [min(LONGEST, 10 * s) for s in seconds]
    if problem.name == "fit":
        steps, times = 20_000, [math.inf] * SEEDS
    tried = {}
    for rate in RATES:
        runner = Runner(problem, rules.adam(rate))
        tried[rate] = [runner.run(seed, times[seed], steps=steps) for seed in range(SEEDS)]
    least = {rate: [min(e for *_, e in curve) for curve in tried[rate]] for rate in RATES}
    best = min(RATES, key=lambda rate: statistics.median(least[rate]))
    row = {
        "rate": best,
        "seconds": [curve[-1][0] for curve in tried[best]],
        "steps": [curve[-1][1] for curve in tried[best]],
        "median_least_error": statistics.median(least[best]),
        "should_stay_above": problem.adam_stays_above,
        "least_errors": least,
    }
    print(
        f"  adam({best:g}): {row['median_least_error']:.2e} after "
        f"{statistics.median(row['seconds']):.1f} s, {statistics.median(row['steps'])} steps; "
        f"the least of all seeds and rates {min(map(min, least.values())):.2e}",
        flush=True,
    )
    return row


# --- fresh points --------------------------------------------------------------------------------


def falling(make):
    """Rules of a rate that falls to zero like a cosine, from three heights."""
    return {f"rate {r:g}": lambda n, r=r: make(optax.cosine_decay_schedule(r, n)) for r in RATES}


FRESH = {
    "adam": falling(rules.adam),
    "soap": falling(rules.soap),
    "spring": {
        f"rate {r:g}, damping {d:g}": lambda n, r=r, d=d: rules.spring(
            optax.cosine_decay_schedule(r, n), damping=d
        )
        for r, d in ((0.1, 1e-4), (0.1, 1e-6), (0.01, 1e-6))
    },
    "levenberg_marquardt": {
        name: lambda _, policy=policy: rules.levenberg_marquardt(policy=policy)
        for name, policy in (
            ("nielsen", rules.damping.nielsen()),
            ("trust_ratio", rules.damping.trust_ratio()),
            ("multiplicative", rules.damping.multiplicative()),
        )
    },
}


def fresh(seconds=10.0):
    """Errors after so many seconds on points that are never seen twice."""
    model = network(64, 1)
    blocks = poisson_blocks(model)
    error = jax.jit(root_mean_square(model, product_of_sines, square(100), relative=False))

    def drawn(key):
        inside, border, at, side = jax.random.split(key, 4)
        points = jax.random.uniform(border, (120, 2))
        places = jnp.arange(120), jax.random.randint(at, 120, 0, 2)
        ends = jax.random.bernoulli(side, shape=120).astype(points.dtype)
        return blocks((jax.random.uniform(inside, (900, 2)), points.at[places].set(ends)))

    def run(make, seed):
        start = model.init(jax.random.key(seed), jnp.zeros(2))
        plan = {"key": jax.random.key(100 + seed), "tolerance": 0}
        probe = make(PROBE)
        fnn.fit(probe, drawn, start, steps=PROBE, **plan)  # compiles
        began = time.perf_counter()
        fnn.fit(probe, drawn, start, steps=PROBE, **plan)
        steps = int(PROBE * seconds / (time.perf_counter() - began))
        rule = make(steps)
        fnn.fit(rule, drawn, start, steps=1, **plan)
        began = time.perf_counter()
        found = fnn.fit(rule, drawn, start, steps=steps, **plan)
        reached = float(error(found.params))
        return reached, time.perf_counter() - began, len(found.history.value)

    rows = {}
    for name, settings in FRESH.items():
        tried = {setting: run(make, 0) for setting, make in settings.items()}
        best = min(tried, key=lambda setting: tried[setting][0])
        runs = [tried[best], *(run(settings[best], seed) for seed in range(1, SEEDS))]
        errors, spent, steps = zip(*runs, strict=True)
        rows[name] = {
            "setting": best,
            "errors": errors,
            "median_error": statistics.median(errors),
            "seconds": statistics.median(spent),
            "steps": statistics.median(steps),
            "tried": {setting: reached for setting, (reached, *_) in tried.items()},
        }
        row = rows[name]
        print(
            f"  {name:20}{row['median_error']:9.1e} after {row['seconds']:.1f} s, "
            f"{row['steps']} steps; {best}; {' '.join(f'{e:.1e}' for e in errors)}",
            flush=True,
        )
    return rows


# --- one step ------------------------------------------------------------------------------------


def step(rounds=3, damping=1e-6):
    """Seconds of an exact Gauss-Newton step, ours and from an explicit Jacobian, by turns."""
    model = network(64, 64, 48, 48, 1)
    rng = np.random.default_rng(0)
    inside, border = rng.uniform(size=(3000, 5)), rng.uniform(size=(500, 5))
    border[np.arange(500), rng.integers(0, 5, 500)] = rng.integers(0, 2, 500)
    inside, border = jnp.asarray(inside), jnp.asarray(border)
    params = model.init(jax.random.key(0), inside[0])
    size = sum(leaf.size for leaf in jax.tree.leaves(params))

    def equation(bend):
        def interior(params, x):
            u = functools.partial(model.apply, params)
            return bend(lambda x: u(x)[0])(x) + 5 * jnp.pi**2 * jnp.prod(jnp.sin(jnp.pi * x))

        return interior

    within, beside = fnn.Objective(equation(laplacian)), fnn.Objective(model.apply)
    rule = rules.gauss_newton(damping=damping)

    @devices.jit
    def our_step(params, inside, border):
        value_fn = within.on(inside) + beside.on(border)
        grad = jax.grad(value_fn)(params)
        updates, _ = rule.update(grad, rule.init(params), params, grad=grad, value_fn=value_fn)
        return jax.flatten_util.ravel_pytree(updates)[0]

    def plain(bend):
        interior = equation(bend)

        @devices.jit
        def explicit_step(params, inside, border):
            flat, unravel = jax.flatten_util.ravel_pytree(params)

            def rows(residual, points):
                each = jax.value_and_grad(lambda flat, x: residual(unravel(flat), x))
                values, grads = jax.vmap(each, (None, 0))(flat, points)
                return values / len(points) ** 0.5, grads / len(points) ** 0.5

            parts = [
                rows(interior, inside),
                rows(lambda params, x: model.apply(params, x)[0], border),
            ]
            values, jacobian = map(jnp.concatenate, zip(*parts, strict=True))
            gram = jacobian @ jacobian.T + damping * jnp.eye(len(values))
            factor = jax.scipy.linalg.cho_factor(gram, lower=True)
            return -jacobian.T @ jax.scipy.linalg.cho_solve(factor, values)

        return explicit_step

    def trace_of_hessian(u):
        return lambda x: jnp.trace(jax.hessian(u)(x))

    steps = {
        "fnn": our_step,
        "explicit Jacobian, trace of jax.hessian": plain(trace_of_hessian),
        "explicit Jacobian, our Laplacian": plain(laplacian),
    }
    rows, made = {}, {}
    for name, function in steps.items():
        began = time.perf_counter()
        made[name] = jax.block_until_ready(function(params, inside, border))
        rows[name] = {
            "first_call_seconds": time.perf_counter() - began,
            "seconds": [],
        }
    for _ in range(rounds):
        for name, function in steps.items():
            began = time.perf_counter()
            jax.block_until_ready(function(params, inside, border))
            rows[name]["seconds"].append(time.perf_counter() - began)
    for name, row in rows.items():
        row["least_seconds"] = min(row["seconds"])
        row["times_slower_than_ours"] = min(row["seconds"]) / min(rows["fnn"]["seconds"])
        apart = jnp.linalg.norm(made[name] - made["fnn"]) / jnp.linalg.norm(made["fnn"])
        row["relative_difference_of_steps"] = float(apart)
        print(
            f"  {name:42} {row['least_seconds']:.2f} s {row['times_slower_than_ours']:.2f}x, "
            f"step differs by {float(apart):.1e}",
            flush=True,
        )
    # Both are bound by A A^T: 2 R^2 P flops, of which we do 9/16; the factored form of a leaf i x o
    # with T = d + 2 uses would take 2 R^2 T^2 (i + o), more than the 2 R^2 i o of its own columns.
    told = fnn.curvature.explain(equation(laplacian), params, inside)
    print(told)
    count = len(inside) + len(border)
    counted = {
        "rows": count,
        "plain A A^T": 2.0 * count**2 * size,
        "our A A^T": 2.0 * count**2 * size * 9 / 16,
        "factored A A^T of a 64 x 64 leaf": 2.0 * count**2 * 49 * 128,
        "explicit A A^T of a 64 x 64 leaf": 2.0 * count**2 * 64 * 64 * 9 / 16,
        "Cholesky": count**3 / 3,
    }
    return {"parameters": size, "flops": counted, "steps": rows, "explained": str(told)}


# --- operators ----------------------------------------------------------------------------------


def nested(u):
    """The Laplacian by jvp of jvp, along all coordinates at once."""

    def bend(x):
        def second(v):
            return jax.jvp(lambda x: jax.jvp(u, (x,), (v,))[1], (x,), (v,))[1]

        return jnp.sum(jax.vmap(second)(jnp.eye(len(x))), axis=0)

    return bend


def taylor(u):
    """The Laplacian by jax.experimental.jet."""
    from jax.experimental import jet

    def bend(x):
        def second(v):
            return jet.jet(u, (x,), ((v, jnp.zeros_like(v)),))[1][1]

        return jnp.sum(jax.vmap(second)(jnp.eye(len(x))), axis=0)

    return bend


def trace(u):
    """The Laplacian as the trace of jax.hessian."""
    return lambda x: jnp.trace(jax.hessian(u)(x), axis1=-2, axis2=-1)


def operators(rounds=7):
    """Milliseconds of the Laplacian, of its gradient in the parameters, and of a capture."""
    ways = {"fnn": laplacian, "nested jvp": nested, "jet": taylor, "trace of hessian": trace}
    table = []
    for widths, dimensions, n in (((32, 1), 2, 900), ((64, 64, 48, 48, 1), 5, 3000)):
        model = network(*widths)
        points = jnp.asarray(np.random.default_rng(0).uniform(size=(n, dimensions)))
        params = model.init(jax.random.key(0), points[0])
        runs = {}
        for name, way in ways.items():

            def residual(params, x, way=way, model=model):
                return way(lambda x: model.apply(params, x)[0])(x)

            objective = fnn.Objective(residual)
            runs[name, "value"] = devices.jit(lambda p, x, o=objective: o.on(x)(p))
            runs[name, "gradient"] = devices.jit(lambda p, x, o=objective: jax.grad(o.on(x))(p))
            runs[name, "capture, J^T u"] = devices.jit(
                lambda p, x, r=residual: captured_product(r, p, x)
            )
        times = {key: [] for key in runs}
        for run in runs.values():
            jax.block_until_ready(run(params, points))
        for _ in range(rounds):
            for key, run in runs.items():
                began = time.perf_counter()
                for _ in range(3):
                    jax.block_until_ready(run(params, points))
                times[key].append((time.perf_counter() - began) / 3)
        for (name, what), seconds in times.items():
            row = {
                "widths": [dimensions, *widths],
                "points": n,
                "way": name,
                "what": what,
                "milliseconds": 1e3 * statistics.median(seconds),
                "times_slower_than_ours": statistics.median(
                    t / u for t, u in zip(seconds, times["fnn", what], strict=True)
                ),
            }
            table.append(row)
            print(
                f"  {row['widths']!s:28} {what:16} {name:18} {row['milliseconds']:8.2f} ms "
                f"{row['times_slower_than_ours']:6.2f}x",
                flush=True,
            )
    return table


def captured_product(residual, params, points):
    """J^T 1 from a capture."""
    captured = fnn.curvature.capture(residual, params, points)
    return fnn.curvature.transpose_product(captured, jnp.ones(captured.shape))


def main(chosen):
    """Prints the tables and writes the JSON."""
    path = Path(__file__).parent / "results" / "physics-cpu.json"
    report = json.loads(path.read_text()) if chosen and path.exists() else {}
    report |= {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {
            name: metadata.version(name) for name in ("fnn", "jax", "jaxlib", "optax", "numpy")
        },
    }
    sections = {make.__name__: functools.partial(solve_made, make) for make in PROBLEMS}
    sections |= {"fresh": fresh, "step": step, "operators": operators}
    for name, section in sections.items():
        if not chosen or name in chosen:
            report[name] = {"load_before": os.getloadavg()[0], "rows": section()}
            path.write_text(json.dumps(report, indent=1) + "\n")


def solve_made(make):
    """The rows of a problem still to be made."""
    return solve(make())


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1:])
