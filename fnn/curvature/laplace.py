"""Laplace's approximation: what the curvature at a minimum says about parameters and predictions.

A network trained with squares and weight decay is the most probable one under a Gaussian noise of
precision beta on every target and a Gaussian prior of precision alpha on every parameter,

    F = beta E_D + alpha E_W,        E_D = 1/2 sum of squared residuals,    E_W = 1/2 |params|^2,

and around it the parameters are distributed, as far as the quadratic model of F holds, as a
Gaussian with the covariance

    Sigma = (beta N C + alpha)^-1,          C the Gauss-Newton matrix of the mean loss.

A value function is a *mean* over N examples, so that E_D = N value, and F / (beta N) is the value
with `l2(alpha / (beta N))` added: weight decay is a statement about noise. Weights count as
repetitions: N is their sum.

How probable the data are under alpha and beta, whatever the parameters, is their *evidence*. With
l for the eigenvalues of N C, of P parameters and R residuals,

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
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from fnn import losses, solvers
from fnn.capture import HIGHEST, Captured, capture, gram, jacobian
from fnn.curvature.quadratic import Quadratic, quadratic_of
from fnn.curvature.rows import Stack
from fnn.curvature.terms import terms_of
from fnn.objective import EXAMPLES, Block, Term, ValueFunction, merge, wide

_dot = partial(jnp.matmul, precision=HIGHEST)


# --- evidence -----------------------------------------------------------------------------------


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
        return self.vectors / jnp.sqrt(self.precisions(alpha, beta))[None, :]


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
        data = jnp.sum(vectors * _dot(scaled, vectors), axis=0)
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
    blocks = _require_blocks(name, value_fn)
    are_squares = _are_squares(name, blocks)
    dense = solvers.formed(model.system, memory_budget)
    dtype = dense.matrix.dtype
    totals = [
        jnp.asarray(b.count, dtype) if b.weights is None else jnp.sum(b.weights, dtype=dtype)
        for b in blocks
    ]
    examples = sum(totals, jnp.zeros((), dtype))
    residuals = offset = jnp.zeros((), dtype)
    if are_squares:
        for term, total in zip(value_fn.terms, totals, strict=True):
            count = total * _outputs(term, params)
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


def half_squared_norm(params: PyTree) -> Scalar:
    """E_W, in at least single precision."""
    return optax.tree.norm(jax.tree.map(wide, params), squared=True) / 2


def _require_blocks(name: str, value_fn: ValueFunction) -> list[Block]:
    """The blocks of a value function that has no penalties."""
    if len(value_fn.blocks) < len(value_fn.terms):
        raise ValueError(
            f"{name}: expected a value function without penalties, because the prior is alpha's "
            "alone; try objective.on(data) of the bare objective: l2(decay) is alpha = decay * "
            "beta * N"
        )
    return value_fn.blocks


def _are_squares(name: str, blocks: list[Block]) -> bool:
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


def _outputs(term: Term, params: PyTree) -> int:
    """The number of outputs for one example."""
    block = cast("Block", term.block)

    def answer(x: PyTree, key: Array | None) -> PyTree:
        return block.answer(merge(params, term.held), x, key)

    answers = jax.vmap(answer, axis_size=block.count, axis_name=EXAMPLES)
    leaves = jax.tree.leaves(jax.eval_shape(answers, block.inputs, block.keys))
    return sum(leaf.size for leaf in leaves) // block.count


# --- the posterior ------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """What a trained network predicts for new inputs, and how sure it is.

    An error bar of one standard deviation is `sqrt(variance)` for what the network would say after
    much more data, and `sqrt(variance + noise)` for a target.

    Attributes:
        outputs: the outputs of the model, examples first.
        variance: the variance of the outputs that comes from the parameters', a tree like them.
        noise: 1 / beta, the variance of a target around the outputs.
    """

    outputs: PyTree
    variance: PyTree
    noise: Scalar


class Laplace(NamedTuple):
    """The Gaussian around trained parameters.

    It is made of callables that close over arrays: make it and use it inside one traced function.

    Attributes:
        alpha: precision of the prior.
        beta: precision of the noise.
        evidence: the evidence as a function of both.
        covariance: `v -> Sigma v`, tree to tree.
        predict: `inputs -> Prediction`, examples first, by the first block's model without a key.
        directions: those in which data and prior fall apart at alpha and beta.
    """

    alpha: Scalar
    beta: Scalar
    evidence: Evidence
    covariance: Callable[[PyTree], PyTree]
    predict: Callable[[PyTree], Prediction]
    directions: Directions

    @property
    def gamma(self) -> Scalar:
        """The effective number of parameters."""
        return self.directions.gamma(self.alpha, self.beta)

    @property
    def log_evidence(self) -> Scalar:
        """The logarithm of the evidence."""
        return self.evidence.log(self.alpha, self.beta, self.directions)


def laplace(
    value_fn: ValueFunction,
    params: PyTree,
    alpha: Scalar | float | None = None,
    beta: Scalar | float | None = None,
    *,
    memory_budget: int = 2**30,
) -> Laplace:
    """Laplace's approximation at trained parameters, in its Gauss-Newton form.

    Args:
        value_fn: made by `Objective.on` of the training data, without penalties.
        params: the point, a minimum of F. At other parameters the approximation is that of the
            network linearized there.
        alpha: precision of the prior, > 0: the one that `bayesian_levenberg_marquardt` has found,
            or `decay * beta * N` for a network trained with `l2(decay)`. None takes the one of the
            largest evidence at these parameters.
        beta: precision of the noise, > 0; None as for alpha. It is 1 for a likelihood.
        memory_budget: bytes that matrices and a batch of predictions may take.

    Units:
        `alpha` is 1 / params^2, `beta` 1 / targets^2.

    Returns:
        The posterior. Its covariance is held as a square root among the parameters, or among the
        rows where that is cheaper: then nothing is P x P, and about
        `eps |gradient of the output|^2 / alpha` of a variance is lost to rounding.

    Raises:
        ValueError: if there are penalties, blocks of both kinds, a number that is not positive, a
            beta other than 1 of a likelihood, or no room for either matrix.

    Warns:
        UserWarning: if a direction is lost, or, among the rows, what the data leave of the prior is
            less than its rounding; not while it is traced.

    Source:
        MacKay (1992), "A practical Bayesian framework for backpropagation networks",
        doi:10.1162/neco.1992.4.3.448, with the Gauss-Newton matrix for the Hessian, as Foresee and
        Hagan (1997), doi:10.1109/ICNN.1997.614194, and the predictions of the linearized network,
        as Immer, Korzepa and Bauer, "Improving predictions of Bayesian neural nets via local
        linearization", AISTATS (2021).

    Example:
        >>> from fnn.objective import Objective
        >>> line = Objective(lambda w, x: w * x[0] - x[1])  # a residual
        >>> value_fn = line.on(jnp.array([[1.0, 1.1], [2.0, 1.9]]))
        >>> posterior = laplace(value_fn, jnp.array(1.0), alpha=1.0, beta=4.0)
        >>> round(float(posterior.covariance(jnp.array(1.0))), 4)  # 1 / (1 + 4 (1 + 4))
        0.0476
    """
    for name, number in (("alpha", alpha), ("beta", beta)):
        if isinstance(number, int | float) and not 0 < number < math.inf:
            raise ValueError(
                f"laplace: expected {name} > 0, got {number}; try None, for the largest evidence"
            )
    params = jax.tree.map(jnp.asarray, params)
    terms = terms_of(value_fn, params)
    stacks = [source.stack() for source in terms.sources]
    model = quadratic_of(terms, stacks, memory_budget)
    if not _are_squares("laplace", _require_blocks("laplace", value_fn)):
        if isinstance(beta, int | float) and beta != 1:
            raise ValueError(
                f"laplace: expected beta = 1 of a likelihood, got {beta}; try None, or scale the "
                "value function"
            )
        beta = None
    facts, dense = evidence("laplace", value_fn, params, model, memory_budget)
    alpha, beta = _most_evident(facts, alpha, beta)
    directions = facts.directions(alpha, beta)
    root = directions.root(alpha, beta)
    is_lost = directions.is_lost
    if dense.among_rows:
        # There the reduction by the data is subtracted from the prior.
        left = alpha * directions.prior / directions.precisions(alpha, beta)
        is_lost |= left <= jnp.finfo(left.dtype).eps
        root = jnp.sqrt(beta * facts.examples) * root
        posterior = _AmongRows(dense.system, stacks, root, alpha)
    else:
        posterior = _AmongParams(params, root)
    _warn_if_lost(is_lost, root.dtype)
    predict = _Predictor(value_fn.terms[0], params, posterior, 1 / beta, memory_budget)
    return Laplace(alpha, beta, facts, posterior.covariance, predict.predict, directions)


class _AmongRows(NamedTuple):
    """The posterior from a square root among the rows, with nothing P x P.

    Attributes:
        system: the curvature C = A^T A.
        stacks: the rows A.
        root: a square root of beta N (beta N A A^T + alpha)^-1.
        alpha: the precision of the prior.
    """

    system: solvers.System
    stacks: Sequence[Stack]
    root: Array
    alpha: Scalar

    def covariance(self, v: PyTree) -> PyTree:
        """Sigma v, which is the prior's covariance less the reduction by the data."""
        forward, back = solvers.needs(self.system, "laplace", "product", "transpose")
        reduction = back(_dot(self.root, _dot(self.root.T, forward(v))))
        return jax.tree.map(lambda leaf, less: (leaf - less) / self.alpha, v, reduction)

    def variance(self, captured: Captured) -> Float[Array, " outputs"]:
        """The variances of the outputs of one captured example."""
        crosses = [stack.map(partial(gram, captured)) for stack in self.stacks]
        rows = [jnp.moveaxis(cross, 0, 1).reshape(cross.shape[1], -1) for cross in crosses]
        components = _dot(jnp.concatenate(rows, axis=1), self.root)
        prior = jnp.diagonal(gram(captured))
        return jnp.maximum(prior - jnp.sum(components**2, axis=1), 0) / self.alpha


