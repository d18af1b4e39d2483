"""A digest knows a program again, and no other program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn.programs import digest

X = jnp.arange(3.0)
ONE, OTHER = np.arange(3.0), np.arange(1.0, 4.0)
KEYS = jax.random.key(0), jax.random.key(1)


def digest_of(fn, x=X):
    return digest(jax.make_jaxpr(fn)(x))


def with_custom_slope(factor):
    """A function whose value hides its slope."""

    @jax.custom_jvp
    def fn(x):
        return jnp.sum(x)

    fn.defjvp(lambda primals, tangents: (fn(*primals), factor * jnp.sum(tangents[0])))
    return jax.value_and_grad(fn)


def looped(trips):
    return lambda x: jax.lax.fori_loop(0, trips, lambda _, y: jnp.sin(y), x)


def chosen(slope):
    return lambda x: jax.lax.cond(x[0] > 0, jnp.sin, lambda y: slope * y, x)


PROGRAMS = {
    "a literal": lambda: lambda x: 2.0 * x,
    "another literal": lambda: lambda x: 3.0 * x,
    "a constant": lambda: lambda x: ONE * x,
    "another constant": lambda: lambda x: OTHER * x,
    "a constant in a call": lambda: jax.jit(lambda x: ONE * x),
    "a key": lambda: lambda x: jax.random.bits(KEYS[0], 3) * x,
    "another key": lambda: lambda x: jax.random.bits(KEYS[1], 3) * x,
    "an order": lambda: lambda x: x - jnp.sin(x),
    "another order": lambda: lambda x: jnp.sin(x) - x,
    "a parameter": lambda: lambda x: jnp.sum(x, keepdims=True),
    "a slope": lambda: with_custom_slope(1.0),
    "another slope": lambda: with_custom_slope(2.0),
    "a loop": lambda: looped(3),
    "a longer loop": lambda: looped(4),
    "a branch": lambda: chosen(1.5),
    "another branch": lambda: chosen(2.5),
    "an unused result": lambda: lambda x: (jnp.cos(x), 2.0 * x)[1],
}


@pytest.fixture(scope="module")
def digests():
    return {name: digest_of(make()) for name, make in PROGRAMS.items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_is_made_anew_has_the_same_digest(name, digests):
    assert digest_of(PROGRAMS[name]()) == digests[name]


def test_no_two_of_them_have_the_same(digests):
    assert len(set(digests.values())) == len(PROGRAMS)


def test_shapes_and_dtypes_count_and_names_do_not():
    def named(number):
        return jnp.sin(number)

    named_otherwise = jax.jit(jnp.sin)
    assert digest_of(named) == digest_of(lambda x: jnp.sin(x))
    assert digest_of(named_otherwise) == digest_of(jax.jit(named))
    kinds = jnp.zeros(3), jnp.zeros(4), jnp.zeros((3, 1)), jnp.zeros(3, jnp.float16)
    assert len({digest_of(named, kind) for kind in kinds}) == 4
