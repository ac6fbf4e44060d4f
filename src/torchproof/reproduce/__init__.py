"""One small experiment per paper: ours beside the published figures, and a verdict in words."""

from collections.abc import Callable

from torchproof.reproduce.a_cav import a_cav_experiment
from torchproof.reproduce.alternating import alternating
from torchproof.reproduce.anomaly import anomaly_experiment
from torchproof.reproduce.awp import awp_study
from torchproof.reproduce.baselines import baselines_study
from torchproof.reproduce.certified_training import certified_training
from torchproof.reproduce.cifs import cifs_study
from torchproof.reproduce.experiment import Outcome, Request, Row
from torchproof.reproduce.extra_data import extra_data_experiment
from torchproof.reproduce.feature_denoising import feature_denoising_study
from torchproof.reproduce.flatness import flatness_experiment
from torchproof.reproduce.friendly import friendly_study
from torchproof.reproduce.hat import hat_experiment
from torchproof.reproduce.hgd import hgd_experiment
from torchproof.reproduce.hypocritical import hypocritical_experiment
from torchproof.reproduce.interpolated import interpolated_study
from torchproof.reproduce.jsigr import jsigr_study
from torchproof.reproduce.ladder import ladder_experiment
from torchproof.reproduce.lipschitz import lipschitz_experiment
from torchproof.reproduce.madry import madry
from torchproof.reproduce.overfitting import overfitting_study
from torchproof.reproduce.prunability import prunability_experiment
from torchproof.reproduce.region import region_experiment
from torchproof.reproduce.regional import regional_experiment
from torchproof.reproduce.selfpaced import selfpaced_study
from torchproof.reproduce.single_step import single_step_study
from torchproof.reproduce.smoothed_training import smoothed_training
from torchproof.reproduce.smoothing import smoothing_experiment
from torchproof.reproduce.sparta import sparta_study
from torchproof.reproduce.tail_index import tail_index_experiment
from torchproof.reproduce.thrm import thrm_experiment
from torchproof.reproduce.tisode import tisode_study
from torchproof.reproduce.titration import titration_experiment
from torchproof.reproduce.weight_backdoor import weight_backdoor_experiment

EXPERIMENTS: dict[str, Callable[[Request], Outcome]] = {
    "madry": madry,
    "alternating": alternating,
    "regional": regional_experiment,
    "hypocritical": hypocritical_experiment,
    "region": region_experiment,
    "ladder": ladder_experiment,
    "awp": awp_study,
    "friendly": friendly_study,
    "interpolated": interpolated_study,
    "fgsm-tricks": single_step_study,
    "selfpaced": selfpaced_study,
    "jsigr": jsigr_study,
    "baselines": baselines_study,
    "hat": hat_experiment,
    "thrm": thrm_experiment,
    "extra-data": extra_data_experiment,
    "cifs": cifs_study,
    "feature-denoising": feature_denoising_study,
    "sparta": sparta_study,
    "tisode": tisode_study,
    "robust-overfitting": overfitting_study,
    "hgd": hgd_experiment,
    "certified-training": certified_training,
    "smoothing": smoothing_experiment,
    "smoothed-training": smoothed_training,
    "flatness": flatness_experiment,
    "tail-index": tail_index_experiment,
    "prunability": prunability_experiment,
    "lipschitz": lipschitz_experiment,
    "titration": titration_experiment,
    "weight-backdoor": weight_backdoor_experiment,
    "anomaly": anomaly_experiment,
    "a-cav": a_cav_experiment,
}

__all__ = ["EXPERIMENTS", "Outcome", "Request", "Row"]
