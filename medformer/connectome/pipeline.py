"""The steps from one atlas's connections to what a classifier sees, as one unfitted scikit-learn pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sklearn.pipeline import Pipeline

from medformer.connectome.block_transformer import SelectAtlas, WithoutCovariates
from medformer.connectome.columns import Columns
from medformer.connectome.combat import ComBat
from medformer.connectome.confounds import ConfoundRegression
from medformer.connectome.measures import MEASURES
from medformer.connectome.scales import Deviation, FeatureScale, FisherZ, SubjectScale
from medformer.errors import UnknownNameError
from medformer.registry import Entry, Registry

SCALES: Registry[type[SubjectScale | FeatureScale | Deviation] | None] = Registry(
    "scale",
    [
        Entry("none", None, "connections as they are"),
        Entry("subject", SubjectScale, "each subject's connections to mean 0 and deviation 1"),
        Entry("deviation", Deviation, "the same, less the mean of the training subjects, over one deviation for all"),
        Entry("feature", FeatureScale, "each connection to mean 0 and deviation 1 over the training subjects"),
    ],
)

HARMONIZATIONS: Registry[type[ComBat] | None] = Registry(
    "harmonization",
    [
        Entry("none", None, "sites as they are"),
        Entry(
            "combat", ComBat, "shift and scale of each site removed", paper="Johnson et al. 2007; Fortin et al. 2017"
        ),
    ],
)

UNSEEN_SITE = ("pooled", "error")


def feature_pipeline(
    columns: Columns,
    atlas: str,
    *,
    fisher: bool = True,
    confounds: Sequence[str] = (),
    harmonize: Literal["none", "combat"] = "none",
    preserve: Sequence[str] = ("age", "sex"),
    unseen_site: Literal["pooled", "error"] = "pooled",
    scale: Literal["none", "subject", "feature", "deviation"] = "none",
) -> Pipeline:
    """Wire the steps of one atlas: select, transform, harmonize, regress, scale, and drop the covariates.

    It maps (n, `columns.width`) to (n, size of the atlas's block), and learns from training rows alone, without labels.
    The tangent space is part of it where that is the measure.

    Args:
        columns: The layout of the features.
        atlas: Which block.
        fisher: Fisher's z, where the measure is a correlation coefficient (correlation, partial); no other has one.
        confounds: Covariates whose linear effect is removed.
        harmonize: A name in `HARMONIZATIONS`.
        preserve: Covariates whose effect ComBat keeps.
        unseen_site: What ComBat does with a site without training subjects: leave it (`"pooled"`), or stop.
        scale: A name in `SCALES`.

    Raises:
        ConfigError: There is no such atlas, covariate or name.
    """
    measure = columns.block(atlas).measure
    if unseen_site not in UNSEEN_SITE:
        raise UnknownNameError("policy for unseen sites", unseen_site, UNSEEN_SITE)
    steps: list[tuple[str, Any]] = [("atlas", SelectAtlas(columns, atlas))]
    if measure == "tangent":
        from medformer.connectome.tangent import TangentSpace

        steps.append(("tangent", TangentSpace(columns)))
    elif fisher and MEASURES[measure].part.coefficient:
        steps.append(("fisher", FisherZ(columns)))
    if HARMONIZATIONS[harmonize].part:
        for name in ("site", *preserve):
            columns.covariate(name)
        steps.append(("combat", ComBat(columns, tuple(preserve), unseen_site)))
    if confounds:
        for name in confounds:
            columns.covariate(name)
        steps.append(("confounds", ConfoundRegression(columns, tuple(confounds))))
    scaler = SCALES[scale].part
    if scaler:
        steps.append(("scale", scaler(columns)))
    steps.append(("block", WithoutCovariates(columns)))
    return Pipeline(steps)
