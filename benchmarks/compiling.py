"""Seconds from the first call to a compiled step, by rule and by network; and of a first fit.

    uv run --group bench benchmarks/compiling.py [RULE ...]

The first fit is that of three parameters to a curve by Levenberg-Marquardt, each time in a process
of its own, imports apart: with JAX's persistent cache off, again with what it kept (of
programs of any size), and by optimistix with it off; the least of three.

One step of a rule on a batch of 64, float32: the processor's seconds of tracing and of compiling as
`fnn.devices.jit` does, the clock's for both, the equations of the step (those of loops and calls
counted once) and the arrays of the rule's state. JAX's cache of compiled programs is off. Writes
`results/compiling-cpu.json`.
"""

import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from kronecker import convolutions, perceptron, transformer

import fnn
from fnn import curvature, devices, flops, layers, losses, rules

RESULTS = Path(__file__).parent / "results" / "compiling-cpu.json"
BATCH, TANH = 64, layers.elementwise(jnp.tanh)


def curve(params, x):
    """A curve of three parameters."""
    return params["height"] * jnp.exp(-params["rate"] * x) + params["floor"]


def fifty(stacked):
    """Fifty equal layers, one after another or in a scan."""
    layer = layers.serial(layers.dense(16), TANH)
    hidden = [layers.stack(layer, 50)] if stacked else [layer] * 50
    return layers.serial(*hidden, layers.dense(10))


def networks():
    """The model, the parameters, an example, its target and the loss of every network."""
    names = ("height", "rate", "floor")
    yield "curve", curve, dict.fromkeys(names, jnp.ones(())), jnp.ones(()), jnp.ones(()), None
    text = jnp.zeros(32, int)
    for name, model, x, target in (
        ("perceptron", perceptron(), jnp.zeros((8, 8)), jnp.array(0)),
        ("convolutions", convolutions(), jnp.zeros((8, 8)), jnp.array(0)),
        ("transformer", transformer(), text, text),
        ("50 layers", fifty(stacked=False), jnp.zeros(16), jnp.array(0)),
        ("50 layers, stacked", fifty(stacked=True), jnp.zeros(16), jnp.array(0)),
    ):
        judge = losses.softmax_cross_entropy
        judge = losses.each(judge) if target.ndim else judge
        yield name, model.apply, model.init(jax.random.key(0), x), x, target, judge


DATA = """
import time
import jax, jax.numpy as jnp, numpy as np
x = np.linspace(0, 3, 40, dtype="float32")
y = (2 * np.exp(-1.3 * x) + 0.5).astype("float32")
start = {"a": jnp.ones(()), "b": jnp.ones(()), "c": jnp.zeros(())}
def residual(params, point):
    x, y = point
    return params["a"] * jnp.exp(-params["b"] * x) + params["c"] - y
"""
OURS = """
import fnn
from fnn import rules
began = time.perf_counter()
objective = fnn.Objective(residual)
found = fnn.fit(rules.levenberg_marquardt(), objective, start, (x, y), steps=100).params
"""
THEIRS = """
import optimistix
began = time.perf_counter()
solver = optimistix.LevenbergMarquardt(rtol=1e-6, atol=1e-6)
found = optimistix.least_squares(residual, solver, start, args=(x, y)).value
"""
LAST = """
jax.block_until_ready(found)
print(time.perf_counter() - began, round(float(found["b"]), 4))
"""

RULES = {
    "adam": lambda _: rules.adam(1e-3),
    "kfac": rules.kfac,
    "kfac, fixed": lambda structure: rules.kfac(
        structure, 0.03, 1e-2, momentum=0.9, policy=rules.damping.constant(), samples=1
    ),
    "soap": lambda _: rules.soap(1e-3),
    "levenberg_marquardt": lambda _: rules.levenberg_marquardt(),
}


def measured(make, model, params, x, target, judge):
    """A row of the table."""
    batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (BATCH, *leaf.shape)), (x, target))
    objective = fnn.Objective(model, judge or losses.half_squared_error)
    rule = make(curvature.structure(model, params, x))

    def step(params, state, value_fn):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    state, marks, began = rule.init(params), [time.process_time()], time.perf_counter()
    traced = devices.traced(step, params, state, objective.on(batch))
    marks.append(time.process_time())
    devices.compiled(traced)
    marks.append(time.process_time())
    trace, compiling = (b - a for a, b in itertools.pairwise(marks))
    return {
        "trace": trace,
        "compile": compiling,
        "seconds": time.perf_counter() - began,
        "equations": flops.dearest(traced.jaxpr).equations,
        "arrays": len(jax.tree.leaves(state)),
    }


def first_fits(rounds=3):
    """Seconds of a first fit, by way."""

    def seconds(script, cache=None):
        keeps = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # else what takes a second
        at = {"JAX_COMPILATION_CACHE_DIR": cache} | keeps if cache else {}
        at |= {"JAX_ENABLE_COMPILATION_CACHE": "true" if cache else "false"}
        command = [sys.executable, "-c", DATA + script + LAST]
        run = subprocess.run(command, env=os.environ | at, capture_output=True, check=True)
        taken, rate = run.stdout.split()
        assert rate == b"1.3", run.stdout
        return float(taken)

    with tempfile.TemporaryDirectory() as cache:
        seconds(OURS, cache)
        ways = {"fit": (OURS,), "fit, kept": (OURS, cache), "optimistix": (THEIRS,)}
        found = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(seconds(*way))
    return {name: min(times) for name, times in found.items()}


def main(chosen):
    """Prints the table and writes the JSON."""
    jax.config.update("jax_enable_compilation_cache", False)
    packages = ("jax", "jaxlib", "optax", "numpy")
    report = {
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages} | {"fnn": fnn.__version__},
    }
    print(f"{'':42}{'trace':>8}{'compile':>9}{'seconds':>9}{'equations':>11}{'arrays':>8}")
    for network, *parts in networks():
        for name in chosen or RULES:
            row = report.setdefault(network, {})[name] = measured(RULES[name], *parts)
            print(
                f"{network:20}{name:22}{row['trace']:8.2f}{row['compile']:9.2f}"
                f"{row['seconds']:9.2f}{row['equations']:11}{row['arrays']:8}",
                flush=True,
            )
    if not chosen:
        report["first fit"] = first_fits()
        print("first fit, seconds: " + str(report["first fit"]))
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
