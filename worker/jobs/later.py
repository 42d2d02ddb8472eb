"""How a job says that it is not finished. Jobs do not import RQ, which runs them again when they raise and may be."""


class TryLater(Exception):  # it never leaves worker.jobs and their runner: the error tree is for what crosses rooms
    """What the job does cannot be done now; the message says why, without personal data."""
