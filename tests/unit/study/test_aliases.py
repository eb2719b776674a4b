"""Keys by their names in other tools: refused, with the name here and where it stands."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import yaml

from harness.errors import InputError
from harness.method.registry import methods
from harness.study.aliases import ENTRY, OTHER_NAMES
from harness.study.arms import expand_arms
from harness.study.config import Study
from harness.study.load import _block, load_study

GOOD = {"model": "tiny-random-llama", "seeds": [0], "streams": {"one": ["toy_recall"]}, "methods": {"lora": {}}}


def said(tmp_path, changes) -> str:
    """What a person reads of a study with these changes."""
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(GOOD | changes))
    with pytest.raises(InputError) as caught:
        expand_arms(load_study(file), methods(), str(file))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "place", "hint"),
    [
        ({"methods": {"lora": {"lr": 1e-3}}}, "methods.lora.lr", "did you mean 'learning_rate'? known: "),
        ({"methods": {"lora": {"r": 4}}}, "methods.lora.r", "that is `adapter: {rank: ...}`, here or for the whole"),
        ({"methods": {"lora": {"epochs": 3}}}, "methods.lora.epochs", "did you mean 'examples' (every task is seen"),
        ({"methods": {"lora": {"batch": 3}}}, "methods.lora.batch", "that is 'batch' under 'training:'"),
        ({"methods": {"lora": {"adapter": {"r": 3}}}}, "methods.lora.adapter.r", "did you mean 'rank'?"),
        ({"adapter": {"r": 4}}, ":adapter.r", "did you mean 'rank'? known keys: rank, alpha, targets"),
        ({"adapter": {"lora_alpha": 4}}, ":adapter.lora_alpha", "did you mean 'alpha'?"),
        ({"adapter": {"target_modules": []}}, ":adapter.target_modules", "did you mean 'targets'?"),
        ({"training": {"batch_size": 4}}, ":training.batch_size", "did you mean 'batch'?"),
        ({"training": {"bs": 4}}, ":training.bs", "did you mean 'batch'?"),
        ({"training": {"num_train_epochs": 4}}, ":training.num_train_epochs", "'examples' (every task is seen once"),
        ({"training": {"max_steps": 4}}, ":training.max_steps", "'examples' (a task's steps are examples / batch)"),
        ({"training": {"lr": 4}}, ":training.lr", "that is 'learning_rate' of a method, as in `methods: {lora: "),
        ({"training": {"limit": 4}}, ":training.limit", "that is 'items' under 'scoring:'"),
        ({"rank": 4}, ":rank", "that is 'rank' under 'adapter:'"),
        ({"lr": 4}, ":lr", "that is 'learning_rate' of a method"),
        ({"seed": 4}, ":seed", "did you mean 'seeds'?"),
        ({"arms": {}}, ":arms", "did you mean 'methods'?"),
        ({"tasks": []}, ":tasks", "did you mean 'streams'?"),
        ({"base_model": "x"}, ":base_model", "did you mean 'model'?"),
        ({"adapter": {"model": "x"}}, ":adapter.model", "known keys"),
        ({"qwertz": "x"}, ":qwertz", "-> known keys: "),
    ],
)  # fmt: skip
def test_a_name_of_elsewhere_is_told_ours(tmp_path, changes, place, hint):
    text = said(tmp_path, changes)
    assert f"{place}: unknown " in text
    assert hint in text


def test_our_names_are_keys_and_theirs_are_of_one_each():
    for path in OTHER_NAMES:
        block, _, name = path.rpartition(".")
        assert name in (_fields(block) if block else Study.model_fields), path
    names = [name for names in OTHER_NAMES.values() for name in names]
    assert len(names) == len(set(names))


def _fields(block: str) -> Iterable[str]:
    if block == ENTRY:
        return methods()["lora_ema"].settings.model_fields
    kind = _block(Study.model_fields[block].annotation)
    assert kind is not None, block
    return kind.model_fields
