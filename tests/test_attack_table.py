"""One table names every attack; the registry is read from it, and from what packages offer."""

import importlib
import pkgutil
from importlib.metadata import EntryPoint

import pytest

from workbench import attacks, registry
from workbench.attacks import Attack


def descendants(kind):
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_an_attack_in_a_file_of_its_own_is_entered_by_name():
    for module in pkgutil.iter_modules(attacks.__path__):
        importlib.import_module(f"{attacks.__name__}.{module.name}")
    written = {
        kind.__name__
        for kind in descendants(Attack)
        if kind.__module__.startswith(attacks.__name__) and "title" in vars(kind)
    }
    assert set(attacks.available()) == written - {"Wrapped"}  # what `wrap` makes of a function
    assert next(iter(attacks.available())) == "FGSM"  # the order is the table's


@pytest.fixture
def offered(monkeypatch):
    """Offers an object as a package would, under the name that is given."""

    def offer(name, value):
        entry = EntryPoint(name, value, "workbench.attacks")
        offers = {entry.group: [entry]}
        monkeypatch.setattr(registry, "entry_points", lambda group: offers[group])
        return attacks.registry.available.__wrapped__()

    return offer


def test_a_package_offers_an_attack_under_a_name_of_its_own(offered):
    known = offered("Mine", "workbench.attacks.pgd:PGD")
    assert list(known) == [*attacks.available(), "Mine"]
    assert known["Mine"] is attacks.PGD


@pytest.mark.parametrize("value", ["workbench.attacks.base:MinimumNorm", "pathlib:Path"])
def test_what_is_no_attack_is_refused_by_name(offered, value):
    said = f"'Mine' of {value}: expected a subclass of Attack with a title"
    with pytest.raises(TypeError, match=said):
        offered("Mine", value)
