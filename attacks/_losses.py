"""What an attack climbs, and when it has arrived.

Cross-entropy of label y is ``softplus(m)`` with the log-odds against y, ``m = log sum_{k != y} exp(z_k) - z_y``. Both
have the same maximisers, and their gradients differ by a positive factor per image, ``1 - p_y``. Attacks here step
along the sign or the l2-normalised gradient, so the factor has no effect, except that in floating point it rounds to
zero once the network is sure enough: cross-entropy then stands still while the log-odds still show the way. We climb
the log-odds; a network on which plain cross-entropy is blind is still reported (``checks.py``).
"""

from __future__ import annotations

import torch

_TINY = 1e-12


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-odds against ``labels``: logits ``(n, K)``, labels ``(n,)`` → ``(n,)``; grows as the label loses."""
    return _others(logits, labels).logsumexp(1) - _of(logits, labels)


def dlr(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Difference of logits ratio (Croce & Hein 2020, equation 6) ``(n,)``: blind to shift and scale of the logits.

    ``-(z_y - max_{i != y} z_i) / (z_(1) - z_(3))``, where z_(k) is the k-th largest logit. Two classes have no third one,
    and every loss that grows with the difference climbs the same way: there it is the difference itself.
    """
    lead = _others(logits, labels).amax(1) - _of(logits, labels)
    if logits.shape[1] < 3:
        return lead
    top = logits.topk(3, dim=1).values
    return lead / (top[:, 0] - top[:, 2] + _TINY)


def dlr_targeted(logits: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """Targeted DLR (Croce & Hein 2020, equation 7) ``(n,)`` for ``pairs`` ``(n, 2)`` of a label y and a target t.

    ``-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)``; below four classes the difference ``z_t - z_y``.
    """
    lead = _of(logits, pairs[:, 1]) - _of(logits, pairs[:, 0])
    if logits.shape[1] < 4:
        return lead
    top = logits.topk(4, dim=1).values
    return lead / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``max_{i != y} z_i - z_y`` ``(n,)``: positive where the label is left."""
    return _others(logits, labels).amax(1) - _of(logits, labels)


def smooth_margin(logits: torch.Tensor, labels: torch.Tensor, sharpness: float) -> torch.Tensor:
    """A margin in which close rivals share, ``(n,)``: ``log sum_{k != y} exp(s z_k) / s - z_y``.

    The log-odds at s = 1, the margin as s grows. Here ``s = sharpness / mean |z - mean z|``, a constant for the gradient, so
    that logits c > 0 times as large give c times the value and the same direction.
    """
    deviation = (logits - logits.mean(1, keepdim=True)).detach()
    spread = deviation.abs().mean(1).clamp(min=torch.finfo(logits.dtype).tiny)
    scale = (sharpness / spread).unsqueeze(1)
    return log_odds(scale * logits, labels) / scale.squeeze(1)


def lead(logits: torch.Tensor, labels: torch.Tensor, targeted: bool) -> torch.Tensor:
    """How far images are beyond the boundary in terms of logits, ``(n,)``: positive where broken."""
    return margin(logits, labels) * (-1 if targeted else 1)


def likeliest_others(logits: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """The ``min(count, K - 1)`` classes of largest logit other than the label, int64 ``(n, count)``, likeliest first."""
    return _others(logits, labels).topk(min(count, logits.shape[1] - 1), dim=1).indices


def _of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1)


def _others(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf)


def is_broken(logits: torch.Tensor, labels: torch.Tensor, targeted: bool) -> torch.Tensor:
    """Bool ``(n,)``: the target is reached, or the label is left. Logits with NaN break nothing."""
    hit = logits.argmax(1) == labels
    return (hit if targeted else ~hit) & ~logits.isnan().any(1)
