"""A clip's frames to the visual tokens that stand beside the text (section 3.1 of the paper)."""

import torch
from torch import Tensor, nn

from clipbert.model.configuration import ClipBertConfig


class VisualEmbeddings(nn.Module):
    """Grids of a clip's frames to visual tokens: mean over the frames, row, column and type embeddings, LayerNorm.

    The frames of a clip are averaged; a learned embedding of the row, one of the column and the one visual token type
    are added to each cell; LayerNorm and dropout follow.
    """

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.row_position_embeddings = nn.Embedding(config.max_grid_rows, config.hidden_size)
        self.col_position_embeddings = nn.Embedding(config.max_grid_cols, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(1, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, grids: Tensor, keep: int | None = None) -> Tensor:
        """(M clips, T frames, h, w, hidden) to (M, h * w, hidden).

        With `keep`, that many random cells stay, the same ones in the whole batch, in grid order: the pixel random
        sampling of pretraining (section 3.3).

        Raises:
            ValueError: the grid has more rows or columns than there are position embeddings.
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
        grid = grids.mean(dim=1)
        grid = grid + self.row_position_embeddings.weight[:rows, None, :]
        grid = grid + self.col_position_embeddings.weight[None, :cols, :]
        tokens = grid.flatten(1, 2)
        if keep is not None and keep < tokens.shape[1]:
            cells = torch.randperm(tokens.shape[1], device=tokens.device)[:keep].sort().values
            tokens = tokens.index_select(1, cells)
        return self.dropout(self.LayerNorm(tokens + self.token_type_embeddings.weight[0]))
