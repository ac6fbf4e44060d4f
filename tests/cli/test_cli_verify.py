"""`torchproof verify`."""

from __future__ import annotations

import csv
import gzip
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from torchproof.cli.main import main
from torchproof.verify.memory import waiting

pytest.importorskip("onnx", reason="the extra onnx is not installed")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object, startup: float = 0.0) -> int:
    monkeypatch.setattr("sys.argv", ["torchproof", "verify", *map(str, arguments)])
    monkeypatch.setattr("torchproof.cli.verify.STARTUP", startup)  # not of pytest
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def instances(folder: Path) -> list[dict[str, str]]:
    """Two quick ones of each kind: cartpole holds, lunarlander does not."""
    with (folder / "MANIFEST.csv").open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["benchmark"] == "rl_benchmarks"]
    holds = [r for r in rows if "cartpole" in r["onnx"] and r["verdict"] == "unsat"]
    fails = [r for r in rows if "lunarlander" in r["onnx"] and r["verdict"] == "sat"]
    return [*holds[:2], *fails[:2]]


def test_known_verdicts(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = data_dir / "vnncomp"
    for number, row in enumerate(instances(folder)):
        out = tmp_path / f"{number}.txt"
        code = run(monkeypatch, "--onnx", folder / row["onnx"], "--vnnlib", folder / row["vnnlib"],
                   "--timeout", 30, "--results", out)  # fmt: skip
        said = capsys.readouterr().out
        assert code == 0 and row["verdict"] in said
        lines = out.read_text().splitlines()
        assert lines[0] == row["verdict"]
        assert (len(lines) > 1) == (row["verdict"] == "sat")
        assert ("run again" in said) == (row["verdict"] == "sat")


def test_bad_files(
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = data_dir / "vnncomp"
    row = instances(folder)[0]
    cut = tmp_path / "cut.onnx.gz"
    cut.write_bytes((folder / row["onnx"]).read_bytes()[:200])
    assert run(monkeypatch, "--onnx", cut, "--vnnlib", folder / row["vnnlib"]) == 2
    assert "gzipped .onnx" in " ".join(capsys.readouterr().err.split())
    whole, out = bytearray((folder / row["onnx"]).read_bytes()), tmp_path / "out.txt"
    whole[20:60] = b"\xff" * 40
    cut.write_bytes(bytes(whole))
    files = ("--onnx", cut, "--vnnlib", folder / row["vnnlib"], "--results", out)
    assert run(monkeypatch, *files) == 2 and out.read_text() == "error\n"
    assert "gzipped .onnx" in " ".join(capsys.readouterr().err.split())
    other = tmp_path / "other.vnnlib.gz"
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))"
    other.write_bytes(gzip.compress((text + "(assert (<= Y_0 0))").encode()))
    assert run(monkeypatch, "--onnx", folder / row["onnx"], "--vnnlib", other) == 2
    assert "property of 1 inputs" in " ".join(capsys.readouterr().err.split())


def hard(folder: Path) -> tuple[Path, Path]:
    """Twice the same function less itself, plus 0.01: never below 0, which takes long to prove."""
    from onnx import TensorProto, helper, numpy_helper

    draw, inputs, width = np.random.default_rng(0), 20, 150
    weight, bias = draw.normal(size=(width, inputs)), draw.normal(size=width)
    last = np.repeat([[1.0], [-1.0]], width, 0)
    constants = {"w": np.tile(weight, (2, 1)), "b": np.tile(bias, 2), "v": last, "c": [0.01]}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "v", "c"], ["y"]),
        ],
        "hard",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, inputs))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 1))],
        [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network, asked = folder / "hard.onnx", folder / "hard.vnnlib"
    network.write_bytes(proto.SerializeToString())
    text = "(declare-const Y_0 Real)(assert (<= Y_0 0))"
    for i in range(inputs):
        text += f"(declare-const X_{i} Real)(assert (<= X_{i} 1))(assert (>= X_{i} -1))"
    asked.write_text(text)
    return network, asked


def test_the_time_limit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a clock of CPU seconds, which a busy machine does not change; the seconds
    of starting up count, and nothing is read or bounded where they were all there were.
    """
    clock = SimpleNamespace(monotonic=time.process_time)
    for module in ("cli.verify", "verify.clock", "verify.decide"):
        monkeypatch.setattr(f"torchproof.{module}.time", clock)
    network, asked = hard(tmp_path)
    out, given = tmp_path / "out.txt", ("--onnx", network, "--vnnlib", asked, "--timeout")
    for seconds, startup, by in ((0.1, 0.2, "was read"), (2, 0.0, "input split")):
        began = time.process_time()
        assert run(monkeypatch, *given, seconds, "--results", out, startup=startup) == 1
        spent = time.process_time() - began
        assert out.read_text() == "timeout\n" and by in " ".join(capsys.readouterr().out.split())
        if by == "input split":
            assert seconds - 0.1 <= spent <= seconds + 3


def test_an_error_is_written_to_the_result_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, asked = hard(tmp_path)
    asked.write_text("(declare-const X_0 Real)(assert (<= X_0")
    out = tmp_path / "out.txt"
    assert run(monkeypatch, "--onnx", network, "--vnnlib", asked, "--results", out) == 2
    assert out.read_text() == "error\n" and "asked" not in capsys.readouterr().out
    out.write_text("unsat\n")  # of another run
    assert run(monkeypatch, "--onnx", tmp_path / "no.onnx", "--vnnlib", asked,
               "--results", out) == 2  # fmt: skip
    assert out.read_text() == "error\n"
    nowhere = tmp_path / "no" / "where.txt"
    (tmp_path / "no").write_text("a file")
    assert run(monkeypatch, "--onnx", network, "--vnnlib", asked, "--results", nowhere) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "hard.vnnlib" in said.replace(" ", "") and "could not be written" not in said


def test_what_memory_does_not_hold_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network, asked = hard(tmp_path)
    given = ("--onnx", network, "--vnnlib", asked, "--timeout", 600)
    left: list[int] = []

    def full(*_: object) -> None:
        left.append(waiting())
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("torchproof.cli.verify.decide", full)
    assert run(monkeypatch, *given, "--memory", 0.5) == 1
    said = capsys.readouterr().out
    assert left == [2**28] and "unknown" in said and "no memory left" in said


def test_a_network_is_traced_where_the_property_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 / x is infinite at 0, which the property is not about."""
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Reciprocal", ["x"], ["y"])], "g", ends[:1],
                              ends[1:])  # fmt: skip
    imports = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), tmp_path / "n.onnx")
    lines = [f"(declare-const {v}_{i} Real)" for v in "XY" for i in range(2)]
    lines += [f"(assert ({c} X_{i} {e}))" for i in range(2) for c, e in ((">=", 1.0), ("<=", 2.0))]
    (tmp_path / "p.vnnlib").write_text("\n".join([*lines, "(assert (>= Y_0 1.5))"]))
    code = run(monkeypatch, "--onnx", tmp_path / "n.onnx", "--vnnlib", tmp_path / "p.vnnlib")
    assert code == 0 and "unsat" in capsys.readouterr().out
