"""What the commands of the command line do; `cli` says how they are typed."""

import contextlib
import inspect
import string
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import optax.contrib
import typer
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from fnn import names, play, plots, problems, race, rules, training
from fnn.problems import COSTS, Budget
from fnn.progress import EVERY, line
from fnn.race import entering, new_folder, report, trajectories

console = Console(markup=False, emoji=False)  # foreign words, such as errors, are no markup

Watch = Callable[[str, float], None]


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
    baseline: str | None,
) -> None:
    """Races rules, and shows what came of it."""
    raced = problems.get(problem, data)
    folder = new_folder("races", raced.name) if folder is None else folder
    terms = {"seeds": seeds, "trials": trials, "budget": _budget(budget), "cluster": cluster}
    (found,) = _raced({folder: raced}, named, folder, terms, baseline).values()
    if lost := _without(baseline, [found]):
        raise ValueError(
            f"race: expected the baseline to come to its end, got none, {lost}; the others are in "
            f"{folder}, try fnn report {folder} --baseline {found.results[0].rule}"
        )
    _show([found], [folder], baseline)


def race_suite(
    suite: str,
    named: str,
    seeds: int,
    trials: int,
    folder: Path | None,
    cluster: str | None,
    baseline: str | None,
) -> None:
    """Races rules on the problems of a suite, each in a folder of its own, and shows all of it."""
    names_of = names.look_up("suite", suite, problems.SUITES)
    folder = new_folder("races", suite) if folder is None else folder
    terms = {"seeds": seeds, "trials": trials, "cluster": cluster}
    folders = {folder / name: problems.get(name) for name in names_of}
    found = _raced(folders, named, folder, terms, baseline)
    races, names_of = list(found.values()), [path.name for path in found]
    _show_together(races, folder)
    for name, one in zip(names_of, races, strict=True):
        for caveat in report.sentences.caveats(one):
            console.print(f"- {name}: {caveat}")
    if lost := _without(baseline, races):
        console.print(f"The report has no baseline that you named, for {lost}.")
        baseline = None
    page = folder / report.PAGE
    page.write_text(report.html(races, names_of, baseline), encoding="utf-8")
    console.print(f"The report is {page}, tables and the profile beside it.", soft_wrap=True)


def _without(baseline: str | None, found: Sequence[race.Race]) -> str:
    """Why a baseline is missing in some of the races; nothing where it is in all of them."""
    lost = [one for one in found if baseline not in {result.rule for result in one.results}]
    caveats = (
        caveat.replace("left out", f"left out of {one.header['problem']}", 1).rstrip(".")
        for one in lost
        for caveat in one.caveats
        if caveat.startswith(f"{baseline} was left out")
    )
    return "; ".join(caveats) if baseline is not None else ""


def _listed(named: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in named.split(",")]


