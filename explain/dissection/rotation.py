"""Rotations of a layer's basis: is it the units that are interpretable, or any direction?

Bau et al. 2017, section 3.2: Q is uniform on SO(n), and units become Qᵅ a; α from 0 to 1 turns the basis gradually. The
network's function is untouched, because the next layer could undo Q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from explain.errors import InputError


def random_rotation(units: int, alpha: float = 1.0, seed: int = 0) -> Tensor:
    """Return Qᵅ for a rotation Q drawn uniformly from SO(n), float64 ``(U, U)``.

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q is uniform on O(n) (Mezzadri 2007); a reflection is
    made a rotation by negating one column. Q turns planes by angles; Qᵅ turns the same planes by α times these angles.

    Args:
        units: n, from 1 up.
        alpha: 0 is the identity, 1 is Q.
        seed: of the drawing.

    Raises:
        InputError: fewer than one unit, or α is not finite.
    """
    if units < 1 or not math.isfinite(alpha):
        raise InputError(
            "A rotation needs at least one unit and a finite power", f"{units}, {alpha}", "Pass alpha=0.5, say."
        )
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(units, units, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    if torch.linalg.det(q) < 0:
        q[:, 0] = -q[:, 0]
    return q if alpha == 1 else rotation_power(q, alpha)


def rotation_power(rotation: Tensor, alpha: float) -> Tensor:
    """Return the rotation of the same planes by ``alpha`` times the angles.

    From the real Schur form Q = Z T Zᵀ: T is made of 2 × 2 rotations, of ones, and of minus ones, which come in pairs and
    are half turns together.

    Args:
        rotation: orthogonal with determinant 1, ``(U, U)``.
        alpha: the power.

    Raises:
        InputError: the matrix is no rotation.
    """
    from scipy.linalg import schur

    q = rotation.double()
    if q.ndim != 2 or q.shape[0] != q.shape[1] or not len(q) or not _is_rotation(q):
        raise InputError("This matrix is no rotation", tuple(q.shape), "Pass an orthogonal matrix of determinant 1.")
    if not math.isfinite(alpha):
        raise InputError("A rotation needs a finite power", alpha, "Pass alpha=0.5, say.")
    size = len(q)
    t, z = (torch.from_numpy(one.copy()) for one in schur(q.numpy(), output="real"))
    power = torch.eye(size, dtype=torch.float64)
    flipped: list[int] = []
    i = 0
    while i < size:
        if i + 1 < size and abs(float(t[i + 1, i])) > 1e-9:
            angle = alpha * math.atan2(float(t[i + 1, i]), float(t[i, i]))
            power[i : i + 2, i : i + 2] = _turn(angle)
            i += 2
        else:
            if t[i, i] < 0:
                flipped.append(i)
            i += 1
    for one, other in zip(flipped[::2], flipped[1::2], strict=True):
        plane = torch.tensor([one, other])
        power[plane[:, None], plane] = _turn(alpha * math.pi)
    return z @ power @ z.T


def _is_rotation(q: Tensor) -> bool:
    gap = (q @ q.T - torch.eye(len(q), dtype=q.dtype)).abs().max()
    return bool(gap < 1e-6) and float(torch.linalg.det(q)) > 0


def _turn(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
