"""Claims: shown, recorded with their cell and section, kept in the atlas with their verdicts."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from workbench import atlas, reports
from workbench.atlas import verdicts
from workbench.atlas.verdicts import Run, Tested

PAPER = "Adding Gradient Noise Improves Learning for Very Deep Networks"
CALL = """from workbench import reports
reports.claim(
    "gradient noise very deep", "Noise helps, against none at equal steps.",
    ours={ours}, interval=(0.1, 0.9), holds={holds}, partly={partly}, seeds=3,
    theirs="0.2 (table 1)", setting="digits, 3 steps", expect={expect},
)"""


def made(**changes):
    options = {"ours": 0.5, "holds": True, "setting": "digits", **changes}
    return reports.claim(options.pop("paper", PAPER), options.pop("says", "It helps."), **options)


def write(path, ours="0.5", holds="True", partly="False", expect="'holds'"):
    """A notebook of one claim, with a seed that turns it."""
    cells = [
        new_code_cell("seed: int = 0  # of all\n", metadata={"tags": ["parameters"]}),
        new_markdown_cell("# Deep\n\n## Noise"),
        new_code_cell(CALL.format(ours=ours, holds=holds, partly=partly, expect=expect)),
    ]
    nbformat.write(new_notebook(cells=cells), path)
    return path


@pytest.mark.parametrize(
    ("holds", "partly", "verdict"),
    [
        (True, False, "holds"),
        (True, True, "holds"),
        (False, True, "partly"),
        (False, False, "refuted here"),
    ],
)
def test_a_verdict_follows_from_what_was_found(holds, partly, verdict):
    assert made(holds=holds, partly=partly).verdict == verdict
    assert made(holds=holds, partly=partly).turned == (verdict != "holds")
    assert not made(holds=holds, partly=partly, expect=None).turned


def test_a_refuted_claim_that_begins_to_hold_has_turned():
    assert made(holds=True, expect="refuted here").turned
    assert not made(holds=False, expect="refuted here").turned


def test_a_row_says_all():
    claim = made(theirs="0.2 <x>", interval=(0.4, 0.6), seeds=3, holds=False)
    html = claim._repr_html_()
    for part in (
        "Refuted here",
        "expected: holds",
        "0.5",
        "[0.4, 0.6]",
        "3 seeds",
        "0.2 &lt;x&gt;",
    ):
        assert part in html
    assert "in [0.4, 0.6]" in str(claim)
    assert "not at hand" in str(made())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"paper": "no such thing at all"}, "unknown paper 'no such thing at all'"),
        ({"paper": "deep learning"}, r"paper: 'deep learning' is in \d+ titles: .*give more of it"),
        ({"says": "It helps"}, "says: expected a sentence with a full stop"),
        ({"setting": " "}, "setting: expected on what it was found"),
        ({"ours": float("nan")}, "ours: expected a finite number, got nan"),
        ({"interval": (0.6, 0.7)}, "interval: expected one that holds ours=0.5"),
        ({"expect": "hold"}, "unknown expect 'hold'. Did you mean 'holds'?"),
        ({"seeds": 0}, "seeds: expected"),
    ],
)
def test_bad_claims_are_said(changes, said):
    with pytest.raises(ValueError, match=said):
        made(**changes)


def test_a_report_holds_its_claims_and_comes_to_its_end(tmp_path):
    report = reports.execute(write(tmp_path / "n.ipynb", holds="False"), {}, tmp_path / "out")
    (claim,) = json.loads(report.results_path.read_text())["claims"]
    assert report.claims == [claim]
    assert (claim["paper"], claim["section"], claim["cell"]) == (PAPER, "Noise", 3)
    assert (claim["verdict"], claim["expect"], claim["ours"]) == ("refuted here", "holds", 0.5)
    assert claim["interval"] == [0.1, 0.9]
    assert "it was expected: holds" in report.html.read_text()


def test_claims_of_several_seeds_are_collected_and_the_others_stay(tmp_path):
    file = tmp_path / "claims.toml"
    kept = Tested(
        paper=PAPER,
        says="“Kept”, with a \\ and a\ttab.",
        notebook="notebooks/99.ipynb",
        section="S",
        theirs="not at hand",
        setting="x",
        verdict="holds",
        runs=(Run(seed=0, verdict="holds", ours=1),),
    )
    file.write_text(verdicts.as_toml([kept]))
    path = write(tmp_path / "n.ipynb", ours="0.2 + seed / 100", holds="seed < 10")
    found = reports.collect([path], tmp_path / "out", seeds=(0, 7, 11), file=file)
    other, mine = found
    assert other == kept
    assert [run.ours for run in mine.runs] == [0.2, 0.27, 0.31]
    assert [run.verdict for run in mine.runs] == ["holds", "holds", "refuted here"]
    assert (mine.verdict, mine.share) == ("partly", "2 of 3 seeds")
    again = reports.collect([path], tmp_path / "out", seeds=(0,), file=file)
    assert [len(tested.runs) for tested in again] == [1, 1]  # its own are replaced


def test_a_damaged_file_is_said(tmp_path):
    file = tmp_path / "claims.toml"
    for text in ("[[claim]\n", '[[claim]]\npaper = "x"\n'):
        file.write_text(text)
        verdicts.claims.cache_clear()
        with pytest.raises(ValueError, match=r"claims\.toml: "):
            verdicts.claims(file)


def test_the_verdict_on_a_paper_is_that_of_its_claims(monkeypatch):
    def one(verdict):
        runs = (Run(seed=0, verdict=verdict, ours=1.0),)
        facts = {"notebook": "n", "section": "s", "theirs": "t", "setting": "x", "says": "It."}
        return Tested(paper=PAPER, verdict=verdict, runs=runs, **facts)

    for each, whole in ((["holds"], "holds"), (["holds", "refuted here"], "partly"), ([], "")):
        rows = tuple(map(one, each))
        monkeypatch.setattr(verdicts, "claims", lambda rows=rows: rows)
        assert atlas.the_one(PAPER).verdict == whole
