"""Denoisers: identities in closed form, the same seed the same result, what is refused."""

import pytest
import torch

from workbench import data, denoisers


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train")[:64]


@pytest.fixture(scope="module")
def network(digits):
    return denoisers.fit(digits, n_steps=200, width=8, batch_size=16)


def noisy(digits, n=1):
    images = digits.images[:n]
    return images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def test_without_biases_the_jacobian_times_the_image_is_the_output(network, digits):
    y = noisy(digits)
    found = denoisers.basis(network, y)
    out = network(y).detach().flatten()
    torch.testing.assert_close(found.jacobian @ y.flatten(), out, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(3 * y), 3 * network(y), atol=1e-5, rtol=1e-4)
    assert not any("bias" in name for name, _ in network.named_parameters())


def gaussian(size=4, seed=0):
    """A covariance, and its Wiener filter for images of mean 0 with noise sigma."""
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(size**2, size**2, generator=draw).double()
    return a @ a.T / size**2, torch.randn(3, 1, size, size, generator=draw).double()


def test_score_of_a_gaussian():
    covariance, y = gaussian()
    total = covariance + 0.25 * torch.eye(16).double()
    wiener = covariance @ torch.linalg.inv(total)
    exact = torch.distributions.MultivariateNormal(torch.zeros(16).double(), total)
    at = y.flatten(1).requires_grad_()
    (slope,) = torch.autograd.grad(exact.log_prob(at).sum(), at)
    found = denoisers.score(lambda v: (v.flatten(1) @ wiener.T).view_as(v), y, 0.5)
    torch.testing.assert_close(found.flatten(1), slope)


def test_basis_of_a_linear_filter_is_its_own():
    covariance, y = gaussian()
    found = denoisers.basis(lambda v: (v.flatten(1) @ covariance.T).view_as(v), y[:1])
    vectors = found.vectors.flatten(1)
    torch.testing.assert_close(vectors.T @ (found.values[:, None] * vectors), covariance)
    assert found.vectors.shape == (16, 1, 4, 4)
    assert bool((found.values.diff() <= 0).all())
    assert found.asymmetry < 1e-12
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
    turned = denoisers.basis(lambda v: (v.flatten(1) @ turn.T).view_as(v), torch.ones(1, 1, 1, 2))
    assert turned.asymmetry == pytest.approx(2)


def test_training_lowers_the_error(network, digits):
    y = noisy(digits, 64)
    error = (network(y) - digits.images).square().mean()
    assert error < 0.9 * (y - digits.images).square().mean()


def test_same_seed_same_result(digits):
    state = torch.get_rng_state()
    one, two, other = (
        denoisers.fit(digits, n_steps=5, width=4, batch_size=8, seed=seed) for seed in (3, 3, 4)
    )
    pairs = list(zip(one.parameters(), two.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.last.weight, other.last.weight)
    images = [denoisers.sample(one, (1, 8, 8), n=2, n_steps=5, seed=s) for s in (1, 1, 2)]
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"


def test_samples_go_to_the_only_image_that_there_is():
    image = torch.linspace(0, 1, 16).view(1, 1, 4, 4)
    found = denoisers.sample(lambda y: image.expand_as(y), (1, 4, 4), n=3, n_steps=20)
    assert torch.equal(found, image.expand(3, 1, 4, 4))


@pytest.mark.parametrize("n_steps", [1, 20])
def test_the_noise_falls_to_what_was_asked_for(n_steps):
    seen = []

    def one_image(y):
        seen.append(float((y - 0.5).std()))
        return torch.full_like(y, 0.5)

    denoisers.sample(one_image, (1, 16, 16), n=20, n_steps=n_steps, end=0.1)
    expected = [0.1 ** (i / n_steps) for i in range(n_steps)]
    assert seen == pytest.approx(expected, rel=0.03)


def test_samples_step_by_step_and_ended_early(network):
    steps = list(denoisers.sample.steps(network, (1, 8, 8), n=2, n_steps=6))
    assert [(s.done, s.total) for s in steps] == [(i, 6) for i in range(1, 7)]
    for step in steps:
        assert step.value.shape == (2, 1, 8, 8)
        assert 0 <= float(step.value.min()) <= float(step.value.max()) <= 1
    whole = denoisers.sample(network, (1, 8, 8), n=2, n_steps=6)
    assert torch.equal(whole, steps[-1].value)


def test_training_ended_early_keeps_the_network(digits):
    steps = denoisers.fit.steps(digits, n_steps=100, width=4, batch_size=8)
    part = next(steps)
    steps.close()
    assert (part.done, part.total) == (1, 100)
    assert part.value(digits.images[:2]).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 9, 16)])
def test_images_of_any_size_and_colour(shape):
    images = torch.rand(12, *shape, generator=torch.Generator().manual_seed(0))
    own = data.ImageDataset(images, torch.full((12,), -1), ())
    network = denoisers.fit(own, n_steps=2, width=4, batch_size=4)
    assert network(images).shape == images.shape
    assert denoisers.sample(network, shape, n=1, n_steps=2).shape == (1, *shape)


def test_what_is_refused(network, digits):
    with pytest.raises(ValueError, match=r"expected noisy images \(N, 1, 8, 8\), got \(1, 1, 9"):
        network(torch.zeros(1, 1, 9, 9))
    with pytest.raises(ValueError, match="take y\\[:1\\]"):
        denoisers.basis(network, digits.images[:2])
    for name, value in {"n_steps": 0, "width": 0, "levels": 0, "batch_size": 0}.items():
        with pytest.raises(ValueError, match=name):
            denoisers.fit(digits, **{name: value})
    with pytest.raises(ValueError, match="number of images"):
        denoisers.fit(digits[:0], n_steps=1)
    with pytest.raises(ValueError, match="noise: expected"):
        denoisers.fit(digits, noise=(0.5, 0.1))
    for name, value in {"n": 0, "n_steps": 0, "beta": 1.5, "end": 0.0}.items():
        with pytest.raises(ValueError, match=f"{name}: expected"):
            denoisers.sample(network, (1, 8, 8), **{name: value})


def test_a_rate_that_diverges_is_named(digits):
    with pytest.raises(ValueError, match="lower lr=1e\\+30"):
        denoisers.fit(digits, n_steps=20, width=4, batch_size=8, lr=1e30)
