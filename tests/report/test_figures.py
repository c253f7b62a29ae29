"""Figures say what the numbers say, to every eye and on every background, and run nothing that a stranger named."""

from __future__ import annotations

import base64
import subprocess
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from attacks.results import Evaluation, wilson
from workbench.errors import OptionError
from workbench.report import figures
from workbench.report.figures import PALETTE, map_overlay, predictions_bar, robustness_curve, shared_scale, to_rgb


def evaluation(
    epsilons: tuple[float, ...] = (1 / 255, 2 / 255, 8 / 255), norm: str = "linf", checks: Any = (("more steps", True),)
) -> Evaluation:
    n = 40
    standing = [max(n - 9 * i, 0) for i in range(len(epsilons) + 1)]
    rows = [(e, k / n, *wilson(k, n), n) for e, k in zip((0.0, *epsilons), standing, strict=True)]
    return Evaluation(
        curve=pd.DataFrame(rows, columns=["epsilon", "robust_accuracy", "low", "high", "n"]),
        samples=pd.DataFrame(),
        stages=pd.DataFrame(),
        checks=pd.DataFrame(list(checks), columns=["check", "passed"]),
        images=torch.zeros(n, 1, 1, 1),
        norm=norm,
        epsilons=epsilons,
        seed=0,
        seconds=0.0,
    )


def test_curve_draws_the_numbers_and_their_interval() -> None:
    result = evaluation()
    band, line = robustness_curve(result).data
    curve = result.curve
    assert line.y == tuple(curve["robust_accuracy"])
    assert line.x == tuple(curve["epsilon"])
    assert band.y == (*curve["high"], *curve["low"][::-1])
    assert band.x == (*curve["epsilon"], *curve["epsilon"][::-1])
    assert band.mode == "lines"


def test_curve_axes() -> None:
    figure = robustness_curve(evaluation())
    assert figure.layout.xaxis.ticktext == ("0", "1/255", "2/255", "8/255")
    assert figure.layout.yaxis.range == (0, 1)
    assert figure.layout.yaxis.tickformat == ".0%"
    assert "ℓ∞" in figure.layout.title.text
    assert "40 images" in figure.layout.title.subtitle.text
    assert robustness_curve(evaluation((0.5, 1.0, 2.0), "l2")).layout.xaxis.ticktext == ("0", "0.5", "1", "2")
    assert robustness_curve(evaluation((0.25 / 255, 0.01), "linf")).layout.xaxis.ticktext == ("0", "0.25/255", "0.01")


def test_crowded_ticks_keep_both_ends() -> None:
    epsilons = tuple(k / 255 for k in (0.25, 0.5, 1, 2, 16))
    assert robustness_curve(evaluation(epsilons)).layout.xaxis.ticktext == ("0", "2/255", "16/255")
    assert robustness_curve(evaluation(())).layout.xaxis.ticktext == ("0",)


@pytest.mark.parametrize(
    ("checks", "said"),
    [
        ((("more steps", True), ("large <b>epsilon", False)), "failed: large &lt;b&gt;epsilon"),
        ((), "sanity checks were not run"),
    ],
)
def test_a_curve_that_the_checks_do_not_back_is_marked(checks: Any, said: str) -> None:
    figure = robustness_curve(evaluation(checks=checks))
    (note,) = figure.layout.annotations
    assert "Do not trust" in note.text
    assert said in note.text
    assert figure.data[1].line.dash == "dash"
    assert figure.data[1].line.color == PALETTE.bad
    trusted = robustness_curve(evaluation())
    assert trusted.layout.annotations == ()
    assert trusted.data[1].line.color == PALETTE.accent


def test_predictions_are_the_top_ones_in_order() -> None:
    bar = predictions_bar(torch.tensor([0.1, 0.6, 0.05, 0.25]), ("a", "b", "c", "d"), top=3)
    assert bar.layout.yaxis.ticktext == ("b", "d", "a")
    np.testing.assert_allclose(bar.data[0].x, [0.6, 0.25, 0.1], rtol=1e-6)
    assert bar.data[0].text == ("60.0%", "25.0%", "10.0%")
    assert predictions_bar([0.2, 0.8]).layout.yaxis.ticktext == ("class 1", "class 0")
    with pytest.raises(OptionError, match="one row"):
        predictions_bar(np.zeros((2, 3)))


def test_names_of_strangers_are_text_and_same_names_stay_apart() -> None:
    names = ("crane", "crane", "<a href='javascript:x'>k</a>", "n" * 60)
    bar = predictions_bar([0.1, 0.2, 0.3, 0.4], names)
    assert len(set(bar.data[0].y)) == 4
    assert "<a" not in bar.to_json()
    assert "\\u003ca" not in bar.to_json()
    assert len(bar.layout.yaxis.ticktext[0]) == 28
    assert bar.data[0].customdata[0][0] == "n" * 60


@pytest.mark.parametrize("figure", [robustness_curve(evaluation()), predictions_bar([0.3, 0.7])], ids=["curve", "bar"])
def test_figures_suit_dark_and_light_and_are_small(figure: go.Figure) -> None:
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.font.color == PALETTE.text
    assert len(figure.to_json()) < 4000


