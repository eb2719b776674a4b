"""Tasks with rows from the hub, on made-up rows with the real columns: documents, splits, what lm-eval asks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations, count, islice

import hub_copies
import pytest
from hub_rows import ROWS

from harness.data import paths, tasks
from harness.data.sources import hub_data
from harness.data.tasks.lm_eval import index as lm_eval_index
from harness.data.tasks.own import documents as prepared_by
from harness.data.tasks.own import rendering, splits
from harness.scoring.encoding import Encoder
from harness.scoring.lm_eval_task import TaskData
from harness.scoring.suite import Suite
from harness.store.published import read_published
from harness.study.load import load_study

NAMES = sorted(ROWS)
LONGEST = 4000  # characters, some 1000 tokens


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    """The rows are the hub's, whatever the person who runs this has named."""
    monkeypatch.delenv("LORABENCH_CL_BENCHMARK", raising=False)


@pytest.fixture
def documents(monkeypatch) -> Callable[..., list[dict]]:
    """``documents(name)``: what a task's prepare.py makes of 2,500 rows a split, or of those that are given."""

    def run(name: str, *rows: dict) -> list[dict]:
        task = tasks.load_task(name)
        numbers = count()

        class Source:
            def __init__(self, task: tasks.Task) -> None:
                assert task.hub

            def split(self, name: str) -> Iterator[dict]:
                assert name in task.hub.splits
                return iter(rows) if rows else (ROWS[task.name](i) for i in islice(numbers, 2500))

        monkeypatch.setattr(prepared_by, "Source", Source)
        return list(prepared_by.documents(task))

    return run


def _small(name: str) -> tasks.Task:
    return replace(tasks.load_task(name), splits={"train": 8, "validation": 2, "test": 4})


