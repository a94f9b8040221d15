"""The atlases of the Preprocessed Connectomes Project, and the number of regions that each has in its files.

The number is not always the one in an atlas's name: the label volume of Dosenbach's 160 regions holds 161 labels, and
that of Craddock's 400 clusters holds 392.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from medformer.errors import DataError


@dataclass(frozen=True)
class Atlas:
    """A parcellation.

    Attributes:
        name: As in configs and files.
        regions: Number of labels, which is the number of columns of a series.
        title: Full name.
        reference: The paper it comes from.
        aliases: Other names in files.
        note: Why the number differs from the one in the name; empty when it does not.
    """

    name: str
    regions: int
    title: str
    reference: str
    aliases: tuple[str, ...] = ()
    note: str = ""


ATLASES: Mapping[str, Atlas] = MappingProxyType(
    {
        atlas.name: atlas
        for atlas in (
            Atlas("aal", 116, "Automated Anatomical Labeling", "Tzourio-Mazoyer et al., NeuroImage 2002"),
            Atlas("cc200", 200, "Craddock, 200 clusters", "Craddock et al., Human Brain Mapping 2012"),
            Atlas(
                "cc400",
                392,
                "Craddock, 400 clusters",
                "Craddock et al., Human Brain Mapping 2012",
                note="of the 400 clusters, 392 remained in the project's space",
            ),
            Atlas(
                "dos160",
                161,
                "Dosenbach, 160 regions",
                "Dosenbach et al., Science 2010",
                aliases=("dosenbach160",),
                note="dos160 has 161 regions, not 160: labels 1..160 and 223",
            ),
            Atlas("ez", 116, "Eickhoff-Zilles", "Eickhoff et al., NeuroImage 2005"),
            Atlas("ho", 111, "Harvard-Oxford, cortical and subcortical", "Desikan et al., NeuroImage 2006"),
            Atlas("tt", 97, "Talairach and Tournoux", "Lancaster et al., Human Brain Mapping 2000"),
        )
    }
)
"""Known atlases by name. Others may be used too: their number of regions is that of the first subject."""


def atlas_name(name: str) -> str:
    """The name that this software uses for an atlas in a file, such as dos160 for dosenbach160."""
    lowered = name.lower()
    return next((atlas.name for atlas in ATLASES.values() if lowered in atlas.aliases), lowered)


def require_regions(atlas: str, found: int, case: str = "") -> None:
    """Check the number of regions of a known atlas; an atlas that is not in the table passes.

    Args:
        atlas: Its name.
        found: Number of regions, such as the columns of a series.
        case: The subject or file it concerns, for the message.

    Raises:
        DataError: The number is another; the message names the atlas, both numbers and the case.
    """
    known = ATLASES.get(atlas)
    if known is None or found == known.regions:
        return
    whose = f"{case}: " if case else ""
    why = f" ({known.note})" if known.note else ""
    raise DataError(
        f"{whose}found {found} regions for atlas '{atlas}', expected {known.regions}{why}. "
        "Check that the series belong to this atlas and lost no column, or give an atlas of your own another name."
    )
