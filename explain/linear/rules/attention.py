"""Attention: the matrix P₀ = softmax(q·kᵀ/√d + mask) is frozen, the output P₀·v is linear in the values.

``torch.nn.functional.multi_head_attention_forward`` is a composite: nothing inside it is seen once it has been taken
over, and it would take over itself again. It is therefore written out here.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from explain.errors import NotApplicable
from explain.linear.call import Call
from explain.linear.rule import Rule


class ScaledDotProduct(Rule):
    """``scaled_dot_product_attention``."""

    alone = False

    def record(self, call: Call) -> tuple[Any, Any]:
        gate = self._attention(call, *(one.detach() for one in self._queries_and_keys(call)))
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        return gate @ self._value(call, gate)

    def plain(self, call: Call) -> Any:
        attention = self._attention(call, *self._queries_and_keys(call))
        return attention @ self._value(call, attention)

    @staticmethod
    def _queries_and_keys(call: Call) -> tuple[Tensor, Tensor]:
        return call.argument("query", 0), call.argument("key", 1)

    @staticmethod
    def _value(call: Call, attention: Tensor) -> Tensor:
        value = call.argument("value", 2)
        if call.kwargs.get("enable_gqa") and value.shape[-3] != attention.shape[-3]:
            value = value.repeat_interleave(attention.shape[-3] // value.shape[-3], -3)
        return value

    @staticmethod
    def _attention(call: Call, query: Tensor, key: Tensor) -> Tensor:
        if call.argument("dropout_p", 4, 0.0):
            raise NotApplicable(f"attention drops out in evaluation mode at {call.layer}", None, "Set dropout_p to 0.")
        if call.kwargs.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
            key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        scale = call.kwargs.get("scale")
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        mask = call.argument("attn_mask", 3)
        if call.argument("is_causal", 5, False):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        return _masked(scores, mask).softmax(-1)


class MultiHead(Rule):
    """``multi_head_attention_forward``, as ``nn.MultiheadAttention`` calls it."""

    alone = False

    def record(self, call: Call) -> tuple[Any, Any]:
        given = _bound(call)
        gate = _attention(given, given["query"].detach(), given["key"].detach())
        return self.replay(call, gate), gate

    def replay(self, call: Call, gate: Any) -> Any:
        return _combined(call, _bound(call), gate)

    def plain(self, call: Call) -> Any:
        given = _bound(call)
        return _combined(call, given, _attention(given, given["query"], given["key"]))


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Add a mask, or leave out what a mask of booleans does not let through."""
    if mask is None:
        return scores
    return scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask


_SIGNATURE = inspect.signature(F.multi_head_attention_forward)


def _bound(call: Call) -> dict[str, Any]:
    bound = _SIGNATURE.bind(*call.args, **call.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    unusual = [name for name in ("bias_k", "bias_v", "static_k", "static_v") if given[name] is not None]
    unusual += ["add_zero_attn"] if given["add_zero_attn"] else []
    unusual += ["dropout"] if given["training"] and given["dropout_p"] else []
    if unusual:
        raise NotApplicable(
            f"multi-head attention at {call.layer or 'the top'} uses an option that has no rule",
            ", ".join(unusual),
            "Register a rule for it: explain.linear.register(function, rule).",
        )
    return given


def _weights(given: dict[str, Any]) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the three input projections and their biases."""
    if given["use_separate_proj_weight"]:
        weights = [given[f"{one}_proj_weight"] for one in "qkv"]
    else:
        weights = list(given["in_proj_weight"].chunk(3))
    bias = given["in_proj_bias"]
    return weights, [None] * 3 if bias is None else list(bias.chunk(3))


def _heads(x: Tensor, weight: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """Project ``(T, B, E)`` and take the heads apart: ``(B, heads, T, E/heads)``."""
    # Rows first: torch multiplies a transposed batch matrix by matrix, at several times the cost.
    y = F.linear(x.reshape(-1, x.shape[-1]), weight, bias)
    return y.view(*x.shape[:2], heads, -1).permute(1, 2, 0, 3)


def _attention(given: dict[str, Any], query: Tensor, key: Tensor) -> Tensor:
    """Return the attention of every head, ``(B, heads, T, S)``."""
    if query.ndim == 2:
        query, key = query.unsqueeze(1), key.unsqueeze(1)
    weights, biases = _weights(given)
    heads = given["num_heads"]
    q = _heads(query, weights[0], biases[0], heads)
    k = _heads(key, weights[1], biases[1], heads)
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    if mask is not None:
        mask = mask.view(-1, heads, *mask.shape[-2:]) if mask.ndim == 3 else mask
        scores = _masked(scores, ~mask if mask.dtype == torch.bool else mask)  # here True means "leave out"
    if padding is not None:
        padding = padding.view(-1, 1, 1, padding.shape[-1])
        scores = _masked(scores, ~padding if padding.dtype == torch.bool else padding)
    return scores.softmax(-1)


def _combined(call: Call, given: dict[str, Any], attention: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return P·v through the output projection, and the weights as the network asked for them."""
    value = given["value"]
    single = value.ndim == 2
    weights, biases = _weights(given)
    bias = None if biases[2] is None else call.constant(biases[2], "value bias")
    v = _heads(value.unsqueeze(1) if single else value, weights[2], bias, given["num_heads"])
    mixed = (attention @ v).permute(2, 0, 1, 3)
    bias = given["out_proj_bias"]
    bias = None if bias is None else call.constant(bias, "output bias")
    out = F.linear(mixed.flatten(2).flatten(0, 1), given["out_proj_weight"], bias).view(*mixed.shape[:2], -1)
    shown = None
    if given["need_weights"]:
        shown = attention.detach().mean(1) if given["average_attn_weights"] else attention.detach().clone()
        shown = shown.squeeze(0) if single else shown
    return out.squeeze(1) if single else out, shown
