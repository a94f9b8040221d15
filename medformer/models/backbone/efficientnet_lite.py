"""EfficientNet-Lite0 (Tan and Le, ICML 2019) under timm's names, and the "same" padding of TensorFlow that it has.

It is the encoder that frames have by default. timm has it too; but timm takes as long to import as torch, and a
prediction of one image has no other use for it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

from torch import Tensor, nn
from torch.nn import functional as F

LITE0 = "tf_efficientnet_lite0"
"""Its name in timm."""

_STEM, _TOP, _CLASSES, _EPSILON = 32, 1280, 1000, 1e-3
# Of each stage: kernel, stride of the first block, widening, channels, blocks.
_STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Stages whose maps are given, and what an image is wider than they are.
_GIVEN = {0: 2, 1: 4, 2: 8, 4: 16, 6: 32}


class SameConv2d(nn.Conv2d):
    """`(B, C_in, *S) -> (B, C_out, ceil(S / stride))`, the missing positions shared by both ends, the odd one last.

    It computes what timm's `Conv2dSame` does. Of a size that is known to be a multiple of the stride, this needs no
    rounding: then the padding is a number, and a network of any such size can be exported.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for axis in (1, 0):
            step = self.stride[axis]
            over = x.shape[2 + axis] % step
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            missing = max(reach - (step if over == 0 else over), 0)
            pads += [missing // 2, missing - missing // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def with_known_padding(network: nn.Module, theirs: Callable[[nn.Conv2d], bool]) -> nn.Module:
    """Put it in the place of the convolutions that `theirs` finds in a network, with the same weights."""
    for key, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and theirs(module):
            same = SameConv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                dilation=module.dilation,  # type: ignore[arg-type]
                groups=module.groups,
                bias=module.bias is not None,
            )
            same.weight, same.bias = module.weight, module.bias
            parent, _, own = key.rpartition(".")
            setattr(network.get_submodule(parent), own, same)
    return network


class _NormedReLU6(nn.BatchNorm2d):
    """Batch norm, then ReLU6."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(super().forward(x), inplace=True)


def _convolution(source: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(source, width, kernel, stride, kernel // 2, groups=groups, bias=False)


class _Separable(nn.Module):
    """Convolve each channel by itself, then mix the channels, `(B, C_in, *S) -> (B, C, *S)`."""

    def __init__(self, source: int, width: int, kernel: int) -> None:
        super().__init__()
        self.conv_dw = _convolution(source, source, kernel, groups=source)
        self.bn1 = _NormedReLU6(source)
        self.conv_pw = _convolution(source, width)
        self.bn2 = nn.BatchNorm2d(width, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))
        return out


class _Inverted(nn.Module):
    """Widen, convolve each channel by itself, narrow, `(B, C_in, *S) -> (B, C, *S / stride)`."""

    def __init__(self, source: int, width: int, kernel: int, stride: int, widening: int) -> None:
        super().__init__()
        hidden = source * widening
        self.conv_pw = _convolution(source, hidden)
        self.bn1 = _NormedReLU6(hidden)
        self.conv_dw = _convolution(hidden, hidden, kernel, stride, groups=hidden)
        self.bn2 = _NormedReLU6(hidden)
        self.conv_pwl = _convolution(hidden, width)
        self.bn3 = nn.BatchNorm2d(width, eps=_EPSILON)
        self.residual = source == width and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(self.bn1(self.conv_pw(x))))))
        return out + x if self.residual else out


class _Maps:
    """What `EfficientNetLite0` gives, in the words of timm."""

    def reduction(self) -> list[int]:
        """Strides of the maps."""
        return list(_GIVEN.values())

    def channels(self) -> list[int]:
        """Their channels."""
        return [_STAGES[stage][3] for stage in _GIVEN]

    def module_name(self) -> list[str]:
        """The parts that they come from."""
        return [f"blocks.{stage}" for stage in _GIVEN]


class EfficientNetLite0(nn.Module):
    """The part of the network that gives maps, `(B, C_in, *S) -> [(B, C, *S / stride), ...]` for strides 2 to 32.

    Names, first weights and results are those of timm's `tf_efficientnet_lite0` with `features_only`.

    Attributes:
        feature_info: Strides, channels and places of the maps.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv_stem = _convolution(in_channels, _STEM, 3, 2)
        self.bn1 = _NormedReLU6(_STEM)
        for _ in range(2):
            # timm makes a part here to see whether it can. The weights that follow are the next of the random numbers.
            nn.Conv2d(8, 8, 1)
        self.feature_info = _Maps()
        stages, source = list[nn.Module](), _STEM
        for kernel, stride, widening, width, blocks in _STAGES:
            stage = list[nn.Module]()
            for at in range(blocks):
                step = 1 if at else stride
                stage.append(
                    _Separable(source, width, kernel)
                    if widening == 1
                    else _Inverted(source, width, kernel, step, widening)
                )
                source = width
            stages.append(nn.Sequential(*stage))
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0.0, sqrt(2.0 / fan))
        with_known_padding(self, lambda convolution: convolution.stride != (1, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.bn1(self.conv_stem(x))
        maps = []
        for at, stage in enumerate(self.blocks):
            x = stage(x)
            if at in _GIVEN:
                maps.append(x)
        return maps


def whole_lite0() -> nn.Module:
    """The network with the layers that classify, for the names and shapes of a file of its weights; it has no forward.

    Under these names timm's own has them, in the same order.
    """
    network = EfficientNetLite0()
    network.conv_head = _convolution(_STAGES[-1][3], _TOP)
    network.bn2 = _NormedReLU6(_TOP)
    network.classifier = nn.Linear(_TOP, _CLASSES)
    return network
