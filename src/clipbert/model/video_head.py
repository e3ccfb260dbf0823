"""Direct video head: a video's vector from the pooled features of its frames, without the BERT encoder.

A frozen backbone says in its pooled features what a frame shows. Mapping them straight into the space of a pretrained
sentence encoder learns faster from few videos than an encoder that first has to learn to read visual tokens.
"""

import math

import torch
from torch import Tensor, nn

from clipbert.model.configuration import ClipBertConfig

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_SCALE = 100.0


class DirectVideoHead(nn.Module):
    """Dual encoder of texts by their mean BERT state, and of videos by a head over pooled visual features.

    A frame's embedding is LayerNorm, then the sum of a linear and of a two-layer projection, of the mean over the cells
    of the backbone's feature map. A clip's embedding is the mean over its frames, and a video's that over its clips. A
    text's embedding is the mean of its states without a projection, as sentence encoders are trained, so its size is
    `config.hidden_size`.

    The embedding of a clip travels as the last row of its `visual_embeds`, like that of a pretrained dual encoder.
    """

    def __init__(self, config: ClipBertConfig, channels: int) -> None:
        """
        Args:
            channels: of the backbone's last feature map.
        """
        super().__init__()
        hidden = config.hidden_size
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, hidden)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * hidden), nn.GELU(), nn.Linear(2 * hidden, hidden))
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))

    def append_embeddings(self, visual_embeds: Tensor | None, pooled: Tensor) -> Tensor:
        """Return visual tokens with the clips' embeddings as their last row, (B, K, V + 1, hidden).

        Args:
            visual_embeds: (B, K, V, hidden) of the cross-encoder; None: V = 0.
            pooled: (B, K, T, channels), the mean over the cells of each frame's feature map.
        """
        normalized = self.norm(pooled)
        rows = (self.linear(normalized) + self.mlp(normalized)).mean(dim=2)[:, :, None]
        return rows if visual_embeds is None else torch.cat([visual_embeds, rows.to(visual_embeds.dtype)], dim=2)

    def split_embeddings(self, visual_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """Return the visual tokens (B, K, V, hidden) and the clips' embeddings (B, K, hidden).

        Raises:
            ValueError: not what `encode_video` of this model returns.
        """
        if visual_embeds.ndim != 4 or visual_embeds.shape[2] < 1:
            raise ValueError(
                f"visual_embeds has shape {tuple(visual_embeds.shape)}: expected (videos, clips, tokens, hidden) from "
                "encode_video of this model."
            )
        return visual_embeds[:, :, :-1], visual_embeds[:, :, -1]

    def video_features(self, embeddings: Tensor) -> Tensor:
        """Return unit vectors (B, hidden) of clips' embeddings (B, K, hidden)."""
        return nn.functional.normalize(embeddings.mean(dim=1), dim=-1)

    def project_text(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors (N, hidden): the mean of text states (N, L, hidden) over unpadded tokens."""
        weights = mask.to(states.dtype)[..., None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(mean, dim=-1)

    def scale(self) -> Tensor:
        """Return the inverse temperature (), at most `MAX_SCALE`."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    def similarity(self, text_features: Tensor, video_features: Tensor) -> Tensor:
        """Return scaled cosine similarities (N, B) of unit vectors (N, hidden) and (B, hidden)."""
        return self.scale() * text_features @ video_features.T
