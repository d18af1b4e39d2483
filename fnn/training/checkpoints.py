"""Checkpoints of `fit`: enough on disk to go on as though nothing had happened.

A run has a folder of its own:

    job.json     what is trained, see `identity`
    lock         held by the process that trains; the system opens it when that ends, in any way
    1, 2, ...    checkpoints, the newest last, each written beside its place and then renamed

A checkpoint holds the carry of the loop, the history so far, where the batches were, and sums by
which damage is noticed. Orbax writes it in the background while training goes on; nothing in it is
ever unpickled. The history is saved whole: a million steps are 4 to 8 MB, for which training waits
some 20 ms (measured on two busy cores), ten million steps a quarter of a second.

Orbax's `CheckpointManager` could number, write and delete them, but one file of metrics that is cut
stops it from opening the folder, where damage here gives way to the checkpoint before; the best of
an earlier process is known to it by these files alone; and on a full disk it forgets checkpoints
that it failed to delete (tried with 0.12.8).

What is random in the loop follows from the key and the number of the step, so that a run that goes
on from a checkpoint ends with the bits of one that was never disturbed.
"""

import concurrent.futures
import contextlib
import json
import time
import warnings
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from fnn import requirements
from fnn.training.folder import agreed, delete, numbers_in, opened
from fnn.training.history import History
from fnn.training.identity import identity_of
from fnn.training.job import Job
from fnn.training.leaves import leaves_by_path, plain
from fnn.training.loop import Progress
from fnn.training.snapshot import Position, Snapshot
from fnn.training.sums import sums_of


class Checkpoints(NamedTuple):
    """Where a training is kept, how often, and how many of its checkpoints.

    Training waits while the carry is copied, 30 ms for a network of a million parameters with Adam
    and a quarter of a second for ten million (measured on two busy cores); with a minute in
    between that is less than 1 %. One more is made at the end, whatever the reason. The one of the
    lowest validation loss is kept besides the last. On a full disk training goes on, with a
    warning, and what was written before stays.

    Attributes:
        folder: new, empty, or of the same job.
        seconds: between two checkpoints, at least; 0 for one whenever `fit` looks.
        keep: how many of the last ones stay, at least 1.
    """

    folder: str | Path
    seconds: float = 60.0
    keep: int = 3


class _Mark(NamedTuple):
    """What tells a snapshot from the others of its run; a snapshot itself would hold memory."""

    steps: int
    rounds: int


def _mark(snapshot: Snapshot) -> _Mark:
    """The mark of a snapshot."""
    return _Mark(snapshot.steps, len(snapshot.history.steps))


@contextlib.contextmanager
def checkpointed(
    checkpoint: str | Path | Checkpoints | None, job: Job
) -> Generator[tuple[Snapshot, Callable[[Snapshot], None]]]:
    """Where a run goes on, and what saves its snapshots in a folder, if there is one."""
    if checkpoint is None:
        yield job.begin, lambda _: None
        return
    options = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    if options.keep < 1 or not options.seconds >= 0:
        raise ValueError(f"fit: expected Checkpoints of keep >= 1 and seconds >= 0, got {options}")
    _orbax()
    folder = Path(options.folder).absolute()
    with opened(folder, identity_of(job)):
        writer = _Writer(folder, options)
        try:
            yield writer.newest(job.begin), writer.offer
        except BaseException as error:
            writer.close(save=jax.process_count() == 1)  # the other processes may be gone
            if writer.saved is not None:
                error.add_note(
                    f"fit: the {writer.saved.steps} steps before that are kept in "
                    f"{folder}; the same call goes on from there"
                )
            raise
        writer.close()


