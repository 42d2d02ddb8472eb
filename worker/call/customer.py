"""stub"""


def render(record):
    return str(record)
