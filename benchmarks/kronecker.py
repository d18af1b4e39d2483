"""What a step of K-FAC costs, beside kfac-jax's and Adam's: perceptron, convolutions, transformer.

    uv run --group bench benchmarks/kronecker.py [--busy] [perceptron] [convolutions] [transformer]

Three networks, cross-entropy, float32, batches of 64, one compiled step in a Python loop:

    perceptron      64-64-32-10, tanh, on scikit-learn's digits
    convolutions    conv16-pool-conv32-dense64-dense10, rectifiers, on the same digits
    transformer     two layers of width 64 with 4 heads, sequences of 32 characters of 30

A learning rate, a momentum and a constant damping, so that both programs do the same: factors from
all rows of each example ("exact") or from a random one ("one row"), their running means, inverses
in every tenth step. Our inverses of different weights take turns; kfac-jax makes all in one step.
The transformer has one row alone: of all, an example has 960, and each costs a backward pass. What
`examples=16` saves stands beside it, which is not the same work: its factors see a quarter of the
batch.

Our loops stand within `devices.lapack_restored()`, so that no step is waited for by itself.

Programs alternate, and each goes on training. A step is the median of `ROUNDS` rounds of `STEPS`
steps; the worst is the median over the rounds of the longest step, each of them waited for. The
first call, with its compilation, is apart. With `--busy` as many other processes compute as there
are cores. Writes `results/kronecker-cpu.json`.
"""

import contextlib
import functools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from threads import busy_processes

import fnn
from fnn import curvature, data, devices, layers, losses, rules
from fnn.programs.equations import evaluation

RESULTS = Path(__file__).parent / "results" / "kronecker-cpu.json"
ROUNDS, STEPS, BATCH, REFRESH = 31, 20, 64, 10
CHARACTERS, PLACES, WIDTH = 30, 32, 64
RATE, MOMENTUM, DAMPING = 0.03, 0.9, 1e-2
WAYS = {"exact": (None, "fisher_exact"), "one row": (1, "fisher_gradients")}


class Task(NamedTuple):
    """A network, and one batch of its data."""

    model: layers.Layer
    batch: tuple[Any, Any]

    @property
    def start(self):
        """The first parameters."""
        return self.model.init(jax.random.key(0), self.batch[0][0])


def perceptron():
    """64-64-32-10."""
    tanh = layers.elementwise(jnp.tanh)
    return layers.serial(
        layers.flatten(), layers.dense(64), tanh, layers.dense(32), tanh, layers.dense(10)
    )


def convolutions():
    """conv16-pool-conv32-dense64-dense10."""
    relu = layers.elementwise(jax.nn.relu)
    return layers.serial(
        layers.elementwise(lambda x: x.reshape(8, 8, 1)),
        *(layers.conv(16, (3, 3)), relu, layers.max_pool((2, 2))),
        *(layers.conv(32, (3, 3)), relu, layers.flatten()),
        *(layers.dense(64), relu, layers.dense(10)),
    )


def transformer(depth=2):
    """Characters and their places as vectors, blocks of attention, and the next characters."""
    attention = layers.multi_head_attention(4, mask=layers.causal)
    hidden = layers.each(layers.dense(4 * WIDTH)), layers.elementwise(jax.nn.gelu)
    forward = layers.serial(layers.layer_norm(), *hidden, layers.each(layers.dense(WIDTH)))
    blocks = [
        layers.residual(layers.serial(layers.layer_norm(), attention)),
        layers.residual(forward),
    ] * depth
    first = layers.embedding(CHARACTERS, WIDTH), layers.learned_positions(PLACES)
    last = layers.layer_norm(), layers.each(layers.dense(CHARACTERS))
    return layers.serial(*first, *blocks, *last)


def tasks():
    """The networks and their batches."""
    inputs, targets = data.digits()
    digits = jnp.asarray(inputs[:BATCH], jnp.float32), jnp.asarray(targets[:BATCH])
    text = np.random.default_rng(0).integers(0, CHARACTERS, (BATCH, PLACES + 1))
    return {
        "perceptron": Task(perceptron(), digits),
        "convolutions": Task(convolutions(), digits),
        "transformer": Task(transformer(), (jnp.asarray(text[:, :-1]), jnp.asarray(text[:, 1:]))),
    }


def is_text(task):
    """Whether there is an answer at every place, and not one for an example."""
    return task.batch[1].ndim == 2


def loss_of(task):
    """Cross-entropy, of several places their mean."""
    loss = losses.softmax_cross_entropy
    return losses.each(loss) if is_text(task) else loss


def ours(task: Task, rule: Callable) -> Callable[[], Any]:
    """A step of one of our rules, or of optax's, to be called again and again."""

    @functools.partial(devices.jit, donate_argnums=(0, 1))
    def step(params, state, value_fn):
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    value_fn = fnn.Objective(task.model.apply, loss_of(task)).on(task.batch)
    carry = jax.tree.map(jnp.copy, [task.start, rule.init(task.start)])  # to be donated

    def once():
        carry[:] = step(*carry, value_fn)
        return carry

    return once


def kfac(task: Task, samples: int | None, examples: int | None = None) -> Callable[[], Any]:
    """A step of ours, whose factors are of all examples or of some."""
    x = task.batch[0][0]
    structure = curvature.structure(task.model.apply, task.start, x)
    fixed = {"policy": rules.damping.constant(), "samples": samples, "refresh": REFRESH}
    fixed["examples"] = examples
    return ours(task, rules.kfac(structure, RATE, DAMPING, momentum=MOMENTUM, **fixed))


