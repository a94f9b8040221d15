"""The convolution of TensorFlow's "same" padding, which networks of timm that come from there have."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


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


def with_known_padding(network: nn.Module) -> nn.Module:
    """Put it in the place of timm's own in a network, with the same weights."""
    from timm.layers import Conv2dSame

    for key, module in list(network.named_modules()):
        if isinstance(module, Conv2dSame):
            same = SameConv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,
                module.stride,
                dilation=module.dilation,
                groups=module.groups,
                bias=module.bias is not None,
            )
            same.weight, same.bias = module.weight, module.bias
            parent, _, own = key.rpartition(".")
            setattr(network.get_submodule(parent), own, same)
    return network
