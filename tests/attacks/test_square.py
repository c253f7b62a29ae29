"""Square: its windows, its pattern, its budget, and that it needs no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attacks
from attacks._ball import Ball, distance
from attacks.square import _corners, _inside, _poles, _rectangles, _repaint_l2, _Search, _side


def test_every_window_position_is_drawn_and_equally_often() -> None:
    x = torch.zeros(30_000, 1, 4, 6)
    top, left = _corners(torch.rand(30_000, 2, generator=torch.Generator().manual_seed(0)), 2, 3, x)
    for places, count in ((top, 3), (left, 4)):
        shares = torch.bincount(places, minlength=count) / len(places)
        assert len(shares) == count and (shares - 1 / count).abs().max() < 0.012
    last, _ = _corners(torch.full((1, 2), 1 - 1e-8), 2, 3, x)
    assert last.item() == 2


def test_windows_cover_what_they_say() -> None:
    inside = _inside(torch.tensor([1, 0]), torch.tensor([2, 0]), 2, 3, torch.zeros(2, 1, 4, 6))
    assert inside.shape == (2, 1, 4, 6) and inside.sum((1, 2, 3)).tolist() == [6, 6]
    assert inside[0, 0, 1:3, 2:5].all() and inside[1, 0, :2, :3].all()


def test_squares_shrink_on_the_schedule_of_the_paper() -> None:
    x = torch.zeros(1, 3, 32, 32)
    assert [_side(0.8, q, x) for q in (0, 11, 51, 201, 501)] == [29, 20, 14, 10, 7]
    assert _side(0.8, 10**6, x) >= 1


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_the_pattern_is_that_of_the_paper(side) -> None:
    """Equation 2 by loops: sum of 1 / k² over the rectangles, growing from the middle, that hold the pixel."""
    pattern = _poles(side, torch.zeros((), dtype=torch.float64))
    assert pattern.norm() == pytest.approx(1)
    upper = side // 2
    assert (pattern[:upper] > 0).all() and (pattern[upper:] < 0).all()
    for height in (upper, side - upper):
        expected = torch.zeros(height, side, dtype=torch.float64)
        for k in range(1, max(height, side) + 1):
            low, high = max(height // 2 - k + 1, 0), height // 2 + k
            left, right = max(side // 2 - k + 1, 0), side // 2 + k
            expected[low:high, left:right] += 1 / k**2
        torch.testing.assert_close(_rectangles(height, side, expected), expected)


def test_repainting_in_l2_spends_the_budget_and_touches_two_windows() -> None:
    generator = torch.Generator().manual_seed(0)
    n, shape = 6, (2, 7, 9)
    ball = Ball.around(torch.full((n, *shape), 0.5), 0.4, "l2")
    x = ball.random(0, [str(i) for i in range(n)], "test")
    draws = torch.rand(n, 7, generator=generator)
    search = _Search(torch.arange(n), torch.zeros(n, dtype=torch.long), ball, x, torch.zeros(n), draws[:, None])
    painted = _repaint_l2(search, 3, draws)
    torch.testing.assert_close(distance(painted, ball.centre, "l2"), torch.full((n,), 0.4))
    first = _inside(*_corners(draws[:, :2], 3, 3, x), 3, 3, x)
    second = _inside(*_corners(draws[:, 2:4], 3, 3, x), 3, 3, x)
    delta = painted - ball.centre
    assert delta[(second & ~first).expand_as(delta)].abs().max() < 1e-6
    # Elsewhere only the common scale may have changed.
    elsewhere = ~(first | second).expand_as(delta)
    ratio = delta[elsewhere] / (x - ball.centre)[elsewhere]
    assert (ratio - 1).abs().max() < 1e-3


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 5, 7), (1, 12, 3)])
def test_breaks_only_within_reach_and_most_of_what_is_well_within(linear, norm, shape) -> None:
    model, x, y = linear(n=40, shape=shape)
    reach = model.distance(x, norm)
    epsilon = float(reach.quantile(0.8))
    found = attacks.attack(model, x, y, "square", norm=norm, epsilon=epsilon, queries=300)
    assert not found.success[reach > epsilon].any()
    assert found.success[reach < 0.3 * epsilon].float().mean() > 0.9
    assert (found.distance <= epsilon + 1e-6).all() and found.images.min() >= 0 and found.images.max() <= 1


def test_it_sees_through_cut_gradients_and_counts_queries(digits) -> None:
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return digits.model((15 * x).round() / 15)

    x = digits.images[:40]
    y = Rounded()(x).argmax(1)
    found = attacks.attack(Rounded(), x, y, "square", epsilon=0.2, queries=150)
    assert attacks.attack(Rounded(), x, y, "pgd", epsilon=0.2).success.float().mean() < found.success.float().mean()
    assert found.success.float().mean() > 0.5
    assert found.backwards.eq(0).all() and found.forwards[~found.success].eq(1 + 150 + 1).all()
    assert (found.forwards[found.success] < 152).any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_windows_belong_to_the_image_not_to_the_batch(digits, norm) -> None:
    model, x, y = digits.model, digits.images[:8], digits.labels[:8]
    request = {"norm": norm, "epsilon": 0.02, "queries": 30}
    ids = [f"image {i}" for i in range(8)]
    whole = attacks.attack(model, x, y, "square", ids=ids, **request)
    alone = attacks.attack(model, x[5:6], y[5:6], "square", ids=ids[5:6], **request)
    torch.testing.assert_close(whole.images[5:6], alone.images, rtol=0, atol=1e-6)
    twins = attacks.attack(model, x[:1].repeat(2, 1, 1, 1), y[:1].repeat(2), "square", ids=["a", "b"], **request)
    assert not twins.images[0].equal(twins.images[1])


def test_a_target_and_refusals(digits) -> None:
    x, y = digits.images[:20], digits.labels[:20]
    found = attacks.attack(digits.model, x, y, "square", epsilon=0.4, targets=(y + 1) % 10, queries=200)
    assert found.success.any() and found.fooled_as[found.success].equal(((y + 1) % 10)[found.success])
    for options, what in (({"queries": 0}, "at least one query: 0"), ({"p": 0.0}, "share of the pixels: 0")):
        with pytest.raises(attacks.AttackError, match=what):
            attacks.attack(digits.model, x, y, "square", **options)
