"""Detectors side by side: their images, the attacks, the cells, and the record that is left."""
