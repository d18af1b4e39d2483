"""One thread or all of them: where the border lies, idle and beside busy processes.

    uv run benchmarks/threads.py [--seconds S] [--fits | --operations]

Four operations at 50 to 4000 rows, and whole steps of several rules, each compiled for one thread
of XLA and for all, with LAPACK on one thread and on all of its own; idle, and beside four processes
that compute. Contestants take turns in one process, each running twice after a pause, of which the
second counts; a number is the median in milliseconds, the worst in brackets where it is more than
twice the median. `flops` are those of the dearest elementwise equation and of the dearest
factorization, by which `fnn.devices` decides.

Then two trainings by `fit` as it is, and as it would be without `fnn.devices`: 50 steps of
Levenberg-Marquardt on a curve, and 380 of K-FAC on convolutions; `--fits` measures these alone.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import scipy.linalg
import threadpoolctl

import fnn
from fnn import curvature, data, devices, flops, layers, losses, rules

ROWS = 50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000, 4000
PEERS, LONGEST, PAUSE = 4, 60.0, 0.1  # busy processes; seconds for a cell of the trainings
KINDS = {  # threads of XLA and of LAPACK; None is all of them
    "one, one": (1, 1),
    "one, all": (1, None),
    "all, one": (None, 1),
    "all, all": (None, None),
}


def operations() -> dict[str, tuple[Callable, tuple]]:
    """Loops and products in float32, factorizations in float64: functions and arguments."""
    jax.config.update("jax_enable_x64", True)
    tables = {}
    for rows in ROWS:
        matrix = jax.random.normal(jax.random.key(rows), (rows, rows), jnp.float32)
        vector = jnp.linspace(0, 1, rows**2, dtype=jnp.float32)
        tables[f"tanh, {rows} x {rows}, float32"] = (jnp.tanh, (vector,))
        positive = (matrix @ matrix.T + rows * jnp.eye(rows)).astype(float)
        tables[f"product, {rows} rows, float32"] = (lambda a: a @ a, (matrix,))
        tables[f"cholesky, {rows} rows, float64"] = (jnp.linalg.cholesky, (positive,))
        if rows <= 2000:
            tables[f"eigh, {rows} rows, float64"] = (jnp.linalg.eigh, (positive,))
    return tables


def perceptron(*widths: int) -> layers.Layer:
    """A tanh network."""
    hidden = [(layers.dense(w), layers.elementwise(jnp.tanh)) for w in widths[:-1]]
    return layers.serial(*itertools.chain(*hidden), layers.dense(widths[-1]))


def convolutions() -> layers.Layer:
    """A small convolution network for 8 x 8 digits."""
    return layers.serial(
        layers.conv(16, (3, 3)), layers.elementwise(jax.nn.relu), layers.max_pool((2, 2)),
        layers.conv(32, (3, 3)), layers.elementwise(jax.nn.relu), layers.flatten(),
        layers.dense(64), layers.elementwise(jax.nn.relu), layers.dense(10),
    )  # fmt: skip


def in_float32(params):
    """The same parameters in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)


