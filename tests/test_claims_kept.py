"""What the atlas keeps of the claims of papers."""

import nbformat

from workbench import atlas, reports, suite


def test_every_live_paper_has_a_verdict_and_every_claim_a_place():
    live = {paper.title for paper in atlas.papers() if paper.live}
    assert {tested.paper for tested in atlas.claims()} == live
    for tested in atlas.claims():
        path = suite.folder() / tested.notebook.removeprefix("notebooks/")
        titles = {part["title"] for part in reports.sections(nbformat.read(path, as_version=4))}
        assert tested.section in titles
        assert tested.verdict == atlas.together(run.verdict for run in tested.runs)
        assert len(tested.runs) >= 3, "a verdict rests on three seeds"


def test_the_file_is_as_it_is_written():
    assert atlas.CLAIMS.read_text("utf-8") == atlas.as_toml(atlas.claims())
