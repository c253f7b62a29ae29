"""Public names, the registry, and what importing this folder does not drag in."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import attacks

ROOT = Path(__file__).parents[2]


def test_public_names() -> None:
    assert len(set(attacks.__all__)) == len(attacks.__all__)
    assert set(attacks.__all__) == {
        *("ATTACKS", "PRESETS", "Attack", "AttackError", "AttackResult", "Binarisation", "Evaluation", "Stage"),
        *(
            "TransferMatrix",
            "apgd",
            "apgd_dlr",
            "apgd_t",
            "attack",
            "binarisation_test",
            "cw",
            "ddn",
            "deepfool",
            "evaluate",
        ),
        *("GeneratorEvaluation", "MultiTargetGenerator", "evaluate_generator", "load_generator", "save_generator"),
        "train_generator",
        *("fab", "fab_t", "fgsm", "fmn", "listing", "mifgsm", "pgd", "rfgsm", "square", "superdeepfool", "transfer"),
    }
    assert all(hasattr(attacks, name) for name in attacks.__all__)


def test_importing_a_file_does_not_hide_the_function_of_its_name() -> None:
    import attacks.fgsm
    import attacks.pgd
    import attacks.transfer

    assert all(inspect.isfunction(one) for one in (attacks.fgsm, attacks.pgd, attacks.transfer))


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_registry_entries_are_whole(name) -> None:
    attack = attacks.ATTACKS[name]
    assert (
        attack.name == name and attack.description and attack.title and set(attack.norms) <= {"linf", "l2", "l1", "l0"}
    )
    assert attack.paper in inspect.getmodule(attack.function).__doc__.split("\n\n")[0]
    names = list(inspect.signature(attack.function).parameters)
    assert names[:6] == ["model", "x", "labels", "epsilon", "norm", "targeted"]
    assert attack.passes(attack.options) >= 1


def test_configured_attacks_show_their_options() -> None:
    attack = attacks.ATTACKS["pgd"].configured({"steps": 3, "restarts": 2})
    assert attack.options["steps"] == 3 and attack.passes(attack.options) == 8
    assert attacks.ATTACKS["pgd"].options["steps"] == 20


def test_presets_name_attacks() -> None:
    for stages in attacks.PRESETS.values():
        assert {stage.attack.name for stage in stages} <= set(attacks.ATTACKS)


def test_import_stands_alone() -> None:
    code = (
        "import sys, attacks; heavy = {'workbench', 'explain', 'streamlit', 'plotly', 'pandas', 'foolbox', 'scipy', "
        "'captum', 'ray'}; print(sorted(heavy & set(name.split('.')[0] for name in sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
