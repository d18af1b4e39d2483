"""Every exported rule keeps the same promises, whatever it does with a gradient.

Rules are found by introspection: the exported functions that return a transformation and ask for
nothing but numbers, or what a model's shapes say. None is skipped. All run in the loop of the
package: they are offered value, gradient and value function, on a least squares problem that
second-order rules can see into.
"""

import functools
import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fnn import Objective, rules
from fnn.curvature import structure
from tests import loop

STEPS = 4


def arguments(factory):
    return inspect.signature(factory, eval_str=True).parameters


def with_default(factory, value):
    return {name for name, p in arguments(factory).items() if p.default is value}


def numbers(factory):
    """The arguments that may be traced, each with a value that is allowed."""
    names = arguments(factory).keys() - set(rules.static_arguments(factory))
    chosen = {inspect.Parameter.empty: 1e-2, None: 0.5}
    defaults = {name: arguments(factory)[name].default for name in names}
    return {name: chosen.get(default, default) for name, default in defaults.items()}


# Arguments without a default that are made of the parameters.
BUILT = {"structure": lambda params: structure(model, params, jnp.zeros(len(params["w"])))}


def needed(factory, params=None):
    """The arguments without a default: small numbers, and what is made of the parameters."""
    required = with_default(factory, inspect.Parameter.empty)
    made = {name: build(params or initial()) for name, build in BUILT.items() if name in required}
    return made | {name: numbers(factory)[name] for name in required - made.keys()}


def make(factory, params=None):
    return factory(**needed(factory, params))


def is_rule(function):
    returned = inspect.signature(function, eval_str=True).return_annotation
    static = set(rules.static_arguments(function))
    required = with_default(function, inspect.Parameter.empty)
    return (
        returned is optax.GradientTransformationExtraArgs and not required & static - BUILT.keys()
    )


EXPORTED = {name: getattr(rules, name) for name in rules.__all__}
RULES = {name: f for name, f in EXPORTED.items() if inspect.isfunction(f) and is_rule(f)}
every_rule = pytest.mark.parametrize("factory", RULES.values(), ids=RULES)


def model(params, x):
    """It is not linear, lest second-order rules arrive before the last step."""
    outputs = jnp.dot(x, params["w"]) + params["b"]
    return outputs + jnp.sin(outputs) / 5


OBJECTIVE = Objective(
    model,
    lambda outputs, target: 0.5 * jnp.sum(jnp.square(outputs - target)),
)


@functools.cache
@jax.ensure_compile_time_eval()  # whoever asks first may be tracing
def data(seed=0, dtype=float):
    w_key, x_key, noise_key = jax.random.split(jax.random.key(seed), 3)
    inputs = jax.random.normal(x_key, (12, 3))
    targets = inputs @ jax.random.normal(w_key, (3, 2)) + jax.random.normal(noise_key, (12, 2))
    return inputs.astype(dtype), targets.astype(dtype)


def initial():
    return {"w": jnp.full((3, 2), 0.5, float), "b": jnp.array([0.3, -0.2])}


update = functools.partial(loop.update, evaluate=loop.evaluate_compiled)


def train(rule, start=None, value_fn=None):
    """Parameters and updates after each of a few steps, and the last state."""
    params, value_fn = start or initial(), value_fn or OBJECTIVE.on(data())
    state, path = rule.init(params), []
    for _ in range(STEPS):
        updates, state = update(rule, params, value_fn, state)
        params = optax.apply_updates(params, updates)
        path.append((params, updates))
    return path, state


def scanned(rule, params, value_fn):
    """The last parameters and state; to be compiled."""

    def advance(carry, _):
        params, state = carry
        return loop.step(rule, params, value_fn, state, evaluate=loop.evaluate_compiled), None

    return jax.lax.scan(advance, (params, rule.init(params)), length=STEPS)[0]


def compiled(rule):
    return optax.GradientTransformationExtraArgs(rule.init, jax.jit(rule.update))


class Exam(typing.NamedTuple):
    """One compiled program of a rule, which most tests below read or call."""

    rule: optax.GradientTransformationExtraArgs  # with its defaults
    path: list  # step by step
    state: typing.Any  # the last
    traces: list  # an entry for each time that the program was traced
    traced: int  # how often for the path


