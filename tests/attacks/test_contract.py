"""Nothing left behind, any thread, any grad mode, any shape, any wrapper."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import attacks
from attacks._frozen import frozen_view


def small(classes: int = 3, channels: int = 1) -> nn.Module:
    """A conv net for any image size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, classes)),
        )


def photos(n: int = 4, channels: int = 1, height: int = 6, width: int = 9) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0))


def test_the_model_is_left_as_it_was_in_train_mode_too(fingerprint) -> None:
    model = small().train()
    model[3].requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model.register_forward_hook(lambda *args: None)
    before = fingerprint(model)
    rob = attacks.evaluate(model, photos(), epsilons=[0.1], attacks="fast")
    assert fingerprint(model) == before
    assert rob.trustworthy or not rob.checks.set_index("check").passed["huge epsilon breaks all"]
    # Train mode would use dropout and batch statistics: the attack must have seen the eval network.
    assert rob.samples.predicted.tolist() == frozen_view(model)(photos()).argmax(1).tolist()
    assert rob.checks.set_index("check").passed["deterministic model"]


def test_the_model_is_left_as_it_was_after_an_exception(fingerprint) -> None:
    class Bomb(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.calls = small(), [0]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls[0] += 1
            if self.calls[0] > 4:
                raise RuntimeError("bang")
            return self.inner(x)

    model = Bomb().train()
    before = fingerprint(model)
    with pytest.raises(attacks.AttackError, match="bang"):
        attacks.evaluate(model, photos(), [0, 1, 2, 0], epsilons=[0.001, 0.1], attacks="fast")
    assert fingerprint(model) == before

    def stop(done: int, total: int, what: str) -> None:
        if done > 8:
            raise KeyboardInterrupt

    model = small().train()
    before = fingerprint(model)
    with pytest.raises(KeyboardInterrupt):
        attacks.attack(model, photos(), [0, 1, 2, 0], progress=stop)
    assert fingerprint(model) == before


def test_parameters_never_get_gradients_and_share_their_storage() -> None:
    model = small()
    view = frozen_view(model)
    for own, seen in zip(model.parameters(), view.parameters(), strict=True):
        assert own.data_ptr() == seen.data_ptr() and not seen.requires_grad
    assert not view.training and model.training


def test_buffers_that_a_forward_writes_stay_as_they_were(fingerprint) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()
            self.register_buffer("seen", torch.zeros(()))
            self.loose = torch.zeros(())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            self.loose += 1
            return self.inner(x)

    model = Counting()
    before = fingerprint(model)
    attacks.attack(model, photos(), [0, 1, 2, 0])
    assert fingerprint(model) == before and model.loose == 0


def test_the_images_are_left_alone_by_models_that_write_to_them() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = small()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x.sub_(0.5).div_(0.25))

    class OutOfPlace(InPlace):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner((x - 0.5) / 0.25)

    x = photos()
    kept = x.clone()
    y = OutOfPlace().eval()(x).argmax(1)
    found = attacks.attack(InPlace(), x, y, epsilon=0.05, early_stop=False)
    assert x.equal(kept)
    assert found.images.equal(attacks.attack(OutOfPlace(), x, y, epsilon=0.05, early_stop=False).images)
    assert found.distance.gt(0).all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_any_grad_mode(digits, mode) -> None:
    x, y = digits.images[:20], digits.labels[:20]
    plain = attacks.evaluate(digits.model, x, y, epsilons=[0.1], attacks="fast")
    with mode():
        # Also images, labels and a network that were made in there.
        inside = attacks.evaluate(digits.model, x.clone(), y.clone(), epsilons=[0.1], attacks="fast")
        attacks.attack(small(), photos(), torch.tensor([0, 1, 2, 0]), norm="l2", epsilon=0.5)
        attacks.pgd(small(), photos(), torch.tensor([0, 1, 2, 0]), 0.1)
    assert inside.samples.equals(plain.samples)
    assert not plain.images.requires_grad


