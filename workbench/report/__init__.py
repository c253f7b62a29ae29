"""The report: one HTML file that says what a model looks at and how easily it is fooled, and opens anywhere, offline.

    wb.report(model, images, "report.html")     # the room answers the call, see callable_module
    wb.report.figures                           # the figures alone, for notebooks and the app

=============  ==================================================================================
``build``      what the call does: read, explain, attack, write
``source``     what a report is made from, and the checks that it belongs together
``content``    results → the page, with ``words`` its sentences, ``credit`` who broke what at which
               cost, ``gallery`` its cards, ``chart`` the static drawing, ``recipe`` the call that makes
               it again; ``parts`` are the plain values
``pictures``   pixels → data addresses, within the size of one file
``page``       :class:`Report`, and the template around plotly.js
``figures``    plotly figures and overlays
=============  ==================================================================================

Nothing heavy is imported before the call.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..callable_module import make_callable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import torch

    from attacks import Evaluation
    from explain import Explanations

    from . import figures as figures
    from .page import Report as Report

METHODS = ("saliency", "guided_backprop", "deconvnet", "gradcam", "gradcam++")
EPSILONS = (1 / 255, 2 / 255, 4 / 255, 8 / 255)

__all__ = ["Report", "figures", "report"]


def report(
    model: Any,
    images: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    methods: str | Sequence[str] = METHODS,
    target: int | Sequence[int] | torch.Tensor | None = None,
    layer: str | None = None,
    norm: str = "linf",
    epsilons: Sequence[float] = EPSILONS,
    attacks: str | Sequence[str] = "fast",
    explanations: Explanations | None = None,
    evaluation: Evaluation | None = None,
    max_images: int = 24,
    title: str | None = None,
    seed: int = 0,
    lite: bool = False,
    sources: tuple[str, str] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Explain and attack a model on some images, and write one HTML file about it.

    The file is under 5 MB, needs no network and no other file. The same results give the same bytes: it holds no date,
    and the times that the work took are left out when ``SOURCE_DATE_EPOCH`` is set (whose date is then shown).

    Args:
        model: a ``VisionModel``, or anything :func:`workbench.load` takes.
        images: an ``ImageSet``, a tensor ``(N, C, H, W)`` in [0, 1], or anything :func:`workbench.read_images` takes.
            Without labels, robustness is relative to the model's own predictions, and is called that.
        path: the file to write; ``None`` only returns the report.
        methods: explanation methods, names out of ``explain.METHODS``; those that do not apply are listed with the reason.
        target: class to explain, one for all or one per image; ``None`` for the predicted class of each image.
        layer: layer for class activation maps; ``None`` for the last one with a spatial output.
        norm: "linf", "l2", "l1" or "l0".
        epsilons: budgets of the attack; for linf in units of the pixel range.
        attacks: a preset, or names out of ``attacks.ATTACKS`` and foolbox's catalogue, cheapest first. "fast" is FGSM and
            PGD; "standard" takes many times as long and finds more.
        explanations: what ``explain.explain`` returned for these images; then ``methods``, ``target``, ``layer`` are its.
        evaluation: what ``attacks.evaluate`` returned for these images; then ``norm``, ``epsilons``, ``attacks``, ``seed``
            are its.
        max_images: how many images get their maps shown, 1 to 200; the curve is over all. Many make the pictures smaller.
        title: heading.
        seed: seed of all randomness.
        lite: without JavaScript and with small pictures, for mails and notebooks.
        sources: what a person types for the model and the images (``("model.pth", "photos/")``), for the call that makes
            the report again; needed only where ``model`` and ``images`` do not tell.
        progress: called with steps done, their total and what is going on; what it raises cancels the work.

    Raises:
        OptionError: an option makes no sense, or results given belong to another model or other images.
        WorkbenchError, ExplainError, AttackError: as the calls above.
    """
    from .build import Options, build

    options = Options(methods, target, layer, norm, tuple(epsilons), attacks, max_images, title, seed, lite)
    return build(model, images, path, options, explanations, evaluation, sources, progress)


def __getattr__(name: str) -> Any:
    if name == "figures":
        return importlib.import_module(".figures", __name__)
    if name == "Report":
        return importlib.import_module(".page", __name__).Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


make_callable(__name__, report)
