"""Numbers of many leaves are what they are of few, in programs that grow no faster than leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.reductions import all_of, stacked, total
from fnn.rules.trials import differ, mark_of
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


def test_many_small_leaves_of_one_shape_and_dtype_are_one_stack():
    few = [jnp.ones((2, 3)), 1.0, jnp.ones((2, 3))]
    assert [stack.shape for stack in stacked(few)] == [(1, 2, 3), (1,), (1, 2, 3)]
    many = [jnp.full((k % 3, 2), k, "float32" if k % 2 else "float64") for k in range(40)]
    leaves = [*many, jnp.ones((100, 100)), jnp.ones((100, 100)), 1.0]
    stacks = stacked(leaves)
    assert len(stacks) == 6 + 2 + 1
    for leaf in map(jnp.asarray, leaves):
        alike = (s for s in stacks if (s.shape[1:], s.dtype) == (leaf.shape, leaf.dtype))
        assert any(jnp.all(s == leaf, range(1, s.ndim)).any() for s in alike)


def test_loops_over_many_leaves_are_as_many_as_shapes():
    def loops(count):
        leaves = [jnp.ones(3 + k % 2) for k in range(count)]
        program = jax.jit(all_finite).lower(leaves).compile().as_text()
        return program.count(" reduce(")

    assert 0 < loops(100) == loops(40) < 10


@pytest.mark.parametrize("count", [3, 40])
def test_any_number_of_many_leaves_is_seen(count):
    leaves = [jnp.ones(2 + k % 3, "float32" if k % 2 else "float64") for k in range(count)]
    leaves += [jnp.ones((70, 70))]
    assert all_finite(leaves)
    assert not differ(leaves, leaves)
    mark, rounding = mark_of(leaves)
    for k in (0, count - 1, count):
        other = [*leaves[:k], leaves[k].at[-1].set(jnp.nan), *leaves[k + 1 :]]
        assert not all_finite(other)
        assert differ(leaves, other)
        swapped = [*leaves[:k], leaves[k].at[0].add(0.5).at[1].add(-0.5), *leaves[k + 1 :]]
        assert abs(mark_of(swapped)[0] - mark) > rounding


def test_programs_do_not_grow_with_the_square_of_the_leaves():
    def size(count):
        def kept(leaves):
            ok = all_of([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])
            return [jnp.where(ok, leaf, 0) for leaf in leaves]

        leaves = [jnp.ones(3)] * count
        return len(jax.jit(kept).lower(leaves).compile().as_text().splitlines())

    assert size(80) < 2.5 * size(40)
