"""Every approach on the same networks, images and input sets, under one time limit."""

from torchproof.evaluate.survey.approaches import APPROACHES, Approach
from torchproof.evaluate.survey.record import Survey
from torchproof.evaluate.survey.run import survey
from torchproof.evaluate.survey.subject import Subject

__all__ = ["APPROACHES", "Approach", "Subject", "Survey", "survey"]
