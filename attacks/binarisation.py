"""Binarisation test: Zimmermann et al., "Increasing Confidence in Adversarial Robustness Evaluations", arXiv:2206.13991.

Does an attack find an adversarial image where one is known to exist? Around each image draw many inner points within
0.95 epsilon and one point at epsilon. On the network's features train a linear head of two classes that tells the one
from all the others, and put it in place of the network's last layer. Now the image is of class 0, and within epsilon lies
a point of class 1: an attack that misses it is too weak for this network, whatever robustness it reports.

The head is that of the largest margin, to which logistic regression without regularisation tends on separable data
(Soudry et al., arXiv:1710.10345). With one point against many it is ``w = f - p``, where f are the features of the one
and p is the nearest point to f in the convex hull of the others. The threshold lies 0.99 of the way from the foremost
inner point to f, so that little besides f is of class 1. As many random points at epsilon as the attack has passes show
that luck does not find it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from . import _random
from ._ball import distance, length
from ._frozen import frozen_view
from ._inputs import check_batch_size, check_count, check_epsilons, check_ids, check_images, check_norm, find_attack
from ._provenance import model_digest, provenance
from ._session import Progress, ProgressCallback
from ._victim import Victim
from .errors import AttackError
from .results import wilson
from .runner import attack as run_attack
from .transfer import shifted

if TYPE_CHECKING:
    import pandas as pd

PASS = 0.95  # the attack must find this share of what is there
LUCK = 0.5  # beyond this share of lucky images the test is too easy to mean much
_INNER = 0.95  # radius of the inner points, relative to epsilon
_CLOSE = 0.99  # place of the threshold between the foremost inner point (0) and the point at epsilon (1)


@dataclass(frozen=True, eq=False, repr=False)
class Binarisation:
    """Outcome of the binarisation test of one attack on one network.

    Attributes:
        ids: of the images tested.
        found: per image, whether the attack found class 1 within epsilon.
        guessed: per image, whether a random point was of class 1.
        forwards: per image, passes of the attack.
        guesses: random points per image.
        inseparable: number of images left out, because no linear head tells the point at epsilon from the others.
        attack: name of the attack.
        norm: norm of the ball.
        epsilon: its radius.
        seconds: wall time.
        provenance: digests, options, seed and versions.
    """

    ids: tuple[str, ...]
    found: tuple[bool, ...]
    guessed: tuple[bool, ...]
    forwards: tuple[int, ...]
    guesses: int
    inseparable: int
    attack: str
    norm: str
    epsilon: float
    seconds: float
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of images tested."""
        return len(self.ids)

    @property
    def rate(self) -> float:
        """Share of images on which the attack found class 1."""
        return sum(self.found) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate (Wilson)."""
        return wilson(sum(self.found), self.n)

    @property
    def random_rate(self) -> float:
        """Share of images on which a random point was of class 1."""
        return sum(self.guessed) / self.n

    @property
    def passed(self) -> bool:
        """Whether the attack found 95 % of what is there, and luck at most half of it."""
        return self.rate >= PASS and self.random_rate <= LUCK

    @property
    def detail(self) -> str:
        """The outcome in words."""
        text = (
            f"{self.attack} found {sum(self.found)} of {self.n} adversarials that exist by construction, "
            f"{self.guesses} random points found {sum(self.guessed)}"
        )
        if self.rate < PASS:
            text += ": the attack is too weak for this network, so the robustness that it reports proves little"
        elif self.random_rate > LUCK:
            text += ": the test is too easy to say anything, more inner points make it harder"
        return f"{text}." + (f" {self.inseparable} images could not be tested." if self.inseparable else "")

    def frame(self) -> pd.DataFrame:
        """One row per image: id, found, guessed, forwards, attack, norm, epsilon."""
        import pandas as pd

        columns = {"id": self.ids, "found": self.found, "guessed": self.guessed, "forwards": self.forwards}
        return pd.DataFrame(columns).assign(attack=self.attack, norm=self.norm, epsilon=self.epsilon)

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"<Binarisation {'passed' if self.passed else 'FAILED'}: {self.attack} {self.norm} epsilon="
            f"{self.epsilon:.4g} n={self.n}: {self.rate:.1%} [{low:.1%}, {high:.1%}], random {self.random_rate:.1%}>"
        )


def binarisation_test(
    model: nn.Module,
    images: torch.Tensor,
    *,
    norm: str = "linf",
    epsilon: float = 8 / 255,
    attack: str = "pgd",
    options: Mapping[str, Any] | None = None,
    inner: int = 999,
    n: int = 50,
    features: str | None = None,
    seed: int = 0,
    ids: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: ProgressCallback | None = None,
) -> Binarisation:
    """Test whether an attack finds adversarials that exist by construction.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``; left untouched.
        images: ``(N, C, H, W)`` in [0, 1].
        norm: "linf", "l2" or "l1".
        epsilon: Budget of the attack.
        attack: Name of the attack.
        options: Its own options.
        inner: Inner points per image, the image itself among them; each costs a pass. More make the test harder.
        n: At most so many images, chosen by their ids.
        features: Dotted name of the module whose output the heads read, flattened. Without it: the input of the linear
            layer that the network calls last.
        seed: Seed of all randomness; the draws of an image depend on it and the image's id only.
        ids: One distinct name per image; a digest of the pixels when left out.
        batch_size: Images per forward pass; changes speed and memory, not results (beyond float rounding).
        progress: Called with ``(done, total, what)`` before every pass; raising from it cancels.

    Raises:
        AttackError: Something about the request makes no sense, or no image could be tested; says what to do.
    """
    begin = time.perf_counter()
    method = find_attack(attack, options or {}, targeted=False)
    if check_norm(norm, [method]) == "l0":
        raise AttackError("The binarisation test has no form for this norm", norm, "Choose linf, l2 or l1.")
    x = check_images(images)
    (epsilon,) = check_epsilons(epsilon, norm, x[0].numel())
    names = check_ids(ids, x)
    check_count(n, "number of images", "50 is usual.")
    check_batch_size(batch_size)
    guesses = min(method.passes(method.options), check_count(inner, "number of inner points", "999 is usual."))
    before = inner + 1 + guesses  # passes per image that are not the attack's
    each = before + 2 + method.passes(method.options)
    chosen = sorted(range(len(x)), key=lambda row: hashlib.sha256(names[row].encode(errors="replace")).digest())[:n]
    total = len(chosen) * each
    report = Progress(progress, total)
    network = _Binarised(model, x[:1], features)
    asked: dict[str, Any] = {"norm": norm, "epsilon": epsilon, "seed": seed, "batch_size": batch_size}

    rows: list[tuple[str, bool, bool, int]] = []
    for place, row in enumerate(chosen):
        image, name = x[row : row + 1], names[row]
        report.what = what = f"image {place + 1} of {len(chosen)}"
        look = partial(_features, network, image, norm, seed, batch_size, report)
        inside = [network.features(image), *look(_INNER * epsilon, [f"{name}/{k}" for k in range(1, inner)], False)]
        (edge,) = look(epsilon, [f"{name}/edge"], on_edge=True)
        if network.separate(torch.cat(inside), edge):
            guessed = torch.cat(look(epsilon, [f"{name}/guess {k}" for k in range(guesses)], on_edge=True))
            request = {**asked, "ids": [name], "progress": shifted(progress, place * each + before, total, what)}
            found = run_attack(network, image, [0], attack, **request, **(options or {}))
            lucky = bool((network.scores(guessed) > 0).any())
            rows.append((name, bool(found.success), lucky, int(found.forwards)))
        report.settle(each)
    report(0)
    if not rows:
        fix = "Pass fewer inner points, or name features of more dimensions."
        raise AttackError("No linear head tells the point at epsilon from the inner points", f"{inner} points", fix)

    tested, hits, luck, forwards = zip(*rows, strict=True)
    asked = {**asked, "attack": attack, "options": method.options, "inner": inner, "features": network.tapped}
    return Binarisation(
        ids=tested,
        found=hits,
        guessed=luck,
        forwards=forwards,
        guesses=guesses,
        inseparable=len(chosen) - len(rows),
        attack=attack,
        norm=norm,
        epsilon=epsilon,
        seconds=time.perf_counter() - begin,
        provenance=provenance(model, x, names, **asked),
    )


class _Binarised(nn.Module):
    """A network with a linear head of two classes on its features, which is made anew for each image.

    Attributes:
        tapped: name of the module whose output the head reads; without one given, the linear layer whose input it reads.
        digest: spares hashing the weights again for each image.
    """

    def __init__(self, model: nn.Module, probe: torch.Tensor, features: str | None) -> None:
        super().__init__()
        self.network = frozen_view(model)
        self.digest = f"binarised {model_digest(model)}"
        tensors = [*self.network.parameters(), *self.network.buffers()]
        self._device = tensors[0].device if tensors else probe.device
        self._dtype = next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)
        self._reads_input = features is None
        called = self._called(probe.to(self._device))
        linear = [name for name, module in called.items() if isinstance(module, nn.Linear)]
        if features is None and not linear:
            raise AttackError("The network calls no nn.Linear", type(model).__name__, "Name a module as features.")
        self.tapped = linear[-1] if features is None else features
        if self.tapped not in called:
            fix = f"These are: {', '.join(called)}."
            raise AttackError("The network calls no module of this name", repr(features), fix)
        called[self.tapped].register_forward_hook(self._see)
        self._seen: torch.Tensor | None = None

    def _called(self, probe: torch.Tensor) -> dict[str, nn.Module]:
        """The modules that an image passes through, by name, in the order in which they were called last."""
        called: dict[str, nn.Module] = {}

        def note(name: str, module: nn.Module, *_: object) -> None:
            called.pop(name, None)
            called[name] = module

        hooks = [m.register_forward_hook(partial(note, name)) for name, m in self.network.named_modules() if name]
        Victim(self.network, [""], device=self._device).logits(probe, torch.zeros(1, dtype=torch.int64))
        for hook in hooks:
            hook.remove()
        return called

    def _see(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._seen = inputs[0] if self._reads_input else output

    def _tapped(self, x: torch.Tensor) -> torch.Tensor:
        self.network(x)
        seen, self._seen = self._seen, None
        if not isinstance(seen, torch.Tensor):
            raise AttackError("Features must be one tensor", type(seen).__name__, "Name another module.")
        seen = seen.flatten(1)
        return seen.float() if seen.dtype in (torch.float16, torch.bfloat16) else seen

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(n, d)`` of images."""
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            return self._tapped(x.to(self._device, self._dtype, copy=True))

    def separate(self, inside: torch.Tensor, edge: torch.Tensor) -> bool:
        """Make the head that tells ``edge`` ``(1, d)`` from ``inside`` ``(m, d)``, if there is one."""
        inner, outer = (features.double().cpu().numpy() for features in (inside, edge))
        towards = _largest_margin(inner - outer)
        scores, top = (inner - inner[0]) @ towards, float(((outer - inner[0]) @ towards).item())
        threshold = (1 - _CLOSE) * scores.max() + _CLOSE * top
        scale = 1 / max(top - scores.mean(), 1e-300)
        self.origin = inside[0].clone()  # subtracted, so that small differences of large features survive rounding
        self.weight = torch.as_tensor(scale * towards).to(inside)
        self.threshold = float(scale * threshold)
        return bool((self.scores(inside) < 0).all() and (self.scores(edge) > 0).all())

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Log-odds of class 1, up to a factor: ``(n, d)`` → ``(n,)``."""
        return ((features - self.origin) * self.weight).sum(1) - self.threshold

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.scores(self._tapped(x))
        return torch.stack([-scores, scores], 1)


def _largest_margin(inner: np.ndarray) -> np.ndarray:
    """The ``w`` of largest margin, ``w.x < 0`` for all rows x of ``inner`` ``(m, d)``; without effect if there is none.

    ``-w`` is the point nearest to 0 in the convex hull of the rows: move weight from the farthest row that has some to the
    nearest row, until the nearest is as near as the point itself, up to 1 %.
    """
    gram = inner @ inner.T
    share = np.zeros(len(inner))
    share[gram.diagonal().argmin()] = 1
    products = share @ gram  # of every row with the point
    for _ in range(10_000):
        near, far = products.argmin(), np.where(share > 0, products, -np.inf).argmax()
        if products[near] >= 0.99 * (share @ products):
            break
        apart = gram[near, near] + gram[far, far] - 2 * gram[near, far]
        step = min(share[far], (products[far] - products[near]) / max(apart, 1e-300))
        share[near] += step
        share[far] -= step
        products += step * (gram[near] - gram[far])
    return -(share @ inner)


def _features(
    network: _Binarised,
    image: torch.Tensor,
    norm: str,
    seed: int,
    batch_size: int,
    report: Progress,
    radius: float,
    keys: list[str],
    on_edge: bool,
) -> list[torch.Tensor]:
    """Features of points around the image, one per key, in batches ``(n, d)``."""
    found = []
    for start in range(0, len(keys), batch_size):
        part = keys[start : start + batch_size]
        report(len(part))
        found.append(network.features(_points(image, radius, norm, seed, part, on_edge)))
    return found


def _points(image: torch.Tensor, radius: float, norm: str, seed: int, keys: list[str], on_edge: bool) -> torch.Tensor:
    """A point of the box per key, uniform in the ball before clipping, or at ``radius`` itself after clipping."""
    shape, stream = image.shape[1:], "binarisation"
    if norm == "l2":
        directions = _random.normal(seed, keys, shape, stream)
    else:
        directions = 2 * _random.uniform(seed, keys, shape, stream) - 1
        if norm == "l1":  # Laplace, as l2 takes Gauss
            directions = -directions.sign() * (-directions.abs()).log1p()
    directions = directions.to(image) / length(directions, norm).to(image).view(-1, 1, 1, 1)
    if not on_edge:
        share = _random.uniform(seed, keys, (1, 1, 1), stream, "radius").to(image) ** (1 / shape.numel())
        return (image + radius * share * directions).clamp(0, 1)
    low = torch.zeros(len(keys), 1, 1, 1, dtype=image.dtype, device=image.device)
    high = torch.full_like(low, 1e4 * radius)
    for _ in range(40):
        middle = (low + high) / 2
        far = distance((image + middle * directions).clamp(0, 1), image, norm).view_as(low) > radius
        low, high = torch.where(far, low, middle), torch.where(far, middle, high)
    return (image + low * directions).clamp(0, 1)
