"""Digests of arrays change with every value, place and sign."""

import jax
import jax.numpy as jnp
import pytest

from fnn.training.sums import digests_of

DTYPES = "float64", "float32", "bfloat16", "float8_e4m3fn", "complex64", "int32", "int8", "int4"


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_values_have_other_digests(dtype):
    values = jnp.array([1, -2, 3, 5]).astype(dtype)
    others = {
        "values": values,
        "negated": -values,
        "reversed": values[::-1],
        "swapped": values[jnp.array([1, 0, 2, 3])],
        "moved": jnp.roll(values, 1),
        "one changed": values.at[2].set(1),
        "longer": jnp.append(values, values[:1]),
        "zeros": jnp.zeros_like(values),
        "none": values[:0],
    }
    digests = digests_of(others)
    assert len(set(digests.values())) == len(others)
    assert digests_of({"again": values.copy()})["again"] == digests["values"]


def test_arrays_that_differ_in_one_bit():
    flags = jax.random.bernoulli(jax.random.key(0), shape=(2**13,))
    one_flipped = {str(i): flags.at[i].set(~flags[i]) for i in range(0, 2**13, 2**10)}
    assert len(set(digests_of(one_flipped | {"none": flags}).values())) == len(one_flipped) + 1
