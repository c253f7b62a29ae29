"""Figures of the linear interpreter: what is drawn adds up, says which way it points, and runs nothing a stranger named."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from explain.linear import BiasTerms, Change, GateAgreement, Shares, Spectrum
from workbench.errors import OptionError
from workbench.report import linear
from workbench.report.bars import Bar, bars_svg
from workbench.report.figures import PALETTE
from workbench.report.numbers import adding_up, plain, precision, shortened, signed, significant

HOSTILE = "<a href='javascript:x'>k</a>"


def terms(values: list[float], names: list[str] | None = None) -> BiasTerms:
    names = names or [f"layer{i}.bias" for i in range(len(values))]
    layers = tuple(name.split(".")[0] for name in names)
    kinds = ("conv2d",) * len(values)
    return BiasTerms(tuple(names), layers, kinds, torch.tensor([values]), torch.zeros(1, dtype=torch.int64), ("a",))


def shares(pixels: float, bias: float, margin: tuple[float, float]) -> Shares:
    numbers = [pixels + bias, pixels, bias, abs(bias) / (abs(pixels) + abs(bias)), sum(margin), *margin, 1.0]
    logit, p, b, share, lead, mp, mb, radius = (torch.tensor([number]) for number in numbers)
    first, second = torch.tensor([0]), torch.tensor([1])
    return Shares(first, logit, p, b, share, second, lead, mp, mb, radius, ("a",), "raw pixels in [0, 1]")


def change() -> Change:
    pixels, gates, bias = torch.tensor([[-3.0, 1, 0]]), torch.tensor([[-0.5, 2, 0]]), torch.tensor([[1.0, -0.25, 0]])
    return Change(pixels + gates + bias, pixels, gates, bias, ("a",))


def agreement(units: int, kind: str = "decision") -> GateAgreement:
    names = tuple(f"block{i}.act" for i in range(units))
    values = torch.linspace(1, 0.8, units)[None]
    return GateAgreement(names, ("relu_",) * units, (kind,) * units, values, (10,) * units, ("a",))


def spectrum(values: list[float]) -> Spectrum:
    n = len(values)
    return Spectrum(torch.tensor([values]), torch.eye(n)[None], torch.eye(n)[None], True, ("a",))


FIGURES = [
    linear.bias_bars(terms([3.0, -1.0])),
    linear.spectrum_figure(spectrum([3.0, 1.0])),
    linear.share_bar(shares(3.0, -1.0, (2.0, 1.0))),
    linear.change_bars(change(), 0, 0, 1),
    linear.agreement_bars(agreement(3)),
    linear.agreement_bars(agreement(60)),
]


@pytest.mark.parametrize("figure", FIGURES, ids=["bias", "spectrum", "share", "change", "agreement", "deep"])
def test_figures_suit_dark_and_light_and_are_small(figure: go.Figure) -> None:
    assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.font.color == PALETTE.text
    assert len(figure.to_json()) < 12_000


@pytest.mark.parametrize("seed", range(20))
def test_rounded_numbers_add_up_as_printed_and_stay_next_to_their_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = (rng.standard_normal(int(rng.integers(1, 40))) * 10.0 ** rng.integers(-4, 4)).tolist()
    rounded, total, decimals = adding_up(parts)
    unit = 10.0**-decimals
    printed = [plain(value, decimals).replace("−", "-").replace(",", "") for value in (*rounded, total)]
    units = [round(float(text) * 10**decimals) for text in printed]
    assert sum(units[:-1]) == units[-1]
    assert total == pytest.approx(sum(parts), abs=0.51 * unit)
    assert max(abs(a - b) for a, b in zip(rounded, parts, strict=True)) < unit


def test_plain_rounding_would_not_add_up() -> None:
    """The case that the function exists for: 0.4 + 0.4 = 0.8 reads "0 + 0 = 1" when each is rounded alone."""
    rounded, total, _ = adding_up([0.4, 0.4], decimals=0)
    assert (sorted(rounded), total) == ([0.0, 1.0], 1.0)
    assert adding_up([0.0, 0.0])[:2] == ([0.0, 0.0], 0.0)
    assert adding_up([1.0, float("inf")])[1] == float("inf")


def test_numbers_read_as_people_write_them() -> None:
    assert [signed(v) for v in (3.14159, -0.5219, 0.0, 12345.6)] == ["+3.14", "−0.522", "0", "+12,346"]
    assert signed(-2.0, 2) == "−2.00"
    assert [significant(v) for v in (0.15, 27.8, 100.0, 999.9, 1240.2)] == ["0.150", "27.8", "100", "1,000", "1,240"]
    assert precision(1.3e-7) == "one part in 7,600,000"
    assert precision(0.0) == "the last digit"


def test_names_of_layers_shorten_to_names_that_differ() -> None:
    assert shortened("layer1.0.bn1 shift") == "layer1.0.bn1 shift"
    assert shortened("features.denseblock4.denselayer12.norm1 shift") == "f.d4.d12.norm1 shift"
    blocks = [shortened(f"features.{n}.block.2.scale_activation intercept") for n in range(12)]
    assert len(set(blocks)) == 12
    assert max(map(len, blocks)) <= 28
    assert shortened("x" * 40, 10) == "xxxxx…xxxx"


def test_votes_for_are_red_votes_against_blue_and_none_leaves_white() -> None:
    votes = np.array([[-1.0, 0.0, 1.0]])
    against, nothing, for_it = linear.vote_picture(votes, 1.0)[0].astype(int)
    assert against[2] > against[0] + 50
    assert for_it[0] > for_it[2] + 50
    assert (nothing > 240).all()
    overlay = linear.vote_overlay(np.full((1, 1, 3), 0.4), votes, 1.0)[0].astype(int)
    assert overlay[0][2] > overlay[0][0] + 50
    assert len(set(overlay[1])) == 1
    assert (linear.vote_picture(0 * votes, 0.0) > 240).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_patterns_have_grey_for_zero_and_mirror_their_sign(channels: int) -> None:
    values = torch.randn(channels, 6, 5, generator=torch.Generator().manual_seed(0))
    shown, mirrored = linear.pattern(values).astype(int), linear.pattern(-values).astype(int)
    assert shown.shape == (6, 5, 3)
    assert np.abs(shown + mirrored - 255).max() <= 1
    assert np.array_equal(linear.pattern(5 * values), shown)
    assert set(np.unique(linear.pattern(torch.zeros(channels, 4, 4)))) <= {127, 128}
    assert linear.pattern(torch.full((channels, 2, 2), 0.25), scale_max=1.0).mean() == pytest.approx(255 * 0.625, abs=1)
    with pytest.raises(OptionError, match="shown as a picture"):
        linear.pattern(torch.zeros(7, 4, 4))


def test_bias_bars_are_in_order_and_the_rest_is_one_bar() -> None:
    values = [0.5, -8.0, 2.0, 0.25, -0.125]
    (bars,) = linear.bias_bars(terms(values), most=3).data
    assert bars.x == (-8.0, 2.0, pytest.approx(0.5 + 0.25 - 0.125))
    assert sum(bars.x) == pytest.approx(sum(values))
    assert [linear.FOR if x >= 0 else linear.AGAINST for x in bars.x] == list(bars.marker.color)
    printed = [float(text.replace("−", "-")) for text in bars.text]
    assert sum(printed) == pytest.approx(round(sum(values), 3), abs=1e-9)
    assert len(linear.bias_bars(terms(values), most=5).data[0].x) == 5


def test_names_of_strangers_are_text() -> None:
    for figure in (
        linear.bias_bars(terms([1.0], [HOSTILE]), class_name=HOSTILE),
        linear.share_bar(shares(1.0, 2.0, (1.0, 1.0)), names=(HOSTILE, HOSTILE)),
        linear.change_bars(change(), 0, 0, 1, (HOSTILE, HOSTILE, "c")),
    ):
        assert "<a" not in figure.to_json()
        assert "\\u003ca" not in figure.to_json()


def test_spectrum_marks_the_effective_rank() -> None:
    equal = linear.spectrum_figure(spectrum([2.0, 2.0, 2.0, 2.0]))
    assert len(set(equal.data[0].marker.color)) == 1
    assert "effective rank 4.0, stable rank 4.0" in equal.layout.title.subtitle.text
    one = linear.spectrum_figure(spectrum([2.0, 0.1, 0.1]))
    assert [colour == PALETTE.accent for colour in one.data[0].marker.color] == [True, False, False]
    assert one.data[0].y[0] == 2.0


def test_shares_are_steps_that_meet() -> None:
    figure = linear.share_bar(shares(5.0, -2.0, (1.5, 0.25)), names=("cat", "dog"))
    (bars,) = figure.data
    starts, ends = list(bars.base), [a + b for a, b in zip(bars.base, bars.x, strict=True)]
    assert starts == [0.0, 5.0, 0.0, 0.0, 1.5, 0.0]
    assert ends == [5.0, 3.0, 3.0, 1.5, 1.75, 1.75]
    assert figure.layout.yaxis.ticktext == ("pixels", "bias", "logit of cat", "pixels", "bias", "lead over dog")
    assert [note.text for note in figure.layout.annotations[:3]] == ["+5.000", "−2.000", "+3.000"]


@pytest.mark.parametrize(("fooled_as", "expected"), [(1, (-4.0, -2.5, 1.25)), (None, (-3.0, -0.5, 1.0))])
def test_change_is_three_steps_to_the_whole(fooled_as: int | None, expected: tuple[float, ...]) -> None:
    steps, total = linear.change_steps(change(), 0, 0, fooled_as)
    assert steps == expected
    assert total == pytest.approx(sum(expected))
    figure = linear.change_bars(change(), 0, 0, fooled_as, ("cat", "dog", "eel"))
    bars = figure.data[0]
    ends = [start + length for start, length in zip(bars.base, bars.y, strict=True)]
    assert list(bars.base[:3]) == [0.0, *ends[:2]]
    assert ends[2] == pytest.approx(ends[3])
    assert ("lead of cat over dog" if fooled_as else "logit of cat") in figure.layout.title.subtitle.text


def test_change_of_a_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionError, match="no such class"):
        linear.change_bars(change(), 0, 3)


def test_agreement_names_few_units_and_draws_many_along_the_depth() -> None:
    few, many = linear.agreement_bars(agreement(3)), linear.agreement_bars(agreement(60))
    assert few.layout.yaxis.ticktext == ("block0.act relu", "block1.act relu", "block2.act relu")
    np.testing.assert_allclose(few.data[0].x, [1, 0.9, 0.8], rtol=1e-6)
    np.testing.assert_allclose(many.data[0].y, np.linspace(1, 0.8, 60), rtol=1e-5)
    assert many.layout.yaxis.range[0] < 0.8 < 1 < many.layout.yaxis.range[1]
    assert set(few.data[0].marker.symbol) == {"circle"}
    smooth = linear.agreement_bars(agreement(2, "factor"))
    assert set(smooth.data[0].marker.symbol) == {"diamond"}
    assert "Diamonds" in smooth.layout.title.subtitle.text


def drawn(svg: str) -> list[dict[str, Any]]:
    root = ElementTree.fromstring(svg)
    return [element.attrib for element in root.iter() if element.tag.endswith("rect")]


def test_static_bars_are_xml_on_one_scale() -> None:
    svg = bars_svg([Bar("a", 0, 4, "#000", "+4"), Bar("b", 4, 3, "#000", "−1"), Bar("c", 0, -2, "#000", "−2")], "alt")
    first, second, third = ((float(rect["x"]), float(rect["width"])) for rect in drawn(svg))
    assert first[1] == pytest.approx(4 * second[1], abs=0.2)
    assert third[1] == pytest.approx(2 * second[1], abs=0.2)
    assert first[0] + first[1] == pytest.approx(second[0] + second[1], abs=0.2)
    assert third[0] + third[1] == pytest.approx(first[0], abs=0.2)


def test_static_bars_escape_what_strangers_name() -> None:
    name = "<script>run()</script>\x00\x1b\ud800"
    svg = bars_svg([Bar(name, 0, 1, "#000", "1")], name, title=name)
    texts = "".join(ElementTree.fromstring(svg.encode()).itertext())
    assert "<script>" not in svg
    assert "<script>run()</script>���" in texts
    assert drawn(bars_svg([], "nothing")) == []


def test_figures_do_not_import_torch() -> None:
    code = "import sys, workbench.report.linear; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
