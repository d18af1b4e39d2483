"""The records of a race: each is one line of JSON in its store.

A line has the fields of its record and, as `kind`, the word for its class:

    {"kind": "choice", "rule": "adam", "trial": 2, "budget": [3e8, "flops"]}

Every rule has its records in this order: what it was entered with, a plan, the runs of each round
of the search and of its final, the choice among the settings, a run for each fresh seed, and the
seconds of runs alone. Where these were not what the budget says, the choice follows again with
another budget, and its runs. A rule of which nothing can be said has the reason before its
seconds, and one that was left out has it in place of all that would have followed.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class LeftOut(NamedTuple):
    """A rule that does not take part, and the reason as a sentence."""

    rule: str
    why: str


class Withheld(NamedTuple):
    """A rule whose runs bear no verdict, and the reason as a sentence."""

    rule: str
    why: str


class Entered(NamedTuple):
    """What a rule was entered with, by which another one of its name is told."""

    rule: str
    identity: dict[str, str]


class Plan(NamedTuple):
    """The settings that are tried first, and the budget of a whole run, which is counted."""

    rule: str
    settings: list[dict[str, Any]]
    batch: int
    gradient_flops: float
    # Races from before budgets were counted have none of these.
    budget: Sequence[Any] = ()  # amount and unit; a race in seconds counts steps
    price: float = 1.0  # about what a step of the first setting costs, in that unit


class Run(NamedTuple):
    """One run of a rule; in its line the header of the race follows, so that it stands alone."""

    rule: str
    stage: str  # "round-1" and so on, "final" or "seed"
    trial: int  # the place of its setting among all that are tried
    seed: int
    setting: dict[str, Any]
    batch: int
    steps: int
    train: float  # at the end
    validation: float  # the lowest
    test: float  # the problem's measure, of the parameters with the lowest validation loss
    stopped: str  # the name of a `training.Stop` in lower case
    curves: str  # the name of a file
    flops: float = math.nan  # what it spent

    @property
    def loss(self) -> float:
        """What the run is judged by: infinity where it diverged."""
        diverged = self.stopped == "non_finite" or not math.isfinite(self.validation)
        return math.inf if diverged else self.validation


class Choice(NamedTuple):
    """The trial whose setting runs from fresh seeds, each within a budget that is counted."""

    rule: str
    trial: int
    budget: Sequence[Any] = ()
    price: float = 1.0  # about what a step costs, in that unit


class Seconds(NamedTuple):
    """The seconds of some runs of the chosen setting alone, and of compiling their program."""

    rule: str
    seconds: list[float]
    compile_seconds: float
    spread: float = 0.0  # the part by which the second least reading of a run is above the least
    waited: float = 0.0  # the share of time in which other processes had the processor


Record = LeftOut | Withheld | Entered | Plan | Run | Choice | Seconds
_KINDS: dict[str, type[Record]] = {
    "left_out": LeftOut, "withheld": Withheld, "entered": Entered, "plan": Plan, "run": Run,
    "choice": Choice, "seconds": Seconds,
}  # fmt: skip
_WORDS = {kind: word for word, kind in _KINDS.items()}


def to_line(record: Record, header: Mapping[str, Any]) -> str:
    """The line of a record; that of a run has the header of its race too."""
    about = header if isinstance(record, Run) else {}
    line = {"kind": _WORDS[type(record)], **record._asdict(), **about}
    return json.dumps(plain(line), allow_nan=False) + "\n"


def from_line(line: bytes) -> Record | None:
    """The record of a line, with NaN for null; None for a kind of another version."""
    entries = json.loads(line)
    kind = _KINDS.get(entries["kind"])
    if kind is None:
        return None
    entries = kind._field_defaults | entries
    values: list[Any] = [entries[name] for name in kind._fields]
    values = [math.nan if value is None else value for value in values]
    return kind(*values)


def plain(tree: Any) -> Any:
    """A tree of Python's own values, with null for NaN and infinity, which JSON does not know."""
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
