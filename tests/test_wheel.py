"""What a person installs is a wheel: it must run without the repository beside it, sample models and settings included."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, as pip would lay them out."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, code: str) -> str:
    """Run ``code`` with the wheel's files in front of, and the repository out of, the import path."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_our_packages_and_nothing_generic(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {
        "workbench",
        "attacks",
        "explain",
    }
    assert not list(installed.rglob("tests"))


def test_sample_models_and_settings_travel_with_it(installed: Path) -> None:
    printed = run(
        installed,
        "import workbench as wb, explain, attacks, workbench.serve as s\n"
        "assert 'site/workbench' in wb.__file__, wb.__file__\n"
        "model, images = wb.load('sample:shapes-vgg'), wb.sample_data('shapes', n=2)\n"
        "print(float((model(images.images).argmax(1) == images.labels).float().mean()))\n"
        "print(explain.explain(model, images.images)['gradcam++'].maps.shape)\n"
        "print([f for f in s.streamlit_flags() if 'address' in f])\n"
        "print(len(wb.report(model, images, 'r.html', epsilons=(0.01,)).html) > 1000)\n",
    )
    assert printed.splitlines() == ["1.0", "torch.Size([2, 64, 64])", "['--server.address=127.0.0.1']", "True"]


def test_an_unknown_checkpoint_is_read_by_the_installed_reader(installed: Path) -> None:
    printed = run(
        installed,
        "from pathlib import Path; import workbench as wb\n"
        "from workbench.demo import write_unknown_checkpoint as w; w(Path('u.pth'))\n"
        "print(wb.identify('u.pth').architecture)",
    )
    assert printed.strip() == "resnet (basic, 1-1-1-1)"
