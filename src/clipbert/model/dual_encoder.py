"""Two towers in the one encoder: a text alone and a video alone as comparable vectors."""

import math

import torch
from torch import Tensor, nn

from clipbert.model.configuration import ClipBertConfig


class ContrastiveHead(nn.Module):
    """The projections of the text and the video tower and their learned temperature (CLIP, Radford et al. 2021)."""

    INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
    MAX_SCALE = 100.0

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        assert config.projection_size is not None
        self.text_projection = nn.Linear(config.hidden_size, config.projection_size, bias=False)
        self.video_projection = nn.Linear(config.hidden_size, config.projection_size, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(self.INITIAL_LOGIT_SCALE))

    def text(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (N, L, hidden) of texts alone to unit vectors (N, P): the mean over the tokens that are no padding."""
        weights = mask.to(states.dtype)[..., None]
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)
        return nn.functional.normalize(self.text_projection(mean), dim=-1)

    def video(self, states: Tensor) -> Tensor:
        """States (B, K, V, hidden) of clips alone to unit vectors (B, P): the mean over tokens and clips."""
        return nn.functional.normalize(self.video_projection(states.mean(dim=(1, 2))), dim=-1)

    def scale(self) -> Tensor:
        """The inverse temperature, at most 100."""
        return self.logit_scale.exp().clamp(max=self.MAX_SCALE)
