"""K-FAC and EKFAC: Gauss-Newton steps with a matrix made of small factors, leaf by leaf.

The Gauss-Newton block of a weight matrix with gradient G is taken to be `A (x) D`, A from the
inputs that the weights meet and D from the derivatives behind them (see
`curvature.kronecker_blocks`). With U the eigenvectors of A and V those of D the step needs no
matrix larger than they are,

    u = -U ((U^T G V) / (curvature + damping)) V^T

where `curvature` is an array of the shape of G, and what the two rules differ in: the products of
the eigenvalues, or what the examples' gradients have along these directions, squared. Leaves
without factors have their Gauss-Newton diagonal for it. Factors, moments and diagonals are running
means over the batches, corrected for their start; the eigenvectors are found anew in the first step
and after it in every `refresh`-th, different matrices in different steps, so that no step is much
longer than the others. The curvature of `l2` penalties counts as damping.

Where the damping is a number and `damping.constant()` its policy, `kfac` needs no eigenvectors: it
keeps the inverses of the factors, by Cholesky, with the damping that they had at their refresh.

The blocks do not see each other: their steps together lead too far. So the parameters move by

    velocity = learning_rate u + momentum velocity

where a learning rate or a momentum of None is the one that minimizes the quadratic model of the
batch with its whole Gauss-Newton matrix, for the price of two products with J. A damping policy
other than `damping.constant()` looks at the value after the step, on the same batch: what does not
lower it is rejected, an update of zero, and the damping follows the gain ratio (see
`levenberg_marquardt`). A number for both and a constant damping make the step of the papers, with
nothing looked at, for whoever wants to tune it.

An example has as many rows as outputs (of K classes, K - 1), and each costs a backward pass. With
`samples=1` one random combination of them takes their place, a draw of the outputs' curvature in
the manner of Martens and Grosse (2015), section 5: with random signs for coefficients, those of
`jax.random.key(0)` folded with the number of the step. The factors are right in the mean, and being
running means they forget the noise; the quadratic model stays exact. With many outputs this is most
of the price of a step. With `examples` factors and quadratic model come from a draw of the batch's
examples, in the manner of section 8 there, where an eighth and a quarter of the batch did.

A step that is not finite is always rejected, and a batch whose curvature is not finite leaves no
trace.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fnn.curvature import Structure, share_out
from fnn.products import dot
from fnn.rules.contract import Scalar, Schedule, interned_rule
from fnn.rules.damping import Damping
from fnn.rules.kronecker.blocks import (
    Measure,
    Memory,
    inverse,
    shifted_inverse,
    spectrum,
)
from fnn.rules.kronecker.layout import Group
from fnn.rules.kronecker.step import Options, kronecker


@interned_rule
def kfac(
    structure: Structure,
    learning_rate: Scalar | Schedule | None = None,
    damping: Scalar | Schedule | None = None,
    decay: Scalar = 0.95,
    momentum: Scalar | None = None,
    policy: Damping | None = None,
    refresh: int = 10,
    samples: int | None = None,
    examples: int | None = None,
    memory_budget: int = 2**30,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """K-FAC, u = -(A + p r)^-1 G (D + r / p)^-1 for every weight matrix, r = sqrt(damping).

    p = sqrt(mean eigenvalue of A / mean eigenvalue of D) shares the damping out between them. On a
    linear network with squared loss and without damping this is the exact Gauss-Newton step of
    every leaf by itself.

    Args:
        structure: of the model, `curvature.structure(model, params, x)`.
        learning_rate: at least 0, or a schedule; None minimizes the quadratic model.
        damping: what to start from, at least 0; None starts from tau = 1e-3 (the policy's) times
            the norm of the largest block. With `damping.constant` it is the damping of every step,
            and may be a schedule.
        decay: of the running means, in [0, 1); 0 takes the present batch alone.
        momentum: in [0, 1); None minimizes the quadratic model.
        policy: how the damping changes, see `rules.damping`; None is
            `damping.trust_ratio(1.5, 2 / 3, minimum=1e-6)`.
        refresh: steps from one eigendecomposition, or inverse, of a matrix to the next, at least 1.
        samples: None for the exact sums over an example's rows; a number, at least 1, for as many
            random combinations of them, each for the price of a backward pass (see the module).
        examples: None for the curvature of the whole batch; a number, at least 1, for that of as
            many examples drawn from it. The gradient and the gain ratio are the batch's.
        memory_budget: bytes that a block of examples' Jacobians may take, where they are needed.
        every: steps from one batch whose curvature joins the means to the next, at least 1. The
            steps between have no curvature to compute but that of the quadratic model, if any, and
            `decay` counts the batches.

    Units:
        `learning_rate` and `momentum` are 1, `damping` loss / params^2.

    Invariant:
        The path does not change under rotations of the inputs and of the outputs of each weight
        matrix; undamped, under any invertible linear maps of them. With automatic damping, or none,
        it does not change when the loss is scaled.

    Returns:
        A rule; its state is a `KroneckerState`. Its update has forward derivatives, where no
        eigenvalue of a factor is double, and no reverse ones: factors are diagonalized in turn.

    Source:
        Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
        curvature" (2015), arXiv:1503.05671: section 6.3 the shares of the damping, 6.4 the learning
        rate, 6.5 the policy, 7 the momentum. Convolutions: Grosse and Martens (2016),
        arXiv:1602.01407. Shared weights: Eschenhagen et al. (2023), arXiv:2311.00636, expand.

    Differs:
        The Gauss-Newton matrix is exact in the outputs unless `samples` is given. Biases have
        their own exact blocks in place of one more row in their weights' factor. Inverses
        are made in turns. What is zero to rounding is cut off, so that without damping they are
        pseudo-inverses. One damping is for the factors and for the quadratic
        model, and a step that does not lower the value is rejected. Learning rate and momentum see
        the batch at hand.

    Example:
        >>> from fnn import Objective, curvature, losses
        >>> model = lambda w, x: x @ w
        >>> w, data = jnp.zeros((2, 1)), (jnp.eye(2), jnp.array([[1.0], [3.0]]))
        >>> value_fn = Objective(model, losses.half_squared_error).on(data)
        >>> rule = kfac(curvature.structure(model, w, data[0][0]), damping=0.0)
        >>> extra = {"value": value_fn(w), "value_fn": value_fn}
        >>> u, state = rule.update(-jnp.array([[0.5], [1.5]]), rule.init(w), w, **extra)
        >>> u.round(4).tolist()
        [[1.0], [3.0]]
    """
    options = Options(
        structure,
        learning_rate,
        damping,
        decay,
        momentum,
        policy,
        refresh,
        samples,
        examples,
        memory_budget,
        every,
    )
    is_fixed = policy is not None and policy.shrink is None and not callable(damping)
    return kronecker("kfac", _INVERSES if is_fixed else _EIGENVALUES, options)


@interned_rule
def ekfac(
    structure: Structure,
    learning_rate: Scalar | Schedule | None = None,
    damping: Scalar | Schedule | None = None,
    decay: Scalar = 0.95,
    momentum: Scalar | None = None,
    policy: Damping | None = None,
    refresh: int = 10,
    samples: int | None = None,
    examples: int | None = None,
    memory_budget: int = 2**30,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    """EKFAC, K-FAC with exact curvatures S along its eigenvectors: u = -U (U^T G V / S) V^T.

    S = sum over examples and rows of (U^T G_nr V)^2, plus the damping: of all matrices with these
    eigenvectors, the closest to the Gauss-Newton block. It is up to date in every step, while the
    eigenvectors wait for their refresh.

    Args:
        structure: of the model, `curvature.structure(model, params, x)`.
        learning_rate: at least 0, or a schedule; None minimizes the quadratic model.
        damping: what to start from, at least 0; None starts from tau = 1e-3 (the policy's) times
            the norm of the largest block. With `damping.constant` it is the damping of every step,
            and may be a schedule.
        decay: of the running means, in [0, 1); 0 takes the present batch alone.
        momentum: in [0, 1); None minimizes the quadratic model.
        policy: how the damping changes, see `rules.damping`; None is
            `damping.trust_ratio(1.5, 2 / 3, minimum=1e-6)`.
        refresh: steps from one eigendecomposition, or inverse, of a matrix to the next, at least 1.
        samples: None for the exact sums over an example's rows; a number, at least 1, for as many
            random combinations of them, each for the price of a backward pass (see the module).
        examples: None for the curvature of the whole batch; a number, at least 1, for that of as
            many examples drawn from it. The gradient and the gain ratio are the batch's.
        memory_budget: bytes that a block of examples' Jacobians may take: of leaves without
            factors, and of weights that are shared among positions, whose S has no cheaper form.
        every: steps from one batch whose curvature joins the means to the next, at least 1. The
            steps between have no curvature to compute but that of the quadratic model, if any, and
            `decay` counts the batches.

    Units:
        `learning_rate` and `momentum` are 1, `damping` loss / params^2.

    Invariant:
        The path does not change under rotations of the inputs and of the outputs of each weight
        matrix. With automatic damping, or none, it does not change when the loss is scaled.

    Returns:
        A rule; its state is a `KroneckerState`. Its update has forward derivatives, where no
        eigenvalue of a factor is double, and no reverse ones: factors are diagonalized in turn.

    Source:
        George, Laurent, Bouthillier, Ballas and Vincent, "Fast approximate natural gradient descent
        in a Kronecker-factored eigenbasis" (2018), arXiv:1806.03884, algorithm 1 with running
        averages.

    Differs:
        As `kfac`. When the eigenvectors change S is carried over to the new ones: the diagonal, in
        the new basis, of the matrix that it stood for.

    Example:
        >>> from fnn import curvature
        >>> w = jnp.zeros((3, 2))
        >>> rule = ekfac(curvature.structure(lambda w, x: x @ w, w, jnp.zeros(3)))
        >>> jax.eval_shape(rule.init, w).memory.moments["3 x 2"].shape
        (1, 3, 2)
    """
    options = Options(
        structure,
        learning_rate,
        damping,
        decay,
        momentum,
        policy,
        refresh,
        samples,
        examples,
        memory_budget,
        every,
    )
    return kronecker("ekfac", _MOMENTS, options)


# The steps of the matrices of a group -------------------------------------------------------------


class _Spectrum(NamedTuple):
    """The eigenvalues and eigenvectors of factors."""

    values: Float[Array, "k n"]
    vectors: Float[Array, "k n n"]


def _between_inverses(memory: Memory, group: Group, grad: Array, damping: Array) -> Array:
    """The inverses' product with the gradient; their damping is that of their refresh."""
    del damping
    of_a, of_d = group.factors(memory.bases)
    return dot(of_a, grad, of_d)


def _by_eigenvalues(memory: Memory, group: Group, grad: Array, damping: Array) -> Array:
    """The inverse of both factors, with the present damping shared out between them."""
    (inputs, u), (outputs, v) = group.factors(memory.bases)
    of_a, of_d = jax.vmap(_shared_inverse)(inputs, outputs, damping)
    return dot(u, of_a[:, :, None] * dot(u.mT, grad, v) * of_d[:, None], v.mT)


def _shared_inverse(inputs: Array, outputs: Array, damping: Array) -> tuple[Array, Array]:
    """The inverse eigenvalues of both factors of a matrix."""
    of_a, of_d = share_out(jnp.mean(inputs), jnp.mean(outputs), damping)
    return inverse(inputs, of_a), inverse(outputs, of_d)


def _by_moments(memory: Memory, group: Group, grad: Array, damping: Array) -> Array:
    """The gradient along the eigenvectors, divided by the moments there."""
    u, v = group.factors(memory.bases)
    divisors = jax.vmap(inverse)(memory.moments[group.name], damping)
    return dot(u, divisors * dot(u.mT, grad, v), v.mT)


_INVERSES = Measure(lambda eyes: eyes, shifted_inverse, _between_inverses)
_EIGENVALUES = Measure(
    first=lambda eyes: _Spectrum(jnp.zeros_like(eyes[:, 0]), eyes),
    renewed=lambda factor, _: _Spectrum(*spectrum(factor)),
    step=_by_eigenvalues,
)
_MOMENTS = Measure(
    lambda eyes: eyes, lambda factor, _: spectrum(factor)[1], _by_moments, moments=True
)
