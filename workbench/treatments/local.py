"""Rules without a gradient through the whole network: every block learns from a loss of its own."""

from __future__ import annotations

import copy
import itertools
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from workbench import models
from workbench.data import ImageDataset
from workbench.models import Classifier, Recipe, Run
from workbench.treatments.base import Training, weighted


class Local(Training):
    """Block after block: forwards, a loss, gradients, and the output cut off from all of them."""

    def parts(self, body: nn.Module) -> list[nn.Sequential]:
        """The blocks with a loss of their own, and last what has the network's. As `cut`."""
        return cut(body)

    def unfit(self, subject: Classifier | Recipe, data: ImageDataset | None = None) -> str:
        """The body has to be a chain of at least two layers with weights."""
        if data is None or not isinstance(subject, Recipe):
            return ""
        size, options = (data.shape, len(data.classes)), subject.options
        try:
            with torch.device("meta"):  # without memory for the weights
                self.parts(models.architectures.build(subject.architecture, *size, **options))
        except ValueError as error:
            return str(error)
        return ""

    def prepare(self, run: Run) -> None:
        """Cut the model's body into blocks.

        Raises:
            ValueError: it cannot be cut, or something else decides the loss at its end.
        """
        own, slots = type(self).__name__, ("loss", "penalty")
        changed = [t for t in run.treatments for s in slots if changes(t, Training, s)]
        changed += [run.model] if changes(run.model, Classifier, "objective") else []
        if changed:
            raise ValueError(
                f"{own}: {type(changed[0]).__name__} changes the loss at the end of the network, "
                "which most blocks never see; take one of the two"
            )
        try:
            run.aside[self] = self.parts(run.model.body)
        except ValueError as error:
            raise ValueError(f"{own}: {error}") from None

    def outputs(self, run: Run) -> list[Tensor]:
        """What each block but the last gives for two grey images."""
        grey = torch.full((2, *run.model.input_shape), 0.5, device=run.device, dtype=torch.float32)
        x, given = run.model.normalised(grey), []
        with torch.no_grad():
            for block in run.aside[self][:-1]:
                x = block(x)
                given.append(x.cpu())
        return given

    def learn(self, run: Run, k: int, x: Tensor, y: Tensor) -> None:
        """Fill the gradients of block `k`, whose output is `x`; or leave it as it is."""
        raise NotImplementedError

    def fill(self, run: Run, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What a block holds for its gradient is let go before the next one runs."""
        *blocks, last = run.aside[self]
        run.optimiser.zero_grad(set_to_none=True)
        run.ledger.forwards += len(x)
        run.ledger.backwards += len(x)  # through each block once, though never through two
        x = run.model.normalised(x)
        for k, block in enumerate(blocks):
            x = block(x)
            self.learn(run, k, x, y)
            x = x.detach()
        logits = last(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss.detach(), logits.detach()


class LocalBlocks(Local):
    """Each block learns by its own cross-entropy, through an auxiliary network of its own.

    Between block and loss stands, by `auxiliary`: "pool", a mean over places and a linear layer
    (greedy learning). "augmented", before these new layers, built like some of those above, evenly
    taken and fewer the deeper the block (Ma et al., 2024). "next", a learned block like the next
    one. "momentum", a copy of the next block that follows it by a moving average, with such a
    learned block added (Su et al., 2024). "none": blocks stay as they were drawn, the control. The
    last one learns as ever. The model that comes out is without auxiliary networks.
    """

    title: ClassVar[str] = "Local learning, block by block"
    paper: ClassVar[str] = "Scaling Supervised Local Learning with Augmented Auxiliary Networks"

    auxiliary: Literal["pool", "augmented", "next", "momentum", "none"] = Field(
        "pool", description="what stands between a block and its loss"
    )
    blocks: int = Field(0, ge=0, le=100, description="how many; 0: one a hidden layer")
    depth: int = Field(2, ge=1, le=20, description="augmented: layers like those above")
    pool: int = Field(2, ge=1, le=16, description="places a side that a head tells apart")
    momentum: float = Field(0.995, ge=0, le=1, description="of the moving average; 1: it stands")
    correction: bool = Field(True, description="momentum: add a learned block")

    def parts(self, body: nn.Module) -> list[nn.Sequential]:
        """As many blocks as asked for, of about as many layers each; the last has the head."""
        *hidden, head = cut(body)
        n, most = self.blocks or len(hidden), len(hidden)
        if n > most:
            raise ValueError(f"blocks: expected at most {most}, its hidden layers, got {n}")
        ends = itertools.pairwise([i * most // n for i in range(n + 1)])
        *blocks, last = [nn.Sequential(*hidden[a:b]) for a, b in ends]
        return [*blocks, nn.Sequential(last, head)]

    def prepare(self, run: Run) -> None:
        """Put the auxiliary networks beside the body, where the optimiser finds them."""
        super().prepare(run)
        *blocks, (last, _) = run.aside[self]
        twins = [copy.deepcopy(block).cpu() for block in (*blocks, last)]  # where seeds are alike
        model: Any = run.model
        model.auxiliary = Auxiliary().eval()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(run.plan.seed + 1)
            given = self.outputs(run) if self.auxiliary != "none" else []
            for k, x in enumerate(given):
                net = self.between(k, twins, given)
                pooled = {4: nn.AdaptiveAvgPool2d(self.pool), 3: nn.AdaptiveAvgPool2d((1, None))}
                net.append(pooled.get(net(x).ndim, nn.Identity()))  # of images, tokens, units
                net.extend([nn.Flatten(), nn.LazyLinear(len(model.classes))])
                net.eval()(x)  # which tells the lazy layer its size
                model.auxiliary.append(net.to(run.device))

    def between(self, k: int, blocks: list[nn.Sequential], given: list[Tensor]) -> nn.Sequential:
        """What stands between block `k` and its head; `given[i]` is what block i gives."""
        net, last = nn.Sequential().eval(), len(blocks) - 1
        if self.auxiliary == "augmented":
            depth = min(last - k, max(1, round(self.depth * (1 - k / last / 2))))
            for i in reversed([last - j * (last - k) // depth for j in range(depth)]):
                net.extend([fitted(net(given[k]), given[i - 1]), redrawn(blocks[i])])
        if self.auxiliary in ("next", "momentum"):
            follower = copy.deepcopy(blocks[k + 1]).requires_grad_(False)
            learned = redrawn(blocks[k + 1])
            added = Added([follower, learned][: 1 + self.correction])
            net.append(learned if self.auxiliary == "next" else added)
        return net

    def learn(self, run: Run, k: int, x: Tensor, y: Tensor) -> None:
        """Through the auxiliary network of a block, where there is one."""
        for net in itertools.islice(run.model.auxiliary, k, k + 1):
            F.cross_entropy(net(x), y).backward()

    @torch.no_grad()
    def after(self, run: Run) -> None:
        """Let the copies follow."""
        for net, block in zip(run.model.auxiliary, run.aside[self][1:], strict=False):
            if self.auxiliary == "momentum":  # of the last block the copy has all but the head
                for mine, its in zip(net[0][0].parameters(), block.parameters(), strict=False):
                    mine.lerp_(its, 1 - self.momentum)

    def conclude(self, run: Run) -> Classifier:
        """Without the auxiliary networks."""
        del run.model.auxiliary
        return run.model


class TargetProjection(Local):
    """Each hidden layer learns to give, for a label, the code that was drawn for it.

    The codes are rows of a fixed random matrix, the loss is the squared or absolute distance
    (Lomnitz et al., 2022): a layer needs its input and its output alone. "direct" is a push along
    the code whatever the layer gives (direct random target projection; Frenkel et al., 2021). The
    last layer learns by cross-entropy.
    """

    title: ClassVar[str] = "Random targets for every layer"
    paper: ClassVar[str] = "Learning with Local Gradients at the Edge"

    distance: Literal["squared", "absolute", "direct"] = Field(
        "squared", description="from the code; direct: a push along it"
    )
    codes: Literal["signs", "normal"] = Field(
        "signs", description="-1 and 1, or drawn from N(0, 1)"
    )

    def prepare(self, run: Run) -> None:
        """Draw the codes `(K, units)` of each hidden layer."""
        super().prepare(run)
        draw, n = torch.Generator().manual_seed(run.plan.seed), len(run.model.classes)
        drawn = [torch.randn(n, x[0].numel(), generator=draw) for x in self.outputs(run)]
        signs = self.codes == "signs"
        run.aside[self, "codes"] = [(c.sign() if signs else c).to(run.device) for c in drawn]

    def learn(self, run: Run, k: int, x: Tensor, y: Tensor) -> None:
        """The slope of the distance at the output: a sum over units, a mean over images."""
        off, code = x.detach().flatten(1), run.aside[self, "codes"][k][y]
        push = {"squared": 2 * (off - code), "absolute": (off - code).sign(), "direct": -code}
        x.backward(push[self.distance].view_as(x) / len(x))


class Auxiliary(nn.ModuleList):
    """Networks that a training needs and its model does not."""

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The state of a training that is over has none of them, and then there are none."""
        if not any(name.startswith(prefix) for name in state):
            del self[:]


class Added(nn.ModuleList):
    """The sum of what its parts give."""

    def forward(self, x: Tensor) -> Tensor:
        """As of one part."""
        return torch.stack([part(x) for part in self]).sum(0)


def changes(thing: Any, base: type, name: str) -> bool:
    """Whether something has a method of its own in place of that of `base`."""
    return getattr(type(thing), name) is not getattr(base, name)


def cut(body: nn.Module) -> list[nn.Sequential]:
    """A chain in pieces: a layer with weights and what follows it up to the next one.

    Raises:
        ValueError: no chain, a layer that runs twice, or fewer than two with weights.
    """
    pieces: list[nn.Sequential] = [nn.Sequential()]
    names: dict[nn.Module, str] = {}

    def visit(part: nn.Module, name: str) -> None:
        if type(part) is nn.Sequential:
            for inner, layer in part._modules.items():  # also what stands there twice
                visit(layer, f"{name}.{inner}".lstrip(".")) if layer else None
            return
        if weighted(part):
            if part in names:
                raise ValueError(f"{name!r} is {names[part]!r} again: of which block is it?")
            pieces.extend([nn.Sequential()] if names else [])
            names[part] = name
        pieces[-1].append(part)

    visit(body, "")
    if not isinstance(body, nn.Sequential):
        first = next(iter(body._modules), "its layers")
        raise ValueError(
            f"the body is a {type(body).__name__}, no nn.Sequential: what runs after {first!r} is "
            "not known, and so it cannot be cut there"
        )
    if len(names) < 2:
        raise ValueError(
            f"layers with weights: expected two or more in a chain, got {[*names.values()]}"
        )
    return pieces


def redrawn(block: nn.Sequential) -> nn.Sequential:
    """A block of the same kind with fresh weights, as torch draws them."""
    twin = copy.deepcopy(block)
    for part in twin.modules():
        getattr(part, "reset_parameters", lambda: None)()
    return twin


def fitted(x: Tensor, wanted: Tensor) -> nn.Module:
    """What makes of outputs such as `x` inputs such as `wanted`; nothing where they are alike."""
    if x.shape == wanted.shape:
        return nn.Identity()
    if x.ndim == wanted.ndim == 4:  # a mean over places, and a mixture of channels
        pool = nn.AdaptiveAvgPool2d(tuple(wanted.shape[2:]))
        return nn.Sequential(pool, nn.LazyConv2d(wanted.shape[1], 1))
    units = nn.LazyLinear(wanted[0].numel())
    return nn.Sequential(nn.Flatten(), units, nn.Unflatten(1, tuple(wanted.shape[1:])))
