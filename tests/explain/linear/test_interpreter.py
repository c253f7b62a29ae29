"""What a person asks of an interpreter, against the matrix written out and against the network itself."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn
from torch.nn import functional as F

import explain
from explain.linear import RULES, book, register

EXACT = 1e-12


class Normalised(nn.Module):
    """A network behind its preprocessing, as the workbench wraps it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def small() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, 3, padding=1),
            bn1=nn.BatchNorm2d(6),
            act1=nn.GELU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 8, 3, padding=1),
            act2=nn.ReLU(inplace=True),
            flatten=nn.Flatten(),
            fc=nn.Linear(8 * 3 * 4, 5),
        )
    ).double()
    with torch.no_grad():
        for values in network.state_dict().values():
            if values.is_floating_point():
                values.uniform_(0.1, 0.5) if values.ndim == 1 else values.mul_(1.5)
    return Normalised(network).eval()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture(scope="module")
def lens(model: nn.Module, images: Tensor) -> explain.LinearInterpreter:
    return explain.linear_interpreter(model, images, batch_size=2)


def close(found: Tensor, expected: Tensor, rel: float = EXACT) -> bool:
    found, expected = found.detach(), expected.detach()
    return found.shape == expected.shape and float((found - expected).abs().max()) <= rel * float(expected.abs().max())


def matrix(lens: explain.LinearInterpreter) -> Tensor:
    """A written out column by column, ``(N, outputs, inputs)``: one impulse per input."""
    shape = lens.inputs.shape[1:]
    columns = [lens.column(tuple(index)) for index in torch.ones(shape).nonzero().tolist()]
    return torch.stack([column.flatten(1) for column in columns], 2)


def test_the_promise(model: nn.Module, lens: explain.LinearInterpreter, images: Tensor) -> None:
    assert close(lens.outputs, model(images))
    assert close(lens.apply(images) + lens.bias, lens.outputs)
    assert float(lens.residual.max()) <= EXACT
    assert len(lens) == 3 and lens.ids == ("0", "1", "2")


def test_rows_are_what_columns_are(lens: explain.LinearInterpreter) -> None:
    written = matrix(lens)
    assert close(lens.rows().flatten(2), written)
    assert close(lens.rows([3, (1,)]).flatten(2), written[:, [3, 1]])
    assert close(lens.row(2).flatten(1), written[:, 2])
    top = lens.outputs.argmax(1)
    assert close(lens.row().flatten(1), written[torch.arange(3), top])
    assert close(lens.row([4, 0, 2]).flatten(1), written[torch.arange(3), [4, 0, 2]])
    u = torch.rand(3, 5, dtype=torch.float64)
    assert close(lens.adjoint(u).flatten(1), torch.einsum("nk,nkd->nd", u, written))


def test_votes_and_bias_add_up_to_the_logit(lens: explain.LinearInterpreter) -> None:
    for k in range(5):
        assert lens.votes(k).shape == (3, 6, 8)
        assert close(lens.votes(k).sum((1, 2)) + lens.bias[:, k], lens.outputs[:, k])


def test_every_constant_has_its_name(lens: explain.LinearInterpreter) -> None:
    terms = lens.bias_terms(1)
    assert terms.names == ("preprocessing mean", "conv1.bias", "bn1 shift", "conv2.bias", "fc.bias")
    assert terms.layers == ("", "conv1", "bn1", "conv2", "fc")
    assert close(terms.total, lens.bias[:, 1])
    assert close(terms.values[:, -1], torch.full((3,), float(lens._circuit.view.root.fc.bias[1]), dtype=torch.float64))
    frame = terms.frame()
    assert list(frame.columns) == ["image", "target", "layer", "constant", "operator", "value"] and len(frame) == 15


