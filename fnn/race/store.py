"""The store: what a race leaves on disk, from which every table and figure is made.

A race has a folder of its own:

    race.json       the terms, once: problem, protocol, versions, device
    runs.jsonl      a line for each record, see `records`; those of several rules may alternate
    curves/*.npz    for each group of runs the losses and costs at the end of every lap

Lines are only ever appended, a group of runs at once, after their curves. So a race that is killed
at any instant leaves whole lines and at most a torn one, and the same race goes on from there.
A lock keeps a second race out; the system opens it when the first one ends, however it ends.
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import platform
import threading
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from fnn.locks import locked
from fnn.problems import COSTS, Problem
from fnn.race import identity
from fnn.race.compiling import compiler_options
from fnn.race.meter import in_gradients
from fnn.race.protocol import OFF, Protocol
from fnn.race.records import (
    Choice,
    Entered,
    LeftOut,
    Plan,
    Record,
    Run,
    Seconds,
    Withheld,
    from_line,
    plain,
    to_line,
)
from fnn.race.result import Race, Result

_PACKAGES = "fnn", "jax", "jaxlib", "optax", "numpy", "scipy"
"""The packages whose versions numbers may depend on."""
FLAGS = "XLA_FLAGS", "JAX_PLATFORMS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"
"""The environment's variables that speed or numbers may depend on; workers get them too."""

R = TypeVar("R", bound=Record)


def new_folder(parent: str | Path, problem: str) -> Path:
    """A folder `PARENT/PROBLEM/TIME` that does not exist yet."""
    return Path(parent) / problem / datetime.now().strftime("%Y-%m-%dT%H-%M-%S-%f")


def environment() -> dict[str, Any]:
    """Versions, device, flags and code: all outside a race that its numbers may depend on."""
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        code.update(path.read_bytes())
    device = jax.devices()[0]
    return {
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "device": device.device_kind,
        "platform": device.platform,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "compiler_options": compiler_options(),
        "float64": jnp.result_type(float) == jnp.float64,
        "code": code.hexdigest()[:12],
    }


def header(problem: Problem, protocol: Protocol) -> dict[str, Any]:
    """What `race.json` says, as a tree of plain values."""
    return {
        "problem": problem.name,
        "summary": problem.summary,
        "source": problem.source,
        "target": problem.target,
        "measure": problem.measure.name,
        "highest": problem.measure.highest,
        "protocol": {
            "track": "external" if protocol.trials else "self-tuning",
            "trials": protocol.trials,
            "seeds": protocol.seeds,
            "budget": list(protocol.budget),
        },
        "identity": identity.of_problem(problem),
        **environment(),
    }


