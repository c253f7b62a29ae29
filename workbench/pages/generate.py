"""The page "Generate": one picture, every class, one pass; and training a generator where there is none yet."""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from ..errors import OptionError
from . import frame, jobs, uploads, versions
from .loading import Loaded, Photos
from .pictures import pick
from .text import count, errors_shown, plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from attacks import MultiTargetGenerator

    from .sidebar import Choice

_STEPS = 255  # of budgets: grey levels of a picture file
_LEARNT = 4000  # images of a sample that a training in the browser learns from
_OWN = "own generators"


def page(choice: Choice) -> None:
    """Draw the page for what the sidebar says."""
    frame.page(
        "What could it be seen as?",
        "A generator is a network that was trained to fool the classifier: of any picture it makes, in one pass, a version for "
        "every class.",
        choice,
        _work,
    )


def _work(choice: Choice, loaded: Loaded, photos: Photos) -> None:
    """Draw the choice of generator, picture and budget, then all versions."""
    st.header("Choose", anchor=False)
    known = _known(loaded)
    if known:
        _use(choice, loaded, photos, known)
    else:
        st.info(
            f"**No generator fits {plain(loaded.model.name)} yet.** Train one below, or upload one that was trained "
            "elsewhere: `workbench generate train` writes it."
        )
    st.header("Train another" if known else "Train one", anchor=False)
    _train(choice, loaded, photos)


# ---- generators


def _known(loaded: Loaded) -> dict[str, MultiTargetGenerator]:
    """Return the generators that fit the model, by what to call them: those made for it first."""
    own: Mapping[str, MultiTargetGenerator] = st.session_state.get(_OWN, {})
    fitting = {
        name: one
        for name, one in {**own, **_samples()}.items()
        if (one.num_classes, one.channels) == (loaded.model.num_classes, loaded.model.input_size[0])
    }
    return dict(sorted(fitting.items(), key=lambda pair: not versions.made_for(pair[1], loaded.model)))


@st.cache_resource(show_spinner=False)
def _samples() -> dict[str, MultiTargetGenerator]:
    from ..generators import load_generator, sample_generators

    return {f"{name} (sample)": load_generator(f"sample:{name}") for name in sample_generators()}


def _use(choice: Choice, loaded: Loaded, photos: Photos, known: Mapping[str, MultiTargetGenerator]) -> None:
    """Draw what to look at, and look."""
    digest, made = st.session_state.get("generate thumbnails", ("", {}))
    if digest != photos.images.digest:
        made = {}
        st.session_state["generate thumbnails"] = photos.images.digest, made
    index = pick(photos.images, f"generate-picture {photos.images.digest}", made)
    left, middle, right = st.columns([5, 4, 5], gap="medium")
    name = left.selectbox("Generator", list(known), key=f"generator for {loaded.model.digest} of {len(known)}")
    generator = known[name]
    told = f"{generator.parameter_count:,} parameters."
    if not versions.made_for(generator, loaded.model):
        told = f":material/swap_horiz: It was trained against another network: what it reaches here is transfer. {told}"
    left.caption(told)
    usual = generator.epsilon * _STEPS
    budget = middle.number_input(
        "Budget, in steps of 1/255", 0.25, 255.0, usual, 1.0, format="%g", key=f"generate budget {name}",
        persist_state="session", help="The most by which any colour value may change. Another budget than the generator "
        "was trained for scales its change.",
    )  # fmt: skip
    middle.caption(f"It was trained for {usual:g}.")
    rounded = right.checkbox(
        "Round to whole grey levels", key="generate rounded", persist_state="session",
        help="A saved picture knows 256 levels per colour.",
    )  # fmt: skip
    epsilon = None if budget == usual else float(budget) / _STEPS
    request = versions.Request(index, name, epsilon, rounded)
    st.header("Look", anchor=False)
    versions.draw(choice, loaded, photos, request, generator)


# ---- training


