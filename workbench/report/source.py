"""What a report is made from, and the checks that it belongs together: no page about one model with another's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import OptionError
from .words import relative

if TYPE_CHECKING:
    from attacks import Evaluation
    from explain import Explanations

    from ..images import ImageSet
    from ..models import VisionModel


@dataclass(frozen=True)
class Source:
    """Everything that a report is made from.

    Attributes:
        model, images, explanations, evaluation: the subject and the results.
        shown: how many images, from the first, get their maps shown.
        answers: maps of the images that are easiest to fool, first all clean ones and then all attacked ones, each for
            what the model answers; ``None`` where there is no such image or no method.
    """

    model: VisionModel
    images: ImageSet
    explanations: Explanations
    evaluation: Evaluation
    shown: int
    answers: Explanations | None = None

    @property
    def labels(self) -> list[int] | None:
        """The truth, as class numbers of the model."""
        if self.images.labels is not None:
            return [int(label) for label in self.images.labels]
        return None if relative(self.evaluation) else [int(label) for label in self.evaluation.samples["label"]]

    @property
    def accuracy(self) -> tuple[int, int] | None:
        """Images classified right and images in all; ``None`` without labels."""
        labels = self.labels
        if labels is None:
            return None
        predicted = self.evaluation.samples["predicted"].tolist()
        return sum(p == label for p, label in zip(predicted, labels, strict=True)), len(predicted)

    def class_name(self, index: int) -> str:
        """The model's name of a class, else the data set's where their numbers agree, else its number."""
        if not self.model.classes and len(self.images.classes) == self.model.num_classes:
            return self.images.classes[index]
        return self.model.class_name(index)


def check_images(model: VisionModel, images: ImageSet) -> None:
    """Refuse images that cannot be shown, and labels that are no classes of the model.

    Raises:
        OptionError: saying what to do.
    """
    if not len(images):
        raise OptionError("there is no image to report on", None, "Pass at least one.")
    if images.images.shape[1] not in (1, 3):
        found = f"{images.images.shape[1]} channels"
        raise OptionError("these images cannot be shown as pictures", found, "A report needs grey or RGB images.")
    if images.labels is not None and int(images.labels.max()) >= model.num_classes:
        raise OptionError(
            "a label is no class of the model",
            f"label {int(images.labels.max())}, {model.num_classes} classes",
            "Labels must be class numbers of the model; leave them out if the data has other classes.",
        )


def check_explanations(explanations: Explanations, model: VisionModel, images: ImageSet) -> None:
    """Refuse explanations of another model or other images.

    Raises:
        OptionError: saying which.
    """
    n = len(explanations.target)
    unnamed = explanations.ids == tuple(str(i) for i in range(n)) and n == len(images)
    grids = {tuple(one.maps.shape[1:]) for one in explanations.values()} - {tuple(images.images.shape[2:])}
    if grids or not (unnamed or explanations.ids == images.ids[:n]):
        raise _foreign("explanations", "images", "Explain these images, all or the first ones, in the same order.")
    if explanations.provenance.get("model_digest") not in (None, model.digest):
        raise _foreign("explanations", "model", "Explain this model.")


def check_evaluation(evaluation: Evaluation, model: VisionModel, images: ImageSet) -> None:
    """Refuse an evaluation of another model, other images or other labels.

    Raises:
        OptionError: saying which.
    """
    attacked = evaluation.images.to(images.images)
    # Whatever the norm, no pixel moves further than the largest budget.
    if attacked.shape != images.images.shape or (
        float((attacked - images.images).abs().max()) > max(evaluation.epsilons) + 1e-4
    ):
        raise _foreign("evaluation", "images", "Evaluate exactly these images, in the same order.")
    labels = evaluation.samples["label"].tolist()
    if images.labels is not None and not relative(evaluation) and labels != images.labels.tolist():
        raise _foreign("evaluation", "labels", "Evaluate with images.labels.")
    if evaluation.provenance.get("model") not in (None, model.digest):
        raise _foreign("evaluation", "model", "Evaluate this model.")


def _foreign(what: str, about: str, fix: str) -> OptionError:
    return OptionError(f"the {what} given belong to other {about}", None, f"{fix} Or leave {what} out.")
