"""Digits out of noise, by networks between the best linear filter and the best there can be.

uv run examples/denoising.py
"""

import functools
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import fnn
from fnn import curvature, data, layers, losses, plots, rules
from fnn.perturbations import augmented

PICTURE = Path(__file__).parent / "drawn" / "denoising.png"
NOISE, TANH = 0.5, layers.elementwise(jnp.tanh)
NETWORKS = {
    "dense 64-128-64": layers.serial(layers.dense(128), TANH, layers.dense(64)),
    "encoder-decoder": layers.serial(
        layers.elementwise(lambda x: x.reshape(8, 8, 1)),
        layers.conv(8, (3, 3), strides=2),
        TANH,
        layers.conv(16, (3, 3), strides=2),
        TANH,
        layers.conv_transpose(8, (4, 4), strides=2),
        TANH,
        layers.conv_transpose(1, (4, 4), strides=2),
        layers.flatten(),
    ),
}


def wiener(images, noisy):
    """The best affine filter for these images and this noise: C (C + noise^2)^-1."""
    mean = images.mean(axis=0)
    covariance = np.cov(images.T, bias=True)
    gain = np.linalg.solve(covariance + NOISE**2 * np.eye(64), covariance)
    return mean + (noisy - mean) @ gain


def posterior_mean(images, noisy):
    """The best of all filters where nothing but these images is possible."""
    distances = np.sum(noisy**2, axis=1)[:, None] - 2 * noisy @ images.T + np.sum(images**2, axis=1)
    return jax.nn.softmax(-distances / (2 * NOISE**2), axis=1) @ images


def main(epochs=100, picture=PICTURE):
    """Draws the picture; returns errors on the digits of training and on new ones, by filter."""
    (images, _), (unseen, _) = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    rng = np.random.default_rng(0)
    noisy = [part + NOISE * rng.normal(size=part.shape) for part in (images, unseen)]
    add = functools.partial(data.add_noise, stddev=NOISE)
    cleaned = {
        "noise": noisy,
        "Wiener's filter": [wiener(images, part) for part in noisy],
        "mean of the possible": [posterior_mean(images, part) for part in noisy],
    }
    for name, network in NETWORKS.items():
        start = network.init(jax.random.key(1), images[0])
        known = curvature.structure(network.apply, start, images[0])
        objective = fnn.Objective(augmented(network.apply, add), losses.half_squared_error)
        for rule_name, rule in (("adam", rules.adam(3e-3)), ("kfac", rules.kfac(known, samples=1))):
            began = time.time()
            plan = {"epochs": epochs, "batch_size": 128, "key": jax.random.key(2)}
            run = fnn.fit(rule, objective, start, (images, images), **plan)
            answer = jax.jit(jax.vmap(network.apply, (None, 0)))
            cleaned[f"{name}, {rule_name}"] = [answer(run.params, part) for part in noisy]
            print(f"{name}, {rule_name}: {optax.tree.size(start)} {len(run.history.value)} {time.time() - began:.1f}")
    errors = {}
    for name, parts in cleaned.items():
        errors[name] = [float(np.sqrt(np.mean((a - b) ** 2))) for a, b in zip(parts, (images, unseen), strict=True)]
        print(f"{name:25} {errors[name][0]:.4f} {errors[name][1]:.4f}")
    return errors


if __name__ == "__main__":
    main()
