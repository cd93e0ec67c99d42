"""The atlas: every row is sound, and every place it names is there."""

import json
import re
import tomllib
from pathlib import Path
from pkgutil import resolve_name

import pytest
from typer.testing import CliRunner

from workbench import atlas, cli

ROOT = Path(__file__).parent.parent
PAPERS = atlas.papers()
PLACES = sorted({place for paper in PAPERS for place in paper.runs})


def missing(place: str, root: Path = ROOT) -> str:
    """What is wrong with a place where a paper runs; empty: nothing."""
    file, _, section = place.partition("#")
    if not section:
        try:
            return "" if callable(resolve_name(place)) else f"{place} is nothing to call"
        except (AttributeError, ImportError) as error:
            return str(error)
    if not (root / file).is_file():
        return f"there is no {file}"
    cells = json.loads((root / file).read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return "" if section in headings else f"{file} has no section {section!r}"


# The rows


def test_the_lists_hold_168_papers_each_once():
    assert len(PAPERS) == 168
    assert len({paper.title.casefold() for paper in PAPERS}) == 168
    assert len({paper.mechanism for paper in PAPERS}) == 168


def test_the_families_are_those_listed_in_their_order():
    assert list(dict.fromkeys(paper.family for paper in PAPERS)) == list(atlas.FAMILIES)
    for family in atlas.FAMILIES:
        rows = atlas.search(family=family)
        assert rows == sorted(rows, key=lambda p: (p.year or 9999, p.title.lower()))


def test_sentences_are_sentences():
    for paper in PAPERS:
        assert re.fullmatch(r"[A-Z0-9].+\w\.", paper.mechanism), paper.mechanism
        assert 12 <= len(paper.mechanism.split()) <= 35, paper.title
        assert "  " not in paper.mechanism
        assert not re.search(
            r"\b(we|our|novel|state-of-the-art|propose)\b", paper.mechanism.lower()
        )


def test_years_are_those_of_deep_networks():
    assert all(paper.year is None or 2012 <= paper.year <= 2025 for paper in PAPERS)


@pytest.mark.parametrize("place", PLACES)
def test_where_a_paper_runs_is_there(place):
    assert not missing(place)


def test_every_live_paper_runs_in_a_notebook():
    live = [paper for paper in PAPERS if paper.live]
    assert len(live) >= 17
    assert all(any(place.startswith("notebooks/") for place in paper.runs) for paper in live)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("workbench.attacks.PDG", "PDG"),
        ("workbench.nowhere.PGD", "nowhere"),
        ("workbench.atlas.FAMILIES", "nothing to call"),
        ("notebooks/no.ipynb#A", "there is no"),
        ("notebooks/n.ipynb#Code", "no section"),
        ("notebooks/n.ipynb#Part", "no section"),
        ("notebooks/n.ipynb#A part", ""),
    ],
)
def test_a_place_that_is_not_there_is_found_out(place, said, tmp_path):
    source = ["# Title\n", "\n", "```\n", "# Code\n", "```\n", "## A part\n"]
    (tmp_path / "notebooks").mkdir()
    cells = [{"cell_type": "markdown", "source": source}]
    (tmp_path / "notebooks" / "n.ipynb").write_text(json.dumps({"cells": cells}))
    assert said in missing(place, tmp_path)
    assert bool(said) == bool(missing(place, tmp_path))


# The file

GOOD = '[[attacks]]\ntitle = "A"\nyear = 2020\nmechanism = "It does this."\n'


