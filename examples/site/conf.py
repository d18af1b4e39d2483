"""The site's appearance, for Sphinx; `build.py` lays out what it reads."""

import sys
from pathlib import Path
from types import ModuleType

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import reference  # ruff: ignore[module-import-not-at-top-of-file]

import fnn  # ruff: ignore[module-import-not-at-top-of-file]

project, author = "fnn", "the authors of fnn"
version = release = fnn.__version__
extensions = ["myst_parser", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_disable_syntax = ["html_block", "html_inline"]  # <u, v> is a product in a docstring
myst_heading_anchors = 3
html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"fnn {version}"
html_static_path = [str(HERE / "style")]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "github-dark"
add_module_names = False
maximum_signature_line_length = 70
toc_object_entries_show_parents = "hide"

PUBLIC = {
    f"{module.__name__}.{name}": reference.home(module, name)
    for module in reference.modules(fnn)
    for name in module.__all__
    if not isinstance(getattr(module, name), ModuleType)
}
"""Every public name, as it is imported, and the module on whose page it stands."""


class Linked(SphinxTransform):
    """A public name in backquotes, `rules.adam` or `fnn.fit`, is a link to its page."""

    default_priority = 5

    def apply(self, **_) -> None:
        """Puts a reference around each."""
        module = self.env.docname.removeprefix("reference/fnn").removeprefix(".")
        for literal in list(self.document.findall(nodes.literal)):
            parent = literal.parent
            if isinstance(parent, (nodes.reference, nodes.title, pending_xref)):
                continue
            if isinstance(parent.parent, nodes.list_item) and parent[0] is literal:
                continue  # the name of an argument
            text = literal.astext().removeprefix("fnn.").partition("(")[0]
            target = self.target(text) or self.target(f"{module}.{text}")
            if target:
                link = pending_xref(
                    "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True,
                    refwarn=False, refdoc=self.env.docname,
                )  # fmt: skip
                literal.replace_self(link)
                link += literal

    @staticmethod
    def target(text: str) -> str | None:
        """The full name of what a text names, if it is public."""
        home = PUBLIC.get(f"fnn.{text}")
        return f"{home}.{text.rpartition('.')[2]}" if home else None


def mathml(display: str):
    """What writes a formula as MathML, which browsers show by themselves."""

    def write(self, node) -> None:
        self.body.append(convert(node.astext(), display=display))
        raise nodes.SkipNode

    return write


def setup(app: Sphinx) -> None:
    """Tells Sphinx of links and formulas."""
    app.add_transform(Linked)
    app.add_html_math_renderer("mathml", (mathml("inline"), None), (mathml("block"), None))
