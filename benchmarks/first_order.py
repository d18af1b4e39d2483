"""`fit` against its peers: the same network, rule, batches and epochs, in one process.

    uv run benchmarks/first_order.py

A 64-32-10 network on all 1797 digits, Adam, batches of 32, 50 epochs, float32. The peers are
scikit-learn's MLPClassifier, a jitted step of optax.adam in a Python loop (as it is usually
written, with the data on the device; and tuned, fed by NumPy), and the same work as a scan written
by hand. Runs alternate, each timed right after one of its own that is not, so that no one pays for
the threads and caches that another left; seconds are medians, without compiling.
"""

import json
import platform
import statistics
import time
import warnings
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import fnn
from fnn import data, layers, losses, rules

RUNS, EPOCHS, BATCH = 15, 50, 32
KEY = jax.random.key(0)
INPUTS, TARGETS = data.digits()
INPUTS, TARGETS = jnp.asarray(INPUTS, jnp.float32), jnp.asarray(TARGETS)
N = len(INPUTS)
STEPS = -(-N // BATCH)

MODEL = layers.serial(layers.dense(32), layers.elementwise(jax.nn.relu), layers.dense(10))
PARAMS = MODEL.init(KEY, INPUTS[0])
OBJECTIVE = fnn.Objective(MODEL.apply, losses.softmax_cross_entropy)
RULE, OPTAX = rules.adam(1e-3), optax.adam(1e-3)


def fnn_fit():
    """The library's loop."""
    fitted = fnn.fit(
        RULE, OBJECTIVE, PARAMS, (INPUTS, TARGETS), epochs=EPOCHS, batch_size=BATCH, key=KEY
    )
    return fitted.history.value[-STEPS:].mean()


def mean_loss(params, inputs, targets, weights):
    """The loss as one would write it by hand: two matrix products for the batch."""
    (first, _, second) = params
    hidden = jax.nn.relu(inputs @ first["weight"] + first["bias"])
    logits = hidden @ second["weight"] + second["bias"]
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(weights * entropy) / jnp.sum(weights)


def rows_of(order, i):
    """The rows of a batch, the last one filled up, and their weights."""
    rows = jax.lax.dynamic_slice(order, (i * BATCH,), (BATCH,))
    return rows, jnp.where(i * BATCH + jnp.arange(BATCH) < N, 1.0, 0.0)


def shuffled(key):
    """An epoch's order of the examples, filled up to whole batches."""
    return jnp.pad(jax.random.permutation(key, N), (0, STEPS * BATCH - N), mode="edge")


def optax_step(params, state, inputs, targets, weights):
    """One step of optax.adam."""
    value, grad = jax.value_and_grad(mean_loss)(params, inputs, targets, weights)
    updates, state = OPTAX.update(grad, state, params)
    return optax.apply_updates(params, updates), state, value


@jax.jit
def scan(params, inputs, targets, key):
    """All epochs as two nested scans."""

    def epoch(carry, key):
        order = shuffled(key)

        def step(carry, i):
            rows, weights = rows_of(order, i)
            *carry, value = optax_step(*carry, inputs[rows], targets[rows], weights)
            return tuple(carry), value

        return jax.lax.scan(step, carry, jnp.arange(STEPS))

    keys = jax.random.split(key, EPOCHS)
    return jax.lax.scan(epoch, (params, OPTAX.init(params)), keys)


def hand_written_scan():
    """Everything in one compiled program."""
    _, values = scan(PARAMS, INPUTS, TARGETS, KEY)
    return float(values[-1].mean())


JITTED_STEP = jax.jit(optax_step)
HOST_INPUTS, HOST_TARGETS = np.asarray(INPUTS), np.asarray(TARGETS)


def python_loop():
    """A jitted step of optax.adam, called for each batch from Python; data on the device."""
    params, state, values, key = PARAMS, OPTAX.init(PARAMS), [], KEY
    whole, last = jnp.ones(BATCH), rows_of(jnp.arange(STEPS * BATCH), STEPS - 1)[1]
    for _ in range(EPOCHS):
        key, order_key = jax.random.split(key)
        order, values = shuffled(order_key), []
        for i in range(STEPS):
            rows = order[i * BATCH : (i + 1) * BATCH]
            weights = whole if i < N // BATCH else last
            params, state, value = JITTED_STEP(params, state, INPUTS[rows], TARGETS[rows], weights)
            values.append(value)
    return float(jnp.mean(jnp.stack(values)))


def tuned_python_loop():
    """The same with shuffling and batches by NumPy, which dispatches faster than JAX."""
    params, state, values = PARAMS, OPTAX.init(PARAMS), []
    generator, ones = np.random.default_rng(0), np.ones(BATCH, np.float32)
    for _ in range(EPOCHS):
        order, values = np.resize(generator.permutation(N), STEPS * BATCH), []
        for i in range(STEPS):
            rows = order[i * BATCH : (i + 1) * BATCH]
            weights = ones if i < N // BATCH else (np.arange(BATCH) < N % BATCH).astype(np.float32)
            params, state, value = JITTED_STEP(
                params, state, HOST_INPUTS[rows], HOST_TARGETS[rows], weights
            )
            values.append(value)
    return float(np.mean(values))


def scikit_learn():
    """MLPClassifier with the same settings, its L2 term at zero and early stopping off."""
    network = MLPClassifier(
        (32,), batch_size=BATCH, learning_rate_init=1e-3, max_iter=EPOCHS, alpha=0.0,
        tol=0.0, n_iter_no_change=EPOCHS + 1, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(HOST_INPUTS, HOST_TARGETS)
    assert network.n_iter_ == EPOCHS
    return network.loss_


def main():
    """Prints the table and writes the JSON."""
    contestants = fnn_fit, hand_written_scan, tuned_python_loop, python_loop, scikit_learn
    seconds = {contestant.__name__: [] for contestant in contestants}
    first, final = {}, {}
    for run in range(RUNS + 1):
        for contestant in contestants:
            if run > 0:
                contestant()
            begin = time.perf_counter()
            final[contestant.__name__] = float(contestant())
            took = time.perf_counter() - begin
            if run == 0:
                first[contestant.__name__] = took
            else:
                seconds[contestant.__name__].append(took)

    print(f"{'':20} {'seconds':>9} {'fit is':>9} {'first call':>11} {'last epoch':>11}")
    rows = {}
    for name, times in seconds.items():
        ratio = statistics.median(t / f for t, f in zip(times, seconds["fnn_fit"], strict=True))
        rows[name] = {
            "median_seconds": statistics.median(times),
            "times_slower_than_fit": ratio,
            "first_call_seconds": first[name],
            "mean_loss_of_last_epoch": final[name],
        }
        print(
            f"{name:20} {statistics.median(times):9.4f} {ratio:8.3f}x {first[name]:11.2f} "
            f"{final[name]:11.4f}"
        )
    packages = "fnn", "jax", "jaxlib", "optax", "numpy", "scikit-learn"
    report = {
        "runs": RUNS,
        "device": jax.devices()[0].device_kind,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / f"first_order-{jax.default_backend()}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
