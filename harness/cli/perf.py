"""``lorabench perf``: a part of the bench, timed by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import model_option, names, numbers, out_option
from harness.cli.terminal import say

app = typer.Typer(
    help="Time a part of the bench by itself and write results/perf/<what>-<device>.json.", no_args_is_help=True
)
PerfFolder = Annotated[Path, out_option("Folder of the JSON file.")]
Small = Annotated[bool, typer.Option("--small", help="The edition of two CPU cores: tiny models, a minute each.")]
DEFAULT_MODEL = "smollm2-135m-instruct"
MOST_ROWS, MOST_RANK, MOST_ITEMS, MOST_PROCESSES = 65_536, 16_384, 1_000_000, 64


@app.command()
def train(
    sizes: Annotated[
        str, typer.Option("--sizes", help="Shapes with random weights, comma-separated; left out: this device's.")
    ] = "",
    model: Annotated[str | None, model_option("Another model: a catalogue name, a folder, or random:135m.")] = None,
    packs: Annotated[str, typer.Option("--packs", help="Rows of a pack, comma-separated; left out: by size.")] = "",
    processes: Annotated[
        str, typer.Option("--processes", help="Processes of HF's Trainer that share the device, comma-separated.")
    ] = "",
    peers: Annotated[bool, typer.Option(help="Time HF's Trainer with PEFT on the same examples.")] = True,
    small: Small = False,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The training engine, in tokens a second, against HF's Trainer with PEFT; parity first.  Exit 1 where one died."""
    from harness.perf.train import main, settings

    chosen = [f"random:{size}" for size in names(sizes)] + ([model] if model else [])
    rows = numbers(packs, "--packs", "1,16,32", MOST_ROWS) if packs else ()
    shared = numbers(processes, "--processes", "4,8", MOST_PROCESSES) if processes else ()
    _failed(main(settings(chosen, rows, shared, with_peers=peers, small=small), out))


@app.command()
def score(
    model: Annotated[str | None, model_option("Catalogue name or folder; left out: SmolLM2-135M; small: tiny.")] = None,
    trials: Annotated[
        str, typer.Option("--trials", help="Adapters side by side, comma-separated; left out: 1,15 with a GPU.")
    ] = "",
    documents: Annotated[
        int | None, typer.Option("--documents", min=10, max=MOST_ITEMS, help="Questions of 4 answers; 500, 200, or 20.")
    ] = None,
    exact_items: Annotated[
        int | None, typer.Option(min=1, max=MOST_ITEMS, help="Questions for the agreement in float32; 100, or 20.")
    ] = None,
    changed_items: Annotated[
        int | None, typer.Option(min=1, max=MOST_ITEMS, help="Questions for bfloat16 against float32; 5000, or 200.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", min=1, max=MOST_ROWS, help="Checkpoints each is timed on; 3, or 1.")
    ] = None,
    small: Small = False,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """Scoring a checkpoint, against lm-eval's HF model: agreement first, then seconds."""
    from harness.executors.hardware import has_gpu
    from harness.perf.score import ON_CPU, ON_GPU, SMALL, main

    edition, default = (SMALL, "tiny-random-llama") if small else (ON_GPU if has_gpu() else ON_CPU, DEFAULT_MODEL)
    asked = {
        "trials": numbers(trials, "--trials", "1,15", MOST_ROWS) if trials else None,
        "documents": documents, "exact_items": exact_items, "changed_items": changed_items, "repeats": repeats,
    }  # fmt: skip
    main(model or default, replace(edition, **{key: value for key, value in asked.items() if value is not None}), out)


@app.command()
def intruders(
    model: Annotated[
        str, model_option("Catalogue name, folder, or random:135m (made-up matrices).")
    ] = "smollm2-135m-instruct",
    trials: Annotated[int, typer.Option("--trials", min=1, max=MOST_ROWS, help="Adapters side by side.")] = 1,
    ranks: Annotated[str, typer.Option("--ranks", help="Ranks of the adapters, comma-separated.")] = "8,16",
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=MOST_ROWS, help="Checkpoints that each is timed on.")
    ] = 3,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """Intruder dimensions of a checkpoint, against two full SVDs a matrix: agreement first, then seconds."""
    from harness.perf.intruders import Settings, main

    main(model, Settings(trials, numbers(ranks, "--ranks", "8,16", MOST_RANK), repeats), out)


