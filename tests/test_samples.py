"""Shapes tell the truth about themselves: twins, evidence, concepts, and the same picture whatever else is made."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import workbench as wb
from workbench import samples
from workbench.drawings import CATEGORIES, KINDS
from workbench.samples import counterfactual_twins, sample_data, sample_photos

if TYPE_CHECKING:
    from workbench.images import ConceptMaps, ImageSet

N = 400


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return sample_data("shapes", "test", N)


@pytest.fixture(scope="module")
def twins() -> ImageSet:
    return counterfactual_twins("test", N)


@pytest.fixture(scope="module")
def concepts(data: ImageSet) -> ConceptMaps:
    assert data.concepts is not None
    return data.concepts


def number(concepts: ConceptMaps, category: str, name: str) -> int:
    return 1 + list(zip(concepts.categories, concepts.names, strict=True)).index((category, name))


def plane(concepts: ConceptMaps, category: str) -> torch.Tensor:
    return concepts.labels[:, CATEGORIES.index(category)]


def test_shapes_come_as_promised(data: ImageSet) -> None:
    assert data.images.shape == (N, 3, 64, 64)
    assert data.images.dtype == torch.float32
    assert data.labels is not None
    assert data.labels.dtype == torch.int64
    assert data.ids[17] == "shapes/test/0/17"
    assert len(set(data.ids)) == N
    assert data.classes[:2] == ("red-centre flower", "blue-centre flower")
    assert len(data.classes) == 10
    assert data.evidence is not None
    assert data.evidence.dtype == torch.bool


def test_pixels_are_those_of_an_8_bit_file(data: ImageSet) -> None:
    assert data.images.min() >= 0
    assert data.images.max() <= 1
    assert torch.equal(data.images, (data.images * 255).round().to(torch.uint8).to(torch.float32).div(255))


def test_twins_differ_in_the_evidence_and_nowhere_else(data: ImageSet, twins: ImageSet) -> None:
    assert data.evidence is not None
    assert data.labels is not None
    differs = (data.images != twins.images).any(dim=1)
    assert torch.equal(differs, data.evidence)
    assert twins.labels is not None
    assert torch.equal(twins.labels, data.labels ^ 1)
    assert twins.ids[17] == "shapes/test/0/17/twin"


def test_twins_differ_in_the_evidence_however_many_objects_there_are() -> None:
    for split, seed, instances in (("train", 0, 1), ("test", 5, 2), ("train", 123456789, 3)):
        one = sample_data("shapes", split, 160, seed, instances=instances)
        other = counterfactual_twins(split, 160, seed, instances=instances)
        assert one.evidence is not None
        assert torch.equal((one.images != other.images).any(dim=1), one.evidence)


def test_twins_share_all_annotation_but_the_deciding_colour(data: ImageSet, twins: ImageSet) -> None:
    assert data.evidence is not None
    assert twins.evidence is not None
    assert data.concepts is not None
    assert twins.concepts is not None
    assert torch.equal(data.evidence, twins.evidence)
    same = data.concepts.labels == twins.concepts.labels
    assert same[:, 1:].all()
    assert torch.equal(~same[:, 0], data.evidence)


def test_the_class_is_written_in_the_evidence(data: ImageSet, concepts: ConceptMaps) -> None:
    assert data.evidence is not None
    assert data.labels is not None
    for i, label in enumerate(data.labels.tolist()):
        colour_part, kind = data.classes[label].split(" ")
        colour, part = colour_part.split("-")
        here = data.evidence[i]
        assert here.any()
        assert torch.equal(here, plane(concepts, "part")[i] == number(concepts, "part", part))
        assert (plane(concepts, "colour")[i][here] == number(concepts, "colour", colour)).all()
        assert (plane(concepts, "object")[i][here] == number(concepts, "object", kind)).all()


def test_the_evidence_really_has_that_colour(data: ImageSet, twins: ImageSet) -> None:
    assert data.evidence is not None
    assert data.labels is not None
    share = data.evidence[:, None] / data.evidence.sum(dim=(1, 2))[:, None, None, None]
    redness, redness_of_twin = (
        (s.images[:, 0] - s.images[:, 2]).mul(share[:, 0]).sum(dim=(1, 2)) for s in (data, twins)
    )
    red = data.labels % 2 == 0
    assert torch.equal(redness > 0, red)
    assert torch.equal(redness_of_twin < 0, red)
    assert ((redness - redness_of_twin).abs() > 0.5).all()


def test_concepts_are_numbered_within_their_category(concepts: ConceptMaps) -> None:
    assert len(concepts.names) == len(concepts.categories)
    assert tuple(dict.fromkeys(concepts.categories)) == CATEGORIES
    assert concepts.labels.shape == (N, len(CATEGORIES), 64, 64)
    for category in CATEGORIES:
        seen = set(plane(concepts, category).unique().tolist()) - {0}
        allowed = {i for i, c in enumerate(concepts.categories, start=1) if c == category}
        assert seen == allowed, f"400 images show every {category}, and nothing else is filed under it"


def test_concepts_agree_with_each_other(concepts: ConceptMaps) -> None:
    thing, part, texture = (plane(concepts, c) for c in ("object", "part", "texture"))
    assert torch.equal(thing > 0, part > 0)
    assert (plane(concepts, "colour") > 0).all()
    for kind in KINDS:
        parts = {number(concepts, "part", p) for p in (kind.key, kind.body, *(name for name, _ in kind.extras))}
        here = thing == number(concepts, "object", kind.name)
        assert set(part[here].unique().tolist()) == parts
        body = here & (part == number(concepts, "part", kind.body))
        assert torch.equal(here & (texture > 0), body)
    for category in ("object", "texture", "scene"):
        values = plane(concepts, category).flatten(1)
        low = torch.where(values > 0, values, 255).amin(dim=1)
        assert torch.equal(low, values.amax(dim=1)), f"an image has one {category}"
    assert (plane(concepts, "scene") > 0).all()


def test_every_ten_images_hold_each_class_once(data: ImageSet) -> None:
    assert data.labels is not None
    assert torch.equal(data.labels.view(-1, 10).sort(dim=1).values, torch.arange(10).expand(N // 10, 10))
    assert len(data.labels.view(-1, 10).unique(dim=0)) > N // 20, "in an order that changes"


def test_an_image_does_not_depend_on_how_many_are_made(data: ImageSet) -> None:
    for n in (1, 7, 40, 95):
        fewer = sample_data("shapes", "test", n)
        assert torch.equal(fewer.images, data.images[:n])
        assert fewer.ids == data.ids[:n]
        assert data.labels is not None
        assert data.evidence is not None
        assert data.concepts is not None
        assert fewer.labels is not None
        assert fewer.evidence is not None
        assert fewer.concepts is not None
        assert torch.equal(fewer.labels, data.labels[:n])
        assert torch.equal(fewer.evidence, data.evidence[:n])
        assert torch.equal(fewer.concepts.labels, data.concepts.labels[:n])


def test_making_shapes_leaves_the_random_numbers_of_others_alone(data: ImageSet) -> None:
    np.random.seed(7)
    torch.manual_seed(7)
    again = sample_data("shapes", "test", N)
    assert again.digest == data.digest
    after = np.random.random(), torch.rand(()).item()
    np.random.seed(7)
    torch.manual_seed(7)
    assert after == (np.random.random(), torch.rand(()).item())


def test_splits_and_seeds_share_no_image() -> None:
    # The second seed has the low 32 bits of the first, which a careless key would mix up.
    sets = [sample_data("shapes", split, 120, seed) for split in ("train", "test") for seed in (0, 1, 2**32)]
    pictures = {image.numpy().tobytes() for s in sets for image in s.images}
    assert len(pictures) == 6 * 120
    assert len({i for s in sets for i in s.ids}) == 6 * 120
    # Not even the noise is shared: unrelated pictures do not correlate in their highest frequencies.
    first, second = (s.images[:, :, :, 1:] - s.images[:, :, :, :-1] for s in (sets[0], sets[3]))
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert correlation.abs() < 0.01  # 1.4 million pairs: chance alone gives 0.001, shared noise above 0.5


def test_the_data_is_what_the_sample_networks_and_stored_results_were_made_with(data: ImageSet) -> None:
    assert data.labels is not None
    assert data.evidence is not None
    assert data.labels[:20].tolist() == [2, 3, 6, 7, 0, 1, 9, 4, 5, 8, 6, 4, 9, 7, 3, 8, 0, 5, 2, 1]
    # Not a digest: a processor may round a pixel the other way.
    assert data.images.mean(dim=(1, 2, 3))[:4].tolist() == pytest.approx([0.5789, 0.2699, 0.6265, 0.6284], abs=1e-3)
    assert data.evidence.sum(dim=(1, 2))[:8].tolist() == pytest.approx([178, 224, 104, 109, 89, 72, 76, 95], abs=2)


@pytest.mark.parametrize("instances", [1, 2, 3])
def test_the_number_of_instances_can_be_chosen(instances: int) -> None:
    made = sample_data("shapes", "test", 200, instances=instances)
    assert made.ids[3] == f"shapes/test/0/3/x{instances}"
    assert count_objects(made) == [instances] * 200


def test_left_alone_an_image_has_one_to_three_instances_whole_and_apart(data: ImageSet) -> None:
    counts = np.bincount(count_objects(data), minlength=4)
    assert counts[0] == 0
    assert len(counts) == 4
    assert (counts[1:] > N / 3 - 5 * np.sqrt(N * 2 / 9)).all()  # a third each, within five standard deviations


def count_objects(made: ImageSet) -> list[int]:
    assert made.concepts is not None
    objects = plane(made.concepts, "object").numpy() > 0
    frame = objects[:, [0, -1], :].any() or objects[:, :, [0, -1]].any()
    assert not frame, "no object is cut by the frame"
    return [ndimage.label(mask, np.ones((3, 3)))[1] for mask in objects]


def test_digits_are_scikit_learns_split_once_and_for_all() -> None:
    train, test = sample_data("digits", "train"), sample_data("digits", "test")
    assert train.images.shape == (1347, 1, 8, 8)
    assert test.images.shape == (450, 1, 8, 8)
    everything = [i.rsplit("/")[-1] for i in train.ids + test.ids]
    assert sorted(everything, key=int) == [str(i) for i in range(1797)]
    assert test.classes == tuple("0123456789")
    assert torch.equal(test.images * 16, (test.images * 16).round())
    assert test.images.max() == 1
    for data in (train, test):
        assert data.labels is not None
        share = data.labels.bincount().double() / len(data)
        assert share.sub(torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180]) / 1797).abs().max() < 0.002
    assert sample_data("digits", "test", seed=9).ids == test.ids, "a seed alone changes nothing"


def test_a_digit_is_found_by_its_id() -> None:
    from sklearn.datasets import load_digits

    everything = load_digits()
    some = sample_data("digits", "train", 50, seed=3)
    rows = [int(i.removeprefix("digits/train/")) for i in some.ids]
    assert some.labels is not None
    assert torch.equal(some.images[:, 0], torch.from_numpy(everything.images[rows] / 16).float())
    assert some.labels.tolist() == everything.target[rows].tolist()


def test_a_seed_chooses_digits_and_more_of_them_add_to_fewer() -> None:
    many = sample_data("digits", "test", 100, seed=1)
    assert sample_data("digits", "test", 30, seed=1).ids == many.ids[:30]
    assert sample_data("digits", "test", 100, seed=2).ids != many.ids
    assert len(set(sample_data("digits", "test", 450, seed=1).ids)) == 450


@pytest.mark.parametrize(
    "options",
    [
        {"name": "cats"},
        {"name": "shapes", "split": "validation"},
        {"name": "shapes", "n": 0},
        {"name": "digits", "n": -3},
        {"name": "digits", "split": "test", "n": 451},
        {"name": "digits", "split": "train", "n": 1348},
        {"name": "shapes", "n": 10, "seed": -1},
        {"name": "shapes", "n": 10, "instances": 4},
        {"name": "shapes", "n": 10, "instances": 0},
        {"name": "digits", "instances": 1},
    ],
)
def test_what_does_not_exist_is_refused_with_a_way_out(options: dict) -> None:
    with pytest.raises(wb.OptionError) as refusal:
        sample_data(**options)
    assert refusal.value.value in options.values()
    assert refusal.value.fix


def test_twins_refuse_alike() -> None:
    with pytest.raises(wb.OptionError, match="at least 1"):
        counterfactual_twins(n=0)


def test_photographs_are_real_and_need_no_heavy_import() -> None:
    code = (
        "import sys; from workbench.samples import sample_photos; print(*sample_photos(), sep='\\n');"
        "assert not {'sklearn', 'skimage', 'foolbox'} & set(sys.modules)"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")
    photos = sample_photos()
    assert [str(p) for p in photos] == listed[:-1]
    assert len(set(photos)) == len(photos) == 12
    for path in photos:
        with Image.open(path) as photo:
            assert photo.mode == "RGB"
            assert min(photo.size) >= 256
            assert np.asarray(photo).std() > 20


def test_a_missing_package_costs_only_its_own_photographs(monkeypatch: pytest.MonkeyPatch) -> None:
    complete = sample_photos()
    found = samples.find_spec
    monkeypatch.setattr(samples, "find_spec", lambda package: None if package == "foolbox" else found(package))
    assert sample_photos() == [p for p in complete if "foolbox" not in p.parts]
    assert 0 < len(sample_photos()) < len(complete)
