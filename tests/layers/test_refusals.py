"""Misuse is refused before anything runs, and the message says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fnn import layers

KEY = jax.random.key(0)
DENSE, NORM = layers.dense(8), layers.layer_norm()


def ones(*shape, dtype=float):
    return jnp.ones(shape, dtype)


def init(layer, x):
    return lambda: jax.eval_shape(layer.init, KEY, x)


def apply(layer, x, other):
    """Parameters for x, applied to another example."""
    return lambda: jax.eval_shape(layer.apply, jax.eval_shape(layer.init, KEY, x), other)


def cell(change):
    """A cell whose state is changed by each step."""
    return layers.Cell(
        lambda *_: (),
        lambda _, x: jnp.zeros(x.shape),
        lambda _, state, x, **__: (change(state), x),
    )


REFUSALS = [
    (
        init(DENSE, ones(32, 4)),
        ValueError,
        r"dense\(8\): expected one example of shape \(features,\), got \(32, 4\); "
        r"map positions with layers\.each, examples with Objective\.on",
    ),
    (apply(DENSE, ones(4), ones(32, 4)), ValueError, r"dense\(8\): .*got \(32, 4\)"),
    (init(DENSE, ones()), ValueError, r"dense\(8\): .*got \(\)"),
    (init(DENSE, ones(4, dtype=int)), TypeError, r"dense\(8\): .*got int64; .*layers\.embedding"),
    (init(DENSE, [1.0, 2.0]), TypeError, r"dense\(8\): expected one example .* got list"),
    (apply(DENSE, ones(4), ones(5)), ValueError, r"dense\(8\): expected 4 features.*got 5"),
    (lambda: DENSE.apply((), ones(4)), TypeError, r"dense\(8\): expected parameters .*got tuple"),
    (
        lambda: DENSE.apply({"kernel": ones(4, 8)}, ones(4)),
        TypeError,
        r"dense\(8\): .*\['weight', 'bias'\], got \['kernel'\]; make them by init",
    ),
    (lambda: layers.dense(0), ValueError, r"dense\(0\): expected whole numbers above zero"),
    (lambda: layers.dense(2.5), ValueError, r"dense\(2.5\): expected whole numbers"),
    (lambda: layers.radial(0), ValueError, r"radial\(0\): expected whole numbers above zero"),
    (init(layers.radial(3), ones(4, 2)), ValueError, r"radial\(3\): expected one example"),
    (apply(layers.radial(3), ones(4), ones(5)), ValueError, r"radial\(3\): .*4 features.*got 5"),
    (lambda: layers.maxout(3, 0), ValueError, r"maxout\(3, 0\): expected whole"),
    (lambda: layers.embedding(3, 0), ValueError, r"embedding\(3, 0\): expected whole"),
    (init(layers.embedding(3, 2), ones(4)), TypeError, r"expected integer indices, got float64"),
    (lambda: layers.conv(8, 3), ValueError, r"conv: expected a window .* got 3; try \(3,\)"),
    (lambda: layers.conv(8, (3,), groups=3), ValueError, r"conv\(8, \(3,\)\): expected groups"),
    (lambda: layers.conv(8, (3,), strides=(1, 2)), ValueError, "one for each of 1 axes"),
    (lambda: layers.conv(8, (3,), dilation=0), ValueError, "whole numbers above zero"),
    (lambda: layers.conv(8, (3,), padding="same"), ValueError, "expected 'SAME', 'VALID'"),
    (lambda: layers.conv(8, (3,), padding=[(1, -1)]), ValueError, r"got \[\(1, -1\)\]"),
    (lambda: layers.conv(8, (3, 3), padding=[(1, 1)]), ValueError, "for each of 2 axes"),
    (
        init(layers.conv(8, (3, 3)), ones(9, 9)),
        ValueError,
        r"shape \(positions, positions, features\), got \(9, 9\)",
    ),
    (init(layers.conv(8, (3,), groups=2), ones(9, 3)), ValueError, "in 2 groups, got 3 features"),
    (apply(layers.conv(8, (3,)), ones(9, 3), ones(9, 4)), ValueError, "3 features.*got 4"),
    (
        apply(layers.conv(8, (3,), padding="VALID"), ones(9, 3), ones(2, 3)),
        ValueError,
        r"as the window covers, got \(2, 3\); try padding='SAME'",
    ),
    (apply(layers.max_pool((3,)), ones(2, 3), ones(2, 3)), ValueError, "as the window covers"),
    (lambda: layers.max_pool((2,), padding=2), ValueError, "padding smaller than the window"),
    (lambda: layers.average_pool(2), ValueError, "average_pool: expected a window"),
    (apply(layers.max_pool((2,)), ones(4, 3), ones(4, 3, dtype=int)), TypeError, "got int64"),
    (lambda: layers.group_norm(0), ValueError, r"group_norm\(0\)"),
    (init(layers.group_norm(3), ones(4)), ValueError, r"that 3 groups share evenly, got 4"),
    (apply(NORM, ones(4), ones(3)), ValueError, "layer_norm: expected 4 features.*got 3"),
    (init(layers.batch_norm(), ones(3, dtype=int)), TypeError, "batch_norm: .*got int64"),
    (lambda: layers.layer_norm(eps=0.0), ValueError, "layer_norm: expected eps > 0, got 0.0"),
    (lambda: layers.rms_norm(eps=-1.0), ValueError, "rms_norm: expected eps > 0"),
    (lambda: layers.group_norm(2, eps=0.0), ValueError, r"group_norm\(2\): expected eps > 0"),
    (lambda: layers.batch_norm(eps=0.0), ValueError, "batch_norm: expected eps > 0"),
    (lambda: layers.dropout(1.0), ValueError, r"dropout\(1.0\): expected 0 <= rate < 1"),
    (lambda: layers.dropout(-0.1), ValueError, r"the probability of dropping"),
    (lambda: layers.dropout(float("nan")), ValueError, r"dropout\(nan\)"),
    (lambda: layers.elementwise(DENSE), TypeError, "expected a function, got Layer"),
    (lambda: layers.serial(DENSE, jax.nn.relu), TypeError, r"relu at position 1; .*elementwise"),
    (lambda: layers.fan_out(DENSE.apply), TypeError, "expected a Layer"),
    (lambda: layers.parallel(None), TypeError, "got NoneType at position 0"),
    (lambda: layers.residual(jnp.tanh), TypeError, "residual: expected a Layer, got tanh"),
    (lambda: layers.each(jnp.tanh), TypeError, "each: expected a Layer, got tanh"),
    (lambda: layers.summary(DENSE.apply, ones(4)), TypeError, "summary: expected a Layer"),
    (
        lambda: layers.serial(DENSE).apply((), ones(4)),
        ValueError,
        "serial: expected params for 1 layers, got 0",
    ),
    (
        lambda: layers.serial(DENSE).apply({"weight": 1}, ones(4)),
        TypeError,
        "serial: expected a tuple of params, got dict",
    ),
    (
        init(layers.parallel(DENSE, DENSE), ones(4)),
        TypeError,
        "parallel: expected a tuple of inputs, got .*; fan_out makes one",
    ),
    (
        init(layers.parallel(DENSE, DENSE), (ones(4),)),
        ValueError,
        "parallel: expected inputs for 2 layers, got 1",
    ),
    (lambda: layers.fan_in_add().apply((), ones(2)), TypeError, "fan_in_add: expected a tuple"),
    (lambda: layers.fan_in_add().apply((), ()), ValueError, "fan_in_add: .* empty"),
    (
        lambda: layers.fan_in_add().apply((), (ones(2), ones(1))),
        ValueError,
        r"fan_in_add: expected terms of one shape, got \(2,\), \(1,\)",
    ),
    (
        apply(layers.residual(layers.dense(1)), ones(4), ones(4)),
        ValueError,
        r"residual: expected terms of one shape, got \(4,\), \(1,\); .*fan_out",
    ),
    (init(layers.each(DENSE), ones()), ValueError, r"each: expected arrays .*got \(\)"),
    (
        init(layers.each(layers.parallel(DENSE, DENSE)), (ones(3, 2), ones(4, 2))),
        ValueError,
        r"as many positions in each, got \(3, 2\), \(4, 2\)",
    ),
    (lambda: layers.scan_over(DENSE), TypeError, r"scan_over: expected a Cell, got Layer"),
    (
        lambda: layers.bidirectional(layers.gru(3), DENSE),
        TypeError,
        r"bidirectional: expected a Cell, got Layer; try layers\.gru",
    ),
    (init(layers.scan_over(layers.gru(3)), ones()), ValueError, r"scan_over\(gru\(3\)\): expected"),
    (init(layers.scan_over(layers.gru(3)), ones(4)), ValueError, r"gru\(3\): expected one example"),
    (
        apply(layers.scan_over(layers.lstm(3)), ones(5, 4), ones(5, 3)),
        ValueError,
        r"lstm\(3\): expected 4 features.*got 3",
    ),
    (
        apply(layers.scan_over(cell(lambda h: h[None])), ones(5, 4), ones(5, 4)),
        ValueError,
        r"scan_over\(cell\): expected a step that keeps the shape \(4,\), got \(1, 4\); try",
    ),
    (
        apply(layers.scan_over(cell(jnp.isnan)), ones(5, 4), ones(5, 4)),
        ValueError,
        r"scan_over\(cell\): expected a step that keeps the dtype float64, got bool; try to cast",
    ),
    (lambda: layers.elman(0), ValueError, r"elman\(0\)"),
    (lambda: layers.multi_head_attention(0), ValueError, r"multi_head_attention\(0\)"),
    (
        init(layers.multi_head_attention(3), ones(5, 4)),
        ValueError,
        "features that 3 heads share evenly, got 4",
    ),
    (init(layers.multi_head_attention(2), (ones(5, 4),)), ValueError, r"got a tuple of 1"),
    (init(layers.multi_head_attention(2), ones(4)), ValueError, r"\(positions, features\)"),
    (apply(layers.prelu(), ones(4), ones(3)), ValueError, "prelu: expected 4 features"),
    (lambda: layers.conv_transpose(8, 3), ValueError, "conv_transpose: expected a window"),
    (
        apply(layers.conv_transpose(8, (3,), padding=3), ones(5, 2), ones(4, 2)),
        ValueError,
        r"conv_transpose\(8, \(3,\)\): expected padding that .* 4 positions make, got 3; try",
    ),
    (
        apply(
            layers.conv_transpose(8, (3, 3), padding=((0, 0), (9, 0))), ones(2, 9, 2), ones(2, 2, 2)
        ),
        ValueError,
        r"expected padding that leaves .* 2 positions make, got \(\(0, 0\), \(9, 0\)\); try 'SAME'",
    ),
    *(
        (init(layer, ones(2, 9, 1)), ValueError, rf"{name}.*window covers, got \(2, 9, 1\); try")
        for name, layer in {
            "average_pool": layers.serial(layers.average_pool((5, 5))),
            "max_pool": layers.serial(layers.max_pool((5, 5))),
            "max_pool_indices": layers.pooled(layers.conv(1, (1, 1)), (5, 5)),
        }.items()
    ),
    (
        apply(layers.max_pool_indices((3, 3)), ones(3, 3, 1), ones(2, 9, 1)),
        ValueError,
        r"max_pool_indices\(\(3, 3\)\): expected positions at least as many as the window covers",
    ),
    (lambda: layers.max_pool_indices((2,), padding=2), ValueError, "smaller than the window"),
    (
        lambda: layers.unpool(ones(2, 3), ones(2, 2, dtype=int), (4,)),
        ValueError,
        r"unpool: expected indices of the shape of the values \(2, 3\), got \(2, 2\)",
    ),
    (lambda: layers.unpool(ones(2, 3), ones(2, 3), (4,)), TypeError, "unpool: .*integer indices"),
    (lambda: layers.upsample((2,), method="cubic"), ValueError, "'nearest' or 'linear', got"),
    (
        init(layers.learned_positions(3), ones(4, 2)),
        ValueError,
        r"learned_positions\(3\): expected at most 3 positions, got 4; try",
    ),
    (lambda: layers.sinusoidal_positions(longest=0.0), ValueError, "expected longest > 0"),
    (lambda: layers.stack(DENSE, 0), ValueError, r"stack\(dense\(8\), 0\): expected whole"),
    (
        apply(layers.stack(DENSE, 2), ones(4), ones(4)),
        ValueError,
        r"stack\(dense\(8\), 2\): expected a layer that keeps the shape \(4,\), got \(8,\)",
    ),
    (
        apply(layers.stack(layers.elementwise(jnp.isnan), 2), ones(4), ones(4)),
        ValueError,
        r"stack\(.*, 2\): expected a layer that keeps the dtype float64, got bool; try to cast",
    ),
    (lambda: layers.stack(DENSE, 2).apply({"w": ones(3)}, ones(8)), ValueError, "of length 2, got"),
    (init(layers.scan_from(layers.gru(3)), ones(5, 4)), TypeError, r"tuple \(state, inputs\)"),
    (
        apply(layers.scan_from(layers.gru(3)), (None, ones(5, 4)), (ones(2), ones(5, 4))),
        ValueError,
        r"scan_from\(gru\(3\)\): expected a state of shapes \(3,\), got \(2,\); try None",
    ),
    # Found by benchmarks/soak/generated.py.
    (init(DENSE, ones(0)), ValueError, r"dense\(8\): expected one example with a number in it"),
    (init(layers.group_norm(1), ones(3, 0)), ValueError, r"group_norm\(1\): .*got shape \(3, 0\)"),
    (
        apply(layers.flatten(), (), (ones(3), ones(3))),
        TypeError,
        "flatten: expected one example that is an array, got tuple",
    ),
    (
        apply(layers.fan_in_add(), (), ((ones(3),), (ones(3),))),
        TypeError,
        "fan_in_add: expected one example that is an array, got tuple",
    ),
    (
        apply(layers.fan_in_concatenate(), (), (ones(), ones())),
        ValueError,
        r"fan_in_concatenate: expected shapes that differ along axis -1 alone, got \(\), \(\)",
    ),
    (
        apply(layers.fan_in_concatenate(), (), (ones(2, 3), ones(3, 3))),
        ValueError,
        r"differ along axis -1 alone, got \(2, 3\), \(3, 3\); .*fan_out",
    ),
]


@pytest.mark.parametrize(("act", "error", "message"), REFUSALS)
def test_refusal(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_numpy_integers_are_whole_numbers():
    assert layers.dense(np.int64(3)).name == "dense(3)"


def test_a_function_that_cannot_take_its_input_is_named_with_it():
    """Found by benchmarks/soak/generated.py: which of twenty functions it was, nobody said."""
    with pytest.raises(TypeError) as caught:
        layers.elementwise(jnp.tanh).apply((), (ones(3), ones(2)))
    assert "elementwise(tanh): expected a function of its input, of shape ((3,), (2,))" in (
        caught.value.__notes__
    )
