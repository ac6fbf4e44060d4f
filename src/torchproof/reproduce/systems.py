"""The published systems that torchproof implements, and the experiment that shows each."""

from __future__ import annotations

from typing import NamedTuple


class System(NamedTuple):
    """name: of its experiment, for `torchproof reproduce`; title: what it is; where: its module or
    package.
    """

    name: str
    title: str
    where: str


SYSTEMS = (
    System("awp", "Adversarial weight perturbation", "train/awp.py"),
    System("flatness", "Flatness of the robust loss", "diagnose/flatness.py"),
    System("anomaly", "Anomalies from contaminated images", "anomaly"),
    System("regional", "Regional attacks", "attack/regional.py"),
    System("a-cav", "Adversarial concept activation vectors", "concept/a_cav.py"),
    System("weight-backdoor", "Backdoors in weight space", "backdoor/inject.py"),
    System("titration", "Noise response, scan for backdoors", "backdoor/titrate.py"),
    System("tail-index", "Tail index of gradient noise", "diagnose/tail_index.py"),
    System("prunability", "Prunability", "diagnose/prunability.py"),
    System("lipschitz", "Local Lipschitz robustness", "diagnose/lipschitz.py"),
    System("rat", "Region adversarial training", "train/region.py"),
    System("survey", "Certified robustness, 26 approaches", "verify"),
    System("cifs", "Channel-wise importance-based feature selection", "nn/cifs.py"),
    System("tisode", "Neural ODEs and TisODE", "nn/ode.py"),
    System("sparta", "Sparta activation", "nn/sparta.py"),
    System("madry", "PGD and PGD training", "train/at.py"),
    System("fat", "Friendly adversarial training", "train/friendly.py"),
    System("jsigr", "Jacobian and selective input gradient regularisation", "train/jsigr.py"),
    System("spat", "Self-paced hard-class-pair reweighting", "train/selfpaced.py"),
    System("denoise", "Feature denoising", "nn/denoise.py"),
    System("ladder", "Latent boundary-guided training", "train/ladder"),
    System("adaptive", "Adaptive attacks on thirteen defences", "adaptive"),
    System("detectors", "Eight detectors of adversarial examples", "detect"),
    System("fgsm-tricks", "Tricks for single-step training", "train/fast.py"),
    System("alternating", "Alternating objectives", "attack/alternating.py"),
    System("hypocritical", "Hypocritical examples", "attack/hypocritical.py"),
    System("hgd", "High-level representation guided denoiser", "train/denoiser.py"),
    System("iat", "Interpolated adversarial training", "train/interpolated.py"),
)
