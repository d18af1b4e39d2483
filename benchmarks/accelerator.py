"""What a GPU does with all of it: products, factorizations, and steps of every kind of rule.

    uv run --group bench benchmarks/accelerator.py [--reduced]

In one table, and in `results/accelerator-DEVICE.json` with versions and device:

    rates       products of matrices in float32 (as JAX has them, with TF32, in full), bfloat16 and
                float64, a copy through memory, Cholesky and eigendecompositions: the roofline
    networks    a step of Adam, Muon, SOAP, Shampoo, K-FAC and kfac-jax on the perceptron, the
                convolutions and the transformer of `kronecker.py`
    widths      one exact Levenberg-Marquardt step on 1024 examples beside Adam's, 8-WIDTH-WIDTH-1,
                as JAX has products and with TF32
    float64     a Levenberg-Marquardt step of 2-50-50-1 on 1000 points

A step is the median of rounds that alternate, after a first call that is timed apart. What a device
or an installation cannot run is said, and the rest goes on. `--reduced` is the same at sizes that a
CPU has done in seconds; it writes nothing.
"""

import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import kronecker
import numpy as np
import optax

import fnn
from fnn import devices, layers, losses, rules

RESULTS = Path(__file__).parent / "results"


class Sizes(NamedTuple):
    """How large everything is, and how often it is measured."""

    matrix: int = 4096
    factored: tuple[int, ...] = (256, 1024, 2048)
    copied: int = 2**28
    networks: tuple[str, ...] = ("perceptron", "convolutions", "transformer")
    widths: tuple[int, ...] = (256, 1024, 2048, 4096)
    examples: int = 1024
    rounds: int = 7
    steps: int = 20


REDUCED = Sizes(64, (32,), 2**16, ("perceptron",), (32,), 64, 2, 2)


# Measuring ----------------------------------------------------------------------------------------


def said(error: Exception) -> dict[str, str]:
    """What stands in place of a row that could not be."""
    return {"cannot": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}


def alternating(makers: dict[str, Callable], sizes: Sizes) -> dict[str, dict[str, Any]]:
    """By name, milliseconds of a step and of the first call of what each maker makes."""
    programs, rows = {}, {}
    for name, make in makers.items():
        try:
            began = time.perf_counter()
            once = make()
            jax.block_until_ready(once())
            rows[name] = {"first_seconds": time.perf_counter() - began}
            jax.block_until_ready(once())
            programs[name] = once
        except Exception as error:  # what cannot run is a result
            rows[name] = said(error)
    seconds = {name: [] for name in programs}
    for _ in range(sizes.rounds):
        for name, once in programs.items():
            began = time.perf_counter()
            for _ in range(sizes.steps):
                out = once()
            jax.block_until_ready(out)
            seconds[name].append((time.perf_counter() - began) / sizes.steps)
    for name, times in seconds.items():
        rows[name]["milliseconds"] = 1e3 * statistics.median(times)
    return rows


# The roofline -------------------------------------------------------------------------------------


