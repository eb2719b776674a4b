"""The command line: one verb a function, thin, and quick to start (torch and ray are imported only where they run)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import AsJson, ModelName, OutFolder, StudyName, names, numbers, resolve, shares, shots
from harness.errors import InputError, LorabenchError

if TYPE_CHECKING:
    from harness.campaign import Campaign, State

app = typer.Typer(
    name="lorabench",
    help="Compare ways of LoRA fine-tuning on sequences of tasks: forgetting, learning, intruder dimensions, cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

perf = typer.Typer(
    help="Time a part of the bench by itself and write results/perf/<what>-<device>.json.", no_args_is_help=True
)
app.add_typer(perf, name="perf")

new = typer.Typer(help="Start a method or a task of one's own.", no_args_is_help=True)
app.add_typer(new, name="new")

ExecutorName = Annotated[str, typer.Option("--executor", help="ray, or local: in this process, without importing ray.")]
PerfFolder = Annotated[Path, typer.Option("--out", help="Folder of the JSON file.")]
Mixed = Annotated[bool, typer.Option("--allow-mixed", help="Put different stacks on one board, with a banner.")]


@app.callback()
def plug_in(
    context: typer.Context,
    plugins: Annotated[
        list[Path] | None,
        typer.Option("--plugins", help="A folder of one's own, with methods/ and tasks/; anywhere on the line."),
    ] = None,
) -> None:
    """Makes the folders known to this process and, since it is the environment, to its workers."""
    for folder in plugins or ():
        if context.invoked_subcommand != "new" and not folder.is_dir():
            raise InputError("there is no such folder", where=f"--plugins {folder}", remedy="name one that exists")
    if plugins:
        os.environ["LORABENCH_PLUGINS"] = os.pathsep.join(str(folder.resolve()) for folder in plugins)


@app.command()
def fetch(study: StudyName = "auto", model: ModelName = None) -> None:
    """Download and verify a study's model and data, and decompose the model for runs on a CPU; offline afterwards."""
    from harness import prepare
    from harness.data import models as model_files
    from harness.data import paths
    from harness.study.config import find_study, load_study

    file = find_study(resolve(study), paths.studies_dir())
    config = load_study(file, overrides={"model": model} if model else None)
    source = model_files.fetch((*config.tasks, *config.probes), config.model, typer.echo)
    prepare.decompose(config, file, source, typer.echo)


@app.command()
def plan(study: StudyName = "auto", model: ModelName = None, out: OutFolder = None) -> None:
    """Print a study's trials and packs, what is done, and a time forecast."""
    from harness import campaign, console
    from harness.executors.local import LocalExecutor

    name = resolve(study)
    found = campaign.load_campaign(name, model=model, out=out, device=LocalExecutor().device)
    console.show_plan(found, campaign.read_state(found), LocalExecutor().device(found.study.device))


@app.command()
def run(
    study: StudyName = "auto",
    executor: ExecutorName = "ray",
    model: ModelName = None,
    out: OutFolder = None,
    report: Annotated[bool, typer.Option(help="Write tables, figures and the page at the end.")] = True,
) -> None:
    """Run what is missing of a study, then write its report.  Finished trials are kept."""
    found, state = _carry_out(resolve(study), executor, model, out)
    if report and "ok" in state.statuses.values():
        _write_report(found.folder, allow_mixed=False)
    if state.finished < len(state.statuses):
        raise typer.Exit(1)


@app.command()
def tune(
    study: StudyName = "auto", executor: ExecutorName = "ray", model: ModelName = None, out: OutFolder = None
) -> None:
    """Try equally many settings for every method of a study, on seeds and items of their own; `run` takes the best."""
    from harness import campaign, console

    found, state = _carry_out(resolve(study), executor, model, out, tune=True)
    if state.finished < len(state.statuses):
        raise typer.Exit(1)
    console.show_choices(found, campaign.choose(found))