def test_every_hub_task_has_rows_here():
    assert [name for name in tasks.task_names() if tasks.load_task(name).hub] == NAMES
    assert all(name.startswith(("scl_", "siqa", "trace_")) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_documents_pass_the_checks_of_splits(documents, name):
    task = _small(name)
    found = documents(name)
    drawn = splits.draw(task, found)
    splits.check(task, drawn)
    json.dumps(found)
    for doc in found:
        text = rendering.question(task, doc)
        assert 0 < len(text) <= LONGEST
        assert text == text.strip()
        if task.kind == "generate_until":
            assert "\n" not in rendering.target(task, doc)
    if task.kind == "multiple_choice":
        labels = {rendering.target(task, doc) for doc in found}
        assert len(labels) == max(len(rendering.choices(task, doc)) for doc in found) or name == "trace_scienceqa"


@pytest.mark.parametrize("name", NAMES)
def test_lm_eval_asks_and_counts_the_same(documents, name):
    task = _small(name)
    drawn = splits.draw(task, documents(name))
    suite = Suite([TaskData(name, task.config, drawn, task.chance)], split="test", items={})
    scored = suite.tasks[name]
    assert scored.items == 4
    for doc in drawn["test"]:
        assert scored.task.doc_to_text(doc) == rendering.question(task, doc)
        assert scored.task.doc_to_target(doc) == rendering.target(task, doc)
        if task.kind == "multiple_choice":
            assert scored.task.doc_to_choice(doc) == rendering.choices(task, doc)
            continue
        right = scored.task.process_results(doc, [rendering.target(task, doc)])
        assert right == {scored.metric: pytest.approx(1.0)}
        assert scored.task.process_results(doc, ["?"])[scored.metric] < 0.8
    texts: list[tuple[str, str]] = []

    def encode(prompt: str, answer: str) -> tuple[list[int], list[int]]:
        texts.append((prompt, answer))
        return [1], [2]

    assert len(list(suite.training_examples(name, Encoder(encode, None)))) == 8
    for doc, (prompt, answer) in zip(drawn["train"], texts, strict=True):
        assert prompt == rendering.question(task, doc)
        assert answer == " " + rendering.answer_text(task, doc)


@pytest.mark.parametrize(
    ("name", "prompt", "answer"),
    [
        ("scl_copa", "Man 3 fell.\nWhat was the effect?", "He saw 3 birds."),
        ("scl_mnli", "It is 3 .\nHypothesis: Is it 3?\nRelation:", "entailment"),
        ("scl_wic", 'The bank of river 3.\nA bank with 3 coins.\nDoes "bank" have the same meaning in both?', "yes"),
        ("trace_fomc", "What is the monetary policy stance for the following text?\nText: Rates rose by 3 points.\n"
                       "Stance:", "dovish"),
        ("trace_numglue_cm", "Solve the following math problem.\nQuestion:\nWhat is 3 and 1?\nAnswer:", "3"),
        ("trace_scienceqa", "Context: See the map.\nQuestion: What is 3?\nChoices: stone 3 / water / air\nAnswer:",
                            "water"),
    ],
)  # fmt: skip
def test_a_row_as_it_is_asked(documents, name, prompt, answer):
    task = tasks.load_task(name)
    doc = documents(name, ROWS[name](3))[0]
    assert rendering.question(task, doc) == prompt
    assert rendering.answer_text(task, doc) == answer


@pytest.mark.parametrize(("answer", "label"), [("A", 0), ("C", 2), ("支持", 0), ("反对。", 1)])
def test_stances_are_letters_or_words(documents, answer, label):
    row = {"prompt": "判断。\n文本：\n好\n态度：", "answer": answer}
    assert documents("trace_c_stance", row) == [{"text": "文本：\n好\n态度：", "label": label}]


def test_placeholders_of_code_become_their_values(documents):
    row = {"id": 0, "input": "<s> x = <NUM_LIT> <EOL> y = <STR_LIT:a b> <EOL>", "gt": "z = <CHAR_LIT> + <NUM_LIT:7>"}
    assert documents("trace_py150", row) == [{"code": "<s> x = 0 <EOL> y = a b <EOL>", "answer": "z = + 7"}]


@pytest.mark.parametrize("name", ["scl_qqp", "scl_boolq"])
def test_lopsided_sources_are_balanced(documents, name):
    labels = Counter(doc["label"] for doc in documents(name))
    assert labels[0] == labels[1] > 0


def test_a_paragraph_has_ten_questions_at_most_in_one_split(documents):
    task = _small("scl_multirc")
    found = documents("scl_multirc")
    assert set(Counter(doc["paragraph"] for doc in found).values()) == {10}
    drawn = splits.draw(task, found)
    seen = [{doc["paragraph"] for doc in docs} for docs in drawn.values()]
    assert not any(one & other for one, other in combinations(seen, 2))


# -- from copies on this machine --------------------------------------------------------------------------------------

COPIED = {
    "scl_cb": {"train": 250, "validation": 60},
    "scl_copa": {"train": 400, "validation": 100},
    "scl_mnli": {"train": 40 * 1700},
    "trace_numglue_cm": {"NumGLUE_cm": 300},
    "trace_20minuten": {"20Minuten": 1200},
    "trace_fomc": {"train": 1984, "test": 496},
    "siqa": {"train": 33_410},
}


@pytest.mark.parametrize("name", sorted(COPIED))
def test_a_copy_of_the_data_set_is_prepared(name, tmp_path, monkeypatch):
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LORABENCH_DATASETS", str(tmp_path / "mirror"))
    monkeypatch.setattr(paths, "lock_file", lambda: tmp_path / "lock.json")
    data: hub_data.HubData = tasks.load_task(name).hub
    numbers = count()
    rows = {split: [ROWS[name](i) for i in islice(numbers, size)] for split, size in COPIED[name].items()}
    hub_copies.copy(tmp_path / "mirror", data.repo, data.config or "default", rows)
    prepared = tasks.prepare_task(name)
    assert {split: len(tasks.read_split(prepared, split)) for split in tasks.SPLITS} == tasks.load_task(name).splits
    assert tasks.task_ready(name)
    assert tasks.prepare_task(name).digest == prepared.digest


# -- the studies of these tasks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("study", "number"), [("standard_cl", 4), ("standard_cl_long", 15), ("trace", 8)])
def test_the_studies_fit_their_tasks(study, number):
    found = load_study(paths.studies_dir() / f"{study}.yaml")
    assert found.published == study
    for stream in found.streams.values():
        assert len(stream) == number
        assert set(stream) == set(found.tasks)
    smallest = min(tasks.load_task(name).splits["train"] for name in found.tasks)
    assert found.training.examples <= smallest


#: The published orders (cmnfriend/O-LoRA: 1 to 3 of four tasks, 4 to 6 of fifteen; TRACE, arXiv 2310.06762).
PUBLISHED = """
1 dbpedia amazon yahoo ag_news
2 dbpedia amazon ag_news yahoo
3 yahoo amazon ag_news dbpedia
4 mnli cb wic copa qqp boolq rte imdb yelp amazon sst2 dbpedia ag_news multirc yahoo
5 multirc boolq wic mnli cb copa qqp rte imdb sst2 dbpedia ag_news yelp amazon yahoo
6 yelp amazon mnli cb copa qqp rte imdb sst2 dbpedia ag_news yahoo multirc boolq wic
"""


def test_the_orders_are_the_published_ones():
    found = [load_study(paths.studies_dir() / f"{study}.yaml").streams for study in ("standard_cl", "standard_cl_long")]
    wanted = {}
    for line in PUBLISHED.strip().splitlines():
        number, *names = line.split()
        wanted[f"order{number}"] = tuple(f"scl_{name}" for name in names)
    assert found[0] | found[1] == wanted
    without = {name: tuple(task for task in tasks if task != "scl_yahoo") for name, tasks in wanted.items()}
    short, long = (load_study(paths.studies_dir() / f"standard_cl{n}.yaml").streams for n in (3, 14))
    assert long == {name: without[name] for name in ("order4", "order5", "order6")}
    assert without["order1"] == without["order2"], "so standard_cl3 has one of them"
    assert short == {name: without[name] for name in ("order1", "order3")}
    (trace,) = load_study(paths.studies_dir() / "trace.yaml").streams.values()
    names = ["c_stance", "fomc", "meetingbank", "py150", "scienceqa", "numglue_cm", "numglue_ds", "20minuten"]
    assert trace == tuple(f"trace_{name}" for name in names)


def test_their_probes_are_tasks_of_lm_evals(tmp_path, monkeypatch):
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path))
    lm_eval_index.write_index(("hellaswag", "arc", "winogrande", "piqa"))
    for study in ("standard_cl", "standard_cl_long", "trace"):
        found = load_study(paths.studies_dir() / f"{study}.yaml")
        assert {tasks.load_task(name).origin for name in found.probes} == {"lm-eval"}
        assert {tasks.load_task(name).kind for name in found.probes} == {"multiple_choice"}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("standard_cl14", "smollm2-135m-instruct"),
        ("standard_cl14_order4", "smollm2-135m-instruct"),
        ("standard_cl3", None),
    ],
)
def test_the_studies_of_the_benchmarks_files_need_no_hub(name, model, tmp_path, monkeypatch):
    monkeypatch.setenv("LORABENCH_CL_BENCHMARK", str(tmp_path))
    study = load_study(paths.studies_dir() / f"{name}.yaml")
    assert study.model == (model or study.model)
    assert all(tasks.load_task(task).files for task in study.tasks)
    assert not any(tasks.load_task(probe).hub for probe in study.probes)
    assert set(study.methods) == {
        "frozen", "multitask", "single_task", "lora", "stable_lora", "lora_ema", "self_distill", "combined", "o_lora",
        "lora_ewc", "lora_replay",
    }  # fmt: skip