def test_raw_and_normalised_split_alike_but_elsewhere(model: nn.Module, images: Tensor) -> None:
    raw = explain.linear_interpreter(model, images)
    normalised = explain.linear_interpreter(model, images, space="normalised")
    assert torch.equal(normalised.inputs, (images - model.mean) / model.std)
    assert close(normalised.row(0) / model.std, raw.row(0))
    assert (raw.input_name, normalised.input_name) == ("raw pixels in [0, 1]", "normalised pixels")
    assert "preprocessing mean" not in normalised.bias_terms(0).names
    moved = (normalised.row(0) * normalised.inputs - raw.row(0) * raw.inputs).flatten(1).sum(1)
    assert close(moved, raw.bias[:, 0] - normalised.bias[:, 0])
    for lens in (raw, normalised):
        assert lens.space in repr(lens) and lens.shares().input_name == lens.input_name


def test_layer_to_layer(model: nn.Module, images: Tensor, lens: explain.LinearInterpreter) -> None:
    head = explain.linear_interpreter(model, images, start="act1")
    trunk = explain.linear_interpreter(model, images, end="act1")
    assert trunk.outputs.shape == head.inputs.shape == (3, 6, 6, 8)
    assert torch.equal(trunk.outputs, head.inputs)
    assert head.input_name == "output of layer act1"
    for one in (head, trunk):
        assert float(one.residual.max()) <= EXACT
    assert close(torch.einsum("nka,nad->nkd", head.rows().flatten(2), trunk.rows().flatten(2)), matrix(lens))
    assert close(head.replay(trunk.replay(images)), lens.outputs)
    middle = explain.linear_interpreter(model, images, start="network.bn1", end="conv2")
    assert middle.row((7, 2, 3)).shape == (3, 6, 6, 8) and middle.votes((7, 2, 3)).shape == (3, 6, 8)


def test_what_by_passes_the_start_is_constant() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3 * 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x + self.branch(x)).flatten(1))

    torch.manual_seed(0)
    model, images = Residual().double().eval(), torch.rand(2, 3, 2, 2, dtype=torch.float64)
    lens = explain.linear_interpreter(model, images, start="branch")
    weight = model.head.weight
    assert close(lens.rows()[0].flatten(1), weight) and close(lens.rows()[1].flatten(1), weight)
    assert close(lens.bias, images.flatten(1) @ weight.T + model.head.bias)
    assert "network add constant" in lens.bias_terms(0).names


def test_of_a_layer_that_runs_twice_the_last_call_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.conv(self.act(self.conv(x)))).mean((2, 3))

    torch.manual_seed(0)
    model, images = Twice().double().eval(), torch.rand(2, 3, 4, 4, dtype=torch.float64)
    second = model.conv(model.conv(images).relu())
    end = explain.linear_interpreter(model, images, end="conv")
    assert torch.equal(end.outputs, second)
    start = explain.linear_interpreter(model, images, start="conv")
    assert torch.equal(start.inputs, second) and close(start.apply(second), model(images))


def test_spectrum_is_that_of_the_matrix(lens: explain.LinearInterpreter) -> None:
    written = matrix(lens)
    found = lens.svd()
    assert found.complete and found.values.shape == (3, 5)
    assert close(found.values, torch.linalg.svdvals(written), 1e-10)
    rebuilt = torch.einsum("nr,nrk,nrchw->nkchw", found.values, found.left, found.right)
    assert close(rebuilt.flatten(2), written, 1e-10)
    energy = found.values.square() / found.values.square().sum(1, keepdim=True)
    assert torch.allclose(found.effective_rank, (-(energy * energy.log()).sum(1)).exp())
    assert torch.allclose(found.stable_rank, written.square().sum((1, 2)) / found.values[:, 0].square())
    assert float(found.frame().groupby("image")["energy"].sum().sub(1).abs().max()) < EXACT
    assert close(lens.svd(2).right.square(), found.right[:, :2].square(), 1e-9) and not lens.svd(2).complete