def _carry_out(
    name: str, executor: str, model: str | None, out: Path | None, *, tune: bool = False
) -> tuple[Campaign, State]:
    """Run what is missing of a study, or of its tuning study, and show how it ended."""
    from harness import campaign, console
    from harness.data import paths
    from harness.executors import EXECUTORS, make_executor
    from harness.study.config import find_study, load_study

    if executor not in EXECUTORS:
        from harness.errors import unknown_name

        raise unknown_name("executor", executor, EXECUTORS, where="--executor")
    load_study(find_study(name, paths.studies_dir()))  # before Ray starts, which takes ten seconds
    with console.preparing(f"preparing {name}"):
        runner = make_executor(executor)
    try:
        found = campaign.load_campaign(name, model=model, out=out, device=runner.device, tune=tune)
        state = campaign.read_state(found)
        device = runner.device(found.study.device)
        console.show_plan(found, state, device)
        with console.progress(found.study.name, state.complete) as watcher:
            before, state = state, campaign.run(found, runner, device, watcher, {"executor": executor})
    finally:
        runner.close()
    console.show_outcome(found, before, state)
    return found, state


@app.command()
def status(study: StudyName = "auto", model: ModelName = None, out: OutFolder = None, as_json: AsJson = False) -> None:
    """Say which trials of a study are done, diverged, failed or missing (reads result files only)."""
    from harness import campaign, console

    folder = campaign.results_folder(resolve(study), model, out)
    console.show_status(folder, as_json)


@app.command()
def report(
    study: StudyName = "auto",
    model: ModelName = None,
    out: OutFolder = None,
    allow_mixed: Mixed = False,
    latex: Annotated[bool, typer.Option("--latex", help="Also write the tables as report.tex.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Write an index page over everything under results/.")] = False,
) -> None:
    """Write the tables, figures and page of a study's results."""
    from harness import campaign

    if every:
        from harness.report import build_index

        typer.echo(f"index: {build_index((out or Path('results')).resolve())}")
        return
    _write_report(campaign.results_folder(resolve(study), model, out), allow_mixed=allow_mixed, latex=latex)


@app.command()
def compare(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="The study of both arms, or of A.")],
    first: Annotated[str, typer.Argument(metavar="A", help="An arm, as the board names it.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The arm that A is compared with.")],
    other: Annotated[str | None, typer.Option("--with", help="The study of B, or its folder, if another.")] = None,
    model: ModelName = None,
    out: OutFolder = None,
    allow_mixed: Mixed = False,
    as_json: AsJson = False,
) -> None:
    """Say by how much arm A differs from arm B, in pairs of the same order and seed, and how sure that is."""
    from harness import campaign, console
    from harness.report import compare_studies

    folder = _existing(campaign.results_folder(resolve(study), model, out))
    partner = folder
    if other is not None:
        own = (Path(other) / "trials").is_dir()
        partner = Path(other).resolve() if own else _existing(campaign.results_folder(resolve(other), model, None))
    console.show_comparison(compare_studies(folder, first, partner, second, allow_mixed=allow_mixed), as_json)


@app.command()
def export(
    trial: Annotated[str, typer.Argument(help="A trial's fingerprint, or the beginning of it.")],
    to: Annotated[Path, typer.Argument(help="The folder to write, in PEFT's format.")],
    study: Annotated[str, typer.Option("--study", help="The study it belongs to.")] = "auto",
    model: ModelName = None,
    out: OutFolder = None,
) -> None:
    """Export a trial's scored adapter; `PeftModel.from_pretrained` loads it."""
    from harness import campaign
    from harness.engine.adapters_file import export_peft, find_adapter
    from harness.store import read_trials

    folder = campaign.results_folder(resolve(study), model, out)
    matches = [record for record in read_trials(folder).records if record.fingerprint.startswith(trial)]
    if len(matches) != 1:
        raise InputError(
            f"{len(matches)} trials begin with '{trial}'",
            where=str(folder / "trials"),
            remedy="give more of the fingerprint",
        )
    if not matches[0].costs.trained_parameters:
        raise InputError(f"'{matches[0].spec.arm}' trains nothing, so there is no adapter", where=trial)
    source, place = find_adapter(folder, matches[0].fingerprint)
    export_peft(source, place, to)
    typer.echo(f"{matches[0].spec.arm}, order {matches[0].spec.order}, seed {matches[0].spec.seed} -> {to}")


