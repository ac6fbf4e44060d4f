"""A contact sheet: one image under every kind and strength, to look at."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from torchproof.core.errors import MissingExtra
from torchproof.corrupt.catalogue import CORRUPTIONS, STRENGTHS, corrupt

_SIDE, _GAP, _WORDS, _HEAD = 96, 4, 150, 22  # pixels


def contact_sheet(
    image: Tensor,
    kinds: Sequence[str] = tuple(CORRUPTIONS),
    strengths: Sequence[int] = STRENGTHS,
    seed: int = 0,
) -> bytes:
    """A PNG with one row per kind and one column per strength, the clean image (C, H, W) first.

    Raises MissingExtra without pillow, and what `corrupt` raises.
    """
    try:
        pillow, draw = (importlib.import_module(f"PIL.{n}") for n in ("Image", "ImageDraw"))
    except Exception as error:  # a broken installation may raise anything
        remedy = "run `pip install pillow`"
        raise MissingExtra(f"no pillow ({error})", "pillow, to draw pictures", remedy) from error
    step = _SIDE + _GAP
    size = (_WORDS + step * (1 + len(strengths)), _HEAD + step * len(kinds))
    sheet = pillow.new("RGB", size, "white")
    pen = draw.Draw(sheet)
    for column, title in enumerate(["clean", *map(str, strengths)]):
        pen.text((_WORDS + step * column, 5), title, fill="black")
    for row, kind in enumerate(kinds):
        top = _HEAD + step * row
        pen.text((6, top + _SIDE // 2 - 6), kind.replace("_", " "), fill="black")
        shown = [image, *(corrupt(image[None], kind, s, seed=seed)[0] for s in strengths)]
        for column, picture in enumerate(shown):
            sheet.paste(_drawn(pillow, picture), (_WORDS + step * column, top))
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def _drawn(pillow: Any, image: Tensor) -> Any:
    """The image in colour, its pixels enlarged to the side of a cell."""
    large = F.interpolate(image[None].float().cpu(), (_SIDE, _SIDE), mode="nearest")[0]
    levels = large.expand(3, -1, -1).mul(255).round().to(torch.uint8)
    return pillow.fromarray(levels.permute(1, 2, 0).contiguous().numpy())
