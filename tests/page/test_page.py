"""The page in a browser: sorting, filtering, the step slider, dark mode, a phone, print, no script, axe."""

from __future__ import annotations

import csv
import re

import pytest
from page_study import ARMS, ODD, ORDERS

PHONE = {"width": 390, "height": 844}
WIDE = {"width": 1400, "height": 900}


def names(page) -> list[str]:
    return page.locator("#board tbody tr:not([hidden]) .name").all_text_contents()


def contestants(page) -> list[str]:
    """Names of the board's first part; the controls stand below, under a heading of their own."""
    return page.locator("#board tbody:first-of-type tr:not([hidden]) .name").all_text_contents()


def column(page, heading: str) -> list[float]:
    """The numbers of a column of the board's contestants, in the order that is shown; a dash is left out."""
    at = page.locator("#board thead th", has_text=heading).first.evaluate("cell => cell.cellIndex")
    texts = page.locator(f"#board tbody:first-of-type tr:not([hidden]) > :nth-child({at + 1})").all_text_contents()
    return [float(text.replace("−", "-").split()[0]) for text in texts if text.strip() != "–"]


def heading(page, text: str):
    return page.locator("#board thead").get_by_role("button", name=text, exact=True)


def test_the_board_sorts_by_any_column_with_mouse_and_keyboard(open_page):
    page = open_page()
    assert names(page)[0] == "combined"
    sort = heading(page, "Forgetting, points")
    sort.click()
    up = column(page, "Forgetting, points")
    assert up == sorted(up)
    assert page.locator("#board [aria-sort=ascending]").inner_text().startswith("Forgetting")
    sort.focus()
    page.keyboard.press("Enter")
    assert column(page, "Forgetting, points") == sorted(up, reverse=True)
    assert page.locator("#board [aria-sort]").count() == 1
    heading(page, "Method").click()
    assert names(page)[-1] == "frozen", "a control stays below, however the board is sorted"
    shown = contestants(page)
    assert shown == page.evaluate("names => [...names].sort((a, b) => a.localeCompare(b))", shown)


def test_the_board_asks_the_question_first_then_its_tests(open_page):
    page = open_page(viewport=WIDE)
    shown = page.locator("#board thead th:visible")
    assert [text.partition(",")[0] for text in shown.all_inner_texts()] == [
        "Method", "Average accuracy", "Difference to LoRA", "Forgetting", "Plain text Δ", "Learning accuracy",
        "Sample efficiency AUC", "Intruders", "Intruder distance", "Training tokens", "Trials",
    ]  # fmt: skip
    region = page.get_by_role("region", name="Leaderboard")
    assert region.evaluate("box => box.scrollWidth <= box.clientWidth"), "no column is off-screen"
    assert page.locator(".facts dd strong").first.inner_text() == "combined"
    page.get_by_label("tests and further columns").check()
    assert heading(page, "p (Holm)").is_visible()
    assert shown.count() > 18


def test_trials_are_filtered_by_words_and_by_choices(open_page):
    page = open_page()
    lines = page.locator("#trial-table tbody tr")
    assert page.locator("#trial-count").inner_text() == "trials 1–32 of 32"
    page.get_by_label("Filter trials").fill("lora ok")
    page.locator("#trial-filters").get_by_label("Arm").select_option("lora_ema")
    page.locator("#trial-filters").get_by_label("Order").select_option("b")
    assert lines.count() == 3
    first = lines.first.locator("th, td").all_inner_texts()
    assert first[:3] == ["lora_ema", "b", "0"]
    assert first[4] == "ok"
    page.get_by_label("Filter trials").fill("no such trial")
    assert page.locator("#trial-count").inner_text() == "no trials"


def test_other_tables_sort_and_keep_fixed_rows_on_top(open_page):
    page = open_page()
    table = page.locator("table", has_text="Base model").first
    table.get_by_role("button", name=ORDERS["a"][0]).click()
    assert table.locator("tbody").first.locator("tr").first.inner_text().startswith("Metric")
    cells = table.locator("tbody").last.locator("td:nth-child(2)").all_inner_texts()
    values = [float(text.split()[0]) for text in cells]
    assert values == sorted(values)


def test_the_filter_narrows_board_and_matrices(open_page):
    page = open_page()
    assert page.locator("#count").inner_text() == "7 of 7 arms"
    page.get_by_label("Filter by name").fill("lora")
    assert set(names(page)) == {"lora", "stable_lora", "lora_ema"}
    assert page.locator("#count").inner_text() == "3 of 7 arms"
    assert page.locator("#matrix caption").count() == 3
    page.get_by_label("Filter by name").fill("no such arm")
    assert names(page) == []
    assert page.locator("#page").inner_text() == "no arms"
    page.get_by_label("Filter by name").fill("")
    page.get_by_label("ranked only").check()
    assert set(names(page)) == set(ARMS)


