"""Who arrives: our rules and scipy's on problems of CUTEst, each run to its own stop.

    uv run --group bench benchmarks/cutest.py [least-squares] [variants] [unconstrained]

The problems are those of `sif2jax`, in float64, at their own sizes, as far as they are small:

    least-squares   systems of equations without bounds, their sum of squares being minimized, from
                    all the starts that they come with: Levenberg-Marquardt as it comes, beside
                    scipy's `least_squares`
    variants        the same for what else was tried as a default
    unconstrained   what is not such a system in another guise: our rules for Hessians and our
                    quasi-Newton rules, beside scipy's `minimize`

Ours run in the loop of `fnn.fit`, with its judge and its tolerance for full batches, and end as it
would say; theirs with compiled exact derivatives; all of them after at most `STEPS` steps (of
theirs, evaluations). One definition serves all. With f the value (half the sum of squares), f* the
least value that anybody reached and f0 that of the start, a run is

    lowest      where   f - f* <= 1e-6 |f*| + 1e-12 |f0 - f*|
    solved      where it is lowest, or   max_j |g_j| / sqrt(2 |f| C_jj) <= 1e-5
    false       where it ended as `Stop.CONVERGED`, at a minimum, and is not solved.

C is J^T J for sums of squares, so that the ratio is MINPACK's cosine of the angle between the
residuals and a column of J, and the Hessian for other functions. Gradient and curvature at the end
are computed anew in forward mode, the rules having taken theirs from reverse mode. `steps` are the
median and the sum over the problems that all entries of a table solve.
"""

import functools
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_ENABLE_X64"] = "1"  # before sif2jax makes its arrays
# Steps are counted, and to compile takes longer than they do.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize
import sif2jax
from jax.flatten_util import ravel_pytree

import fnn
from fnn import rules, training

STEPS, VARIABLES, RESIDUALS = 1000, 100, 300
TOGETHER = 6  # cases in a program: of forty, XLA compiled the step for ten minutes
NEAR, OF_START, FLAT = 1e-6, 1e-12, 1e-5


class Case(NamedTuple):
    """A function of a vector, residuals or a number, and a start."""

    name: str
    function: Callable
    start: np.ndarray


class Group(NamedTuple):
    """Cases with as many variables: for all of them an entry is compiled once."""

    cases: list[Case]
    is_system: bool

    def function(self, index, params):
        """The residuals, zeros behind them, or the number of one of the cases."""
        rows = max(residuals(case).size for case in self.cases)

        def padded(case):
            def branch(params):
                result = jnp.ravel(case.function(params))
                return jnp.pad(result, (0, rows - result.size))

            return branch

        result = jax.lax.switch(index, [padded(case) for case in self.cases], params)
        return result if self.is_system else result[0]

    def value(self, index, params):
        """What is minimized."""
        result = self.function(index, params)
        return jnp.sum(result**2) / 2 if self.is_system else result

    def value_fn(self, index):
        """The same for our rules, which see the residuals."""
        if not self.is_system:
            return functools.partial(self.function, index)
        objective = fnn.Objective(lambda params, _: self.function(index, params))
        return objective.on(jnp.zeros(1))

    def starts(self):
        """All the starts."""
        return np.stack([case.start for case in self.cases])


class End(NamedTuple):
    """Where a run ended: parameters, steps (or evaluations), and why, in a word."""

    params: Any
    steps: int
    stop: str


# --- problems -----------------------------------------------------------------------------------


def residuals(case):
    """Shape and dtype of what a case returns."""
    return jax.eval_shape(case.function, case.start)


def systems():
    """Equations without bounds, from each of their starts."""
    for problem in sif2jax.nonlinear_equations_problems:
        start, _ = ravel_pytree(problem.y0)
        if problem.bounds is not None or start.size > VARIABLES:
            continue
        equations, others = jax.eval_shape(problem.constraint, problem.y0)
        if others is None and sum(leaf.size for leaf in jax.tree.leaves(equations)) <= RESIDUALS:
            for number in sorted(problem.provided_y0s):
                own = number == problem.y0_iD
                yield system(problem if own else type(problem)(y0_iD=number), number)


def system(problem, number):
    """The case of a system of equations."""
    start, unravel = ravel_pytree(problem.y0)

    def equations(params):
        return ravel_pytree(problem.constraint(unravel(params))[0])[0]

    name = problem.name + (f", start {number + 1}" if number else "")
    return Case(name, equations, np.asarray(start, float))


