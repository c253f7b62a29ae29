"""What the documents say is run: README's and docs' Python, CONTRIBUTING's worked examples, links and pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import attacks
import explain
from attacks.registry import Attack

ROOT = Path(__file__).parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


def code_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = code_blocks("README.md")
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["maps"]["gradcam++"].maps.shape == (16, 64, 64)
    assert list(names["robust"].curve.epsilon) == [0.0, 1 / 255, 4 / 255]
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow) if "dissection" in page else page for page in PAGES]
)
def test_the_python_of_a_page_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What each example claims is in its own asserts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("explain.linear.book._registered", {})  # what a page teaches the interpreter stays on the page
    blocks = code_blocks(page)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    for said in re.findall(r"# (the .*) \.\.\.$", "".join(blocks), re.MULTILINE):
        assert any(line.startswith(said) for line in printed), said


@pytest.mark.slow
def test_the_documented_gap_of_trained_networks_is_measured() -> None:
    """Float64, printed to two or three digits: only the last one may differ elsewhere, and zero stays zero."""
    names = ["shapes-vgg", "shapes-mobilenet", "digits-mlp"]
    module = [sys.executable, "-m", "benchmarks.jacobian_gap", "--networks", *names]
    printed = subprocess.run(module, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    page = (ROOT / "docs" / "linear.md").read_text().splitlines()
    assert printed[0] in page
    for name, row in zip(names, printed[2:], strict=True):
        (said,) = [line for line in page if line.startswith(f"| **sample:{name}** |")]
        found, documented = (
            [float(one) for one in re.findall(r"-?\d[\d.]*(?:e-\d+)?", text.split("|", 3)[3])] for text in (row, said)
        )
        assert len(found) == 6
        assert found == pytest.approx(documented, rel=0.02, abs=1e-9)


def test_the_worked_explainer_passes_its_own_test(monkeypatch: pytest.MonkeyPatch) -> None:
    method, test, *_ = code_blocks("CONTRIBUTING.md")
    names: dict[str, Any] = {}
    exec(method, names)
    monkeypatch.setitem(explain.METHODS, "input_x_gradient", names["METHOD"])
    scope = {"torch": torch, "nn": nn, "explain": explain}
    exec(test, scope)
    scope["test_values_and_bias_add_up_to_the_score_of_a_linear_network"]()  # type: ignore[operator]


def test_the_worked_attack_passes_its_own_test_and_fits_the_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, attack, test = code_blocks("CONTRIBUTING.md")
    names: dict[str, Any] = {}
    exec(attack, names)
    scope = {"torch": torch, "nn": nn, "attacks": attacks, "least_likely": names["least_likely"]}
    exec(test, scope)
    scope["test_with_two_classes_it_is_fgsm_and_it_never_beats_the_optimum"]()  # type: ignore[operator]
    entry = Attack(
        "least-likely",
        "Least likely class",
        ("linf", "l2"),
        "arXiv:1611.01236",
        names["least_likely"],
        targeted=False,
        description="",
        passes=lambda _: 2,
    )
    monkeypatch.setitem(attacks.ATTACKS, "least-likely", entry)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    x = torch.rand(4, 3, 2, 2)
    found = attacks.attack(model, x, model(x).argmax(1), "least-likely", epsilon=0.1)
    assert (found.distance <= 0.1 + 1e-6).all()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES])
def test_links_and_pictures_exist(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_page_is_found_from_the_readme(page: str) -> None:
    assert f"]({page})" in (ROOT / "README.md").read_text()


def test_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    assert named >= {"demo", "test", "app", "check"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_sample_cards_and_weights_belong_together() -> None:
    folder = ROOT / "sample_models"
    weights, cards = {p.stem for p in folder.glob("*.safetensors")}, {p.stem for p in folder.glob("*.md")}
    assert weights == cards
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 20e6
