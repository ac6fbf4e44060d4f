"""What the tests of experiments share: a picture is rendered once in a test, however often it is
drawn.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from matplotlib.figure import Figure


@pytest.fixture(autouse=True)
def rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run and its resumption draw the same picture, and rendering its texts is half of what a
    tiny run costs: of figures of the same size and as many axes only the first one is rendered,
    the others, drawn as well, get its bytes.
    """
    known: dict[tuple[Any, ...], bytes] = {}
    render = Figure.savefig

    def savefig(self: Figure, to: io.BytesIO, **more: Any) -> None:
        key = (*self.get_size_inches(), len(self.axes), more.get("format"), more.get("dpi"))
        if key not in known:
            buffer = io.BytesIO()
            render(self, buffer, **more)
            known[key] = buffer.getvalue()
        to.write(known[key])

    monkeypatch.setattr(Figure, "savefig", savefig)
