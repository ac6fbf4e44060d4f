"""Training runs as plans: text that says what is trained, on what and how, and recipes by name."""

from torchproof.recipes.catalogue import RECIPES, recipe
from torchproof.recipes.plan import Plan, Prepared, meant, network, prepare, run

__all__ = ["RECIPES", "Plan", "Prepared", "meant", "network", "prepare", "recipe", "run"]
