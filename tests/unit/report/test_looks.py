"""Colours, markers and the layout of figures: nobody is taken for another, and no word lies on another."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import QuadMesh
from matplotlib.text import Text
from places import ROOT
from synthetic import QUICK, SIX, Folder, spec, trial

from harness.report import leaderboard
from harness.report.figures import palette, registry, style
from harness.report.figures.heat_maps import heat_maps
from harness.report.figures.mitigation import LINES, PANELS, draw_mitigation
from harness.report.study import gather

pytestmark = pytest.mark.drawn

METHODS = sorted(path.stem for path in (ROOT / "baselines").glob("[a-z]*.py"))


def looks(*names: str) -> dict[str, palette.Look]:
    return palette.looks((name, name.partition("@")[0]) for name in names)


def test_known_methods_have_looks_of_their_own():
    assert set(palette.KNOWN) <= set(METHODS)
    assert len(set(palette.KNOWN.values())) == len(palette.KNOWN)


@given(st.sets(st.sampled_from([*METHODS, "mine", "lora@qv", "lora@reinit", "dora@x", "lora@rank2"])))
def test_an_arm_looks_the_same_whoever_is_beside_it(others):
    for name in ("lora", "mine", "lora@qv"):
        alone, among = looks(name)[name], looks(name, *others)[name]
        assert (among.color, among.marker) == (alone.color, alone.marker)


@given(st.lists(st.sampled_from(METHODS), min_size=1, max_size=60), st.sampled_from(["x", "rate=0.", "a=1,b="]))
def test_no_two_arms_share_colour_and_marker(methods, setting):
    drawn = looks(*methods, *(f"{method}@{setting}{i}" for i, method in enumerate(methods)))
    assert len({(look.color, look.marker) for look in drawn.values()}) == len(drawn)


def test_numbers_are_a_scale_in_their_order():
    drawn = looks("lora@rank16", "lora@rank2", "lora", "lora@rank128", "lora@rank4")
    assert list(drawn) == ["lora", "lora@rank2", "lora@rank4", "lora@rank16", "lora@rank128"]
    shades = [palette.luminance(tuple(int(look.color[i : i + 2], 16) / 255 for i in (1, 3, 5)))
              for name, look in drawn.items() if name != "lora"]  # fmt: skip
    assert shades == sorted(shades, reverse=True)
    assert shades[0] == pytest.approx(palette.LIGHT, abs=0.02)
    assert shades[-1] == pytest.approx(palette.DARK, abs=0.02)
    assert drawn["lora"].color == palette.KNOWN["lora"][0]


def test_a_method_stands_where_its_own_number_belongs():
    ranks = {"lora@rank16": 16, "lora@rank2": 2, "lora": 8, "lora@rank64": 64, "lora@rank4": 4}
    values = {name: {"rank": float(rank)} for name, rank in ranks.items()}
    drawn = palette.looks([(name, "lora") for name in (*ranks, "lora@qv")], values)
    scale = [name for name, look in drawn.items() if look.scale]
    assert scale == sorted(ranks, key=ranks.__getitem__)
    shades = [palette.luminance(palette._rgb(drawn[name].color)) for name in scale]
    assert shades == sorted(set(shades), reverse=True), "every one is darker than the last"
    assert (drawn["lora"].color, drawn["lora"].marker) == palette.KNOWN["lora"]
    untrue = values | {"lora@rank16": {"rank": 8.0}}
    assert not palette.looks([(name, "lora") for name in ranks], untrue)["lora"].scale, (
        "a name that says something else"
    )


def test_the_scale_of_the_reference_comes_first():
    ranks = {"lora@rank16": 16, "lora": 8, "lora@rank4": 4}
    records = [trial("frozen", QUICK, seed=seed) for seed in range(3)]
    for name, rank in {"combined": 8, **ranks}.items():
        method, _, setting = name.partition("@")
        named = {"setting": setting} if setting else {}
        for seed in range(3):
            seen = spec(method, QUICK, seed=seed, training={"adapter": {"rank": rank}}, **named)
            records.append(trial(name, QUICK, seed=seed, spec=seen))
    study = gather(Folder(records))
    order = list(registry.drawn_looks(study, leaderboard.rows(study)))
    assert order == ["lora@rank4", "lora", "lora@rank16", "combined", "frozen"]


def five() -> Folder:
    """Three trials an arm, every intruder counted; a long name, and a control."""
    arms = ("frozen", "lora", "combined", "self_distill@teacher=snapshot,demonstration=1", "stable_lora@shrink=0.0005")
    return Folder([trial(arm, QUICK, seed=seed, intruders="all") for arm in arms for seed in range(3)])


def many() -> Folder:
    """Some 15 arms in two orders: controls, a scale, settings, long names."""
    settings = ("lora@rank2", "lora@rank16", "lora@rank128", "self_distill@teacher=snapshot,demonstration=1")
    arms = dict.fromkeys(("frozen", "multitask", "full_finetune", *METHODS[:10], *settings))
    orders = {"a": SIX[:4], "b": SIX[3::-1]}
    return Folder(
        [trial(arm, stream, order=order, intruders="all") for arm in arms for order, stream in orders.items()]
    )


def by_examples() -> Folder:
    """Arms with other numbers of examples, and a base model far below them."""
    records = [trial("frozen", QUICK)]
    for n in (16, 64):
        given = {"examples": n, "adapter": {"rank": 8}}
        seen = spec("lora", QUICK, setting=f"examples={n}", training=given)
        records.append(trial("lora", QUICK, spec=seen, fingerprint=str(n)))
    return Folder(records)


def eight_long_names() -> Folder:
    """Panels whose columns end in other rows, tasks with long names, and controls below."""
    tasks = ("a_task_with_a_rather_long_name", "another_of_them", *QUICK)
    arms = ("lora", *(f"lora@rank{n}" for n in (2, 4, 16, 32, 64)), "frozen")
    return Folder([trial(arm, tasks, intruders="all") for arm in arms])


def test_the_lowest_panel_of_every_column_names_its_tasks():
    for count in (3, 6, 11):
        names = {f"lora@rank{n}": np.full((7, 6), 0.5) for n in range(count)}
        tasks = ["heart_disease", "bbc_topics", "tomi", "connect4", "language_id", "date_words"]
        blocks = [[*names.items()][: count - 1], [*names.items()][count - 1 :]]
        with style.context():
            (figure,) = heat_maps(blocks, tasks, looks(*names))
            figure.draw_without_rendering()
        columns: dict[float, list] = {}
        for axes in figure.axes[:-1]:
            if axes.get_visible():
                columns.setdefault(round(axes.get_position().x0, 4), []).append(axes)
        gaps = np.diff(sorted(columns))
        assert np.ptp(gaps) < 2e-3 if len(gaps) else True, "columns lie evenly"
        for panels in columns.values():
            *upper, lowest = sorted(panels, key=lambda axes: -axes.get_position().y0)
            assert [label.get_text() for label in lowest.get_xticklabels()] == tasks
            assert not any(label.get_text() for axes in upper for label in axes.get_xticklabels())


@pytest.mark.parametrize("folder", [five, many, by_examples, eight_long_names])
def test_no_word_lies_on_another_or_off_the_figure(folder):
    study = gather(folder())
    styles = registry.drawn_looks(study, leaderboard.rows(study))
    drawn: set[str] = set()
    with style.context():
        for plot in registry.figures_of(study):
            for figure in plot.draw(study, styles)[0]:
                drawn |= {text.get_text().replace("\n", "") for text in legible(figure, plot.name)}
    assert {arm.name for arm in study.arms if arm.trains} <= drawn, "every arm has a name somewhere"


def test_a_mitigation_is_as_legible():
    points = [{"arm": arm, "kind": kind, "keep": keep, "quantity": name, "mean": 0.1 * keep}
              for arm in ("lora", "combined") for kind in LINES for keep in (0.0, 0.5) for name in PANELS]  # fmt: skip
    with style.context():
        legible(draw_mitigation(points, looks("lora", "combined")), "mitigation")


def legible(figure, name: str) -> list[Text]:
    """The words of a figure, after a look at each of their boxes."""
    assert figure.get_figwidth() <= style.PAGE + 1e-6, name
    assert figure.get_figheight() <= style.HIGH + 0.5, name
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent(), text) for text in shown(figure)]
    for said, _, text in boxes:
        assert text.get_fontsize() >= smallest(text, figure) - 1e-6, (name, said)
    for said, box, _ in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, (name, said)
    touching = [
        (one, other) for (one, a, first), (other, b, second) in combinations(boxes, 2)
        if a.overlaps(b) and _overlap(first, second)
    ]  # fmt: skip
    assert not touching, (name, touching)
    return [text for *_, text in boxes]


def smallest(text: Text, figure) -> float:
    """Points that a text must have at least.

    Names of axes are words of 8.  Legends hold most of the words of a figure and are half a point smaller; ticks, names
    of panels and notes, of which many stand side by side, are 7.  Numbers in the cells of a matrix are 6: three digits
    fill a cell where six tasks and four arms share a page.
    """
    axes = text.axes
    if axes is not None and text in axes.texts and any(isinstance(each, QuadMesh) for each in axes.collections):
        return 6.0
    if axes is not None and text in (axes.xaxis.label, axes.yaxis.label):
        return 8.0
    return 7.5 if any(text in legend.get_texts() for legend in figure.legends) else 7.0


def shown(figure) -> list[Text]:
    """The words of a figure; ticks beyond the ends of an axis are there, and not drawn."""
    hidden = set()
    for axes in figure.axes:
        for axis, ends in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(ends)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not axes.get_visible() or not low <= tick.get_loc() <= high:
                    hidden |= {id(tick.label1), id(tick.label2)}
        if not axes.get_visible():
            hidden |= {id(text) for text in axes.findobj(Text)}
    texts = figure.findobj(Text)
    return [text for text in texts if text.get_visible() and text.get_text().strip() and id(text) not in hidden]


def _overlap(one: Text, other: Text) -> bool:
    """By more than half a point along a line, and a point across, which descenders don't fill."""
    return all(
        min(first.max(), second.max()) - max(first.min(), second.min()) > room
        for text in (one, other)
        for direction, room in zip(_directions(text), (0.5, 1.0), strict=True)
        for first, second in [(_corners(one) @ direction, _corners(other) @ direction)]
    )


