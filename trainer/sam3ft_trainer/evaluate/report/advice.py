"""What to do next, derived from the facts of a run by rules that anyone can check. Pure."""

from collections.abc import Callable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sam3ft_trainer.evaluate.report.document import Evaluation, ReportInput
from sam3ft_trainer.evaluate.scores import ClassRow

FEW_UPDATES = 500
"""Below this many updates a run has hardly begun, whatever its epochs say."""
_CLEAR = 0.01
"""A difference of AP that is worth a sentence."""
_FEW_OBJECTS = 20
_POOR, _GOOD = 0.1, 0.5
_WAITING = 0.1
_MANY_SKIPPED = 0.01
_SHOWN = 5


class Advice(BaseModel):
    """One piece of advice.

    Attributes:
        level: `act` when something is wrong, `consider` when something may help, `good` when nothing needs doing.
        title: what was seen.
        text: why it matters and what to do.
        setting: the setting to change, if there is one.
    """

    model_config = ConfigDict(frozen=True)

    level: Literal["act", "consider", "good"]
    title: str
    text: str
    setting: str = ""


def advise(report: ReportInput) -> tuple[Advice, ...]:
    """Return advice, the most urgent first; at least one piece."""
    found = [advice for rule in _RULES for advice in rule(report)]
    if not found:
        found.append(
            Advice(
                level="good",
                title="Nothing looks wrong",
                text="Look at the pictures for errors that numbers hide, then try the model on images of your own.",
            )
        )
    order = ("act", "consider", "good")
    return tuple(sorted(found, key=lambda item: order.index(item.level)))


def _metric(report: ReportInput, name: str) -> float | None:
    return report.scores.final.metrics.get(name) if report.scores.final is not None else None


def _shape(report: ReportInput) -> str:
    """The kind of shape that matters: masks where they were scored."""
    return "segm" if _metric(report, "segm_AP") is not None else "bbox"


def _course(report: ReportInput) -> list[Evaluation]:
    return [item for item in report.history.evaluations if item.split == "valid" and not item.baseline]


def _random_weights(report: ReportInput) -> Iterator[Advice]:
    if report.config.model.uri.startswith("preset:"):
        yield Advice(
            level="act",
            title="The model began with random weights",
            text="That is for trials: it shows that everything works. SAM 3 itself starts far ahead. Give the "
            "published "
            "weights for a model to use.",
            setting="model.uri: hf://facebook/sam3",
        )


def _worse_than_before(report: ReportInput) -> Iterator[Advice]:
    before, after = report.scores.baseline, report.scores.final
    if before is None or after is None:
        return
    name = f"{_shape(report)}_AP"
    was, now = before.metrics.get(name), after.metrics.get(name)
    if was is not None and now is not None and now < was - _CLEAR:
        yield Advice(
            level="act",
            title=f"The base model was better: {name} {100 * was:.1f} before, {100 * now:.1f} after",
            text="The learning rate is too high for this amount of data, or the phrases mean something else than the "
            "annotations show. Divide the rate by ten, or freeze the vision encoder.",
            setting=f"optim.lr: {report.config.optim.lr / 10:.2g}",
        )


def _few_updates(report: ReportInput) -> Iterator[Advice]:
    steps = report.history.total_steps
    if 0 < steps < FEW_UPDATES:
        yield Advice(
            level="act",
            title=f"Only {steps} updates",
            text=f"Fewer than {FEW_UPDATES} updates are rarely enough; warm-up and cool-down alone take "
            f"{report.config.optim.warmup + report.config.optim.cooldown}. Train for more epochs, or with a "
            "smaller batch.",
            setting="scratch.max_data_epochs",
        )


def _still_improving(report: ReportInput) -> Iterator[Advice]:
    course = _course(report)
    name = report.config.evaluation.metric
    values = [item.metrics.get(name) or 0.0 for item in course]
    if len(values) < 3:
        return
    best = max(range(len(values)), key=values.__getitem__)
    if best == len(values) - 1 and values[-1] > values[-2] + _CLEAR:
        yield Advice(
            level="consider",
            title=f"{name} was still rising at the end",
            text=f"The last evaluation was the best so far ({100 * values[-1]:.1f}, before it {100 * values[-2]:.1f}). "
            "Training longer will likely help.",
            setting="scratch.max_data_epochs",
        )
    elif values[best] > 0 and values[-1] < 0.9 * values[best]:
        yield Advice(
            level="consider",
            title=f"{name} fell after step {course[best].step}",
            text=f"From {100 * values[best]:.1f} to {100 * values[-1]:.1f}: the model learnt the training images by "
            "heart. The best weights are the ones that were exported. More images, augmentation or stopping early "
            "save time.",
            setting="evaluation.patience, augment",
        )


