"""``make demo``: the main job on real input, from a checkpoint that nobody labelled to a report.

The checkpoint is written as a training script would leave it (weights with a ``module.`` prefix among other things, no
architecture), and then treated like any stranger's file. The photographs are those that scikit-learn, scikit-image and
foolbox ship.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from .console import progress_bar, run


def write_unknown_checkpoint(path: Path) -> None:
    """Write the weights of ``sample:shapes-resnet`` as a training loop would: prefixed, in a container, without a name."""
    import torch

    import workbench as wb

    model = wb.load("sample:shapes-resnet")
    torch.save(
        {
            "epoch": 12,
            "state_dict": {f"module.{key}": tensor for key, tensor in model.network.state_dict().items()},
            "classes": list(model.classes),
            "input_size": list(model.input_size),
            "mean": list(model.preset.mean),
            "std": list(model.preset.std),
        },
        path,
    )


def demo(folder: Path) -> Path:
    """Write a checkpoint, photos and the report about them into ``folder``; return the report's path."""
    import workbench as wb

    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for photo in wb.sample_photos():
        shutil.copy(photo, photos / photo.name)
    checkpoint = folder / "unknown.pth"
    write_unknown_checkpoint(checkpoint)
    print(f"1. An unknown checkpoint: {checkpoint}", flush=True)
    model = wb.load(checkpoint)
    print(f"   It is a {model.architecture} with {model.num_classes} classes.")
    for notice in model.notices:
        print(f"   - {notice}")
    images = wb.read_images(photos, model)
    print(f"2. {len(images)} real photographs: {photos}/", flush=True)
    print("   The network was trained on drawn shapes, so its answers about photographs are nothing to trust;")
    print("   what it looks at, and how easily it changes its mind, is real.")
    target = folder / "report.html"
    with progress_bar("Explaining and attacking") as progress:
        wb.report(model, images, target, sources=(str(checkpoint), f"{photos}/"), progress=progress)
    print(f"3. The report: {target.resolve()}")
    print(f"   Open it in a browser: {target.resolve().as_uri()}")
    return target


if __name__ == "__main__":
    run(lambda: demo(Path(sys.argv[1] if len(sys.argv) > 1 else "demo")))
