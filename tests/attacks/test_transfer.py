"""The matrix agrees with slow loops, weak targets do not look easy, and models that do not fit are named."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import attacks
from attacks.results import wilson
from attacks.transfer import transfer


@pytest.fixture(scope="module")
def relatives(digits) -> dict[str, nn.Module]:
    """A network, the same with rounded weights, and one that knows nothing."""
    rounded, ignorant = copy.deepcopy(digits.model), copy.deepcopy(digits.model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_((parameter * 8).round() / 8)
        ignorant[-1].weight.mul_(-1)
    return {"float": digits.model, "rounded": rounded, "ignorant": ignorant}


def test_every_cell_is_what_a_loop_finds(digits, relatives) -> None:
    x, y = digits.images[:80], digits.labels[:80]
    found = transfer(relatives, x, y, epsilon=0.12, steps=8)
    frame = found.frame().set_index(["source", "target"])
    assert frame.columns.tolist() == ["n", "fooled", "rate", "low", "high"] and len(frame) == 9
    for source, model in relatives.items():
        images = attacks.attack(model, x, y, "pgd", epsilon=0.12, steps=8, early_stop=False).images
        assert found.images[source].equal(images)
        for target, other in relatives.items():
            correct = (model(x).argmax(1) == y) & (other(x).argmax(1) == y)
            fooled = int((other(images).argmax(1) != y)[correct].sum())
            row, n = frame.loc[(source, target)], int(correct.sum())
            assert (row.n, row.fooled) == (n, fooled)
            if n:
                assert (row.rate, row.low, row.high) == pytest.approx((fooled / n, *wilson(fooled, n)))
    nothing = frame.loc[("ignorant", "ignorant")]
    assert nothing.n < 10, "hardly right by chance"
    assert frame.loc[("float", "float")].rate > 0.5 < frame.loc[("float", "rounded")].rate


def test_the_matrix_keeps_the_order_of_the_models(digits, relatives) -> None:
    found = transfer(dict(reversed(relatives.items())), digits.images[:20], digits.labels[:20], epsilon=0.1, steps=2)
    matrix = found.matrix()
    assert matrix.index.tolist() == matrix.columns.tolist() == ["ignorant", "rounded", "float"]
    cell = found.frame().set_index(["source", "target"]).loc[("float", "rounded")].rate
    assert matrix.loc["float", "rounded"] == cell


def test_climbing_on_transfers_better_than_stopping(digits, relatives) -> None:
    pair = {name: relatives[name] for name in ("float", "rounded")}
    x, y = digits.images[:100], digits.labels[:100]
    constant = {"epsilon": 0.12, "relative_step": 0.125}  # short steps: where they stop, an image is barely broken
    on, early = (transfer(pair, x, y, **constant, **own).matrix() for own in ({}, {"early_stop": True}))
    assert on.loc["float", "rounded"] > early.loc["float", "rounded"] + 0.1
    assert transfer(pair, x[:10], y[:10], "fgsm", epsilon=0.1).matrix().shape == (2, 2)


def test_nobody_right_gives_no_rate(digits) -> None:
    wrong = (digits.model(digits.images[:4]).argmax(1) + 1) % 10
    row = transfer({"only": digits.model}, digits.images[:4], wrong, epsilon=0.1).frame().iloc[0]
    assert row.n == 0 and row.rate != row.rate and (row.low, row.high) == (0, 1)


def test_models_are_left_alone_and_batches_change_nothing(digits, relatives, fingerprint) -> None:
    x, y = digits.images[:30], digits.labels[:30]
    before = [fingerprint(model) for model in relatives.values()]
    whole = transfer(relatives, x, y, epsilon=0.1, steps=5, seed=3)
    parts = transfer(relatives, x, y, epsilon=0.1, steps=5, seed=3, batch_size=7)
    assert [fingerprint(model) for model in relatives.values()] == before
    assert parts.frame().equals(whole.frame())


def test_progress_grows_ends_full_names_the_model_and_cancels(digits, relatives) -> None:
    seen: list[tuple[int, int, str]] = []
    request = (relatives, digits.images[:30], digits.labels[:30])
    transfer(*request, epsilon=0.1, steps=4, batch_size=16, progress=lambda *report: seen.append(report))
    dones, totals, whats = zip(*seen, strict=True)
    assert list(dones) == sorted(dones) and dones[-1] == totals[-1] and len(set(totals)) == 1
    assert whats[0] == "float: clean images" and "rounded: PGD at linf 0.1" in whats
    assert whats[-1] == "images of ignorant shown to all"

    def stop(done: int, total: int, what: str) -> None:
        if what.startswith("images of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(*request, epsilon=0.1, steps=4, progress=stop)


def test_result_is_frozen_tells_all_in_a_line_and_can_be_repeated(digits, relatives) -> None:
    found = transfer(relatives, digits.images[:20], digits.labels[:20], epsilon=0.1, steps=3, seed=4)
    assert "\n" not in repr(found) and len(repr(found)) < 200 and "3 models" in repr(found)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.norm = "l2"  # type: ignore[misc]
    made = found.provenance
    assert set(made["model"]) == set(relatives) and len(set(made["model"].values())) == 3
    assert made["options"]["steps"] == 3 and made["options"]["early_stop"] is False and made["seed"] == 4
    assert "transfer" not in repr(transfer({"a": digits.model}, digits.images[:2], digits.labels[:2], epsilon=0.1))


def test_refusals_name_the_model(digits) -> None:
    model, x, y = digits.model, digits.images[:3], digits.labels[:3]
    few = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(attacks.AttackError, match="different numbers of classes: a: 10, b: 3"):
        transfer({"a": model, "b": few}, x, y)
    with pytest.raises(attacks.AttackError, match=r"fails on these images \(model 'wide'\)"):
        transfer({"a": model, "wide": nn.Sequential(nn.Flatten(), nn.Linear(100, 10))}, x, y)
    with pytest.raises(attacks.AttackError, match="no models"):
        transfer({}, x, y)
    for request, message in (
        ({"name": "pdg"}, "pgd"),
        ({"step": 3}, "steps"),
        ({"norm": "l7"}, "norm"),
        ({"epsilon": -1}, "positive"),
        ({"batch_size": 0}, "batch size"),
    ):
        with pytest.raises(attacks.AttackError, match=message):
            transfer({"a": model}, x, y, **request)
