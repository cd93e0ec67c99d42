"""Names of the release before still lead to what they meant."""

from importlib import import_module
from pkgutil import resolve_name

import pytest

from workbench import concepts, models, patterns, proofs, prototypes, reports
from workbench.renamed import OLD


@pytest.mark.parametrize("package", OLD)
def test_an_old_name_is_the_new_thing_and_says_so(package):
    for name, place in OLD[package].items():
        with pytest.warns(DeprecationWarning, match=rf"{package}.{name} is workbench\.\S+ now"):
            found = getattr(import_module(package), name)
        assert found is resolve_name(place)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_imports_work():
    from workbench.patterns import verify
    from workbench.patterns.verify import read_vnnlib

    assert read_vnnlib is proofs.read_vnnlib
    assert verify.verify is patterns.verify.verify is proofs.prove
    assert models.evaluate is models.measure
    assert reports.record is reports.result
    assert prototypes.concepts is concepts.extract
    with pytest.raises(AttributeError, match="evaluated"):
        models.evaluated  # noqa: B018
