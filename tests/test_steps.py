import pytest

from workbench.params import Parameters
from workbench.steps import Step, run


def count(n):
    for i in range(n):
        yield Step(i + 1, n, f"at {i}", i)


def test_run_returns_the_last_value():
    assert run(count(5)) == 4


@pytest.mark.parametrize("steps", [iter(()), iter([Step(1, 1, "nothing", None)])])
def test_run_refuses_work_without_a_result(steps):
    with pytest.raises(RuntimeError, match="without a result"):
        run(steps)


def test_progress_counts_what_is_done(monkeypatch):
    import tqdm.auto

    seen = []

    class Bar(tqdm.auto.tqdm):
        def update(self, n=1):
            seen.append(n)
            return super().update(n)

    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    run(iter([Step(3, 10, "", 0), Step(4, 10, "", 0), Step(10, 10, "", 0)]))
    assert sum(seen) == 10


class Example(Parameters):
    eps: float = 0.1
    steps: int = 5


def test_parameters_name_the_field_the_value_and_what_was_expected():
    with pytest.raises(ValueError, match=r"Example: steps: .*integer.*got 'many'"):
        Example(steps="many")
    with pytest.raises(ValueError, match="epss: no such parameter"):
        Example(epss=1.0)
    with pytest.raises(ValueError, match=r"eps: .*finite"):
        Example(eps=float("nan"))


def test_parameters_are_frozen_and_print_as_code():
    example = Example(eps=0.2)
    with pytest.raises(ValueError, match="frozen"):
        example.eps = 0.3
    assert example.code() == "Example(eps=0.2)"
    assert eval(example.code()) == example
    assert Example().changes() == {}
