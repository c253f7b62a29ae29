"""A report can be made again, computes nothing twice, mixes no results, and can be cancelled."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import attacks
import explain
import workbench as wb
from workbench.cli import app
from workbench.errors import OptionError
from workbench.images import ImageSet


def test_same_results_give_the_same_bytes(small_net: Any, some_images: Any) -> None:
    model, images = small_net(), some_images()
    explanations = explain.explain(model, images.images, methods=("saliency",))
    evaluation = attacks.evaluate(model, images.images, epsilons=(0.1,), ids=images.ids, attacks="fast")
    first, second = (wb.report(model, images, explanations=explanations, evaluation=evaluation) for _ in range(2))
    assert first.html == second.html
    assert first == second


def test_runs_differ_in_their_seconds_alone(
    small_net: Any, some_images: Any, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    pages = [wb.report(small_net(), some_images(), lite=True, **quick).html.splitlines() for _ in range(2)]
    rest = [[line for line in page if not re.search(r'class="(number )?seconds"', line)] for page in pages]
    assert rest[0] == rest[1]
    assert len(rest[0]) == len(pages[0]) - 2, "of all, and of the one attack"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    dated, again = (wb.report(small_net(), some_images(), lite=True, **quick).html for _ in range(2))
    assert dated == again
    assert 'seconds"' not in dated
    assert "2023-11-14" in dated


@pytest.mark.parametrize(
    ("model", "data", "options"),
    [
        ("sample:shapes-vgg", ("shapes", "test", 2), {"epsilons": (8 / 255,)}),
        (
            "sample:digits-lenet",
            ("digits", "test", 3),
            {"methods": "saliency", "norm": "l2", "epsilons": (0.5, 1 / 255), "seed": 3, "target": 7, "lite": True},
        ),
    ],
)
def test_the_call_and_the_command_in_the_report_make_it_again(
    model: str,
    data: tuple[str, str, int],
    options: dict[str, Any],
    read_page: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    monkeypatch.chdir(tmp_path)
    made = wb.report(wb.load(model), wb.sample_data(*data), "made.html", **options)
    page = read_page(made.html)
    assert "Fill in" not in page.text
    Path("made.html").unlink()
    exec(page.code("python-call"), {})  # the page's own words, made from options chosen here
    assert Path("made.html").read_text(encoding="utf-8") == made.html
    Path("made.html").unlink()
    program, *arguments = shlex.split(page.code("command-line"))
    assert program == "workbench"
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert Path("made.html").read_text(encoding="utf-8") == made.html


def test_options_that_only_python_knows(
    small_net: Any, tmp_path: Path, read_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    images = wb.sample_data("shapes", n=2)
    model = wb.load("sample:shapes-vgg")
    evaluation = attacks.evaluate(
        model, images.images, images.labels, ids=images.ids, epsilons=(8 / 255,), attacks=("pgd",),
        options={"pgd": {"steps": 2}},
    )  # fmt: skip
    made = wb.report(model, images, evaluation=evaluation, title="A 'title'", target=[1, 2], lite=True)
    page = read_page(made.html)
    code = page.code("python-call")
    assert 'id="command-line"' not in made.html
    scope: dict[str, Any] = {}
    exec(code.replace("'report.html'", repr(str(tmp_path / "again.html"))), scope)
    assert scope["evaluation"].provenance == evaluation.provenance
    again = read_page((tmp_path / "again.html").read_text(encoding="utf-8"))
    assert again.text.partition("The Python call")[0] == page.text.partition("The Python call")[0]


def test_where_the_call_must_be_filled_in_it_says_so(
    small_net: Any, some_images: Any, quick: Any, read_page: Any
) -> None:
    page = read_page(wb.report(small_net(name="it's"), some_images(), lite=True, **quick).html)
    assert "Fill in where your files are" in page.text
    code = page.code("python-call")
    compile(code, "call", "exec")
    assert """wb.load("path/to/it's")""" in code
    assert 'id="command-line"' not in page.source
    told = wb.report(small_net(), some_images(), sources=("net.pth", "my photos"), lite=True, **quick)
    page = read_page(told.html)
    assert "wb.load('net.pth')" in page.code("python-call")
    assert "wb.read_images('my photos', model, limit=3)" in page.code("python-call")
    known = read_page(wb.report(small_net(), some_images(), sources=("n.pth", "my photos"), lite=True).html)
    assert known.code("command-line") == ("workbench report n.pth 'my photos' --out report.html --limit 3 --lite")


def test_a_folder_and_a_file_are_named_as_given(tmp_path: Path, read_page: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    from safetensors.torch import save_file

    save_file(wb.load("sample:shapes-vgg").network.state_dict(), "mine.safetensors")
    made = wb.report("mine.safetensors", wb.sample_photos()[0], epsilons=(8 / 255,), lite=True)
    code = read_page(made.html).code("python-call")
    assert "wb.load('mine.safetensors')" in code
    assert f"wb.read_images({str(wb.sample_photos()[0])!r}, model)" in code


def test_results_given_are_not_computed_again(
    small_net: Any, some_images: Any, read_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = small_net(), some_images(5)
    explanations = explain.explain(model, images.images[:3], 1, ("gradcam",), "0", ids=images.ids[:3])
    evaluation = attacks.evaluate(model, images.images, epsilons=(0.05,), norm="linf", seed=4, attacks="fast")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed twice")

    monkeypatch.setattr(explain, "explain", refuse)
    monkeypatch.setattr(attacks, "evaluate", refuse)
    page = read_page(wb.report(model, images, explanations=explanations, evaluation=evaluation, lite=True).html)
    assert len(page.classed("card")) == 3
    assert "Seed 4" in page.text
    code = page.code("python-call")
    for said in ("methods=('gradcam',)", "layer='0'", "seed=4", "epsilons=(0.05,)"):
        assert said in code


def test_results_of_others_are_refused(small_net: Any, some_images: Any) -> None:
    model, images = small_net(), some_images(3, labels=[0, 1, 2])
    other_model, other_images = small_net(classes=4), ImageSet.of(1 - images.images, [0, 1, 2])
    for net, given, about in (
        (other_model, images, "model"),
        (model, other_images, "images"),
        (model, images.subset([0, 1]), "images"),
        (model, ImageSet.of(images.images, [2, 1, 0]), "labels"),
    ):
        evaluation = attacks.evaluate(net, given.images, given.labels, epsilons=(0.01,), attacks="fast")
        with pytest.raises(OptionError, match=f"evaluation given belong to other {about}"):
            wb.report(model, images, evaluation=evaluation)
    shifted = explain.explain(model, images.images, ids=("a", "b", "c"))
    foreign = explain.explain(other_model, images.images)
    short = explain.explain(model, images.images[:2])
    for explanations, about in ((shifted, "images"), (foreign, "model"), (short, "images")):
        with pytest.raises(OptionError, match=f"explanations given belong to other {about}"):
            wb.report(model, images, explanations=explanations)


def test_progress_runs_forward_to_the_end(small_net: Any, some_images: Any, quick: Any) -> None:
    seen: list[tuple[int, int, str]] = []
    wb.report(small_net(), some_images(), progress=lambda *told: seen.append(told), **quick)
    done = [step for step, _, _ in seen]
    assert done == sorted(done)
    assert {total for _, total, _ in seen} == {1000}
    assert done[-1] == 1000
    assert {"explaining", "sanity checks", "drawing pictures"} <= {what for _, _, what in seen}


@pytest.mark.parametrize("stage", ["explaining", "sanity checks", "drawing pictures"])
def test_raising_from_progress_cancels_and_leaves_nothing(
    stage: str, small_net: Any, some_images: Any, quick: Any, tmp_path: Path
) -> None:
    class Enough(Exception):  # noqa: N818 - not an error
        pass

    def stop(_done: int, _total: int, what: str) -> None:
        if what == stage:
            raise Enough

    with pytest.raises(Enough):
        wb.report(small_net(), some_images(), tmp_path / "report.html", progress=stop, **quick)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_images": 0}, "max_images is out of range: 0"),
        ({"max_images": 201}, "max_images is out of range: 201"),
        ({"target": [0]}, "one per image"),
        ({"path": "."}, "this is a folder"),
        ({"images": ImageSet.of(torch.rand(1, 4, 16, 12))}, "cannot be shown as pictures: 4 channels"),
        ({"images": ImageSet.of(torch.rand(1, 3, 16, 12), [3])}, "no class of the model: label 3, 3 classes"),
        ({"images": ImageSet.of(torch.rand(0, 3, 16, 12))}, "no image to report on"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_makes_no_sense_is_refused_before_the_work(
    options: dict[str, Any], said: str, small_net: Any, some_images: Any
) -> None:
    given = {"images": some_images(), **options}
    with pytest.raises(OptionError, match=said) as refused:
        wb.report(small_net(), **given)
    assert refused.value.fix


def test_saving(small_net: Any, some_images: Any, quick: Any, tmp_path: Path) -> None:
    made = wb.report(small_net(), some_images(), **quick)
    assert made.path is None
    path = tmp_path / "new folder" / "report.html"
    saved = made.save(path)
    assert path.read_bytes() == made.html.encode()
    assert len(path.read_bytes()) == saved.size
    assert (saved.path, saved.html) == (path, made.html)
    assert list(path.parent.iterdir()) == [path]
    assert repr(saved) == f"Report({saved.size / 1e6:.2f} MB, {str(path)!r})"
    with pytest.raises(OptionError, match="cannot be written"):
        made.save(path / "below a file.html")


def test_notebooks_show_the_page_without_scripts_in_a_frame(
    small_net: Any, some_images: Any, quick: Any, read_page: Any
) -> None:
    made = wb.report(small_net(), some_images(), **quick)
    ((tag, attrs),) = read_page(made._repr_html_()).elements
    assert tag == "iframe"
    assert attrs["sandbox"] is None
    assert read_page(attrs["srcdoc"]).all("script") == []


def test_the_package_is_the_call_and_imports_nothing_heavy() -> None:
    code = """
import sys
import workbench as wb
assert callable(wb.report) and wb.report.report
heavy = {"torch", "plotly", "jinja2", "pandas"} & set(sys.modules)
assert not heavy, heavy
assert wb.report.figures.PALETTE and wb.report.Report
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    parameters = list(inspect.signature(wb.report).parameters)
    assert parameters[:3] == ["model", "images", "path"]
    assert {"methods", "target", "layer", "norm", "epsilons", "attacks", "explanations", "evaluation", "max_images",
            "title", "seed", "lite", "progress"} <= set(parameters)  # fmt: skip
    with pytest.raises(AttributeError, match="nonsense"):
        wb.report.nonsense  # noqa: B018
