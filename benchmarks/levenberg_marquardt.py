"""One exact Levenberg-Marquardt step against its peers: same problem, start, damping and machine.

    uv run --group bench benchmarks/levenberg_marquardt.py [--variables] [SECTION ...]

Every contestant lives in a process of its own, started when its section starts, so that it brings
its own threads and precision, and its peak memory is its own. The processes take turns: two runs
each, of which the second counts, a pause, the next round. Seconds are medians over rounds, per
step, after a first call (which compiles) that is timed apart; a ratio is the median of the ratios
within rounds, so that a slow phase of the machine slows both sides.

A run starts from the same parameters every time. Where the section has steps = 1 it is one step at
a fixed damping, after the first (our automatic unit of damping is known by then); `value` is the
loss it arrives at, equal for all who take the same step. Tanh networks, half the mean of squares.

Everybody runs as a user gets it, without environment variables; ours is compiled by
`fnn.devices.jit`. `--variables` sets those that were worth setting before there was such a thing:
one thread for LAPACK (OpenBLAS's others spin for tens of milliseconds after each factorization, on
a core that the rest of the step has use for), and glibc's MALLOC_, by which freed memory is kept.
"""

import functools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROUNDS, PAUSE, DAMPING = 5, 0.2, 0.1
VARIABLES = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "300000000",
}
PACKAGES = (
    "fnn", "jax", "jaxlib", "optax", "numpy", "scipy", "jaxopt", "optimistix", "lineax", "torch",
    "torch-levenberg-marquardt", "python-somax",
)  # fmt: skip


class Problem(NamedTuple):
    """A regression problem for a tanh network with these widths."""

    sizes: tuple[int, ...]
    examples: int
    dtype: str
    steps: int = 1

    @property
    def data(self):
        """Inputs, and a noisy function of them."""
        rng, (first, *_, last) = np.random.default_rng(0), self.sizes
        inputs = rng.uniform(-1, 1, (self.examples, first))
        phases = np.arange(1, last + 1)
        targets = np.sin(3 * inputs.sum(1, keepdims=True) * phases)
        targets += 0.1 * rng.standard_normal(targets.shape)
        return inputs.astype(self.dtype), targets.astype(self.dtype)

    @property
    def start(self):
        """Weights (fan_in, fan_out) and biases, layer by layer."""
        rng = np.random.default_rng(1)
        return [
            {
                "weight": (rng.standard_normal((i, o)) / i**0.5).astype(self.dtype),
                "bias": np.zeros(o, self.dtype),
            }
            for i, o in zip(self.sizes[:-1], self.sizes[1:], strict=True)
        ]


# --- what the contestants in JAX share ----------------------------------------------------------


def model(params, x):
    """The network of one example, or of rows of them."""
    import jax.numpy as jnp

    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x @ last["weight"] + last["bias"]


def mean_loss(params, data):
    """Half the mean of squares, written by hand for the batch."""
    inputs, targets = data
    return ((model(params, inputs) - targets) ** 2).sum() / (2 * len(inputs))


def on_device(problem):
    """Parameters and data."""
    import jax

    return jax.tree.map(jax.numpy.asarray, (problem.start, problem.data))


def flat_residuals(problem):
    """Residuals (whose half sum of squares is the loss) of flat parameters, and where to start."""
    from jax.flatten_util import ravel_pytree

    params, (inputs, targets) = on_device(problem)
    start, unravel = ravel_pytree(params)

    def residuals(flat, _=None):
        return (model(unravel(flat), inputs) - targets).ravel() / len(inputs) ** 0.5

    return residuals, start


# --- contestants: problem -> a run, which returns the value it arrived at -----------------------


def system(problem):
    """Our value function, rule, and parameters."""
    import fnn
    from fnn import losses, rules

    params, data = on_device(problem)
    objective = fnn.Objective(model, losses.half_squared_error)
    return objective.on(data), rules.levenberg_marquardt(DAMPING), params


def ours(problem):
    """rules.levenberg_marquardt in the loop of any optax rule."""
    import jax
    import optax

    from fnn import devices

    value_fn, rule, params = system(problem)

    def step(carry, value_fn):
        params, state = carry
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    @devices.jit
    def steps(carry, value_fn):
        if problem.steps == 1:
            return step(carry, value_fn)
        return jax.lax.fori_loop(0, problem.steps, lambda _, c: step(c, value_fn), carry)

    carry = params, rule.init(params)
    first = time.perf_counter()
    _, state = jax.block_until_ready(steps(carry, value_fn))
    first = time.perf_counter() - first
    if problem.steps == 1:
        number = jax.numpy.full_like(state.damping.value, DAMPING)
        carry = params, state._replace(damping=state.damping._replace(value=number))

    def run():
        _, state = jax.block_until_ready(steps(carry, value_fn))
        assert state.info.accepted > 0
        return float(state.info.value)

    return run, first


