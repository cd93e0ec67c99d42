"""A network that says the next token, on the bench: attacks, directions, patterns, attributions."""

import pytest
import torch
from workbench.widgets import Bench, ModelPanel

from workbench import attacks, concepts, patterns, saliency, spaces
from workbench.reasoning import Reader, TinyGPT, learn

WORDS = ("the", "a", "cat", "dog", "cow", "bird", "says", "meow", "woof", "moo", "tweet", "old")
ANIMALS = ("cat", "dog", "cow", "bird")
SOUNDS = ("meow", "woof", "moo", "tweet")
SAID = [f"{a} {b} {c} says" for a in ("the", "a") for b in ("old", "the", "a") for c in ANIMALS]


@pytest.fixture(scope="module")
def reads():
    """A network that knows what each animal says, its space and its classifier."""
    index = {word: i for i, word in enumerate(WORDS)}
    rows = [[index[w] for w in s.split()] for s in SAID]
    whole = torch.tensor(
        [[*r, index[SOUNDS[ANIMALS.index(s.split()[2])]]] for r, s in zip(rows, SAID, strict=True)]
    )

    def batch(draw):
        tokens = whole[torch.randint(len(whole), (32,), generator=draw)]
        mask = torch.zeros_like(tokens, dtype=torch.bool)
        mask[:, -1] = True
        return tokens, mask

    torch.manual_seed(0)
    gpt = TinyGPT(len(WORDS), 5, width=16)
    learn(gpt, batch, steps=80)
    space = spaces.tokens(gpt.token.weight, WORDS, 4, fixed=[3])
    answers = torch.tensor([index[w] for w in SOUNDS])
    model = space.classifier(Reader(gpt, answers), SOUNDS, name="sounds")
    x = space.encode(SAID)
    y = torch.tensor([ANIMALS.index(s.split()[2]) for s in SAID])
    return gpt, space, model, space.dataset(x, y, SOUNDS, name="animals")


def test_a_reader_says_what_the_network_says_of_tokens(reads):
    gpt, space, model, images = reads
    z = gpt(space.tokens(images.images))[:, -1]
    answers = model.body[1].answers
    assert torch.allclose(model(images.images), z[:, answers], atol=1e-4)
    assert (model.predict(images.images).label == images.labels).all()


def test_an_attack_moves_tokens_that_may_move_and_counts_where_sentences_exist(reads):
    _, space, model, images = reads
    result = attacks.PGD(eps=0.4)(model, images.images, images.labels)
    exist = space.existing(result.x_adv, images.images)
    before, after = space.tokens(images.images), space.tokens(exist)
    assert torch.equal(before[:, 3], after[:, 3]), "'says' may not move"
    others = model.predict(exist).label != images.labels
    assert torch.equal(result.existing.success, others)
    assert result.success.any()


def test_a_sparse_autoencoder_reads_the_residual_stream(reads):
    _, _, model, images = reads
    fit = concepts.fit_sae(model, images.images, "1.gpt.blocks.1", latents=32, k=4, epochs=200)
    splice = concepts.splice(model, images.images, fit)
    assert splice.summary()["agreement"] == 1.0
    assert splice.fvu < 0.2
    first = concepts.fit_sae(model, images.images, "1.gpt.blocks.1", latents=32, k=4, epochs=1)
    assert concepts.splice(model, images.images, first).fvu > 2 * splice.fvu, "it has learned"


def test_neurons_of_its_layers_make_patterns(reads):
    _, _, model, images = reads
    layer = "1.gpt.blocks.0.act"
    with pytest.warns(UserWarning, match="nothing can be proved from it"):
        mined = patterns.mine(model, images, 0.9, layers=[layer])
    quality = patterns.quality(mined, model, images)
    assert torch.equal(quality.follows, 6 * torch.eye(4, dtype=torch.int64))


def test_hiding_a_token_is_what_the_score_loses_without_it(reads):
    _, space, model, images = reads
    x, y = images.images, images.labels
    said = vars(saliency.method("occlusion")(model, x, y))["values"]
    rest = space.points(space.embedding.mean(0).expand(1, 4, 16))
    for token in range(4):
        hidden = x.clone()
        hidden[:, :, token] = rest[:, token]
        with torch.no_grad():
            lost = (model(x) - model(hidden))[range(len(x)), y]
        assert torch.allclose(said[:, token].sum(1), lost, atol=1e-4)
        assert torch.allclose(said[:, token], said[:, token, :1].expand(-1, 16))
    assert (said.sum(2)[:, :3].argmax(1) == 2).all(), "of what comes before, the animal counts"


def test_gradients_are_gathered_from_where_nothing_is_said(reads):
    _, space, model, images = reads
    x, y = images.images[:6], images.labels[:6]
    said = vars(saliency.method("integrated gradients", n_steps=256)(model, x, y))["values"]
    rest = space.rest[None].expand(6, -1, -1, -1)
    with torch.no_grad():
        gained = (model(x) - model(rest))[range(6), y]
    assert torch.allclose(said.sum((1, 2)), gained, atol=0.05)


def test_the_bench_stands_on_sentences(reads):
    _, _, model, images = reads
    panel = ModelPanel(images, model, 3, method="occlusion")
    panel.run()
    assert "the old bird says" in panel.to_html()
    bench = Bench(images, model, 3)
    for one in bench.panels.values():
        one.attempt()
        assert "panel-failure" not in one.to_html(), one.title
    bench.stop()
