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
delta. The walk (`trace`) is static: it reads the jaxpr and its shapes, nothing else. `replay` then
runs the program with a perturbation added to every z and hands back every `a`; its
vector-Jacobian product in the perturbations gives every delta.

Calls of jit, remat and closed_call are inlined (what remat would recompute is kept: it is what a
capture is made of); scan and cond are walked into where parameters enter them; every other equation
is evaluated whole, by JAX's own rule for it, so custom derivatives are honored.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex
from jaxtyping import Array, PyTree

from fnn import programs
from fnn.capture import uses
from fnn.capture.uses import Form
from fnn.capture.views import Loop, Value, View, aval, is_view, stack_of, views
from fnn.names import EXAMPLES


class Use(NamedTuple):
    """A place where parameters meet data, `z = apply(a, weight)`, linear in the weight.

    Where scans are around it, a, z and the form are those of all iterations.

    Attributes:
        name: the equation's primitive; of a plain use, that of the equation that W goes on to.
        weight: the fixed value W.
        operand: the shape and dtype of the data a; None for a plain use.
        result: the shape and dtype of z.
        form: `apply`, and how it is a sum of outer products.
    """

    name: str
    weight: Value
    operand: jax.ShapeDtypeStruct | None
    result: jax.ShapeDtypeStruct
    form: Form

    def over(self, loop: Loop) -> "Use":
        """The use with one more scan around it."""
        is_sliced = loop in self.weight.stack
        lift = uses.over_slices if is_sliced else uses.over_positions
        return self._replace(
            operand=_repeated(self.operand, loop.length),
            result=_repeated(self.result, loop.length),
            form=lift(self.form, loop.length),
        )


Environment = dict[Value, Any]
Records = dict[int, Array]
"""Operands or perturbations, by the number of their use."""


# --- steps --------------------------------------------------------------------------------------


class Evaluation(NamedTuple):
    """An equation that is evaluated by its own rule."""

    evaluate: Callable[..., Sequence[Array]]
    operands: Sequence[Value]
    outputs: Sequence[Value]

    def run(self, env: Environment, perturbations: Records) -> Records:
        """Puts the results into `env`; returns no operand, because there is no use."""
        del perturbations
        env.update(zip(self.outputs, self.evaluate(*(env[v] for v in self.operands)), strict=True))
        return {}


class Perturbation(NamedTuple):
    """The equation of use number `use`, to whose result the perturbation of the use is added."""

    evaluate: Callable[..., Sequence[Array]]
    operands: Sequence[Value]
    output: Value
    use: int
    operand: Value

    def run(self, env: Environment, perturbations: Records) -> Records:
        """Puts the perturbed result into `env`; returns the operand of the use."""
        (result,) = self.evaluate(*(env[value] for value in self.operands))
        env[self.output] = result + perturbations[self.use]
        return {self.use: env[self.operand]}


class Body(NamedTuple):
    """The steps of a scan's body or of a branch, and the values that it hands out."""

    steps: "list[Step]"
    results: Sequence[Value]

    def run(self, env: Environment, perturbations: Records) -> tuple[list[Array], Records]:
        """Returns the values of the results and the operands; `env` stays as it is."""
        env = dict(env)
        records = run(self.steps, env, perturbations)
        return [env[value] for value in self.results], records


class Scan(NamedTuple):
    """A scan, whose uses are recorded at every iteration.

    Attributes:
        params: the parameters of its equation.
        carries: the number of values that it carries.
        inputs: the carry and the sequences of data, as values outside of the body.
        body_inputs: the same, as values in the body.
        loop: the scan itself, whose stacked values the body sees slice by slice.
        body: the steps of an iteration.
        uses: the numbers of the uses in the body that have operands.
        outputs: the results of its equation.
    """

    params: dict[str, Any]
    carries: int
    inputs: Sequence[Value]
    body_inputs: Sequence[Value]
    loop: Loop
    body: Body
    uses: Sequence[int]
    outputs: Sequence[Value]

    def run(self, env: Environment, perturbations: Records) -> Records:
        """Puts the results into `env`; returns the operands of all iterations, stacked."""

        def iteration(carry, slices):
            x, noise, fixed = slices
            inner = zip((*self.body_inputs, *self.loop.values), (*carry, *x, *fixed), strict=True)
            body_env = env | dict(inner)
            results, records = self.body.run(body_env, noise)
            return results[: self.carries], (results[self.carries :], records)

        noise = {i: perturbations[i] for i in self.uses}
        values = [env[value] for value in self.inputs]
        settings = {name: self.params[name] for name in ("length", "reverse", "unroll")}
        stacked = [env[value] for value in self.loop.values]
        sequences = (values[self.carries :], noise, stacked)
        carry, (outputs, records) = lax.scan(
            iteration, values[: self.carries], sequences, **settings
        )
        env.update(zip(self.outputs, (*carry, *outputs), strict=True))
        return records


