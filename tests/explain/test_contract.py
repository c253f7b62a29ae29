"""What every method keeps to, generated over the registry: shapes, batches, nothing left behind, callers in any state."""

from __future__ import annotations

import copy
import gc
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import explain
from explain.method import NEEDS
from explain.operators import Operators

METHODS = tuple(explain.METHODS)
every_method = pytest.mark.parametrize("method", METHODS)
both_styles = pytest.mark.parametrize("style", ["module_net", "functional_net"])


@pytest.fixture
def net(style: str, request: pytest.FixtureRequest):
    return request.getfixturevalue(style)


def same(one: Tensor, other: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((one - other).abs().max() <= tolerance * other.abs().max())


@every_method
def test_registry_describes_the_method(method: str) -> None:
    card = explain.METHODS[method]
    assert card.name == method
    assert card.title and card.description.endswith(".") and "arXiv" in card.paper
    assert card.needs and card.needs <= set(NEEDS)
    assert min(card.cost) >= 1


@every_method
@both_styles
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("channels, classes", [(3, 5), (1, 2)])
def test_shapes(method: str, net, count: int, channels: int, classes: int) -> None:
    images = torch.rand(count, channels, 12, 20)
    results = explain.explain(net(channels=channels, classes=classes), images, methods=method)
    found = results[method]
    assert found.maps.shape == (count, 12, 20)
    assert found.maps.dtype == torch.float32 and not found.maps.requires_grad
    assert bool(found.maps.isfinite().all())
    assert found.signed or bool((found.maps >= 0).all())
    assert found.target.shape == (count,) and found.target.dtype == torch.int64
    assert results.logits.shape == (count, classes)
    assert (found.layer is not None) == ("layer" in explain.METHODS[method].needs)
    assert (found.rewritten > 0) == ("relu" in explain.METHODS[method].needs)
    if found.values is not None:
        assert found.values.shape == images.shape
        assert torch.equal(found.maps, found.values.abs().amax(1))


@every_method
@both_styles
def test_a_batch_is_only_speed(method: str, net) -> None:
    model, images = net(), torch.rand(5, 3, 12, 20)
    target = [0, 1, 2, 3, 4]
    whole = explain.explain(model, images, target, method)[method]
    chunked = explain.explain(model, images, target, method, batch_size=2)[method]
    singles = [explain.explain(model, images[n : n + 1], n, method)[method].maps for n in range(5)]
    assert whole.maps.abs().max() > 0
    assert same(chunked.maps, whole.maps)
    assert same(torch.cat(singles), whole.maps)
    assert torch.equal(whole.target, torch.tensor(target))


@every_method
@both_styles
@pytest.mark.parametrize("training", [True, False])
def test_nothing_is_left_behind(method: str, net, training: bool, look) -> None:
    model = net().train(training)
    images = torch.rand(2, 3, 12, 20)
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    pixels, before = images.clone(), look(model)
    explain.explain(model, images, methods=method)
    assert look(model) == before
    assert torch.equal(images, pixels) and not images.requires_grad


class Boom(nn.Module):
    """Fails in the middle of the forward pass."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error("boom")


@every_method
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_behind_by_an_exception(method: str, error: type[BaseException], module_net, look) -> None:
    model, images = module_net(), torch.rand(3, 3, 12, 20)
    with torch.no_grad():
        model.drop = Boom(error)
        before = look(model)
        with pytest.raises((explain.ModelError, KeyboardInterrupt), match="boom"):
            explain.explain(model, images, methods=method)
        assert look(model) == before
        model.drop = nn.Dropout()
        before = look(model)
        with pytest.raises(explain.InputError, match="no such class"):
            explain.explain(model, images, target=99, methods=method)
        assert look(model) == before
    assert not torch.overrides._get_current_function_mode_stack()


@every_method
def test_progress_counts_images_and_cancels(method: str, module_net, look) -> None:
    model, images = module_net(), torch.rand(5, 3, 12, 20)
    seen: list[tuple[int, int]] = []
    explain.explain(
        model, images, methods=method, batch_size=2, progress=lambda done, total, _: seen.append((done, total))
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]

    def cancel(done: int, total: int, what: str) -> None:
        raise TimeoutError(what)

    before = look(model)
    with pytest.raises(TimeoutError):
        explain.explain(model, images, methods=method, batch_size=2, progress=cancel)
    assert look(model) == before


@every_method
@both_styles
def test_four_threads_on_one_model(method: str, net, look) -> None:
    model, images = net().train(), torch.rand(2, 3, 12, 20)
    expected = [explain.explain(model, images, target, method)[method].maps for target in range(4)]
    before, found = look(model), {}

    def work(target: int) -> None:
        for _ in range(5):
            found[target] = explain.explain(model, images, target, method)[method].maps

    threads = [threading.Thread(target=work, args=(target,)) for target in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[target], expected[target]) for target in range(4))
    assert look(model) == before


@every_method
@both_styles
def test_the_state_of_caller_and_model_does_not_matter(method: str, net) -> None:
    model, images = net().eval(), torch.rand(2, 3, 12, 20)
    expected = explain.explain(model, images, 1, method)[method].maps
    with torch.no_grad():
        assert torch.equal(explain.explain(model, images, 1, method)[method].maps, expected)
    with torch.inference_mode():
        assert torch.equal(explain.explain(model, images.clone(), 1, method)[method].maps, expected)
        born_there = copy.deepcopy(model)  # its parameters are inference tensors
    assert torch.equal(explain.explain(born_there, images, 1, method)[method].maps, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(explain.explain(model, images, 1, method)[method].maps, expected)
    assert torch.equal(explain.explain(model.train(), images, 1, method)[method].maps, expected)
    model.requires_grad_(False)
    assert torch.equal(explain.explain(model, images, 1, method)[method].maps, expected)
    assert torch.equal(explain.explain(model, images.requires_grad_(), 1, method)[method].maps, expected)
    assert images.grad is None


class Wrapper(nn.Module):
    """Keeps its classifier in ``network`` and normalises, as the workbench's models do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


@every_method
def test_wrappers_are_seen_through(method: str, module_net) -> None:
    model, images = module_net(), torch.rand(2, 3, 12, 20)
    expected = explain.explain(model, images, 1, method)[method]
    for wrapped in (
        nn.DataParallel(model),
        Wrapper(model),
        Wrapper(Wrapper(model)),
        Wrapper(nn.DataParallel(model)),
        nn.DataParallel(Wrapper(model)),
    ):
        found = explain.explain(wrapped, images, 1, method)[method]
        assert torch.equal(found.maps, expected.maps)
        assert found.layer == expected.layer


@pytest.mark.slow  # torch.compile takes seconds to import
def test_a_compiled_model_is_seen_through(module_net) -> None:
    model, images = module_net(), torch.rand(2, 3, 12, 20)
    expected = explain.explain(model, images, 1, METHODS)
    found = explain.explain(torch.compile(model), images, 1, METHODS)
    for method in METHODS:
        assert torch.equal(found[method].maps, expected[method].maps)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(method: str, dtype: torch.dtype, module_net) -> None:
    model, images = module_net().to(dtype), torch.rand(2, 3, 12, 20).to(dtype)
    expected = explain.explain(copy.deepcopy(model).float(), images.float(), 1, method)[method].maps
    found = explain.explain(model, images, 1, method)[method].maps
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@every_method
def test_random_numbers_in_evaluation_mode_are_flagged_and_the_generator_put_back(method: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.dropout(F.relu(self.conv(x)), 0.5).mean((2, 3)))  # a classic: training defaults to True

    model, images = Net(), torch.rand(1, 3, 8, 8)
    before = torch.get_rng_state()
    found = explain.explain(model, images, methods=method)[method]
    assert torch.equal(torch.get_rng_state(), before)
    assert "the network draws random numbers in evaluation mode: each map is one draw" in found.notes


def test_the_generator_is_put_back_as_the_pass_ends() -> None:
    before = torch.get_rng_state()
    with Operators() as operators:
        assert F.dropout(torch.ones(9), 0.5, False).all() and not operators.drew_random
        F.dropout(torch.rand(9), 0.5)
        assert operators.drew_random
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_normalisation_without_statistics_is_flagged() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found = explain.explain(model, torch.rand(2, 3, 6, 6), methods="saliency")["saliency"]
    assert found.notes == ("1 normalises by the batch it sees: each map depends on the other images of its batch",)


def test_a_network_that_writes_to_its_input_and_its_buffers_changes_neither() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)
            self.register_buffer("runs", torch.zeros(()))
            self.last = None

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            self.last = self.fc(F.relu(self.conv(x.sub_(0.5))).mean((2, 3)))
            return self.last

    model, images = Net(), torch.rand(2, 3, 8, 8)
    model(images.clone())  # leaves a tensor with a graph in the module, which copy.deepcopy refuses
    kept, pixels = model.last, images.clone()
    explain.explain(model, images, methods=METHODS)
    assert torch.equal(images, pixels)
    assert model.runs == 1 and model.last is kept