@functools.cache
def exam(factory):
    made, traces = make(factory), []

    def update(*args, **extra_args):
        traces.append(1)
        return made.update(*args, **extra_args)

    rule = compiled(optax.GradientTransformationExtraArgs(made.init, update))
    path, state = train(rule)
    return Exam(rule, path, state, traces, len(traces))


def shared(factory):
    """The rule of its exam."""
    return exam(factory).rule


def reference(factory):
    """The path of its exam, and the last state."""
    return exam(factory)[1:3]


# SOAP divides by eps what gradients have along directions where they have nothing: their rounding.
ROUNDED = {rules.soap: {"rtol": 1e-6, "atol": 1e-9}}


def assert_close(actual, expected, rtol=1e-9, atol=1e-12):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol), actual, expected
    )


def signature_of(tree):
    """Structure, shapes and dtypes."""
    return jax.tree.map(lambda leaf: jax.typeof(leaf).str_short(), tree)


# What is exported ---------------------------------------------------------------------------------


def test_rules_are_found():
    assert {"sgd", "momentum", "nesterov", "adagrad", "rmsprop"} <= RULES.keys()
    assert {"adam", "adamw", "rprop"} <= RULES.keys()
    assert {"newton", "gauss_newton", "levenberg_marquardt"} <= RULES.keys()
    assert not {"static_arguments", "damping", "only", "bind"} & RULES.keys()


@every_rule
def test_is_documented(factory):
    text = inspect.getdoc(factory)
    for section in ("Args:", "Units:", "Invariant:", "Returns:", "Source:", "Example:"):
        assert f"\n{section}\n" in text, section
    for name in arguments(factory):
        assert f"\n    {name}: " in text, name


@every_rule
def test_is_of_the_type_that_optax_asks_for(factory):
    assert isinstance(make(factory), optax.GradientTransformationExtraArgs)


@every_rule
def test_static_arguments_are_told_by_their_annotations(factory):
    kinds = typing.get_type_hints(factory)
    for name in rules.static_arguments(factory):
        assert float not in (kinds[name], *typing.get_args(kinds[name]))
    assert numbers(factory)


# Inside JAX ---------------------------------------------------------------------------------------


@every_rule
def test_descends(factory):
    (*_, (last, _)), _ = reference(factory)
    value_fn = OBJECTIVE.on(data())
    assert value_fn(last) < value_fn(initial())


@every_rule
def test_scan_is_the_python_loop(factory):
    run = jax.jit(functools.partial(scanned, make(factory)))
    (*_, (last, _)), state = reference(factory)
    assert_close(run(initial(), OBJECTIVE.on(data())), (last, state))


@every_rule
def test_one_compilation_serves_every_batch(factory):
    rule, _, _, traces, traced = exam(factory)
    assert traced == 1
    start = initial()
    state = rule.init(start)
    update(rule, start, OBJECTIVE.on(data()), state)  # again if it was forgotten since the exam
    before = len(traces)
    for seed in range(3):
        updates, state = update(rule, start, OBJECTIVE.on(data(seed)), state)
        start = optax.apply_updates(start, updates)
    assert len(traces) == before


@every_rule
def test_state_keeps_structure_shapes_and_dtypes(factory):
    rule = make(factory)
    state = rule.init(initial())
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    updates, after = jax.eval_shape(
        lambda state: update(rule, initial(), OBJECTIVE.on(data()), state), state
    )
    assert signature_of(after) == signature_of(state)
    assert signature_of(updates) == signature_of(initial())


MIXED = {"w": jnp.bfloat16, "b": jnp.float32}


