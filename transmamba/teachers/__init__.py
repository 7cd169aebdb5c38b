"""Teachers: pre-trained Transformers, read through the names of their parts."""

from transmamba.teachers.clip import ClipOutput, ClipTeacher, create_clip
from transmamba.teachers.llava import LlavaTeacher, create_llava_teacher
from transmamba.teachers.spec import TeacherSpec
from transmamba.teachers.teacher import Teacher, TeacherOutput, create_teacher

__all__ = [
    "ClipOutput",
    "ClipTeacher",
    "LlavaTeacher",
    "Teacher",
    "TeacherOutput",
    "TeacherSpec",
    "create_clip",
    "create_llava_teacher",
    "create_teacher",
]
