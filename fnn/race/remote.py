"""A race across machines: tasks on Ray compute it, and this process writes it down.

Rules run beside each other, and so do the turns of their lanes:

    a turn         has the lanes of the rule's program; it takes a core, and a GPU if there is one
    a measurement  of seconds takes every core of the largest machine, so that it runs there alone

A worker compiles a program when it is first asked for it, and keeps it. Ray runs a task again if
its worker dies, up to `RETRIES` times. Workers never see the store. They need this package in the
same version, and machines like the one that this process runs on.
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

from fnn import requirements
from fnn.problems import Budget, Problem
from fnn.race import identity, lanes, store
from fnn.race.alone import Timing, alone
from fnn.race.compiling import Setting
from fnn.race.entrants import Entrant
from fnn.race.failures import blaming_the_rule

RETRIES = 3
"""Ray's own default: a machine that is taken away is survived, a task that kills workers is not."""
_ALIKE = "versions", "python", "machine", "platform", "device", "float64", "code"
"""What numbers depend on, and so must be the same on all machines of a race."""


class Cluster(NamedTuple):
    """A Ray cluster that this process is connected to.

    Attributes:
        ray: the module.
        race: a name that no other race has, under which workers keep their programs.
        turn: the options of a turn's task.
        whole: the options of a measurement's task.
        stopping: is set when nobody waits for tasks any more.
    """

    ray: Any
    race: str
    turn: dict[str, Any]
    whole: dict[str, Any]
    stopping: threading.Event

    def identity(self, problem: Problem, entrant: Entrant, setting: Setting) -> dict[str, str]:
        """`identity.of_entrant` on a worker: a rule's own code never runs in this process."""
        return self.wait(self.task(_identity, self.turn, problem, entrant, dict(setting)))

    def programs(
        self,
        problem: Problem,
        header: Mapping[str, Any],
        entrant: Entrant,
        setting: Setting,
        most: int,
    ) -> lanes.Programs:
        """`lanes.programs` on the cluster's machines, which must be like the one of the header."""
        job = self.ray.put((problem, entrant, dict(setting), most))
        width, machine = self.wait(self.task(_width, self.turn, job))
        other = [key for key in _ALIKE if machine[key] != header[key]]
        if other:
            raise RuntimeError(
                f"race: expected a cluster of machines like this one, got another "
                f"{', '.join(other)}: {machine[other[0]]} in place of {header[other[0]]}; try to "
                "start the race on one of them"
            )

        def run(settings: Sequence[Setting], seeds: Sequence[int], budget: Budget) -> lanes.Outcome:
            shares = lanes.turns(settings, seeds, width)
            tasks = [self.task(_turn, self.turn, job, *share, budget) for share in shares]
            return lanes.joined([self.wait(task) for task in tasks], len(seeds))

        def measure(setting: Setting, seeds: Sequence[int], steps: Sequence[int]) -> Timing:
            return self.wait(self.task(_alone, self.whole, job, setting, seeds, steps))

        return lanes.Programs(run, measure)

    def task(self, function: Callable[..., Any], options: Mapping[str, Any], *args: Any) -> Any:
        """Starts a task: the function of the race's name and the arguments, on some worker."""
        return self.ray.remote(function).options(**options).remote(self.race, *args)

    def wait(self, task: Any) -> Any:
        """The result of a task; a RuntimeError if it was lost, or if nobody waits any more."""
        errors = self.ray.exceptions
        while not self.stopping.is_set():
            if self.ray.wait([task], timeout=1.0)[0]:
                try:
                    return self.ray.get(task)
                except errors.RayTaskError as error:  # above all that the rule has failed
                    raise error.cause from error
                except errors.RayError as error:
                    raise RuntimeError(
                        f"race: expected a task of the cluster to end, got {type(error).__name__} "
                        f"{RETRIES + 1} times; what was finished is kept, and the same race goes on"
                    ) from error
        raise RuntimeError("race: expected to wait for the cluster, got stopped")

    def together(self, works: Sequence[Callable[[], Any]]) -> None:
        """Does works beside each other; when one fails, the others stop waiting for their tasks."""
        with concurrent.futures.ThreadPoolExecutor(max(1, len(works))) as pool:
            try:
                futures = [pool.submit(work) for work in works]
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                self.stopping.set()
                raise


@contextlib.contextmanager
def connected(address: str) -> Generator[Cluster]:
    """The cluster of this process, or the one at an address; "local" starts one of its cores."""
    ray = requirements.load("race.run(cluster=)", "ray")
    mine = not ray.is_initialized()
    if mine:
        options = {"include_dashboard": False} if address == "local" else {}
        with warnings.catch_warnings():  # Ray's forks become another program at once.
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
_PROGRAMS: dict[tuple[str, str, str], Any] = {}
"""The programs of this worker by race, rule and kind, for the last race only."""


def _program(race: str, job: _Job, kind: str) -> Any:
    """A program of this worker, compiled when it is first asked for."""
    problem, entrant, setting, most = job
    key = race, entrant.name, kind
    if key not in _PROGRAMS:
        for other in [k for k in _PROGRAMS if k[0] != race]:
            del _PROGRAMS[other]
        if kind == "many":
            _PROGRAMS[key] = lanes.compiled_lanes(problem, entrant, setting, most)
        else:
            _PROGRAMS[key] = alone(problem, entrant, setting)
    return _PROGRAMS[key]


@blaming_the_rule()
def _identity(race: str, problem: Problem, entrant: Entrant, setting: Setting) -> dict[str, str]:
    """What a rule is entered with."""
    del race
    return identity.of_entrant(problem, entrant, setting)


def _width(race: str, job: _Job) -> tuple[int, dict[str, Any]]:
    """The number of lanes of a rule's program, and the machine that compiled it."""
    with blaming_the_rule():
        width = _program(race, job, "many").width
    return width, store.environment()


@blaming_the_rule()
def _turn(
    race: str,
    job: _Job,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    budget: Budget,
) -> lanes.Outcome:
    """The outcome of as many lanes as the program has."""
    return _program(race, job, "many").turn(settings, seeds, budget)


@blaming_the_rule()
def _alone(
    race: str, job: _Job, setting: Setting, seeds: Sequence[int], steps: Sequence[int]
) -> Timing:
    """The seconds of runs alone."""
    return _program(race, job, "alone")(setting, seeds, steps)