@pytest.mark.parametrize("traced", [False, True], ids=["numbers", "float64 arrays"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64", "mixed"])
@every_rule
def test_updates_keep_the_dtype_of_the_gradient(factory, dtype, traced):
    kinds = MIXED if dtype == "mixed" else dict.fromkeys(MIXED, dtype)
    start = jax.tree.map(lambda leaf, kind: leaf.astype(kind), initial(), kinds)
    hyperparameters = jax.tree.map(jnp.float64, numbers(factory)) if traced else {}

    def step(start, hyperparameters):
        rule = factory(**(needed(factory) | hyperparameters))
        state = rule.init(start)
        return *update(rule, start, OBJECTIVE.on(data(dtype="float32")), state), state

    updates, after, state = jax.eval_shape(step, start, hyperparameters)
    assert signature_of(updates) == signature_of(start)
    assert signature_of(after) == signature_of(state)


@every_rule
def test_missing_leaves_stay_missing(factory):
    start = initial() | {"b": None}
    value_fn = OBJECTIVE.on(data()).freeze(initial(), {"w": False, "b": True})
    path, _ = train(shared(factory), start, value_fn)
    assert all(after["b"] is updates["b"] is None for after, updates in path)
    moved = [np.any(updates["w"] != 0) for _, updates in path]
    assert all(moved[1:])
    assert moved[0] or factory is rules.soap  # whose first gradient makes its basis


@every_rule
def test_every_number_may_be_traced_and_mapped(factory):
    """Lanes with other numbers are runs with those numbers."""
    lanes = [{n: v * factor for n, v in numbers(factory).items()} for factor in (1.0, 0.999)]
    stacked = jax.tree.map(lambda *values: jnp.array(values), *lanes)

    def run(numbers):
        return scanned(factory(**(needed(factory) | numbers)), initial(), OBJECTIVE.on(data()))

    mapped, run = jax.jit(jax.vmap(run))(stacked), jax.jit(run)
    for i, lane in enumerate(lanes):
        one = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        assert_close(one, run(lane), **ROUNDED.get(factory, {}))


@every_rule
def test_starts_may_be_mapped(factory):
    starts = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), initial())
    run = functools.partial(scanned, make(factory), value_fn=OBJECTIVE.on(data()))
    (*_, (last, _)), state = reference(factory)
    mapped = jax.jit(jax.vmap(run))(starts)
    one = jax.tree.map(lambda leaf: leaf[0], mapped)
    assert_close(one, (last, state), **ROUNDED.get(factory, {}))


# Inside optax -------------------------------------------------------------------------------------


@every_rule
def test_unknown_extra_arguments_are_ignored(factory):
    """They do not even change the compiled program."""
    rule = make(factory)

    def program(**unknown):
        def step(params, state):
            return update(rule, params, OBJECTIVE.on(data()), state, **unknown)

        return jax.jit(step).lower(initial(), rule.init(initial())).as_text()

    assert program(unknown=jnp.nan) == program()


@every_rule
def test_inject_hyperparams(factory):
    injected = optax.inject_hyperparams(factory, rules.static_arguments(factory))
    rule = make(injected)
    path, state = train(compiled(rule))
    assert_close((path, state.inner_state), reference(factory))
    optional = {n for n, p in arguments(factory).items() if p.default is None}
    assert state.hyperparams.keys() == numbers(factory).keys() - optional


@every_rule
def test_what_shapes_the_program_is_no_array(factory):
    """As `optax.inject_hyperparams` would have it that is not told of `static_arguments`."""
    kinds = {
        name: {p.annotation, *typing.get_args(p.annotation)}
        for name, p in arguments(factory).items()
    }
    counts = [name for name, kind in kinds.items() if int in kind]
    for name in counts:
        message = f"{factory.__name__}: expected {name} to be a plain int, got an array"
        with pytest.raises(TypeError, match=message):
            factory(**needed(factory), **{name: jnp.array(1)})
        with pytest.raises(TypeError, match=message):
            jax.eval_shape(lambda count, name=name: factory(**needed(factory), **{name: count}), 1)
    if any(arguments(factory)[name].default is not None for name in counts):
        remedy = rf"inject_hyperparams\(rules.{factory.__name__}, rules.static_arguments\(rules"
        with pytest.raises(TypeError, match=remedy):
            make(optax.inject_hyperparams(factory)).init(initial())


def test_a_dtype_is_no_schedule():
    rule = optax.inject_hyperparams(rules.adam)(1e-3, mu_dtype=jnp.float32)
    with pytest.raises(TypeError, match="adam: expected mu_dtype to be a plain dtype, got an arr"):
        rule.init(initial())