class Cond(NamedTuple):
    """A conditional, where the uses of a branch that is not taken have operand zero.

    Attributes:
        selector: the number of the branch that is taken.
        branches: the bodies of all branches.
        uses: the shape and dtype of the operand of each use in them that has one, by its number.
        outputs: the results of its equation.
    """

    selector: Value
    branches: Sequence[Body]
    uses: dict[int, jax.ShapeDtypeStruct]
    outputs: Sequence[Value]

    def run(self, env: Environment, perturbations: Records) -> Records:
        """Puts the results into `env`; returns the operands of all branches."""

        def branch(body: Body, noise: Records) -> tuple[list[Array], Records]:
            results, records = body.run(env, noise)
            others = {i: a for i, a in self.uses.items() if i not in records}
            return results, records | {i: jnp.zeros(a.shape, a.dtype) for i, a in others.items()}

        noise = {i: perturbations[i] for i in self.uses}
        branches = [partial(branch, body) for body in self.branches]
        results, records = lax.switch(env[self.selector], branches, noise)
        env.update(zip(self.outputs, results, strict=True))
        return records


Step = Evaluation | Perturbation | Scan | Cond


def run(steps: Sequence[Step], env: Environment, perturbations: Records) -> Records:
    """Takes the steps, extending `env`; returns the operands of the uses among them."""
    records = {}
    for step in steps:
        records |= step.run(env, perturbations)
    return records


# --- the program --------------------------------------------------------------------------------


@dataclasses.dataclass(eq=False)
class Program:
    """The forward pass of one example, split into what is fixed and what is data.

    Attributes:
        params: the leaves of the parameters.
        closed_over: the arrays that the model closes over.
        inputs: the leaves of the example.
        constants: the arrays of the constants inside.
        literals: the constants that are literals, by dtype, shape and bytes.
        fixed_steps: the steps among fixed values.
        steps: the steps among data.
        uses: all uses, in the order of the model.
        plain: for each weight of a plain use, the same as data, and the number of the use.
        outputs: the one value of the outputs.
    """

    params: list[Value] = dataclasses.field(default_factory=list)
    closed_over: list[Value] = dataclasses.field(default_factory=list)
    inputs: list[Value] = dataclasses.field(default_factory=list)
    constants: Environment = dataclasses.field(default_factory=dict)
    literals: dict[tuple, Value] = dataclasses.field(default_factory=dict)
    fixed_steps: list[Evaluation] = dataclasses.field(default_factory=list)
    steps: list[Step] = dataclasses.field(default_factory=list)
    uses: list[Use] = dataclasses.field(default_factory=list)
    plain: dict[Value, tuple[Value, int]] = dataclasses.field(default_factory=dict)
    outputs: list[Value] = dataclasses.field(default_factory=list)

    def uses_of(self, leaf: int) -> list[int]:
        """The numbers of the uses that a leaf of the parameters enters."""
        return [i for i, use in enumerate(self.uses) if leaf in use.weight.leaves]

    def operands_since(self, first: int) -> list[int]:
        """The numbers of the uses from number `first` on that have operands."""
        return [i for i in range(first, len(self.uses)) if self.uses[i].operand is not None]

    def constant(self, literal: jex.Literal) -> Value:
        """A literal as a fixed value, the same one for the same number."""
        array = np.asarray(literal.val, aval(literal).dtype)
        key = array.dtype, array.shape, array.tobytes()
        if key not in self.literals:
            self.literals[key] = value = Value(aval(literal), True)
            self.constants[value] = jnp.asarray(array)
        return self.literals[key]

    def open(self, jaxpr: Any) -> tuple[jex.Jaxpr, list[Value]]:
        """A jaxpr, closed or not, with its constants as values of the program."""
        if isinstance(jaxpr, jex.Jaxpr):
            return jaxpr, []
        consts = []
        for var, array in zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True):
            consts.append(Value(aval(var), True))
            self.constants[consts[-1]] = array
        return jaxpr.jaxpr, consts