def test_images_that_carry_a_graph_are_cut_off() -> None:
    x = photos().requires_grad_()
    found = attacks.attack(small(), x, [0, 1, 2, 0])
    assert not found.images.requires_grad and x.grad is None


def test_autocast_of_the_caller_does_not_reach_the_attack(digits) -> None:
    x, y = digits.images[:20], digits.labels[:20]
    plain = attacks.attack(digits.model, x, y, epsilon=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = attacks.attack(digits.model, x, y, epsilon=0.1)
    assert inside.images.equal(plain.images)


def test_threads_share_a_model(digits) -> None:
    requests = [{"norm": norm, "epsilons": (0.05, 0.1), "seed": seed} for norm in ("linf", "l2") for seed in (0, 1)]
    x, y = digits.images[:12], digits.labels[:12]
    alone = [attacks.evaluate(digits.model, x, y, **request, attacks="fast").samples for request in requests]
    together: list = [None] * len(requests)

    def work(index: int) -> None:
        together[index] = attacks.evaluate(digits.model, x, y, **requests[index], attacks="fast").samples

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(a.equals(b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("classes", "channels", "height", "width"), [(2, 1, 6, 9), (3, 3, 9, 5), (11, 4, 7, 7), (2, 3, 7, 7)]
)
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_shapes(classes, channels, height, width, n, norm) -> None:
    model, x = small(classes, channels).eval(), photos(n, channels, height, width)
    y = model(x).argmax(1)
    rob = attacks.evaluate(model, x, y, norm=norm, epsilons=[0.01, 0.9], batch_size=2, attacks="fast")
    assert rob.images.shape == x.shape and len(rob.samples) == n
    found = attacks.attack(model, x, y, norm=norm, epsilon=0.9, targets=(y + 1) % classes)
    assert found.images.shape == x.shape
    assert model(found.images[found.success]).argmax(1).equal(((y + 1) % classes)[found.success])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precisions_take_float32_images(digits, dtype) -> None:
    model = copy.deepcopy(digits.model).to(dtype)
    found = attacks.attack(model, digits.images[:20], digits.labels[:20], epsilon=0.15)
    assert found.images.dtype == torch.float32 and found.success.float().mean() > 0.5
    answers = model(found.images.to(dtype)).argmax(1)
    assert answers.equal(found.fooled_as)


def weight_normed(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old form is the one that keeps a graph in its attributes
        nn.utils.weight_norm(model[0])
    return model


def parametrised(model: nn.Module) -> nn.Module:
    nn.utils.parametrizations.weight_norm(model[0])
    return model


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda model: torch.compile(model, backend="eager"),
        lambda model: nn.Sequential(nn.DataParallel(model)),
        parametrised,
        weight_normed,
        pruned,
    ],
    ids=["data-parallel", "compiled", "data-parallel inside", "parametrised", "weight-norm", "pruned"],
)
def test_wrapped_models(wrap, fingerprint) -> None:
    model, x = wrap(small().eval()), photos()
    logits = model(x)  # also leaves a graph in the attributes of weight_norm and prune
    before = fingerprint(model)
    torch.testing.assert_close(frozen_view(model)(x), logits.detach())
    found = attacks.attack(model, x, logits.argmax(1), epsilon=0.9)
    assert found.backwards.gt(0).all()
    assert fingerprint(model) == before


def test_a_model_that_cannot_be_copied_is_refused_with_advice() -> None:
    model = small()
    model.lock = threading.Lock()
    with pytest.raises(attacks.AttackError, match="cannot be copied") as caught:
        attacks.attack(model, photos(), [0, 1, 2, 0])
    assert "locks" in caught.value.fix


def test_models_without_parameters_work() -> None:
    class Pixels(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2]

    x = torch.tensor([[[[0.4, 0.6]]]])
    assert attacks.attack(Pixels(), x, [1], "fgsm", epsilon=0.11).success.all()
    assert not attacks.attack(Pixels(), x, [1], "fgsm", epsilon=0.09).success.any()
