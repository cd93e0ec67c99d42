"""Time limits of proofs hold within one short batch: counted in work, by a clock of our own."""

import importlib
import itertools
import math

import pytest
import torch
from torch import nn

from workbench import models
from workbench.proofs import Properties, Property, clock, marabou, prove
from workbench.proofs.network import CHUNK, Network, chunk, slices

LATE = "the time limit was reached"
MILP = "workbench.proofs.milp"


class Watch:
    """A clock that stands still, and after so many looks at it is past every limit."""

    def __init__(self, looks):
        self.looks, self.seen = looks, 0
        self.work = {False: 0, True: 0}  # before and after the end
        self.done = []  # before each look

    @property
    def over(self):
        return self.seen > self.looks

    def monotonic(self):
        self.seen += 1
        self.done.append(self.work[False])
        return 1e6 * self.over


@pytest.fixture
def timed(monkeypatch):
    """`prove` by a `Watch`: the answer, the watch with the work (rows times layers), and the
    limits that solvers were given, with whether that was after the end."""

    def run(looks, model, prop, backend="branching"):
        watch, limits = Watch(looks), []
        with monkeypatch.context() as patch:
            patch.setattr(clock, "time", watch)
            for name in ("pulled", "added"):
                original = getattr(Network, name)

                def counted(net, *parts, original=original):
                    result = original(net, *parts)
                    watch.work[watch.over] += len(result)
                    return result

                patch.setattr(Network, name, counted)
            for module, name in (("scipy.optimize", "linprog"), (MILP, "milp")):
                original = getattr(importlib.import_module(module), name)

                def solver(*args, original=original, **options):
                    limits.append((options["options"]["time_limit"], watch.over))
                    return original(*args, **options)

                patch.setattr(f"{module}.{name}", solver)
            answer = prove(model, prop, backend=backend, time_limit=100)
        return answer, watch, limits

    return run


def hard(parts=1):
    """A property that is true of a network with 80 neurons, and takes seconds to prove."""
    body, draw = nn.Sequential(nn.Flatten()), torch.Generator().manual_seed(0)
    for n, m in ((16, 40), (40, 40), (40, 3)):
        body += nn.Sequential(nn.Linear(n, m), nn.ReLU())
    body = body[:-1]
    for p in body.parameters():
        p.data.copy_(torch.randn(p.shape, generator=draw) * 2 / (p.numel() / len(p)) ** 0.5)
    model = models.wrap(body.eval(), input_shape=(1, 4, 4))
    a = torch.tensor([[1.0, -1.0, 0.0]])
    x = torch.rand(5000, 1, 4, 4, generator=draw).round()
    least = (model.predict(x).logits @ a[0]).min()
    prop = Property(x[0] * 0, x[0] * 0 + 1, ((a, least[None] - 0.05 * least.abs()),))
    return model, prop if parts == 1 else Properties((prop,) * parts)


LOOKS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610]


@pytest.mark.parametrize("parts", [1, 3])
def test_hardly_any_work_is_done_after_the_end(timed, parts):
    model, prop = hard(parts)
    before = []
    for looks in LOOKS:
        answer, watch, limits = timed(looks, model, prop)
        assert (answer.verdict, LATE in answer.note) == ("open", True)
        assert watch.work[True] <= CHUNK[1]  # where a whole batch takes tens of thousands
        assert not [limit for limit, over in limits if over and limit > 0.01]
        before.append(watch.work[False])
    assert before == sorted(before)
    assert before[-1] > 100 * CHUNK[1]  # all the while it looks at the clock
    if parts == 1:
        assert answer.bound < 0
        assert answer.branches > answer.open > 0


def test_between_two_looks_there_is_a_small_piece_of_work(timed):
    """However many looks: the work from one to the next is that of a chunk of rows."""
    model, prop = hard()
    _, watch, _ = timed(1000, model, prop)
    most = max(b - a for a, b in itertools.pairwise(watch.done))
    # A few passes through three layers there and back, and the corners of a linear program.
    assert 0 < most <= 20 * CHUNK[1]


def test_a_mixed_integer_program_is_given_what_is_left(timed):
    model, prop = hard()
    for looks in (3, 13, 34):
        answer, watch, limits = timed(looks, model, prop, "milp")
        assert (answer.verdict, LATE in answer.note) == ("open", True)
        assert watch.work[True] <= CHUNK[1]
        assert not [limit for limit, over in limits if limit > 0.01 * over + 100 * (not over)]


def test_chunks():
    assert [chunk(width) for width in (0, 1, 2**11, 2**14, 2**30)] == [256, 256, 128, 16, 16]
    for n, size in ((0, 3), (1, 3), (6, 3), (7, 3)):
        assert [i for some in slices(n, size) for i in range(n)[some]] == list(range(n))


def test_a_clock(monkeypatch):
    watch = Watch(2)
    monkeypatch.setattr(clock, "time", watch)
    ticking = clock.Clock(5)
    assert not ticking.late
    assert ticking.late
    with pytest.raises(TimeoutError, match="too late"):
        ticking.check("too late")
    assert clock.Clock().left == math.inf


FAKE = """
import time
class Options: pass
class Equation:
    EQ = LE = 0
    def __init__(self, kind): pass
    def addAddend(self, weight, variable): pass
    def setScalar(self, value): pass
class InputQuery:
    def __getattr__(self, name): return lambda *given: None
def addReluConstraint(*given): pass
def solve(query, options, name):
    print("Marabou is talking")
    {does}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """In place of Marabou a module that does what is given."""

    def made(does):
        folder = tmp_path / "maraboupy"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "MarabouCore.py").write_text(FAKE.format(does=does))
        for name in ("maraboupy", "maraboupy.MarabouCore"):
            monkeypatch.delitem(importlib.import_module("sys").modules, name, raising=False)
        monkeypatch.syspath_prepend(tmp_path)

    return made


def asked(time_limit=600.0):
    model = models.wrap(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval(), input_shape=(1, 1, 2))
    box = torch.zeros(1, 1, 2), torch.ones(1, 1, 2)
    prop = Property(*box, ((torch.zeros(1, 2), torch.zeros(1)),))  # every image breaks it
    return prove(model, prop, backend="marabou", time_limit=time_limit)


def test_marabou_answers_from_a_process_of_its_own(fake):
    fake("return 'sat', {0: 0.25, 1: 0.75}, None")
    assert asked().counterexample.flatten().tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("does", "verdict", "note"),
    [
        ("return 'unsat', {}, None", "proved", ""),
        ("return 'TIMEOUT', {}, None", "open", "Marabou says TIMEOUT"),
    ],
)
def test_what_marabou_says(fake, does, verdict, note):
    fake(does)
    answer = asked()
    assert (answer.verdict, answer.note) == (verdict, note)


def test_marabou_that_looks_at_no_clock_is_ended(fake):
    fake("time.sleep(600); return 'unsat', {}, None")
    answer = asked(1.0)
    assert (answer.verdict, answer.note) == ("open", LATE)


def test_marabou_that_fails_is_said(fake):
    fake("raise MemoryError('no room')")
    with pytest.raises(RuntimeError, match="backend: Marabou failed: MemoryError: no room"):
        asked()
    with pytest.raises(TimeoutError, match=LATE):
        marabou.solve("{}", [], 0.0, -1.0)
