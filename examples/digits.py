"""Train a small network on handwritten digits, and look at what it is unsure about.

uv run examples/digits.py
"""

import jax
import jax.numpy as jnp

import fnn
from fnn import data, layers, losses, rules


def accuracy(outputs, targets):
    """The share of examples whose largest output is their class."""
    return jnp.mean(outputs.argmax(axis=-1) == targets)


def main(epochs: int = 100) -> float:
    """Trains with early stopping; prints the least certain test digits; returns the accuracy."""
    train, validation, test = data.split(data.digits(), (0.6, 0.2, 0.2), jax.random.key(0))
    model = layers.serial(
        layers.dense(32), layers.elementwise(jax.nn.relu), layers.dropout(0.2), layers.dense(10)
    )
    params = model.init(jax.random.key(1), train.inputs[0])
    print(layers.summary(model, train.inputs[0]))

    trained = fnn.fit(
        rules.adam(3e-3),
        fnn.Objective(model.apply, losses.softmax_cross_entropy) + fnn.l2(1e-4),
        params,
        train,
        epochs=epochs,
        batch_size=32,
        key=jax.random.key(2),
        validation=validation,
        metrics={"accuracy": accuracy},
        patience=10,
    )
    print(trained.stopped, "Epochs:", len(trained.history.steps))

    outputs = jax.vmap(lambda x: model.apply(trained.params, x))(test.inputs)
    share = float(accuracy(outputs, test.targets))
    print(f"Right on {share:.1%} of the test digits. Least certain of:")
    certainty = jax.nn.softmax(outputs).max(axis=-1)
    for i in jnp.argsort(certainty)[:3]:
        print(f"\nlabel {test.targets[i]}, answer {outputs[i].argmax()} ({certainty[i]:.0%})")
        for row in test.inputs[i].reshape(8, 8):
            print("".join(" .:-=+*#%@"[int(9 * pixel)] * 2 for pixel in row))
    return share


if __name__ == "__main__":
    main()
