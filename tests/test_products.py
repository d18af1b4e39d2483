"""Products in full precision."""

import jax
import jax.numpy as jnp
import numpy as np

from fnn import programs
from fnn.products import HIGHEST, dot


def test_all_factors_are_multiplied_in_full_precision():
    a, b, c = (np.random.default_rng(i).normal(size=(2, 3, 3)) for i in range(3))
    np.testing.assert_allclose(dot(a, b, c), a @ b @ c)
    np.testing.assert_allclose(dot(a[0], b[0, 0], c[0, 0]), a[0] @ b[0, 0] @ c[0, 0])

    def precisions(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn.params["precision"]
            for body in programs.bodies(eqn):
                yield from precisions(body.jaxpr)

    found = list(precisions(jax.make_jaxpr(dot)(*map(jnp.asarray, (a, b, c))).jaxpr))
    assert found == [(HIGHEST, HIGHEST)] * 2