def _loose_boxes(report: ReportInput) -> Iterator[Advice]:
    kind = _shape(report)
    ap, ap50 = _metric(report, f"{kind}_AP"), _metric(report, f"{kind}_AP50")
    if ap is not None and ap50 is not None and ap50 > _POOR and ap < 0.35 * ap50:
        yield Advice(
            level="consider",
            title="Objects are found, but their outlines are loose",
            text=f"AP at IoU .50 is {100 * ap50:.1f}, over all thresholds {100 * ap:.1f}. Look whether the annotations "
            "themselves are tight; a higher resolution or more training tightens the rest.",
            setting="scratch.resolution",
        )


def _small_objects(report: ReportInput) -> Iterator[Advice]:
    kind = _shape(report)
    small, large = _metric(report, f"{kind}_AP_small"), _metric(report, f"{kind}_AP_medium")
    if small is not None and large is not None and large > _POOR and small < large / 2:
        yield Advice(
            level="consider",
            title="Small objects are missed",
            text=f"AP is {100 * small:.1f} below 32 x 32 pixels and {100 * large:.1f} up to 96 x 96. Train on tiles of "
            "the images, or at a higher resolution.",
            setting="augment.tiles: 2",
        )


def _dropped_objects(report: ReportInput) -> Iterator[Advice]:
    train = report.datasets.get("train")
    if train is None:
        return
    small = train.dropped.small_always + train.dropped.small_sometimes
    if small:
        yield Advice(
            level="consider",
            title=f"{small} objects are too small for the size filter",
            text=f"{train.dropped.small_always} are never trained on, {train.dropped.small_sometimes} only at the "
            "larger "
            "of the drawn scales. The bound is upstream's; lower it if such objects matter.",
            setting="data.bounds.min_area",
        )
    if train.dropped.crowded_pairs:
        yield Advice(
            level="consider",
            title=f"{train.dropped.crowded_objects} objects stand in too crowded images",
            text=f"{train.dropped.crowded_pairs} pairs of image and phrase have more objects than the bound and "
            "are left "
            "out. The model has a fixed number of queries: cut such images into tiles rather than raising the bound.",
            setting="augment.tiles, data.bounds.max_objects_per_phrase",
        )


def _crowded_evaluation(report: ReportInput) -> Iterator[Advice]:
    final = report.scores.final
    if final is None or not final.images:
        return
    per_image = sum(row.objects for row in final.per_class) / final.images
    if per_image > report.config.evaluation.max_dets / 2:
        yield Advice(
            level="consider",
            title=f"{per_image:.0f} objects an image, and {report.config.evaluation.max_dets} detections are kept",
            text="The limit counts over all categories of an image, so that dense images cannot reach full recall.",
            setting=f"evaluation.max_dets: {max(300, 4 * round(per_image))}",
        )


def _false_positives(report: ReportInput) -> Iterator[Advice]:
    rate = _metric(report, "fp_absent_rate")
    if rate is not None and rate > 0.2:
        yield Advice(
            level="consider",
            title=f"Something was found in {100 * rate:.0f} % of the pairs where nothing is",
            text="The model does not yet know when a phrase is absent. Images without the objects, and categories that "
            "are annotated completely, teach it.",
            setting="data.negatives, data.exhaustive",
        )


