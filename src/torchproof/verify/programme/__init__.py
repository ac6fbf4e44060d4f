"""Networks as linear programmes, with integers or without: variables, rows, and their solution."""

from torchproof.verify.programme.draft import Draft, Form, Programme
from torchproof.verify.programme.encode import Encoding
from torchproof.verify.programme.integer import least_integer
from torchproof.verify.programme.maps import Maps
from torchproof.verify.programme.solve import Answer, Clock, Value, dual_value, least

__all__ = [
    "Answer", "Clock", "Draft", "Encoding", "Form", "Maps", "Programme", "Value", "dual_value",
    "least", "least_integer",
]  # fmt: skip
