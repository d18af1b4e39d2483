"""Products in full precision."""

import jax
import jax.numpy as jnp
import numpy as np

from fnn.products import HIGHEST, dot
from tests.capture.test_captured import equations


def test_all_factors_are_multiplied_in_full_precision():
    a, b, c = (np.random.default_rng(i).normal(size=(2, 3, 3)) for i in range(3))
    np.testing.assert_allclose(dot(a, b, c), a @ b @ c)
    np.testing.assert_allclose(dot(a[0], b[0, 0], c[0, 0]), a[0] @ b[0, 0] @ c[0, 0])

    found = [
        eqn.params["precision"]
        for eqn in equations(jax.make_jaxpr(dot)(*map(jnp.asarray, (a, b, c))))
        if eqn.primitive.name == "dot_general"
    ]
    assert found == [(HIGHEST, HIGHEST)] * 2
