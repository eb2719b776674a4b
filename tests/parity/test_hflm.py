"""The packed scorer against lm-eval's own HF model on the same adapters: the same numbers, the same texts."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from harness.engine.generate import cached_bytes, generate
from harness.errors import InputError
from harness.scoring.examples import right_answer
from harness.scoring.lm import PackedLM
from harness.scoring.lm_eval_task import Prompting, TaskData
from harness.scoring.scorer import Scorer
from harness.scoring.suite import Suite

TRIALS = 3  # as many as the fixture `world` has
LONG = 96  # tokens of context in the request tests; some items are longer


def close(ours: float, theirs: float) -> bool:
    return abs(ours - theirs) <= 1e-4 * max(1.0, abs(theirs) / 100)


def requests(kind: str, arguments: list[list[tuple]], task: str = "t") -> list[Instance]:
    """One document a list; its requests are numbered as lm-eval numbers them."""
    return [
        Instance(request_type=kind, doc={}, arguments=args, idx=idx, metadata=(task, doc, 1))  # type: ignore[arg-type]
        for doc, group in enumerate(arguments)
        for idx, args in enumerate(group)
    ]


def packed(world, tokenizer, instances, *, base: bool = False, budget: int = 2048, length: int = LONG) -> list[list]:
    """Our answers, one list a trial."""
    lm = PackedLM(world.model, tokenizer, max_length=length, batch_tokens=budget)
    values = (None, None) if base else (world.values, world.scaling)
    trials = 1 if base else TRIALS
    with world.model.adapted(world.layout, *values):
        lm.answer(instances, trials, lambda tokens: None)
    answers = []
    for lm.trial in range(trials):
        answers.append(getattr(lm, instances[0].request_type)(instances))
    return answers


WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "ran", "over", "hills", "in", "rain", "until", "night"]


def sentence(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


CHOICES = {
    "long answers": [[(sentence(d, 5), " " + sentence(10 * d + c, 3 + c)) for c in range(4)] for d in range(5)],
    "letters": [[(sentence(d, 3 + d) + "\nAnswer:", letter) for letter in "ABCD"] for d in range(6)],
    "shared prefixes": [
        [(sentence(d, 4), a) for a in (" red", " red apple", " red apple pie", " red", " blue", " re")]
        for d in range(4)
    ],
    "yes or no": [[(sentence(d, 2 + d) + "?", " yes"), (sentence(d, 2 + d) + "?", " no")] for d in range(6)],
    "empty context": [[("", " " + sentence(d, 2)), ("", "x"), ("", "<bos>xy")] for d in range(3)],
    "context ends in a space": [[("one two ", "three"), ("one two ", " four")]],
    "different contexts": [[(sentence(9, 3) + w, " it ran") for w in (" he", " she", " they")]],
    "text that begins with BOS": [[("<bos>the cat", " sat"), ("<bos>the cat", " ran")]],
    "not ASCII": [[("où est", f" {a}") for a in ("là", "naïve", "日本語", "🙂")]],
    "longer than the context": [
        [(sentence(d, 40), " " + sentence(10 * d + c, 1 + 3 * c)) for c in range(4)] for d in range(3)
    ],
    "just about the context": [
        [("c" * (LONG + extra - 4), a) for a in (" abc", " ab", " abcd")] for extra in (-2, -1, 0, 1, 2)
    ],
    "an answer that fills the context": [[("before", "a" * LONG), ("before", "b")]],
}


@pytest.mark.parametrize("name", CHOICES)
def test_log_likelihoods(world, hflm, tokenizer, name):
    instances = requests("loglikelihood", CHOICES[name])
    ours = packed(world, tokenizer, instances)
    for trial in range(TRIALS):
        theirs = hflm(tokenizer, trial, max_length=LONG).loglikelihood(instances, disable_tqdm=True)
        for (mine, greedy), (reference, reference_greedy), instance in zip(ours[trial], theirs, instances, strict=True):
            assert close(mine, reference), (trial, instance.args, mine, reference)
            assert greedy == reference_greedy, (trial, instance.args)


def test_the_adapters_matter(world, hflm, tokenizer):
    """Else every comparison here would compare the base with itself."""
    instances = requests("loglikelihood", CHOICES["long answers"])
    ours = np.array([[value for value, _ in trial] for trial in packed(world, tokenizer, instances)])
    base = np.array([value for value, _ in packed(world, tokenizer, instances, base=True)[0]])
    everyone = [base, *ours]
    for i, one in enumerate(everyone):
        for other in everyone[:i]:
            assert np.abs(one - other).min() > 1e-3


def test_a_greedy_answer_is_seen(world, hflm, tokenizer):
    """The flag is true where it should be: the continuation is what the model of one trial says by itself."""
    seen = 0
    for trial in range(TRIALS):
        model = hflm(tokenizer, trial, max_length=LONG).model
        for number in range(20):
            context = sentence(number, 4)
            with torch.no_grad():
                said = int(model(torch.tensor([tokenizer.encode(context)])).logits[0, -1].argmax())
            answer = tokenizer.decode(said)
            if tokenizer.encode(answer, add_special_tokens=False) != [said] or answer.isspace():
                continue  # half of a character; or a space, which lm-eval moves
            wrong = "~" if answer != "~" else "!"
            instances = requests("loglikelihood", [[(context, answer), (context, answer + "~~~"), (context, wrong)]])
            flags = [flag for _, flag in packed(world, tokenizer, instances)[trial]]
            assert flags[0] is True
            assert flags[2] is False
            seen += 1
    assert seen >= 3, "no trial said a character"


@pytest.mark.parametrize("base", [True, False])
def test_rolling(world, hflm, tokenizer, base):
    """Texts of less than, just, and several times the context; an empty one."""
    texts = ["", "a", sentence(1, 6), *("r" * n for n in (LONG - 2, LONG - 1, LONG, LONG + 1)), sentence(2, 100)]
    assert len(tokenizer.encode(texts[-1])) > 3 * LONG
    instances = requests("loglikelihood_rolling", [[(text,)] for text in texts])
    ours = packed(world, tokenizer, instances, base=base)
    for trial, answers in enumerate(ours):
        reference = hflm(tokenizer, None if base else trial, max_length=LONG)
        theirs = reference.loglikelihood_rolling(instances, disable_tqdm=True)
        assert all(close(mine, other) for mine, other in zip(answers, theirs, strict=True)), (answers, theirs)
        assert theirs[-1] < 3 * theirs[-2] < 0


def test_the_base_is_the_untouched_model(world, hflm, tokenizer):
    instances = requests("loglikelihood", [group for name in CHOICES for group in CHOICES[name]])
    (ours,) = packed(world, tokenizer, instances, base=True)
    theirs = hflm(tokenizer, None, max_length=LONG).loglikelihood(instances, disable_tqdm=True)
    assert all(close(a, b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    assert [flag for _, flag in ours] == [flag for _, flag in theirs]


def test_generation(world, hflm, tokenizer):
    """Several stop strings, none, an end of sequence in the middle, prompts that are too long, two limits of length."""
    most = 24
    prompts = [sentence(d, 1 + 5 * d) for d in range(6)]  # the last ones are longer than the context
    free = {"until": [], "max_gen_toks": most, "do_sample": False}
    reference = [hflm(tokenizer, k, max_length=LONG) for k in range(TRIALS)]
    free_requests = requests("generate_until", [[(prompt, free)] for prompt in prompts])
    texts = [lm.generate_until(free_requests, disable_tqdm=True) for lm in reference]
    lengths = {len(tokenizer.encode(text, add_special_tokens=False)) for trial in texts for text in trial}
    assert min(lengths) < most - 2, "no text ended early: the end of sequence is not tested"
    # stop strings that really come up: pieces of what is said
    pieces = [text[i : i + 2] for trial in texts for text in trial for i in (3, 9) if len(text) > 12]
    stops = [piece for piece in dict.fromkeys(pieces) if "\ufffd" not in piece][:3]
    assert len(stops) >= 2
    limited = {"until": stops, "max_gen_toks": most, "do_sample": False}
    short = {"until": ["\n", *stops[:1]], "max_gen_toks": 5, "do_sample": False}
    groups = [[(prompt, free), (prompt, limited), (prompt, short)] for prompt in prompts]
    instances = requests("generate_until", groups)
    theirs = [lm.generate_until(instances, disable_tqdm=True) for lm in reference]
    assert any(trial[0::3] != trial[1::3] for trial in theirs), "no stop string came up"
    for budget in (100_000, 300):
        assert packed(world, tokenizer, instances, budget=budget) == theirs


def test_what_a_token_leaves_in_the_cache(world):
    size = world.model.module.config
    heads = size.num_key_value_heads * (size.hidden_size // size.num_attention_heads)
    assert cached_bytes(world.model) == 2 * size.num_hidden_layers * heads * world.model.dtype.itemsize


def test_generation_behind_a_shared_beginning(world, hflm, tokenizer):
    """Few-shot prompts: what they share is read once, and rows that are done leave the batch one by one."""
    examples = sentence(77, 8) + "\n\n"
    limits = {"until": ["e"], "max_gen_toks": 20, "do_sample": False}
    prompts = [[(examples + sentence(d, 1 + d % 3), limits)] for d in range(9)]
    prompts.append([(examples + sentence(0, 1), limits)])  # the same question twice
    instances = requests("generate_until", prompts)
    ours = packed(world, tokenizer, instances, budget=100_000, length=200)
    for trial in range(TRIALS):
        assert ours[trial] == hflm(tokenizer, trial, max_length=200).generate_until(instances, disable_tqdm=True)
    assert len({len(text) for trial in ours for text in trial}) > 4, "all rows end at once: leaving is not tested"


def test_a_model_may_name_several_ends(world, tokenizer, monkeypatch):
    """Instruction-tuned models end a turn and a text with different tokens; their generation settings list both."""
    limits = {"until": [], "max_gen_toks": 24, "do_sample": False}
    texts = [sentence(d, 3) for d in range(8)]
    with world.model.adapted(world.layout, world.values[:1], world.scaling[:1]):
        prompts = [tokenizer.encode(text) for text in texts]
        (said,), _ = generate(world.model, [prompts], 24, lambda _, rows: [False] * len(rows))
    inner = [token for tokens in said for token in tokens[3:8] if token != 257]
    ends = [257, max(set(inner), key=inner.count)]
    monkeypatch.setattr(world.model.module.generation_config, "eos_token_id", ends)
    ours = packed(world, tokenizer, requests("generate_until", [[(text, limits)] for text in texts]))[0]
    cut = [tokens[: next((i for i, token in enumerate(tokens) if token in ends), 24)] for tokens in said]
    assert ours == [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in cut]
    assert any(len(tokens) < 24 and said[i][len(tokens)] == ends[1] for i, tokens in enumerate(cut))


@pytest.mark.parametrize("by_request", [False, True], ids=["of the model", "of the request"])
def test_a_repetition_penalty(world, hflm, tokenizer, monkeypatch, by_request):
    """Instruction-tuned models may bring one along, as Qwen2.5's do; the prompt's tokens count as well."""
    limits = {"until": ["e"], "max_gen_toks": 20, "do_sample": False}
    own = limits | ({"repetition_penalty": 1.3} if by_request else {})
    texts = [sentence(d, 1 + d) for d in range(12)]
    plain = packed(world, tokenizer, requests("generate_until", [[(text, limits)] for text in texts]), length=200)
    instances = requests("generate_until", [[(text, own)] for text in texts])
    if not by_request:
        monkeypatch.setattr(world.model.module.generation_config, "repetition_penalty", 1.3)
    theirs = []
    for trial in range(TRIALS):
        reference = hflm(tokenizer, trial, max_length=200)
        if not by_request:
            monkeypatch.setattr(reference.model.generation_config, "repetition_penalty", 1.3)
        theirs.append(reference.generate_until(instances, disable_tqdm=True))
    assert theirs != plain
    assert len({len(text) for trial in theirs for text in trial}) > 4, "all rows end at once: leaving is not tested"
    for budget in (100_000, 300):
        assert packed(world, tokenizer, instances, length=200, budget=budget) == theirs


def test_documents_share_a_row(world, hflm, tokenizer):
    """Questions behind the same examples, in one row of several documents."""
    examples = sentence(5, 10) + "\n\n"
    instances = requests(
        "loglikelihood",
        [[(examples + sentence(d, 3), " " + sentence(50 * d + c, 2)) for c in range(3)] for d in range(7)],
    )
    lm = PackedLM(world.model, tokenizer, max_length=200, batch_tokens=2048)
    assert 3 * lm.token_count(instances) < sum(len(lm.tok_encode("".join(i.args))) for i in instances)
    ours = packed(world, tokenizer, instances, length=200)
    for trial in range(TRIALS):
        theirs = hflm(tokenizer, trial, max_length=200).loglikelihood(instances, disable_tqdm=True)
        assert all(close(a, b) for (a, _), (b, _) in zip(ours[trial], theirs, strict=True))
        assert [flag for _, flag in ours[trial]] == [flag for _, flag in theirs]


def test_items_that_lose_their_beginning_are_counted(world, tokenizer):
    lm = PackedLM(world.model, tokenizer, max_length=LONG, batch_tokens=2048)
    prefix = len(lm.tok_encode(""))  # a BOS, or none
    room = LONG + 1 - prefix
    texts = [("c" * (room - 3), "abc"), ("c" * (room - 2), "abc"), ("c" * (room - 3), "abcd"), ("c", "d")]
    scored = requests("loglikelihood", [[pair, ("c", "x")] for pair in texts])
    assert lm.truncated(scored) == 2
    limits = {"until": [], "max_gen_toks": 6, "do_sample": False}
    spoken = requests("generate_until", [[("c" * (LONG - 6 - prefix + extra), limits)] for extra in (0, 1)], task="g")
    assert lm.truncated(spoken) == 1
    assert lm.truncated(requests("loglikelihood_rolling", [[("r" * 500,)]], task="r")) == 0


def test_generation_that_is_not_greedy_is_refused(world, tokenizer):
    for settings in ({"do_sample": True, "temperature": 0.7, "max_gen_toks": 4}, {"max_gen_toks": LONG}):
        instances = requests("generate_until", [[("a", {"until": ["x"], **settings})]])
        with pytest.raises(InputError, match=r"sampling|max_gen_toks"):
            packed(world, tokenizer, instances)


def test_decoding_that_is_not_plain_is_refused(world, tokenizer, monkeypatch):
    limits = {"until": ["x"], "max_gen_toks": 4}
    with pytest.raises(InputError) as error:
        packed(world, tokenizer, requests("generate_until", [[("a", limits | {"num_beams": 3})]], task="g"))
    assert error.value.where == "g:generation_kwargs.num_beams"
    packed(world, tokenizer, requests("generate_until", [[("a", limits | {"num_beams": 1})]]))
    monkeypatch.setattr(world.model.module.generation_config, "no_repeat_ngram_size", 2)
    with pytest.raises(InputError) as error:
        packed(world, tokenizer, requests("generate_until", [[("a", limits)]]))
    assert error.value.where == "generation_config.json:no_repeat_ngram_size"


def test_an_answer_longer_than_the_context_is_refused(world, tokenizer):
    with pytest.raises(InputError, match="max_length"):
        packed(world, tokenizer, requests("loglikelihood", [[("a", "b" * (LONG + 1))]]))


def _family(name: str):
    """Tiny random models with what a Llama has not: sliding windows, biases, capped and scaled logits."""
    import transformers as tf

    size: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.2, "bos_token_id": 256,
        "eos_token_id": 257, "pad_token_id": 258,
    }  # fmt: skip
    return {
        "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**size, sliding_window=16)),
        "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**size)),
        "gemma3": lambda: tf.Gemma3ForCausalLM(
            tf.Gemma3TextConfig(**size, head_dim=8, sliding_window=16, query_pre_attn_scalar=8)
        ),
        "gemma2": lambda: tf.Gemma2ForCausalLM(
            tf.Gemma2Config(
                **size,
                head_dim=8,
                sliding_window=16,
                query_pre_attn_scalar=8,
                attn_logit_softcapping=4.0,
                final_logit_softcapping=3.0,
            )
        ),
        "granite": lambda: tf.GraniteForCausalLM(tf.GraniteConfig(**size, logits_scaling=3.0, residual_multiplier=0.5)),
    }[name]()


@pytest.mark.parametrize("name", ["mistral", "qwen2", "gemma2", "gemma3", "granite"])
def test_other_families(name, tmp_path, llama, other_world):
    from transformers import AutoTokenizer

    torch.manual_seed(3)
    tokenizer = AutoTokenizer.from_pretrained(llama)
    _family(name).save_pretrained(tmp_path / "model")
    other = other_world(tmp_path / "model", tmp_path / "adapters")
    short = [[("the cat", a) for a in (" a", " ab", " cd")] for _ in range(2)]  # branches, and shorter than the windows
    instances = requests("loglikelihood", [*short, *CHOICES["long answers"], *CHOICES["letters"]])
    ours = packed(other, tokenizer, instances)
    for trial in range(TRIALS):
        theirs = other.hf(tokenizer, trial, max_length=LONG).loglikelihood(instances, disable_tqdm=True)
        assert all(close(a, b) for (a, _), (b, _) in zip(ours[trial], theirs, strict=True))
        assert [flag for _, flag in ours[trial]] == [flag for _, flag in theirs]


# -- whole scores -----------------------------------------------------------------------------------------------------

METRICS = {
    "multiple_choice": [("acc", "mean", True), ("acc_norm", "mean", True)],
    "generate_until": [("exact_match", "mean", True)],
    "loglikelihood_rolling": [("bits_per_byte", "bits_per_byte", False)],
}


def _config(kind: str, **more: Any) -> dict[str, Any]:
    metrics = [dict(zip(("metric", "aggregation", "higher_is_better"), m, strict=True)) for m in METRICS[kind]]
    config = {"output_type": kind, "doc_to_text": "{{text}}", "doc_to_target": "label", "metric_list": metrics}
    return config | {"test_split": "test", "metadata": {"version": 1}} | more


@pytest.fixture(scope="module")
def data(world, hflm, tokenizer) -> list[TaskData]:
    """Four kinds of task; half of the generation answers are what trial 0 says."""
    rng = random.Random(11)
    four = [
        {"text": sentence(i, 4), "choices": [sentence(9 * i + c, 1 + c) for c in range(4)], "label": rng.randrange(4)}
        for i in range(24)
    ]
    letters = [{"text": sentence(i, 3) + "\nAnswer:", "label": rng.randrange(4)} for i in range(24)]
    prompts = [sentence(i, 2 + i % 3) for i in range(8)]
    limits = {"until": ["\n", "  "], "max_gen_toks": 6, "do_sample": False}
    said = hflm(tokenizer, 0, max_length=LONG).generate_until(
        requests("generate_until", [[(prompt, limits)] for prompt in prompts]), disable_tqdm=True
    )
    answers = [{"text": p, "label": said[i] if i % 2 else "never"} for i, p in enumerate(prompts)]
    texts = [{"text": sentence(i, 3 + 9 * i)} for i in range(5)]
    rows = {
        "four": (_config("multiple_choice", doc_to_choice="choices"), four, 0.25),
        "letters": (_config("multiple_choice", doc_to_choice=list("ABCD"), target_delimiter=" "), letters, 0.25),
        "say": (_config("generate_until", generation_kwargs=limits, target_delimiter=""), answers, 0.0),
        "read": (_config("loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}"), texts, None),
    }
    return [
        TaskData(name, config, {"test": found} if name == "read" else {"train": found, "test": found}, chance)
        for name, (config, found, chance) in rows.items()
    ]


def make_scorer(world, tokenizer, data, budget: int = 4096) -> Scorer:
    suite = Suite(data, split="test", items={})
    lm = PackedLM(world.model, tokenizer, max_length=LONG, batch_tokens=budget)
    return Scorer(world.model, suite, lm, world.layout)


@pytest.fixture(scope="module")
def scorer(world, tokenizer, data) -> Scorer:
    return make_scorer(world, tokenizer, data)


NAMES = ("four", "letters", "say", "read")


def reference_results(lm, data, *, shots: int = 0, chat: bool = False) -> tuple[dict, dict]:
    """lm-eval from end to end: its TaskManager, its HF model, its evaluate."""
    import datasets
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    tasks = {}
    for task in data:
        splits = {name: datasets.Dataset.from_list([dict(row) for row in rows]) for name, rows in task.splits.items()}
        config = {**task.config, "task": task.name, "custom_dataset": lambda splits=splits, **_: splits}
        tasks |= TaskManager(include_defaults=False).load([config])["tasks"]
    for task in tasks.values():  # as simple_evaluate does
        task.set_config("num_fewshot", shots)
        task.set_fewshot_seed(1234)
    results = evaluate(
        lm=lm, task_dict={"tasks": tasks}, bootstrap_iters=0, log_samples=True, apply_chat_template=chat,
        fewshot_as_multiturn=chat,
    )  # fmt: skip
    assert results is not None
    return results["results"], results["samples"]


def test_documents_judged_ahead_score_the_same(world, tokenizer, data, monkeypatch):
    plain, ahead = (make_scorer(world, tokenizer, data, budget=300) for _ in range(2))
    monkeypatch.setattr(plain, "_judge_ahead", None)
    wanted = plain.score(NAMES, world.values, world.scaling)
    assert not any(plain.suite.tasks[name].ahead for name in NAMES)
    asked = []
    for name in NAMES:
        outcomes = ahead.suite.tasks[name].outcomes
        if outcomes is not None:
            own = outcomes._judge
            outcomes._judge = lambda *given, own=own: (asked.append(given), own(*given))[1]
    assert ahead.score(NAMES, world.values, world.scaling) == wanted
    judged = [ahead.suite.tasks[name].ahead for name in ("four", "letters")]
    assert [[len(trials) for trials in items.values()] for items in judged] == [[TRIALS] * 24] * 2
    assert 2 * 24 < len(asked) < 2 * 24 * TRIALS, "trials answer some items alike, others not"
    asked.clear()
    assert ahead.score(NAMES, world.values, world.scaling) == wanted
    assert not asked, "all is known"
    four = ahead.suite.tasks["four"]
    four.judge_ahead = lambda numbers, *_: four.ahead.update({number: [{"acc": 1.0}] * TRIALS for number in numbers})
    assert [scores["four"].value for scores in ahead.score(["four"], world.values, world.scaling)] == [1.0] * TRIALS


def test_a_written_answer_is_judged_once(world, tokenizer, data, monkeypatch):
    """Not so by a function of the task's own, which may draw."""
    asked: list[tuple[int, str]] = []
    own = ConfigurableTask.process_results

    def judge(task, doc, results):
        asked.append((prompts.index(doc["text"]), *results))
        return own(task, doc, results)

    monkeypatch.setattr(ConfigurableTask, "process_results", judge)
    say = next(task for task in data if task.name == "say")
    prompts = [row["text"] for row in say.splits["test"]]
    scorer = make_scorer(world, tokenizer, [say])
    wanted = scorer.score(["say"], world.values, world.scaling)
    assert len(asked) == len(set(asked)) > len(prompts), "trials say some things alike, others not"
    asked.clear()
    assert scorer.score(["say"], world.values, world.scaling) == wanted
    assert not asked, "all is known"
    drawing = replace(say, config=say.config | {"process_results": lambda doc, results: {"exact_match": 1.0}})
    scorer = make_scorer(world, tokenizer, [drawing])
    for _ in range(2):
        scorer.score(["say"], world.values, world.scaling)
    assert len(asked) == 2 * TRIALS * len(prompts)


