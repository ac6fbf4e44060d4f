"""The watch against catastrophic overfitting in a run that is killed and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.train import FGSMAT, Record, fit, monitor
from torchproof.train import loop as training_loop

Make = Callable[..., Any]
THREAT = Threat(Linf(), 0.1)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([t.flatten().double() for t in net.state_dict().values()])


def plain(records: list[Record]) -> list[dict[str, Any]]:
    """Records without the time they took."""
    return [record.model_dump(exclude={"seconds"}) for record in records]


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`killed(n)`: the n-th step from now on does not come to pass."""
    take = training_loop.take

    def at(number: int) -> None:
        steps: Iterator[int] = iter(range(1, 1000))

        def fatal(*args: Any) -> Any:
            if next(steps) == number:
                raise Killed
            return take(*args)

        monkeypatch.setattr(training_loop, "take", fatal)

    return at


@pytest.mark.parametrize("response", ["note", "roll-back"])
@pytest.mark.parametrize("number", [2, 4, 6, 7])
def test_killed_and_resumed_it_sees_the_same(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: Make,
    data: Make,
    network: Make,
    settings: Make,
    response: str,
    number: int,
) -> None:
    """A run that is looked at after every step and rolls back now and then, whenever it dies."""
    monkeypatch.setattr(monitor, "FALL", 0.0)  # any loss at all is one to respond to
    chosen = settings(epochs=3, monitor_steps=1, checkpoint_steps=2, catastrophic=response, lr=1.0)
    how, net = FGSMAT(THREAT), network()
    wanted = list(fit(net, data(), how, chosen, out=tmp_path / "whole"))
    checks = [c for r in wanted for c in r.checks]
    assert [c.step for c in checks] == [1, 2, 4, 5, 7, 8] and all(c.n == 12 for c in checks)
    assert all(c.linearity is not None and c.first_layer for c in checks)
    assert any(c.catastrophic for c in checks)
    killed(number)
    with pytest.raises(Killed):
        list(fit(network(), data(), how, chosen, out=tmp_path / "cut"))
    killed(0)
    again = network()
    list(fit(again, data(), how, chosen, out=tmp_path / "cut", resume=True))
    lines = [
        [Record.model_validate_json(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "whole/metrics.jsonl", tmp_path / "cut/metrics.jsonl")
    ]
    assert plain(lines[0]) == plain(lines[1]) == plain(wanted)
    assert torch.equal(weights(again), weights(net))
