"""The evidence: how probable the data are under a prior and a noise, whatever the parameters.

With alpha, beta, E_D, E_W and C as in `laplace`, with l for the eigenvalues of N C, of P parameters
and R residuals,

    log evidence = -F - 1/2 sum log(1 + beta l / alpha) + R/2 log(beta / 2 pi)
    gamma = sum beta l / (beta l + alpha),        the effective number of parameters, 0 .. P

and it is largest where alpha = gamma / (2 E_W) and beta = (R - gamma) / (2 E_D): the prior's
variance is that of the parameters that the data determine, the noise's that of the residuals that
are left when each of those has used up one.

The matrix M = N C is that of the parameters (P x P) or N A A^T of the rows (R x R), which has the
same eigenvalues but for zeros, whichever is smaller: nothing P x P is formed for a large network on
few data. Parameters have units, and beside a curvature of 1e24 the eigenvalues of M lose one of 1
to rounding. So the sum beta M + alpha, to which a prior that is the same for all parameters belongs
as it is, is scaled to a unit diagonal before it is diagonalized,

    D = diag(beta M + alpha),     D^-1/2 (beta M + alpha) D^-1/2 = V S V^T,     W = D^-1/2 V

and with m = W^T M W and p = W^T W, of each column of W,

    S = beta m + alpha p,      (beta M + alpha)^-1 = W S^-1 W^T,      gamma = sum beta m / S
    sum log(1 + beta l / alpha) = sum log(D / alpha) + sum log S.

None of these depends on the units of the parameters. The ratios m / p take the place of the
eigenvalues l: they are the same at other alpha and beta where D is a multiple of 1, and close to
that elsewhere, so that the largest evidence is found with few decompositions. A direction is lost
where S is 0 up to rounding: nothing is known of it but the prior.

A loss that is itself a negative log-likelihood (logistic, cross-entropy) has no noise to estimate:
there beta is 1 and the terms in R are absent. A loss that is not known as a likelihood is taken for
squares.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from fnn import losses, solvers
from fnn.curvature.quadratic import Quadratic
from fnn.objective import EXAMPLES, Block, Term, ValueFunction, wide
from fnn.products import dot


class Directions(NamedTuple):
    """Directions in which beta M + alpha falls apart, for one alpha and beta.

    Attributes:
        vectors: W, in columns.
        data: m, the curvature along each; what is 0 up to rounding is 0.
        prior: p, the squared length of each.
        is_lost: whether data and prior along a direction are 0 up to rounding.
    """

    vectors: Float[Array, "n n"]
    data: Float[Array, " n"]
    prior: Float[Array, " n"]
    is_lost: Bool[Array, " n"]

    def precisions(self, alpha: Scalar, beta: Scalar) -> Float[Array, " n"]:
        """S, the precision along each direction."""
        return beta * self.data + alpha * self.prior

    def gamma(self, alpha: Scalar, beta: Scalar) -> Scalar:
        """The effective number of parameters, exact at the alpha and beta of the directions."""
        precisions = jnp.where(self.data > 0, self.precisions(alpha, beta), 1)
        return jnp.sum(jnp.where(self.data > 0, beta * self.data / precisions, 0))

    def root(self, alpha: Scalar, beta: Scalar) -> Float[Array, "n n"]:
        """W S^-1/2, a square root of (beta M + alpha)^-1."""
        known = self.vectors / jnp.sqrt(self.precisions(alpha, beta))[None, :]
        return jnp.where(self.vectors == 0, 0, known)  # what has no part in a lost one is known


class Evidence(NamedTuple):
    """What the evidence of alpha and beta depends on, at fixed parameters.

    Attributes:
        matrix: M, the Hessian of E_D (Gauss-Newton), or the smaller matrix of its rows.
        data: E_D.
        weights: E_W.
        examples: N.
        residuals: R; 0 for a likelihood, whose beta is 1.
        offset: a number that blocks of different scales add to the logarithm.
    """

    matrix: Float[Array, "n n"]
    data: Scalar
    weights: Scalar
    examples: Scalar
    residuals: Scalar
    offset: Scalar

    def directions(self, alpha: Scalar, beta: Scalar) -> Directions:
        """The eigenvectors of beta M + alpha, scaled to a unit diagonal; NaN if M is not finite."""
        size, eps = len(self.matrix), jnp.finfo(self.matrix.dtype).eps
        diagonal = beta * jnp.diagonal(self.matrix) + alpha
        scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
        scaled = scale[:, None] * self.matrix * scale[None, :]
        values, vectors, is_finite = solvers.diagonalize(beta * scaled + jnp.diag(alpha * scale**2))
        is_lost = is_finite & (values <= size * eps * jnp.max(values))
        # What rounding puts into a lost direction would be multiplied by a variance without bound.
        is_noise = is_lost[None, :] & (jnp.abs(vectors) <= size * eps)
        vectors = jnp.where(is_noise, 0, vectors)
        # Along a vector the curvature is found better than as a difference of an eigenvalue.
        data = jnp.sum(vectors * dot(scaled, vectors), axis=0)
        rounding = size * eps * jnp.max(jnp.diagonal(scaled))
        data = jnp.where((data > rounding) & ~is_lost, data, 0)
        vectors = scale[:, None] * vectors
        data = jnp.where(is_finite, data, jnp.nan)
        return Directions(vectors, data, jnp.sum(vectors**2, axis=0), is_lost)

    def gamma(self, alpha: Scalar, beta: Scalar) -> Scalar:
        """The effective number of parameters: how many of them the data determine.

        Args:
            alpha: precision of the prior.
            beta: precision of the noise.

        Returns:
            A number between 0 and the smaller of P and R.
        """
        return self.directions(alpha, beta).gamma(alpha, beta)

    def log(self, alpha: Scalar, beta: Scalar, directions: Directions | None = None) -> Scalar:
        """The logarithm of the evidence, log p(data | alpha, beta).

        Args:
            alpha: precision of the prior, > 0.
            beta: precision of the noise, > 0.
            directions: those at alpha and beta, where they are known.

        Returns:
            A number; comparable between networks on the same data.
        """
        directions = self.directions(alpha, beta) if directions is None else directions
        logarithms = jnp.log1p(beta * jnp.diagonal(self.matrix) / alpha)
        logarithms += jnp.log(directions.precisions(alpha, beta))
        occam = jnp.where(alpha > 0, jnp.sum(logarithms) / 2, jnp.inf)
        noise = self.residuals * jnp.log(beta / (2 * math.pi)) / 2
        return noise + self.offset - occam - beta * self.data - alpha * self.weights

    def start(self, noise: float = 1.0) -> tuple[Scalar, Scalar]:
        """The alpha and beta to start from, as if the data determined every direction.

        Args:
            noise: the share of E_D that is taken for noise.

        Returns:
            alpha, 0 where all parameters are 0, and beta, 1 where there are no residuals.
        """
        count = jnp.asarray(len(self.matrix), self.weights.dtype)
        alpha = _ratio(count, 2 * self.weights, jnp.zeros_like(self.weights))
        return alpha, _ratio(self.residuals, 2 * noise * self.data, jnp.ones_like(self.data))

    def reestimate(
        self, alpha: Scalar, beta: Scalar, directions: Directions
    ) -> tuple[Scalar, Scalar]:
        """One step towards the alpha and beta of the largest evidence.

        Args:
            alpha: precision of the prior.
            beta: precision of the noise.
            directions: those at alpha and beta, or at others close to them.

        Returns:
            gamma / (2 E_W) and (R - gamma) / (2 E_D), or the number given where one of them is not
            positive.
        """
        gamma = directions.gamma(alpha, beta)
        return (
            _ratio(gamma, 2 * self.weights, alpha),
            _ratio(self.residuals - gamma, 2 * self.data, beta),
        )


def _ratio(above: Array, below: Array, otherwise: Array) -> Array:
    """The ratio of two positive numbers where it is one too, and `otherwise` elsewhere."""
    ratio = above / jnp.where(below > 0, below, 1)
    return jnp.where((below > 0) & (ratio > 0) & jnp.isfinite(ratio), ratio, otherwise)


def evidence(
    name: str, value_fn: ValueFunction, params: PyTree, model: Quadratic, memory_budget: int
) -> tuple[Evidence, solvers.Formed]:
    """The evidence of `model`, and its matrix; errors name the caller `name`."""
    blocks = require_blocks(name, value_fn)
    is_gaussian = are_squares(name, blocks)
    dense = solvers.formed(model.system, memory_budget)
    dtype = dense.matrix.dtype
    totals = [
        jnp.asarray(b.count, dtype) if b.weights is None else jnp.sum(b.weights, dtype=dtype)
        for b in blocks
    ]
    examples = sum(totals, jnp.zeros((), dtype))
    residuals = offset = jnp.zeros((), dtype)
    if is_gaussian:
        for term, total in zip(value_fn.terms, totals, strict=True):
            count = total * outputs_of(term, params)
            residuals += count
            offset += count * jnp.log(examples * term.scale / total) / 2
    facts = Evidence(
        matrix=examples * dense.matrix,
        data=examples * model.value.astype(dtype),
        weights=half_squared_norm(params).astype(dtype),
        examples=examples,
        residuals=residuals,
        offset=offset.astype(dtype),
    )
    return facts, dense


def measurements(value_fn: ValueFunction, params: PyTree) -> Array:
    """How many numbers were measured, outputs of examples of a weight above 0."""
    counts = [
        outputs_of(term, params)
        * (term.block.count if term.block.weights is None else jnp.sum(term.block.weights > 0))
        for term in value_fn.terms
        if isinstance(term.block, Block)
    ]
    return jnp.asarray(sum(counts))


def half_squared_norm(params: PyTree) -> Scalar:
    """E_W, in at least single precision."""
    return optax.tree.norm(jax.tree.map(wide, params), squared=True) / 2


def require_blocks(name: str, value_fn: ValueFunction) -> list[Block]:
    """The blocks of a value function that has no penalties."""
    if len(value_fn.blocks) < len(value_fn.terms):
        raise ValueError(
            f"{name}: expected a value function without penalties, because the prior is alpha's "
            "alone; try objective.on(data) of the bare objective: l2(decay) is alpha = decay * "
            "beta * N"
        )
    return value_fn.blocks


def are_squares(name: str, blocks: list[Block]) -> bool:
    """Whether all losses count as squares, as unknown ones do; if not, all are likelihoods."""
    gaussian = losses.sampler(losses.half_squared_error)
    samplers = [losses.sampler(block.loss or losses.half_squared_error) for block in blocks]
    kinds = {sampler in (None, gaussian) for sampler in samplers}
    if len(kinds) > 1:
        raise ValueError(
            f"{name}: expected blocks that are all of squares or all of likelihoods, got both; "
            "try one of them alone"
        )
    return kinds == {True}


def outputs_of(term: Term, params: PyTree) -> int:
    """The number of outputs for one example."""
    block = cast("Block", term.block)

    def answer(x: PyTree, key: Array | None) -> PyTree:
        return block.answer(term.whole(params), x, key)

    answers = jax.vmap(answer, axis_size=block.count, axis_name=EXAMPLES)
    leaves = jax.tree.leaves(jax.eval_shape(answers, block.inputs, block.keys))
    return sum(leaf.size for leaf in leaves) // block.count


def most_evident(
    facts: Evidence, alpha: Scalar | float | None, beta: Scalar | float | None
) -> tuple[Scalar, Scalar]:
    """Alpha and beta as they are given, and where they are None those of the largest evidence."""
    dtype = facts.weights.dtype

    def with_given(pair: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        a, b = (
            estimate if number is None else jnp.asarray(number, dtype)
            for estimate, number in zip(pair, (alpha, beta), strict=True)
        )
        return a, b

    def along_directions(pair: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        directions = facts.directions(*pair)
        return _fixed_point(lambda p: with_given(facts.reestimate(*p, directions)), pair)

    start = with_given(facts.start())
    if alpha is not None and beta is not None:
        return start
    return _fixed_point(along_directions, start)


def _fixed_point(
    step: Callable[[tuple[Scalar, Scalar]], tuple[Scalar, Scalar]], start: tuple[Scalar, Scalar]
) -> tuple[Scalar, Scalar]:
    """Where a step that converges linearly no longer changes two numbers, both at least 0."""
    tolerance = jnp.sqrt(jnp.finfo(start[0].dtype).eps)
    limit = 1000  # a bound that nothing should reach

    def is_changing(loop: tuple) -> Array:
        now, before, count = loop
        changes = [abs(a - a0) > tolerance * a0 for a, a0 in zip(now, before, strict=True)]
        return (count < limit) & (changes[0] | changes[1])

    def advance(loop: tuple) -> tuple:
        now, _, count = loop
        return step(now), now, count + 1

    return jax.lax.while_loop(is_changing, advance, (step(start), start, 0))[0]
