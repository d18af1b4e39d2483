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

The eigenvalues are those of the smaller of C (P x P) and A A^T (R x R), so that nothing P x P is
formed for a large network on few data.

A loss that is itself a negative log-likelihood (logistic, cross-entropy) has no noise to estimate:
there beta is 1 and the terms in R are absent. A loss that is not known as a likelihood is taken for
squares.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree, Scalar

from fnn import losses, solvers
from fnn.capture import HIGHEST, Captured, capture, gram, jacobian
from fnn.curvature.quadratic import Quadratic, quadratic_of
from fnn.curvature.rows import Stack
from fnn.curvature.terms import terms_of
from fnn.objective import EXAMPLES, Block, Term, ValueFunction, merge, wide

_dot = partial(jnp.matmul, precision=HIGHEST)


# --- evidence -----------------------------------------------------------------------------------


class Evidence(NamedTuple):
    """What the evidence of alpha and beta depends on, at fixed parameters.

    Attributes:
        eigenvalues: those of the Hessian of E_D (Gauss-Newton); where there are fewer than P, the
            others are 0.
        data: E_D.
        weights: E_W.
        examples: N.
        residuals: R; 0 for a likelihood, whose beta is 1.
        offset: a number that blocks of different scales add to the logarithm.
    """

    eigenvalues: Float[Array, " n"]
    data: Scalar
    weights: Scalar
    examples: Scalar
    residuals: Scalar
    offset: Scalar

    def gamma(self, alpha: Scalar, beta: Scalar) -> Scalar:
        """The effective number of parameters: how many of them the data determine.

        Args:
            alpha: precision of the prior.
            beta: precision of the noise.

        Returns:
            A number between 0 and the smaller of P and R.
        """
        precisions = beta * self.eigenvalues
        sums = jnp.where(precisions > 0, precisions + alpha, 1)
        return jnp.sum(jnp.where(precisions > 0, precisions / sums, 0))

    def log(self, alpha: Scalar, beta: Scalar) -> Scalar:
        """The logarithm of the evidence, log p(data | alpha, beta).

        Args:
            alpha: precision of the prior, > 0.
            beta: precision of the noise, > 0.

        Returns:
            A number; comparable between networks on the same data.
        """
        precisions = beta * self.eigenvalues
        occam = jnp.sum(jnp.where(precisions > 0, jnp.log1p(precisions / alpha), 0)) / 2
        noise = self.residuals * jnp.log(beta / (2 * math.pi)) / 2
        return noise + self.offset - occam - beta * self.data - alpha * self.weights

    def start(self, noise: float = 1.0) -> tuple[Scalar, Scalar]:
        """The alpha and beta to start from, as if the data determined every direction.

        Args:
            noise: the share of E_D that is taken for noise.

        Returns:
            alpha, 0 where all parameters are 0, and beta, 1 where there are no residuals.
        """
        count = jnp.asarray(len(self.eigenvalues), self.weights.dtype)
        alpha = _ratio(count, 2 * self.weights, jnp.zeros_like(self.weights))
        return alpha, _ratio(self.residuals, 2 * noise * self.data, jnp.ones_like(self.data))

    def reestimate(self, alpha: Scalar, beta: Scalar) -> tuple[Scalar, Scalar]:
        """One step towards the alpha and beta of the largest evidence.

        Args:
            alpha: precision of the prior.
            beta: precision of the noise.

        Returns:
            gamma / (2 E_W) and (R - gamma) / (2 E_D), or the number given where one of them is not
            positive.
        """
        gamma = self.gamma(alpha, beta)
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
) -> tuple[Evidence, Array, solvers.Formed]:
    """The evidence of `model`, its eigenvectors and their matrix; errors name the caller `name`."""
    blocks = _require_blocks(name, value_fn)
    are_squares = _are_squares(name, blocks)
    dense = solvers.formed(model.system, memory_budget)
    eigenvalues, vectors = _eigenvectors(dense.matrix)
    dtype = eigenvalues.dtype
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
        eigenvalues=examples * eigenvalues,
        data=examples * model.value.astype(dtype),
        weights=half_squared_norm(params).astype(dtype),
        examples=examples,
        residuals=residuals,
        offset=offset.astype(dtype),
    )
    return facts, vectors, dense


def half_squared_norm(params: PyTree) -> Scalar:
    """E_W, in at least single precision."""
    return optax.tree.norm(jax.tree.map(wide, params), squared=True) / 2


