"""An interpretation against closed forms, its attack against the geometry, and the command that writes it all down."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attacks
import explain
import workbench as wb
from tests import commandline
from workbench.errors import OptionError
from workbench.images import ImageSet
from workbench.interpretation import Interpretation, interpret
from workbench.interpretation.nearest import ATTACKS, nearest

CLOSE = 1.002  # on a plane the attacks go straight, and stop a little beyond it


def linear_model(weights: torch.Tensor, bias: torch.Tensor, shape: tuple[int, int, int]) -> nn.Module:
    """A network that decides nothing: K rows of weights on pixels of ``shape``."""
    layer = nn.Linear(weights.shape[1], len(weights))
    layer.weight.data, layer.bias.data = weights, bias
    return wb.load(nn.Sequential(nn.Flatten(), layer), input_size=shape, name="linear")


def grey(n: int, shape: tuple[int, int, int], seed: int = 0) -> ImageSet:
    """Images around mid-grey, so that the box [0, 1] is far away."""
    noise = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return ImageSet.of((0.5 + 0.02 * noise).clamp(0, 1))


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, ImageSet, Interpretation]:
    model, images = wb.load("sample:digits-lenet"), wb.sample_data("digits", n=4)
    return model, images, interpret(model, images)


@pytest.fixture
def two_planes() -> tuple[nn.Module, ImageSet, torch.Tensor]:
    """Two classes in 2×3×5 pixels, and the exact distance of each image from the plane between them."""
    generator = torch.Generator().manual_seed(1)
    weights, shape = torch.randn(2, 30, generator=generator), (2, 3, 5)
    images = grey(4, shape)
    between = weights[0] - weights[1]
    offset = -(images.images.flatten(1) @ between).mean() - torch.tensor(0.3)
    model = linear_model(weights, torch.tensor([offset, 0.0]), shape)
    return model, images, (images.images.flatten(1) @ between + offset).abs() / between.norm()


def test_radius_and_attack_of_a_linear_classifier_are_the_distance_to_the_plane(two_planes: Any) -> None:
    model, images, exact = two_planes
    found = interpret(model, images)
    torch.testing.assert_close(found.radius, exact, rtol=1e-4, atol=1e-6)
    assert found.attack is not None
    assert bool(found.attack.success.all())
    assert (found.attack.distance >= exact * (1 - 1e-4)).all()
    assert (found.attack.distance <= exact * CLOSE).all()
    assert bool((found.attack.fooled_as != found.predicted).all())
    assert found.attack.agreement is None  # nothing decides
    assert found.attack.change.gates.abs().max() < 1e-4
    torch.testing.assert_close(found.attack.change.pixels, found.attack.change.total, rtol=1e-3, atol=1e-4)


def test_distance_is_that_of_the_images_and_they_do_fool(digits: tuple[nn.Module, ImageSet, Interpretation]) -> None:
    model, images, found = digits
    assert found.attack is not None
    moved = (found.attack.images - images.images).flatten(1).norm(dim=1)
    torch.testing.assert_close(moved, found.attack.distance, rtol=1e-4, atol=1e-6)
    assert torch.equal(model(found.attack.images).argmax(1), found.attack.fooled_as)
    assert float(found.attack.images.min()) >= 0
    assert float(found.attack.images.max()) <= 1
    change = found.attack.change
    torch.testing.assert_close(change.pixels + change.gates + change.bias, change.total, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(change.total, model(found.attack.images) - model(images.images), rtol=1e-4, atol=1e-4)


def test_everything_is_about_one_target_and_adds_up(digits: tuple[nn.Module, ImageSet, Interpretation]) -> None:
    model, images, found = digits
    logits = model(images.images)
    rows = torch.arange(len(images))
    assert torch.equal(found.target, logits.argmax(1))
    torch.testing.assert_close(
        found.votes.sum((1, 2)) + found.terms.total, logits[rows, found.target], rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(found.terms.total, found.shares.bias, rtol=1e-4, atol=1e-4)
    reached = torch.einsum("nr,nrk,nr->nk", found.spectrum.values, found.spectrum.left,
        torch.einsum("nrchw,nchw->nr", found.spectrum.right, found.lens.inputs))  # fmt: skip
    torch.testing.assert_close(reached + found.lens.bias, logits, rtol=1e-3, atol=1e-3)


def test_an_image_alone_has_the_result_that_it_has_among_others(
    digits: tuple[nn.Module, ImageSet, Interpretation],
) -> None:
    model, images, found = digits
    alone = interpret(model, ImageSet.of(images.images[2:3], ids=images.ids[2:3]))
    assert found.attack is not None
    assert alone.attack is not None
    assert float(alone.attack.distance[0]) == pytest.approx(float(found.attack.distance[2]), rel=1e-3)
    torch.testing.assert_close(alone.votes[0], found.votes[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.spectrum.values[0], found.spectrum.values[2], rtol=1e-4, atol=1e-4)


def test_the_nearer_one_of_what_the_attacks_find_is_kept(digits: tuple[nn.Module, ImageSet, Interpretation]) -> None:
    model, images, _ = digits
    labels = model(images.images).argmax(1)
    near = nearest(model, images, labels)
    found = [attacks.attack(model, images.images, labels, name, norm="l2", ids=images.ids) for name in ATTACKS]
    torch.testing.assert_close(near.distance, torch.stack([one.distance for one in found]).amin(0))
    assert near.fooled_as.tolist() == model(near.images).argmax(1).tolist()


def test_what_cannot_be_fooled_is_said_to_be_so() -> None:
    model = linear_model(torch.zeros(2, 12), torch.tensor([1.0, 0.0]), (3, 2, 2))
    images = grey(2, (3, 2, 2))
    near = nearest(model, images, torch.zeros(2, dtype=torch.int64))
    assert bool(near.distance.isinf().all())
    assert near.fooled_as.tolist() == [0, 0]
    assert torch.equal(near.images, images.images)


def test_radius_is_in_pixels_whatever_x_is() -> None:
    images = wb.sample_data("shapes", n=2)
    model = wb.load("sample:shapes-vgg")
    raw, normalised = (interpret(model, images, space=space, attack=False) for space in ("raw", "normalised"))
    torch.testing.assert_close(raw.radius, normalised.radius, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(raw.radius, raw.shares.margin_radius)
    std = model.std.flatten()
    low, high = raw.radius / std.max(), raw.radius / std.min()
    assert ((normalised.shares.margin_radius >= low * 0.999) & (normalised.shares.margin_radius <= high * 1.001)).all()
    assert not torch.allclose(
        raw.shares.bias, normalised.shares.bias, rtol=0.05
    )  # the mean is bias only for raw pixels
    assert raw.attack is None


def test_another_class_than_the_predicted_one_has_a_negative_radius(
    digits: tuple[nn.Module, ImageSet, Interpretation],
) -> None:
    model, images, found = digits
    other = (found.predicted + 1) % 10
    explained = interpret(model, images, target=other, attack=False)
    assert torch.equal(explained.target, other)
    assert (explained.radius < 0).all()
    assert torch.equal(explained.shares.runner_up, found.predicted)


def test_frame_has_one_row_per_image(digits: tuple[nn.Module, ImageSet, Interpretation]) -> None:
    _, images, found = digits
    frame = found.frame()
    assert frame["image"].tolist() == list(images.ids)
    assert set(frame) >= {
        "predicted",
        "target",
        "logit",
        "pixels",
        "bias",
        "bias_share",
        "radius",
        "attack_radius",
        "x",
    }
    np.testing.assert_allclose(frame["pixels"] + frame["bias"], frame["logit"], rtol=1e-4)
    assert frame["residual"].max() < 1e-5
    assert "attack" in repr(found.attack).lower()


def test_progress_only_rises_and_ends_and_can_cancel() -> None:
    model, images = wb.load("sample:digits-mlp"), wb.sample_data("digits", n=2)
    seen: list[tuple[int, int, str]] = []
    interpret(model, images, progress=lambda *told: seen.append(told))
    done = [now for now, _, _ in seen]
    assert done == sorted(done)
    assert seen[-1][:2] == (1000, 1000)
    assert {"recording", "singular patterns"} <= {what for *_, what in seen}
    assert any(what == "attack: DDN" for *_, what in seen)

    class Stop(Exception):  # noqa: N818
        pass

    def stop(done: int, total: int, what: str) -> None:
        raise Stop

    with pytest.raises(Stop):
        interpret(model, images, progress=stop)


def test_what_is_no_classifier_is_refused() -> None:
    net = nn.Conv2d(3, 3, 3, padding=1)
    with pytest.raises(OptionError, match="no classifier"):
        interpret(net, grey(1, (3, 6, 5)))
    with pytest.raises(explain.InputError, match="no such class"):
        interpret(wb.load("sample:digits-mlp"), wb.sample_data("digits", n=1), target=10)


# The command.


command = partial(commandline.command, "interpret")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, commandline.Done]:
    folder = tmp_path_factory.mktemp("out") / "linear"
    done = command("sample:digits-lenet", "sample:digits", "--limit", 3, "-o", folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_folder_holds_page_pictures_and_tables(written: tuple[Path, Any]) -> None:
    folder, _ = written
    assert (folder / "index.html").stat().st_size > 100_000
    for kind in ("*.votes.png", "*.overlay.png"):
        pictures = sorted(folder.glob(kind))
        assert len(pictures) == 3
        for path in pictures:
            with Image.open(path) as picture:
                assert picture.size[0] >= 256
                assert picture.size[0] % 8 == 0
    assert len(list(folder.glob("*.bias.svg"))) == len(list(folder.glob("*.spectrum.svg"))) == 3
    assert not list(folder.glob(".*"))


def test_the_tables_say_what_the_model_says(written: tuple[Path, Any]) -> None:
    folder, _ = written
    model, images = wb.load("sample:digits-lenet"), wb.sample_data("digits", n=3)
    logits = model(images.images)
    shares, numbers = rows(folder / "shares.csv"), np.load(folder / "votes.npz")
    assert [row["image"] for row in shares] == list(images.ids) == numbers["ids"].tolist()
    for i, row in enumerate(shares):
        logit = float(logits[i].max())
        assert float(row["pixels"]) + float(row["bias"]) == pytest.approx(logit, rel=1e-4)
        assert numbers["votes"][i].sum() + numbers["bias"][i] == pytest.approx(logit, rel=1e-4)
        terms = [float(one["value"]) for one in rows(folder / "bias_terms.csv") if one["image"] == row["image"]]
        assert sum(terms) == pytest.approx(float(row["bias"]), rel=1e-3)
        energies = [float(one["energy"]) for one in rows(folder / "spectrum.csv") if one["image"] == row["image"]]
        assert sum(energies) == pytest.approx(1, abs=1e-5)
    for row in rows(folder / "change.csv"):
        parts = sum(float(row[name]) for name in ("pixels", "gates", "bias"))
        assert parts == pytest.approx(float(row["total"]), abs=1e-3)
    assert {row["kind"] for row in rows(folder / "agreement.csv")} == {"decision"}


def test_the_terminal_shows_a_table_that_adds_up(written: tuple[Path, Any]) -> None:
    _, done = written
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("digits/")]
    assert len(lines) == 3
    for line in lines:
        logit, pixels, bias = (float(cell.replace("−", "-").replace(",", "")) for cell in line[2:5])
        assert round(pixels + bias - logit, 6) == 0
        assert float(line[6]) > 0
        assert float(line[7]) > 0
    assert "x is raw pixels in [0, 1]; logit = pixels + bias to" in done.stdout


def test_json_and_options(tmp_path: Path) -> None:
    done = command(
        "sample:digits-mlp", "sample:digits", "--limit", 2, "--no-attack", "--space", "normalised", "--mode", "tangent",
        "--target", 3, "-o", tmp_path / "a" / "b", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["x"], found["mode"]) == ("normalised pixels", "tangent")
    assert found["residual"] < 1e-5
    assert [row["target"] for row in found["images"]] == [3, 3]
    assert "attack_radius" not in found["images"][0]
    assert not (tmp_path / "a" / "b" / "change.csv").exists()
    page = (tmp_path / "a" / "b" / "index.html").read_text()
    assert "--space normalised --mode tangent --target 3" in page
    assert "target=3" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "10"), "0 to 9"),
        (("--target", "-1"), "no such class"),
        (("--space", "rgb"), "'raw' or 'normalised'"),
        (("--mode", "secan"), "'secant' or 'tangent'"),
        (("--out", "{file}"), "needs a folder|need a folder"),
        (("--out", "{file}/below"), "cannot be written"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_paragraph_and_status_2(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    out = () if "--out" in options else ("-o", tmp_path / "out")
    done = command(
        "sample:digits-mlp", "sample:digits", "--limit", 1, *(text.format(file=file) for text in options), *out
    )
    assert done.returncode == 2
    assert any(part in done.stderr for part in said.split("|"))
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
