"""THE declaration of every metric.  To add one, add it to ``METRICS``: nothing else has to know.

From here come the columns of leaderboard.csv and trials.csv, the tables of page, Markdown and LaTeX, the tests, the
comparison of two arms, the page over all studies, what an audit says of a sequence, and the tables of results/README.md
(``python -m harness.report.documentation`` writes them again).  The order is that of trials.csv.
"""

from __future__ import annotations

from operator import attrgetter

from harness.analysis import continual
from harness.analysis.statistics import FROM_ZERO, SHARE, SHARES_APART
from harness.report.evidence import (
    all_tokens,
    average_accuracy_of_learnt,
    average_accuracy_stderr,
    general_delta,
    interquartile_mean,
    intransigence,
    of_matrix,
    of_stream,
    plain_text_delta,
    reached_90,
    sample_efficiency_auc,
    sample_efficiency_auc_student,
)  # fmt: skip
from harness.report.metric import TABLES, Metric

METRICS: tuple[Metric, ...] = (
    # -- the accuracy matrix
    Metric(
        "average_accuracy", "Average accuracy", "mean_j R[T][j], the primary outcome",
        of_matrix(continual.average_accuracy), better="higher", unit="%", scale=100, spoken="average accuracy",
        tested="primary", first=1, interval=True, compared=True, audited=True,
        ends=SHARE,
    ),
    Metric(
        "average_accuracy_of_learnt", "Average accuracy without tasks that are not learnt",
        "mean of R[T][j] over the tasks that the control that learns each task afresh gains at least 5 points on, over "
        "the base model and over always giving the most frequent answer; empty without that control, or where it "
        "learns all of them",
        average_accuracy_of_learnt, better="higher", unit="%", scale=100, table="more", place=0, ends=SHARE,
    ),
    Metric(
        "average_accuracy_stderr", "Standard error of average accuracy",
        "standard error of one trial's average accuracy over the test items", average_accuracy_stderr,
        better="lower", unit="points", scale=100,
    ),
    Metric(
        "interquartile_mean", "Interquartile mean",
        "mean of the middle half of all final scores of all trials; from 3 tasks and 5 seeds up",
        interquartile_mean, of="arm", better="higher", unit="%", scale=100, table="more", place=3,
    ),
    Metric(
        "average_accuracy_over_time", "Average accuracy over time",
        "mean over t of the mean score on the tasks learnt so far",
        of_stream(continual.average_accuracy_over_time), better="higher", unit="%", scale=100, table="more", place=1,
        ends=SHARE,
    ),
    Metric(
        "backward_transfer", "BWT", "mean over j < T of R[T][j] - R[j][j] (GEM)",
        of_stream(continual.backward_transfer), better="higher", unit="points", scale=100, signed=True,
        spoken="backward transfer", first=2, interval=True, table="tests", place=1, compared=True, audited=True,
        ends=SHARES_APART,
    ),
    Metric(
        "backward_transfer_trace", "BWT (TRACE)", "TRACE's backward transfer, which divides by T",
        of_stream(continual.backward_transfer_trace), better="higher", unit="points", scale=100, signed=True,
        ends=SHARES_APART,
    ),
    Metric(
        "forgetting", "Forgetting", "mean over j < T of the best earlier score minus R[T][j]",
        of_stream(continual.forgetting), better="lower", unit="points", scale=100, spoken="forgetting",
        tested="secondary", answered=True, first=3, interval=True, table="main", place=1, compared=True, indexed=True,
        audited=True,
        ends=SHARES_APART,
    ),
    Metric(
        "forward_transfer", "Forward transfer", "mean over j > 1 of R[j-1][j] - R[0][j]",
        of_stream(continual.forward_transfer), better="higher", unit="points", scale=100, signed=True,
        spoken="forward transfer", table="more", place=2, audited=True,
        ends=SHARES_APART,
    ),
    Metric(
        "learning_accuracy", "Learning accuracy", "mean_j R[j][j]", of_stream(continual.learning_accuracy),
        better="higher", unit="%", scale=100, spoken="learning accuracy", first=4, interval=True, table="main",
        place=3, compared=True, indexed=True, audited=True,
        ends=SHARE,
    ),
    Metric(
        "intransigence", "Intransigence",
        "mean_j R*[j] - R[j][j], with R* of the control that learns each task afresh, same order and seed; empty "
        "without it",
        intransigence, better="lower", unit="points", scale=100, signed=True, table="more", place=2, ends=SHARES_APART,
    ),
    Metric(
        "normalised_forgetting", "Share of the gain lost", "lost over gained; empty where little was gained",
        of_stream(continual.normalised_forgetting), better="lower", unit="%", scale=100,
        spoken="share of the gain that was lost", table="more", place=4, audited=True,
    ),
    # -- learning curves
    Metric(
        "sample_efficiency_auc", "Sample efficiency AUC",
        "area under score(n) - base over log2 n, divided by the span; mean over tasks", sample_efficiency_auc,
        better="higher", unit="points", scale=100, signed=True, spoken="learning speed (sample-efficiency AUC)",
        tested="secondary", answered=True, first=7, interval=True, table="main", place=4, compared=True, indexed=True,
        ends=SHARES_APART,
    ),
    Metric(
        "sample_efficiency_auc_student", "Sample efficiency AUC of the student",
        "the same of the student, for arms that score an average of it, whose curve measures its lag as well",
        sample_efficiency_auc_student, better="higher", unit="points", scale=100, signed=True, table="more",
    ),
    Metric(
        "examples_to_90", "Examples to 90 %",
        "mean over tasks of the examples to 90 % of the reference's gain (plain LoRA's, unless the study says "
        "otherwise), restricted to what the reference spends on the task from the same data",
        reached_90("examples", "mean"), better="lower", note="restricted mean", digits=0, table="more",
        ends=FROM_ZERO,
    ),
    Metric(
        "examples_to_90_share", "… tasks that reached it", "share of the tasks that got there within those examples",
        reached_90("examples", "share"), better="higher", unit="%", digits=0, scale=100, table="more",
        ends=SHARE,
    ),
    Metric(
        "tokens_to_90", "Tokens to 90 %", "like `examples_to_90`, in tokens", reached_90("tokens", "mean"),
        better="lower", note="restricted mean", digits=0, table="more",
        ends=FROM_ZERO,
    ),
    Metric(
        "tokens_to_90_share", "… tasks that reached it", "share of the tasks that got there within those tokens",
        reached_90("tokens", "share"), better="higher", unit="%", digits=0, scale=100, table="more",
        ends=SHARE,
    ),
    # -- probes
    Metric(
        "general_delta", "General Δ", "mean over the accuracy probes of after - base", general_delta, better="higher",
        unit="points", scale=100, signed=True, first=5, interval=True, table="tests", place=2, compared=True,
        ends=SHARES_APART,
    ),
    Metric(
        "plain_text_delta", "Plain text Δ", "bits per byte on plain text, after - base", plain_text_delta,
        better="lower", unit="bits/byte", digits=3, signed=True, spoken="loss of plain text", tested="secondary",
        answered=True, first=6, interval=True, table="main", place=2, compared=True, indexed=True,
    ),
    Metric(
        "delta_<probe>", "Probe Δ", "that probe, after - base", lambda scores: continual.delta(scores.score),
        of="probe", signed=True,
    ),
    # -- what training did to the weights
    Metric(
        "intruder_count", "Intruders",
        "intruder dimensions (best cosine below 0.5 among the top 10), summed over the matrices", attrgetter("count"),
        of="weights", better="lower", kind="intruders", tested="secondary", of_matrices=True, first=8, interval=True,
        table="main", place=5, compared=True,
        ends=FROM_ZERO,
    ),
    Metric(
        "intruder_distance", "Intruder distance", "mean over the top 10 of 1 - best cosine", attrgetter("distance"),
        of="weights", better="lower", digits=5, spoken="intruder distance", kind="intruders", tested="secondary",
        of_matrices=True, answered=True, first=9, interval=True, table="main", place=5, compared=True, indexed=True,
        ends=SHARE,
    ),
    Metric(
        "intruder_energy_share", "Intruder energy", "energy of the intruders over that of the top 10",
        attrgetter("energy_share"), of="weights", better="lower", unit="%", digits=2, scale=100,
        ends=SHARE,
    ),
    Metric(
        "delta_norm", "‖ΔW‖", "Frobenius norm of the update, mean over the matrices", attrgetter("delta_norm"),
        of="weights", digits=3,
        ends=FROM_ZERO,
    ),
    Metric(
        "relative_spectral_norm", "‖ΔW‖₂ / ‖W0‖₂", "spectral norm of the update over that of the base matrix",
        attrgetter("relative_spectral_norm"), of="weights", digits=4,
        ends=FROM_ZERO,
    ),
    Metric(
        "effective_rank", "Effective rank", "effective rank of the update",
        attrgetter("effective_rank"), of="weights", digits=2,
        ends=FROM_ZERO,
    ),
    # -- costs
    Metric(
        "train_seconds", "Training", "a trial's share of its pack's time of training",
        attrgetter("train_seconds"), of="costs",
        better="lower", unit="s", table="costs", place=1, compared=True,
        shared=True,
    ),
    Metric(
        "score_seconds", "Scoring", "a trial's share of its pack's time of scoring",
        attrgetter("score_seconds"), of="costs", better="lower",
        unit="s", table="costs", place=1,
        shared=True,
    ),
    Metric(
        "analysis_seconds", "Analysis", "a trial's share of its pack's time of counting intruders",
        attrgetter("analysis_seconds"), of="costs",
        better="lower", unit="s",
        shared=True,
    ),
    Metric(
        "training_tokens", "Training tokens",
        "all tokens that training sends through the model: student, teacher, prompts read to sample, samples",
        all_tokens, of="costs", better="lower", unit="thousands", digits=1, scale=1e-3, spoken="tokens of training",
        table="main", place=6,
    ),
    Metric(
        "train_tokens", "Student tokens", "tokens through the student in training",
        attrgetter("train_tokens"), of="costs",
        better="lower", digits=0, table="costs",
    ),
    Metric(
        "teacher_tokens", "Teacher tokens", "tokens through the teacher", attrgetter("teacher_tokens"), of="costs",
        better="lower", digits=0, table="costs",
    ),
    Metric(
        "prompt_tokens", "Prompts read to sample, tokens", "tokens of the prompts that were read in order to sample",
        attrgetter("prompt_tokens"),
        of="costs", better="lower", digits=0, table="costs",
    ),
    Metric(
        "sampled_tokens", "Sampled tokens", "tokens that were sampled",
        attrgetter("sampled_tokens"), of="costs", better="lower",
        digits=0, table="costs",
    ),
    Metric(
        "tokens_per_second", "Tokens/s", "student tokens a second of the whole pack", attrgetter("tokens_per_second"),
        of="costs", better="higher", note="pack", digits=0, first=10, table="costs", place=2,
        shared=True,
    ),
    Metric(
        "peak_memory_gib", "Peak memory", "memory of the whole pack", attrgetter("peak_memory_gib"), of="costs",
        better="lower", unit="GiB", note="pack", digits=2, first=11, table="costs", place=3,
        shared=True,
    ),
    Metric(
        "adapter_bytes", "Adapter", "size of one adapter", attrgetter("adapter_bytes"), of="costs", better="lower",
        unit="MB", digits=2, scale=1e-6, table="costs",
    ),
    Metric(
        "trained_parameters", "Trained parameters", "numbers that are trained of one adapter",
        attrgetter("trained_parameters"), of="costs",
        better="lower", digits=0, table="costs",
    ),
    Metric(
        "state_bytes", "State",
        "what a trial keeps on the device between steps: adapter, moments, averages, snapshots, what its rules hold, "
        "what is frozen below it; empty in records before schema 6",
        attrgetter("state_bytes"), of="costs", better="lower", unit="MB", digits=2, scale=1e-6, table="costs",
    ),
    Metric(
        "energy_kwh", "Energy", "a trial's share of its pack's energy, where the device tells",
        attrgetter("energy_kwh"), of="costs",
        better="lower", unit="kWh", digits=4, table="costs",
        shared=True,
    ),
)  # fmt: skip
#: The outcome that was chosen beforehand.
PRIMARY = next(metric.name for metric in METRICS if metric.tested == "primary")


