"""The old place of `workbench.proofs`."""

from functools import partial

from workbench import proofs
from workbench.renamed import renamed

__getattr__ = renamed(__name__, partial(getattr, proofs))
