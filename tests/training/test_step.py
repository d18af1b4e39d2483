"""One step of a rule: what it refuses, and says about it."""

import jax.numpy as jnp
import pytest

from fnn import rules
from fnn.training import step

W = jnp.array([1.0, 2.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("adam", None, W, jnp.sum), "expected a rule, got 'adam'"),
        ((rules.sgd(0.1), None, W, 3.0), "expected a value function, got float"),
        ((rules.sgd(0.1), None, {"a": W + 1j}, jnp.sum), r"complex128 at params\['a'\]"),
        ((rules.sgd(0.1), None, [1, W], jnp.sum), r"int'> at params\[0\]"),
        ((rules.sgd(0.1), None, W, jnp.square), r"to one number, got .*\(2,\)|shape=\(2,\)"),
    ],
)
def test_misuse_is_named(arguments, message):
    with pytest.raises(TypeError, match=f"step: .*{message}"):
        step(*arguments)
