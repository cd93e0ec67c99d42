"""Learning one task after another: streams of tasks, learners, and the matrix of what is kept.

`Replay(per_task=20)(split(training, test, 5), recipe)` gives a `Continual`; `Joint` is the ceiling
and `FineTune` the floor, to be shown beside every other.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "streams": ["Task", "by_factor", "permuted", "rotated", "split", "unannounced"],
        "result": ["Continual"],
        "learners": ["FineTune", "Joint", "Learner"],
        "replaying": ["DistilAlign", "Replay", "align_head", "head_norms"],
        "importance": ["Importance", "importance"],
        "experts": ["Experts"],
    },
)