class _Writer:
    """Saves what it is offered when it is time, in the background and one at a time."""

    def __init__(self, folder: Path, options: Checkpoints) -> None:
        self.folder, self.options = folder, options
        self.checkpointer = _orbax().StandardCheckpointer()
        self.waiting = concurrent.futures.ThreadPoolExecutor(1)
        self.writing: tuple[concurrent.futures.Future[None], _Mark] | None = None
        self.offered: Snapshot | None = None
        self.saved: _Mark | None = None
        self.number = max(numbers_in(folder), default=0)
        self.losses: dict[int, float] = {}
        self.clock = time.monotonic()
        delete(self.folder)

    def newest(self, begin: Snapshot) -> Snapshot:
        """The newest checkpoint that is whole, or the beginning where there is none at all."""
        damaged, snapshot = [], None
        for number in reversed(numbers_in(self.folder)):
            try:
                about = self._about(number)
                if snapshot is None:
                    snapshot = self._read(number, about, begin)
                self._rank(number, about["loss"])
            except Exception as error:
                if snapshot is None:
                    damaged.append(f"{number} ({_brief(error)})")
        message = (
            f"fit: expected whole checkpoints in {self.folder}, got damaged: {', '.join(damaged)}"
        )
        if damaged and snapshot is None:
            raise ValueError(f"{message}, and none that is whole; try a new folder")
        if snapshot is None:
            return begin
        self.saved = _mark(snapshot)
        if damaged:
            message += f"; going on from the one after {self.saved.steps} steps"
            warnings.warn(message, stacklevel=5)
        return snapshot

    def offer(self, snapshot: Snapshot) -> None:
        """Saves a snapshot if it is time and the last one is written."""
        self.offered = snapshot
        if self.writing is not None and self.writing[0].done():
            self._finish()
        due = self.writing is None and time.monotonic() - self.clock >= self.options.seconds
        if agreed(due):
            self._save(snapshot)

    def close(self, *, save: bool = True) -> None:
        """Saves the last snapshot, if it is not, and waits until it is written."""
        self._finish()
        if save and self.offered is not None and _mark(self.offered) != self.saved:
            self._save(self.offered)
            self._finish()
        self.waiting.shutdown()
        self.checkpointer.close()

    def _save(self, snapshot: Snapshot) -> None:
        """Copies a snapshot and begins to write it."""
        self._finish()
        self.number += 1
        progress = leaves_by_path(snapshot.progress._asdict())
        weak = [name for name, leaf in progress.items() if jax.typeof(leaf).weak_type]
        progress = {name: plain(leaf) for name, leaf in progress.items()}
        history, loss = _columns(snapshot.history), _loss(snapshot)
        about = {
            "position": snapshot.position._asdict(),
            "fraction": snapshot.fraction,
            "loss": loss,
            "history": {name: [str(a.dtype), *a.shape] for name, a in history.items()},
            "validation": list(snapshot.history.validation),
            "weak": weak,
            "sums": sums_of(progress, history),
        }
        text = json.dumps(about, default=_spelled)
        arrays = {name: a for name, a in (progress | history).items() if a.size}  # for orbax
        try:
            self.checkpointer.save(
                self.folder / str(self.number),
                arrays,
                custom_metadata={"text": text, "sum": zlib.crc32(text.encode())},
            )
        except Exception as error:
            self._failed(error, _mark(snapshot))
        else:
            self._rank(self.number, loss)
            written = self.waiting.submit(self.checkpointer.wait_until_finished)
            self.writing = written, _mark(snapshot)
        self.clock = time.monotonic()

    def _rank(self, number: int, loss: float | None) -> None:
        if loss is not None:
            self.losses[number] = loss

    def _finish(self) -> None:
        """Waits until the last one is written, and deletes those that need not stay."""
        if self.writing is None:
            return
        (written, mark), self.writing = self.writing, None
        error = written.exception()
        if error is not None:
            self._failed(error, mark)
            return
        self.saved = mark
        numbers = numbers_in(self.folder)
        ranked = sorted(set(numbers) & set(self.losses), key=lambda n: self.losses[n])
        last = numbers[-self.options.keep :]
        delete(self.folder, set(numbers) - set(last) - set(ranked[:1]))

    def _failed(self, error: BaseException, mark: _Mark) -> None:
        """Says so, and goes on: the parameters in memory are worth more than those on disk."""
        with contextlib.suppress(Exception):
            self.checkpointer.close()
        self.checkpointer = _orbax().StandardCheckpointer()
        self.losses.pop(self.number, None)
        delete(self.folder)
        warnings.warn(
            f"fit: the checkpoint after {mark.steps} steps could not be written "
            f"to {self.folder} ({_brief(error)}); training goes on, and those "
            "written before stay. Try to make room",
            stacklevel=5,
        )

    def _about(self, number: int) -> dict[str, Any]:
        about = self.checkpointer.metadata(self.folder / str(number)).custom_metadata
        if about["sum"] != zlib.crc32(about["text"].encode()):
            raise ValueError("its description is not what was written")
        return json.loads(about["text"])

    def _read(self, number: int, about: dict[str, Any], begin: Snapshot) -> Snapshot:
        fresh = {
            name: jnp.asarray(a) for name, a in leaves_by_path(begin.progress._asdict()).items()
        }
        progress = {name: plain(leaf) for name, leaf in fresh.items()}
        kinds = about["history"].items()
        history = {name: np.zeros(shape, jnp.dtype(dtype)) for name, (dtype, *shape) in kinds}
        places = {name: _place(a) for name, a in (progress | history).items() if a.size}
        read = progress | history | self.checkpointer.restore(self.folder / str(number), places)
        sums = sums_of({n: jnp.asarray(read[n]) for n in progress}, {n: read[n] for n in history})
        wrong = [name for name, total in sums.items() if total != about["sums"][name]]
        if wrong:
            raise ValueError(f"{', '.join(wrong[:4])} are not what was written")
        leaves = [_as(leaf, read[name], name in about["weak"]) for name, leaf in fresh.items()]
        validation = {
            name: read[f"history['validation'][{name!r}]"] for name in about["validation"]
        }
        return Snapshot(
            Progress(**jax.tree.unflatten(jax.tree.structure(begin.progress._asdict()), leaves)),
            History(read["history['value']"], read["history['steps']"], validation),
            Position(**_unspelled(about["position"])),
            about["fraction"],
        )


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}".splitlines()[0]


