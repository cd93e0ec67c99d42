"""The published site: every page stands by itself, links lead somewhere, the search finds."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from importlib import import_module
from types import ModuleType
from urllib.parse import unquote

import nbformat
import pytest
from browsers import MARKS
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from test_accessibility import axe, grave  # noqa: F401
from typer.testing import CliRunner

from workbench import atlas, cli, courses, steps
from workbench.courses import reference, website
from workbench.reports.page import _Scan

pytest.importorskip("pdoc", reason="needs pdoc")
PAGES = ("index.html", "atlas.html", "search.html", "gallery/index.html")
PAGES += ("gallery/07_level_sets.html", "api/workbench/attacks.html")
STAR = "notebooks/07_level_sets.ipynb#The star"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A site of one small notebook that has the name and a section of a real one."""
    home = tmp_path_factory.mktemp("site")
    text = "# Level sets\n\n**Goal:** see a *unicorn* & more.\n\n**Time:** 1 minute."
    star = "## The star\n\nA `zebrafish` swims.\n\n## Next\n\n## A & B"
    code = "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 2], mode='lines'))"
    cells = [new_markdown_cell(text), new_code_cell(code), new_markdown_cell(star)]
    nbformat.write(new_notebook(cells=cells), home / "07_level_sets.ipynb")
    with ThreadPoolExecutor(1) as pool:
        work = courses.gallery.steps([home / "07_level_sets.ipynb"], home / "gallery", pool)
        steps.run(work, progress=False)
    before = {path: path.read_bytes() for path in (home / "gallery").iterdir()}
    index = steps.run(courses.site.steps(home / "gallery", home / "out"), progress=False)
    assert {path: path.read_bytes() for path in (home / "gallery").iterdir()} == before
    assert index == home / "out" / "index.html"
    return index.parent


def pages(site):
    return {path: path.read_text() for path in sorted(site.rglob("*.html"))}


def test_every_page_stands_by_itself_and_no_link_is_dead(site):
    made = pages(site)
    assert len(made) == 5 + len(reference.PACKAGES)
    anchors = {path: {*re.findall(r'\sid="([^"]+)"', html)} for path, html in made.items()}
    for path, html in made.items():
        scan = _Scan()
        scan.feed(html)
        assert scan.found == [], path.name
        shown = re.sub("<(script|style).*?</\\1>", "", html, flags=re.DOTALL)
        for address in re.findall(r'(?:href|src|action)="([^"]*)"', shown):
            to, _, anchor = unescape(address).partition("#")
            if re.match("https?:|data:", to):
                continue
            target = (path.parent / unquote(to)).resolve() if to else path
            assert target.is_file(), f"{path.name}: {address}"
            assert not anchor or anchor in anchors[target], f"{path.name}: {address}"
        assert html.count('aria-label="Site"') == 1, path.name


def test_the_atlas_has_every_paper_with_its_status_and_claims(site):
    html = (site / "atlas.html").read_text()
    rows = dict(re.findall(r'<article id="([^"]*)"(.*?)</article>', html, re.DOTALL))
    assert len(rows) == len(atlas.papers())
    for paper in atlas.papers():
        (row,) = (text for text in rows.values() if f"<h3>{website.escape(paper.title)} " in text)
        assert website.escape(paper.mechanism) in row
        if paper.verdict:
            assert f'data-paper="{"runs|" * paper.live}{paper.verdict}"' in row
        mine = [claim for claim in atlas.claims() if claim.paper == paper.title]
        assert row.count("seeds)") == len(mine)
        assert ("not here yet" in row) == (not paper.live and not paper.verdict)
    live = next(paper for paper in atlas.papers() if STAR in paper.runs)
    (row,) = (text for text in rows.values() if f"<h3>{website.escape(live.title)} " in text)
    assert '<a href="gallery/07_level_sets.html#section-1">The star</a>' in row