def adam(problem):
    """A full-batch step of optax.adam."""
    import jax
    import optax

    params, data = on_device(problem)
    rule = optax.adam(1e-3)

    @jax.jit
    def step(params, state, data):
        value, grad = jax.value_and_grad(mean_loss)(params, data)
        updates, state = rule.update(grad, state, params)
        return optax.apply_updates(params, updates), state, value

    state = rule.init(params)
    return lambda: float(jax.block_until_ready(step(params, state, data))[2])


def explicit_dual(problem):
    """The same step as one would write it by hand: J (N, P), J J^T, Cholesky, trial."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree

    params, (inputs, targets) = on_device(problem)
    flat, unravel = ravel_pytree(params)

    @jax.jit
    def step(flat, damping):
        def output(flat, x):
            return model(unravel(flat), x)[0]

        outputs, rows = jax.vmap(jax.value_and_grad(output), (None, 0))(flat, inputs)
        n = len(rows)
        residuals = outputs - targets[:, 0]
        gram = rows @ rows.T + n * damping * jnp.eye(n)
        factor = jax.scipy.linalg.cho_factor(gram, lower=True)
        trial = flat - rows.T @ jax.scipy.linalg.cho_solve(factor, residuals)
        before, after = (
            jnp.sum(residuals**2) / (2 * n),
            mean_loss(unravel(trial), (inputs, targets)),
        )
        return jnp.where(after < before, trial, flat), jnp.minimum(after, before)

    return lambda: float(jax.block_until_ready(step(flat, DAMPING))[1])


def jaxopt_cholesky(problem):
    """jaxopt.LevenbergMarquardt with a Jacobian and Cholesky."""
    import jax
    import jaxopt

    residuals, start = flat_residuals(problem)
    solver = jaxopt.LevenbergMarquardt(
        residuals, solver="cholesky", materialize_jac=True, maxiter=problem.steps, tol=0.0
    )
    state = jax.jit(solver.init_state)(start)._replace(damping_factor=DAMPING)

    @jax.jit
    def steps(params, state):
        if problem.steps == 1:
            return solver.update(params, state)
        return jax.lax.fori_loop(
            0, problem.steps, lambda _, carry: tuple(solver.update(*carry)), (params, state)
        )

    state = jax.tree.map(jax.numpy.asarray, state)
    return lambda: float(jax.block_until_ready(steps(start, state))[1].value)


def optimistix(problem, **settings):
    """optimistix.LevenbergMarquardt as it comes: QR, forward mode."""
    import jax
    import optimistix as optx

    residuals, start = flat_residuals(problem)
    options = settings.pop("options", {})
    solver = optx.LevenbergMarquardt(rtol=0.0, atol=0.0, **settings)

    @jax.jit
    def steps(start):
        found = optx.least_squares(
            residuals, solver, start, options=options, max_steps=problem.steps, throw=False
        )
        return found.value, found.stats["num_steps"]

    def run():
        found, count = jax.block_until_ready(steps(start))
        assert count == problem.steps
        return float((residuals(found) ** 2).sum() / 2)

    return run


def optimistix_cholesky(problem):
    """The same on the normal equations, its Jacobian by reverse mode."""
    import lineax

    solver = lineax.Normal(lineax.Cholesky())
    return optimistix(problem, linear_solver=solver, options={"jac": "bwd"})


def torch_lm(problem):
    """torch-levenberg-marquardt, Cholesky."""
    import torch
    import torch_levenberg_marquardt as tlm

    inputs, targets = map(torch.from_numpy, problem.data)
    stack = []
    for layer in problem.start:
        linear = torch.nn.Linear(*layer["weight"].shape, dtype=inputs.dtype)
        linear.weight.data = torch.from_numpy(layer["weight"].T.copy())
        linear.bias.data = torch.from_numpy(layer["bias"])
        stack += [linear, torch.nn.Tanh()]
    damping = tlm.damping.StandardDampingStrategy(starting_value=DAMPING)
    module = tlm.training.LevenbergMarquardtModule(
        torch.nn.Sequential(*stack[:-1]), damping_strategy=damping, solve_method="cholesky"
    )
    start = module.flat_params.clone()

    def run():
        module.flat_params.copy_(start)
        module.backup_parameters()
        damping.reset()
        _, loss, _, _ = module.training_step(inputs, targets)
        return loss.item() / 2

    return run


def scipy_least_squares(problem, method):
    """scipy.optimize.least_squares with a jitted Jacobian."""
    import jax
    from scipy.optimize import least_squares

    residuals, start = flat_residuals(problem)
    residuals, jacobian = jax.jit(residuals), jax.jit(jax.jacrev(residuals))
    eps, counts = 1.001 * np.finfo(float).eps, []

    def counted(flat):
        counts.append(1)
        return np.asarray(jacobian(flat))

    def run():
        counts.clear()
        found = least_squares(
            lambda flat: np.asarray(residuals(flat)),
            np.asarray(start),
            counted,
            method=method,
            ftol=eps,
            xtol=eps,
            gtol=eps,
            max_nfev=problem.steps,
        )
        run.steps = found.nfev if method == "trf" else max(len(counts), 1)
        return float(found.cost)

    return run


def somax_egn(problem):
    """somax.egn_mse: a Gauss-Newton step by Cholesky among the rows, without a trial."""
    import jax
    import somax

    params, (inputs, targets) = on_device(problem)
    method = somax.egn_mse(predict_fn=model, lam0=DAMPING, learning_rate=1.0)
    state, batch, key = method.init(params), {"x": inputs, "y": targets}, jax.random.key(0)
    step = jax.jit(lambda params, state: method.step(params, batch, state, key)[:2])
    value = jax.jit(mean_loss)

    def run():
        found, _ = jax.block_until_ready(step(params, state))
        run.value = lambda: float(value(found, (inputs, targets)))
        return None

    return run


def matrix_product(problem, size=2048):
    """One square matrix product: what the machine can do."""
    import jax

    square = jax.random.normal(jax.random.key(0), (size, size), problem.dtype)
    multiply = jax.jit(lambda a: a @ a)
    return lambda: float(jax.block_until_ready(multiply(square))[0, 0])


# Parts of our step, each with those before it: their differences are where the seconds go.


def _part(problem, part):
    import jax

    value_fn, _, params = system(problem)
    part = jax.jit(part)

    def run():
        jax.block_until_ready(part(params, value_fn))

    return run


def part_value(problem):
    """The value, as for a trial."""
    return _part(problem, lambda params, value_fn: value_fn(params))


def part_gram(problem):
    """Capture and Gram matrix."""
    return _part(problem, gram)


def gram(params, value_fn):
    """A A^T at the parameters."""
    import jax

    from fnn.curvature import gauss_newton_system

    return gauss_newton_system(value_fn, params).system.gram(jax.tree.map(lambda _: 1.0, params))


def part_transpose(problem):
    """Capture and A^T s, the gradient."""

    def transpose(params, value_fn):
        from fnn.curvature import gauss_newton_system

        _, system, rhs = gauss_newton_system(value_fn, params)
        return system.transpose(rhs.s)

    return _part(problem, transpose)


def part_solution(problem):
    """Capture, Gram matrix, ladder, A^T x."""

    def solution(params, value_fn):
        from fnn import solvers
        from fnn.curvature import gauss_newton_system

        _, system, rhs = gauss_newton_system(value_fn, params)
        return solvers.automatic().solve(system, rhs, DAMPING).step

    return _part(problem, solution)


def counted_flops(problem):
    """Of one step of ours by the dual: what is taken, not the ladder's other rungs."""
    import jax

    from fnn import flops
    from fnn.curvature import gauss_newton_system

    value_fn, _, params = system(problem)

    def step(params):
        _, rows, rhs = gauss_newton_system(value_fn, params)
        matrix = rows.gram(jax.tree.map(lambda _: 1.0, params))
        return value_fn(rows.transpose(matrix @ rhs.s))

    rows = problem.examples * problem.sizes[-1]
    return flops.count(step, params) + rows**3 / 3