def functions():
    """Functions without constraints that are none of the systems."""
    names = {case.name for case in systems()}
    for problem in sif2jax.unconstrained_minimisation_problems:
        name, (start, unravel) = problem.name, ravel_pytree(problem.y0)
        if start.size <= VARIABLES and not {name.removesuffix("LS"), name + "NE"} & names:

            def value(params, problem=problem, unravel=unravel):
                return problem.objective(unravel(params), problem.args)

            yield Case(name, value, np.asarray(start, float))


def grouped(cases, is_system):
    """The cases by their number of variables, a few in each program."""
    sizes = {}
    for case in cases:
        sizes.setdefault(case.start.size, []).append(case)
    return [
        Group(sizes[size][first : first + TOGETHER], is_system)
        for size in sorted(sizes)
        for first in range(0, len(sizes[size]), TOGETHER)
    ]


# --- entries: group -> index -> where it ended --------------------------------------------------


def ours(rule):
    """One of our rules, or optax's, as `fnn.fit` goes and ends on a full batch."""
    limits = training.Limits(steps=STEPS, rounds=STEPS, tolerance=float(jnp.finfo(float).eps))

    def prepared(group):
        @jax.jit
        def walk(index, params):
            source = training.Source(1, lambda _: lambda _: group.value_fn(index))
            start = training.start(rule, params, keep_best=False)
            progress, _ = training.advance(
                rule,
                source,
                lambda _: {},
                start,
                0,
                limits,
                round_end=lambda number: number + 1,
                capacity=(STEPS, STEPS),
            )
            return progress.params, progress.step, progress.stopped

        def run(index):
            params, steps, stopped = walk(index, jnp.asarray(group.cases[index].start))
            stop = training.Stop(int(stopped))
            return End(params, int(steps), "BUDGET" if stop == training.Stop.RUNNING else stop.name)

        return run

    return prepared


def scipy_least_squares(method):
    """The least_squares of scipy, its tolerances as small as they may be."""

    def prepared(group):
        function, jacobian = jax.jit(group.function), jax.jit(jax.jacfwd(group.function, 1))
        tolerances = dict.fromkeys(("ftol", "xtol", "gtol"), 1.001 * np.finfo(float).eps)

        def run(index):
            found = scipy.optimize.least_squares(
                lambda params: np.asarray(function(index, params)),
                group.cases[index].start,
                lambda params: np.asarray(jacobian(index, params)),
                method=method,
                max_nfev=STEPS,
                **tolerances,
            )
            return End(found.x, int(found.nfev), f"{found.status}")

        return run

    return prepared


def scipy_minimize(method):
    """The minimize of scipy, with Hessians."""

    def prepared(group):
        value, grad = jax.jit(group.value), jax.jit(jax.grad(group.value, 1))
        hessian = jax.jit(jax.hessian(group.value, 1))

        def run(index):
            found = scipy.optimize.minimize(
                lambda params: float(value(index, params)),
                group.cases[index].start,
                method=method,
                jac=lambda params: np.asarray(grad(index, params)),
                hess=lambda params: np.asarray(hessian(index, params)),
                options={"gtol": 1e-8, "maxiter": STEPS},
            )
            return End(found.x, int(found.nit), f"{found.status}")

        return run

    return prepared


def levenberg_marquardt(**settings):
    """The rule with other settings than its own."""
    return ours(rules.levenberg_marquardt(**settings))


LEAST_SQUARES = {
    "levenberg_marquardt": levenberg_marquardt(),
    "scipy trf": scipy_least_squares("trf"),
}
VARIANTS = {
    "levenberg_marquardt": levenberg_marquardt(),
    "straight": levenberg_marquardt(acceleration=0),
    "straight, more": levenberg_marquardt(acceleration=0, scaling=rules.scaling.more),
    "bent, more": levenberg_marquardt(acceleration=0.75, scaling=rules.scaling.more),
    "straight, marquardt": levenberg_marquardt(acceleration=0, scaling=rules.scaling.marquardt),
    "bent, trust_ratio": levenberg_marquardt(policy=rules.damping.trust_ratio()),
    "bent, decrease 1/10": levenberg_marquardt(policy=rules.damping.nielsen(decrease=0.1)),
}
UNCONSTRAINED = {
    "trust_region_newton": ours(rules.trust_region_newton()),
    "cubic_newton": ours(rules.cubic_newton()),
    "newton": ours(rules.newton()),
    "bfgs": ours(rules.bfgs()),
    "sr1": ours(rules.sr1()),
    "optax.lbfgs": ours(optax.lbfgs()),
    "scipy trust-exact": scipy_minimize("trust-exact"),
}
SECTIONS = {
    "least-squares": (systems, LEAST_SQUARES),
    "variants": (systems, VARIANTS),
    "unconstrained": (functions, UNCONSTRAINED),
}


