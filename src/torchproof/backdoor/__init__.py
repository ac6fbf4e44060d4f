"""Backdoors: putting them in, in the weights or the data, and finding them."""