# --- sections -----------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A contestant and how many times slower than ours it should be, at least."""

    build: Callable
    target: float | None = None


class Section(NamedTuple):
    """A problem and who is timed on it, ours first."""

    problem: Problem
    entries: dict[str, Entry]
    most_first_seconds: float | None = None
    most_gigabytes: float | None = None


OURS = {"fnn": Entry(ours)}
PARTS = {
    "part: value": Entry(part_value),
    "part: capture, A^T s": Entry(part_transpose),
    "part: capture, Gram": Entry(part_gram),
    "part: solution": Entry(part_solution),
}
PRODUCT = {"matrix product 2048": Entry(matrix_product)}
LARGE = {width: Problem((8, width, width, 1), 1024, "float32") for width in (1024, 2048)}

SECTIONS = {
    "width-1024": Section(
        LARGE[1024],
        OURS
        | {"optax.adam": Entry(adam, 1 / 3.0), "explicit Jacobian": Entry(explicit_dual, 100)}
        | PRODUCT
        | PARTS,
        most_gigabytes=1.0,
    ),
    "width-2048": Section(
        LARGE[2048], OURS | {"optax.adam": Entry(adam, 1 / 2.5)} | PRODUCT | PARTS
    ),
    "2-50-50-1": Section(
        Problem((2, 50, 50, 1), 1000, "float64"),
        OURS
        | {
            "jaxopt (cholesky)": Entry(jaxopt_cholesky, 40),
            "optimistix": Entry(optimistix, 60),
            "optimistix (bwd, cholesky)": Entry(optimistix_cholesky),
            "torch-levenberg-marquardt": Entry(torch_lm, 6),
        }
        | PARTS,
        most_first_seconds=2.0,
    ),
    "1-20-1": Section(
        Problem((1, 20, 1), 200, "float64", steps=200),
        OURS
        | {
            "jaxopt (cholesky)": Entry(jaxopt_cholesky, 3),
            "optimistix": Entry(optimistix, 5),
            "optimistix (bwd, cholesky)": Entry(optimistix_cholesky),
            "scipy (lm)": Entry(functools.partial(scipy_least_squares, method="lm"), 20),
            "scipy (trf)": Entry(functools.partial(scipy_least_squares, method="trf"), 20),
        },
    ),
    "somax": Section(
        Problem((8, 256, 256, 1), 128, "float32"), OURS | {"somax egn_mse": Entry(somax_egn, 80)}
    ),
}

