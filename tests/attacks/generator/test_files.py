"""A generator comes back from the disk as it went; files that lie, or do not belong together, are refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import attacks
from attacks import AttackError


def test_what_is_saved_comes_back(trained, digits, tmp_path) -> None:
    written = attacks.save_generator(trained, tmp_path / "deep" / "one", model="somebody's")
    assert [path.name for path in written] == ["one.safetensors", "one.json"]
    images, targets = digits.images[:50], torch.arange(50) % 10
    first = attacks.load_generator(tmp_path / "deep" / "one")
    for ending in (".safetensors", ".json"):
        again = attacks.load_generator(tmp_path / "deep" / f"one{ending}")
        assert again(images, targets).equal(first(images, targets))
    # Half precision moves pixels by far less than a grey level.
    assert (first(images, targets) - trained(images, targets)).abs().max() < 1 / 255
    assert (first.epsilon, first.targets, first.config) == (trained.epsilon, trained.targets, trained.config)
    assert first.history == trained.history and first.about == {"model": "somebody's"}
    assert first.provenance["recipe"] == trained.provenance["recipe"]
    assert not first.training and not any(parameter.requires_grad for parameter in first.parameters())
    attacks.save_generator(first, tmp_path / "two")
    assert (tmp_path / "two.safetensors").read_bytes() == written[0].read_bytes()


def test_a_name_with_dots_keeps_them(made, tmp_path) -> None:
    attacks.save_generator(made(0.0), tmp_path / "eps-0.15")
    assert attacks.load_generator(tmp_path / "eps-0.15").num_classes == 5


@pytest.fixture
def saved(made, tmp_path):
    return attacks.save_generator(made(0.3), tmp_path / "one")


@pytest.mark.parametrize("change", [
    {"width": 10**9}, {"width": 5}, {"num_classes": 10**12}, {"blocks": "2"}, {"epsilon": 2}, {"epsilon": float("nan")},
    {"evil": 1}, {"patch": True},
])  # fmt: skip
def test_a_description_that_lies_is_refused(saved, change) -> None:
    said = json.loads(saved[1].read_text())
    said["network"] |= change
    saved[1].write_text(json.dumps(said))
    with pytest.raises(AttackError):
        attacks.load_generator(saved[0])


def test_what_a_stranger_says_about_the_training_does_no_harm(saved) -> None:
    said = json.loads(saved[1].read_text())
    said |= {"history": [{"step": 1, "loss": 1, "success": "<b>", "seconds": 1}, 3], "provenance": 7, "targets": [9]}
    saved[1].write_text(json.dumps(said))
    generator = attacks.load_generator(saved[0])
    assert generator.history == [] and generator.provenance == {} and generator.targets == (0, 1, 2, 3, 4)
    assert "MultiTargetGenerator" in repr(generator) and len(generator.frame()) == 0


def test_damaged_and_missing_files_are_refused(saved, tmp_path) -> None:
    whole = saved[1].read_text()
    for text in ("", "[]", "{}", '{"format": 1}', '{"format": 2, "network": {}}', whole[:-40], "[" * 100_000):
        saved[1].write_text(text)
        with pytest.raises(AttackError, match=r"damaged|does not describe"):
            attacks.load_generator(saved[0])
    saved[1].write_bytes(b"\xff\xfe")
    with pytest.raises(AttackError, match="damaged"):
        attacks.load_generator(saved[0])
    saved[1].write_text(whole)
    saved[0].write_bytes(saved[0].read_bytes()[:100])
    with pytest.raises(AttackError, match="damaged"):
        attacks.load_generator(saved[0])
    saved[0].unlink()
    with pytest.raises(AttackError, match="cannot be read"):
        attacks.load_generator(saved[0])
    with pytest.raises(AttackError, match="two files of one name"):
        attacks.load_generator(tmp_path / "nowhere")


def test_weights_of_another_network_are_refused(saved) -> None:
    state = load_file(saved[0])
    for changed in (
        {**state, "more": torch.zeros(1)},
        {name: value for name, value in state.items() if name != "head.bias"},
        {**state, "head.bias": state["head.bias"].int()},
    ):
        save_file(changed, saved[0])
        with pytest.raises(AttackError, match="do not belong together"):
            attacks.load_generator(saved[0])


def test_weights_that_are_no_numbers_are_refused(saved) -> None:
    state = load_file(saved[0])
    state["head.bias"][0] = torch.nan
    save_file(state, saved[0])
    with pytest.raises(AttackError, match="NaN"):
        attacks.load_generator(saved[0])
