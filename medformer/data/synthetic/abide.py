"""A synthetic cohort written as the Preprocessed Connectomes Project lays ABIDE out, with the truth beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from medformer.data.connectomes.read.series import label_table, write_series
from medformer.data.synthetic.abide_scans import PAIRS, REGIONS, Pair, Planted, Scan, SyntheticAbide
from medformer.errors import ConfigError, DataError
from medformer.files import read_json, write_csv, write_json

PHENOTYPE_FILE = "Phenotypic_V1_0b_preprocessed1.csv"
PLANTED_FILE = "planted.json"

# Of the 106 columns of the real table, those that say something about a synthetic subject, in its order.
_COLUMNS = (
    "",
    "Unnamed: 0",
    "SUB_ID",
    "X",
    "subject",
    "SITE_ID",
    "FILE_ID",
    "DX_GROUP",
    "DSM_IV_TR",
    "AGE_AT_SCAN",
    "SEX",
    "FIQ",
    "EYE_STATUS_AT_SCAN",
    "func_mean_fd",
    "qc_rater_1",
    "qc_notes_rater_1",
    "qc_anat_rater_2",
    "qc_anat_notes_rater_2",
    "qc_func_rater_2",
    "qc_func_notes_rater_2",
    "qc_anat_rater_3",
    "qc_anat_notes_rater_3",
    "qc_func_rater_3",
    "qc_func_notes_rater_3",
    "SUB_IN_SMP",
)
_RATINGS = ("qc_rater_1", "qc_anat_rater_2", "qc_func_rater_2", "qc_anat_rater_3", "qc_func_rater_3")


def write_synthetic_abide(
    folder: Path,
    *,
    subjects: int = 120,
    regions: Mapping[str, int] = REGIONS,
    sites: int = 4,
    effect: float = 1.0,
    pairs: tuple[Pair, ...] = PAIRS,
    site_effect: float = 1.0,
    volumes: int = 160,
    seed: int = 0,
    pipeline: str = "cpac",
    strategy: str = "filt_noglobal",
) -> Planted:
    """Write a cohort and what the diagnosis acts on.

    `Outputs/<pipeline>/<strategy>/rois_<atlas>/<id>_rois_<atlas>.1D` holds the series and `Phenotypic_V1_0b_...csv` the
    subjects, as in the project (dos160 is called dosenbach160 there). Beside them stand `planted.json`, which
    `read_planted` reads, and `Outputs/labels/<atlas>_labels.csv` with index, name, network, x, y, z of every region.

    Args:
        folder: Where to; created if missing.
        subjects: Number of subjects; half of each site's (rounded down) carry the diagnosis.
        regions: Number of regions of each atlas, at least 12. Give an atlas of another size than the real one another
            name: readers refuse an `aal` that has not 116 regions.
        sites: Number of scanners.
        effect: Shift of the diagnosed subjects' couplings, in standard deviations between subjects; 0 for none. Of 120
            subjects with 1, cohorts differ: a ridge reaches an AUC of 0.62 to 0.83 in 10 folds, and of the edges that
            a t-test ranks highest, 79 to 100 % are planted ones; with 2, it is 0.90 to 0.98 and all.
        pairs: The pairs of networks whose coupling the diagnosis shifts, and in which direction.
        site_effect: Strength of what a scanner does to signals; 0 for none.
        volumes: Length of a scan on average.
        seed: Same seed, same files.
        pipeline: Name of the folder of the preprocessing pipeline.
        strategy: Name of the folder of the filtering strategy.

    Raises:
        ConfigError: A number or a network that makes no sense.
        ResourceError: The folder is not writable or the disk is full.
    """
    if subjects < 1:
        raise ConfigError(f"Got subjects={subjects}; expected at least one.")
    cohort = SyntheticAbide(
        regions, sites=sites, effect=effect, pairs=pairs, site_effect=site_effect, volumes=volumes, seed=seed
    )
    folder = Path(folder)
    series = folder / "Outputs" / pipeline / strategy
    rows = []
    for index in range(subjects):
        scan = cohort.scan(index)
        for name, values in scan.series.items():
            write_series(series, scan.id, name, values, range(1, values.shape[1] + 1))
        rows.append(_phenotype(index, scan))
    write_csv(folder / PHENOTYPE_FILE, rows, _COLUMNS)
    for name, atlas in cohort.atlases.items():
        columns = ("index", "name", "network", "x", "y", "z")
        write_csv(label_table(folder, name), atlas.table(), columns)
    planted = cohort.planted
    write_json(
        folder / PLANTED_FILE,
        {
            "effect": planted.effect,
            "pairs": [list(pair) for pair in planted.pairs],
            "sizes": {name: int(edges.size) for name, edges in planted.edges.items()},
            "planted": {name: np.flatnonzero(edges).tolist() for name, edges in planted.edges.items()},
        },
    )
    return planted


def read_planted(folder: Path) -> Planted:
    """Read the truth of a written cohort.

    Raises:
        DataError: The folder holds none, or the file is not what `write_synthetic_abide` wrote.
    """
    path = Path(folder) / PLANTED_FILE
    try:
        content = read_json(path)
        edges = {}
        for name, size in content["sizes"].items():
            edges[name] = np.zeros(size, bool)
            edges[name][content["planted"][name]] = True
        pairs = tuple((str(first), str(second), float(sign)) for first, second, sign in content["pairs"])
        return Planted(float(content["effect"]), pairs, edges)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; only synthetic cohorts know which edges were planted.") from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path} is not the truth of a synthetic cohort ({error}); write the cohort again.") from error


def _phenotype(index: int, scan: Scan) -> dict[str, str | int]:
    return {
        **dict.fromkeys(_COLUMNS, ""),
        **dict.fromkeys(_RATINGS, "OK"),
        "": index,
        "Unnamed: 0": index + 1,
        "X": index + 1,
        "SUB_ID": scan.number,
        "subject": scan.number,
        "SITE_ID": scan.site,
        "FILE_ID": scan.id,
        "DX_GROUP": 1 if scan.label == 1 else 2,
        "DSM_IV_TR": scan.label,
        "AGE_AT_SCAN": f"{scan.person.age:.2f}",
        "SEX": 1 if scan.person.sex == "M" else 2,
        "EYE_STATUS_AT_SCAN": 1,
        "func_mean_fd": f"{scan.person.mean_fd:.6f}",
        "SUB_IN_SMP": 1,
    }
