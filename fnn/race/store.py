"""The store: what a race leaves on disk, from which every table and figure is made.

A race has a folder of its own:

    race.json       the terms, once: problem, protocol, versions, device
    runs.jsonl      a line of JSON for each thing that is done, in this order for every rule: its
                    plan, its trials, the choice among them, fresh seeds, its seconds alone (those
                    of several rules may alternate)
    curves/*.npz    what was seen of each group of runs on their way

Lines are only ever appended, a group of runs at once, after their curves. So a race that is killed
at any instant leaves whole groups and at most one torn line, and the same race goes on from there.
A lock keeps a second race out; the system opens it when the first one ends, however it ends.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import platform
import threading
from collections.abc import Generator, Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fnn.locks import locked
from fnn.problems import Problem
from fnn.race.compiling import compiler_options
from fnn.race.protocol import Protocol
from fnn.race.result import Race, Result
from fnn.training import Stop

_PACKAGES = "fnn", "jax", "jaxlib", "optax", "numpy", "scipy"
FLAGS = "XLA_FLAGS", "JAX_PLATFORMS", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"


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
        **environment(),
    }


class Store(NamedTuple):
    """A folder that is open for a race.

    Attributes:
        folder: where it is.
        header: of the race.
        lines: of `runs.jsonl` so far.
        lock: held while lines are written.
    """

    folder: Path
    header: dict[str, Any]
    lines: list[dict[str, Any]]
    lock: threading.Lock

    def find(self, rule: str, kind: str, stage: str | None = None) -> list[dict[str, Any]]:
        """The lines of one kind about a rule, in order; those of runs by stage, trial or seed."""
        found = (line for line in self.lines if line["rule"] == rule and line["kind"] == kind)
        return [line for line in found if stage in (None, line.get("stage"))]

    def append(self, *lines: Mapping[str, Any], curves: Mapping[str, np.ndarray] | None = None):
        """Writes lines down, all of them or none that counts; their curves first.

        Args:
            *lines: trees of plain values.
            curves: arrays, to be found under the name in the lines' `curves`.
        """
        if curves is not None:
            packed = io.BytesIO()
            np.savez(packed, allow_pickle=False, **curves)
            _write(self.folder / "curves" / lines[0]["curves"], packed.getvalue())
        text = "".join(json.dumps(plain(line), allow_nan=False) + "\n" for line in lines)
        with self.lock:
            with open(self.folder / "runs.jsonl", "ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            self.lines.extend(json.loads(line) for line in text.splitlines())


@contextlib.contextmanager
def opened(folder: str | Path, problem: Problem, protocol: Protocol) -> Generator[Store]:
    """Opens the folder of a race, to begin it or to go on with it.

    Args:
        folder: made where it is missing.
        problem: what is raced.
        protocol: by which terms.

    Yields:
        The store.

    Raises:
        ValueError: if the folder holds another race, or the same by another version.
        BlockingIOError: if another race is writing to it.
    """
    folder = Path(folder)
    (folder / "curves").mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        if not locked(lock):
            raise BlockingIOError(
                f"race: expected a folder of its own, got {folder}, to which another race is "
                "writing; try another folder, or wait"
            )
        wanted, path = (
            json.loads(json.dumps(plain(header(problem, protocol)))),
            folder / "race.json",
        )
        if not path.exists():
            if (folder / "runs.jsonl").exists():
                raise ValueError(
                    f"race: expected {folder} to be new or to hold race.json; try another folder"
                )
            _write(path, json.dumps(wanted, indent=1).encode() + b"\n")
        found = json.loads(path.read_text())
        if found != wanted:
            other = [key for key in wanted if found.get(key) != wanted[key]]
            raise ValueError(
                f"race: expected {folder} to hold this very race, got another one: its "
                f"{', '.join(other)} differ, {found.get(other[0])} in place of {wanted[other[0]]}; "
                "try another folder"
            )
        lines = _whole_lines(folder / "runs.jsonl", mend=True)
        yield Store(folder, found, lines, threading.Lock())


def read(folder: str | Path) -> Race:
    """All that a race found, from its folder alone.

    Args:
        folder: of the race, which may still be going on.

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
    found = json.loads((folder / "race.json").read_text())
    store = Store(folder, found, _whole_lines(folder / "runs.jsonl"), threading.Lock())
    results, caveats = [], []
    for rule in dict.fromkeys(line["rule"] for line in store.lines):
        left_out = store.find(rule, "left_out")
        caveats += [f"{rule} was left out: {line['why']}" for line in left_out]
        if store.find(rule, "seconds"):
            results.append(_result(store, rule))
        elif not left_out:
            caveats.append(f"{rule} is not done yet.")
    return Race(found, results, caveats + _caveats(results))


