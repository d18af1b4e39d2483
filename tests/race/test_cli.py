"""The command line: thin, and every misuse is a sentence."""

import io
import json
import time

import jax
import pytest
from rich.console import Console
from typer.testing import CliRunner

from fnn import commands, problems, race
from fnn.cli import app
from fnn.race import runner
from tests.race import synthetic

CLI = CliRunner()
COMMANDS = "race", "suite", "report", "trajectories", "plot", "rules", "problems"
RACE = ["--rules", "sgd,momentum", "--seeds", "2", "--trials", "2", "--budget", "20 steps"]


LINE = """
import jax.numpy as jnp
from fnn import Objective, losses
from fnn.problems import Budget, Measure, Problem

x = jnp.linspace(-1, 1, 20)
data = x, 3 * x
fit = Objective(lambda w, x: w * x, losses.half_squared_error)
measure = Measure("loss", lambda w, data: fit.on(data)(w))
start, budget = lambda key: jnp.zeros(()), Budget(9, "steps")
problem = Problem(
    "line", "y = 3 x", "here", start, fit, data, data, data, measure, None, budget, 0.1
)
"""


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("race") / "xor"
    done = CLI.invoke(app, ["race", "xor", *RACE, "--folder", str(folder)])
    assert done.exit_code == 0, done.output
    return folder, done.output


def test_a_race_leaves_tables_figures_and_a_page(raced):
    folder, said = raced
    assert "sgd" in said
    assert "too few seeds to tell" in said
    assert "report.html" in said
    assert {"race.json", "runs.jsonl", "curves", "figures", "report.html"} <= {
        path.name for path in folder.iterdir()
    }
    suffixes = {path.suffix for path in (folder / "figures").iterdir()}
    assert {".png", ".svg", ".tex", ".md", ".csv"} <= suffixes


def test_progress_is_a_line_every_few_seconds_where_there_is_no_terminal(monkeypatch, capsys):
    monkeypatch.setattr(commands, "EVERY", 0.01)
    with commands._lines() as watch:
        watch("tuning adam", 0.4)
        time.sleep(0.2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) > 1
    assert said[-1].split() == ["0", "s", "40%", "tuning", "adam"]
    time.sleep(0.05)
    assert capsys.readouterr().err == ""


def test_everything_is_made_anew_from_the_store_alone(raced):
    folder, _ = raced
    page, figures = folder / "report.html", folder / "figures"
    names = {path.name for path in figures.iterdir()}
    before = page.read_text()
    page.unlink()
    for path in figures.iterdir():
        path.unlink()
    done = CLI.invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert {path.name for path in figures.iterdir()} == names
    assert page.read_text() == before


@pytest.mark.gate
def test_two_stores_are_compared(raced, tmp_path):
    folder, _ = raced
    other = tmp_path / "other"
    terms = [*RACE, "--trials", "0", "--folder", str(other)]
    assert CLI.invoke(app, ["race", "xor", *terms]).exit_code == 0
    done = CLI.invoke(app, ["report", str(folder), str(other)])
    assert done.exit_code == 0, done.output
    page = (folder / "comparison.html").read_text()
    assert "other" in page
    assert "rule by rule" in page


def test_a_problem_of_ones_own(tmp_path):
    (tmp_path / "line.py").write_text(LINE)
    command = ["race", str(tmp_path / "line.py"), "--rules", "sgd", "--seeds", "1"]
    done = CLI.invoke(app, [*command, "--trials", "1", "--folder", str(tmp_path / "race")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "race" / "race.json").read_text())["problem"] == "line"
    (tmp_path / "line.py").write_text("1 / 0\n")
    done = CLI.invoke(app, command)
    assert done.exit_code == 2
    assert "ZeroDivisionError" in done.output


RULES = """
import optax

def clipped(learning_rate):
    return optax.chain(optax.clip(1.0), optax.sgd(learning_rate))

def broken(learning_rate):
    raise RuntimeError("no such luck")

def wrong(learning_rate):
    return "no rule"
"""


