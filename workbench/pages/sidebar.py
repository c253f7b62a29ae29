"""Which model and which images: the sidebar of every page. Drawn before torch is there, so nothing here needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from ..models.signatures import signatures
from . import uploads

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

UPLOAD, TORCHVISION = "upload", "torchvision"
SAMPLES = {
    "shapes-vgg": "Shapes VGG (sample)",
    "shapes-resnet": "Shapes ResNet (sample)",
    "shapes-mobilenet": "Shapes MobileNet (sample)",
    "digits-lenet": "Digits LeNet (sample)",
    "digits-mlp": "Digits MLP (sample)",
}
_MODELS = {**SAMPLES, UPLOAD: "Upload a checkpoint", TORCHVISION: "A torchvision network"}
DATA = {"shapes": "Coloured shapes (sample)", "digits": "Handwritten digits (sample)", "photos": "Photographs (sample)"}
_IMAGES = {**DATA, UPLOAD: "Upload photos"}
_PHOTO_TYPES = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"]
_FEW, _MANY = 8, 24


@dataclass(frozen=True)
class ModelChoice:
    """What the person chose: a sample or torchvision name as ``wb.load`` takes it, or an upload; neither when not yet."""

    source: str = ""
    upload: UploadedFile | None = None

    @property
    def is_sample(self) -> bool:
        """Whether it is a model that the workbench brings along: small, harmless, and the same for everyone."""
        return self.source.startswith("sample:")


@dataclass(frozen=True)
class ImageChoice:
    """What the person chose: ``count`` images of a sample set, or uploads; an empty name stands for uploads."""

    data: str = ""
    count: int = 0
    uploads: tuple[UploadedFile, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The model and the images of this session."""

    model: ModelChoice
    images: ImageChoice


def draw() -> Choice:
    """Draw the sidebar and return what is chosen in it."""
    _restore()
    with st.sidebar:
        st.markdown(":material/biotech: **Classifier workbench**")
        model = _model()
        st.space("small")
        images = _images()
    _remember(model, images)
    return Choice(model, images)


def _model() -> ModelChoice:
    kind = st.selectbox("Model", list(_MODELS), format_func=_MODELS.__getitem__, key="model", on_change=_suit_images)
    if kind == UPLOAD:
        file = st.file_uploader(
            "Checkpoint",
            key="checkpoint",
            max_upload_size=uploads.MAX_CHECKPOINT // uploads.MEBIBYTE,
            help="A state dict (.pt, .pth, .ckpt, .bin) or .safetensors, of any torchvision architecture or a relative of "
            "one. Only tensors are read; nothing in the file is run.",
        )
        return ModelChoice(upload=file)
    if kind == TORCHVISION:
        names = [name for name in signatures() if not name.startswith("sample:")]
        name = st.selectbox("Network", names, index=None, placeholder="Choose one of 80", key="network")
        return ModelChoice(source=name or "")
    return ModelChoice(source=f"sample:{kind}")


def _images() -> ImageChoice:
    kind = st.selectbox("Images", list(_IMAGES), format_func=_IMAGES.__getitem__, key="images")
    if kind == UPLOAD:
        files = st.file_uploader(
            "Photos",
            type=_PHOTO_TYPES,
            accept_multiple_files=True,
            key="photos",
            max_upload_size=uploads.MAX_PHOTO // uploads.MEBIBYTE,
            help=f"Up to {uploads.MAX_PHOTOS} at once. They stay in this session's memory.",
        )
        return ImageChoice(uploads=tuple(files))
    most = 12 if kind == "photos" else _MANY
    st.session_state.setdefault(f"count {kind}", _FEW)
    count = st.slider("How many", 1, most, key=f"count {kind}")
    return ImageChoice(data=kind, count=count)


def _suit_images() -> None:
    """With another model, take the images that it was made for, unless the person brought their own."""
    model, images = st.session_state["model"], st.session_state["images"]
    if images != UPLOAD:
        st.session_state["images"] = model.partition("-")[0] if model in SAMPLES else "photos"


def _restore() -> None:
    """At the start of a session, take the choice of samples from the URL, so that a link shows what its sender saw."""
    if "model" in st.session_state:
        return
    asked = st.query_params
    model, images, count = asked.get("model", ""), asked.get("images", ""), asked.get("n", "")
    st.session_state["model"] = model if model in SAMPLES else next(iter(SAMPLES))
    suited = st.session_state["model"].partition("-")[0]
    st.session_state["images"] = chosen = images if images in DATA else suited
    if count.isdecimal() and 1 <= int(count) <= (12 if chosen == "photos" else _MANY):
        st.session_state[f"count {chosen}"] = int(count)


def _remember(model: ModelChoice, images: ImageChoice) -> None:
    """Keep the URL in step; uploads cannot be linked to, and what is not a sample is left out of it."""
    shown = {"model": model.source.removeprefix("sample:")} if model.is_sample else {}
    if images.data:
        shown |= {"images": images.data, "n": str(images.count)}
    if st.query_params.to_dict() != shown:
        st.query_params.from_dict(shown)
