"""Our rules retrace scikit-learn's `MLPClassifier`, step by step, on real digits.

Given its initial weights and its batches, which come in the order of the data, five epochs end at
its weights. Its loss per batch of n examples is the mean cross-entropy plus alpha / (2 n) times the
squared weights, biases left out; its `sgd` is the velocity form, with or without Nesterov's
correction. Adam runs with epsilon 1e-16 in both, for scikit-learn adds it before it corrects the
bias of the averages.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from fnn import rules

ALPHA, BATCH, EPOCHS = 1e-2, 200, 5
STEPS = 9  # batches in an epoch of 1797 digits, the last of them of 197


def inverse_scaling(count):
    """scikit-learn's `invscaling`: decay with the number of examples in all epochs before."""
    return 0.1 / (1.0 + (count // STEPS) * 1797) ** 0.1


# our rule, and the options that make scikit-learn's the same
CASES = {
    "sgd": (rules.sgd(0.1), {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.0}),
    "momentum": (
        rules.momentum(0.05, decay=0.9),
        {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.9, "nesterovs_momentum": False},
    ),
    "nesterov": (
        rules.nesterov(0.05, decay=0.9),
        {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.9},
    ),
    "momentum, rate decays": (  # tells the velocity form from optax's trace
        rules.momentum(inverse_scaling, decay=0.9),
        {"solver": "sgd", "learning_rate_init": 0.1, "learning_rate": "invscaling", "power_t": 0.1}
        | {"momentum": 0.9, "nesterovs_momentum": False},
    ),
    "adam": (
        rules.adam(0.01, eps=1e-16),
        {"solver": "adam", "learning_rate_init": 0.01, "epsilon": 1e-16},
    ),
}


def fit_sklearn(digits, epochs=EPOCHS, **options):
    mlp = MLPClassifier(
        (32,), alpha=ALPHA, batch_size=BATCH, max_iter=epochs, shuffle=False, random_state=0
    ).set_params(**options)
    with pytest.warns(ConvergenceWarning):
        mlp.fit(*digits)
    return list(zip(mlp.coefs_, mlp.intercepts_, strict=True))


def loss(params, inputs, labels, weights):
    (w1, b1), (w2, b2) = params
    logits = jax.nn.relu(inputs @ w1 + b1) @ w2 + b2
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    decay = 0.5 * ALPHA * (jnp.sum(w1**2) + jnp.sum(w2**2))
    return (jnp.sum(weights * losses) + decay) / jnp.sum(weights)


@pytest.fixture(scope="module")
def digits():
    inputs, labels = load_digits(return_X_y=True)
    return inputs / 16.0, labels


@pytest.fixture(scope="module")
def batches(digits):
    """The epoch as arrays of batches; the last is filled up at weight 0."""
    fill = STEPS * BATCH - len(digits[1])
    whole = (*digits, np.ones(len(digits[1])))
    padded = [np.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1)) for a in whole]
    return [a.reshape(STEPS, BATCH, *a.shape[1:]) for a in padded]


@pytest.fixture(scope="module")
def initial(digits):
    """scikit-learn's initial weights: a step of 1e-300 leaves them where they are."""
    return fit_sklearn(digits, epochs=1, solver="sgd", learning_rate_init=1e-300)


@pytest.mark.parametrize("name", CASES)
def test_five_epochs_end_at_the_weights_of_sklearn(digits, batches, initial, name):
    rule, options = CASES[name]

    def step(carry, batch):
        params, state = carry
        updates, state = rule.update(jax.grad(loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    def epoch(carry, _):
        return jax.lax.scan(step, carry, batches)

    @jax.jit
    def train(params):
        return jax.lax.scan(epoch, (params, rule.init(params)), length=EPOCHS)[0][0]

    ours = jax.tree.leaves(train(initial))
    theirs = jax.tree.leaves(fit_sklearn(digits, **options))
    for mine, expected, start in zip(ours, theirs, jax.tree.leaves(initial), strict=True):
        assert np.max(np.abs(expected - start)) > 1e-2
        np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-6)
