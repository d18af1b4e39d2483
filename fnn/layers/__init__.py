"""Layers: pairs of pure functions, and how to put them together.

A `Layer` is `init(key, x) -> params` and `apply(params, x, *, key=None) -> outputs`. What all
layers of this package have in common:

- x is ONE example, with features on its last axis; there is no batch axis anywhere. `each` maps a
  layer over positions; examples are mapped by `fnn.Objective` (or by `jax.vmap`).
- Parameters are plain containers of arrays (dicts for layers, tuples for combinators, `()` for
  layers without any), in the dtype of x, or in JAX's default float dtype where x is of integers.
- A key means training (dropout drops, batch normalization looks at the batch), no key inference.
- Weights start from `jax.nn.initializers.lecun_normal()` and biases at zero, unless an argument
  `weight` or `bias` brings another initializer.
- Outputs have the dtype to which inputs and parameters promote.
- What cannot work is refused while tracing, before anything runs, and counts that are no whole
  numbers above zero already when the layer is made.

Activations are functions: `elementwise(jax.nn.relu)`. So are the ways of tying weights, and all
else that a function `(params, x) -> outputs` can say: a model need not be a `Layer`.
"""

from fnn.layers.attention import causal, multi_head_attention, scaled_dot_product_attention
from fnn.layers.combinators import (
    each,
    fan_in_add,
    fan_in_concatenate,
    fan_out,
    parallel,
    residual,
    serial,
)
from fnn.layers.convolution import conv, conv_transpose
from fnn.layers.layer import Layer
from fnn.layers.layer import positions_in_scope as positions_in_scope
from fnn.layers.layer import require_layers as require_layers
from fnn.layers.layer import without_key as without_key
from fnn.layers.linear import dense, embedding, maxout, radial
from fnn.layers.normalization import batch_norm, calibrate, group_norm, layer_norm, rms_norm
from fnn.layers.positions import learned_positions, sinusoidal_positions
from fnn.layers.recurrent import Cell, bidirectional, elman, gru, lstm, scan_from, scan_over
from fnn.layers.stacked import stack
from fnn.layers.table import Row, Summary, summary
from fnn.layers.units import dropout, elementwise, prelu
from fnn.layers.unpooling import max_pool_indices, pooled, unpool, upsample
from fnn.layers.window import average_pool, flatten, max_pool

__all__ = [
    "Cell",
    "Layer",
    "Row",
    "Summary",
    "average_pool",
    "batch_norm",
    "bidirectional",
    "calibrate",
    "causal",
    "conv",
    "conv_transpose",
    "dense",
    "dropout",
    "each",
    "elementwise",
    "elman",
    "embedding",
    "fan_in_add",
    "fan_in_concatenate",
    "fan_out",
    "flatten",
    "group_norm",
    "gru",
    "layer_norm",
    "learned_positions",
    "lstm",
    "max_pool",
    "max_pool_indices",
    "maxout",
    "multi_head_attention",
    "parallel",
    "pooled",
    "prelu",
    "radial",
    "residual",
    "rms_norm",
    "scaled_dot_product_attention",
    "scan_from",
    "scan_over",
    "serial",
    "sinusoidal_positions",
    "stack",
    "summary",
    "unpool",
    "upsample",
]
__dir__ = __all__.copy
