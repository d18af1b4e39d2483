"""One exact Levenberg-Marquardt step on a million examples, in the memory of a few thousand.

    uv run benchmarks/soak/million.py [EXAMPLES] [WIDTH] [WAY]

An 8-WIDTH-WIDTH-1 network with tanh (64 by default: 4801 parameters) in float32. J^T J, dense, is
summed over the examples: `arrays`, by `objective.on(data, chunk=)` inside one compiled update; or
`iterator`, by `rules.accumulate` from batches that come one after the other, as `fit` takes them.
What it asserts:

- the step lowers the value;
- the process, Python and JAX among it, peaks below 2 GB (less where the network is smaller).

Both ways print the value before and after: by the same curvature, the damping being the same.
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn import layers, losses, rules, solvers

FEATURES, CHUNK, LIMIT = 8, 4096, 2e9
DAMPING = 0.1


def network(width, outputs=1):
    """Its layers."""
    hidden = (layers.dense(width), layers.elementwise(jnp.tanh))
    return layers.serial(*hidden, *hidden, layers.dense(outputs))


def examples(count, seed=0):
    """Smooth targets of normal inputs, with noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((count, FEATURES), dtype=np.float32)
    noise = rng.standard_normal(count, dtype=np.float32)
    targets = np.sin(inputs.sum(axis=1)) + inputs[:, 0] * inputs[:, 1] + 0.1 * noise
    return inputs, targets[:, None]


def one_step(objective, params, data):
    """Levenberg-Marquardt's step, the data being arrays."""
    rule = rules.levenberg_marquardt(DAMPING, solver=solvers.primal())

    def step(params, data):
        value_fn = objective.on(data, chunk=CHUNK)
        value, grad = jax.value_and_grad(value_fn)(params)
        updates, state = rule.update(
            grad, rule.init(params), params, value=value, grad=grad, value_fn=value_fn
        )
        return optax.apply_updates(params, updates), value, state.info.value

    return jax.jit(step)(params, data)


def by_batches(objective, params, data):
    """The same step from an iterator of batches."""
    count = len(data[0])
    batches = (
        tuple(part[start : start + CHUNK] for part in data) for start in range(0, count, CHUNK)
    )
    steps = -(-count // CHUNK)
    rule = rules.accumulate(steps, damping=DAMPING)
    trained = fnn.fit(rule, objective, params, batches, steps=steps)
    mean = jax.jit(lambda params, data: objective.on(data, chunk=CHUNK)(params))
    return trained.params, mean(params, data), mean(trained.params, data)


WAYS = {"arrays": one_step, "iterator": by_batches}


def main(count: int = 10**6, width: int = 64, way: str = "arrays", limit: float = LIMIT) -> float:
    """Takes the step, prints what it cost, asserts.

    Args:
        count: Examples.
        width: Of both hidden layers.
        way: One of `WAYS`.
        limit: Bytes that the process may peak at.

    Returns:
        The value after the step.
    """
    model = network(width)
    data = examples(count)
    params = model.init(jax.random.key(0), jax.ShapeDtypeStruct((FEATURES,), jnp.float32))
    objective = fnn.Objective(model.apply, losses.half_squared_error)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    began = time.perf_counter()
    _, before, after = jax.block_until_ready(WAYS[way](objective, params, data))
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{way}: {count:,} examples, {size:,} parameters, {seconds:.0f} s with compiling, "
        f"peak {peak / 1e9:.2f} GB; value {before:.6f} -> {after:.6f}"
    )
    assert after < before
    assert peak < limit
    return float(after)


if __name__ == "__main__":
    casts = int, int, str
    main(*(cast(text) for cast, text in zip(casts, sys.argv[1:], strict=False)))
