"""The shipped weights are what their cards say: they load, they fit their architecture, they are as accurate as written."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn import functional as F

import explain
from workbench import load, shrink
from workbench.bundle import bundled
from workbench.models.small import IMAGE_SAMPLES, SAMPLES
from workbench.samples import counterfactual_twins, sample_data

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

    from workbench.images import ImageSet

FOLDER = bundled("sample_models")
FLOOR = {
    "shapes-vgg": 0.98,
    "shapes-resnet": 0.97,
    "shapes-mobilenet": 0.97,
    "digits-lenet": 0.97,
    "digits-mlp": 0.97,
}
MARGIN = {"shapes-sr": 1.3}  # dB above bicubic interpolation
ALL = SAMPLES | IMAGE_SAMPLES


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, "pt") as opened:
        return opened.metadata()


def network(name: str, folder: Path = FOLDER) -> nn.Module:
    built = ALL[name].build()
    built.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / f"{name}.safetensors").items()}
    )
    return built.eval()


@torch.inference_mode()
def answers(name: str, images: torch.Tensor, folder: Path = FOLDER) -> torch.Tensor:
    sample = ALL[name]
    mean, std = torch.tensor(sample.mean).view(-1, 1, 1), torch.tensor(sample.std).view(-1, 1, 1)
    built = network(name, folder)
    return torch.cat([built((x - mean) / std) for x in images.split(250)])


def predictions(name: str, data: ImageSet, folder: Path = FOLDER) -> torch.Tensor:
    return answers(name, data.images, folder).argmax(1)


def psnr(images: torch.Tensor, truth: torch.Tensor) -> float:
    """In dB for images clipped to [0, 1], the mean over the images."""
    error = ((images.double().clip(0, 1) - truth) ** 2).flatten(1).mean(1)
    return float((10 * torch.log10(1 / error)).mean())


def share(hits: torch.Tensor) -> float:
    return hits.double().mean().item()


@pytest.fixture(scope="module")
def shapes() -> ImageSet:
    return sample_data("shapes", "test", 2000)


def test_every_sample_network_has_weights_and_a_card_and_nothing_else_is_shipped() -> None:
    expected = {f"{name}.{kind}" for name in ALL for kind in ("safetensors", "md")} | {
        "train.py",
        "train_generators.py",
    }
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == expected
    assert set(FLOOR) == set(SAMPLES)
    assert set(MARGIN) == set(IMAGE_SAMPLES)


def test_all_together_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 20_000_000


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if s.data == "shapes" else name for name, s in SAMPLES.items()]
)
def test_the_stored_weights_are_as_accurate_as_the_card_says(name: str, request: pytest.FixtureRequest) -> None:
    claimed = json.loads(metadata(FOLDER / f"{name}.safetensors")["accuracy"])
    data = request.getfixturevalue("shapes") if SAMPLES[name].data == "shapes" else sample_data("digits", "test")
    assert data.labels is not None
    measured = share(predictions(name, data) == data.labels)
    assert measured >= FLOOR[name]
    # Two images may fall on the other side of a boundary on another processor.
    assert measured == pytest.approx(claimed, abs=2 / len(data))


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGE_SAMPLES)
def test_the_stored_weights_are_as_far_above_bicubic_as_the_card_says(name: str, shapes: ImageSet) -> None:
    known = metadata(FOLDER / f"{name}.safetensors")
    truth = shapes.images
    small = (truth[..., ::2, ::2] + truth[..., 1::2, ::2] + truth[..., ::2, 1::2] + truth[..., 1::2, 1::2]) / 4
    reached = psnr(answers(name, small), truth)
    plain = psnr(F.interpolate(small, scale_factor=2, mode="bicubic"), truth)
    assert reached - plain > MARGIN[name]
    assert reached == pytest.approx(json.loads(known["psnr"]), abs=0.005)
    assert plain == pytest.approx(json.loads(known["bicubic"]), abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.data == "shapes"])
def test_changing_the_evidence_changes_the_answer(name: str, shapes: ImageSet) -> None:
    twins = counterfactual_twins("test", 500)
    before, after = predictions(name, sample_data("shapes", "test", 500)), predictions(name, twins)
    assert share(after == before ^ 1) > 0.97


@pytest.mark.parametrize("name", ALL)
def test_the_file_describes_itself(name: str) -> None:
    sample, file = ALL[name], FOLDER / f"{name}.safetensors"
    known = metadata(file)
    assert known["architecture"] == f"sample:{name}"
    assert known["data"] == sample.data
    if name in SAMPLES:
        assert tuple(json.loads(known["classes"])) == sample_data(sample.data, "test", 1).classes
    assert ("classes" in known) == ("accuracy" in known) == (name in SAMPLES)
    assert tuple(json.loads(known["input_size"])) == sample.input_size
    assert tuple(json.loads(known["mean"])) == sample.mean
    assert tuple(json.loads(known["std"])) == sample.std
    weights = load_file(file)
    assert {v.dtype for v in weights.values()} <= {torch.float16, torch.int64}
    assert all(v.isfinite().all() for v in weights.values())
    variances = [v for k, v in weights.items() if k.endswith("running_var")]
    assert all((v > 0).all() for v in variances), "half precision rounded a variance to nothing"


@pytest.mark.parametrize("name", ALL)
def test_the_card_is_complete(name: str) -> None:
    card = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w[\w ]*) \| (.+) \|$", card, re.MULTILINE))
    own = {"classes", "accuracy"} if name in SAMPLES else {"output", "PSNR"}
    assert set(rows) == own | {
        "data", "input", "architecture", "training", "time", "seed", "command", "made with", "file",
    }  # fmt: skip
    known = metadata(FOLDER / f"{name}.safetensors")
    if name in SAMPLES:
        score = f"{json.loads(known['accuracy']):.2%} on the first {known['test_images']} images"
        assert rows["accuracy"].startswith(score)
    else:
        reached, plain = json.loads(known["psnr"]), json.loads(known["bicubic"])
        assert rows["PSNR"].startswith(f"{reached:.2f} dB on the first {known['test_images']} images")
        assert f"{reached - plain:.2f} dB more than bicubic interpolation ({plain:.2f} dB)" in rows["PSNR"]
    assert f"{sum(p.numel() for p in network(name).parameters()):,} parameters" in rows["architecture"]
    assert rows["command"] == f"`python sample_models/train.py {name}`"
    assert re.match(r"\d+ s on one core", rows["time"])
    assert "**Not good for:**" in card


def test_layers_of_the_vgg_have_the_size_that_studies_expect() -> None:
    x, shapes = torch.zeros(2, 3, 64, 64), {}
    for name, layer in network("shapes-vgg").named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    assert shapes["relu5"] == (64, 16, 16)
    assert shapes["relu6"] == (64, 8, 8)
    assert [name for name in shapes if re.fullmatch(r"relu\d", name)] == [f"relu{i}" for i in range(1, 7)]


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sample_models_train", FOLDER / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        with torch.random.fork_rng(devices=[]):
            script.main()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_the_script_makes_the_network_again(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(script, monkeypatch, "digits-mlp", "--out", str(tmp_path / "first"))
    run(script, monkeypatch, "digits-mlp", "--out", str(tmp_path / "second"))
    assert "digits-mlp" in capsys.readouterr().out
    first, second = (load_file(tmp_path / run / "digits-mlp.safetensors") for run in ("first", "second"))
    assert all(torch.equal(first[k], second[k]) for k in first), "the same seed gives the same weights"
    test = sample_data("digits", "test")
    assert test.labels is not None
    assert share(predictions("digits-mlp", test, tmp_path / "first") == test.labels) >= 0.97
    assert (tmp_path / "first" / "digits-mlp.md").read_text(encoding="utf-8").startswith("# sample:digits-mlp")


@pytest.mark.slow
def test_the_script_makes_a_super_resolution_network_again(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hundredth of its training: enough to overtake a flat grey, and to see that a seed settles everything."""
    monkeypatch.setitem(script.EPOCH_IMAGES, "shapes", 640)
    monkeypatch.setitem(script.TEST_IMAGES, "shapes", 50)
    monkeypatch.setitem(script.RECIPES, "shapes-sr", replace(script.RECIPES["shapes-sr"], epochs=1))
    run(script, monkeypatch, "shapes-sr", "--out", str(tmp_path / "first"))
    run(script, monkeypatch, "shapes-sr", "--out", str(tmp_path / "second"))
    first, second = (load_file(tmp_path / run / "shapes-sr.safetensors") for run in ("first", "second"))
    assert all(torch.equal(first[k], second[k]) for k in first), "the same seed gives the same weights"
    test = sample_data("shapes", "test", 50).images
    reached = psnr(answers("shapes-sr", shrink(test), tmp_path / "first"), test)
    assert reached > psnr(test.mean(dim=(2, 3), keepdim=True).expand_as(test), test) + 3
    known = metadata(tmp_path / "first" / "shapes-sr.safetensors")
    assert json.loads(known["psnr"]) == pytest.approx(reached, abs=0.005)
    assert f"| PSNR | {reached:.2f} dB on the first 50 images" in (tmp_path / "first" / "shapes-sr.md").read_text(
        "utf-8"
    )