@app.command()
def methods(
    model: Annotated[
        str | None, model_option("Catalogue name, folder, or random:135m; left out: this device's.")
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", min=0, max=MOST_ROWS, help="Rows of a pack; 0: this device's.")
    ] = 0,
    only: Annotated[str, typer.Option("--methods", help="Names, comma-separated; left out: every one.")] = "",
    small: Small = False,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """What every method costs over plain LoRA in the same run: time of a step, bytes of state."""
    from harness.executors.hardware import has_gpu
    from harness.perf.methods import Settings, main

    chosen = tuple(names(only))
    if small or not has_gpu():
        main(Settings(model or "random:tiny", trials or 4, chosen, kind="bench", rounds=2, seconds=0.1), out)
    else:
        main(Settings(model or "random:135m", trials or 16, chosen), out)


@app.command()
def campaign(
    study: Annotated[
        str | None, typer.Option("--study", help="Its first order is run; left out: core with a GPU, else smoke.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, max=1000, help="Trials of each of three methods; 10, or 2 small.")
    ] = None,
    peers: Annotated[bool, typer.Option(help="Time a part of the peers' way, and multiply it.")] = True,
    small: Small = False,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """A study from a cold start to the written board, against HF's Trainer, lm-eval and full SVDs on its trials."""
    from harness.executors.hardware import has_gpu
    from harness.perf.campaign import Settings, main

    small = small or not has_gpu()
    main(Settings(study or ("smoke" if small else "core"), seeds or (2 if small else 10), small, peers), out)


@app.command()
def lanes(
    count: Annotated[int, typer.Option("--lanes", min=2, max=64, help="GPUs, or shares of a CPU's cores.")] = 2,
    packs: Annotated[int, typer.Option("--packs", min=1, max=MOST_ROWS, help="Equal packs.")] = 16,
    rows: Annotated[int, typer.Option("--rows", min=0, max=MOST_ROWS, help="Rows of a pack; 0: 8, or 1 small.")] = 0,
    model: Annotated[str | None, model_option("Catalogue name or folder; left out: SmolLM2-135M; small: tiny.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=MOST_ROWS, help="Times that each is run.")] = 1,
    small: Small = False,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The same packs in one lane and in several at a time: how much sooner the several are through."""
    from harness.executors.hardware import has_gpu
    from harness.perf.lanes import Settings, main

    small = small or not has_gpu()
    chosen = model or ("tiny-random-llama" if small else DEFAULT_MODEL)
    main(Settings(chosen, count, packs, rows or (1 if small else 8), 256 if small else 1024, repeats), out)


@app.command()
def verbs(
    study: Annotated[str, typer.Option("--study", help="The study whose plan, status and run are timed.")] = "quick",
    results: Annotated[Path | None, typer.Option("--results", help="Its results, if not results/<study>.")] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, max=MOST_ROWS, help="Times that each is run.")] = 3,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The verbs that train nothing, as a person waits for them: lists, plan, status, a run with nothing to do."""
    from harness.perf.verbs import main

    main(study, results, repeats, out)


@app.command()
def statistics(
    boards: Annotated[
        int, typer.Option("--boards", min=100, max=MOST_ITEMS, help="Made-up boards of each design and situation.")
    ] = 2000,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The report's intervals and tests on made-up boards: coverage, false claims, power; minutes on one core."""
    from harness.perf.statistics import main

    main(boards, out)


@app.command()
def records(
    records: Annotated[int, typer.Option("--records", min=1, max=20_000, help="At least so many are made.")] = 10_000,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The verbs that read results, on many records made for it; exit 1 where one takes longer or more than it may."""
    from harness.perf.records import main

    _failed(f"over its budget: {line}" for line in main(records, out))


@app.command()
def jobs(
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=10, max=20_000, help="So many that do nothing; 10000, or 200 small.")
    ] = None,
    small: Small = False,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """What Ray takes for a job, and what is kept of each by a run and Ray's driver: many jobs that do nothing."""
    from harness.perf.jobs import main

    main(jobs or (200 if small else 10_000), out)


def _failed(lines: Iterable[str]) -> None:
    """Say what failed, and end with 1 where anything did."""
    if failures := list(lines):
        for line in failures:
            say(line, err=True)
        raise typer.Exit(1)