@app.command()
def audit(
    adapters: Annotated[
        list[Path], typer.Argument(metavar="ADAPTER...", help="Folders that PEFT wrote; of one run, in training order.")
    ],
    model: Annotated[str, typer.Option("--model", help="The base: a catalogue name, a folder, or a hub id.")],
    tasks: Annotated[str, typer.Option("--tasks", help="What it was trained on, comma-separated, in that order.")] = "",
    probes: Annotated[str, typer.Option("--probes", help="What it was not trained on, comma-separated.")] = "",
    out: Annotated[Path | None, typer.Option("--out", help="Instead of results/audit-<first adapter>.")] = None,
    independent: Annotated[
        bool, typer.Option("--independent", help="Not one training run, though there is an adapter for each task.")
    ] = False,
    another_base: Annotated[
        bool, typer.Option("--another-base", help="Take adapters that name another base, if they fit this one.")
    ] = False,
    dtype: Annotated[str, typer.Option("--dtype", help="float32 or bfloat16.")] = "float32",
    split: Annotated[str, typer.Option("--split", help="test or validation.")] = "test",
    items: Annotated[int | None, typer.Option("--items", help="At most this many items a task.")] = None,
    probe_items: Annotated[int | None, typer.Option("--probe-items", help="The same for probes.")] = None,
    num_fewshot: Annotated[
        str | None, typer.Option("--num-fewshot", help="Examples before each question: 5, or by name: a=5,b=0.")
    ] = None,
    chat_template: Annotated[bool, typer.Option("--chat-template", help="Use the model's chat template.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads.")] = None,
    batch_tokens: Annotated[int | None, typer.Option("--batch-tokens", help="Token budget of one pass.")] = None,
    max_length: Annotated[int | None, typer.Option("--max-length", help="Tokens; longer items are cut.")] = None,
) -> None:
    """Score adapters made elsewhere: tasks, probes, what the base lost, intruder dimensions, on one page."""
    from harness import audit as audits
    from harness import console
    from harness.executors.local import LocalExecutor
    from harness.report import write_audit

    scoring = {"split": split, "items": items, "probe_items": probe_items, "max_length": max_length,
               "batch_tokens": batch_tokens, "chat_template": chat_template,
               "num_fewshot": shots(num_fewshot)}  # fmt: skip
    values = {"model": model, "dtype": dtype, "tasks": names(tasks), "probes": names(probes), "threads": threads,
              "independent": independent, "another_base": another_base, "scoring": _given(scoring)}  # fmt: skip
    with console.preparing("preparing the audit"):
        found = audits.load_audit(adapters, _given(values), out)
    with console.progress(found.folder.name) as watcher:
        record = audits.run(found, LocalExecutor().device("any"), watcher)
    write_audit(record, found.folder)
    typer.echo(f"report: {found.folder / 'audit.html'}")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what was left to its default."""
    return {key: value for key, value in values.items() if value is not None}


@app.command()
def mitigate(
    target: Annotated[
        str, typer.Argument(metavar="TRIAL|STUDY", help="A trial's fingerprint, or a study: all of its.")
    ],
    keep: Annotated[str, typer.Option("--keep", help="Parts of the intruders that are kept, comma-separated.")] = (
        "0,0.25,0.5,0.75"
    ),
    study: Annotated[str, typer.Option("--study", help="The study that a TRIAL belongs to.")] = "auto",
    model: ModelName = None,
    out: OutFolder = None,
) -> None:
    """Scale the intruder dimensions of trained adapters and score them again, beside a shrink of the same size."""
    from harness import campaign, console, mitigation
    from harness.data import paths
    from harness.executors.local import LocalExecutor
    from harness.report import write_mitigation

    keeps = shares(keep)
    whole = target == "auto" or target.endswith((".yaml", ".yml")) or (paths.studies_dir() / f"{target}.yaml").exists()
    with console.preparing("preparing the mitigation"):
        device = LocalExecutor().device
        found = campaign.load_campaign(resolve(target if whole else study), model=model, out=out, device=device)
        trials = mitigation.find_trials(found, None if whole else target)
        adapters, left_out = mitigation.read_adapters(found, trials)
    for reason in left_out:
        _note(f"left out: {reason}")
    with console.progress(found.study.name) as watcher:
        rows = mitigation.mitigate(found, adapters, keeps, device(found.study.device), watcher)
    folder = found.folder / "mitigation"
    if not rows:
        typer.echo(f"no intruder dimensions in {len(adapters)} trial(s): nothing to mitigate")
        return
    write_mitigation(rows, mitigation.COLUMNS, folder)
    touched = len({row["trial"] for row in rows})
    typer.echo(f"{touched} of {len(adapters)} trial(s) have intruder dimensions; results: {folder}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, libraries, device, disk, cached files and Ray."""
    from harness import checkup

    if not checkup.show(as_json):
        raise typer.Exit(1)