def settle(
    program: Program,
    leaves: Sequence[Array],
    closed_over: Sequence[Array],
    wanted: Sequence[Value] | None = None,
) -> Environment:
    """The arrays of all fixed values, or of those that lead to some, from the parameters'."""
    env = dict(program.constants)
    env.update(zip(program.params, leaves, strict=True))
    env.update(zip(program.closed_over, closed_over, strict=True))
    steps = program.fixed_steps if wanted is None else _towards(program.fixed_steps, wanted)
    run(steps, env, {})
    return env


def _towards(steps: Sequence[Evaluation], wanted: Sequence[Value]) -> list[Evaluation]:
    """Those of some steps that lead to wanted values."""
    needed, leading = set(wanted), []
    for step in reversed(steps):
        if not needed.isdisjoint(step.outputs):
            needed.update(step.operands)
            leading.append(step)
    return leading[::-1]


def replay(
    program: Program, env: Environment, example: Sequence[Array], perturbations: Records
) -> tuple[Array, Records]:
    """The outputs of one example, and the operand of every use that has one."""
    env = env | dict(zip(program.inputs, example, strict=True))
    for weight, (value, index) in program.plain.items():
        env[value] = env[weight] + perturbations[index]
    records = run(program.steps, env, perturbations)
    return env[program.outputs[0]], records


# --- the walk -----------------------------------------------------------------------------------


def trace(model: Callable[..., Array], params: PyTree, example: PyTree, examples: int) -> tuple:
    """The program of `model(params, example)`, and the arrays that the model closes over."""
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
    walk = Walk(program, program.steps, Scope({}))
    arguments = (*program.params, *program.inputs)
    (output,) = walk.outputs(closed.jaxpr, program.closed_over, arguments)
    program.outputs = [walk.as_data(output, "output")]
    return program, closed.consts


class Scope(NamedTuple):
    """Where the walk stands.

    Attributes:
        results: the results of the equations before, by their `_key`.
        depth: the number of scans around this place.
        is_branch: whether this place is inside a branch.
    """

    results: dict[Any, list[Value]]
    depth: int = 0
    is_branch: bool = False

    def body(self, **changes: Any) -> "Scope":
        """The scope of a body, whose results stay unknown outside."""
        return self._replace(results=dict(self.results), **changes)


