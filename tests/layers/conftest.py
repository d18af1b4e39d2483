"""Random numbers from NumPy, which has nothing to compile."""

import jax
import numpy as np
import pytest


@pytest.fixture(scope="session")
def random():
    """Normal numbers: `random(seed, *shape)`."""
    return lambda seed, *shape: np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="session")
def drawn(random):
    """Positive random parameters of a layer (so that no scale is 1): `drawn(layer, x)`."""

    def draw(layer, x):
        leaves, tree = jax.tree.flatten(jax.eval_shape(layer.init, jax.random.key(0), x))
        return tree.unflatten([abs(random(i, *leaf.shape)) + 0.1 for i, leaf in enumerate(leaves)])

    return draw
