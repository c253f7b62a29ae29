"""Every attack of foolbox runs under our rules: counted, in the box, leaving nothing behind, each image by itself."""

from __future__ import annotations

import functools
import inspect
import random
import sys
import threading
from collections.abc import Callable

import foolbox
import numpy as np
import pytest
import torch
from torch import nn

import attacks
from attacks import foolbox_catalogue
from attacks._ball import distance
from attacks._provenance import content_ids
from attacks._victim import Victim
from attacks.foolbox_catalogue import LEFT_OUT, PREFIX, catalogue, find, listing

NAMES = sorted(catalogue())
SMALL = {
    "steps": 8,
    "directions": 60,
    "repeats": 5,
    "binary_search_steps": 4,
    "candidates": 3,
    "population": 3,
    "num_rotations": 3,
    "num_translations": 2,
    "initial_gradient_eval_steps": 4,
    "update_stats_every_k": 3,
    "rel_stepsize": 0.2,
    "initial_const": 10.0,
    "initial_stepsize": 0.1,
}
BUDGET = {"linf": 0.1, "l2": 0.4, "l1": 1.5, "l0": 4.0}


@pytest.fixture(autouse=True)
def short_starts(monkeypatch) -> None:
    """Pointwise starts from salt and pepper, of which foolbox always takes 1000 steps."""
    few = functools.partial(foolbox.attacks.SaltAndPepperNoiseAttack, steps=30)
    monkeypatch.setattr("foolbox.attacks.pointwise.SaltAndPepperNoiseAttack", few)


