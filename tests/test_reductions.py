"""Numbers of many leaves are what they are of few, in programs that grow no faster than leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.reductions import all_of, packed, total
from fnn.solvers import all_finite


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


def test_many_small_leaves_are_one_vector_for_each_dtype_and_few_are_what_they_were():
    few = [jnp.ones((2, 3)), jnp.ones(())]
    assert all(one is other for one, other in zip(packed(few), few, strict=True))
    many = [jnp.full((k % 3, 2), k, "float32" if k % 2 else "float64") for k in range(40)]
    large = jnp.ones((100, 100))
    found = packed([large, *many, jnp.array(True)])
    assert found[0] is large
    assert len(found) == 4
    assert {leaf.ndim for leaf in found[1:]} == {1}
    assert sorted(str(leaf.dtype) for leaf in found[1:]) == ["bool", "float32", "float64"]
    numbers = np.sort(np.concatenate([leaf.ravel() for leaf in found]))
    np.testing.assert_array_equal(
        numbers, np.sort(np.concatenate([leaf.ravel() for leaf in [large, *many, jnp.array(True)]]))
    )


def test_a_loop_over_many_leaves_is_one():
    def loops(count):
        leaves = [jnp.ones(3 + k % 2) for k in range(count)]
        program = jax.jit(all_finite).lower(leaves).compile().as_text()
        return program.count(" reduce(")

    assert loops(100) == loops(40)


def test_programs_do_not_grow_with_the_square_of_the_leaves():
    def size(count):
        def kept(leaves):
            ok = all_of([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
            return [jnp.where(ok, leaf, 0) for leaf in leaves]

        leaves = [jnp.ones(3)] * count
        return len(jax.jit(kept).lower(leaves).compile().as_text().splitlines())

    assert size(80) < 2.5 * size(40)
