"""Probes in memory, and the generated shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from explain.dissection.probe import Probe
from workbench.errors import ImageError, OptionError
from workbench.images import ConceptMaps, ImageSet
from workbench.probes import TensorProbe, shapes_probe
from workbench.samples import sample_data

NAMES, KINDS = ("red", "cat"), ("colour", "object")


def labels() -> torch.Tensor:
    return (torch.arange(2 * 2 * 3 * 4) % 3).view(2, 2, 3, 4)


def test_what_goes_in_comes_out() -> None:
    images = torch.rand(2, 3, 6, 8, dtype=torch.float64)
    probe = TensorProbe(images, labels(), NAMES, KINDS, ids=("x", "y"), whole=((), (2,)))
    assert isinstance(probe, Probe)
    assert (probe.concepts, probe.categories, probe.ids, len(probe)) == (NAMES, KINDS, ("x", "y"), 2)
    assert probe.size(1) == (6, 8)
    assert torch.equal(probe.image(1), images[1].float())
    assert torch.equal(probe.annotation(1).maps, labels()[1])
    assert probe.annotation(0).whole == ()
    assert probe.annotation(1).whole == (2,)
    assert repr(probe) == "TensorProbe(2 images, 2 concepts in 2 categories)"


def test_images_of_different_sizes_and_no_layers() -> None:
    probe = TensorProbe(
        [torch.rand(3, 4, 5), torch.rand(3, 2, 2)],
        [torch.ones(1, 2, 3, dtype=torch.uint8), torch.zeros(0, 7, 7, dtype=torch.int64)],
        ["one"],
        "thing",
    )
    assert [probe.size(0), probe.size(1)] == [(4, 5), (2, 2)]
    assert probe.annotation(1).maps.shape == (0, 7, 7)
    assert probe.ids == ("image-0", "image-1")
    assert probe.categories == ("thing",)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"images": torch.rand(3, 6, 8)}, ImageError, r"must be \(N, C, H, W\)"),
        ({"images": torch.zeros(2, 3, 6, 8, dtype=torch.uint8)}, ImageError, "image 0 is not a floating-point"),
        ({"images": torch.full((2, 3, 6, 8), 1.01)}, ImageError, "image 0 has pixels outside 0 to 1: 1.01"),
        ({"images": [torch.rand(3, 2, 2), torch.full((3, 2, 2), float("nan"))]}, ImageError, "image 1 has pixels"),
        ({"images": torch.zeros(0, 3, 6, 8)}, ImageError, "there are no images"),
        ({"images": []}, ImageError, "there are no images"),
        ({"images": "photo.jpg"}, ImageError, "these are no images: str"),
        ({"labels": labels()[:, 0]}, ImageError, r"labels\[:, None\]"),
        ({"labels": labels()[:1]}, ImageError, "labels for every image: 1 for 2"),
        ({"labels": labels().float()}, ImageError, "labels of image 0 are no integers"),
        ({"labels": labels().bool()}, ImageError, "labels of image 0 are no integers"),
        ({"labels": labels() - 1}, ImageError, "image 0 are not in 0 to 2: -1 to 1"),
        ({"labels": labels() + torch.tensor([0, 1]).view(2, 1, 1, 1)}, ImageError, "image 1 are not in 0 to 2: 1 to 3"),
        ({"concepts": ("red",)}, OptionError, "1 concepts, 2 categories"),
        ({"concepts": ("red", "red"), "categories": "colour"}, OptionError, r"named twice: red \(colour\)"),
        ({"concepts": "ab"}, OptionError, "list of names"),
        ({"concepts": (), "categories": ()}, OptionError, "must be names"),
        ({"ids": ("x", "x")}, OptionError, "'x' twice"),
        ({"ids": ("x",)}, OptionError, "1 ids for 2 images"),
        ({"whole": ((1,),)}, OptionError, "1 for 2 images"),
        ({"whole": ((1,), (0,))}, OptionError, "whole image 1 are not in 1 to 2"),
        ({"whole": ((3,), ())}, OptionError, "whole image 0 are not in 1 to 2"),
    ],
)
def test_probes_that_cannot_be(change: dict[str, Any], error: type[Exception], told: str) -> None:
    good: dict[str, Any] = {
        "images": torch.rand(2, 3, 6, 8),
        "labels": labels(),
        "concepts": NAMES,
        "categories": KINDS,
    }
    TensorProbe(**good)
    with pytest.raises(error, match=told) as caught:
        TensorProbe(**(good | change))
    assert caught.value.fix  # type: ignore[attr-defined]


def test_one_name_in_two_categories_is_two_concepts() -> None:
    assert TensorProbe(torch.rand(2, 3, 6, 8), labels(), ("sky", "sky"), KINDS).concepts == ("sky", "sky")


def test_the_digest_hangs_on_everything_that_is_said() -> None:
    images = torch.rand(2, 3, 6, 8)
    other, moved = images.clone(), labels()
    other[1, 2, 5, 7] = 1 - other[1, 2, 5, 7]
    moved[1, 1, 2, 3] = (moved[1, 1, 2, 3] + 1) % 3
    probes = [
        TensorProbe(images, labels(), NAMES, KINDS),
        TensorProbe(other, labels(), NAMES, KINDS),
        TensorProbe(images, moved, NAMES, KINDS),
        TensorProbe(images, labels().view(2, 2, 4, 3), NAMES, KINDS),
        TensorProbe(images, labels(), ("red", "dog"), KINDS),
        TensorProbe(images, labels(), NAMES, ("colour", "part")),
        TensorProbe(images, labels(), NAMES, KINDS, ids=("a", "b")),
        TensorProbe(images, labels(), NAMES, KINDS, whole=((1,), ())),
        TensorProbe(images, labels(), NAMES, KINDS, whole=((), (1,))),
    ]
    assert len({probe.digest for probe in probes}) == len(probes)
    assert TensorProbe(list(images.clone()), labels(), NAMES, KINDS).digest == probes[0].digest


def test_shapes_know_every_pixel() -> None:
    probe = shapes_probe(4, "train", 3)
    images = sample_data("shapes", "train", 4, 3)
    assert images.concepts is not None
    assert probe.ids == images.ids
    assert torch.equal(probe.image(2), images.images[2])
    assert torch.equal(probe.annotation(2).maps, images.concepts.labels[2])
    assert set(probe.categories) == {"colour", "object", "part", "texture", "scene"}
    red = probe.annotation(2).maps == probe.concepts.index("red") + 1
    assert red.shape[1:] == (64, 64)


def test_shapes_are_scaled_but_their_labels_are_not() -> None:
    images = sample_data("shapes", "test", 3, instances=1).images
    probe = shapes_probe(3, instances=1, size=(32, 48), channels=1)
    assert probe.image(0).shape == (1, 32, 48)
    assert probe.annotation(0).maps.shape[1:] == (64, 64)
    colour = shapes_probe(3, instances=1, size=(32, 48)).image(1)
    torch.testing.assert_close(colour, F.interpolate(images, (32, 48), mode="bilinear", antialias=True)[1])
    luma = (0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])[None]
    torch.testing.assert_close(probe.image(1), luma, atol=1e-5, rtol=0)
    assert shapes_probe(3, instances=1).digest != probe.digest


def test_an_image_set_needs_concepts() -> None:
    with pytest.raises(ImageError, match=r"does not say where which concept is seen: ImageSet"):
        TensorProbe.of(sample_data("digits", "test", 3))
    known = ConceptMaps(torch.ones(2, 1, 4, 5, dtype=torch.int64), ("all",), ("thing",))
    probe = TensorProbe.of(ImageSet.of(torch.rand(2, 1, 4, 5), ids="ab", concepts=known), channels=3)
    assert probe.ids == ("a", "b")
    assert torch.equal(probe.image(0)[0], probe.image(0)[2])
