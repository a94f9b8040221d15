"""Average pooling minus its input (PoolFormer)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


class Pooling(nn.Module):
    """`avgpool(x) - x`; padding does not count in the mean (Yu et al., CVPR 2022, eq. 4)."""

    def __init__(self, channels: int, *, spatial_dims: int, stage: int, kernel_size: int | None = None) -> None:
        super().__init__()
        self.pool = _POOL[spatial_dims]
        self.kernel_size = kernel_size or 3

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = self.pool(x, self.kernel_size, 1, self.kernel_size // 2, count_include_pad=False)
        return mean - x
