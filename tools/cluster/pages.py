"""Pages that a program of this machine serves beside its work: probes and metrics."""

import http.client

from ports import HOST


def page(port: int, path: str, *, within_s: float) -> tuple[int, str]:
    """Return status and body of a page at a port of loopback; 0 and no body when nobody answers.

    Args:
        port: where the program listens.
        path: of the page, with the slash in front.
        within_s: seconds to wait for each piece of the answer.

    Raises:
        http.client.HTTPException: it answers, but not in HTTP, or not to the end.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=within_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()
