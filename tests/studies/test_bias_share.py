"""The study of biases: its figures from matrices multiplied by hand, its verdict from tables made by hand, its command."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import explain
import workbench as wb
from tests import commandline
from workbench.errors import OptionError
from workbench.studies import STUDIES, StudyResult
from workbench.studies.bias_share import CLASSIFIERS, judge, margin_bias_share, measure, split, summarise

ROOT = Path(__file__).parents[2]
SHARES = ("bias_share", "margin_bias_share")
PARTS = ("from_preprocessing", "from_shifts", "from_biases")


def by_hand(space: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return A·x, b and labels of the perceptron, from its matrices alone: W₃D₂W₂D₁W₁ in float64."""
    model, images = wb.load("sample:digits-mlp"), wb.sample_data("digits", n=count, seed=3)
    weights = {name: tensor.double() for name, tensor in model.network.state_dict().items()}
    mean, std = model.mean.double().item(), model.std.double().item()
    pixels, constants = [], []
    for image in images.images.double().flatten(1):
        z = (image - mean) / std
        before, matrix, bias = z, torch.eye(64, dtype=torch.float64), torch.zeros(64, dtype=torch.float64)
        for number in (1, 2, 3):
            weight, add = weights[f"fc{number}.weight"], weights[f"fc{number}.bias"]
            after = weight @ before + add
            mask = (after > 0).double() if number < 3 else torch.ones_like(after)
            matrix, bias = mask[:, None] * (weight @ matrix), mask * (weight @ bias + add)
            before = mask * after
        if space == "raw":
            matrix, bias = matrix / std, bias - matrix.sum(1) * mean / std
        pixels.append(matrix @ (image if space == "raw" else z))
        constants.append(bias)
    assert images.labels is not None
    return torch.stack(pixels), torch.stack(constants), images.labels


@pytest.mark.parametrize("space", ["raw", "normalised"])
def test_figures_of_a_perceptron_are_those_of_its_matrices(space: str) -> None:
    pixels, bias, labels = by_hand(space, 30)
    (first, second) = (pixels + bias).topk(2, dim=1).indices.unbind(1)
    rows = torch.arange(30)
    share = {"bias_share": (pixels[rows, first], bias[rows, first])}
    share["margin_bias_share"] = tuple(part[rows, first] - part[rows, second] for part in (pixels, bias))  # type: ignore[assignment]

    found = measure(wb.load("sample:digits-mlp"), wb.sample_data("digits", n=30, seed=3), space)  # type: ignore[arg-type]

    for name, (votes, constant) in share.items():
        values = (constant.abs() / (votes.abs() + constant.abs())).numpy()
        for key, at in ((name, 0.5), (f"{name}_q25", 0.25), (f"{name}_q75", 0.75)):
            assert found[key] == pytest.approx(np.quantile(values, at), abs=1e-5)  # float32 against float64
    for key, part in (("accuracy", pixels + bias), ("accuracy_pixels", pixels), ("accuracy_bias", bias)):
        assert found[key] == pytest.approx(float((part.argmax(1) == labels).double().mean()))
    votes, constant = share["margin_bias_share"]
    assert found["negative_without_bias"] == pytest.approx(float((votes < 0).double().mean()))
    assert found["negative_bias_only"] == pytest.approx(float((constant < 0).double().mean()))
    assert 0 < found["residual"] < 1e-5
    assert found["images"] == found["split_images"] == 30


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if "net" in name and "shapes" in name else name
        for name in CLASSIFIERS
    ],
)
def test_pixels_and_bias_add_up_and_so_do_the_kinds_of_constants(name: str) -> None:
    model = wb.load(f"sample:{name}").double()
    images = wb.sample_data("digits" if "digits" in name else "shapes", n=3).images.double()
    raw, normalised = (explain.linear_interpreter(model, images, space=space) for space in ("raw", "normalised"))  # type: ignore[arg-type]
    for lens in (raw, normalised):
        shares = lens.shares()
        torch.testing.assert_close(shares.pixels + shares.bias, shares.logit)
        torch.testing.assert_close(shares.margin_pixels + shares.margin_bias, shares.margin)
        share = margin_bias_share(shares)
        torch.testing.assert_close(
            share * (shares.margin_pixels.abs() + shares.margin_bias.abs()), shares.margin_bias.abs()
        )
        torch.testing.assert_close(lens.bias_terms().total, shares.bias)
    terms = raw.bias_terms()
    preprocessing = terms.values[:, [one.startswith("preprocessing ") for one in terms.names]].sum(1)
    # What a normalisation moves between A·x and b is its own term and nothing else: decisions are the same.
    torch.testing.assert_close(raw.shares().bias - preprocessing, normalised.shares().bias)
    before, after = split(raw), split(normalised)
    assert before["from_preprocessing"] > 0
    assert after["from_preprocessing"] == 0
    assert sum(before.values()) == pytest.approx(1)
    assert sum(after.values()) == pytest.approx(1)
    assert (after["from_shifts"] > 0) == name.startswith("shapes")  # the networks for digits have no norms


