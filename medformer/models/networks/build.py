"""From a model's name in a config to a network, for images and volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn

from medformer.config.shared import ModelConfig
from medformer.errors import ConfigError, enough_memory
from medformer.models.backbone.heads import Classifier
from medformer.models.backbone.variants import VARIANTS, with_head
from medformer.models.networks.agunet import agunet
from medformer.models.networks.dformer import dformer
from medformer.models.networks.grid import Grid, build_encoder
from medformer.models.networks.meta_unet import meta_light, meta_polyp, meta_unet, meta_unet_fine
from medformer.models.networks.peers import dynunet, mednext, resnet18, segresnet_ds, swinunetr, unet
from medformer.models.networks.plsnet import plsnet
from medformer.models.networks.pranet import pranet
from medformer.models.networks.pretrained import resolve_weights
from medformer.models.networks.smp_peers import smp_network
from medformer.registry import Entry, Registry

CLASSIFIER = "convformer_c8"
"""The backbone that suits classes; `configs/volume/classification.yaml` sets it."""
Target = Literal["segmentation", "classification"]
Builder = Callable[[ModelConfig, Grid], nn.Module]

NO_BACKBONE = {
    "model.mixers": "it has no stages with token mixers. Set model.mixers=null.",
    "model.block": "it has no blocks of the shared backbone. Leave it out.",
    "model.mlp_ratio": "it has no MLPs of the shared backbone. Leave it out.",
    "model.frozen": "it keeps levels of a backbone on a network of timm. Set model.frozen=0.",
    "model.weights": "they fill a MetaFormer encoder, and it has none. Set model.weights=null.",
    "classification": "it segments only. Set model.name=meta_unet, whose encoder classifies, or monai:resnet18.",
}
"""What a network without the shared backbone does not support."""
_KERFOOT = "Kerfoot et al., STACOM 2018"
_DIVISOR = "padded to its divisor"

INDEPENDENT = "independent samples in training"
"""That an output depends on its own sample only, while training too."""
_INSTEAD, _OF_REGIONS = "Set model.name=meta_unet.", "For connectomes, set model.name=roi:meta_unet."
"""What to take in its place; only connectomes ask for 1-D, and for independent samples."""
_BATCH_NORM = {INDEPENDENT: f"its batch norm takes statistics from all samples of a batch. {_OF_REGIONS}"}


def _no_backbone(but: str) -> dict[str, str]:
    return {key: reason for key, reason in NO_BACKBONE.items() if key != but}


def _in_2d(why: str) -> dict[str, str]:
    return {"1-D": f"{why} {_OF_REGIONS}", "3-D": f"{why} {_INSTEAD}"}


NETWORKS: Registry[Builder] = Registry(
    "model",
    [
        Entry(
            "meta_polyp",
            meta_polyp,
            "MetaFormer encoder, multi-scale upsampling decoder",
            "Trinh et al., CBMS 2023",
            cannot=_BATCH_NORM,
        ),
        Entry(
            "meta_light",
            meta_light,
            "the shared backbone, a light multi-scale decoder whose two fine levels mix tokens too",
            cannot=_BATCH_NORM,
        ),
        Entry(
            "dformer",
            dformer,
            "transformer of local and of spread windows, U-shaped",
            "Wu et al., D-Former, 2023",
            "padded to multiples of its coarsest stride",
            {"1-D": f"it is published for volumes. {_OF_REGIONS}"} | NO_BACKBONE,
        ),
        Entry("meta_unet", meta_unet, "the shared backbone, multi-scale decoder, detail at full resolution"),
        Entry(
            "meta_unet_fine",
            meta_unet_fine,
            "meta_unet with twice the channels at full resolution, for small bright structures on scans beyond a patch",
        ),
        Entry(
            "pranet",
            pranet,
            "partial decoder and reverse attention on the three coarse maps of the shared backbone",
            "Fan et al., MICCAI 2020",
            "2-D",
            _in_2d("it is published for images.") | _BATCH_NORM,
        ),
        Entry(
            "agunet",
            agunet,
            "U-Net with the attention gates and the image pyramid of AGUNet, 16 to 256 filters",
            "Bouget et al., Frontiers in Radiology 2021",
            _DIVISOR,
            _BATCH_NORM | NO_BACKBONE,
        ),
        Entry(
            "plsnet",
            plsnet,
            "PLS-Net, 0.25 million parameters: separable dilated convolutions, light decoder",
            "Lee et al., 2019; Bouget et al., JMI 2021",
            "padded to multiples of 8",
            _BATCH_NORM | NO_BACKBONE,
        ),
        Entry(
            "smp:<architecture>/<encoder>",
            smp_network,
            "any segmentation-models-pytorch network, as a peer",
            sizes="2-D; padded to its divisor",
            cannot=_in_2d("segmentation-models-pytorch is two-dimensional.")
            | _BATCH_NORM
            | _no_backbone(but="model.weights"),
            example="smp:unet/resnet18",
        ),
        Entry(
            "monai:dynunet",
            dynunet,
            "nnU-Net's network, 32 to 320 filters, as a peer",
            "Isensee et al., Nature Methods 2021",
            _DIVISOR,
            NO_BACKBONE,
        ),
        Entry(
            "monai:mednext",
            mednext,
            "MedNeXt-B with kernels of 3, as a peer",
            "Roy et al., MICCAI 2023",
            "padded to multiples of 16",
            {"1-D": f"MONAI has it in 2-D and 3-D. {_OF_REGIONS}"} | NO_BACKBONE,
        ),
        Entry(
            "monai:resnet18",
            resnet18,
            "ResNet-18, which classifies whole volumes, as a peer",
            "He et al., CVPR 2016",
            "a stem of 7 and pooling, as measured; planned for at most 32 on every axis, of 3 without either stride",
            {
                "segmentation": "it classifies whole volumes only (--task classification). Set model.name=meta_unet.",
                "1-D": f"it classifies volumes. {_OF_REGIONS}",
                "2-D": f"it classifies volumes. {_INSTEAD}",
            }
            | _BATCH_NORM
            | _no_backbone(but="classification"),
        ),
        Entry(
            "monai:segresnet_ds",
            segresnet_ds,
            "the residual network of Auto3DSeg, 32 to 512 filters, as a peer",
            "Myronenko, BrainLes 2018",
            _DIVISOR,
            {"1-D": f"it is published for volumes. {_OF_REGIONS}"} | NO_BACKBONE,
        ),
        Entry(
            "monai:swinunetr",
            swinunetr,
            "SwinUNETR with 48 features, as a peer",
            "Hatamizadeh et al., BrainLes 2021",
            "padded to multiples of 32",
            {"1-D": f"MONAI has it in 2-D and 3-D. {_OF_REGIONS}"} | NO_BACKBONE,
        ),
        Entry("monai:unet", unet, "residual U-Net, 32 to 320 filters, as a peer", _KERFOOT, _DIVISOR, NO_BACKBONE),
    ],
)


def build_network(config: ModelConfig, grid: Grid, *, target: Target = "segmentation") -> nn.Module:
    """Return the network that `config` names, its first weights drawn from torch's generator; no file is read.

    Args:
        config: Its name and settings.
        grid: What goes in and what comes out.
        target: `segmentation` gives `(B, in_channels, *S) -> (B, out_channels, *S)` logits for any size, and with deep
            supervision while training a list: logits at full size, then coarser ones. `classification` gives the
            encoder of the network with a head, or a network that only classifies:
            `(B, in_channels, *S) -> (B, out_channels)`.

    Raises:
        UnknownNameError: The model, backbone or mixer is not known; the nearest name is given.
        ConfigError: The model does not support what is asked of it, or the numbers of the grid do not suit it.
    """
    config, _ = resolve_weights(config)
    wanted = {
        f"{grid.spatial_dims}-D": True,
        **{f"model.{key}": getattr(config, key) for key in ("mixers", "block", "mlp_ratio", "weights", "frozen")},
    }
    entry = NETWORKS.require(config.name, target, *(ability for ability, asked in wanted.items() if asked))
    # What a row builds is what it is for: a network that only classifies is a classifier as it is.
    build = entry.part if target == "segmentation" or "segmentation" in entry.cannot else _classifier
    with building(config.name):
        return build(config, grid)


@contextmanager
def building(name: str) -> Iterator[None]:
    """Say of which model that is what a constructor inside the block refuses, or has no memory for.

    Raises:
        ConfigError: The numbers of a config do not suit it.
        ResourceError: Its weights do not fit into memory.
    """
    try:
        with enough_memory(
            lambda: (
                f"The weights of model {name} do not fit into memory. Choose smaller numbers in model.mixers, or "
                "another backbone or model."
            )
        ):
            yield
    except ValueError as error:
        raise ConfigError(f"model {name} cannot be built: {error}") from error


def _classifier(config: ModelConfig, grid: Grid) -> Classifier:
    """Return the backbone with its variant's head: `(B, in_channels, *S) -> (B, out_channels)` logits, any size.

    Raises:
        UnknownNameError: The backbone is not known; the nearest name is given.
        ConfigError: The backbone normalizes each image's channels by themselves, which takes away what the average over
            positions could tell, or the plan's numbers do not suit it.
    """
    if VARIANTS[config.backbone].part.norm == "instance":
        raise ConfigError(
            f"model.backbone={config.backbone} has instance norm, which hides from a classifier what it averages over "
            f"an image. Set model.backbone={CLASSIFIER}, or start from --config volume/classification."
        )
    return with_head(build_encoder(config, grid), config.backbone, grid.out_channels)
