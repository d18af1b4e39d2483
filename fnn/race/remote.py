"""A race across machines: what it computes are tasks on Ray, what it finds is written here.

Rules run beside each other, and so do the chunks of their lanes:

    a chunk        as many lanes as the rule's program has; one core, and a GPU where there are any
    a measurement  of seconds; every core of the largest machine, so that it has it for itself

A worker compiles what it is first asked for, and keeps it. A task whose worker dies is run again,
up to `RETRIES` times, and no other one is. Workers never see the store. They need this package, in
the same version, and machines like the one that this process runs on.
"""

import concurrent.futures
import contextlib
import os
import threading
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fnn import requirements
from fnn.problems import Problem
from fnn.race import lanes, store
from fnn.race.alone import Alone, alone
from fnn.race.compiling import Setting
from fnn.race.entrants import Entrant

RETRIES = 3
_ALIKE = "versions", "python", "machine", "platform", "device", "float64", "code"


class Cluster(NamedTuple):
    """A Ray cluster that this process is connected to.

    Attributes:
        ray: the module.
        race: a name that no other race has, by which workers keep what they compiled.
        chunk: the options of a chunk's task.
        whole: those of a measurement.
        stopping: set when nobody waits for tasks any more.
    """

    ray: Any
    race: str
    chunk: dict[str, Any]
    whole: dict[str, Any]
    stopping: threading.Event

    def programs(
        self,
        problem: Problem,
        header: Mapping[str, Any],
        one: Entrant,
        setting: Setting,
        most: int,
    ) -> lanes.Programs:
        """A rule on a problem, compiled wherever it is to run.

        Args:
            problem: what is trained.
            header: of the race.
            one: the rule.
            setting: as in `lanes.programs`.
            most: as many lanes as will be asked for at once.

        Returns:
            Its programs. (What cannot be compiled raises what it would raise here.)

        Raises:
            RuntimeError: if a worker's machine or packages are not those of this process.
        """
        job = self.ray.put((problem, one, dict(setting), most))
        failure, width, found = self.wait(self.task(_width, self.chunk, job))
        if failure:
            name, words = failure
            raise type(name, (ValueError,), {})(words)
        other = [key for key in _ALIKE if found[key] != header[key]]
        if other:
            raise RuntimeError(
                f"race: expected a cluster of machines like this one, got another "
                f"{', '.join(other)}: {found[other[0]]} in place of {header[other[0]]}; try to "
                "start the race on one of them"
            )

        def run(
            settings: Sequence[Setting],
            seeds: Sequence[int],
            ends: np.ndarray,
            hopeless: bool,
        ) -> lanes.Seen:
            turns = lanes.turns(settings, seeds, width)
            asked = [self.task(_chunk, self.chunk, job, *turn, ends, hopeless) for turn in turns]
            return lanes.joined([self.wait(task) for task in asked], len(seeds))

        def measure(setting: Setting, seeds: Sequence[int], steps: int) -> Alone:
            return self.wait(self.task(_alone, self.whole, job, setting, seeds, steps))

        return lanes.Programs(run, measure)

    def task(self, function: Callable[..., Any], options: Mapping[str, Any], *args: Any) -> Any:
        """Asks for what a function of the race's name and the arguments returns."""
        return self.ray.remote(function).options(**options).remote(self.race, *args)

    def wait(self, task: Any) -> Any:
        """Waits for a result.

        Args:
            task: from `task`.

        Returns:
            The result.

        Raises:
            RuntimeError: if the task was lost with its workers, or nobody waits any more.
        """
        errors = self.ray.exceptions
        while not self.stopping.is_set():
            if self.ray.wait([task], timeout=1.0)[0]:
                try:
                    return self.ray.get(task)
                except errors.RayTaskError as error:
                    raise error.cause from error
                except errors.RayError as error:
                    raise RuntimeError(
                        f"race: expected a task of the cluster to end, got {type(error).__name__} "
                        f"{RETRIES + 1} times; what was finished is kept, and the same race goes on"
                    ) from error
        raise RuntimeError("race: expected to wait for the cluster, got stopped")

    def together(self, works: Sequence[Callable[[], Any]]) -> None:
        """Does works beside each other; at the first that fails, none is waited for any more.

        Args:
            works: what waits for tasks.
        """
        with concurrent.futures.ThreadPoolExecutor(max(1, len(works))) as pool:
            try:
                for done in concurrent.futures.as_completed([pool.submit(work) for work in works]):
                    done.result()
            except BaseException:
                self.stopping.set()
                raise


@contextlib.contextmanager
def connected(address: str) -> Generator[Cluster]:
    """Connects to a cluster, or to the one that this process is connected to already.

    Args:
        address: where it is, as `ray.init` takes it; "local" starts one of this machine's cores.

    Yields:
        The cluster.
    """
    ray = requirements.load("race.run(cluster=)", "ray")
    mine = not ray.is_initialized()
    if mine:
        options = {"include_dashboard": False} if address == "local" else {}
        with warnings.catch_warnings():  # what is forked becomes another program at once
            warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
            ray.init(address, log_to_driver=False, logging_level="error", **options)
    try:
        flags = {name: os.environ[name] for name in store.FLAGS if name in os.environ}
        double = "1" if jax.config.read("jax_enable_x64") else "0"
        options = {
            "max_retries": RETRIES,
            "num_gpus": 1 if jax.default_backend() == "gpu" else 0,
            "runtime_env": {"env_vars": flags | {"JAX_ENABLE_X64": double}},
        }
        cores = max(node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"])
        yield Cluster(
            ray,
            uuid.uuid4().hex,
            options | {"num_cpus": 1},
            options | {"num_cpus": cores},
            threading.Event(),
        )
    finally:
        if mine:
            ray.shutdown()


# On the workers -----------------------------------------------------------------------------------


_Job = tuple[Problem, Entrant, Setting, int]
_KEPT: dict[tuple[str, str, str], Any] = {}
"""What this worker has compiled, by race, rule and kind; of the last race alone."""


def _kept(race: str, job: _Job, kind: str) -> Any:
    problem, one, setting, most = job
    key = race, one.name, kind
    if key not in _KEPT:
        for other in [k for k in _KEPT if k[0] != race]:
            del _KEPT[other]
        if kind == "many":
            _KEPT[key] = lanes.compiled_lanes(problem, one, setting, most)
        else:
            _KEPT[key] = alone(problem, one, setting)
    return _KEPT[key]


def _width(race: str, job: _Job) -> tuple[tuple[str, str] | None, int, dict[str, Any]]:
    """Why it cannot be compiled, if it cannot; the number of lanes; the machine."""
    failure, width = None, 0
    try:
        width = _kept(race, job, "many").width
    except (TypeError, ValueError, NotImplementedError) as error:
        failure = type(error).__name__, str(error)
    return failure, width, store.environment()


def _chunk(
    race: str,
    job: _Job,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    ends: np.ndarray,
    hopeless: bool,
) -> lanes.Seen:
    return _kept(race, job, "many").chunk(settings, seeds, ends, hopeless)


def _alone(race: str, job: _Job, setting: Setting, seeds: Sequence[int], steps: int) -> Alone:
    return _kept(race, job, "alone")(setting, seeds, steps)
