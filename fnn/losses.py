"""Losses of one example, and their curvature.

A loss is a function `loss(outputs, target) -> scalar` of a model's raw outputs, before any softmax
or sigmoid: only so can it be computed without overflow. The output unit that belongs to it:

| loss | outputs are | target | gradient in the outputs |
|---|---|---|---|
| half_squared_error | predictions | as many numbers | outputs - target |
| logistic | logits of independent events | as many probabilities | sigmoid(outputs) - target |
| softmax_cross_entropy, kl | logits of K classes | K probabilities, or a class | softmax - target |
| huber(delta) | predictions | as many numbers | outputs - target, clipped to +-delta |
| perceptron, hinge | signed scores | as many labels -1, +1 | -target on mistakes, else 0 |

Squares, logistic and cross-entropy are negative log-likelihoods: of a Gaussian of variance 1 (up to
a constant), of Bernoulli variables, of a categorical one. Losses are summed over the outputs; the
mean over examples is the objective's. The target is cast to the outputs' dtype, which is kept.

**Curvature.** A second-order method asks a loss for its *factor*, `factor(outputs, target) ->
(B, s)`, for the K outputs in a row (the order of `jax.flatten_util.ravel_pytree`):

    B B^T = Hessian of the loss in the outputs            B: (K, R)
    B s   = the part of its gradient g in the range of B  s: (R,)

so that, J being the model's Jacobian, J^T B B^T J is the Gauss-Newton matrix. The rest of the
gradient, g - B s, is zero for the likelihoods; it holds hinge's slope and Huber's arms. R may be
smaller than K: a cross-entropy has K - 1 columns, because a number that is added to all logits
changes nothing, and a loss without curvature has none. `curvature(loss)` gives the factor of any
loss, `with_curvature` attaches a closed form, `separable` a diagonal, and `is_complete(loss)` says
if the rest is known to be zero, so that nobody needs to compute it. Where the loss is a likelihood,
`sampler(loss)` draws targets.

**Many outputs.** The loss of a sequence or an image is a mean over positions, `each(loss)`, and its
B has blocks along the diagonal, one for each position; `blocks(loss)` gives these alone. Of many
classes even one block is large: `root(loss)` gives v -> B v in its place, which for a cross-entropy
takes no more operations than the loss.

**Impossible targets** (a label 0 for hinge, a probability of 2, class 10 of 10) raise where their
values can be seen. Under `jit` and `vmap` nobody sees them: there an impossible class makes the
loss NaN, so that training stops, and the other formulas are evaluated as they stand.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.flatten_util import ravel_pytree
from jax.scipy.special import xlogy
from jax.tree_util import Partial
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from fnn.dtypes import wide
from fnn.products import HIGHEST, dot

__all__ = [
    "Factor",
    "Sampler",
    "block_diagonal",
    "blocks",
    "curvature",
    "each",
    "half_squared_error",
    "has_factor",
    "hinge",
    "huber",
    "is_complete",
    "kl",
    "logistic",
    "perceptron",
    "root",
    "sampler",
    "separable",
    "softmax_cross_entropy",
    "with_curvature",
]
__dir__ = __all__.copy

Factor: TypeAlias = Callable[..., tuple[Float[Array, "k r"], Float[Array, " r"]]]
FactorOrRoot: TypeAlias = Callable[..., tuple[Float[Array, "k r"] | Partial, Float[Array, " r"]]]
Sampler: TypeAlias = Callable[[Array, Any], Array]
Loss = TypeVar("Loss", bound=Callable[..., Array])

_MANY_OUTPUTS = 256
"""So many outputs take 0.2 s for 64 examples on two cores where B is derived, 960 take 5 s."""

# Curvature, attached or derived -------------------------------------------------------------------


def _require_loss(name, loss):
    """A function."""
    if not callable(loss):
        raise TypeError(
            f"losses.{name}: expected a loss, a function of (outputs, target), got "
            f"{type(loss).__name__}; try losses.half_squared_error"
        )


def with_curvature(
    loss: Loss, factor: FactorOrRoot, *, complete: bool = False, sample: Sampler | None = None
) -> Loss:
    """`loss` with the closed form `factor` of its curvature attached.

    Only a test can tell whether the two belong together: compare B B^T with `jax.hessian` and B s
    with `jax.grad`, or both with the factor that `curvature(loss)` derives before the attachment.

    Args:
        loss: `loss(outputs, target) -> scalar`. It stays as it is.
        factor: `factor(outputs, target) -> (B, s)`, as the module says; or, where B has blocks
            along the diagonal, these and their parts of s. A B that need not be a matrix may be a
            `jax.tree_util.Partial` of a function and arrays, `B(v)` being B v in the dtype of v.
        complete: True promises that B s is always the whole gradient. Without the promise, the rest
            of the gradient costs one more backward pass.
        sample: `sample(key, outputs) -> target`, for a negative log-likelihood: a draw from the
            distribution that the outputs are the natural parameters of. Its mean outer product of
            gradients, the Fisher information, is then B B^T.

    Shapes:
        B is (K, R) and s is (R,), for K outputs in all; g blocks are (g, K/g, r) and s (g, r), for
        groups of outputs that follow one another. A product takes what is as s to (K,) or (g, K/g).
        This is checked when the factor is used.

    Returns:
        A new function that computes what `loss` does.

    Example:
        A Poisson count, with the logarithm of its rate as output.

        >>> import jax.numpy as jnp
        >>> def poisson(outputs, target):
        ...     return jnp.exp(outputs) - target * outputs
        >>> def factor(outputs, target):
        ...     root = jnp.exp(outputs / 2).reshape(1)
        ...     return root[:, None], root - target / root
        >>> curved = with_curvature(poisson, factor, complete=True)
        >>> B, s = curvature(curved)(jnp.array(0.0), 3)
        >>> B.tolist(), s.tolist()
        ([[1.0]], [-2.0])
    """
    _require_loss("with_curvature", loss)

    @wraps(loss)
    def curved(outputs, target):
        return loss(outputs, target)

    def root_of_shapes(outputs, target):
        B, s = factor(outputs, target)
        size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(outputs))
        if callable(B) and not isinstance(B, Partial):
            raise TypeError(
                "with_curvature: expected B to be an array or a jax.tree_util.Partial, got "
                f"{type(B).__name__}; try Partial(product, *arrays)"
            )
        got = f"{'a product' if callable(B) else B.shape} and {s.shape}"
        if isinstance(B, Partial):
            B, s = (Partial(_of_one_block, B), s[None]) if s.ndim == 1 else (B, s)
            image = jax.eval_shape(B, s)
            if image.dtype != s.dtype:
                raise TypeError(
                    f"with_curvature: expected B(v) in the dtype of v, got {image.dtype} for "
                    f"{s.dtype}; try to cast the arrays of B to the dtype of the outputs"
                )
            shape = (*image.shape, s.shape[-1])
        else:
            B, s = (B[None], s[None]) if B.ndim == 2 else (B, s)
            shape = B.shape
        if len(shape) != 3 or s.shape != (shape[0], shape[2]) or math.prod(shape[:2]) != size:
            raise ValueError(
                f"with_curvature: expected (B, s) of shapes ({size}, R) and (R,) for {size} "
                f"outputs, or (g, {size} / g, r) and (g, r), got {got}; try to "
                "flatten the outputs first"
            )
        return B, s

    # The owner is stored too, because functools.wraps copies attributes: a function that wraps this
    # loss and computes something else must not inherit its curvature.
    vars(curved)["_curvature"] = (curved, root_of_shapes, complete, sample)
    return cast("Loss", curved)


def separable(loss: Loss, *, complete: bool = False) -> Loss:
    """`loss` with the curvature of a sum with one term for each output.

    Where no term has two outputs, the Hessian is diagonal, and its product with a vector of ones is
    all of it. A derived factor would decompose a K x K matrix for every example. That nothing of
    the Hessian lies beside its diagonal is for you to know: nobody checks it. A term without
    curvature, or with a negative one, has a column of zeros.

    Args:
        loss: `loss(outputs, target) -> scalar`. It stays as it is.
        complete: True promises that a term with a slope has curvature, see `with_curvature`.

    Returns:
        A new function that computes what `loss` does. Make it once: objectives compare losses by
        identity.

    Example:
        A class, and a number that counts only where the target says so.

        >>> import jax.numpy as jnp
        >>> def loss(outputs, target):
        ...     event, number, weight = target
        ...     off = outputs["number"] - number
        ...     return logistic(outputs["event"], event) + weight * off**2
        >>> outputs = {"event": jnp.array(0.0), "number": jnp.array(1.0)}
        >>> B, s = curvature(separable(loss))(outputs, (1, 0.5, 2.0))
        >>> B.tolist(), s.tolist()
        ([[0.5, 0.0], [0.0, 2.0]], [-1.0, 1.0])
    """
    _require_loss("separable", loss)

    def factor(outputs, target):
        flat, unravel = ravel_pytree(outputs)
        slopes = jax.grad(lambda flat: loss(unravel(flat), target))
        grad, diagonal = jax.jvp(slopes, (flat,), (jnp.ones_like(flat),))
        bent = diagonal > 0
        root = jnp.sqrt(jnp.where(bent, diagonal, 1))
        return _on_diagonal(jnp.where(bent, root, 0)), jnp.where(bent, grad / root, 0)[:, None]

    return with_curvature(loss, factor, complete=complete)


def each(loss: Loss) -> Loss:
    """A loss at every position: its mean over the first axis of the outputs and of the target.

    The loss of a text is `each(softmax_cross_entropy)`, that of the pixels of an image
    `each(each(softmax_cross_entropy))`. No position bends with another, so the curvature is a block
    for each of them; for `jnp.mean(jax.vmap(loss)(outputs, target))` a matrix of all outputs would
    be decomposed for every example. A position that should not count has, for cross-entropy, a
    target whose sum is 0. A mean is no likelihood of the whole: what needs one, as
    `curvature.laplace` does, takes the value function times the number of positions.

    Args:
        loss: the loss of one position.

    Shapes:
        outputs (positions, *shape), one array; the target's arrays (positions, *shape) for the
        shapes that `loss` takes. Others are a ValueError when the loss is called.

    Returns:
        The loss of one example. Make it once: objectives compare losses by identity.

    Example:
        >>> import jax.numpy as jnp
        >>> text = each(softmax_cross_entropy)
        >>> outputs, target = jnp.zeros((5, 4)), jnp.array([0, 1, 2, 3, 0])
        >>> print(text(outputs, target).round(4))  # log 4
        1.3863
        >>> columns, slopes = blocks(text)(outputs, target)
        >>> columns.shape, slopes.shape
        ((5, 4, 3), (5, 3))
    """
    _require_loss("each", loss)

    def mean(outputs, target):
        _require_positions(outputs, target)
        return jnp.mean(jax.vmap(loss)(outputs, target))

    def factor(outputs, target):
        _require_positions(outputs, target)
        B, slopes = jax.vmap(_root(loss))(outputs, target)
        t, g, r = slopes.shape
        if isinstance(B, Partial):
            B = Partial(_of_positions, B, slopes)
        else:
            B = B.reshape(t * g, *B.shape[2:]) / t**0.5
        return B, slopes.reshape(t * g, r) / t**0.5

    return with_curvature(cast("Loss", mean), factor, complete=is_complete(loss))


def curvature(loss: Callable[..., Array]) -> Factor:
    """The factor of a loss: the attached closed form, or one derived by differentiation.

    Derived from the Hessian V diag(lambda) V^T and the gradient g: B = V sqrt(lambda), and
    s = (V / sqrt(lambda))^T g. Where lambda is below K eps times the largest, or negative, column
    and entry are zero: that part of the gradient is left to g - B s. So B B^T is the Hessian of a
    loss convex in the outputs, and the nearest positive semi-definite matrix for any other (of
    which `fit` warns).

    Args:
        loss: `loss(outputs, target) -> scalar` of one example, twice differentiable by JAX; the
            outputs may be any tree of arrays.

    Returns:
        `factor(outputs, target) -> (B, s)`.

    Source:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
        Neural Computation 14 (2002), doi:10.1162/08997660260028683.

    Example:
        >>> import jax.numpy as jnp
        >>> B, s = curvature(half_squared_error)(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
        >>> B.tolist(), s.tolist()
        ([[1.0, 0.0], [0.0, 1.0]], [0.0, 2.0])
    """

    def factor(outputs, target):
        columns, slopes = blocks(loss)(outputs, target)
        return block_diagonal(columns), slopes.ravel()

    return factor


def blocks(loss: Callable[..., Array]) -> Factor:
    """The factor of a loss as the blocks along the diagonal of B, one for each group of outputs.

    All outputs are one group unless the loss is known to be a sum over groups of them, as every
    loss of this module but cross-entropy is, `each` and `separable`.

    Args:
        loss: as for `curvature`.

    Shapes:
        The blocks are (g, K/g, r), their parts of s (g, r), for K outputs in all; the groups follow
        one another in the row of all outputs.

    Returns:
        `blocks(outputs, target) -> (B, s)`.

    Example:
        >>> import jax.numpy as jnp
        >>> B, s = blocks(half_squared_error)(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
        >>> B.tolist(), s.tolist()
        ([[[1.0]], [[1.0]]], [[0.0], [2.0]])
    """

    def matrix(outputs, target):
        B, slopes = _root(loss)(outputs, target)
        if not isinstance(B, Partial):
            return B, slopes
        g, r = slopes.shape
        ones = jnp.broadcast_to(jnp.eye(r, dtype=slopes.dtype), (g, r, r))
        return jax.vmap(B, in_axes=-1, out_axes=-1)(ones), slopes

    return matrix


def root(loss: Callable[..., Array]) -> Callable[..., tuple[Callable[..., Array], Array]]:
    """The factor of a loss as the product with the `blocks` of B.

    Where a closed form is attached as a product, as that of a cross-entropy is, no B is made.

    Args:
        loss: as for `curvature`.

    Shapes:
        The product takes (g, r) to (g, K/g), for K outputs in all, and s is (g, r).

    Returns:
        `root(outputs, target) -> (v -> B v, s)`; the product is linear, in the dtype of v.

    Example:
        >>> import jax.numpy as jnp
        >>> times, s = root(half_squared_error)(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
        >>> times(jnp.array([[3.0], [4.0]])).tolist(), s.tolist()
        ([[3.0], [4.0]], [[0.0], [2.0]])
    """

    def product(outputs, target):
        B, slopes = _root(loss)(outputs, target)
        return B if isinstance(B, Partial) else Partial(_times, B), slopes

    return product


def block_diagonal(blocks: Float[Array, "g k r"]) -> Float[Array, "g*k g*r"]:
    """The matrix with these blocks along its diagonal.

    Args:
        blocks: the blocks, as `blocks(loss)` gives them.

    Shapes:
        (g, k, r) to (g k, g r).

    Returns:
        The matrix, with zeros beside its blocks.

    Example:
        >>> import jax.numpy as jnp
        >>> block_diagonal(jnp.array([[[1.0]], [[2.0]]])).tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    g, k, r = blocks.shape
    if g == 1:
        return blocks[0]
    own = jnp.eye(g, dtype=bool)[:, None, :, None]
    return jnp.where(own, blocks[:, :, None, :], 0).reshape(g * k, g * r)


def has_factor(loss: Callable[..., Array]) -> bool:
    """Whether the factor of a loss is attached to it, and not derived.

    Args:
        loss: `loss(outputs, target) -> scalar` of one example.

    Returns:
        True or False.

    Example:
        >>> has_factor(hinge), has_factor(lambda outputs, target: (outputs - target) ** 4)
        (True, False)
    """
    factor, *_ = _attached(loss)
    return factor is not None


def is_complete(loss: Callable[..., Array]) -> bool:
    """Whether B s is known to be the whole gradient of a loss, for every output and target.

    Args:
        loss: `loss(outputs, target) -> scalar` of one example.

    Returns:
        What was promised to `with_curvature`; False for a loss whose curvature is derived.

    Example:
        >>> is_complete(half_squared_error), is_complete(hinge)
        (True, False)
    """
    _, complete, _ = _attached(loss)
    return complete


def sampler(loss: Callable[..., Array]) -> Sampler | None:
    """What draws targets from the distribution whose negative log-likelihood a loss is.

    Args:
        loss: `loss(outputs, target) -> scalar` of one example.

    Returns:
        `sample(key, outputs) -> target`; None for a loss that is not known as a likelihood.

    Example:
        >>> sample = sampler(logistic)
        >>> float(sample(jax.random.key(0), jnp.array(100.0)))
        1.0
    """
    *_, sample = _attached(loss)
    return sample


def _root(loss):
    """`(outputs, target) -> (B, s)` in blocks, B a matrix or a product as it is attached."""
    attached, *_ = _attached(loss)
    return attached or partial(_derived_blocks, loss)


def _times(blocks, v):
    """B v, of blocks that are matrices."""
    return jnp.einsum("gkr,gr->gk", wide(blocks), wide(v), precision=HIGHEST).astype(v.dtype)


def _of_one_block(B, v):
    """B v as the only block."""
    return B(v[0])[None]


def _of_positions(B, like, v):
    """The product with the blocks of all positions of `each`, from those of every one."""
    images = jax.vmap(lambda B, v: B(v))(B, v.reshape(like.shape))
    return images.reshape(len(v), images.shape[-1]) / len(like) ** 0.5


def _attached(loss):
    """The root, whether it is complete, and the sampler that are attached to this very loss."""
    owner, *attached = getattr(loss, "_curvature", (None,))
    return attached if owner is loss and attached else (None, False, None)


def _on_diagonal(numbers):
    """The blocks of a diagonal matrix, one number each."""
    return numbers[:, None, None]


def _derived_blocks(loss, outputs, target):
    """The factor of one example from the derivatives of its loss, as one block."""
    flat, unravel = ravel_pytree(outputs)
    if flat.size >= _MANY_OUTPUTS:
        name = getattr(loss, "__name__", type(loss).__name__)
        warnings.warn(
            f"losses.curvature: the curvature of {name} is not attached, and a {flat.size} x "
            f"{flat.size} matrix will be decomposed for every example in every step; try "
            "losses.each for a loss of every position, losses.separable for one of every output",
            stacklevel=2,
        )

    def loss_of_flat(flat):
        return loss(unravel(flat), target)

    grad, hessian = jax.grad(loss_of_flat)(flat), jax.hessian(loss_of_flat)(flat)
    if flat.size == 1:
        eigenvalues, vectors = hessian[0], jnp.ones_like(hessian)
    else:
        # Batched decompositions of 128 rows or more can block XLA's thread pool on CPU, which those
        # that come one after another cannot.
        eigh = _eigh if flat.size < 128 else sequential_vmap(_eigh)
        eigenvalues, vectors = eigh(hessian)
    machine = jnp.finfo(hessian.dtype)
    cut = jnp.maximum(flat.size * float(machine.eps) * eigenvalues.max(), machine.tiny)
    is_positive = eigenvalues > cut
    roots = jnp.sqrt(jnp.where(is_positive, eigenvalues, 1))
    components = dot(grad, vectors)
    B = jnp.where(is_positive[None], vectors * roots[None], 0)
    return B[None], jnp.where(is_positive, components / roots, 0)[None]


def _eigh(matrix):
    """Eigenvalues and eigenvectors, in single precision for a half one, which LAPACK has not."""
    is_half = jnp.finfo(matrix.dtype).bits < 32
    decomposition = jnp.linalg.eigh(matrix.astype(jnp.float32) if is_half else matrix)
    return tuple(a.astype(matrix.dtype) for a in decomposition)


# Regression ---------------------------------------------------------------------------------------


def _half_squared_error_factor(outputs, target):
    outputs, target = _numbers("half_squared_error", outputs, target)
    return jnp.ones((outputs.size, 1, 1), outputs.dtype), (outputs - target).reshape(-1, 1)


def _gaussian(key, outputs):
    """A target of mean `outputs` and variance 1."""
    return outputs + jax.random.normal(key, jnp.shape(outputs), jnp.result_type(outputs))


@partial(with_curvature, factor=_half_squared_error_factor, complete=True, sample=_gaussian)
def half_squared_error(
    outputs: Float[Array, " *shape"], target: Num[ArrayLike, " *shape"]
) -> Float[Array, ""]:
    """1/2 sum (outputs - target)^2.

    Args:
        outputs: the predictions.
        target: as many numbers.

    Returns:
        The loss of one example: a sum over outputs, not a mean.

    Example:
        >>> import jax.numpy as jnp
        >>> float(half_squared_error(jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])))
        2.0
    """
    outputs, target = _numbers("half_squared_error", outputs, target)
    return jnp.sum((outputs - target) ** 2) / 2


def huber(delta: float = 1.0) -> Callable[..., Array]:
    """The loss sum h(outputs - target): h(r) = r^2/2 for |r| <= delta, else delta (|r| - delta/2).

    A squared error whose gradient is clipped to +-delta, so that outliers weigh no more than that.

    Args:
        delta: where the parabola turns into its tangents, in units of the target; > 0.

    Returns:
        The loss, with its curvature. Make it once: objectives compare losses by identity.

    Raises:
        ValueError: if delta is not a positive number.

    Source:
        Huber, "Robust estimation of a location parameter", Annals of Mathematical Statistics 35
        (1964), doi:10.1214/aoms/1177703732.

    Example:
        >>> import jax.numpy as jnp
        >>> float(huber(1.0)(jnp.array([0.5, -3.0]), jnp.array([0.0, 0.0])))
        2.625
    """
    if not delta > 0:
        raise ValueError(f"huber: expected a delta above 0, got {delta}; try huber(1.0)")

    def factor(outputs, target):
        outputs, target = _numbers("huber", outputs, target)
        residual = (outputs - target).ravel()
        is_inside = jnp.abs(residual) <= delta
        inside = _on_diagonal(is_inside.astype(outputs.dtype))
        return inside, jnp.where(is_inside, residual, 0)[:, None]

    def huber(outputs, target):
        outputs, target = _numbers("huber", outputs, target)
        size = jnp.abs(outputs - target)
        return jnp.sum(jnp.where(size <= delta, size**2 / 2, delta * (size - delta / 2)))

    return with_curvature(huber, factor)


def _numbers(name, outputs, target):
    """Outputs and target as arrays of one shape and of the outputs' dtype."""
    outputs, target = _floating(name, outputs), jnp.asarray(target)
    if outputs.shape != target.shape:
        raise ValueError(
            f"{name}: expected outputs and target of one shape, got {outputs.shape} and "
            f"{target.shape}; try targets[:, None] with one output, jax.nn.one_hot(targets, K) "
            "with K outputs"
        )
    return outputs, target.astype(outputs.dtype)


# Classification by probabilities ------------------------------------------------------------------


def _logistic_factor(outputs, target):
    outputs, target = _probabilities("logistic", outputs, target)
    outputs, target = outputs.ravel(), target.ravel()
    p, q = jax.nn.sigmoid(outputs), jax.nn.sigmoid(-outputs)
    root = jnp.sqrt(jnp.maximum(p * q, jnp.finfo(outputs.dtype).tiny))
    return _on_diagonal(root), (((1 - target) * p - target * q) / root)[:, None]


def _bernoulli(key, outputs):
    """A target of 0 or 1 with the logits `outputs`."""
    return jax.random.bernoulli(key, jax.nn.sigmoid(outputs)).astype(outputs.dtype)


@partial(with_curvature, factor=_logistic_factor, complete=True, sample=_bernoulli)
def logistic(
    outputs: Float[Array, " *shape"], target: Num[ArrayLike, " *shape"]
) -> Float[Array, ""]:
    """-sum [target log p + (1 - target) log(1 - p)], p = sigmoid(outputs).

    The cross-entropy of as many independent yes-or-no questions as there are outputs: one for two
    classes, K for labels that do not exclude each other. The loss and both slopes of a confident
    answer, about exp(-|outputs|), keep their relative precision.

    Args:
        outputs: the logits.
        target: as many probabilities, in [0, 1]; integers will do.

    Returns:
        The loss of one example.

    Example:
        >>> import jax.numpy as jnp
        >>> float(logistic(jnp.array(1e4), 1)), float(logistic(jnp.array(1e4), 0))
        (0.0, 10000.0)
    """
    outputs, target = _probabilities("logistic", outputs, target)
    return jnp.sum(target * jax.nn.softplus(-outputs) + (1 - target) * jax.nn.softplus(outputs))


def _probabilities(name, outputs, target):
    """Outputs and target as arrays of one shape, the target in [0, 1]."""
    outputs, target = _numbers(name, outputs, target)
    is_possible = (target >= 0) & (target <= 1)
    _require(name, is_possible, "probabilities in [0, 1]", target, "(1 + target) / 2 for -1 and +1")
    return outputs, target


def _softmax_factor(outputs, target):
    # With p = softmax and a target of sum m, the Hessian is m (diag p - p p^T) and the gradient
    # m p - target. With r = sqrt(p), diag(r) - p r^T is a root of diag p - p p^T, and its product
    # with r is 0. After a reflection that takes r to -e_k, and divides by 1 + r_k, its column k is
    # 0 and is left out. Class k is the most probable one, whose slope is of order one; that of an
    # improbable class which came true is huge, and would be spread over all others.
    outputs, target = _distribution("softmax_cross_entropy", outputs, target)
    tiny = float(jnp.finfo(outputs.dtype).tiny)
    p = jnp.maximum(jax.nn.softmax(wide(outputs)), tiny)  # B s is exact for a true class of 0
    r, m = jnp.sqrt(p), jnp.maximum(jnp.sum(wide(target)), tiny)
    slopes = jnp.sqrt(m) * r - wide(target) / (jnp.sqrt(m) * r)  # not of m p: it may be zero

    k, r_k = jnp.argmax(p), jnp.max(r)
    is_k = jnp.arange(len(p)) == k
    slope_k = jnp.sum(jnp.where(is_k, slopes, 0))
    shared, scaled = (p + jnp.where(is_k, r_k, 0)) / (1 + r_k), jnp.sqrt(m) * _without(k, r)
    fewer = _without(k, slopes) - _without(k, r) * slope_k / (1 + r_k)
    return Partial(_softmax_product, k, shared, scaled), fewer.astype(outputs.dtype)


def _softmax_product(k, shared, scaled, v):
    """B v of the root of a cross-entropy."""
    weighted = scaled * v.astype(scaled.dtype)
    padded, places = jnp.pad(weighted, 1), jnp.arange(len(shared))
    own = jnp.where(places < k, padded[1:], jnp.where(places > k, padded[:-1], 0))
    return (own - shared * jnp.sum(weighted)).astype(v.dtype)


def _without(k, x):
    """The entries of a vector but for number k."""
    return jnp.where(jnp.arange(len(x) - 1) < k, x[:-1], x[1:])


def _categorical(key, outputs):
    """A class with the logits `outputs`."""
    return jax.random.categorical(key, outputs)


@partial(with_curvature, factor=_softmax_factor, complete=True, sample=_categorical)
def softmax_cross_entropy(
    outputs: Float[Array, " k"], target: Num[ArrayLike, " *shape"]
) -> Float[Array, ""]:
    """-sum target log softmax(outputs), which is -log p_c for the class c.

    A logit of -inf rules its class out (if the target does, too).

    Args:
        outputs: the logits of K >= 2 classes.
        target: the class, an integer in 0..K-1, or a distribution over the classes: K numbers >= 0
            whose sum is one. (A sum of m weights the example by m.)

    Shapes:
        outputs (K,); target () or (K,).

    Returns:
        The loss of one example.

    Example:
        >>> import jax.numpy as jnp
        >>> outputs = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> print(round(softmax_cross_entropy(outputs, 1), 6))
        1.386294
        >>> print(round(softmax_cross_entropy(outputs, jnp.array([0.0, 1.0, 0.0])), 6))
        1.386294
    """
    outputs, target = _distribution("softmax_cross_entropy", outputs, target)
    return _cross_entropy(outputs, target)


@partial(with_curvature, factor=_softmax_factor, complete=True, sample=_categorical)
def kl(outputs: Float[Array, " k"], target: Num[ArrayLike, " *shape"]) -> Float[Array, ""]:
    """KL(target || softmax(outputs)) = sum target (log target - log softmax(outputs)).

    `softmax_cross_entropy` less the target's entropy: zero at a perfect fit, with the same
    gradient and curvature.

    Args:
        outputs: the logits of K >= 2 classes.
        target: a distribution over the classes, or a class.

    Shapes:
        outputs (K,); target (K,) or ().

    Returns:
        The loss of one example.

    Example:
        >>> import jax.numpy as jnp
        >>> float(kl(jnp.array([0.0, 0.0]), jnp.array([0.5, 0.5])))
        0.0
    """
    outputs, target = _distribution("kl", outputs, target)
    return _cross_entropy(outputs, target) + jnp.sum(xlogy(target, target))


def _cross_entropy(outputs, target):
    """-sum target log softmax(outputs), where a target of 0 counts nothing, even times infinity."""
    return -jnp.sum(jnp.where(target == 0, 0, target * jax.nn.log_softmax(outputs)))


def _distribution(name, outputs, target):
    """Outputs and target as distributions over K classes; an impossible class becomes NaN."""
    outputs, target = _floating(name, outputs), jnp.asarray(target)
    if outputs.ndim != 1 or outputs.size < 2:
        raise ValueError(
            f"{name}: expected logits of shape (K,), K >= 2, got {outputs.shape}; try logistic for "
            "one output, and losses.each of this loss for a prediction at every position"
        )
    classes = outputs.size
    if target.ndim == 0 and jnp.issubdtype(target.dtype, jnp.integer):
        is_possible = (target >= 0) & (target.astype(int) < classes)
        _require(name, is_possible, f"a class in 0..{classes - 1}", target, "a wider last layer")
        one_hot = jax.nn.one_hot(target, classes, dtype=outputs.dtype)
        return outputs, jnp.where(is_possible, one_hot, jnp.nan)
    if target.shape != outputs.shape:
        raise ValueError(
            f"{name}: expected an integer class or a distribution of shape {outputs.shape}, got "
            f"{target.dtype} of shape {target.shape}; try targets.astype(int) for classes"
        )
    _require(name, target >= 0, "probabilities >= 0", target, "jax.nn.softmax of them")
    return outputs, target.astype(outputs.dtype)


# Classification by signed scores ------------------------------------------------------------------


def _no_curvature(outputs, target):
    """The factor of a loss that is linear almost everywhere: no columns."""
    del target
    outputs = jnp.asarray(outputs)
    return jnp.zeros((outputs.size, 0), outputs.dtype), jnp.zeros((0,), outputs.dtype)


@partial(with_curvature, factor=_no_curvature)
def perceptron(
    outputs: Float[Array, " *shape"], target: Num[ArrayLike, " *shape"]
) -> Float[Array, ""]:
    """Sum of max(0, -target outputs): how far the scores lie on the wrong side.

    A score of zero is a mistake: the gradient there is -target, or weights of zero would never
    learn. On one example sgd makes it the perceptron rule w += learning_rate target inputs.

    Args:
        outputs: the scores.
        target: as many labels, -1 or +1.

    Returns:
        The loss of one example. Its curvature is zero.

    Source:
        Rosenblatt, "Principles of neurodynamics" (1962); as a criterion, Bishop, "Pattern
        recognition and machine learning" (2006), equation 4.54.

    Example:
        >>> import jax
        >>> float(perceptron(2.0, -1)), float(jax.grad(perceptron)(0.0, 1))
        (2.0, -1.0)
    """
    outputs, target = _labels("perceptron", outputs, target)
    return _positive_part(-target * outputs)


@partial(with_curvature, factor=_no_curvature)
def hinge(outputs: Float[Array, " *shape"], target: Num[ArrayLike, " *shape"]) -> Float[Array, ""]:
    """Sum of max(0, 1 - target outputs): how far the scores are from a margin of one.

    On the margin itself the gradient is -target, as at the perceptron's tie.

    Args:
        outputs: the scores.
        target: as many labels, -1 or +1.

    Returns:
        The loss of one example. Its curvature is zero.

    Source:
        Cortes and Vapnik, "Support-vector networks", Machine Learning 20 (1995),
        doi:10.1007/BF00994018.

    Example:
        >>> float(hinge(0.25, 1)), float(hinge(2.0, 1))
        (0.75, 0.0)
    """
    outputs, target = _labels("hinge", outputs, target)
    return _positive_part(1 - target * outputs)


def _positive_part(shortfall):
    # Unlike jnp.maximum, this has slope 1 at zero, not one half; and a NaN stays one.
    return jnp.sum(jnp.where(shortfall < 0, 0, shortfall))


def _labels(name, outputs, target):
    """Outputs and target as arrays of one shape, the target of -1 and +1."""
    outputs, target = _numbers(name, outputs, target)
    _require(name, jnp.abs(target) == 1, "labels -1 and +1", target, "2 * target - 1 for 0 and 1")
    return outputs, target


# Refusals -----------------------------------------------------------------------------------------


def _require_positions(outputs, target):
    """One array of outputs, with as many positions as the target has."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(target)]
    if not hasattr(outputs, "shape") or 0 in (jnp.ndim(outputs), *jnp.shape(outputs)[:1]):
        got = jnp.shape(outputs) if hasattr(outputs, "shape") else type(outputs).__name__
        raise ValueError(
            "losses.each: expected outputs as one array of shape (positions >= 1, *shape), got "
            f"{got}; try losses.separable for a tree of outputs, or the loss without losses.each"
        )
    if any(shape[:1] != outputs.shape[:1] for shape in shapes):
        raise ValueError(
            f"losses.each: expected a target for each of {len(outputs)} positions, got shapes "
            f"{shapes}; try one for each position, of weight 0 where it should not count"
        )


def _floating(name, outputs):
    """Outputs as an array, which must be of floating point."""
    outputs = jnp.asarray(outputs)
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected outputs of a floating dtype, got {outputs.dtype}; try "
            "outputs.astype(float), and outputs before the target"
        )
    return outputs


def _require(name, is_possible, expected, target, instead):
    """Raises a ValueError if the target is known to be impossible; a traced one is not known."""
    try:
        is_impossible = not jnp.all(is_possible)
    except jax.errors.ConcretizationTypeError:
        return
    if is_impossible:
        raise ValueError(f"{name}: expected {expected}, got {target}; try {instead}")
