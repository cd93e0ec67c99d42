import pytest
import torch
from torch import nn

from workbench import data, models, saliency


@pytest.fixture(scope="module")
def model():
    return models.load("digits/cnn")


@pytest.fixture(scope="module")
def x():
    return data.load("digits").images[:3]


def linear_model():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return models.wrap(module, input_shape=(1, 4, 4)), module[1].weight.detach()


def test_gradient_of_a_linear_model_is_its_weights():
    model, w = linear_model()
    target = torch.tensor([1, 2])
    found = saliency.Gradient()(model, torch.rand(2, 1, 4, 4), target)
    assert torch.allclose(found.values, w[target].abs().view(2, 4, 4))


def test_integrated_gradients_of_a_linear_model_are_weights_times_pixels():
    model, w = linear_model()
    x = torch.rand(2, 1, 4, 4)
    found = saliency.IntegratedGradients()(model, x, torch.tensor([0, 2]))
    assert torch.allclose(found.values, w[[0, 2]].view(2, 4, 4) * x[:, 0], atol=1e-5)


def test_integrated_gradients_add_up_to_the_score_and_agree_with_captum(model, x):
    from captum.attr import IntegratedGradients

    target = model.predict(x).label
    found = saliency.IntegratedGradients(n_steps=512)(model, x, target)
    rows = torch.arange(len(x))
    gained = (model(x) - model(torch.zeros_like(x)))[rows, target].detach()
    assert torch.allclose(found.values.sum((1, 2)), gained, atol=0.02 * float(gained.abs().max()))
    whole = IntegratedGradients(model).attribute(x, target=target, n_steps=512).sum(1)
    assert torch.allclose(found.values, whole.float(), atol=0.02)


def test_occlusion_of_one_pixel_windows_is_the_fall_of_the_score():
    model, w = linear_model()
    x = torch.rand(2, 1, 4, 4)
    target = torch.tensor([0, 1])
    found = saliency.Occlusion(window=1, stride=1)(model, x, target)
    expected = w[target].view(2, 4, 4) * (x[:, 0] - 0.5)
    assert torch.allclose(found.values, expected, atol=1e-5)


def test_occlusion_agrees_with_captum(model, x):
    from captum.attr import Occlusion

    target = model.predict(x).label
    found = saliency.Occlusion(window=2, stride=2)(model, x, target)
    whole = Occlusion(model).attribute(
        x, sliding_window_shapes=(1, 2, 2), strides=(1, 2, 2), baselines=0.5, target=target
    )
    assert torch.allclose(found.values, whole[:, 0].float(), atol=1e-5)


@pytest.mark.parametrize("name", saliency.METHODS)
def test_every_method_gives_one_map_an_image_and_leaves_the_model(name, model, x):
    before = [p.grad for p in model.parameters()]
    assert before == [None] * len(before)
    found = saliency.method(name)(model, x)
    assert found.values.shape == (3, 8, 8)
    assert torch.equal(found.target, model.predict(x).label)
    assert bool(found.values.isfinite().all())
    assert found.signed or float(found.values.min()) >= 0
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert len(found.frame()) == 3
    assert found.summary()["highest"] == float(found.values.max())


def test_steps_can_be_stopped_and_leave_no_hooks(model, x):
    steps = saliency.IntegratedGradients(n_steps=64).steps(model, x)
    first = next(steps)
    assert (first.done, first.total) == (1, 8)
    steps.close()
    assert not any(m._forward_hooks for m in model.modules())


def test_what_does_not_fit_is_refused_with_a_reason(x):
    mlp = models.load("digits/mlp")
    with pytest.raises(ValueError, match="digits/mlp has no convolution"):
        saliency.GradCAM()(mlp, x)
    with pytest.raises(ValueError, match="larger than the image"):
        saliency.Occlusion(window=9)(mlp, x)
    with pytest.raises(ValueError, match="Did you mean 'occlusion'"):
        saliency.method("occlusions")
    with pytest.raises(ValueError, match="target"):
        saliency.Gradient()(mlp, x, torch.tensor([10, 0, 0]))


# Grad-CAM looks at layers as they run.