def test_effective_rank_of_equal_singular_values_is_their_number() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).double(), torch.rand(1, 3, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        model[1].weight.copy_(3 * torch.eye(4, 12))
    found = explain.linear_interpreter(model, images).svd()
    assert torch.allclose(found.values, torch.full((1, 4), 3.0, dtype=torch.float64))
    assert float(found.effective_rank) == pytest.approx(4) and float(found.stable_rank) == pytest.approx(4)


def test_large_outputs_are_decomposed_without_the_matrix(model: nn.Module, images: Tensor) -> None:
    lens = explain.linear_interpreter(model, images[:1], end="bn1")  # 288 outputs
    found = lens.svd(6)
    written = matrix(lens)[0]
    assert close(found.values[0], torch.linalg.svdvals(written)[:6], 1e-8)
    assert found.right.shape == (1, 6, 3, 6, 8) and found.left.shape == (1, 6, 6, 6, 8)
    assert close(lens.apply(found.right[:, 0]), found.values[:, 0, None, None, None] * found.left[:, 0], 1e-8)


def test_scipy_takes_the_operator(lens: explain.LinearInterpreter) -> None:
    operator, written = lens.operator(1), matrix(lens)[1].numpy()
    assert operator.shape == written.shape and operator.dtype == np.float64
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal(144), rng.standard_normal((5, 2))
    np.testing.assert_allclose(operator @ x, written @ x, rtol=1e-10)
    np.testing.assert_allclose(operator.T @ u, written.T @ u, rtol=1e-10)
    _, values, _ = svds(operator, k=3, v0=rng.standard_normal(5))
    np.testing.assert_allclose(np.sort(values), np.sort(np.linalg.svd(written, compute_uv=False)[:3]), rtol=1e-8)


def test_shares_add_up_and_the_radius_is_where_the_two_classes_tie(lens: explain.LinearInterpreter) -> None:
    shares = lens.shares()
    assert close(shares.pixels + shares.bias, shares.logit) and close(shares.logit, lens.outputs.amax(1))
    assert close(shares.margin_pixels + shares.margin_bias, shares.margin)
    rows = torch.arange(3)
    assert close(shares.margin, lens.outputs.amax(1) - lens.outputs[rows, shares.runner_up])
    assert torch.equal(shares.runner_up, lens.outputs.topk(2).indices[:, 1])
    difference = lens.row() - lens.row(shares.runner_up)
    step = (
        difference / difference.flatten(1).norm(dim=1)[:, None, None, None] * shares.margin_radius[:, None, None, None]
    )
    tie = lens.replay(lens.inputs - step)
    assert close(tie[rows, shares.target], tie[rows, shares.runner_up], 1e-10)
    assert bool(((shares.bias_share >= 0) & (shares.bias_share <= 1)).all())
    assert list(shares.frame()["image"]) == ["0", "1", "2"] and "margin_radius" in shares.frame()
    other = lens.shares((shares.target + 1) % 5)
    assert torch.equal(other.runner_up, shares.target) and bool((other.margin_radius < 0).all())


def test_a_change_is_pixels_and_gates_and_bias(
    model: nn.Module, lens: explain.LinearInterpreter, images: Tensor
) -> None:
    others = (images + 0.3 * torch.rand_like(images)).clamp(0, 1)
    change, again = lens.change(others), explain.linear_interpreter(model, others)
    before, after = matrix(lens), matrix(again)
    x, z = images.flatten(1), others.flatten(1)
    assert close(change.total, model(others) - model(images))
    assert close(change.pixels, torch.einsum("nkd,nd->nk", before, z - x))
    assert close(change.gates, torch.einsum("nkd,nd->nk", after - before, z), 1e-10)
    assert close(change.bias, again.bias - lens.bias)
    assert float(change.residual.max()) <= EXACT * float(lens.outputs.abs().max())
    assert list(change.frame().columns) == ["image", "output", "total", "pixels", "gates", "bias"]
    same = lens.change(images)
    assert float(same.total.abs().max()) == float(same.pixels.abs().max()) == 0
    assert float(same.gates.abs().max()) == float(same.bias.abs().max()) == 0


def test_gates_agree_with_themselves_and_are_counted(
    model: nn.Module, lens: explain.LinearInterpreter, images: Tensor
) -> None:
    same = lens.gate_agreement(images)
    assert same.layers == ("act1", "pool1", "act2") and same.operators == ("gelu", "max_pool2d", "relu")
    assert same.kinds == ("factor", "decision", "decision")
    assert torch.allclose(same.values, torch.ones(3, 3))
    others = images.flip(3)
    found = lens.gate_agreement(others)
    masks = [explain.linear_interpreter(model, one, end="conv2").outputs > 0 for one in (images, others)]
    assert torch.allclose(found.values[:, 2], (masks[0] == masks[1]).flatten(1).float().mean(1))
    assert isinstance(found.frame(), pd.DataFrame) and found.sizes == (288, 72, 96)


def test_exchange_crosses_decisions_and_pixels(lens: explain.LinearInterpreter, images: Tensor) -> None:
    crossed = lens.exchange()
    written = matrix(lens)
    expected = torch.einsum("ikd,jd->ijk", written, images.flatten(1)) + lens.bias[:, None]
    assert close(crossed, expected)
    assert close(crossed[[0, 1, 2], [0, 1, 2]], lens.outputs)


def test_one_image_takes_any_number_of_inputs(lens: explain.LinearInterpreter) -> None:
    one, many = lens.pick(2), torch.rand(4, 3, 6, 8, dtype=torch.float64)
    assert one.replay(many).shape == (4, 5)
    assert close(one.replay(many)[3:], one.replay(many[3:]))
    assert one.replay(many[:0]).shape == (0, 5)


def test_secant_and_tangent_differ_by_the_gelu_only(
    model: nn.Module, images: Tensor, lens: explain.LinearInterpreter
) -> None:
    tangent = explain.linear_interpreter(model, images, mode="tangent")
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda x: model(x)[0], one[None])[:, 0] for one in images]
    )
    assert close(tangent.rows(), jacobian)
    assert close(lens.jacobian_row(3), jacobian[:, 3])
    gap = lens.jacobian_gap()
    written = matrix(lens)
    expected = (jacobian.flatten(2) - written).norm(dim=(1, 2)) / written.norm(dim=(1, 2))
    assert gap.exact and close(gap.ratio, expected, 1e-10) and float(gap.ratio.min()) > 0.01
    assert float(tangent.jacobian_gap().ratio.max()) <= EXACT
    assert "act1 intercept" in tangent.bias_terms(0).names
    assert close(tangent.bias_terms(0).total, tangent.bias[:, 0])


