"""Pictures of anomaly detection show the numbers that they were given."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection

from torchproof.core.errors import InputError
from torchproof.report.anomaly_plots import draw_curves, draw_heat_maps, draw_scores
from torchproof.report.pictures import save


def test_a_curve_is_the_mean_in_a_band_of_seeds() -> None:
    curves = {"5 %": {15.0: [1.5, 1.9], 150.0: [1.0, 1.4]}, "1 %": {15.0: [2.0], 150.0: [1.9]}}
    (axes,) = draw_curves(curves, "epochs", "ratio", (1.4,), log=True).axes
    lines = {str(one.get_label()): np.asarray(one.get_ydata()) for one in axes.get_lines()}
    assert lines["5 %"].tolist() == pytest.approx([1.7, 1.2])
    assert lines["1 %"].tolist() == [2.0, 1.9]
    assert any(np.all(values == 1.4) for values in lines.values())
    band = next(c for c in axes.collections if isinstance(c, PolyCollection))
    corners = np.asarray(band.get_paths()[0].vertices)
    assert {round(float(y), 6) for x, y in corners if x == 15.0} == {1.5, 1.9}
    assert axes.get_xscale() == "log" and axes.get_xlabel() == "epochs"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["15", "150"]


@pytest.mark.parametrize("curves", [{}, {"a": {}}, {"a": {1.0: []}}])
def test_no_curves(curves: dict[str, dict[float, list[float]]]) -> None:
    with pytest.raises(InputError, match="at least one"):
        draw_curves(curves, "x", "y")


def test_histograms_are_shares_of_their_kind() -> None:
    normal, bad = [0.0, 0.1, 0.2, 0.3], [0.5, 1.0]
    (axes,) = draw_scores(normal, bad, "error", 0.4).axes
    heights = np.array([patch.get_height() for patch in axes.patches])  # type: ignore[attr-defined]
    assert heights[:30].sum() == pytest.approx(1) and heights[30:].sum() == pytest.approx(1)
    assert heights[:30].max() == pytest.approx(0.25) and heights[30:].max() == pytest.approx(0.5)
    assert [float(np.asarray(one.get_xdata())[0]) for one in axes.get_lines()] == [0.4]
    legend = axes.get_legend()
    assert legend is not None
    assert {t.get_text() for t in legend.get_texts()} == {"normal (4)", "outliers (2)", "threshold"}


def test_one_kind_and_none() -> None:
    (axes,) = draw_scores([1.0, 1.0], [], "error").axes
    legend = axes.get_legend()
    assert legend is not None and [t.get_text() for t in legend.get_texts()] == ["all (2)"]
    with pytest.raises(InputError, match="no scores"):
        draw_scores([], [], "error")


@pytest.mark.parametrize("channels", [1, 3])
def test_heat_maps_share_one_scale(channels: int) -> None:
    x, maps = torch.rand(2, channels, 4, 4), torch.rand(2, 4, 4)
    axes = draw_heat_maps(x, maps, ["one", "two"]).axes
    images = [one.get_images()[0] for one in axes[:4]]
    assert [one.get_title() for one in axes[:2]] == ["one", "two"]
    for column in range(2):
        shown = np.asarray(images[column].get_array())
        expected = x[column, 0] if channels == 1 else x[column].movedim(0, -1)
        assert np.allclose(shown, expected)
        assert np.allclose(np.asarray(images[2 + column].get_array()), maps[column])
        assert images[2 + column].get_clim() == (0, pytest.approx(float(maps.max())))
    with pytest.raises(InputError, match="1 titles"):
        draw_heat_maps(x, maps, ["one"])


def test_saving(tmp_path: Path) -> None:
    with matplotlib.rc_context({"figure.facecolor": "red"}):
        figure = draw_scores([0.0, 1.0], [2.0], "error")
        for kind in ("png", "svg", "pdf"):
            save(figure, tmp_path / f"a.{kind}")
            assert (tmp_path / f"a.{kind}").stat().st_size > 500
    with pytest.raises(InputError, match="png, svg, pdf"):
        save(figure, tmp_path / "a.jpg")
