"""Run the command line, as `python -m worker` and as `session-worker`.

The signal handlers are installed first. The imports of the commands take a second, in which process 1 of a container
would lose a SIGTERM.
"""

from worker.signals import Ending


def main() -> None:
    """Install the handlers of the signals, then import and run the commands."""
    ending = Ending()
    ending.install()
    from worker.cli import main as commands  # noqa: PLC0415 (slow)

    commands(obj=ending)


if __name__ == "__main__":
    main()