def _loss(snapshot: Snapshot) -> float | None:
    """The validation loss of these very parameters, if it was looked at and is a number."""
    losses = snapshot.history.validation.get("loss")
    if losses is None or not snapshot.is_round_end:
        return None
    return float(losses[-1]) if np.isfinite(losses[-1]) else None


def _columns(history: History) -> dict[str, np.ndarray]:
    """The columns of a history, by names that no leaf of the progress has."""
    return leaves_by_path({"history": history._asdict()})


def _place(leaf: Any) -> Any:
    """Where a leaf is restored to: where the fresh one was put, on however many devices."""
    if isinstance(leaf, jax.Array) and leaf.committed:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.empty(leaf.shape, leaf.dtype)


def _as(leaf: Array, value: Any, weak: bool) -> Array:
    """A restored leaf in the type of the fresh one, a typed key or weakly typed."""
    if plain(leaf) is not leaf:
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    value = jnp.asarray(value)
    if weak and jax.typeof(leaf).weak_type:
        return jax.vmap(jax.lax.full_like)(leaf.ravel(), value.ravel()).reshape(leaf.shape)
    return value


def _spelled(value: Any) -> dict[str, str]:
    """Bytes in JSON."""
    if not isinstance(value, bytes):
        raise TypeError(
            "fit: expected an iterator whose get_state() gives bytes or plain values, got "
            f"{type(value).__name__} in it; try an iterator without get_state and set_state, which "
            "is gone through again"
        )
    return {"bytes": value.decode("latin-1")}


def _unspelled(position: dict[str, Any]) -> dict[str, Any]:
    state = position["state"]
    if isinstance(state, dict) and set(state) == {"bytes"}:
        position["state"] = state["bytes"].encode("latin-1")
    return position


def _orbax() -> Any:
    """Orbax's checkpointers, which are an extra."""
    return requirements.load("fit(checkpoint=)", "orbax.checkpoint")
