"""One run: is it learning, when is it done, what is wasted, what is broken."""

from dashboards.panels import Mark, Panel, Query, Row, Variable, dashboard_json

UID = "sam3ft-run"
_RUN = 'namespace="$namespace", job_name="$run"'
_ANY = '{__name__=~"sam3ft_job_info|sam3ft_group_state"'


def _of(metric: str, *labels: str, where: str = "") -> str:
    """Return the run's series of a gauge: every replica of the operator shows what a status holds."""
    return f"max by ({', '.join(labels)}) ({metric}{{{_RUN}{', ' * bool(where)}{where}}})"


def _rate(metric: str, *labels: str) -> str:
    return f"sum by ({', '.join(labels)}) (rate({metric}{{{_RUN}}}[$__rate_interval]))"


def _quantile(share: float) -> str:
    return f"histogram_quantile({share}, {_rate('sam3ft_train_step_duration_seconds_bucket', 'le')})"


_STANDS = Row(
    "Where it stands",
    (
        Panel(
            "number",
            "Phase",
            "Where the run stands, from its status. `sam3ft explain` says why it is not running.",
            "short",
            (Query(_of("sam3ft_job_phase", "phase") + " > 0", "{{phase}}"),),
            width=4,
            height=4,
        ),
        Panel(
            "number",
            "Progress",
            "Finished over planned optimizer steps. A restart goes back to the newest checkpoint.",
            "percentunit",
            (Query(_of("sam3ft_train_step") + " / " + _of("sam3ft_train_planned_steps")),),
            width=4,
            height=4,
            decimals=1,
            most=1.0,
        ),
        Panel(
            "number",
            "Time to the end",
            "Estimated from the recent steps, evaluations and saves included.",
            "s",
            (Query(_of("sam3ft_train_eta_seconds")),),
            width=4,
            height=4,
            decimals=0,
        ),
        Panel(
            "number",
            "Best score",
            "Best value of the metric that selects the model; its name is training's evaluation.metric.",
            "percentunit",
            (Query(_of("sam3ft_train_best_metric")),),
            width=4,
            height=4,
            decimals=1,
        ),
        Panel(
            "number",
            "Since the last step",
            "Seconds since a step has finished. Much more than a step takes: it evaluates, saves, restarts or hangs.",
            "s",
            (Query("time() - " + _of("sam3ft_train_last_step_timestamp_seconds")),),
            width=4,
            height=4,
            decimals=0,
            thresholds=((None, "green"), (300.0, "orange"), (900.0, "red")),
        ),
        Panel(
            "number",
            "Goodput",
            "Share of all time since the start in which training was done that is kept; the rest was start, restart, "
            "stall or steps done again.",
            "percentunit",
            (Query(_of("sam3ft_job_goodput_ratio")),),
            width=4,
            height=4,
            decimals=0,
            thresholds=((None, "red"), (0.5, "orange"), (0.8, "green")),
        ),
    ),
)
_LEARNING = Row(
    "Is it learning",
    (
        Panel(
            "curves",
            "Loss",
            "Weighted sum over the global batch; it should fall, fast at first. Single steps are shown, so it jumps.",
            "short",
            (Query(_of("sam3ft_train_loss", where='component="total"'), "loss"),),
        ),
        Panel(
            "curves",
            "Loss by component",
            "Terms of the last layer before their weights; _o2m is one-to-many matching. One that does not fall says "
            "what is not learned: boxes, scores, presence or masks.",
            "short",
            (Query(_of("sam3ft_train_loss", "component", where='component!="total"'), "{{component}}"),),
        ),
        Panel(
            "curves",
            "Evaluation",
            "Every metric of the evaluations on the validation images. Falling while the loss falls is overfitting.",
            "percentunit",
            (Query(_of("sam3ft_train_eval_metric", "name"), "{{name}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Learning rate",
            "Of the transformer: warm-up, then slowly less, then the cool-down to zero.",
            "sci",
            (Query(_of("sam3ft_train_learning_rate"), "transformer"),),
        ),
        Panel(
            "curves",
            "Gradient norm",
            "Before clipping. A rise without an end comes before a loss that is not finite: lower the learning rate.",
            "short",
            (Query(_of("sam3ft_train_grad_norm"), "norm"),),
        ),
        Panel(
            "curves",
            "Scores on training batches",
            "How right the model is on the images that it is shown: F1 of found objects, presence, mask IoU.",
            "percentunit",
            (Query(_of("sam3ft_train_batch_score", "name"), "{{name}}"),),
            least=0.0,
        ),
    ),
)
_SPEED = Row(
    "How fast",
    (
        Panel(
            "curves",
            "Images a second",
            "All processes together, over the last log interval.",
            "short",
            (Query(_of("sam3ft_train_images_per_second"), "images/s"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Step time",
            "Median and 95th percentile of steps, with the wait for images, without evaluations and saves.",
            "s",
            (Query(_quantile(0.5), "p50"), Query(_quantile(0.95), "p95")),
            least=0.0,
        ),
        Panel(
            "curves",
            "Share of time waiting for images",
            "Of the rank that waited longest. Above a tenth: more CPU, a cache on the node, smaller images. With CUDA "
            "the device may still be at work while the host waits.",
            "percentunit",
            (
                Query(
                    f"{_rate('sam3ft_train_data_wait_seconds_total')} / "
                    f"{_rate('sam3ft_train_step_duration_seconds_sum')}",
                    "data wait",
                ),
            ),
            least=0.0,
        ),
        Panel(
            "curves",
            "Use of the devices' peak (MFU)",
            "FLOPs of the steps over what all devices could have done meanwhile at the peak of the precision. Empty on "
            "CPUs and on devices whose peak is not known.",
            "percentunit",
            (Query(_of("sam3ft_train_flops_utilization_ratio"), "MFU"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Forward pass, by rank",
            "Seconds of a step, in which no rank waits for another: one far above the others has slow cores. With CUDA "
            "the host's share alone, which says nothing of the device.",
            "s",
            (Query(_of("sam3ft_train_rank_step_seconds", "rank", where='part="forward"'), "rank {{rank}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Waiting for the others, by rank",
            "Seconds of a step until the slowest rank has its images. The rank with the least is the one waited for.",
            "s",
            (Query(_of("sam3ft_train_rank_step_seconds", "rank", where='part="peers"'), "rank {{rank}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Waiting for images, by rank",
            "Seconds of a step. One rank alone: its node's disk, network or cache.",
            "s",
            (Query(_of("sam3ft_train_rank_step_seconds", "rank", where='part="data"'), "rank {{rank}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "GPU memory, by rank",
            "Most that tensors held during a log interval. Empty on the CPU.",
            "bytes",
            (Query(_of("sam3ft_train_gpu_memory_bytes", "rank"), "rank {{rank}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Host memory, by rank",
            "Resident memory of each process. A steady rise ends at the pod's limit, with reason OOMKilled.",
            "bytes",
            (Query(_of("sam3ft_train_resident_memory_bytes", "rank"), "rank {{rank}}"),),
            least=0.0,
        ),
    ),
)
_SAFE = Row(
    "What would be lost",
    (
        Panel(
            "curves",
            "Age of the newest checkpoint",
            "What a failure now would cost. It falls to zero at each commit; a saw-tooth that grows needs a look.",
            "s",
            (Query("time() - " + _of("sam3ft_train_checkpoint_timestamp_seconds"), "age"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Duration of a checkpoint",
            "From the copy of the state to its entry in the log; training goes on meanwhile.",
            "s",
            (Query(_of("sam3ft_train_checkpoint_duration_seconds"), "seconds"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Size of a checkpoint",
            "Bytes of the newest commit.",
            "bytes",
            (Query(_of("sam3ft_train_checkpoint_bytes"), "bytes"),),
            least=0.0,
        ),
        Panel(
            "bars",
            "Time lost, by cause",
            "Since the start of the run, from its status: queue, start, restart, stall, steps done again.",
            "s",
            (Query(_of("sam3ft_job_lost_seconds_total", "cause"), "{{cause}}"),),
            thresholds=((None, "orange"),),
        ),
        Panel(
            "curves",
            "Skipped updates and bad images",
            "Updates left out for a loss or gradient that was not finite, and images that could not be read.",
            "short",
            (
                Query(_of("sam3ft_train_skipped_steps"), "skipped updates"),
                Query(_of("sam3ft_train_bad_images"), "bad images"),
            ),
            least=0.0,
        ),
        Panel(
            "table",
            "What is wrong now",
            "Conditions that are not as they should be, with their reasons; docs/runbook.md says what to do.",
            "short",
            (Query(_of("sam3ft_job_problem", "type", "reason")),),
            columns={"type": "Condition", "reason": "Reason"},
        ),
    ),
)
_GROUP = Row(
    "The group of nodes",
    (
        Panel(
            "curves",
            "Nodes",
            "Wanted, and those that take part; fewer than wanted is a loss that is being mended, or a queue.",
            "short",
            (
                Query(_of("sam3ft_job_nodes_desired"), "wanted"),
                Query(_of("sam3ft_job_nodes_ready"), "take part"),
                Query(_of("sam3ft_train_world_size"), "processes"),
            ),
            least=0.0,
        ),
        Panel(
            "curves",
            "Rounds begun, by cause",
            "How often the group was formed anew: first, join, lost, left, failed.",
            "short",
            (Query(_of("sam3ft_group_rounds_total", "cause"), "{{cause}}"),),
            least=0.0,
        ),
        Panel(
            "curves",
            "Silence of nodes",
            "Age of each node's newest message; above ten seconds it is taken for lost.",
            "s",
            (Query(_of("sam3ft_group_node_silence_seconds", "slot"), "node {{slot}}"),),
            least=0.0,
        ),
    ),
)
_MARKS = (
    Mark("Group formed", f"max by () (changes(sam3ft_group_round{{{_RUN}}}[$__rate_interval])) > 0", "orange"),
    Mark("Restart", f"max by () (changes(sam3ft_job_restarts_total{{{_RUN}}}[$__rate_interval])) > 0", "red"),
)


def run() -> tuple[str, str]:
    """Return the dashboard's name and its JSON."""
    text = dashboard_json(
        UID,
        "sam3ft / Run",
        "One fine-tuning run: is it learning, when is it done, what is wasted, what is broken.",
        variables=(
            Variable("namespace", "Namespace", f"label_values({_ANY}}}, namespace)"),
            Variable("run", "Run", f'label_values({_ANY}, namespace="$namespace"}}, job_name)'),
        ),
        rows=(_STANDS, _LEARNING, _SPEED, _SAFE, _GROUP),
        marks=_MARKS,
    )
    return "run", text
