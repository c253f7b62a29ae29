"""Training a generator against frozen classifiers.

Each step draws images and, for each, a target uniformly from the classes other than its label, and lowers the loss
``L(f(clip(x + epsilon tanh G(x, t))), t)``, the mean over all classifiers given (after C-GSP: Yang et al., ECCV 2022). The
draws of a step depend on the seed and the step alone, so that a training which was stopped goes on to the same weights.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .._frozen import frozen_view
from .._inputs import check_classes, check_count, check_images
from .._provenance import content_ids, model_digest, provenance
from .._random import generator as random_stream
from ..errors import AttackError
from .checkpoint import Checkpoint
from .network import MultiTargetGenerator, suited_to
from .views import view

if TYPE_CHECKING:
    from .._session import ProgressCallback

_HELD_OUT = 64  # images kept aside at most
_MEASURED = 20  # times that they are looked at
_WARM_UP = 0.15  # share of the steps in which the rate rises
_LONGEST_GRADIENT = 5.0


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the targets, ``(n,)``."""
    return F.cross_entropy(logits, targets, reduction="none")


def hinge(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How much the target lacks to lead by a tenth of what separates the logits, ``(n,)``: zero where it leads by more.

    Pairs that are won ask for nothing more, and all others for equally much.
    """
    others = logits.scatter(1, targets.unsqueeze(1), -torch.inf).amax(1)
    spread = (logits.amax(1) - logits.amin(1)).detach()
    return F.relu(others - logits.gather(1, targets.unsqueeze(1)).squeeze(1) + 0.1 * spread)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"ce": cross_entropy, "hinge": hinge}


@dataclass(frozen=True)
class Recipe:
    """How to train: what changes the weights that come out."""

    steps: int
    batch_size: int
    rate: float
    loss: str
    augment: bool
    curriculum: float
    patience: int | None
    seed: int


class Trainer:
    """One generator in training against frozen classifiers: a step at a time, for :func:`train_generator` and hardening.

    Args:
        network: the generator, on the device of the victims.
        victims: frozen classifiers (:func:`attacks._frozen.frozen_view`).
        recipe: how to train.
    """

    def __init__(self, network: MultiTargetGenerator, victims: Sequence[nn.Module], recipe: Recipe) -> None:
        # Convolutions on processors are faster in this layout, on GPUs not slower.
        self.network = network.to(memory_format=torch.channels_last)
        self.victims = [victim.to(memory_format=torch.channels_last) for victim in victims]
        self.recipe = recipe
        self.optimiser = torch.optim.AdamW(network.parameters(), recipe.rate, weight_decay=1e-4)
        self._loss = LOSSES[recipe.loss]

    def step(self, images: torch.Tensor, targets: torch.Tensor, number: int, random: torch.Generator) -> float:
        """Lower the loss on images ``(n, C, H, W)`` and targets ``(n,)`` once; return it. ``number`` counts from 0."""
        recipe, network = self.recipe, self.network
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate * _share_of_rate(number, recipe.steps)
        network.train()
        epsilon = network.epsilon * _share_of_budget(number, recipe.steps, recipe.curriculum)
        found = network.propose(images, targets, epsilon)
        shown = view(found, random) if recipe.augment else found
        loss = torch.stack([self._loss(victim(shown).float(), targets).mean() for victim in self.victims]).mean()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(network.parameters(), _LONGEST_GRADIENT)
        self.optimiser.step()
        return float(loss.detach())


def _share_of_rate(step: int, steps: int) -> float:
    """Rises in a straight line for the first steps, then falls to nothing on a cosine."""
    warm = max(1, round(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _share_of_budget(step: int, steps: int, start: float) -> float:
    """From ``start`` times the budget to the budget itself, after 70 % of the steps."""
    return start + (1 - start) * min(1.0, step / (0.7 * steps))


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
            cross-entropy.
        augment: Show the models randomly resized, shifted and noisy views (:mod:`attacks.generator.views`), for transfer.
        curriculum: Budget at the start, in units of epsilon; it changes in a straight line to epsilon at 70 % of the steps.
        patience: Stop after so many measurements (20 in a whole training) without a better one.
        width, depth, blocks, embedding, conditioning, patch: See :class:`MultiTargetGenerator`; patch and depth suit the
            images' size when left out.
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
    recipe = _check_recipe(Recipe(steps, batch_size, rate, loss, augment, curriculum, patience, seed))
    models = [model] if isinstance(model, nn.Module) else list(model)
    if not models:
        raise AttackError("There is no model to attack", None, "Pass one, or several in a list.")
    x = check_images(images)
    if len(x) < 2:
        raise AttackError("Training needs images to learn from and images kept aside", len(x), "Pass two at least.")
    victims = [frozen_view(one) for one in models]
    device = next((tensor.device for tensor in victims[0].parameters()), x.device)
    answers = _answers(victims, x, device, batch_size)
    truth = answers.argmax(1) if labels is None else check_classes(labels, "labels", x, answers.shape[1])
    reach = _check_targets(classes, answers.shape[1])
    given = {"depth": depth, "patch": patch}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = MultiTargetGenerator(
            x.shape[1], answers.shape[1], epsilon, width=width, blocks=blocks, embedding=embedding,
            conditioning=conditioning, **suited_to(*x.shape[2:]) | {k: v for k, v in given.items() if v is not None},
        )  # fmt: skip
    network.targets = reach
    names = content_ids(x)
    asked = {
        "models": [model_digest(one) for one in models], "labels": hashlib.sha256(repr(truth.tolist()).encode()).hexdigest(),
        "targets": reach, "recipe": asdict(recipe), "network": network.config,
    }  # fmt: skip
    network.provenance = provenance(models[0], x, names, **asked)
    key = hashlib.sha256(
        repr([network.provenance[name] for name in ("images", *asked, "versions")]).encode()
    ).hexdigest()
    run = _Run(Trainer(network.to(device), victims, recipe), x, truth.cpu(), reach)
    run.go(None if checkpoint is None else Checkpoint(checkpoint, key), progress, measured)
    return network.requires_grad_(False).eval()


_SAVED = 30.0  # seconds between two checkpoints


class _Run:
    """The training of :func:`train_generator` once everything is checked."""

    def __init__(self, trainer: Trainer, images: torch.Tensor, labels: torch.Tensor, reach: tuple[int, ...]) -> None:
        self.trainer = trainer
        self.network = trainer.network
        order = torch.randperm(len(images), generator=random_stream(trainer.recipe.seed, "held out"))
        aside = min(_HELD_OUT, max(1, len(images) // 10))
        self.images, self.labels, self.reach = images, labels, torch.tensor(reach)
        self.aside, self.learnt = order[:aside], order[aside:]
        self.device = next(self.network.parameters()).device
        self.step = 0
        self.seconds = 0.0
        self.best: dict[str, torch.Tensor] = {}
        # Pairs of the images kept aside, all of them.
        rows, columns = (self.reach[None, :] != labels[self.aside][:, None]).nonzero(as_tuple=True)
        self.pairs = self.aside[rows], self.reach[columns]

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
        kept = targets >= 0
        batch = self.images[rows[kept]].to(self.device)
        return self.trainer.step(batch, targets[kept].to(self.device), self.step, random)

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
        history = self.network.history
        return f"held-out success {history[-1]['success']:.0%}" if history else "first steps"

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


def other_targets(labels: torch.Tensor, reach: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """For each label ``(n,)`` one of ``reach`` ``(m,)`` that differs from it, uniformly, ``(n,)``; -1 where there is none."""
    allowed = reach[None, :] != labels[:, None]
    scores = torch.rand(allowed.shape, generator=random).masked_fill(~allowed, -1)
    best = scores.max(1)
    return torch.where(best.values >= 0, reach[best.indices], -1)


@torch.no_grad()
def _answers(victims: Sequence[nn.Module], x: torch.Tensor, device: torch.device, batch_size: int) -> torch.Tensor:
    """Logits of the first of the models, ``(N, K)``, once all agree on K."""
    for victim in victims[1:]:
        if (one := victim(x[:1].to(device)).shape) != (first := victims[0](x[:1].to(device)).shape):
            raise AttackError(
                "The models have different numbers of classes", f"{first[1]} and {one[1]}", "Pass models of one task."
            )
    return torch.cat([victims[0](part.to(device)).to(x.device) for part in torch.split(x, batch_size)])


def _check_targets(classes: Sequence[int] | None, num_classes: int) -> tuple[int, ...]:
    if classes is None:
        return tuple(range(num_classes))
    reach = tuple(sorted({int(one) for one in classes}))
    if not reach or reach[0] < 0 or reach[-1] >= num_classes:
        fix = f"The model has {num_classes} classes, numbered 0 to {num_classes - 1}."
        raise AttackError("There are no such classes to reach", tuple(classes), fix)
    return reach


def _check_recipe(recipe: Recipe) -> Recipe:
    check_count(recipe.steps, "number of steps", "Pass steps=2000, say.")
    check_count(recipe.batch_size, "batch size", "64 suits most machines.")
    if recipe.patience is not None:
        check_count(recipe.patience, "patience", "Leave it out to train to the end.")
    if recipe.loss not in LOSSES:
        raise AttackError("Unknown loss", repr(recipe.loss), f"Choose one of {', '.join(LOSSES)}.")
    if not 0 < recipe.rate < 1:
        raise AttackError("The learning rate must lie between 0 and 1", recipe.rate, "Pass rate=2e-3, say.")
    if not 0 < recipe.curriculum <= 10:
        raise AttackError(
            "The curriculum starts at 0 to 10 times the budget", recipe.curriculum, "Pass curriculum=2.0, say."
        )
    return recipe
