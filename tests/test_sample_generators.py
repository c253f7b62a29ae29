"""The shipped generators are what their cards say: small, within their budget, and as successful as written."""

from __future__ import annotations

import re

import pytest
import torch

import attacks
import workbench as wb
from workbench.bundle import bundled
from workbench.generators import sample_generators

FOLDER = bundled("sample_models") / "generators"
# Model, another architecture, budget, images of the card; least share of what PGD-40 reaches, from the card.
SHIPPED = {
    "digits-lenet": ("digits-lenet", "digits-mlp", 0.3, 450, 0.97),
    "digits-lenet-0.15": ("digits-lenet", "digits-mlp", 0.15, 450, 0.8),
    "shapes-vgg": ("shapes-vgg", "shapes-mobilenet", 16 / 255, 100, 0.6),
}


def card(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text()


def figures(name: str, row: str) -> list[float]:
    """The percentages in one row of a card, as shares."""
    (line,) = re.findall(rf"^\| {row} \| (.*) \|$", card(name), re.MULTILINE)
    return [float(number) / 100 for number in re.findall(r"([\d.]+)%", line)]


def test_there_are_cards_for_all() -> None:
    assert set(sample_generators()) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_generator_is_small_and_known_by_its_name(name: str) -> None:
    model, _, epsilon, _, least = SHIPPED[name]
    generator = wb.load_generator(f"sample:{name}")
    assert sum((FOLDER / f"{name}.{kind}").stat().st_size for kind in ("safetensors", "json")) < 2_000_000
    assert generator.epsilon == pytest.approx(epsilon) and generator.targets == tuple(range(10))
    assert generator.provenance["models"] == [wb.load(f"sample:{model}").digest], "trained against other weights"
    ours, theirs, share = figures(name, "success")
    assert ours / theirs == pytest.approx(share, abs=0.004) and share >= least  # of figures with one decimal


@pytest.mark.parametrize("name", SHIPPED)
def test_it_succeeds_as_often_as_its_card_says(name: str) -> None:
    model, other, epsilon, count, _ = SHIPPED[name]
    test = wb.sample_data(model.partition("-")[0], n=count)
    found = attacks.evaluate_generator(
        wb.load_generator(f"sample:{name}"), wb.load(f"sample:{model}"), test.images, test.labels,
        others={"other": wb.load(f"sample:{other}")},
    )  # fmt: skip
    white, transferred = found.summary()["success"]
    assert white == pytest.approx(figures(name, "success")[0], abs=0.004)
    assert transferred == pytest.approx(figures(name, "transfer")[0], abs=0.004)
    images = test.images[:20]
    made = wb.load_generator(f"sample:{name}")(images, torch.arange(20) % 10, eight_bit=True)
    assert (made - images).abs().max() <= epsilon + 1e-6


@pytest.mark.slow
def test_the_documented_tables_are_those_of_the_cards() -> None:
    text = (bundled("docs") / "generator.md").read_text()
    for name in SHIPPED:
        ours, theirs, _ = figures(name, "success")
        assert re.search(rf"\| `{name}`.*\| {ours:.1%} \| {theirs:.1%} \|", text), name
        for target, reached in re.findall(r"^\| ([^|]+) \| (\d+%) \| \d+% \| \d+% \|$", card(name), re.MULTILINE):
            assert re.search(rf"\| {target} \|.* {reached} \|", text), (name, target)
