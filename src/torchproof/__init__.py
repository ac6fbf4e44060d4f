"""torchproof: attack, train, certify, diagnose and guard PyTorch models, and leave evidence."""
