"""DeepOBS's first test problem, a noisy quadratic, against its published baselines.

Source: Schneider, Balles and Hennig, DeepOBS, ICLR (2019), openreview.net/forum?id=rJg6ssC5Y7; test
losses after 100 epochs, mean and standard deviation over ten seeds, from the baselines published
with it. The problem is made here from its recipe: a Hessian with 90 eigenvalues in (0, 1) and 10
in (30, 60), turned by a rotation drawn from Haar's measure, and 1000 Gaussian data points.

In the published runs the data are shuffled once per run and come in the same order in each of its
epochs; the last 104 points of that order are never seen.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import rules

DIMENSION, EXAMPLES, BATCH, STEPS, EPOCHS = 100, 1000, 128, 7, 100

# rule with the published learning rate (a grid of five to the decade), mean, standard deviation
PUBLISHED = {
    "sgd": (rules.sgd(10**-1.8), 87.3975, 0.1603),
    "momentum": (rules.momentum(10**-2.6, decay=0.99), 87.0450, 0.0239),
    "adam": (rules.adam(10**-1.4), 87.1119, 0.0230),
}


def make_hessian():
    rng = np.random.RandomState(42)
    eigenvalues = np.concatenate([rng.uniform(0, 1, 90), rng.uniform(30, 60, 10)])
    rotation = draw_rotation(rng)
    return rotation.T @ np.diag(eigenvalues) @ rotation


def draw_rotation(rng):
    """The subgroup algorithm of Diaconis and Shahshahani (1987): one reflection per dimension."""
    angle = 2 * np.pi * rng.uniform()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for n in range(3, DIMENSION + 1):
        direction = rng.normal(size=n)
        normal = np.eye(n)[0] - direction / np.linalg.norm(direction)
        normal /= np.linalg.norm(normal)
        larger = np.eye(n)
        larger[1:, 1:] = rotation
        rotation = larger - 2 * np.outer(normal, normal @ larger)
    return -rotation


def draw_points(seed):
    points = np.random.RandomState(seed).normal(0.0, 0.6, (EXAMPLES, DIMENSION))
    return points.astype(np.float32).astype(np.float64)


def loss(hessian, theta, points):
    distance = theta - points
    return 0.5 * jnp.mean(jnp.sum(distance @ hessian * distance, axis=-1))


@pytest.fixture(scope="module")
def problem():
    return make_hessian(), jnp.asarray(draw_points(42)), draw_points(43)[: STEPS * BATCH]


def test_initial_loss_is_the_published_one(problem):
    hessian, _, test_points = problem
    assert loss(hessian, np.ones(DIMENSION), test_points) == pytest.approx(353.4468, abs=5e-5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_mean_over_ten_seeds_is_within_three_published_deviations(problem, name):
    hessian, train_points, test_points = problem
    rule, mean, deviation = PUBLISHED[name]

    def train(order):
        batches = train_points[order[: STEPS * BATCH]].reshape(STEPS, BATCH, DIMENSION)

        def step(carry, batch):
            theta, state = carry
            grad = jax.grad(loss, argnums=1)(hessian, theta, batch)
            updates, state = rule.update(grad, state, theta)
            return (optax.apply_updates(theta, updates), state), None

        def epoch(carry, _):
            return jax.lax.scan(step, carry, batches)

        theta = jnp.ones(DIMENSION)
        (theta, _), _ = jax.lax.scan(epoch, (theta, rule.init(theta)), length=EPOCHS)
        return loss(hessian, theta, test_points)

    orders = np.stack([np.random.RandomState(seed).permutation(EXAMPLES) for seed in range(42, 52)])
    losses = jax.jit(jax.vmap(train))(orders)
    print(f"{name}: {losses.mean():.4f} ± {losses.std(ddof=1):.4f}, published {mean} ± {deviation}")
    assert abs(losses.mean() - mean) < 3 * deviation
