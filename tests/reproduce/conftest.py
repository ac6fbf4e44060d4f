"""What the tests of experiments share: a picture is rendered once in a module, however often it
is drawn, and the suite `fast` is two short attacks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from matplotlib.figure import Figure

from torchproof.attack.catalogue import pgd
from torchproof.core.objectives import Margin
from torchproof.core.threats import AnyThreat
from torchproof.evaluate import SUITES, Member, Suite


@pytest.fixture(autouse=True, scope="module")
def rendered_once() -> Iterator[None]:
    """Rendering texts is half of what a tiny run costs: of figures of one format, size and titles
    only the first one of a module is rendered, the others, drawn as well, get its bytes.
    """
    known: dict[tuple[Any, ...], bytes] = {}
    render = Figure.savefig

    def savefig(self: Figure, to: io.BytesIO, **more: Any) -> None:
        told = [(axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) for axes in self.axes]
        key = (*self.get_size_inches(), *told, more.get("format"), more.get("dpi"))
        if key not in known:
            buffer = io.BytesIO()
            render(self, buffer, **more)
            known[key] = buffer.getvalue()
        to.write(known[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        yield


@pytest.fixture(autouse=True)
def fast_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What experiments make of an evaluation is tested here, not how strong its attacks are."""

    def short(threat: AnyThreat) -> Suite:
        each = {"FGSM": pgd(threat, 1, 1.0), "PGD-5-margin": pgd(threat, 5, objective=Margin())}
        return Suite(tuple(Member(name, attack) for name, attack in each.items()))

    monkeypatch.setitem(SUITES, "fast", short)