CURVES = {
    "examples": [Problem((8, 512, 512, 1), n, "float32") for n in (128, 256, 512, 1024, 2048)],
    "width": [Problem((8, w, w, 1), 512, "float32") for w in (128, 256, 512, 1024, 2048)],
    "outputs": [Problem((8, 512, 512, k), 256, "float32") for k in (1, 2, 4, 8)],
}


# --- a process for each contestant --------------------------------------------------------------


def contestant(problem, build):
    """Answers every line of the standard input with the seconds of a run; peak memory at the end.

    A contestant that is more than a function to call twice brings the seconds of its first call.
    """
    if problem.dtype == "float64":
        os.environ["JAX_ENABLE_X64"] = "1"
    answers, sys.stdout = sys.stdout, sys.stderr

    def say(**answer):
        print(json.dumps(answer), file=answers, flush=True)

    built = build(problem)
    run, first = built if isinstance(built, tuple) else (built, None)
    begin = time.perf_counter()
    value = run()
    first = time.perf_counter() - begin if first is None else first
    say(first=first)
    for _ in sys.stdin:
        seconds = 0.0
        for _ in range(2):  # twice: what the others' turns took from caches and memory is back
            if seconds > 1:
                break
            begin = time.perf_counter()
            value = run()
            seconds = time.perf_counter() - begin
        say(seconds=seconds / getattr(run, "steps", problem.steps))
    value = run.value() if hasattr(run, "value") else value
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    say(value=value, gigabytes=peak, steps=getattr(run, "steps", problem.steps))


class Process:
    """A contestant's process: call it for a run, close it for what it has to say."""

    def __init__(self, *arguments):
        """Starts it and waits for its first call."""
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--contestant", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.first = self._answer()["first"]

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process {self.process.args} ended early")
        return json.loads(line)

    def __call__(self):
        """Seconds of a step."""
        print(file=self.process.stdin, flush=True)
        return self._answer()["seconds"]

    def close(self):
        """Value, peak memory, and steps of a run."""
        self.process.stdin.close()
        answer = self._answer()
        self.process.wait()
        return answer