def table(score: list[float], margin: list[float]) -> pd.DataFrame:
    spaces = ["raw", "normalised"] * (len(score) // 2)
    return pd.DataFrame({"space": spaces, "images": 7, "bias_share": score, "margin_bias_share": margin})


@pytest.mark.parametrize(
    ("score", "margin", "verdict"),
    [
        ([0.5, 0.9, 0.7, 0.6], [0.6, 0.5, 0.8, 0.9], "confirmed"),
        ([0.49, 0.1, 0.2, 0.3], [0.0, 0.1, 0.499, 0.2], "refuted"),
        ([0.9, 0.9, 0.9, 0.49], [0.9, 0.9, 0.9, 0.9], "mixed"),  # one network, one kind of pixels
        ([0.9, 0.9, 0.9, 0.9], [0.9, 0.9, 0.49, 0.9], "mixed"),
        ([0.1, 0.1, 0.1, 0.5], [0.1, 0.1, 0.1, 0.1], "mixed"),
        ([0.9, 0.1, 0.9, 0.1], [0.9, 0.1, 0.9, 0.1], "mixed"),  # depends on what x is
    ],
)  # fmt: skip
def test_the_verdict_follows_from_the_table_by_the_criterion(
    score: list[float], margin: list[float], verdict: str
) -> None:
    found, sentence = judge(table(score, margin))
    assert found == verdict
    assert sentence.startswith(f"{verdict.capitalize()} for these networks, 7 images each")
    counted = [int(number) for number in re.findall(r"in (\d)", sentence)]
    expected = [sum(v >= 0.5 for v in column[start::2]) for start in (0, 1) for column in (score, margin)]
    assert counted == expected


@cache
def small() -> StudyResult:
    return STUDIES["bias-share"].run(n=2, models=("shapes-mobilenet", "digits-lenet"))


def test_a_run_gives_one_row_per_network_and_space() -> None:
    found = small()
    assert list(zip(found.table.model, found.table.space, strict=True)) == [
        ("shapes-mobilenet", "raw"),
        ("shapes-mobilenet", "normalised"),
        ("digits-lenet", "raw"),
        ("digits-lenet", "normalised"),
    ]
    assert found.table.notna().all(axis=None)
    fractions = found.table.drop(columns=["model", "space", "images", "split_images", "residual"])
    assert fractions.ge(0).all(axis=None)
    assert fractions.le(1 + 1e-9).all(axis=None)
    assert (found.table.bias_share_q25 <= found.table.bias_share).all()
    assert (found.table.bias_share <= found.table.bias_share_q75).all()
    np.testing.assert_allclose(found.table[list(PARTS)].sum(axis=1), 1)
    assert (found.verdict, found.sentence) == judge(found.table)
    assert repr(found) == f"StudyResult(bias-share: {found.verdict}, 4 rows)"
    pd.testing.assert_frame_equal(found.frame(), found.table)
    assert found.provenance["digests"]["digits-lenet"]["model"] == wb.load("sample:digits-lenet").digest
    assert json.loads(json.dumps(found.record()))["table"][1]["space"] == "normalised"


def test_the_summary_says_the_same_in_percent() -> None:
    found = small().table.iloc[0]
    shares, rest = (frame.iloc[0] for frame in summarise(small().table).values())
    assert shares["network"] == "shapes-mobilenet"
    cells = [100 * found[name] for name in ("bias_share", "bias_share_q25", "bias_share_q75")]
    assert [int(one) for one in re.findall(r"\d+", shares["score"])] == [round(cell) for cell in cells]
    assert int(rest["mean/std"]) == round(100 * found.from_preprocessing)
    assert float(rest["residual"]) == pytest.approx(found.residual, rel=0.5)


def test_batches_and_the_number_of_images_do_not_change_an_image() -> None:
    """Image i is the same whatever n is, and so is its share: the median of one is the first of many."""
    model = wb.load("sample:digits-lenet")
    one = measure(model, wb.sample_data("digits", n=1))
    many = wb.sample_data("digits", n=26)  # one more than are computed at once
    assert many.ids[0] == wb.sample_data("digits", n=1).ids[0]
    alone = [measure(model, many.subset([i]))["bias_share"] for i in range(26)]
    assert one["bias_share"] == alone[0]
    assert measure(model, many)["bias_share"] == pytest.approx(np.median(alone), abs=1e-5)


def test_progress_reaches_the_end_and_can_cancel() -> None:
    seen: list[tuple[int, int, str]] = []
    STUDIES["bias-share"].run(n=30, models=("digits-mlp",), progress=lambda *step: seen.append(step))
    assert [(done, total) for done, total, _ in seen] == [(25, 60), (30, 60), (55, 60), (60, 60)]
    assert seen[0][2] == "digits-mlp, raw pixels"

    def cancel(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        STUDIES["bias-share"].run(n=1, models=("digits-mlp",), progress=cancel)


def test_what_makes_no_sense_is_said() -> None:
    with pytest.raises(OptionError, match="shapes-vgg"):
        STUDIES["bias-share"].run(models=("vgg",))
    with pytest.raises(OptionError, match="at least 1"):
        STUDIES["bias-share"].run(n=0)
    with pytest.raises(OptionError, match="labels"):
        measure(wb.load("sample:digits-mlp"), wb.images.ImageSet.of(torch.rand(1, 1, 8, 8)))


command = partial(commandline.command, "study")


def test_the_command_lists_runs_and_writes(tmp_path: Path) -> None:
    listed = command()
    assert listed.returncode == 0
    assert "bias-share" in listed.stdout
    done = command("bias-share", "--limit", 1, "--out", tmp_path / "t.csv")
    assert done.returncode == 0, done.stderr
    for said in ("Claim:", "arXiv:1908.05168", "Protocol:", "Criterion:", "Verdict: ", "1 images each", *CLASSIFIERS):
        assert said in done.stdout
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows[::2]] == list(CLASSIFIERS)


def test_the_command_answers_machines() -> None:
    listed = json.loads(command("--json").stdout)
    assert [one["name"] for one in listed["studies"]] == list(STUDIES)
    unknown = command("bias-shares")
    assert unknown.returncode == 2
    assert "bias-share" in unknown.stderr
    done = json.loads(command("bias-share", "--limit", 1, "--json").stdout)
    assert done["verdict"] == judge(pd.DataFrame(done["table"]))[0]
    assert done["provenance"]["options"]["n"] == 1


def test_a_list_of_studies_costs_no_torch() -> None:
    code = "import sys; from workbench.studies import STUDIES; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
def test_the_documented_tables_are_what_the_study_gives() -> None:
    """Printed percentages are whole: float32 on another processor may round one of them, or one image, the other way."""
    found = STUDIES["bias-share"].run()
    lines = (ROOT / "docs" / "linear.md").read_text().splitlines()
    for summary in found.summary.values():
        header = f"| {' | '.join(summary.columns)} |"
        start = lines.index(header) + 2
        for line, (_, row) in zip(lines[start:], summary.iterrows(), strict=False):
            said, expected = ([cell.strip() for cell in line.strip("|").split("|")], list(row))
            assert said[:2] == expected[:2]
            for name, one, two in zip(summary.columns[2:], said[2:], expected[2:], strict=True):
                if name == "residual":
                    assert max(float(one), float(two)) < 1e-5, (line, name)
                    continue
                numbers = [[int(number) for number in re.findall(r"\d+", cell)] for cell in (one, two)]
                np.testing.assert_allclose(*numbers, rtol=0, atol=1, err_msg=f"{line}: {name}")
    assert f"**{found.verdict}**" in (ROOT / "docs" / "linear.md").read_text().lower()
