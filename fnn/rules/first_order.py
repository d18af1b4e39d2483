"""First-order rules: what to do with a gradient, one array at a time.

Every rule here is a chain of maps on the gradient. All but one end by multiplying with minus the
learning rate, and each of the other links is the recurrence of one array, written as in its source
and lifted to trees by `_lift`. In the recurrences below `g` is the gradient, `params += u`, and
all operations are element by element; |g|^2 is g times its conjugate, so that complex parameters
train on the conjugate of `jax.grad`, as everywhere in optax.

Signatures and defaults of sgd, adagrad, rmsprop, adam, adamw and rprop are optax's (adagrad takes
one argument more), and so are their numbers, rprop's excepted. The differences: 0 / 0 is 0, so that
with eps = 0 a parameter stays where it is until it sees a gradient; the variance of a centered
rmsprop does not round to less than 0; a leaf of the gradient that is None leaves its state as it
was; and complex numbers are not put into real accumulators.

Training in bfloat16 is possible and seldom wise: there 0.999 rounds to 1.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree

from fnn.dtypes import widest
from fnn.rules.contract import (
    Scalar,
    Schedule,
    cast,
    checked,
    interned_rule,
    require_aligned,
    require_rates,
    require_within,
)

# Steepest descent, and its memory -----------------------------------------------------------------


@interned_rule
def sgd(
    learning_rate: Scalar | Schedule,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    accumulator_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent, u = -learning_rate g, with optax's form of momentum if asked for.

        trace = g + momentum trace
        u = -learning_rate trace                    (nesterov: g + momentum trace in its place)

    The trace remembers gradients, and a new learning rate acts on all of them at once; `momentum`
    and `nesterov` remember steps. Both forms are the same as long as the rate is constant.

    The textbook's schedules are optax's: linear decay until step tau is
    `optax.linear_schedule(first, last, tau)`, and decay as 1 / t is `lambda count: first /
    (1 + count)`, for any function of the count of steps is a schedule.

    Args:
        learning_rate: at least 0; or a schedule.
        momentum: decay of the trace, in [0, 1). None keeps no trace.
        nesterov: whether to look one step ahead.
        accumulator_dtype: dtype of the trace; None takes that of the parameters.

    Units:
        `learning_rate` is params^2 / loss.

    Invariant:
        The path does not change under rotations of the parameters.

    Returns:
        A rule; its state has the field `trace` where there is one.

    Source:
        Robbins and Monro (1951), doi:10.1214/aoms/1177729586. Goodfellow, Bengio and Courville,
        Deep Learning (2016), algorithm 8.1 and equation 8.14 (linear decay).

    Example:
        >>> rule = sgd(optax.linear_schedule(0.1, 0.001, 100))
        >>> params = jnp.array([1.0, 2.0])
        >>> updates, state = rule.update(jnp.array([1.0, -2.0]), rule.init(params), params)
        >>> print(updates)
        [-0.1  0.2]
    """
    require_rates("sgd", learning_rate=learning_rate)
    if momentum is None:
        memory = optax.identity()
    else:
        require_within("sgd", 0, 1, momentum=momentum)
        memory = _trace(momentum, nesterov, accumulator_dtype)
    return checked(optax.chain(memory, optax.scale_by_learning_rate(learning_rate)))


