"""Second-order rules, curvature and `fit`'s endings in other units: the path is the same.

    uv run benchmarks/soak/units.py

A 2-2-1 network with tanh is fitted to forty noisy points of another one. Outputs and targets are
multiplied by 10^k (the value by 10^2k), or its parameters by 10^k (all of them, and for rules that
are free of the scale of each parameter one leaf alone), k from -12 to 12 in float64 and from -6 to
6 in float32. Units are inputs of the model, so that each rule compiles once. What it asserts: in
all units each rule ends at the value at which it ends at k = 0. The table that it prints has the
number of cases, the largest deviation from k = 0, of the parameters after five steps and of the
last value, and how many end for another reason (at a minimum rounding decides which).
"""

import sys
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fnn
from fnn import curvature, layers, losses, rules
from fnn.rules import scaling

MODEL = layers.serial(layers.dense(2), layers.elementwise(jnp.tanh), layers.dense(1))
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((40, 2))
TRUTH = jax.tree.map(
    lambda leaf: RNG.uniform(0.5, 1.5, leaf.shape) * RNG.choice([-1, 1], leaf.shape),
    jax.eval_shape(MODEL.init, jax.random.key(0), INPUTS[0]),
)
START = jax.tree.map(lambda leaf: leaf + 0.2 * RNG.standard_normal(leaf.shape), TRUTH)
LARGEST = {"float64": 12, "float32": 6}
ROUNDING = {"float64": 1e-12, "float32": 1e-4}


def targets():
    """What the other network says, and noise."""
    outputs = jax.vmap(lambda x: MODEL.apply(TRUTH, x))(INPUTS)
    return np.asarray(outputs, float) + 0.1 * np.random.default_rng(1).standard_normal((40, 1))


def in_units(params, x):
    """The network of parameters in units of their own, its output in another."""
    inputs, output, units = x
    return output * MODEL.apply(jax.tree.map(jnp.divide, params, units), inputs)


OBJECTIVE = fnn.Objective(in_units, losses.half_squared_error)
OF_LAYERS = fnn.Objective(  # K-FAC needs to see the layers: no units of the parameters
    lambda params, x: x[1] * MODEL.apply(params, x[0]), losses.half_squared_error
)


class Case(NamedTuple):
    """A rule, and the units that it promises to be free of."""

    rule: optax.GradientTransformation
    is_free: frozenset[str] = frozenset({"outputs", "parameters"})
    objective: fnn.Objective = OBJECTIVE
    steps: int = 5


def cases() -> dict[str, Case]:
    """Each rule of second order at its defaults."""
    known = curvature.structure(
        OF_LAYERS.model, START, (jnp.asarray(INPUTS[0]), jnp.ones(()), jnp.ones(()))
    )
    everywhere = frozenset({"outputs", "parameters", "a leaf"})
    outputs = frozenset({"outputs"})
    marquardt = rules.levenberg_marquardt
    return {
        "newton": Case(rules.searched(rules.newton()), everywhere),
        "saddle_free_newton": Case(rules.searched(rules.saddle_free_newton())),
        "trust_region_newton": Case(rules.trust_region_newton()),
        "trust_region_newton, subspace": Case(rules.trust_region_newton(subspace=4)),
        "cubic_newton": Case(rules.cubic_newton()),
        "gauss_newton": Case(rules.searched(rules.gauss_newton()), everywhere),
        "levenberg_marquardt": Case(marquardt()),
        "levenberg_marquardt, marquardt": Case(marquardt(scaling=scaling.marquardt), everywhere),
        "levenberg_marquardt, more": Case(marquardt(scaling=scaling.more), everywhere),
        "levenberg_marquardt, bent": Case(marquardt(acceleration=0.75)),
        "bayesian_levenberg_marquardt": Case(rules.bayesian_levenberg_marquardt()),
        "hessian_free": Case(rules.hessian_free()),
        "bfgs": Case(rules.bfgs(), outputs),
        "sr1": Case(rules.sr1(), outputs),
        "kfac": Case(rules.kfac(known), outputs, OF_LAYERS),
        "ekfac": Case(rules.ekfac(known), outputs, OF_LAYERS),
    }


def problem(kind, size, dtype):
    """Data and start in a unit of the outputs, of all parameters, or of the first leaf."""
    output = size if kind == "outputs" else 1.0
    of_leaf = [size if kind == "parameters" else 1.0] * len(jax.tree.leaves(START))
    if kind == "a leaf":
        of_leaf[-1] = size
    units = jax.tree.unflatten(jax.tree.structure(START), of_leaf)
    n = len(INPUTS)
    inputs = (INPUTS, np.full(n, output), jax.tree.map(lambda u: np.full((n, 1), u), units))
    start = jax.tree.map(lambda p, u: p * u, START, units)
    data, start = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, dtype), ((inputs, output * targets()), start)
    )
    return data, start, units, output


def trained(case, kind, size, dtype, steps):
    """The fit in a unit, its parameters and its values told in the first ones."""
    data, start, units, output = problem(kind, size, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = fnn.fit(case.rule, case.objective, start, data, steps=steps)
    params = jax.tree.map(lambda p, u: np.asarray(p, float) / u, fit.params, units)
    value = np.asarray(fit.history.value, float) / output**2
    return params, value, fit.stopped


def distance(tree, other):
    """The largest difference of two trees, as a share of the largest number."""
    tree, other = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(t)]) for t in (tree, other))
    return float(np.abs(tree - other).max() / np.abs(other).max())


class Deviation(NamedTuple):
    """How far a rule's runs in other units are from its run in the first ones."""

    tried: int
    params: float  # the largest, after a few steps
    value: float  # the largest, at the end
    endings: int  # other than the first one's

    def __str__(self):
        """A row of the table."""
        return f"{self.tried:6d} {self.params:12.1e} {self.value:12.1e} {self.endings:8d}"


def deviation(case, kind, dtype, sizes, steps=200):
    """The deviation of a rule over sizes of one unit."""
    few = [trained(case, kind, size, dtype, case.steps) for size in (1.0, *sizes)]
    all_ = [trained(case, kind, size, dtype, steps) for size in (1.0, *sizes)]
    return Deviation(
        len(sizes),
        max(distance(params, few[0][0]) for params, _, _ in few[1:]),
        max(abs(value[-1] / all_[0][1][-1] - 1) for _, value, _ in all_[1:]),
        sum(stopped != all_[0][2] for _, _, stopped in all_[1:]),
    )


def sizes_of(dtype):
    """The units that are tried."""
    most = LARGEST[dtype]
    return [10.0**k for k in range(-most, most + 1) if k]


def main(names):
    """Prints the table."""
    jax.config.update("jax_enable_x64", True)
    failed = []
    print(f"{'':32}{'dtype':9}{'unit':11} cases       params        value  endings")
    for name, case in cases().items():
        if names and name not in names:
            continue
        for dtype in LARGEST:
            for kind in sorted(case.is_free):
                row = deviation(case, kind, dtype, sizes_of(dtype))
                print(f"{name:32}{dtype:9}{kind:11}{row}", flush=True)
                if not row.value < ROUNDING[dtype]:
                    failed.append(f"{name} in {kind}, {dtype}")
    assert not failed, failed


if __name__ == "__main__":
    main(sys.argv[1:])
