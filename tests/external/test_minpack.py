"""The MINPACK suite: least squares problems with the norms that MINPACK itself reaches.

The residuals are `fnn.problems.minpack`'s; the final norms are those of MINPACK's reference output
for LMDER1 at a tolerance of sqrt(eps). One setting of ours runs them all. Three of the 53 cases are
left out because MINPACK gives up on them.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, rules
from fnn.problems.minpack import CASES, PUBLISHED

RULE = rules.levenberg_marquardt(scaling=rules.scaling.more)
STEPS = 1000


FAR = (1.0, 10.0, 100.0)
NORMS = {
    # name: factors of the start, final norms of LMDER1
    "linear full rank, 10": (FAR[:1], [2.2360680]),
    "linear full rank, 50": (FAR[:1], [6.7082039]),
    "linear rank one, 10": (FAR[:1], [1.4638501]),
    "linear rank one, 50": (FAR[:1], [3.4826302]),
    "linear with zeros, 10": (FAR[:1], [1.9097274]),
    "linear with zeros, 50": (FAR[:1], [3.6917294]),
    "rosenbrock": (FAR, [0, 0, 0]),
    "helical valley": (FAR, [0, 0, 0]),
    "powell singular": (FAR[1:], [0, 0]),
    "freudenstein-roth": (FAR, [6.9988752] * 3),
    "bard": (FAR, [9.0635960e-2, 4.1747687, 4.1747687]),
    "kowalik-osborne": (FAR[:2], [1.7535838e-2, 3.2052193e-2]),
    "meyer": (FAR[:1], [9.3779451]),
    "watson, 6": (FAR, [4.7829594e-2] * 3),
    "watson, 9": (FAR, [1.1831146e-3] * 3),
    "watson, 12": (FAR, [2.1731040e-5] * 3),
    "box": (FAR[:1], [0]),
    "jennrich-sampson": (FAR[:1], [1.1151779e1]),
    "brown-dennis": (FAR, [2.9295429e2, 2.9295427e2, 2.9295431e2]),
    "chebyquad, 1": (FAR, [1.8862380, 1.8842482, 1.8842482]),
    "chebyquad, 8": (FAR[:1], [5.9303236e-2]),
    "chebyquad, 9": (FAR[:1], [0]),
    "chebyquad, 10": (FAR[:1], [8.0647100e-2]),
    "brown almost linear, 10": (FAR, [0, 0, 0]),
    "brown almost linear, 30": (FAR[:1], [0]),
    "brown almost linear, 40": (FAR[:1], [0]),
    "osborne 1": (FAR[:1], [7.3924926e-3]),
    "osborne 2": (FAR[:1], [2.0034404e-1]),
}


def walk(rule, residual, m, starts, until, steps=STEPS):
    """Parameters, states and gradients where `until` says so, one start after the other."""
    value_fn = Objective(lambda x, _: residual(x, m)).on(jnp.zeros(1))

    def step(carry):
        x, state = carry
        grad = jax.grad(value_fn)(x)
        updates, state = rule.update(grad, state, x, grad=grad, value_fn=value_fn)
        return optax.apply_updates(x, updates), state

    def going(carry):
        x, state = carry
        return (state.info.steps < steps) & ~until(x, state, jax.grad(value_fn))

    @jax.jit
    def run(starts):
        return jax.lax.map(lambda x: jax.lax.while_loop(going, step, (x, rule.init(x))), starts)

    return run(starts)


@pytest.mark.parametrize("name", NORMS)
def test_reaches_the_norms_of_minpack(name):
    (residual, start, m), (factors, norms) = CASES[name], NORMS[name]
    starts = np.stack([f * start if start.any() else np.full_like(start, f) for f in factors])
    starts[0] = start if factors[0] == 1 else starts[0]
    xs, _ = walk(RULE, residual, m, starts, lambda _x, state, _grad: state.info.stalled)
    for first, last, norm in zip(starts, xs, norms, strict=True):
        before, after = (np.linalg.norm(residual(jnp.asarray(x), m)) for x in (first, last))
        assert after <= (1 + 1e-6) * norm if norm else after < 1e-10 * before


def test_madsen_and_nielsen_count_the_same_iterations():
    """Rosenbrock's function in Introduction to Optimization and Data Fitting (2010)."""

    def until(x, _state, grad):
        return jnp.max(jnp.abs(grad(x))) <= 1e-8

    def scaled(x, m):
        return np.sqrt(2) * CASES["rosenbrock"].residual(x, m)

    rule = rules.levenberg_marquardt(acceleration=0)
    (x,), state = walk(rule, scaled, 2, np.array([[-1.2, 1.0]]), until)
    np.testing.assert_allclose(x - 1, [-4.07e-9, -8.16e-9], atol=1e-11)  # their digits
    assert abs(int(state.info.steps[0]) - 16) <= 2


def test_what_is_raced_aims_at_these_norms():
    assert set(CASES) == set(NORMS)
    assert {name: NORMS[name][1][0] for name in PUBLISHED} == PUBLISHED