@interned_rule
def momentum(
    learning_rate: Scalar | Schedule, decay: Scalar = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with a velocity, the heavy ball.

        v = decay v - learning_rate g
        u = v

    The velocity is made of steps already taken, so a new learning rate acts on new gradients only.
    In `sgd(learning_rate, momentum=decay)`, optax's form, it acts on the old ones too.

    Args:
        learning_rate: at least 0; or a schedule.
        decay: alpha in the textbook, in [0, 1); 0 is `sgd`.

    Units:
        `learning_rate` is params^2 / loss.

    Invariant:
        The path does not change under rotations of the parameters.

    Returns:
        A rule; the velocity is its state's field `trace`.

    Source:
        Polyak (1964), doi:10.1016/0041-5553(64)90137-5. Goodfellow, Bengio and Courville, Deep
        Learning (2016), algorithm 8.2.

    Example:
        >>> rule = momentum(optax.piecewise_constant_schedule(1.0, {1: 0.0}), decay=0.5)
        >>> state = rule.init(0.0)
        >>> u, state = rule.update(1.0, state)
        >>> u, state = rule.update(1.0, state)  # the rate is 0 now, the ball rolls on
        >>> float(u)
        -0.5
    """
    require_rates("momentum", learning_rate=learning_rate)
    require_within("momentum", 0, 1, decay=decay)
    return checked(optax.chain(optax.scale_by_learning_rate(learning_rate), _trace(decay)))


@interned_rule
def nesterov(
    learning_rate: Scalar | Schedule, decay: Scalar = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent with a velocity that is corrected where it leads to.

        v = decay v - learning_rate g
        u = decay v - learning_rate g

    Args:
        learning_rate: at least 0; or a schedule.
        decay: alpha in the textbook, in [0, 1); 0 is `sgd`.

    Units:
        `learning_rate` is params^2 / loss.

    Invariant:
        The path does not change under rotations of the parameters.

    Returns:
        A rule; the velocity is its state's field `trace`.

    Source:
        Nesterov (1983), Soviet Mathematics Doklady 27. Sutskever, Martens, Dahl and Hinton, On the
        importance of initialization and momentum in deep learning, ICML (2013), equations 3 and 4.
        Goodfellow, Bengio and Courville, Deep Learning (2016), algorithm 8.3.

    Differs:
        The source steps from theta and takes the gradient at theta + decay v. Here `params` are
        that second point, so that the gradient of the loop is the one wanted (Bengio,
        Boulanger-Lewandowski and Pascanu, 2012, arXiv:1212.0901): the same path, seen a velocity
        ahead.

    Example:
        >>> rule = nesterov(0.1, decay=0.5)
        >>> u, state = rule.update(1.0, rule.init(0.0))
        >>> print(f"{u:.2f}")
        -0.15
    """
    require_rates("nesterov", learning_rate=learning_rate)
    require_within("nesterov", 0, 1, decay=decay)
    rate = optax.scale_by_learning_rate(learning_rate)
    return checked(optax.chain(rate, _trace(decay, nesterov=True)))


class TraceState(NamedTuple):
    """A decaying sum of everything that has passed."""

    trace: PyTree


def _trace(
    decay: Scalar, nesterov: bool = False, dtype: DTypeLike | None = None
) -> optax.GradientTransformation:
    def init(params: PyTree) -> TraceState:
        return TraceState(optax.tree.zeros_like(params, dtype=dtype))

    def recurrence(g: Array, trace: Array) -> tuple[Array, Array]:
        trace = g + decay * trace
        return (g + decay * trace if nesterov else trace), trace

    return _lift(init, recurrence)


# A learning rate for every parameter --------------------------------------------------------------


@interned_rule
def adagrad(
    learning_rate: Scalar | Schedule,
    initial_accumulator_value: Scalar = 0.1,
    eps: Scalar = 1e-7,
    eps_in_sqrt: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Steps divided by the root of the sum of all squared gradients.

        sum_of_squares = sum_of_squares + |g|^2
        u = -learning_rate g / sqrt(sum_of_squares + eps)

    The textbook's form is `adagrad(learning_rate, 0.0, eps_in_sqrt=False)`.

    Args:
        learning_rate: at least 0; or a schedule.
        initial_accumulator_value: where the sum starts, at least 0.
        eps: at least 0, delta in the textbook.
        eps_in_sqrt: whether eps stands under the root, or is added to it.

    Units:
        `learning_rate` is params; `initial_accumulator_value` and eps under the root are
        (loss / params)^2.

    Invariant:
        The path does not change under permutations and sign flips of the parameters; with
        eps = 0 and a sum that starts from 0, neither when the loss is scaled.

    Returns:
        A rule; its state has the field `sum_of_squares`.

    Source:
        Duchi, Hazan and Singer (2011), https://jmlr.org/papers/v12/duchi11a.html, figure 1 with a
        diagonal matrix. Goodfellow, Bengio and Courville, Deep Learning (2016), algorithm 8.4.

    Differs:
        Both sources start from 0 and add delta outside the root; the defaults are optax's.

    Example:
        >>> rule = adagrad(0.1, initial_accumulator_value=0.0, eps=0.0)
        >>> updates, state = rule.update(jnp.array([3.0, -4.0]), rule.init(jnp.zeros(2)))
        >>> print(updates, state[0].sum_of_squares)
        [-0.1  0.1] [ 9. 16.]
    """
    require_rates("adagrad", learning_rate=learning_rate)
    require_within(
        "adagrad", 0, math.inf, initial_accumulator_value=initial_accumulator_value, eps=eps
    )
    scale = _by_sum_of_squares(initial_accumulator_value, eps, eps_in_sqrt)
    return checked(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


class SumOfSquaresState(NamedTuple):
    """The sum of all squared gradients."""

    sum_of_squares: PyTree


def _by_sum_of_squares(
    start: Scalar, eps: Scalar, eps_in_sqrt: bool
) -> optax.GradientTransformation:
    def init(params: PyTree) -> SumOfSquaresState:
        return SumOfSquaresState(optax.tree.full_like(params, start))

    def recurrence(g: Array, total: Array) -> tuple[Array, Array]:
        total = total + _square(g)
        return g / _root(total, eps, eps_in_sqrt), total

    return _lift(init, recurrence)


@interned_rule
def rmsprop(
    learning_rate: Scalar | Schedule,
    decay: Scalar = 0.9,
    eps: Scalar = 1e-8,
    initial_scale: Scalar = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Steps divided by the root of the running mean of squared gradients.

        nu = decay nu + (1 - decay) |g|^2
        u = -learning_rate g / sqrt(nu + eps)

    centered: mu = decay mu + (1 - decay) g, and nu - |mu|^2 in place of nu. bias_correction: nu
    and mu divided by 1 - decay^t in the step t = 1, 2, ... momentum: u passes through a velocity,
    v = momentum v + u, as in the rule `momentum`.

    The textbook's form is `rmsprop(learning_rate, eps=1e-6)`.

    Args:
        learning_rate: at least 0; or a schedule.
        decay: rho in the textbook, in [0, 1).
        eps: at least 0, delta in the textbook.
        initial_scale: where nu starts, at least 0.
        eps_in_sqrt: whether eps stands under the root, or is added to it.
        centered: whether to divide by the standard deviation.
        momentum: decay of the velocity, in [0, 1). None keeps none.
        nesterov: whether the velocity looks one step ahead.
        bias_correction: whether to divide out the influence of the start.

    Units:
        `learning_rate` is params; `initial_scale` and eps under the root are (loss / params)^2.

    Invariant:
        The path does not change under permutations and sign flips of the parameters; with
        eps = 0 and initial_scale = 0, neither when the loss is scaled.

    Returns:
        A rule; its state has the fields `nu`, `mu` if centered, `trace` with momentum.

    Source:
        Tieleman and Hinton, Neural Networks for Machine Learning, lecture 6.5 (2012). Goodfellow,
        Bengio and Courville, Deep Learning (2016), algorithms 8.5 and 8.6. Graves (2013),
        arXiv:1308.0850 (centered).

    Differs:
        The rounded variance of the centered form is not let below 0.

    Example:
        >>> rule = rmsprop(0.1, decay=0.75, eps=0.0)
        >>> updates, state = rule.update(jnp.array([3.0, -4.0]), rule.init(jnp.zeros(2)))
        >>> print(updates)
        [-0.2  0.2]
    """
    require_rates("rmsprop", learning_rate=learning_rate)
    require_within("rmsprop", 0, 1, decay=decay)
    require_within("rmsprop", 0, math.inf, eps=eps, initial_scale=initial_scale)
    if momentum is None:
        memory = optax.identity()
    else:
        require_within("rmsprop", 0, 1, momentum=momentum)
        memory = _trace(momentum, nesterov)
    scale = _by_mean_square(decay, eps, initial_scale, eps_in_sqrt, centered, bias_correction)
    return checked(optax.chain(scale, optax.scale_by_learning_rate(learning_rate), memory))


class MeanSquareState(NamedTuple):
    """The running mean of squared gradients, after `count` steps."""

    count: Any  # an int32 scalar; tuples have a method of this name
    nu: PyTree


class VarianceState(NamedTuple):
    """The running means of gradients and of squared gradients, after `count` steps."""

    count: Any  # an int32 scalar; tuples have a method of this name
    mu: PyTree
    nu: PyTree


def _by_mean_square(
    decay: Scalar,
    eps: Scalar,
    start: Scalar,
    eps_in_sqrt: bool,
    centered: bool,
    bias_correction: bool,
) -> optax.GradientTransformation:
    def init(params: PyTree) -> MeanSquareState | VarianceState:
        count, nu = jnp.zeros([], jnp.int32), optax.tree.full_like(params, start)
        if centered:
            return VarianceState(count, optax.tree.zeros_like(params), nu)
        return MeanSquareState(count, nu)

    def debias(average: Array, count: Array) -> Array:
        return _debias(average, decay, count) if bias_correction else average

    def plain(count: Array, g: Array, nu: Array) -> tuple[Array, Array]:
        nu = decay * nu + (1 - decay) * _square(g)
        return g / _root(debias(nu, count), eps, eps_in_sqrt), nu

    def with_mean(count: Array, g: Array, mu: Array, nu: Array) -> tuple[Array, Array, Array]:
        mu = decay * mu + (1 - decay) * g
        nu = decay * nu + (1 - decay) * _square(g)
        variance = jnp.maximum(debias(nu, count) - _square(debias(mu, count)), 0)
        return g / _root(variance, eps, eps_in_sqrt), mu, nu

    return _lift(init, with_mean if centered else plain)


@interned_rule
def adam(
    learning_rate: Scalar | Schedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: DTypeLike | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Running means of the gradient and of its square, both corrected for their start from 0.

        mu = b1 mu + (1 - b1) g                     mu_hat = mu / (1 - b1^t)
        nu = b2 nu + (1 - b2) |g|^2                 nu_hat = nu / (1 - b2^t)
        u = -learning_rate mu_hat / (sqrt(nu_hat + eps_root) + eps)

    in the step t = 1, 2, ... nesterov: mu_hat = b1 mu / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t).
    The first step is learning_rate times the sign of -g (eps = 0).

    Args:
        learning_rate: at least 0; or a schedule.
        b1: decay of the mean, in [0, 1).
        b2: decay of the mean square, in [0, 1).
        eps: at least 0, added to the root.
        eps_root: at least 0, added under the root; positive, it lets derivatives pass through the
            rule where the gradient is 0.
        mu_dtype: dtype of the mean; None takes that of the parameters.
        nesterov: whether to look one step ahead (NAdam).

    Units:
        `learning_rate` is params; eps is loss / params.

    Invariant:
        The path does not change under permutations and sign flips of the parameters; with
        eps = eps_root = 0, neither when the loss is scaled.

    Returns:
        A rule; its state has the fields `count`, `mu`, `nu`.

    Source:
        Kingma and Ba (2015), arXiv:1412.6980, algorithm 1. Dozat (2016),
        https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ (nesterov).

    Differs:
        NAdam leaves out the factor b2 that the source's algorithm 2 puts before nu_hat.

    Example:
        >>> rule = adam(0.1)
        >>> updates, state = rule.update(jnp.array([3.0, -4.0]), rule.init(jnp.zeros(2)))
        >>> print(updates.round(3))
        [-0.1  0.1]
    """
    require_rates("adam", learning_rate=learning_rate)
    require_within("adam", 0, 1, b1=b1, b2=b2)
    require_within("adam", 0, math.inf, eps=eps, eps_root=eps_root)
    scale = _by_moments(b1, b2, eps, eps_root, mu_dtype, nesterov)
    return checked(optax.chain(scale, optax.scale_by_learning_rate(learning_rate)))


@interned_rule
def adamw(
    learning_rate: Scalar | Schedule,
    b1: Scalar = 0.9,
    b2: Scalar = 0.999,
    eps: Scalar = 1e-8,
    eps_root: Scalar = 0.0,
    mu_dtype: DTypeLike | None = None,
    weight_decay: Scalar | Schedule = 1e-4,
    mask: PyTree[bool] | None = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Adam with weight decay outside the division: u = adam's - learning_rate weight_decay params.

    A penalty in the loss passes through Adam's division like any gradient, and decays most where
    gradients are small; this term shrinks every parameter by the same factor.

    Args:
        learning_rate: at least 0; or a schedule.
        b1: as in `adam`, like the four that follow.
        b2: in [0, 1).
        eps: at least 0.
        eps_root: at least 0.
        mu_dtype: dtype of the mean.
        weight_decay: at least 0; or a schedule.
        mask: a tree of booleans, True where weights decay, of the structure of the parameters or
            a prefix of it; None means all. Matrices alone decay with
            `jax.tree.map(lambda p: p.ndim > 1, params)`.
        nesterov: as in `adam`.

    Units:
        `learning_rate` is params; `weight_decay` is 1 / params.

    Invariant:
        The path does not change under permutations and sign flips of the parameters; with
        eps = eps_root = 0, neither when the loss is scaled.

    Returns:
        A rule whose `update` needs `params`; its state has the fields `count`, `mu`, `nu`.

    Raises:
        TypeError: if `mask` is a function.

    Source:
        Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.

    Differs:
        The source multiplies weight_decay with its schedule alone, here the learning rate is a
        factor of it, as in optax and PyTorch. Where optax takes a function of the parameters as
        mask, here it is called by the caller: a function would be mistaken for a schedule.

    Example:
        >>> rule = adamw(0.1, weight_decay=0.5)
        >>> params = jnp.array([10.0, 10.0])
        >>> updates, state = rule.update(jnp.array([3.0, -4.0]), rule.init(params), params)
        >>> print(updates.round(3))
        [-0.6 -0.4]
    """
    require_rates("adamw", learning_rate=learning_rate, weight_decay=weight_decay)
    require_within("adamw", 0, 1, b1=b1, b2=b2)
    require_within("adamw", 0, math.inf, eps=eps, eps_root=eps_root)
    if callable(mask):
        raise TypeError(
            f"adamw: expected mask to be a tree of booleans, got {mask!r}; try mask(params)"
        )
    return checked(
        optax.chain(
            _by_moments(b1, b2, eps, eps_root, mu_dtype, nesterov),
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


class MomentsState(NamedTuple):
    """The running means of gradients and of squared gradients, after `count` steps."""

    count: Any  # an int32 scalar; tuples have a method of this name
    mu: PyTree
    nu: PyTree


def _by_moments(
    b1: Scalar,
    b2: Scalar,
    eps: Scalar,
    eps_root: Scalar,
    mu_dtype: DTypeLike | None,
    nesterov: bool,
) -> optax.GradientTransformation:
    def init(params: PyTree) -> MomentsState:
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        return MomentsState(jnp.zeros([], jnp.int32), mu, optax.tree.zeros_like(params))

    def recurrence(count: Array, g: Array, mu: Array, nu: Array) -> tuple[Array, Array, Array]:
        mu = b1 * mu + (1 - b1) * g
        nu = b2 * nu + (1 - b2) * _square(g)
        if nesterov:
            ahead = _debias(mu, b1, optax.safe_increment(count))
            mu_hat = b1 * ahead + (1 - b1) * _debias(g, b1, count)
        else:
            mu_hat = _debias(mu, b1, count)
        nu_hat = _debias(nu, b2, count)
        return mu_hat / _divisor(jnp.sqrt(nu_hat + eps_root) + eps), mu, nu

    return _lift(init, recurrence)


# Signs alone --------------------------------------------------------------------------------------


@interned_rule
def rprop(
    learning_rate: Scalar,
    eta_minus: Scalar = 0.5,
    eta_plus: Scalar = 1.2,
    min_step_size: Scalar = 1e-6,
    max_step_size: Scalar = 50.0,
) -> optax.GradientTransformationExtraArgs:
    """Resilient propagation: a step size for every parameter, and the sign of its gradient.

        g same sign as before:    step_size = min(eta_plus step_size, max_step_size)
        g changed its sign:       step_size = max(eta_minus step_size, min_step_size), then g = 0
        u = -step_size sign(g)

    A g set to 0 counts as neither in the next comparison. For full batches: the sign of a noisy
    gradient says little.

    Args:
        learning_rate: the first step size of all parameters, at least 0.
        eta_minus: factor after a change of sign, in [0, 1).
        eta_plus: factor after two equal signs, at least 1.
        min_step_size: at least 0.
        max_step_size: at least 0.

    Units:
        `learning_rate` and both limits are params.

    Invariant:
        The path does not change under permutations and sign flips of the parameters, nor when
        the loss is scaled.

    Returns:
        A rule for real parameters; its state has the fields `step_sizes` and `prev_updates`.

    Source:
        Riedmiller and Braun, A direct adaptive method for faster backpropagation learning: the
        RPROP algorithm (1993), doi:10.1109/ICNN.1993.298623; in the variant iRprop- of Igel and
        Huesken (2003), doi:10.1016/S0925-2312(01)00700-7, as in PyTorch.

    Differs:
        From 1993: where a gradient changed its sign, the last step is not taken back. From optax
        0.2.8: there every step is returned by the update after its own.

    Example:
        >>> rule = rprop(0.1)
        >>> state = rule.init(0.0)
        >>> for g in (3.0, 2.0, -1.0, -1.0):
        ...     u, state = rule.update(g, state)
        ...     print(f"{abs(u):.2f}")
        0.10
        0.12
        0.00
        0.06
    """
    require_within("rprop", 0, 1, eta_minus=eta_minus)
    require_within("rprop", 1, math.inf, eta_plus=eta_plus)
    require_within(
        "rprop",
        0,
        math.inf,
        learning_rate=learning_rate,
        min_step_size=min_step_size,
        max_step_size=max_step_size,
    )
    scale = _by_sign(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size)
    return checked(optax.chain(scale, optax.scale(-1.0)), leaves=jnp.floating)


class SignState(NamedTuple):
    """Step sizes, and the last step of every parameter, whose sign is the gradient's."""

    step_sizes: PyTree
    prev_updates: PyTree


def _by_sign(
    start: Scalar, eta_minus: Scalar, eta_plus: Scalar, least: Scalar, most: Scalar
) -> optax.GradientTransformation:
    def init(params: PyTree) -> SignState:
        return SignState(optax.tree.full_like(params, start), optax.tree.zeros_like(params))

    def recurrence(g: Array, step_size: Array, last: Array) -> tuple[Array, Array, Array]:
        agreement = jnp.sign(g) * jnp.sign(last)
        factor = jnp.where(agreement > 0, eta_plus, eta_minus)
        adapted = jnp.clip(step_size * factor, least, most)
        step_size = jnp.where(agreement == 0, step_size, adapted)
        step = jnp.where(agreement < 0, 0, step_size * jnp.sign(g))
        return step, step_size, step

    return _lift(init, recurrence)


# From one array to trees --------------------------------------------------------------------------


def _lift(init: Callable, recurrence: Callable) -> optax.GradientTransformation:
    """One array's recurrence as a transformation of trees.

    `init(params)` gives a state whose fields are trees like the parameters, and
    `recurrence(g, *fields) -> (direction, *fields)` advances one leaf of each. A state whose first
    field is `count` has it advanced here, and handed to the recurrence before g.

    Returns:
        A link for `optax.chain`.
    """

    def update(updates: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        del params
        counted = state._fields[0] == "count"
        count = (optax.safe_increment(state.count),) if counted else ()
        slots = state[len(count) :]

        def advance(g: Array | None, *old: Array) -> tuple:
            if g is None:
                return None, *old
            direction, *new = recurrence(*count, g, *old)
            return direction, *(cast(n, o.dtype) for n, o in zip(new, old, strict=True))

        leaves, treedef = jax.tree.flatten(updates, is_leaf=lambda g: g is None)
        columns = [require_aligned(updates, slot, "state") for slot in slots]
        rows = [advance(*row) for row in zip(leaves, *columns, strict=True)]
        direction, *slots = (
            treedef.unflatten([row[i] for row in rows]) for i in range(1 + len(slots))
        )
        return direction, type(state)(*count, *slots)

    return optax.GradientTransformation(init, update)


def _square(g: Array) -> Array:
    return jnp.real(jnp.conj(g) * g)


def _root(square: Array, eps: Scalar, eps_in_sqrt: bool) -> Array:
    return _divisor(jnp.sqrt(square + eps) if eps_in_sqrt else jnp.sqrt(square) + eps)


def _divisor(x: Array) -> Array:
    """1 in place of 0, which divides a gradient that has always been 0."""
    return jnp.where(x == 0, 1, x)


def _debias(average: Array, decay: Scalar, count: ArrayLike) -> Array:
    """A running mean without the share of its start from 0."""
    # In the dtype of the leaf, where x64 would make every leaf float64, but not in bfloat16.
    t = jnp.asarray(count, widest(jnp.finfo(average.dtype).dtype, jnp.float32))
    return average / (1 - decay**t)
