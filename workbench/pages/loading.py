"""Choices become a model and images, cached by content: a stranger's for one session, samples for everyone.

No cache is keyed on an uploaded object. The keys are digests, and the object travels in an argument that Streamlit does
not hash (its name starts with an underscore).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from ..errors import WorkbenchError
from ..unit_layers import layers_with_units
from . import uploads
from .sidebar import ImageChoice, ModelChoice

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

    import explain

    from ..images import ImageSet
    from ..models import VisionModel
    from ..probes import TensorProbe

Options = tuple[tuple[str, Any], ...]
"""What the person overrode, as sorted pairs: keywords of ``wb.load``; the preset's fields go into its ``preset``."""

PRESET_FIELDS = ("resize", "crop", "mean", "std")


@dataclass(frozen=True)
class Loaded:
    """A model and what a page must know before it draws its form.

    Attributes:
        model: the model.
        layers: its layers that a class activation map can be made from, in the order of the network.
        dissectable: its layers that have units: channels over space or over tokens, or plain numbers.
        automatic_layer: the one they are made from unless told otherwise; ``None`` when none fits.
        inapplicable: method name -> why it has no meaning on this network, found by trying each on a grey image.
        options: what the person overrode.
    """

    model: VisionModel
    layers: tuple[explain.Layer, ...]
    dissectable: tuple[explain.Layer, ...]
    automatic_layer: str | None
    inapplicable: dict[str, str]
    options: Options


@dataclass(frozen=True)
class Photos:
    """Images as the model takes them, and what a page says about them.

    Attributes:
        images: the images; their labels, if any, are the model's classes.
        recipe: the lines of Python that make ``images`` again.
        refused: (name, reason) of uploads that were not even decoded.
        notices: what was done to fit them to the model, beyond the images' own notices.
    """

    images: ImageSet
    recipe: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    notices: tuple[str, ...] = ()


def identity(choice: ModelChoice) -> str:
    """Name what was chosen: two choices of one identity are one model. Empty while nothing is chosen."""
    return choice.source or ("" if choice.upload is None else uploads.digest(choice.upload))


def load_model(choice: ModelChoice, options: Options) -> Loaded:
    """Return the chosen model, from a cache if it was loaded before.

    Raises:
        WorkbenchError: it cannot be used. The same refusal comes back at once when asked again.
    """
    if choice.upload is None:
        return _shared(choice.source, options)
    uploads.check_size(choice.upload)
    key = (uploads.digest(choice.upload), uploads.safe_name(choice.upload.name), options)
    refusals: dict[Any, WorkbenchError] = st.session_state.setdefault("refusals", {})
    if key not in refusals:
        try:
            return _private(*key, _file=choice.upload)
        except WorkbenchError as error:
            refusals[key] = error.with_traceback(None)
    raise refusals[key]


def load_images(choice: ImageChoice, model: VisionModel) -> Photos:
    """Return the chosen images at the model's size.

    Raises:
        ImageError: none of them can be used.
    """
    fit = f"{model.input_size} {model.preset} {model.classes}"
    if choice.data:
        return _sample_images(choice.data, choice.count, fit, _model=model)
    digests = tuple((uploads.safe_name(file.name), uploads.digest(file)) for file in choice.uploads)
    return _own_images(digests, fit, _files=choice.uploads, _model=model)


@st.cache_resource(max_entries=6, show_spinner=False)
def _shared(source: str, options: Options) -> Loaded:
    from ..models import load

    return _looked_at(load(source, **_keywords(options)), options)


@st.cache_resource(scope="session", max_entries=2, show_spinner=False)
def _private(digest: str, name: str, options: Options, _file: UploadedFile) -> Loaded:
    from ..models import load

    with uploads.on_disk(_file) as path:
        return _looked_at(load(path, **_keywords(options)), options)


def _keywords(options: Options) -> dict[str, Any]:
    keywords = {key: value for key, value in options if key not in PRESET_FIELDS}
    preset = {key: value for key, value in options if key in PRESET_FIELDS}
    return {**keywords, "preset": preset} if preset else keywords


def _looked_at(model: VisionModel, options: Options) -> Loaded:
    import torch

    import explain

    grey = torch.full((1, *model.input_size), 0.5)
    spatial = tuple(layer for layer in model.layers() if layer.spatial)
    tried = explain.explain(model, grey, 0, tuple(explain.METHODS), skip_inapplicable=True)
    return Loaded(model, spatial, layers_with_units(model), model.default_layer, dict(tried.skipped), options)


@st.cache_resource(max_entries=4, show_spinner=False)
def generated(count: int, split: str, size: tuple[int, int], channels: int) -> TensorProbe:
    """Return ``count`` generated shapes whose concepts are known, as large and as colourful as a model takes them.

    Raises:
        OptionError: pictures cannot have so many channels.
    """
    from ..probes import shapes_probe

    return shapes_probe(count, split, size=size, channels=channels)


@st.cache_resource(max_entries=12, show_spinner=False)
def _sample_images(name: str, count: int, fit: str, _model: VisionModel) -> Photos:
    from .. import ImageSet, read_images, sample_data, sample_photos

    if name == "photos":
        line = f"images = wb.read_images(wb.sample_photos()[:{count}], model, labels=None)"
        return Photos(read_images(sample_photos()[:count], _model, labels=None), (line,))
    data = sample_data(name, n=count)
    made = f"wb.sample_data({name!r}, n={count})"
    if tuple(data.images.shape[1:]) != _model.input_size:
        pictures = (data.images.permute(0, 2, 3, 1) * 255).round().byte().numpy()
        sizes = "×".join(map(str, data.images.shape[1:])), "×".join(map(str, _model.input_size))
        return Photos(
            read_images(list(zip(data.ids, pictures, strict=True)), _model),
            (
                f"data = {made}",
                "pictures = (data.images.permute(0, 2, 3, 1) * 255).round().byte().numpy()",
                "images = wb.read_images(list(zip(data.ids, pictures)), model)",
            ),
            notices=(f"These pictures are {sizes[0]}; they were brought to the model's {sizes[1]}.",),
        )
    if data.classes != _model.classes:
        lines = (f"data = {made}", "images = wb.ImageSet.of(data.images, ids=data.ids)  # other classes: no labels")
        return Photos(ImageSet.of(data.images, ids=data.ids), lines)
    return Photos(data, (f"images = {made}",))


@st.cache_resource(scope="session", max_entries=2, show_spinner=False)
def _own_images(
    digests: tuple[tuple[str, str], ...], fit: str, _files: Sequence[UploadedFile], _model: VisionModel
) -> Photos:
    from .. import read_images

    pictures, refused = uploads.photos(_files)
    names = [name for name, _ in pictures]
    recipe = f"images = wb.read_images({names!r}, model, labels=None)"
    return Photos(read_images(pictures, _model, labels=None), (recipe,), tuple(refused))
