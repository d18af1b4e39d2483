"""Weak scaling on paper: the seconds of a step on 1 to 1024 GPUs, examples for each fixed.

    uv run --group bench benchmarks/scaling.py

Predicted from counts: flops of the whole step (`fnn.flops.count`, from the jaxpr), shared by the
GPUs or, for factorizations, done by each of them; bytes that every GPU reads and writes; bytes that
the collectives move. `MACHINE` turns counts into seconds.

Measured, on as many virtual devices as there are markers: the same step is compiled (not run), and
its collectives and its flops for each device are read from the compiled program. Seconds follow
from them as above.

Writes benchmarks/scaling.md and benchmarks/scaling.png.
"""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from traffic import collectives

import fnn
from fnn import curvature, flops, losses, plots, rules, solvers

SIZES, EXAMPLES, ITERATIONS, WORD = (8, 1024, 1024, 1), 256, 30, 4
FACTORS = (*SIZES[:-1], *SIZES[1:], *SIZES[1:])  # of K-FAC: two for weights, one for biases
GPUS = [2**i for i in range(11)]
DEVICES = [1, 2, 4, 8]
HERE = Path(__file__).parent


class Machine(NamedTuple):
    """What a machine is assumed to do: rates in flops and bytes a second, latencies in seconds.

    Attributes:
        products: of matrices, float32 in full precision.
        cholesky: float64.
        eigen: symmetric eigendecompositions.
        memory: bytes a second.
        capacity: bytes.
        node: GPUs in a node.
        inside: bytes a second of one GPU to the others of its node, one way.
        across: to those of other nodes.
        start: of a collective.
        hop_inside: of each round of it within the node.
        hop_across: between nodes.
    """

    products: float
    cholesky: float
    eigen: float
    memory: float
    capacity: float
    node: int
    inside: float
    across: float
    start: float
    hop_inside: float
    hop_across: float


MACHINE = Machine(
    products=0.6 * 67e12,
    cholesky=0.3 * 67e12,
    eigen=0.3e12,
    memory=0.8 * 3.35e12,
    capacity=80e9,
    node=8,
    inside=0.8 * 450e9,
    across=0.8 * 50e9,
    start=8.4e-6,
    hop_inside=4e-6,
    hop_across=14e-6,
)
ASSUMED = """\
Nodes of eight H100 SXM GPUs with one 400 Gb/s InfiniBand port for each GPU (DGX H100). From
NVIDIA's data sheet of the H100 SXM: 67 Tflop/s in float32, and in float64 on tensor cores, 3.35
TB/s and 80 GB of memory, NVLink 900 GB/s both ways together. Latencies are those of NCCL's own
model of its trees (src/graph/tuning.cc, protocol Simple): 8.4 us for a collective, 4 us for each
hop over NVLink, 14 us over the network. Of the peaks we assume 60 % for products of matrices, 80 %
for bandwidths, 30 % for the Cholesky factorization, and 0.3 Tflop/s for eigendecompositions; these
shares are guesses, to be replaced by measurements where a GPU is at hand."""


class Moved(NamedTuple):
    """A collective."""

    kind: str
    bytes: float


class Counts(NamedTuple):
    """What a step costs: flops and bytes of each GPU, and its collectives.

    Attributes:
        products: flops of each GPU outside of factorizations.
        cholesky: flops of the factorization that each GPU does.
        eigen: the same of eigendecompositions.
        touched: bytes of memory read and written.
        held: bytes of memory needed at once, of what grows with the number of GPUs.
        moved: the collectives.
    """

    products: float
    cholesky: float
    eigen: float
    touched: float
    held: float
    moved: list[Moved]


def seconds(counts: Counts, gpus: int, machine: Machine = MACHINE) -> float:
    """Of a step; nothing overlaps."""
    working = counts.products / machine.products + counts.cholesky / machine.cholesky
    working += counts.eigen / machine.eigen + counts.touched / machine.memory
    return working + sum(seconds_of(one, gpus, machine) for one in counts.moved)


def seconds_of(moved: Moved, gpus: int, machine: Machine) -> float:
    """Of a collective: within nodes and, a GPU's share of the bytes each, between them."""
    if gpus == 1:
        return 0.0
    near, nodes = min(gpus, machine.node), math.ceil(gpus / machine.node)
    ways = 2 if moved.kind == "all-reduce" else 1
    inside = (near - 1) / near * moved.bytes / machine.inside
    across = (nodes - 1) / nodes * moved.bytes / near / machine.across
    hops = math.log2(near) * machine.hop_inside + math.log2(nodes) * machine.hop_across
    return machine.start + ways * (inside + across + hops)


# --- the steps -----------------------------------------------------------------------------------


def model(params, x):
    """A tanh network."""
    *hidden, last = params
    for layer in hidden:
        x = jnp.tanh(x @ layer["weight"] + layer["bias"])
    return x @ last["weight"] + last["bias"]


OBJECTIVE = fnn.Objective(model, losses.half_squared_error)


