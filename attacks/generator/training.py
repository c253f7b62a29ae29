"""Training a generator against frozen classifiers, from the first step to the last.

The draws of a step depend on the seed and the step alone, so that a training which was stopped goes on to the same weights.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._frozen import frozen_view
from .._inputs import check_classes, check_images
from .._provenance import content_ids, model_digest, provenance
from .._random import generator as random_stream
from ..errors import AttackError
from .checkpoint import Checkpoint
from .network import MultiTargetGenerator, suited_to
from .trainer import Recipe, Trainer, other_targets

if TYPE_CHECKING:
    from .._session import ProgressCallback

_HELD_OUT = 64  # images kept aside at most
_MEASURED = 20  # times that they are looked at
_SAVED = 30.0  # seconds between two states on the disk


def train_generator(
    model: nn.Module | Sequence[nn.Module],
    images: torch.Tensor,
    labels: torch.Tensor | Sequence[int] | None = None,
    *,
    classes: Sequence[int] | None = None,
    epsilon: float = 8 / 255,
    steps: int = 2000,
    batch_size: int = 64,
    rate: float = 2e-3,
    loss: str = "hinge",
    augment: bool = False,
    curriculum: float = 1.0,
    patience: int | None = None,
    width: int = 24,
    depth: int | None = None,
    blocks: int = 2,
    embedding: int = 32,
    conditioning: str = "film",
    patch: int | None = None,
    start: MultiTargetGenerator | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    measured: Callable[[dict[str, Any]], object] | None = None,
) -> MultiTargetGenerator:
    """Train one network that attacks ``model`` towards every class.

    Of the images, one in ten, but 64 at most, are kept aside: the generator never learns from them, and the success that is
    reported is measured on all pairs of one of them and a target other than its label.

    Args:
        model: Maps images in [0, 1] to logits ``(N, K)``; left untouched. Several, with one K, are attacked together, for
            transfer to models that are not at hand.
        images: ``(N, C, H, W)`` in [0, 1]; at least two.
        labels: ``(N,)``, the true classes; the answers of the (first) model when left out.
        classes: Classes to reach; all of them when left out.
        epsilon: Budget: the largest change of a number (linf).
        steps: Steps of the optimiser (AdamW; the rate rises, then falls on a cosine).
        batch_size: Images per step.
        rate: Largest learning rate.
        loss: "hinge" asks the target to lead by a tenth of the spread of the logits and then for nothing more; "ce" is
            cross-entropy; "miss" is the probability of all other classes, which gives up on what cannot be won, and needs a
            start from which something is won: a curriculum, or ``start``.
        augment: Show the models randomly resized, shifted and noisy views (:mod:`attacks.generator.views`), for transfer.
        curriculum: Budget at the start, in units of epsilon; it changes in a straight line to epsilon at 70 % of the steps.
        patience: Stop after so many measurements (20 in a whole training) without a better one.
        width, depth, blocks, embedding, conditioning, patch: See :class:`MultiTargetGenerator`; patch and depth suit the
            images' size when left out.
        start: Generator to go on from, with its size, instead of random weights: one that was trained for a relative of the
            model, or with a larger budget. It is left alone.
        seed: Seed of the first weights, the order of the images, the targets and the views.
        checkpoint: File for the state of the training, written twice a minute, at every measurement and when it is
            cancelled; the same call goes on from there, to the weights of an uninterrupted training on the same machine.
        progress: Called with ``(done, total, what)`` before every step; raising from it cancels.
        measured: Called with every new record of the history: step, loss, success, per_target (list of K, ``None`` where
            unmeasured), seconds.

    Returns:
        The generator as it was when it did best on the images kept aside, frozen and in eval mode.

    Raises:
        AttackError: Something about the request makes no sense; says what to do.
    """
    recipe = Recipe(steps, batch_size, rate, loss, augment, curriculum, patience, seed)
    recipe.check()
    models = [model] if isinstance(model, nn.Module) else list(model)
    if not models:
        raise AttackError("There is no model to attack", None, "Pass one, or several in a list.")
    x = check_images(images)
    if len(x) < 2:
        raise AttackError("Training needs images to learn from and images kept aside", len(x), "Pass two at least.")
    device = next((tensor.device for tensor in models[0].parameters()), x.device)
    victims = [frozen_view(one).to(device) for one in models]
    answers = _answers(victims, x, device, batch_size)
    truth = answers.argmax(1) if labels is None else check_classes(labels, "labels", x, answers.shape[1])
    reach = _check_targets(classes, answers.shape[1])
    if start is not None:
        network = copied(start, x, answers.shape[1], epsilon)
    else:
        given = {"depth": depth, "patch": patch}
        own = suited_to(*x.shape[2:]) | {name: value for name, value in given.items() if value is not None}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = MultiTargetGenerator(
                x.shape[1], answers.shape[1], epsilon, width=width, blocks=blocks, embedding=embedding,
                conditioning=conditioning, **own,
            )  # fmt: skip
    network.targets = reach
    names = content_ids(x)
    asked = {
        "models": [model_digest(one) for one in models],
        "labels": hashlib.sha256(repr(truth.tolist()).encode()).hexdigest(),
        "targets": reach,
        "start": None if start is None else model_digest(start),
        "recipe": asdict(recipe),
        "network": network.config,
    }
    network.provenance = provenance(models[0], x, names, **asked)
    key = hashlib.sha256(
        repr([network.provenance[name] for name in ("images", *asked, "versions")]).encode()
    ).hexdigest()
    run = _Run(Trainer(network.to(device), victims, recipe), x, truth.cpu(), reach)
    run.go(None if checkpoint is None else Checkpoint(checkpoint, key), progress, measured)
    return network.requires_grad_(False).eval()


class _Run:
    """The training of :func:`train_generator` once everything is checked."""

    def __init__(self, trainer: Trainer, images: torch.Tensor, labels: torch.Tensor, reach: tuple[int, ...]) -> None:
        self.trainer = trainer
        self.network = trainer.network
        order = torch.randperm(len(images), generator=random_stream(trainer.recipe.seed, "held out"))
        aside = min(_HELD_OUT, max(1, len(images) // 10))
        self.images, self.labels, self.reach = images, labels, torch.tensor(reach)
        self.aside, learnt = order[:aside], order[aside:]
        learnt = learnt[(self.reach[None, :] != labels[learnt][:, None]).any(1)]
        # Batch norm needs two images where the smallest maps are single pixels.
        self.learnt = learnt.repeat(2) if len(learnt) == 1 else learnt
        self.device = next(self.network.parameters()).device
        self.step = 0
        self.seconds = 0.0
        self.best: dict[str, torch.Tensor] = {}
        # Pairs of the images kept aside, all of them.
        rows, columns = (self.reach[None, :] != labels[self.aside][:, None]).nonzero(as_tuple=True)
        self.pairs = self.aside[rows], self.reach[columns]
        if len(rows) == 0 or len(learnt) == 0:
            fix = "Pass more classes, or images of other classes."
            raise AttackError("The images already have the only class that is to be reached", reach, fix)

    def go(
        self,
        checkpoint: Checkpoint | None,
        progress: ProgressCallback | None,
        measured: Callable[[dict[str, Any]], object] | None,
    ) -> None:
        """Train to the end, from where the checkpoint left off, and leave the best weights in the network."""
        recipe = self.trainer.recipe
        if checkpoint is not None and (state := checkpoint.load()) is not None:
            self._recall(state)
        saved = time.monotonic()
        every = max(1, recipe.steps // _MEASURED)
        while self.step < recipe.steps and not self._stale(recipe.patience):
            try:
                if progress is not None:
                    progress(self.step, recipe.steps, self._what())
            except BaseException:
                if checkpoint is not None:
                    checkpoint.save(self._state())
                raise
            begin = time.perf_counter()
            loss = self._one()
            self.step += 1
            news = self.step % every == 0 or self.step == recipe.steps
            if news:
                self._measure(loss)
            self.seconds += time.perf_counter() - begin
            if news and measured is not None:
                measured(self.network.history[-1])
            if checkpoint is not None and (news or time.monotonic() - saved > _SAVED):
                checkpoint.save(self._state())
                saved = time.monotonic()
        if progress is not None:
            progress(recipe.steps, recipe.steps, self._what())
        self.network.load_state_dict(self.best)

    def _one(self) -> float:
        recipe = self.trainer.recipe
        size = min(recipe.batch_size, len(self.learnt))
        epoch, place = divmod(self.step, len(self.learnt) // size)
        order = torch.randperm(len(self.learnt), generator=random_stream(recipe.seed, "order", epoch))
        rows = self.learnt[order[place * size : (place + 1) * size]]
        random = random_stream(recipe.seed, "step", self.step)
        targets = other_targets(self.labels[rows], self.reach, random)
        return self.trainer.step(self.images[rows].to(self.device), targets.to(self.device), self.step, random)

    @torch.no_grad()
    def _measure(self, loss: float) -> None:
        """Add a record to the history, and keep the weights where they are the best so far."""
        self.network.eval()
        rows, targets = self.pairs
        hits = []
        for some, aims in zip(torch.split(rows, 256), torch.split(targets, 256), strict=True):
            aims = aims.to(self.device)
            found = self.network.propose(self.images[some].to(self.device), aims)
            hits.append(
                torch.stack([victim(found).argmax(1) == aims for victim in self.trainer.victims]).float().mean(0)
            )
        hit = torch.cat(hits).cpu()
        count = torch.bincount(targets, minlength=self.network.num_classes)
        won = torch.bincount(targets, hit, minlength=self.network.num_classes)
        success = float(hit.mean())
        if not self.best or success > max(record["success"] for record in self.network.history):
            self.best = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.history.append({
            "step": self.step, "loss": loss, "success": success, "seconds": self.seconds,
            "per_target": [float(w / n) if n else None for w, n in zip(won, count, strict=True)],
        })  # fmt: skip

    def _stale(self, patience: int | None) -> bool:
        shares = [record["success"] for record in self.network.history]
        return patience is not None and len(shares) - shares.index(max(shares)) > patience if shares else False

    def _what(self) -> str:
        if not self.network.history:
            return "first steps"
        record = self.network.history[-1]
        share, worst = min((share, k) for k, share in enumerate(record["per_target"]) if share is not None)
        return f"held-out success {record['success']:.0%}, least for class {worst}: {share:.0%}"

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step, "seconds": self.seconds, "history": self.network.history, "best": self.best,
            "network": self.network.state_dict(), "optimiser": self.trainer.optimiser.state_dict(),
        }  # fmt: skip

    def _recall(self, state: dict[str, Any]) -> None:
        self.step, self.seconds, self.best = state["step"], state["seconds"], state["best"]
        self.network.history = state["history"]
        self.network.load_state_dict(state["network"])
        self.trainer.optimiser.load_state_dict(state["optimiser"])


@torch.no_grad()
def _answers(victims: Sequence[nn.Module], x: torch.Tensor, device: torch.device, batch_size: int) -> torch.Tensor:
    """Logits of the first of the models, ``(N, K)``, once all agree on K."""
    for victim in victims[1:]:
        if (one := victim(x[:1].to(device)).shape) != (first := victims[0](x[:1].to(device)).shape):
            raise AttackError(
                "The models have different numbers of classes", f"{first[1]} and {one[1]}", "Pass models of one task."
            )
    return torch.cat([victims[0](part.to(device)).to(x.device) for part in torch.split(x, batch_size)])


def copied(start: MultiTargetGenerator, x: torch.Tensor, num_classes: int, epsilon: float) -> MultiTargetGenerator:
    """A generator of the size and with the weights of ``start``, for another budget."""
    start.check_channels(x)
    if start.num_classes != num_classes:
        fix = f"It was made for a model of {start.num_classes}; leave it out to begin with random weights."
        raise AttackError("The generator to go on from does not fit a model of so many classes", num_classes, fix)
    network = MultiTargetGenerator(**{**start.config, "epsilon": epsilon})
    network.load_state_dict(start.state_dict())
    return network


def _check_targets(classes: Sequence[int] | None, num_classes: int) -> tuple[int, ...]:
    if classes is None:
        return tuple(range(num_classes))
    reach = tuple(sorted({int(one) for one in classes}))
    if not reach or reach[0] < 0 or reach[-1] >= num_classes:
        fix = f"The model has {num_classes} classes, numbered 0 to {num_classes - 1}."
        raise AttackError("There are no such classes to reach", tuple(classes), fix)
    return reach
