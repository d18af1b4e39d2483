"""What all compiled programs of a race share: XLA's options, settings as arrays, and batches."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from fnn import devices
from fnn.problems import Problem
from fnn.race.entrants import Entrant
from fnn.training import Source, source_of

Setting = Mapping[str, Any]

OPTIONS = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
"""Of programs whose seconds are not measured. Most of a short race on a CPU is compiling, which
takes 60 % of the time with these options; but elementwise code is up to 1.7 times as slow, and so
first-order rules, of which it is the most, would look slower than they are. Flags in `XLA_FLAGS`
come first, and a release that does not know an option does without it."""

ONCE = OPTIONS | {"xla_backend_optimization_level": 0}
"""For programs that run once: they compile in a quarter of the time, and run slower."""


def compiler_options() -> dict[str, Any]:
    """The options that this XLA knows; there are none on other devices than CPUs."""
    return devices.compiler_options(OPTIONS)


def source(problem: Problem, entrant: Entrant, train: PyTree, key: Array) -> Source:
    """The value functions of a run, step by step."""
    if problem.objective is None:
        return source_of(None, train)
    return source_of(problem.objective, train, batch_size=entrant.examples(problem), key=key)


def traced(setting: Setting) -> dict[str, Array]:
    """The setting as arrays, so that one program serves all settings."""
    return {name: jnp.asarray(x, jnp.result_type(float)) for name, x in setting.items()}
