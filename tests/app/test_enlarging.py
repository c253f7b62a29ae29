"""The part of the page "Linear" about a network that returns pictures: the pixel that is chosen is the one that is shown."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
import torch
from streamlit.testing.v1 import AppTest

import explain
import workbench as wb
from workbench.pages import enlarging

SCRIPT = """
from workbench.pages import enlarging

enlarging.section()
"""


@pytest.fixture
def page() -> Iterator[AppTest]:
    """The part, switched on."""
    enlarging._lens.clear()
    test = AppTest.from_string(SCRIPT, default_timeout=60).run()
    assert not test.number_input, "nothing is computed before it is switched on"
    yield test.toggle[0].set_value(True).run()
    enlarging._lens.clear()


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(" ", ""))


def sums(page: AppTest) -> list[tuple[float, float, float]]:
    """The printed equations: value, weighted pixels, bias, for each colour."""
    (line,) = [c.value for c in page.caption if c.value.startswith("Weighted pixels + bias")]
    found = re.findall(r"\w+ (−?[\d.]+) = (−?[\d.]+) ([+−] [\d.]+)", line)
    return [(number(value), number(weighted), number(bias)) for value, weighted, bias in found]


def choose(page: AppTest, row: int, column: int) -> AppTest:
    page.number_input[0].set_value(row)
    page.number_input[1].set_value(column)
    return page.run()


def test_the_sums_are_the_answer_at_the_chosen_pixel(page: AppTest) -> None:
    model = wb.load_image_model("sample:shapes-sr")
    images = wb.shrink(wb.sample_data("shapes", n=6).images)
    answer = model(images).detach()
    for row, column in ((40, 21), (0, 63), (63, 0)):
        choose(page, row, column)
        assert not page.exception
        for channel, (value, weighted, bias) in enumerate(sums(page)):
            assert value == pytest.approx(weighted + bias, abs=1e-9), "as printed, the sum is one"
            assert value == pytest.approx(float(answer[0, channel, row, column]), abs=2e-4)
    page.get("button_group")[0].set_value(3).run()
    assert [value for value, _, _ in sums(page)] == pytest.approx(answer[3, :, 63, 0].tolist(), abs=2e-4)


def test_filters_and_responses_are_shown_for_every_colour(page: AppTest) -> None:
    captions = [caption.value for caption in page.caption]
    assert captions.count("red") == captions.count("green") == captions.count("blue") == 2
    told = [picture.alt for element in page.get("image") for picture in element.proto.imgs]
    assert [alt.split(";")[0] for alt in told] == [
        *(f"Weights of the input for {colour}" for colour in ("red", "green", "blue")),
        *(f"Answer to one more {colour}" for colour in ("red", "green", "blue")),
    ]
    assert len(page.get("plotly_chart")) == 1


def test_the_script_to_copy_does_the_same(page: AppTest) -> None:
    choose(page, 12, 34)
    code = page.code[0].value
    lines = ast.parse(code).body
    scope: dict[str, object] = {}
    exec(compile(ast.Module(lines[:-2], []), "copied", "exec"), scope)
    rows, column = (eval(compile(ast.Expression(line.value), "copied", "eval"), scope) for line in lines[-2:])
    lens = scope["lens"]
    assert isinstance(lens, explain.LinearInterpreter) and rows.shape == (3, 3, 32, 32) and column.shape == (3, 64, 64)
    assert torch.equal(rows[1], lens.row((1, 12, 34))[0])
    assert int(column[0].abs().argmax()) // 64 in range(10, 15), "the response is where the pixel is"
