"""Training runs as plans: text that says what is trained, on what and how, and recipes by name."""

from torchproof.recipes.catalogue import RECIPES, recipe
from torchproof.recipes.comparison import Comparison
from torchproof.recipes.many import Many
from torchproof.recipes.plan import Plan, Prepared, meant, network, prepare, run
from torchproof.recipes.small import small
from torchproof.recipes.table import Table

__all__ = [
    "RECIPES",
    "Comparison",
    "Many",
    "Plan",
    "Prepared",
    "Table",
    "meant",
    "network",
    "prepare",
    "recipe",
    "run",
    "small",
]
