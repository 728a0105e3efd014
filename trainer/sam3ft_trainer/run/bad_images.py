"""A small document for each image that could not be read, kept beside the run's checkpoints for whoever mends the data.

bad/IMAGE_ID-SHA256.json    {"image_id", "key", "address", "etag", "sha256", "error"}
"""

import json
from typing import Any

from sam3ft_api.errors import Sam3ftError
from sam3ft_trainer.data.dataset import CocoDataset
from sam3ft_trainer.run.events import Reporter
from sam3ft_trainer.store.checkpoint import RunStore

BAD = "bad"
"""Prefix of the documents in the run's store."""


def bad_document(train: CocoDataset, image_id: int, *, error: str, sha256: str) -> dict[str, Any]:
    """Return what is known of an image: where it is, which content was read, and why that cannot be used."""
    key = train.key_of(image_id)
    return {
        "image_id": image_id,
        "key": key,
        "address": train.source.address,
        "etag": train.etag_of(image_id),
        "sha256": sha256,
        "error": error,
    }


def keep_bad_image(store: RunStore, reporter: Reporter, document: dict[str, Any]) -> None:
    """Write the document once for each image and content, over all attempts; rank 0.

    A run does not end for want of it: a store that does not take it is told of as `bad_image_not_kept`.
    """
    name = f"{BAD}/{document['image_id']}-{document['sha256'][:16] or 'unread'}.json"
    try:
        store.keep_note(name, json.dumps(document, sort_keys=True).encode())
    except Sam3ftError as error:
        reporter.event("bad_image_not_kept", image_id=document["image_id"], message=str(error))
