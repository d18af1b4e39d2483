"""Autoencoders: PCA and no better, a map of digits, the parts of a bound."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import data, layers, losses, problems

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, tmp_path, **arguments):
    """What an example's `main` returns; its picture is written."""
    made = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](
        picture=tmp_path / f"{name}.png", **arguments
    )
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    return made


def test_principal(tmp_path):
    """Newton's method ends at PCA's error and in its plane; nobody comes below it."""
    left, least, cosines = run("principal", tmp_path, n=100, steps=200, second=30)
    np.testing.assert_allclose(left["linear, trust_region_newton"], least, rtol=1e-7)
    np.testing.assert_allclose(cosines, 1, rtol=1e-6)
    assert min(left.values()) > least * (1 - 1e-9)
    assert max(left.values()) < 1.5 * least


@pytest.mark.gate
def test_autoencoders(tmp_path):
    """Eight epochs of K-FAC, and depth is ahead of PCA on digits that it has not seen."""
    left, pca, agree = run("autoencoders", tmp_path, epochs=8)
    assert left["kfac"] < pca - 0.05 < left["adam"]
    assert agree["deep, kfac"] > agree["PCA"] + 0.03


@pytest.mark.gate
def test_variational(tmp_path):
    """The bound lies above what it bounds, which an integral over the plane tells; EKFAC leads."""
    found = run("variational", tmp_path, epochs=8)
    for lost, divergence, least in found.values():
        assert least < lost + divergence < least + 2
        assert divergence > 0.5
    assert sum(found["ekfac"][:2]) < sum(found["adam"][:2])


@pytest.mark.gate
def test_denoising(tmp_path):
    """Wiener's filter is off by what theory says; no network does better than the mean."""
    errors = run("denoising", tmp_path, epochs=5)
    (images, _), _ = data.split(data.digits(), (0.7, 0.3), jax.random.key(0))
    variances = np.linalg.eigvalsh(np.cov(images.T, bias=True)).clip(0)
    theory = np.sqrt(np.mean(variances * 0.5**2 / (variances + 0.5**2)))
    np.testing.assert_allclose(errors["Wiener's filter"][0], theory, rtol=0.02)
    np.testing.assert_allclose(errors["with noise"], 0.5, rtol=0.02)
    for name in ("network, adam", "network, kfac"):
        assert errors["mean of the known"][0] < errors[name][0] < 1.3 * theory


def test_the_divergence_of_gaussians_in_closed_form():
    """Beside quadrature, which is exact for the logarithm of their ratio, a polynomial."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    rng = np.random.default_rng(0)
    for mean, log_variance in rng.normal(size=(5, 2, 3)) * 2:
        z = mean[:, None] + np.exp(log_variance[:, None] / 2) * nodes
        log_ratio = (z**2 - nodes**2 - log_variance[:, None]) / 2
        exact = np.sum(log_ratio @ weights) / np.sqrt(2 * np.pi)
        np.testing.assert_allclose(
            problems.gaussian_divergence(mean, log_variance), exact, rtol=1e-10
        )
    assert problems.gaussian_divergence(jnp.zeros(3), jnp.zeros(3)) == 0


def test_an_encoder_must_have_two_outputs_for_each_latent_number():
    model = problems.variational(layers.dense(5), layers.dense(4))
    x = jnp.ones(4), jnp.ones(2)
    params = model.init(jax.random.key(0), x)
    with pytest.raises(
        ValueError, match=r"got \(5,\) outputs for noise of shape \(2,\); try layers.dense\(4\)"
    ):
        model.apply(params, x)


def test_dropout_is_on_in_training_and_tiny_variances_keep_a_finite_factor():
    encoder = layers.serial(layers.dense(4), layers.dropout(0.5))
    coder = problems.variational(encoder, layers.dense(3))
    x = jnp.ones(3), jnp.ones(2)
    params = coder.init(jax.random.key(0), x)
    codes = [coder.apply(params, x, key=jax.random.key(i))[3:] for i in range(4)]
    assert len({tuple(map(float, code)) for code in codes}) > 1
    outputs = jnp.array([0.1, 0.2, -900.0], "float64").at[2].set(-900.0)
    B, s = losses.curvature(problems.negative_evidence_bound)(outputs, jnp.ones(1))
    grad = jax.grad(problems.negative_evidence_bound)(outputs, jnp.ones(1))
    assert np.isfinite(B).all()
    np.testing.assert_allclose(B @ s, grad, atol=1e-12)
