"""The command line: thin skins, honest errors, JSON for machines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import workbench as wb
from tests.commandline import answer, command
from workbench.cli import app
from workbench.console import printable
from workbench.serve import free_port, streamlit_flags

ROOT = Path(__file__).parents[1]


def test_every_command_has_help_and_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    commands = [("workbench", one.callback) for one in app.registered_commands]
    for group in app.registered_groups:
        commands += [(f"workbench {group.name}", one.callback) for one in group.typer_instance.registered_commands]
    assert len(commands) > 15
    for program, callback in commands:
        assert callback is not None
        assert callback.__doc__
        assert f"{program} {callback.__name__}" in readme


def test_models_lists_torchvision_and_samples() -> None:
    names = {row["name"]: row for row in answer("models")["models"]}
    assert names["resnet18"]["parameters"] == 11_689_512
    assert "sample:shapes-vgg" in names


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture-less checkpoint as a training script leaves it."""
    from workbench.demo import write_unknown_checkpoint

    path = tmp_path_factory.mktemp("checkpoint") / "unknown.pth"
    write_unknown_checkpoint(path)
    return path


def test_identify(checkpoint: Path) -> None:
    found = answer("identify", checkpoint)
    assert found["architecture"] == "resnet (basic, 1-1-1-1)"
    assert found["classes"] == 10
    assert found["said in the file"] == {"epoch": 12}
    assert "module." in command("identify", checkpoint).stdout


def test_explain_writes_overlays_and_numbers(checkpoint: Path, tmp_path: Path) -> None:
    found = answer(
        "explain", checkpoint, "sample:shapes", "--limit", 2, "--methods", "saliency,gradcam", "-o", tmp_path
    )
    assert {row["method"] for row in found["maps"]} == {"saliency", "gradcam"}
    assert len(list(tmp_path.glob("*.png"))) == 4
    numbers = np.load(tmp_path / "maps.npz")
    assert numbers["saliency"].shape == (2, 64, 64)
    import explain

    images = wb.sample_data("shapes", n=2)
    expected = explain.explain(wb.load(checkpoint), images.images, methods="saliency")["saliency"].maps
    np.testing.assert_allclose(numbers["saliency"], expected.numpy(), rtol=1e-4, atol=1e-6)


def test_methods_that_do_not_apply_are_said(tmp_path: Path) -> None:
    done = command("explain", "sample:digits-mlp", "sample:digits", "--limit", 1, "-o", tmp_path)
    assert done.returncode == 0
    assert "gradcam was left out" in done.stdout


def test_attack_says_who_was_fooled_and_writes_images(tmp_path: Path) -> None:
    found = answer("attack", "sample:digits-lenet", "sample:digits", "--eps", "0.2", "--limit", 3, "-o", tmp_path)
    assert found["epsilon"] == 0.2
    assert len(found["images"]) == 3
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_images_whose_names_look_alike_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for name in ("a/b.png", "a_b.png"):
        target = tmp_path / "photos" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(target)
    answer("explain", "sample:shapes-vgg", tmp_path / "photos", "--methods", "saliency", "-o", tmp_path / "maps")
    assert len(list((tmp_path / "maps").glob("*.png"))) == 2


def test_strangers_names_do_not_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07") == "a�[2Jb�"


def test_report_writes_one_file(tmp_path: Path) -> None:
    target = tmp_path / "r.html"
    found = answer("report", "sample:digits-lenet", "sample:digits", "--limit", 2, "--eps", "0.05,0.1", "-o", target)
    assert target.stat().st_size == found["bytes"] > 10_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("identify", "nothing.pth"), "no such file"),
        (("explain", "resnet51", "sample:shapes"), "Did you mean resnet50"),
        (("explain", "sample:shapes-vgg", "nowhere/"), "nowhere"),
        (("explain", "sample:shapes-vgg", "sample:shapes", "--methods", "gradcan"), "gradcam"),
        (("attack", "sample:shapes-vgg", "sample:shapes", "--eps", "8/0"), "fraction"),
        (("attack", "sample:shapes-vgg", "sample:shapes", "--limit", "1", "--attack", "pgdd"), "pgd"),
        (("explain", "sample:shapes-vgg", "sample:shapes", "--input-size", "64"), "3x64x64"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_paragraph_and_status_2(arguments: tuple[str, ...], said: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_a_process_of_its_own_ends_the_same_way() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "identify", "nothing.pth"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "There is no such file: nothing.pth. Check the path.\n")
    assert done.stdout == ""


def test_errors_for_machines_are_json() -> None:
    done = command("identify", "nothing.pth", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["what"] == "There is no such file"


def test_a_hostile_checkpoint_is_refused_and_does_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> object:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"w": torch.zeros(1), "x": Payload()}, tmp_path / "m.pth")
    done = command("explain", tmp_path / "m.pth", "sample:shapes")
    assert done.returncode == 2
    assert "posix.system" in done.stderr
    assert not (tmp_path / "ran").exists()


def test_doctor_is_content_here() -> None:
    found = answer("doctor")
    assert found["healthy"]
    assert {check["name"] for check in found["checks"]} >= {"torch", "device", "self-test"}


def test_serve_keeps_our_settings_and_finds_a_free_port() -> None:
    flags = streamlit_flags()
    assert "--server.address=127.0.0.1" in flags
    assert "--browser.gatherUsageStats=false" in flags
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert free_port(port) != port
