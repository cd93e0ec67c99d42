"""Networks that take noise out of images: trained, looked into, and run backwards to paint."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "networks": ["Denoiser", "fit"],
        "reading": ["Basis", "basis", "sample", "score"],
    },
)