def timed(name, section):
    """The table of a section."""
    load = os.getloadavg()[0]
    processes = {entry: Process(name, entry) for entry in section.entries}
    seconds = {entry: [] for entry in processes}
    for _ in range(ROUNDS):
        for entry, process in processes.items():
            time.sleep(PAUSE)
            seconds[entry].append(process())
    rows = {}
    for entry, process in processes.items():
        ratios = [t / u for t, u in zip(seconds[entry], seconds["fnn"], strict=True)]
        target = section.entries[entry].target
        ratio = statistics.median(ratios)
        rows[entry] = {
            "median_seconds": statistics.median(seconds[entry]),
            "least_seconds": min(seconds[entry]),
            "times_slower_than_ours": ratio,
            "target": target,
            "verdict": None if target is None else "hit" if ratio >= target else "MISS",
            "first_call_seconds": process.first,
        } | process.close()
    limits = {
        "first_call_seconds": section.most_first_seconds,
        "gigabytes": section.most_gigabytes,
    }
    table = {"problem": section.problem._asdict(), "load_before": load, "rows": rows}
    table["limits"] = {
        what: {"most": most, "got": got, "verdict": "hit" if got <= most else "MISS"}
        for what, most in limits.items()
        if most is not None
        for got in [rows["fnn"][what]]
    }
    return table


def printed(name, table):
    """A table for people."""
    print(f"\n{name}  (load before: {table['load_before']:.1f})")
    print(
        f"  {'':28}{'ms a step':>11}{'least':>11}{'/ ours':>9}{'target':>9}      "
        f"{'first s':>8}{'GB':>6}  value"
    )
    for entry, row in table["rows"].items():
        target = "" if row["target"] is None else f">={row['target']:.3g}"
        value = "" if row["value"] is None else f"{row['value']:.6g}"
        print(
            f"  {entry:28}{1e3 * row['median_seconds']:11.3f}{1e3 * row['least_seconds']:11.3f}"
            f"{row['times_slower_than_ours']:9.3f}{target:>9} {row['verdict'] or '':4} "
            f"{row['first_call_seconds']:8.2f}{row['gigabytes']:6.2f}  {value}"
        )
    for what, limit in table["limits"].items():
        print(f"  ours, {what}: {limit['got']:.3g} <= {limit['most']:.3g} {limit['verdict']}")
    if "flops" in table:
        print(
            f"  counted flops {table['flops']:.3g}; {table['fraction_of_matrix_product_rate']:.0%} "
            "of the rate of a matrix product"
        )


def main(chosen):
    """Prints the tables and writes the JSON."""
    are_set = os.environ.items() >= VARIABLES.items()
    name = f"levenberg_marquardt-cpu{'-variables' if are_set else ''}.json"
    path = Path(__file__).parent / "results" / name
    path.parent.mkdir(exist_ok=True)
    report = json.loads(path.read_text()) if chosen and path.exists() else {"sections": {}}
    report |= {
        "rounds": ROUNDS,
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "device": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions(),
    }
    for name, section in SECTIONS.items():
        if chosen and name not in chosen:
            continue
        table = timed(name, section)
        if "matrix product 2048" in table["rows"]:
            rate = 2 * 2048**3 / table["rows"]["matrix product 2048"]["median_seconds"]
            table["flops"] = counted_flops(section.problem)
            reached = table["flops"] / table["rows"]["fnn"]["median_seconds"]
            table["fraction_of_matrix_product_rate"] = reached / rate
        printed(name, table)
        report["sections"][name] = table
        path.write_text(json.dumps(report, indent=2) + "\n")
    if not chosen or "curves" in chosen:
        report["curves"] = curves()
        path.write_text(json.dumps(report, indent=2) + "\n")


def curves():
    """Milliseconds and counted flops of a step against examples, width and outputs."""
    report = {}
    for axis, problems in CURVES.items():
        report[axis] = []
        print(
            f"\ncost against {axis}\n  {'network':>16}{'N':>6}{'ms':>10}{'Gflop':>9}{'Gflop/s':>9}"
        )
        for problem in problems:
            run, _ = ours(problem)
            run()
            times = []
            for _ in range(ROUNDS):
                time.sleep(PAUSE)
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            seconds, flops = statistics.median(times), counted_flops(problem)
            report[axis].append(problem._asdict() | {"median_seconds": seconds, "flops": flops})
            sizes = "-".join(map(str, problem.sizes))
            print(
                f"  {sizes:>16}{problem.examples:6}{1e3 * seconds:10.2f}"
                f"{flops / 1e9:9.2f}{flops / seconds / 1e9:9.1f}"
            )
    return report


def processor():
    """Its name, where the system tells."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions():
    """Of the packages that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--contestant", section, entry]:
            section = SECTIONS[section]
            contestant(section.problem, section.entries[entry].build)
        case ["--variables", *chosen]:  # they are read when a process starts
            arguments = [sys.executable, sys.argv[0], *chosen]
            os.execve(sys.executable, arguments, os.environ | VARIABLES)
        case chosen:
            main(chosen)
