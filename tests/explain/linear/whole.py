"""Whole networks whose data flow is the difficulty: views, branches, images as output, modules called several times."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Shared(nn.Module):
    """One ReLU and one convolution, called three times."""

    def __init__(self, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(channels, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for _ in range(3):
            x = self.relu(self.conv(x) + x)
        return self.fc(x.mean((2, 3)))


class InPlace(nn.Module):
    """Functional ReLUs in place, on whole tensors and on slices, whose return value nobody takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        F.relu(x[:, :3], inplace=True)
        y = self.conv2(x)
        F.leaky_relu(y[:, 1:, 1:], 0.2, inplace=True)
        top = y[:, 3:]
        y = self.conv3(y)
        y[:, 1:4].clamp_(min=0)
        y[:, 4:] += top[:, :2]
        y[:, 5].mul_(0.5).add_(0.1)
        y.flatten(2)[:, 0].neg_()
        torch.relu_(y[..., :2])
        return self.fc(y.mean((2, 3)))


class Written(nn.Module):
    """Results written into a fresh tensor by slices and by index lists, and one channel overwritten."""

    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd, self.conv = (nn.Conv2d(c, 3, 3, padding=1) for c in (3, 3, 6))
        self.fc = nn.Linear(3, 4)
        self.register_buffer("order", torch.tensor([5, 3, 1]))

    def forward(self, x: Tensor) -> Tensor:
        y = x.new_zeros(x.shape[0], 6, *x.shape[2:])
        y[:, ::2] = F.relu(self.even(x))
        y[:, self.order] = self.odd(x)
        y[:, 3] = F.relu(y[:, 3]) + 0.1
        y[:, 4, 1:, :2] = 0.5
        y[:, 0].copy_(y[:, 2] - y[:, 1])
        return self.fc(F.relu(self.conv(y)).mean((2, 3)))


class OverConstants(nn.Module):
    """Features written over something that was there before, and gates written over features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        y = torch.full_like(x, 0.3)
        y[:, :2] = x[:, :2].abs()
        y[:, 5].copy_(x[:, 5])
        z = self.conv2(y) + x
        z[:, :3].sigmoid_()
        gate = torch.sigmoid(x).clone()
        gate[:, 1] = x[:, 1]
        return self.fc((z * x + z * gate).mean((2, 3)))


class AskingTorch(nn.Module):
    """Takes another path where torch keeps no graph, and recomputes instead of storing where it does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x.relu() if torch.is_grad_enabled() else F.relu(x, inplace=True)
        x = self.conv2(x)
        x = F.leaky_relu(x, 0.25) if x.requires_grad else F.leaky_relu_(x, 0.25)
        return self.fc(x.mean((2, 3)))


class Drawn(nn.Module):
    """Monte Carlo dropout: it drops out whatever the mode, and adds noise."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(F.relu(self.conv1(x)), 0.3, training=True)
        return self.fc(F.relu(self.conv2(x + 0.1 * torch.randn_like(x))).mean((2, 3)))


class Masked(nn.Module):
    """Masks by comparison in four spellings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = x * (x > 0.05).to(x.dtype)
        x = self.conv2(x)
        x = x.masked_fill(x.lt(-0.1), 0.0)
        x = self.conv3(x) * ~(x >= x.mean((2, 3), keepdim=True))
        return self.fc(torch.where(x.abs() > 0.02, x, torch.zeros_like(x)).mean((2, 3)))


class Branching(nn.Module):
    """Python decides by the pixels which way to go: bright images take another road."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bright, self.dark = (nn.Conv2d(c, 6, 3, padding=1) for c in (3, 6, 6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        y = F.relu(self.bright(y)) if x.mean() > 0.25 else self.dark(y) * 2
        while float(y.detach().abs().max()) > 1.5:
            y = y / 2
        return self.fc(y.mean((2, 3)))


class OneImage(nn.Module):
    """Drops the batch dimension: one image at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 6, 3), nn.Conv1d(6, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x)).reshape(6, -1)
        return self.fc(F.relu(self.conv2(x)).mean(1)).view(1, -1)


