"""Training on streams: the same as in memory for the same batches, resumed exactly, memory flat."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchproof.core.errors import InputError, ModelError, ResumeError
from torchproof.core.norms import Linf
from torchproof.core.threats import Threat
from torchproof.data.stream import Batches, Stream
from torchproof.train import AT, MMA, RAT, SWA, FreeAT, Settings, Standard, checkpoint, fit
from torchproof.train.rows import order, split

THREAT = Threat(Linf(), 0.1)
Data = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Source:
    """Images and labels in parts of ten, read by their positions."""

    x: Tensor
    y: Tensor
    name: str = "in memory"

    @property
    def parts(self) -> int:
        return -(-len(self.x) // 10)

    def __len__(self) -> int:
        return len(self.x)

    def walk(self, part: int) -> Iterator[int]:
        return iter(range(part * 10, min(len(self.x), part * 10 + 10)))

    def read(self, handles: Sequence[int]) -> tuple[Tensor, Tensor]:
        return self.x[list(handles)], self.y[list(handles)]


def stream(data: Data, **more: Any) -> Stream:
    x, y = data()
    return Stream(Source(x[12:], y[12:], **more), buffer=15, held=(x[:12], y[:12]))


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.state_dict().values()])


def short(settings: Callable[..., Settings], **more: Any) -> Settings:
    return settings(**{"held_out": None, "epochs": 3, "checkpoint_steps": 2} | more)


def test_the_batches_of_memory_train_the_same_network(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings]
) -> None:
    """Whatever the rows are keyed by: plain training draws nothing per row."""
    one, two = network(), network()
    records = list(fit(one, data(), Standard(), settings(epochs=3)))
    train, held = split(*data(), 0, 12)

    def epoch(number: int) -> list[tuple[Tensor, Tensor]]:
        made = order(len(train), 16, 0, number)
        return [(train.x[train.index[c]], train.y[train.index[c]]) for c in made]

    given = Batches(epoch, 3, held=(held.x[held.index], held.y[held.index]))
    again = list(fit(two, given, Standard(), settings(epochs=3)))
    assert torch.equal(weights(one), weights(two))
    for a, b in zip(records, again, strict=True):
        assert (a.loss, a.clean, a.step, a.best_epoch) == (b.loss, b.clean, b.step, b.best_epoch)


class Stop:
    """True when it has been asked `at` times."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("method", [AT(THREAT, steps=2), FreeAT(THREAT, m=3)], ids=["AT", "Free"])
@pytest.mark.parametrize("at", [1, 4])
def test_a_stopped_run_goes_on_bit_for_bit(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings],
    tmp_path: Path, method: Any, at: int,
) -> None:  # fmt: skip
    how = short(settings, ema=0.8)
    whole, cut, rest = network(), network(), network()
    list(fit(whole, stream(data), method, how, threat=THREAT, out=tmp_path / "whole"))
    list(fit(cut, stream(data), method, how, threat=THREAT, out=tmp_path / "cut", stop=Stop(at)))
    facts = checkpoint.read(tmp_path / "cut" / "checkpoint.safetensors")[1]
    assert facts["total"] == at + 1
    list(fit(rest, stream(data), method, how, threat=THREAT, out=tmp_path / "cut", resume=True))
    assert torch.equal(weights(whole), weights(rest))
    texts = [(tmp_path / n / "metrics.jsonl").read_text().splitlines() for n in ("whole", "cut")]
    lines = [[{**json.loads(line), "seconds": 0} for line in text] for text in texts]
    assert lines[0] == lines[1]


def test_another_stream_is_not_gone_on_with(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings], tmp_path: Path
) -> None:
    how = short(settings)
    list(fit(network(), stream(data), Standard(), how, out=tmp_path, stop=Stop(1)))
    with pytest.raises(ResumeError, match="stream was 'in memory, buffer 15', is 'other"):
        fitted = fit(
            network(), stream(data, name="other"), Standard(), how, out=tmp_path, resume=True
        )
        list(fitted)


def test_averages_renew_their_statistics_on_the_stream(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings]
) -> None:
    net = network()
    list(fit(net, stream(data), SWA(Standard(), start=0.5), short(settings)))
    x = torch.cat([b[0] for b in stream(data).batches(16, 0, 0)])
    parts = [net[1](net[0](b[0])) for b in stream(data).batches(16, 0, 0)]
    assert len(x) == 48
    mean = torch.stack([part.mean(0) for part in parts]).mean(0)
    assert torch.allclose(net[2].running_mean, mean, atol=1e-12)


@pytest.mark.parametrize("method", [MMA(THREAT), RAT(THREAT)], ids=["MMA", "RAT"])
def test_methods_that_need_all_rows_say_so(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings], method: Any
) -> None:
    with pytest.raises(InputError, match="looks at all training rows, on a stream"):
        list(fit(network(), stream(data), method, short(settings)))


def test_what_cannot_be_meant_is_refused(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings]
) -> None:
    with pytest.raises(InputError, match="held_out = 5 on a stream that brings 12"):
        list(fit(network(), stream(data), Standard(), short(settings, held_out=5)))
    with pytest.raises(InputError, match="extra data beside a stream"):
        more = short(settings, extra_share=0.5)
        list(fit(network(), stream(data), Standard(), more, extra=data()))
    with pytest.raises(InputError, match=r"training data of type DataLoader.*Batches"):
        loader: Any = DataLoader(TensorDataset(*data()))
        list(fit(network(), loader, Standard(), short(settings)))
    bad = Batches(lambda e: [(3 * x, y) for x, y in [data()]], 1)
    with pytest.raises(InputError, match=r"images from"):
        list(fit(network(), bad, Standard(), short(settings)))
    nan = Stream(Source(*data()), held=None)
    net = network()
    net[1].weight.data.fill_(torch.nan)
    with pytest.raises(ModelError):
        list(fit(net, nan, Standard(), short(settings)))


def test_without_held_out_rows_the_last_epoch_is_kept(
    data: Data, network: Callable[..., nn.Module], settings: Callable[..., Settings]
) -> None:
    records = list(fit(network(), Stream(Source(*data())), AT(THREAT, steps=2), short(settings)))
    assert [r.best_epoch for r in records] == [1, 2, 3] and records[-1].held_out == 0


@dataclass(frozen=True)
class Many:
    """A million images of 1 x 2 x 2, worked out from their numbers: which half is brighter?"""

    count: int = 1_000_000
    name: str = "many"
    parts: int = 20

    def __len__(self) -> int:
        return self.count

    def walk(self, part: int) -> Iterator[int]:
        size = self.count // self.parts
        return iter(range(part * size, (part + 1) * size))

    def read(self, handles: Sequence[int]) -> tuple[Tensor, Tensor]:
        bits = torch.tensor(handles)[:, None] * torch.tensor([7919, 104729, 1299709, 15485863])
        x = (bits % 1009).float() / 1009
        return x.view(-1, 1, 2, 2), (x[:, :2].sum(1) > x[:, 2:].sum(1)).long()


def resident() -> int:
    """Bytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_is_flat_over_a_million_examples() -> None:
    """An epoch of a linear model; the examples themselves would be 24 MB, and as rows more."""
    source = Many()
    held = source.read(range(5000))
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    how = Settings.of(epochs=1, batch_size=10_000, lr=0.5, weight_decay=0.0)
    seen: list[int] = []

    def stop() -> bool:
        seen.append(resident())
        return False

    (record,) = fit(net, Stream(source, 5000, held), Standard(), how, stop=stop)
    assert len(seen) == 100 and record.step == 100 and record.clean > 0.9
    assert max(seen[10:]) - seen[10] < 8 * 2**20