def test_scores_are_lm_evals(world, hflm, tokenizer, data, scorer):
    for trial, found in enumerate(scorer.score(NAMES, world.values, world.scaling)):
        results, samples = reference_results(hflm(tokenizer, trial, max_length=LONG), data)
        assert found is not None
        for name in NAMES:
            metric = METRICS[scorer.suite.tasks[name].kind][0][0]
            assert found[name].value == pytest.approx(results[name][f"{metric},none"], rel=1e-5, abs=0), (trial, name)
            if name == "read":
                assert found[name].correct is None
            else:
                reference = sorted(samples[name], key=lambda sample: sample["doc_id"])
                assert found[name].correct == tuple(bool(sample[metric]) for sample in reference)
    first, *_ = scorer.score(("say",), world.values, world.scaling)
    assert first is not None
    assert first["say"].value >= 0.5, "half of the answers are what this trial says"


TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}{% if not (loop.last and continue_final_message) %}</>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("sampler", ["default", "first_n"])
def test_few_shot_and_chat_prompts_are_lm_evals(world, llama, data, chat, sampler):
    """Same examples in the same order, same turns, same delimiter: the same scores, and training texts to match."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = TEMPLATE
    shots = {"four": 2, "letters": 3, "say": 2}
    described = [
        TaskData(t.name, {**t.config, "training_split": "train", "description": "Read well.\n",
                          "fewshot_config": {"sampler": sampler, "split": "train"}}, t.splits, t.chance)
        for t in data if t.name in shots
    ]  # fmt: skip
    lm = PackedLM(world.model, tokenizer, max_length=400, batch_tokens=4096)
    prompting = Prompting(shots, lm.apply_chat_template if chat else None)
    suite = Suite(described, split="test", items={}, prompting=prompting)
    found = Scorer(world.model, suite, lm, world.layout).score(list(shots), world.values, world.scaling)
    reference = world.hf(tokenizer, 1, max_length=400)
    for task in described:
        results, samples = reference_results(reference, [task], shots=shots[task.name], chat=chat)
        scored = suite.tasks[task.name]
        asked = [[list(map(str, arguments)) for arguments in sample["arguments"]] for sample in samples[task.name]]
        for instance in scored.task.instances:
            assert list(map(str, instance.args)) == asked[instance.doc_id][instance.idx]
        assert found[1][task.name].value == pytest.approx(results[task.name][f"{scored.metric},none"], rel=1e-5)
        ((context, answer), *_) = [
            right_answer(scored, prompting, row, "") for row in scored.task.training_docs().select(range(1))
        ]
        assert context.endswith("<assistant>" if chat else task.splits["train"][0]["text"])
        assert answer.startswith(" ") != (chat or task.name == "say")
    if chat:
        assert all(turn in asked[0][0][0] for turn in ("<user>", "</><assistant>"))


def test_examples_come_from_somewhere_else_than_the_test(data):
    """A task without other rows than the scored ones would give its answers away; one with too few is refused."""
    four = next(task for task in data if task.name == "four")
    alone = TaskData("four", four.config, {"test": four.splits["test"]}, 0.25)
    few = TaskData(
        "four", {**four.config, "training_split": "train"}, {**four.splits, "train": four.splits["train"][:2]}, 0.25
    )
    for task, text in ((alone, "no rows but those that are scored"), (few, "2 rows")):
        with pytest.raises(InputError, match=text):
            Suite([task], split="test", items={}, prompting=Prompting({"four": 3}))


def test_no_scored_row_of_the_validation_split_is_an_example(data):
    """A task without training rows takes its examples from validation; when that is scored there is nothing left."""
    four = next(task for task in data if task.name == "four")
    rows = four.splits["test"]
    config = {**four.config, "validation_split": "validation"}
    task = TaskData("four", config, {"validation": rows[:10], "test": rows[10:]}, 0.25)
    assert Suite([task], split="test", items={}, prompting=Prompting({"four": 3})).tasks["four"].items == len(rows) - 10
    with pytest.raises(InputError, match="no rows but those that are scored"):
        Suite([task], split="validation", items={}, prompting=Prompting({"four": 3}))


def test_examples_stand_before_questions_alone(data):
    read = next(task for task in data if task.name == "read")
    (instance, *_) = (
        Suite([read], split="test", items={}, prompting=Prompting({"read": 2})).tasks["read"].task.instances
    )
    assert instance.args == (read.splits["test"][0]["text"],)


def test_standard_errors(world, hflm, tokenizer, data, scorer):
    """lm-eval's own for accuracies; for bits per byte that of a bootstrap, roughly."""
    (found, *_) = scorer.score(NAMES, world.values, world.scaling)
    _, samples = reference_results(hflm(tokenizer, 0, max_length=LONG), data)
    for name in ("four", "letters", "say"):
        metric = scorer.suite.tasks[name].metric
        values = np.array([float(sample[metric]) for sample in samples[name]])
        assert found[name].stderr == pytest.approx(values.std(ddof=1) / math.sqrt(len(values)), rel=1e-9)
    pairs = np.array([sample["bits_per_byte"] for sample in samples["read"]])
    drawn = pairs[np.random.default_rng(0).integers(0, len(pairs), (4000, len(pairs)))].sum(1)
    assert found["read"].stderr == pytest.approx(np.std(drawn[:, 0] / drawn[:, 1]) / math.log(2), rel=0.5)


