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
    model = variational(network([32, 2 * LATENT]), network([32, PIXELS]))

    def mean_bound(outputs: Float[Array, "n outputs"], targets: Float[Array, "n pixels"]) -> Scalar:
        return jnp.mean(jax.vmap(negative_evidence_bound)(outputs, targets))

    return supervised(
        "variational-autoencoder",
        "digits of 8 x 8 pixels by 8 latent numbers, 64-32-16 and 8-32-64",
        "Kingma and Welling (2014), smaller",
        model=model,
        loss=negative_evidence_bound,
        parts=_with_noise(LATENT),
        score=Score("nats per image", mean_bound),
        batch_size=32,
        budget=Budget(30, "gradients"),
        target=25.5,
    )


# Encoder, decoder and bound -----------------------------------------------------------------------


def variational(encoder: layers.Layer, decoder: layers.Layer) -> layers.Layer:
    """decoder(mean + exp(log_variance / 2) noise), mean and log_variance being encoder(x).

    Its inputs are pairs (x, noise), as many numbers of noise as there are latent numbers. In
    training (with a key) the noise is drawn anew; in inference it is that which is given, so that
    a loss is a number and not a draw, and with noise 0 the decoder sees the mean. An encoder whose
    outputs are not twice as many as the noise is refused while tracing.

    Args:
        encoder: from x to means and log variances, one after the other: 2 k numbers.
        decoder: from k latent numbers to logits.

    Shapes:
        x (n,), noise (k,); outputs (n + 2 k,), what `negative_evidence_bound` wants.

    Returns:
        A layer; its parameters are those of the encoder and those of the decoder, a pair.

    Source:
        Kingma and Welling, "Auto-encoding variational Bayes", ICLR (2014), arXiv:1312.6114,
        section 2.4.

    Example:
        >>> coder = variational(layers.dense(2 * 3), layers.dense(5))
        >>> x = jnp.ones(5), jnp.zeros(3)
        >>> coder.apply(coder.init(jax.random.key(0), x), x).shape
        (11,)
    """

    def init(key: Key[Array, ""], x: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
        (pixels, noise), (first, second) = x, jax.random.split(key)
        return encoder.init(first, pixels), decoder.init(second, noise)

    def apply(
        params: tuple[PyTree, PyTree], x: tuple[Array, Array], *, key: Key[Array, ""] | None = None
    ) -> Float[Array, " outputs"]:
        first = second = None  # the keys of dropout in encoder and decoder
        if key is not None:
            x, (first, second) = _with_fresh(key, x), jax.random.split(jax.random.fold_in(key, 1))
        pixels, noise = x
        code = encoder.apply(params[0], pixels, key=first)
        if jnp.shape(code) != (2 * jnp.size(noise),):
            raise ValueError(
                f"variational: expected an encoder of twice as many outputs as numbers of noise, "
                f"got {jnp.shape(code)} outputs for noise of shape {jnp.shape(noise)}; try "
                f"layers.dense({2 * jnp.size(noise)}) as its last layer"
            )
        mean, log_variance = jnp.split(code, 2)
        latent = mean + jnp.exp(log_variance / 2) * noise
        logits = decoder.apply(params[1], latent, key=second)
        return jnp.concatenate([logits, mean, log_variance])

    return layers.Layer(init, apply)


def gaussian_divergence(mean: Float[Array, " k"], log_variance: Float[Array, " k"]) -> Scalar:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), summed over independent numbers, in nats.

        1/2 sum(mean^2 + exp(log_variance) - 1 - log_variance)

    Args:
        mean: the means.
        log_variance: logarithms of the variances.

    Returns:
        A number >= 0, and 0 only of means 0 and variances 1.

    Source:
        Kingma and Welling, "Auto-encoding variational Bayes", ICLR (2014), arXiv:1312.6114,
        appendix B.

    Example:
        >>> float(gaussian_divergence(jnp.array([3.0, 0.0]), jnp.zeros(2)))
        4.5
    """
    return jnp.sum(mean**2 + jnp.expm1(log_variance) - log_variance) / 2


def _split(outputs: Float[Array, " outputs"], target: Array) -> tuple[Array, Array, Array]:
    """The logits of the pixels, and the means and log variances of the latent numbers."""
    size = jnp.size(target)
    mean, log_variance = jnp.split(outputs[size:], 2)
    return outputs[:size], mean, log_variance


def _bound_factor(outputs: Float[Array, " outputs"], target: Array) -> tuple[Array, Array]:
    """The factor (B, s) of the bound, which is convex in the outputs."""
    logits, mean, log_variance = _split(outputs, target)
    B, s = losses.curvature(losses.logistic)(logits, target)
    # Variances that the dtype holds neither of nor the root of: the factor stays finite.
    least, most = (
        jnp.log(bound) for bound in (jnp.finfo(mean.dtype).tiny, jnp.finfo(mean.dtype).max)
    )
    root = jnp.exp(jnp.clip(log_variance, least, most) / 2) / jnp.sqrt(2.0).astype(mean.dtype)
    slope = jnp.expm1(log_variance) / 2
    B = block_diag(B, jnp.eye(mean.size, dtype=B.dtype), jnp.diag(root))
    return B, jnp.concatenate([s, mean, slope / root])


@partial(losses.with_curvature, factor=_bound_factor, complete=True)
def negative_evidence_bound(
    outputs: Float[Array, " outputs"], target: Float[Array, " pixels"]
) -> Scalar:
    """-log p(pixels | latent) + KL(q(latent | pixels) || N(0, 1)), at least -log p(pixels).

    In the mean over noise it is KL(q(latent | pixels) || p(latent | pixels)) above it. Pixels
    between 0 and 1 count as shares of white: p is then no density, and a bound of it all the same.

    Args:
        outputs: those of `variational`: logits of the pixels, k means and k log variances.
        target: pixels in [0, 1].

    Returns:
        The bound in nats; its curvature is attached.

    Source:
        Kingma and Welling, "Auto-encoding variational Bayes", ICLR (2014), arXiv:1312.6114,
        equation 10, with one draw.

    Example:
        >>> outputs = jnp.concatenate([jnp.zeros(2), jnp.zeros(1), jnp.zeros(1)])
        >>> f"{negative_evidence_bound(outputs, jnp.array([0.0, 1.0])):.4f}"
        '1.3863'
    """
    logits, mean, log_variance = _split(outputs, target)
    return losses.logistic(logits, target) + gaussian_divergence(mean, log_variance)


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
