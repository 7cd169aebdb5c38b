"""Teachers: pre-trained Transformers, read through the names of their parts."""

from transmamba.teachers.spec import TeacherSpec
from transmamba.teachers.teacher import Teacher, TeacherOutput, create_teacher

__all__ = ["Teacher", "TeacherOutput", "TeacherSpec", "create_teacher"]
