"""`predict` against the model itself: any number of examples, any kind of model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fnn
from fnn import layers
from fnn.prediction import _outputs
from tests.line import loss, model

INPUTS = np.linspace(-1, 1, 33).reshape(11, 3)
PARAMS = {"weight": jnp.array([1.0, -2.0, 0.5]), "bias": jnp.array(0.25)}
EXPECTED = INPUTS @ np.array([1.0, -2.0, 0.5]) + 0.25
VALUE_FN = fnn.Objective(model, loss).on((INPUTS, EXPECTED))


@pytest.mark.parametrize("chunk", [1, 4, 11, 12, None])
def test_outputs_do_not_depend_on_the_chunk(chunk):
    outputs = fnn.predict(model, PARAMS, INPUTS, chunk=chunk)
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, EXPECTED, rtol=1e-12)


def test_a_model_may_be_a_layer_an_objective_or_a_function_of_trees():
    layer = layers.serial(layers.dense(2))
    params = layer.init(jax.random.key(0), INPUTS[0])
    expected = jax.vmap(lambda x: layer.apply(params, x))(INPUTS)
    np.testing.assert_allclose(fnn.predict(layer, params, INPUTS, chunk=4), expected)
    objective = fnn.Objective(layer.apply, loss)
    np.testing.assert_allclose(fnn.predict(objective, params, INPUTS, chunk=4), expected)
    tree = {"a": INPUTS, "b": jnp.arange(11)}
    twice = fnn.predict(lambda w, x: {"sum": w * x["a"].sum(), "b": x["b"]}, 2.0, tree, chunk=3)
    np.testing.assert_allclose(twice["sum"], 2 * INPUTS.sum(1))
    np.testing.assert_array_equal(twice["b"], np.arange(11))


def test_one_program_serves_all_numbers_of_examples(monkeypatch):
    traced = []

    def counted(params, x):
        traced.append(x.shape)
        return model(params, x)

    fnn.predict(counted, PARAMS, INPUTS, chunk=4)
    once = len(traced)
    for rows in (INPUTS[:9], INPUTS[:4], np.concatenate([INPUTS, INPUTS])):
        assert len(fnn.predict(counted, PARAMS, rows, chunk=4)) == len(rows)
    assert len(traced) == once
    sizes = []
    monkeypatch.setattr(
        "fnn.prediction._outputs",
        lambda model, params, inputs: sizes.append(len(inputs)) or _outputs(model, params, inputs),
    )
    fnn.predict(counted, PARAMS, INPUTS, chunk=4)
    assert sizes == [4, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "chunk", "error", "message"),
    [
        ((VALUE_FN, PARAMS, INPUTS), None, TypeError, "got a value function, which has data"),
        ((3, PARAMS, INPUTS), None, TypeError, "expected a model.* got int"),
        ((model, PARAMS, INPUTS), 0, ValueError, "chunk to be a whole number above 0, got 0"),
        ((model, PARAMS, INPUTS), "all", ValueError, "got 'all'; try None, which is 1024"),
        ((model, PARAMS, INPUTS), 2.5, ValueError, "got 2.5"),
        ((model, PARAMS, INPUTS.tolist()), None, TypeError, "predict: expected arrays, got a list"),
        ((model, PARAMS, INPUTS[:0]), None, ValueError, "example"),
        ((model, PARAMS, 1.0), None, ValueError, "got the scalar inputs"),
    ],
)  # fmt: skip
def test_what_is_not_predicted(arguments, chunk, error, message):
    with pytest.raises(error, match=message):
        fnn.predict(*arguments, chunk=chunk)


def test_errors_of_models_are_those_of_fit():
    """What fit explains of a model, and refuses in it, `predict` and `outputs` do alike."""

    def of_rows(params, rows):
        return params * rows.sum()

    kept = []

    def leaking(params, x):
        kept.append(params * x)
        return kept[0] * x

    rows, few = [np.ones(3), np.ones(3)], np.ones(2)
    for predict in (fnn.predict, lambda model, *args: fnn.Objective(model).outputs(*args)):
        with pytest.raises(TypeError, match=r"got a list of 2 arrays.*try np\.stack\(inputs\)"):
            predict(of_rows, 2.0, rows)
        kept.clear()
        predict(leaking, 2.0, few)
        with pytest.raises(TypeError, match="keeps traced values between calls"):
            predict(lambda params, x: leaking(params, x), 2.0, few)


def test_a_model_without_a_hash_is_refused():
    @dataclasses.dataclass
    class Scaled:
        factor: float

        def __call__(self, params, x):
            return self.factor * params * x

    with pytest.raises(TypeError, match=r"^predict: expected functions that can be hashed, got Sc"):
        fnn.predict(Scaled(2.0), 1.0, np.ones(3))