def _result(store: Store, rule: str) -> Result:
    (plan,), (choice,), (seconds,) = (
        store.find(rule, kind) for kind in ("plan", "choice", "seconds")
    )
    trials, runs = store.find(rule, "run", "trial"), store.find(rule, "run", "seed")
    per_step = float(np.median(seconds["seconds"])) / choice["steps"]
    seen = {name: [] for name in ("steps", "train", "validation", "flops", "model")}
    for name in dict.fromkeys(run["curves"] for run in runs):
        with np.load(store.folder / "curves" / name, allow_pickle=False) as curves:
            for key, rows in seen.items():
                rows.append(curves[key])
    curves = {key: np.concatenate(rows).astype(float) for key, rows in seen.items()}
    lost = np.array([run["stopped"] == "non_finite" for run in runs])
    # A diverged run keeps what it had before the round in which it was lost.
    gone = lost[:, None] & (curves["steps"] == curves["steps"][:, -1:])
    given_up = sum(run["stopped"] == "given_up" for run in trials)
    final = [_loss(run) for run in trials] or [_loss(run) for run in runs[:1]]
    return Result(
        problem=store.header["problem"],
        rule=rule,
        settings=plan["settings"],
        chosen=choice["trial"],
        tuning=np.array(final)[:, None],
        given_up=given_up,
        seeds=[run["seed"] for run in runs],
        costs={
            "steps": curves["steps"],
            "examples": curves["steps"] * plan["batch"],
            "gradients": curves["model"] / plan["gradient_flops"],
            "flops": curves["flops"],
            "seconds": curves["steps"] * per_step,
        },
        train=np.where(gone, np.inf, curves["train"]),
        validation=np.where(gone, np.inf, curves["validation"]),
        test=np.array([np.nan if run["test"] is None else run["test"] for run in runs]),
        stopped=[run["stopped"] for run in runs],
        batch=plan["batch"],
        compile_seconds=seconds["compile_seconds"],
        run_seconds=np.array(seconds["seconds"]),
    )


def _loss(run: Mapping[str, Any]) -> float:
    """What a run is judged by: infinity where it diverged or was given up."""
    loss = run["validation"]
    return math.inf if loss is None or run["stopped"] in ("non_finite", "given_up") else loss


def chosen(trials: Sequence[Mapping[str, Any]]) -> int:
    """The place of the trial with the lowest validation loss; 0 where there is none."""
    return int(np.argmin([_loss(run) for run in trials])) if trials else 0


def _caveats(results: Sequence[Result]) -> list[str]:
    said = []
    for r in results:
        lost = sum(stop == "non_finite" for stop in r.stopped)
        if lost:
            said.append(f"{r.rule} diverged from {lost} of {len(r.seeds)} seeds.")
        if r.given_up:
            trials = f"{r.given_up} of {len(r.tuning)} trials"
            said.append(f"{trials} of {r.rule} were given up: no better than at their start.")
        if len(r.settings) > 1 and not np.isfinite(r.tuning).any():
            said.append(f"No trial of {r.rule} came through; its first setting was taken.")
    return said


# Files --------------------------------------------------------------------------------------------


def _write(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    with open(half, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def _whole_lines(path: Path, *, mend: bool = False) -> list[dict[str, Any]]:
    """The lines up to the first torn one, from which on the file is cut off where it is mended."""
    if not path.exists():
        return []
    content, lines, end = path.read_bytes(), [], 0
    for line in content.splitlines(keepends=True):
        try:
            if not line.endswith(b"\n"):
                break
            lines.append(json.loads(line))
        except ValueError:
            break
        end += len(line)
    if mend and end < len(content):
        with open(path, "r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())
    return lines


def plain(tree: Any) -> Any:
    """A tree as JSON has it, which knows no NaN and no infinity: they become null.

    Args:
        tree: of mappings, sequences and numbers.

    Returns:
        A tree of Python's own values.

    Example:
        >>> plain({"a": np.float32(np.inf), "b": (np.int32(3),)})
        {'a': None, 'b': [3]}
    """
    if isinstance(tree, Mapping):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [plain(value) for value in tree]
    if isinstance(tree, np.generic):
        tree = tree.item()
    if isinstance(tree, Stop):
        return tree.name.lower()
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
