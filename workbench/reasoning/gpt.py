"""`TinyGPT`: a transformer that says the next token, small enough to be read and trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from workbench import checks
from workbench.steps import Step, work


class Block(nn.Module):
    """Attention to what came before, then a layer of neurons, each beside what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.act, self.down = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The residual stream `(N, T, width)` after the block."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        heard = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(heard.transpose(1, 2).reshape(n, t, width))
        return x + self.down(self.act(self.up(self.norm2(x))))


class TinyGPT(nn.Module):
    """Tokens to the logits of the token that follows each (Radford et al., 2018).

    vocabulary: how many tokens; length: of the longest text.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int = 48, depth: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.length = length
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def stream(self, tokens: torch.Tensor) -> torch.Tensor:
        """The residual stream `(N, T, width)` after the last block, of tokens int64 `(N, T)`.

        Raises:
            ValueError: a longer text than the model has places for.
        """
        if tokens.shape[1] > self.length:
            raise ValueError(f"tokens: expected at most {self.length}, got {tokens.shape[1]}")
        return self.within(self.token(tokens))

    def within(self, embedded: torch.Tensor) -> torch.Tensor:
        """The residual stream of embeddings `(N, T, width)`, such as points between tokens."""
        places = torch.arange(embedded.shape[1], device=embedded.device)
        return self.blocks(embedded + self.place(places))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits `(N, T, V)` of what follows each of the tokens `(N, T)`."""
        return self.head(self.norm(self.stream(tokens)))


class Reader(nn.Module):
    """Which of some tokens follows a sentence, given as embeddings `(N, 1, T, width)`: `(N, K)`.

    With it a network that says the next token stands on the bench: `space.classifier(Reader(gpt,
    answers), words)`, where `space = spaces.tokens(gpt.token.weight, vocabulary, length)`.
    answers: int64 `(K,)`, tokens.
    """

    answers: torch.Tensor

    def __init__(self, gpt: TinyGPT, answers: torch.Tensor) -> None:
        super().__init__()
        self.gpt = gpt
        self.register_buffer("answers", answers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `(N, K)` of the answers after the last token."""
        last = self.gpt.norm(self.gpt.within(x[:, 0])[:, -1])
        return self.gpt.head(last)[:, self.answers]


@work
def learn(
    model: TinyGPT,
    batch: Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]],
    *,
    steps: int,
    lr: float = 3e-3,
    seed: int = 0,
) -> Iterator[Step[list[float]]]:
    """Train on batches drawn anew; the losses so far.

    batch: from a generator to tokens `(N, T)` and a mask `(N, T)` of those that are to be learned
    (the first of a text never is). The rate goes down to zero along a cosine.
    """
    checks.positive("steps", steps)
    draw, losses = torch.Generator().manual_seed(seed), list[float]()
    optimiser = torch.optim.AdamW(model.parameters(), lr)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for n in range(1, steps + 1):
        tokens, mask = batch(draw)
        logits = model(tokens[:, :-1])
        each = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        loss = each[mask[:, 1:]].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
        losses.append(loss.item())
        yield Step(n, steps, f"loss {losses[-1]:.3f}", losses)


@torch.no_grad()
def sample(
    model: TinyGPT,
    prefix: torch.Tensor,
    n: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """`n` further tokens after each prefix `(N, T)`: int64 `(N, T + n)`.

    temperature: 0 for the likeliest token each time; else logits are divided by it.

    Raises:
        ValueError: a temperature below zero, or without a generator above it.
    """
    if temperature < 0 or (temperature and generator is None):
        raise ValueError("temperature: expected 0, or more with a generator")
    for _ in range(n):
        logits = model(prefix)[:, -1]
        if temperature:
            shares = (logits / temperature).softmax(1)
            follows = torch.multinomial(shares, 1, generator=generator)
        else:
            follows = logits.argmax(1, keepdim=True)
        prefix = torch.cat([prefix, follows], 1)
    return prefix
