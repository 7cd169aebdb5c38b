"""Teachers: pre-trained Transformers, read through the names of their parts."""

from transmamba.teachers.clip import ClipOutput, ClipTeacher, create_clip
from transmamba.teachers.spec import TeacherSpec
from transmamba.teachers.teacher import Teacher, TeacherOutput, create_teacher

__all__ = [
    "ClipOutput",
    "ClipTeacher",
    "Teacher",
    "TeacherOutput",
    "TeacherSpec",
    "create_clip",
    "create_teacher",
]
