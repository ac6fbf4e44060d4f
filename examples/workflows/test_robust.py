"""A test that fails where robustness fell: copy to tests/test_robust.py of your project."""

from torchproof.data import load
from torchproof.nn import load_model
from torchproof.pytest import assert_robust  # noqa: F401 (a fixture)


def test_our_classifier_is_as_robust_as_it_was(assert_robust):  # noqa: F811
    model = load_model("mymodel.py:load").model  # or a run directory, an .onnx, a .pt2 ...
    test = load("cifar10", split="test").take(200)
    assert_robust(
        model, (test.x, test.y), "linf:8/255",
        at_least=0.4, baseline="robust/result.json", may_fall=0.01,
    )  # fmt: skip
