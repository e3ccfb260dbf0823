"""The BERT encoder, which computes its last layer for single tokens where only these are read."""

from typing import Any

from torch import Tensor
from transformers.models.bert.modeling_bert import (
    ALL_ATTENTION_FUNCTIONS,
    BertEncoder,
    BertLayer,
    eager_attention_forward,
)

from clipbert.model.activation_checkpointing import checkpoint_activations


class ClipBertEncoder(BertEncoder):
    """`BertEncoder` of transformers, with the same weights; with `queries` it returns single states."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, queries: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Return the output of `BertEncoder`, or with `queries` the states (R, Q, hidden) of single tokens.

        They equal those of all tokens; the last layer is computed for these tokens alone, which spares most of it.

        Args:
            hidden_states: rows (R, W, hidden).
            attention_mask: (R, 1, W, W) in the form that the attention implementation takes; None: no mask.
            queries: (R, Q) columns of the tokens.
            kwargs: those of `BertEncoder`, without `queries`.
        """
        if queries is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        for layer in self.layer[:-1]:
            hidden_states = layer(hidden_states, attention_mask)
        last = self.layer[-1]
        if hasattr(last, "_hf_hook"):  # accelerate moves weights and inputs when the whole layer is called
            return _columns(last(hidden_states, attention_mask), queries)
        if last.gradient_checkpointing and last.training:
            return checkpoint_activations(_last_layer, last, hidden_states, attention_mask, queries)
        return _last_layer(last, hidden_states, attention_mask, queries)


def _last_layer(layer: BertLayer, rows: Tensor, mask: Tensor | None, queries: Tensor) -> Tensor:
    """Return the output (R, Q, hidden) of a layer at some columns of its input (R, W, hidden)."""
    attention = layer.attention.self
    own = _columns(rows, queries)
    heads = (attention.num_attention_heads, attention.attention_head_size)
    query = attention.query(own).unflatten(-1, heads).transpose(1, 2)
    key, value = (part(rows).unflatten(-1, heads).transpose(1, 2) for part in (attention.key, attention.value))
    seen = None if mask is None else _columns(mask[:, 0], queries)[:, None]
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    dropout = attention.dropout.p if attention.training else 0.0
    mixed, _ = attend(attention, query, key, value, seen, dropout=dropout, scaling=attention.scaling)
    states: Tensor = layer.feed_forward_chunk(layer.attention.output(mixed.flatten(2), own))
    return states


def _columns(rows: Tensor, queries: Tensor) -> Tensor:
    """Return the columns (R, Q) of rows (R, W, ...) as (R, Q, ...)."""
    return rows.gather(1, queries[..., None].expand(-1, -1, rows.shape[-1]))
