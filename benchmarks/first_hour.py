"""What a user does in the first hour: lines, seconds and result of each task, by hand and by fnn.

    uv run --group bench benchmarks/first_hour.py [TASK ...]

*By hand* is what a task took with `fit`, rules and `curvature` alone, and is what one wrote before
there were `uncertainty`, `fits` and the bridges; where nothing changed, there is one row. Each task
runs in a process of its own, without a compilation cache, so that its seconds are those of a first
call, imports apart. Lines are those of the function's body: what is before the tasks, data and
sizes, is the same for both ways. Writes `results/first-hour.json`.
"""

import ast
import importlib.metadata
import inspect
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import fnn
from fnn import bridges, curvature, data, layers, losses, rules
from fnn.differential import laplacian

jax.config.update("jax_enable_x64", True)
RESULTS = Path(__file__).parent / "results" / "first-hour.json"
BY_HAND, NOW = "by hand", "now"
TASKS = {}


def task(name, way):
    """Keeps a function under the name of its task."""

    def keep(run):
        TASKS.setdefault(name, {})[way] = run
        return run

    return keep


# What is given ------------------------------------------------------------------------------------

rng = np.random.default_rng(0)
T = np.sort(rng.uniform(0, 8, 60))
TRUTH = jnp.array([2.0, 4.0, 3.0, 0.5])


def swing(p, t):
    """A decaying oscillation of a height, a lifetime, a frequency and a phase."""
    return p[0] * jnp.exp(-t / p[1]) * jnp.cos(p[2] * t + p[3])


Y = np.asarray(swing(TRUTH, T)) + 0.1 * rng.normal(size=60)
CURVE = fnn.Objective(swing, losses.half_squared_error)
NEAR = TRUTH * jnp.array([0.6, 0.5, 0.95, 0.2])
KEY = jax.random.key(0)
COS = np.cos((np.arange(24) + 0.5) * np.pi / 24)
POINTS = np.stack(np.meshgrid(COS, COS), axis=-1).reshape(-1, 2)
DIGITS = data.digits()
INPUTS, LABELS = DIGITS.inputs.astype(np.float32), DIGITS.targets
X = rng.uniform(-2, 2, (40, 1))
WAVE = np.sin(3 * X) + 0.1 * rng.normal(size=X.shape)
SMALL = layers.serial(layers.dense(10), layers.elementwise(jnp.tanh), layers.dense(1))
FIT = fnn.Objective(SMALL.apply, losses.half_squared_error)
DEEP = layers.serial(layers.dense(32), layers.elementwise(jnp.tanh), layers.dense(10))
CLASSES = fnn.Objective(DEEP.apply, losses.softmax_cross_entropy)


def truth(x):
    """A solution of Helmholtz's equation that is 0 on the border of [-1, 1]^2."""
    return jnp.sin(jnp.pi * x[0]) * jnp.sin(2 * jnp.pi * x[1])


def source(x):
    """The equation's right-hand side, Laplace(u) + u."""
    return (1 - 5 * jnp.pi**2) * truth(x)


def relative(u):
    """The relative error of a function on points that were not trained."""
    points = np.random.default_rng(1).uniform(-1, 1, (2000, 2))
    right = jax.vmap(truth)(points)
    return float(jnp.linalg.norm(jax.vmap(u)(points).ravel() - right) / jnp.linalg.norm(right))


