"""Shampoo and SOAP: a matrix for every axis of a leaf, from gradients alone.

Both sum up, for every side of a weight matrix G, what gradients are like along it,

    L = b2 L + (1 - b2) G G^T                   R = b2 R + (1 - b2) G^T G

and take the Kronecker product of L and R for the curvature. Shampoo divides by its root. SOAP goes
into its eigenvectors and does there what Adam does, one curvature for every entry. They need no
model, no structure and no extra arguments, so they go wherever Adam goes. What they cost beside it
are two products of a side with the gradient in each step, for each axis, and a decomposition of
every side in every `refresh` steps.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, PyTree

from fnn.dtypes import widest
from fnn.rules.contract import (
    Scalar,
    Schedule,
    checked,
    interned_rule,
    require_rates,
    require_within,
)
from fnn.rules.kronecker.sides import (
    Cut,
    Sides,
    cut,
    eigenvectors,
    into,
    inverse_roots,
    iterated,
    out_of,
    squares,
)


@interned_rule
def soap(
    learning_rate: Scalar | Schedule,
    b1: Scalar = 0.95,
    b2: Scalar = 0.95,
    eps: Scalar = 1e-8,
    refresh: int = 10,
    block_size: int = 1024,
    longest: int = 8192,
) -> optax.GradientTransformationExtraArgs:
    """Adam in the eigenvectors of Shampoo's sides, u = -learning_rate Q_L adam(Q_L^T G Q_R) Q_R^T.

        mu = b1 mu + (1 - b1) Q_L^T G Q_R           nu = b2 nu + (1 - b2) (Q_L^T G Q_R)^2
        u = -learning_rate Q_L mu_hat / (sqrt(nu_hat) + eps) Q_R^T

    and then, for the next step, L = b2 L + (1 - b2) G G^T and R likewise. Every `refresh` steps
    their eigenvectors take one step of orthogonal iteration, Q = qr(L Q), in order of their
    eigenvalues; `mu` is turned with them, and `nu` keeps its order. The first gradient makes the
    first eigenvectors and is no step: u = 0.

    Leaves without sides (vectors, numbers) are Adam's, without the first gradient, which all leaves
    leave to the first basis. Arrays of more axes have a side for each.

    Along eigenvectors where gradients are but their own rounding, steps are as long as elsewhere,
    by the source, too: weights of an input that is always 0 drift, and paths there are not told
    beforehand. (To stop at rounding makes it diverge: `nu` is not turned with the eigenvectors, and
    must be above it everywhere when `mu` is.)

    Weights decay outside of the division, as in `adamw`, by
    `optax.chain(soap(1.0), optax.add_decayed_weights(-decay), optax.scale(learning_rate))`.

    Args:
        learning_rate: at least 0; or a schedule.
        b1: decay of the mean, in [0, 1).
        b2: decay of the mean square and of the sides, in [0, 1).
        eps: at least 0, added to the root.
        refresh: steps from one turn of the eigenvectors to the next, at least 1.
        block_size: longer axes are cut into blocks of equal size of up to as many entries, > 0.
        longest: axes of more entries have no side, > 0.

    Units:
        `learning_rate` is params; eps is loss / params.

    Invariant:
        The path does not change under rotations of the inputs and of the outputs of each weight
        matrix, where no eigenvalue of a side is double, 0 among them; with eps = 0, neither when
        the loss is scaled.

    Returns:
        A rule; its state is a `SidesState`, whose `mu` and `nu` are in the eigenvectors `bases`.
        Half precision is kept in float32. It has no reverse derivatives.

    Source:
        Vyas et al. (2024), "SOAP: improving and stabilizing Shampoo using Adam",
        arXiv:2409.11321, algorithm 3; its authors' program for the order of the eigenvectors, for
        the first step and for `mu` that is turned with them.

    Differs:
        eps is added to the corrected root, as in Adam; the authors' program adds it before.

    Example:
        >>> rule = soap(0.1)
        >>> w, g = jnp.zeros((2, 2)), jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> updates, state = rule.update(g, rule.init(w), w)
        >>> updates, state = rule.update(g, state, w)
        >>> print(updates.round(3) + 0)
        [[-0.1  0. ]
         [ 0.  -0.1]]
    """
    require_rates("soap", learning_rate=learning_rate)
    options = _options("soap", b1, b2, eps, refresh, block_size, longest)
    scale = _by_sides(options, functools.partial(_soap, options))
    return checked(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


@interned_rule
def shampoo(
    learning_rate: Scalar | Schedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.99,
    eps: Scalar = 1e-8,
    refresh: int = 10,
    block_size: int = 1024,
    longest: int = 8192,
    *,
    ridge: Scalar = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """A mean gradient between roots of its sides, u = -learning_rate s L^(-1/4) mu_hat R^(-1/4).

    L and R are means over G G^T and G^T G; an array of k sides has powers of -1 / (2 k). s gives
    each leaf the length of Adam's step (grafting), so that rates of Adam are rates of Shampoo.

    Leaves without sides (vectors, numbers) are Adam's.

    Args:
        learning_rate: at least 0; or a schedule.
        b1: as in `soap`.
        b2: as in `soap`.
        eps: as in `soap`, for Adam's length.
        refresh: steps from one set of roots to the next, at least 1.
        block_size: as in `soap`.
        longest: as in `soap`.
        ridge: share of a side's largest eigenvalue that is added to all of them, at least 0.

    Units:
        `learning_rate` is params; eps is loss / params.

    Invariant:
        The directions do not change under rotations of the inputs and of the outputs of each weight
        matrix; their lengths, Adam's, do. With eps = 0 the path does not change when the loss is
        scaled.

    Returns:
        A rule; its state is a `SidesState`, whose `bases` are the roots. Half precision is kept in
        float32. It has no reverse derivatives.

    Source:
        Gupta, Koren and Singer (2018), "Shampoo: preconditioned stochastic tensor optimization",
        arXiv:1802.09568, algorithms 1 and 2. Anil et al. (2020), arXiv:2002.09018, grafting, blocks
        and axes without sides.

    Differs:
        The root of a side without any gradient yet is the identity. Means in the place of sums,
        corrected for their start from 0, as in Adam. The length is Adam's where the source takes
        AdaGrad's.

    Example:
        >>> rule = shampoo(0.1, eps=0.0)
        >>> w, g = jnp.zeros((2, 2)), jnp.array([[3.0, 0.0], [0.0, 1.0]])
        >>> updates, state = rule.update(g, rule.init(w), w)
        >>> print(updates.round(3) + 0)
        [[-0.1  0. ]
         [ 0.  -0.1]]
    """
    require_rates("shampoo", learning_rate=learning_rate)
    require_within("shampoo", 0, math.inf, ridge=ridge)
    options = _options("shampoo", b1, b2, eps, refresh, block_size, longest)
    scale = _by_sides(options, functools.partial(_shampoo, options, ridge))
    return checked(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


class SidesState(NamedTuple):
    """What `soap` and `shampoo` remember, each field a tree like the parameters.

    Attributes:
        count: of steps.
        mu: the mean gradient, in blocks (blocks, *sizes); of `soap` in the eigenvectors.
        nu: the mean of its squared entries, likewise.
        sides: for every leaf a tuple, of every axis (blocks, n, n) or None.
        bases: likewise; the eigenvectors of `soap`, the inverse roots of `shampoo`.
    """

    count: Any  # an int32 scalar; tuples have a method of this name
    mu: PyTree
    nu: PyTree
    sides: PyTree
    bases: PyTree


class _Options(NamedTuple):
    """The numbers that both rules have."""

    b1: Scalar
    b2: Scalar
    eps: Scalar
    refresh: int
    cut: Callable[[tuple[int, ...]], Cut]


class _Leaf(NamedTuple):
    """What is remembered of one leaf, see `SidesState`."""

    mu: Array
    nu: Array
    sides: Sides
    bases: Sides

    @property
    def has_side(self) -> tuple[bool, ...]:
        """Which axes have a side."""
        return tuple(side is not None for side in self.sides)


def _options(
    rule: str, b1: Scalar, b2: Scalar, eps: Scalar, refresh: int, block_size: int, longest: int
) -> _Options:
    require_within(rule, 0, 1, b1=b1, b2=b2)
    require_within(rule, 0, math.inf, eps=eps)
    for name, number in (("refresh", refresh), ("block_size", block_size), ("longest", longest)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{rule}: expected {name} to be an integer >= 1, got {number!r}")
    return _Options(
        b1, b2, eps, refresh, functools.partial(cut, block_size=block_size, longest=longest)
    )


def _require_same(of: Cut, g: Array, leaf: _Leaf) -> None:
    """Requires a gradient of the shape that a leaf of the state is of."""
    if leaf.mu.shape != (math.prod(of.counts), *of.sizes) or leaf.has_side != of.has_side:
        raise ValueError(
            f"update: expected updates and state of one shape, got {g.shape} and blocks of "
            f"{leaf.mu.shape} with sides {leaf.has_side}; try a state that init of the same rule "
            "made of the same parameters"
        )


# The rules ----------------------------------------------------------------------------------------


def _soap(
    options: _Options, count: Array, grads: list[Array], olds: list[_Leaf]
) -> tuple[list[Array], list[_Leaf]]:
    """The directions for blocks of gradients, and what is remembered after them."""
    t = count - 1  # the first gradient makes the first bases

    def advanced(g: Array, old: _Leaf) -> tuple[Array, _Leaf]:
        mu, nu = _moments(options, into(old.bases, g), old)
        mu, nu = (jnp.where(t > 0, new, 0) for new in (mu, nu))
        direction = out_of(old.bases, _adam(options, t, mu, nu))
        sides = _mean(options.b2, old.sides, squares(old.has_side, g))
        return direction, _Leaf(mu, nu, sides, old.bases)

    pairs = [advanced(g, old) for g, old in zip(grads, olds, strict=True)]
    when = jnp.where(t == 0, 2, jnp.where(t % options.refresh == 0, 1, 0))
    turn = functools.partial(_turned, when)
    return [direction for direction, _ in pairs], _with_sides([leaf for _, leaf in pairs], turn)


@jax.jit
@sequential_vmap
def _turned(when: Array, leaves: list[_Leaf]) -> list[dict[str, Any]]:
    """What leaves hold in new eigenvectors: 0 the same, 1 by one iteration, 2 all anew."""

    def same(leaf: _Leaf) -> dict[str, Any]:  # no sides, since XLA copies what stays in every step
        return {"mu": leaf.mu, "nu": leaf.nu, "bases": leaf.bases}

    def turned(leaf: _Leaf, bases: Sides, nu: Array) -> dict[str, Any]:
        return {"mu": into(bases, out_of(leaf.bases, leaf.mu)), "nu": nu, "bases": bases}

    def iteration(leaf: _Leaf) -> dict[str, Any]:
        return turned(leaf, *iterated(leaf.sides, leaf.bases, leaf.nu))

    def anew(leaf: _Leaf) -> dict[str, Any]:
        return turned(leaf, eigenvectors(leaf.sides), leaf.nu)

    ways = same, iteration, anew
    return jax.lax.switch(when, [lambda way=way: [way(leaf) for leaf in leaves] for way in ways])


def _shampoo(
    options: _Options, ridge: Scalar, count: Array, grads: list[Array], olds: list[_Leaf]
) -> tuple[list[Array], list[_Leaf]]:
    """The directions for blocks of gradients, and what is remembered after them."""

    def advanced(g: Array, old: _Leaf) -> _Leaf:
        sides = _mean(options.b2, old.sides, squares(old.has_side, g))
        return _Leaf(*_moments(options, g, old), sides, old.bases)

    def direction(leaf: _Leaf) -> Array:
        adam = _adam(options, count, leaf.mu, leaf.nu)
        if not any(leaf.has_side):
            return adam
        between = out_of(leaf.bases, leaf.mu)
        length = jnp.linalg.norm(between)
        return between * (jnp.linalg.norm(adam) / jnp.where(length > 0, length, 1))

    def rooted(leaves: list[_Leaf]) -> list[dict[str, Any]]:
        is_due = (count == 1) | (count % options.refresh == 0)
        share = _share(options.b2, count, jnp.zeros([]))
        sides, bases = [leaf.sides for leaf in leaves], [leaf.bases for leaf in leaves]
        return [{"bases": each} for each in _roots(is_due, share, ridge, sides, bases)]

    leaves = [advanced(g, old) for g, old in zip(grads, olds, strict=True)]
    leaves = _with_sides(leaves, rooted)
    return [direction(leaf) for leaf in leaves], leaves


@jax.jit
@sequential_vmap
def _roots(
    is_due: Array, share: Array, ridge: Array, sides: list[Sides], bases: list[Sides]
) -> list[Sides]:
    """The inverse roots of sides where they are due, else those before."""

    def root(of: Sides) -> Sides:
        means = jax.tree.map(lambda side: side / share.astype(side.dtype), of)
        return inverse_roots(means, ridge)

    return jax.lax.cond(is_due, lambda: [root(of) for of in sides], lambda: bases)


def _with_sides(
    leaves: list[_Leaf], renewed: Callable[[list[_Leaf]], list[dict[str, Any]]]
) -> list[_Leaf]:
    """The leaves, of which those that have sides get what is renewed, all at once."""
    leaves, places = list(leaves), [k for k, leaf in enumerate(leaves) if any(leaf.has_side)]
    fields = renewed([leaves[k] for k in places]) if places else []
    for k, found in zip(places, fields, strict=True):
        leaves[k] = leaves[k]._replace(**found)
    return leaves


def _moments(options: _Options, g: Array, old: _Leaf) -> tuple[Array, Array]:
    """The running means of gradients and of their squared entries."""
    return _mean(options.b1, old.mu, g), _mean(options.b2, old.nu, jnp.real(g * g.conj()))


def _mean(decay: Scalar, old: PyTree, new: PyTree) -> PyTree:
    """The running mean, in its own dtype, whatever that of a traced decay is."""
    return jax.tree.map(lambda o, n: (decay * o + (1 - decay) * n).astype(o.dtype), old, new)


def _adam(options: _Options, t: Array, mu: Array, nu: Array) -> Array:
    """Adam's direction after t gradients; 0 / 0 is 0."""
    has_any = nu > 0  # else the root has no derivative
    root = jnp.sqrt(jnp.where(has_any, nu, 1) / _share(options.b2, t, nu))
    divisor = jnp.where(has_any, root, 0) + options.eps
    return mu / _share(options.b1, t, nu) / jnp.where(divisor > 0, divisor, 1)


