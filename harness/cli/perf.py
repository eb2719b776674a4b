"""``lorabench perf``: a part of the bench, timed by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import model_option, numbers, out_option
from harness.cli.terminal import say

app = typer.Typer(
    help="Time a part of the bench by itself and write results/perf/<what>-<device>.json.", no_args_is_help=True
)
PerfFolder = Annotated[Path, out_option("Folder of the JSON file.")]
MOST_ROWS, MOST_RANK, MOST_ITEMS = 65_536, 16_384, 1_000_000


@app.command()
def train(
    model: Annotated[str, model_option("Catalogue name, folder, or random:135m (seeded weights).")] = "random:135m",
    packs: Annotated[str, typer.Option("--packs", help="Rows of a pack, comma-separated.")] = "1,16,32",
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The training engine alone, in tokens a second."""
    from harness.perf.train import main as train

    train(model, list(numbers(packs, "--packs", "1,16,32", MOST_ROWS)), out)


@app.command()
def score(
    model: Annotated[str, model_option("Catalogue name or folder.")] = "smollm2-135m-instruct",
    trials: Annotated[int, typer.Option("--trials", min=1, max=MOST_ROWS, help="Adapters side by side.")] = 1,
    documents: Annotated[
        int, typer.Option("--documents", min=10, max=MOST_ITEMS, help="Questions of 4 answers a checkpoint.")
    ] = 200,
    exact_items: Annotated[
        int, typer.Option(min=1, max=MOST_ITEMS, help="Questions for the agreement in float32.")
    ] = 100,
    changed_items: Annotated[
        int, typer.Option(min=1, max=MOST_ITEMS, help="Questions for bfloat16 against float32.")
    ] = 5000,
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=MOST_ROWS, help="Checkpoints that each arm is timed on.")
    ] = 3,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """Scoring a checkpoint, against lm-eval's HF model: agreement first, then seconds."""
    from harness.perf.score import Size, main

    main(model, Size(trials, documents, exact_items, changed_items, repeats), out)


@app.command()
def intruders(
    model: Annotated[
        str, model_option("Catalogue name, folder, or random:135m (made-up matrices).")
    ] = "smollm2-135m-instruct",
    trials: Annotated[int, typer.Option("--trials", min=1, max=MOST_ROWS, help="Adapters side by side.")] = 1,
    ranks: Annotated[str, typer.Option("--ranks", help="Ranks of the adapters, comma-separated.")] = "8,16",
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=MOST_ROWS, help="Checkpoints that each arm is timed on.")
    ] = 3,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """Intruder dimensions of a checkpoint, against two full SVDs a matrix: agreement first, then seconds."""
    from harness.perf.intruders import Settings, main

    main(model, Settings(trials, numbers(ranks, "--ranks", "8,16", MOST_RANK), repeats), out)


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

    if broken := main(records, out):
        for line in broken:
            say(f"over its budget: {line}", err=True)
        raise typer.Exit(1)
