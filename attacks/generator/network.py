"""The generator: image and class in, adversarial image out, in one pass.

After "Once a MAN" (Han et al., ICCV 2019, arXiv:1908.05185): an encoder, the requested class merged into intermediate
features, residual blocks, a decoder, and ``x + epsilon tanh(...)``. The paper left no code and this is not a reproduction
of its tables. Two ways of merging are known to work: the class's embedding as channels beside the features (C-GSP: Yang
et al., ECCV 2022), and a scale and a shift per channel that depend on the class (FiLM: Perez et al., arXiv:1709.07871).
"""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .._ball import Ball, rounded
from .._inputs import check_classes, check_images
from .._provenance import model_digest
from ..errors import AttackError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

CONDITIONINGS = ("film", "concat")
_LIMITS = {
    "channels": 64,
    "num_classes": 100_000,
    "width": 256,
    "depth": 4,
    "blocks": 32,
    "embedding": 1024,
    "patch": 16,
}


class Merge(nn.Module):
    """Convolution, batch norm, the class, ReLU; ``(n, inputs, h, w)`` and embeddings ``(n, e)`` → ``(n, outputs, ...)``.

    With "film" the class brings the scale and the shift that follow batch norm; with "concat" it comes as channels that are
    the same everywhere. ``stride`` makes maps smaller, ``shuffle`` larger.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        conditioning: str,
        *,
        side: int = 3,
        stride: int = 1,
        shuffle: int = 1,
    ) -> None:
        super().__init__()
        concat = conditioning == "concat"
        inputs += embedding * concat
        padding = (side - stride + 1) // 2
        self.conv = nn.Conv2d(inputs, outputs * shuffle**2, side, stride=stride, padding=padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs, affine=concat)
        self.film = None if concat else nn.Linear(embedding, 2 * outputs)
        self.shuffle = shuffle

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return non-negative features."""
        if self.film is None:
            tiled = embedded[:, :, None, None].expand(-1, -1, *x.shape[2:])
            return F.relu(self._normed(torch.cat([x, tiled], 1)))
        scale, shift = self.film(embedded)[:, :, None, None].chunk(2, 1)
        return F.relu(torch.addcmul(shift, self._normed(x), 1 + scale))

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(F.pixel_shuffle(self.conv(x), self.shuffle))
        return normed


