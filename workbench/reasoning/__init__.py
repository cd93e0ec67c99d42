"""Reasoning step by step, on worlds whose truth is known: of each step, and of each beginning.

A `World` says what can be said next and what is right; a policy proposes, a verifier scores, and
`search` puts the two together, each call of the policy counted by a `Budget`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "gpt": ["Reader", "TinyGPT", "learn", "sample"],
        "pixels": ["Debate", "debate"],
        "search": [
            *("Bisected", "Budget", "Found", "beam", "best_of", "bisect", "careless"),
            *("first_error", "mcts", "rollouts", "vote"),
        ],
        "small_model": ["smollm"],
        "worlds": ["Chain", "Programs", "TwentyFour", "World"],
    },
)