def steps() -> dict[str, tuple[Callable, tuple]]:
    """Whole steps of rules: value, gradient and update."""
    digits, labels = data.digits()
    images = jnp.asarray(digits).reshape(-1, 8, 8, 1)
    convolution = convolutions()

    def case(model, loss, batch, make, dtype=jnp.float32):
        batch = jax.tree.map(
            lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a,
            jax.tree.map(jnp.asarray, batch),
        )
        params = jax.tree.map(lambda a: a.astype(dtype), model.init(jax.random.key(0), batch[0][0]))
        rule = make(model, params, batch[0][0])
        value_fn = fnn.Objective(model.apply, loss).on(batch)

        def step(params, state, value_fn):
            value, grad = jax.value_and_grad(value_fn)(params)
            extra = {"value": value, "grad": grad, "value_fn": value_fn}
            updates, state = rule.update(grad, state, params, **extra)
            return optax.apply_updates(params, updates), state

        state = jax.jit(step)(params, rule.init(params), value_fn)[1]
        return step, (params, state, value_fn)

    def curve(inputs, examples):
        x = jax.random.uniform(jax.random.key(1), (examples, inputs), minval=-1)
        return x, jnp.sin(3 * x.sum(1, keepdims=True))

    def kfac(model, params, x):
        return rules.kfac(curvature.structure(model.apply, params, x))

    def plain(rule):
        return lambda *_: rule

    square, entropy = losses.half_squared_error, losses.softmax_cross_entropy
    lm = plain(rules.levenberg_marquardt())
    few, many = (digits[:64], labels[:64]), (digits[:256], labels[:256])
    seen = images[:64], labels[:64]
    return {
        "adam, 64-32-10, 32 examples": case(
            perceptron(32, 10), entropy, (digits[:32], labels[:32]), plain(rules.adam(1e-3))
        ),
        "adam, convolutions, 64": case(convolution, entropy, seen, plain(rules.adam(1e-3))),
        "adam, 8-1024-1024-1, 1024": case(
            perceptron(1024, 1024, 1), square, curve(8, 1024), plain(rules.adam(1e-3))
        ),
        "kfac, 64-64-32-10, 256": case(perceptron(64, 32, 10), entropy, many, kfac),
        "kfac, convolutions, 64": case(convolution, entropy, seen, kfac),
        "newton, 1-10-10-1, 200": case(
            perceptron(10, 10, 1), square, curve(1, 200), plain(rules.newton(damping=1.0))
        ),
        "bfgs, 1-10-10-1, 200": case(
            perceptron(10, 10, 1), square, curve(1, 200), plain(rules.bfgs())
        ),
        "spring, 64-32-10, 64": case(perceptron(32, 10), entropy, few, plain(rules.spring(0.1))),
        "lm, 1-10-10-1, 200": case(perceptron(10, 10, 1), square, curve(1, 200), lm),
        "lm, 8-256-256-1, 128": case(perceptron(256, 256, 1), square, curve(8, 128), lm),
        "lm, 2-50-50-1, 1000, float64": case(
            perceptron(50, 50, 1), square, curve(2, 1000), lm, jnp.float64
        ),
        "lm, 8-512-512-1, 512": case(perceptron(512, 512, 1), square, curve(8, 512), lm),
        "lm, 8-1024-1024-1, 1024": case(perceptron(1024, 1024, 1), square, curve(8, 1024), lm),
    }


def fits() -> dict[str, tuple[Callable[[], fnn.training.Fit], int, tuple[int, ...]]]:
    """Trainings: a function, how often it is run, and beside how many busy processes."""
    x = jnp.linspace(-1, 1, 200, dtype=jnp.float32)[:, None]
    curve = perceptron(10, 10, 1)
    objective = fnn.Objective(curve.apply, losses.half_squared_error)
    start = in_float32(curve.init(jax.random.key(0), x[0]))
    digits, labels = data.digits()
    images = jnp.asarray(digits, jnp.float32).reshape(-1, 8, 8, 1)
    network = convolutions()
    weights = in_float32(network.init(jax.random.key(0), images[0]))
    entropy = fnn.Objective(network.apply, losses.softmax_cross_entropy)
    kfac = rules.kfac(curvature.structure(network.apply, weights, images[0]))

    def levenberg_marquardt():
        return fnn.fit(rules.levenberg_marquardt(), objective, start, (x, jnp.sin(5 * x)), steps=50)

    def kronecker():
        return fnn.fit(
            kfac,
            entropy,
            weights,
            (images, labels),
            steps=380,
            batch_size=64,
            key=jax.random.key(1),
        )

    return {
        "lm, 50 steps": (levenberg_marquardt, 20, (0, 1, 2, PEERS)),
        "kfac, 380 steps": (kronecker, 3, (0, 1)),
    }


def lapack():
    """The controller of the library that JAX calls."""
    assert scipy.linalg
    found = threadpoolctl.ThreadpoolController().lib_controllers
    return next(one for one in found if "scipy.libs" in one.filepath)


@contextlib.contextmanager
def busy_processes(number: int):
    """So many processes that compute without end."""
    peers = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()


def compiled(fn: Callable, args: tuple) -> dict[int | None, Callable]:
    """The program for one thread of XLA, and for all."""
    one = {"xla_cpu_multi_thread_eigen": False}
    return {
        threads: jax.jit(fn, compiler_options=options).lower(*args).compile()
        for threads, options in ((1, one), (None, {}))
    }