def net(classes: int = 3) -> nn.Module:
    """A small network that is undecided about grey, so that little breaks it."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 12), nn.ReLU(), nn.Linear(12, classes)).eval()
        model[-1].bias -= model(torch.full((1, 2, 3, 4), 0.5))[0]
    return model


def photos(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 2, 3, 4, generator=torch.Generator().manual_seed(1))


def run(name: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor, norm: str, **options) -> tuple:
    """The images found, and the victim that counted."""
    attack = find(name)
    small = {key: value for key, value in SMALL.items() if key in attack.options}
    victim = Victim(attacks._frozen.frozen_view(model), content_ids(x))
    epsilon = None if attack.minimal else BUDGET[norm]
    only = name.endswith("GenAttack")
    goal = (y + 1) % 3 if only else y
    found = attack.configured({**small, **options}).function(victim, x, goal, epsilon, norm=norm, targeted=only)
    return found, victim


def worldwide() -> tuple:
    state = np.random.get_state()
    return random.getstate(), state[1].tolist(), state[2:]


# Noise and grey within the budget, and a genetic search of few steps, need not break anything.
MAY_FAIL = {name for name in NAMES if "AdditiveGaussian" in name or "AdditiveUniform" in name} | {
    "foolbox:GenAttack",
    "foolbox:L2ContrastReductionAttack",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_attack_keeps_the_rules(name, fingerprint) -> None:
    model, x = net(), photos()
    y = model(x).argmax(1)
    attack = find(name)
    before = fingerprint(model), worldwide()
    for norm in attack.norms:
        found, victim = run(name, model, x, y, norm)
        assert (fingerprint(model), worldwide()) == before
        assert found.shape == x.shape and found.dtype == x.dtype and found.isfinite().all()
        assert found.min() >= 0 and found.max() <= 1
        broken = model(found).argmax(1) != y
        assert broken.any() or name in MAY_FAIL
        if attack.minimal:
            assert found[~broken].equal(x[~broken])
        else:
            assert (distance(found, x, norm) <= BUDGET[norm] + 1e-6).all()
        small = {key: value for key, value in SMALL.items() if key in attack.options}
        assert victim.forwards.min() >= 2 and victim.forwards.max() <= attack.passes({**attack.options, **small})
        assert (victim.backwards > 0).any() == (attack.kind == "gradient")
        alone, other = run(name, model, x[1:], y[1:], norm)
        torch.testing.assert_close(alone, found[1:], rtol=0, atol=1e-5)
        assert other.forwards.tolist() == victim.forwards[1:].tolist()


def test_entries_are_whole() -> None:
    for name in NAMES:
        attack = find(name)
        assert attack.name == name and attack.title.endswith("(foolbox)") and len(attack.description) > 10
        assert attack.paper.startswith(("arXiv:", "doi:"))
        assert attack.norms and set(attack.norms) <= {"linf", "l2", "l1", "l0"}
        assert attack.kind in ("gradient", "score", "decision", "transform")
        parameters = list(inspect.signature(attack.function).parameters)
        assert parameters[:6] == ["model", "x", "labels", "epsilon", "norm", "targeted"]
        assert all(type(value) in (bool, int, float, type(None)) for value in attack.options.values())
        assert attack.passes(attack.options) >= 2
    assert find("foolbox:HopSkipJumpAttack").options["steps"] == 64
    tuned = find("foolbox:HopSkipJumpAttack").configured({"steps": 3})
    assert tuned.options["steps"] == 3 and tuned.passes(tuned.options) < 2500


def test_every_class_of_foolbox_is_offered_once_or_left_out_with_a_reason() -> None:
    known = {
        name
        for name, value in vars(foolbox.attacks).items()
        if inspect.isclass(value) and issubclass(value, foolbox.attacks.Attack) and not inspect.isabstract(value)
        if value.__name__ == name  # no aliases
    }
    offered = {name.removeprefix(PREFIX) for name in NAMES}
    assert offered | set(LEFT_OUT) == known and not offered & set(LEFT_OUT)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_hop_skip_jump_comes_near_the_boundary_of_a_linear_network(linear, norm) -> None:
    model, x, y = linear(n=2, shape=(1, 2, 3))
    attack = find("foolbox:HopSkipJumpAttack").configured({"steps": 8, "initial_gradient_eval_steps": 30})
    reach = model.distance(x, norm)
    length = distance(attack.function(model, x, y, None, norm=norm), x, norm)
    assert (length >= reach * (1 - 1e-4)).all() and (length <= 1.05 * reach).all()


@pytest.mark.parametrize(
    ("name", "norm"), [("L2DeepFoolAttack", "l2"), ("LinfDeepFoolAttack", "linf"), ("DDNAttack", "l2")]
)
def test_gradient_attacks_reach_the_boundary_of_a_linear_network(linear, name, norm) -> None:
    model, x, y = linear(n=2)
    reach = model.distance(x, norm)
    length = distance(find(PREFIX + name).function(model, x, y, None, norm=norm), x, norm)
    assert (length >= reach * (1 - 1e-4)).all() and (length <= 1.05 * reach).all()


@pytest.mark.parametrize(
    "name", ["LinfBasicIterativeAttack", "L2MomentumIterativeFastGradientMethod", "L2DeepFoolAttack"]
)
def test_never_weaker_than_foolbox_alone(name) -> None:
    """Without randomness: the same image where foolbox breaks it, and perhaps more, where a step went too far."""
    model, x = net(), photos(12)
    y = model(x).argmax(1)
    attack = find(PREFIX + name).configured({"steps": 6})
    (norm,) = attack.norms
    epsilon = None if attack.minimal else BUDGET[norm] / 2
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, theirs, success = getattr(foolbox.attacks, name)(steps=6)(peer, x, y, epsilons=epsilon)
    ours = attack.function(model, x, y, epsilon, norm=norm)
    assert success.float().mean() > 0.3
    torch.testing.assert_close(ours[success], theirs[success], rtol=0, atol=1e-5)


def test_the_public_call() -> None:
    model, x = net(), photos(4)
    y = model(x).argmax(1)
    found = attacks.attack(model, x, y, "foolbox:L2DeepFoolAttack", norm="l2", epsilon=2.0)
    assert found.success.all() and (found.distance <= 2).all() and found.backwards.gt(0).any()
    noise = {"norm": "linf", "epsilon": 0.2, "repeats": 50}
    name = "foolbox:LinfRepeatedAdditiveUniformNoiseAttack"
    a, b, c = (attacks.attack(model, x, y, name, seed=seed, **noise) for seed in (0, 0, 1))
    assert a.success.any() and a.images.equal(b.images) and not a.images.equal(c.images)
    aimed = attacks.attack(model, x, y, "foolbox:DDNAttack", norm="l2", epsilon=3.0, targets=(y + 1) % 3)
    assert aimed.fooled_as[aimed.success].equal(((y + 1) % 3)[aimed.success]) and aimed.success.any()
    with pytest.raises(attacks.AttackError, match="step"):
        attacks.attack(model, x, y, "foolbox:DDNAttack", norm="l2", epsilon=1.0, step=3)


def test_a_budget_ends_a_search_early() -> None:
    model, x = net(), photos()
    y = model(x).argmax(1)
    attack = find("foolbox:DDNAttack").configured({"steps": 30})
    far, near = Victim.of(model, x), Victim.of(model, x)
    nearest = distance(attack.function(far, x, y, None, norm="l2"), x, "l2")
    enough = distance(attack.function(near, x, y, 1.5 * nearest, norm="l2"), x, "l2")
    assert (nearest <= enough).all() and (enough <= 1.5 * nearest).all()
    assert (near.forwards < far.forwards).all()


class Flat(nn.Module):
    """Cuts the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.detach())


