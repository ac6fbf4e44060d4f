"""What a verifier and the attacks say together of every example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.evaluate import Report, evaluate, merge
from torchproof.evaluate.propagation import Propagation


def test_examples_are_certified_broken_or_undecided(
    net: nn.Module, blobs: Any, tmp_path: Path
) -> None:
    """In the table, in the result and after merging shards, against the two sides asked alone."""
    threat, n = Threat(Linf(), 0.1), 24
    verifier = Propagation("ibp")
    whole = evaluate(net, blobs, threat, "quick", n=n, verifier=verifier, out=tmp_path / "whole")
    x, y = blobs[0][:n], blobs[1][:n]
    proved = verifier(net, x, y, threat).certified.tolist()
    attacked = evaluate(net, blobs, threat, "quick", n=n).examples
    expected = [
        "misclassified" if not row.clean
        else "certified" if sure
        else "broken" if row.status == "broken"
        else "undecided"
        for row, sure in zip(attacked, proved, strict=True)
    ]  # fmt: skip
    assert {"certified", "broken"} <= set(expected)
    assert [row.certificate for row in whole.examples] == expected
    assert whole.standing.contradicted == 0 and whole.standing.certified == expected.count(
        "certified"
    )
    assert whole.certified_accuracy <= whole.robust_accuracy
    assert whole.certified_accuracy == expected.count("certified") / n
    assert Report.load(tmp_path / "whole").examples == whole.examples
    for shard in range(2):
        evaluate(net, blobs, threat, "quick", n=n, verifier=verifier, shard=f"{shard}/2",
                 out=tmp_path / str(shard))  # fmt: skip
    merged = merge([tmp_path / "0", tmp_path / "1"])
    assert merged.standing == whole.standing and merged.examples == whole.examples
