"""Builds the site, reference and guides, from docstrings and Markdown.

uv run examples/site/build.py [FOLDER]

FOLDER is `site` unless given; open FOLDER/index.html, no server is needed. The guides are executed,
in fresh processes, and their outputs kept in FOLDER until guide or package change. A warning is an
error.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import reference

import fnn

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMANDS = "", "race", "report", "suite", "trajectories", "plot", "play"


def main(folder: Path) -> int:
    """Lays out the sources and lets Sphinx write the pages; returns its exit status."""
    if importlib.util.find_spec("sphinx") is None:
        raise SystemExit("site: expected sphinx, got none installed; try uv sync --group docs")
    source = folder / ".source"
    shutil.rmtree(source, ignore_errors=True)
    copy_markdown(source)
    guides = [execute(path, folder / ".executed", source) for path in in_order()]
    scripts = [script(path, source) for path in sorted((ROOT / "examples").glob("*.py"))]
    pages = [write(source / f"reference/{m.__name__}.md", reference.page(m)) for m in public()]
    commands = write(source / "reference/commands.md", command_line())
    front(source, guides, scripts, [*pages, commands])
    flags = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(HERE)]
    trees = ["-d", str(folder / ".doctrees")]
    command = [sys.executable, "-m", "sphinx", *flags, *trees, str(source), str(folder)]
    return subprocess.run(command, check=False).returncode


def public():
    """The modules that have a page, `fnn` first."""
    return list(reference.modules(fnn))


def write(path: Path, text: str) -> Path:
    """Writes a page of the layout."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def copy_markdown(source: Path) -> None:
    """The repository's Markdown and its pictures, at their places; a README is an index."""
    for name in ("examples", "benchmarks", "tests/lectures", "."):
        for path in (ROOT / name).glob("*.md"):
            page = source / name / path.name.replace("README", "index")
            write(page, linked(path.read_text()))
    for pictures in ("examples", "examples/pictures", "benchmarks", "benchmarks/results"):
        for path in (ROOT / pictures).glob("*.[pg][ni][gf]"):
            (source / pictures).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, source / pictures)
    shutil.copy(ROOT / "LICENSE", source)


def linked(text: str) -> str:
    """Markdown whose links to a README or an example lead to their pages."""
    text = re.sub(r"(\]\([^)]*)README\.md", r"\1index.md", text)
    return re.sub(r"(\]\((?:\.\./)*(?:examples/)?\w+)\.py\)", r"\1.md)", text)


def in_order() -> list[Path]:
    """The guides: first those that examples/README.md links, in its order, then the others."""
    course = (ROOT / "examples/README.md").read_text()
    read = re.findall(r"\(guides/(\w+\.md)", course)
    files = sorted(path.name for path in (ROOT / "examples/guides").glob("*.md"))
    return [ROOT / "examples/guides" / name for name in dict.fromkeys(read + files)]


def execute(guide: Path, kept: Path, source: Path) -> Path:
    """Runs a guide if it has not been run since guide or package changed; returns its page."""
    read = [guide, HERE / "executed.py", *sorted((ROOT / "fnn").rglob("*.py"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in read)).hexdigest()[:16]
    folder = kept / f"{guide.stem}-{digest}"
    if not (folder / guide.name).exists():
        for old in kept.glob(f"{guide.stem}-*"):
            shutil.rmtree(old)
        command = [sys.executable, "-W", "error", str(HERE / "executed.py"), str(guide)]
        places = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu")}
        done = subprocess.run(
            [*command, str(folder)], env=os.environ | places, cwd=kept.parent, check=False
        )
        if done.returncode:
            raise SystemExit(f"{guide.relative_to(ROOT)} does not run to its end")
    there = source / "examples/guides"
    shutil.copytree(folder, there, dirs_exist_ok=True)
    page = there / guide.name
    title, _, rest = linked(page.read_text()).partition("\n")
    link = f"[as a notebook]({guide.stem}.ipynb)"
    return write(
        page, f"{title}\n\n{{.download}}\nExecuted when this site was built; {link}.\n{rest}"
    )


def script(path: Path, source: Path) -> Path:
    """The page of an example: its docstring, its picture, its code."""
    text = path.read_text()
    docstring = re.match(r'"""(.*?)"""\n+', text, re.DOTALL)
    if docstring is None:
        raise SystemExit(f"{path.name}: expected a docstring, got none")
    title, _, more = docstring[1].strip().partition("\n")
    picture = f"pictures/{path.stem}.png"
    shown = f"![{title}]({picture})\n\n" if (path.parent / picture).exists() else ""
    code = f"```python\n{text[docstring.end() :]}```\n"
    page = f"# {path.stem}\n\n{title}\n\n{shown}```text\n{more.strip()}\n```\n\n{code}"
    return write(source / f"examples/{path.stem}.md", page)


def command_line() -> str:
    """The help of every command."""
    parts = ["# The command line"]
    for command in COMMANDS:
        said = subprocess.run(
            [sys.executable, "-m", "fnn", *command.split(), "--help"],
            env=os.environ | {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1",
                              "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        said = said.replace("python -m fnn", "fnn")
        lines = "\n".join(line.rstrip() for line in said.strip().splitlines())
        parts.append(f"## {f'fnn {command}'.strip()}\n\n```text\n{lines}\n```")
    return "\n\n".join(parts) + "\n"


def front(source: Path, guides: list[Path], scripts: list[Path], pages: list[Path]) -> None:
    """The navigation, on the first page and on that of the examples."""

    def tree(caption: str, entries: list, at: Path) -> str:
        listed = "\n".join(str(Path(entry).relative_to(at).with_suffix("")) for entry in entries)
        return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"

    others = [source / name for name in ("examples/index", "benchmarks/index", "benchmarks/scaling",
              "tests/lectures/index")]  # fmt: skip
    with (source / "index.md").open("a") as index:
        index.write(tree("Guides", guides, source))
        index.write(tree("Reference", pages, source))
        index.write(tree("More", [*others, source / "CHANGELOG"], source))
    with (source / "examples/index.md").open("a") as index:
        index.write(tree("Scripts", scripts, source / "examples"))


if __name__ == "__main__":
    out = Path(sys.argv[1] if sys.argv[1:] else ROOT / "site").resolve()
    out.mkdir(parents=True, exist_ok=True)
    status = main(out)
    print(json.dumps({"pages": len(list(out.rglob("*.html"))), "open": str(out / "index.html")}))
    raise SystemExit(status)
