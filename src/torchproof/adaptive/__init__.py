"""The adaptive-attack workbench: a debugger for evaluations, never a certificate."""
