"""Eight detectors of adversarial examples, a file each; `parts` is what they are made of, `bench`
compares them.
"""