@every_method
def test_nothing_waits_for_the_garbage_collector(method: str, module_net) -> None:
    """A cycle around a pass would keep its activations until Python happens to look for cycles."""
    model, images = module_net(), torch.rand(2, 3, 12, 20)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        explain.explain(model, images, methods=method)
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, Tensor | nn.Module)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left


def test_a_gradient_that_does_not_exist_is_flagged() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((x - x.flatten(1).amax(1)[:, None, None, None]).square().sum((1, 2, 3)).sqrt()[:, None])

    found = explain.explain(Net(), torch.ones(1, 3, 2, 2), methods="saliency")["saliency"]
    assert found.maps.isnan().any()
    assert found.notes == ("some maps hold NaN or infinite values: the gradient does not exist there",)


def test_what_modules_share_they_share_in_the_view() -> None:
    """The second module reads what the first one leaves in a dictionary, by way of a method bound to a third."""

    class Writer(nn.Module):
        def __init__(self, store: dict[str, Tensor]) -> None:
            super().__init__()
            self.store = store

        def forward(self, x: Tensor) -> Tensor:
            self.store["x"] = x
            return x

    class Reader(Writer):
        def __init__(self, store: dict[str, Tensor], writer: Writer) -> None:
            super().__init__(store)
            self.write = writer.forward

        def forward(self, x: Tensor) -> Tensor:
            return self.write(self.store["x"] + x)

    store: dict[str, Tensor] = {}
    writer = Writer(store)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), writer, Reader(store, writer))
    found = explain.explain(model, torch.rand(1, 3, 2, 2), target=2, methods="saliency")["saliency"]
    assert torch.equal(found.values.flatten(), 2 * model[1].weight[2].detach())
    assert not store