def _weak_classes(report: ReportInput) -> Iterator[Advice]:
    final, train = report.scores.final, report.datasets.get("train")
    if final is None:
        return
    name = f"{_shape(report)}_AP"
    objects = {item.id: item.objects for item in train.categories} if train is not None else {}
    weak = [row for row in final.per_class if (value := getattr(row, name)) is not None and value < _POOR]
    strong = [row for row in final.per_class if (getattr(row, name) or 0.0) > _GOOD]
    rare = [row for row in weak if objects.get(row.category_id, _FEW_OBJECTS) < _FEW_OBJECTS]
    if rare:
        yield Advice(
            level="consider",
            title=f"Too few examples of {_names(rare)}",
            text=f"Fewer than {_FEW_OBJECTS} training objects each, and AP below {100 * _POOR:.0f}. Annotate more "
            "of them.",
        )
    unclear = [row for row in weak if row not in rare]
    if unclear and strong:
        yield Advice(
            level="consider",
            title=f"{_names(unclear)}: far behind the other categories",
            text="There are examples enough, so look at the phrase: a plain English noun phrase that says what is seen "
            "works best, and several phrases for one category can be given.",
            setting="data.phrases",
        )


def _names(rows: list[ClassRow]) -> str:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return ", ".join(row.name for row in rows[:_SHOWN]) + more


def _skipped(report: ReportInput) -> Iterator[Advice]:
    count, steps = report.history.skipped_steps, report.history.total_steps
    if count:
        yield Advice(
            level="act" if count > _MANY_SKIPPED * steps else "consider",
            title=f"{count} {'update was' if count == 1 else 'updates were'} left out",
            text="Their loss or gradient was not finite. A few are harmless; many say that the rate is too high, or "
            "fp16 too narrow. The bundles in the work folder name the images.",
            setting="optim.lr, scratch.precision: bf16",
        )


def _waiting(report: ReportInput) -> Iterator[Advice]:
    spans = [item.spans for item in report.history.intervals if item.spans]
    total = sum(sum(item.values()) for item in spans)
    waiting = sum(item.get("data", 0.0) for item in spans)
    if total and waiting > _WAITING * total:
        yield Advice(
            level="consider",
            title=f"{100 * waiting / total:.0f} % of the time went into waiting for images",
            text="Give the loader more threads, shrink the image files, or put them nearer to the machine.",
            setting="runtime.decode_threads",
        )


def _bad_data(report: ReportInput) -> Iterator[Advice]:
    bad = [
        (split, problem)
        for split, account in report.datasets.items()
        for problem in account.problems
        if problem.severity == "bad"
    ]
    if bad:
        count = sum(problem.count for _, problem in bad)
        kinds = ", ".join(dict.fromkeys(problem.kind.replace("_", " ") for _, problem in bad))
        yield Advice(
            level="act",
            title=f"{count} images or annotations could not be used",
            text=f"{kinds[:1].upper()}{kinds[1:]}; the section on the data lists the first of each. Mend or "
            "remove them.",
        )


def _plain_call(report: ReportInput) -> Iterator[Advice]:
    plain, ours = report.scores.hf_call, report.scores.final
    if plain is None or ours is None:
        return
    name = f"{_shape(report)}_AP"
    theirs, mine = plain.metrics.get(name), ours.metrics.get(name)
    if theirs is not None and mine is not None and mine - theirs > _CLEAR:
        yield Advice(
            level="consider",
            title=f"Called with text alone, the model loses {100 * (mine - theirs):.1f} points of AP",
            text="Training appended the geometry token, and Sam3Model leaves it out when it gets no box. Pass "
            "the padded "
            "box as the model card shows, or train without the token.",
            setting="model.geometry_cls: false",
        )


def _split_gap(report: ReportInput) -> Iterator[Advice]:
    final, course = report.scores.final, _course(report)
    name = report.config.evaluation.metric
    if final is None or final.split != "test" or not course:
        return
    on_valid = max(item.metrics.get(name) or 0.0 for item in course)
    on_test = final.metrics.get(name)
    if on_test is not None and on_valid - on_test > 0.1:
        yield Advice(
            level="consider",
            title=f"{name} is {100 * on_valid:.1f} on the selecting split and {100 * on_test:.1f} on test",
            text="The splits differ. Check that they come from the same cameras, times and annotators, and that no "
            "near-copies of training images stand in the selecting split.",
        )


_RULES: tuple[Callable[[ReportInput], Iterator[Advice]], ...] = (
    _random_weights,
    _worse_than_before,
    _few_updates,
    _skipped,
    _bad_data,
    _still_improving,
    _weak_classes,
    _loose_boxes,
    _small_objects,
    _dropped_objects,
    _crowded_evaluation,
    _false_positives,
    _split_gap,
    _plain_call,
    _waiting,
)
"""Every rule, in the order in which advice of the same level is shown."""
