"""Control planes that the tests of one process share, so that they can be ended before the process is."""

from control_plane import ControlPlane

_shared: list[ControlPlane] = []


def shared(plane: ControlPlane) -> ControlPlane:
    """Return a control plane, of which is known from now on that others than its fixture may end it."""
    _shared.append(plane)
    return plane


def end_control_planes() -> None:
    """End those that are shared; what they have written, the audit log with it, stays for their fixtures to read."""
    while _shared:
        _shared.pop().stop()
