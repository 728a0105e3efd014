from sam3ft_trainer.evaluate.control import move_detections
from sam3ft_trainer.evaluate.truth import Detection, Truth


def test_detections_go_to_the_next_image_and_scale_with_it() -> None:
    truth = Truth(
        sizes_hw={1: (100, 200), 2: (50, 100), 5: (100, 100)}, categories={}, objects=[], exhaustive=frozenset()
    )
    found = [Detection(1, 7, 0.9, (20.0, 10.0, 40.0, 30.0)), Detection(5, 7, 0.8, (0.0, 0.0, 10.0, 10.0))]

    moved = move_detections(truth, found)

    assert moved == [
        Detection(2, 7, 0.9, (10.0, 5.0, 20.0, 15.0)),
        Detection(1, 7, 0.8, (0.0, 0.0, 20.0, 10.0)),
    ]


def test_a_single_image_keeps_its_own() -> None:
    truth = Truth(sizes_hw={3: (10, 10)}, categories={}, objects=[], exhaustive=frozenset())
    found = [Detection(3, 1, 0.5, (1.0, 2.0, 3.0, 4.0))]

    assert move_detections(truth, found) == found
