"""The result of the page "Generate": the version for one class, large, and those for all classes at once."""

from __future__ import annotations

import io
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import streamlit as st

from . import frame, recipe
from .pictures import compared, png, strip
from .text import plain

if TYPE_CHECKING:
    from torch import Tensor

    from attacks import MultiTargetGenerator

    from ..images import ImageSet
    from ..models import VisionModel
    from .loading import Loaded, Photos
    from .sidebar import Choice

_KEPT = 6  # results per session
_MOST = 24  # versions shown at once
_SMALL = 116  # pixels, width of one of them


@dataclass(frozen=True)
class Request:
    """What to look at: which picture, by which generator, with which budget (``None``: its own), rounded or not."""

    index: int
    generator: str
    epsilon: float | None
    eight_bit: bool


@dataclass(eq=False, repr=False)
class Shown:
    """All versions of one picture.

    Attributes:
        key: a digest of what they were made from, for the names of their widgets.
        model, image: the network, and the picture as a set of one.
        generator: which made them, and ``request`` how.
        targets: ``(T,)``, the classes.
        versions: ``(T, C, H, W)``.
        before, after: ``(K,)`` and ``(T, K)``, probabilities.
        seconds: what making them took.
        recipe: the Python that does it again.
        pictures: PNG files made so far, by what they show.
    """

    key: str
    model: VisionModel
    image: ImageSet
    generator: MultiTargetGenerator
    request: Request
    targets: tuple[int, ...]
    versions: Tensor
    before: Tensor
    after: Tensor
    seconds: float
    recipe: str
    pictures: dict[Any, bytes] = field(default_factory=dict)

    @property
    def images_told(self) -> str:
        """The picture in words."""
        return plain(self.image.ids[0])

    @property
    def predicted(self) -> int:
        """What the network sees in the picture itself."""
        return int(self.before.argmax())

    def seen(self, place: int) -> int:
        """What the network sees in one of the versions."""
        return int(self.after[place].argmax())


def made_for(generator: MultiTargetGenerator, model: VisionModel) -> bool:
    """Return whether it was trained against this very network."""
    models = generator.provenance.get("models")
    return isinstance(models, list) and model.digest in models  # the file may be a stranger's


def draw(choice: Choice, loaded: Loaded, photos: Photos, request: Request, generator: MultiTargetGenerator) -> None:
    """Make the versions if they are not there yet, and draw them."""
    results: OrderedDict[str, Shown] = st.session_state.setdefault("versions", OrderedDict())
    key = f"{loaded.model.digest} {loaded.model.preset} {photos.images.digest} {id(generator)} {request}"
    if key not in results:
        with st.spinner("Making the versions …"):
            frame.keep(results, key, _make(choice, loaded, photos, request, generator, key), _KEPT)
    shown = frame.latest(results, key)
    for notice in shown.image.notices:
        st.caption(f":material/info: {plain(notice)}")
    _look(shown)


def _make(
    choice: Choice, loaded: Loaded, photos: Photos, request: Request, generator: MultiTargetGenerator, key: str
) -> Shown:
    import torch

    image = photos.images.subset([request.index])
    with torch.no_grad():
        before = loaded.model(image.images).softmax(1)[0]
    targets = _shown(generator.targets, before)
    begin = time.perf_counter()
    copies = image.images.expand(len(targets), -1, -1, -1)
    made = generator(copies, torch.tensor(targets), epsilon=request.epsilon, eight_bit=request.eight_bit)
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        after = loaded.model(made).softmax(1)
    script = recipe.versions(choice.model, loaded.options, loaded.model, photos, request, generator)
    name = sha256(key.encode()).hexdigest()[:16]
    return Shown(name, loaded.model, image, generator, request, targets, made, before, after, seconds, script)


def _shown(targets: tuple[int, ...], probabilities: Tensor) -> tuple[int, ...]:
    """Return the classes to show: all, or of many those that the network finds likeliest."""
    if len(targets) <= _MOST:
        return targets
    return tuple(sorted(sorted(targets, key=lambda one: -float(probabilities[one]))[:_MOST]))


