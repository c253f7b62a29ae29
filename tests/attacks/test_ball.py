"""Projection, steepest ascent, random points, distances: what a norm means."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from attacks import _random
from attacks._ball import NORMS, Ball, distance, widest
from attacks._best import Best
from attacks._losses import is_broken, log_odds, margin, smooth_margin


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 8, 8), (3, 224, 160)])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("epsilon", [0.002, 0.03, 0.5])
def test_projection_keeps_ball_and_box(norm, shape, epsilon) -> None:
    x = noise(6, *shape)
    x[0], x[1] = 0, 1
    far = x + 4 * epsilon * (noise(6, *shape, seed=1) - 0.5) * (x.numel() / 6) ** 0.5
    ball = Ball.around(x, epsilon, norm)
    inside = ball.project(far)
    assert inside.min() >= 0 and inside.max() <= 1
    assert distance(inside.double(), x.double(), norm).max() <= epsilon + 1e-6
    torch.testing.assert_close(ball.project(inside), inside, rtol=0, atol=1e-6)  # scaling twice rounds twice
    assert ball.project(x).equal(x)


def test_linf_projection_is_the_nearest_point() -> None:
    x, far = noise(4, 1, 3, 3), 3 * noise(4, 1, 3, 3, seed=1) - 1
    inside = Ball.around(x, 0.2, "linf").project(far)
    grid = torch.linspace(0, 1, 100_001)
    for image, wish, got in zip(x.flatten(), far.flatten(), inside.flatten(), strict=True):
        allowed = grid[(grid - image).abs() <= 0.2]
        assert (got - wish).abs() <= (allowed - wish).abs().min() + 1e-5  # the grid's own step


def test_l1_projection_is_the_nearest_point() -> None:
    """Against bisection of the multiplier in float64: nearest means that all changes shrink by one number."""
    x, far = noise(40, 2, 3, 5).double(), 3 * noise(40, 2, 3, 5, seed=1).double() - 1
    epsilon = 20 * noise(40, seed=2).double()
    inside = Ball.around(x, epsilon, "l1").project(far)
    delta, centre = (far - x).flatten(1), x.flatten(1)
    room = torch.where(delta > 0, 1 - centre, centre)

    def shrunk(by: torch.Tensor) -> torch.Tensor:
        return torch.minimum((delta.abs() - by).clamp(min=0), room)

    low, high = torch.zeros(40, 1, dtype=torch.float64), torch.full((40, 1), 3.0, dtype=torch.float64)
    for _ in range(60):
        middle = (low + high) / 2
        over = shrunk(middle).sum(1, keepdim=True) > epsilon[:, None]
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    needed = shrunk(0 * low).sum(1, keepdim=True) > epsilon[:, None]
    assert needed.any() and not needed.all()
    expected = centre + shrunk(torch.where(needed, high, 0)) * delta.sign()
    torch.testing.assert_close(inside.flatten(1), expected, rtol=0, atol=1e-9)


def test_l0_projection_keeps_the_largest_changes() -> None:
    x = torch.full((1, 1, 1, 4), 0.5)
    far = x + torch.tensor([0.1, -0.4, 0.3, 0.2])
    expected = x + torch.tensor([0.0, -0.4, 0.3, 0.0])
    for epsilon in (2.0, 2.9):
        torch.testing.assert_close(Ball.around(x, epsilon, "l0").project(far), expected)


def test_l2_ball_alone_and_box_alone() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    ball = Ball.around(x, 0.1, "l2")
    torch.testing.assert_close(ball.project(x + torch.tensor([0.3, 0.4])), x + torch.tensor([0.06, 0.08]))
    corner = Ball.around(torch.ones(1, 1, 1, 2), 10.0, "l2")
    assert corner.project(torch.tensor([[[[2.0, -3.0]]]])).tolist() == [[[[1.0, 0.0]]]]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_steepest_ascent_has_unit_length_at_any_scale_and_is_zero_without_gradient(norm, scale) -> None:
    gradient = scale * (noise(3, 2, 4, 5) - 0.5)
    gradient[1] = 0
    direction = Ball.around(torch.zeros(3, 2, 4, 5), 1.0, norm).steepest(gradient)
    assert direction[1].eq(0).all()
    lengths = distance(direction, torch.zeros_like(direction), norm)
    torch.testing.assert_close(lengths[[0, 2]], torch.ones(2))
    # Hölder with equality: the dual norm of the gradient is reached.
    gained = (direction * gradient / scale).flatten(1).sum(1)
    dual = gradient.flatten(1).div(scale).norm(p=1 if norm == "linf" else 2, dim=1)
    torch.testing.assert_close(gained, dual)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_random_points_fill_the_ball(norm) -> None:
    x = torch.full((400, 1, 1, 2), 0.5)
    ball = Ball.around(x, 0.2, norm)
    points = ball.random(0, [str(i) for i in range(400)], "test")
    lengths = distance(points, x, norm)
    assert lengths.max() <= 0.2 + 1e-6
    # Uniform in a two-dimensional ball: a quarter lies within half the radius; 4 sigma of 400 draws is 0.087.
    assert abs((lengths < 0.1).float().mean() - 0.25) < 0.087
    assert (points - x).mean(0).abs().max() < 4 * 0.2 / 3**0.5 / 400**0.5


def test_noise_belongs_to_seed_image_and_stream_not_to_place() -> None:
    draw = _random.uniform(3, ["a", "b", "c"], (1, 4, 4), "pgd", 0)
    assert _random.uniform(3, ["c", "a"], (1, 4, 4), "pgd", 0).equal(draw[[2, 0]])
    others = [
        _random.uniform(4, ["a"], (1, 4, 4), "pgd", 0),
        _random.uniform(3, ["a"], (1, 4, 4), "pgd", 1),
        _random.uniform(3, ["a"], (1, 4, 4), "apgd", 0),
        _random.uniform(3, ["b"], (1, 4, 4), "pgd", 0),
        _random.normal(3, ["a"], (1, 4, 4), "pgd", 0),
    ]
    assert not any(torch.equal(other[0], draw[0]) for other in others)
    # Parts are separated: ("a", 11) and ("a1", 1) are different streams.
    assert not _random.uniform(3, ["a"], (4,), "x", 11).equal(_random.uniform(3, ["a"], (4,), "x1", 1))


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    _random.normal(0, ["a"], (3, 3))
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_log_odds_climb_where_cross_entropy_climbs(classes) -> None:
    logits = (
        5 * torch.randn(20, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ).requires_grad_()
    labels = torch.arange(20) % classes
    odds = log_odds(logits, labels)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(torch.nn.functional.softplus(odds), loss)
    (ours,) = torch.autograd.grad(odds.sum(), logits)
    (theirs,) = torch.autograd.grad(loss.sum(), logits)
    wrong = 1 - logits.softmax(1).gather(1, labels[:, None])
    torch.testing.assert_close(ours * wrong, theirs)


def test_the_smooth_margin_lies_between_log_odds_and_margin() -> None:
    logits = 3 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(50) % 7
    spread = (logits - logits.mean(1, keepdim=True)).abs().mean(1)
    for row in range(50):  # sharpness in units of the spread: scale 1 is the log-odds
        one = slice(row, row + 1)
        torch.testing.assert_close(
            smooth_margin(logits[one], labels[one], float(spread[row])), log_odds(logits[one], labels[one])
        )
    torch.testing.assert_close(smooth_margin(logits, labels, 1e6), margin(logits, labels), rtol=0, atol=1e-4)
    for factor in (1e-30, 1e30):
        torch.testing.assert_close(
            smooth_margin(factor * logits, labels, 3.0) / factor, smooth_margin(logits, labels, 3.0)
        )
    assert smooth_margin(torch.zeros(2, 3), torch.tensor([0, 1]), 3.0).isfinite().all()


def test_log_odds_do_not_saturate() -> None:
    logits = torch.tensor([[1e6, 0.0, -5.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(logits, torch.tensor([0])).sum(), logits)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.9933, 0.0067]]), atol=1e-4, rtol=0)


def test_nan_breaks_nothing() -> None:
    logits = torch.tensor([[1.0, torch.nan], [1.0, 2.0]])
    assert is_broken(logits, torch.tensor([0, 0]), targeted=False).tolist() == [False, True]
    assert is_broken(logits, torch.tensor([1, 1]), targeted=True).tolist() == [False, True]


def test_best_prefers_broken_then_loss() -> None:
    best = Best(torch.zeros(3, 1, 1, 1))
    offers = [([1.0, 1.0, torch.nan], [0, 0, 0]), ([0.5, 2.0, 0.1], [1, 0, 0]), ([9.0, 1.0, 0.0], [0, 0, 0])]
    for value, (loss, broken) in enumerate(offers, start=1):
        images = torch.full((3, 1, 1, 1), float(value))
        best.offer(torch.arange(3), images, torch.tensor(loss), torch.tensor(broken, dtype=torch.bool))
    assert best.images.flatten().tolist() == [2.0, 2.0, 2.0]
    assert best.broken.tolist() == [True, False, False]


def test_widest_reaches_the_opposite_corner() -> None:
    x, y = torch.zeros(1, 3, 4, 5), torch.ones(1, 3, 4, 5)
    for norm in NORMS:
        assert distance(x, y, norm).item() == pytest.approx(widest(norm, 60), abs=1e-6)


def test_in_l0_the_projection_is_the_nearest_point_of_ball_and_box() -> None:
    """Against all choices of two numbers out of six."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(50, 1, 2, 3, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    aim = x + torch.randn(x.shape, generator=generator)
    found = Ball.around(x, 2.0, "l0").project(aim)
    assert (distance(found, x, "l0") <= 2).all() and found.amin() >= 0 and found.amax() <= 1
    choices = []
    for pair in combinations(range(6), 2):
        point = x.flatten(1).clone()
        point[:, pair] = aim.flatten(1)[:, pair].clamp(0, 1)
        choices.append((point - aim.flatten(1)).norm(dim=1))
    torch.testing.assert_close(distance(found, aim, "l2"), torch.stack(choices).amin(0))
