"""The notebooks as a course: copies for students and teachers, for nbgrader, and as a web site."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "building": ["new_course", "student_set"],
        "checking": ["check", "graded"],
        "exercises": ["exercises", "nbgrader", "problems", "student"],
        "pages": ["gallery"],
        "overview": ["Progress", "progress"],
        "website": ["site"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
