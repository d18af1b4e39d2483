"""Products in full precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, boltzmann, curvature, data, differential, losses, rules
from fnn.products import HIGHEST, dot
from tests.capture.test_captured import equations


def precisions(fn, *args):
    """Those of the products in a program."""
    closed = jax.make_jaxpr(fn)(*args)
    found = [eqn for eqn in equations(closed) if eqn.primitive.name == "dot_general"]
    return [eqn.params["precision"] for eqn in found]


def test_all_factors_are_multiplied_in_full_precision():
    a, b, c = (np.random.default_rng(i).normal(size=(2, 3, 3)) for i in range(3))
    np.testing.assert_allclose(dot(a, b, c), a @ b @ c)
    np.testing.assert_allclose(dot(a[0], b[0, 0], c[0, 0]), a[0] @ b[0, 0] @ c[0, 0])
    assert precisions(dot, *map(jnp.asarray, (a, b, c))) == [(HIGHEST, HIGHEST)] * 2


def accumulated(params):
    """The step of a rule that solves with the curvature of several batches."""
    value_fn = Objective(lambda w, x: jnp.sum(w * x), losses.half_squared_error).on((
        jnp.ones((4, 3)),
        jnp.ones(4),
    ))
    value, grad = jax.value_and_grad(value_fn)(params)
    rule = rules.accumulate(2, damping=1.0)
    extra = {"value": value, "grad": grad, "value_fn": value_fn}
    return rule.update(grad, rule.init(params), params, **extra)


VECTOR, SQUARE = jnp.linspace(0.0, 1.0, 3), jnp.eye(3) + 0.5
WHITENING = data.Affine(np.zeros(3), np.asarray(SQUARE), np.linalg.inv(SQUARE))
MACHINE = boltzmann.Machine(SQUARE, VECTOR, VECTOR)


@pytest.mark.parametrize(
    ("fn", "x"),
    [
        (WHITENING.apply, VECTOR),
        (WHITENING.invert, VECTOR),
        (lambda image: data.resample(image, SQUARE[:2, :2], VECTOR[:2]), SQUARE),
        (lambda x: boltzmann.free_energy(MACHINE, x), VECTOR),
        (lambda x: jax.jvp(differential.forward(jnp.sin), (x,), (x,)), VECTOR),
        (lambda x: curvature.spectrum.Density(SQUARE, SQUARE).at(x, 0.1), VECTOR),
        (accumulated, VECTOR),
    ],
    ids=["apply", "invert", "resample", "free energy", "forward", "density", "accumulate"],
)
def test_what_a_user_computes_with_has_all_digits_on_every_device(fn, x):
    assert set(precisions(fn, x)) == {(HIGHEST, HIGHEST)}
