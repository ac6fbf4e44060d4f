"""The trained networks that lie beside the data sets in `$TORCHPROOF_DATA`."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

from torch import nn

from torchproof.core.errors import FileError, unknown
from torchproof.data.sources import VARIABLE

READER = "networks.py"


def packed(name: str, data_dir: Path | None = None) -> nn.Module:
    """The network of this name in eval mode, images in [0, 1] to logits; parameters take no
    gradient.

    Reads it with `networks.py` of the data folder, which runs that file. Raises FileError without
    a data folder or reader, or where the network cannot be read; UnknownName for a name that is
    not there.
    """
    reader = _reader(data_dir)
    if name not in reader.names():
        raise unknown("network", name, list(reader.names()))
    try:
        network: nn.Module = reader.load(name)
    except Exception as error:  # whatever a reader that is not ours raises
        given = f"the network {name} ({type(error).__name__}: {error})"
        raise FileError(given, "a packed network", "unpack the data again") from error
    return network.eval().requires_grad_(False)


def _reader(data_dir: Path | None) -> ModuleType:
    text = os.environ.get(VARIABLE) if data_dir is None else data_dir
    remedy = f"set {VARIABLE} or give --data-dir, a folder with {READER} and networks/"
    if not text:
        raise FileError("trained networks without a data folder", "a folder to look in", remedy)
    path = Path(text).expanduser() / READER
    if not path.is_file():
        raise FileError(f"{path}, which is not there", "the reader of trained networks", remedy)
    spec = importlib.util.spec_from_file_location("torchproof_packed_networks", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(module.load) or not callable(module.names):
            raise TypeError("load and names are no functions")
    except Exception as error:  # whatever that file raises
        given = f"{path} ({type(error).__name__}: {error})"
        raise FileError(given, "a reader with load(name) and names()", remedy) from error
    return module
