"""Whom the methods reject, and the mechanics of ITSR."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.svm import OneClassSVM
from torch import Tensor

from torchproof.anomaly.fit import fit
from torchproof.anomaly.itsr import CANDIDATES, ITSR
from torchproof.anomaly.learner import Learner, Setting
from torchproof.anomaly.networks import Architecture
from torchproof.anomaly.premise import NO_WORSE, UNTRAINED, Premise, premise
from torchproof.anomaly.rejection import EarlyRejection, Oracle, worst_reconstructed
from torchproof.anomaly.scores import latents, scores
from torchproof.anomaly.stages import Plain
from torchproof.core.errors import InputError, UnknownName

SHAPE = (1, 4, 4)
HOW = Architecture(latent=2, width=8)


def images(n: int = 60) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def learner() -> Learner:
    return Learner(Setting(HOW, adversarial=True, batch_size=20), SHAPE)


def test_candidates_are_those_outside_the_one_class_svm(learner: Learner) -> None:
    x = images()
    chosen = CANDIDATES["one-class-svm"](learner, x, 0.2)
    z = latents(learner.network, x).double().numpy()
    outside = OneClassSVM(nu=0.2).fit(z).decision_function(z) < 0
    assert chosen.tolist() == outside.tolist()
    assert abs(int(chosen.sum()) - 12) <= 3  # nu of 60


def test_other_candidates(learner: Learner) -> None:
    x, found = images(), scores(learner.network, images())
    worst = np.argsort(-found.error.numpy())[:6]
    rare = np.argsort(found.likelihood.numpy())[:6]
    for name, rows in (("reconstruction", worst), ("likelihood", rare)):
        chosen = CANDIDATES[name](learner, x, 0.1)
        assert chosen.nonzero()[:, 0].tolist() == sorted(rows.tolist())


def test_the_stages_of_itsr() -> None:
    stages = ITSR().stages()
    assert [stage.epochs for stage in stages] == [500, *[100] * 10, 1000]
    assert stages[0].name == "pre-training" and stages[-1].name == "re-training"


def test_the_weights_of_itsr(learner: Learner) -> None:
    """1 for the kept, the negative weight for candidates beyond the 80th percentile of their own
    errors, 0 for the other candidates.
    """
    x, method = images(), ITSR(share=0.2, weight=-0.3)
    ones, refine, worse = (method.stages()[i].weigh for i in (0, 1, -1))
    first = ones(learner, x, torch.full((60,), 9.0))
    assert first.tolist() == [1.0] * 60
    zeros = refine(learner, x, first)
    candidates = CANDIDATES["one-class-svm"](learner, x, 0.2)
    assert zeros.tolist() == (~candidates).float().tolist()
    final = worse(learner, x, zeros)
    error = scores(learner.network, x).error
    high = np.quantile(error[candidates].numpy(), 0.8)
    for row in range(60):
        expected = 1.0 if not candidates[row] else (-0.3 if error[row] > high else 0.0)
        assert float(final[row]) == pytest.approx(expected)
    count = int(candidates.sum())
    assert int((final < 0).sum()) == pytest.approx(0.2 * count, abs=1)


def test_rounds_look_at_everything_anew_or_accumulate(learner: Learner) -> None:
    x, before = images(), torch.ones(60)
    before[CANDIDATES["one-class-svm"](learner, x, 0.2).logical_not().nonzero()[0, 0]] = 0.0
    anew = ITSR(share=0.2).stages()[2].weigh(learner, x, before)
    both = ITSR(share=0.2, accumulate=True).stages()[2].weigh(learner, x, before)
    assert int((both == 0).sum()) == int((anew == 0).sum()) + 1


def test_nothing_to_make_worse(learner: Learner) -> None:
    x, ones = images(), torch.ones(60)
    assert torch.equal(ITSR().stages()[-1].weigh(learner, x, ones), ones)


def test_early_rejection_takes_the_worst_for_good() -> None:
    x = images()
    x[:3] = torch.tensor([1.0, 0.0]).repeat(8).reshape(SHAPE)  # far from grey noise
    found = fit(x, EarlyRejection(3, 2, share=0.05, weight=-0.1), Setting(HOW, batch_size=20))
    early, late = found.weights.values()
    assert early.tolist() == [1.0] * 60
    assert late.tolist() == pytest.approx([-0.1] * 3 + [1.0] * 57)
    assert found.learner.epochs == 5 and found.last is late
    chosen = worst_reconstructed(found.learner, x, 1e-9)
    assert int(chosen.sum()) == 1
    held = found.premises["without the rejected"]
    assert held is not None and held.rejected == 3 and held.error_rejected > held.error_kept
    assert found.premises["early"] is None and held.warning == UNTRAINED, "three epochs are few"


def test_the_oracle_knows() -> None:
    found = fit(images(), Oracle((1, 5), 1, -0.1), Setting(HOW, batch_size=20))
    assert (found.last < 1).nonzero()[:, 0].tolist() == [1, 5]


def test_the_premise(learner: Learner) -> None:
    x, weights = images(), torch.ones(60)
    assert premise(learner, x, weights) is None and premise(learner, x, 0 * weights) is None
    weights[:4] = 0
    found, told = scores(learner.network, x), premise(learner, x, weights)
    assert told is not None and told.rejected == 4
    assert told.error_rejected == pytest.approx(float(found.error[:4].mean()))
    assert told.likelihood_kept == pytest.approx(float(found.likelihood[4:].mean()))
    assert told.error_grey == pytest.approx(float(np.var(x[4:].numpy())))
    assert told.warning == UNTRAINED, "this network has seen nothing"
    assert Premise(4, 0, 0, 0.2, 0.2, 0.3).warning == NO_WORSE
    assert Premise(4, 0, 0, 0.2, 0.21, 0.3).warning == ""


def test_what_cannot_be_meant() -> None:
    with pytest.raises(UnknownName, match="one-class-svm"):
        ITSR(candidates="one-class-svn")
    with pytest.raises(InputError, match=r"in \[-1, 0\)"):
        ITSR(weight=0.0)
    with pytest.raises(InputError, match="from -1 to 0"):
        EarlyRejection(weight=0.5)
    with pytest.raises(InputError, match="share = 0"):
        EarlyRejection(share=0)
    with pytest.raises(InputError, match="epochs = 0"):
        Plain(0)
