"""A guide with what its Python prints and draws: `python executed.py GUIDE FOLDER`.

The blocks of a guide run from top to bottom in one fresh process, as a reader would run them. What
they print, and the figures of matplotlib that they leave open, stand below them.
"""

import ast
import contextlib
import importlib.util
import io
import json
import re
import sys
import textwrap
from pathlib import Path

BLOCK = re.compile(r"^```python\n(.*?)^```\n", re.DOTALL | re.MULTILINE)


def run(guide: Path, folder: Path) -> str:
    """The Markdown of a guide with its outputs; its figures are written into a folder."""
    names, figures = {"__name__": "__main__"}, []

    def outputs(block: re.Match) -> str:
        line = guide.read_text()[: block.start(1)].count("\n")
        printed = execute(block[1], str(guide), line, names)
        drawn = [draw(figure, folder, guide.stem, len(figures)) for figure in open_figures()]
        figures.extend(drawn)
        text = [f"```{{code-block}} text\n:class: output\n{printed}```\n"] if printed else []
        return "\n".join([block[0], *text, *drawn])

    return BLOCK.sub(outputs, guide.read_text())


def execute(block: str, name: str, line: int, names: dict) -> str:
    """What a block prints; an error shows the line of the guide."""
    printed = io.StringIO()
    code = compile(ast.increment_lineno(ast.parse(block), line), name, "exec")
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, names)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{name}: {missing(error)}") from error
    lines = printed.getvalue().splitlines()
    return "".join(f"{textwrap.fill(x, 100) if len(x) > 100 else x}\n" for x in lines)


def missing(error: ModuleNotFoundError) -> str:
    """The sentence that names the extra of a package, or the package."""
    from fnn.requirements import EXTRAS

    package, extra = EXTRAS.get(str(error.name), (str(error.name), None))
    what = f"'fnn[{extra}]'" if extra else package
    return f"expected {package}, got none installed; try pip install {what}"


def open_figures() -> list:
    """The figures that a block has left open; matplotlib is not imported for it."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    import matplotlib.pyplot as plt

    return [plt.figure(number) for number in plt.get_fignums()]


def draw(figure, folder: Path, stem: str, number: int) -> str:
    """Writes and closes a figure; returns the Markdown that shows it."""
    import matplotlib.pyplot as plt

    titles = [figure.get_suptitle(), *(axes.get_title(at) for axes in figure.axes for at in
              ("left", "center"))]  # fmt: skip
    said = "; ".join(" ".join(title.split()) for title in titles if title) or stem
    path = folder / f"{stem}-{number}.png"
    figure.savefig(path, dpi=144, facecolor="white")
    plt.close(figure)
    return f"```{{image}} {path.name}\n:alt: {said}\n:class: figure\n```\n"


def notebook(guide: str) -> str:
    """The same guide as a Jupyter notebook, without outputs."""
    cells, end = [], 0

    def add(kind: str, text: str) -> None:
        if text.strip():
            cell = {
                "cell_type": kind,
                "metadata": {},
                "source": text.strip(),
                "id": str(len(cells)),
            }
            code = {"execution_count": None, "outputs": []} if kind == "code" else {}
            cells.append(cell | code)

    for block in BLOCK.finditer(guide):
        add("markdown", guide[end : block.start()])
        add("code", block[1])
        end = block.end()
    add("markdown", guide[end:])
    return json.dumps(
        {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1
    )


def main(guide: Path, folder: Path) -> None:
    """Writes page, figures and notebook of a guide into a folder."""
    if importlib.util.find_spec("matplotlib"):
        import matplotlib

        matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    text = run(guide, folder)
    (folder / f"{guide.stem}.ipynb").write_text(notebook(guide.read_text()))
    (folder / guide.name).write_text(text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
