"""Concepts in the layers of a network: concept activation vectors and what depends on them."""

from __future__ import annotations

from torchproof.concept.a_cav import Margin, a_cav
from torchproof.concept.activations import activations, derivatives, gradients, layer_names
from torchproof.concept.cav import Cav, average, cav, pattern_cav, unit_of
from torchproof.concept.concepts import Concept, Plan, Shown, concepts, ranked
from torchproof.concept.draws import Examined, Halves, draw, draw_random, examine, ways
from torchproof.concept.gram_schmidt import random_concepts, residuals, span
from torchproof.concept.pictures import read_pictures
from torchproof.concept.quality import Quality, Spread, margin_of, quality, spread
from torchproof.concept.reference import Reference, captum_tcav
from torchproof.concept.tcav import Tcav, tcav

__all__ = [
    "Cav",
    "Concept",
    "Examined",
    "Halves",
    "Margin",
    "Plan",
    "Quality",
    "Reference",
    "Shown",
    "Spread",
    "Tcav",
    "a_cav",
    "activations",
    "average",
    "captum_tcav",
    "cav",
    "concepts",
    "derivatives",
    "draw",
    "draw_random",
    "examine",
    "gradients",
    "layer_names",
    "margin_of",
    "pattern_cav",
    "quality",
    "random_concepts",
    "ranked",
    "read_pictures",
    "residuals",
    "span",
    "spread",
    "tcav",
    "unit_of",
    "ways",
]