def test_the_reference_has_every_public_name_with_its_words(site):
    for package, public in reference.names().items():
        html = (site / "api" / reference.address(package)).read_text()
        for name in public:
            inner = getattr(import_module(package), name)
            if isinstance(inner, ModuleType):  # of which some have a page of their own
                assert name not in reference.PACKAGES or f">{name}</a>" in html, name
            else:
                assert f'id="{name}"' in html, f"{package}.{name}"
    html = (site / "api" / "workbench" / "robustness.html").read_text()
    assert "Attack one image <code>(1, C, H, W)</code>" in html
    assert reference.address("workbench.attacks.PGD") == "workbench/attacks.html#PGD"
    assert reference.address("workbench.atlas") == "workbench/atlas.html"
    assert reference.address("workbench.attacks.Nothing") == ""


def test_the_index_holds_the_kinds_and_no_markup(site):
    text = (site / "index.js").read_text().removeprefix("window.pages = ").rstrip().rstrip(";")
    found = json.loads(text.replace("<\\/", "</"))
    kinds = {entry["kind"] for entry in found}
    assert kinds == {"notebook", "API", "paper"}
    assert sum(entry["kind"] == "paper" for entry in found) == len(atlas.papers())
    (star,) = (entry for entry in found if entry["title"] == "07_level_sets#The star")
    assert star["address"] == "gallery/07_level_sets.html#section-1"
    assert "A zebrafish swims." in star["text"]


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="holds no gallery: run `workbench gallery`"):
        steps.run(courses.site.steps(tmp_path, tmp_path / "out"), progress=False)
    (tmp_path / "index.html").write_text("")
    with pytest.raises(ValueError, match="is in the gallery's folder"):
        steps.run(courses.site.steps(tmp_path, tmp_path / "out"), progress=False)
    monkeypatch.setattr(reference, "find_spec", lambda name: None)
    words = ["site", "--gallery", str(tmp_path), "--output", f"{tmp_path}-out"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 1
    assert "pip install 'dnn-workbench[site]'" in result.stderr


class TestInABrowser:
    pytestmark = MARKS

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("name", PAGES)
    def test_a_page_has_no_grave_finding(self, axe, page, site, name, scheme):  # noqa: F811
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": 1024, "height": 768})
        page.goto((site / name).as_uri())
        assert grave(axe, page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 1024
        assert all(url.startswith(("file:", "data:")) for url in page.requested)
        assert page.problems == []

    def test_the_search_finds_sections_names_and_papers(self, page, site):
        page.goto((site / "api" / "workbench.html").as_uri())
        page.get_by_label("Search the site").fill("zebrafish")
        page.keyboard.press("Enter")
        page.wait_for_url("**/search.html?q=zebrafish")
        assert page.locator("#found a").all_inner_texts() == ["07_level_sets: The star"]
        box = page.locator("#q")
        box.fill("attacks.pgd")
        assert "workbench.attacks.PGD" in page.locator("#found a").all_inner_texts()
        box.fill("quadattack quadratic")
        assert page.locator("#found a").first.inner_text().startswith("QuadAttack")
        box.fill("zebrafish nowhereatall")
        assert page.get_by_role("status").inner_text() == "0 found"
        box.fill("zebrafish")
        page.locator("#found a").click()
        page.locator("#section-1").wait_for()
        assert page.problems == []

    def test_the_atlas_is_filtered_by_words_and_verdict(self, page, site):
        page.goto((site / "atlas.html").as_uri())
        shown = page.locator("[data-paper]:not([hidden])")
        page.get_by_label("Show").select_option("partly")
        partly = [paper for paper in atlas.papers() if paper.verdict == "partly"]
        assert shown.count() == len(partly)
        page.get_by_label("Words").fill(partly[0].title)
        assert shown.count() == 1
        page.get_by_label("Words").fill("nothing has this")
        assert shown.count() == 0
        assert page.get_by_role("status").inner_text().startswith("0 of ")

    def test_the_first_page_can_be_dragged(self, page, site):
        page.goto((site / "index.html").as_uri())
        page.locator("[data-drag] input").focus()
        page.keyboard.press("Home")
        assert page.get_by_role("status").inner_text().startswith("At eps 0:")
