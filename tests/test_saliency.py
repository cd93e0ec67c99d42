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