def _raced(
    folders: Mapping[Path, problems.Problem],
    named: str,
    whole: Path,
    terms: Mapping[str, Any],
    baseline: str | None,
) -> dict[Path, race.Race]:
    """Races on problems, each in its folder; what is finished there is read."""
    entrants = entering(_listed(named))
    if baseline is not None:
        names.look_up("baseline", baseline, {one.name: one for one in entrants})
    try:
        with _bar() if console.is_terminal else _lines() as watch:
            found, failed = _in_turn(folders, entrants, terms, watch)
    except KeyboardInterrupt:
        console.print(
            f"Stopped. What was finished is in {whole}; the same command with "
            f"--folder {whole} goes on.",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    if not found:
        raise next(iter(failed.values()))
    for problem, error in failed.items():
        console.print(f"There is no race of {problem}: {error}", soft_wrap=True)
    return found


def _in_turn(
    folders: Mapping[Path, problems.Problem],
    entrants: Sequence[race.Entrant],
    terms: Mapping[str, Any],
    watch: Watch,
) -> tuple[dict[Path, race.Race], dict[str, Exception]]:
    """The races by their folders, and by its problem the error of each that could not be."""
    found, failed = {}, {}
    for place, (folder, problem) in enumerate(folders.items()):

        def watch_one(what: str, share: float, place: int = place, on: str = problem.name) -> None:
            of = f" on {on}" if len(folders) > 1 else ""
            watch(f"{what}{of}", (place + share) / len(folders))

        try:
            found[folder] = race.run(problem, entrants, folder=folder, watch=watch_one, **terms)
        except (RuntimeError, ValueError) as error:  # the other problems can be raced
            failed[problem.name] = error
    return found, failed


def report_races(folders: Sequence[Path], baseline: str | None) -> None:
    """Makes the tables, figures and page of races anew."""
    found = [race.read(folder) for folder in folders]
    _show(found, folders, baseline)
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
    shown, (trains, *others) = problems.get(problem, data), entering([rule])
    if others:
        raise ValueError(f"plot: expected one rule, got {1 + len(others)} in {rule}")
    if missing := trains.misses(shown):
        raise ValueError(f"plot: {rule} needs {missing}; try another --rule")
    start, draws = jax.random.split(jax.random.key(seed))
    objective, whole = shown.objective, shown.train
    mini = {"batch_size": trains.examples(shown), "key": draws} if objective else {}
    try:
        made = trains.make(shown._replace(budget=Budget(steps, "steps")), **trains.defaults)
    except Exception as error:  # of code that is the user's
        raise ValueError(
            f"plot: expected a rule at its defaults, {dict(trains.defaults)}, got "
            f"{type(error).__name__}: {error}; try Entrant(..., defaults=...)"
        ) from error
    trained = training.fit(
        made,
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
        "learning": _learning(trained),
        **plots.portraits(value_fn, trained.params, objective, pair, key=draws),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(out / f"{shown.name}-{name}.png", dpi=150)
    console.print(trained.stopped)
    console.print(f"{out / shown.name}-*.png are written: {', '.join(figures)}.", soft_wrap=True)


def serve_playground(link: str, port: int, opens: bool) -> None:
    """Serves the playground until it is interrupted."""
    play.serve(_played(link), port, opens, lambda said: console.print(said, soft_wrap=True))


def record_playground(link: str, file: Path, seconds: float) -> None:
    """Films the playground."""
    console.print(f"{play.record(file, _played(link), seconds)} is written.", soft_wrap=True)


def _played(link: str) -> play.Settings:
    """The settings of a link, whole or its part behind the question mark."""
    return play.of_link(link.rpartition("?")[2] if "://" in link else link)


def list_rules() -> None:
    """Prints the rules that can race."""
    table = Table("rule", "what it is")
    for name in race.ENTRANTS:
        homes = (getattr(home, name, None) for home in (rules, optax, optax.contrib))
        rule = next(filter(None, homes), None)
        table.add_row(name, (inspect.getdoc(rule) or "").partition("\n")[0])
    console.print(table)
    console.print("`--rules` takes my_rules.py and optax.contrib.muon, too.")


def list_problems() -> None:
    """Prints the problems."""
    table = Table("problem", "what it is")
    for name, problem in problems.PROBLEMS.items():
        table.add_row(name, (problem.__doc__ or "").splitlines()[0])
    console.print(table)


def _show(found: Sequence[race.Race], folders: Sequence[Path], baseline: str | None = None) -> None:
    """The tables on the terminal, everything else beside the store."""
    for one, folder in zip(found, folders, strict=True):
        if not one.results:
            raise ValueError(
                f"report: expected a rule that is done, got none in {folder}; "
                + " ".join(one.caveats)
            )
        console.print(report.sentences.summary(one, baseline))
        sheets = [report.tables.standings(one, baseline)]
        if baseline is not None:  # who asks for one wants to know how far apart they are
            sheets.append(report.tables.beside(one, baseline))
        for sheet in sheets:
            console.print(report.sheets.to_rich(sheet, console.width))
        for caveat in report.sentences.caveats(one):
            console.print(f"- {caveat}")
        report.export(one, folder / "figures", baseline)
    if len(found) == 1:
        page = report.write(found[0], folders[0], baseline)
    else:
        page = folders[0] / "comparison.html"
        text = report.html(found, [folder.name for folder in folders], baseline)
        page.write_text(text, encoding="utf-8")
    console.print(f"The report is {page}, tables and figures beside it.", soft_wrap=True)


@contextlib.contextmanager
def _bar() -> Generator[Watch]:
    """Shows in a terminal what is going on, and the share of a race that is done."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share: bar.update(task, completed=share, description=what)


@contextlib.contextmanager
def _lines() -> Generator[Watch]:
    """Says the same in a line every few seconds, beside what the command answers."""
    going_on, began, over = {"what": "starting", "share": 0.0}, time.monotonic(), threading.Event()

    def say() -> None:
        while not over.wait(EVERY):
            seconds = time.monotonic() - began
            typer.echo(line(seconds, going_on["share"], going_on["what"]), err=True)

    speaker = threading.Thread(target=say, daemon=True)
    speaker.start()
    try:
        yield lambda what, share: going_on.update(what=what, share=share)
    finally:
        over.set()
        speaker.join()


def _show_together(found: Sequence[race.Race], folder: Path) -> None:
    """The tables of a suite on the terminal, its files in a folder."""
    for cost in report.suite.COSTS:
        sheet = report.suite.table(found, cost)
        console.print(report.sheets.to_rich(sheet, console.width))
    console.print(report.suite.summary(found))
    report.suite.export(found, folder)


def _learning(trained: training.Fit) -> Figure:
    """The value of each step, and the loss on the validation data after each epoch."""
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axes = plots.history(figure.subplots(), trained)
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
