"""When a callback is called."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from fnn.training.snapshot import Snapshot


class Callback(NamedTuple):
    """A function that looks at a training, and how often: `fit(..., callback=Callback(...))`.

    A bare function is called after each round. By seconds it is called when `fit` looks anyway, up
    to four times a second, which costs nothing; by steps the compiled loop keeps what is to be seen
    (at most 1 GiB of it). Either way it is called once more at the end, if steps came since.

    Attributes:
        call: `call(fit) -> bool | None`; True stops the training.
        seconds: between two calls, at least; more than 0.
        steps: from one call to the next, counted over rounds; 1 for every step.

    Example:
        >>> Callback(print, seconds=5.0).steps is None
        True
    """

    call: Callable[[Any], bool | None]
    seconds: float | None = None
    steps: int | None = None


def callback_of(callback: Any) -> Callback | None:
    """What `fit` was given as a `Callback`, or the error that it deserves."""
    if callback is None:
        return None
    asked = callback if isinstance(callback, Callback) else Callback(callback)
    if not callable(asked.call):
        raise TypeError(
            f"fit: expected callback(fit) -> bool | None, got {type(asked.call).__name__}; try a "
            "function, or Callback(function, seconds=5.0)"
        )
    if asked.seconds is not None and asked.steps is not None:
        raise ValueError(
            f"fit: expected a Callback by seconds or by steps, got seconds={asked.seconds} and "
            f"steps={asked.steps}; try one of them"
        )
    _require_above_zero("seconds", asked.seconds, int | float, "a number", "5.0")
    _require_above_zero("steps", asked.steps, int, "a whole number", "1 for every step")
    return asked


def _require_above_zero(name: str, got: Any, kind: Any, what: str, remedy: str) -> None:
    """Raises a TypeError for what is no such number, a ValueError for 0 and below."""
    if got is None:
        return
    message = f"fit: expected Callback({name}=) to be {what} above 0, got {got!r}; try {remedy}"
    if isinstance(got, bool) or not isinstance(got, kind):
        raise TypeError(message)
    if not got > 0:
        raise ValueError(message)


def due_of(callback: Callback) -> Callable[[Snapshot], bool]:
    """A function that says of each snapshot in its turn whether the callback is to see it."""
    if callback.steps is not None:
        steps = callback.steps
        return lambda here: here.steps % steps == 0
    if callback.seconds is None:
        return lambda here: here.is_round_end
    seconds, last = callback.seconds, time.monotonic()

    def is_due(here: Snapshot) -> bool:
        nonlocal last
        del here
        now = time.monotonic()
        is_time = now - last >= seconds
        last = now if is_time else last
        return is_time

    return is_due
