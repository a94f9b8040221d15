"""The table of verbs: what the command line offers, in which words, and which function does the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from medformer.errors import ConfigError
from pipelines.flags import (
    ATLASES,
    CONFIG,
    DATA,
    DATA_ARGUMENT,
    DEVICE,
    FILE,
    FOLDER,
    GROUP_PATTERN,
    MEMORY,
    OUT,
    OVERRIDES,
    OVERWRITE,
    PIPELINE,
    RESUME,
    RUN,
    SHARE,
    STRATEGY,
    TARGET,
    UNGROUPED,
    Verb,
    argument,
    check_verb,
    evaluate_verb,
    option,
    training_verbs,
)

_REPLACE_MANIFEST = OVERWRITE.but(help="Replace the manifest at --out, with what was edited in it.")
_THRESHOLD = option("threshold", float, "Probability from which a pixel is polyp.", default=0.5, **SHARE)
_POLYP = (
    Verb(
        "prepare",
        "Turn folders of images into a manifest.",
        "The folders have a known layout.",
        "pipelines.polyp:prepare",
        (
            argument("folders", list[Path], "Folders of images and masks.", "FOLDER", **FOLDER),
            option("out", Path, "CSV manifest to write.", "FILE"),
            option(
                "layout",
                Literal["auto", "kvasir", "pranet"],
                "kvasir: images/ and masks/; pranet: TrainDataset/ and TestDataset/; auto: find out which.",
                default="auto",
            ),
            option("split", str, "A shipped named split to record.", "NAME", default=None),
            UNGROUPED,
            GROUP_PATTERN,
            option(
                "link_duplicates",
                bool,
                "Put images that show the same thing into one group, so that no split separates them.",
                default=False,
            ),
            _REPLACE_MANIFEST,
        ),
    ),
    check_verb(
        "polyp",
        DATA_ARGUMENT.but(**FILE),
        "Decode every case, list what is wrong with it, and audit the split.",
        UNGROUPED,
        target=None,
    ),
    *training_verbs(
        "polyp",
        "blocks of the frames",
        "Grouped and stratified folds, one prediction for each case, baselines, masks and a report.",
        CONFIG.but(show_default="polyp/default"),
        DATA,
    ),
    Verb(
        "predict",
        "Segment new images with a finished run.",
        "Uses the run's network, or the ensemble of its folds.",
        "pipelines.polyp:predict",
        (
            RUN,
            argument("images", list[Path], "Images, or folders of images.", "IMAGE", exists=True),
            OUT.but(help="Folder for masks, overlays and a CSV table."),
            OVERWRITE,
            RESUME,
            option(
                "probabilities",
                Literal["none", "png", "npz"],
                "Also write probability maps: 8-bit PNG, or NPZ with floats.",
                default="none",
            ),
            _THRESHOLD.but(default=None, show_default="the run's own"),
            DEVICE,
        ),
    ),
    evaluate_verb("pipelines.polyp:evaluate", "prediction maps", "Dice, IoU and the PraNet protocol.", _THRESHOLD),
)

_ABIDE = (
    Verb(
        "fetch",
        "Download preprocessed time series of ABIDE I.",
        "nilearn downloads them, with the phenotypic table of the Preprocessed Connectomes Project.",
        "pipelines.abide:fetch",
        (
            OUT.but(help="Folder to download to."),
            ATLASES.but(help="An atlas to download; repeatable.", default=["aal", "cc200", "dos160"]),
            replace(PIPELINE, kind=Literal["cpac", "dparsf", "ccs", "niak"]).but(help="Preprocessing pipeline."),
            replace(STRATEGY, kind=Literal["filt_noglobal", "filt_global", "nofilt_noglobal", "nofilt_global"]).but(
                help="With or without band-pass filter and global signal regression.", metavar=None
            ),
            option("subjects", int, "Only the first N.", "N", min=1, unset="all"),
            option("all_quality", bool, "Also subjects that failed visual quality control.", default=False),
            option("url", str, "A mirror of the project.", "URL", default=None),
        ),
    ),
    Verb(
        "extract",
        "Extract time series from fMRIPrep derivatives.",
        "nilearn averages preprocessed BOLD over the regions of each atlas, with nuisance regression.",
        "pipelines.abide:extract",
        (
            option("bids", Path, "fMRIPrep derivatives.", "DIR", **FOLDER),
            ATLASES.but(help="Label image of a parcellation; repeatable.", metavar="FILE|NAME=FILE"),
            OUT.but(help="Folder for the time series."),
            option(
                "confounds",
                Literal["none", "simple", "simple-gsr", "scrubbing", "scrubbing-gsr", "compcor"],
                "nilearn's strategy of nuisance regression; gsr: the global signal too.",
                default="simple",
            ),
            option("task", str, "BIDS task.", "LABEL", unset="all"),
            option("space", str, "Space of the images.", "LABEL", unset="the only one"),
            option("participants", Path, "participants.tsv.", "FILE", unset="found", **FILE),
            option("low_pass", float, "Highest frequency.", "HZ", min=0.0, unset="none"),
            option("high_pass", float, "Lowest frequency.", "HZ", min=0.0, unset="none"),
        ),
    ),
    Verb(
        "prepare",
        "Turn time series or matrices into a cohort.",
        "Reads every subject once and writes manifest.csv, features/ and exclusions.csv.",
        "pipelines.abide:prepare",
        (
            argument(
                "source",
                Path,
                "Folder of the Preprocessed Connectomes Project (Outputs/ or ABIDE_pcp/), folder with one matrix for "
                "each subject (.npy, .csv, .mat), or .npz file of correlations.",
                "SOURCE",
                exists=True,
            ),
            OUT.but(help="Folder for the manifest, the features and the list of excluded subjects."),
            ATLASES.but(default=[], show_default="all that are found"),
            option("phenotype", Path, "Phenotypic table.", "FILE", unset="found", **FILE),
            PIPELINE,
            STRATEGY,
            option("max_mean_fd", float, "Exclude subjects that moved more.", "MM", min=0.0, unset="no limit"),
            option("min_timepoints", int, "Exclude shorter scans.", "N", min=0, default=0),
            option("all_quality", bool, "Keep subjects that failed visual quality control.", default=False),
            option(
                "max_constant_regions",
                float,
                "Exclude subjects with more regions without signal; in the others, their connections are 0.",
                "SHARE",
                default=0.1,
                **SHARE,
            ),
            option(
                "missing_atlas",
                Literal["exclude", "error"],
                "Subjects without one of the atlases: exclude them, or stop.",
                default="exclude",
            ),
            option(
                "labels",
                list[Path],
                "Table of region names, such as aal_labels.csv; its name begins with the atlas; repeatable.",
                "FILE",
                default=[],
                **FILE,
            ),
            OVERWRITE.but(help="Replace the cohort at --out."),
        ),
    ),
    check_verb(
        "abide",
        DATA_ARGUMENT.but(metavar="COHORT", help="The cohort's manifest.csv, or its folder."),
        "List missing atlases, duplicates, constant regions, NaN and conflicting labels, and audit the split.",
        ungrouped="error",
        target=None,
    ),
    *training_verbs(
        "abide",
        "connections",
        "Folds balanced by diagnosis and site, one prediction for each subject, linear baselines and a report.",
        CONFIG.but(show_default="abide/default"),
        DATA,
    ),
    Verb(
        "predict",
        "Classify new subjects with a finished run.",
        "Writes each subject's score, decision and calibrated probability, from the run's network or the ensemble of "
        "its folds.",
        "pipelines.abide:predict",
        (
            RUN,
            argument(
                "sources",
                list[Path],
                "Time series, matrices, .npz files of correlations, folders of them, or a prepared cohort.",
                "NEW",
                exists=True,
            ),
            OUT.but(help="Folder for the table of predictions."),
            OVERWRITE,
            RESUME,
            PIPELINE,
            STRATEGY,
            option("threshold", float, "Score from which a subject is ASD.", unset="the run's own", **SHARE),
            DEVICE,
        ),
    ),
    Verb(
        "explain",
        "Show which connections the scores depend on.",
        "Attributes each fold's test scores to connections and regions, checks the result, and adds it to the report.",
        "pipelines.abide:explain",
        (RUN, option("steps", int, "Points of the integral of each gradient.", "N", min=2, default=32)),
    ),
)

_VOLUMES = {"metavar": "MANIFEST|FOLDER", "help": "CSV manifest, or a folder in a known layout (see `prepare`)."}
_VOLUME_CONFIG = CONFIG.but(show_default="volume/default; for classification volume/classification")
_VOLUME = (
    Verb(
        "prepare",
        "Turn a folder of volumes into a manifest.",
        "The folder has a known layout. The names of the labels are written beside the manifest.",
        "pipelines.volume:prepare",
        (
            argument(
                "source",
                Path,
                "Folder of the Medical Segmentation Decathlon or of nnU-Net (dataset.json), of images/ and labels/, "
                "of DICOM series, or an .npz file of MedMNIST3D.",
                "SOURCE",
                exists=True,
            ),
            option("out", Path, "CSV manifest to write; for an .npz file, a folder.", "FILE"),
            option(
                "layout",
                Literal["auto", "msd", "nnunet", "folders", "dicom"],
                "How the folder is organized; auto: find out.",
                default="auto",
            ),
            UNGROUPED,
            GROUP_PATTERN,
            _REPLACE_MANIFEST,
        ),
    ),
    check_verb(
        "volume",
        DATA_ARGUMENT.but(**_VOLUMES),
        "Read every volume, list what is wrong with it, and audit the split.",
        replace(TARGET, key="").but(default="segmentation", show_default=True),
        UNGROUPED,
    ),
    Verb(
        "plan",
        "Plan spacing, patch and batch; estimate memory and time.",
        "Uses all cases. Cross-validation makes a plan of its own in each fold, from the fold's training cases alone.",
        "pipelines.volume:plan",
        (
            replace(DATA_ARGUMENT, key="data.manifest").but(**_VOLUMES),
            OVERRIDES,
            _VOLUME_CONFIG,
            MEMORY,
            TARGET,
            option("out", Path, "Also write the plan as JSON.", "FILE", default=None),
        ),
    ),
    *training_verbs(
        "volume",
        "blocks of the volumes",
        "Grouped folds, a plan from each fold's training cases, label maps in the input's geometry, and a report.",
        _VOLUME_CONFIG,
        DATA.but(**_VOLUMES),
        TARGET,
    ),
    Verb(
        "predict",
        "Segment new volumes with a finished run.",
        "Uses the run's network, or the ensemble of its folds; label maps have the geometry of their volumes.",
        "pipelines.volume:predict",
        (
            RUN,
            argument(
                "images",
                list[Path],
                "NIfTI files, folders of them, or folders of one DICOM series; channels end in _0000, _0001, ...",
                "IMAGE",
                exists=True,
            ),
            OUT.but(help="Folder for label maps, overlays and volumes.csv."),
            OVERWRITE,
            RESUME,
            option("dicom_seg", bool, "For DICOM series, also write DICOM segmentation objects.", default=False),
            DEVICE,
        ),
    ),
    evaluate_verb(
        "pipelines.volume:evaluate",
        "label maps",
        "Dice, HD95, surface Dice and volumes for each label.",
        option("tolerance", float, "Tolerance of the surface Dice.", "MM", min=0.0, default=2.0),
    ),
)


def _two_or_more(runs: list[Path]) -> list[Path]:
    if len(runs) < 2:
        raise ConfigError("compare got one run, expected two or more: medformer compare RUN RUN")
    return runs


GROUPS: Mapping[str, tuple[str, tuple[Verb, ...]]] = {
    "": (
        "Medical imaging on one MetaFormer backbone, cross-validated without leakage.",
        (
            Verb(
                "demo",
                "Cross-validate on synthetic connectomes, volumes and images.",
                "It needs no data.",
                "pipelines.demo:demo",
                (OUT.but(help="Folder to write.", default=Path("demo-run")), OVERWRITE, RESUME),
            ),
            Verb(
                "info",
                "List models, backbones, mixers, losses, splits, configs and keys.",
                "These are the names and keys that a config may use.",
                "pipelines.info:info",
                (option("as_json", bool, "As JSON, for programs.", spelled="--json", default=False),),
            ),
            Verb(
                "report",
                "Write the report of a run again.",
                "Reads nothing but the files in the run folder.",
                "pipelines.work:report",
                (RUN,),
            ),
            Verb(
                "compare",
                "Compare runs of the same plan.",
                "Difference, interval, tests over groups and folds, and a forest plot.",
                "pipelines.work:compare",
                (
                    argument(
                        "runs",
                        list[Path],
                        "Two or more run folders or baselines (RUN/baselines/NAME); the first is the reference.",
                        "RUN",
                        callback=_two_or_more,
                        **FOLDER,
                    ),
                    option("out", Path, "Also write a table, JSON and a forest plot.", "DIR", default=None),
                    option("metric", str, "Metric to compare.", "NAME", unset="dice of masks, auc of classes"),
                    option(
                        "shared_cases",
                        bool,
                        "Compare runs of different plans on their common cases, and say how many are left out.",
                        default=False,
                    ),
                ),
            ),
        ),
    ),
    "polyp": ("Polyp segmentation in colonoscopy frames.", _POLYP),
    "abide": ("Autism or control, from multi-atlas functional connectomes.", _ABIDE),
    "volume": ("Segmentation and classification of MRI and CT volumes.", _VOLUME),
    "crossval": (
        "Look at cross-validations of any task.",
        (
            Verb(
                "status",
                "Show which folds are done, running, failed or still to come.",
                "The run may be going on or may have ended.",
                "pipelines.work:status",
                (RUN, option("watch", float, "Repeat after so many seconds.", "SECONDS", min=0.5, default=None)),
            ),
        ),
    ),
}
"""By first word, which is the name of a task where the verbs read configs: what the group is for, and its verbs."""
