"""The composed forward: equal to `Sam3Model.forward`, each pair by itself, and defined without any pair."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import Sam3Model
from transformers.models.sam3.modeling_sam3 import box_cxcywh_to_xyxy

from sam3ft_api.training import ModelConfig
from sam3ft_trainer.model.training import TrainingModel
from sam3ft_trainer.tensors import Predictions


def reference(sam3: Sam3Model, inputs: tuple[Tensor, ...], *, geometry_cls: bool):
    """`Sam3Model.forward` on repeated images and phrases; a padded box adds the geometry token."""
    pixels, ids, mask, img_idx, txt_idx = inputs
    boxes = {}
    if geometry_cls:
        pairs = len(img_idx)
        boxes = {"input_boxes": torch.zeros(pairs, 1, 4), "input_boxes_labels": torch.full((pairs, 1), -10)}
    return sam3.eval()(
        pixel_values=pixels[img_idx], input_ids=ids[txt_idx], attention_mask=mask[txt_idx], return_dict=True, **boxes
    )


@pytest.mark.parametrize("geometry_cls", [False, True])
def test_without_one_to_many_the_outputs_are_those_of_the_plain_model(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    *,
    geometry_cls: bool,
):
    expected = reference(sam3, inputs, geometry_cls=geometry_cls)
    model = TrainingModel(sam3, no_dropout.model_copy(update={"geometry_cls": geometry_cls})).train()

    actual = predict(model, inputs, o2m=False)

    tight = {"rtol": 0, "atol": 2e-6}
    torch.testing.assert_close(actual.logits_LBQ[-1], expected.pred_logits, **tight)
    torch.testing.assert_close(box_cxcywh_to_xyxy(actual.boxes_LBQ4[-1]), expected.pred_boxes, **tight)
    torch.testing.assert_close(actual.presence_LB[-1], expected.presence_logits[:, 0], **tight)
    torch.testing.assert_close(actual.masks_BQhw, expected.pred_masks, rtol=0, atol=2e-5)
    torch.testing.assert_close(actual.semantic_B1hw, expected.semantic_seg, rtol=0, atol=2e-5)
    assert (actual.logits_o2m_LBQ, actual.boxes_o2m_LBQ4, actual.masks_o2m_BQhw) == (None, None, None)


def test_one_to_many_queries_do_not_change_the_one_to_one_outputs(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3, no_dropout).train()
    expected = outputs_of(predict(model, inputs, o2m=False))

    actual = outputs_of(predict(model, inputs, o2m=True))

    assert len(actual) == len(expected) + 3
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=5e-6)
    assert not torch.allclose(actual["logits_o2m_LBQ"], actual["logits_LBQ"], atol=1e-3)


def test_detection_computes_no_masks_and_only_one_level_of_the_neck(
    sam3: Sam3Model, no_dropout: ModelConfig, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions]
):
    calls = []
    for number, level in enumerate(sam3.vision_encoder.neck.fpn_layers):
        level.register_forward_hook(lambda *_, number=number: calls.append(number))
    model = TrainingModel(sam3, no_dropout)

    found = predict(model, inputs, masks=False)

    assert [2] == calls
    assert (found.masks_BQhw, found.masks_o2m_BQhw, found.semantic_B1hw) == (None, None, None)


def test_every_image_and_phrase_is_encoded_once(
    sam3: Sam3Model, no_dropout: ModelConfig, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions]
):
    images, phrases = [], []
    sam3.vision_encoder.backbone.embeddings.register_forward_hook(lambda _m, args, _o: images.append(len(args[0])))
    sam3.text_projection.register_forward_hook(lambda _m, args, _o: phrases.append(len(args[0])))

    predict(TrainingModel(sam3, no_dropout), inputs)

    assert ([2], [3]) == (images, phrases)


def test_a_pair_does_not_depend_on_the_other_pairs(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3, no_dropout).train()
    together = predict(model, inputs)
    pixels, ids, mask, img_idx, txt_idx = inputs
    alone = predict(model, (pixels[:1], ids[1:2], mask[1:2], torch.tensor([0]), torch.tensor([0])))
    assert (int(img_idx[3]), int(txt_idx[3])) == (0, 1)

    for name, value in outputs_of(alone).items():
        pair = outputs_of(together)[name].narrow(1 if "_LB" in name else 0, 3, 1)
        torch.testing.assert_close(value, pair, rtol=0, atol=2e-5)


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("num_images", [0, 2])
def test_without_a_pair_everything_gets_a_zero_gradient(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
    weighted_sum: Callable[[Predictions], Tensor],
    *,
    masks: bool,
    num_images: int,
):
    model = TrainingModel(sam3, no_dropout).train()
    weighted_sum(predict(model, inputs, masks=masks)).backward()
    expected = {name for name, p in sam3.named_parameters() if p.grad is not None}
    sam3.zero_grad()
    none = torch.zeros(0, dtype=torch.int64)
    empty = (torch.full_like(inputs[0][:num_images], torch.nan), inputs[1][:0], inputs[2][:0], none, none)

    found = predict(model, empty, masks=masks)
    weighted_sum(found).backward()

    assert all(0 in value.shape for value in outputs_of(found).values())
    gradients = {name: p.grad for name, p in sam3.named_parameters() if p.grad is not None}
    assert expected == set(gradients)
    assert not any(gradient.any() for gradient in gradients.values())


def test_cached_text_features_replace_the_text_encoder(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3, no_dropout).train()
    expected = outputs_of(predict(model, inputs))
    features = model.encode_text(inputs[1], inputs[2]).features_TKd

    actual = model(inputs[0], None, *inputs[2:], o2m=True, masks=True, text_features_TKD=features)

    for name, value in outputs_of(actual).items():
        assert torch.equal(expected[name], value), name


def test_without_text_the_call_is_refused(sam3: Sam3Model, no_dropout: ModelConfig, inputs: tuple[Tensor, ...]):
    model = TrainingModel(sam3, no_dropout)

    with pytest.raises(ValueError, match="input_ids_TK or text_features_TKD"):
        model(inputs[0], None, *inputs[2:], o2m=False, masks=False)


def test_double_precision_is_kept_to_the_end(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3.double(), no_dropout).train()

    found = outputs_of(predict(model, (inputs[0].double(), *inputs[1:])))

    assert {torch.float64} == {value.dtype for value in found.values()}


@pytest.mark.parametrize("preset_uses", [{"geometry_cls": True}, {"geometry_cls": False}])
def test_bfloat16_autocast_stays_near_float32(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    predict: Callable[..., Predictions],
    preset_uses: dict[str, bool],
):
    model = TrainingModel(sam3, no_dropout.model_copy(update=preset_uses)).train()
    expected = predict(model, inputs)

    with torch.autocast("cpu", torch.bfloat16):
        actual = predict(model, inputs)

    assert (actual.boxes_LBQ4 - expected.boxes_LBQ4).abs().max() < 0.05
    assert torch.float32 == actual.boxes_LBQ4.dtype
    assert (actual.float().logits_LBQ - expected.logits_LBQ).abs().mean() < 0.1


def test_the_decoder_feed_forward_runs_in_full_precision_under_autocast(
    sam3: Sam3Model, no_dropout: ModelConfig, inputs: tuple[Tensor, ...], predict: Callable[..., Predictions]
):
    seen = set()
    for layer in sam3.detr_decoder.layers:
        layer.mlp.fc2.register_forward_hook(lambda _m, args, output: seen.update((args[0].dtype, output.dtype)))

    with torch.autocast("cpu", torch.bfloat16):
        predict(TrainingModel(sam3, no_dropout), inputs)

    assert {torch.float32} == seen


def test_no_step_of_the_forward_asks_a_tensor_for_its_value(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    monkeypatch: pytest.MonkeyPatch,
    predict: Callable[..., Predictions],
):
    def refuse(*_args: object) -> None:
        raise AssertionError("the forward waits for the device")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)

    predict(TrainingModel(sam3, no_dropout).train(), inputs)


def test_wrapping_renames_no_parameter(sam3: Sam3Model):
    before = {f"sam3.{name}" for name in sam3.state_dict()}

    assert before == set(TrainingModel(sam3, ModelConfig()).state_dict())


def test_encoded_images_can_be_selected_one_by_one(
    sam3: Sam3Model,
    no_dropout: ModelConfig,
    inputs: tuple[Tensor, ...],
    outputs_of: Callable[[Predictions], dict[str, Tensor]],
):
    model = TrainingModel(sam3, no_dropout).eval()
    images = model.encode_images(inputs[0], masks=True)
    text = model.encode_text(inputs[1], inputs[2])
    zero, one = torch.tensor([0]), torch.tensor([1])

    expected = model.predict(images, text, one, zero, o2m=False, masks=True)
    actual = model.predict(images.select(one), text, zero, zero, o2m=False, masks=True)

    for name, value in outputs_of(actual).items():
        assert torch.equal(outputs_of(expected)[name], value), name
