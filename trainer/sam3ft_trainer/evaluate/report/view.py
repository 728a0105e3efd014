"""From facts to what stands on the page: rounding, order and words. Pure."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

from sam3ft_trainer.evaluate.report.document import Evaluation, Interval, ReportInput
from sam3ft_trainer.evaluate.report.plots import Series, curve, smoothed
from sam3ft_trainer.evaluate.scores import ClassRow, SplitScores

METRICS: Mapping[str, str] = {
    "bbox_AP": "Box AP, mean over IoU .50 to .95",
    "bbox_AP50": "Box AP at IoU .50",
    "bbox_AP75": "Box AP at IoU .75",
    "bbox_AP_small": "Box AP, objects below 32 x 32 px",
    "bbox_AP_medium": "Box AP, up to 96 x 96 px",
    "bbox_AP_large": "Box AP, larger ones",
    "bbox_AR": "Box recall within the kept detections",
    "segm_AP": "Mask AP, mean over IoU .50 to .95",
    "segm_AP50": "Mask AP at IoU .50",
    "segm_AP75": "Mask AP at IoU .75",
    "segm_AP_small": "Mask AP, objects below 32 x 32 px",
    "segm_AP_medium": "Mask AP, up to 96 x 96 px",
    "segm_AP_large": "Mask AP, larger ones",
    "segm_AR": "Mask recall within the kept detections",
    "cgF1": "Finds the objects and is silent where there are none",
    "pmF1": "F1 over all objects, where there are any",
    "IL_MCC": "Knows whether a phrase is present, -100 to 100",
    "control_bbox_AP50": "Control: the same boxes against other images' annotations",
    "fp_absent_rate": "False alarms where the phrase is absent",
}
"""Every metric that is shown, and how the table names it."""
_LOWER_IS_BETTER = frozenset({"fp_absent_rate"})
_SPANS = {
    "data": "wait for images",
    "agree": "wait for others",
    "forward": "forward",
    "backward": "backward",
    "checkpoint": "checkpoint",
}
"""Parts of a step that the report shows, and their names there."""
_TERMS = ("loss_ce", "loss_bbox", "loss_giou", "presence_loss", "loss_mask")


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number: its label, value, and a line below."""

    label: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of the final table; texts in percent, `delta` against the base model, `tone` good or bad."""

    name: str
    meaning: str
    base: str
    final: str
    delta: str
    tone: str
    hf_call: str


@dataclass(frozen=True, slots=True)
class ClassLine:
    """One category: `share` 0..100 is the length of its bar."""

    name: str
    train_objects: str
    images: int
    objects: int
    ap: str
    share: float
    base: str
    delta: str
    tone: str
    ap50: str
    ar: str
    false_alarms: str
    exhaustive: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of finding in the data, in all splits that have the same."""

    what: str
    splits: str
    count: int
    severity: str
    examples: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One drawing with its heading; `svg` is ours and needs no escaping."""

    title: str
    note: str
    svg: str


def percent(value: float | None, *, signed: bool = False) -> str:
    """Return a share as percent with one digit; a dash where it is undefined."""
    if value is None:
        return "\N{EN DASH}"
    return f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Return seconds as people say them: 42 s, 7 min 5 s, 3 h 20 min, 2 d 4 h."""
    whole = round(seconds)
    for unit, size, part, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit}" + (f" {whole % size // smaller} {part}" if whole % size // smaller else "")
    return f"{whole} s"


def rough_duration(seconds: float) -> str:
    """Return seconds in one unit, for a large number: 42 s, 7 min, 3.3 h, 2.1 d."""
    for unit, size, digits in (("d", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds:.0f} s"


def clock(unix_s: float) -> str:
    """Return a moment in UTC."""
    return dt.datetime.fromtimestamp(unix_s, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def shape(report: ReportInput) -> str:
    """Return `segm` where masks were scored, else `bbox`."""
    final = report.scores.final
    return "segm" if final is not None and final.metrics.get("segm_AP") is not None else "bbox"


def tiles(report: ReportInput) -> list[Tile]:
    """Return the numbers at the top."""
    final, base, history = report.scores.final, report.scores.baseline, report.history
    kind = shape(report)
    found: list[Tile] = []
    if final is not None:
        for name, label in ((f"{kind}_AP50", "AP50"), (f"{kind}_AP", "AP"), (_f1_name(report), _f1_name(report))):
            now = final.metrics.get(name)
            was = base.metrics.get(name) if base is not None else None
            note = f"{percent(was)} before training" if was is not None else f"on {final.split}"
            found.append(
                Tile(
                    f"{'Mask' if kind == 'segm' else 'Box'} {label}" if label in {"AP", "AP50"} else label,
                    percent(now),
                    note,
                    _tone(name, was, now),
                )
            )
    rates = [item.images_per_s for item in history.intervals if item.images_per_s]
    steps = history.intervals[-1].step if history.intervals else 0
    found.append(
        Tile(
            "Updates",
            f"{steps:,}",
            f"of {history.total_steps:,} planned" if steps != history.total_steps else "as planned",
        )
    )
    found.append(
        Tile(
            "Time",
            rough_duration(history.ended_unix_s - history.started_unix_s),
            f"{history.attempts} attempts" if history.attempts > 1 else "",
        )
    )
    if rates:
        middle = sorted(rates)[len(rates) // 2]
        found.append(
            Tile(
                "Images per second",
                f"{middle:.1f}" if middle < 100 else f"{middle:.0f}",
                f"{history.world_size} processes" if history.world_size > 1 else "one process",
            )
        )
    return found


def _f1_name(report: ReportInput) -> str:
    """cgF1, or pmF1 where every image holds every category: cgF1 is 0 there by definition and says nothing."""
    final = report.scores.final
    return "pmF1" if final is not None and final.metrics.get("fp_absent_rate") is None else "cgF1"


def _tone(name: str, was: float | None, now: float | None) -> str:
    """`good`, `bad` or nothing, for a change worth colour."""
    if was is None or now is None or abs(now - was) < 0.0005:
        return ""
    return "good" if (now > was) != (name in _LOWER_IS_BETTER) else "bad"


def metric_rows(report: ReportInput) -> list[MetricRow]:
    """Return the final table: every metric that any of the three models has."""
    scored = (report.scores.baseline, report.scores.final, report.scores.hf_call)

    def of(scores: SplitScores | None, name: str) -> float | None:
        return scores.metrics.get(name) if scores is not None else None

    rows = []
    for name, meaning in METRICS.items():
        base, final, hf_call = (of(item, name) for item in scored)
        if base is None and final is None and hf_call is None:
            continue
        delta = final - base if final is not None and base is not None else None
        rows.append(
            MetricRow(
                name=name,
                meaning=meaning,
                base=percent(base),
                final=percent(final),
                delta="" if delta is None else percent(delta, signed=True),
                tone=_tone(name, base, final),
                hf_call=percent(hf_call),
            )
        )
    return rows


def class_lines(report: ReportInput) -> list[ClassLine]:
    """Return the categories, those with most objects first."""
    final = report.scores.final
    if final is None:
        return []
    kind = shape(report)
    train = report.datasets.get("train")
    trained = {item.id: item.objects for item in train.categories} if train is not None else {}
    before = {row.category_id: row for row in report.scores.baseline.per_class} if report.scores.baseline else {}
    ordered = sorted(final.per_class, key=lambda row: (-row.objects, row.category_id))
    return [_class_line(row, before.get(row.category_id), trained.get(row.category_id), kind) for row in ordered]


def _class_line(row: ClassRow, before: ClassRow | None, trained: int | None, kind: str) -> ClassLine:
    name = f"{kind}_AP"
    now = getattr(row, name)
    was = getattr(before, name) if before is not None else None
    delta = now - was if now is not None and was is not None else None
    return ClassLine(
        name=row.name,
        train_objects="\N{EN DASH}" if trained is None else f"{trained:,}",
        images=row.images,
        objects=row.objects,
        ap=percent(now),
        share=round(100 * (now or 0.0), 1),
        base=percent(was),
        delta="" if delta is None else percent(delta, signed=True),
        tone=_tone(name, was, now),
        ap50=percent(getattr(row, f"{kind}_AP50")),
        ar=percent(getattr(row, f"{kind}_AR")),
        false_alarms=percent(row.fp_absent_rate),
        exhaustive=row.exhaustive,
    )


def charts(report: ReportInput) -> list[Chart]:
    """Return the curves that have anything to show."""
    found = [
        _loss_chart(report),
        _metric_chart(report),
        _terms_chart(report),
        _column_chart(report, "lr", "Learning rate", "Of the transformer's group", label="learning rate"),
        _column_chart(report, "grad_norm", "Gradient norm", "Before clipping", label="norm", log=True),
        _column_chart(
            report,
            "images_per_s",
            "Images per second",
            "All processes together, over each interval",
            label="images/s",
        ),
        _time_chart(report),
    ]
    return [chart for chart in found if chart.svg]


def _column(intervals: tuple[Interval, ...], name: str) -> list[float | None]:
    return [getattr(item, name) for item in intervals]


def _loss_chart(report: ReportInput) -> Chart:
    intervals = report.history.intervals
    steps, loss = [item.step for item in intervals], _column(intervals, "loss")
    series = [Series("each interval", steps, loss)]
    if len(loss) > 20:
        series = [Series("smoothed", steps, smoothed(loss)), Series("each interval", steps, loss, faint=True)]
    return Chart("Loss", "Total loss over the updates", curve(series))


def _metric_chart(report: ReportInput) -> Chart:
    metric = report.config.evaluation.metric
    course = [item for item in report.history.evaluations if item.split == "valid"]
    names = [metric, *(name for name in (f"{shape(report)}_AP50", "cgF1") if name != metric)]
    series = [
        Series(name, [item.step for item in course], [item.metrics.get(name) for item in course], dots=True)
        for name in names
    ]
    best = best_evaluation(report)
    note = f"Selecting split; best {metric} {percent(best.metrics.get(metric))} at step {best.step}" if best else ""
    return Chart("Metrics", note, curve(series, percent=True, marker=best.step if best else None))


def best_evaluation(report: ReportInput) -> Evaluation | None:
    """Return the evaluation that the exported weights had, the best on the selecting split; None without any."""
    metric = report.config.evaluation.metric
    course = [item for item in report.history.evaluations if item.split == "valid" and not item.baseline]
    scored = [item for item in course if item.metrics.get(metric) is not None]
    return max(scored, key=lambda item: (item.metrics[metric], -item.step), default=None)


def _terms_chart(report: ReportInput) -> Chart:
    intervals = report.history.intervals
    steps = [item.step for item in intervals]
    series = [Series(name, steps, smoothed([item.terms.get(name) for item in intervals])) for name in _TERMS]
    return Chart("Terms of the loss", "Final layer, before weights, smoothed", curve(series, log=True))


def _column_chart(report: ReportInput, name: str, title: str, note: str, *, label: str, log: bool = False) -> Chart:
    """Draw one field of the intervals as it is."""
    intervals = report.history.intervals
    series = [Series(label, [item.step for item in intervals], _column(intervals, name))]
    return Chart(title, note, curve(series, log=log))


def _time_chart(report: ReportInput) -> Chart:
    """Shares of each interval's measured time; `agree` is the wait for the slowest process."""
    intervals = [item for item in report.history.intervals if sum(item.spans.values()) > 0]
    steps = [item.step for item in intervals]
    series = [
        Series(label, steps, smoothed([item.spans.get(name, 0.0) / sum(item.spans.values()) for item in intervals]))
        for name, label in _SPANS.items()
    ]
    return Chart("Where the time goes", "Shares of rank 0's time, smoothed", curve(series, percent=True))


def findings(report: ReportInput) -> list[Finding]:
    """Return what was found in the data, worst first; a finding that splits share stands once."""
    found: dict[tuple[str, str, int, str], list[str]] = {}
    for split, account in report.datasets.items():
        for problem in account.problems:
            key = (problem.kind, problem.severity, problem.count, "; ".join(problem.examples[:3]))
            found.setdefault(key, []).append(split)
    order = ("bad", "mended", "notice")
    listed = [
        Finding(kind, ", ".join(splits), count, severity, examples)
        for (kind, severity, count, examples), splits in found.items()
    ]
    return sorted(listed, key=lambda item: order.index(item.severity)) + _dropped(report)


def _dropped(report: ReportInput) -> list[Finding]:
    train = report.datasets.get("train")
    if train is None:
        return []
    small, crowded = train.dropped.small_always + train.dropped.small_sometimes, train.dropped.crowded_objects
    listed = []
    if small:
        text = f"{train.dropped.small_always} at any scale, {train.dropped.small_sometimes} at the smaller drawn scales"
        listed.append(Finding("objects_below_the_size_bound", "train", small, "dropped", text))
    if crowded:
        text = f"in {train.dropped.crowded_pairs} pairs of image and phrase with too many objects"
        listed.append(Finding("objects_beyond_the_count_bound", "train", crowded, "dropped", text))
    return listed
