"""What the tests of ONNX files share: the answers of onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="session")
def answers() -> Callable[[Path, Tensor], Tensor]:
    """`answers(path, x)`: what onnxruntime makes of x with the model in the file."""
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

    def asked(path: Path, x: Tensor) -> Tensor:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return torch.from_numpy(session.run(None, {name: x.detach().numpy()})[0])

    return asked
