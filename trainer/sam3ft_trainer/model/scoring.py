"""Classification: the dot product of query features with the mean-pooled prompt."""

import torch.nn.functional as F
from torch import Tensor
from transformers.models.sam3.modeling_sam3 import Sam3DotProductScoring

from sam3ft_trainer.model.prompt import Prompt


def score_queries(scoring: Sam3DotProductScoring, queries_LBGd: Tensor, prompt: Prompt, dropout: float) -> Tensor:
    """Return logits [L, B, G], clamped to +-12 as upstream.

    Dropout acts inside the prompt MLP, behind its activation: upstream's place (transformers has it behind the MLP).
    """
    mlp = scoring.text_mlp
    inner = F.dropout(F.relu(mlp.layer1(prompt.tokens_BMd)), dropout, training=dropout > 0)
    tokens_BMd = scoring.text_mlp_out_norm(mlp.layer2(inner) + prompt.tokens_BMd)
    valid_BM1 = prompt.valid_BM.to(tokens_BMd.dtype).unsqueeze(-1)
    pooled_Bd = (tokens_BMd * valid_BM1).sum(dim=1) / valid_BM1.sum(dim=1).clamp(min=1.0)
    projected_Bd1 = scoring.text_proj(pooled_Bd).unsqueeze(-1)
    logits_LBG: Tensor = (scoring.query_proj(queries_LBGd) @ projected_Bd1).squeeze(-1) * scoring.scale
    return logits_LBG.clamp(-scoring.clamp_max_val, scoring.clamp_max_val)
