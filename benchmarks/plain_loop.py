"""The paper's training loop written plainly: transformers' own modules, one clip after another."""

import torch
from torch import Tensor, nn
from transformers import AutoBackbone
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertEncoder, BertPooler

from clipbert.model import ClipBertConfig
from clipbert.model.configuration import backbone_config
from clipbert.model.fusion import VisualEmbeddings
from clipbert.model.heads import Classifier


class PlainModel(nn.Module):
    """The paper's model of transformers' modules, one clip at a time; the names of its weights are ours."""

    def __init__(self, config: ClipBertConfig) -> None:
        super().__init__()
        self.config = config
        self.clipbert = nn.ModuleDict(
            {
                "vision": nn.ModuleDict(
                    {
                        "backbone": AutoBackbone.from_config(backbone_config(config.vision or {})),
                        "projection": nn.Conv2d(2048, config.hidden_size, 3, padding=1, bias=False),
                    }
                ),
                "visual_embeddings": VisualEmbeddings(config),
                "embeddings": BertEmbeddings(config),
                "encoder": BertEncoder(config),
                "pooler": BertPooler(config),
            }
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = Classifier(config, labels=2)
        self.register_buffer("mean", torch.tensor(config.image_mean).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "PlainModel":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)
        return self

    def forward(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(texts, clips, 2) of one video's pixels (1, K, T, 3, H, W)."""
        parts, logits = self.clipbert, []
        for clip in pixel_values[0]:
            features = parts["vision"]["backbone"](clip.float() - self.mean).feature_maps[-1]
            grid = torch.relu(nn.functional.max_pool2d(parts["vision"]["projection"](features), 2))
            visual = parts["visual_embeddings"](grid.permute(0, 2, 3, 1)[None]).expand(len(input_ids), -1, -1)
            joint = torch.cat([parts["embeddings"](input_ids=input_ids), visual], dim=1)
            seen = torch.cat([attention_mask, attention_mask.new_ones(visual.shape[:2])], dim=1)
            mask = create_bidirectional_mask(config=self.config, inputs_embeds=joint, attention_mask=seen)
            states = parts["encoder"](joint, attention_mask=mask).last_hidden_state
            logits.append(self.classifier(self.dropout(parts["pooler"](states))))
        return torch.stack(logits, dim=1)


def plain_loss(model: PlainModel, batch: dict[str, Tensor]) -> Tensor:
    """The multi-clip loss, a video after another; each has the same number of texts, so nothing is read from a GPU."""
    total: Tensor = torch.zeros(())
    texts = len(batch["input_ids"]) // len(batch["pixel_values"])
    for video in range(len(batch["pixel_values"])):
        own = slice(video * texts, (video + 1) * texts)
        clip_logits = model(
            batch["pixel_values"][video : video + 1], batch["input_ids"][own], batch["attention_mask"][own]
        ).float()
        loss = nn.functional.cross_entropy(torch.logsumexp(clip_logits, dim=1), batch["labels"][own], reduction="sum")
        total = total.to(loss.device) + loss
    return total / len(batch["input_ids"])
