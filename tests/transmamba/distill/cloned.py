"""What subcloning left in a student, by name, and a config of it for mixers."""

from transmamba.distill import SubcloneConfig


def rows(report):
    return {row.tensor: row for row in report.rows}


def values(student):
    return {name: p.detach().clone() for name, p in student.named_parameters()}


def vo(mixer="vo", **options):
    return SubcloneConfig(mixer=mixer, early=3, mixer_scale=False, **options)
