"""Colours, markers and the layout of figures: nobody is taken for another, and no word lies on another."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from places import ROOT
from synthetic import QUICK, SIX, Folder, spec, trial

from harness.report import leaderboard
from harness.report.figures import palette, registry, style
from harness.report.figures.mitigation import LINES, PANELS, draw_mitigation
from harness.report.study import gather

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


@pytest.mark.parametrize("folder", [five, many, by_examples])
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
    assert min(text.get_fontsize() for *_, text in boxes) >= 4.5, name
    for said, box, _ in boxes:
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside, (name, said)
    touching = [
        (one, other) for (one, a, first), (other, b, second) in combinations(boxes, 2)
        if not (first.get_rotation() % 90 or second.get_rotation() % 90) and _overlap(a, b)
    ]  # fmt: skip
    assert not touching, (name, touching)
    return [text for *_, text in boxes]


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


def _overlap(one, other) -> bool:
    """By more than half a point, which descenders don't fill."""
    room = 0.5
    return (
        min(one.x1, other.x1) - max(one.x0, other.x0) > room
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 2 * room
    )
