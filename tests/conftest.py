"""What all tests share: one thread, the folder of real data, the trained networks in it."""

from __future__ import annotations

import gc
import importlib.util
import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

torch.set_num_threads(1)  # tests run side by side, and timings must not depend on the machine


def pytest_collection() -> None:
    """Twelve thousand tests are half a million objects, and none of them is garbage."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What was collected stays to the end: the garbage collector need not look at it again."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Networks and images that a test draws without a seed of its own are the same alone, in
    company and in any order, those of the fixtures that it is the first to ask for as well.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets and trained networks, `$TORCHPROOF_DATA`."""
    folder = os.environ.get("TORCHPROOF_DATA")
    if not folder:
        pytest.skip("TORCHPROOF_DATA is not set: real data sets and trained networks are needed")
    path = Path(folder)
    assert path.is_dir(), f"TORCHPROOF_DATA={folder} is no folder"
    return path


@pytest.fixture(scope="session")
def networks(data_dir: Path) -> Callable[[str], nn.Module]:
    """`networks(name)`: a packed trained network in eval mode, images in [0, 1] to logits."""
    path = data_dir / "networks.py"
    assert path.is_file(), f"{path} is missing"
    spec = importlib.util.spec_from_file_location("torchproof_test_networks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Callable[[str], nn.Module] = module.load
    return load


@pytest.fixture(scope="module")
def rendered_once() -> Iterator[None]:
    """Rendering texts is half of what a tiny run costs: of figures of one format, size and titles
    only the first one of a module is rendered, the others, drawn as well, get its bytes. Words of
    a page, which tests read, are always rendered.
    """
    known: dict[tuple[Any, ...], bytes] = {}
    render = Figure.savefig

    def savefig(self: Figure, to: Any, **more: Any) -> None:
        if not isinstance(to, io.BytesIO):
            render(self, to, **more)
            return
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
def default_dtype_kept() -> Iterator[None]:
    """No test, and nothing it calls, leaves torch's default dtype changed."""
    before = torch.get_default_dtype()
    yield
    after = torch.get_default_dtype()
    torch.set_default_dtype(before)  # one offender must not fail all tests after it
    assert after == before, f"the test left torch's default dtype at {after}"
