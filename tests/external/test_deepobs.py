"""DeepOBS's first test problem, a noisy quadratic, against its published baselines.

Source: Schneider, Balles and Hennig, DeepOBS, ICLR (2019), openreview.net/forum?id=rJg6ssC5Y7; test
losses after 100 epochs, mean and standard deviation over ten seeds, from the baselines published
with it. The problem is `fnn.problems.deepobs`'s.

In the published runs the data are shuffled once per run and come in the same order in each of its
epochs; the last 104 points of that order are never seen.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import rules
from fnn.problems import deepobs

BATCH, STEPS, EPOCHS = 128, 7, 100

# rule with the published learning rate (a grid of five to the decade), mean, standard deviation
PUBLISHED = {
    "sgd": (rules.sgd(10**-1.8), 87.3975, 0.1603),
    "momentum": (rules.momentum(10**-2.6, decay=0.99), 87.0450, 0.0239),
    "adam": (rules.adam(10**-1.4), 87.1119, 0.0230),
}


@pytest.fixture(scope="module")
def problem():
    problem = deepobs.quadratic()
    return problem._replace(test=problem.test[: STEPS * BATCH])


def test_initial_loss_is_the_published_one(problem):
    theta = jax.jit(problem.init)(jax.random.key(0))
    assert problem.measure.of(theta, problem.test) == pytest.approx(353.4468, abs=5e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_mean_over_ten_seeds_is_within_three_published_deviations(problem, name):
    rule, mean, deviation = PUBLISHED[name]
    points = jnp.asarray(problem.train)

    def train(order):
        batches = points[order[: STEPS * BATCH]].reshape(STEPS, BATCH, -1)

        def step(carry, batch):
            theta, state = carry
            grad = jax.grad(problem.objective.on(batch))(theta)
            updates, state = rule.update(grad, state, theta)
            return (optax.apply_updates(theta, updates), state), None

        def epoch(carry, _):
            return jax.lax.scan(step, carry, batches)

        theta = jax.jit(problem.init)(jax.random.key(0))
        (theta, _), _ = jax.lax.scan(epoch, (theta, rule.init(theta)), length=EPOCHS)
        return problem.measure.of(theta, problem.test)

    n = len(points)
    orders = np.stack([np.random.RandomState(seed).permutation(n) for seed in range(42, 52)])
    losses = jax.jit(jax.vmap(train))(orders)
    print(f"{name}: {losses.mean():.4f} ± {losses.std(ddof=1):.4f}, published {mean} ± {deviation}")
    assert abs(losses.mean() - mean) < 3 * deviation
