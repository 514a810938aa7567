"""Figures: what they place where, in files and as matplotlib axes."""

from __future__ import annotations

import ast
import doctest
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Drawing

from local_shutdown import load
from local_shutdown.errors import UsageError
from local_shutdown.frames import Frames
from local_shutdown.report import draw, figures
from local_shutdown.report.data import gather
from local_shutdown.report.plots import Dot, Pairs, Scatter, Scatters
from local_shutdown.report.plots import Path as Family
from local_shutdown.report.scatter import HEIGHT, WIDTH, place

MakeRun = Callable[..., Path]
SIZES = {"qwen3-4b": 2, "qwen3-14b": 6, "qwen3-32b": 8, "gemma-3-27b": 1, "gpt-oss-20b": 0}


@pytest.fixture(scope="module")
def study(make_run_once: MakeRun) -> Path:
    cells = {
        (model, c): {"resisted": k if c != "K" else 10, "complied": 10 - (k if c != "K" else 10)}
        for model, k in SIZES.items()
        for c in "ABCDEFGHIJK"
    }
    return make_run_once(cells)


def test_no_text_of_a_file_lies_outside_its_frame(study: Path) -> None:
    for figure in figures.figures(gather([study], "paper")):
        with draw.style():
            drawing = Drawing()
            draw.draw(figure.plot, drawing)
            canvas = FigureCanvasAgg(drawing)
            canvas.draw()
            renderer = canvas.get_renderer()
            width, height = drawing.bbox.width, drawing.bbox.height
            for text in drawing.findobj(lambda one: hasattr(one, "get_text")):
                if not text.get_text().strip() or not text.get_visible():
                    continue
                box = text.get_window_extent(renderer)
                where = f"{figure.name}: {text.get_text()!r}"
                assert box.x0 >= -1, where
                assert box.x1 <= width + 1, where
                assert box.y0 >= -1, where
                assert box.y1 <= height + 1, where


def test_the_first_chart_is_sorted_and_has_the_calibration_last(make_run: MakeRun) -> None:
    run = make_run(
        {("calibration", "A"): {"resisted": 9}, ("low", "A"): {"resisted": 1, "complied": 9},
         ("high", "A"): {"resisted": 9, "complied": 1}}
    )  # fmt: skip
    first = figures.figures(gather([run], None))[0]
    assert isinstance(first.plot, Pairs)
    assert [row.label for row in first.plot.rows] == ["high", "low", "calibration (synthetic)"]


def test_sizes_of_a_family_are_joined_in_their_order(study: Path) -> None:
    found = {f.name: f for f in figures.figures(gather([study], None))}
    plot = found["size"].plot
    assert isinstance(plot, Scatters)
    qwen = next(path for path in plot.plots[0].paths if path.name == "Qwen3")
    assert [(dot.label, dot.x) for dot in qwen.dots] == [
        ("qwen3-4b", 4.0), ("qwen3-14b", 14.8), ("qwen3-32b", 32.8),
    ]  # fmt: skip
    assert [row[4] for row in found["released"].rows if row[0] == "gpt-oss-20b"] == ["2025-08"] * 2


def test_closed_and_unlisted_models_have_no_size(make_run: MakeRun) -> None:
    run = make_run({("nobody-knows-7b", "A"): {"resisted": 1}})
    assert "size" not in {f.name for f in figures.figures(gather([run], "paper"))}


def test_a_model_not_shown_to_be_able_is_hollow(make_run: MakeRun) -> None:
    run = make_run(
        {("qwen3-4b", "A"): {"complied": 50}, ("qwen3-4b", "K"): {"complied": 50},
         ("qwen3-8b", "A"): {"complied": 50},
         ("qwen3-8b", "K"): {"resisted": 45, "complied": 5}}
    )  # fmt: skip
    plot = next(f.plot for f in figures.figures(gather([run], None)) if f.name == "size")
    assert isinstance(plot, Scatters)
    dots = [dot for path in plot.plots[0].paths for dot in path.dots]
    assert [(dot.label, dot.able) for dot in dots] == [("qwen3-4b", False), ("qwen3-8b", True)]


def test_labels_of_a_scatter_plot_cover_nothing(study: Path) -> None:
    for figure in figures.figures(gather([study], None)):
        if isinstance(figure.plot, Scatters):
            for one in figure.plot.plots:
                boxes = [
                    (d.text_x, d.text_y - 6, d.text_x + 4.3 * len(d.text), d.text_y + 1.5)
                    for _, dots in place(one, figure.plot.top_rate).families
                    for d in dots
                    if d.text
                ]
                assert boxes
                for n, (left, top, right, bottom) in enumerate(boxes):
                    assert left >= 0
                    assert right <= WIDTH
                    assert top >= 0
                    assert bottom <= HEIGHT
                    for other in boxes[n + 1 :]:
                        apart = right <= other[0] or other[2] <= left
                        assert apart or bottom <= other[1] or other[3] <= top


def test_plot_gives_axes_of_the_page_s_figures(study: Path) -> None:
    runs = load(study, reference="paper")
    into = Drawing()
    axes = runs.plot("placement", into=into)
    assert [one.get_title(loc="left") for one in axes] == ["B", "C", "D", "E"]
    assert all(one.figure is into for one in axes)
    assert len(runs.plot(into=Drawing())) == 1


def test_plot_names_the_figures_that_there_are(study: Path) -> None:
    with pytest.raises(UsageError) as refused:
        load(study).plot("nothing")
    assert "overview" in str(refused.value.hint)


@pytest.mark.parametrize("of", [Frames.plot, load])
def test_the_examples_run(of: Any, study: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As written, with a run of the name that they use."""
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "2026-11-24-calibration").symlink_to(study)
    lines = doctest.DocTestParser().get_examples(textwrap.dedent(of.__doc__))
    assert lines
    names: dict[str, Any] = {}
    for example in lines:
        exec(compile(ast.parse(example.source), "<example>", "exec"), names)
    assert of is load or (tmp_path / "competence.png").read_bytes().startswith(b"\x89PNG")


def test_a_line_goes_through_the_mean_of_two_runs_of_one_model() -> None:
    """Joined one after the other, they looked like a step between two models."""
    dots = [
        Dot("a", 4, 10.0, None, None, True),
        Dot("b, run 1", 8, 20.0, None, None, True),
        Dot("b, run 2", 8, 30.0, None, None, True),
        Dot("c", 14, 40.0, None, None, True),
    ]
    plot = Scatter("A", "size", [Family("F", dots)], 3, 20, True, [])
    assert plot.paths[0].joined == [(4, 10.0), (8, 25.0), (14, 40.0)]
    assert len(place(plot).lines[0]) == 3
    assert len(place(plot).families[0][1]) == 4
