"""Shared by the tests of the report: a page as a browser reads it, and a model that is quick to attack."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.images import ImageSet
from workbench.models import VisionModel

VOID = {"meta", "link", "img", "br", "wbr"}
INLINE = {"a", "b", "bdi", "code", "i", "small", "strong"}


class Page(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = text
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "br":
            self._words.append(" ")
        elif tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag not in INLINE:
            self._words.append(" ")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif "style" not in self._open:
            self._words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self._words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    def classed(self, name: str) -> list[dict[str, str | None]]:
        return [attrs for _, attrs in self.elements if name in (attrs.get("class") or "").split()]

    def code(self, element_id: str) -> str:
        found = re.search(rf'id="{element_id}">(.*?)</code>', self.source, re.S)
        assert found is not None
        return html.unescape(found.group(1))


@pytest.fixture
def read_page() -> Callable[[str], Page]:
    return Page


@pytest.fixture
def quick() -> dict[str, Any]:
    """Options of a report that takes no time."""
    return {"epsilons": (8 / 255,), "attacks": ("fgsm",), "methods": ("saliency", "gradcam")}


@pytest.fixture
def small_net() -> Callable[..., VisionModel]:
    def make(classes: int | tuple[str, ...] = 3, channels: int = 3, **known: Any) -> VisionModel:
        names = classes if isinstance(classes, tuple) else ()
        count = len(names) or classes
        generator = torch.Generator().manual_seed(0)
        convolution = nn.Conv2d(channels, 4, 3, padding=1)
        net = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, count))
        for parameter in net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        options: dict[str, Any] = {"name": "small", "input_size": (channels, 16, 12), "classes": names, **known}
        return wb.load(net, **options)

    return make


@pytest.fixture
def some_images() -> Callable[..., ImageSet]:
    def make(n: int = 3, channels: int = 3, **known: Any) -> ImageSet:
        return ImageSet.of(torch.rand(n, channels, 16, 12, generator=torch.Generator().manual_seed(1)), **known)

    return make
