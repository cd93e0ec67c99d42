"""Panels: what is shown and clicked. What they compute lives in `workbench`."""

import lazy_loader

from workbench.renamed import renamed

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "attack_panel": ["AttackPanel"],
        "bench": ["Bench"],
        "compression_panel": ["CompressionPanel"],
        "concept_panel": ["ConceptPanel"],
        "debate_panel": ["DebatePanel"],
        "defence_panel": ["DefencePanel"],
        "draw_pad": ["DrawPad"],
        "eps_panel": ["EpsPanel"],
        "evaluation_panel": ["EvaluationPanel"],
        "forgetting_panel": ["ForgettingPanel"],
        "form": ["Form"],
        "job": ["Job"],
        "level_set_panel": ["LevelSetPanel"],
        "model_panel": ["ModelPanel"],
        "panel": ["Panel"],
        "pattern_panel": ["PatternPanel"],
        "prototype_panel": ["PrototypePanel"],
        "reasoning_panel": ["ReasoningPanel"],
        "region_panel": ["RegionPanel"],
        "search_panel": ["SearchPanel"],
        "selection": ["Selection"],
        "proof_panel": ["ProofPanel"],
        "training_panel": ["TrainingPanel"],
        "treatment_panel": ["TreatmentPanel"],
    },
)
__getattr__ = renamed(__name__, __getattr__)