def test_the_slider_steps_through_the_stream(open_page):
    page = open_page()
    slider = page.get_by_label("After task")
    matrix = page.locator("#matrix table", has_text="lora_ema")
    assert page.locator("#stage").inner_text() == "3 of 3"
    assert matrix.locator("td").filter(has_text=re.compile(r"\d")).count() == 4 * 3
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#stage").inner_text() == "2 of 3"
    assert matrix.locator("td").filter(has_text=re.compile(r"\d")).count() == 3 * 3
    assert matrix.locator("tr.now th").inner_text() == "after 2"
    slider.fill("0")
    assert page.locator("#stage").inner_text() == "0 (base model)"
    page.locator("#order").select_option("b")
    slider.fill("1")
    assert page.locator("#stage").inner_text() == f"1 ({ORDERS['b'][0]}) of 3"
    assert matrix.locator("thead th").all_inner_texts() == list(ORDERS["b"])


def test_matrices_show_the_numbers_of_the_records(open_page, results):
    page = open_page()
    page.locator("#order").select_option("a")
    with (results / "study" / "figures" / "accuracy_matrix.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    of = ("arm", "order", "after_task")
    for arm in ARMS:
        last = [100 * float(row["mean"]) for row in rows if [row[key] for key in of] == [arm, "a", "3"]]
        caption = page.locator("caption", has_text=re.compile(rf"^{arm} learnt"))
        table = page.locator("#matrix table", has=caption)
        shown = [float(text) for text in table.locator("tbody tr").last.locator("td").all_inner_texts()]
        assert shown == pytest.approx(last, abs=0.0501)
        learnt = float(re.search(r"learnt so far: ([\d.]+) %", caption.inner_text())[1])
        assert learnt == pytest.approx(sum(last) / len(last), abs=0.0501), "of the scores, not of their rounded cells"


def test_dark_mode_is_dark(open_page):
    def brightness(page) -> int:
        color = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", color)[:3]))

    assert brightness(open_page(color_scheme="light")) > 600
    assert brightness(open_page(color_scheme="dark")) < 150


def test_a_phone_scrolls_sideways_only_inside_drawings(open_page):
    page = open_page(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wide = page.locator(".scroll:has(table.cards)").evaluate_all(
        "all => all.filter(one => one.scrollWidth > 390).length"
    )
    assert not wide, "tables fit: a row is a card"
    assert page.locator(".summary").bounding_box()["width"] > 300
    page.get_by_label("Sort by").select_option("Forgetting, points")
    assert column(page, "Forgetting, points") == sorted(column(page, "Forgetting, points"))


def test_print_shows_the_tables_without_controls(open_page):
    page = open_page()
    page.emulate_media(media="print")
    assert not page.locator("#filter").is_visible()
    assert page.locator("#board").is_visible()
    assert page.locator("#matrix table").first.is_visible()
    page.set_viewport_size({"width": 1046, "height": 700})  # of an A4 sheet on its side, within its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 1046
    assert len(page.pdf()) > 10_000


def test_without_scripts_everything_but_the_controls_is_there(open_page):
    page = open_page(java_script_enabled=False)
    assert not page.locator("#filter").is_visible()
    assert len(names(page)) == 7
    assert page.get_by_role("img", name="Accuracy matrix").is_visible()


def test_an_odd_name_is_text(open_page):
    page = open_page()
    assert ODD in names(page)
    page.get_by_label("Filter by name").fill("<script")
    assert names(page) == [ODD]
    assert page.locator("#matrix caption").inner_text().startswith(ODD)


def test_failures_open_with_the_keyboard(open_page):
    page = open_page()
    trace = page.get_by_text("FloatingPointError: <nan>")
    assert trace.is_visible(), "the first one is open"
    page.locator("details summary").first.focus()
    page.keyboard.press("Enter")
    assert not trace.is_visible()


@pytest.mark.parametrize("name", ["study/report.html", "index.html"])
@pytest.mark.parametrize("settings", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}], ids=["", "dark", "phone"])
def test_axe_finds_no_serious_violation(open_page, name, settings):
    from axe_playwright_python.sync_playwright import Axe

    # The page's policy lets no script in but its own; axe is one.
    found = Axe().run(open_page(name, bypass_csp=True, **settings)).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert not serious


def test_the_index_leads_to_the_report(open_page):
    page = open_page("index.html")
    page.get_by_role("link", name="study").click()
    assert page.locator("h1").inner_text() == "quick"
    page.go_back()
    page.get_by_role("button", name="Tie group").click()
    assert page.locator("table [aria-sort=ascending]").count() == 1
    page.get_by_role("button", name="Method").click()
    shown = page.locator("table tbody .name").all_text_contents()
    assert shown == page.evaluate("names => [...names].sort((a, b) => a.localeCompare(b))", shown)