def test_gap_of_many_outputs_is_estimated(model: nn.Module, images: Tensor) -> None:
    lens = explain.linear_interpreter(model, images[:1], end="conv2")
    gap = lens.jacobian_gap()
    jacobian = explain.linear_interpreter(model, images[:1], end="conv2", mode="tangent").rows().flatten(2)
    written = lens.rows().flatten(2)
    expected = float((jacobian - written).norm() / written.norm())
    assert not gap.exact and float(gap.ratio) == pytest.approx(expected, rel=0.15)  # 32 probes: 1/√(2·32) per norm


def test_frozen_mean_is_a_constant() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.Flatten(), nn.Linear(64, 2)
    ).double()
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    linear, frozen = (explain.linear_interpreter(model, images, freeze_mean=on) for on in (False, True))
    assert float(frozen.residual.max()) <= EXACT and "1 mean" in frozen.bias_terms(0).names
    brighter = images + 0.1  # only the frozen mean notices
    assert close(linear.replay(brighter), linear.outputs, 1e-10)
    assert not close(frozen.replay(brighter), frozen.outputs, 1e-2)


def test_batch_size_changes_nothing(model: nn.Module, images: Tensor) -> None:
    one, all_at_once = (explain.linear_interpreter(model, images, batch_size=n) for n in (1, 3))
    for name in ("outputs", "bias"):
        assert close(getattr(one, name), getattr(all_at_once, name))
    assert close(one.rows(), all_at_once.rows()) and close(one.bias_terms(0).values, all_at_once.bias_terms(0).values)
    assert one.gates_bytes == all_at_once.gates_bytes > 0