def test_the_script_refuses_a_name_it_does_not_know(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(script, monkeypatch, "digits-transformer")
    assert "digits-transformer; there are shapes-vgg" in capsys.readouterr().err


def test_the_script_knows_every_sample_network(script: ModuleType) -> None:
    assert list(script.RECIPES) == list(ALL)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_linear_interpreter_is_exact_on_it(name: str) -> None:
    """A·x₀ + b = f(x₀), ⟨A·v, u⟩ = ⟨v, Aᵀ·u⟩ and votes + constants = logit, to rounding."""
    model = load(f"sample:{name}").double()
    images = sample_data(SAMPLES[name].data, "test", 4).images.double()
    lens = explain.linear_interpreter(model, images)
    assert float((lens.outputs - model(images)).abs().max()) <= 1e-12 * float(lens.outputs.abs().max())
    assert float(lens.residual.max()) <= 1e-12
    draws = torch.Generator().manual_seed(0)
    u = torch.randn(lens.outputs.shape, generator=draws, dtype=torch.float64)
    v = torch.randn(images.shape, generator=draws, dtype=torch.float64)
    forwards, backwards = lens.apply(v), lens.adjoint(u)
    assert float(((forwards * u).sum() - (v * backwards).sum()).abs()) <= 1e-12 * float(forwards.norm() * u.norm())
    complete = lens.votes().sum((1, 2)) + lens.bias_terms().total
    assert float((complete - lens.outputs.amax(1)).abs().max()) <= 1e-12 * float(lens.outputs.abs().max())
