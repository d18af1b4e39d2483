"""The race: equal terms, honest lanes, what is written down, and the command line."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import fnn
from fnn import plots, problems, race, rules
from fnn.cli import app
from fnn.race import report, store
from fnn.training import Stop

CLI = CliRunner()


def explode(rate):
    """A rule that goes wrong wherever its rate is above 1."""
    return optax.chain(rules.sgd(0.1), optax.scale(jnp.where(rate > 1, 1e300, 1.0)))


ENTRANTS = [race.ENTRANTS["adam"], race.Entrant("explode", explode, 0.1, 10.0)]


@pytest.fixture(scope="module")
def results():
    return list(race.run(problems.get("iris"), ENTRANTS, seeds=2, trials=2, epochs=3))


def test_lanes_equal_runs_alone(results):
    problem, adam = problems.get("iris"), results[0]
    key = jax.random.key(1)
    params = problem.model.init(key, problem.train.inputs[0])
    alone = fnn.fit(
        rules.adam(float(adam.rates[1])), problem.objective, params, problem.train,
        epochs=3, batch_size=problem.batch_size, key=key, validation=problem.train,
    )  # fmt: skip
    np.testing.assert_allclose(adam.train_loss[1, 1], alone.history.validation["loss"], rtol=1e-12)
    np.testing.assert_array_equal(adam.steps, alone.history.steps)
    outputs = problem.objective.outputs(alone.params, problem.test.inputs)
    np.testing.assert_allclose(
        adam.metric[1, 1], np.mean(outputs.argmax(1) == problem.test.targets)
    )


def test_a_lane_that_diverges_is_not_chosen_and_the_others_go_on(results):
    diverging = results[1]
    assert diverging.chosen == 0
    assert diverging.steps.tolist() == results[0].steps.tolist()
    assert (diverging.stopped == [[Stop.BUDGET] * 2, [Stop.NON_FINITE] * 2]).all()
    assert np.isfinite(diverging.train_loss[0]).all()
    assert len(results) == 2


def test_the_choice_is_by_validation(results):
    for result in results:
        final = np.where(result.stopped == Stop.NON_FINITE, np.inf, result.validation_loss[..., -1])
        assert result.chosen == np.median(final, axis=1).argmin()


def test_a_search_spans_two_decades_for_every_rule():
    for entrant in race.ENTRANTS.values():
        np.testing.assert_allclose(entrant.highest / entrant.lowest, 100)
        np.testing.assert_allclose(entrant.rates(3), entrant.lowest * np.array([1, 10, 100]))
        np.testing.assert_allclose(entrant.rates(1), 10 * entrant.lowest)


def test_every_run_is_written_down(results, tmp_path):
    problem = problems.get("iris")
    folder = store.create(tmp_path, problem)
    assert folder.parent == tmp_path / "iris"
    for result in results:
        store.append(folder, problem, result)
    runs = [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]
    assert len(runs) == 8
    assert {run["rule"] for run in runs} == {"adam", "explode"}
    assert runs[3]["learning_rate"] == pytest.approx(0.1)
    assert runs[3]["train_loss"] == results[0].train_loss[1, 1, -1]
    assert [run["stopped"] for run in runs[4:]] == ["budget"] * 2 + ["non_finite"] * 2
    assert set(runs[0]["versions"]) == {"jax", "jaxlib", "optax", "numpy", "fnn"}
    curves = np.load(folder / "curves-adam.npz")
    np.testing.assert_array_equal(curves["train_loss"], results[0].train_loss)


def test_what_is_written_down_is_json(results, tmp_path):
    diverged = results[1]._replace(train_loss=np.full((2, 2, 3), np.nan))
    store.append(tmp_path, problems.get("iris"), diverged)

    def refuse(constant):
        raise AssertionError(constant)

    for line in (tmp_path / "runs.jsonl").read_text().splitlines():
        assert json.loads(line, parse_constant=refuse)["train_loss"] is None


def test_spreads_read_well():
    assert report._spread(np.array([0.97, 0.975, 0.976]), ".3f", ".3f") == "0.975 ± 0.003"
    assert report._spread(np.array([2.4e-3, 2.5e-3, 2.8e-3]), ".2g", ".1g") == "0.0025 ± 0.0002"


def test_the_table_puts_the_lowest_loss_first(results):
    bad = results[0]._replace(
        name="bad",
        train_loss=np.full((2, 2, 3), np.nan),
        validation_loss=np.full((2, 2, 3), np.nan),
        stopped=np.full((2, 2), Stop.NON_FINITE),
    )
    table = report.table(problems.get("iris"), [bad, *results])
    assert list(table.columns[0].cells)[-1] == "bad"
    assert list(table.columns[6].cells)[-1] == "2 of 2 diverged"


def test_curves_are_medians_with_bands():
    y = np.array([[1.0, 2.0], [3.0, 5.0], [2.0, 9.0]])
    curves = {"a": plots.Curve(np.arange(2), y)}
    figure = plots.loss_figure("title", curves, curves)
    left = figure.axes[0]
    np.testing.assert_array_equal(left.lines[0].get_ydata(), [2.0, 5.0])
    band = left.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (1, 9)
    assert left.get_yscale() == "log"


def test_misuse_raises():
    with pytest.raises(ValueError, match="seeds of at least 1, got 0"):
        next(race.run(problems.get("iris"), ENTRANTS, seeds=0))


# The command line ---------------------------------------------------------------------------------


def test_race_from_the_command_line(tmp_path):
    options = ["--rules", "sgd,momentum", "--seeds", "2", "--trials", "1", "--epochs", "2"]
    done = CLI.invoke(app, ["race", "iris", *options, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "sgd" in done.output
    assert "momentum" in done.output
    (folder,) = (tmp_path / "iris").iterdir()
    names = {"runs.jsonl", "curves-sgd.npz", "curves-momentum.npz", "loss.png"}
    assert {path.name for path in folder.iterdir()} == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["race", "digitz"], "did you mean 'digits'?"),
        (["race", "iris", "--rules", "adm"], "did you mean 'adam'?"),
        (["race", "iris", "--seeds", "0"], "--seeds"),
        (["race"], "Missing argument"),
        (["rase"], "No such command"),
    ],
)
def test_misuse_of_the_command_line(arguments, message):
    done = CLI.invoke(app, arguments)
    assert done.exit_code == 2
    assert message in done.output


def test_lists_and_help():
    listed = CLI.invoke(app, ["rules"]).output
    assert all(name in listed for name in race.ENTRANTS if name != "lbfgs")
    assert "static_arguments" not in listed
    listed = CLI.invoke(app, ["problems"]).output
    assert all(name in listed for name in problems.PROBLEMS)
    for command in ([], ["race"], ["rules"], ["problems"]):
        assert CLI.invoke(app, [*command, "--help"]).exit_code == 0
