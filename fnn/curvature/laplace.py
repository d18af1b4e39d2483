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

How probable the data are under alpha and beta, and which of both make them most so, stands in
`evidence`.

A fit of few parameters to many data needs no prior: alpha is 0, weights are 1 / sigma^2 of each
target, and beta = (n - P) / (2 E_D) of n numbers that were measured. That is what is left of
(R - gamma) / (2 E_D), the beta of the largest evidence, where data determine all parameters (gamma
is P) and each example counts as one, whatever its weight (R is n): a weight there says how sure an
example is, and not how often it was seen. `uncertainty` does this.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from fnn import devices, solvers
from fnn.capture import Captured, capture, gram, jacobian
from fnn.curvature.evidence import (
    Directions,
    Evidence,
    are_squares,
    evidence,
    measurements,
    most_evident,
    outputs_of,
    require_blocks,
)
from fnn.curvature.intervals import around
from fnn.curvature.quadratic import Quadratic, quadratic_of
from fnn.curvature.rows import Stack
from fnn.curvature.terms import terms_of
from fnn.objective import Block, Term, ValueFunction
from fnn.products import dot


class Prediction(NamedTuple):
    """What a trained network predicts for new inputs, and how sure it is.

    An error bar of one standard deviation is `sqrt(variance)` for what the network would say after
    much more data, and `sqrt(variance + noise)` for a target.

    Attributes:
        outputs: the outputs of the model, examples first.
        variance: the variance of the outputs that comes from the parameters', a tree like them.
        noise: 1 / beta, the variance of a target around the outputs.
        freedom: degrees of freedom of the noise's estimate; infinite where it is known.
    """

    outputs: PyTree
    variance: PyTree
    noise: Scalar
    freedom: Scalar

    def confidence_band(self, level: Scalar | float = 0.95) -> tuple[PyTree, PyTree]:
        """Where the model's outputs lie, as far as the data tell.

        Args:
            level: the probability, in (0, 1), of the band at each input alone.

        Returns:
            The lower and the upper ends, trees like the outputs.
        """
        return around(self.outputs, jax.tree.map(jnp.sqrt, self.variance), level, self.freedom)

    def prediction_band(
        self, level: Scalar | float = 0.95, *, weights: Float[Array, " n"] | float = 1.0
    ) -> tuple[PyTree, PyTree]:
        """Where new targets lie: the variance of the outputs and that of the noise together.

        Args:
            level: the probability, in (0, 1), of the band at each input alone.
            weights: of the new targets, whose variances are noise / weights.

        Returns:
            The lower and the upper ends, trees like the outputs.
        """

        def error(variance: Array) -> Array:
            noise = jnp.broadcast_to(self.noise / jnp.asarray(weights), variance.shape[:1])
            return jnp.sqrt(variance + noise.reshape(-1, *[1] * (variance.ndim - 1)))

        return around(self.outputs, jax.tree.map(error, self.variance), level, self.freedom)


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
        params: the parameters, around which it lies.
        freedom: degrees of freedom of the noise's estimate, for Student's distribution; infinite,
            for a normal one, where the noise is known or a prior makes up for what is not.
        variances: `() -> ` the diagonal of Sigma, a tree like the parameters.
        dense: `() -> Sigma` (P, P), rows and columns in the order of
            `jax.flatten_util.ravel_pytree`.
    """

    alpha: Scalar
    beta: Scalar
    evidence: Evidence
    covariance: Callable[[PyTree], PyTree]
    predict: Callable[[PyTree], Prediction]
    directions: Directions
    params: PyTree
    freedom: Scalar
    variances: Callable[[], PyTree]
    dense: Callable[[], Float[Array, "P P"]]

    @property
    def gamma(self) -> Scalar:
        """The effective number of parameters."""
        return self.directions.gamma(self.alpha, self.beta)

    @property
    def log_evidence(self) -> Scalar:
        """The logarithm of the evidence."""
        return self.evidence.log(self.alpha, self.beta, self.directions)

    @property
    def noise(self) -> Scalar:
        """1 / beta, the variance of a target of weight 1."""
        return 1 / self.beta

    def standard_errors(self) -> PyTree:
        """The standard deviation of every parameter, a tree like them.

        Returns:
            The roots of the diagonal of Sigma; infinite where the data say nothing and there is no
            prior.
        """
        return jax.tree.map(jnp.sqrt, self.variances())

    def intervals(self, level: Scalar | float = 0.95) -> tuple[PyTree, PyTree]:
        """Where every parameter lies.

        Args:
            level: the probability, in (0, 1), of each interval alone.

        Returns:
            The lower and the upper ends, trees like the parameters.
        """
        return around(self.params, self.standard_errors(), level, self.freedom)

    def correlations(self) -> Float[Array, "P P"]:
        """Sigma with its diagonal scaled to 1, ordered as `dense`.

        Returns:
            Numbers from -1 to 1; those near either end belong to parameters of which the data tell
            a combination alone.
        """
        sigma = self.dense()
        errors = jnp.sqrt(jnp.diagonal(sigma))
        return sigma / jnp.outer(errors, errors)


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
        ValueError: if there are penalties, blocks of both kinds, several blocks with a given noise
            whose sum is not the mean over all examples, a number that is not positive, a
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
    params, stacks, model = _model_at(value_fn, params, memory_budget)
    beta = _of_squares("laplace", "beta", value_fn, beta)
    facts, dense = evidence("laplace", value_fn, params, model, memory_budget)
    alpha, beta = most_evident(facts, alpha, beta)
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
    _warn_if_lost("laplace", is_lost, root.dtype)
    found = _Found(alpha, beta, facts, directions, params, jnp.full_like(beta, jnp.inf))
    return _around(found, value_fn, posterior, memory_budget)


def uncertainty(
    value_fn: ValueFunction,
    params: PyTree,
    noise: Scalar | float | None = None,
    *,
    memory_budget: int = 2**30,
) -> Laplace:
    """What a fit leaves unknown: standard errors, intervals, correlations and bands, by the data.

    Laplace's approximation without a prior, for fits of fewer parameters than data. Put on the data
    with `weights = 1 / sigma^2`, each example counts as one measurement, with the variance
    noise / weight. Only ratios of weights matter where the noise is estimated.

    Args:
        value_fn: made by `Objective.on` of the data, without penalties; of half squares, such as
            `losses.half_squared_error` or a residual, or of likelihoods. In a sum of several
            blocks, those examples have the same noise whose shares in the value are the same.
        params: the fitted parameters, a minimum of the value. Parameters that bounds or a mask hold
            should be left out, by `value_fn.freeze`, for they are not estimated.
        noise: variance of a target of weight 1, > 0: `1.0` where sigma is known and the weights are
            1 / sigma^2, `sigma**2` of one that is the same for all examples, without weights. None
            estimates it from the residuals, 2 E_D / (n - P) for n measured numbers and P
            parameters. It is 1 for a likelihood.
        memory_budget: bytes that matrices and a batch of predictions may take.

    Units:
        `noise` is targets^2.

    Returns:
        The posterior; `freedom` is n - P where the noise was estimated. Its evidence is that of an
        improper prior, minus infinity.

    Raises:
        ValueError: if there are penalties, blocks of both kinds, a noise that is not positive, one
            other than 1 of a likelihood, no more data than parameters to estimate it from, or no
            room for the P x P matrix.

    Warns:
        UserWarning: if the data say nothing along a direction: the errors of the parameters in it
            are infinite. Not while it is traced.

    Source:
        Seber and Wild, Nonlinear Regression (1989), sections 2.1.2 and 5.1, doi:10.1002/0471725315.
        The errors are those of `scipy.optimize.curve_fit`, of `absolute_sigma=False` where `noise`
        is None and of `absolute_sigma=True` where it is 1.

    Example:
        >>> from fnn import losses
        >>> from fnn.objective import Objective
        >>> line = Objective(lambda w, x: w * x, losses.half_squared_error)
        >>> value_fn = line.on((jnp.array([1.0, 2.0]), jnp.array([1.1, 1.9])))
        >>> fitted = uncertainty(value_fn, jnp.array(0.98))
        >>> round(float(fitted.standard_errors()), 4), int(fitted.freedom)
        (0.06, 1)
        >>> low, high = fitted.intervals(0.95)
        >>> print(f"{low:.3f} {high:.3f}")
        0.218 1.742
        >>> low, high = fitted.predict(jnp.array([4.0])).prediction_band(0.95)
        >>> print((high - low).round(2))
        [6.99]
    """
    if isinstance(noise, int | float) and not 0 < noise < math.inf:
        raise ValueError(
            f"uncertainty: expected noise > 0, got {noise}; try None, to estimate it, or 1.0 with "
            "weights = 1 / sigma**2"
        )
    if noise is not None:
        _require_one_mean(value_fn)
    is_estimated = _of_squares("uncertainty", "noise", value_fn, noise) is None and noise is None
    is_estimated &= are_squares("uncertainty", value_fn.blocks)
    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    freedom = measurements(value_fn, params) - size
    if is_estimated and not devices.is_traced(freedom) and freedom <= 0:
        raise ValueError(
            f"uncertainty: expected more data than parameters, to estimate the noise, got {size} "
            f"parameters and {int(freedom) + size} numbers; try noise=, the variance of a target"
        )
    found, posterior = _of_data(value_fn, params, noise, freedom, is_estimated, memory_budget)
    _warn_if_lost("uncertainty", found.directions.is_lost, posterior.root.dtype)
    return _around(found, value_fn, posterior, memory_budget)


def _require_one_mean(value_fn: ValueFunction) -> None:
    """Require several blocks to be the mean over all examples, where that is known."""
    blocks = [(t.scale, t.block) for t in value_fn.terms if isinstance(t.block, Block)]
    if len(blocks) < 2 or devices.is_traced([(scale, block.weights) for scale, block in blocks]):
        return
    totals = [
        float(block.count if block.weights is None else jnp.sum(block.weights))
        for _, block in blocks
    ]
    shares = [total / sum(totals) for total in totals]
    if not np.allclose([float(scale) for scale, _ in blocks], shares, rtol=1e-4):
        raise ValueError(
            "uncertainty: expected several blocks to be scaled by their shares of all weights, "
            f"{', '.join(f'{share:.4g}' for share in shares)}, where noise is given: an example "
            "would count otherwise than by its weight; try (W1 * a + W2 * b) / (W1 + W2), W the "
            "sum of a block's weights, or the number of its examples"
        )


class _Found(NamedTuple):
    """What is known of a posterior but for its square root; of arrays alone."""

    alpha: Scalar
    beta: Scalar
    facts: Evidence
    directions: Directions
    params: PyTree
    freedom: Scalar


@partial(devices.jit, static_argnames=("is_estimated", "memory_budget"))
def _of_data(value_fn, params, noise, freedom, is_estimated, memory_budget):
    """What data without a prior tell, and a square root of its Sigma."""
    params, _, model = _model_at(value_fn, params, memory_budget)
    system = model.system
    if system.costs is not None:  # among the rows there would have to be a prior
        system = system._replace(gram=None, costs=system.costs._replace(gram=None))
    model = model._replace(system=system)
    facts, _ = evidence("uncertainty", value_fn, params, model, memory_budget)
    dtype = facts.data.dtype
    beta = jnp.ones((), dtype) if noise is None else 1 / jnp.asarray(noise, dtype)
    freedom = jnp.asarray(freedom, dtype)
    if is_estimated:
        beta = freedom / (2 * facts.data)
    alpha = jnp.zeros_like(beta)
    # Beta is no part of the directions, and infinite where the residuals are 0.
    directions = facts.directions(alpha, jnp.ones_like(beta))
    root = directions.root(alpha, jnp.ones_like(beta)) / jnp.sqrt(beta)
    freedom = freedom if is_estimated else jnp.full_like(beta, jnp.inf)
    vectors = directions.vectors / jnp.sqrt(directions.prior)
    lost = jnp.where(directions.is_lost, vectors, 0)
    root = jnp.where(directions.is_lost, 0, root)
    found = _Found(alpha, beta, facts, directions, params, freedom)
    return found, _AmongParams(params, root, lost)


def _model_at(
    value_fn: ValueFunction, params: PyTree, memory_budget: int
) -> tuple[PyTree, Sequence[Stack], Quadratic]:
    """The parameters as arrays, the rows there, and the quadratic that they make."""
    params = jax.tree.map(jnp.asarray, params)
    terms = terms_of(value_fn, params)
    stacks = [source.stack() for source in terms.sources]
    return params, stacks, quadratic_of(terms, stacks, memory_budget)


def _of_squares(
    who: str, name: str, value_fn: ValueFunction, number: Scalar | float | None
) -> Scalar | float | None:
    """The noise, or its inverse, that is asked for; None, which is 1, of a likelihood."""
    if are_squares(who, require_blocks(who, value_fn)):
        return number
    if isinstance(number, int | float) and number != 1:
        raise ValueError(
            f"{who}: expected {name} = 1 of a likelihood, which has no noise beside its own, got "
            f"{number}; try None, or scale the value function"
        )
    return None


def _around(
    found: _Found,
    value_fn: ValueFunction,
    posterior: "_AmongRows | _AmongParams",
    memory_budget: int,
) -> Laplace:
    """The posterior with its callables."""
    term, freedom = value_fn.terms[0], found.freedom
    predictor = _Predictor(term, found.params, posterior, 1 / found.beta, freedom, memory_budget)
    return Laplace(
        found.alpha,
        found.beta,
        found.facts,
        posterior.covariance,
        predictor.predict,
        found.directions,
        found.params,
        freedom,
        posterior.variances,
        posterior.dense,
    )


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
        reduction = back(dot(self.root, dot(self.root.T, forward(v))))
        return jax.tree.map(lambda leaf, less: (leaf - less) / self.alpha, v, reduction)

    def variances(self) -> PyTree:
        """The diagonal of Sigma, the reduction summed over the rows, one after another."""
        (back,) = solvers.needs(self.system, "laplace", "transpose")
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, self.root.dtype), self.system.like)

        def add(total: PyTree, column: Array) -> tuple[PyTree, None]:
            return jax.tree.map(lambda t, a: t + jnp.square(a), total, back(column)), None

        reduction, _ = jax.lax.scan(add, zeros, self.root.T)
        return jax.tree.map(lambda less: jnp.maximum(1 - less, 0) / self.alpha, reduction)

    def dense(self) -> Float[Array, "P P"]:
        """Sigma, column by column."""
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), self.system.like)
        flat, unravel = ravel_pytree(zeros)

        def column(index: Array) -> Array:
            return ravel_pytree(self.covariance(unravel(flat.at[index].set(1))))[0]

        sigma = jax.lax.map(column, jnp.arange(flat.size))
        return (sigma + sigma.T) / 2

    def variance(self, captured: Captured) -> Float[Array, " outputs"]:
        """The variances of the outputs of one captured example."""
        crosses = [stack.map(partial(gram, captured)) for stack in self.stacks]
        rows = [jnp.moveaxis(cross, 0, 1).reshape(cross.shape[1], -1) for cross in crosses]
        components = dot(jnp.concatenate(rows, axis=1), self.root)
        prior = jnp.diagonal(gram(captured))
        return jnp.maximum(prior - jnp.sum(components**2, axis=1), 0) / self.alpha


class _AmongParams(NamedTuple):
    """The posterior from a square root of Sigma, and from directions that nothing determines."""

    params: PyTree
    root: Array
    lost: Array | None = None  # in columns, of length 1, along which Sigma is infinite; or zeros

    def covariance(self, v: PyTree) -> PyTree:
        """Sigma v."""
        _, unravel = ravel_pytree(self.params)
        flat, _ = ravel_pytree(v)
        known = dot(self.root, dot(self.root.T, flat))
        if self.lost is None:
            return unravel(known)
        endless = dot(self.lost, _part(self.lost.T, flat[:, None])[:, 0])
        return unravel(_infinite(known, endless))

    def variances(self) -> PyTree:
        """The diagonal of Sigma."""
        _, unravel = ravel_pytree(self.params)
        known = jnp.sum(self.root**2, axis=1)
        if self.lost is not None:
            known = _infinite(known, jnp.sum(self.lost**2, axis=1))
        return unravel(known)

    def dense(self) -> Float[Array, "P P"]:
        """Sigma."""
        known = dot(self.root, self.root.T)
        return known if self.lost is None else _infinite(known, dot(self.lost, self.lost.T))

    def variance(self, captured: Captured) -> Float[Array, " outputs"]:
        """The variances of the outputs of one captured example."""
        count = captured.shape[1]
        blocks = [leaf.reshape(count, -1) for leaf in jax.tree.leaves(jacobian(captured))]
        rows = jnp.concatenate(blocks, axis=1)
        known = jnp.sum(dot(rows, self.root) ** 2, axis=1)
        if self.lost is None:
            return known
        return _infinite(known, jnp.sum(_part(rows, self.lost) ** 2, axis=1))


def _part(rows: Array, columns: Array) -> Array:
    """The products of rows with columns, 0 where they are orthogonal up to rounding."""
    products = dot(rows, columns)
    lengths = jnp.linalg.norm(rows, axis=1)[:, None] * jnp.linalg.norm(columns, axis=0)
    return jnp.where(jnp.abs(products) <= jnp.finfo(rows.dtype).eps ** 0.5 * lengths, 0, products)


def _infinite(known: Array, endless: Array) -> Array:
    """Numbers, and infinity of its sign where a part without end is not 0."""
    return jnp.where(endless == 0, known, jnp.where(endless > 0, jnp.inf, -jnp.inf))


class _Predictor(NamedTuple):
    """A trained model, with the posterior of its parameters."""

    term: Term
    params: PyTree
    posterior: _AmongRows | _AmongParams
    noise: Scalar
    freedom: Scalar
    memory_budget: int

    def predict(self, inputs: PyTree) -> Prediction:
        """The outputs for inputs, examples first, and their variances."""
        size = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        width = outputs_of(self.term, self.params) * max(len(self.posterior.root), size)
        entry = 32  # bytes of four float64: an estimate for a row, its components and temporaries
        at_once = max(1, int(self.memory_budget // (entry * width)))
        pairs = jax.lax.map(self._predict_one, inputs, batch_size=at_once)
        return Prediction(*pairs, noise=self.noise, freedom=self.freedom)

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
        return block.answer(self.term.whole(params), x, None)


def _warn_if_lost(name: str, is_lost: Bool[Array, " n"], dtype: jnp.dtype) -> None:
    """Warns, but not in a trace, of directions whose variance is lost to rounding."""
    is_concrete = hasattr(is_lost, "is_ready")  # which a traced array alone has not
    if is_concrete and (count := int(jnp.sum(is_lost))):
        warnings.warn(
            f"{name}: expected data and prior to fix the variance along every direction, got "
            f"{count} of {len(is_lost)} directions where it is lost to rounding in {dtype}; error "
            "bars along these are not to be trusted. Try a larger alpha, fewer parameters, more "
            "examples, or float64",
            stacklevel=3,
        )