def kfac_jax(task: Task, mode: str) -> Callable[[], Any]:
    """A step of kfac-jax."""
    import kfac_jax
    from kfac_jax._src import tag_graph_matcher

    # kfac-jax 0.0.8 asks a primitive for two things where jax 0.10 gives three.
    tag_graph_matcher.eval_jaxpr_eqn = lambda eqn, operands: evaluation(eqn)(*operands)

    def value(params, batch):
        inputs, labels = batch
        logits = jax.vmap(functools.partial(task.model.apply, params))(inputs)
        flat = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        kfac_jax.register_softmax_cross_entropy_loss(*flat)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(*flat))

    optimizer = kfac_jax.Optimizer(
        jax.value_and_grad(value),
        l2_reg=0.0,
        learning_rate_schedule=lambda _: RATE,
        momentum_schedule=lambda _: MOMENTUM,
        damping_schedule=lambda _: DAMPING,
        estimation_mode=mode,
        inverse_update_period=REFRESH,
        num_burnin_steps=0,
    )
    key, count = jax.random.key(0), iter(range(10**9))
    carry = [jax.tree.map(jnp.copy, task.start), None]
    carry[1] = optimizer.init(carry[0], key, task.batch)

    def once():
        params, state, _ = optimizer.step(
            *carry, key, batch=task.batch, global_step_int=next(count)
        )
        carry[:] = params, state
        return carry

    return once


def makers(task):
    """What makes the programs of a network, by name."""
    made = {"adam": lambda: ours(task, rules.adam(1e-3))}
    for way, (samples, mode) in WAYS.items():
        if samples is None and is_text(task):
            continue
        made[f"kfac, {way}"] = functools.partial(kfac, task, samples)
        made[f"kfac-jax, {way}"] = functools.partial(kfac_jax, task, mode)
    if is_text(task):
        made["kfac, 16 examples"] = functools.partial(kfac, task, 1, 16)
    return made


def first_call(make):
    """A program after its first steps, and the seconds of the first of them."""
    began = time.perf_counter()
    once = make()
    jax.block_until_ready(once())
    seconds = time.perf_counter() - began
    for _ in range(REFRESH + 1):
        jax.block_until_ready(once())
    return once, seconds


def round_of(once, around):
    """Seconds of a step in a round that runs ahead; the middle and the longest of awaited ones."""
    with around:
        began = time.perf_counter()
        for _ in range(STEPS):
            carry = once()
        jax.block_until_ready(carry)
        mean, waits = (time.perf_counter() - began) / STEPS, []
    for _ in range(STEPS):
        began = time.perf_counter()
        jax.block_until_ready(once())
        waits.append(time.perf_counter() - began)
    return mean, statistics.median(waits), max(waits)


def measured(task):
    """The rows of a network."""
    programs, firsts, left_out = {}, {}, {}
    for name, make in makers(task).items():
        try:
            programs[name], firsts[name] = first_call(make)
        except Exception as error:  # what a peer cannot run is a result
            if not name.startswith("kfac-jax"):
                raise
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    rounds = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, once in programs.items():
            is_peer = name.startswith("kfac-jax")
            around = contextlib.nullcontext() if is_peer else devices.lapack_restored()
            rounds[name].append(round_of(once, around))
    rows = {}
    for name, times in rounds.items():
        mean, middle, worst = map(statistics.median, zip(*times, strict=True))
        units = [t[0] / u[0] for t, u in zip(times, rounds["adam"], strict=True)]
        rows[name] = {
            "milliseconds": 1e3 * mean,
            "adam_steps": statistics.median(units),
            "worst_over_median": worst / middle,
            "first_call_seconds": firsts[name],
        }
    for way in WAYS:
        one, other = f"kfac, {way}", f"kfac-jax, {way}"
        if one in rounds and other in rounds:
            pairs = zip(rounds[one], rounds[other], strict=True)
            rows[one]["times_faster_than_kfac_jax"] = statistics.median(
                u[0] / t[0] for t, u in pairs
            )
    return rows | {name: {"error": error} for name, error in left_out.items()}


def main(*words):
    """Prints the tables and writes the JSON."""
    chosen, beside = set(words) - {"--busy"}, os.cpu_count() if "--busy" in words else 0
    if unknown := chosen - tasks().keys():
        raise SystemExit(f"kronecker: expected some of {', '.join(tasks())}, got {unknown}")
    report = json.loads(RESULTS.read_text()) if words and RESULTS.exists() else {}
    packages = ("jax", "jaxlib", "optax", "numpy", "kfac-jax")
    report |= {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages} | {"fnn": fnn.__version__},
    }
    for name, task in tasks().items():
        if chosen and name not in chosen:
            continue
        with busy_processes(beside):
            rows = measured(task)
        report[f"{name}, busy" if beside else name] = rows
        others = f", beside {beside} busy processes" if beside else ""
        print(f"\n{name}, {optax.tree.size(task.start)} parameters{others}")
        print(f"  {'':20}{'ms':>9}{'adam steps':>12}{'worst':>8}{'first call s':>14}{'faster':>9}")
        for program, row in rows.items():
            if "error" in row:
                print(f"  {program:20} {row['error']}")
                continue
            faster = row.get("times_faster_than_kfac_jax")
            print(
                f"  {program:20}{row['milliseconds']:9.3f}{row['adam_steps']:12.2f}"
                f"{row['worst_over_median']:7.1f}x{row['first_call_seconds']:14.1f}"
                + (f"{faster:8.2f}x" if faster else ""),
                flush=True,
            )
        RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
