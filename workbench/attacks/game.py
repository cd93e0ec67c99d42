"""The two-player game of the feature-guided attack, on one image (Wicker et al., 2018)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

LEAST_SIDE = 50  # smaller images are enlarged before features are looked for, as in the paper


def saliency(image: np.ndarray, uniform: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of an image `(C, H, W)`: the weight of each feature `(K,)`, and of each pixel to it.

    The latter, `(K, H * W)`, is a Gaussian around the feature, as wide as its size. With
    `uniform`, or where there is no feature, the whole image is one, all pixels alike.
    """
    found = np.zeros((0, 4)) if uniform else keypoints(image.mean(0, dtype=np.float64))
    height, width = image.shape[1:]
    if len(found) == 0:
        return np.ones(1), np.full((1, height * width), 1 / (height * width))
    response, row, column, spread = (values[:, None] for values in found.T)
    y, x = np.mgrid[:height, :width].reshape(2, -1)
    pixels = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * spread**2)) + 1e-12
    return response[:, 0] / response.sum(), pixels / pixels.sum(1, keepdims=True)


def keypoints(grey: np.ndarray) -> np.ndarray:
    """SIFT's keypoints in `(H, W)`: response, row, column and size in pixels, `(K, 4)`."""
    from skimage.feature import SIFT
    from skimage.filters import difference_of_gaussians
    from skimage.transform import rescale

    factor = math.ceil(LEAST_SIDE / min(grey.shape))
    large = rescale(grey, factor, order=1)
    finder = SIFT(upsampling=1)
    try:
        finder.detect(large)
    except RuntimeError:  # how it says that there are none
        return np.zeros((0, 4))
    # Enlarging by f puts the middle of pixel k at f * (k + 1/2) - 1/2.
    places = (np.asarray(finder.positions) + 0.5) / factor - 0.5
    sigmas = np.asarray(finder.sigmas)
    responses = [
        abs(difference_of_gaussians(large, sigma)[row, column]) + 1e-9
        for sigma, (row, column) in zip(sigmas, np.asarray(finder.keypoints), strict=True)
    ]
    return np.column_stack([responses, places, np.maximum(sigmas / factor, 0.5)])


@dataclass
class Node:
    """A position in the game: how often it was reached, and the sum of what came of it."""

    visits: int = 0
    total: float = 0.0
    next: dict[int, Node] = field(default_factory=dict)

    def favourite(self, scale: float) -> int:
        """The choice with the highest mean and uncertainty (UCT, Kocsis and Szepesvari 2006)."""

        def bound(choice: int) -> float:
            child = self.next[choice]
            doubt = math.sqrt(2 * math.log(self.visits) / child.visits)
            return child.total / (child.visits * scale) + doubt

        return max(self.next, key=bound)


class Game:
    """The game on one image, whose `margin` is to go below zero, and its tree of choices.

    In a play, flips that do not lower the margin are undone. It ends when the goal is met,
    when it is no shorter than the shortest before it, or after `tries` flips; where the goal
    is met it then gives back, one by one, the pixels that were not needed. Its worth is the
    share of the margin that it took for each pixel.
    """

    def __init__(
        self,
        weights: np.ndarray,
        pixels: np.ndarray,
        margin: float,
        tries: int,
        rng: np.random.Generator,
    ) -> None:
        self.weights, self.pixels, self.rng = weights, pixels, rng
        self.margin, self.tries = max(margin, 1e-9), min(tries, pixels.shape[1])
        self.longest = self.tries
        self.played, self.scale, self.root = 0, 1e-9, Node()
        self.restart()

    def restart(self) -> None:
        """Go back to the image itself."""
        self.flips = np.zeros(self.pixels.shape[1], dtype=bool)
        self.tried = self.flips.copy()
        self.node, self.now = self.root, self.margin
        self.choices: list[tuple[int, int]] = []  # features and pixels
        self.doubted: list[int] = []  # pixels that may not be needed, the last first

    def move(self) -> np.ndarray:
        """The pixels to flip next, bool `(H * W,)`."""
        if self.doubted:
            self.flips[self.doubted[-1]] = False
        else:
            feature = self.choose(self.weights)
            pixel = self.choose(self.pixels[feature] * ~self.tried)
            self.choices.append((feature, pixel))
            self.flips[pixel] = self.tried[pixel] = True
        return self.flips.copy()

    def choose(self, weights: np.ndarray) -> int:
        """A player's move: drawn while few were tried here, else the favourite of them."""
        if len(self.node.next) <= math.sqrt(self.node.visits):
            summed = weights.cumsum()
            choice = int(np.searchsorted(summed, self.rng.random() * summed[-1], side="right"))
        else:
            choice = self.node.favourite(self.scale)
        self.node = self.node.next.get(choice, Node())  # only `learn` grows the tree
        return choice

    def judge(self, margin: float, met: bool) -> bool:
        """Take note of what the model said; whether this play is over."""
        if self.doubted:
            self.flips[self.doubted.pop()] = not met
        elif met:
            self.now, self.longest = 0.0, len(self.choices) - 1
            # The last pixel is needed, since without it the goal was not met.
            self.doubted = [pixel for _, pixel in self.choices[-2::-1]]
        else:
            if margin < self.now:
                self.now = margin
            else:
                self.flips[self.choices.pop()[1]] = False
            if len(self.choices) < self.longest and self.tried.sum() < self.tries:
                return False
        if self.doubted:
            return False
        self.learn()
        self.played += 1
        self.restart()
        return True

    def learn(self) -> None:
        """Credit the play, without the pixels that were given back."""
        kept = [choice for choice in self.choices if self.flips[choice[1]]]
        worth = (1 - self.now / self.margin) / max(len(kept), 1)
        self.scale = max(self.scale, worth)
        path = [self.root]
        for choice in itertools.chain(*kept):
            path.append(path[-1].next.setdefault(choice, Node()))
        for node in path:
            node.visits += 1
            node.total += worth
