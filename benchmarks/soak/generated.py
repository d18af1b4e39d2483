"""Generated models, losses, rules, dtypes, shapes and data: each trains or says what is wrong.

    uv run benchmarks/soak/generated.py [CASES] [PROGRAMS]

By default 2000 cases over 200 programs, drawn by hypothesis. A *program* is what is compiled: a
model of random layers, a loss, a rule, a dtype, a batch. It is trained on data that are none too
friendly: enormous, tiny, zero, constant, one example over and over, of scales far apart, not
finite. What is asserted of each case:

- it trains: parameters are finite and keep their structure, shapes and dtypes, the history has a
  value for each step, and a rule that looks before it leaps never makes the value larger; or
- it is refused before it runs, by a TypeError or ValueError of this package that says what was
  expected;
- it takes no longer than two minutes (else the process is ended, saying where it was).

Layers, losses and rules are those that the package exports; a new one without a maker here fails.
"""

import faulthandler
import functools
import inspect
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fnn
from fnn import curvature, layers, losses, rules
from fnn.training import Stop

PACKAGE = Path(fnn.__file__).parent
PATIENCE = 120  # seconds
STEPS = 3

# What there is ------------------------------------------------------------------------------------


def exported(module, kind):
    """The names of a module's functions that return such a thing."""
    functions = ((name, getattr(module, name)) for name in module.__all__)
    return {
        name
        for name, f in functions
        if inspect.isfunction(f) and inspect.signature(f, eval_str=True).return_annotation is kind
    }


def _cell(choose):
    return choose((layers.elman, layers.gru, layers.lstm))(choose((2, 3)))


def _simple(choose):
    return LAYERS[choose(("dense", "elementwise", "layer_norm", "dropout", "prelu", "rms_norm"))](
        choose
    )


def _window(choose):
    return (choose((1, 2, 3)),) * choose((1, 2))


LAYERS = {
    "average_pool": lambda c: layers.average_pool(_window(c)),
    "batch_norm": lambda _: layers.batch_norm(),
    "bidirectional": lambda c: layers.bidirectional(_cell(c), _cell(c)),
    "conv": lambda c: layers.conv(c((2, 4)), _window(c), strides=c((1, 2)), groups=c((1, 2))),
    "conv_transpose": lambda c: layers.conv_transpose(
        c((2, 4)), _window(c), strides=c((1, 2)), padding=c(("SAME", "VALID"))
    ),
    "dense": lambda c: layers.dense(c((1, 3, 5))),
    "dropout": lambda c: layers.dropout(c((0.0, 0.3))),
    "each": lambda c: layers.each(_simple(c)),
    "elementwise": lambda c: layers.elementwise(
        c((jnp.tanh, jax.nn.relu, jax.nn.silu, jnp.sin, jnp.abs, jnp.exp))
    ),
    "embedding": lambda c: layers.embedding(c((4, 7)), c((2, 3))),
    "fan_in_add": lambda c: layers.serial(layers.fan_out(*_pair(c)), layers.fan_in_add()),
    "fan_in_concatenate": lambda c: layers.serial(
        layers.fan_out(*_pair(c)), layers.fan_in_concatenate()
    ),
    "fan_out": lambda c: layers.fan_out(*_pair(c)),
    "flatten": lambda _: layers.flatten(),
    "group_norm": lambda c: layers.group_norm(c((1, 2))),
    "layer_norm": lambda _: layers.layer_norm(),
    "learned_positions": lambda c: layers.learned_positions(c((4, 7))),
    "max_pool": lambda c: layers.max_pool(_window(c), padding=c(("SAME", "VALID"))),
    "max_pool_indices": lambda c: layers.max_pool_indices(_window(c)),
    "maxout": lambda c: layers.maxout(c((2, 3)), 2),
    "multi_head_attention": lambda c: layers.multi_head_attention(
        c((1, 2)), mask=c((None, layers.causal))
    ),
    "parallel": lambda c: layers.parallel(*_pair(c)),
    "pooled": lambda c: layers.pooled(_simple(c), _window(c)),
    "prelu": lambda _: layers.prelu(),
    "radial": lambda c: layers.radial(c((2, 3))),
    "residual": lambda c: layers.residual(_simple(c)),
    "rms_norm": lambda _: layers.rms_norm(),
    "scan_from": lambda c: layers.scan_from(_cell(c), reverse=c((False, True))),
    "scan_over": lambda c: layers.scan_over(_cell(c)),
    "serial": lambda c: layers.serial(*_pair(c)),
    "sinusoidal_positions": lambda _: layers.sinusoidal_positions(),
    "stack": lambda c: layers.stack(_simple(c), c((1, 3))),
    "upsample": lambda c: layers.upsample(_window(c), method=c(("nearest", "linear"))),
}


