"""The bench on networks of the size that people have; passes are counted, seconds are not."""

import pytest
import torch
from foreign_nets import KINDS, resnet20, transformers_net
from workbench.widgets import (
    Bench,
    ConceptPanel,
    EvaluationPanel,
    ProofPanel,
    RegionPanel,
)

from workbench import attacks, data, levelsets, models, saliency

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the logits of")]
FIRST, NEXT = 5, 4  # passes that the panels need for the first frame, and for another image
BYTES = 1_500_000  # of the page


@pytest.fixture(scope="module")
def photos():
    """Smooth pictures without labels."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(3, 3, 7, 7, generator=generator)
    pictures = torch.nn.functional.interpolate(coarse, 224, mode="bicubic").clamp(0, 1)
    return data.ImageDataset.from_arrays(pictures, name="photographs")


def counted(model):
    """The list to which every image asked of the model adds one."""
    asked = []
    model.body.register_forward_hook(lambda module, given, _: asked.extend(given[0]))
    return asked


@pytest.mark.parametrize("name", [*KINDS, "resnet20"])
def test_the_bench_asks_few_passes_and_stays_small(name, photos):
    if name == "resnet20":
        module, photos = resnet20(), data.ImageDataset.from_arrays(photos.images[:, :, ::7, ::7])
    else:
        pytest.importorskip("transformers", reason="needs transformers")
        module = transformers_net(name)
    model = models.wrap(module, input_shape=photos.shape, name=name)
    asked = counted(model)
    bench = Bench(photos, model, auto=False)
    page = bench._repr_mimebundle_()["text/html"]
    assert "panel-failure" not in page
    assert len(page) < BYTES
    assert len(asked) <= FIRST
    asked.clear()
    bench.selection.index = 1
    assert bench.wait(120)
    assert [panel.result.index for panel in bench.panels.values()] == [1] * 6
    assert len(asked) <= NEXT
    assert "panel-failure" not in bench.to_html()
    if name != "resnet20":
        bench.show("attack")
        target = bench.panels["attack"].form.controls["target"]
        assert type(target).__name__ == "Combobox"
        assert len(target.options) == 1000


@pytest.fixture(scope="module")
def mobilenet(photos):
    pytest.importorskip("transformers", reason="needs transformers")
    net, generator = transformers_net("mobilenet"), torch.Generator().manual_seed(0)
    for module in net.modules():  # so wide that an image leaves a trace in the logits
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, generator=generator)
    return models.wrap(net, input_shape=photos.shape, name="mobilenet")


@pytest.mark.parametrize("kind", [ConceptPanel, EvaluationPanel, RegionPanel, ProofPanel])
def test_every_other_panel_fits_or_says_why(kind, photos, mobilenet):
    panel = kind(photos, mobilenet)
    shown = panel._repr_mimebundle_()["text/html"]
    assert len(shown) < BYTES
    if kind is RegionPanel:
        assert "MobileNetV2" in shown or "mobilenet" in shown
        assert panel.result.refused


@pytest.mark.parametrize(
    ("work", "most"),
    [
        (lambda m, x, y: attacks.PGD(eps=1e-6, n_steps=3).steps(m, x, y), 2),
        (lambda m, x, y: attacks.DDN(n_steps=3).steps(m, x, y), 2),
        (lambda m, x, y: attacks.APGD(eps=1e-6, n_steps=3).steps(m, x, y), 2),
        (lambda m, x, y: levelsets.LevelSetTraversal(n_steps=3).steps(m, x, x.flip(3)), 3),
        (lambda m, x, y: saliency.method("integrated gradients").steps(m, x), 9),
    ],
)
def test_work_can_be_cancelled_between_two_passes(work, most, photos, mobilenet):
    x, y = photos.images[:1], mobilenet.predict(photos.images[:1]).label
    asked, spent = counted(mobilenet), []
    for _ in work(mobilenet, x, y):
        spent.append(len(asked))
        asked.clear()
    assert len(spent) >= 3
    assert max(spent) <= most
