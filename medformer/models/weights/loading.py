"""Loading weights from a local file of any known key layout into an encoder of any number of dimensions.

Layouts (names of the same tensors): timm; sail-sg/metaformer; sail-sg/poolformer (v1); the package of
EfficientNet-Lite0; a whole network of ours, whose encoder is taken. Nothing is downloaded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from medformer.errors import CheckpointError
from medformer.models.backbone.blocks import Backbone
from medformer.models.backbone.efficientnet_lite import LITE0, whole_lite0
from medformer.models.backbone.heads import Classifier
from medformer.models.backbone.variants import VARIANTS, build_backbone, encoder_name
from medformer.tensor_file import name_some, read_metadata, read_tensors, shapes

# Applied in order to every key of a sail-sg file; timm's names of its networks are ours.
_SAIL_RULES: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.proj\.", "stem.conv."),
    (r"^downsample_layers\.0\.conv\.", "stem.conv."),
    (r"^downsample_layers\.0\.post_norm\.", "stem.norm."),
    (r"^downsample_layers\.(\d)\.pre_norm\.", r"stages.\1.downsample.norm."),
    (r"^downsample_layers\.(\d)\.conv\.", r"stages.\1.downsample.conv."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.layer_scale_([12])$", r".layer_scale\1.scale"),
    (r"^head\.(fc1|norm|fc2)\.", r"head.fc.\1."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
    (r"^norm\.", "head.norm."),
)
# timm's FocalNet, whose names are those of its paper.
_FOCAL_RULES: tuple[tuple[str, str], ...] = (
    (r"^layers\.(\d)\.", r"stages.\1."),
    (r"(stem|downsample)\.proj\.", r"\1.conv."),
    (r"\.modulation\.f\.", ".token_mixer.fc_in."),
    (r"\.modulation\.focal_layers\.(\d)\.0\.", r".token_mixer.contexts.\1."),
    (r"\.modulation\.h\.", ".token_mixer.modulator."),
    (r"\.modulation\.proj\.", ".token_mixer.fc_out."),
    (r"^norm\.", "head.norm."),
)
# timm's SHViT and EfficientViM, whose stem's last step is the downsampling of our second stage.
_STEP_RULES: tuple[tuple[str, str], ...] = (
    (r"^(stages\.\d)\.downsample\.conv\.0\.", r"\1.downsample.expand."),
    (r"^(stages\.\d)\.downsample\.conv\.1\.", r"\1.downsample.step."),
    (r"^(stages\.\d)\.downsample\.conv\.2\.", r"\1.downsample.weigh."),
    (r"^(stages\.\d)\.downsample\.conv\.3\.", r"\1.downsample.reduce."),
    (r"\.downsample\.0\.m\.", ".downsample.near1."),
    (r"\.downsample\.1\.m\.", ".downsample.mlp1."),
    (r"\.downsample\.2\.conv1\.", ".downsample.expand."),
    (r"\.downsample\.2\.conv2\.", ".downsample.step."),
    (r"\.downsample\.2\.se\.", ".downsample.weigh."),
    (r"\.downsample\.2\.conv3\.", ".downsample.reduce."),
    (r"\.downsample\.3\.m\.", ".downsample.near2."),
    (r"\.downsample\.4\.m\.", ".downsample.mlp2."),
    (r"\.dwconv([12])\.", r".near\1."),
    (r"\.(blocks\.\d)\.conv\.m\.", r".\1.near1."),
    (r"\.mixer\.m\.pre_norm\.", ".token_mixer.norm."),
    (r"\.mixer\.m\.qkv\.", ".token_mixer.qkv."),
    (r"\.mixer\.m\.proj\.1\.", ".token_mixer.proj."),
    (r"\.ffn\.m\.pw([12])\.", r".mlp.fc\1."),
    (r"\.(pw)([12])\.(c|bn)\.", r".fc\2.\3."),
    (r"\.ffn\.", ".mlp."),
    (r"\.alpha$", ".gates"),
    (r"\.mixer\.A$", ".token_mixer.a"),
    (r"\.mixer\.D$", ".token_mixer.skip"),
    (r"\.mixer\.BCdt_proj\.conv\.", ".token_mixer.parameters_of_states."),
    (r"\.mixer\.dw\.conv\.", ".token_mixer.dwconv."),
    (r"\.mixer\.hz_proj\.conv\.", ".token_mixer.gate."),
    (r"\.mixer\.out_proj\.conv\.", ".token_mixer.proj."),
    (r"\.(blocks\.\d)\.norm\.", r".\1.norm1."),
    (r"\.c\.weight$", ".conv.weight"),
    (r"\.bn\.", ".norm."),
    (r"^head\.norm\.", "head.norm."),
    (r"^head\.l\.", "head.fc."),
)
_SHVIT_MARK, _VIM_MARK = "patch_embed.6.c.weight", "patch_embed.conv.3.conv.weight"
_FOCAL_MARK = "layers.0.blocks.0.modulation.f.weight"
_SAIL_MARKS = ("downsample_layers.", "patch_embed.")
_LITE0_MARK = "_conv_stem.weight"
_BACKBONE = "backbone."

_ENCODER = ("backbone", "mixer", "mixers", "block")
"""Keys of a config that an encoder follows from."""


def load_pretrained(model: Backbone | Classifier, path: str | Path) -> tuple[str, ...]:
    """Fill a backbone or classifier from a local file of 2-D weights, or of a network of ours.

    A 2-D kernel is spread evenly along the new axis of a 3-D or 1-D one, which gives the same response on input that is
    constant along it. A stem for another number of input channels gets the mean over the file's channels, scaled so
    that its response to gray input is kept.

    Args:
        model: A backbone takes the encoder only; a `Classifier` also takes the head.
        path: `.safetensors`, or a `.pth`/`.bin` file, which is opened with `weights_only=True`.

    Returns:
        Names of ours that the file does not decide: they keep their first values.

    Raises:
        CheckpointError: The file cannot be read safely, or lacks tensors or has other shapes; names them.
    """
    prefix = "backbone." if isinstance(model, Classifier) else ""
    source = {
        (key if key.startswith("head.") else prefix + key): value
        for key, value in rename(read_weights(Path(path))).items()
    }
    optional = {
        f"{name}.{weight}"
        for name, module in model.named_modules()
        for weight in getattr(module, "optional_weights", ())
    }
    plain = {key.removeprefix(prefix): value for key, value in source.items()}
    return _fill(model, source, Path(path), lambda: _made_for(Path(path), plain), optional)


def load_features(encoder: nn.Module, path: str | Path) -> None:
    """Fill a network of timm, or the part of it that gives feature maps, from a file of the whole network of timm.

    Args:
        encoder: With timm's names of its parts; where a part of a network has a name with underscores for dots
            (`stages_0.blocks`), it is found too.
        path: As in `load_pretrained`.

    Raises:
        CheckpointError: As `load_pretrained`.
    """
    given = {key.replace(".", "_"): value for key, value in rename(read_weights(Path(path))).items()}
    names = {key.replace(".", "_"): key for key in encoder.state_dict()}
    source = {names.get(key, key): value for key, value in given.items()}
    _fill(encoder, source, Path(path), lambda: "Expected the weights of the network that the encoder is part of.")


def _fill(
    model: nn.Module,
    source: Mapping[str, Tensor],
    path: Path,
    advice: Callable[[], str],
    optional: Collection[str] = (),
) -> tuple[str, ...]:
    """Give every tensor of a network the value of its name; nothing is changed unless all are there.

    Returns:
        Names of those in `optional` that the source lacks or has in other shapes.
    """
    target = model.state_dict()
    filled, misfits = {}, []
    for key in sorted(target.keys() & source.keys()):
        fitted = _fit(source[key], target[key])
        if fitted is not None:
            filled[key] = fitted
        elif key not in optional:
            misfits.append(f"{key}: {tuple(source[key].shape)} instead of {tuple(target[key].shape)}")
    missing = sorted(target.keys() - source.keys() - set(optional))
    if missing or misfits:
        surplus = sorted(name for name in source.keys() - target.keys() if not name.startswith("head."))
        raise CheckpointError(
            f"{path} does not fit this encoder: missing {name_some(missing)}; other shape {name_some(misfits)}; "
            f"unexpected {name_some(surplus)}. {advice()}"
        )
    model.load_state_dict({**target, **filled})
    return tuple(sorted(target.keys() - filled.keys()))


def own_network(path: Path) -> dict[str, Any]:
    """What a file of a network that medformer trained says of itself; empty for any other file.

    Raises:
        CheckpointError: A safetensors file cannot be read.
    """
    about = read_metadata(path) if path.suffix == ".safetensors" else {}
    return about if about.get("task") else {}


def trained_with(about: Mapping[str, Any], keys: Sequence[str] = ("name", *_ENCODER)) -> str:
    """Say what a network of ours was trained with, as in a config: `model.backbone=caformer_s18, model.mixers=null`.

    Args:
        about: What its file says of it.
        keys: Of the section `model`, which are left out where the file has them not.
    """
    model = about.get("model")
    told = {key: model[key] for key in keys if key in model} if _is_table(model) else {}
    return ", ".join(
        f"model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in told.items()
    )


def _made_for(path: Path, source: Mapping[str, Tensor]) -> str:
    """What a file that does not fit was made for, and what it can be used for."""
    about = own_network(path)
    if about:
        what = f"It is the encoder of a network that medformer trained for the task {about['task']}"
        told = trained_with(about, _ENCODER)
        return f"{what}, with {told}. Set the same, or take other weights." if told else f"{what}."
    found = {key: tuple(value.shape) for key, value in source.items()}
    fitting = [name for name in VARIANTS if not encoder_name(name) and _fits(name, found)]
    if fitting:
        return (
            f"It is made for model.backbone={' or '.join(fitting)} with its own mixers and blocks. Set these "
            "(model.mixers=null, model.block=null), or take other weights, or none."
        )
    return "It fits no backbone that `medformer info` lists; expected the published weights of one."


def _is_table(content: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(content, dict)


def _fits(name: str, found: Mapping[str, tuple[int, ...]]) -> bool:
    if not all(_ends_at(found, stage, depth) for stage, depth in enumerate(VARIANTS[name].part.depths)):
        return False
    with torch.device("meta"):
        backbone = build_backbone(name)
    optional = {
        f"{part}.{weight}"
        for part, module in backbone.named_modules()
        for weight in getattr(module, "optional_weights", ())
    }
    wanted = {key: tuple(value.shape) for key, value in backbone.state_dict().items() if key not in optional}
    return all(_size(found.get(key, (0,))) == _size(shape) for key, shape in wanted.items())


def _ends_at(found: Collection[str], stage: int, depth: int) -> bool:
    """Whether a stage has this number of blocks, which is seen without building a network."""
    there = {key.split(".")[3] for key in found if key.startswith(f"stages.{stage}.blocks.")}
    return len(there) == depth


def _size(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def rename(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under our names (timm's), from any of the layouts."""
    plain = {key.removeprefix("module."): value for key, value in tensors.items()}
    if _LITE0_MARK in plain:
        return _in_order(plain)
    if _FOCAL_MARK in plain:
        return {_by_rules(key, _FOCAL_RULES): value for key, value in plain.items()}
    if _SHVIT_MARK in plain or _VIM_MARK in plain:
        # EfficientViM's downsampling stands behind its stage, ours before the next one.
        behind = _VIM_MARK in plain
        return {_by_rules(_later(key, behind), _STEP_RULES): value for key, value in plain.items()}
    if not any(key.startswith(_SAIL_MARKS) for key in plain):
        return plain
    renamed = {}
    for key, value in plain.items():
        # PoolFormer v1 interleaves stages (even) and downsamplings (odd) in one list.
        if match := re.match(r"^network\.(\d)\.(.+)$", key):
            index, rest = int(match[1]), match[2]
            key = (
                f"stages.{index // 2}.{rest}"
                if index % 2 == 0
                else f"downsample_layers.{(index + 1) // 2}.{rest.replace('proj.', 'conv.')}"
            )
        renamed[_by_rules(key, _SAIL_RULES)] = value
    return renamed


