"""What the commands of the command line do; `cli` says how they are typed."""

import inspect
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fnn import names, plots, problems, race, rules, training
from fnn.problems import COSTS, Budget
from fnn.race import new_folder, report, trajectories

console = Console()
PAGE = "report.html"


def set_precision(float64: bool) -> None:
    """Computes in float64 where that is asked for, or set already."""
    jax.config.update("jax_enable_x64", float64 or jax.config.read("jax_enable_x64"))


def race_rules(
    problem: str,
    named: str,
    seeds: int,
    trials: int,
    budget: str | None,
    data: Path | None,
    folder: Path | None,
    cluster: str | None,
) -> None:
    """Races rules, and shows what came of it."""
    raced = problems.get(problem, data)
    folder = new_folder("races", raced.name) if folder is None else folder
    terms = {"seeds": seeds, "trials": trials, "budget": _budget(budget), "cluster": cluster}
    _show(_raced({folder: raced}, named, folder, terms), [folder])


def race_suite(
    suite: str, named: str, seeds: int, trials: int, folder: Path | None, cluster: str | None
) -> None:
    """Races rules on the problems of a suite, each in a folder of its own, and shows all of it."""
    names_of = names.look_up("suite", suite, problems.SUITES)
    folder = new_folder("races", suite) if folder is None else folder
    terms = {"seeds": seeds, "trials": trials, "cluster": cluster}
    found = _raced({folder / name: problems.get(name) for name in names_of}, named, folder, terms)
    _show_together(found, folder)
    page = folder / PAGE
    page.write_text(report.html(found, names_of), encoding="utf-8")
    console.print(f"The report is {page}, tables and the profile beside it.", soft_wrap=True)


def _raced(
    folders: Mapping[Path, problems.Problem], named: str, whole: Path, terms: Mapping[str, Any]
) -> list[race.Race]:
    """Races on problems, each in its folder, with a bar; what is finished there is read."""
    entrants = [race.entrant(name.strip()) for name in named.split(",")]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    found = []
    try:
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=float(len(folders)))

            def watch(what: str, share: float) -> None:
                of = f" on {problem.name}" if len(folders) > 1 else ""
                bar.update(task, completed=len(found) + share, description=f"{what}{of}")

            for folder, problem in folders.items():
                found.append(race.run(problem, entrants, folder=folder, watch=watch, **terms))
    except KeyboardInterrupt:
        console.print(
            f"Stopped. What was finished is in {whole}; the same command with "
            f"--folder {whole} goes on."
        )
        raise typer.Exit(130) from None
    return found


def report_races(folders: Sequence[Path]) -> None:
    """Makes the tables, figures and page of races anew."""
    found = [race.read(folder) for folder in folders]
    _show(found, folders)
    if len({one.header["problem"] for one in found}) == len(found) > 1:
        _show_together(found, folders[0])


def draw_trajectories(surface: str, named: str, steps: int | None, out: Path, video: bool) -> None:
    """Draws the paths of rules on a surface."""
    shown = names.look_up("surface", surface, problems.SURFACES)
    walking = trajectories.rules_on(surface, [name.strip() for name in named.split(",")])
    steps = trajectories.STEPS[surface] if steps is None else steps
    start = trajectories.BESIDE_THE_RIDGE if surface == "saddle" else shown.start
    walked = trajectories.trajectories(_value_fn(surface), np.array(start), walking, steps)
    scene = plots.Landscape(
        f"{surface}: {steps} steps", shown.fn, shown.xlim, shown.ylim, shown.minima
    )
    out.mkdir(parents=True, exist_ok=True)
    plots.landscape_figure(scene, walked).savefig(out / f"{surface}.png", dpi=150)
    for suffix in (".gif", ".mp4") if video else (".gif",):
        plots.animate(out / f"{surface}{suffix}", scene, walked)
    console.print(f"{out / surface}.png and .gif are written.", soft_wrap=True)


