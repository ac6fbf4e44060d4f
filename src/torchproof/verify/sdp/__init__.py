"""Semidefinite bounds: first-order (SDP-FO), and through solvers (SDPVerify, LMIVerify)."""

from torchproof.verify.sdp.lmi_verify import lmi_margins
from torchproof.verify.sdp.sdp_fo import sdp_fo_margins
from torchproof.verify.sdp.sdp_verify import sdp_margins

__all__ = ["lmi_margins", "sdp_fo_margins", "sdp_margins"]