def _directions(text: Text) -> np.ndarray:
    """Along its lines and across them, as unit vectors."""
    turn = np.deg2rad(text.get_rotation())
    return np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def _corners(text: Text) -> np.ndarray:
    """[4, 2] of its box, turned as the text is: its size without the turn, about the middle that it has with it."""
    around, rotation = text.get_window_extent(), text.get_rotation()
    text.set_rotation(0)
    flat = text.get_window_extent()
    text.set_rotation(rotation)
    half = np.array([[x * flat.width, y * flat.height] for x in (-0.5, 0.5) for y in (-0.5, 0.5)])
    middle = (around.x0 + around.x1) / 2, (around.y0 + around.y1) / 2
    return np.array(middle) + half @ _directions(text)


def test_slanted_words_are_measured_by_their_own_boxes():
    with style.context():
        figure = style.new_figure(3, 3)
        one = figure.text(0.1, 0.1, "a slanted line of words", rotation=45)
        beside = figure.text(0.1, 0.2, "a slanted line of words", rotation=45)
        across = figure.text(0.2, 0.3, "a level line")
        figure.draw_without_rendering()
    assert one.get_window_extent().overlaps(beside.get_window_extent())
    assert not _overlap(one, beside)
    assert _overlap(across, one) or _overlap(across, beside)
