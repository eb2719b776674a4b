"""The notebook of the docs, block by block, on the smoke study."""

from __future__ import annotations

import re
import shutil
from typing import Any

import pytest
from places import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_block_of_the_notebook_runs(local_run, cache, tmp_path, monkeypatch, in_process):
    import pandas as pd

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORABENCH_CACHE", str(cache))
    shutil.copytree(local_run, tmp_path / "results" / "smoke")
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```(python|console)\n(.*?)^```", (ROOT / "docs/notebook.md").read_text(), re.M | re.S)
    assert len(blocks) == 7
    for kind, block in blocks:
        if kind == "console":
            status, _, err = in_process(*block.split()[1:])
            assert status == 0, err
        else:
            exec(block, names)
    assert set(names["trials"]["status"]) == {"ok"}
    assert len(names["board"]) == names["trials"]["arm"].nunique()
    matrix = names["one"].pivot(index="after_task", columns="target", values="value")
    assert matrix.loc[2].mean() == pytest.approx(
        names["trials"].query("arm == 'lora' and seed == 0")["average_accuracy"].item()
    )
    assert isinstance(names["audited"], pd.DataFrame)
    for task in ("toy_recall", "toy_digits"):
        assert names["audited"].loc[1, f"{task}_score"] == matrix.loc[2, task]
