"""`.pt2` files of `torch.export.save`, read without torch's own reader, which can run code.

`torch.export.load` unpickles sample inputs and constants, evaluates the text of symbolic sizes and
of guards, resolves any name below `torch` as an operator and loads compiled libraries. Here the
archive is read as what it mostly is, a zip of raw tensors and one JSON graph, and the graph is
walked with the operators of one table; nothing else in the file is looked at.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchproof.core.errors import FileError
from torchproof.nn.aten import DTYPES, step_of
from torchproof.nn.traced import Graph, Shape, Traced, attach, probe

SCHEMA_MAJOR = 8  # of torch 2.8 to 2.13
_REMEDY = "export the model again, in eval mode, with torch.export.save of a recent torch"
_Members = Callable[[str], bytes]


def read_exported(path: Path) -> Traced:
    """The model in the `.pt2` file `path`, differentiable, with the file's parameters and buffers.

    Raises FileError for a file that is truncated or no such archive, that holds pickled or compiled
    objects where weights should be, that was exported in training mode, or whose graph has several
    inputs or answers or an operator that is not in OPERATORS.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
            program = json.loads(members("models/model.json"))
            weights = _tensors(members, "weights", path)
            constants = _tensors(members, "constants", path)
        major = program["schema_version"]["major"]
        if major != SCHEMA_MAJOR:
            raise FileError(f"{path} of schema {major}", f"schema {SCHEMA_MAJOR}", _REMEDY)
        graph, shape = _graph(program["graph_module"], weights | constants, path)
    except (
        zipfile.BadZipFile,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
    ) as error:
        expected = "an archive of torch.export.save"
        raise FileError(f"{path} ({type(error).__name__}: {error})", expected, _REMEDY) from error
    model = Traced(graph, shape).eval()
    probe(model, str(path))
    return model


def _members(archive: zipfile.ZipFile, path: Path) -> _Members:
    """Reads a member by its name below the archive's one folder; stored members only, as torch
    writes.

    Refusing compressed ones keeps a small file from filling the memory. Raises FileError.
    """
    infos = {i.filename.partition("/")[2]: i for i in archive.infolist()}
    if "models/model.json" not in infos:
        compiled = any(name.startswith("data/aotinductor/") for name in infos)
        given = f"{path}, {'compiled code' if compiled else 'a zip file without models/model.json'}"
        raise FileError(given, "an archive of torch.export.save", _REMEDY)
    if len(infos) != len(archive.infolist()):
        raise FileError(
            f"{path} with two members of one name", "an archive of torch.export.save", _REMEDY
        )

    def read(name: str) -> bytes:
        if infos[name].compress_type != zipfile.ZIP_STORED:
            raise FileError(f"{path} with {name} compressed", "members stored as they are", _REMEDY)
        return archive.read(infos[name])

    return read


def _tensors(read: _Members, kind: str, path: Path) -> dict[str, Tensor]:
    """The tensors of data/`kind` by name, parameters as such; never unpickled."""
    config = json.loads(read(f"data/{kind}/model_{kind}_config.json"))["config"]
    found: dict[str, Tensor] = {}
    for name, entry in config.items():
        meta = entry["tensor_meta"]
        if entry["use_pickle"] or meta is None:
            remedy = "export a model whose weights are plain tensors; nothing is unpickled"
            raise FileError(f"{path} with {name} pickled", "tensors as raw bytes", remedy)
        raw = bytearray(read(f"data/{kind}/{entry['path_name']}"))
        tensor = _tensor(raw, meta)
        found[name] = nn.Parameter(tensor, meta["requires_grad"]) if entry["is_param"] else tensor
    return found


def _tensor(raw: bytearray, meta: Mapping[str, Any]) -> Tensor:
    """The strided tensor over `raw` (little-endian, as every machine torch runs on writes it)."""
    dtype, (offset,) = DTYPES[meta["dtype"]], meta["storage_offset"].values()
    sizes, strides = ([v["as_int"] for v in meta[k]] for k in ("sizes", "strides"))
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=dtype)
    # a copy, of the tensor's own size where a file shares one storage among several
    return torch.frombuffer(raw, dtype=dtype).as_strided(sizes, strides, offset).clone()


def _graph(
    module: Mapping[str, Any], tensors: dict[str, Tensor], path: Path
) -> tuple[Graph, Shape]:
    """The walkable graph, and the shape of its input."""
    graph, signature = module["graph"], module["signature"]
    weights, bound, inputs = nn.Module(), {}, []
    for spec in signature["input_specs"]:
        ((kind, value),) = spec.items()
        if kind == "user_input":
            inputs.append(value["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            name = value[f"{kind}_name"]
            bound[value["arg"]["name"]] = attach(weights, name, tensors[name])
        else:
            raise ValueError(f"an input of kind {kind}")
    outputs = [next(iter(spec)) for spec in signature["output_specs"]]
    if len(inputs) != 1 or outputs != ["user_output"]:
        given = f"{path} from {len(inputs)} inputs to {outputs}"
        raise FileError(given, "one batch of images in, logits out, nothing changed", _REMEDY)
    steps = [s for node in graph["nodes"] if (s := step_of(node, str(path))) is not None]
    output = graph["outputs"][0]["as_tensor"]["name"]
    sizes = graph["tensor_values"][inputs[0]]["sizes"]
    shape = tuple(v.get("as_int") for v in sizes)  # an expression is any size, and is not evaluated
    return Graph(weights, bound, tuple(steps), inputs[0], output), shape
