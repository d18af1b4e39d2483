"""A race on a cluster of Ray: the same store, whoever dies on the way."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import ray
from typer.testing import CliRunner

from fnn import problems, race
from fnn.cli import app
from fnn.problems import Budget
from fnn.race import lanes, remote, store
from fnn.race.entrants import ENTRANTS, Entrant

# Ray forks, to become another program at once.
pytestmark = [
    pytest.mark.gate,
    pytest.mark.filterwarnings(  # all of them Ray's own, the last three of old ones
        r"ignore:os\.fork\(\) was called:RuntimeWarning",
        "ignore:Tip. In future versions of Ray:FutureWarning",
        "ignore:unclosed file:ResourceWarning",
        "ignore:subprocess .* is still running:ResourceWarning",
    ),
]

TERMS = {"seeds": 2, "trials": 2, "budget": Budget(30, "steps")}


def bad(problem):
    del problem
    raise TypeError("no such rule")


def racing(mark):
    """Two rules and one that cannot be compiled; given a mark, one kills its first worker."""

    def fragile(problem, learning_rate):
        if mark is not None and not os.path.exists(mark):
            with open(mark, "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return ENTRANTS["adam"].make(problem, learning_rate=learning_rate)

    def either(problem, way):
        return ENTRANTS[way].make(problem, learning_rate=0.1)

    ways = Entrant("either", either, {"way": race.OneOf(("sgd", "momentum"))})
    return [Entrant("bad", bad), ENTRANTS["adam"]._replace(make=fragile), ways]


def content(folder):
    """Lines by rule and curves, seconds aside."""
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    rules = {}
    for line in lines:
        for name in ("seconds", "compile_seconds", "spread", "waited"):
            line.pop(name, None)
        rules.setdefault(line["rule"], []).append(line)
    curves = {p.name: p.read_bytes() for p in sorted((folder / "curves").iterdir())}
    return list(rules.items()), (folder / "race.json").read_text(), curves


@pytest.fixture(scope="module")
def cluster():
    """A worker for each core of this machine; a race in this process takes it for its own."""
    with remote.connected("local"):
        yield
    assert not ray.is_initialized()


def test_a_worker_is_killed_and_the_store_is_the_same(cluster, tmp_path):
    """The first worker that compiles a rule dies of it, and its task is run again."""
    del cluster
    mark = tmp_path / "killed"
    race.run("xor", racing(None), folder=tmp_path / "here", **TERMS)
    seen = []
    found = race.run(
        "xor",
        racing(str(mark)),
        folder=tmp_path / "there",
        cluster="local",
        watch=lambda what, share: seen.append((what, share)),
        **TERMS,
    )
    assert int(mark.read_text()) != os.getpid()
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert [result.rule for result in found.results] == ["adam", "either"]
    assert all(result.compile_seconds > 0 for result in found.results)
    assert all(len(result.run_seconds) == 2 for result in found.results)
    assert "bad was left out: TypeError: no such rule" in found.caveats
    assert seen[-1] == ("done", 1.0)
    # Done is done, on a cluster as without.
    before = (tmp_path / "there" / "runs.jsonl").read_bytes()
    race.run("xor", racing(None), folder=tmp_path / "there", **TERMS)
    assert (tmp_path / "there" / "runs.jsonl").read_bytes() == before


def test_tasks_are_run_again_and_not_for_ever(cluster, tmp_path):
    del cluster
    mark = str(tmp_path / "mark")

    # By value: a worker that does not import this module starts in no time.
    def once(_):
        if not os.path.exists(mark):
            with open(mark, "w"):
                os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    def always(_):
        os.kill(os.getpid(), signal.SIGKILL)

    with remote.connected("local") as connected:
        assert connected.wait(connected.task(once, connected.turn)) == "alive"
        lost = connected.task(always, {**connected.turn, "max_retries": 0})
        with pytest.raises(RuntimeError, match="a task of the cluster to end, got WorkerCrashed"):
            connected.wait(lost)
        with pytest.raises(ZeroDivisionError):
            connected.together([lambda: 1 / 0, lambda: connected.wait(None)])
    assert ray.is_initialized()


def test_lanes_run_in_turns_on_whoever_is_free(cluster):
    """What is joined from turns of several workers is what one program says."""
    del cluster
    problem, sgd = problems.get("xor"), ENTRANTS["sgd"]
    given, seeds = [{"learning_rate": 0.01}] * 3, [0, 1, 2]
    budget = Budget(5, "steps")
    environment = store.environment()
    with remote.connected("local") as connected:
        spread = connected.programs(problem, environment, sgd, given[0], 1).run(
            given, seeds, budget
        )
        with pytest.raises(RuntimeError, match="machines like this one, got another device: cpu"):
            connected.programs(problem, environment | {"device": "another"}, sgd, given[0], 1)
    turn = lanes.compiled_lanes(problem, sgd, given[0], 1).turn
    alone = [turn([setting], [seed], budget) for setting, seed in zip(given, seeds, strict=True)]
    for one, two in zip(spread, lanes.joined(alone, 3), strict=True):
        np.testing.assert_array_equal(one, two)


def test_without_ray_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"cluster=.*expected ray.*pip install 'fnn\[cluster\]'"):
        race.run("xor", ["adam"], folder=tmp_path / "new", cluster="local", **TERMS)
    done = CliRunner().invoke(app, ["race", "xor", "--folder", str(tmp_path), "--cluster", "local"])
    assert done.exit_code == 2
    assert "expected ray" in done.output
