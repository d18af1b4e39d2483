"""One example's forward pass, with every place where a parameter meets data laid open.

Trace `model(params, x)` on one example. Every value in the jaxpr is of one of two kinds:

- **fixed**: it depends on parameters and constants alone. It is the same for every example, so it
  is computed once, outside the examples; its `leaves` are the parameters that it depends on.
- **data**: it depends on the example.

A **use** is an equation in which a fixed value W that depends on parameters meets data, and which
is linear in W: `z = apply(a, W)`. Matrix products, convolutions and look-ups are uses. Whatever
else W enters (an addition, a denominator, a norm together with data, a custom rule, an unknown
equation) becomes one by adding a zero to W itself: `z = W`, the *plain* use, one for each such W,
after which z is data like any other. So there is no equation that the walk cannot treat, and no
pattern that it has to match: an unknown one is evaluated as it stands, and is only slower.

With `delta = d output / d z`, the Jacobian of an output in W is the transpose of `apply(a, .)` at
delta. The walk (`trace`) is static: it reads the jaxpr and its shapes, nothing else. `run` then
replays the program with a perturbation added to every z and hands back every `a`; its
vector-Jacobian product in the perturbations gives every delta.

Calls of jit, remat and closed_call are inlined (what remat would recompute is kept: it is what a
capture is made of); scan and cond are walked into where parameters enter them; every other equation
is evaluated whole, by JAX's own rule for it, so custom derivatives are honored.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from fnn import programs
from fnn.capture import uses
from fnn.capture.uses import Form, Value, View, aval
from fnn.names import EXAMPLES

_INLINED = programs.INLINED


@dataclasses.dataclass(eq=False)
class Use:
    """A place where parameters meet data, `z = apply(a, weight)`, linear in the weight.

    Attributes:
        name: the equation's primitive; of a plain use, the one that W went on to.
        weight: the fixed value W.
        operand: the data a; None for a plain use.
        result: shape and dtype of z.
        lead: lengths of the scans around it, outermost first.
        form: `apply`, and how it is a sum of outer products.
    """

    name: str
    weight: Value
    operand: Value | None
    result: Any
    lead: tuple[int, ...]
    form: Form


# A step reads and extends the environment, and returns the operands of the uses within it.
Environment = dict[Value, Any]
Records = dict[int, Array]
Step = Callable[[Environment, Records], Records]


@dataclasses.dataclass(eq=False)
class Program:
    """The forward pass of one example, split into what is fixed and what is data."""

    params: list[Value] = dataclasses.field(default_factory=list)
    closed_over: list[Value] = dataclasses.field(default_factory=list)
    inputs: list[Value] = dataclasses.field(default_factory=list)
    constants: Environment = dataclasses.field(default_factory=dict)
    literals: dict[tuple, Value] = dataclasses.field(default_factory=dict)
    fixed: list[Step] = dataclasses.field(default_factory=list)
    steps: list[Step] = dataclasses.field(default_factory=list)
    uses: list[Use] = dataclasses.field(default_factory=list)
    plain: dict[Value, tuple[Value, int]] = dataclasses.field(default_factory=dict)
    outputs: list[Value] = dataclasses.field(default_factory=list)


class _Scope(NamedTuple):
    """Where the walk stands.

    Attributes:
        seen: the equations before, with their results.
        lead: the lengths of the scans around.
        branch: whether it is inside a branch.
    """

    seen: dict[Any, list[Value]]
    lead: tuple[int, ...] = ()
    branch: bool = False

    def inside(self, **changes: Any) -> "_Scope":
        """The scope of a body, which sees what is outside and is not seen from there."""
        return self._replace(seen=dict(self.seen), **changes)


# --- the walk -----------------------------------------------------------------------------------


def trace(model: Callable[..., Array], params: PyTree, example: PyTree, examples: int) -> tuple:
    """The program of `model(params, example)`, and the arrays the model closes over.

    Args:
        model: any function `(params, x) -> outputs` of one example.
        params: arrays, or their shapes and dtypes. Integer leaves are constants.
        example: shapes and dtypes of one example.
        examples: how many examples there are, for a model that asks for the size of their axis.

    Returns:
        The program, and the values of its `closed_over` constants.

    Raises:
        TypeError: a parameter is complex, or the output is not one real array.
        ValueError: the model combines examples.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.iscomplexobj(leaf):
            raise TypeError(
                f"capture: expected real parameters, got {jnp.result_type(leaf)} at params"
                f"{jax.tree_util.keystr(path)}; try its real and imaginary parts as two leaves"
            )
    closed, out = jax.make_jaxpr(model, axis_env=[(EXAMPLES, examples)], return_shape=True)(
        params, example
    )
    if not isinstance(out, jax.ShapeDtypeStruct) or not _is_real(out):
        raise TypeError(
            f"capture: expected outputs that are one real array, got {out}; "
            "try a model that concatenates its outputs"
        )
    if name := _collective(closed.jaxpr):
        raise ValueError(
            f"capture: expected outputs of one example that depend on that example alone, got "
            f"{name} over the axis {EXAMPLES!r} (batch normalization in training?); try the model "
            "without a key, or another normalization"
        )

    program = Program()
    count = len(jax.tree.leaves(params))
    for index, var in enumerate(closed.jaxpr.invars):
        if index >= count:
            program.inputs.append(Value(aval(var)))
        elif _is_real(aval(var)):
            program.params.append(Value(aval(var), True, frozenset({index}), {index: View()}))
        else:
            program.params.append(Value(aval(var), True))
    program.closed_over = [Value(aval(var), True) for var in closed.jaxpr.constvars]
    program.steps, (output,) = _walk(
        program, closed.jaxpr, program.closed_over, program.params + program.inputs, _Scope({})
    )
    program.outputs = [_as_data(program, program.steps, output, "output")]
    return program, closed.consts


