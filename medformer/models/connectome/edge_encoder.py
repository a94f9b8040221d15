"""The encoder of METAFormer: an atlas's connections as one vector (Mahler et al., MLCN 2023)."""

from __future__ import annotations

import math

from torch import Tensor, nn

WIDTH, LAYERS, HEADS, FEEDFORWARD = 256, 2, 4, 128


class EdgeEncoder(nn.Module):
    """Linear embedding, two post-norm transformer layers, GELU and dropout: `(B, connections) -> (B, 256)`.

    A subject is a sequence of one token. Attention over one token is a linear map, whatever its query and key: as
    intended by its authors, this "transformer" is a residual multilayer perceptron.

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
        self.embedding = nn.Linear(connections, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, heads, feedforward, dropout, activation="gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, edges: Tensor) -> Tensor:
        tokens = (self.embedding(edges) / math.sqrt(WIDTH)).unsqueeze(self.sequence_axis)
        encoded = self.layers(tokens).squeeze(self.sequence_axis)
        out: Tensor = self.dropout(self.activation(encoded))
        return out