def test_progress_is_told_and_cancels(model: nn.Module, images: Tensor) -> None:
    told: list[tuple[int, int, str]] = []
    explain.linear_interpreter(model, images, batch_size=2, progress=lambda *step: told.append(step))
    assert told == [(2, 3, "recording"), (3, 3, "recording")]

    def cancel(*step: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain.linear_interpreter(model, images, progress=cancel)


def test_provenance_repeats_it(lens: explain.LinearInterpreter, images: Tensor) -> None:
    assert lens.provenance["options"] == {
        "mode": "secant", "space": "raw", "start": None, "end": None, "freeze_mean": False, "rules": {}, "batch_size": 2
    }  # fmt: skip
    assert len(lens.provenance["images_digest"]) == 64
    assert repr(lens) == "LinearInterpreter(3 images, A: 5 from 3×6×8 (raw pixels in [0, 1]), secant)"


@pytest.mark.parametrize(
    "options, complaint",
    [
        ({"mode": "cosecant"}, "There is no mode of that name: 'cosecant'"),
        ({"space": "lab"}, "There is no space of that name"),
        ({"batch_size": 0}, "The batch size must be a number from 1"),
        ({"ids": ["a"]}, "There are 3 images, and a different number of ids"),
        ({"rules": {"sigmoids": "secant"}}, "There is no operator of that name that could be frozen so: 'sigmoids'"),
        ({"rules": {"sigmoid": "secants"}}, "There is no rule of that name"),
        ({"rules": {"softmax": "secant"}}, "There is no operator of that name that could be frozen so"),
        ({"rules": ["sigmoid"]}, "Rules are not a mapping"),
        ({"space": "normalised", "start": "act1"}, "The model has no normalised space of its own"),
    ],
)
def test_options_that_make_no_sense(model: nn.Module, images: Tensor, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(explain.InputError, match=complaint):
        explain.linear_interpreter(model, images, **options)


def test_questions_that_make_no_sense(model: nn.Module, lens: explain.LinearInterpreter, images: Tensor) -> None:
    for wrong in (
        lambda: lens.row(5), lambda: lens.row((0, 0)), lambda: lens.row([0, 1]), lambda: lens.row(0.5),
        lambda: lens.column((3, 0, 0)), lambda: lens.column((0, 0)), lambda: lens.column(0),
        lambda: lens.apply(images[:2]), lambda: lens.adjoint(images), lambda: lens.replay(images[:, :, :4]),
        lambda: lens.change(images[:2]), lambda: lens.gate_agreement(images * 300), lambda: lens.svd(6),
        lambda: lens.svd(0), lambda: lens.svd(1.5), lambda: lens.pick(3), lambda: lens.pick("a"),
        lambda: lens.rows([]), lambda: lens.rows(2), lambda: lens.apply(None), lambda: lens.operator(-4),
        lambda: explain.linear_interpreter(model, images, end="act1").row(3),
    ):  # fmt: skip
        with pytest.raises(explain.InputError):
            wrong()
    with pytest.raises(explain.LayerError, match="Close names: act2"):
        explain.linear_interpreter(model, images, end="act3")
    with pytest.raises(explain.NotApplicable, match="does not depend on the start"):
        explain.linear_interpreter(model, images, start="act2", end="act1")
    with pytest.raises(explain.InputError, match="no normalised space"):
        explain.linear_interpreter(model.network, images, space="normalised")


class Ending(nn.Module):
    """A linear layer and one function after it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.function = nn.Linear(12, 3).double(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x.flatten(1)))


@pytest.fixture
def tiny() -> Tensor:
    return torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_a_frozen_end_is_refused_and_can_be_made_an_activation(tiny: Tensor) -> None:
    with pytest.raises(explain.NotApplicable, match=r"its last step, 'softmax'.*defined on logits\.$"):
        explain.linear_interpreter(Ending(lambda y: y.softmax(1)), tiny)
    sigmoid = Ending(torch.sigmoid)
    with pytest.raises(explain.NotApplicable, match=r"rules={'sigmoid': 'secant'}"):
        explain.linear_interpreter(sigmoid, tiny)
    lens = explain.linear_interpreter(sigmoid, tiny, rules={"sigmoid": "secant"})
    z = sigmoid.fc(tiny.flatten(1))
    gate = (torch.sigmoid(z) - 0.5) / z
    assert close(lens.rows().flatten(2), gate[:, :, None] * sigmoid.fc.weight)
    assert float(lens.residual.max()) <= EXACT


def test_an_operator_without_a_rule_is_refused_by_name(tiny: Tensor) -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.lgamma(x + 3)

    model = Ending(Inner())
    with pytest.raises(explain.NotApplicable, match="no rule for the operator 'lgamma', called by function"):
        explain.linear_interpreter(model, tiny)
    assert float(explain.linear_interpreter(model, tiny, mode="tangent").residual.max()) <= EXACT
    lens = explain.linear_interpreter(model, tiny, rules={torch.lgamma: "freeze"}, start="fc", end="fc")
    assert close(lens.row(0), torch.eye(3, dtype=torch.float64)[[0, 0]])


def test_rules_can_be_taught(tiny: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "_registered", {})
    names = set(RULES)
    lens = explain.linear_interpreter(Ending(torch.special.i0), tiny, rules={torch.special.i0: "secant"})
    assert float(lens.residual.max()) <= EXACT
    register(torch.special.i0, "secant")
    taught = explain.linear_interpreter(Ending(torch.special.i0), tiny)
    assert close(taught.rows(), lens.rows())
    assert set(RULES) == names
    with pytest.raises(explain.InputError):
        register(torch.special.i0, "guess")


def test_a_new_function_of_ones_own() -> None:
    """The way that the docs show: a function that goes through torch's protocol, and its rule."""
    from torch.overrides import handle_torch_function, has_torch_function_unary

    def bump(x: Tensor) -> Tensor:
        if has_torch_function_unary(x):
            return handle_torch_function(bump, (x,), x)
        return x * torch.exp(-x.square())

    model, images = Ending(bump), torch.rand(2, 3, 2, 2, dtype=torch.float64)
    lens = explain.linear_interpreter(model, images, rules={bump: "secant"})
    z = model.fc(images.flatten(1))
    assert close(lens.rows().flatten(2), torch.exp(-z.square())[:, :, None] * model.fc.weight)


class Hidden(torch.autograd.Function):
    """A non-linearity that no function mode sees."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return signal


def test_what_cannot_be_seen_is_refused(tiny: Tensor) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(Hidden.apply(x.flatten(1)))

    for mode in ("secant", "tangent"):
        with pytest.raises(explain.NotApplicable, match="cannot be seen, before or in fc: HiddenBackward"):
            explain.linear_interpreter(Model(), tiny, mode=mode)


def test_random_draws_are_frozen_and_the_generator_is_put_back(tiny: Tensor) -> None:
    model = Ending(lambda y: F.dropout(y, 0.5, training=True) + torch.rand_like(y))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    lens = explain.linear_interpreter(model, tiny)
    lens.jacobian_row(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert float(lens.residual.max()) <= EXACT and close(lens.bias_terms(0).total, lens.bias[:, 0])
    assert any("one draw" in note for note in lens.notes)


def test_a_network_that_looks_at_its_batch_is_interpreted_image_by_image(tiny: Tensor) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()).double()
    lens = explain.linear_interpreter(model, tiny)
    assert close(lens.outputs, torch.cat([model(one[None]) for one in tiny]))
    assert float(lens.residual.max()) <= EXACT and any("its own batch" in note for note in lens.notes)


def test_single_output_has_no_runner_up(tiny: Tensor) -> None:
    lens = explain.linear_interpreter(Ending(lambda y: y[:, :1]), tiny)
    assert lens.row(0).shape == tiny.shape
    with pytest.raises(explain.InputError, match="no runner-up"):
        lens.shares()