def _walk(
    program: Program,
    jaxpr: jex.Jaxpr,
    consts: Sequence[Value],
    inputs: Sequence[Value],
    scope: _Scope,
) -> tuple[list[Step], list[Value]]:
    """The steps of a jaxpr on these inputs, and the values of its outputs."""
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))
    steps = []

    def read(atom):
        return _constant(program, atom) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in _needed(jaxpr):
        operands = [read(atom) for atom in eqn.invars]
        key = _key(eqn, operands)
        if key in scope.seen:
            outputs = scope.seen[key]
        elif eqn.primitive.name in _INLINED:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            more, outputs = _walk(program, *_open(program, inner), operands, scope)
            steps += more
        elif _is_fixed(eqn, operands, scope):
            outputs = _fixed(program, eqn, operands)
        elif not any(value.leaves for value in operands):
            outputs = _whole(steps, eqn, operands)
        elif eqn.primitive.name == "scan":
            outputs = _scan(program, steps, eqn, operands, scope)
        elif eqn.primitive.name == "cond":
            outputs = _cond(program, steps, eqn, operands, scope)
        elif (use := _linear_use(eqn, operands, scope)) is not None:
            outputs = _perturbed(program, steps, eqn, operands, use)
        else:
            name = eqn.primitive.name
            outputs = _whole(steps, eqn, [_as_data(program, steps, v, name) for v in operands])
        if key is not None:
            scope.seen[key] = outputs
        env.update(zip(eqn.outvars, outputs, strict=True))
    return steps, [read(atom) for atom in jaxpr.outvars]


def _needed(jaxpr: jex.Jaxpr) -> list[jex.JaxprEqn]:
    """The equations that an output needs, or that do something besides."""
    needed = set(filter(_is_variable, jaxpr.outvars))
    kept = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or needed.intersection(eqn.outvars):
            needed.update(filter(_is_variable, eqn.invars))
            kept.append(eqn)
    return kept[::-1]


def _is_variable(atom: jex.Var | jex.Literal) -> bool:
    return not isinstance(atom, jex.Literal)


def _key(eqn: jex.JaxprEqn, operands: Sequence[Value]) -> Any:
    """What two equations with the same results share; None where it cannot be told."""
    # Derivatives of one function are traced one by one, each with a forward pass of its own. Seen
    # as one, a weight has the uses of one pass.
    key = eqn.primitive, tuple(sorted(eqn.params.items(), key=lambda p: p[0])), tuple(operands)
    try:
        hash(key)
    except TypeError:
        return None
    return None if eqn.effects else key


