"""The book of rules: which operator is frozen how. Strict: what is not in it is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional as F

from explain.errors import InputError
from explain.linear.call import Call, Slot
from explain.linear.rule import FREEZE, Rule
from explain.linear.rules.affine import Affine, BatchNorm, Einsum, Pad, Quotient
from explain.linear.rules.attention import MultiHead, ScaledDotProduct
from explain.linear.rules.norms import LocalResponse, RootMeanSquare, Standardise, UnitLength
from explain.linear.rules.pointwise import Dropout, Gated, LeakyReLU, Power, ReLU, Secant, Threshold
from explain.linear.rules.selection import Extremum, MaxPool
from explain.linear.rules.tangent import PointwiseTangent, Tangent
from explain.linear.rules.writing import Scatter, Where
from explain.operators import DRAWS

# torch.batch_norm and torch.instance_norm take other places than those of torch.nn.functional, under the same name.
_TORCH_ORDER = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
Mode = Literal["secant", "tangent"]
Operator = Callable[..., Any] | str


def _slots(text: str) -> tuple[Slot, ...]:
    """Read ``"input 0, other 1"``."""
    return tuple(Slot(name, int(position)) for name, position in (one.split() for one in text.split(",") if one))


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


def _sum(addends: str) -> Affine:
    return Affine(addends=_slots(addends))


def _product(factors: str, addends: str = "", held: str = "") -> Affine:
    return Affine(_slots(factors), _slots(addends), _slots(held))


_REARRANGE = """
    reshape view flatten unflatten ravel permute transpose swapaxes swapdims movedim moveaxis t adjoint contiguous clone
    view_as reshape_as expand expand_as repeat tile squeeze unsqueeze narrow select slice __getitem__ index_select gather
    take take_along_dim unbind split chunk tensor_split split_with_sizes hsplit vsplit dsplit flip fliplr flipud roll rot90
    diagonal diag tril triu trace repeat_interleave broadcast_to broadcast_tensors masked_select unfold fold pixel_shuffle
    pixel_unshuffle channel_shuffle native_channel_shuffle as_strided T mT H mH atleast_1d atleast_2d atleast_3d
    to type type_as float double half bfloat16 cpu cuda sum mean cumsum neg negative __neg__ positive __pos__
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    affine_grid interpolate upsample upsample_nearest upsample_bilinear max_unpool1d max_unpool2d max_unpool3d
    fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn
    fft_fftshift fft_ifftshift view_as_real view_as_complex real imag conj resolve_conj resolve_neg __iter__ __reversed__
"""
_POINTWISE = """
    relu6 hardtanh elu celu selu gelu silu mish hardswish tanh softplus softsign softshrink hardshrink tanhshrink logsigmoid
    log_sigmoid clamp clip clamp_min clamp_max abs absolute square erf sin cos tan sinh asinh atan arctan expm1
    log1p nan_to_num
