"""The page of certificates: counts of its own rows, and what may not be said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from torchproof.core.errors import InputError
from torchproof.core.threats import parse
from torchproof.evaluate.certified import Certificates, certify
from torchproof.report.certificates_sheet import certificates_sheet, draw_margins
from torchproof.report.sheet import write_sheet


@pytest.fixture(scope="module")
def found() -> Certificates:
    """One pixel, z = (x - 1/2, 1/2 - x): certified where |x - 1/2| > eps; the last is wrong."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0], [-1.0]]))
        net[1].bias.copy_(torch.tensor([-0.5, 0.5]))
    x = torch.tensor([0.9, 0.8, 0.55, 0.1, 0.45, 0.3]).view(-1, 1, 1, 1)
    y = torch.tensor([0, 0, 0, 1, 1, 0])
    return certify(net.double().eval(), (x.double(), y), parse("linf:0.1"), "crown", command="c")


def test_the_counts_are_those_of_the_rows(found: Certificates) -> None:
    sheet = certificates_sheet(found)
    (counts,) = sheet.sections[0].tables
    assert {row[0]: int(row[1]) for row in counts.rows} == {
        "certified": 3, "undecided": 2, "wrong": 1,
    }  # fmt: skip
    (classes,) = sheet.sections[-1].tables
    assert [row[:4] for row in classes.rows] == [
        ("0", "4", "3", "50.0 %"),
        ("1", "2", "2", "50.0 %"),
    ]
    assert "Certified accuracy 50.0 %" in sheet.sections[0].text[0]
    assert "between the two" in sheet.sections[0].text[0]


def test_the_page_needs_nothing_beside_it(found: Certificates, tmp_path: Path) -> None:
    page = write_sheet(certificates_sheet(found), tmp_path / "report.html").read_text()
    assert "What is proved of" in page and "data:image/png" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "<script" not in page
    assert (tmp_path / "margins.png").is_file() and (tmp_path / "margins.svg").is_file()


def test_without_bounds_there_is_no_picture(found: Certificates) -> None:
    blank = [row.model_copy(update={"margin": None}) for row in found.examples]
    without = found.model_copy(update={"examples": blank})
    assert not [s for s in certificates_sheet(without).sections if s.pictures]
    with pytest.raises(InputError, match="no bounds"):
        draw_margins(without)
