"""METAFormer: one encoder per atlas, the mean of their logits (Mahler et al., MLCN 2023)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from medformer.errors import ConfigError
from medformer.models.connectome.classifier import ConnectomeClassifier, check_edges, edge_counts, module_key
from medformer.models.linear import Linear

WIDTH, LAYERS, HEADS, FEEDFORWARD = 256, 2, 4, 128


class EdgeEncoder(nn.Module):
    """Linear embedding, two post-norm transformer layers, GELU and dropout: `(B, connections) -> (B, 256)`.

    A subject is a sequence of one token. Attention over one token is a linear map for any query and key, so this
    "transformer" is, as its authors intended it, a residual multilayer perceptron.

    Args:
        connections: Length of the input vector.
        dropout: Rate everywhere in the encoder.
        swapped_arguments: Defect: as many heads as the feedforward width should have, and the reverse.
        across_subjects: Defect: the batch is one sequence, in which each subject attends to all others.
    """

    def __init__(
        self, connections: int, *, dropout: float, swapped_arguments: bool = False, across_subjects: bool = False
    ) -> None:
        super().__init__()
        heads, feedforward = (FEEDFORWARD, HEADS) if swapped_arguments else (HEADS, FEEDFORWARD)
        self.sequence_axis = 0 if across_subjects else 1
        self.embedding = Linear(connections, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, heads, feedforward, dropout, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, edges: Tensor) -> Tensor:
        tokens = (self.embedding(edges) / math.sqrt(WIDTH)).unsqueeze(self.sequence_axis)
        encoded = self.layers(tokens).squeeze(self.sequence_axis)
        out: Tensor = self.dropout(self.activation(encoded))
        return out


class PerAtlas(nn.Module):
    """Apply to each atlas a module of its own, `{atlas: input} -> {atlas: output}`."""

    def __init__(self, counts: Mapping[str, int], make: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.atlases = tuple(counts)
        self.parts = nn.ModuleDict({module_key(atlas): make(count) for atlas, count in counts.items()})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {atlas: self.parts[module_key(atlas)](inputs[atlas]) for atlas in self.atlases}


class EdgeEncoders(PerAtlas):
    """The encoders of all atlases, `{atlas: (B, connections)} -> {atlas: (B, 256)}`."""

    def __init__(self, counts: Mapping[str, int], make: Callable[[int], nn.Module]) -> None:
        super().__init__(counts, make)
        self.counts = dict(counts)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        check_edges(inputs, self.counts)
        return super().forward(inputs)


class MetaFormerPaper(ConnectomeClassifier):
    """The published system for any set of atlases, without its defects unless they are asked for.

    On AAL, CC200 and DOS160 it has 12,082,182 parameters, and 22,219,290 with heads that reconstruct in place of those
    that classify. The output of a subject depends on that subject only.

    Args:
        regions: Regions of each atlas.
        diagonal: The connections include the diagonal of the matrix.
        classes: Logits.
        dropout: Rate in the encoders and before the heads.
        swapped_arguments: Defect of the released code, see `EdgeEncoder`.
        across_subjects: Defect of the released code, see `EdgeEncoder`.

    Raises:
        DataError: There is no atlas, or one of fewer than two regions.
    """

    def __init__(
        self,
        regions: Mapping[str, int],
        *,
        diagonal: bool = False,
        classes: int = 2,
        dropout: float = 0.1,
        swapped_arguments: bool = False,
        across_subjects: bool = False,
    ) -> None:
        super().__init__()
        self.counts = edge_counts(regions, diagonal)
        self.encoder = EdgeEncoders(
            self.counts,
            lambda count: EdgeEncoder(
                count, dropout=dropout, swapped_arguments=swapped_arguments, across_subjects=across_subjects
            ),
        )
        self.heads = PerAtlas(self.counts, lambda _: Linear(WIDTH, classes))

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        return torch.stack(list(self.heads(features).values())).mean(0)

    def decoder(self, *, across: bool = False) -> nn.Module:
        if across:
            raise ConfigError(
                "pretraining.mask=atlases rebuilds the regions of one atlas from those of the others, and this model "
                "has no tokens of regions. Set pretraining.mask=edges, or model.name=roi_metaformer."
            )
        return PerAtlas(self.counts, lambda count: Linear(WIDTH, count))
