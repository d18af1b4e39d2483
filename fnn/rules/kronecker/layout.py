"""Where the matrices of a structure stand when equal ones are stacked.

Leaves whose matrices have one shape make a *group*, a stack (b, i, o). The factors of all groups
that have as many rows make a *pool*, a stack (k, n, n): for every group the factors A of its
matrices and then their D. A network of fifty equal layers has one group and one pool. So whatever
is done to all matrices is compiled for each shape, not for each leaf, and the state of a rule has
as many arrays as there are shapes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fnn.curvature import Factors, Structure

Pools = dict[str, Any]
"""Arrays (k, ...), a slice for every factor, by the number of the factor's rows."""

Stacks = dict[str, Array]
"""Arrays (b, ...), a slice for every matrix of a group, by the group's name."""


class Group(NamedTuple):
    """Leaves whose matrices have one shape.

    Attributes:
        name: how `Stacks` call it.
        shape: the numbers (b, i, o) of all of its matrices together.
        places: for the path of every leaf, where its matrices stand among them.
        inputs: where their factors A stand in the pool of i rows.
        outputs: where their factors D stand in the pool of o rows.
    """

    name: str
    shape: tuple[int, int, int]
    places: tuple[tuple[str, slice], ...]
    inputs: slice
    outputs: slice

    def stacked(self, matrices: dict[str, Array], otherwise: Callable[[slice], Array]) -> Array:
        """One stack of the leaves' matrices; those of leaves that are left out are given."""
        return _joined([
            matrices[path] if path in matrices else otherwise(place) for path, place in self.places
        ])

    def apart(self, stack: Array, like: dict[str, Array]) -> dict[str, Array]:
        """The matrices of a stack by the paths of their leaves, of those leaves that there are."""
        return {path: stack[place] for path, place in self.places if path in like}

    def factors(self, pools: Pools) -> Factors:
        """What pools hold for the factors of the group's matrices."""
        _, i, o = self.shape
        return Factors(
            *(
                jax.tree.map(lambda array, place=place: array[place], pools[str(n)])
                for n, place in ((i, self.inputs), (o, self.outputs))
            )
        )


class Layout(NamedTuple):
    """The groups of a structure, and how many factors of every number of rows they have."""

    groups: tuple[Group, ...]
    counts: dict[str, int]

    def pools(self, factors: dict[str, Factors]) -> Pools:
        """Pools of what a group, by its name, has for its factors."""
        parts: dict[str, list[Array]] = {size: [] for size in self.counts}
        for group in self.groups:
            for n, side in zip(group.shape[1:], factors[group.name], strict=True):
                parts[str(n)].append(side)
        return {size: _joined(sides) for size, sides in parts.items()}

    def with_leaves(self, factors: dict[str, Factors], before: Pools) -> Pools:
        """Pools of the leaves' factors; those of leaves that are left out are as before."""

        def of_group(group: Group) -> Factors:
            old = group.factors(before)
            sides = [
                group.stacked({path: pair[k] for path, pair in factors.items()}, old[k].__getitem__)
                for k in (0, 1)
            ]
            return Factors(*sides)

        return self.pools({group.name: of_group(group) for group in self.groups})

    def leaf(self, pools: Pools, path: str) -> Factors:
        """What pools hold for the factors of a leaf."""
        ((group, place),) = [(g, p) for g in self.groups for at, p in g.places if at == path]
        return jax.tree.map(lambda array: array[place], group.factors(pools))


@functools.cache
def layout_of(structure: Structure) -> Layout:
    """The layout of the leaves that have factors."""
    members: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for path, _, matrix in structure.leaves:
        if matrix is not None:
            b, i, o = matrix
            members.setdefault((i, o), []).append((path, b))
    groups, counts = [], {}
    for (i, o), leaves in members.items():
        places = _slices([b for _, b in leaves])
        b = places[-1].stop
        paths = tuple((path, place) for (path, _), place in zip(leaves, places, strict=True))
        sides = []
        for n in (i, o):
            start = counts.get(str(n), 0)
            counts[str(n)] = start + b
            sides.append(slice(start, start + b))
        groups.append(Group(f"{i} x {o}", (b, i, o), paths, *sides))
    return Layout(tuple(groups), counts)


@functools.cache
def turns(structure: Structure, refresh: int) -> dict[str, np.ndarray]:
    """The turn, 0 to `refresh` - 1, in which each matrix of a group renews its factors' bases."""
    # As many turns as would each take as long as the dearest matrix share all of them evenly; the
    # others have nothing to do. The cost of a matrix (i, o) is i^3 + o^3, and the dearest that is
    # left has the turn that has the least so far.
    groups = layout_of(structure).groups
    turn = {group.name: np.zeros(group.shape[0], np.int32) for group in groups}
    costs = [(i**3 + o**3, name, k) for name, (b, i, o), *_ in groups for k in range(b)]
    costs.sort(key=lambda entry: -entry[0])
    total, most = sum(cost for cost, *_ in costs), max((cost for cost, *_ in costs), default=1)
    loads = np.zeros(min(refresh, -(-total // most)))
    for cost, name, k in costs:
        turn[name][k] = np.argmin(loads)
        loads[turn[name][k]] += cost
    return turn


def _slices(lengths: list[int]) -> list[slice]:
    """Slices of these lengths, one after another."""
    ends = np.cumsum(lengths).tolist()
    return [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def _joined(parts: list[Array]) -> Array:
    """One stack of several."""
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)