def test_packed_is_alone(world, scorer):
    together = scorer.score(NAMES, world.values, world.scaling)
    for trial in range(TRIALS):
        (alone,) = scorer.score(NAMES, world.values[trial : trial + 1], world.scaling[trial : trial + 1])
        assert {n: s.correct for n, s in alone.items()} == {n: s.correct for n, s in together[trial].items()}
        for name in NAMES:
            assert alone[name].value == pytest.approx(together[trial][name].value, rel=1e-6)


def test_a_score_does_not_stay(world, scorer):
    """Answers of one call don't leak into the next: another order of the trials, then the base."""
    first = scorer.score(NAMES, world.values, world.scaling)
    turned = scorer.score(NAMES, world.values.flip(0), world.scaling.flip(0))
    (base,) = scorer.score(NAMES, None, None)
    again = scorer.score(NAMES, world.values, world.scaling)
    assert [{n: s.correct for n, s in t.items()} for t in turned[::-1]] == [
        {n: s.correct for n, s in t.items()} for t in first
    ]
    assert again == first
    assert base["read"].value not in {trial["read"].value for trial in first}


def test_the_budget_of_a_batch_changes_no_prediction(world, tokenizer, data):
    found = [
        make_scorer(world, tokenizer, data, budget).score(NAMES, world.values, world.scaling)
        for budget in (64, 700, 1_000_000)
    ]
    for other in found[1:]:
        for trial in range(TRIALS):
            for name in NAMES:
                assert other[trial][name].correct == found[0][trial][name].correct
                assert other[trial][name].value == pytest.approx(found[0][trial][name].value, rel=1e-6)


