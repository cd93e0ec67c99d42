"""The plan of the course and the way from one notebook to the next, against the files."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
READ = {path.stem: nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
# A notebook without a lesson is no part of the course: it needs no line anywhere else.
KEPT = {name: one.metadata.get("workbench", {}) for name, one in READ.items()}
LESSONS = {name: kept["lesson"] for name, kept in KEPT.items() if "lesson" in kept}
FOLLOWING = list(zip(LESSONS, [*LESSONS][1:] + [*LESSONS][:1], strict=True))
LINK = re.compile(r"\]\(([^)\s#]+)\.ipynb(?:#[^)]*)?\)")


def test_the_plan_names_each_notebook_once_under_its_lesson():
    plan = (NOTEBOOKS / "README.md").read_text()
    _, *parts = re.split(r"^## ", plan, flags=re.MULTILINE)
    named = [
        (link, re.sub(r"^\d+\. ", "", part.partition("\n")[0]))
        for part in parts
        for link in LINK.findall(part)
    ]
    assert len(named) == len(dict(named)), "a notebook is named twice"
    assert dict(named) == LESSONS
    numbers = re.findall(r"^## (\d+)\.", plan, re.MULTILINE)
    assert numbers == [str(n + 1) for n in range(len(numbers))]


@pytest.mark.parametrize(("name", "following"), FOLLOWING)
def test_next_leads_to_the_following_notebook_of_the_course(name, following):
    _, _, text = READ[name].cells[-1].source.partition("## Next")
    assert LINK.findall(text)[0] == following


@pytest.mark.parametrize("place", range(len(LESSONS)))
def test_the_foot_leads_back_and_on(place):
    names = [*LESSONS]
    *_, foot = READ[names[place]].cells[-1].source.splitlines()
    assert foot.startswith("← ")
    assert foot.endswith(" →")
    assert LINK.findall(foot) == [names[place - 1], names[(place + 1) % len(names)]]


@pytest.mark.parametrize("name", READ)
def test_no_link_leads_to_a_notebook_that_is_not_there(name):
    linked = set(LINK.findall("\n".join(c.source for c in READ[name].cells)))
    assert linked <= set(READ)
