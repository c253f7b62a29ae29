"""What an attack climbs, and when it has arrived.

Cross-entropy of label y is ``softplus(m)`` with the log-odds against y, ``m = log sum_{k != y} exp(z_k) - z_y``. Both
have the same maximisers, and their gradients differ by a positive factor per image, ``1 - p_y``. Attacks here step
along the sign or the l2-normalised gradient, so the factor has no effect, except that in floating point it rounds to
zero once the network is sure enough: cross-entropy then stands still while the log-odds still show the way. We climb
the log-odds; a network on which plain cross-entropy is blind is still reported (``checks.py``).
"""

from __future__ import annotations

import torch


def log_odds(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-odds against ``labels``: logits ``(n, K)``, labels ``(n,)`` → ``(n,)``; grows as the label loses."""
    index = labels.unsqueeze(1)
    others = logits.scatter(1, index, -torch.inf).logsumexp(1)
    return others - logits.gather(1, index).squeeze(1)


def is_broken(logits: torch.Tensor, labels: torch.Tensor, targeted: bool) -> torch.Tensor:
    """Bool ``(n,)``: the target is reached, or the label is left. Logits with NaN break nothing."""
    hit = logits.argmax(1) == labels
    return (hit if targeted else ~hit) & ~logits.isnan().any(1)
