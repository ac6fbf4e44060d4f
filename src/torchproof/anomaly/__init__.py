"""Anomaly detection with autoencoders, on training data that is contaminated."""
