"""What plain torchrun may tell our rendezvous handler."""

import pytest
from torch.distributed.elastic.rendezvous.api import RendezvousParameters

from sam3ft_api.errors import InvalidConfig
from sam3ft_trainer.run.launcher.torchrun import TorchrunRendezvous


@pytest.mark.parametrize(
    ("endpoint", "conf", "said"),
    [
        ("127.0.0.1", {}, "HOST:PORT"),
        ("127.0.0.1:1", {"node": "no good name"}, "wrong at node"),
        ("127.0.0.1:1", {"slot": "4000"}, "wrong at slot"),
    ],
)
def test_a_wrong_endpoint_name_or_slot_is_refused_before_anything_waits(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, conf: dict[str, str], said: str
):
    monkeypatch.setenv("SAM3FT_TOKEN", "a-token-of-this-test-0123456789")
    parameters = RendezvousParameters("sam3ft", endpoint, "run", 2, 2, None, **conf)

    with pytest.raises(InvalidConfig, match=said):
        TorchrunRendezvous.connect(parameters)