def test_rules_of_ones_own_and_of_others(tmp_path, monkeypatch):
    """Those that raise are left out, and any of them can be the baseline."""
    monkeypatch.setattr(race.report, "export", lambda *_: [])  # other tests look at its files
    (tmp_path / "my_rules.py").write_text(RULES)
    folder, baseline = tmp_path / "race", ["--baseline", "optax.sgd"]
    racing = ["--rules", f"{tmp_path / 'my_rules.py'}, optax.sgd"]
    command = ["race", "xor", *RACE[2:], *racing, *baseline, "--folder", str(folder)]
    done = CLI.invoke(app, command)
    said = " ".join(done.output.split())
    assert done.exit_code == 0, said
    assert "broken was left out: RuntimeError: no such luck" in said
    assert "wrong was left out: TypeError: wrong: expected an optax transformation" in said
    assert "beside optax.sgd" in said
    again = CLI.invoke(app, ["report", str(folder), "--baseline", "clipped"])
    assert "beside clipped" in " ".join(again.output.split())
    done = CLI.invoke(app, [*command, "--baseline", "broken"])
    said = " ".join(done.output.replace("│", " ").split())
    assert done.exit_code == 2
    assert "got none, broken was left out of xor: RuntimeError: no such luck; the" in said
    for lost, why in (("broken", "(broken was left out: Runtime"), ("adam", "; try one of clip")):
        done = CLI.invoke(app, ["report", str(folder), "--baseline", lost])
        assert done.exit_code == 2
        said = " ".join(done.output.replace("│", " ").split())
        assert f"expected a baseline that is in the race, got '{lost}'" in said
        assert why in said