"""
# Functions of one number that serve as multiplicative gates, or that have no finite slope where a secant would start.
_GATES = "sigmoid hardsigmoid exp exp2 log log2 log10 sqrt rsqrt reciprocal __rpow__ round floor ceil trunc sign"
_TABLES: tuple[dict[str, Rule], ...] = (
    _named(Affine(), _REARRANGE),
    _named(
        _sum("input 0, other 1"),
        "add __add__ __radd__ __iadd__ sub subtract rsub __sub__ __rsub__ __isub__ copy",
    ),
    _named(_sum("tensors 0"), "cat concat concatenate stack hstack vstack dstack column_stack row_stack"),
    _named(Where(), "where"),
    _named(_sum("input 0, value 2"), "masked_fill __setitem__"),
    _named(_sum("input 0, value 3"), "index_fill"),
    _named(_sum("input 0, source 2"), "masked_scatter"),
    _named(_sum("input 0, values 2"), "index_put"),
    _named(_sum("input 0, source 3"), "index_add index_copy"),
    _named(Scatter(), "scatter scatter_add"),
    _named(_sum("input 0, value 1"), "fill"),
    _named(_sum("input 0"), "zero"),
    _named(_sum("input 0, end 1"), "lerp"),
    _named(_product("input 0, other 1"), "mul multiply __mul__ __rmul__ __imul__ matmul __matmul__ __rmatmul__"),
    _named(_product("input 0, mat2 1"), "mm bmm"),
    _named(_product("input 0, vec 1"), "mv"),
    _named(_product("input 0, tensor 1"), "dot"),
    _named(_product("input 0, other 1"), "inner kron tensordot"),
    _named(_product("input 0, vec2 1"), "outer ger"),
    _named(_product("input 0, weight 1", "bias 2"), "linear conv1d conv2d conv3d"),
    _named(_product("input 0, weight 1", "bias 2"), "conv_transpose1d conv_transpose2d conv_transpose3d"),
    _named(_product("mat1 1, mat2 2", "input 0"), "addmm"),
    _named(_product("batch1 1, batch2 2", "input 0"), "baddbmm addbmm"),
    _named(_product("tensor1 1, tensor2 2", "input 0"), "addcmul"),
    _named(_product("input 0", held="grid 1"), "grid_sample"),
    _named(_product("input1 0, input2 1, weight 2", "bias 3"), "bilinear"),
    _named(Einsum(), "einsum"),
    _named(
        Quotient(Slot("input", 0), Slot("other", 1)), "div divide true_divide __truediv__ __itruediv__ __idiv__ __div__"
    ),
    _named(Quotient(Slot("other", 1), Slot("input", 0)), "__rdiv__ __rtruediv__"),
    _named(Pad(), "pad"),
    _named(BatchNorm(), "batch_norm"),
    _named(ReLU(), "relu"),
    _named(LeakyReLU(), "leaky_relu prelu rrelu"),
    _named(Threshold(), "threshold _threshold"),
    _named(Dropout(), "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout feature_dropout"),
    _named(Secant(), _POINTWISE),
    _named(Secant(F.hardsigmoid), "hardswish"),
    _named(Secant(torch.sigmoid), "silu"),
    _named(Power(), "pow __pow__ __ipow__ float_power"),
    _named(Gated(), "glu"),
    _named(FREEZE, _GATES),
    _named(FREEZE, "softmax softmin log_softmax logsumexp var std var_mean std_mean prod"),
    _named(FREEZE, "norm linalg_norm linalg_vector_norm cosine_similarity pairwise_distance cdist dist"),
    _named(UnitLength(), "normalize"),
    _named(RootMeanSquare(), "rms_norm"),
    _named(LocalResponse(), "local_response_norm"),
    _named(Extremum(), "max min amax amin maximum minimum fmax fmin median topk sort kthvalue"),
    _named(ScaledDotProduct(), "scaled_dot_product_attention"),
    _named(MultiHead(), "multi_head_attention_forward"),
)
for _dims in (1, 2, 3):
    _pool = MaxPool(
        _dims,
        getattr(F, f"max_pool{_dims}d_with_indices"),
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode"),
    )
    _adaptive = MaxPool(_dims, getattr(F, f"adaptive_max_pool{_dims}d_with_indices"), ("output_size",))
    _TABLES = (
        *_TABLES,
        _named(_pool, f"max_pool{_dims}d max_pool{_dims}d_with_indices"),
        _named(_adaptive, f"adaptive_max_pool{_dims}d adaptive_max_pool{_dims}d_with_indices"),
    )
RULES: dict[str, Rule] = {name: rule for table in _TABLES for name, rule in table.items()}
"""Name of an operator → how it is frozen."""

# Asked for so often that they are not even looked at; none of them reads a value.
_TRANSPARENT = """
    size dim ndim numel nelement stride is_contiguous is_floating_point is_complex __len__ get_device element_size
    storage_offset zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full new_tensor result_type
    _assert _set_grad_enabled register_hook __hash__ __repr__ __format__ is_same_size
