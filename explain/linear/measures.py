"""What the linear systems say: shares of pixels and bias, what an attack moved, whose decisions agree, A versus Jacobian."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from explain.errors import InputError, NotApplicable
from explain.linear.book import base_name
from explain.linear.circuit import Recording

if TYPE_CHECKING:
    import pandas as pd

    from explain.linear.interpreter import LinearInterpreter

_PROBES = 32


@dataclass(frozen=True, repr=False, eq=False)
class Shares:
    """One output per image, and its lead over the runner-up, split into pixels and bias. All ``(N,)``.

    Attributes:
        target: int64, the output, counted in the flattened output.
        logit: y of that output: ``pixels + bias``.
        pixels: the votes of all pixels together.
        bias: the rest.
        bias_share: |bias| / (|pixels| + |bias|), from 0 to 1. (bias / logit is unbounded: the two often cancel.)
        runner_up: int64, the largest other output.
        margin: y of the output minus y of the runner-up: ``margin_pixels + margin_bias``.
        margin_pixels: the pixels' part.
        margin_bias: the bias's part.
        margin_radius: margin / ‖row − row of the runner-up‖₂: the l2 distance in x at which the two would tie if no
            decision changed. Negative if the output is not the largest; infinite or NaN if the rows are equal.
        ids: one name per image.
        input_name: what x is.
    """

    target: Tensor
    logit: Tensor
    pixels: Tensor
    bias: Tensor
    bias_share: Tensor
    runner_up: Tensor
    margin: Tensor
    margin_pixels: Tensor
    margin_bias: Tensor
    margin_radius: Tensor
    ids: tuple[str, ...]
    input_name: str

    @classmethod
    def of(cls, lens: LinearInterpreter, target: Tensor) -> Shares:
        """Compute the shares of the outputs ``target``, int64 ``(N,)`` into the flattened outputs."""
        outputs, bias = lens.outputs.flatten(1), lens.bias.flatten(1)
        if outputs.shape[1] < 2:
            raise InputError("A single output has no runner-up", tuple(lens.outputs.shape), "Choose another end layer.")
        column = target[:, None]
        runner_up = outputs.scatter(1, column, -math.inf).argmax(1)
        first = torch.zeros_like(outputs).scatter_(1, column, 1)
        second = torch.zeros_like(outputs).scatter_(1, runner_up[:, None], 1)
        row, other = (lens.adjoint(unit.view_as(lens.outputs)) for unit in (first, second))
        pixels = (row * lens.inputs).flatten(1).sum(1)
        constant = (bias * first).sum(1)
        margin_bias = constant - (bias * second).sum(1)
        margin = (outputs * first).sum(1) - (outputs * second).sum(1)
        return cls(
            target=target,
            logit=(outputs * first).sum(1),
            pixels=pixels,
            bias=constant,
            bias_share=constant.abs() / (pixels.abs() + constant.abs()),
            runner_up=runner_up,
            margin=margin,
            margin_pixels=((row - other) * lens.inputs).flatten(1).sum(1),
            margin_bias=margin_bias,
            margin_radius=margin / (row - other).flatten(1).norm(dim=1),
            ids=lens.ids,
            input_name=lens.input_name,
        )

    def __repr__(self) -> str:
        share = float(self.bias_share.median())
        return f"Shares({len(self.ids)} images, median share of the bias {share:.1%}; x: {self.input_name})"

    def frame(self) -> pd.DataFrame:
        """Return one row per image, with the attributes as columns."""
        import pandas as pd

        columns = [name for name in self.__dataclass_fields__ if name not in ("ids", "input_name")]
        return pd.DataFrame(
            {"image": self.ids, **{name: getattr(self, name).tolist() for name in columns}, "x": self.input_name}
        )


@dataclass(frozen=True, repr=False, eq=False)
class Change:
    """f(x') − f(x) in three terms that add up exactly. All ``(N, *out)``.

    Attributes:
        total: f(x') − f(x).
        pixels: A(x)·(x' − x), what the pixels alone would have done.
        gates: [A(x') − A(x)]·x', what the decisions changed in how pixels count.
        bias: b(x') − b(x), what they changed in which constants count.
        ids: one name per image.
    """

    total: Tensor
    pixels: Tensor
    gates: Tensor
    bias: Tensor
    ids: tuple[str, ...]

    @classmethod
    def between(cls, before: LinearInterpreter, after: LinearInterpreter) -> Change:
        """Compute the terms from two interpreters of paired images."""
        return cls(
            total=after.outputs - before.outputs,
            pixels=before.apply(after.inputs - before.inputs),
            gates=after.apply(after.inputs) - before.apply(after.inputs),
            bias=after.bias - before.bias,
            ids=before.ids,
        )

    def __repr__(self) -> str:
        return f"Change({len(self.ids)} images: total = pixels + gates + bias)"

    @property
    def residual(self) -> Tensor:
        """``(N,)``: largest |pixels + gates + bias − total|."""
        return (self.pixels + self.gates + self.bias - self.total).flatten(1).abs().amax(1)

    def frame(self) -> pd.DataFrame:
        """Return one row per image and output: ``image, output, total, pixels, gates, bias``."""
        import pandas as pd

        terms = {name: getattr(self, name).flatten(1) for name in ("total", "pixels", "gates", "bias")}
        outputs = terms["total"].shape[1]
        return pd.DataFrame(
            {
                "image": [image for image in self.ids for _ in range(outputs)],
                "output": list(range(outputs)) * len(self.ids),
                **{name: term.flatten().tolist() for name, term in terms.items()},
            }
        )


@dataclass(frozen=True, repr=False, eq=False)
class GateAgreement:
    """How alike two images are decided on, per image and non-linear unit.

    Attributes:
        layers: the layer of each unit, in the order of calls.
        operators: its operator.
        kinds: ``"decision"`` for masks and positions: the share that is equal. ``"factor"`` for smooth gates, scales and
            attention: the cosine similarity.
        values: ``(N, G)``.
        sizes: number of decisions or factors of each unit.
        ids: one name per image.
    """

    layers: tuple[str, ...]
    operators: tuple[str, ...]
    kinds: tuple[str, ...]
    values: Tensor
    sizes: tuple[int, ...]
    ids: tuple[str, ...]

    def __repr__(self) -> str:
        return f"GateAgreement({len(self.layers)} units, {len(self.ids)} images, mean {float(self.values.mean()):.1%})"

    def frame(self) -> pd.DataFrame:
        """Return one row per image and unit: ``image, layer, operator, kind, agreement, size``."""
        import pandas as pd

        rows = [
            (image, *unit, value, size)
            for image, values in zip(self.ids, self.values.tolist(), strict=True)
            for *unit, value, size in zip(self.layers, self.operators, self.kinds, values, self.sizes, strict=True)
        ]
        return pd.DataFrame(rows, columns=["image", "layer", "operator", "kind", "agreement", "size"])


def gate_agreement(before: Sequence[Recording], after: Sequence[Recording], ids: tuple[str, ...]) -> GateAgreement:
    """Compare recordings of single images, pair by pair.

    Raises:
        NotApplicable: the network takes different paths on the two images, or decides nothing.
    """
    rows: list[list[Tensor]] = []
    units: list[tuple[str, str, str, int]] = []
    for one, two in zip(before, after, strict=True):
        units, row = [], []
        if [entry.func for entry in one.entries] != [entry.func for entry in two.entries]:
            raise NotApplicable(
                "the network takes different paths on the two images", None, "Compare its outputs only."
            )
        for left, right in zip(one.entries, two.entries, strict=True):
            if left.rule is None or right.rule is None:
                continue
            first, second = left.rule.decision(left.gate), right.rule.decision(right.gate)
            if first is None or second is None or first.shape != second.shape or not first.numel():
                continue
            smooth = first.is_floating_point()
            units.append((left.layer, base_name(left.func), "factor" if smooth else "decision", first.numel()))
            if smooth:
                row.append(torch.cosine_similarity(first.flatten(), second.flatten(), dim=0, eps=1e-30))
            else:
                row.append((first == second).float().mean())
        rows.append(row)
    if not units:
        raise NotApplicable("the network has no non-linear unit between start and end", None, "Choose other layers.")
    layers, operators, kinds, sizes = zip(*units, strict=True)
    return GateAgreement(layers, operators, kinds, torch.stack([torch.stack(row).float() for row in rows]), sizes, ids)


@dataclass(frozen=True, repr=False, eq=False)
class JacobianGap:
    """A against the Jacobian J, per image.

    Attributes:
        ratio: ``(N,)``, |J − A|/|A| in the Frobenius norm; 0 for piecewise linear networks and in tangent mode.
        cosine: ``(N,)``, ⟨J, A⟩/(|J||A|).
        exact: whether all rows were compared, or random combinations of them.
        ids: one name per image.
    """

    ratio: Tensor
    cosine: Tensor
    exact: bool
    ids: tuple[str, ...]

    def __repr__(self) -> str:
        return f"JacobianGap(|J−A|/|A| = {float(self.ratio.median()):.3g}, cosine {float(self.cosine.median()):.3f})"

    def frame(self) -> pd.DataFrame:
        """Return one row per image: ``image, ratio, cosine``."""
        import pandas as pd

        return pd.DataFrame({"image": self.ids, "ratio": self.ratio.tolist(), "cosine": self.cosine.tolist()})


def jacobian_gap(lens: LinearInterpreter) -> JacobianGap:
    """Compare A with J; see ``LinearInterpreter.jacobian_gap``."""
    size = math.prod(lens.outputs.shape[1:])
    exact = size <= _PROBES
    probes = torch.eye(size) if exact else torch.randn(_PROBES, size, generator=torch.Generator().manual_seed(0))
    sums = [torch.zeros_like(lens.inputs.flatten(1)[:, 0]) for _ in range(4)]
    for probe in probes.to(lens.outputs):
        u = probe.view(1, *lens.outputs.shape[1:]).expand_as(lens.outputs)
        frozen, free = lens.adjoint(u).flatten(1), lens._gradient(u).flatten(1)
        for total, part in zip(
            sums, ((free - frozen).square(), frozen.square(), free.square(), free * frozen), strict=True
        ):
            total += part.sum(1)
    gap, a, j, inner = sums
    ratio = torch.where(gap == 0, gap, (gap / a).sqrt())  # also for A = J = 0
    return JacobianGap(ratio, inner / (a * j).sqrt(), exact, lens.ids)
