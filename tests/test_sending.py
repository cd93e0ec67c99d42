"""Compressed gradients: what is sent and what waits, on networks whose gradient is known."""

import pytest
import torch
from torch import nn

from workbench import data, models
from workbench.models import Hooks, Recipe, fit
from workbench.treatments import GradientCompression, Optimiser

PLAN = Recipe(
    dataset="digits", architecture="mlp", options={"hidden": (6,)}, epochs=1, batch_size=64
)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train", limit=320)


class Kept(Hooks):
    """Keeps every gradient as the optimiser gets it, and holds the weights where they are."""

    def __init__(self):
        self.seen = []

    def gradients(self, run):
        self.seen.append({n: p.grad.clone() for n, p in run.model.named_parameters()})

    def rate(self, run):
        return 0.0


def gradients(digits, plan=PLAN, **settings):
    kept = Kept()
    hooks = [GradientCompression(**settings)] if settings else []
    done = fit(plan, digits, treatments=[*hooks, kept])
    return kept.seen, done


def test_all_that_is_sent_is_the_dense_gradient(digits):
    whole, dense = gradients(digits)
    parts, sent = gradients(digits, share=1.0)
    for a, b in zip(whole, parts, strict=True):
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    count = sum(p.numel() for p in dense.model.parameters())
    assert sent.ledger.bytes_sent == 5 * 4 * count * 4  # steps, workers, numbers, bytes
    assert dense.ledger.bytes_sent == 0
    assert dense.ledger.backwards == sent.ledger.backwards


def test_what_is_not_sent_waits(digits):
    stage, x = GradientCompression(share=0.1, workers=1), torch.Generator().manual_seed(0)
    state, given, sent = {}, torch.zeros(50), torch.zeros(50)
    for _ in range(7):
        g = torch.randn(50, generator=x)
        entries = stage.send(state, "w", g[None], 0.1)[0]
        given, sent = given + g, sent + entries
        assert int((entries != 0).sum()) == 5
        torch.testing.assert_close(sent + state["waiting w"][0], given)
    without = GradientCompression(memory=False)
    state = {}
    without.send(state, "w", g[None], 0.1)
    assert not state


def test_the_largest_are_sent_by_hand():
    stage, state = GradientCompression(momentum=0.5), {}
    first = stage.send(state, "w", torch.tensor([[3.0, -1.0, 0.5, 0.0]]), 0.25)
    assert first.tolist() == [[3, 0, 0, 0]]
    assert state["waiting w"].tolist() == [[0, -1, 0.5, 0]]
    assert state["velocity w"].tolist() == [[0, -1, 0.5, 0]]  # of what was sent it is forgotten
    # velocity -0.5 - 1 = -1.5, waiting -1 - 1.5 = -2.5
    second = stage.send(state, "w", torch.tensor([[1.0, -1.0, 0.0, 0.0]]), 0.25)
    assert second.tolist() == [[0, -2.5, 0, 0]]
    unmasked, state = GradientCompression(momentum=0.5, masking=False), {}
    unmasked.send(state, "w", torch.tensor([[3.0, -1.0]]), 0.5)
    assert state["velocity w"].tolist() == [[3, -1]]


def test_the_gradient_of_a_linear_network_is_that_of_the_formula(digits):
    """d/dW of cross-entropy is (p - y) x^T: each worker sends the largest entry of its share."""
    plan = PLAN.changed(options={"hidden": ()}, batch_size=8)
    kept, done = gradients(digits[:8], plan, share=1e-6, workers=2)
    body = done.model
    x, y = digits.images[:8], digits.labels[:8]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(plan.seed * 100_003))
    x, y = x[order], y[order]
    linear = next(m for m in body.modules() if isinstance(m, nn.Linear))
    inputs = []
    with models.heard([linear], lambda _, given, __: inputs.append(given[0].detach())):
        logits = body(x).detach()
    errors = (logits.softmax(1) - nn.functional.one_hot(y, 10)) / 8
    expected = torch.zeros_like(linear.weight)
    for rows in torch.arange(8).tensor_split(2):
        whole = errors[rows].T @ inputs[0][rows]
        at = whole.abs().argmax()
        expected.flatten()[at] += whole.flatten()[at]
    name = next(n for n, p in body.named_parameters() if p is linear.weight)
    torch.testing.assert_close(kept[0][name], expected.detach(), rtol=1e-4, atol=1e-6)


def test_more_is_sent_at_first():
    stage = GradientCompression(share=0.001, warm_up=0.4)
    shares = [stage.sent_share(p) for p in (0.0, 0.11, 0.21, 0.31, 0.4, 0.9)]
    assert shares == [0.25, 0.25**2, 0.25**3, 0.25**4, 0.001, 0.001]


def test_a_gradient_that_is_too_long_is_cut(digits):
    loose, _ = gradients(digits, share=1.0, workers=1)
    tight, _ = gradients(digits, share=1.0, workers=1, clip=1e-3)
    norms = [torch.stack([g.norm() for g in step.values()]).norm() for step in (loose[0], tight[0])]
    assert norms[0] > 1e-3
    assert float(norms[1]) == pytest.approx(1e-3, rel=1e-4)


def test_it_learns_with_a_hundredth_of_the_bytes(digits):
    plan = PLAN.changed(epochs=20, lr=0.2)
    sgd = Optimiser(name="sgd", momentum=0.0)
    dense = fit(plan, digits, treatments=[GradientCompression(share=1.0), sgd])
    few = fit(plan, digits, treatments=[GradientCompression(share=0.01), sgd])
    lost = fit(plan, digits, treatments=[GradientCompression(share=0.01, memory=False), sgd])
    assert few.ledger.bytes_sent < dense.ledger.bytes_sent / 30
    assert few.history[-1]["accuracy"] > lost.history[-1]["accuracy"] + 0.1


def test_more_workers_than_images_are_refused(digits):
    with pytest.raises(ValueError, match="workers: 8 for batches of 4 images; take fewer"):
        GradientCompression(workers=8)(PLAN.changed(batch_size=4), digits)
