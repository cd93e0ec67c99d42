"""The site that a team publishes: gallery, atlas with verdicts, API reference, and a search.

Every page stands by itself, from a disc as from a server, and asks nothing of the network.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any

import nbformat

import workbench
from workbench import atlas, data, figures, models, reports, robustness
from workbench.attacks import PGD
from workbench.courses import reference
from workbench.reports import SIGNS, VERDICTS
from workbench.steps import Step, run, work

PLACES = {"index.html": "DNN Workbench", "gallery/index.html": "Gallery"}
PLACES |= {"atlas.html": "Atlas", "api/workbench.html": "API"}
SECTION = re.compile(r'<h2 id="(section-\d+)">(.*?)</h2>', re.DOTALL)
IMAGE = 4  # of the first page: a nine
LONGEST = 4000  # characters of a section that the search reads
SCRIPT = Path(__file__).with_name("search.js")
FILTER = """
<script>
const rows = [...document.querySelectorAll("[data-paper]")], box = document.getElementById("words");
const only = document.getElementById("only");
document.getElementById("filter").oninput = () => {
  const asked = box.value.toLowerCase().split(/\\s+/);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    const fits = !only.value || row.dataset.paper.split("|").includes(only.value);
    row.hidden = !fits || !asked.every((word) => text.includes(word));
  }
  for (const family of document.querySelectorAll("[data-family]")) {
    family.hidden = !family.querySelector("[data-paper]:not([hidden])");
  }
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("count").textContent = `${shown} of ${rows.length} shown`;
};
</script>
"""
Entry = dict[str, str]  # of the search: title, address, kind, text


@work
def site(gallery: str | Path, output: str | Path) -> Iterator[Step[Path]]:
    """Put a site together from a finished gallery; the last step has its first page.

    gallery: the folder that `courses.gallery` wrote.

    Raises:
        FileNotFoundError: no gallery there.
        ImportError: pdoc, of the extra `site`, is not installed.
        ValueError: an output folder inside the gallery's.
    """
    source, folder = Path(gallery).absolute(), Path(output).absolute()
    if not (source / "index.html").is_file():
        raise FileNotFoundError(f"{source} holds no gallery: run `workbench gallery` before")
    if source in (folder, *folder.parents):
        raise ValueError(f"output: {folder} is in the gallery's folder; give another")
    folder.mkdir(parents=True, exist_ok=True)
    yield Step(0, 4, "gallery")
    found = _gallery(source, folder / "gallery")
    anchors = {entry["title"]: entry["address"] for entry in found}
    yield Step(1, 4, "API")
    found += reference.write(folder / "api", lambda at: _bar(at, "api/workbench.html"))
    yield Step(2, 4, "atlas")
    reports.write(folder / "atlas.html", _atlas(anchors))
    found += [
        {"title": p.title, "address": f"atlas.html#{_anchor(p.title)}", "kind": "paper"}
        | {"text": f"{p.mechanism} {' '.join(claim.says for claim in _claims(p))}"}
        for p in atlas.papers()
    ]
    yield Step(3, 4, "search")
    index = json.dumps(found, ensure_ascii=False).replace("</", "<\\/")
    reports.write(folder / "index.js", f"window.pages = {index};\n")
    shutil.copyfile(SCRIPT, folder / "search.js")
    reports.write(folder / "search.html", _search())
    reports.write(folder / "index.html", _front(found))
    yield Step(4, 4, "written", folder / "index.html")


def _bar(at: str, here: str) -> str:
    """The bar above a page: the places of the site, and the search. at: "../" in a folder."""
    links = "".join(
        f'<a href="{at}{to}"{" aria-current=page" if to == here else ""}>{name}</a>'
        for to, name in PLACES.items()
    )
    return (
        f'<div class="wb wb-nav" role="navigation" aria-label="Site">{links}'
        f'<form action="{at}search.html" role="search"><input type="search" name="q" '
        'aria-label="Search the site" placeholder="Search"></form></div>'
    )


def _gallery(source: Path, target: Path) -> list[Entry]:
    """Copy the gallery below the site's bar; returns its sections, for the search."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    entries: list[Entry] = []
    for path in sorted(target.glob("*.html")):
        html, bar = path.read_text(encoding="utf-8"), _bar("../", f"gallery/{path.name}")
        reports.write(path, html.replace("<main>", f"{bar}<main>", 1))
        notebook = path.with_suffix(".ipynb")
        if not notebook.is_file():
            continue
        numbers = {_plain(text): f"#{name}" for name, text in SECTION.findall(html)}
        for title, words in reports.texts(nbformat.read(notebook, as_version=4)):
            address = f"gallery/{path.name}{numbers.get(_plain(title), '')}"
            entry = {"title": f"{path.stem}#{title}", "address": address, "kind": "notebook"}
            entries.append(entry | {"text": _plain(words)[:LONGEST]})
    return entries