def test_the_base_scores_like_the_untouched_model(world, hflm, tokenizer, data, scorer):
    (found,) = scorer.score(NAMES, None, None)
    results, _ = reference_results(hflm(tokenizer, None, max_length=LONG), data)
    for name in NAMES:
        metric = METRICS[scorer.suite.tasks[name].kind][0][0]
        assert found[name].value == pytest.approx(results[name][f"{metric},none"], rel=1e-5, abs=0)


@pytest.mark.parametrize("training", [True, False])
def test_scoring_leaves_no_trace(world, scorer, training):
    """Random states, train or eval mode, weights and adapters in place are as before."""
    world.model.module.train(training)
    try:
        digest = world.model.digest()
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        scorer.score(NAMES, world.values, world.scaling)
        assert random.getstate() == states[0]
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
        assert torch.equal(torch.get_rng_state(), states[2])
        assert world.model.module.training is training
        assert world.model.digest() == digest
        assert all(world.model.module.get_submodule(slot.module).change is None for slot in world.model.slots)
    finally:
        world.model.module.eval()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_broken_adapter_is_one_trials_own(world, scorer, poison):
    values = world.values.clone()
    values[1] = poison
    whole = scorer.score(NAMES, world.values, world.scaling)
    found = scorer.score(NAMES, values, world.scaling)
    assert found[1] is None
    assert [found[0], found[2]] == [whole[0], whole[2]]
    assert all(math.isfinite(score.value) for trial in (found[0], found[2]) for score in trial.values())


