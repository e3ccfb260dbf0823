"""Frame fusion: from the grids of a clip's frames to its visual tokens (section 3.1 of the paper)."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipbert.model.configuration import WITH_FRAME_EMBEDDINGS, ClipBertConfig


class TemporalAttention(nn.Module):
    """Residual self-attention over the T frames at each grid cell, averaged to one token per cell."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, grids: Tensor) -> Tensor:
        """Return (M, h, w, hidden) of grids (M clips, T frames, h, w, hidden)."""
        cells = grids.permute(0, 2, 3, 1, 4)
        flat = cells.flatten(0, 2)
        projected = self.query_key_value(self.norm(flat)).unflatten(-1, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return (cells + self.output(mixed).view_as(cells)).mean(dim=3)


class TemporalConvolution(nn.Module):
    """Residual 3D convolution over frames, rows and columns, averaged over the T frames to one token per cell.

    A convolution compares neighboring cells of neighboring frames, so one unit can tell in which direction something
    moves. Attention has to learn the product of a place and a time for that, which takes far more training.
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.convolution = nn.Conv3d(config.hidden_size, config.hidden_size, kernel_size=3, padding=1)

    def forward(self, grids: Tensor) -> Tensor:
        """Return (M, h, w, hidden) of grids (M clips, T frames, h, w, hidden)."""
        motion = torch.relu(self.convolution(self.norm(grids).permute(0, 4, 1, 2, 3)))
        return grids.mean(dim=1) + motion.mean(dim=2).permute(0, 2, 3, 1)


class VisualEmbeddings(nn.Module):
    """Visual tokens of clips: fused frames with row, column and token type embeddings, LayerNorm and dropout.

    `config.frame_fusion` "mean" averages the frames of a clip, as in the paper; "concat" keeps the cells of all its
    frames and "attention" attends over the frames at each cell, both after adding a learned frame embedding;
    "conv3d" adds what a 3D convolution finds in them.
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.row_position_embeddings = nn.Embedding(config.max_grid_rows, config.hidden_size)
        self.col_position_embeddings = nn.Embedding(config.max_grid_cols, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(1, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.frame_fusion = config.frame_fusion
        if config.frame_fusion in WITH_FRAME_EMBEDDINGS:
            self.frame_position_embeddings = nn.Embedding(config.max_frames_per_clip, config.hidden_size)
        if config.frame_fusion == "attention":
            self.temporal_attention = TemporalAttention(config)
        if config.frame_fusion == "conv3d":
            self.temporal_convolution = TemporalConvolution(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, grids: Tensor, keep: int | None = None) -> Tensor:
        """Return visual tokens (M, h * w, hidden), with "concat" (M, T * h * w, hidden).

        Args:
            grids: (M clips, T frames, h, w, hidden).
            keep: number of random tokens to keep, the same ones in the whole batch, in grid order: the pixel random
                sampling of pretraining (section 3.3); None: all.

        Raises:
            ValueError: the grid has more rows or columns, or the clip more frames, than there are embeddings.
        """
        rows, cols = grids.shape[2:4]
        for name, size, table in (
            ("rows", rows, self.row_position_embeddings),
            ("cols", cols, self.col_position_embeddings),
        ):
            if size > table.num_embeddings:
                raise ValueError(
                    f"pixel_values give a grid of {rows} x {cols} cells, but config.max_grid_{name} is "
                    f"{table.num_embeddings}: use smaller frames or a larger max_grid_{name}."
                )
        grid = self._fuse(grids)
        grid = grid + self.row_position_embeddings.weight[:rows, None, :]
        grid = grid + self.col_position_embeddings.weight[None, :cols, :]
        tokens = grid.flatten(1, -2)
        if keep is not None and keep < tokens.shape[1]:
            cells = torch.randperm(tokens.shape[1], device=tokens.device)[:keep].sort().values
            tokens = tokens.index_select(1, cells)
        return self.dropout(self.LayerNorm(tokens + self.token_type_embeddings.weight[0]))

    def _fuse(self, grids: Tensor) -> Tensor:
        if self.frame_fusion == "mean":
            return grids.mean(dim=1)
        if self.frame_fusion == "conv3d":
            return cast(Tensor, self.temporal_convolution(grids))
        frames, table = grids.shape[1], self.frame_position_embeddings
        if frames > table.num_embeddings:
            raise ValueError(
                f"pixel_values have clips of {frames} frames, but config.max_frames_per_clip is "
                f"{table.num_embeddings}: use fewer frames or a larger max_frames_per_clip."
            )
        grids = grids + table.weight[:frames, None, None, :]
        return self.temporal_attention(grids) if self.frame_fusion == "attention" else grids
