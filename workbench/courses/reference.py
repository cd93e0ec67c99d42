"""The API reference: a page a package, made by pdoc from the docstrings of its public names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from workbench import files

PACKAGES = (
    *("workbench", "atlas", "attacks", "concepts", "continual", "courses", "data", "denoisers"),
    *("detectors", "figures", "kernels", "levelsets", "models", "patterns", "proofs"),
    *("prototypes", "reasoning", "reports", "robustness", "saliency", "search", "spaces"),
    *("treatments", "widgets"),
)
# The colours of the house in pdoc's roles; its code in the dark as pygments has it.
INNER = re.compile(r'<a href="#([^"]+)"[^>]*>(.*?)</a>', re.DOTALL)
MAIN = re.compile(r"<main\b[^>]*>")
ROLES = {
    **{"text": "ink", "muted": "soft", "link": "a", "link-hover": "a", "code": "card"},
    **{"active": "line", "accent": "card", "accent2": "line", "nav-hover": "card"},
    **{"name": "a", "def": "ok", "annotation": "soft"},
}
THEME = ":root { color-scheme: light dark; } body { --pdoc-background: var(--wb-page); }\n"
THEME += f".pdoc {{ {' '.join(f'--{name}: var(--wb-{role});' for name, role in ROLES.items())} }}\n"
THEME += (
    ".pdoc a, .pdoc nav a { color: var(--wb-a); } main.pdoc a { text-decoration: underline; }\n"
)


def names() -> dict[str, list[str]]:
    """The public names of each package."""
    modules = ["workbench" if p == "workbench" else f"workbench.{p}" for p in PACKAGES]
    return {name: _public(name) for name in modules}


def _public(name: str) -> list[str]:
    module = import_module(name)
    own = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == name]
    return sorted(getattr(module, "__all__", [n for n in own if not n.startswith("_")]))


def address(dotted: str) -> str:
    """The place of a name in the reference; "" where it has none."""
    package, _, name = dotted.rpartition(".")
    if dotted.removeprefix("workbench.") in PACKAGES:
        return f"{dotted.replace('.', '/')}.html"
    known = package.removeprefix("workbench.") in PACKAGES and name in _public(package)
    return f"{package.replace('.', '/')}.html#{name}" if known else ""


def write(folder: Path, bar: Callable[[str], str]) -> list[dict[str, str]]:
    """Write the pages into `folder`; returns what the search knows of each name.

    bar: HTML above a page, from where that is ("../").

    Raises:
        ImportError: pdoc is not installed.
    """
    if find_spec("pdoc") is None:
        raise ImportError("API reference: please pip install 'dnn-workbench[site]'")
    import pdoc.doc
    import pdoc.render
    from pygments.formatters import HtmlFormatter

    modules: dict[str, Any] = {}
    for package, public in names().items():
        module = import_module(package)
        for name in public:  # pdoc takes what is there, and asks no lazy table
            setattr(module, name, getattr(module, name))
        modules[package] = pdoc.doc.Module(module)
    dark = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")
    style = f"{files.STYLE.read_text()}\n{THEME}@media (prefers-color-scheme: dark) {{ {dark} }}"
    with TemporaryDirectory() as scratch:
        Path(scratch, "custom.css").write_text(style)
        pdoc.render.configure(
            docformat="google", show_source=False, search=False, template_directory=Path(scratch)
        )
        with warnings.catch_warnings():  # of types that only a checker of types knows
            warnings.simplefilter("ignore", UserWarning)
            pages = {name: pdoc.render.html_module(made, modules) for name, made in modules.items()}
    (folder / "workbench").mkdir(parents=True, exist_ok=True)
    for name, html in pages.items():
        tag = MAIN.search(html)
        assert tag, "a page of pdoc has a main part"
        above = bar("../" * (1 + name.count(".")))
        html = f"{html[: tag.end()]}{above}{html[tag.end() :]}"
        html = html.replace('class="headerlink"', 'class="headerlink" aria-label="link to this"')
        files.write(folder / address(name), _alive(html))
    entries = []
    for name, module in modules.items():
        for member in module.members.values():
            place = f"api/{address(name)}#{member.name}"
            entry = {"title": f"{name}.{member.name}", "address": place}
            text = " ".join(member.docstring.replace("`", "").split())
            entries.append(entry | {"kind": "API", "text": text})
    return entries


def _alive(html: str) -> str:
    """The page without its links to names that it does not show, such as inherited ones."""
    there = set(re.findall(r'\sid="([^"]+)"', html))
    return INNER.sub(lambda link: link[0] if link[1] in there else link[2], html)
