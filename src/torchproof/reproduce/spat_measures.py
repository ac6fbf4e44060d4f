"""Of `reproduce spat`: attacks on scaled and unscaled cosines, and the class pairs that an
attack confuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from torchproof.attack.combine import Attack
from torchproof.attack.pgd import PGD
from torchproof.attack.run import Run
from torchproof.core import keys
from torchproof.core.files import write
from torchproof.core.objectives import CrossEntropy, Margin, Objective
from torchproof.core.threats import parse
from torchproof.data import load
from torchproof.data.dataset import Dataset
from torchproof.nn import load_model
from torchproof.recipes import Comparison, Table
from torchproof.report.pictures import content
from torchproof.reproduce.experiment import Request, Row
from torchproof.train.cosine import scale_of

UNSCALED = "PGD-20, cross-entropy of unscaled cosines"
OVER = "what that attack over-reports (minus the suite)"
PAIRS = 3
"""How many class pairs have rows of their own."""


class Unscaled(nn.Module):
    """The cosines themselves, as the authors of SPAT attack them: the same answers, but a softmax
    that hardly tells classes apart.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits / scale_of(self.net)


def measured(request: Request, table: Table, found: Comparison) -> tuple[Row, ...]:
    """Accuracies under PGD-20 of both losses, and of the unscaled cosines of those networks that
    have a cosine head; the class pairs that PGD-20 on cross-entropy confuses, drawn in pairs.png.
    """
    rows: list[Row] = []
    pairs: dict[str, Tensor] = {}
    plan = next(iter(table.rows.values()))
    n = next(iter(found.lines[0].cells.values())).n
    test = load(plan.data, data_dir=request.data_dir, split="test")
    test = test.take(min(n, len(test)))
    for line in found.lines:
        threat = str(table.rows[line.name].threat)
        nets = [_network(request, line.name, seed) for seed in table.seeds]
        answers = _answers(nets, test, threat, table.seeds)
        for what, each in answers.items():
            hits = [int((answer == test.y).sum()) for answer in each]
            rows.append(Row.share(f"{line.name}: {what}", hits, [n] * len(hits)))
        if UNSCALED in answers:
            left = [len(line.cells[seed].standing) / n for seed in table.seeds]
            over = [a - b for a, b in zip(rows[-1].ours, left, strict=True)]
            rows.append(Row.per_seed(f"{line.name}: {OVER}", over, n, least=-1.0))
        counts = [confusion(answer, test.y, len(test.classes)) for answer in answers["PGD-20"]]
        rows.append(_first_rivals(line.name, counts))
        pairs[line.name] = torch.stack(counts)
    write(request.out / "pairs.png", drawn(pairs, test.classes))
    return (*rows, *hardest(pairs, test.classes))


def _network(request: Request, name: str, seed: int) -> nn.Module:
    folder = request.out / "runs" / name / f"seed{seed}"
    return load_model(str(folder)).model.eval().requires_grad_(False)


def _answers(
    nets: Sequence[nn.Module], test: Dataset, threat: str, seeds: Sequence[int]
) -> dict[str, list[Tensor]]:
    """By attack the answers (n,) of each network to the last iterates of PGD-20."""
    losses: dict[str, Objective] = {"PGD-20": CrossEntropy(), "PGD-20, margin": Margin()}
    cosine = any(hasattr(module, "cosine_scale") for module in nets[0].modules())
    if cosine:
        losses[UNSCALED] = CrossEntropy()
    found: dict[str, list[Tensor]] = {}
    for what, objective in losses.items():
        attack = Attack(parse(threat), objective, PGD(20, 0.25))
        for net, seed in zip(nets, seeds, strict=True):
            asked = Unscaled(net).eval() if what == UNSCALED else net
            run = Run(keys.seed_of(seed, "judge"), patience=float("inf"), last=True)
            value = attack(asked, test.x, test.y, run=run).value
            assert isinstance(value, Tensor)
            found.setdefault(what, []).append(net(test.x + value).argmax(1))
    return found


def confusion(answer: Tensor, y: Tensor, classes: int) -> Tensor:
    """(K, K) how many images of class i are answered j; correct answers stand on the diagonal."""
    return torch.bincount(y * classes + answer, minlength=classes**2).reshape(classes, classes)


def _first_rivals(name: str, counts: Sequence[Tensor]) -> Row:
    """The share of errors that go to the most frequent wrong answer of their class."""
    wrong = [_errors(one) for one in counts]
    hits = [int(one.amax(1).sum()) for one in wrong]
    what = f"{name}: errors under PGD-20 that go to the first rival of their class"
    if not any(int(one.sum()) for one in wrong):
        return Row(what=what, ours=(0.0,), n=0)
    return Row.share(what, hits, [int(one.sum()) for one in wrong])


def _errors(counts: Tensor) -> Tensor:
    """(..., K, K) with a diagonal of 0."""
    return counts * (1 - torch.eye(counts.shape[-1], dtype=counts.dtype))


def hardest(pairs: Mapping[str, Tensor], classes: Sequence[str]) -> list[Row]:
    """For the pairs that are confused most in the mean over all methods, how often each method
    confuses them; pairs: by method the counts (seeds, K, K).
    """
    every = torch.stack([c.sum(0) for c in pairs.values()]).double()
    shares = _errors(every / every.sum(2, keepdim=True).clamp(min=1)).mean(0)
    rows = []
    for place in shares.flatten().argsort(descending=True)[:PAIRS].tolist():
        i, j = divmod(place, len(classes))
        for name, counts in pairs.items():
            hits, of = counts[:, i, j].tolist(), counts[:, i].sum(1).tolist()
            if sum(of):
                what = f"{name}: images of {classes[i]} answered {classes[j]} under PGD-20"
                rows.append(Row.share(what, hits, of))
    return rows


def drawn(pairs: Mapping[str, Tensor], classes: Sequence[str]) -> bytes:
    """Per method, how the errors of each class are spread over the others: a row of the matrix is a
    true class, in percent of its images, seeds together (PNG).
    """
    across = min(3, len(pairs))
    down = -(-len(pairs) // across)
    figure = Figure(figsize=(3.3 * across, 3.2 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    ticks = [str(name) for name in classes]
    for axes, (name, counts) in zip(panels, pairs.items(), strict=False):
        pooled = counts.sum(0).double()
        shares = 100 * _errors(pooled / pooled.sum(1, keepdim=True).clamp(min=1))
        axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=max(1.0, float(shares.max())))
        for i, j in (shares >= 0.3 * shares.max()).nonzero().tolist():
            strong = shares[i, j] > 0.6 * shares.max()
            axes.text(j, i, f"{shares[i, j]:.0f}", ha="center", va="center", fontsize=7,
                      color="white" if strong else "black")  # fmt: skip
        axes.set_title(name, fontsize=9)
        axes.set_xticks(range(len(ticks)), ticks, fontsize=7)
        axes.set_yticks(range(len(ticks)), ticks, fontsize=7)
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    figure.supxlabel("answer under PGD-20", fontsize=9)
    figure.supylabel("true class (numbers: % of its images)", fontsize=9)
    return content(figure)
