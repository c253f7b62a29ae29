"""Every torchvision classifier runs every method, or the method says why it does not apply."""

from __future__ import annotations

import pytest
import torch
import torchvision

import explain

NAMES = torchvision.models.list_models(module=torchvision.models)
METHODS = tuple(explain.METHODS)
# Gigabytes of weights; their smaller siblings run the same code.
GIANTS = {"regnet_y_128gf": "regnet_y_32gf", "vit_h_14": "vit_l_16"}
SIZES = {"vit_": 224, "maxvit_t": 224, "inception_v3": 96}


def build(name: str) -> torch.nn.Module:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") or name.startswith("vgg") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=5, **options)


def test_the_list_is_complete() -> None:
    assert len(NAMES) == 80
    assert set(GIANTS) | set(GIANTS.values()) <= set(NAMES) and not set(GIANTS) & set(GIANTS.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_method_or_a_reason(name: str, randomised) -> None:
    if name in GIANTS:
        pytest.skip(f"giant; {GIANTS[name]} runs the same code")
    size = next((size for prefix, size in SIZES.items() if name.startswith(prefix)), 64)
    model = randomised(build(name))
    found = explain.explain(model, torch.rand(1, 3, size, size), methods=METHODS, skip_inapplicable=True)
    assert set(found) | set(found.skipped) == set(METHODS)
    for one in found.values():
        assert bool(one.maps.isfinite().all())
    if "guided_backprop" in found:
        assert found["guided_backprop"].rewritten >= 1
    else:
        assert "no ReLU was called" in found.skipped["guided_backprop"]
    if name.startswith("vit_"):
        assert "reasons in tokens" in found.skipped["gradcam++"]
    else:
        height, width = found["gradcam++"].cam.shape[1:]
        assert height == width > 1
