from __future__ import annotations

import pickle

import pytest

from medformer.connectome.columns import Columns, FeatureBlock
from medformer.errors import ConfigError, UnknownNameError


def test_blocks_lie_side_by_side_and_covariates_after_them() -> None:
    columns = Columns(
        (FeatureBlock("aal", "correlation", 4), FeatureBlock("ho", "tangent", 3)), ("age", "site"), ("a", "b")
    )
    assert columns.slice("aal") == slice(0, 6)
    assert columns.slice("ho") == slice(6, 12)
    assert (columns.edges, columns.width) == (12, 14)
    assert (columns.covariate("age"), columns.covariate("site")) == (12, 13)
    assert columns.covariate_position("site") == 1
    assert pickle.loads(pickle.dumps(columns)) == columns


def test_a_block_holds_the_diagonal_where_its_measure_does() -> None:
    assert FeatureBlock("aal", "correlation", 116).size == 6670
    assert FeatureBlock("aal", "tangent", 116).size == 6786


def test_what_is_not_there_is_named() -> None:
    columns = Columns((FeatureBlock("aal", "correlation", 4),), ("age",))
    with pytest.raises(ConfigError, match=r"'cc200'.*aal"):
        columns.slice("cc200")
    with pytest.raises(ConfigError, match=r"'sex'.*age"):
        columns.covariate("sex")


def test_layouts_that_make_no_sense_are_refused() -> None:
    block = FeatureBlock("aal", "correlation", 4)
    with pytest.raises(UnknownNameError, match="correlation"):
        FeatureBlock("aal", "correlaton", 4)
    with pytest.raises(ConfigError, match="1 region"):
        FeatureBlock("aal", "correlation", 1)
    with pytest.raises(ConfigError, match="one block per atlas"):
        Columns((block, block))
    with pytest.raises(ConfigError, match="iq"):
        Columns((block,), ("iq",))
    with pytest.raises(ConfigError, match="names"):
        Columns((block,), ("site",))
