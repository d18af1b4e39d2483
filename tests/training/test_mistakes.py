"""Likely mistakes: what fits together and means something else is refused, or said once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fnn
from fnn import Objective, fit, layers, losses, rules
from fnn.training.convexity import warn_of_negative_curvature

KEY = jax.random.key(0)
INPUTS = jax.random.normal(KEY, (12, 4))
LABELS = jnp.arange(12) % 3
RULE = rules.adam(1e-3)


def made(*stack):
    model = layers.serial(*stack)
    return model, model.init(KEY, INPUTS[0])


PLAIN, PLAIN_PARAMS = made(layers.dense(3))
CLASSES = Objective(PLAIN.apply, losses.softmax_cross_entropy)


def warned(match, *args, **options):
    options = {"steps": 2} | options
    with pytest.warns(UserWarning, match=match):
        return fit(RULE, *args, **options)


def refused(error, match, *args, **options):
    options = {"steps": 2} | options
    with pytest.raises(error, match=match):
        fit(RULE, *args, **options)


# Keys and batches ---------------------------------------------------------------------------------


def test_a_model_that_draws_and_gets_no_key():
    model, params = made(layers.dense(5), layers.dropout(0.5), layers.dense(3))
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    warned("dropout and the like are off", objective, params, (INPUTS, LABELS))
    fit(RULE, objective, params, (INPUTS, LABELS), steps=2, key=KEY)  # no word
    fit(RULE, CLASSES, PLAIN_PARAMS, (INPUTS, LABELS), steps=2)


def test_a_recurrence_that_draws_nothing_needs_no_key():
    """A scan hands a key to every step; what counts is whether the cell draws."""
    sequences, last = jnp.ones((12, 3, 4)), layers.elementwise(lambda h: h[-1])
    cell = layers.elman(3)

    def step(params, state, x, *, key=None):
        noise = 0 if key is None else jax.random.normal(key, state.shape)
        return cell.step(params, state + noise, x)

    def arguments(cell):
        model = layers.serial(layers.scan_over(cell), last)
        objective = Objective(model.apply, losses.softmax_cross_entropy)
        return objective, model.init(KEY, sequences[0]), (sequences, LABELS)

    fit(RULE, *arguments(cell), steps=2)  # no word
    warned("dropout and the like are off", *arguments(cell._replace(step=step)))


def test_a_key_that_nothing_reads():
    def noisy(params, x, rng=None):
        return x @ params + (0 if rng is None else jax.random.normal(rng))

    objective = Objective(noisy, losses.half_squared_error)
    data = INPUTS, INPUTS[:, 0]
    warned("the model calls it 'rng'", objective, jnp.zeros(4), data, key=KEY)


def test_mini_batches_without_a_key_and_too_large():
    data = INPUTS, LABELS
    warned("the same in every epoch", CLASSES, PLAIN_PARAMS, data, batch_size=5)
    warned("above the number of examples", CLASSES, PLAIN_PARAMS, data, batch_size=50, key=KEY)


@pytest.mark.parametrize("key", [0, np.int32(3), jnp.zeros(3), jax.random.split(KEY, 2)])
def test_a_number_is_no_key(key):
    refused(TypeError, r"(?s)expected a key.*jax\.random\.key", CLASSES, PLAIN_PARAMS,
            (INPUTS, LABELS), key=key)  # fmt: skip


# Curvature ----------------------------------------------------------------------------------------


def cauchy(outputs, target):
    """Not convex where an output is further than 1 from its target."""
    return jnp.sum(jnp.log1p((outputs - target) ** 2)) / 2


def quartic(outputs, target):
    return jnp.sum((outputs - target) ** 4)


def test_a_loss_that_is_not_convex_in_a_rule_that_reads_its_factor():
    params, data = PLAIN_PARAMS, (INPUTS, 5 + INPUTS[:, :3])
    robust = Objective(PLAIN.apply, cauchy).on(data)
    structure = fnn.curvature.structure(PLAIN.apply, params, INPUTS[0])
    lm = rules.levenberg_marquardt()
    match = "(?s)the loss cauchy is not convex.*first 12 examples.*zero in the place.*rules.newton"
    for rule, value_fn in (
        (rules.gauss_newton(damping=1.0), robust),
        (optax.chain(rules.spring(0.1), optax.scale(0.5)), robust),
        (rules.kfac(structure), robust),
        (lm, robust + fnn.l2(1e-3)),
    ):
        with pytest.warns(UserWarning, match=match):
            warn_of_negative_curvature(rule, value_fn, params)
    for rule in (rules.newton(damping=9.0), RULE):  # no word
        warn_of_negative_curvature(rule, robust, params)
    warn_of_negative_curvature(lm, Objective(PLAIN.apply, quartic).on(data), params)


def theirs(outputs, label):
    return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, label)


@pytest.mark.parametrize(
    ("dtype", "gap"), [("bfloat16", 0.0), ("bfloat16", 50.0), ("float32", 50.0), ("float64", 50.0)]
)
def test_rounding_is_no_negative_curvature(dtype, gap):
    """In half precision there are few digits, and far apart logits leave nothing of p - p^2."""
    logits = (INPUTS[:, :3] + gap * jnp.array([0, 1, -1])).astype(dtype)
    value_fn = Objective(lambda p, x: p * x, theirs).on((logits, LABELS))
    warn_of_negative_curvature(rules.gauss_newton(damping=1.0), value_fn, jnp.ones((), dtype))


@pytest.mark.parametrize("error", [None, MemoryError])
def test_a_rule_is_traced_once_and_on_few_examples(error):
    """What fails there is no error: the step that follows may do with less."""
    counts = []

    def update(updates, state, params=None, **given):
        del params
        counts.append(given["value_fn"].terms[0].block.count)
        if error is not None:
            raise error
        return updates, state

    rule = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    data = jnp.ones((1000, 4)), jnp.ones((1000, 3))
    for _ in range(1 if error else 2):
        value_fn = Objective(PLAIN.apply, cauchy).on(data)
        warn_of_negative_curvature(rule, value_fn, PLAIN_PARAMS)
    assert counts == [64]


def test_outputs_without_end_are_not_looked_at():
    wide = Objective(lambda p, x: p * x, cauchy).on((jnp.ones((2, 1500)), jnp.full((2, 1500), 9.0)))
    warn_of_negative_curvature(rules.gauss_newton(damping=1.0), wide, jnp.ones(1500))  # no word


def test_a_warning_is_of_the_line_that_called():
    data = INPUTS, 5 + INPUTS[:, :3]
    robust, rule = Objective(PLAIN.apply, cauchy), rules.levenberg_marquardt()
    for given in (data, [data]):
        with pytest.warns(UserWarning, match="is not convex") as caught:
            fit(rule, robust, PLAIN_PARAMS, given, steps=1)
        assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="the same in every epoch") as caught:
        fit(RULE, CLASSES, PLAIN_PARAMS, (INPUTS, LABELS), batch_size=5, steps=2)
    assert [warning.filename for warning in caught] == [__file__]


# Labels, losses and shapes ------------------------------------------------------------------------


@pytest.mark.parametrize("label", [3, -1, 100])
def test_a_label_outside_of_the_classes_is_named(label):
    wrong = LABELS.at[7].set(label)
    match = rf"labels from 0 to 2.*got {label} at index 7"
    refused(ValueError, match, CLASSES, PLAIN_PARAMS, (INPUTS, wrong))
    refused(ValueError, match, CLASSES, PLAIN_PARAMS, (INPUTS, LABELS), validation=(INPUTS, wrong))
    batches = [(INPUTS[:6], LABELS[:6]), (INPUTS[6:], wrong[6:])]
    refused(ValueError, match, CLASSES, PLAIN_PARAMS, batches)


def test_a_softmax_before_a_loss_of_logits():
    model, params = made(layers.dense(3), layers.elementwise(jax.nn.softmax))
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    warned("ends in a softmax", objective, params, (INPUTS, LABELS))
    theirs = optax.losses.softmax_cross_entropy_with_integer_labels
    warned("ends in a softmax", Objective(model.apply, theirs), params, (INPUTS, LABELS))


def test_shapes_that_broadcast_in_a_loss():
    objective = Objective(PLAIN.apply, lambda y, t: jnp.sum((y - t) ** 2))
    data = INPUTS, INPUTS[:, :3, None]
    warned(r"broadcast to \[3, 3\]", objective, PLAIN_PARAMS, data)
    fit(RULE, objective, PLAIN_PARAMS, (INPUTS, INPUTS[:, :3]), steps=2)


def test_batch_normalization_is_validated_prepared():
    model, params = made(layers.dense(5), layers.batch_norm(), layers.dense(3))
    objective = Objective(model.apply, losses.softmax_cross_entropy)
    data = INPUTS, LABELS
    refused(ValueError, "expected prepare=", objective, params, data, key=KEY, validation=data)
    trained = fit(
        RULE, objective, params, data, steps=2, key=KEY, validation=data,
        prepare=lambda params: layers.calibrate(model, params, INPUTS),
    )  # fmt: skip
    assert np.isfinite(trained.history.validation["loss"]).all()


def test_a_residual_beside_something_auxiliary():
    def pair(w, x):
        return x @ w, x.sum()

    warned("returns a pair", Objective(pair), jnp.zeros(4), INPUTS)
    integers = Objective(lambda w, x: (x @ w, jnp.argmax(x)))
    refused(TypeError, "residuals of floating point.*int", integers, jnp.zeros(4), INPUTS)


# What fit is given --------------------------------------------------------------------------------


def test_a_function_of_the_parameters_is_a_value_function():
    trained = fit(rules.newton(), lambda p: jnp.sum((p - 3.0) ** 2), jnp.zeros(2), steps=3)
    np.testing.assert_allclose(trained.params, 3.0)


def test_complex_residuals_count_by_their_absolute_value():
    roots = jnp.array([1 + 2j, -0.5 + 1j])

    def complex_residual(p, x):
        return (p[0] + 1j * p[1]) * x - (2 - 1j) * x

    def real_residual(p, x):
        r = complex_residual(p, x)
        return jnp.array([r.real, r.imag])

    ours, theirs = (
        fit(rules.levenberg_marquardt(), Objective(r), jnp.zeros(2), roots, steps=20)
        for r in (complex_residual, real_residual)
    )
    np.testing.assert_allclose(ours.history.value[0], theirs.history.value[0])
    for trained in (ours, theirs):
        np.testing.assert_allclose(trained.params, [2.0, -1.0], atol=1e-8)


def test_a_module_with_functions_in_it():
    module = {"weight": jnp.ones(4), "activation": jnp.tanh}
    objective = Objective(lambda p, x: p["activation"](x @ p["weight"]))
    refused(TypeError, r"params\['activation'\].*eqx\.partition", objective, module, INPUTS)


def test_a_function_that_cannot_be_hashed():
    @dataclasses.dataclass
    class Line:
        slope: float

        def __call__(self, params, x):
            return self.slope * (x @ params)

    refused(TypeError, "functions that can be hashed, got Line", Objective(Line(2.0)),
            jnp.zeros(4), INPUTS)  # fmt: skip


def test_two_arrays_in_a_list():
    refused(ValueError, "got a list of two arrays", CLASSES, PLAIN_PARAMS, [INPUTS, LABELS])


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_fit_cannot_be_traced(transform):
    def end(start):
        return fit(RULE, lambda p: jnp.sum(p**2), start, steps=2).params.sum()

    with pytest.raises(TypeError, match=r"cannot be called inside jax\.jit"):
        transform(end)(jnp.ones(3))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda rule: rule,
        lambda rule: optax.MultiSteps(rule, 2),
        lambda rule: optax.contrib.split_real_and_imaginary(rule),
    ],
)
def test_a_loop_that_passes_nothing_on(wrapped):
    rule, params = wrapped(rules.levenberg_marquardt()), jnp.ones(3)
    with pytest.raises(TypeError, match=r"rules\.bind"):
        rule.update(jnp.ones(3), rule.init(params), params)


def test_what_is_left_alone():
    """A plain training says nothing."""
    data = INPUTS, INPUTS[:, :3]
    objective = Objective(PLAIN.apply, losses.half_squared_error)
    trained = fit(RULE, objective, PLAIN_PARAMS, data, epochs=2, batch_size=5, key=KEY)
    assert trained.stopped == fnn.training.Stop.BUDGET