# --- tables -------------------------------------------------------------------------------------


def judge_of(group):
    """A function from index and parameters to value and ratio, compiled, in forward mode."""

    @jax.jit
    def judge(index, params):
        value, slopes = group.value(index, params), jax.jacfwd(group.value, 1)(index, params)
        if group.is_system:
            curvatures = jnp.sum(jax.jacfwd(group.function, 1)(index, params) ** 2, axis=0)
        else:
            hessian = jax.jacfwd(jax.jacfwd(group.value, 1), 1)(index, params)
            curvatures = jnp.abs(jnp.diagonal(hessian))
        ratios = jnp.abs(slopes) / jnp.sqrt(2 * jnp.abs(value) * curvatures)
        return value, jnp.max(jnp.where(slopes == 0, 0, ratios))

    return judge


def ended(name, run, index, case):
    """The end of a run; the start where it raises."""
    try:
        return run(index)
    except (ArithmeticError, ValueError, np.linalg.LinAlgError) as error:
        print(f"  {case.name}, {name}: {error}", file=sys.stderr)
        return End(case.start, 0, "error")


def compared(rows, first):
    """The rows with what is said of them beside each other."""
    least = min([row["value"] for row in rows.values() if np.isfinite(row["value"])] + [first])
    for row in rows.values():
        excess = row["value"] - least
        row["lowest"] = bool(excess <= NEAR * abs(least) + OF_START * abs(first - least))
        row["solved"] = bool(row["lowest"] or row["ratio"] <= FLAT)
        row["false"] = row["stop"] == training.Stop.CONVERGED.name and not row["solved"]
    return rows


def runs(group, entries):
    """The rows of a group, a line printed for each of its cases."""
    judge, table = judge_of(group), {case.name: {} for case in group.cases}
    for name, entry in entries.items():
        run = entry(group)
        for index, case in enumerate(group.cases):
            end = ended(name, run, index, case)
            value, ratio = map(float, judge(index, jnp.asarray(end.params)))
            row = {"value": value, "ratio": ratio, "steps": end.steps, "stop": end.stop}
            table[case.name][name] = row
    for index, case in enumerate(group.cases):
        rows = compared(table[case.name], float(judge(index, jnp.asarray(case.start))[0]))
        words = (
            f"{row['steps']}{'' if row['solved'] else '?'}{'!' if row['false'] else ''}"
            for row in rows.values()
        )
        print(f"  {case.name:22}", *(f"{word:>7}" for word in words), flush=True)
    jax.clear_caches()
    return table


def summary(table):
    """Counts for each entry, printed and returned."""
    entries = next(iter(table.values())).keys()
    by_all = [rows for rows in table.values() if all(row["solved"] for row in rows.values())]
    report = {}
    print(f"\n  {len(table)} problems, {len(by_all)} solved by all")
    print(f"  {'':24}{'solved':>8}{'lowest':>8}{'false':>8}{'median':>8}{'steps':>8}")
    for entry in entries:
        counts = {
            what: sum(rows[entry][what] for rows in table.values())
            for what in ("solved", "lowest", "false")
        }
        steps = [rows[entry]["steps"] for rows in by_all]
        counts |= {"median": statistics.median(steps or [0]), "steps": sum(steps)}
        report[entry] = counts
        print(f"  {entry:24}" + "".join(f"{count:8.0f}" for count in counts.values()), flush=True)
    for entry in entries:
        unsolved = [name for name, rows in table.items() if not rows[entry]["solved"]]
        print(f"  {entry} does not solve: {'; '.join(unsolved) or 'none'}")
    return report


def main(chosen):
    """Prints the tables and writes the JSON."""
    path = Path(__file__).parent / "results" / "cutest-cpu.json"
    report = json.loads(path.read_text()) if chosen and path.exists() else {}
    packages = ("jax", "jaxlib", "optax", "numpy", "scipy", "sif2jax")
    report |= {
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {"fnn": fnn.__version__} | {name: metadata.version(name) for name in packages},
    }
    for name, (cases, entries) in SECTIONS.items():
        if chosen and name not in chosen:
            continue
        print(f"\n{name}: {', '.join(entries)}  (?: not solved, !: false)")
        began = time.perf_counter()
        table = {}
        for group in grouped(cases(), is_system=cases is systems):
            table |= runs(group, entries)
        report[name] = {"summary": summary(table), "problems": table}
        report[name]["seconds"] = time.perf_counter() - began
        path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # overflow far from a minimum is no news here
    main(sys.argv[1:])
