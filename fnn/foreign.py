"""Models and losses written elsewhere: where they are no pure functions of one example.

`model(params, x) -> outputs` and `loss(outputs, target) -> scalar` are called in one place; what
they raise there is told again where it has a common cause. Errors of other packages are known by
the names of their classes, never by their texts.
"""

from typing import Any

import jax

_OF_KIND = TypeError, AttributeError, ValueError  # what the wrong kind of argument raises
_MERGE = (
    "nnx.merge(graphdef, params, rest, copy=True)(x) as the model, of graphdef, params, rest = "
    "nnx.split(module, nnx.Param, ...)"
)
_CHANGED = (
    "a model that is a pure function of params and x, got a module that changes its own variables "
    "(batch statistics, the counter of its keys)"
)
_IN_FLAX = {
    "TraceContextError": (
        _CHANGED,
        f"bridges.from_nnx(module), whose batch normalization sees all examples; or {_MERGE}; or "
        "module.eval(), which changes none",
    ),
    "ModifyScopeVariableError": (
        _CHANGED,
        "bridges.from_flax(module, ...), whose batch normalization sees all examples; or "
        "model.apply(variables, x, mutable=['batch_stats'])[0] as the model, of normalizations "
        "over axis_name='examples'; or use_running_average=True",
    ),
    "InvalidRngError": (
        "a model that draws from the key it is given, got a module without one",
        "model(params, x, *, key=None), which passes rngs={'dropout': key} and "
        "deterministic=key is None, and fit(..., key=jax.random.key(0))",
    ),
    "ScopeCollectionNotFound": (
        "params as the module knows them, got other collections",
        "lambda params, x: module.apply({'params': params}, x) as the model",
    ),
    "CallCompactUnboundModuleError": (
        "a function (params, x) -> outputs, got a module",
        "lambda params, x: module.apply({'params': params}, x) as the model",
    ),
    "ScopeParamShapeError": (
        "a model of one example, got a module whose parameters have other shapes",
        "module.apply({'params': params}, x[None])[0], if it takes a batch, or to initialize it "
        "by one example",
    ),
}


def model_error(error: Exception, x: Any) -> TypeError | None:
    """What says better why a model failed, if anything does.

    Args:
        error: what the model raised.
        x: the example it was given.

    Returns:
        An error to be raised from that one, or None.
    """
    if type(error).__module__.partition(".")[0] == "flax":
        for kind in type(error).__mro__:
            if kind.__name__ in _IN_FLAX:
                return _refusal(*_IN_FLAX[kind.__name__])
    if isinstance(error, jax.errors.UnexpectedTracerError):
        return _refusal(
            "a model that is a pure function of params and x, got one that keeps traced values "
            "between calls",
            f"to return all that it computes; with flax's nnx, {_MERGE}",
        )
    if isinstance(x, list) and _is_of_kind(error):
        return _refusal_of_list(error, "inputs", x, "the model")
    return None


def loss_error(error: Exception, outputs: Any, target: Any) -> TypeError | None:
    """What says better why a loss failed, if anything does.

    Args:
        error: what the loss raised.
        outputs: the outputs it was given.
        target: the target it was given.

    Returns:
        An error to be raised from that one, or None.
    """
    if not _is_of_kind(error):
        return None
    if target is None:
        return _refusal(
            f"targets for the loss, got None ({error})",
            "data = (inputs, targets), or an objective without a loss, whose model is the residual",
        )
    if type(outputs) is tuple:
        kinds = ", ".join(type(part).__name__ for part in outputs)
        return _refusal(
            f"outputs that the loss takes, got a tuple ({kinds}; {type(error).__name__}: "
            f"{error}); a model returns its outputs alone, no state and nothing auxiliary beside "
            "them",
            "lambda params, x: model(params, x)[0] as the model",
        )
    if isinstance(target, list):
        return _refusal_of_list(error, "targets", target, "the loss")
    return None


def _is_of_kind(error: Exception) -> bool:
    """Whether an error is what the wrong kind of argument raises, and not JAX about a trace."""
    return isinstance(error, _OF_KIND) and not isinstance(error, jax.errors.JAXTypeError)


def _refusal_of_list(error: Exception, name: str, arrays: list, who: str) -> TypeError:
    return _refusal(
        f"{name} that {who} takes, got a list of {len(arrays)} arrays, which reaches {who} as a "
        f"list ({type(error).__name__}: {error})",
        f"np.stack({name}), one array whose first axis counts the examples",
    )


def _refusal(sentence: str, remedy: str) -> TypeError:
    return TypeError(f"Objective: expected {sentence}; try {remedy}")