def _later(key: str, behind: bool) -> str:
    """Number steps and stages as ours are: the stem's first map is a stage of its own."""
    if match := re.match(r"^patch_embed\.(?:conv\.)?(\d)\.(.+)$", key):
        number = int(match[1]) if behind else int(match[1]) // 2
        return f"stem.steps.{number}.{match[2]}" if number < 3 else f"stages.1.downsample.{match[2]}"
    if match := re.match(r"^stages\.(\d)\.(.+)$", key):
        moved = int(match[1]) + (2 if behind and match[2].startswith("downsample.") else 1)
        return f"stages.{moved}.{match[2]}"
    return key


def _by_rules(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def inflate(kernel: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Spread a 2-D kernel `(out, in, k, k)` to a kernel of `shape` in 1-D or 3-D; None when the sizes do not fit.

    The new axis is the one whose size is not k (kernels of anisotropic voxels), or else the first. An axis that loses
    its extent, and the rows when going to 1-D, are summed.
    """
    if kernel.dim() != 4 or kernel.shape[:2] != shape[:2] or len(shape) not in (3, 5):
        return None
    size = kernel.shape[-1]
    new = next((axis for axis in range(2, len(shape)) if shape[axis] != size), 2)
    plane = [1, shape[2]] if len(shape) == 3 else [n for axis, n in enumerate(shape) if axis > 1 and axis != new]
    for axis, n in enumerate(plane, start=2):
        if n not in (1, size):
            return None
        if n < size:
            kernel = kernel.sum(axis, keepdim=True)
    if len(shape) == 3:
        return kernel.squeeze(2)
    return kernel.unsqueeze(new).expand(shape) / shape[new]


def _fit(value: Tensor, target: Tensor) -> Tensor | None:
    shape = tuple(target.shape)
    if value.dim() == 4 and target.dim() >= 3 and value.shape[1] != shape[1] and value.shape[0] == shape[0]:
        value = value.sum(1, keepdim=True).expand(-1, shape[1], -1, -1) / shape[1]
    if tuple(value.shape) == shape:
        return value.to(target.dtype)
    if value.squeeze().shape == target.squeeze().shape:
        return value.reshape(shape).to(target.dtype)
    inflated = inflate(value, shape)
    return None if inflated is None else inflated.to(target.dtype).contiguous()


def _in_order(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors under the names of EfficientNet-Lite0, which has the same ones in the same order.

    Raises:
        CheckpointError: It has others.
    """
    with torch.device("meta"):
        expected = shapes(whole_lite0().state_dict())
    if list(expected.values()) != list(shapes(tensors).values()):
        raise CheckpointError(
            f"Of the EfficientNets under these names, only {LITE0} is known, and these weights are of another."
        )
    return dict(zip(expected, tensors.values(), strict=True))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file under its own names; of a network of ours, those of its encoder.

    Raises:
        CheckpointError: The file cannot be read safely, or it is a network of ours without a backbone.
    """
    if path.suffix == ".safetensors":
        tensors = read_tensors(path)[0]
        return _encoder(tensors, path) if own_network(path) else tensors
    if not path.is_file():
        raise CheckpointError(f"There is no weight file {path}; expected .safetensors, .pth, .pt or .bin.")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        with open(path, "rb") as file:
            if not file.read(2).startswith((b"PK", b"\x80")):
                raise CheckpointError(
                    f"{path} is not a PyTorch file; expected .safetensors, .pth, .pt or .bin with tensors by name."
                ) from error
        # Not PyTorch's own words, which advise to open it all the same.
        raise CheckpointError(
            f"{path} holds more than tensors and was not opened, because a pickle can run code. "
            "Load it where you trust it and save its state dict with safetensors."
        ) from error
    except Exception as error:  # a damaged file makes torch raise anything
        raise CheckpointError(
            f"{path} is not a complete PyTorch file ({str(error) or type(error).__name__}). Copy it again from its "
            "source."
        ) from error
    for name in ("state_dict_ema", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            content = content[name]
    named = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )
    if not named:
        raise CheckpointError(f"{path} holds no state dict; expected names with tensors.")
    return content


def _encoder(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The encoder, and the head of a classifier, of a network of ours."""
    kept = (_BACKBONE, "head.")
    inside = {key.removeprefix(_BACKBONE): value for key, value in tensors.items() if key.startswith(kept)}
    if not any(key.startswith(_BACKBONE) for key in tensors):
        raise CheckpointError(
            f"{path} holds a network that medformer trained, and none of its tensors begins with '{_BACKBONE}': it has "
            "no encoder of the shared backbone. Give weights of another network."
        )
    return inside