def _pair(choose):
    return _simple(choose), _simple(choose)


# What has several outputs, and what has several inputs, as one of each.
WHOLE = LAYERS | {
    "max_pool_indices": lambda c: layers.serial(
        LAYERS["max_pool_indices"](c), layers.elementwise(lambda pooled: pooled[0])
    ),
    "scan_from": lambda c: layers.serial(
        layers.elementwise(lambda x: (None, x)),
        LAYERS["scan_from"](c),
        layers.elementwise(lambda ended: ended[1]),
    ),
    "fan_out": lambda c: layers.serial(LAYERS["fan_out"](c), layers.fan_in_concatenate()),
    "parallel": lambda c: layers.serial(
        layers.fan_out(*_pair(c)), LAYERS["parallel"](c), layers.fan_in_concatenate()
    ),
}

EXAMPLES = {
    "vector": (3,),
    "one number": (1,),
    "text": (5, 4),
    "image": (4, 4, 4),
    "indices": (5,),
    "pair": ((3,), (3,)),
    "nothing": (0,),
    "scalar": (),
}

LOSSES = {
    "half_squared_error": losses.half_squared_error,
    "huber": losses.huber(0.7),
    "logistic": losses.logistic,
    "softmax_cross_entropy": losses.softmax_cross_entropy,
    "kl": losses.kl,
    "perceptron": losses.perceptron,
    "hinge": losses.hinge,
}


def _numbers(rule):
    """The arguments that must be given, small."""
    asked = inspect.signature(rule).parameters.values()
    return {p.name: 1e-2 for p in asked if p.default is p.empty and p.name != "structure"}


def _structured(name):
    rule = getattr(rules, name)
    return lambda model, params, x: rule(curvature.structure(model, params, x), **_numbers(rule))


def _plain(name):
    rule = getattr(rules, name)
    return lambda *_: rule(**_numbers(rule))


# Those made of other rules, or of a number of batches.
COMPOSED = {
    "accumulate": lambda *_: rules.accumulate(2, damping=1e-2),
    "bounded": lambda *_: rules.bounded(rules.levenberg_marquardt(), -50.0, 50.0),
    "only": lambda _, params, *__: rules.only(
        rules.sgd(1e-2), jax.tree.map(lambda leaf: leaf.size > 1, params)
    ),
    "phases": lambda *_: rules.phases([(rules.sgd(1e-2), 2), (rules.levenberg_marquardt(), None)]),
    "searched": lambda *_: rules.searched(rules.sgd(1.0)),
}


def _maker(name):
    if name in COMPOSED:
        return COMPOSED[name]
    structured = "structure" in inspect.signature(getattr(rules, name)).parameters
    return (_structured if structured else _plain)(name)