def test_a_good_row_is_read(tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(GOOD + '[[fooling]]\ntitle = "B"\nmechanism = "So."\nruns = ["workbench.a.B"]')
    first, second = atlas.read(file)
    assert (first.title, first.year, first.family, first.live) == ("A", 2020, "attacks", False)
    assert (second.year, second.family, second.live) == (None, "fooling", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("attacks", "attcks"), "Did you mean 'attacks'"),
        (GOOD.replace("[[attacks]]", "[attacks]"), r"expected \[\[attacks\]\] tables"),
        ("attacks = 3", r"expected \[\[attacks\]\] tables"),
        ("attacks = [3]", r"expected \[\[attacks\]\] tables"),
        (GOOD.replace('"A"', '""'), "title"),
        (GOOD.replace('title = "A"', ""), "title: field required"),
        (GOOD.replace("mechanism", "mecanism"), "mecanism: no such parameter"),
        (GOOD.replace("this.", "this"), "full stop"),
        (GOOD.replace("this.", "this. And that."), "one sentence"),
        (GOOD.replace("this.", "this" * 3 + " on" * 40 + "."), "at most 35 words"),
        (GOOD.replace("2020", "20"), "year.*got 20"),
        (GOOD.replace("2020", '"soon"'), "year.*'soon'"),
        (GOOD + 'family = "fooling"', "family"),
        (GOOD + 'runs = "workbench.attacks.PGD"', "runs"),
        (GOOD + 'runs = ["02_attacks"]', r"runs\.0.*'02_attacks'"),
        (GOOD + 'runs = ["notebooks/02_attacks.ipynb#"]', r"runs\.0"),
        (GOOD + GOOD.replace('"A"', '"a"'), "number 2, 'a': expected every title once"),
        (GOOD.replace("[[", "["), "not TOML"),
    ],
)
def test_a_malformed_row_is_refused(text, said, tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"(?s)^p\.toml: .*{said}"):
        atlas.read(file)


def test_the_file_goes_into_the_wheel():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folder = ROOT / "workbench" / "atlas"
    patterns = setup["package-data"]["workbench.atlas"]
    assert folder / "papers.toml" in {file for pattern in patterns for file in folder.glob(pattern)}


# Search


def test_search_wants_every_word_in_any_case():
    (found,) = atlas.search("EASILY fooled 2014")
    assert found.title.startswith("Deep Neural Networks are Easily Fooled")
    assert not atlas.search("easily fooled 2015")
    assert atlas.search("easily")
    assert atlas.search("sparse")
    assert not atlas.search("easily sparse")
    assert found in atlas.search("MapElites")
    assert atlas.search("") == atlas.search(" ") == list(PAPERS)


def test_search_by_family_and_by_what_runs():
    assert {p.family for p in atlas.search(family="poisoning")} == {"poisoning"}
    live, rest = atlas.search(live=True), atlas.search(live=False)
    assert all(p.live for p in live)
    assert not any(p.live for p in rest)
    assert len(live) + len(rest) == 168
    assert atlas.search("", "attacks", True) == [p for p in live if p.family == "attacks"]


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match=r"family 'attack'\. Did you mean 'attacks'"):
        atlas.search(family="attack")


def test_the_frame_has_a_row_a_paper():
    table = atlas.frame(family="attacks")
    assert list(table) == ["title", "family", "mechanism", "year", "runs", "live", "verdict"]
    assert table["title"].tolist() == [p.title for p in atlas.search(family="attacks")]
    assert table["live"].tolist() == [p.live for p in atlas.search(family="attacks")]
    assert str(table["year"].dtype) == "Int64"
    assert atlas.frame("no such words").empty


# The command


def run(*words: str):
    return CliRunner().invoke(cli.app, ["atlas", *words])


def test_the_command_prints_title_sentence_and_places():
    result = run("easily", "fooled", "--live")
    assert result.exit_code == 0, result.output
    (paper,) = atlas.search("easily fooled")
    assert f"{paper.title} (2014; fooling)" in result.stdout
    assert paper.mechanism in " ".join(result.stdout.split())
    assert all(f"-> {place}\n" in result.stdout for place in paper.runs)
    told = " ".join(result.stdout.split())
    for claim in (claim for claim in atlas.claims() if claim.paper == paper.title):
        assert f"= {claim.verdict} ({claim.share}): {claim.says}" in told
    judged = int(bool(paper.verdict))
    assert told.endswith(f"1 of 168 papers, of which 1 run here and {judged} have a verdict.")


def test_the_command_filters():
    papers = atlas.search(family="compression")
    ran = [paper for paper in papers if paper.runs]
    counted = f"{len(papers)} of 168 papers, of which {len(ran)} run"
    assert counted in run("--family", "compression").stdout
    assert f"{len(ran)} of 168 papers" in run("--family", "compression", "--live").stdout
    assert "168 of 168 papers" in run().stdout


def test_the_command_refuses_an_unknown_family():
    result = run("--family", "attack")
    assert result.exit_code == 2
    assert "Did you mean 'attacks'?" in result.stderr
