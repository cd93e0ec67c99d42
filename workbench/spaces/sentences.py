"""Sentences as the embeddings of their tokens: a point between tokens is no sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from workbench import checks
from workbench.spaces.base import InputSpace


@dataclass(frozen=True, eq=False)
class Sentences(InputSpace):
    """Sentences of L tokens as embeddings `(1, L, E)`; see `tokens`."""

    kind: ClassVar[str] = "sentence"

    embedding: torch.Tensor = field(kw_only=True)
    vocabulary: tuple[str, ...] = field(kw_only=True)
    padding: str = field(kw_only=True)

    @property
    def rest(self) -> torch.Tensor:
        """The mean of all tokens, at each place."""
        return self.points(self.embedding.mean(0).expand(self.shape))

    @property
    def parts(self) -> torch.Tensor:
        """A token is one thing."""
        return torch.arange(self.shape[1])[None, :, None].expand(self.shape)

    def encode(self, sentences: Sequence[str | Sequence[str]]) -> torch.Tensor:
        """Sentences, as text with spaces or as lists of tokens, as points `(N, 1, L, E)`.

        Raises:
            ValueError: a token that is not in the vocabulary, too many of them, or too few where
                there is none to fill up with.
        """
        rows = []
        for i, sentence in enumerate(sentences):
            words = sentence.split() if isinstance(sentence, str) else [*sentence]
            for word in words:
                checks.known("token", word, self.vocabulary)
            short = self.shape[1] - len(words)
            if short < 0 or (short and not self.padding):
                raise ValueError(
                    f"sentences: {i}: expected {self.shape[1]} tokens, got {len(words)}"
                    + "; give tokens(..., padding=) a token that fills up" * (short > 0)
                )
            words += [self.padding] * short
            rows.append([self.vocabulary.index(word) for word in words])
        index = torch.tensor(rows, dtype=torch.int64).reshape(-1, self.shape[1])
        return self.points(self.embedding[index][:, None])

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """The token nearest to each embedding of points `(N, 1, L, E)`: int64 `(N, L)`."""
        values = self.values(x)[:, 0]
        return torch.cdist(values, self.embedding.to(values)).argmin(2)

    def decode(self, x: torch.Tensor) -> list[str]:
        """The sentences of the nearest tokens."""
        return [" ".join(self.vocabulary[i] for i in row) for row in self.tokens(x).tolist()]

    def nearest(self, x: torch.Tensor) -> torch.Tensor:
        """Each embedding becomes that of the nearest token."""
        index = self.tokens(x).cpu()
        return self.points(self.embedding[index][:, None]).to(x.device)

    def changes(self, x: torch.Tensor, origin: torch.Tensor) -> list[str]:
        """The tokens that are others than before, in their order: "good to bad"."""
        after, before = self.tokens(x[None])[0].tolist(), self.tokens(origin[None])[0].tolist()
        words = self.vocabulary
        pairs = zip(before, after, strict=True)
        return [f"{words[a]} to {words[b]}" for a, b in pairs if a != b]

    def words(self, x: torch.Tensor, origin: torch.Tensor | None = None) -> str:
        """The sentence of the nearest tokens; those that were exchanged in brackets."""
        words = self.decode(x[None])[0].split(" ")
        before = words if origin is None else self.decode(origin[None])[0].split(" ")
        pairs = zip(words, before, strict=True)
        return " ".join(word if word == old else f"[{word}]" for word, old in pairs)


def tokens(
    embedding: torch.Tensor,
    vocabulary: Sequence[str],
    length: int,
    *,
    padding: str = "",
    fixed: Sequence[int] = (),
) -> Sentences:
    """The space of sentences of `length` tokens.

    embedding: `(V, E)`, a row a token; vocabulary: the V tokens. One interval holds all numbers of
    the embedding and goes to [0, 1], so that distances are those of the embedding but for a
    factor. padding: the token that fills up. fixed: positions whose token may not move.

    Raises:
        ValueError: other shapes, values that are not finite, a token twice, tokens of the same
            embedding, an unknown padding, a position that is not there.
    """
    words = checks.class_names(vocabulary)
    checks.positive("length", length)
    if embedding.ndim != 2 or len(embedding) != len(words):
        raise ValueError(
            f"embedding: expected (V, E) with a row for each of {len(words)} tokens, "
            f"got {tuple(embedding.shape)}"
        )
    embedding = embedding.detach().float().cpu()
    if not bool(embedding.isfinite().all()) or len(embedding.unique(dim=0)) < len(words):
        raise ValueError("embedding: expected finite rows, each another")
    if padding:
        checks.known("token", padding, words)
    if any(not 0 <= i < length for i in fixed):
        raise ValueError(f"fixed: expected positions 0 to {length - 1}, got {[*fixed]}")
    shape = (1, length, embedding.shape[1])
    low, high = embedding.min(), embedding.max()
    free = torch.ones(shape, dtype=torch.bool)
    free[0, list(fixed)] = False
    names = tuple(f"token {i}, {j}" for i in range(length) for j in range(shape[2]))
    unit = (high - low).expand(shape).contiguous()
    known = (names, low.expand(shape).contiguous(), unit, free)
    return Sentences(*known, embedding=embedding, vocabulary=words, padding=padding)