# `bind` is for loops that hand nothing to a rule, which `fit` is not.
RULES = {
    name: _maker(name)
    for name in sorted(exported(rules, optax.GradientTransformationExtraArgs) - {"bind"})
} | {
    "optax adam": lambda *_: optax.adam(1e-2),
    "optax lbfgs": lambda *_: optax.lbfgs(),
    "damped by its diagonal": lambda *_: rules.levenberg_marquardt(scaling=rules.scaling.marquardt),
    "bent": lambda *_: rules.levenberg_marquardt(acceleration=0.75, trials=3),
}
DTYPES = ("float32", "float64", "bfloat16", "float16")


def assert_complete():
    """Every layer and loss has a maker."""
    assert set(LAYERS) == exported(layers, layers.Layer)
    public = inspect.getmembers(losses, inspect.isfunction)
    found = {name for name, f in public if "outputs" in inspect.signature(f).parameters}
    assert {n for n in found if n[0] != "_"} == set(LOSSES) - {"huber"}
    assert set(COMPOSED) <= set(RULES)


# Programs -----------------------------------------------------------------------------------------


class Program(NamedTuple):
    """What is compiled together."""

    model: layers.Layer
    x: object  # shapes and dtypes of one example
    loss: str
    rule: str
    outputs: int
    examples: int
    batch_size: int | None

    def __str__(self):
        """What it is made of."""
        shapes = [(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(self.x)]
        names = _names(self.model, self.x)
        return (
            f"{self.rule}, {self.loss} of {self.outputs} outputs, {shapes}, "
            f"{self.examples} examples in batches of {self.batch_size}, {names}"
        )


def _names(model, x):
    try:
        return " > ".join(row.name for row in layers.summary(model, x).rows)
    except Exception:  # of a model that is refused
        return model.name


def drawn(choose, layer=None, loss=None, rule=None, dtype=None):
    """A program, perhaps one that will be refused.

    Args:
        choose: takes one of some things.
        layer: makes one that is among the model's.
        loss: its name.
        rule: its name.
        dtype: of inputs and parameters.
    """
    dtype = dtype or choose(DTYPES)
    kind = choose(tuple(EXAMPLES))
    shape = EXAMPLES[kind]
    shapes = shape if kind == "pair" else (shape,)
    number = "int32" if kind == "indices" else dtype
    x = tuple(jax.ShapeDtypeStruct(one, number) for one in shapes)
    makers = [LAYERS[choose(tuple(LAYERS))] for _ in range(choose((0, 0, 1, 2)))]
    if layer is not None:
        makers.insert(choose(range(len(makers) + 1)), layer)
    outputs = choose((1, 2, 3))
    body = [maker(choose) for maker in makers]
    end = choose(((layers.flatten(), layers.dense(outputs)), (layers.dense(outputs),), ()))
    return Program(
        layers.serial(*body, *end),
        x if kind == "pair" else x[0],
        loss or choose(tuple(LOSSES)),
        rule or choose(tuple(RULES)),
        outputs,
        choose((1, 2, 7, 12)),
        choose((None, None, 1, 5)),
    )


@functools.cache
def sound(seed):
    """A program whose model takes its inputs and gives the loss what it needs.

    Layers, losses, rules and dtypes come in turn, so that few programs have all of them.
    """
    rng = random.Random(seed)
    turns = random.Random(0)
    wanted = {}
    for what, names in (("layer", LAYERS), ("loss", LOSSES), ("rule", RULES), ("dtype", DTYPES)):
        order = list(names)
        turns.shuffle(order)
        wanted[what] = order[seed % len(order)]
    wanted["layer"] = WHOLE[wanted["layer"]]
    for _ in range(10_000):
        try:
            program = drawn(rng.choice, **wanted)
            params = jax.eval_shape(program.model.init, jax.random.key(0), program.x)
            outputs = jax.eval_shape(program.model.apply, params, program.x)
        except (TypeError, ValueError):
            continue
        enough = 2 if program.loss in ("softmax_cross_entropy", "kl") else 1
        shape = getattr(outputs, "shape", None)
        if shape == (program.outputs,) and program.outputs >= enough and jax.tree.leaves(params):
            return program
    raise AssertionError(f"program {seed}: expected a sound one, drew none with {wanted}")


@functools.cache
def made(program):
    """Objective, parameters and rule, made once, so that `fit` compiles once."""
    model = program.model
    x = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), program.x)
    params = jax.jit(model.init)(jax.random.key(0), x)
    objective = fnn.Objective(model.apply, LOSSES[program.loss])
    return objective, params, RULES[program.rule](model.apply, params, x)


