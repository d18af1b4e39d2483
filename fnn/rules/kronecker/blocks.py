"""What K-FAC and EKFAC remember of leaves with factors, and the step that it gives.

Both remember the running factors and, of every factor, what a *refresh* makes of it: its inverse
with the damping in it, or its eigenvectors. A *measure* says what that is and what the curvature
along it is; it is all that the rules differ in. Factors of equal size are renewed in one loop, each
in its turn (see `layout`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, PyTree

from fnn import solvers
from fnn.curvature import Blocks, Factors, Structure, share_out
from fnn.products import dot
from fnn.rules.kronecker.layout import Group, Layout, Pools, Stacks, layout_of


class Memory(NamedTuple):
    """What is remembered of the leaves with Kronecker factors.

    Attributes:
        factors: A and D, means over the batches.
        bases: What the last refresh made of each of them.
        moments: Of `ekfac` the curvature along the eigenvectors, means over the batches; of `kfac`
            none.
    """

    factors: Pools
    bases: Pools
    moments: Stacks


class Measure(NamedTuple):
    """What a refresh makes of factors, and the step that it gives.

    Attributes:
        first: `identities -> bases` of a pool before the first batch.
        renewed: `factor, shift -> basis` of one factor; the shift is its share of the damping.
        step: `memory, group, grad, damping -> step` of the matrices of a group.
        moments: Whether moments along the eigenvectors, the bases, are measured in every step.
    """

    first: Callable[[Float[Array, "k n n"]], Any]
    renewed: Callable[[Float[Array, "n n"], Array], Any]
    step: Callable[[Memory, Group, Float[Array, "b i o"], Array], Array]
    moments: bool = False


class Mean(NamedTuple):
    """A running mean over batches.

    Attributes:
        weight: Of the present batch.
        is_finite: Whether it counts; a batch whose curvature is not finite leaves no trace.
    """

    weight: Float[Array, ""]
    is_finite: Bool[Array, ""]

    def with_batch(self, mean: PyTree, batch: PyTree) -> PyTree:
        """The mean with the present batch in it."""

        def leaf_with_batch(old: Array, new: Array) -> Array:
            change = self.weight * (new - old).astype(self.weight.dtype)
            return jnp.where(self.is_finite, old + change.astype(old.dtype), old)

        return jax.tree.map(leaf_with_batch, mean, batch)


def first_memory(measure: Measure, layout: Layout, dtype: Any) -> Memory:
    """What is remembered before the first batch."""
    identities = {
        size: jnp.tile(jnp.eye(int(size), dtype=dtype), (count, 1, 1))
        for size, count in layout.counts.items()
    }
    return Memory(
        factors=jax.tree.map(jnp.zeros_like, identities),
        bases={size: measure.first(each) for size, each in identities.items()},
        moments={g.name: jnp.zeros(g.shape, dtype) for g in layout.groups if measure.moments},
    )


# Refresh ------------------------------------------------------------------------------------------


@functools.cache
def refreshing(measure: Measure, structure: Structure) -> Callable[..., Memory]:
    """`due, damping, memory -> memory`, renewed for the matrices that are due (see `Stacks`)."""
    # The lanes of a vmap are renewed one after another (see `ladder`).
    layout = layout_of(structure)

    @jax.jit
    @sequential_vmap
    def refreshed(due: Stacks, damping: Stacks, memory: Memory) -> Memory:
        if not layout.groups:
            return memory
        is_any_due = jnp.any(jnp.concatenate(list(due.values())))
        kept = memory.bases, memory.moments
        bases, moments = jax.lax.cond(is_any_due, anew, lambda *_: kept, due, damping, memory)
        return memory._replace(bases=bases, moments=moments)

    def anew(due: Stacks, damping: Stacks, memory: Memory) -> tuple[Pools, Stacks]:
        means = {
            size: jnp.trace(factors, axis1=1, axis2=2) / factors.shape[-1]
            for size, factors in memory.factors.items()
        }
        shifts = layout.pools({
            group.name: Factors(*share_out(*group.factors(means), damping[group.name]))
            for group in layout.groups
        })
        pools_due = layout.pools({name: Factors(each, each) for name, each in due.items()})
        bases = {
            size: _renewed(measure, pools_due[size], factors, shifts[size], memory.bases[size])
            for size, factors in memory.factors.items()
        }
        moments = {
            group.name: _carried(due[group.name], group, memory, bases)
            for group in layout.groups
            if measure.moments
        }
        return bases, moments

    return refreshed


def _renewed(measure: Measure, due: Array, factors: Array, shifts: Array, before: Any) -> Any:
    """The bases of a pool, new where they are due and finite."""
    # As many trips as bases are due, of which `flops.count` counts one, and `flops.metered` all.
    (places,) = jnp.nonzero(due, size=len(due), fill_value=0)

    def with_next(k: Array, bases: Any) -> Any:
        place = places[k]
        new = measure.renewed(factors[place], shifts[place])
        is_finite = solvers.all_finite(new)
        return jax.tree.map(
            lambda base, n: base.at[place].set(jnp.where(is_finite, n, base[place])), bases, new
        )

    return jax.lax.fori_loop(0, jnp.sum(due), with_next, before)


def _carried(due: Array, group: Group, memory: Memory, bases: Pools) -> Float[Array, "b i o"]:
    """The moments along new eigenvectors, of the matrices that the old ones stood for."""
    moments = memory.moments[group.name]
    (old_u, old_v), (u, v) = group.factors(memory.bases), group.factors(bases)

    def along_new() -> Array:
        turned = dot(jnp.square(dot(u.mT, old_u)), moments, jnp.square(dot(old_v.mT, v)))
        is_new = due & jnp.all(jnp.isfinite(turned), (1, 2))
        return jnp.where(is_new[:, None, None], turned, moments)

    return jax.lax.cond(jnp.any(due), along_new, lambda: moments)


# Steps --------------------------------------------------------------------------------------------


def steps_apart(
    measure: Measure,
    layout: Layout,
    sampled: Blocks,
    memory: Memory,
    diagonals: dict[str, Array],
    grad: PyTree,
    damping: Array,
) -> PyTree:
    """The step of every leaf by itself."""
    grads = sampled.matrices(grad)
    steps = {
        path: -g * inverse(diagonals[path], damping + sampled.penalty[path])
        for path, g in grads.items()
        if path in diagonals
    }
    shifts = dampings(layout, sampled, damping)
    for group in layout.groups:
        if any(path in grads for path, _ in group.places):
            stack = group.stacked(grads, lambda place, g=group: _zeros(g, place, damping.dtype))
            step = -measure.step(memory, group, stack, shifts[group.name])
            steps |= group.apart(step, grads)
    return sampled.tree(steps)


def dampings(layout: Layout, sampled: Blocks, damping: Array) -> Stacks:
    """The damping of every matrix, with what the penalties add to its leaf's."""
    return {group.name: _damping(group, sampled.penalty, damping) for group in layout.groups}


