"""Pages of the reference: what `__all__` of every public module names, each name once.

Signatures are read from the source, as they were written, and docstrings are the Markdown that they
are in the source, with Google's sections.
"""

import ast
import functools
import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from types import ModuleType
from typing import Any

SECTIONS = (
    "Args", "Attributes", "Shapes", "Units", "Invariant", "Returns", "Yields", "Raises", "Warns",
    "Source", "Differs", "Example",
)  # fmt: skip
BREAK = "\n\n"
LISTS = "Args", "Attributes", "Raises", "Warns"
"""Sections whose entries are `name: text`."""


def modules(root: ModuleType) -> Iterator[ModuleType]:
    """A module, and all that are public within it."""
    yield root
    for name in root.__all__:
        thing = getattr(root, name)
        if isinstance(thing, ModuleType):
            yield from modules(thing)


def home(module: ModuleType, name: str) -> str:
    """The public module on whose page a name of `fnn` stands: it is shown by one more module."""
    shown = [other.__name__ for other in modules(module) if name in other.__all__]
    return shown[-1] if module.__name__ == "fnn" else module.__name__


def names(module: ModuleType) -> list[str]:
    """The names that stand on a module's page; modules have pages of their own."""
    return [
        name
        for name in module.__all__
        if not isinstance(getattr(module, name), ModuleType)
        and home(module, name) == module.__name__
    ]


def page(module: ModuleType) -> str:
    """The Markdown of a module's page."""
    parts = [f"# {module.__name__}", f"```{{py:module}} {module.__name__}\n```"]
    parts.append(markdown(inspect.getdoc(module) or ""))
    functions = [entry(module, name) for name in names(module)]
    if functions:
        parts.append("## Names")
    return "\n\n".join([*parts, *functions]) + "\n"


def entry(module: ModuleType, name: str) -> str:
    """A name with its signature and its docstring, as a directive."""
    thing = getattr(module, name)
    source = definition(module.__name__, name)
    if isinstance(source, ast.ClassDef):
        methods = "\n".join(method(node) for node in public_methods(thing, source))
        text = markdown(inspect.getdoc(thing) or "")
        return directive("class", name + fields(source), f"{text}\n\n{methods}")
    if isinstance(source, ast.FunctionDef):
        return directive(
            "function", name + signature(source), markdown(inspect.getdoc(thing) or "")
        )
    value = ""
    if isinstance(source, ast.Assign | ast.AnnAssign) and source.value:
        short = ast.unparse(source.value)
        value = f":value: {json.dumps(short)}\n" if len(short) < 80 else ""
    return directive("data", name, markdown(documentation(module.__name__, name)), value)


def directive(kind: str, signature: str, body: str, options: str = "") -> str:
    """A directive of Sphinx's Python domain around a body that may hold others."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"^`{3,}", body, re.MULTILINE)), default=0))
    return f"{fence}{{py:{kind}}} {signature}\n{options}\n{body}\n{fence}"


def fields(source: ast.ClassDef) -> str:
    """What a class is called with: the fields of a tuple, or the arguments of `__init__`."""
    for node in source.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return signature(node, bound=True).partition(" -> ")[0]
    if not any("NamedTuple" in ast.unparse(base) for base in source.bases):
        return ""
    inside = [ast.unparse(node) for node in source.body if isinstance(node, ast.AnnAssign)]
    return f"({', '.join(inside)})"


def public_methods(thing: Any, source: ast.ClassDef) -> list[ast.FunctionDef]:
    """Methods and properties that are documented; those of a tuple are no news."""
    return [
        node
        for node in source.body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and ast.get_docstring(node)
        and hasattr(thing, node.name)
    ]


def method(node: ast.FunctionDef) -> str:
    """A method or a property."""
    text = markdown(ast.get_docstring(node) or "")
    marks = {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
    if "property" in marks:
        return directive("property", node.name, text)
    return directive("method", node.name + signature(node, bound="staticmethod" not in marks), text)


def signature(node: ast.FunctionDef, bound: bool = False) -> str:
    """The parameters and the result of a function, with the annotations of its source."""
    arguments = node.args
    if bound:
        first = arguments.posonlyargs or arguments.args
        del first[0]
    match node.returns:
        case None:
            result = ""
        case ast.Constant(str() as quoted):
            result = f" -> {quoted}"
        case returned:
            result = f" -> {ast.unparse(returned)}"
    return f"({ast.unparse(arguments)}){result}"


@functools.cache
def tree(module: str) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(inspect.getsource(importlib.import_module(module)))


def definition(module: str, name: str) -> ast.stmt | None:
    """Where a name is defined: followed through imports; None if nothing says so."""
    return found(module, name)[0]


def documentation(module: str, name: str) -> str:
    """The string below the definition of a constant."""
    _, after = found(module, name)
    match after:
        case ast.Expr(ast.Constant(str() as text)):
            return inspect.cleandoc(text)
    return ""


def found(module: str, name: str) -> tuple[ast.stmt | None, ast.stmt | None]:
    """The statement that defines a name, and the one after it."""
    body = tree(module).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.ClassDef() | ast.FunctionDef() if node.name == name:
                return node, after
            case ast.Assign([ast.Name(id)]) | ast.AnnAssign(ast.Name(id)) if id == name:
                return node, after
            case ast.ImportFrom(inner, aliases) if inner and inner.startswith("fnn"):
                for alias in aliases:
                    if name == (alias.asname or alias.name):
                        return found(inner, alias.name)
    return None, None


# Docstrings ---------------------------------------------------------------------------------------


def markdown(docstring: str) -> str:
    """A docstring's prose, and its sections under their names."""
    starts = rf"^(?=(?:{'|'.join(SECTIONS)}):(?: |$))"
    prose, *sections = re.split(starts, docstring, flags=re.MULTILINE)
    return "\n\n".join([fenced(prose.strip()), *map(section, sections)])


def section(text: str) -> str:
    """A section behind its name: a list, an example, or a paragraph in the same line."""
    title, _, body = text.partition(":")
    inline, _, below = body.partition("\n")
    indented = textwrap.dedent(below) if not inline.strip() else below
    body = fenced(f"{inline.strip()}\n{indented}".strip())
    if title in LISTS:
        return f"**{title}**\n\n{listed(body)}"
    return f"**{title}**{' ' if body[:1].isalnum() else BREAK}{body}"


def listed(body: str) -> str:
    """Entries `name: text`, as a list; their further lines are indented."""
    return re.sub(r"^(\*{0,2}\w[\w, *]*): ", r"- `\1`: ", body, flags=re.MULTILINE)


def fenced(text: str) -> str:
    """Doctests and indented blocks as blocks of code, so that nothing in them is markup."""
    parts: list[str] = []
    for part in re.split(r"\n[ \t]*\n", text):
        if part.lstrip().startswith(">>>"):
            part = f"```pycon\n{textwrap.dedent(part)}\n```"
        elif part.startswith("    "):
            part = f"```text\n{textwrap.dedent(part)}\n```"
        else:  # a product between two words is no emphasis
            part = re.sub(r"(`[^`]*`)|(?<=\w)\*(?=\w)", lambda m: m[1] or r"\*", part)
        parts.append(part)
    joined = "\n\n".join(parts)
    return joined.replace("\n```\n\n```text\n", "\n\n")  # one block with an empty line in it
