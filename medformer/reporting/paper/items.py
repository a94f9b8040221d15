"""What CLAIM 2024 and TRIPOD+AI ask of a paper, topic by topic, and which sentences about a run answer it.

Numbers are those of the guidelines; topics and advice are in our own words, so read the guidelines beside them:
CLAIM 2024 Update, Tejani et al., Radiology: Artificial Intelligence 6(4):e240300 (44 items); TRIPOD+AI, Collins et al.,
BMJ 385:e078378 (27 items, 52 with their parts).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A topic that a paper must speak of.

    Attributes:
        topic: In our own words.
        claim: Its number in CLAIM 2024; empty where it has none.
        tripod: Its numbers in TRIPOD+AI.
        says: Names of the statements (`templates/sentences/statements.j2`) that answer it, as far as a run can.
        must: What the author must write; with statements, what they must add to them. Empty where a statement is all.
        otherwise: What the author must write where the run has none of the statements; empty: the same.
    """

    topic: str
    claim: str = ""
    tripod: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    must: str = ""
    otherwise: str = ""


ITEMS: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("Title", "1", ("1",), ("network",), "the kind of method, the population and what is predicted."),
        Item("Abstract", "2", ("2",), (), "all of it, in sections; the summary of this report has the numbers."),
    ),
    "Introduction": (
        Item("Background, intended use and users", "3", ("3a", "3b"), (), "why the model is needed, for whom, where."),
        Item("Known inequalities in health", "", ("3c",), (), "which are known between groups of the population."),
        Item("Aims and hypotheses", "4", ("4",), (), "what was asked before the results were known."),
    ),
    "Methods: data": (
        Item("Prospective or retrospective", "5", (), (), "whether the data were collected for this study."),
        Item("Kind of study", "6", (), (), "its goal, such as a new model, a comparison, or a test of feasibility."),
        Item("Data sources", "7", ("5a",), ("data",), "where they are from, why these, and whom they stand for."),
        Item("Dates", "", ("5b",), (), "when the data were collected."),
        Item("Setting and centers", "", ("6a",), ("sites",), "kind, number and place of the centers."),
        Item("Eligibility", "8", ("6b",), ("exclusions",), "who could be included, and why others were not."),
        Item("Treatments", "", ("6c",), (), "which were received, if they matter."),
        Item(
            "Preprocessing and quality checks",
            "9",
            ("7",),
            ("preprocessing", "quality"),
            "what was done to the files before, and whether it was the same for all groups of people.",
        ),
        Item("Subsets of the data", "10", (), (), "whether slices, frames, regions or cases were selected, and how."),
        Item("De-identification", "11", (), (), "how, and by whom."),
        Item("Missing data", "12", ("11",), ("missing",), "what was missing, and what was done about it."),
        Item("Acquisition", "13", ("9b",), (), "devices, protocols and settings, and when cases were recorded."),
        Item("Choice of what the model is given", "", ("9a",), ("inputs",), "why this, and whether more was tried."),
        Item("Judgment in what the model is given", "", ("9c",), (), "who judged, if a person did."),
    ),
    "Methods: reference standard": (
        Item("What the reference is", "14", ("8a",), ("reference",), "how and when it was made, and what it means."),
        Item("Why this reference", "15", (), (), "why it was chosen, and its known errors."),
        Item("Who made the reference", "16", ("8b",), (), "number, training and experience of the readers."),
        Item("Reference of the test cases", "17", (), (), "whether it was made in the same way as that of the others."),
        Item("Agreement of readers", "18", (), (), "between readers and within each, or that it is unknown."),
        Item("Blinding", "", ("8c",), (), "what the readers knew when they made the reference."),
    ),
    "Methods: division of the data": (
        Item("How parts were made", "19", ("12a",), ("division", "sizes")),
        Item("Level at which parts are apart", "20", (), ("level", "audit")),
        Item("Sample size", "21", ("10",), (), "how the number of cases was arrived at, and why it suffices."),
        Item(
            "Differences between development and test data",
            "",
            ("16",),
            ("same_source",),
            otherwise="how they differ in setting, eligibility, reference and inputs.",
        ),
    ),
    "Methods: model and training": (
        Item("Model", "22", (), ("network", "output"), "a reference for its layers, or their description."),
        Item(
            "Why this model, and how settings were chosen",
            "",
            ("12c",),
            ("network", "division", "selection"),
            "why this model, and which settings were tried before, on which data.",
        ),
        Item("How inputs were handled", "", ("12b",), ("preprocessing",), otherwise="how they were scaled or changed."),
        Item("Software", "23", (), ("software",)),
        Item("First weights", "24", (), ("first_weights",), otherwise="what training started from."),
        Item("Training", "25", (), ("training", "augmentation", "trained"), otherwise="schedule and settings."),
        Item("Choice of the final weights", "26", (), ("selection",), otherwise="how they were chosen."),
        Item("Ensembles", "27", ("12g",), ("prediction",)),
        Item("Output and thresholds", "", ("15",), ("output", "threshold")),
        Item("Classes of unequal size", "", ("13",), (), "whether anything was done about them, and why."),
        Item("Fairness", "", ("14",), (), "what was done for it, and why, or that nothing was."),
    ),
    "Methods: evaluation": (
        Item("Metrics", "28", (), ("metrics",)),
        Item("Why these metrics and comparisons", "", ("12e",), ("metrics", "tests"), "why they fit the purpose."),
        Item("Uncertainty and significance", "29", (), ("intervals", "tests")),
        Item(
            "Robustness",
            "30",
            (),
            ("canary", "site_probe", "repeats"),
            "what else was varied, such as seeds, devices or image quality.",
            "what was varied, such as seeds, devices or image quality, or that nothing was.",
        ),
        Item(
            "Differences between centers: method",
            "",
            ("12d",),
            ("center_method",),
            otherwise="whether they were looked for, and how.",
        ),
        Item("Explanations", "31", (), ("explanation",), otherwise="by which method and how validated, or none."),
        Item("Evaluation on internal data", "32", (), ("internal",)),
        Item(
            "Test on external data",
            "33",
            (),
            ("external",),
            "whether data from elsewhere were tested too.",
            "the test on data from elsewhere, or that there is none: this run does not know of one.",
        ),
        Item("Updating of the model", "", ("12f", "24"), ("updating",)),
        Item("Registration", "34", ("18d",), (), "register and number, or that the study was not registered."),
        Item("Ethics", "", ("17",), (), "the committee, and consent or its waiver."),
    ),
    "Results": (
        Item("Numbers included and excluded", "35", ("20a",), ("data", "exclusions"), "a flow diagram of the cases."),
        Item("Who the cases are", "36", ("20b",), ("characteristics", "parts_table"), "what the manifest lacks."),
        Item("The parts compared", "", ("20c",), ("parts_table",), otherwise="a comparison of the parts."),
        Item("Cases and events in each analysis", "", ("21",), ("sizes",), otherwise="their numbers."),
        Item("Performance with intervals", "37", (), ("performance", "calibration")),
        Item(
            "Performance in subgroups",
            "",
            ("23a",),
            ("performance", "calibration", "subgroups"),
            "which of them matter.",
        ),
        Item("Differences between centers: results", "", ("23b",), ("centers",), otherwise="them, if examined."),
        Item(
            "Diagnostic performance",
            "38",
            (),
            ("diagnostic",),
            otherwise="it, if a diagnosis is made from the masks, or that none is.",
        ),
        Item("Failures", "39", (), ("failures",), "what the failed cases have in common."),
        Item("The full model", "", ("22",), ("weights",), "where others find it, and on which terms."),
    ),
    "Discussion": (
        Item("Interpretation", "", ("25",), (), "what the results mean beside the aims, other studies, and fairness."),
        Item("Limitations", "40", ("26",), ("limits",), "what follows from them for your question."),
        Item("Consequences for practice", "41", (), (), "what changes for whom, if anything does yet."),
        Item("Input that is poor or missing, in use", "", ("27a",), (), "how it is recognized and handled."),
        Item("What users must do and know", "", ("27b",), (), "their part in the use, and the expertise it needs."),
        Item("Next steps", "", ("27c",), (), "which research is needed before use."),
    ),
    "Other information": (
        Item("Protocol and technical details", "42", ("18c",), ("protocol",), "where the protocol is, or none."),
        Item("Availability", "43", ("18e", "18f"), ("code",), "where code, model and data can be had, if at all."),
        Item("Funding", "44", ("18a",), (), "sources, and the role of the funders."),
        Item("Conflicts of interest", "", ("18b",), (), "those of all authors."),
        Item("Patients and the public", "", ("19",), (), "their part in the study, or none."),
    ),
}
"""By part of a paper. Every number of both guidelines is there exactly once."""