"""
_UNSEEN = frozenset(_TRANSPARENT.split())
OF_ONE_NUMBER = frozenset((*_POINTWISE.split(), *_GATES.split())) - {"__rpow__"}
_POINTWISE_TANGENT = PointwiseTangent()
_DRAWS = DRAWS | {"binomial", "cauchy", "geometric", "gumbel_softmax", "log_normal", "native_dropout"}
_RECIPES: dict[str, Rule] = {"secant": Secant(), "freeze": FREEZE}
_registered: dict[Operator, Rule] = {}


def register(operator: Operator, rule: Rule | Literal["secant", "freeze"]) -> None:
    """Teach the interpreter an operator, for all interpreters made from now on in this process.

    Args:
        operator: the function, as the network calls it, or its name. Python functions of your own are seen if they go
            through ``torch.overrides.handle_torch_function``; an ``autograd.Function`` needs such a function around it.
        rule: a :class:`Rule`, or ``"secant"`` for a function of one number (φ(x) → φ(0) + x·(φ(x₀) − φ(0))/x₀), or
            ``"freeze"`` for a gate whose result stays what it was.

    Raises:
        InputError: the rule is neither.
    """
    _registered[operator] = _read(rule)


@dataclass(frozen=True)
class Known:
    """What the book says about an operator.

    Attributes:
        name: its base name.
        rule: how it is frozen, or ``None``.
        transparent: it reads no value and needs no look.
        draws: it may draw random numbers.
    """

    name: str
    rule: Rule | None
    transparent: bool
    draws: bool


class Book:
    """The rules of one interpreter.

    Args:
        mode: ``"secant"``, or ``"tangent"`` to replace every rule whose map is not the derivative.
        changes: operator → rule, before all others.
        freeze_mean: normalisations freeze their mean too.

    Raises:
        InputError: a rule or an operator that does not exist.
    """

    def __init__(self, mode: Mode, changes: Mapping[Operator, Any] | None, freeze_mean: bool) -> None:
        self._mode = mode
        self._rules: dict[Operator, Rule] = {}
        self._rules.update(RULES)
        self._rules.update(_named(Standardise(freeze_mean), "layer_norm group_norm instance_norm"))
        self._rules[torch.batch_norm] = BatchNorm(_TORCH_ORDER)
        self._rules[torch.instance_norm] = Standardise(freeze_mean, _TORCH_ORDER)
        self._rules.update(_registered)
        for operator, rule in (changes or {}).items():
            name = operator.rstrip("_") if isinstance(operator, str) else operator
            if isinstance(name, str) and (name not in self._rules or (rule == "secant" and name not in OF_ONE_NUMBER)):
                raise InputError(
                    "There is no operator of that name that could be frozen so",
                    f"{operator!r}: {rule!r}",
                    f"Functions of one number are: {', '.join(sorted(OF_ONE_NUMBER))}.",
                )
            self._rules[name] = _read(rule)
        self._found: dict[Callable[..., Any], Known] = {}
        self._tangents: dict[Rule | None, Tangent] = {}

    def find(self, func: Callable[..., Any]) -> Known:
        """Return what the book says about ``func``."""
        found = self._found.get(func)
        if found is None:
            name = base_name(func)
            rule = self._rules.get(func) or self._rules.get(name)
            transparent = rule is None and (name in _UNSEEN or name.startswith("get "))
            found = self._found[func] = Known(name, rule, transparent, name in _DRAWS or isinstance(rule, Dropout))
        return found

    def in_mode(self, rule: Rule | None, call: Call) -> Rule | None:
        """Return the rule to use for a call: in tangent mode the tangent, unless the rule is that already."""
        if self._mode == "secant" or (rule is not None and rule.is_jacobian(call)):
            return rule
        if call.name in OF_ONE_NUMBER and call.varying == 1 and not call.input.is_complex():
            return _POINTWISE_TANGENT
        if rule not in self._tangents:
            self._tangents[rule] = Tangent(None if rule is FREEZE else rule)
        return self._tangents[rule]


def base_name(func: Callable[..., Any]) -> str:
    """Return the name under which the book lists an operator: in-place forms and overloads have one name.

    Properties that tell something about a tensor are called ``get NAME``; those that return one (``.T``) by their name.
    """
    name: str = getattr(func, "__name__", type(func).__name__)
    if name in ("__get__", "__set__"):
        about = getattr(getattr(func, "__self__", None), "__name__", "")
        return about if about in RULES or about == "data" else f"get {about}"
    name = name.partition(".")[0]
    return name if name.endswith("__") else name.rstrip("_") or name


def _read(rule: Any) -> Rule:
    if isinstance(rule, Rule):
        return rule
    if rule in _RECIPES:
        return _RECIPES[rule]
    raise InputError("There is no rule of that name", repr(rule), "Use 'secant', 'freeze', or an explain.linear.Rule.")