def _is_fixed(eqn: jex.JaxprEqn, operands: Sequence[Value], scope: _Scope) -> bool:
    """Whether an equation may be evaluated once for all examples."""
    if not all(value.fixed for value in operands) or eqn.primitive.name == "axis_index":
        return False
    # A complex function of real parameters is left to JAX, with its conventions for cotangents.
    real = all(not jnp.issubdtype(aval(v).dtype, jnp.complexfloating) for v in eqn.outvars)
    # Outside of its branch, an equation meets values that the branch protects it from.
    safe = not scope.branch or uses.is_view(eqn)
    return not any(value.leaves for value in operands) or (real and safe)


def _fixed(program: Program, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
    """An equation among fixed values: evaluated once, differentiated by JAX."""
    leaves = frozenset().union(*(value.leaves for value in operands))
    if eqn.primitive.name == "stop_gradient":
        leaves = frozenset()
    views = uses.views(eqn, operands)
    broadcast = eqn.primitive.name == "broadcast_in_dim"
    grown = broadcast and aval(eqn.outvars[0]).size > operands[0].aval.size
    outputs = [
        Value(
            aval(var),
            True,
            leaves if _is_real(aval(var)) else frozenset(),
            view if leaves else {},
            (eqn, operands) if grown else None,
        )
        for var, view in zip(eqn.outvars, views, strict=True)
    ]
    program.fixed.append(_equation(eqn, operands, outputs))
    return outputs


def _whole(steps: list[Step], eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
    """An equation that no parameter enters, except through data: evaluated by its own rule."""
    outputs = [Value(aval(var)) for var in eqn.outvars]
    steps.append(_equation(eqn, operands, outputs))
    return outputs


def _linear_use(eqn: jex.JaxprEqn, operands: Sequence[Value], scope: _Scope) -> Use | None:
    """The use that an equation is, if one of its forms is known."""
    weights = [i for i, value in enumerate(operands) if value.leaves]
    form = uses.form(eqn, weights[0]) if len(weights) == 1 else None
    if form is None:
        return None
    (position,) = weights
    result, name = aval(eqn.outvars[0]), eqn.primitive.name
    return Use(name, operands[position], operands[form.operand], result, scope.lead, form)


def _perturbed(program, steps, eqn, operands, use: Use) -> list[Value]:
    """A use: its equation, plus a perturbation."""
    index, output = len(program.uses), Value(use.result)
    program.uses.append(use)
    evaluate = programs.evaluation(eqn)

    def step(env, perturbations):
        (result,) = evaluate(*(env[value] for value in operands))
        env[output] = result + perturbations[index]
        return {index: env[use.operand]}

    steps.append(step)
    return [output]


def _as_data(program: Program, steps: list[Step], value: Value, reason: str) -> Value:
    """A value as data: one that depends on parameters gets a plain use, and only one."""
    if not value.leaves:
        return value
    if value.broadcast is not None:  # the zero belongs to what was broadcast, it is smaller
        eqn, operands = value.broadcast
        (output,) = _whole(steps, eqn, [_as_data(program, steps, v, reason) for v in operands])
        return output
    if value not in program.plain:
        program.plain[value] = (Value(value.aval), len(program.uses))
        program.uses.append(Use(reason, value, None, value.aval, (), uses.plain(value.aval)))
    return program.plain[value][0]


def _scan(program, steps, eqn, operands, scope: _Scope) -> list[Value]:
    """A scan: its body is walked once, its uses are recorded at every iteration."""
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    n_consts, n_carry = programs.scan_arity(eqn)
    consts = operands[:n_consts]
    entering = [_as_data(program, steps, v, "scan") for v in operands[n_consts:]]
    inside = [Value(aval(var)) for var in body.jaxpr.invars[n_consts:]]
    first = len(program.uses)
    deeper = scope.inside(lead=(*scope.lead, length))
    more, results = _walk(program, *_open(program, body), [*consts, *inside], deeper)
    results = [_as_data(program, more, v, "scan") for v in results]
    within = [i for i in range(first, len(program.uses)) if program.uses[i].operand]
    outputs = [Value(aval(var)) for var in eqn.outvars]

    def step(env, perturbations):
        def iteration(carry, slices):
            x, noise = slices
            local = env | dict(zip(inside, (*carry, *x), strict=True))
            records = run(more, local, noise)
            after = [local[v] for v in results]
            return after[:n_carry], (after[n_carry:], records)

        noise = {i: perturbations[i] for i in within}
        values = [env[v] for v in entering]
        carry, (stacked, records) = lax.scan(
            iteration,
            values[:n_carry],
            (values[n_carry:], noise),
            length=length,
            reverse=eqn.params["reverse"],
            unroll=eqn.params["unroll"],
        )
        env.update(zip(outputs, (*carry, *stacked), strict=True))
        return records

    steps.append(step)
    return outputs


def _cond(program, steps, eqn, operands, scope: _Scope) -> list[Value]:
    """A conditional: the uses of a branch that is not taken have operand zero."""
    index, *rest = operands
    first = len(program.uses)
    walked = [
        _walk(program, *_open(program, branch), rest, scope.inside(branch=True))
        for branch in eqn.params["branches"]
    ]
    walked = [
        (more, [_as_data(program, more, v, "cond") for v in results]) for more, results in walked
    ]
    within = [i for i in range(first, len(program.uses)) if program.uses[i].operand]
    outputs = [Value(aval(var)) for var in eqn.outvars]

    def step(env, perturbations):
        def absent(use):
            lead = use.lead[len(scope.lead) :]
            return jnp.zeros((*lead, *use.operand.aval.shape), use.operand.aval.dtype)

        def branch(more, results):
            def taken(noise):
                local = dict(env)
                records = run(more, local, noise)
                others = {i: absent(program.uses[i]) for i in within if i not in records}
                return [local[v] for v in results], records | others

            return taken

        noise = {i: perturbations[i] for i in within}
        results, records = lax.switch(env[index], [branch(*w) for w in walked], noise)
        env.update(zip(outputs, results, strict=True))
        return records

    steps.append(step)
    return outputs


# --- evaluation ---------------------------------------------------------------------------------


def _equation(eqn: jex.JaxprEqn, operands: Sequence[Value], outputs: Sequence[Value]) -> Step:
    evaluate = programs.evaluation(eqn)

    def step(env, _):
        env.update(zip(outputs, evaluate(*(env[v] for v in operands)), strict=True))
        return {}

    return step


def run(steps: Sequence[Step], env: Environment, perturbations: Records) -> Records:
    """Take the steps, extending `env`; the operands of the uses among them."""
    records = {}
    for step in steps:
        records |= step(env, perturbations)
    return records


def settle(program: Program, leaves: Sequence[Array], closed_over: Sequence[Array]) -> Environment:
    """Every fixed value, from the parameters."""
    env = dict(program.constants)
    env.update(zip(program.params, leaves, strict=True))
    env.update(zip(program.closed_over, closed_over, strict=True))
    run(program.fixed, env, {})
    return env


def replay(
    program: Program, env: Environment, example: Sequence[Array], perturbations: Records
) -> tuple[Array, Records]:
    """The outputs of one example, and the operand of every use that has one."""
    env = env | dict(zip(program.inputs, example, strict=True))
    for weight, (value, index) in program.plain.items():
        env[value] = env[weight] + perturbations[index]
    records = run(program.steps, env, perturbations)
    return env[program.outputs[0]], records


# --- reading jaxprs -----------------------------------------------------------------------------


def _open(program: Program, jaxpr: Any) -> tuple[jex.Jaxpr, list[Value]]:
    """A jaxpr, closed or not, with its constants as values of the program."""
    if isinstance(jaxpr, jex.Jaxpr):
        return jaxpr, []
    consts = []
    for var, array in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True):
        consts.append(Value(aval(var), True))
        program.constants[consts[-1]] = array
    return jaxpr.jaxpr, consts


def _constant(program: Program, literal: jex.Literal) -> Value:
    array = np.asarray(literal.val, aval(literal).dtype)
    same = array.dtype, array.shape, array.tobytes()
    if same not in program.literals:
        program.literals[same] = value = Value(aval(literal), True)
        program.constants[value] = jnp.asarray(array)
    return program.literals[same]


def _is_real(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _collective(jaxpr: jex.Jaxpr) -> str | None:
    """The name of an equation that combines examples."""
    for eqn in jaxpr.eqns:
        named = eqn.params.get("axes", eqn.params.get("axis_name", ()))
        named = named if isinstance(named, tuple | list) else (named,)
        if EXAMPLES in named and eqn.primitive.name != "axis_index":
            return eqn.primitive.name
        for inner in jex.jaxprs_in_params(eqn.params):
            if name := _collective(inner):
                return name
    return None
