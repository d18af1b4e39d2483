"""A race on a cluster of Ray: the same store, whoever dies on the way."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import ray

from fnn import problems, race
from fnn.problems import Budget
from fnn.race import lanes, remote, store
from fnn.race.entrants import ENTRANTS, Entrant

TERMS = {"seeds": 3, "trials": 3, "budget": Budget(30, "steps")}


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

    return [Entrant("bad", bad), ENTRANTS["adam"]._replace(make=fragile), "lbfgs"]


def content(folder):
    """Lines by rule and curves, seconds aside."""
    lines = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    rules = {}
    for line in lines:
        line.pop("seconds", None), line.pop("compile_seconds", None)
        rules.setdefault(line["rule"], []).append(line)
    curves = {p.name: p.read_bytes() for p in sorted((folder / "curves").iterdir())}
    return list(rules.items()), (folder / "race.json").read_text(), curves


@pytest.fixture(scope="module")
def cluster():
    """Two workers on this machine."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


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
    assert [result.rule for result in found.results] == ["adam", "lbfgs"]
    assert all(result.compile_seconds > 0 for result in found.results)
    assert all(len(result.run_seconds) == 3 for result in found.results)
    assert "bad was left out: TypeError: no such rule" in found.caveats
    assert seen[-1] == ("done", 1.0)
    # Done is done, on a cluster as without.
    before = (tmp_path / "there" / "runs.jsonl").read_bytes()
    race.run("xor", racing(None), folder=tmp_path / "there", **TERMS)
    assert (tmp_path / "there" / "runs.jsonl").read_bytes() == before


def die(race_name, mark):
    """Dies where there is no mark, and leaves one."""
    del race_name
    if not os.path.exists(mark):
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def always(race_name):
    """Dies."""
    del race_name
    os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_are_run_again_and_not_for_ever(cluster, tmp_path):
    del cluster
    with remote.connected("local") as connected:
        assert (
            connected.wait(connected.task(die, connected.chunk, str(tmp_path / "mark"))) == "alive"
        )
        lost = {**connected.chunk, "max_retries": 0}
        with pytest.raises(RuntimeError, match="a task of the cluster to end, got WorkerCrashed"):
            connected.wait(connected.task(always, lost))
        with pytest.raises(ZeroDivisionError):
            connected.together([lambda: 1 / 0, lambda: connected.wait(None)])
    assert ray.is_initialized()


def test_lanes_run_in_turns_on_whoever_is_free(cluster):
    """What is joined from chunks of several workers is what one program says."""
    del cluster
    problem, adam = problems.get("xor"), ENTRANTS["adam"]
    given, seeds, ends = [{"learning_rate": 0.01}] * 5, [0, 1, 2, 3, 4], np.array([1, 5])
    with remote.connected("local") as connected:
        made = connected.programs(problem, store.plain(store.environment()), adam, 2)
        spread = made.run(given, seeds, ends, False)
        other = store.plain(store.environment()) | {"device": "another"}
        with pytest.raises(RuntimeError, match="machines like this one, got another device: cpu in"):
            connected.programs(problem, other, adam, 2)
    for one, two in zip(
        lanes.programs(problem, adam, 2).run(given, seeds, ends, False), spread, strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_without_ray_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        ValueError, match=r"expected Ray for cluster=.*pip install 'fnn\[cluster\]'"
    ):
        race.run("xor", ["adam"], folder=tmp_path, cluster="local", **TERMS)
