"""Statements of the reports' graphs in the form in which they travel, and written out."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data.frames import Frame
from data.graph_statements import GraphWeights, graph_statements
from data.label_space import REGIONS
from tests.mini_index import ENTITIES, write_mini_index

WEIGHTS = GraphWeights(unstated=0.1, default=0.3)
ABSENT, PRESENT, IN_ONE = 0, 1, 2
ENTITY_IDS = range(1, 2 + len(ENTITIES))  # with "unknown"

statements = st.lists(
    st.tuples(
        st.lists(st.sampled_from(range(5)), min_size=1, max_size=3, unique=True),
        st.sampled_from(ENTITY_IDS),
        st.sampled_from([ABSENT, PRESENT, IN_ONE]),
        st.integers(0, 1),
    ),
    max_size=8,
)


def by_hand(findings):
    """(R, E) present and weight of one image, statement by statement in the order of their say."""
    present = np.zeros((len(REGIONS), 2 + len(ENTITIES)))
    weight = np.full_like(present, WEIGHTS.unstated if findings else 0)
    for kind in (IN_ONE, ABSENT, PRESENT):
        for from_report in (0, 1):
            for regions, entity, own_kind, own_report in findings:
                if (own_kind, own_report) != (kind, from_report) or (kind == IN_ONE and entity < 2):
                    continue
                for region in regions:
                    present[region, entity] = kind == PRESENT
                    weight[region, entity] = 0 if kind == IN_ONE else (1.0 if from_report else WEIGHTS.default)
    weight[:, :2] = 0
    return present, weight


@settings(max_examples=60, deadline=None)
@given(st.lists(statements, min_size=1, max_size=4))
def test_each_cell_holds_what_counts_there(tmp_path_factory, of_images):
    studies = [{"split": "train", "findings": findings} for findings in of_images]
    index = write_mini_index(tmp_path_factory.mktemp("i") / "i", studies)
    rows = np.arange(len(of_images))
    found = graph_statements(index, rows, Frame.letterbox(np.full(len(rows), 16), np.full(len(rows), 16)), WEIGHTS)
    graph = found.written_out()
    unions = []
    for image, findings in enumerate(of_images):
        present, weight = by_hand(findings)
        np.testing.assert_array_equal(graph.present[image], present)
        np.testing.assert_allclose(graph.weight[image], weight, rtol=1e-6)
        unions += [(image, e, sorted(r), s) for r, e, kind, s in findings if kind == IN_ONE and e >= 2]
    columns = found.union_image, found.union_entity, found.union_regions, found.union_weight
    stored = [
        (int(i), int(e), r.nonzero().flatten().tolist(), int(w == 1)) for i, e, r, w in zip(*columns, strict=True)
    ]
    assert sorted(stored) == sorted(unions)
    np.testing.assert_allclose(found.statement_weight(0.1), graph.statement_weight(0.1), rtol=1e-5)