@st.fragment
def _look(shown: Shown) -> None:
    """Draw the choice of a class, its version, all versions, and what to take home; only this part follows the slider."""
    others = [place for place, target in enumerate(shown.targets) if target != shown.predicted]
    if not others:
        st.info("The only class that this generator knows is the one that the network sees already.")
        return
    reached = sum(shown.seen(place) == shown.targets[place] for place in others)
    was = plain(shown.model.class_name(shown.predicted))
    st.markdown(
        f"The network sees **{was}**. Of {len(others)} versions for other classes it takes **{reached}** for the class "
        f"wanted; all were made in {1000 * shown.seconds:.0f} ms."
    )
    if len(shown.targets) < len(shown.generator.targets):
        st.caption(f"Shown are the {len(shown.targets)} classes that the network finds likeliest.")
    place = others[0]
    if len(others) > 1:
        place = st.select_slider(
            "Make it see", others, key=f"version {shown.key}",
            format_func=lambda one: shown.model.class_name(shown.targets[one]),
        )  # fmt: skip
    _large(shown, int(place))
    st.header("All at once", anchor=False)
    strip([_small(shown, one) for one in range(len(shown.targets))], _SMALL, gap="small")
    st.header("Take it home", anchor=False)
    _home(shown, int(place))


def _large(shown: Shown, place: int) -> None:
    """Draw the picture, its version for one class, and the change."""
    target = shown.targets[place]
    wanted = shown.model.class_name(target)
    compared(
        shown.model, shown.image, shown.versions[place].numpy(), (shown.before, shown.after[place]), what="version",
        caption=f"To be seen as {plain(wanted)}", bold=target, made=shown.pictures, key=place, goal=f" to {wanted}",
    )  # fmt: skip


def _small(shown: Shown, place: int) -> tuple[bytes, str, str]:
    """Return one version as a small picture, with its class and what became of it."""
    from ..report import figures

    if ("small", place) not in shown.pictures:
        shown.pictures["small", place] = png(figures.to_rgb(shown.versions[place].numpy()), _SMALL)
    target, seen = shown.targets[place], shown.seen(place)
    wanted, said = (shown.model.class_name(one) for one in (target, seen))
    if target == shown.predicted:
        told = "its own class"
    elif seen == target:
        told = f":green[:material/check:] {float(shown.after[place, target]):.0%}"
    else:
        told = f":red[:material/close:] {plain(said)}"
    alt = f"version for {wanted}, seen as {said}"
    return shown.pictures["small", place], f"**{plain(wanted)}**  \n{told}", alt


def _home(shown: Shown, place: int) -> None:
    """Draw the script and the files."""
    with st.expander("Copy as Python", icon=":material/code:"):
        st.code(shown.recipe, language="python")
    with st.container(horizontal=True):
        st.download_button(
            "Download this version (PNG)", lambda: _picture(shown, place), "version.png", "image/png",
            on_click="ignore", icon=":material/download:", key=f"version file png {shown.key}",
        )  # fmt: skip
        st.download_button(
            "Download all (NumPy)", lambda: _numpy(shown), "versions.npz", "application/octet-stream",
            on_click="ignore", icon=":material/download:", key=f"version file npz {shown.key}",
        )  # fmt: skip
        st.download_button(
            "Download the generator (ZIP)", lambda: _archive(shown.generator), "generator.zip", "application/zip",
            on_click="ignore", icon=":material/download:", key=f"version file zip {shown.key}",
        )  # fmt: skip
    st.caption("versions.npz holds images, float32 in [0, 1], channels first, and targets. The ZIP holds both files.")


def _picture(shown: Shown, place: int) -> bytes:
    from ..report import figures

    return figures.to_png_bytes(figures.to_rgb(shown.versions[place].numpy()))


def _numpy(shown: Shown) -> bytes:
    import numpy as np

    file = io.BytesIO()
    np.savez_compressed(file, images=shown.versions.numpy(), targets=np.array(shown.targets))
    return file.getvalue()


def _archive(generator: MultiTargetGenerator) -> bytes:
    import tempfile
    import zipfile
    from pathlib import Path

    import attacks

    file = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
        written = attacks.save_generator(generator, Path(folder) / "generator", **generator.about)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for path in written:
                archive.write(path, path.name)
    return file.getvalue()
