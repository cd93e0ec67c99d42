"""Kernels of very wide networks: `Wide`, what learns with it, `empirical_ntk` of any."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "machines": ["KernelClassifier", "factor", "solve"],
        "processes": ["GaussianProcess", "StudentTProcess"],
        "wide": ["RELU", "Dual", "Wide", "dual", "empirical_ntk", "series"],
    },
)
