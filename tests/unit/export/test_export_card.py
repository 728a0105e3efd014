"""The model card: true to its facts, whatever names it meets."""

import ast

from sam3ft_trainer.export.card import CardCategory, CardFacts, CardScores, render_card

HOSTILE = 'a|b\n```\n<script>"""'


def _facts(**changes: object) -> CardFacts:
    given: dict[str, object] = {
        "name": "blood",
        "task": "detection",
        "base_model": "hf://facebook/sam3",
        "base_digest": "ab" * 32,
        "resolution": 1008,
        "geometry_cls": True,
        "settings": {"updates": 4000, "learning rate": 8e-5},
        "images": 200,
        "data_digest": "cd" * 32,
        "categories": (CardCategory(name="RBC", phrases=("red blood cell", "erythrocyte"), objects=31),),
        "scored_images": 30,
        "scores": (
            CardScores(label="base model", metrics={"bbox_AP": 0.1, "bbox_AP50": 0.2, "fp_absent_rate": None}),
            CardScores(label="fine-tuned, trainer's forward", metrics={"bbox_AP": 0.5, "bbox_AP50": 0.75}),
            CardScores(label="fine-tuned, plain Hugging Face call", metrics={"bbox_AP": 0.4, "bbox_AP50": None}),
        ),
        "versions": {"torch": "2.14.1"},
    }
    return CardFacts.model_validate(given | changes)


def _code(card: str) -> str:
    return card.split("```python\n")[1].split("```", maxsplit=1)[0]


def test_the_card_holds_scores_data_and_settings() -> None:
    card = render_card(_facts(), address="/models/blood")

    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| | bbox\\_AP | bbox\\_AP50 |\n|---|---:|---:|\n| base model | 10.0 | 20.0 |\n" in card
    assert "| fine-tuned, plain Hugging Face call | 40.0 | - |" in card
    assert "| RBC | red blood cell, erythrocyte | 31 |" in card
    assert "| updates | 4000 |" in card
    assert "ab" * 32 in card
    assert "Only boxes were trained." in card


def test_the_call_brings_the_geometry_token_back_only_where_it_was_trained() -> None:
    with_token = _code(render_card(_facts(), address="/models/blood"))
    without = _code(render_card(_facts(geometry_cls=False), address="/models/blood"))

    assert "torch.full((1, 1), -10)" in with_token
    assert "input_boxes" not in without


def test_an_export_in_a_bucket_is_called_from_a_copy() -> None:
    card = render_card(_facts(), address="s3://models/runs/blood")

    assert "Copy `s3://models/runs/blood` to a folder first, here `./blood`." in card
    assert "from_pretrained('./blood')" in _code(card)


def test_names_cannot_leave_their_place() -> None:
    hostile = CardCategory(name=HOSTILE, phrases=(HOSTILE,), objects=1)

    card = render_card(_facts(name=HOSTILE, categories=(hostile,), settings={HOSTILE: HOSTILE}), address="/m")

    assert "<script>" not in card.replace(_code(card), "")
    assert 2 == card.count("\n```")
    literals = [node.value for node in ast.walk(ast.parse(_code(card))) if isinstance(node, ast.Constant)]
    assert HOSTILE in literals
    rows = [line for line in card.splitlines() if line.startswith("| a")]
    assert all(line.replace("\\|", "").count("|") in {3, 4} for line in rows)
    assert len(rows) >= 2


def test_a_run_without_scores_says_so() -> None:
    assert "The run had no split to score." in render_card(_facts(scores=()), address="/m")
