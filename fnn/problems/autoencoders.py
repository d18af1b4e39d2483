"""Autoencoders of 8 x 8 digits: through a bottleneck, out of noise, and as a probabilistic model.

Those with noise draw it anew in every step of training. Examples that validate and test carry noise
of their own, `inputs = (pixels, noise)`, so that a loss is a number and not a draw.

Source:
    autoencoder              Hinton and Salakhutdinov, "Reducing the dimensionality of data with
                             neural networks", Science 313 (2006), doi:10.1126/science.1127647
    denoising-autoencoder    Vincent, Larochelle, Lajoie, Bengio and Manzagol, "Stacked denoising
                             autoencoders", JMLR 11 (2010)
    variational-autoencoder  Kingma and Welling, "Auto-encoding variational Bayes", ICLR (2014),
                             arXiv:1312.6114

Differs: all are of the size of these digits. The noise to be taken out is Gaussian, one of the
three kinds of Vincent et al.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Float, Key, PyTree, Scalar

from fnn import data, layers, losses
from fnn.perturbations import augmented
from fnn.problems.problem import Budget, Problem
from fnn.problems.supervised import ERROR, Score, network, supervised

PIXELS, LATENT = 64, 8
NOISE = 0.5
"""The standard deviation of the noise to be taken out: about that of the pixels, 0.38."""


def autoencoder() -> Problem:
    """8 x 8 digits through a bottleneck of 8 units, a 64-32-16-8-16-32-64 network of tanh units."""
    return supervised(
        "autoencoder",
        "digits of 8 x 8 pixels through 8 units, 64-32-16-8-16-32-64",
        "Hinton and Salakhutdinov (2006), smaller",
        model=network([32, 16, LATENT, 16, 32, PIXELS]),
        loss=losses.half_squared_error,
        parts=[data.Data(pixels, pixels) for pixels in _pixels()],
        score=ERROR,
        batch_size=32,
        budget=Budget(700, "gradients"),
        target=0.7,
    )


def denoising_autoencoder() -> Problem:
    """8 x 8 digits out of Gaussian noise, a 64-32-64 network of tanh units."""
    model = network([32, PIXELS])

    def apply(params: PyTree, x: tuple[Array, Array]) -> Float[Array, " pixels"]:
        pixels, noise = x
        return model.apply(params, pixels + NOISE * noise)

    return supervised(
        "denoising-autoencoder",
        f"digits of 8 x 8 pixels out of noise of size {NOISE}, 64-32-64",
        "Vincent, Larochelle, Lajoie, Bengio and Manzagol (2010), smaller",
        model=layers.Layer(lambda key, x: model.init(key, x[0]), augmented(apply, _with_fresh)),
        loss=losses.half_squared_error,
        parts=_with_noise(PIXELS),
        score=ERROR,
        batch_size=32,
        budget=Budget(30, "gradients"),
        target=1.35,
    )


def variational_autoencoder() -> Problem:
    """8 x 8 digits as a probabilistic model with 8 latent numbers, tanh units.

    The loss is the bound on -log p(pixels) in nats, for one draw of the latent numbers. The network
    is 64-32-16, which are means and log variances of 8 numbers, and 8-32-64.

    Returns:
        The problem.
    """
    encoder, decoder = network([32, 2 * LATENT]), network([32, PIXELS])

    def init(key: Key[Array, ""], x: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
        (pixels, noise), (first, second) = x, jax.random.split(key)
        return encoder.init(first, pixels), decoder.init(second, noise)

    def apply(params: tuple[PyTree, PyTree], x: tuple[Array, Array]) -> Float[Array, " outputs"]:
        pixels, noise = x
        mean, log_variance = jnp.split(encoder.apply(params[0], pixels), 2)
        latent = mean + jnp.exp(log_variance / 2) * noise
        return jnp.concatenate([decoder.apply(params[1], latent), mean, log_variance])

    def mean_bound(outputs: Float[Array, "n outputs"], targets: Float[Array, "n pixels"]) -> Scalar:
        return jnp.mean(jax.vmap(negative_evidence_bound)(outputs, targets))

    return supervised(
        "variational-autoencoder",
        "digits of 8 x 8 pixels by 8 latent numbers, 64-32-16 and 8-32-64",
        "Kingma and Welling (2014), smaller",
        model=layers.Layer(init, augmented(apply, _with_fresh)),
        loss=negative_evidence_bound,
        parts=_with_noise(LATENT),
        score=Score("nats per image", mean_bound),
        batch_size=32,
        budget=Budget(30, "gradients"),
        target=25.5,
    )


# The bound ----------------------------------------------------------------------------------------


def _split(outputs: Float[Array, " outputs"], target: Array) -> tuple[Array, Array, Array]:
    """The logits of the pixels, and the means and log variances of the latent numbers."""
    size = jnp.size(target)
    mean, log_variance = jnp.split(outputs[size:], 2)
    return outputs[:size], mean, log_variance


def _bound_factor(outputs: Float[Array, " outputs"], target: Array) -> tuple[Array, Array]:
    """The factor (B, s) of the bound, which is convex in the outputs."""
    logits, mean, log_variance = _split(outputs, target)
    B, s = losses.curvature(losses.logistic)(logits, target)
    root = jnp.exp(log_variance / 2) / jnp.sqrt(2.0)
    slope = (jnp.exp(log_variance) - 1) / 2
    B = block_diag(B, jnp.eye(mean.size, dtype=B.dtype), jnp.diag(root))
    return B, jnp.concatenate([s, mean, slope / root])


@partial(losses.with_curvature, factor=_bound_factor, complete=True)
def negative_evidence_bound(
    outputs: Float[Array, " outputs"], target: Float[Array, " pixels"]
) -> Scalar:
    """-log p(pixels | latent) + KL(q(latent | pixels) || N(0, 1)), at least -log p(pixels)."""
    logits, mean, log_variance = _split(outputs, target)
    divergence = jnp.sum(mean**2 + jnp.exp(log_variance) - 1 - log_variance) / 2
    return losses.logistic(logits, target) + divergence


# Pixels and noise ---------------------------------------------------------------------------------


def _pixels() -> list[Float[np.ndarray, "n pixels"]]:
    """The digits that train, validate and test."""
    return [part.inputs for part in data.split(data.digits(), (0.6, 0.2, 0.2), jax.random.key(0))]


def _with_noise(size: int) -> list[data.Data]:
    """The digits with so many numbers of noise each, to be told from the pixels."""
    rng, parts = np.random.RandomState(0), []
    for pixels in _pixels():
        pairs: Any = pixels, rng.normal(size=(len(pixels), size))
        parts.append(data.Data(pairs, pixels))
    return parts


def _with_fresh(key: Key[Array, ""], x: tuple[Array, Array]) -> tuple[Array, Array]:
    """The same pixels with other noise."""
    pixels, noise = x
    return pixels, jax.random.normal(key, noise.shape, noise.dtype)


PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "autoencoder": autoencoder,
    "denoising-autoencoder": denoising_autoencoder,
    "variational-autoencoder": variational_autoencoder,
}
"""The problems by their names."""
