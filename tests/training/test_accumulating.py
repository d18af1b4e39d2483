"""Data that do not fit into memory make exact steps, from chunks and from iterators."""

import runpy
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import losses, rules, solvers
from tests import loop

SOAK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "soak" / "million.py"))
WIDTH = 16


def test_a_step_takes_no_more_memory_for_more_examples():
    """Five times as many take the same temporaries. (XLA makes a copy of a single column.)"""
    model = SOAK["network"](WIDTH, outputs=2)
    rule = rules.levenberg_marquardt(1e-3, solver=solvers.primal())
    squares, arms = (
        fnn.Objective(model.apply, loss) for loss in (losses.half_squared_error, losses.huber(0.5))
    )

    def step(params, data):
        value_fn = sum(one.on(data, chunk=SOAK["CHUNK"]) for one in (squares, arms))
        return loop.step(rule, params, value_fn)

    def temporaries(examples):
        data = [jax.ShapeDtypeStruct((examples, size), "float32") for size in (8, 2)]
        x = jax.ShapeDtypeStruct((8,), "float32")
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        compiled = jax.jit(step).lower(params, data).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporaries(20_000), temporaries(100_000)
    assert many < few + 4096
    assert many < 3e7


def test_a_hundred_thousand_examples_make_one_step():
    """The experiment of benchmarks/soak runs both ways, on a smaller network."""
    reached = [SOAK["main"](10**5, WIDTH, way, limit=1e11) for way in SOAK["WAYS"]]
    np.testing.assert_allclose(*reached, rtol=1e-5)


RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((50, 3))
TARGETS = np.sin(INPUTS.sum(axis=1, keepdims=True))
START = {
    "w": jnp.asarray(RNG.standard_normal((3, 4))),
    "v": jnp.asarray(RNG.standard_normal((4, 1))),
}
OBJECTIVE = fnn.Objective(lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"], losses.half_squared_error)


def dataset():
    indices = grain.MapDataset.range(len(INPUTS)).shuffle(seed=1)
    return indices.map(lambda i: (INPUTS[i], TARGETS[i])).batch(16, drop_remainder=False)


class Source:
    """What Grain calls a random access data source."""

    def __len__(self):
        return len(INPUTS)

    def __getitem__(self, index):
        return INPUTS[index], TARGETS[index]


def loader():
    return grain.DataLoader(
        data_source=Source(),
        sampler=grain.samplers.IndexSampler(len(INPUTS), shuffle=True, seed=0, num_epochs=1),
        operations=[grain.transforms.Batch(16, drop_remainder=False)],
        worker_count=0,
    )


@pytest.mark.parametrize("batches", [dataset, lambda: dataset().to_iter_dataset(), loader])
def test_batches_of_grain_make_the_exact_step(batches):
    """Batches of sixteen and a last one of two make the steps of Gauss-Newton on all fifty."""
    whole = fnn.fit(rules.gauss_newton(damping=1e-2), OBJECTIVE, START, (INPUTS, TARGETS), steps=3)
    parts = fnn.fit(rules.accumulate(4, damping=1e-2), OBJECTIVE, START, batches(), epochs=3)
    assert len(parts.history.value) == 12
    for one, other in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
