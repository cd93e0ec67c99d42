"""CompressionPanel: networks from mild to strong, a slider that asks no model, the bench."""

import pytest
import torch
from torch import nn
from workbench.widgets import CompressionPanel

from workbench import data, models

QUICK = {"n": 30, "timed": False}


pytestmark = pytest.mark.usefixtures("home")  # what a panel makes is kept there


@pytest.fixture
def ran():
    panel = CompressionPanel("digits", "digits/cnn", 3, **QUICK)
    assert panel.widget is not None
    panel.run()
    return panel


def test_the_slider_goes_over_what_was_made_without_asking_a_model(ran, monkeypatch):
    assert (ran.slide.max, ran.slide.disabled) == (6, False)
    monkeypatch.setattr(models.Classifier, "forward", None)  # whoever asks one now fails
    pictures = []
    for place in (1, 6, 3):
        ran.slide.value = place
        assert not ran.message.value
        pictures.append(ran.view.value)
    assert "Quantise(bits=2)" in pictures[1]
    assert "Quantise(bits=5)" in pictures[2]
    assert len(set(pictures)) == 3


def test_fewer_bits_are_fewer_bytes_and_as_many_multiply_adds(ran):
    costs = [one.member.cost for one in ran.result.looked]
    assert [c.bytes for c in costs] == sorted((c.bytes for c in costs), reverse=True)
    assert len({c.macs for c in costs}) == 1
    parent = ran.result.looked[0]
    assert parent.agreement.eq(1).all()


def test_time_is_told_where_it_is_measured():
    panel = CompressionPanel("digits", "digits/cnn", n=10, timed=True)
    panel.run()
    assert "milliseconds, measured" in panel.view.value


def test_parent_and_child_open_on_the_bench(ran):
    ran.slide.value = 6
    bench = ran.open()
    bench.stop()
    assert bench.wait(60)
    assert bench.selection.model == "digits/cnn"
    looks = bench.panels["model"].run().looks
    names = [look.model.card.name for look in looks]
    assert names == ["digits/cnn", "digits/cnn | Quantise(bits=2)"]


def test_nothing_made_and_nothing_to_make_are_said():
    panel = CompressionPanel("digits", "digits/cnn", **QUICK)
    with pytest.raises(RuntimeError, match="nothing was made yet: press Make smaller"):
        panel.open()
    digits = data.load("digits")
    bare = models.wrap(nn.Flatten(), input_shape=(1, 1, 10), classes=digits.classes, name="bare")
    images = data.ImageDataset(torch.rand(4, 1, 1, 10), torch.arange(4), digits.classes, "own")
    with pytest.raises(ValueError, match="Quantise: the model has no linear or conv"):
        CompressionPanel(images, bare)
