"""Average pooling minus its input (PoolFormer)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medformer.models.backbone.layers import KernelSize, odd_kernel


class Pooling(nn.Module):
    """`avgpool(x) - x`; padding does not count in the mean (Yu et al., CVPR 2022, eq. 4)."""

    def __init__(self, channels: int, *, spatial_dims: int, kernel_size: KernelSize = 3) -> None:
        super().__init__()
        self.kernel_size, _ = odd_kernel(kernel_size, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            # The mean factorizes over axes, and unlike avg_pool3d the 2-D kernel accepts maps below its own size.
            planes = self._mean(x.transpose(1, 2).flatten(0, 1), *self.kernel_size[1:])
            volume = planes.unflatten(0, (x.shape[0], -1)).transpose(1, 2)
            return self._mean(volume.flatten(3), self.kernel_size[0], 1).unflatten(3, x.shape[3:]) - x
        if x.dim() == 4:
            return self._mean(x, *self.kernel_size) - x
        return self._mean(x.unsqueeze(2), 1, *self.kernel_size).squeeze(2) - x

    @staticmethod
    def _mean(x: Tensor, rows: int, columns: int) -> Tensor:
        return F.avg_pool2d(x, (rows, columns), 1, (rows // 2, columns // 2), count_include_pad=False)