@every_rule
def test_schedules_are_taken_where_the_signature_says_so(factory):
    values = numbers(factory)
    annotated = {
        name
        for name, p in arguments(factory).items()
        if optax.Schedule in typing.get_args(p.annotation)
    }
    plain = {name: values[name] for name in annotated}
    schedules = {name: optax.constant_schedule(values[name]) for name in annotated}
    if any(arguments(factory)[name].default is None for name in annotated):
        expected = train(compiled(factory(**(needed(factory) | plain))))[0]
    else:
        expected = exam(factory).path
    if annotated:
        path, _ = train(compiled(factory(**(needed(factory) | schedules))))
        assert_close(path, expected)
    for name in values.keys() - annotated:
        with pytest.raises(TypeError, match=rf"{name}.*try optax.inject_hyperparams"):
            factory(**(needed(factory) | {name: optax.constant_schedule(values[name])}))


@every_rule
def test_map_params_over_the_state(factory):
    rule = make(factory)
    _, state = reference(factory)
    assert_close(optax.tree.map_params(rule, lambda leaf: leaf, state), state)
    marked = optax.tree.map_params(rule, lambda _: "like params", state, transform_non_params=str)
    assert jax.tree.structure(marked) == jax.tree.structure(state)


@every_rule
def test_chain(factory):
    rule = optax.chain(optax.clip_by_global_norm(1e6), shared(factory))
    path, (_, state) = train(rule)
    assert_close((path, state), reference(factory))


@every_rule
def test_apply_if_finite(factory):
    rule = compiled(optax.apply_if_finite(make(factory), max_consecutive_errors=2))
    path, state = train(rule)
    assert_close((path, state.inner_state), reference(factory))
    broken = OBJECTIVE.on(data()) * jnp.nan
    updates, after = update(rule, initial(), broken, state)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(updates))
    assert_close(after.inner_state, state.inner_state)


@every_rule
def test_multi_steps(factory):
    rule = compiled(optax.MultiSteps(make(factory), every_k_schedule=2, accumulator_dtype=float))
    start = initial()
    first, state = update(rule, start, OBJECTIVE.on(data()))
    second, state = update(rule, start, OBJECTIVE.on(data()), state)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(first))
    ((_, updates), *_), _ = reference(factory)
    assert_close(second, updates)


MASK = {"w": True, "b": False}


def step_without_b(rule):
    start = initial() | {"b": None}
    value_fn = OBJECTIVE.on(data()).freeze(initial(), {"w": False, "b": True})
    return update(rule, start, value_fn)[0]["w"]


@every_rule
def test_masked(factory):
    """A rule that calls the model cannot be masked, and names the one that can."""
    rule, value_fn, start = make(factory), OBJECTIVE.on(data()), initial()
    masked = optax.masked(rule, MASK)
    if "value_fn" in inspect.signature(rule.update).parameters:
        remedy = r"got MaskedNode in 1 of 2 places.*try rules\.only"
        with pytest.raises(TypeError, match=remedy):
            masked.init(start)
        state = optax.MaskedState(rule.init(start | {"b": None}))
        with pytest.raises(TypeError, match=remedy):
            update(masked, start, value_fn, state)
    else:
        updates, _ = update(masked, start, value_fn)
        expected = {"w": step_without_b(rule), "b": jax.grad(value_fn)(start)["b"]}
        assert_close(updates, expected)


@every_rule
def test_only(factory):
    rule, start, value_fn = rules.only(shared(factory), MASK), initial(), OBJECTIVE.on(data())
    updates, state = update(rule, start, value_fn)
    assert_close(updates, {"w": step_without_b(shared(factory)), "b": jnp.zeros(2)})
    assert_close(optax.tree.map_params(rule, lambda leaf: leaf, state), state)


@every_rule
def test_bind(factory):
    """The path is the same in frameworks that pass nothing, or only a batch."""
    start, ((_, first), *_) = initial(), reference(factory)[0]
    for rule, extra_args in (
        (rules.bind(shared(factory), OBJECTIVE), {"batch": data()}),
        (rules.bind(shared(factory), OBJECTIVE, data()), {}),
    ):
        ignored = optax.tree.full_like(start, jnp.nan)
        updates, _ = rule.update(ignored, rule.init(start), start, **extra_args)
        assert_close(updates, first)