@pytest.mark.parametrize("name", ["four", "letters", "read"])
def test_a_broken_adapter_has_no_score_on_any_task(world, scorer, name):
    values = torch.full_like(world.values[:1], float("nan"))
    assert scorer.score((name,), values, world.scaling[:1]) == [None]


def test_a_broken_adapter_has_no_score_on_generation(world, scorer):
    values = torch.full_like(world.values[:1], float("nan"))
    assert scorer.score(("say",), values, world.scaling[:1]) == [None]


def test_training_examples_say_what_the_test_asks(scorer, data):
    """Train and test rows are the same here, so example and request can be laid side by side."""
    lm, end = scorer.lm, scorer.lm.eot_token_id
    for task in data:
        if task.name == "read":
            continue
        scored = scorer.suite.tasks[task.name]
        delimiter = task.config.get("target_delimiter", " ")
        examples = scorer.suite.training_examples(task.name, lm.encoder)
        together = scorer.suite.training_examples(task.name, lm.encoder).choose(range(len(examples)))
        assert [each.ids.tolist() for each in together] == [each.ids.tolist() for each in examples]
        assert len(examples) == len(task.splits["train"])
        for number, (example, row) in enumerate(zip(examples, task.splits["train"], strict=True)):
            asked = [instance for instance in scored.task.instances if instance.doc_id == number]
            context = asked[0].args[0]
            if scored.kind == "multiple_choice":
                context, answer = asked[row["label"]].args
                expected, extra = lm._encode_pair(context, answer), []
            else:
                expected, extra = lm._encode_pair(context, delimiter + row["label"]), [end]
            ids = example.ids.tolist()
            assert ids[: example.answer_start] == list(expected[0])
            assert ids[example.answer_start :] == [*expected[1], *extra]
            assert context.startswith(row["text"])


def test_a_probe_has_no_training_examples(scorer):
    with pytest.raises(InputError, match="no training split"):
        scorer.suite.training_examples("read", scorer.lm.encoder)


def test_a_label_out_of_range_is_refused(world, tokenizer, data):
    (four,) = (task for task in data if task.name == "four")
    rows = [{**four.splits["train"][0], "label": 4}]
    suite = Suite(
        [TaskData("four", four.config, {"train": rows, "test": four.splits["test"]}, 0.25)], split="test", items={}
    )
    lm = PackedLM(world.model, tokenizer, max_length=LONG, batch_tokens=512)
    with pytest.raises(InputError, match="not one of the 4 choices"):
        suite.training_examples("four", lm.encoder)[0]


def test_items_limit_what_is_asked(data):
    suite = Suite(data, split="test", items={"four": 5})
    assert suite.tasks["four"].items == 5
    assert {instance.doc_id for instance in suite.tasks["four"].task.instances} == set(range(5))
    with pytest.raises(InputError, match="no rows in its validation split"):
        Suite(data, split="validation", items={})