class _AmongParams(NamedTuple):
    """The posterior from a square root of Sigma."""

    params: PyTree
    root: Array

    def covariance(self, v: PyTree) -> PyTree:
        """Sigma v."""
        _, unravel = ravel_pytree(self.params)
        flat, _ = ravel_pytree(v)
        return unravel(_dot(self.root, _dot(self.root.T, flat)))

    def variance(self, captured: Captured) -> Float[Array, " outputs"]:
        """The variances of the outputs of one captured example."""
        rows = captured.shape[1]
        blocks = [leaf.reshape(rows, -1) for leaf in jax.tree.leaves(jacobian(captured))]
        components = _dot(jnp.concatenate(blocks, axis=1), self.root)
        return jnp.sum(components**2, axis=1)


class _Predictor(NamedTuple):
    """A trained model, with the posterior of its parameters."""

    term: Term
    params: PyTree
    posterior: _AmongRows | _AmongParams
    noise: Scalar
    memory_budget: int

    def predict(self, inputs: PyTree) -> Prediction:
        """The outputs for inputs, examples first, and their variances."""
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        width = _outputs(self.term, self.params) * max(len(self.posterior.root), size)
        entry = 32  # bytes of four float64: an estimate for a row, its components and temporaries
        at_once = max(1, int(self.memory_budget // (entry * width)))
        pairs = jax.lax.map(self._predict_one, inputs, batch_size=at_once)
        return Prediction(*pairs, noise=self.noise)

    def _predict_one(self, x: PyTree) -> tuple[PyTree, PyTree]:
        """The outputs for one example, and their variances."""
        outputs = jax.eval_shape(self._answer, self.params, x)
        _, unravel = ravel_pytree(jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), outputs))
        one = jax.tree.map(lambda a: a[None], x)
        captured = capture(lambda p, x: ravel_pytree(self._answer(p, x))[0], self.params, one)
        return unravel(captured.outputs[0]), unravel(self.posterior.variance(captured))

    def _answer(self, params: PyTree, x: PyTree) -> PyTree:
        """The model's outputs for one example, without a key."""
        block = cast("Block", self.term.block)
        return block.answer(merge(params, self.term.held), x, None)


def _most_evident(
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


def _warn_if_lost(is_lost: Bool[Array, " n"], dtype: jnp.dtype) -> None:
    """Warns, but not in a trace, of directions whose variance is lost to rounding."""
    is_concrete = hasattr(is_lost, "is_ready")  # which a traced array alone has not
    if is_concrete and (count := int(jnp.sum(is_lost))):
        warnings.warn(
            "laplace: expected data and prior to fix the variance along every direction, got "
            f"{count} of {len(is_lost)} directions where it is lost to rounding in {dtype}; error "
            "bars along these are not to be trusted. Try a larger alpha, fewer parameters, more "
            "examples, or float64",
            stacklevel=3,
        )