def test_order_4_is_a_part_of_the_study_of_all_orders():
    whole, part = (
        load_study(paths.studies_dir() / f"{name}.yaml") for name in ("standard_cl14", "standard_cl14_order4")
    )
    assert part.streams == {"order4": whole.streams["order4"]}
    same = {"name": "", "title": "", "streams": {}}
    assert part.model_dump() | same == whole.model_dump() | same, "so that its trials are some of that study's"


# -- published numbers ------------------------------------------------------------------------------------------------


def _published(name: str) -> dict[tuple[str, str, str], tuple[float, float | None]]:
    rows = read_published(name, paths.published_dir(), "a study")
    found = {(row.method, row.model, row.protocol): (row.accuracy, row.bwt) for row in rows}
    assert len(found) == len(rows), "no row is there twice"
    return found


def test_the_published_numbers_are_those_of_their_sources():
    own, swept = (
        "mean of orders {}; each method's own settings",
        "mean of orders {}; learning rate swept for every method",
    )
    short, long, trace = map(_published, ("standard_cl", "standard_cl_long", "trace"))
    assert short["O-LoRA", "T5-large", own.format("1-3")] == (75.8, None)
    assert short["full fine-tuning", "T5-large", swept.format("1-3")] == (75.7, None)
    assert long["sequential LoRA", "T5-large", own.format("4-6")] == (1.6, None)
    llama = {method: score for (method, model, _), score in long.items() if model == "LLaMA-2-7B-chat"}
    assert llama["SLAO"] == (74.8, -3.5)
    assert llama["all tasks at once"] == (78.1, None)
    chat = {method: score for (method, model, _), score in trace.items() if model == "LLaMA-2-7B-chat"}
    assert chat["sequential LoRA"] == (12.7, -45.7)
    assert chat["replay"] == (55.5, 2.6)
    assert chat["each task alone"] == (57.6, None)
    alone = {(method, model): score for (method, model, _), (score, _) in _published("stable_lora_qa").items()}
    assert alone["Stable-LoRA", "Qwen2-0.5B"] == 64.01
    assert alone["LoRA (AdamW)", "Qwen2-0.5B"] == 61.94


def test_every_list_of_published_numbers_is_a_study_s():
    studies = [load_study(path) for path in paths.studies_dir().glob("*.yaml")]
    assert {path.stem for path in paths.published_dir().iterdir()} == {s.published for s in studies if s.published}
