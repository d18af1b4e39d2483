"""What is no array of numbers is told what to do, at every door through which data come."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import Objective, curvature, fit, layers, losses, rules
from fnn.arrays import as_arrays

INPUTS, TARGETS = np.linspace(-1, 1, 6).reshape(3, 2), np.array([1.0, 2.0, 3.0])
OBJECTIVE = Objective(lambda p, x: x @ p, losses.half_squared_error)
RULE, START = rules.adam(1e-3), jnp.zeros(2)
RAGGED = np.array([np.zeros(2), np.zeros(3), np.zeros(1)], dtype=object)


class Frame:
    """A table of another package, which NumPy reads and JAX does not know."""

    def __init__(self, values, dtype="double of theirs"):
        self.values, self.dtype, self.shape = np.asarray(values), dtype, np.shape(values)

    def __array__(self, dtype=None, copy=None):
        if self.values.dtype == object:
            return self.values
        return np.asarray(self.values, dtype)


REFUSED = {
    "a nested list": (INPUTS.tolist(), r"a list of numbers at inputs, .* np\.asarray"),
    "a list of scalars": ([np.float64(1), 2.0, jnp.ones(())], "a list of numbers"),
    "a ragged list": ([[1.0], [1.0, 2.0], [3.0]], "several lengths.*pad them to one length"),
    "a list with None": ([[1.0, None]] * 3, r"NoneType at index \(0, 1\)"),
    "objects": (INPUTS.astype(object), r"array of objects at inputs; try \.astype\(float\)"),
    "arrays of several shapes": (RAGGED, r"shapes \[\(1,\), \(2,\), \(3,\)\].*pad"),
    "None among objects": (np.array([1.0, None, 2.0]), r"NoneType at index \(1,\)"),
    "text": (np.array(["a", "b", "a"]), r"text at inputs; try np\.unique"),
    "a list of text": (["a", "b", "a"], "text"),
    "text in a dictionary": ({"a": INPUTS, "b": "text"}, r"str at inputs\['b'\]"),
    "dates": (np.array(["2020-01-01"] * 3, "datetime64[D]"), r"datetime64\[D\].*timedelta64"),
    "records": (np.zeros(3, [("a", float)]), "structured_to_unstructured"),
    "a masked array": (np.ma.array(INPUTS, mask=False), r"masked array.*weights of 0"),
    "a frame of text": (Frame([["a", 1.0]] * 3), "text|objects"),
    "a range": (range(3), r"range at inputs; try np\.asarray"),
    "long double": (INPUTS.astype(np.longdouble), r"an array of float.*\.astype\(float\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_array_of_numbers(name):
    leaf, match = REFUSED[name]
    if name == "long double" and np.longdouble == np.float64:
        return
    with pytest.raises(TypeError, match=rf"expected arrays, got .*{match}"):
        as_arrays("fit", "inputs", leaf)


def test_what_is_left_alone_and_what_is_read():
    spec = jax.ShapeDtypeStruct((3,), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    tree = {"a": [INPUTS, (jnp.ones(3, jnp.bfloat16), None)], "b": spec, "c": keys, "d": ()}
    assert jax.tree.leaves(as_arrays("fit", "x", tree)) == jax.tree.leaves(tree)
    for read in (Frame(INPUTS), INPUTS.astype(">f8")):
        np.testing.assert_array_equal(as_arrays("fit", "x", read), INPUTS)
        assert as_arrays("fit", "x", read).dtype == np.dtype(float)


class Variable:
    """Holds an array of JAX, which may be traced, so that NumPy cannot read it."""

    def __init__(self, value):
        self.value, self.shape = value, value.shape

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)

    def __jax_array__(self):
        return self.value


def test_a_variable_that_holds_an_array():
    variable = Variable(jnp.ones(2))
    assert as_arrays("fit", "x", {"a": variable})["a"] is variable.value
    assert jax.jit(lambda x: as_arrays("fit", "x", Variable(x)))(jnp.ones(2)).tolist() == [1, 1]


NORMALIZED = layers.serial(layers.dense(3), layers.batch_norm())
DOORS = {
    "on": lambda inputs: OBJECTIVE.on((inputs, TARGETS)),
    "outputs": lambda inputs: OBJECTIVE.outputs(START, inputs),
    "fit": lambda inputs: fit(RULE, OBJECTIVE, START, (inputs, TARGETS), steps=1),
    "validation": lambda inputs: fit(
        RULE, OBJECTIVE, START, (INPUTS, TARGETS), steps=1, validation=(inputs, TARGETS)
    ),
    "a stream": lambda inputs: fit(RULE, OBJECTIVE, START, [(inputs, TARGETS)], steps=1),
    "bind": lambda inputs: rules.bind(RULE, OBJECTIVE, (inputs, TARGETS)).update(
        START, RULE.init(START), START
    ),
    "laplace": lambda inputs: curvature.laplace(OBJECTIVE.on((inputs, TARGETS)), START),
    "calibrate": lambda inputs: layers.calibrate(
        NORMALIZED, NORMALIZED.init(jax.random.key(0), jnp.ones(2)), inputs
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_says_so(door):
    for name in ("a nested list", "objects", "text"):
        with pytest.raises(TypeError, match=r"expected arrays, got .* try "):
            DOORS[door](REFUSED[name][0])


def test_a_frame_comes_through_every_door():
    trained = fit(RULE, OBJECTIVE, START, (Frame(INPUTS), Frame(TARGETS)), steps=1)
    plain = fit(RULE, OBJECTIVE, START, (INPUTS, TARGETS), steps=1)
    np.testing.assert_array_equal(trained.params, plain.params)
    streamed = fit(RULE, OBJECTIVE, START, [(Frame(INPUTS), Frame(TARGETS))], steps=1)
    np.testing.assert_allclose(streamed.params, plain.params)


def test_rows_in_a_list_and_a_list_of_batches_of_a_residual():
    with pytest.raises(ValueError, match=r"np\.stack in place of a list"):
        OBJECTIVE.on((list(INPUTS), TARGETS))
    with pytest.raises(TypeError, match=r"list of numbers at batch"):
        fit(RULE, Objective(lambda p, x: x @ p), START, INPUTS.tolist(), steps=1)


def test_lists_that_reach_a_model_and_a_loss():
    inputs = [np.zeros((3, 2)), np.zeros((3, 4))]
    with pytest.raises(TypeError, match=r"the model takes, got a list of 2.*np\.stack\(inputs\)"):
        OBJECTIVE.on((inputs, TARGETS))(START)
    with pytest.raises(TypeError, match=r"the loss takes, got a list of 1.*np\.stack\(targets\)"):
        Objective(lambda p, x: x @ p, lambda y, t: (y - t) ** 2).on((INPUTS, [TARGETS]))(START)


@pytest.mark.parametrize("loss", [losses.half_squared_error, lambda y, t: (y - t) ** 2])
def test_a_loss_without_targets(loss):
    with pytest.raises(TypeError, match=r"got None.*objective without a loss"):
        Objective(lambda p, x: x @ p, loss).on((INPUTS, None))(START)


@pytest.mark.parametrize(
    ("params", "got"), [({"w": START, "name": "linear"}, "str"), (np.zeros(2, object), "object")]
)
def test_parameters_that_are_no_numbers(params, got):
    with pytest.raises(TypeError, match=rf"expected parameters that are arrays, got .* of {got}"):
        fit(RULE, OBJECTIVE, params, (INPUTS, TARGETS), steps=1)
    with pytest.raises(TypeError, match=f"got {got}"):
        RULE.init(params)


def test_parameters_of_another_package():
    with pytest.raises(TypeError, match="got double of theirs at params"):
        RULE.init(Frame(START))
