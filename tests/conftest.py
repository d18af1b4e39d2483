"""Tests run in float64; `float32` lanes say so by name."""

import jax

jax.config.update("jax_enable_x64", True)
