"""Whether a step was taken is told by a sum over all parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from fnn.rules.damping import DampingState, nielsen
from fnn.rules.trials import Proposal, by_gain, first_accepted, mark_of, unlearned


def test_a_sum_in_another_order_is_no_change_and_a_small_step_is_one():
    """Of a million numbers of one sign, as eight lanes of a processor add them."""
    numbers = np.random.default_rng(0).uniform(0.5, 1.5, 2**20).astype(np.float32)
    weights = 1 + np.arange(len(numbers), dtype=np.float32) / len(numbers)
    mark, rounding = mark_of(jnp.asarray(numbers))
    lanes = np.cumsum((numbers * weights).reshape(-1, 8), axis=0)[-1]
    assert abs(mark - lanes.sum()) < rounding
    assert abs(mark - mark_of(jnp.asarray(numbers * np.float32(1 + 1e-4)))[0]) > rounding


def test_without_a_verdict_steps_are_not_looked_at_again():
    zero, one = jnp.zeros(()), jnp.ones(())
    damping = DampingState(one, one + 1, one, zero)
    policy = by_gain(nielsen())

    def propose(damping):
        return Proposal(-damping.value, zero, one, jnp.array(True))

    known, changed = unlearned(damping, one, one, policy)
    trial = first_accepted(propose, policy, one, one, known, None)
    assert (bool(changed), bool(trial.accepted)) == (False, True)
    assert trial.damping.verdict is None
    assert jax.tree.structure(known) == jax.tree.structure(damping)