# Misuse -------------------------------------------------------------------------------------------


@every_rule
def test_numbers_out_of_range_are_named(factory):
    for name in numbers(factory):
        for wrong in (-1.0, np.float32(-1.0), np.nan):
            with pytest.raises(ValueError, match=rf"{factory.__name__}: expected {name} in .*try"):
                factory(**(needed(factory) | {name: wrong}))


@every_rule
def test_values_that_are_no_numbers_are_named(factory):
    for name in numbers(factory):
        for wrong in ("1e-3", np.ones(2), [0.1]):
            with pytest.raises(TypeError, match=rf"{factory.__name__}: expected {name} to.*try"):
                factory(**(needed(factory) | {name: wrong}))


@every_rule
def test_leaves_that_cannot_be_trained_are_named(factory):
    for wrong in (jnp.arange(3), 7, jax.random.key(0), jnp.tanh):
        with pytest.raises(TypeError, match=r"init: expected parameters.*at params\['n'\]; try"):
            make(factory).init(initial() | {"n": wrong})


@every_rule
def test_gradients_of_other_parameters_are_refused(factory):
    rule, value_fn = make(factory), OBJECTIVE.on(data())
    state, grad = rule.init(initial()), jax.grad(value_fn)(initial())
    extra_args = {"value": value_fn(initial()), "grad": grad, "value_fn": value_fn}
    for wrong in (grad | {"c": grad["b"]}, {"w": grad["w"]}, grad["w"], grad | {"b": (grad["b"],)}):
        with pytest.raises(ValueError, match=r"(?s)of one structure, got updates.*and params.*try"):
            rule.update(wrong, state, initial(), **extra_args)
    with pytest.raises(ValueError, match=r"of one shape, got \(2,\) and \(3, 2\) at params\['w'\]"):
        rule.update(grad | {"w": grad["b"]}, state, initial(), **extra_args)


@every_rule
def test_states_of_other_parameters_are_refused(factory):
    rule, value_fn = make(factory), OBJECTIVE.on(data())
    for other in (initial() | {"c": jnp.ones(2)}, initial() | {"w": jnp.ones((4, 2))}):
        state = jax.eval_shape(make(factory, other).init, other)
        if signature_of(state) == signature_of(rule.init(initial())):
            continue  # a state without trees fits all parameters
        with pytest.raises(ValueError, match=r"(?s)expected updates and state of one.*try"):
            jax.eval_shape(lambda state: update(rule, initial(), value_fn, state), state)


def test_static_arguments_of_bare_functions_are_refused():
    def bare(learning_rate, nesterov: bool = False):
        return rules.sgd(learning_rate, nesterov=nesterov)

    with pytest.raises(TypeError, match=r"expected annotated arguments, got learning_rate"):
        rules.static_arguments(bare)


JUDGES = [
    "ekfac",
    "hessian_free",
    "kfac",
    "levenberg_marquardt",
    "cubic_newton",
    "trust_region_newton",
]


@pytest.mark.parametrize("name", JUDGES)
def test_a_changed_step_teaches_where_it_brought_as_much_and_else_the_next_forgets_it(name):
    """Of the accepted step a half is taken, and nearly nothing."""
    rule, value_fn, start = shared(RULES[name]), OBJECTIVE.on(data()), initial()
    updates, state = update(rule, start, value_fn)
    assert int(state.info.accepted) == 1
    learned = state.damping
    assert learned.value != learned.verdict.before.value
    for share, known in ((0.5, learned), (0.01, learned.verdict.before)):
        params = optax.apply_updates(start, optax.tree.scale(share, updates))
        step, after = update(rule, params, value_fn, state)
        told = state._replace(damping=known.awaiting_verdict())
        expected, after_told = update(rule, params, value_fn, told)
        assert_close(step, expected)
        assert_close(after.damping, after_told.damping)
        assert (int(after.info.changed), int(after_told.info.changed)) == (1, 0)