# Data ---------------------------------------------------------------------------------------------

SCALES = {"float16": 3e4, "bfloat16": 1e30, "float32": 1e30, "float64": 1e150}
KINDS = (
    "normal", "enormous", "tiny", "zeros", "constant columns", "one example", "scales far apart",
    "outlier", "not finite",
)  # fmt: skip


def data(program, kind, seed):
    """Inputs and targets of a kind."""
    rng = np.random.default_rng(seed)
    n = program.examples

    def inputs(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return rng.integers(0, 4, (n, *leaf.shape)).astype(leaf.dtype)
        values = rng.standard_normal((n, *leaf.shape))
        return _hostile(rng, values, kind, SCALES[str(leaf.dtype)]).astype(leaf.dtype)

    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(program.x)} - {"int32"}
    dtype = dtypes.pop() if dtypes else "float32"
    shape = (n, program.outputs)
    if program.loss in ("softmax_cross_entropy", "kl"):
        targets = rng.integers(0, program.outputs, n)
    elif program.loss in ("perceptron", "hinge"):
        targets = rng.choice([-1.0, 1.0], shape)
    elif program.loss == "logistic":
        targets = rng.random(shape)
    else:
        targets = _hostile(rng, rng.standard_normal(shape), kind, SCALES[dtype])
    if targets.dtype == float:
        targets = targets.astype(dtype)
    if kind == "one example":
        targets = np.repeat(targets[:1], n, axis=0)
    return jax.tree.map(inputs, program.x), targets


