"""The signals that tell a process to stop."""

import signal


def stop_signals() -> list[signal.Signals]:
    """Lists the signals to heed: SIGTERM, and SIGINT unless the process was started ignoring it.

    A shell lets what runs in its background ignore SIGINT, since Control-C is meant for what runs
    in the foreground; both get it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return [signal.SIGTERM]
    return [signal.SIGTERM, signal.SIGINT]
