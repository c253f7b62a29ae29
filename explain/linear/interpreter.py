"""The interpreter: f(x₀) = A·x₀ + b with every decision of the network frozen at x₀, and A and Aᵀ as operators.

A·x is a replay with every constant at zero, b a replay of zero, Aᵀ·u the gradient of a replay. All three follow the
recorded decisions; nothing of A is ever stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from explain.errors import InputError
from explain.inputs import check_images
from explain.linear.book import Mode
from explain.linear.circuit import Circuit, Recording, gradients
from explain.linear.constants import BiasTerms, bias_terms
from explain.linear.measures import Change, GateAgreement, JacobianGap, Shares, gate_agreement, jacobian_gap
from explain.linear.spectrum import Spectrum, spectrum
from explain.linear.targets import Which, flat_index, read_which
from explain.view import undisturbed

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Space = Literal["raw", "normalised"]


class LinearInterpreter:
    """The linear systems of N images; made by :func:`explain.linear_interpreter`.

    x is ``(N, *in)``, for images ``(N, C, H, W)``; y is ``(N, *out)``, for classifiers ``(N, K)``. Each image has its own
    A and b, so all methods pair image by image. With one image, other numbers of x are replayed one after the other.

    Attributes:
        inputs: ``(N, *in)``, the x₀ at which decisions were frozen.
        outputs: ``(N, *out)``, f(x₀).
        ids: one name per image.
        mode: ``"secant"`` or ``"tangent"``.
        space: ``"raw"`` or ``"normalised"``.
        provenance: model and image digests, options, versions, seconds.
        notes: what a person should know before trusting the numbers.
    """

    def __init__(
        self, circuit: Circuit, recordings: Sequence[Recording], ids: tuple[str, ...], provenance: dict[str, Any]
    ) -> None:
        self._circuit = circuit
        self._recordings = tuple(recordings)
        with undisturbed(circuit.view.device), torch.no_grad():
            self.inputs = torch.cat([recording.x for recording in recordings])
            self.outputs = torch.cat([recording.y for recording in recordings])
        self._singles: list[Recording] | None = None
        self.ids = ids
        self.provenance = provenance
        self.mode: Mode = provenance["options"]["mode"]
        self.space: Space = provenance["options"]["space"]
        self.notes = _notes(circuit, recordings)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.outputs.shape[1:])), "×".join(map(str, self.inputs.shape[1:]))
        return f"LinearInterpreter({len(self)} images, A: {shape[0]} from {shape[1]} ({self.input_name}), {self.mode})"

    @property
    def input_name(self) -> str:
        """What x is, in one line to display beside every number that depends on it."""
        options = self.provenance["options"]
        if options["start"] is not None:
            return f"output of layer {options['start']}"
        return "raw pixels in [0, 1]" if self.space == "raw" else "normalised pixels"

    @property
    def gates_bytes(self) -> int:
        """Memory of all frozen decisions, in bytes."""
        return sum(recording.nbytes for recording in self._recordings)

    @cached_property
    def bias(self) -> Tensor:
        """b ``(N, *out)``: what the frozen network answers to zero."""
        return self.replay(torch.zeros_like(self.inputs))

    @cached_property
    def residual(self) -> Tensor:
        """``(N,)``: how far the linear system is from the network, relative to the largest |f(x₀)|; rounding, if all is well.

        The larger of |A·x₀ + b − f(x₀)| over all outputs, with A·x₀ and b computed apart, and of |⟨Aᵀu, x₀⟩ + ⟨u, b⟩ −
        ⟨u, f(x₀)⟩| for one u of random signs (seeded), divided by √outputs: the one checks replays, the other adjoints.
        """
        outputs = self.outputs.flatten(1)
        forwards = (self.apply(self.inputs) + self.bias - self.outputs).flatten(1).abs().amax(1)
        coin = torch.Generator().manual_seed(0)
        u = torch.randint(2, self.outputs.shape[1:], generator=coin).mul(2).sub(1).to(outputs).expand_as(self.outputs)
        pulled = (self.adjoint(u) * self.inputs).flatten(1).sum(1)
        backwards = (pulled + (u * (self.bias - self.outputs)).flatten(1).sum(1)).abs() / math.sqrt(outputs.shape[1])
        return forwards.maximum(backwards) / outputs.abs().amax(1).clamp_min(torch.finfo(outputs.dtype).tiny)

    def replay(self, x: Tensor) -> Tensor:
        """Return A·x + b ``(N, *out)``: the decisions of one image, the pixels of another.

        Args:
            x: ``(N, *in)``, paired with the recorded images; any number of them if one image was recorded.

        Raises:
            InputError: ``x`` has another shape.
        """
        return self._map(x, self._circuit.replay)

    def apply(self, x: Tensor) -> Tensor:
        """Return A·x ``(N, *out)``, for ``x`` as in :meth:`replay`."""
        return self._map(x, self._without_constants)

    def adjoint(self, u: Tensor) -> Tensor:
        """Return Aᵀ·u ``(N, *in)``.

        Args:
            u: ``(N, *out)``, one weight per output.

        Raises:
            InputError: ``u`` has another shape.
        """
        u = self._fit(u, self.outputs, "weights of the outputs")
        return torch.cat([self._pull(recording, [part])[0] for recording, part in self._parts(u)])

    def row(self, k: Which = None) -> Tensor:
        """Return row k of A ``(N, *in)``: how output k weighs each input.

        Args:
            k: class number, or an index tuple into one output, or one class per image, or ``None`` for the largest output
                of each image.

        Raises:
            InputError: there is no such output.
        """
        return self.adjoint(self._unit(k))

    def rows(self, ks: Sequence[int | tuple[int, ...]] | None = None) -> Tensor:
        """Return several rows of A ``(N, len(ks), *in)`` from one replay; all of them for ``None``."""
        if ks is None:
            shape = self.outputs.shape[1:]
            ks = [
                tuple(index) for index in torch.cartesian_prod(*map(torch.arange, shape)).view(-1, len(shape)).tolist()
            ]
        if not isinstance(ks, Sequence) or not len(ks):
            raise InputError("Rows are asked for by a list of outputs", repr(ks), "Pass [0, 1], or None for all.")
        units = [self._unit(k) for k in ks]
        found, first = [], 0
        for recording in self._recordings:
            part = slice(first, first + len(recording.x))
            found.append(torch.stack(self._pull(recording, [unit[part] for unit in units]), 1))
            first = part.stop
        return torch.cat(found)

    def column(self, pixel: tuple[int, ...]) -> Tensor:
        """Return a column of A ``(N, *out)``: what one input does to all outputs, its impulse response.

        Args:
            pixel: index into one input, ``(c, i, j)`` for images.

        Raises:
            InputError: there is no such input.
        """
        impulse = torch.zeros_like(self.inputs)
        impulse.flatten(1)[:, flat_index(pixel, self.inputs, "input")] = 1
        return self.apply(impulse)

    def votes(self, k: Which = None) -> Tensor:
        """Return how each position votes for output k: row k times x₀, summed over channels, ``(N, H, W)``.

        Together with ``bias`` the votes add up to the output. For inputs that are not ``(N, C, H, W)`` nothing is summed.
        """
        votes = self.row(k) * self.inputs
        return votes.sum(1) if votes.ndim == 4 else votes

    def bias_terms(self, k: Which = None) -> BiasTerms:
        """Return what each constant of the network contributes to output k; together they are the bias."""
        return bias_terms(self._circuit, self._recordings, self.ids, self._chosen(k))

    def svd(self, rank: int | None = None) -> Spectrum:
        """Return singular values and vectors of each A.

        Args:
            rank: how many, the largest first. ``None``: all if A has at most 128 outputs, otherwise 16.

        Raises:
            InputError: there are not so many.
        """
        return spectrum(self, rank)

    def operator(self, image: int = 0) -> LinearOperator:
        """Return A of one image for SciPy: ``(outputs, inputs)``, both flattened; ``matvec`` and ``rmatvec`` are replays."""
        from scipy.sparse.linalg import LinearOperator as Operator

        lens = self.pick(image)
        size = math.prod(lens.outputs.shape), math.prod(lens.inputs.shape)

        def shaped(values: Any, like: Tensor) -> Tensor:
            return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(like.shape)

        return Operator(
            size,
            matvec=lambda x: lens.apply(shaped(x, lens.inputs)).flatten().cpu().numpy(),
            rmatvec=lambda u: lens.adjoint(shaped(u, lens.outputs)).flatten().cpu().numpy(),
            dtype=lens.inputs.cpu().numpy().dtype,
        )

    def shares(self, k: Which = None) -> Shares:
        """Return how output k, and its lead over the runner-up, split into pixels and bias."""
        return Shares.of(self, self._chosen(k))

    def change(self, other: Tensor) -> Change:
        """Split what changes from the recorded images to others (their adversarial versions, say) into three exact terms.

        f(x') − f(x) = A(x)(x' − x) + [A(x') − A(x)]·x' + b(x') − b(x): pixels, gates, bias path.

        Args:
            other: ``(N, C, H, W)`` in [0, 1], paired with the recorded images.
        """
        return Change.between(self, self.again(other))

    def gate_agreement(self, other: Tensor) -> GateAgreement:
        """Compare the decisions on the recorded images with those on others, unit by unit.

        Args:
            other: ``(N, C, H, W)`` in [0, 1], paired with the recorded images.
        """
        return gate_agreement(self._alone(), self.again(other)._alone(), self.ids)

    def exchange(self) -> Tensor:
        """Return A(xᵢ)·xⱼ + b(xᵢ) ``(N, N, *out)``: decisions of image i, pixels of image j."""
        return torch.stack([self.pick(i).replay(self.inputs) for i in range(len(self))])

    def jacobian_row(self, k: Which = None) -> Tensor:
        """Return the gradient of output k ``(N, *in)``, every unit free to change its mind. In secant mode not ``row(k)``."""
        return self._gradient(self._unit(k))

    def jacobian_gap(self) -> JacobianGap:
        """Return how far A is from the Jacobian J: |J − A|/|A| in the Frobenius norm, and their cosine.

        Exact up to 32 outputs; for more, estimated from 32 random combinations of outputs (seeded).
        """
        return jacobian_gap(self)

    def again(self, images: Tensor) -> LinearInterpreter:
        """Return the interpreter of other images with the same settings.

        Raises:
            InputError: they do not have the shape of the recorded ones.
        """
        check_images(images, self._circuit.view.forward)
        if images.shape != torch.Size([len(self), *self._recordings[0].images.shape[1:]]):
            raise InputError(
                "The other images do not pair with the recorded ones",
                tuple(images.shape),
                f"Pass images of shape {(len(self), *self._recordings[0].images.shape[1:])}.",
            )
        sizes = [len(recording.x) for recording in self._recordings]
        recordings = [self._circuit.record(part) for part in torch.split(images, sizes)]
        return LinearInterpreter(self._circuit, recordings, self.ids, self.provenance)

    def pick(self, image: int) -> LinearInterpreter:
        """Return the interpreter of one image; ``pick(i).replay(x)`` takes any number of x.

        Raises:
            InputError: there is no such image.
        """
        if not isinstance(image, int) or not -len(self) <= image < len(self):
            raise InputError("There is no such image", image, f"There are {len(self)} images.")
        if len(self) == 1:
            return self
        image %= len(self)
        return LinearInterpreter(self._circuit, [self._alone()[image]], (self.ids[image],), self.provenance)

    def parts(self) -> Iterator[LinearInterpreter]:
        """Yield the interpreter of each recorded batch, to work through many images in bounded memory."""
        first = 0
        for recording in self._recordings:
            ids = self.ids[first : first + len(recording.x)]
            first += len(ids)
            yield LinearInterpreter(self._circuit, [recording], ids, self.provenance)

    def _alone(self) -> list[Recording]:
        """Return one recording per image, with names: what belongs to one image cannot be told inside a batch."""
        if self._singles is None:
            # A network that draws would draw anew.
            self._singles = [
                recording
                if len(recording.x) == 1 and recording.drew_random
                else self._circuit.record(image, named=True)
                for recording in self._recordings
                for image in torch.split(recording.images, 1)
            ]
        return self._singles

    def _map(self, x: Tensor, run: Callable[[Recording, Tensor], Tensor]) -> Tensor:
        if len(self) == 1 and isinstance(x, Tensor) and x.ndim == self.inputs.ndim and len(x) != 1:
            x = self._fit(x, self.inputs.expand(len(x), *self.inputs.shape[1:]), "inputs")
            return (
                torch.cat([run(self._recordings[0], one) for one in torch.split(x, 1)]) if len(x) else self.outputs[:0]
            )
        x = self._fit(x, self.inputs, "inputs")
        return torch.cat([run(recording, part).detach() for recording, part in self._parts(x)])

    def _without_constants(self, recording: Recording, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._circuit.replay(recording, x, lambda value, entry, label: torch.zeros_like(value))

    def _parts(self, values: Tensor) -> list[tuple[Recording, Tensor]]:
        sizes = [len(recording.x) for recording in self._recordings]
        return list(zip(self._recordings, torch.split(values, sizes), strict=True))

    def _fit(self, values: Tensor, like: Tensor, what: str) -> Tensor:
        if not isinstance(values, Tensor):
            raise InputError(
                f"The {what} are not a tensor", type(values).__name__, f"Pass one like {tuple(like.shape)}."
            )
        if values.shape != like.shape:
            raise InputError(
                f"The {what} have the wrong shape", tuple(values.shape), f"Pass a tensor of shape {tuple(like.shape)}."
            )
        return values.detach().to(like.device, like.dtype)

    def _pull(self, recording: Recording, units: Sequence[Tensor]) -> list[Tensor]:
        """Return Aᵀ·u for several u, from one replay."""
        x = recording.x.clone().requires_grad_()
        return _pulled(self._circuit.replay(recording, x), x, units)

    def _gradient(self, u: Tensor) -> Tensor:
        found = []
        for recording, part in self._parts(u):
            x = recording.x.clone().requires_grad_()
            found += _pulled(self._circuit.plain(recording, x), x, [part])
        return torch.cat(found)

    def _chosen(self, k: Which) -> Tensor:
        return read_which(k, self.outputs)

    def _unit(self, k: Which) -> Tensor:
        """Return ``(N, *out)`` with a one at output k of each image."""
        chosen = self._chosen(k)
        unit = torch.zeros_like(self.outputs).flatten(1)
        return unit.scatter_(1, chosen[:, None], 1).view_as(self.outputs)


def _notes(circuit: Circuit, recordings: Sequence[Recording]) -> tuple[str, ...]:
    notes = [f"{notice}; here each image is its own batch" for notice in circuit.view.notices]
    if any(recording.drew_random for recording in recordings):
        notes.append("the network draws random numbers in evaluation mode: these are the systems of one draw")
    return tuple(notes)


def _pulled(y: Tensor, x: Tensor, units: Sequence[Tensor]) -> list[Tensor]:
    found = []
    for number, unit in enumerate(units, 1):
        (gradient,) = gradients(y, [x], unit, keep=number < len(units))
        found.append(torch.zeros_like(x) if gradient is None else gradient)
    return found