class Network(nnx.Module):
    """An nnx network with batch normalization and dropout."""

    def __init__(self, rngs):
        """Two dense layers and what is between them."""
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.norm = nnx.BatchNorm(32, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        """Digits to scores."""
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


# (a) A fit with standard errors -------------------------------------------------------------------


@task("a fit with errors", BY_HAND)
def _():
    fitted = fnn.fit(rules.levenberg_marquardt(), CURVE, NEAR, (T, Y), steps=100).params
    jacobian = jax.vmap(jax.jacobian(swing), (None, 0))(fitted, T)
    residuals = Y - jax.vmap(swing, (None, 0))(fitted, T)
    variance = jnp.sum(residuals**2) / (len(T) - len(fitted))
    covariance = variance * jnp.linalg.inv(jacobian.T @ jacobian)
    errors = jnp.sqrt(jnp.diagonal(covariance))
    correlations = covariance / jnp.outer(errors, errors)
    return f"errors {errors.round(4)}, correlation {correlations[0, 1]:.3f}"


@task("a fit with errors", NOW)
def _():
    fitted = fnn.fit(rules.levenberg_marquardt(), CURVE, NEAR, (T, Y), steps=100).params
    posterior = curvature.uncertainty(CURVE.on((T, Y)), fitted)
    errors, correlations = posterior.standard_errors(), posterior.correlations()
    return f"errors {errors.round(4)}, correlation {correlations[0, 1]:.3f}"


# (b) Helmholtz's equation in equinox, hard boundary conditions, saved and loaded ------------------


@task("Helmholtz in equinox", NOW)
def _():
    module = eqx.nn.MLP(2, "scalar", 16, 2, jnp.tanh, key=KEY)
    params, static = eqx.partition(module, eqx.is_inexact_array)

    def u(params, x):
        return jnp.prod(1 - x**2) * eqx.combine(params, static)(x)

    def residual(params, x):
        return laplacian(u)(params, x) + u(params, x) - source(x)

    rule = rules.levenberg_marquardt(acceleration=0.75)
    solved = fnn.fit(rule, fnn.Objective(residual), params, POINTS, steps=400)
    file = Path(tempfile.mkdtemp()) / "u.eqx"
    eqx.tree_serialise_leaves(file, eqx.combine(solved.params, static))
    loaded = eqx.tree_deserialise_leaves(file, module)
    return f"relative error {relative(lambda x: jnp.prod(1 - x**2) * loaded(x)):.1e}"


# (c) Mini-batch Levenberg-Marquardt in one's own optax loop ---------------------------------------


@task("Levenberg-Marquardt in an optax loop", NOW)
def _():
    rule = rules.bind(rules.levenberg_marquardt(), CLASSES)
    params = DEEP.init(KEY, INPUTS[0])
    state = rule.init(params)

    @jax.jit
    def step(params, state, batch):
        grad = jax.grad(CLASSES.on(batch))(params)
        updates, state = rule.update(grad, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    for start in range(0, 1792, 128):
        batch = INPUTS[start : start + 128], LABELS[start : start + 128]
        params, state = step(params, state, batch)
    return f"loss of all digits {CLASSES.on((INPUTS, LABELS))(params):.3f}"


# (d) An ensemble of 16 ----------------------------------------------------------------------------


@task("16 networks", BY_HAND)
def _():
    params = []
    for key in jax.random.split(KEY, 16):
        start = SMALL.init(key, X[0])
        done = fnn.fit(rules.levenberg_marquardt(), FIT, start, (X, WAVE), steps=60)
        params.append(done.params)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    outputs = jax.vmap(jax.vmap(SMALL.apply, (None, 0)), (0, None))(stacked, X)
    return f"spread of the outputs {float(outputs.std(axis=0).mean()):.4f}"


@task("16 networks", NOW)
def _():
    starts = jax.vmap(SMALL.init, (0, None))(jax.random.split(KEY, 16), X[0])
    done = fnn.fits(rules.levenberg_marquardt(), FIT, starts, (X, WAVE), steps=60)
    outputs = jax.vmap(jax.vmap(SMALL.apply, (None, 0)), (0, None))(done.params, X)
    return f"spread of the outputs {float(outputs.std(axis=0).mean()):.4f}"


# (e) Spectrum and error bars of a network ---------------------------------------------------------


@task("spectrum and error bars", NOW)
def _():
    start, on_data = SMALL.init(KEY, X[0]), FIT.on((X, WAVE))
    decayed = on_data + fnn.l2(1e-3)
    done = fnn.fit(rules.levenberg_marquardt(), decayed, start, steps=100)
    point = curvature.spectrum.classify(decayed, done.params)
    bands = curvature.laplace(on_data, done.params).predict(X)
    return f"{point} Mean error bar {jnp.sqrt(bands.variance).mean():.4f}."


# (f) Batch normalization and dropout of nnx by Adam, then K-FAC -----------------------------------


@task("nnx by Adam, then K-FAC", BY_HAND)
def _():
    network = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.adam(3e-3), wrt=nnx.Param)

    def loss(network, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(network(x), y).mean()

    @nnx.jit
    def step(network, optimizer, x, y):
        optimizer.update(network, nnx.grad(loss)(network, x, y))

    for epoch in range(10):
        order = np.random.default_rng(epoch).permutation(1750).reshape(-1, 50)
        for rows in order:
            step(network, optimizer, INPUTS[rows], LABELS[rows])
    network.eval()
    graph, params, rest = nnx.split(network, nnx.Param, ...)

    def fixed(params, x):
        return nnx.merge(graph, params, rest, copy=True)(x[None])[0]

    objective = fnn.Objective(fixed, losses.softmax_cross_entropy)
    structure = curvature.structure(fixed, params, INPUTS[0])
    kfac = rules.kfac(structure)
    sharp = fnn.fit(kfac, objective, params, (INPUTS, LABELS), steps=8)
    nnx.update(network, sharp.params)
    return f"loss {sharp.history.value[0]:.4f} -> {sharp.history.value[-1]:.1e}"


@task("nnx by Adam, then K-FAC", NOW)
def _():
    model, back = bridges.from_nnx(Network(nnx.Rngs(0)))
    params = model.init(KEY, INPUTS[0])
    objective = fnn.Objective(model.apply, losses.softmax_cross_entropy)
    plan = {"epochs": 10, "batch_size": 50, "key": KEY}
    adam = fnn.fit(rules.adam(3e-3), objective, params, (INPUTS[:1750], LABELS[:1750]), **plan)
    params = layers.calibrate(model, adam.params, INPUTS)

    def fixed(params, x):
        return model.apply(params, x)

    objective = fnn.Objective(fixed, losses.softmax_cross_entropy)
    kfac = rules.kfac(curvature.structure(fixed, params, INPUTS[0]))
    sharp = fnn.fit(kfac, objective, params, (INPUTS, LABELS), steps=8)
    back(sharp.params).eval()
    return f"loss {sharp.history.value[0]:.4f} -> {sharp.history.value[-1]:.1e}"


# The table ----------------------------------------------------------------------------------------


def lines_of(run):
    """Lines of code in a function's body, without empty ones."""
    (function,) = ast.parse(inspect.getsource(run)).body
    body = inspect.getsource(run).splitlines()[function.body[0].lineno - 1 : -1]
    return sum(1 for line in body if line.strip())


def alone(name, way):
    """Seconds and result of a task in a new process."""
    command = [sys.executable, __file__, "--alone", name, way]
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, {way}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main(*names):
    """Prints the table, and writes it."""
    rows = []
    print(f"{'task':38} {'way':8} {'lines':>5} {'seconds':>8}  result")
    for name in names or TASKS:
        for way, run in TASKS[name].items():
            found = alone(name, way)
            rows.append({"task": name, "way": way, "lines": lines_of(run), **found})
            print(f"{name:38} {way:8} {lines_of(run):5} {found['seconds']:8.1f}  {found['result']}")
    packages = "fnn", "jax", "jaxlib", "optax", "equinox", "flax"
    versions = {name: importlib.metadata.version(name) for name in packages}
    about = {"python": platform.python_version(), "cores": os.cpu_count(), **versions}
    RESULTS.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        began = time.perf_counter()
        result = TASKS[sys.argv[2]][sys.argv[3]]()
        print(json.dumps({"seconds": time.perf_counter() - began, "result": result}))
    else:
        main(*sys.argv[1:])
