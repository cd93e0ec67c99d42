"""What `wrap` asks of a module before it is believed: is an answer a function of its image?"""

from __future__ import annotations

from contextlib import suppress
from threading import RLock
from typing import Any, cast

import torch
from torch import nn

from workbench.models.answers import Answer, logits_of, parts
from workbench.models.classifier import Classifier
from workbench.models.copies import COMMON, duplicate, private_copy

ONE_AT_A_TIME = RLock()  # what draws random numbers is set back, which threads would mix up
SAME = 1e-6  # of the spread of the logits: other images in the same places change no rounding
CLOSE = 1e-4  # other places and batch sizes do
BATCHES = (1, 2, 4, 8, 16, 32)
COMPANY = (
    "A classifier's answer has to belong to its image alone: no batch statistics, and no softmax, "
    "mean, maximum or attention over dimension 0; or wrap a module that asks it one image at a time"
)


class Probe:
    """A classifier under test; `remarks`: what its user has to know.

    expected: the number of classes, where it is known. The questions go to a copy with
    buffers of its own, so that a module which keeps something keeps nothing of them.

    Raises:
        ValueError: no `(N, K)` logits come of a batch, or they are not a function of the image.
    """

    def __init__(self, model: Classifier, expected: int | None = None) -> None:
        self.model, self.name = model, model.card.architecture
        self.remarks: list[str] = []
        self.trial = cast(Classifier, duplicate(model, model.parameters()))
        # Of unlike ranges, so that what is shared between them shows.
        noise = torch.rand(
            (4, *model.input_shape), generator=torch.Generator().manual_seed(0), dtype=torch.float32
        )
        low = torch.tensor([0.3, 0.2, 0.1]).reshape(3, 1, 1, 1)
        high = torch.tensor([0.7, 0.85, 0.9]).reshape(3, 1, 1, 1)
        self.x = (low + (high - low) * noise[:3]).to(model.device)
        # The stranger: nearly white, with black in it. Another neighbour, and another place.
        self.stranger = ((noise[3:] > 0.2) * 0.99).to(model.device)
        self.other = torch.cat([self.stranger, self.x[[1, 0]]])
        self.given = self.understand(expected)
        self.first = self.given.clone()
        self.n_outputs = self.first.shape[1]
        self.belongs()
        self.looks()

    def ask(
        self, x: torch.Tensor, *, seed: int = 0, grad: bool = False, model: nn.Module | None = None
    ) -> Any:
        """What the copy says of the images; what draws random numbers stays as it is."""
        cuda = [x.device] if x.device.type == "cuda" else []
        with ONE_AT_A_TIME, torch.random.fork_rng(cuda), torch.set_grad_enabled(grad):
            torch.default_generator.manual_seed(seed)
            for device in cuda:
                torch.cuda.default_generators[device.index or 0].manual_seed(seed)
            return (model or self.trial)(x)

    def understand(self, expected: int | None) -> torch.Tensor:
        """The logits of three images; the model is changed where it takes that to get them."""
        given = self.x.clone()
        try:
            output = self.ask(given)
        except Exception as error:  # whatever a foreign module raises
            raise self.failure(error) from error
        # A write under `.data` shows in the values alone, one of the same values in the version.
        if given._version or given.requires_grad or not torch.equal(given, self.x):
            self.remarks.append(
                f"{self.name} changes the images that it is given, in place: it gets a copy of them"
            )
            for model in (self.model, self.trial):
                model.mean = self.x.new_zeros((1, self.x.shape[1], 1, 1))  # x - 0 is a copy
        path, remark = logits_of(output, len(self.x), expected, self.name)
        self.remarks += [remark] if remark else []
        answer = Answer(self.trial.body, path)
        logits = answer.taken(output, self.x)
        if logits is not output:
            self.model.body, self.trial.body = Answer(self.model.body, path), answer
        if not bool(logits.isfinite().all()):
            raise ValueError(f"module: expected finite logits, got {logits[0].tolist()}")
        return logits

    def failure(self, error: Exception) -> ValueError:
        """What to say of a module that raised `error` on three images."""
        shape = self.model.input_shape
        for n in BATCHES:
            with suppress(Exception):
                self.ask(self.stranger.expand(n, *shape).clone())
                return ValueError(
                    f"module: {self.name} answers a batch of {n}, but not one of {len(self.x)} "
                    f"({type(error).__name__}: {error}); a batch may have any number of images: "
                    "use x.flatten(1) or -1 where that number stands, and export or trace with a "
                    "dynamic batch dimension"
                )
        right = f"is input_shape={shape} right?" + last_channels(shape)
        return ValueError(
            f"module: {self.name} failed on a batch of shape {tuple(self.x.shape)} "
            f"({type(error).__name__}: {error}); {right}"
        )

    def belongs(self) -> None:
        """See that an answer is the same in other company, in another place, alone, and again.

        Raises:
            ValueError: it is not, or an image alone gets none.
        """
        said = self.ask(self.other, seed=1)
        if not torch.equal(self.given, self.first):
            raise ValueError(
                f"module: {self.name} writes each answer over the one before; return a new tensor, "
                "a clone() of it"
            )
        steady = self.same(said) or self.repeats()
        if steady is False:  # random, but the same for the same seed
            said = self.ask(self.other)
        if steady is not None and not self.same(said):
            raise ValueError(f"module: {self.mixing()} mixes the images of a batch. {COMPANY}")
        alone = self.alone()
        pairs = [(self.first[1:2], alone), (self.first[:1], said[2:])]
        if steady and max(gap(*pair) for pair in pairs) > CLOSE and not self.rounded():
            raise ValueError(
                f"module: {self.name} answers an image otherwise alone, or in another place of "
                f"the batch. {COMPANY}"
            )

    def same(self, said: Any) -> bool:
        """Whether the second image has the answer that it had among others."""
        return isinstance(said, torch.Tensor) and gap(self.first[1:2], said[1:2]) <= SAME

    def repeats(self) -> bool | None:
        """Whether the same images get the same answers; None if not even for one seed.

        Raises:
            ValueError: something that is kept from call to call changes the answers.
        """
        if gap(self.first, self.ask(self.x, seed=1)) <= SAME:
            return True
        before = state(self.trial.body)
        drawn = gap(self.first, self.ask(self.x)) <= SAME
        changed = [key for key, value in state(self.trial.body).items() if before.get(key) != value]
        if changed and not drawn:
            raise ValueError(
                f"module: {self.name} keeps {', '.join(changed[:3])} from call to call and answers "
                "the same images otherwise the second time; leave that as it is in eval mode"
            )
        self.remarks.append(
            f"{self.name} answers the same images differently each time (dropout left on?): "
            "every figure about it will vary"
        )
        return False if drawn else None

    def alone(self) -> torch.Tensor:
        """The logits of the second image alone.

        Raises:
            ValueError: there are none.
        """
        try:
            logits = self.ask(self.x[1:2].clone().requires_grad_(), grad=True)
        except Exception as error:
            raise ValueError(
                f"module: {self.name} answers {len(self.x)} images, but fails on one alone "
                f"({type(error).__name__}: {error}); a batch may have any number of images"
            ) from error
        if not isinstance(logits, torch.Tensor) or logits.shape != (1, self.n_outputs):
            got = tuple(getattr(logits, "shape", ())) or type(logits).__name__
            raise ValueError(
                f"module: {self.name} answers one image alone with {got}, expected "
                f"(1, {self.n_outputs}); is there a squeeze() without its dimension, or a fixed "
                "number of images?"
            )
        if not logits.requires_grad:
            self.remarks.append(
                f"the answers of {self.name} have no gradient (no_grad inside, or quantised?): "
                "attacks and saliency maps that need one will find nothing"
            )
        return logits.detach()

    def rounded(self) -> bool:
        """Whether answers agree in float64 that do not in float32."""
        precise = private_copy(self.trial, share=False).double()
        with suppress(Exception):  # a module with types of its own
            images = (self.x, self.other, self.x[1:2])
            first, said, alone = (self.ask(x.double(), model=precise) for x in images)
            return max(gap(first[1:2], alone), gap(first[:1], said[2:])) <= CLOSE
        kinds = {
            t.dtype for t in self.trial.body.state_dict().values() if isinstance(t, torch.Tensor)
        }
        return bool(kinds & {torch.float16, torch.bfloat16})

    def mixing(self) -> str:
        """The first module where the second image comes to depend on the others."""
        runs = [self.trace(x) for x in (self.x, self.other)]
        for (name, given, answer), (_, given_then, answer_then) in zip(*runs, strict=False):
            if given == given_then and answer != answer_then:
                return name
        return self.name

    def trace(self, x: torch.Tensor) -> list[tuple[str, Any, Any]]:
        """Every module as it has run, with what marks its input and output for the second image."""
        runs: list[tuple[str, Any, Any]] = []
        waiting: list[Any] = []

        def enter(module: nn.Module, inputs: Any, named: Any) -> None:
            waiting.append(marks((inputs, named), len(x)))

        def leave(module: nn.Module, _: object, output: Any) -> None:
            runs.append((names[module], waiting.pop(), marks(output, len(x))))

        names, handles = {}, []
        for name, module in self.trial.body.named_modules():
            names[module] = f"{name} ({type(module).__name__})" if name else self.name
            if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
                handles.append(module.register_forward_hook(leave))
        self.ask(x)
        for handle in handles:
            handle.remove()
        return runs

    def looks(self) -> None:
        """Remark on outputs that look like probabilities."""
        rows = self.first.float()
        if not bool(((rows >= 0) & (rows <= 1)).all()):
            return
        if torch.allclose(rows.sum(1), torch.ones(len(rows), device=rows.device), atol=1e-3):
            self.remarks.append(
                f"the outputs of {self.name} look like probabilities, not logits: remove the final "
                "softmax, or confidences and attacks will mislead"
            )
            return
        with suppress(Exception):  # far outside the images, logits do not stay between 0 and 1
            wild = self.ask(1e4 * (self.x - self.x.flip(0) + self.stranger - 0.5)).float()
            if bool(((wild >= 0) & (wild <= 1)).all()) and not torch.equal(wild, rows):
                self.remarks.append(
                    f"the outputs of {self.name} look like independent probabilities (a sigmoid "
                    "for each class), not logits: remove the final sigmoid, or confidences, which "
                    "are a softmax over the classes, and attacks will mislead"
                )

    def unlike(self, module: nn.Module) -> bool:
        """Whether the answers would be others in the modes that the parts of `module` have."""
        body = self.trial.body.model if isinstance(self.trial.body, Answer) else self.trial.body
        for own, theirs in zip(body.modules(), module.modules(), strict=False):
            own.training = theirs.training
        with suppress(Exception):
            return gap(self.first, self.ask(self.x)) > CLOSE
        return True


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far logits are apart, as a share of their spread; infinite where shapes differ."""
    if not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return float("inf")
    spread = (one - one.mean(1, keepdim=True)).abs().max()
    scale = torch.maximum(spread, SAME * one.abs().max())
    return float(((one - other).abs().max() / scale.clamp_min(1e-30)).nan_to_num(float("inf")))


def state(model: nn.Module) -> dict[str, Any]:
    """What a model keeps in buffers and in attributes of its own, to be compared."""
    kept: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):  # which keeps all in its buffers
            own = {}
        else:
            own = {key: value for key, value in vars(module).items() if key not in COMMON}
        for key, value in {**own, **module._parameters, **module._buffers}.items():
            if isinstance(value, (int, float, str)):
                kept[f"{name}.{key}".lstrip(".")] = value
            elif isinstance(value, torch.Tensor):
                kept[f"{name}.{key}".lstrip(".")] = (
                    tuple(value.shape),
                    float(value.detach().double().sum()),
                )
            elif hasattr(value, "__len__"):
                kept[f"{name}.{key}".lstrip(".")] = len(value)
    return kept


def marks(value: Any, n: int) -> list[tuple[float, float]]:
    """What tells the second of n images in the tensors of a value from another."""
    found = []
    for _, tensor in parts(value):
        if tensor.ndim and tensor.is_floating_point() and len(tensor) % n == 0 and len(tensor):
            row = tensor.detach().reshape(n, -1)[1].double()
            found.append((float(row.sum()), float(row.square().sum())))
    return found


def last_channels(shape: tuple[int, int, int]) -> str:
    """A hint where the channels of an input shape seem to come last."""
    first, height, last = shape
    if last in (1, 3, 4) and first not in (1, 3, 4) and height > 4:
        return f"; channels come first: input_shape=({last}, {first}, {height})?"
    return ""