def draw_training(
    problem: str, rule: str, steps: int, seed: int, data: Path | None, out: Path
) -> None:
    """Trains one network and draws it."""
    shown, trains = problems.get(problem, data), race.entrant(rule)
    if missing := trains.misses(shown):
        raise ValueError(f"plot: {rule} needs {missing}; try another --rule")
    start, draws = jax.random.split(jax.random.key(seed))
    objective, whole = shown.objective, shown.train
    mini = {"batch_size": trains.examples(shown), "key": draws} if objective else {}
    trained = training.fit(
        trains.make(shown, **trains.defaults),
        objective or whole,
        shown.init(start),
        whole if objective else None,
        steps=steps,
        validation=shown.validation,
        **mini,
    )
    value_fn = objective.on(whole) if objective else whole
    pair = shown.validation if objective and objective.loss is not None else None
    figures = {
        "learning": _learning(trained.history),
        **plots.portraits(value_fn, trained.params, objective, pair, key=draws),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(out / f"{shown.name}-{name}.png", dpi=150)
    console.print(trained.stopped)
    console.print(f"{out / shown.name}-*.png are written: {', '.join(figures)}.", soft_wrap=True)


def list_rules() -> None:
    """Prints the rules."""
    table = Table("rule", "what it is")
    for name in rules.__all__:
        rule = getattr(rules, name)
        kind = inspect.isfunction(rule) and inspect.signature(rule).return_annotation
        if kind is optax.GradientTransformationExtraArgs:
            table.add_row(name, (rule.__doc__ or "").splitlines()[0])
    console.print(table)


def list_problems() -> None:
    """Prints the problems."""
    table = Table("problem", "what it is")
    for name, problem in problems.PROBLEMS.items():
        table.add_row(name, (problem.__doc__ or "").splitlines()[0])
    console.print(table)


def _show(found: Sequence[race.Race], folders: Sequence[Path]) -> None:
    """The tables on the terminal, everything else beside the store."""
    for one, folder in zip(found, folders, strict=True):
        if not one.results:
            raise ValueError(
                f"report: expected a rule that is done, got none in {folder}; "
                + " ".join(one.caveats)
            )
        console.print(report.tables.summary(one))
        console.print(report.tables.to_rich(report.tables.standings(one), console.width))
        for caveat in report.tables.caveats(one):
            console.print(f"- {caveat}")
        report.export(one, folder / "figures")
    page = folders[0] / ("comparison.html" if len(found) > 1 else PAGE)
    page.write_text(report.html(found, [folder.name for folder in folders]), encoding="utf-8")
    console.print(f"The report is {page}, tables and figures beside it.", soft_wrap=True)


def _show_together(found: Sequence[race.Race], folder: Path) -> None:
    """The tables of a suite on the terminal, its files in a folder."""
    for cost in report.suite.COSTS:
        sheet = report.suite.table(found, cost)
        console.print(report.tables.to_rich(sheet, console.width))
    report.suite.export(found, folder)


def _learning(history: training.History) -> Figure:
    """The value of each step, and the loss on the validation data after each epoch."""
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    seen = {
        "training, each step": (1 + np.arange(len(history.value)), history.value),
        "validation": (history.steps, history.validation["loss"]),
    }
    named = {label: plots.Curve(x[None].astype(float), y[None]) for label, (x, y) in seen.items()}
    axes = plots.curves(figure.subplots(), named)
    axes.set(xlabel="steps", ylabel="loss")
    axes.legend(frameon=False)
    return figure


def _budget(text: str | None) -> Budget | None:
    """The budget that is meant by words such as '10 seconds' or '10seconds'."""
    if text is None:
        return None
    number = text.strip().rstrip(string.ascii_letters)
    unit = text.strip().removeprefix(number)
    try:
        budget = Budget(float(number), unit)
    except ValueError:
        budget = None
    if budget is None or not unit:
        amount = "10" if budget is None else number
        raise ValueError(
            "race: expected a budget with a unit such as '10 seconds' or '500 gradients', got "
            f"{text!r}; try {' or '.join(repr(f'{amount} {cost}') for cost in COSTS)}"
        )
    return budget


def _value_fn(surface: str):
    """What second-order rules look into; for problems of one surface the training data."""
    return problems.get(surface).train