def luminance(colour: str) -> float:
    """WCAG 2 relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_text_reads_on_white_and_on_the_apps_dark() -> None:
    text, dark = luminance(PALETTE.text), luminance("#0e1117")
    assert 1.05 / (text + 0.05) > 4.3  # one grey for both: sqrt(18.9) = 4.35 is the best there is
    assert (text + 0.05) / (dark + 0.05) > 4.3


def deuteranopic(colour: str) -> np.ndarray:
    """What is left without the green cones (Machado, Oliveira, Fernandes 2009, severity 1), in linear RGB."""
    matrix = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.array(matrix) @ rgb


def test_qualitative_colours_differ_for_colour_blind_eyes() -> None:
    seen = [deuteranopic(c) for c in PALETTE.qualitative]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]) > 0.15


def test_overlay_brightens_with_the_map_on_one_scale() -> None:
    image = torch.full((3, 4, 5), 0.5)
    ramp = torch.linspace(0, 2, 20).view(4, 5)
    shown = map_overlay(image, ramp, scale_max=2.0)
    assert shown.shape == (4, 5, 3)
    assert shown.dtype == np.uint8
    brightness = (shown @ [0.299, 0.587, 0.114]).ravel()
    assert (np.diff(brightness) > 0).all()
    assert np.array_equal(map_overlay(image, 9 * ramp, scale_max=18.0), shown)
    clipped = map_overlay(image, ramp, scale_max=1.0)
    assert np.array_equal(clipped[-1, -1], shown[-1, -1])
    assert np.array_equal(clipped[2, 1], clipped[3, 4])
    assert np.array_equal(map_overlay(image, -ramp, scale_max=2.0)[-1, -1], shown[0, 0])


def test_signed_overlay_is_red_for_blue_against_and_leaves_zero_alone() -> None:
    shown = map_overlay(torch.full((1, 1, 3), 0.4), torch.tensor([[-1.0, 0.0, 1.0]]), scale_max=1.0, signed=True)[0]
    against, nothing, for_it = shown.astype(int)
    assert against[2] > against[0] + 50
    assert for_it[0] > for_it[2] + 50
    assert len(set(nothing)) == 1


def test_overlay_of_an_empty_map_and_of_a_misfit() -> None:
    image = np.zeros((3, 2, 2), np.float32)
    assert len(np.unique(map_overlay(image, np.zeros((2, 2)), scale_max=0.0).reshape(-1, 3), axis=0)) == 1
    with pytest.raises(OptionError, match="size of its image"):
        map_overlay(image, np.zeros((3, 2)), scale_max=1.0)


def test_shared_scale() -> None:
    maps = np.zeros((2, 20, 20))
    assert shared_scale(maps) == 0.0
    maps[0, 0, 0] = -7.0
    assert shared_scale(maps) == 7.0
    spread = torch.linspace(0, 1, 2000).view(2, 20, 50)
    spread[0, 0, 0] = 100.0
    assert shared_scale(spread) == pytest.approx(0.995, abs=0.002)


def test_legend_runs_from_the_first_to_the_last_colour_of_the_maps() -> None:
    white = np.full((1, 3, 3), 255, np.uint8).transpose(0, 1, 2)
    ends = map_overlay(white, np.array([[0.0, 0.5, 1.0]]), scale_max=1.0, alpha=1.0)[0]
    css = figures.gradient_css()
    assert css.startswith("linear-gradient(to right, rgb({}, {}, {})".format(*ends[0]))
    assert css.endswith("rgb({}, {}, {}))".format(*ends[2]))
    assert figures.gradient_css(signed=True) != css


def test_to_rgb_takes_what_the_engines_have() -> None:
    image = torch.rand(3, 4, 5)
    rgb = to_rgb(image)
    assert np.array_equal(rgb, (image.permute(1, 2, 0) * 255).round().byte().numpy())
    assert np.array_equal(to_rgb(rgb), rgb)
    assert to_rgb(image[:1]).shape == to_rgb(rgb[..., 0]).shape == (4, 5, 3)
    with pytest.raises(OptionError, match="shown as a picture"):
        to_rgb(torch.zeros(2, 3, 4, 5))


def test_thumbnails() -> None:
    image = np.tile(np.arange(0, 250, dtype=np.uint8)[None, :, None], (500, 2, 3))
    uri = figures.to_webp_data_uri(image)
    head, data = uri.split(",")
    assert head == "data:image/webp;base64"
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        assert picture.format == "WEBP"
        assert picture.size == (224, 224)
    assert len(uri) < 20_000
    with Image.open(BytesIO(figures.to_png_bytes(image))) as picture:
        assert np.array_equal(np.asarray(picture), image)
    with Image.open(BytesIO(figures.to_png_bytes(image[:10], max_side=50))) as picture:
        assert picture.size == (50, 1)
    assert figures.to_webp_data_uri(image) == uri


def test_figures_do_not_import_torch() -> None:
    code = "import sys, workbench.report.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