def _hostile(rng, values, kind, scale):
    if kind == "enormous":
        return scale * np.clip(values, -2, 2)
    if kind == "tiny":
        return values / scale
    if kind == "zeros":
        return 0 * values
    if kind == "constant columns":
        return np.broadcast_to(values[:1].round(), values.shape).copy()
    if kind == "one example":
        return np.repeat(values[:1], len(values), axis=0)
    if kind == "scales far apart":
        return values * scale ** rng.uniform(-0.5, 0.5, values.shape[1:])
    if kind == "outlier":
        values[0] *= scale**0.5
        return values
    if kind == "not finite":
        values.flat[: max(1, values.size // 2)] = rng.choice([np.nan, np.inf, -np.inf])
    return values


# Cases --------------------------------------------------------------------------------------------


def explains(error):
    """Whether an error is of this package and says what was expected.

    One of a user's function, as `elementwise` takes them, has a note that says so.
    """
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = Path(last.filename).is_relative_to(PACKAGE) and "expected" in str(error)
    return ours or any("expected" in note for note in getattr(error, "__notes__", ()))


def refused(error, what):
    """Passes where an error explains itself; else raises what is wrong with it."""
    if not explains(error):
        raise AssertionError(f"{what}: {type(error).__name__} does not explain itself") from error
    return "refused"


def outcome(program, kind, seed):
    """Trains a program on data; `trained`, or `refused`."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # float32 has no more digits, and the like
            return _outcome(program, kind, seed)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _outcome(program, kind, seed):
    what = f"{kind} {seed}: {program}"
    try:
        objective, params, rule = made(program)
        found = fnn.fit(
            rule,
            objective,
            params,
            data(program, kind, seed),
            steps=STEPS,
            batch_size=program.batch_size,
            key=jax.random.key(seed),
        )
    except (TypeError, ValueError) as error:
        return refused(error, what)
    assert kind != "not finite" or not _floating(program), f"{what}: trained on NaN"
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), found.params, params)
    assert all(jax.tree.leaves(same)), f"{what}: {same}"
    for path, leaf in jax.tree.leaves_with_path(found.params):
        assert jnp.isfinite(leaf).all(), f"{what}: params{jax.tree_util.keystr(path)}"
    values = found.history.value
    assert 1 <= len(values) <= STEPS, f"{what}: {values}"
    if found.stopped == Stop.NON_FINITE:
        return "stopped"
    assert found.stopped in (Stop.BUDGET, Stop.STALLED, Stop.CONVERGED), f"{what}: {found.stopped}"
    info = getattr(found.state, "info", None)
    looks = getattr(info, "value", None) is not None and program.batch_size is None
    looks &= not hasattr(found.state, "alpha")  # there the value has a decay in it
    if looks and not _draws(program):
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
        assert (np.diff(values) <= 8 * eps * abs(values[1:])).all(), f"{what}: {values}"
    return "trained"


def _floating(program):
    return program.loss in ("half_squared_error", "huber") or any(
        jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(program.x)
    )


def _draws(program):
    """Whether the model is another in every step."""
    return any("dropout" in name for name in _names(program.model, program.x).split(" > "))


def traced(choose):
    """A free program, traced through its first step and not compiled."""
    try:
        program = drawn(choose)
        params = jax.eval_shape(program.model.init, jax.random.key(0), program.x)
    except (TypeError, ValueError) as error:
        return refused(error, "a layer")
    objective = fnn.Objective(program.model.apply, LOSSES[program.loss])

    def step(params, data, key):
        rule = optax.with_extra_args_support(
            RULES[program.rule](program.model.apply, params, program.x)
        )
        value_fn = objective.on(data, key=key if program.batch_size else None)
        value, grad = jax.value_and_grad(value_fn)(params)
        state = rule.init(params)
        updates, _ = rule.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
        return optax.apply_updates(params, updates)

    try:
        if not jax.tree.leaves(params):  # which `fit` refuses
            fnn.fit(optax.sgd(1e-2), objective, params, data(program, "normal", 0), steps=1)
            raise AssertionError(f"{program}: trained nothing")
        after = jax.eval_shape(step, params, data(program, "normal", 0), jax.random.key(0))
    except (TypeError, ValueError) as error:
        return refused(error, str(program))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), params
    ), str(program)
    return "traced"


DRAWN = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def hostile(programs, cases, counts):
    """Trains `cases` times, program and data drawn; counts the outcomes."""

    @settings(DRAWN, max_examples=cases)
    @given(st.sampled_from(programs), st.sampled_from(KINDS), st.integers(0, 2**31))
    def run(number, kind, seed):
        counts[outcome(sound(number), kind, seed)] += 1

    run()


def free(cases, counts):
    """Traces `cases` programs of any layers at all."""

    @settings(DRAWN, max_examples=cases)
    @given(st.data())
    def run(source):
        counts[traced(lambda things: source.draw(st.sampled_from(tuple(things))))] += 1

    run()


def main(cases: int = 2000, programs: int = 200) -> None:
    """Runs and prints how many cases came to what end.

    Args:
        cases: Of training; as many are traced.
        programs: Compiled for them.
    """
    assert_complete()
    began = time.perf_counter()
    trained, looked_at = Counter(), Counter()
    share = 10  # programs in memory at once
    for first in range(0, programs, share):
        numbers = range(first, min(first + share, programs))
        each = -(-cases * len(numbers) // programs)
        hostile(numbers, each, trained)
        made.cache_clear()
        jax.clear_caches()
        print(f"{time.perf_counter() - began:6.0f} s  {dict(trained)}", flush=True)
    free(cases, looked_at)
    print(f"{time.perf_counter() - began:6.0f} s  trained on data: {dict(trained)}")
    print(f"          programs of any layers: {dict(looked_at)}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(*map(int, sys.argv[1:]))
