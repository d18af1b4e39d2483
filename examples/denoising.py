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
NOISE = 0.5
MODEL = layers.serial(layers.dense(128), layers.elementwise(jnp.tanh), layers.dense(64))
NOISY = augmented(MODEL.apply, functools.partial(data.add_noise, stddev=NOISE))
OBJECTIVE = fnn.Objective(NOISY, losses.half_squared_error)


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
    """Draws the picture; returns errors by filter, on the digits of training and on new ones."""
    (images, _), (unseen, _) = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    clean, rng = (images, unseen), np.random.default_rng(0)
    noisy = [part + NOISE * rng.normal(size=part.shape) for part in clean]
    cleaned = {
        "with noise": noisy,
        "Wiener's filter": [wiener(images, part) for part in noisy],
        "mean of the known": [posterior_mean(images, part) for part in noisy],
    }
    start = MODEL.init(jax.random.key(1), images[0])
    known = curvature.structure(MODEL.apply, start, images[0])
    plan = {"epochs": epochs, "batch_size": 128, "key": jax.random.key(2)}
    for name, rule in {"adam": rules.adam(3e-3), "kfac": rules.kfac(known, samples=1)}.items():
        began = time.time()
        run = fnn.fit(rule, OBJECTIVE, start, (images, images), **plan)
        size, steps, seconds = optax.tree.size(start), len(run.history.value), time.time() - began
        print(f"64-128-64 by {name}: {size} parameters, {steps} steps, {seconds:.1f} s")
        answer = jax.vmap(MODEL.apply, (None, 0))
        cleaned[f"network, {name}"] = [np.asarray(answer(run.params, part)) for part in noisy]
    figure, axes = plt.subplots(figsize=(11.5, 3.3), layout="constrained")
    rows = [unseen[:20], *(parts[1][:20] for parts in cleaned.values())]
    plots.features(axes, np.concatenate(rows), (8, 8), columns=20)
    axes.text(-3, 3.5, "new digits", ha="right", va="center")
    errors = {}
    for i, (name, parts) in enumerate(cleaned.items(), start=1):
        pairs = zip(parts, clean, strict=True)
        errors[name] = [float(np.sqrt(np.mean((part - true) ** 2))) for part, true in pairs]
        text = f"{name}: {errors[name][1]:.3f} ({errors[name][0]:.3f})"
        axes.text(-3, 9 * i + 3.5, text, ha="right", va="center")
        print(text)
    axes.set_title("root mean square error on new digits (on those of training)")
    figure.savefig(picture, dpi=80)
    return errors


if __name__ == "__main__":
    main()