def _train(choice: Choice, loaded: Loaded, photos: Photos) -> None:
    """Draw the form of a training and the upload of a generator; run it."""
    one, two, three = st.columns([4, 4, 6], gap="medium")
    budget = one.number_input(
        "Budget to train for, in steps of 1/255", 0.25, 255.0, _usual(loaded), 1.0, format="%g", key="train budget",
        persist_state="session",
    )  # fmt: skip
    steps = two.number_input("Steps", 10, 100_000, 600, 100, key="train steps", persist_state="session")
    data = loaded.model.name.removeprefix("sample:").partition("-")[0] if choice.model.is_sample else ""
    learnt = f"new {data} that the workbench makes" if data == "shapes" else f"the {data} for training"
    if not data:
        learnt = f"the {count(len(photos.images), 'picture')} chosen in the sidebar; the more, the better"
    two.caption("600 steps give a first impression; good generators took 8,000 and more.")
    one.caption(f"It learns from {learnt}.")
    with three:
        _upload()
    settings: dict[str, Any] = {"epsilon": float(budget) / _STEPS, "steps": int(steps), "curriculum": 2.0, "seed": 0}

    def work(progress: jobs.Progress) -> MultiTargetGenerator:
        import attacks

        from ..models.convert import cache_folder
        from ..samples import sample_data

        learn = sample_data(data, "train", _LEARNT if data == "shapes" else None) if data else photos.images
        key = sha256(repr((loaded.model.digest, learn.digest, settings)).encode()).hexdigest()[:16]
        state = cache_folder().parent / "trainings" / key
        generator = attacks.train_generator(
            loaded.model, learn.images, learn.labels, checkpoint=state,
            progress=lambda done, total, what: progress(done, total, f"step {done:,} of {total:,}, {what}"), **settings,
        )  # fmt: skip
        state.unlink(missing_ok=True)
        return generator

    def keep(generator: MultiTargetGenerator) -> None:
        own: dict[str, MultiTargetGenerator] = st.session_state.setdefault(_OWN, {})
        own[f"{loaded.model.name}, {budget:g}/255, {steps:,} steps"] = generator

    if not data and len(photos.images) < 2:
        st.caption(":material/block: Training needs two pictures at least; choose more in the sidebar.")
        return
    jobs.offer(
        "Training a generator",
        f"Train: {64 * int(steps):,} pictures, forward and backward through both networks",
        work,
        keep,
        icon=":material/model_training:",
        kept="what was learnt is kept: the same choices go on from there",
    )


def _usual(loaded: Loaded) -> float:
    """A budget that the samples' generators were trained for, or that of the literature for photographs."""
    return 76.5 if min(loaded.model.input_size[1:]) < 24 else 16.0


def _upload() -> None:
    """Draw the upload of a generator's two files, and read them."""
    files = st.file_uploader(
        "Or upload a generator", type=["safetensors", "json"], accept_multiple_files=True, key="generator files",
        max_upload_size=64, help="Both files that generate train wrote: NAME.safetensors and NAME.json.",
    )  # fmt: skip
    if not files:
        return
    with errors_shown():
        kinds = {Path(file.name).suffix: file for file in files}
        if len(files) != 2 or set(kinds) != {".safetensors", ".json"}:
            fix = "Choose NAME.safetensors and NAME.json together."
            raise OptionError("A generator is two files", count(len(files), "file"), fix)
        key = " ".join(uploads.digest(file) for file in kinds.values())
        own: dict[str, Any] = st.session_state.setdefault(_OWN, {})
        read: dict[str, str] = st.session_state.setdefault("generators read", {})
        if key in read:
            return
        import attacks

        with tempfile.TemporaryDirectory(prefix="workbench-") as folder:
            for suffix, file in kinds.items():
                (Path(folder) / f"generator{suffix}").write_bytes(file.getvalue())
            generator = attacks.load_generator(Path(folder) / "generator")
        generator.source = None
        name = f"{Path(uploads.safe_name(kinds['.json'].name)).stem} (uploaded)"
        own[name] = generator
        read[key] = name
        st.rerun()
