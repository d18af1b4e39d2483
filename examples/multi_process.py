"""One program on many devices: examples are split over all of them, in one process or in several.

On one host:                uv run examples/multi_process.py
On each of four:            uv run examples/multi_process.py HOST0:12345 4 NUMBER
Under SLURM, on four:       srun -N 4 --ntasks-per-node=1 uv run examples/multi_process.py auto

HOST0 is the host of process number 0, 12345 any free port of it. Processes on CPUs speak gloo, on
GPUs NCCL. If one dies the others end with an error.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import fnn
from fnn import layers, losses, rules

PICTURE = Path(__file__).parent / "drawn" / "multi_process.png"


def join(address, processes=None, process=None):
    """Makes this one of several processes; `auto` asks SLURM, Kubernetes or MPI for the numbers."""
    numbers = [None if number is None else int(number) for number in (processes, process)]
    address = None if address == "auto" else address
    jax.distributed.initialize(address, *numbers, heartbeat_timeout_seconds=20)


def truth(x):
    """What is fitted: waves around the origin."""
    return jnp.sin(8 * jnp.hypot(x[..., :1], x[..., 1:])) * jnp.exp(
        -jnp.sum(x**2, -1, keepdims=True)
    )


def say(fitted):
    """A line after every round, from one process."""
    if jax.process_index() == 0:
        steps, value = len(fitted.history.value), fitted.history.value[-1]
        print(f"{steps} steps, {jax.device_count()} devices, value {value:.3g}", flush=True)


def main(steps: int = 300, width: int = 24, picture: Path = PICTURE) -> np.ndarray:
    """Fits it by Levenberg-Marquardt on all devices of all processes; returns the values."""
    inputs = np.random.default_rng(0).uniform(-1, 1, (1024, 2))
    tanh = layers.elementwise(jnp.tanh)
    model = layers.serial(layers.dense(width), tanh, layers.dense(width), tanh, layers.dense(1))
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    start = model.init(jax.random.key(0), inputs[0])

    mesh = Mesh(np.array(jax.devices()), ("examples",))
    over = NamedSharding(mesh, PartitionSpec("examples"))
    rule, data = rules.levenberg_marquardt(), (inputs, truth(inputs))
    fitted = fnn.fit(
        rule, objective, start, data, steps=steps, every=20, callback=say, sharding=over
    )

    params, values = jax.device_get(fitted.params), fitted.history.value
    if jax.process_index() == 0:
        import matplotlib.pyplot as plt

        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
        fine = np.stack(np.meshgrid(*[np.linspace(-1, 1, 100)] * 2, indexing="ij"), -1)
        answers = jax.vmap(jax.vmap(lambda x: model.apply(params, x)))(fine)
        left.pcolormesh(*np.moveaxis(fine, -1, 0), answers[..., 0])
        left.set(aspect="equal", title="the waves as they were learned")
        right.semilogy(values)
        right.set(xlabel="steps", title=f"the value; devices: {jax.device_count()}")
        figure.savefig(picture, dpi=80)
    return values


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    if sys.argv[1:]:
        join(*sys.argv[1:])
    main()
