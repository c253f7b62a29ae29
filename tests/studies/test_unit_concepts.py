"""The study on units and concepts: what its table holds, how its criteria decide, and what they say of the sample networks."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from workbench.errors import OptionError
from workbench.studies import STUDIES, StudyResult
from workbench.studies.unit_concepts import CLAIMS, LAYERS, SEEDS, Finding, conclude, run


@pytest.fixture(scope="module")
def small() -> tuple[StudyResult, list[tuple[int, int, str]]]:
    """One network on a few images, and the progress that was told."""
    told: list[tuple[int, int, str]] = []
    return run(20, models=("shapes-vgg",), progress=lambda *step: told.append(step)), told


def test_one_row_per_layer_and_draw(small: tuple[StudyResult, list[tuple[int, int, str]]]) -> None:
    table = small[0].table
    layers = LAYERS["shapes-vgg"]
    assert len(table) == len(layers) * (1 + 2 * len(SEEDS))
    assert table.groupby("basis")["draw"].nunique().to_dict() == {
        "trained": 1,
        "random": len(SEEDS),
        "rotated": len(SEEDS),
    }
    for what in ("detectors", "unique", "iou"):
        assert (table[f"{what}_low"] <= table[what]).all()
        assert (table[what] <= table[f"{what}_high"]).all()
    kinds = [name for name in table.columns if name.startswith("share ") and not name.endswith((" low", " high"))]
    by_kind = (table[kinds].sum(axis=1) * table["units"]).round(6)
    assert (by_kind == table["detectors"]).all()  # every detector has one best concept, of one category


def test_the_summary_names_the_ceiling_beside_the_best_iou(
    small: tuple[StudyResult, list[tuple[int, int, str]]],
) -> None:
    counts, shares, attainable, claims = small[0].summary.values()
    assert len(counts) == 3 * len(shares) == 3 * len(LAYERS["shapes-vgg"])
    assert list(attainable["category"]) == ["colour", "object", "part", "texture", "scene"]
    assert {"attainable IoU", "best IoU"} <= set(attainable.columns)
    assert list(claims["claim"]) == list(CLAIMS)


def test_progress_is_told_to_the_end_and_json_holds_the_record(
    small: tuple[StudyResult, list[tuple[int, int, str]]],
) -> None:
    found, told = small
    assert [done for done, _, _ in told] == list(range(1, told[0][1] + 1))
    record = json.loads(json.dumps(found.record(), default=str))
    assert record["verdict"] == found.verdict
    assert record["provenance"]["digests"].keys() == {"probe", "shapes-vgg"}


def test_the_verdict_follows_from_the_findings() -> None:
    def verdict(*holds: bool | None) -> str:
        return conclude([Finding("net", CLAIMS[i], "1", one) for i, one in enumerate(holds)])[0]

    assert verdict(True, True) == "confirmed"
    assert verdict(False, False) == "refuted"
    assert verdict(True, False) == "mixed"
    assert verdict(False, None) == "mixed"
    assert (
        f"{CLAIMS[1]}: 0 of 1" in conclude([Finding("net", claim, "1", claim == CLAIMS[0]) for claim in CLAIMS[:2]])[1]
    )


def test_it_refuses_what_it_cannot_do() -> None:
    with pytest.raises(OptionError, match="no such network"):
        run(20, models=("digits-mlp",))
    with pytest.raises(OptionError, match="at least 10"):
        run(5)
    assert STUDIES["unit-concepts"].run is run


@pytest.mark.slow
def test_what_is_written_about_the_sample_networks_is_measured() -> None:
    found = run()
    claims = found.summary["Claims"].set_index(["network", "claim"])
    words = claims.iloc[:, -1]
    for network in ("shapes-vgg", "shapes-resnet"):
        assert words[network, CLAIMS[0]] == "holds"
        assert words[network, CLAIMS[4]] == "holds"
    assert words["shapes-vgg", CLAIMS[1]] == "holds"
    assert found.verdict == "mixed"
    vgg = found.table.query("model == 'shapes-vgg'").set_index(["basis", "layer", "draw"])
    trained = sum(vgg.loc[("trained", layer, 0), "detectors"] for layer in ("relu5", "relu6"))
    random = [sum(vgg.loc[("random", layer, i), "detectors"] for layer in ("relu5", "relu6")) for i in SEEDS]
    assert trained >= 10 * max(random)  # the preliminary study's figure: 94 of 128 against 0
    shares = [vgg.loc[("trained", layer, 0), ["share part", "share object"]].sum() for layer in LAYERS["shapes-vgg"]]
    assert all(early < late for early, late in pairwise(shares))
    assert found.provenance["seconds"] < 300
