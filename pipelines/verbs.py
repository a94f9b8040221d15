"""The table of verbs: what the command line offers, in which words, and which function does the work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medformer.errors import ConfigError

from . import flags
from .flags import (
    FILE,
    FOLDER,
    OUT,
    OVERWRITE,
    RESUME,
    RUN,
    SHARE,
    Verb,
    argument,
    option,
    setting,
    switch,
    verb,
)

_REPLACE_MANIFEST = OVERWRITE.but(help="Replace the manifest at --out; what was edited in it is lost.")
_THRESHOLD = option("threshold", float, 0.5, "Probability from which a pixel is polyp.", "SHARE", **SHARE)
_MAPS = Literal["none", "png", "npz"]
_LABEL_MAPS = "Also write a probability map for each label: 8-bit NIfTI, or NPZ with float16."
_SUBGROUPS = "Manifest column whose subgroups the report compares; repeatable."
_SITE = "Where the cases come from: once for all folders, or once for each."
_POLYP = (
    verb(
        "prepare",
        "Turn folders of images into a manifest.",
        "kvasir: a folder with images/ and masks/. pranet: a folder with TrainDataset/ and TestDataset/.",
        argument("folders", list[Path], "Folders of images and masks.", "FOLDER", **FOLDER),
        option("out", Path, ..., "CSV manifest to write.", "FILE"),
        option("layout", Literal["auto", "kvasir", "pranet"], "auto", "How the folders are organized; auto: find out."),
        option("split", str, None, "A published split to record (`medformer info splits`).", "NAME"),
        flags.UNGROUPED,
        flags.GROUP_PATTERN,
        flags.FOREGROUND.but(help=flags.FOREGROUND.settings["help"] + " The manifest keeps them."),
        option("site", list[str], [], _SITE, "NAME", shown="the folder's name"),
        flags.SITE_PATTERN,
        switch("link_duplicates", "Put images that show the same thing into one group, so that no split parts them."),
        _REPLACE_MANIFEST,
    ),
    flags.check_verb(
        flags.CASES.but(**FILE),
        "Decode every case, list what is wrong with it, and audit the split.",
        flags.UNGROUPED,
        flags.FOREGROUND,
    ),
    *flags.training_verbs(
        "blocks of the frames",
        "Grouped and stratified folds, one prediction for each case, baselines, masks and a report.",
        flags.CONFIG.but(show_default="polyp/default; on a CPU polyp/cpu"),
        flags.DATA,
        flags.UNGROUPED_KEY,
        flags.FOREGROUND.but(key="data.foreground"),
    ),
    verb(
        "predict",
        "Segment new images with a finished run or a bundle.",
        "Uses the run's network, or the ensemble of its folds.",
        flags.TRAINED,
        argument("images", list[Path], "Images, folders of images, or CSV manifests.", "IMAGE", exists=True),
        OUT.but(help="Folder for masks, overlays and a CSV table."),
        OVERWRITE,
        RESUME,
        option("probabilities", _MAPS, "none", "Also write probability maps: 8-bit PNG, or NPZ with floats."),
        _THRESHOLD.but(None, show_default="the run's own"),
        flags.DEVICE,
    ),
    flags.evaluate_verb("prediction maps", "Dice, IoU and PraNet's protocol.", _THRESHOLD, flags.FOREGROUND),
)

_PROJECT = Literal["cpac", "dparsf", "ccs", "niak"]
_STRATEGIES = Literal["filt_noglobal", "filt_global", "nofilt_noglobal", "nofilt_global"]
_CONFOUNDS = Literal["none", "simple", "simple-gsr", "scrubbing", "scrubbing-gsr", "compcor"]
_MISSING = Literal["exclude", "error"]
_MODEL = option(
    "model",
    str,
    None,
    "Classification: a baseline of the run to predict with, such as linear_shape.",
    "NAME",
    shown="network",
)
_VALUES = option(
    "values",
    Literal["auto", "correlation", "fisher-z"],
    "auto",
    "What matrices hold; auto: correlations, which have a diagonal of 1. Fisher's z is turned into correlations.",
)
_MOTION = "Exclude subjects with a larger mean framewise displacement."
_ABIDE = (
    verb(
        "fetch",
        "Download preprocessed time series of ABIDE I.",
        "nilearn downloads them, with the phenotypic table of the Preprocessed Connectomes Project.",
        OUT.but(help="Folder to download to."),
        flags.ATLASES.but(["aal", "cc200", "dos160"], help="An atlas to download; repeatable."),
        flags.PIPELINE.but(kind=_PROJECT, help="Preprocessing pipeline."),
        flags.STRATEGY.but(
            kind=_STRATEGIES, metavar=None, help="With or without band-pass filter and global signal regression."
        ),
        option("subjects", int, None, "Only the first N.", "N", min=1, shown="all"),
        switch("all_quality", "Also download subjects that failed visual quality control."),
        option("url", str, None, "A mirror of the project.", "URL"),
    ),
    verb(
        "extract",
        "Extract time series from fMRIPrep derivatives.",
        "nilearn averages preprocessed BOLD over the regions of each atlas, with nuisance regression.",
        option("bids", Path, ..., "fMRIPrep derivatives.", "DIR", **FOLDER),
        flags.ATLASES.but(help="Label image of a parcellation; repeatable.", metavar="FILE|NAME=FILE"),
        OUT.but(help="Folder for the time series."),
        option("confounds", _CONFOUNDS, "simple", "nilearn's nuisance regression; gsr: also of the global signal."),
        option("task", str, None, "Only scans of this BIDS task.", "LABEL", shown="all"),
        option("space", str, None, "Only images in this space.", "LABEL", shown="the only one"),
        option(
            "participants", Path, None, "Table of the participants.", "FILE", shown="participants.tsv in --bids", **FILE
        ),
        option("low_pass", float, None, "Highest frequency that is kept.", "HZ", min=0.0, shown="none"),
        option("high_pass", float, None, "Lowest frequency that is kept.", "HZ", min=0.0, shown="none"),
    ),
    verb(
        "prepare",
        "Turn time series or matrices into a cohort.",
        "SOURCE is a folder of the Preprocessed Connectomes Project (Outputs/ or ABIDE_pcp/), a folder with one matrix "
        "for each subject (.npy, .csv, .mat), or an .npz file of correlations. Every subject is read once. "
        "Connections of a region without signal are 0. A table of region names begins its file name with the atlas.",
        argument("source", Path, "Folder of time series or matrices, or .npz file.", "SOURCE", exists=True),
        OUT.but(help="Folder for manifest.csv, features/ and exclusions.csv."),
        flags.ATLASES.but([], show_default="all that are found"),
        option("phenotype", Path, None, "Phenotypic table.", "FILE", shown="the one in SOURCE", **FILE),
        option(
            "positive", str, None, "Diagnosis of the positive class.", "VALUE", shown="1, or such as ASD or patient"
        ),
        _VALUES,
        flags.PIPELINE,
        flags.STRATEGY,
        option("max_mean_fd", float, None, _MOTION, "MM", min=0.0, shown="no limit"),
        option("min_timepoints", int, 0, "Exclude shorter scans.", "N", min=0),
        switch("all_quality", "Keep subjects that failed visual quality control."),
        option(
            "max_constant_regions",
            float,
            0.1,
            "Exclude subjects with a larger share of regions without signal.",
            "SHARE",
            **SHARE,
        ),
        option("missing_atlas", _MISSING, "exclude", "Exclude subjects that lack one of the atlases, or stop."),
        option("labels", list[Path], [], "Table of region names, such as aal_labels.csv; repeatable.", "FILE", **FILE),
        OVERWRITE.but(help="Replace the cohort at --out."),
    ),
    flags.check_verb(
        flags.CASES.but(metavar="COHORT", help="The cohort's manifest.csv, or its folder."),
        "List missing atlases, duplicates, constant regions, NaN and conflicting labels, and audit the split.",
    ),
    *flags.training_verbs(
        "connections",
        "Folds balanced by diagnosis and site, one prediction for each subject, linear baselines and a report.",
        flags.CONFIG.but(show_default="abide/default"),
        flags.DATA,
    ),
    verb(
        "predict",
        "Classify new subjects with a finished run or a bundle.",
        "NEW are time series, matrices, .npz files of correlations, folders of them, or a prepared cohort. The table "
        "holds each subject's score (a calibrated probability where the folds learned a calibration) and decision, "
        "from the run's network or the ensemble of its folds.",
        flags.TRAINED,
        argument("sources", list[Path], "Data of new subjects.", "NEW", exists=True),
        OUT.but(help="Folder for the table of predictions."),
        OVERWRITE,
        flags.PIPELINE.but(None, show_default="the only one there"),
        flags.STRATEGY.but(None, show_default="the only one there"),
        _VALUES,
        _MODEL.but(help="A baseline of the run to predict with, such as ridge_all."),
        option(
            "threshold", float, None, "Score from which a subject is positive.", "SHARE", shown="the run's own", **SHARE
        ),
        flags.DEVICE,
    ),
    verb(
        "explain",
        "Show which connections the scores depend on.",
        "Attributes each fold's test scores to connections and regions, checks the result, and adds it to the report.",
        RUN,
        option("steps", int, 32, "Points of the integral of each gradient.", "N", min=2, max=4096),
    ),
)

_LAYOUTS = Literal["auto", "msd", "nnunet", "folders", "cases", "dicom"]
_VOLUMES = {"metavar": "MANIFEST|FOLDER", "help": "CSV manifest, or a folder in a known layout (see `prepare`)."}
_NAMED = "Every label that maps may hold; a dataset.json names them."
_CONFIG = flags.CONFIG.but(show_default="volume/default; for classification volume/classification")
_PATIENTS = (
    flags.UNGROUPED_KEY,
    setting(
        "data.group_pattern",
        str,
        f"For a folder: {flags.PATTERN[0].lower()}{flags.PATTERN[1:]}",
        "REGEX",
        spelled="--group-pattern",
    ),
)
_VOLUME = (
    verb(
        "prepare",
        "Turn folders of volumes into a manifest.",
        "SOURCE is a folder of the Medical Segmentation Decathlon or of nnU-Net (dataset.json), of images/ and "
        "labels/, of a folder for each case (BraTS) or of DICOM series, or an .npz file of MedMNIST3D. The names of "
        "the labels are written beside the manifest.",
        argument("sources", list[Path], "Folders of volumes, or an .npz file.", "SOURCE", exists=True),
        option("out", Path, ..., "CSV manifest to write; for an .npz file, a folder.", "FILE"),
        option("layout", _LAYOUTS, "auto", "How the folder is organized; auto: find out."),
        flags.UNGROUPED,
        flags.GROUP_PATTERN,
        option("site", list[str], [], _SITE, "NAME", shown="the folder's name"),
        flags.SITE_PATTERN,
        _REPLACE_MANIFEST,
    ),
    flags.check_verb(
        flags.CASES.but(**_VOLUMES),
        "Read every volume, list what is wrong with it, and audit the split.",
        flags.TARGET.but("segmentation", key="", show_default=True),
        flags.UNGROUPED,
        flags.GROUP_PATTERN,
    ),
    verb(
        "plan",
        "Plan spacing, patch and batch; estimate memory and time.",
        "Uses all cases. Cross-validation makes a plan of its own in each fold, from the fold's training cases alone.",
        flags.CASES.but(key="data.manifest", **_VOLUMES),
        flags.OVERRIDES,
        _CONFIG,
        flags.MEMORY,
        flags.TARGET,
        *_PATIENTS,
        option("out", Path, None, "Also write the plan as JSON.", "FILE"),
        OVERWRITE.but(help="Replace the plan at --out."),
    ),
    *flags.training_verbs(
        "blocks of the volumes",
        "Grouped folds, a plan from each fold's training cases, label maps in the input's geometry, and a report.",
        _CONFIG,
        flags.DATA.but(**_VOLUMES),
        flags.TARGET,
        flags.MEMORY,
        *_PATIENTS,
    ),
    verb(
        "predict",
        "Segment or classify new volumes with a finished run or a bundle.",
        "IMAGE are NIfTI files, folders of them, or folders of one DICOM series; channels end in _0000, _0001, ... "
        "Uses the run's network, or the ensemble of its folds. Label maps have the geometry of their volumes; of a "
        "classification there is a table of scores.",
        flags.TRAINED,
        argument("images", list[Path], "Volumes, folders of volumes, or CSV manifests.", "IMAGE", exists=True),
        OUT.but(help="Folder for label maps, overlays and volumes.csv, or for predictions.csv."),
        OVERWRITE,
        RESUME,
        switch("dicom_seg", "For DICOM series, also write DICOM segmentation objects."),
        option("probabilities", Literal["none", "nii", "npz"], "none", _LABEL_MAPS),
        _MODEL,
        flags.DEVICE,
    ),
    flags.evaluate_verb(
        "label maps",
        "Dice, HD95, surface Dice and volumes for each label.",
        option("tolerance", float, 2.0, "Tolerance of the surface Dice.", "MM", min=0.0),
        option("labels", str, None, _NAMED, "1,2|1=NAME,...|dataset.json", shown="all values found"),
        option(
            "images", Path, None, "Volumes or DICOM series of the same names, to place DICOM-SEG on.", "DIR", **FOLDER
        ),
    ),
)


def _two_or_more(tables: list[Path]) -> list[Path]:
    if len(tables) < 2:
        raise ConfigError("compare got one run or table, expected two or more: medformer compare A B")
    return tables


_NAMES = "A section (mixers, losses, ...), `keys TASK`, or a name or config key to explain."
_TABLES = (
    "Two or more of: run folders, baselines (RUN/baselines/NAME), folders that `evaluate` wrote, result folders of "
    "nnU-Net, CSV tables of scores; the first is the reference."
)
_AUDITED = (
    "CSV manifest, prepared cohort, or folder: of frames or volumes in a layout of `prepare`, or of pictures alone."
)
_SPLITS = (
    "The split: nnU-Net's splits_final.json, a CSV with id and fold or split, lists such as train.txt and test.txt "
    "(repeat the option, or give their folder), a run's splits.json, or a published one (`medformer info splits`)."
)
_FOLDS = "The split that tables come from whose folds are not known: nnU-Net's splits_final.json, a CSV, lists."
_MEASURED = "A shipped config, or with --task a file; repeatable."
_TOP = (
    verb(
        "demo",
        "Cross-validate on synthetic connectomes, volumes and images.",
        "It needs no data.",
        OUT.but(Path("demo-run"), help="Folder to write."),
        OVERWRITE,
        RESUME,
        calls="demo:demo",
    ),
    verb(
        "info",
        "List models, backbones, mixers, losses, splits, configs and keys.",
        "These are the names and keys that a config may use. Without NAME, an overview of the sections.",
        argument("names", list[str], _NAMES, "NAME", show_default=False).but([]),
        switch("as_json", "As JSON, for programs.", "--json"),
        calls="info:info",
    ),
    verb(
        "weights",
        "List, fetch and find pretrained weights.",
        "list: the names that model.weights takes, and which are here.\n\nget: fetch weights from the Hugging Face hub "
        "(or from HF_ENDPOINT) and record their SHA-256. Nothing else downloads them.\n\nwhere: where the file of a "
        "name is or belongs; without NAME, the folder of all.",
        argument("action", Literal["list", "get", "where"], "What to do.", "list|get|where"),
        argument("names", list[str], "Names of weights.", "NAME", show_default=False).but([]),
        option("revision", str, "main", "Commit, branch or tag to get.", "REVISION"),
        switch("as_json", "As JSON, for programs.", "--json"),
        calls="info:weights",
    ),
    verb(
        "bench",
        "Measure how fast the networks of configs are on this machine.",
        "Predicting one case and a training step, in single precision and, where the device is quick in it, in "
        "bfloat16; memory, and how far from the machine's own limits. Inputs are noise; loading is not in it.",
        option("configs", list[str], [], _MEASURED, "NAME|FILE", spelled="--config", shown="one or two of each task"),
        option("task", Literal["polyp", "abide", "volume"], None, "Whose the files are.", shown="of a shipped config"),
        argument("changes", list[str], "Config values to change.", "KEY=VALUE", show_default=False).but([]),
        flags.DEVICE,
        option("threads", list[int], [], "CPU threads; repeatable.", "N", shown="all", min=1),
        option("batch", int, None, "Cases of a training step.", "N", min=1, shown="the config's; on a CPU at most 2"),
        option("rounds", int, 3, "Measured rounds; the median counts.", "N", min=1),
        switch("as_json", "As JSON, for programs.", "--json"),
        calls="info:bench",
    ),
    verb(
        "report",
        "Write the report of a run again.",
        "Reads nothing but the files in the run folder.",
        RUN,
        switch("share", "Also write report_share.html and model_card_share.md, without names and pictures of cases."),
        switch("methods", "Also write methods.md: methods, tables of results and a checklist, for a paper."),
        option("subgroups", list[str], [], _SUBGROUPS, "COLUMN", shown="those of the config"),
        calls="work:report",
    ),
    verb(
        "export",
        "Write a bundle of a run that may be passed on.",
        "It holds networks, preprocessing, thresholds, calibration and a model card, but no names, paths or pictures. "
        "`predict` takes it in the place of the run.",
        RUN,
        OUT.but(help="Folder for the bundle."),
        option("fold", str, "all", "Only the networks of this fold.", "K|all"),
        switch("onnx", "Also write ONNX files, checked against our own predictions, below onnx/."),
        switch("no_hashes", "Leave out hashes of the training images, by which later trainings find leaks."),
        OVERWRITE,
        calls="work:export",
    ),
    verb(
        "audit",
        "Look for leaks in somebody else's split, without training.",
        "Compares all parts of each division by case, patient, file and content, and shows how balanced they are.",
        argument("data", Path, _AUDITED, "DATA", exists=True),
        option("splits", list[Path], [], _SPLITS, "FILE|NAME", shown="the data's own column or folders"),
        option("task", Literal["polyp", "abide", "volume"], None, "Of the data.", shown="found out"),
        flags.GROUP_PATTERN,
        option("out", Path, None, "Also write JSON, tables and a page to this folder.", "DIR"),
        flags.ACCEPT,
        calls="work:audit",
    ),
    verb(
        "compare",
        "Compare runs, or tables of scores of any origin, on the same cases.",
        "Difference, interval, tests over groups and folds, and a forest plot. A CSV table has `id`, columns of "
        "numbers, and as they apply `fold`, `repeat` and `group`.",
        argument("tables", list[Path], _TABLES, "A B", callback=_two_or_more, exists=True),
        option("out", Path, None, "Also write a table, JSON and a forest plot.", "DIR"),
        option("metric", str, None, "Metric or column to compare.", "NAME", shown="dice of masks, auc of classes"),
        switch("higher_is_better", "Of a column that no metric is named after."),
        switch("lower_is_better", "Of a column that no metric is named after."),
        switch("shared_cases", "Compare what has other cases or folds on the common cases, and count those left out."),
        flags.GROUPS.but(help=flags.GROUPS.settings["help"] + " For tables that do not say it."),
        option("folds", list[Path], [], _FOLDS, "FILE", exists=True),
        flags.UNGROUPED,
        calls="work:compare",
    ),
)
_CROSSVAL = verb(
    "status",
    "Show which folds are done, running, failed or still to come.",
    "The run may be going on or may have ended.",
    RUN,
    option("watch", float, None, "Repeat after so many seconds.", "SECONDS", min=0.5),
    calls="work:status",
)

GROUPS: Mapping[str, tuple[str, tuple[Verb, ...]]] = {
    "": ("Medical imaging on one MetaFormer backbone, cross-validated without leakage.", _TOP),
    "polyp": ("Polyp segmentation in colonoscopy frames.", _POLYP),
    "abide": ("Autism or control, from multi-atlas functional connectomes.", _ABIDE),
    "volume": ("Segmentation and classification of MRI and CT volumes.", _VOLUME),
    "crossval": ("Look at cross-validations of any task.", (_CROSSVAL,)),
}
"""By first word, which is the name of a task where the verbs read configs: what the group is for, and its verbs."""