def shapes(gpus: int, mesh: Mesh | AbstractMesh) -> tuple[Any, Any]:
    """Parameters and a batch, on a mesh."""

    def array(*shape: int, over: Any = None) -> jax.ShapeDtypeStruct:
        sharding = None if gpus == 1 else NamedSharding(mesh, PartitionSpec(*over or ()))
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    layers = itertools.pairwise(SIZES)
    params = [{"weight": array(i, o), "bias": array(o)} for i, o in layers]
    first, *_, last = SIZES
    batch = tuple(array(EXAMPLES * gpus, size, over=("examples",)) for size in (first, last))
    return params, batch


def step_of(rule: optax.GradientTransformationExtraArgs) -> Callable[..., Any]:
    """The whole step of the loop."""

    def step(params, state, batch):
        value_fn = OBJECTIVE.on(batch)
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    return step


class Method(NamedTuple):
    """A rule, and what `predict` needs to know of it."""

    rule: optax.GradientTransformationExtraArgs
    cholesky: bool = False
    refresh: int = 0
    products: int = 0


def methods() -> dict[str, Method]:
    """What is compared."""
    params, _ = shapes(1, AbstractMesh((), ()))
    structure = curvature.structure(model, params, jax.ShapeDtypeStruct(SIZES[:1], jnp.float32))
    iterations = solvers.conjugate_gradients(ITERATIONS, tolerance=0.0)
    exact = rules.levenberg_marquardt
    return {
        "Adam": Method(rules.adam(1e-3)),
        "K-FAC": Method(rules.kfac(structure), refresh=10),
        "Levenberg-Marquardt, dual": Method(
            exact(solver=solvers.dual(), memory_budget=2**60), cholesky=True
        ),
        "Levenberg-Marquardt, matrix-free": Method(exact(solver=iterations), products=ITERATIONS),
    }


# --- predicted and measured ----------------------------------------------------------------------