class Holes(Flat):
    """NaN off the images it is asked about first."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where((x - photos()[:1]).abs().amax() < 1e-3, self.inner(x), torch.nan)


@pytest.mark.parametrize("model", [Flat(), Holes()])
@pytest.mark.parametrize("name", [name for name in NAMES if find(name).kind == "gradient"])
def test_models_without_gradient_or_answer_do_no_harm(model, name) -> None:
    x = photos(1)
    y = net()(x).argmax(1)
    found, _ = run(name, model, x, y, find(name).norms[0])
    assert found.isfinite().all() and found.min() >= 0 and found.max() <= 1


def test_an_image_already_there_is_returned_untouched() -> None:
    model, x = net(), photos()
    y = (model(x).argmax(1) + 1) % 3
    for name in ("foolbox:LinfProjectedGradientDescentAttack", "foolbox:HopSkipJumpAttack"):
        found, victim = run(name, model, x, y, "linf")
        assert found.equal(x) and victim.forwards.eq(1).all() and victim.backwards.eq(0).all()


class StopError(AssertionError):
    """Of a kind that foolbox raises too."""


@pytest.mark.parametrize("name", ["GenAttack", "PointwiseAttack", "HopSkipJumpAttack", "LinfFastGradientAttack"])
def test_what_a_callback_raises_comes_through_and_leaves_nothing_behind(name, fingerprint) -> None:
    model, x, count = net(), photos(1), [0]
    y = model(x).argmax(1)

    def tick(n: int) -> None:
        count[0] += 1
        if count[0] == 3:
            raise StopError

    before = fingerprint(model), worldwide()
    victim = Victim(attacks._frozen.frozen_view(model), ["a"], tick=tick)
    attack = find(PREFIX + name)
    epsilon = None if attack.minimal else 0.1
    goal = (y + 1) % 3 if name == "GenAttack" else y
    with pytest.raises(StopError):
        attack.function(victim, x, goal, epsilon, norm=attack.norms[0], targeted=name == "GenAttack")
    assert (fingerprint(model), worldwide()) == before


def test_random_models_are_averaged() -> None:
    class Random(Flat):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x + 0.01 * torch.rand(x.shape))

    model, x = Random(), photos(2)
    y = model.inner(x).argmax(1)
    attack = find("foolbox:L2ProjectedGradientDescentAttack").configured({"steps": 4})
    victims = [Victim(attacks._frozen.frozen_view(model), content_ids(x), eot=3) for _ in range(2)]
    first, second = (attack.function(victim, x, y, 0.4, norm="l2") for victim in victims)
    assert victims[0].forwards.tolist() == [18, 18] and victims[0].backwards.tolist() == [12, 12]
    assert first.equal(second)


def test_threads_do_not_disturb_each_other() -> None:
    model, x = net(), photos()
    y = model(x).argmax(1)
    jobs: list[Callable[[], torch.Tensor]] = [
        functools.partial(lambda name, norm: run(name, model, x, y, norm)[0], PREFIX + name, norm)
        for name, norm in (("PointwiseAttack", "l0"), ("GenAttack", "linf"), ("BoundaryAttack", "l2"))
    ] * 2
    alone = [job() for job in jobs]
    together: list = [None] * len(jobs)

    def work(index: int) -> None:
        together[index] = jobs[index]()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a.equal(b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_any_mode_of_the_caller(mode) -> None:
    model, x = net(), photos()
    y = model(x).argmax(1)
    plain, _ = run("foolbox:L2ProjectedGradientDescentAttack", model, x, y, "l2")
    with mode():
        inside, victim = run("foolbox:L2ProjectedGradientDescentAttack", model, x.clone(), y.clone(), "l2")
    assert inside.equal(plain) and victim.backwards.eq(SMALL["steps"]).all()


def test_refusals_say_what_to_do(monkeypatch) -> None:
    model, x = net(), photos(1)
    y = model(x).argmax(1)
    for name, message in (
        ("foolbox:HopSkipJumpAtack", "foolbox:HopSkipJumpAttack"),
        ("foolbox:PGD", "foolbox:LinfProjectedGradientDescentAttack"),
        ("foolbox:DatasetAttack", "fed"),
        ("foolbox:Attack", "foolbox has no attack"),
    ):
        with pytest.raises(attacks.AttackError, match=message):
            find(name)
    for name, options, epsilon, message in (
        ("LinfFastGradientAttack", {}, None, "needs a budget"),
        ("SpatialAttack", {}, 1.0, "no budget"),
        ("GenAttack", {}, 0.1, "targets"),
        ("SparseL1DescentAttack", {"quantile": 2.0}, 1.0, "refuses its options: quantile"),
        ("GaussianBlurAttack", {"steps": 0}, 1.0, "ZeroDivisionError"),
    ):
        attack = find(PREFIX + name).configured(options)
        with pytest.raises(attacks.AttackError, match=message):
            attack.function(model, x, y, epsilon, norm=attack.norms[0])
    monkeypatch.setitem(sys.modules, "foolbox", None)
    foolbox_catalogue._entry.cache_clear()
    with pytest.raises(attacks.AttackError, match="pip install"):
        find("foolbox:DDNAttack")


def test_listing_shows_ours_and_theirs() -> None:
    frame = listing().set_index("name")
    assert set(frame.index) == set(attacks.ATTACKS) | set(NAMES)
    assert frame.columns.tolist() == ["title", "norms", "kind", "minimal", "targeted", "paper"]
    row = frame.loc["foolbox:HopSkipJumpAttack"]
    assert row.norms == "l2, linf" and row.kind == "decision" and row.minimal and row.paper == "arXiv:1904.02144"
    assert frame.loc["pgd"].norms.startswith("linf, l2")