class Block(nn.Module):
    """Residual block of two convolutions that both know the class."""

    def __init__(self, width: int, embedding: int, conditioning: str) -> None:
        super().__init__()
        self.first = Merge(width, width, embedding, conditioning)
        self.second = Merge(width, width, embedding, conditioning)

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of ``x``."""
        changed: torch.Tensor = x + self.second(self.first(x, embedded), embedded)
        return changed


class MultiTargetGenerator(nn.Module):
    """Makes of an image one that the network it was trained against takes for any class wanted.

    Args:
        channels: C of the images.
        num_classes: K of the network attacked.
        epsilon: Budget: the largest change of a number (linf), at most 1.
        width: Channels of the first layer.
        depth: How many times the maps are halved, and the channels doubled.
        blocks: Residual blocks, at the lowest resolution.
        embedding: Numbers that stand for a class.
        conditioning: How the class is merged in, "film" or "concat".
        patch: Side of the squares of pixels that the first layer takes as one: 2 up to about 96 pixels, 4 for 224.

    Attributes:
        epsilon, num_classes, channels, patch: as given.
        config: all of the arguments.
        targets: classes that it was trained to reach.
        history: what training measured, one record each time; :meth:`frame` as a table.
        provenance: what it was trained on and how.
        about: what else the file says that it was read from.
        source: where that was; ``None`` for one that was just trained.

    Raises:
        AttackError: An argument is out of range.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        epsilon: float,
        *,
        width: int = 24,
        depth: int = 2,
        blocks: int = 2,
        embedding: int = 32,
        conditioning: str = "film",
        patch: int = 2,
    ) -> None:
        config = {
            "channels": channels, "num_classes": num_classes, "width": width, "depth": depth, "blocks": blocks,
            "embedding": embedding, "patch": patch,
        }  # fmt: skip
        for name, value in config.items():
            if type(value) is not int or not 1 <= value <= _LIMITS[name]:
                fix = f"Pass a whole number from 1 to {_LIMITS[name]}."
                raise AttackError(f"A generator cannot have this {name}", repr(value), fix)
        if type(epsilon) not in (int, float) or not 0 < epsilon <= 1:
            raise AttackError("A generator's budget lies in (0, 1]", repr(epsilon), "Pass epsilon=8/255, say.")
        if conditioning not in CONDITIONINGS:
            fix = f"Choose one of {', '.join(CONDITIONINGS)}."
            raise AttackError("There is no such conditioning", repr(conditioning), fix)
        super().__init__()
        self.config: dict[str, Any] = {**config, "epsilon": float(epsilon), "conditioning": conditioning}
        self.channels, self.num_classes, self.epsilon, self.patch = channels, num_classes, float(epsilon), patch
        self.targets = tuple(range(num_classes))
        self.history: list[dict[str, Any]] = []
        self.provenance: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.source: str | None = None

        def merge(inputs: int, outputs: int, **options: int) -> Merge:
            return Merge(inputs, outputs, embedding, conditioning, **options)

        self.embed = nn.Embedding(num_classes, embedding)
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = merge(channels, width, side=3 if patch == 1 else 2 * patch, stride=patch)
        self.down = nn.ModuleList(merge(wide, 2 * wide, stride=2) for wide in widths[:-1])
        self.blocks = nn.ModuleList(Block(widths[-1], embedding, conditioning) for _ in range(blocks))
        self.up = nn.ModuleList(merge(2 * wide, wide, shuffle=2) for wide in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, channels * patch**2, 3, padding=1)

    def direction(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The change asked for as a share of the budget, in [-1, 1], ``(n, C, H, W)``; differentiable.

        Any height and width will do: images are continued at their right and lower edges to a multiple of ``patch 2^depth``.
        """
        height, width = images.shape[2:]
        step = self.patch * 2 ** len(self.down)
        x = F.pad(2 * images - 1, (0, -width % step, 0, -height % step), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        embedded = self.embed(targets)
        x = self.stem(x, embedded)
        passed = []  # what the decoder adds to its own, from large maps to small ones
        for down in self.down:
            passed.append(x)
            x = down(x, embedded)
        for block in self.blocks:
            x = block(x, embedded)
        for up, before in zip(self.up, reversed(passed), strict=True):
            x = before + up(x, embedded)
        change = F.pixel_shuffle(self.head(x), self.patch)
        return torch.tanh(change[:, :, :height, :width])

    def propose(
        self, images: torch.Tensor, targets: torch.Tensor, epsilon: float | torch.Tensor | None = None
    ) -> torch.Tensor:
        """Adversarial images ``(n, C, H, W)`` within budget and box, for checked input; differentiable.

        Args:
            images: ``(n, C, H, W)`` in [0, 1], where the generator is.
            targets: int64 ``(n,)``.
            epsilon: Another budget, one for all or ``(n,)``: the change is scaled to it.
        """
        ball = Ball.around(images, self.epsilon if epsilon is None else epsilon, "linf")
        return ball.project(images + ball.epsilon * self.direction(images, targets))

    def forward(
        self,
        images: torch.Tensor,
        targets: torch.Tensor | Sequence[int] | int,
        *,
        epsilon: float | None = None,
        eight_bit: bool = False,
        batch_size: int = 64,
    ) -> torch.Tensor:
        """Change images so that the network sees the targets.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            targets: ``(N,)`` classes, or one for all.
            epsilon: Another budget than it was trained for; the change is scaled to it.
            eight_bit: Round to multiples of 1/255, as a picture file does, without leaving the budget.
            batch_size: Images per pass; changes memory, not results (beyond float rounding).

        Returns:
            ``(N, C, H, W)`` in [0, 1], on the images' device; no number differs from the images' by more than the budget
            (up to 1e-6).

        Raises:
            AttackError: The images have other channels, or a target is no class.
        """
        x = check_images(images)
        self.check_channels(x)
        wanted = [int(targets)] * len(x) if isinstance(targets, Integral) else targets
        aims = check_classes(wanted, "targets", x, self.num_classes)
        if epsilon is not None and not 0 < epsilon <= 1:
            raise AttackError("The budget must lie in (0, 1]", epsilon, "Pass epsilon=8/255, say.")
        device = self.head.weight.device
        with torch.no_grad():
            parts = [
                self.propose(part.to(device), aim.to(device), epsilon).to(x.device)
                for part, aim in zip(torch.split(x, batch_size), torch.split(aims, batch_size), strict=True)
            ]
        found = torch.cat(parts).contiguous()
        if not eight_bit:
            return found
        return rounded(found, x, torch.full((len(x),), epsilon or self.epsilon, device=x.device), "linf")

    def every(self, images: torch.Tensor, *, epsilon: float | None = None, eight_bit: bool = False) -> torch.Tensor:
        """All K versions of every image: ``(N, C, H, W)`` → ``(N, K, C, H, W)``; arguments and errors as for calling it."""
        repeated = images.repeat_interleave(self.num_classes, 0)
        aims = torch.arange(self.num_classes, device=images.device).repeat(len(images))
        return self(repeated, aims, epsilon=epsilon, eight_bit=eight_bit).unflatten(0, (len(images), self.num_classes))

    def check_channels(self, images: torch.Tensor) -> None:
        """Refuse images of another number of channels.

        Raises:
            AttackError: the numbers differ.
        """
        if images.shape[1] != self.channels:
            fix = f"This generator was made for images of {self.channels}."
            raise AttackError("The images do not have the generator's number of channels", images.shape[1], fix)

    def frame(self) -> pd.DataFrame:
        """What training measured: step, loss, success (share of held-out pairs), seconds."""
        import pandas as pd

        columns = ["step", "loss", "success", "seconds"]
        return pd.DataFrame([[record[name] for name in columns] for record in self.history], columns=columns)

    @property
    def parameter_count(self) -> int:
        """How many numbers it learnt."""
        return sum(parameter.numel() for parameter in self.parameters())

    def __repr__(self) -> str:
        best = max((record["success"] for record in self.history), default=None)
        measured = "" if best is None else f", held-out success {best:.0%}"
        return (
            f"<MultiTargetGenerator {self.num_classes} classes, linf epsilon={self.epsilon:.4g}, "
            f"{self.parameter_count:,} parameters{measured}, {model_digest(self)[:12]}>"
        )


def suited_to(height: int, width: int) -> dict[str, Any]:
    """``patch`` and ``depth`` for images of this size: from 4 x 4 maps for 8 pixels to 14 x 14 ones for 224."""
    side = min(height, width)
    return {"patch": 2 if side < 112 else 4, "depth": 1 if side < 24 else 2}