def _share(decay: Scalar, t: Array, like: Array) -> Array:
    """What of a running mean is not its start from 0; 1 before the first gradient."""
    share = 1 - decay ** jnp.asarray(t, jnp.finfo(like.dtype).dtype)
    return jnp.where(t > 0, share, 1)


# All leaves ---------------------------------------------------------------------------------------


def _columns(treedef: Any, state: SidesState) -> list[list]:
    """What every field of the state has for each leaf of the gradient."""
    if not isinstance(state, SidesState):
        raise TypeError(
            f"update: expected the state of soap or shampoo, got {type(state).__name__}; try the "
            "state that init of the same rule made"
        )
    try:
        return [treedef.flatten_up_to(field) for field in state[1:]]
    except ValueError as error:
        raise ValueError(
            f"update: expected updates and state of one structure, got updates {treedef}; try a "
            "state that init made of the same parameters"
        ) from error


def _by_sides(options: _Options, recurrence: Callable) -> optax.GradientTransformation:
    """The recurrence of the leaves' blocks as a transformation of trees."""

    def begin(p: Array) -> _Leaf:
        dtype = widest(jnp.float32, p.dtype)
        of = options.cut(p.shape)
        blocks = of.blocks(jnp.zeros(p.shape, dtype))
        sides = squares(of.has_side, blocks)
        real = jnp.finfo(dtype).dtype
        bases = jax.tree.map(lambda side: side + jnp.eye(side.shape[-1], dtype=dtype)[None], sides)
        return _Leaf(blocks, jnp.zeros(blocks.shape, real), sides, bases)

    def init(params: PyTree) -> SidesState:
        leaves, treedef = jax.tree.flatten(params)
        columns = zip(*map(begin, leaves), strict=True) if leaves else [[]] * len(_Leaf._fields)
        fields = (treedef.unflatten(column) for column in columns)
        return SidesState(jnp.zeros([], jnp.int32), *fields)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, SidesState]:
        del params
        count = optax.safe_increment(state.count)
        grads, treedef = jax.tree.flatten(updates, is_leaf=lambda g: g is None)
        leaves = list(map(_Leaf, *_columns(treedef, state)))
        given = [k for k, g in enumerate(grads) if g is not None]
        cuts = [options.cut(grads[k].shape) for k in given]
        blocks = []
        for of, k in zip(cuts, given, strict=True):
            _require_same(of, grads[k], leaves[k])
            blocks.append(of.blocks(grads[k].astype(leaves[k].mu.dtype)))
        blocks, new = recurrence(count, blocks, [leaves[k] for k in given])
        for k, of, direction, leaf in zip(given, cuts, blocks, new, strict=True):
            grads[k], leaves[k] = of.joined(direction), leaf
        directions = treedef.unflatten(grads)
        columns = zip(*leaves, strict=True) if leaves else state[1:]
        fields = (treedef.unflatten(column) for column in columns)
        return directions, SidesState(count, *fields)

    return optax.GradientTransformation(init, update)