class UNet(nn.Module):
    """Image to image: down, up by bilinear interpolation, concatenation (Ronneberger et al. 2015, arXiv 1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep, self.up = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(10, 4, 1),
        )
        self.norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.norm(self.down(x)))
        deep = F.relu(self.deep(F.max_pool2d(skip, 2)))
        deep = F.interpolate(deep, size=skip.shape[2:], mode="bilinear", align_corners=False)
        return self.last(F.leaky_relu(self.up(torch.cat([skip, deep], 1)), 0.1))


class SuperResolution(nn.Module):
    """Twice the pixels: residual blocks without norms and pixel shuffle (Lim et al. 2017, EDSR, arXiv 1707.02921)."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body1, self.body2, self.tail = (
            nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 6), (6, 6), (6, 12))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        y = y + 0.5 * self.body2(F.relu(self.body1(y)))
        y = F.pixel_shuffle(self.tail(y), 2)
        return y + F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


class SimpleGates(nn.Module):
    """NAFNet (Chen et al. 2022, arXiv 2204.04676): no activation at all, features multiply features; image to image."""

    def __init__(self) -> None:
        super().__init__()
        self.intro, self.wide, self.out = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 3, 1)
        self.norm, self.attend = nn.GroupNorm(1, 4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.intro(x)
        left, right = self.wide(self.norm(y)).chunk(2, dim=1)
        z = left * right
        z = z * self.attend(F.adaptive_avg_pool2d(z, 1))
        return x + self.out(y + z)


class Movers(nn.Module):
    """Linear operators that only move, add, resample or pad."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = (
            nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"),
            nn.ConvTranspose2d(6, 6, 2, stride=2),
        )
        self.fc, self.lookup = nn.Linear(18, 4), nn.Embedding(5, 6)
        self.register_buffer("order", torch.tensor([3, 0, 1, 5, 4, 2]))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        x = F.relu(self.conv(x)).roll((1, -1), dims=(2, 3)).flip(3)
        x = torch.index_select(x, 1, self.order) + self.lookup.weight[torch.arange(w)].t()[None, :, None, :]
        x = x.view(n, 2, 3, h, w).transpose(1, 2).reshape(n, 6, h, w)
        x = F.fold(F.unfold(x, 3, padding=1), (h, w), 3, padding=1) / 9
        a, b, c = torch.split(self.up(F.pad(x, (1, 0, 0, 1), mode="replicate")), (1, 2, 3), dim=1)
        x = torch.cat([c.cumsum(2) / h, torch.stack(b.unbind(1), 1), a.expand(-1, 1, -1, -1).repeat(1, 1, 1, 1)], 1)
        x = F.avg_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        x = torch.cat([x.sum((2, 3)) / 20, x[:, :, 0, -1], F.interpolate(x, (2, 2)).flatten(2).gather(
            2, torch.ones(n, 6, 1, dtype=torch.long, device=x.device)).squeeze(2)], dim=-1)  # fmt: skip
        return torch.addmm(self.fc.bias, F.dropout(F.relu(x), 0.5, self.training), self.fc.weight.t())


class Unpooled(nn.Module):
    """SegNet: maxima put back where they were found (Badrinarayanan et al. 2015, arXiv 1511.00561)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y, places = self.pool(self.conv1(x))
        return self.conv2(self.unpool(F.relu(y), places))


class GlobalFilter(nn.Module):
    """Linear in the Fourier domain (Rao et al. 2021, GFNet, arXiv 2107.00645), then ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.conv, self.fc = nn.Parameter(torch.zeros(3, 6, 3, 2)), nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter)
        x = torch.fft.irfft2(spectrum, s=x.shape[2:], norm="ortho")
        return self.fc(F.relu(self.conv(x)).mean((2, 3)))


class Standardised(nn.Module):
    """Non-linear arithmetic on the *weights* only (Qiao et al. 2019, arXiv 1903.10520): x still meets lines and ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
        x = F.relu(F.conv2d(x, weight, self.conv.bias))
        return self.fc((x * torch.sigmoid(self.scale)[:, None, None] * self.scale.exp()[:, None, None]).mean((2, 3)))


class Cosine(nn.Module):
    """The head of metric learning: cosines between a feature and class vectors, both normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.weight = nn.Conv2d(3, 6, 3), nn.Parameter(torch.zeros(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.linear(F.normalize(F.relu(self.conv(x)).mean((2, 3))), F.normalize(self.weight))


class Bilinear(nn.Module):
    """Features times features, summed over positions (Lin et al. 2015, arXiv 1504.07889)."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.fc = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.einsum("nchw,ndhw->ncd", self.one(x), F.relu(self.two(x))).flatten(1))