class Walk(NamedTuple):
    """A walk through a jaxpr, which appends to `steps` and to the program's uses."""

    program: Program
    steps: list[Step]
    scope: Scope

    def outputs(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Value], inputs: Sequence[Value]
    ) -> list[Value]:
        """The values of a jaxpr's outputs, from those of its inputs."""
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

        def read(atom: jex.Var | jex.Literal) -> Value:
            return self.program.constant(atom) if isinstance(atom, jex.Literal) else env[atom]

        for eqn in _needed(jaxpr):
            operands = [read(atom) for atom in eqn.invars]
            key = _key(eqn, operands)
            if key in self.scope.results:
                results = self.scope.results[key]
            else:
                results = self._results(eqn, operands)
            if key is not None:
                self.scope.results[key] = results
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _results(self, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
        """The values of an equation's results."""
        name = eqn.primitive.name
        if name in programs.INLINED:
            jaxpr = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            return self.outputs(*self.program.open(jaxpr), operands)
        if _is_fixed(eqn, operands, self.scope):
            return self._fixed(eqn, operands)
        if not any(value.leaves for value in operands):
            return self._whole(eqn, operands)
        if name == "scan":
            return self._scan(eqn, operands)
        if name == "cond":
            return self._cond(eqn, operands)
        if (use := _linear_use(eqn, operands)) is not None:
            return self._perturbed(eqn, operands, use)
        return self._whole(eqn, [self.as_data(value, name) for value in operands])

    def as_data(self, value: Value, reason: str) -> Value:
        """A value as data: one that depends on parameters gets a plain use, and only one."""
        if not value.leaves:
            return value
        if value.broadcast is not None:  # The smaller value before it gets the zero.
            eqn, operands = value.broadcast
            (output,) = self._whole(eqn, [self.as_data(v, reason) for v in operands])
            return output
        program = self.program
        if value not in program.plain:
            program.plain[value] = (Value(value.aval, stack=value.stack), len(program.uses))
            program.uses.append(Use(reason, value, None, value.whole, uses.plain(value)))
        return program.plain[value][0]

    def _fixed(self, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
        """The results of an equation among fixed values, evaluated once for all examples."""
        leaves = frozenset().union(*(value.leaves for value in operands))
        if eqn.primitive.name == "stop_gradient":
            leaves = frozenset()
        is_broadcast = eqn.primitive.name == "broadcast_in_dim"
        repeats = is_broadcast and aval(eqn.outvars[0]).size > operands[0].aval.size
        stack = stack_of(operands)
        outputs = [
            Value(
                aval(var),
                True,
                leaves if _is_real(aval(var)) else frozenset(),
                view if leaves else {},
                (eqn, operands) if repeats else None,
                stack,
            )
            for var, view in zip(eqn.outvars, views(eqn, operands), strict=True)
        ]
        evaluate = programs.evaluation(eqn)
        over_loop = jax.vmap if programs.is_mapped_alike(eqn) else _in_turn
        for loop in reversed(stack):
            axes = tuple(0 if loop in value.stack else None for value in operands)
            evaluate = over_loop(evaluate, axes)
        self.program.fixed_steps.append(Evaluation(evaluate, operands, outputs))
        return outputs

    def _whole(self, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
        """The results of an equation among data, evaluated by its own rule."""
        outputs = [Value(aval(var)) for var in eqn.outvars]
        self.steps.append(Evaluation(programs.evaluation(eqn), operands, outputs))
        return outputs

    def _perturbed(self, eqn: jex.JaxprEqn, operands: Sequence[Value], use: Use) -> list[Value]:
        """The result of a use: that of its equation, plus a perturbation."""
        index, output = len(self.program.uses), Value(use.result)
        self.program.uses.append(use)
        operand = operands[use.form.operand]
        evaluate = programs.evaluation(eqn)
        self.steps.append(Perturbation(evaluate, operands, output, index, operand))
        return [output]

    def _enter(
        self, jaxpr: Any, inputs: Sequence[Value], scope: Scope
    ) -> tuple["Walk", list[Value]]:
        """The walk through a body, and the values of its outputs."""
        walk = Walk(self.program, [], scope)
        return walk, walk.outputs(*self.program.open(jaxpr), inputs)

    def _close(self, results: Sequence[Value], reason: str) -> Body:
        """The body that this walk went through, its results as data."""
        return Body(self.steps, [self.as_data(value, reason) for value in results])

    def _scan(self, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
        """The results of a scan, whose body is walked once."""
        jaxpr, length = eqn.params["jaxpr"], eqn.params["length"]
        consts, carries = programs.scan_arity(eqn)
        loop, sequences = Loop(length, self.scope.depth), consts + carries
        inputs, body_inputs, arguments = [], [], list(operands[:consts])
        for i in range(consts, len(operands)):
            if i >= sequences and operands[i].leaves and length:
                arguments.append(self._sliced(operands[i], loop))
                continue
            inputs.append(self.as_data(operands[i], "scan"))
            body_inputs.append(Value(aval(jaxpr.jaxpr.invars[i])))
            arguments.append(body_inputs[-1])
        first = len(self.program.uses)
        walk, results = self._enter(jaxpr, arguments, self.scope.body(depth=loop.depth + 1))
        body = walk._close(results, "scan")
        indices = self.program.operands_since(first)
        for i in indices:
            self.program.uses[i] = self.program.uses[i].over(loop)
        outputs = [Value(aval(var)) for var in eqn.outvars]
        self.steps.append(
            Scan(eqn.params, carries, inputs, body_inputs, loop, body, indices, outputs)
        )
        return outputs

    def _sliced(self, value: Value, loop: Loop) -> Value:
        """A fixed value over whose first axis a loop runs, as its body sees it."""
        array, stack = value.aval, (*value.stack, loop)
        array = jax.ShapeDtypeStruct(array.shape[1:], array.dtype)
        part = Value(array, True, value.leaves, value.views, stack=stack)
        self.program.fixed_steps.append(Evaluation(lambda x: [x], [value], [part]))
        return part

    def _cond(self, eqn: jex.JaxprEqn, operands: Sequence[Value]) -> list[Value]:
        """The results of a conditional, all of whose branches are walked."""
        selector, *inputs = operands
        first = len(self.program.uses)
        walks = [
            self._enter(branch, inputs, self.scope.body(is_branch=True))
            for branch in eqn.params["branches"]
        ]
        bodies = [walk._close(results, "cond") for walk, results in walks]
        operands_of = {
            i: operand
            for i in range(first, len(self.program.uses))
            if (operand := self.program.uses[i].operand) is not None
        }
        outputs = [Value(aval(var)) for var in eqn.outvars]
        self.steps.append(Cond(selector, bodies, operands_of, outputs))
        return outputs


def _needed(jaxpr: jex.Jaxpr) -> list[jex.JaxprEqn]:
    """The equations that an output needs, and those with an effect."""
    variables = set(filter(_is_variable, jaxpr.outvars))
    equations = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or variables.intersection(eqn.outvars):
            variables.update(filter(_is_variable, eqn.invars))
            equations.append(eqn)
    return equations[::-1]


def _is_variable(atom: jex.Var | jex.Literal) -> bool:
    """Whether an atom is a variable, not a literal."""
    return not isinstance(atom, jex.Literal)


def _key(eqn: jex.JaxprEqn, operands: Sequence[Value]) -> Any:
    """A key that equations with the same results share; None where it cannot be told."""
    # Derivatives of one function are traced one by one, each with a forward pass of its own. A key
    # makes these passes one, so that a weight has no more uses than in one of them.
    key = eqn.primitive, tuple(sorted(eqn.params.items(), key=lambda p: p[0])), tuple(operands)
    try:
        hash(key)
    except TypeError:
        return None
    return None if eqn.effects else key


def _is_fixed(eqn: jex.JaxprEqn, operands: Sequence[Value], scope: Scope) -> bool:
    """Whether an equation may be evaluated once for all examples."""
    if not all(value.is_fixed for value in operands) or eqn.primitive.name == "axis_index":
        return False
    # A complex function of real parameters is left to JAX, with its conventions for cotangents.
    is_real = all(not jnp.issubdtype(aval(v).dtype, jnp.complexfloating) for v in eqn.outvars)
    # Outside of its branch, an equation meets values that the branch protects it from.
    is_safe = not scope.is_branch or is_view(eqn)
    return not any(value.leaves for value in operands) or (is_real and is_safe)


def _in_turn(evaluate: Callable[..., Any], axes: Sequence[int | None]) -> Callable[..., Any]:
    """What `jax.vmap(evaluate, axes)` computes, axes 0 or None, one iteration after another."""

    def over_iterations(*operands: Array) -> Any:
        def one(slices: Sequence[Array]) -> Any:
            parts = iter(slices)
            whole = zip(operands, axes, strict=True)
            return evaluate(*(x if axis is None else next(parts) for x, axis in whole))

        return lax.map(one, [x for x, axis in zip(operands, axes, strict=True) if axis == 0])

    return over_iterations


def _linear_use(eqn: jex.JaxprEqn, operands: Sequence[Value]) -> Use | None:
    """The use that an equation is; None where its form is not known."""
    weights = [i for i, value in enumerate(operands) if value.leaves]
    form = uses.form(eqn, weights[0]) if len(weights) == 1 else None
    if form is None:
        return None
    (position,) = weights
    name, result = form.name or eqn.primitive.name, _repeated(aval(eqn.outvars[0]))
    return Use(name, operands[position], _repeated(operands[form.operand].aval), result, form)


def _repeated(array: Any, *lengths: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array, with more axes in front."""
    return jax.ShapeDtypeStruct((*lengths, *array.shape), array.dtype)


def _is_real(array: Any) -> bool:
    """Whether an array, or a shape and dtype, is of floating point."""
    return jnp.issubdtype(array.dtype, jnp.floating)


def _collective(jaxpr: jex.Jaxpr) -> str | None:
    """The name of an equation that combines examples; None where there is none."""
    for eqn in jaxpr.eqns:
        axes = eqn.params.get("axes", eqn.params.get("axis_name", ()))
        axes = axes if isinstance(axes, tuple | list) else (axes,)
        if EXAMPLES in axes and eqn.primitive.name != "axis_index":
            return eqn.primitive.name
        for body in programs.bodies(eqn):
            if name := _collective(body.jaxpr):
                return name
    return None
