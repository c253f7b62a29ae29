"""Building blocks as their papers define them, written the ways that people write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 6


def mlp(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two linear layers with a ReLU between, the head of most attention branches."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out))


class DynamicReLU(nn.Module):
    """DY-ReLU-B: max over k of a_k(x) x + b_k(x), per channel (Chen et al. 2020, arXiv 2003.10027, eqs. 1, 4)."""

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces, self.theta = pieces, mlp(WIDTH, 4, 2 * pieces * WIDTH)
        self.register_buffer("spread", torch.tensor([1.0] * pieces + [0.5] * pieces))
        self.register_buffer("start", torch.tensor([1.0] + [0.0] * (2 * pieces - 1)))

    def forward(self, x: Tensor) -> Tensor:
        theta = 2 * torch.sigmoid(self.theta(x.mean((2, 3)))) - 1
        theta = theta.view(-1, WIDTH, 2 * self.pieces) * self.spread + self.start
        lines = x.permute(2, 3, 0, 1).unsqueeze(-1) * theta[..., : self.pieces] + theta[..., self.pieces :]
        return torch.max(lines, dim=-1)[0].permute(2, 3, 0, 1)


class MixedKernels(nn.Module):
    """One kernel per image, a mixture of K: CondConv (arXiv 1904.04971) and dynamic convolution (arXiv 1912.03458)."""

    def __init__(self, route: Callable[[Tensor], Tensor], kernels: int = 3) -> None:
        super().__init__()
        self.route, self.score = route, mlp(WIDTH, 4, kernels)
        self.weight = nn.Parameter(torch.empty(kernels, WIDTH, WIDTH, 3, 3))
        self.bias = nn.Parameter(torch.empty(kernels, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        share = self.route(self.score(F.adaptive_avg_pool2d(x, 1).flatten(1)))
        weight = torch.mm(share, self.weight.flatten(1)).view(n * c, c, 3, 3)
        bias = torch.mm(share, self.bias).view(-1)
        return F.conv2d(x.reshape(1, n * c, h, w), weight, bias, padding=1, groups=n).view(n, c, h, w)


class SqueezeExcite(nn.Module):
    """Channels scaled by a gate of their means (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, gate: Callable[[Tensor], Tensor] = torch.sigmoid, blind: bool = False) -> None:
        super().__init__()
        self.fc, self.gate, self.blind = mlp(WIDTH, 3, WIDTH), gate, blind

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.blind):
            scale = self.gate(self.fc(x.mean((2, 3))))
        return x * scale[:, :, None, None]