class Shortcut(nn.Module):
    """A shortcut that is defined last and runs first; one ReLU, that may work in place."""

    def __init__(self, inplace=False):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.gate = nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 1)
        self.out, self.spare, self.short = nn.Linear(4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(1, 4, 1)

    def forward(self, x):
        kept = self.short(x)
        x = self.relu(self.b(self.relu(self.a(x))) + kept)
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()  # squeeze and excite
        return self.out(x.mean((2, 3)))


def shortcut(inplace=False):
    torch.manual_seed(0)
    return models.wrap(Shortcut(inplace).eval(), input_shape=(1, 8, 8))


def test_the_last_convolution_is_the_last_that_ran_and_has_places(x):
    model = shortcut()
    assert saliency.convolutions(model) == ["short", "a", "b"]  # the gate has one place
    found = saliency.GradCAM()(model, x)
    assert torch.equal(found.values, saliency.GradCAM(layer="b")(model, x).values)
    assert not torch.equal(found.values, saliency.GradCAM(layer="short")(model, x).values)


@pytest.mark.parametrize("layer", ["a", "short", "b"])
def test_gradcam_agrees_with_captum_also_before_a_relu_in_place(model, x, layer):
    from captum.attr import LayerGradCam

    target = torch.tensor([0, 1, 2])
    for net, name in ((model, "conv2"), (shortcut(), layer)):
        coarse = LayerGradCam(net, net.layer(name)).attribute(x, target, relu_attributions=True)
        whole = nn.functional.interpolate(coarse.detach(), (8, 8), mode="bilinear")[:, 0]
        found = saliency.GradCAM(layer=name)(net, x, target).values
        assert torch.allclose(found, whole, atol=1e-6)
        assert float(found.max()) > 0
    assert torch.equal(found, saliency.GradCAM(layer=layer)(shortcut(True), x, target).values)


def test_one_call_of_a_shared_convolution_is_explained(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(64, 3)

        def forward(self, x):
            return self.out(self.conv(self.conv(x).relu()).flatten(1))

    model = models.wrap(Twice().eval(), input_shape=(1, 8, 8))
    assert saliency.convolutions(model) == ["conv", "conv#2"]
    target = torch.tensor([0, 1, 2])
    found = saliency.GradCAM()(model, x, target)
    maps = model.body.conv(model.body.conv(x).relu())
    slope = model.body.out.weight[target].mean(1)[:, None, None]
    assert torch.allclose(found.values, (slope * maps[:, 0]).relu(), atol=1e-6)
    other = saliency.GradCAM(layer="conv")(model, x, target).values
    assert not torch.allclose(found.values, other, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (
            "out",
            r"layer: expected one that gives maps .* out gives \(3,\); the last .*: short, a, b",
        ),
        ("gate", r"layer: expected one that gives maps .* gate gives \(4, 1, 1\)"),
        ("spare", "layer: spare does not run"),
        ("conv9", "unknown layer of my model 'conv9'"),
        ("relu#3", "layer: relu runs 2 times a pass, got 'relu#3'"),
    ],
)
def test_a_layer_that_cannot_be_looked_at_is_refused_by_name(layer, reason, x):
    with pytest.raises(ValueError, match=reason):
        saliency.GradCAM(layer=layer)(shortcut(), x)


def test_a_layer_beside_the_way_to_the_logits_is_refused(x):
    class Beside(Shortcut):
        def forward(self, x):
            self.spare(x.repeat(1, 4, 1, 1))
            return super().forward(x)

    model = models.wrap(Beside().eval(), input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="layer: spare runs, but the logits do not depend on it"):
        saliency.GradCAM(layer="spare")(model, x)


def test_the_patches_of_a_transformer_come_with_a_word(recwarn):
    vit, images = models.load("shapes/vit"), data.load("shapes").images[:2]
    saliency.GradCAM()(vit, images)
    assert "is the last convolution of shapes/vit, and" in str(recwarn.pop(UserWarning).message)
    saliency.GradCAM()(models.load("shapes/resnet"), images)
    assert not recwarn


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_model_has_no_layers_to_explain(x):
    model = models.wrap(torch.jit.script(Shortcut().eval()), input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="GradCAM: model: my model is compiled"):
        saliency.GradCAM()(model, x)
    assert saliency.Gradient()(model, x).values.shape == (3, 8, 8)


# Large images.


class Mean(nn.Module):
    """Logits that are sums of the left and of the right half; counts its passes."""

    def __init__(self):
        super().__init__()
        self.scale, self.sizes = nn.Parameter(torch.ones(2)), []

    def forward(self, x):
        self.sizes.append(len(x))
        left, right = x.sum(1).chunk(2, dim=2)
        return torch.stack([left.sum((1, 2)), right.sum((1, 2))], 1) * self.scale


@pytest.mark.parametrize(
    ("side", "window", "stride"), [(8, 4, 2), (28, 4, 2), (32, 4, 2), (64, 8, 4), (224, 28, 14)]
)
def test_the_window_grows_with_the_image_unless_it_is_given(side, window, stride):
    model = models.wrap(Mean(), input_shape=(1, side, side))
    method = saliency.Occlusion()
    assert method.sides(model) == (window, stride)
    assert f"window {window}, stride {stride}" in method.about(model)
    assert ((side - window) // stride + 1) ** 2 <= 225
    assert saliency.Occlusion(window=6).sides(model) == (6, 3)
    assert saliency.Occlusion(window=5, stride=1).sides(model) == (5, 1)


def test_occlusion_of_uneven_windows_in_small_passes(monkeypatch):
    from workbench.models import batching

    monkeypatch.setattr(batching, "VALUES", 3 * 49)  # three images of 7 x 7
    model = models.wrap(Mean(), input_shape=(1, 7, 7))
    x, target = torch.rand(5, 1, 7, 7), torch.tensor([0, 1, 0, 1, 0])
    model.body.sizes.clear()
    work = list(saliency.Occlusion(window=4, stride=2).steps(model, x, target))
    # Places 0, 2 and 3 down and across; the windows go in rows of three, one image each.
    assert max(model.body.sizes) <= 3
    assert [step.done for step in work][-1] == work[-1].total == 2 * 9
    half = torch.zeros(5, 7, 7)
    half[target == 0, :, :4], half[target == 1, :, 4:] = 1, 1  # which pixels count for the class
    gone = (x[:, 0] - 0.5) * half
    expected, times = torch.zeros(5, 7, 7), torch.zeros(7, 7)
    for top in (0, 2, 3):
        for left in (0, 2, 3):
            place = slice(top, top + 4), slice(left, left + 4)
            expected[:, *place] += gone[:, *place].sum((1, 2))[:, None, None]
            times[place] += 1
    assert torch.allclose(work[-1].value.values, expected / times, atol=1e-5)


@pytest.mark.parametrize("name", saliency.METHODS)
def test_many_large_images_are_explained_a_few_at_a_time(name, monkeypatch, model, x):
    from workbench.models import batching

    whole = saliency.method(name)(model, x)
    monkeypatch.setattr(batching, "VALUES", 64)  # one image a pass
    steps = list(saliency.method(name).steps(model, x))
    assert len(steps) >= 3
    assert torch.allclose(steps[-1].value.values, whole.values, atol=1e-5)
    assert torch.equal(steps[0].value.values[1:], torch.zeros(2, 8, 8))
    assert torch.equal(steps[-1].value.target, whole.target)


class Codes(nn.Module):
    """Whole numbers of an image: no gradient goes back to it, though one goes to the weights."""

    def forward(self, x):
        return (x > 0.5).float()


@pytest.mark.parametrize("kind", [saliency.Gradient, saliency.IntegratedGradients])
def test_a_model_without_a_gradient_is_named_and_occlusion_goes_on(kind):
    module = nn.Sequential(Codes(), nn.Flatten(), nn.Linear(64, 3))
    model = models.wrap(module, input_shape=(1, 8, 8))
    with pytest.raises(ValueError, match="no gradient; take Occlusion, which asks for answers"):
        kind()(model, torch.rand(2, 1, 8, 8))
    assert saliency.Occlusion()(model, torch.rand(2, 1, 8, 8)).values.any()