def measured(programs: dict, args: tuple, library, seconds: float) -> dict[str, list[float]]:
    """Seconds of runs, the kinds in turn, as many as fit in the time; at least one of each."""
    everyone, taken = library.num_threads, {kind: [] for kind in KINDS}
    begin = time.perf_counter()
    for _ in range(16):
        for kind, (xla, of_lapack) in KINDS.items():
            library.set_num_threads(of_lapack or everyone)
            time.sleep(PAUSE)  # LAPACK's threads spin on after a run
            jax.block_until_ready(programs[xla](*args))
            started = time.perf_counter()
            jax.block_until_ready(programs[xla](*args))
            taken[kind].append(time.perf_counter() - started)
        if time.perf_counter() - begin > seconds:
            break
    library.set_num_threads(everyone)
    return taken


def compared(cases: dict, seconds: float) -> dict:
    """Prints the table of operations and steps, idle and beside busy processes."""
    library, rows = lapack(), {}
    programs = {name: compiled(*case) for name, case in cases.items()}
    for beside in (0, PEERS):
        print(f"\nms, XLA's threads, LAPACK's; {f'{beside} busy processes' if beside else 'idle'}")
        print(f"{'':32}{'flops':>18}" + "".join(f"{kind:>18}" for kind in KINDS))
        with busy_processes(beside):
            for name, (fn, args) in cases.items():
                dearest = flops.dearest(jax.jit(fn).trace(*args).jaxpr)
                times = measured(programs[name], args, library, seconds)
                line = f"{name:32}{dearest.elementwise:9.1e}{dearest.factorization:9.1e}"
                print(line + "".join(f"{told(runs):>18}" for runs in times.values()), flush=True)
                row = rows.setdefault(name, {"flops": dearest._asdict()})
                row[f"beside {beside}"] = {kind: summary(runs) for kind, runs in times.items()}
    return rows


def trained() -> dict:
    """Prints what trainings take as they are, and on all threads, idle and beside others."""
    rows = {}
    print(f"\nms a training{'':19}" + "".join(f"{f'beside {n}':>18}" for n in (0, 1, 2, PEERS)))
    for name, (run, times, loads) in fits().items():
        for kind, borders in (("fnn", devices.Borders()), ("all threads", (0, 0))):
            devices.one_thread_below(*borders)
            run()
            row = rows[f"{name}, {kind}"] = {}
            for beside in loads:
                taken = []
                with busy_processes(beside):
                    for _ in range(times):
                        started = time.perf_counter()
                        jax.block_until_ready(run().params)
                        taken.append(time.perf_counter() - started)
                        if sum(taken) > LONGEST:
                            break
                row[f"beside {beside}"] = summary(taken)
                row[f"beside {beside}"]["told"] = told(taken)
            shown = "".join(f"{one.pop('told'):>18}" for one in row.values())
            print(f"{f'{name}, {kind}':32}" + shown, flush=True)
    devices.one_thread_below(*devices.Borders())
    return rows


def told(runs: list[float]) -> str:
    """The median in milliseconds, and the worst where it is far from it."""
    middle, worst = statistics.median(runs), max(runs)
    return f"{1e3 * middle:.3g}" + (f" ({1e3 * worst:.3g})" if worst > 2 * middle else "")


def summary(runs: list[float]) -> dict[str, float]:
    """Seconds of runs."""
    return {"median": statistics.median(runs), "worst": max(runs), "runs": len(runs)}


def main() -> None:
    """Prints the tables and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.5, help="for each line")
    parser.add_argument("--fits", action="store_true", help="the trainings alone")
    parser.add_argument("--operations", action="store_true", help="all but the trainings")
    asked = parser.parse_args()
    path = Path(__file__).parent / "results" / "threads-cpu.json"
    report = json.loads(path.read_text()) if path.exists() else {}
    report |= {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "versions": {name: metadata.version(name) for name in ("jax", "jaxlib", "scipy", "fnn")},
        "borders": devices.Borders()._asdict(),
    }
    if not asked.operations:
        report["fits"] = trained()
    if not asked.fits:
        report["rows"] = compared(operations() | steps(), asked.seconds)
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