def _plain(text: str) -> str:
    """Text without markup, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>|[*`#]", "", text)).split())


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.casefold()).strip("-")


def _claims(paper: atlas.Paper) -> list[atlas.Tested]:
    return [claim for claim in atlas.claims() if claim.paper == paper.title]


def _atlas(anchors: dict[str, str]) -> str:
    """Every paper: how it works, where it runs, what became of its claims."""
    papers, body = atlas.papers(), ""
    counts = Counter(paper.verdict for paper in papers if paper.verdict)
    said = f"{len(papers)} papers; {sum(p.live for p in papers)} run here. Verdicts: "
    said += ", ".join(f"{SIGNS[v]} {counts[v]} {v}" for v in VERDICTS)
    options: dict[str, str] = {"": "all papers", "runs": "that run here"}
    options |= {verdict: verdict for verdict in VERDICTS}
    listed = "".join(f'<option value="{v}">{text}</option>' for v, text in options.items())
    choice = (
        '<form id="filter" onsubmit="return false"><label>Words <input type="search" id="words">'
        f'</label> <label>Show <select id="only">{listed}</select></label> '
        '<span role="status" id="count" class="wb-soft"></span></form>'
    )
    for family, about in atlas.FAMILIES.items():
        rows = "".join(_paper(p, anchors) for p in papers if p.family == family)
        head = f"<h2>{family} <small>{escape(about)}</small></h2>"
        body += f"<section data-family>{head}{rows}</section>" if rows else ""
    head = f'<p class="wb-head">{said}</p>{choice}'
    return reports.document("Atlas", head + body, nav=_bar("", "atlas.html"), scripts=FILTER)


def _paper(paper: atlas.Paper, anchors: dict[str, str]) -> str:
    """One paper of the atlas."""
    marks = "|".join(filter(None, ["runs" if paper.live else "", paper.verdict]))
    verdict = f"{SIGNS[paper.verdict]} {paper.verdict}" if paper.verdict else ""
    state = verdict or ("runs here, no claim tested" if paper.live else "not here yet")
    links = ", ".join(_place(place, anchors) for place in paper.runs)
    claims = "".join(
        f"<li><b>{SIGNS[c.verdict]} {c.verdict}</b> ({c.share}): {escape(c.says)} "
        f'<span class="wb-soft">Here {c.runs[0].ours:.3g}; the paper: {escape(c.theirs)}. '
        f"{escape(c.setting)}</span></li>"
        for c in _claims(paper)
    )
    return (
        f'<article id="{_anchor(paper.title)}" data-paper="{marks}" class="wb-paper">'
        f"<h3>{escape(paper.title)} <small>{paper.year or ''}</small></h3>"
        f"<p>{escape(paper.mechanism)}</p>"
        f"<p><b>{state}</b>{links and ': '}{links}</p>{claims and f'<ul>{claims}</ul>'}</article>"
    )


def _place(place: str, anchors: dict[str, str]) -> str:
    """Where a paper runs, as a link: a section of the gallery, or a name of the API."""
    if place.startswith("notebooks/"):
        name, _, title = place.removeprefix("notebooks/").partition(".ipynb#")
        to = anchors.get(f"{name}#{title}")
        return f'<a href="{escape(to)}">{escape(title)}</a>' if to else escape(title)
    to = reference.address(place)
    return f'<a href="api/{to}"><code>{place}</code></a>' if to else f"<code>{place}</code>"


def _search() -> str:
    body = (
        '<form role="search" onsubmit="return false"><label>Words <input type="search" id="q" '
        'autofocus></label> <span role="status" id="count" class="wb-soft"></span></form>'
        '<ol id="found" class="wb-found"></ol>'
    )
    scripts = '<script src="index.js"></script><script src="search.js"></script>'
    return reports.document("Search", body, nav=_bar("", ""), scripts=scripts)


def _shown() -> str:
    """Something to drag: where an image breaks for a model, and for one trained against that."""
    images, attack = data.load("mnist-sample"), PGD(eps=0.3, n_steps=20)
    names, x = ("mnist/cnn", "mnist/cnn-robust"), images.images[IMAGE : IMAGE + 1]
    steps = [robustness.breaking.steps(models.load(name), x, attack) for name in names]
    figure = figures.drag_eps([run(each, progress=False) for each in steps]).html
    return f'<h2>Drag eps, and watch the answer break</h2><div class="wb-card">{figure}</div>'


def _front(found: list[Entry]) -> str:
    kinds = Counter(entry["kind"] for entry in found)
    papers = atlas.papers()
    doors: dict[str, tuple[str, Any]] = {
        "gallery/index.html": (
            "Gallery",
            "Notebooks as they ran: figures that move, checks, claims",
        ),
        "atlas.html": ("Atlas", f"{len(papers)} papers, and what became of their claims here"),
        "api/workbench.html": ("API", f"{kinds['API']} names, from their docstrings"),
        "search.html": ("Search", "All of it, in this page, without a network"),
    }
    items = "".join(
        f'<li class="wb-card"><h2><a href="{to}">{name}</a></h2><p>{about}</p></li>'
        for to, (name, about) in doors.items()
    )
    said = f"Look inside image classifiers. Version {workbench.__version__}."
    body = f'<p class="wb-soft">{said}</p><ol class="wb-gallery">{items}</ol>{_shown()}'
    return reports.document("DNN Workbench", body, nav=_bar("", "index.html"))
