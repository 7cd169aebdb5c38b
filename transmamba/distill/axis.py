"""One dimension of the weights: which of its indices a student takes over from its teacher."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Axis:
    """Which teacher indices go to which student indices along one dimension."""

    name: str
    teacher: Tensor
    student: Tensor
    n_teacher: int
    n_student: int

    @classmethod
    def choose(cls, name: str, scores: Tensor | None, n_teacher: int, n_student: int) -> Axis:
        """Keep the highest ``scores`` (the first without any) of a wider teacher, or centre a narrower one."""
        n = min(n_teacher, n_student)
        taken, filled = torch.arange(n), torch.arange(n)
        if n_student < n_teacher and scores is not None:
            # A stable sort makes equal scores keep the order of the channels, on every machine.
            taken = scores.sort(descending=True, stable=True).indices[:n].sort().values
        if n_student > n_teacher:
            # In the middle, where calibration pads the teacher's features to the student's width.
            filled = filled + (n_student - n_teacher) // 2
        return cls(name, taken, filled, n_teacher, n_student)

    @property
    def scale(self) -> float:
        """Keeps the size of a sum over this axis; inputs a wider student has in addition are its own."""
        return math.sqrt(self.n_teacher / self.n_student) if self.n_student < self.n_teacher else 1.0

    @property
    def indices(self) -> list[int]:
        """Of the wider side: what was taken from the teacher, or filled in the student."""
        return (self.teacher if self.n_student <= self.n_teacher else self.student).tolist()

    def describe(self) -> str:
        """For the report; empty where both sides are equally wide."""
        if self.n_student == self.n_teacher:
            return ""
        if self.n_student < self.n_teacher:
            return f"{self.n_student} of {self.n_teacher} {self.name}"
        return f"{self.n_teacher} {self.name} into {self.n_student}"
