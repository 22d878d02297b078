"""What can go wrong in the world outside, in one tree: bad data is a value and wrong code an assertion instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TidemarkError(Exception):
    """A foreseeable failure: its text is one line that says why and what to do.

    The tree, with the exit code of the command that meets it:

    - TidemarkError         1  anything else foreseeable
      - WrongSettings       2  the environment or the command line; every wrong setting is named at once
      - Unavailable         1  Kafka or Redis does not answer (yet): trying again may help
      - Denied              1  Kafka does not let us in: certificate, user, password or rights
      - Refused             1  going on would count wrongly: a person has to decide
        - CutLog            1  the record to be read next is not in the log
      - Foreign             1  another worker owns what this one is about to write: this one has to go
    """

    exit_code = 1


class WrongSettings(TidemarkError):
    """Settings that cannot be used; `lines` has one line per wrong setting."""

    exit_code = 2

    def __init__(self, lines: tuple[str, ...]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class Unavailable(TidemarkError):
    """Kafka or Redis does not answer, or not in time."""


class Denied(TidemarkError):
    """Who we are, whom we trust or what we may do is not what Kafka wants: the same try again fails again."""


class Refused(TidemarkError):
    """What was found contradicts what was committed: no retry makes it right."""


class CutLog(Refused):
    """Kafka does not have the record that is to be read next: the log was cut, or it is another topic by that name."""


class Foreign(TidemarkError):
    """Another owner has moved a partition's mark. This process must not go on; started again it is as good as any."""


@contextmanager
def readable(owner: int | str) -> Iterator[None]:
    """What is stored in a form this program does not know is a person's matter, not a traceback."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as problem:
        where = f"partition {owner}" if isinstance(owner, int) else f"the {owner}"
        raise Refused(
            f"what Redis holds of {where} cannot be read ({problem!r}): run the version of Tidemark that wrote it, "
            "or restore Redis"
        ) from problem


def repartitioned(now: int, counted: int) -> Refused:
    """What to raise when the topics have another number of partitions than what is in Redis was counted with."""
    if now > counted and now % counted == 0:
        advice = "stop all workers, then run `tidemark repartition`"
    elif now > counted:
        advice = f"add partitions up to {now + counted - now % counted}, a multiple, then run `tidemark repartition`"
    else:
        advice = f"recreate them with {counted}, or count them in an empty Redis database"
    return Refused(f"the topics have {now} partitions, what is in Redis was counted with {counted}: {advice}")