def test_a_suite_is_a_race_for_each_problem_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "SUITES", {"small": ("xor", "bowl")})
    command = ["suite", "small", "--rules", "sgd", "--seeds", "1", "--trials", "0"]
    done = CLI.invoke(app, [*command, "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "those of the first rule" in said
    assert "Over 2 problems sgd has the best score by gradients to the target, " in said
    assert "- bowl: 1 seed: fewer than 12 give no verdict." in said
    written = {"report.html", "suite-gradients.md", "suite-seconds.csv", "suite-profile.png"}
    assert written | {"xor", "bowl"} <= {path.name for path in tmp_path.iterdir()}
    records = [(tmp_path / name / "runs.jsonl").read_text() for name in ("xor", "bowl")]
    monkeypatch.setattr(runner, "_STAGES", dict.fromkeys(runner._STAGES))  # nothing is left to do
    assert CLI.invoke(app, [*command, "--folder", str(tmp_path)]).exit_code == 0
    again = [(tmp_path / name / "runs.jsonl").read_text() for name in ("xor", "bowl")]
    assert again == records
    monkeypatch.setattr(commands, "_show", lambda *_: None)  # what races of their own show
    assert CLI.invoke(app, ["report", *(str(tmp_path / n) for n in ("xor", "bowl"))]).exit_code == 0
    table = (tmp_path / "suite-gradients.md").read_text()
    assert (tmp_path / "xor" / "suite-gradients.md").read_text() == table


def test_a_suite_ends_with_a_page_whatever_happens_on_one_problem(tmp_path, monkeypatch):
    """The race of one problem fails, and the baseline was left out of another one."""
    held = {
        "xor": synthetic.race({"adam": 0.9, "kfac": 1.0}, name="xor"),
        "bowl": synthetic.race({"adam": 0.9}, name="bowl")._replace(
            caveats=["kfac was left out: it needs [/examples]."]
        ),
    }

    def run(problem, *_, **__):
        if problem.name not in held:
            raise RuntimeError("race: no [/luck] today")
        return held[problem.name]

    monkeypatch.setattr(race, "run", run)
    monkeypatch.setattr(problems, "SUITES", {"small": ("iris", "xor", "bowl")})
    command = ["suite", "small", "--rules", "adam,kfac", "--baseline", "kfac"]
    done = CLI.invoke(app, [*command, "--folder", str(tmp_path)])
    said = " ".join(done.output.split())
    assert done.exit_code == 0, said
    assert "There is no race of iris: race: no [/luck] today" in said
    assert "- bowl: kfac was left out: it needs [/examples]." in said
    assert "for kfac was left out of bowl: it needs [/examples]." in said
    assert "2 races of 2 problems" in (tmp_path / "report.html").read_text()
    held.clear()
    done = CLI.invoke(app, [*command, "--folder", str(tmp_path)])
    assert done.exit_code != 0


def test_a_bar_shows_words_in_brackets(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(commands, "console", Console(file=screen, force_terminal=True, width=80))
    with commands._bar() as watch:
        watch("tuning [/tmp]", 0.5)
    assert "tuning [/tmp]" in screen.getvalue()


def test_precision_is_an_option():
    before = jax.config.read("jax_enable_x64")
    try:
        jax.config.update("jax_enable_x64", False)
        assert CLI.invoke(app, ["race", "xor", "--float64", "--seeds", "0"]).exit_code == 2
        assert CLI.invoke(app, ["race", "nothing", "--float64"]).exit_code == 2
        assert jax.config.read("jax_enable_x64")
    finally:
        jax.config.update("jax_enable_x64", before)


def test_stopping_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(race, "run", interrupted)
    done = CLI.invoke(app, ["race", "xor", "--folder", str(tmp_path)])
    assert done.exit_code == 130
    assert f"--folder {tmp_path} goes on" in " ".join(done.output.split())


def test_trouble_with_files_is_a_sentence(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(race, "run", full)
    done = CLI.invoke(app, ["race", "xor", "--folder", str(tmp_path)])
    assert done.exit_code == 1
    assert "No space left on device. What was finished before is kept." in done.output


def test_a_network_is_trained_and_drawn(tmp_path):
    command = ["plot", "xor", "--rule", "momentum", "--steps", "30", "--out", str(tmp_path)]
    done = CLI.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "All steps asked for were taken." in done.output
    made = {path.stem.removeprefix("xor-"): path for path in tmp_path.iterdir()}
    assert set(made) == {"learning", "confusion", "regions", "slice", "surface", "spectrum"}
    for name, path in made.items():
        assert name in done.output
        assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["race", "digitz"], "did you mean 'digits'"),
        (["race", "xor", "--rules", "adm"], "did you mean 'adam'"),
        (["race", "xor", "--rules", "optax.adm"], "did you mean 'optax.adam'"),
        (["race", "xor", "--rules", "nowhere.py"], "that defines rules, got no file"),
        (
            ["race", "xor", "--baseline", "adm"],
            "a baseline by name, got 'adm'; did you mean 'adam'",
        ),
        (["race", "xor", "--seeds", "0"], "--seeds"),
        (["race", "xor", "--budget", "much"], "expected a budget with a unit such as '10 seconds'"),
        (["race", "xor", "--budget", "100"], "got '100'; try '100 steps' or '100 examples'"),
        (["race", "xor", "--budget", "seconds"], "got 'seconds'; try '10 steps'"),
        (["race", "xor", "--budget", "-3steps"], "a budget above 0 steps, got -3.0; try 10 steps"),
        (["race", "xor", "--budget", "3 hours"], "a budget in one of steps"),
        (["race"], "Missing argument"),
        (["rase"], "No such command"),
        (["suite", "smal"], "did you mean 'small'"),
        (["suite", "small", "--rules", "adm"], "did you mean 'adam'"),
        (["report"], "Missing argument"),
        (["report", "nowhere"], "to be the folder of a race"),
        (["trajectories", "sadle"], "did you mean 'saddle'"),
        (["plot", "moon"], "did you mean 'moons'"),
        (["plot", "xor", "--rule", "adm"], "did you mean 'adam'"),
        (["plot", "bowl", "--rule", "kfac"], "kfac needs examples in place of a value function"),
        (["plot", "xor", "--rule", "optax.trace"], "one that needs decay; try"),
    ],
)
def test_misuse(arguments, message):
    done = CLI.invoke(app, arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


def test_lists_and_help():
    listed = CLI.invoke(app, ["rules"]).output
    rows = [line.split("│")[1:-1] for line in listed.splitlines() if line.startswith("│")]
    described = {name.strip(): text.strip() for name, text in rows if name.strip()}
    assert list(described) == list(race.ENTRANTS)  # and none that needs another rule
    assert all(described.values())
    listed = CLI.invoke(app, ["problems"]).output
    assert all(name in listed for name in problems.PROBLEMS)
    for command in ([], *([name] for name in COMMANDS)):
        assert CLI.invoke(app, [*command, "--help"]).exit_code == 0
