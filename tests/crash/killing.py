"""A small study to kill, and what its results folder holds."""

from __future__ import annotations

from pathlib import Path

from commands import Command

STUDY = """
model: tiny-random-llama
dtype: float32
threads: 1
device: cpu
seeds: [0, 1]
streams:
  recall_digits: [toy_recall, toy_digits]
probes: [toy_text]
methods:
  lora: {learning_rate: 0.005}
  lora_ema: {learning_rate: 0.005}
  combined_on_policy: {learning_rate: 0.005}
training: {examples: 96, batch: 8}
scoring: {items: 32, curve: [32]}
"""


def finish(command: Command) -> str:
    assert command.finish() == 0, command.said
    return command.said


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "trials").glob("*.json")}
