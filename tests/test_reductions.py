"""Numbers of many leaves are what they are of few, in programs that grow no faster than leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.reductions import all_of, total


@pytest.mark.parametrize("count", [1, 3, 40])
def test_sums_and_flags_are_those_of_numpy(count):
    numbers = jnp.asarray(np.random.default_rng(0).normal(size=(count, 2)))
    np.testing.assert_allclose(total([*numbers]), np.sum(numbers, 0), rtol=1e-12, atol=1e-12)
    flags = [jnp.array(True)] * count
    assert all_of(flags)
    assert not all_of([*flags[1:], jnp.array(False)])


def test_of_no_flags_all_are_true():
    assert all_of([])


def test_sums_have_derivatives_and_lanes():
    numbers = jnp.arange(40.0)
    slopes = jax.grad(lambda x: total([*(x * x)]))(numbers)
    np.testing.assert_allclose(slopes, 2 * numbers)
    lanes = jax.vmap(lambda x: all_of([*(x > 0)]))(jnp.stack([numbers, numbers + 1]))
    assert lanes.tolist() == [False, True]


def test_programs_do_not_grow_with_the_square_of_the_leaves():
    def size(count):
        def kept(leaves):
            ok = all_of([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
            return [jnp.where(ok, leaf, 0) for leaf in leaves]

        leaves = [jnp.ones(3)] * count
        return len(jax.jit(kept).lower(leaves).compile().as_text().splitlines())

    assert size(80) < 2.5 * size(40)
