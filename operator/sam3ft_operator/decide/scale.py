"""As many pods as `workers.nodes` says: `kubectl scale` and an edited spec are the same wish."""

from sam3ft_operator.decide.look import Look
from sam3ft_operator.decision import Resize


def scale_actions(look: Look) -> tuple[Resize, ...]:
    """Return the resizing of the open attempt's Job; none when it has its size, or while it is paused or ended.

    A Job that waits in a queue is resized too: a smaller one may be what the quota has room for.
    """
    job = look.job
    nodes = look.spec.workers.nodes
    if job is None or job.has_ended or job.is_deleted or (job.is_suspended and not look.queue):
        return ()
    if (job.parallelism, job.completions) == (nodes, nodes):
        return ()
    return (Resize(job.name, nodes),)