@perf.command()
def train(
    model: Annotated[
        str, typer.Option("--model", help="Catalogue name, folder, or random:135m (seeded weights).")
    ] = "random:135m",
    packs: Annotated[str, typer.Option("--packs", help="Rows of a pack, comma-separated.")] = "1,16,32",
    out: PerfFolder = Path("results/perf"),
) -> None:
    """The training engine alone, in tokens a second."""
    from harness.perf.train import main as train

    train(model, list(numbers(packs, "--packs", "1,16,32")), out)


@perf.command()
def score(
    model: Annotated[str, typer.Option("--model", help="Catalogue name or folder.")] = "smollm2-135m-instruct",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Adapters side by side.")] = 1,
    documents: Annotated[int, typer.Option("--documents", min=10, help="Questions of 4 answers a checkpoint.")] = 200,
    exact_items: Annotated[int, typer.Option(min=1, help="Questions for the agreement in float32.")] = 100,
    flip_items: Annotated[int, typer.Option(min=1, help="Questions for the agreement in bfloat16.")] = 5000,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Checkpoints that each arm is timed on.")] = 3,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """Scoring a checkpoint, against lm-eval's HF model: agreement first, then seconds."""
    from harness.perf.score import Size, main

    main(model, Size(trials, documents, exact_items, flip_items, repeats), out)


@new.command("method")
def new_method(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and '_'.")],
) -> None:
    """Write a method that trains, in the clone or in the folder of --plugins, to be made one's own."""
    from harness import scaffold

    file = scaffold.new_method(name)
    typer.echo(f"{file}\ncheck it with: lorabench methods --check {name}")


@new.command("task")
def new_task(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower-case letters, digits and '_'.")],
    source: Annotated[Path, typer.Option("--from", help="A JSONL file: a question and its answer a row.")],
    question: Annotated[str, typer.Option("--question", help="The column of the questions.")] = "question",
    answer: Annotated[str, typer.Option("--answer", help="The column of the answers.")] = "answer",
    choices: Annotated[str, typer.Option("--choices", help="The column of lists to choose from, if any.")] = "choices",
    licence: Annotated[str, typer.Option("--licence", help="Of the rows.")] = "not stated",
) -> None:
    """Make a task of rows of one's own, in the clone or in the folder of --plugins, and build its splits."""
    from harness import scaffold
    from harness.data.new_task import Columns

    task, note = scaffold.new_task(name, source, Columns(question, answer, choices), licence)
    sizes = ", ".join(f"{count} {split}" for split, count in task.task.splits.items())
    typer.echo(f"{task.task.folder}\n{note}\n{sizes}; digest {task.digest[:16]}")


@perf.command()
def intruders(
    model: Annotated[
        str, typer.Option("--model", help="Catalogue name, folder, or random:135m (made-up matrices).")
    ] = "smollm2-135m-instruct",
    trials: Annotated[int, typer.Option("--trials", min=1, help="Adapters side by side.")] = 1,
    ranks: Annotated[str, typer.Option("--ranks", help="Ranks of the adapters, comma-separated.")] = "8,16",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Checkpoints that each arm is timed on.")] = 3,
    out: PerfFolder = Path("results/perf"),
) -> None:
    """Intruder dimensions of a checkpoint, against two full SVDs a matrix: agreement first, then seconds."""
    from harness.perf.intruders import Settings, main

    main(model, Settings(trials, numbers(ranks, "--ranks", "8,16"), repeats), out)


@app.command()
def methods(
    check: Annotated[str | None, typer.Option(help="Check one method against the contract, and list none.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods, one line each; with --check see whether one keeps the contract."""
    from harness.methods import methods as registry

    if check is not None:
        from harness import contract

        for rule in contract.check(check, registry()):
            typer.echo(f"ok  {rule}")
        typer.echo(f"{check} keeps the contract")
        return
    _list([{"name": m.name, "summary": m.summary, "source": m.source} for m in registry().values()], as_json)


@app.command()
def tasks(
    pattern: Annotated[str, typer.Argument(help="Only names that match, such as 'arc_*'.")] = "*",
    lm_eval: Annotated[bool, typer.Option("--lm-eval", help="lm-eval's own tasks instead of the project's.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the tasks and probes, one line each; with --lm-eval those that lm-eval brings along."""
    from harness.data import listing

    _list(listing.lm_eval_tasks(pattern, _note) if lm_eval else listing.project_tasks(pattern), as_json)


def _note(line: str) -> None:
    """A line for the person that waits, out of the way of what is printed."""
    typer.echo(line, err=True)


@app.command()
def studies(as_json: AsJson = False) -> None:
    """List the studies, one line each."""
    from harness.data import paths
    from harness.study.config import load_study

    rows = []
    for path in sorted(paths.studies_dir().glob("*.yaml")):
        study = load_study(path)
        trials = f"{len(study.streams)} order(s), {len(study.seeds)} seed(s)"
        rows.append({"name": study.name, "title": study.title, "model": study.model, "size": trials})
    _list(rows, as_json)


def _list(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    words = {None: "-", True: "yes", False: "no"}
    shown = [[words[v] if v is None or isinstance(v, bool) else str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for line in shown:
        typer.echo("  ".join(map(str.ljust, line, widths)).rstrip())


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise InputError(
            "there are no results here", where=str(folder), remedy="run the study first: lorabench run STUDY"
        )
    return folder


def _write_report(folder: Path, *, allow_mixed: bool, latex: bool = False) -> None:
    from harness.report import build_report

    build_report(_existing(folder), allow_mixed=allow_mixed, latex=latex)
    typer.echo(f"report: {folder / 'report.html'}")


def _plugins_first(arguments: list[str]) -> list[str]:
    """``--plugins DIR`` wherever it stands: it belongs to no verb."""
    first, rest, words = [], [], iter(arguments)
    for word in words:
        if word == "--plugins":
            first += [word, *([value] if (value := next(words, None)) is not None else [])]
        else:
            (first if word.startswith("--plugins=") else rest).append(word)
    return first + rest


def main() -> None:
    """Entry point: errors of ours become one message and their exit status; Ctrl-C is 130."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")  # one progress bar, ours
    try:
        app(_plugins_first(sys.argv[1:]))
    except LorabenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_status)
    except SystemExit as stop:  # typer turns Ctrl-C into its exit status
        if stop.code == 130:
            typer.echo("stopped; finished trials are kept, run the same command to go on", err=True)
        raise