class Store(NamedTuple):
    """A folder that is open for a race.

    Attributes:
        folder: where it is.
        header: of the race.
        records: of all lines so far.
        lock: held while lines are written.
    """

    folder: Path
    header: dict[str, Any]
    records: list[Record]
    lock: threading.Lock

    def of(self, kind: type[R], rule: str) -> list[R]:
        """The records of one kind about a rule, in order."""
        return [each for each in self.records if isinstance(each, kind) and each.rule == rule]

    def runs(self, rule: str, stage: str) -> list[Run]:
        """The runs of a stage of a rule, by trial or by seed, these of its last choice."""
        runs: list[Run] = []
        for record in self.records:
            if isinstance(record, Choice) and record.rule == rule and stage == "seed":
                runs = []
            elif isinstance(record, Run) and (record.rule, record.stage) == (rule, stage):
                runs.append(record)
        return runs

    def require_same(self, entered: Entered) -> None:
        """Writes down what a rule is entered with; a ValueError if it was entered otherwise."""
        before = self.of(Entered, entered.rule)
        if not before:
            self.append(entered)
            return
        was, now = before[0].identity, entered.identity
        other = [name for name in was | now if was.get(name) != now.get(name)]
        if other:
            raise ValueError(
                f"race: expected {self.folder} to hold this very race, got another rule "
                f"{entered.rule}: its {_differing(was, now, other)}; try another folder or another "
                "name"
            )

    def settings(self, rule: str) -> list[dict[str, Any]]:
        """The settings that were tried of a rule, by trial, and those of its plan."""
        (plan,) = self.of(Plan, rule)
        tried = {run.trial: run.setting for run in self.of(Run, rule)}
        return list((dict(enumerate(plan.settings)) | tried).values())

    def append(self, *records: Record) -> None:
        """Writes records down in order, and waits until the disk has them."""
        text = "".join(to_line(record, self.header) for record in records)
        with self.lock:
            with open(self.folder / "runs.jsonl", "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            self.records.extend(records)

    def append_runs(self, runs: Sequence[Run], curves: Mapping[str, np.ndarray]) -> None:
        """Writes a group of runs down, the arrays of their curves first."""
        packed = io.BytesIO()
        np.savez(packed, allow_pickle=False, **curves)
        _write(self.folder / "curves" / runs[0].curves, packed.getvalue())
        self.append(*runs)


@contextlib.contextmanager
def opened(folder: str | Path, problem: Problem, protocol: Protocol) -> Generator[Store]:
    """The store of a race in a folder, which is new or holds the same race by the same version."""
    folder = Path(folder)
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if not locked(lock):
            raise BlockingIOError(
                f"race: expected a folder of its own, got {folder}, to which another race is "
                "writing; try another folder, or wait"
            )
        wanted, path = plain(header(problem, protocol)), folder / "race.json"
        if not path.exists():
            if (folder / "runs.jsonl").exists():
                raise ValueError(
                    f"race: expected {folder} to be new or to hold race.json; try another folder"
                )
            _write(path, json.dumps(wanted, indent=1).encode() + b"\n")
        written = json.loads(path.read_text())
        if written != wanted:
            was, now = (about | about.get("identity", {}) for about in (written, wanted))
            other = [key for key in now if key != "identity" and was.get(key) != now[key]]
            raise ValueError(
                f"race: expected {folder} to hold this very race, got another one: its "
                f"{_differing(was, now, other)}; try another folder"
            )
        records = _whole_records(folder / "runs.jsonl", mend=True)
        yield Store(folder, wanted, records, threading.Lock())


def _differing(was: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> str:
    """What differs, with the first of it as it was and as it is."""
    first = names[0]
    return f"{', '.join(names)} differ, {was.get(first)} in place of {now.get(first)}"


def read(folder: str | Path) -> Race:
    """The results of a race, from its folder alone.

    Args:
        folder: the folder of the race, which may still be going on.

    Returns:
        The results of the rules that are done.

    Raises:
        ValueError: if there is no race.
    """
    folder = Path(folder)
    if not (folder / "race.json").exists():
        raise ValueError(
            f"report: expected {folder} to be the folder of a race, with race.json; try one that "
            "`fnn race` named at its end"
        )
    about = json.loads((folder / "race.json").read_text())
    records = _whole_records(folder / "runs.jsonl")
    return results(Store(folder, about, records, threading.Lock()))


def results(store: Store) -> Race:
    """The results of the rules that are done, from records and curves."""
    done, caveats, withheld = [], [], {}
    for rule in dict.fromkeys(record.rule for record in store.records):
        left_out = store.of(LeftOut, rule)
        caveats += [f"{rule} was left out: {record.why}" for record in left_out]
        if store.of(Seconds, rule):
            done.append(_result(store, rule))
            withheld.update((rule, record.why) for record in store.of(Withheld, rule))
        elif not left_out:
            caveats.append(f"{rule} is not done yet.")
    caveats += _caveats_of_seconds(store, [result.rule for result in done], withheld)
    return Race(store.header, done, caveats + _caveats(done), withheld)


def _result(store: Store, rule: str) -> Result:
    """What the records of one rule say, as arrays."""
    (plan,), choice = store.of(Plan, rule), store.of(Choice, rule)[-1]
    (seconds,) = store.of(Seconds, rule)
    tried = [run for run in store.of(Run, rule) if run.stage != "seed"]
    runs, settings = store.runs(rule, "seed"), store.settings(rule)
    timed = zip(seconds.seconds, runs[: len(seconds.seconds)], strict=True)
    per_step = float(np.median([passed / max(run.steps, 1) for passed, run in timed]))
    costs = functools.partial(_costs, plan, per_step)
    curves = _curves(store, runs[0])
    spent = [costs(_curves(store, group)) for group in {run.curves: run for run in tried}.values()]
    short = [run for run in tried if run.stage != "final"]
    final = [run for run in tried if run.stage == "final"]
    tuning_seeds = list(dict.fromkeys(run.seed for run in tried or runs[:1]))
    diverged = np.array([run.stopped == "non_finite" for run in runs])
    # A diverged run keeps what it had before the lap in which it was lost.
    lost = diverged[:, None] & (curves["steps"] == curves["steps"][:, -1:])
    test = np.array([run.test for run in runs])
    return Result(
        problem=store.header["problem"],
        rule=rule,
        settings=settings,
        chosen=choice.trial,
        tuning=_losses(short or runs[:1], len(settings), tuning_seeds),
        finals=_losses(final, len(settings), tuning_seeds),
        rungs=(max([r.steps for r in short], default=0), max([r.steps for r in final], default=0)),
        tuning_spent={
            cost: sum(float(np.sum(each[cost][:, -1])) for each in spent) for cost in COSTS
        },
        seeds=[run.seed for run in runs],
        costs=costs(curves),
        train=np.where(lost, np.inf, curves["train"]),
        validation=np.where(lost, np.inf, curves["validation"]),
        test=np.where(np.isfinite(test), test, np.nan),
        stopped=[run.stopped for run in runs],
        batch=plan.batch,
        compile_seconds=seconds.compile_seconds,
        run_seconds=np.array(seconds.seconds),
    )


def _curves(store: Store, run: Run) -> dict[str, np.ndarray]:
    """The curves of the group that a run belongs to."""
    with np.load(store.folder / "curves" / run.curves, allow_pickle=False) as file:
        return {name: file[name].astype(float) for name in file.files}


def _costs(plan: Plan, per_step: float, curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What runs had spent at the end of each lap, by `problems.COSTS`."""
    return {
        "steps": curves["steps"],
        "examples": curves["steps"] * plan.batch,
        "gradients": in_gradients(curves["flops"], curves["model"], plan.gradient_flops),
        "flops": curves["flops"],
        "seconds": curves["steps"] * per_step,
    }


def _losses(runs: Sequence[Run], trials: int, seeds: Sequence[int]) -> np.ndarray:
    """The losses of runs, a row for each trial and a column for each seed; NaN where none was."""
    losses = np.full((trials, len(seeds)), np.nan)
    for run in runs:
        losses[run.trial, seeds.index(run.seed)] = run.loss
    return losses


def _caveats_of_seconds(
    store: Store, rules: Sequence[str], withheld: Mapping[str, str]
) -> list[str]:
    """What is to be said of the seconds of rules, as sentences."""
    readings = {rule: store.of(Seconds, rule)[0] for rule in rules}
    sentences = [
        f"The seconds of {rule} are rough: readings of one run did not agree."
        for rule, reading in readings.items()
        if reading.spread > OFF and rule not in withheld  # of which nothing is said at all
    ]
    waited = {rule: reading.waited for rule, reading in readings.items() if reading.waited > OFF}
    if waited:
        sentences.append(
            f"Other processes had the processor in up to {max(waited.values()):.0%} of the time "
            f"while seconds were measured ({', '.join(waited)}); what a rule waited is not counted."
        )
    return sentences


def _caveats(done: Sequence[Result]) -> list[str]:
    """What went otherwise than asked for, as sentences."""
    sentences = []
    for r in done:
        diverged = r.stopped.count("non_finite")
        if diverged:
            sentences.append(f"{r.rule} diverged from {diverged} of {len(r.seeds)} seeds.")
        judged = r.finals if r.rungs[1] else r.tuning  # there may have been no final
        if len(r.settings) > 1 and not _came_through(judged):
            sentences.append(
                f"No setting of {r.rule} came through its longer runs; the best of the shorter "
                "ones was taken."
                if _came_through(r.tuning)
                else f"No setting of {r.rule} came through its runs; the first was taken."
            )
    return sentences


def _came_through(losses: Float[np.ndarray, "trials seeds"]) -> bool:
    """Whether there is a trial that most seeds did not lose."""
    return bool(np.isfinite(np.median(losses, axis=1)).any())


# Files --------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    with open(half, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def _whole_records(path: Path, *, mend: bool = False) -> list[Record]:
    """The records up to the first damaged line, where the file is cut off if it is mended."""
    if not path.exists():
        return []
    content, records, end = path.read_bytes(), [], 0
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        try:
            records.append(from_line(line))
        except (ValueError, KeyError, TypeError):
            break
        end += len(line)
    if mend and end < len(content):
        with open(path, "r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return [record for record in records if record is not None]