def _damping(group: Group, penalty: dict[str, Any], damping: Array) -> Float[Array, " b"]:
    """The damping of every matrix of a group."""
    added = [penalty.get(path, 0.0) for path, _ in group.places]
    if all(each is added[0] for each in added):
        return jnp.broadcast_to(damping + added[0], group.shape[:1])
    parts = [
        jnp.broadcast_to(damping + each, (place.stop - place.start,))
        for each, (_, place) in zip(added, group.places, strict=True)
    ]
    return jnp.concatenate(parts)


def _zeros(group: Group, place: slice, dtype: Any) -> Array:
    """The gradient of a leaf that is left out."""
    return jnp.zeros((place.stop - place.start, *group.shape[1:]), dtype)


def largest_norm(layout: Layout, factors: Pools, diagonals: dict[str, Array]) -> Array:
    """The norm of the largest block, which rotations do not change; 1 where there is none."""
    norms = [jnp.max(diagonal, initial=0) for diagonal in diagonals.values()]
    for group in layout.groups:
        sides = group.factors(factors)
        inputs, outputs = (jnp.linalg.norm(factor, axis=(1, 2)) for factor in sides)
        norms.append(jnp.max(inputs * outputs))
    norm = functools.reduce(jnp.maximum, norms)
    return jnp.where(norm > 0, norm, 1)


# Matrices -----------------------------------------------------------------------------------------


def eigen(factor: Float[Array, "b n n"]) -> tuple[Float[Array, "b n"], Float[Array, "b n n"]]:
    """Eigenvalues, at least 0, and eigenvectors of every factor."""
    if factor.shape[-1] == 1:
        return factor[..., 0], jnp.ones_like(factor)
    return jax.lax.map(spectrum, factor)


def spectrum(factor: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues, at least 0, and eigenvectors of one factor."""
    if len(factor) == 1:
        return jnp.maximum(factor[0], 0), jnp.ones_like(factor)
    values, vectors = jnp.linalg.eigh(factor)
    return jnp.maximum(values, 0), vectors


def shifted_inverse(factor: Float[Array, "n n"], shift: Array) -> Float[Array, "n n"]:
    """(factor + shift)^-1, a pseudo-inverse, by Cholesky where nothing is 0 to rounding."""
    shift = shift.astype(factor.dtype)
    total = factor + shift * jnp.eye(len(factor), dtype=factor.dtype)
    if len(factor) == 1:
        return inverse(total, jnp.zeros((), total.dtype))
    half = jax.lax.linalg.triangular_solve(
        jax.lax.linalg.cholesky(total, symmetrize_input=False),
        jnp.eye(len(factor), dtype=factor.dtype),
        left_side=True,
        lower=True,
    )
    found = dot(half.T, half)

    def by_eigenvalues() -> Array:
        values, vectors = spectrum(factor)
        return dot(vectors * inverse(values, shift), vectors.T)

    # 1 / |X| is at most the least eigenvalue; what `inverse` would cut off is below the rounding.
    rounding = len(factor) * jnp.finfo(total.dtype).eps * jnp.linalg.norm(total)
    least = jnp.maximum(shift, 1 / jnp.linalg.norm(found))
    is_regular = jnp.all(jnp.isfinite(found)) & (least > rounding)
    return jax.lax.cond(is_regular, lambda: found, by_eigenvalues)


def inverse(curvature: Array, damping: Array) -> Array:
    """1 / (curvature + damping), a pseudo-inverse: 0 where that is 0 to rounding."""
    total = curvature + damping
    rounding = max(total.shape, default=1) * jnp.finfo(total.dtype).eps
    return solvers.positive(total, rounding * jnp.max(total, initial=0))