class CBAM(nn.Module):
    """Channel then spatial attention, each from means and maxima (Woo et al. 2018, arXiv 1807.06521)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv = mlp(WIDTH, 3, WIDTH), nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        score = self.fc(x.mean((2, 3))) + self.fc(F.adaptive_max_pool2d(x, 1).flatten(1))
        x = x * score.sigmoid()[:, :, None, None]
        return x * torch.sigmoid(self.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)))


class SelectiveKernel(nn.Module):
    """Two receptive fields, weighed by a softmax over the branches (Li et al. 2019, arXiv 1903.06586)."""

    def __init__(self) -> None:
        super().__init__()
        self.near, self.far = (nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d, groups=2) for d in (1, 2))
        self.fc = mlp(WIDTH, 4, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([F.relu(self.near(x)), F.relu(self.far(x))], 1)
        share = self.fc(branches.sum(1).mean((-1, -2))).view(-1, 2, WIDTH).softmax(1)
        return torch.einsum("nbchw,nbc->nchw", branches, share)


class SpatialTransformer(nn.Module):
    """The image chooses how it is sampled (Jaderberg et al. 2015, arXiv 1506.02025)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, 6)
        self.register_buffer("identity", torch.tensor([[0.9, 0.0, 0.0], [0.0, 0.9, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.identity + 0.1 * self.fc(x.mean((2, 3))).tanh().view(-1, 2, 3)
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


class GRN(nn.Module):
    """Global response normalisation (Woo et al. 2023, ConvNeXt V2, arXiv 2301.00808, eqs. 1-3)."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 1, 1, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        norm = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        return (self.gamma * (x * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + self.beta + x).permute(
            0, 3, 1, 2
        )


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels, written out; ``how`` is one of the ways that people write it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.gamma, self.beta = how, nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        if self.how == "pow":
            x = (x - mean) / torch.sqrt((x - mean).pow(2).mean(1, keepdim=True) + 1e-6)
        elif self.how == "var":
            x = (x - mean) / (x.var(1, keepdim=True, unbiased=False) + 1e-6) ** 0.5
        elif self.how == "var_mean":
            variance, mean = torch.var_mean(x, dim=1, keepdim=True, correction=0)
            x = (x - mean) * torch.rsqrt(variance + 1e-6)
        elif self.how == "std":
            x = (x - mean).div(x.std(1, keepdim=True).add(1e-6))
        elif self.how == "rms":
            x = x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        elif self.how == "in place":
            spread = x.var(1, keepdim=True).add_(1e-6).sqrt_()
            x = x - mean
            x /= spread
        return x * self.gamma[:, None, None] + self.beta[:, None, None]


class DirectNorm(nn.Module):
    """torch's operators themselves, whose arguments come in another order than those of ``torch.nn.functional``."""

    def __init__(self, stored: bool) -> None:
        super().__init__()
        self.norm, self.stored = nn.BatchNorm2d(WIDTH), stored

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        if self.stored:
            return torch.batch_norm(x, n.weight, n.bias, n.running_mean, n.running_var, False, 0.1, n.eps, False)
        return torch.instance_norm(x, n.weight, n.bias, None, None, True, 0.1, n.eps, False)


class Attention(nn.Module):
    """Self-attention over positions with a residual (Vaswani et al. 2017, arXiv 1706.03762, eq. 1), as ``how`` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.qkv, self.out = how, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        heads = self.qkv(tokens).unflatten(-1, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
        q, k, v = heads[0], heads[1], heads[2]
        if self.how == "matmul":
            y = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        elif self.how == "einsum":
            share = F.softmax(torch.einsum("bhqd,bhkd->bhqk", q, k) / q.shape[-1] ** 0.5, dim=-1)
            y = torch.einsum("bhqk,bhkd->bhqd", share, v)
        elif self.how == "exp":
            score = torch.matmul(q, k.mT)
            share = (score - score.amax(-1, keepdim=True)).exp()
            y = torch.matmul(share / share.sum(-1, keepdim=True), v)
        elif self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "linear":  # Katharopoulos et al. 2020, arXiv 2006.16236, eqs. 5, 7
            q, k = F.elu(q) + 1, F.elu(k) + 1
            y = (q @ (k.mT @ v)) / (q @ k.sum(-2, keepdim=True).mT)
        elif self.how == "cosine":  # Swin V2, arXiv 2111.09883, eq. 2
            score = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
            y = torch.softmax(score * 4 + torch.linspace(0, 1, score.shape[-1]).to(score), -1) @ v
        return x + self.out(y.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(-1, x.shape[2:])


class Encoder(nn.Module):
    """torch's own transformer layer on the positions; it has a fast path that hides its operators."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, activation="gelu", batch_first=True, norm_first=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(-1, x.shape[2:])


class Heads(nn.Module):
    """``nn.MultiheadAttention`` with self-attention of the positions."""

    def __init__(self, batch_first: bool, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first)
        self.batch_first, self.need_weights = batch_first, need_weights

    def forward(self, x: Tensor) -> Tensor:
        order = (0, 2, 1) if self.batch_first else (2, 0, 1)
        back = (0, 2, 1) if self.batch_first else (1, 2, 0)
        tokens = x.flatten(2).permute(order)
        y = self.attention(tokens, tokens, tokens, need_weights=self.need_weights)[0]
        return x + y.permute(back).unflatten(-1, x.shape[2:])