def _eigenvectors(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, at least 0 or all NaN if the matrix is not finite, and eigenvectors."""
    values, vectors, is_finite = solvers.diagonalize(matrix)
    rounding = len(matrix) * jnp.finfo(matrix.dtype).eps * jnp.max(jnp.abs(values))
    values = jnp.where(values > rounding, values, 0)
    return jnp.where(is_finite, values, jnp.nan), vectors


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
    """

    alpha: Scalar
    beta: Scalar
    evidence: Evidence
    covariance: Callable[[PyTree], PyTree]
    predict: Callable[[PyTree], Prediction]

    @property
    def gamma(self) -> Scalar:
        """The effective number of parameters."""
        return self.evidence.gamma(self.alpha, self.beta)

    @property
    def log_evidence(self) -> Scalar:
        """The logarithm of the evidence."""
        return self.evidence.log(self.alpha, self.beta)


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
        The posterior. Its covariance is held as the eigenvectors of C, or those of A A^T where that
        is cheaper: then nothing is P x P, and about `eps |gradient of the output|^2 / alpha` of a
        variance is lost to rounding.

    Raises:
        ValueError: if there are penalties, blocks of both kinds, a number that is not positive, a
            beta other than 1 of a likelihood, or no room for either matrix.

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
    facts, vectors, dense = evidence("laplace", value_fn, params, model, memory_budget)
    alpha, beta = _most_evident(facts, alpha, beta)
    precisions = beta * facts.eigenvalues + alpha
    if dense.among_rows:
        root = jnp.sqrt(facts.examples)
        posterior = _AmongRows(dense.system, stacks, vectors, beta / precisions, root, alpha)
    else:
        posterior = _AmongParams(params, vectors, precisions)
    predict = _Predictor(value_fn.terms[0], params, posterior, 1 / beta, memory_budget)
    return Laplace(alpha, beta, facts, posterior.covariance, predict.predict)


class _AmongRows(NamedTuple):
    """The posterior by the eigenvectors of N A A^T, with nothing P x P.

    Attributes:
        system: the curvature C = A^T A.
        stacks: the rows A.
        vectors: the eigenvectors, in columns.
        shrinkage: beta / (beta l + alpha) for each.
        root: the square root of N.
        alpha: the precision of the prior.
    """

    system: solvers.System
    stacks: Sequence[Stack]
    vectors: Array
    shrinkage: Array
    root: Scalar
    alpha: Scalar

    def covariance(self, v: PyTree) -> PyTree:
        """Sigma v, which is the prior's covariance less the reduction by the data."""
        forward, back = solvers.needs(self.system, "laplace", "product", "transpose")
        components = _dot(self.vectors.T, self.root * forward(v))
        reduction = back(self.root * _dot(self.vectors, self.shrinkage * components))
        return jax.tree.map(lambda leaf, less: (leaf - less) / self.alpha, v, reduction)

    def variance(self, captured: Captured) -> Float[Array, " outputs"]:
        """The variances of the outputs of one captured example."""
        crosses = [stack.map(partial(gram, captured)) for stack in self.stacks]
        rows = [jnp.moveaxis(cross, 0, 1).reshape(cross.shape[1], -1) for cross in crosses]
        components = _dot(self.root * jnp.concatenate(rows, axis=1), self.vectors)
        prior = jnp.diagonal(gram(captured))
        reduction = jnp.sum(self.shrinkage * components**2, axis=1)
        return jnp.maximum(prior - reduction, 0) / self.alpha


class _AmongParams(NamedTuple):
    """The posterior by the eigenvectors of C, in columns, and the precision along each."""

    params: PyTree
    vectors: Array
    precisions: Array

    def covariance(self, v: PyTree) -> PyTree:
        """Sigma v."""
        _, unravel = ravel_pytree(self.params)
        flat, _ = ravel_pytree(v)
        return unravel(_dot(self.vectors, _dot(self.vectors.T, flat) / self.precisions))

    def variance(self, captured: Captured) -> Float[Array, " outputs"]:
        """The variances of the outputs of one captured example."""
        rows = captured.shape[1]
        blocks = [leaf.reshape(rows, -1) for leaf in jax.tree.leaves(jacobian(captured))]
        components = _dot(jnp.concatenate(blocks, axis=1), self.vectors)
        return jnp.sum(components**2 / self.precisions, axis=1)


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
        width = _outputs(self.term, self.params) * max(len(self.posterior.vectors), size)
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
    tolerance = jnp.sqrt(jnp.finfo(dtype).eps)
    limit = 1000  # re-estimates, which converge linearly: a bound that only a NaN should reach

    def with_given(pair: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        a, b = (
            estimate if number is None else jnp.asarray(number, dtype)
            for estimate, number in zip(pair, (alpha, beta), strict=True)
        )
        return a, b

    def is_changing(loop: tuple) -> Array:
        (a, b), (a0, b0), count = loop
        change = jnp.maximum(jnp.abs(a / a0 - 1), jnp.abs(b / b0 - 1))
        return (count < limit) & ~(change <= tolerance)

    def reestimate(loop: tuple) -> tuple:
        pair, _, count = loop
        return with_given(facts.reestimate(*pair)), pair, count + 1

    start = with_given(facts.start())
    if alpha is not None and beta is not None:
        return start
    first = (with_given(facts.reestimate(*start)), start, 0)
    return jax.lax.while_loop(is_changing, reestimate, first)[0]