def metric(name: str) -> Metric:
    """The metric of a column; raises ``KeyError``."""
    if found := declared(name):
        return found
    raise KeyError(name)


def declared(name: str) -> Metric | None:
    """The metric of a column; None for that of a single probe, which is declared for all of them."""
    return next((each for each in METRICS if each.name == name), None)


def taken_of(*sources: str) -> list[Metric]:
    """Metrics whose ``of`` is one of these."""
    return [each for each in METRICS if each.of in sources]


def in_table(table: str) -> list[Metric]:
    """Metrics of one of ``TABLES``, from left to right."""
    return sorted((each for each in METRICS if each.table == table), key=lambda each: each.place)


def promised() -> list[Metric]:
    """Metrics among the first columns of leaderboard.csv, which are promised to scripts that read it."""
    return sorted((each for each in METRICS if each.first), key=lambda each: each.first)


def with_interval() -> list[Metric]:
    """Metrics whose intervals are in leaderboard.csv, those of the first columns first."""
    return sorted((each for each in METRICS if each.interval), key=lambda each: each.first or len(METRICS))


def secondary() -> list[Metric]:
    """Metrics that are also compared with the reference, each with a separate Holm correction over the arms."""
    return [each for each in METRICS if each.tested == "secondary"]


def compared() -> list[Metric]:
    """Metrics of the comparison of two arms: the primary outcome, then in the order of the tables."""
    return sorted((each for each in METRICS if each.compared), key=_by_table)


def indexed() -> list[Metric]:
    """Metrics of the page over all studies."""
    return sorted((each for each in METRICS if each.indexed), key=_by_table)


def audited() -> list[Metric]:
    """Metrics of an audited sequence of adapters."""
    return sorted((each for each in METRICS if each.audited), key=_by_table)


def _by_table(metric: Metric) -> tuple[bool, int, int]:
    table = TABLES.index(metric.table) if metric.table else len(TABLES)
    return metric.tested != "primary", table, metric.place
