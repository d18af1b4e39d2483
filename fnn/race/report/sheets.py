"""Sheets: one kind of table, and a form for each place where it goes.

A `Sheet` has for each cell the text that people read and the numbers behind it. The terminal,
Markdown, LaTeX and HTML show the text; CSV has all digits of the numbers.
"""

import csv
import html
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text


class Column(NamedTuple):
    """A column.

    Attributes:
        title: its heading.
        fields: the names in CSV of the numbers in each of its cells.
        number: whether it is aligned to the right.
        spare: where room is short, the column with the largest is left out first; 0 always stays.
    """

    title: str
    fields: tuple[str, ...]
    number: bool = True
    spare: int = 0


class Cell(NamedTuple):
    """A cell: its text for people, and a number or name for each field of its column."""

    text: str
    values: tuple[str | float, ...]


class Sheet(NamedTuple):
    """A table."""

    title: str
    caption: str
    columns: list[Column]
    rows: list[list[Cell]]


def to_rich(sheet: Sheet, width: int = 80) -> Table:
    """The sheet for a terminal of so many characters, without columns that it has no room for."""
    widths = [_width(sheet, i) for i in range(len(sheet.columns))]
    places = list(range(len(widths)))
    while sum(widths[i] + 2 for i in places) > width and any(
        sheet.columns[i].spare for i in places
    ):
        places.remove(max(places, key=lambda i: sheet.columns[i].spare))
    fits = sum(widths[i] + 2 for i in places) <= width
    missing = [column.title for i, column in enumerate(sheet.columns) if i not in places]
    left_out = f" Left out for want of room: {', '.join(missing)}." if missing else ""
    table = Table(  # every text is a `Text`, so that nothing in it is read as markup
        title=Text(sheet.title),
        caption=Text(sheet.caption + left_out),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for i in places:
        justify = "right" if sheet.columns[i].number else "left"
        table.add_column(
            Text(sheet.columns[i].title),
            justify=justify,
            overflow="fold",
            no_wrap=i == 0,
            width=widths[i] if fits else None,
        )
    for row in sheet.rows:
        table.add_row(*(Text(row[i].text) for i in places))
    return table


def _width(sheet: Sheet, column: int) -> int:
    """The width of a column that breaks no cell and no word of the heading."""
    words = [len(word) for word in sheet.columns[column].title.split()]
    return max([*words, *(len(row[column].text) for row in sheet.rows)])


def to_markdown(sheet: Sheet) -> str:
    r"""The sheet as a pipe table, with its caption below.

    Args:
        sheet: the table.

    Returns:
        Markdown.

    Example:
        >>> sheet = Sheet("", "", [Column("a", ("a",), False), Column("b", ("b",))],
        ...               [[Cell("x|y", ("x|y",)), Cell("1", (1,))]])
        >>> print(to_markdown(sheet))
        | a | b |
        |---|---:|
        | x\|y | 1 |
    """
    rules = "|".join("---:" if column.number else "---" for column in sheet.columns)
    lines = [[column.title for column in sheet.columns]]
    lines += [[cell.text for cell in row] for row in sheet.rows]
    rows = [f"| {' | '.join(map(_markdown, line))} |" for line in lines]
    table = "\n".join([rows[0], f"|{rules}|", *rows[1:]])
    title = f"**{_markdown(sheet.title)}**\n\n" if sheet.title else ""
    caption = f"\n\n{_markdown(sheet.caption)}\n" if sheet.caption else ""
    return title + table + caption


def _markdown(text: str) -> str:
    """The text in one line, escaped."""
    text = re.sub(r"([\\`*\[\]<>&|$])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "∞": r"$\infty$",
}  # fmt: skip


def to_latex(sheet: Sheet) -> str:
    """The sheet as a `table` for papers, its caption one line, its notes below; needs booktabs."""
    form = "".join("r" if column.number else "l" for column in sheet.columns)
    heads = [_latex(column.title) for column in sheet.columns]
    rows = [[_latex(cell.text) for cell in row] for row in sheet.rows]
    return "\n".join([
        r"\begin{table}",
        r"  \centering",
        r"  \small",
        rf"  \caption{{{_latex(sheet.title)}}}",
        rf"  \begin{{tabular}}{{{form}}}",
        r"    \toprule",
        rf"    {' & '.join(heads)} \\",
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        rf"  \par\smallskip\parbox{{\linewidth}}{{\footnotesize {_latex(sheet.caption)}}}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def _latex(text: str) -> str:
    """The text in one line, escaped, with 1.2e-05 as a power of ten."""
    pieces = re.split(r"(?<![\w.])(\d(?:\.\d+)?)e([+-]\d+)(?!\w)", " ".join(text.split()))
    escaped = ["".join(_LATEX.get(character, character) for character in p) for p in pieces]
    powers = [
        rf"${digits} \cdot 10^{{{int(exponent)}}}$"
        for digits, exponent in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    return "".join(plain + power for plain, power in zip(escaped[::3], [*powers, ""], strict=True))


def to_csv(sheet: Sheet) -> str:
    """The sheet for programs: a line of names, and for each row a line with all digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field for column in sheet.columns for field in column.fields)
    for row in sheet.rows:
        writer.writerow(value for cell in row for value in cell.values)
    return text.getvalue()


def to_html(sheet: Sheet, marks: Sequence[str] = ()) -> str:
    """The sheet as a `table` element, with HTML marks before the first cell of each row."""
    kinds = [' class="number"' if column.number else "" for column in sheet.columns]
    head = "".join(
        f'<th scope="col"{kind}>{html.escape(column.title)}</th>'
        for kind, column in zip(kinds, sheet.columns, strict=True)
    )
    body = []
    for i, row in enumerate(sheet.rows):
        mark = marks[i] if marks else ""
        name = re.sub(r"(?<=[_.])", "<wbr>", html.escape(row[0].text))  # where it may break
        first = f'<th scope="row">{mark}{name}</th>'
        cells = "".join(
            f"<td{kind}>{html.escape(cell.text)}</td>"
            for kind, cell in zip(kinds[1:], row[1:], strict=True)
        )
        body.append(f"<tr>{first}{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