def test_reparametrised_weights(look) -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    model = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), spectral)
    images, before = torch.rand(2, 3, 8, 8), look(model)
    found = explain.explain(model, images, 2, methods=METHODS)
    assert look(model) == before
    plain = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    model.eval()
    plain.load_state_dict(
        {"0.weight": conv.weight, "0.bias": conv.bias, "4.weight": spectral.weight, "4.bias": spectral.bias}
    )
    for method, one in explain.explain(plain, images, 2, methods=METHODS).items():
        assert same(found[method].maps, one.maps)


def test_results_tell_their_story(module_net) -> None:
    model, images = module_net(), torch.rand(2, 3, 12, 20)
    results = explain.explain(model, images, methods=("saliency", "gradcam++"), ids=("a.png", "b.png"))
    assert list(results) == ["saliency", "gradcam++"]
    assert repr(results) == "Explanations(saliency, gradcam++; 2 images)"
    assert repr(results["gradcam++"]) == "Explanation('gradcam++', maps=(2, 12, 20), layer='relu', 1 notes)"
    frame = results.frame()
    assert list(frame.columns) == ["method", "image", "target", "layer", "maximum", "mean", "seconds"]
    assert frame["image"].tolist() == ["a.png", "b.png"] * 2
    assert frame["maximum"].tolist() == [m for one in results.values() for m in one.maps.amax((1, 2)).tolist()]
    assert frame.loc[2:, "layer"].eq("relu").all() and frame.loc[:1, "layer"].isna().all()
    assert (frame["seconds"] > 0).all()
    assert results.provenance["options"] == {"methods": ["saliency", "gradcam++"], "layer": None, "batch_size": 32}
    assert len(results.provenance["images_digest"]) == 64
    other = explain.explain(model, images.flip(0), methods="saliency")
    assert other.provenance["images_digest"] != results.provenance["images_digest"]
    assert len(explain.explain(model, images, methods=("saliency", "saliency"))["saliency"].maps) == 2
    assert explain.explain(model, images).frame()["image"].tolist() == ["0", "1"] * 2
