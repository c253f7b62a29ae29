"""The order of an evaluation: which attack meets which image at which budget."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from ._ledger import Ledger
    from ._session import Session
    from .registry import Attack, Stage

REPLAY = -2  # in place of a stage's number, for adversarials that were given


def run_cascade(
    session: Session,
    ledger: Ledger,
    cascade: Sequence[Stage],
    given: tuple[torch.Tensor, torch.Tensor] | None,
) -> pd.DataFrame:
    """Run every stage, and return what each did: ``Evaluation.stages``.

    Args:
        session: The model and the images.
        ledger: Opened after the clean pass; filled here.
        cascade: The stages, cheapest first.
        given: Rows ``(n,)`` and adversarial images ``(n, C, H, W)`` to try before anything else.
    """
    import pandas as pd

    report = session.progress
    report.settle(int((ledger.broken_at == 0).sum()) * sum(stage.cost for stage in cascade))
    if given is not None:
        report.what = "stored adversarials"
        images = session.images.clone()
        images[given[0]] = given[1]
        _bring_down(session, ledger, given[0], images, REPLAY)
    rows = []
    for place, stage in enumerate(cascade):
        begin = time.perf_counter()
        forwards, backwards = int(ledger.forwards.sum()), int(ledger.backwards.sum())
        standing = ledger.standing()
        tried = ledger.doubtful(standing) if stage.doubtful else standing
        _run_stage(session, ledger, stage, place, tried)
        # Images that need not meet this stage, and those that this one finished for all that follow.
        finished = len(standing) - len(ledger.standing())
        later = sum(following.cost for following in cascade[place + 1 :])
        report.settle((len(standing) - len(tried)) * stage.cost + finished * later)
        spent = int(ledger.forwards.sum()) - forwards, int(ledger.backwards.sum()) - backwards
        rows.append((stage.attack.name, stage.attack.title, len(tried), *spent, time.perf_counter() - begin))
    frame = pd.DataFrame(rows, columns=["attack", "title", "tried", "forwards", "backwards", "seconds"])
    frame.insert(3, "credited", [int((ledger.credit == place).sum()) for place in range(len(cascade))])
    return frame


def _run_stage(session: Session, ledger: Ledger, stage: Stage, place: int, rows: torch.Tensor) -> None:
    report, attack = session.progress, stage.attack
    first = True
    while True:
        standing, budgets = ledger.next(rows)
        if len(standing) == 0:
            break
        report.what = _what(attack, session.norm, budgets)
        # A minimal attack answers for all budgets; an adversarial within the smallest one is near enough.
        goal = ledger.epsilons[:1].expand(len(standing)) if attack.minimal else budgets
        for strike in session.strike(attack, standing, ledger.labels, goal):
            ledger.record(strike, place)
            if first:
                report.settle(len(strike.rows) * stage.cost)
        if attack.minimal:
            break
        # Only an image that broke goes on, to smaller budgets; first by what was found, then by a new attack.
        rows = standing[ledger.broken_at[standing] <= budgets]
        _bring_down(session, ledger, rows, ledger.images, place)
        first = False


def _bring_down(session: Session, ledger: Ledger, rows: torch.Tensor, images: torch.Tensor, place: int) -> None:
    """Project ``images[rows]`` onto ever smaller budgets for as long as they fool the model: a forward pass each."""
    while True:
        rows, budgets = ledger.next(rows)
        if len(rows) == 0:
            return
        for strike in session.offer(rows, images[rows], ledger.labels, budgets):
            ledger.record(strike, place)
        rows = rows[ledger.broken_at[rows] <= budgets]


def _what(attack: Attack, norm: str, budgets: torch.Tensor) -> str:
    low, high = budgets.aminmax()
    where = f"{high:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return attack.title if attack.minimal else f"{attack.title} at {norm} {where}"
