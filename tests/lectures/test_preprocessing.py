"""Affine maps of features: what they promise, that they invert, and that they see no test data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, curvature, data, losses

RNG = np.random.default_rng(0)
MIXED = RNG.normal(size=(200, 5)) @ RNG.normal(size=(5, 5)) + [1, -20, 300, 0, 5]
WHITENINGS = data.pca_whitening, data.zca_whitening, data.cholesky_whitening
SCALINGS = data.centering, data.standardization, data.min_max_scaling, data.non_negative_shift
MAPS = *SCALINGS, *WHITENINGS


def covariance(rows):
    return np.cov(rows.T, bias=True)


@pytest.mark.parametrize("fit", WHITENINGS)
def test_whitened_data_have_identity_covariance(fit):
    for inputs in (MIXED, data.wine().inputs, data.diabetes().inputs):
        white = fit(inputs).apply(inputs)
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(covariance(white), np.eye(white.shape[1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("fit", MAPS)
def test_every_transform_inverts(fit):
    for inputs in (MIXED, data.wine().inputs):
        prepare, others = fit(inputs), inputs[::-1] * 1.5 + 0.1  # not those it was fitted to
        back = prepare.invert(prepare.apply(others))
        np.testing.assert_allclose(back, others, rtol=0, atol=1e-6)


def test_scalings_are_what_they_say():
    center, standard, unit, shifted = (fit(MIXED).apply(MIXED) for fit in SCALINGS)
    np.testing.assert_allclose(center.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(center.std(axis=0), MIXED.std(axis=0))
    np.testing.assert_allclose(standard.std(axis=0), 1)
    np.testing.assert_allclose([unit.min(axis=0), unit.max(axis=0)], [[0] * 5, [1] * 5], atol=1e-12)
    lowest = MIXED.min(axis=0)
    np.testing.assert_allclose(shifted.min(axis=0), np.where(lowest < 0, 0, lowest), atol=1e-12)
    np.testing.assert_allclose(shifted, MIXED + np.abs(np.minimum(lowest, 0)))


def test_whitenings_are_rotations_of_each_other_with_the_transpose_first():
    """W^T W = M^-1, not W W^T; ZCA is M^-1/2; Cholesky L^T with L L^T = M^-1; roots divide."""
    inverse = np.linalg.inv(covariance(MIXED))
    for fit in WHITENINGS:
        W = fit(MIXED).forward.T
        np.testing.assert_allclose(W.T @ W, inverse, rtol=1e-8, atol=1e-8)
    pca, zca, cholesky = (fit(MIXED).forward.T for fit in WHITENINGS)
    np.testing.assert_allclose(zca, zca.T, atol=1e-10)
    np.testing.assert_allclose(cholesky.T, np.linalg.cholesky(inverse), rtol=1e-7, atol=1e-8)
    assert np.abs(pca @ pca.T - inverse).max() > 0.01
    values, vectors = np.linalg.eigh(covariance(MIXED))
    rows = (vectors / np.sqrt(values)).T[::-1]  # Lambda^-1/2 U^T, the largest first
    np.testing.assert_allclose(np.abs(pca), np.abs(rows), rtol=1e-7, atol=1e-9)
    unrooted = (MIXED - MIXED.mean(axis=0)) @ (vectors / values)
    np.testing.assert_allclose(covariance(unrooted), np.diag(1 / values), atol=1e-6 / values.min())
    slipped = (MIXED - MIXED.mean(axis=0)) @ np.linalg.cholesky(covariance(MIXED))
    assert np.abs(covariance(slipped) - np.eye(5)).max() > 0.1


def test_zca_changes_the_inputs_least():
    centered = MIXED - MIXED.mean(axis=0)
    pca, zca, cholesky = (np.mean((fit(MIXED).apply(MIXED) - centered) ** 2) for fit in WHITENINGS)
    assert zca < min(pca, cholesky)
    distance = np.sum(data.zca_whitening(MIXED).apply(MIXED) ** 2, axis=1)  # Mahalanobis's
    inverse = np.linalg.inv(covariance(MIXED))
    np.testing.assert_allclose(distance, np.einsum("ni,ij,nj->n", centered, inverse, centered))


def test_the_loss_is_better_conditioned_on_prepared_inputs():
    """The curvature of squared error on a linear model, bias included, is that of the inputs."""
    line = Objective(lambda p, x: p[1:] @ x + p[0], losses.half_squared_error)

    def condition(prepare):
        x = MIXED if prepare is None else prepare(MIXED).apply(MIXED)
        operator = curvature.hessian(line.on((x, MIXED[:, 0])), jnp.zeros(6))
        return np.linalg.cond(operator.dense())

    raw, centered, standard, white = map(condition, [None, *SCALINGS[:2], data.zca_whitening])
    assert raw > 1000 * centered > 1000 * standard / 2
    assert standard > 10
    assert white == pytest.approx(1)


# --- test data stay unseen ---


def leaks(prepare):
    """Whether prepared training inputs change when test inputs do."""
    train, test = MIXED[:100], MIXED[100:]
    far = test + 7
    return not np.array_equal(prepare(train, test)[0], prepare(train, far)[0])


@pytest.mark.parametrize("fit", MAPS)
def test_nothing_leaks_from_test_to_train_and_a_planted_leak_is_seen(fit):
    def honest(train, test):
        fitted = fit(train)
        return fitted.apply(train), fitted.apply(test)

    def planted(train, test):
        fitted = fit(np.concatenate([train, test - 30]))
        return fitted.apply(train), fitted.apply(test)

    assert not leaks(honest)
    assert leaks(planted)


# --- bad input ---


@pytest.mark.parametrize("fit", MAPS)
def test_a_constant_feature_becomes_its_mean_again(fit):
    constant = MIXED.copy()
    constant[:, 2] = 1 / 3
    if fit is data.cholesky_whitening:
        with pytest.raises(ValueError, match=r"got rank 4 of 5 features; try zca_whitening, or"):
            fit(constant)
        fitted = fit(constant, eps=1e-3)
    else:
        fitted = fit(constant)
    mapped = fitted.apply(constant)
    assert np.isfinite(mapped).all()
    np.testing.assert_allclose(fitted.invert(mapped), constant, rtol=0, atol=1e-6)
    if fit in (data.standardization, data.min_max_scaling, data.centering, data.zca_whitening):
        np.testing.assert_allclose(mapped[:, 2], 0, atol=1e-12)


def test_a_singular_covariance_is_whitened_where_it_is_not():
    """Digits: 3 pixels are always 0, so 61 directions have variance; so do 4 of 5 examples."""
    inputs = data.digits().inputs
    white = data.pca_whitening(inputs).apply(inputs)
    ones = np.where(np.arange(64) < 61, 1, 0)
    np.testing.assert_allclose(covariance(white), np.diag(ones), rtol=0, atol=1e-6)
    for fit in WHITENINGS[:2]:
        fitted = fit(inputs)
        np.testing.assert_allclose(fitted.invert(fitted.apply(inputs)), inputs, rtol=0, atol=1e-6)
    few = data.zca_whitening(MIXED[:4] @ RNG.normal(size=(5, 8)))
    values = np.linalg.eigvalsh(few.forward @ few.forward @ few.backward @ few.backward)
    np.testing.assert_allclose(np.round(values, 6), [0] * 5 + [1] * 3, atol=1e-5)


def test_one_example_becomes_zero_and_comes_back():
    for fit in (data.standardization, data.min_max_scaling, *WHITENINGS[:2]):
        fitted = fit(MIXED[:1])
        np.testing.assert_array_equal(fitted.apply(MIXED[:1]), np.zeros((1, 5)))
        np.testing.assert_array_equal(fitted.invert(np.zeros((1, 5))), MIXED[:1])


def test_eps_keeps_noise_small():
    values = np.sort(np.linalg.eigvalsh(covariance(MIXED)))[::-1]
    for fit in WHITENINGS:
        fitted = fit(MIXED, eps=0.5)
        got = np.sort(np.linalg.eigvalsh(covariance(fitted.apply(MIXED))))[::-1]
        np.testing.assert_allclose(got, values / (values + 0.5), rtol=1e-6)
        np.testing.assert_allclose(fitted.invert(fitted.apply(MIXED)), MIXED, atol=1e-9)


def test_the_first_components_reconstruct_the_most():
    inputs = data.digits().inputs
    fitted = data.pca_whitening(inputs)
    lost = []
    for k in (1, 5, 20, 61):
        some = np.where(np.arange(64) < k, fitted.apply(inputs), 0)
        lost.append(np.mean((fitted.invert(some) - inputs) ** 2))
    values = np.sort(np.linalg.eigvalsh(covariance(inputs)))[::-1]
    left = [values[k:].sum() / 64 for k in (1, 5, 20, 61)]
    np.testing.assert_allclose(lost, left, atol=1e-12)


def test_maps_pass_through_jit_and_keep_dtypes():
    fitted = data.zca_whitening(MIXED)
    mapped = jax.jit(lambda affine, x: jax.vmap(affine.apply)(x))(fitted, jnp.asarray(MIXED))
    assert isinstance(mapped, jax.Array)
    np.testing.assert_allclose(mapped, fitted.apply(MIXED), atol=1e-9)
    assert type(fitted.apply(MIXED)) is np.ndarray
    for x in (MIXED.astype(np.float32), jnp.asarray(MIXED, jnp.float32)):
        assert fitted.apply(x).dtype == np.float32
        assert fitted.invert(x).dtype == np.float32
    assert data.centering(np.array([[1], [2]])).apply(np.array([[1]])).dtype == np.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.centering(MIXED[0]), r"centering: expected inputs of shape .* got \(5,\)"),
        (lambda: data.min_max_scaling(MIXED[:0]), r"got \(0, 5\); try inputs.reshape"),
        (lambda: data.standardization(MIXED * np.nan), "finite inputs, got 1000 that are not"),
        (lambda: data.pca_whitening(MIXED, eps=-1.0), "pca_whitening: expected eps >= 0, got -1.0"),
        (lambda: data.centering(MIXED).apply(MIXED[:, :4]), r"5 features .*, got shape \(200, 4\)"),
        (lambda: data.centering(MIXED).invert(np.float64(1)), r"got shape \(\)"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
