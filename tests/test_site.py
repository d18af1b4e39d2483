"""The site: every public name once, guides as they run, and not a warning when it is built."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import fnn
from tests.race import chromium

ROOT = Path(__file__).parents[1]
SITE = ROOT / "examples" / "site"
GUIDES = sorted((ROOT / "examples" / "guides").glob("*.md"))


def load(name):
    """A module of the folder of the site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, executed = load("reference"), load("executed")


# The reference ------------------------------------------------------------------------------------


def test_every_public_name_stands_on_one_page():
    pages = {module.__name__: reference.page(module) for module in reference.modules(fnn)}
    entries = [
        (where, name)
        for where, page in pages.items()
        for name in re.findall(r"^`{3,}\{py:(?:function|class|data)\} (\w+)", page, re.MULTILINE)
    ]
    assert len(entries) == len(set(entries))
    shown = {(where, name) for where in pages for name in sys.modules[where].__all__}
    modules = {(name.rpartition(".")[0], name.rpartition(".")[2]) for name in pages}
    assert shown - set(entries) - modules == {  # which stand where they come from
        ("fnn", name) for name in ("Objective", "fit", "fits", "l1", "l2", "penalty")
    }
    assert set(entries) <= shown


def test_an_entry_is_the_signature_and_the_docstring():
    from fnn import rules

    page = reference.entry(rules, "kfac")
    assert page.startswith("````{py:function} kfac(structure: Structure, ")
    parameters = list(inspect.signature(rules.kfac).parameters)
    assert all(re.search(rf"^- `{name}`: ", page, re.MULTILINE) for name in parameters)
    assert "**Args**" in page
    assert "**Returns** " in page
    assert "```pycon\n>>> " in page
    levels = reference.entry(rules.damping, "Damping")
    assert levels.startswith("````{py:class} Damping(shrink: ")


@pytest.mark.parametrize(
    ("docstring", "page"),
    [
        ("One.\n\nArgs:\n    a: the a,\n        and more.\n    *b: all.", "- `a`: the a,\n    and"),
        ("One.\n\nSource: Gauss\n(1809).", "**Source** Gauss\n(1809)."),
        ("One.\n\n    u = -a g\n\n    v = 2 u", "```text\nu = -a g\n\nv = 2 u\n```"),
        ("A*B and `C*D`.", r"A\*B and `C*D`."),
        ("One.\n\nExample:\n    >>> 1 + 1\n    2", "**Example**\n\n```pycon\n>>> 1 + 1\n2\n```"),
    ],
)
def test_docstrings_become_markdown(docstring, page):
    assert page in reference.markdown(docstring)


# The guides ---------------------------------------------------------------------------------------


def test_outputs_stand_below_their_blocks(tmp_path):
    guide = tmp_path / "guide.md"
    guide.write_text(
        "# A\n\n```python\na = 1\nprint(a)\n```\n\nText.\n\n```python\nprint(a + 1)\n```\n"
    )
    page = executed.run(guide, tmp_path)
    assert re.findall(r":class: output\n(.*)\n```", page) == ["1", "2"]
    assert page.index("print(a)") < page.index("Text.") < page.index("print(a + 1)")
    cells = json.loads(executed.notebook(guide.read_text()))["cells"]
    assert [cell["cell_type"] for cell in cells] == ["markdown", "code", "markdown", "code"]


def test_an_error_shows_the_line_and_a_missing_package_its_extra(tmp_path):
    guide = tmp_path / "guide.md"
    guide.write_text("# A\n\n```python\na = 1\na / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as raised:
        executed.run(guide, tmp_path)
    assert raised.traceback[-1].lineno + 1 == 5
    assert raised.traceback[-1].path == guide
    sentence = executed.missing(ModuleNotFoundError(name="safetensors"))
    assert sentence == "expected safetensors, got none installed; try pip install 'fnn[checkpoint]'"
    assert executed.missing(ModuleNotFoundError(name="flax")).endswith("try pip install flax")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_says_what_it_needs_and_asks_for_it_first(guide):
    text = guide.read_text()
    blocks = executed.BLOCK.findall(text)
    assert blocks
    for block in blocks:
        compile(block, guide.name, "exec")
        assert max(map(len, block.splitlines())) <= 100, guide.name
    if "import matplotlib" in text:  # without it, these say which extra brings it
        assert re.match(r"from fnn import (plots|race)\b", blocks[0]), guide.name
        assert "pip install 'fnn[race" in text.partition("```")[0]


# The whole ----------------------------------------------------------------------------------------


@pytest.mark.gate
def test_the_site_is_built_without_a_warning_and_opens(tmp_path):
    if importlib.util.find_spec("sphinx") is None and "FNN_REQUIRE_BROWSER" not in os.environ:
        pytest.skip("site: expected sphinx, got none installed; try uv sync --group docs")
    out = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, SITE / "build.py", out], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert listed(out) == {
        f"{module.__name__}.{name}"
        for module in reference.modules(fnn)
        for name in reference.names(module)
    }
    pages = ["index", "reference/fnn.rules", *(f"examples/guides/{g.stem}" for g in GUIDES)]
    for page in pages:
        assert (out / f"{page}.html").exists()
    for guide in GUIDES:
        if "import matplotlib" in guide.read_text():
            assert "_images/" in (out / "examples" / "guides" / f"{guide.stem}.html").read_text()
    if chromium.found():
        looked_at(out, pages)


def listed(out):
    """The names that the inventory of a site has, modules and methods aside."""
    head, body = (out / "objects.inv").read_bytes().split(b"zlib.\n", 1)
    assert b"# Project: fnn" in head
    lines = zlib.decompress(body).decode().splitlines()
    entries = [line.split()[:2] for line in lines]
    kinds = "py:function", "py:class", "py:data"
    names = [name for name, kind in entries if kind in kinds]
    assert len(names) == len(set(names))
    return set(names)


def looked_at(out, pages):
    """Pages are as wide as a telephone, ask nobody for anything, and complain of nothing."""
    with chromium.Browser() as tab:
        tab.show(390)
        for page in pages:
            tab.call("Page.navigate", url=(out / f"{page}.html").as_uri())
            tab.wait("document.readyState == 'complete'")
            assert tab.run("document.documentElement.scrollWidth") <= 390, page
        for event in tab.events:
            if event["method"] == "Network.requestWillBeSent":
                assert event["params"]["request"]["url"].startswith(("file:", "data:"))
            assert event["method"] != "Runtime.exceptionThrown", event