def size_of(params: Any) -> int:
    """The number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def factorizations(method: Method, rows: int) -> tuple[float, float, float]:
    """Flops: of Cholesky, of eigendecompositions, and of what `count` counts for both."""
    if method.cholesky:
        matrix = jax.ShapeDtypeStruct((rows, rows), jnp.float32)
        column = jax.ShapeDtypeStruct((rows, 1), jnp.float32)
        worst = flops.count(lambda m, b: solvers.ladder(m, b, 0.1)[0], matrix, column)
        return rows**3 / 3 + 10.0 * rows**2, 0.0, worst
    if method.refresh:
        cubes = 9.0 * sum(size**3 for size in FACTORS if size > 1)
        return 0.0, cubes / method.refresh, cubes
    return 0.0, 0.0, 0.0


def predict(method: Method, gpus: int) -> Counts:
    """From the jaxpr of the step, and from what has to meet: see the table in scaling.md."""
    mesh = AbstractMesh((gpus,), ("examples",))
    params, batch = shapes(gpus, mesh)
    state = jax.eval_shape(method.rule.init, params)
    counted = flops.count(step_of(method.rule), params, state, batch)
    rows = EXAMPLES * gpus * SIZES[-1]
    cholesky, eigen, worst = factorizations(method, rows)
    parameters, rotations = WORD * size_of(params), 0.0
    touched, held, moved = 8.0 * parameters, 0.0, [Moved("all-reduce", parameters)]
    if method.refresh:
        factors = WORD * sum(size**2 for size in FACTORS)
        touched += 6 * factors
        rotations = sum(4.0 * i * o * (i + o) for i, o in itertools.pairwise(SIZES))
        moved += [Moved("all-reduce", factors)]
    if method.cholesky:
        captured = WORD * EXAMPLES * gpus * (sum(SIZES[:-1]) + 2 * sum(SIZES[1:]))
        matrix = WORD * rows**2
        touched += 6 * matrix
        held = 6 * 2 * matrix
        moved += [Moved("all-reduce", parameters), Moved("all-gather", captured)]
        moved += [Moved("all-gather", matrix)]
    if method.products:
        touched += method.products * 6 * parameters
        moved *= method.products + 3
        counted += (method.products - 1) * flops.count(product, params, batch)
    products = (counted - worst - rotations) / gpus + rotations
    return Counts(products, cholesky, eigen, touched, held, moved)


def product(params, batch):
    """A^T A times a vector."""
    _, system, _ = curvature.gauss_newton_system(OBJECTIVE.on(batch), params)
    return system.multiply(params)


def measure(method: Method, devices: int) -> Counts:
    """The same from the compiled program; memory and factorizations as predicted."""
    mesh = Mesh(np.array(jax.devices()[:devices]), ("examples",))
    params, batch = shapes(devices, mesh)
    state = jax.eval_shape(method.rule.init, params)
    whole = None if devices == 1 else NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=whole), state)
    step = jax.jit(step_of(method.rule), out_shardings=whole)
    compiled = step.lower(params, state, batch).compile()
    found = collectives(compiled.as_text())
    trips = [method.products if one.looped and method.products else 1 for one in found]
    moved = [Moved(c.kind, c.bytes) for c, n in zip(found, trips, strict=True) for _ in range(n)]
    counted = compiled.cost_analysis()["flops"]
    if method.products:
        counted += (method.products - 1) * flops.count(product, params, batch) / devices
    return predict(method, devices)._replace(products=counted, moved=moved)


# --- the report ----------------------------------------------------------------------------------


def draw(predicted: dict, measured: dict) -> None:
    """Seconds and bytes against GPUs."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharex=True)
    for color, name in zip(plots.COLORS, predicted, strict=False):
        for axis, of in zip(axes, (seconds, megabytes), strict=True):
            lines = [(g, of(c, g)) for g, c in predicted[name].items()]
            points = [(g, of(c, g)) for g, c in measured[name].items()]
            axis.loglog(*zip(*[p for p in lines if p[1]], strict=True), color=color, label=name)
            axis.loglog(*zip(*[p for p in points if p[1]], strict=True), "o", color=color)
    axes[0].set_title("seconds for a step")
    axes[1].set_title("MB in the collectives of a step")
    for axis in axes:
        axis.set(xlabel="GPUs, 256 examples on each")
        axis.set_xticks(GPUS[::2], [str(g) for g in GPUS[::2]])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    lines, names = axes[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(HERE / "scaling.png", dpi=90)


def megabytes(counts: Counts, gpus: int) -> float:
    """What the collectives of a step move."""
    return sum(one.bytes for one in counts.moved) / 1e6 if gpus > 1 else 0.0


def table(rows: list[list[str]]) -> str:
    """In Markdown."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def main() -> None:
    """Counts, compiles, draws and writes."""
    predicted, measured = {}, {}
    for name, method in methods().items():
        counts = {gpus: predict(method, gpus) for gpus in GPUS}
        predicted[name] = {g: c for g, c in counts.items() if c.held < MACHINE.capacity}
        measured[name] = {devices: measure(method, devices) for devices in DEVICES}
        print(name, flush=True)
    draw(predicted, measured)
    params, _ = shapes(1, AbstractMesh((), ()))

    def cell(counts: dict, gpus: int) -> str:
        return f"{1e3 * seconds(counts[gpus], gpus):.3g}" if gpus in counts else "no memory"

    paper = [["GPUs", *predicted]]
    paper += [[str(g), *(cell(counts, g) for counts in predicted.values())] for g in GPUS]
    check = [
        ["devices", "step", "MB predicted", "MB compiled", "Gflop predicted", "Gflop compiled"]
    ]
    for devices in DEVICES:
        for name in predicted:
            one, two = predicted[name][devices], measured[name][devices]
            numbers = [megabytes(one, devices), megabytes(two, devices)]
            numbers += [one.products / 1e9, two.products / 1e9]
            check += [[str(devices), name, *(f"{number:.3g}" for number in numbers)]]
    (HERE / "scaling.md").write_text(
        TEMPLATE.format(
            sizes="-".join(map(str, SIZES)),
            parameters=f"{size_of(params):,}",
            examples=EXAMPLES,
            iterations=ITERATIONS,
            assumed=ASSUMED,
            paper=table(paper),
            check=table(check),
        )
    )


TEMPLATE = """\
# Weak scaling, on paper

Written by `benchmarks/scaling.py`. A tanh network {sizes} in float32 ({parameters} parameters),
half the mean of squares, {examples} examples on each GPU: with more GPUs the batch grows. Nothing
here was timed. Seconds are counts divided by the rates of a machine:

{assumed}

![Seconds and bytes of a step against the number of GPUs](scaling.png)

Lines are predicted from the jaxpr; points are the step as compiled for that many virtual devices,
its collectives and flops read from the program. What has to meet in a step, in words of four bytes
(P parameters, N examples in the whole batch, one output, so N rows):

| step | shared by the GPUs | done by each | collectives |
|---|---|---|---|
| Adam | passes through the model | the update | all-reduce P |
| K-FAC | passes, factors | eigendecompositions, every tenth step; rotations | all-reduce P, and \
the factors |
| dual | passes, the Gram matrix | Cholesky, N^3 / 3 in float64 | all-gather N (inputs of all \
layers, outputs twice: for weights and for biases), all-gather N^2, all-reduce 2 P |
| matrix-free | passes | the vectors of conjugate gradients | {iterations} + 3 times all-reduce P |

Milliseconds for a step, predicted:

{paper}

Adam, K-FAC and the matrix-free step scale: what a GPU does stays, and an all-reduce of P words is
all that it waits for. The dual step does not, and is not meant to: its matrix has as many rows as
the batch. Each GPU makes its share of the rows but factors the whole, so that seconds grow with the
cube of the number of GPUs and memory with its square. While the batch has a few thousand rows it is
the cheapest exact step; beyond, the matrix-free one is.

Predicted and compiled:

{check}

(One device: nothing moves. From 1024 rows on the dual step moves the deltas of some biases once
more. XLA counts a product of matrices as two flops for each multiplication,
as we do, but not its calls of LAPACK, which are therefore in neither column.)
"""

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    main()