def rates(sizes: Sizes) -> dict[str, Any]:
    """Products, copies and factorizations by themselves, with their operations in a second."""
    n, rng = sizes.matrix, np.random.default_rng(0)
    square = rng.standard_normal((n, n))

    def product(dtype: str, precision: str | None) -> Callable:
        a = jnp.asarray(square, dtype)
        run = jax.jit(lambda x: jnp.matmul(x, x, precision=precision))
        return lambda: run(a)

    def copied() -> Callable:
        x, run = jnp.zeros(sizes.copied // 4, jnp.float32), jax.jit(lambda x: x + 1)
        return lambda: run(x)

    def factored(which: Callable, m: int, dtype: str) -> Callable:
        part = rng.standard_normal((m, m))
        positive = jnp.asarray(part @ part.T / m + np.eye(m), dtype)
        run = jax.jit(which)
        return lambda: run(positive)

    products = {"float32": None, "float32, TF32": "tensorfloat32", "float32, full": "highest"}
    makers = {
        f"product, {k}": functools.partial(product, "float32", p) for k, p in products.items()
    }
    makers["product, bfloat16"] = functools.partial(product, "bfloat16", None)
    work = dict.fromkeys(makers, 2 * n**3) | {"copy, float32": 2 * sizes.copied}
    makers["copy, float32"] = copied
    doubles = {"product, float64": functools.partial(product, "float64", None)}
    work["product, float64"] = 2 * n**3
    for m in sizes.factored:
        for name, which in (("Cholesky", jnp.linalg.cholesky), ("eigh", jnp.linalg.eigh)):
            for dtype, those in (("float32", makers), ("float64", doubles)):
                those[f"{name} {m}, {dtype}"] = functools.partial(factored, which, m, dtype)
    rows = alternating(makers, sizes)
    with jax.enable_x64(True):
        rows |= alternating(doubles, sizes)
    for name, amount in work.items():
        if "milliseconds" in rows[name]:
            unit = "gigabytes_a_second" if name.startswith("copy") else "gigaflops"
            rows[name][unit] = amount / rows[name]["milliseconds"] / 1e6
    return rows


# Steps --------------------------------------------------------------------------------------------


def networks(sizes: Sizes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rules of mini-batches on each network of `kronecker.py`."""
    others = {"soap": rules.soap, "shampoo": rules.shampoo, "muon": optax.contrib.muon}
    for name, task in kronecker.tasks().items():
        if name in sizes.networks:
            makers = kronecker.makers(task) | {
                rule: functools.partial(kronecker.ours, task, make(1e-3))
                for rule, make in others.items()
            }
            yield name, alternating(makers, sizes)


def dense(*widths: int) -> layers.Layer:
    """A tanh network with one output."""
    tanh = layers.elementwise(jnp.tanh)
    hidden = [part for width in widths for part in (layers.dense(width), tanh)]
    return layers.serial(*hidden, layers.dense(1))


def step_of(model: layers.Layer, data: Any, rule: Any, precision: str | None = None) -> Callable:
    """A step of a rule on one batch, to be called again and again."""
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    value_fn, start = objective.on(data), model.init(jax.random.key(0), data[0][0])
    state = rule.init(start)

    @devices.jit
    def step(params, state, value_fn):
        with jax.default_matmul_precision(precision):
            value, grad = jax.value_and_grad(value_fn)(params)
            extra = {"value": value, "grad": grad, "value_fn": value_fn}
            updates, state = rule.update(grad, state, params, **extra)
            return optax.apply_updates(params, updates), state

    return lambda: step(start, state, value_fn)


def regression(examples: int, inputs: int, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Points of a cube, and the sine of their sums."""
    x = np.random.default_rng(0).uniform(-1, 1, (examples, inputs))
    return jnp.asarray(x, dtype), jnp.asarray(np.sin(3 * x.sum(1, keepdims=True)), dtype)


def widths(sizes: Sizes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Levenberg-Marquardt beside Adam by width."""
    for width in sizes.widths:
        data, model = regression(sizes.examples, 8, "float32"), dense(width, width)
        makers = {
            f"{name}{said}": functools.partial(step_of, model, data, rule, precision)
            for name, rule in (("adam", rules.adam(1e-3)), ("lm", rules.levenberg_marquardt(0.1)))
            for said, precision in (("", None), (", TF32", "tensorfloat32"))
        }
        rows = alternating(makers, sizes)
        if all("milliseconds" in rows[name] for name in ("adam", "lm")):
            rows["lm"]["adam_steps"] = rows["lm"]["milliseconds"] / rows["adam"]["milliseconds"]
        yield f"width {width}", rows


def doubled(sizes: Sizes) -> dict[str, Any]:
    """The small network in float64."""
    with jax.enable_x64(True):
        data, model = regression(1000, 2, "float64"), dense(50, 50)
        makers = {"adam": rules.adam(1e-3), "lm": rules.levenberg_marquardt(0.1)}
        made = {
            name: functools.partial(step_of, model, data, rule) for name, rule in makers.items()
        }
        return alternating(made, sizes)


# The table ----------------------------------------------------------------------------------------


def show(part: str, rows: dict[str, Any]) -> None:
    """Prints the rows of a part."""
    print(f"\n{part}")
    for name, row in rows.items():
        if "cannot" in row:
            print(f"  {name:26} cannot run: {row['cannot']}", flush=True)
            continue
        more = [f"{v:.4g} {k.replace('_', ' ')}" for k, v in row.items() if k != "milliseconds"]
        print(f"  {name:26}{row['milliseconds']:11.3f} ms   {', '.join(more)}", flush=True)


def version(package: str) -> str:
    """The version of a package, or that there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def main(*, reduced: bool = False) -> dict[str, Any]:
    """Measures and prints all parts, and writes them unless they are reduced."""
    sizes, device = REDUCED if reduced else Sizes(), jax.devices()[0]
    if device.platform == "cpu":
        print("There is no GPU or TPU here: these are the numbers of a CPU.")
    packages = "jax", "jaxlib", "optax", "numpy", "kfac-jax"
    report = {
        "device": device.device_kind,
        "platform": device.platform,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": {p: version(p) for p in packages} | {"fnn": fnn.__version__},
    }
    parts = {
        "rates": lambda: rates(sizes),
        "float64, 2-50-50-1": lambda: doubled(sizes),
    }
    for part, make in parts.items():
        report[part] = make()
        show(part, report[part])
    for part, rows in (*widths(sizes), *networks(sizes)):
        report[part] = rows
        show(part, rows)
    if not reduced:
        path = RESULTS / f"accelerator-{device.device_kind.lower().replace(' ', '-')}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main(reduced="--reduced" in sys.argv[1:])
