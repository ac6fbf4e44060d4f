"""MART (Wang, Zou, Yi, Bailey, Ma and Gu 2020)."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from torchproof.attack.starts import Gaussian, Start
from torchproof.train.factor import check_factor
from torchproof.train.inner import Adversarial
from torchproof.train.method import Batch, answers, cross_entropy


@dataclass(frozen=True)
class MART(Adversarial):
    """MART: BCE(p(x'), y) + lam KL(p(x) || p(x')) (1 - p_y(x)), x' from PGD on CE (Wang et al.
    2020, eq. 11).

    BCE = -log p_y(x') - log(1 - max_{k != y} p_k(x')). lam: 5 as for ResNet-18 (6 for
    WideResNet-34-10); length: of a step in units of eps (0.007 for 0.031); start as in TRADES, the
    rest as in `Adversarial`. The constants 1.0001, 1.0000001 and 1e-12 of the authors' code keep
    the logarithms finite; probabilities are at least float32. Raises InputError for lam < 0.
    """

    length: float = 0.007 / 0.031
    start: Start = field(default_factory=Gaussian)
    lam: float = 5.0

    def __post_init__(self) -> None:
        check_factor("lam", self.lam, "the usual values are 5 and 6")
        super().__post_init__()

    @property
    def passes(self) -> int:
        return 2

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        assert batch.adv is not None, "losses are read from a prepared batch"
        z, moved, own = answers(model, batch.x), answers(model, batch.adv), batch.y[:, None]
        clean, p = z.softmax(1), moved.softmax(1)
        rival = p.detach().scatter(1, own, -1.0).argmax(1, keepdim=True)
        nearly_one = 1.0001 - p.gather(1, rival)[:, 0]
        boosted = cross_entropy(moved, batch) - (nearly_one + 1e-12).log()
        kl = F.kl_div((p + 1e-12).log(), clean, reduction="none").sum(1)
        return boosted + self.lam * kl * (1.0000001 - clean.gather(1, own)[:, 0])
