"""`handler.py` of a recommender on Inference Endpoints of Hugging Face.

Copy this file into the repository of the model, beside a `requirements.txt` that installs hf_rec. A request is
`{"inputs": history, "parameters": {"top_k": 5}}`: a history as the pipeline takes it, or a list of histories, and
options of a call.
"""

from typing import Any

from hf_rec.serving.models import open_recommender


class EndpointHandler:
    """What an endpoint makes once, with the folder of the repository, and calls for each request."""

    def __init__(self, path: str = ""):
        self.recommend = open_recommender(path)

    def __call__(self, data: dict[str, Any]) -> list:
        if "inputs" not in data:
            raise ValueError('a request is {"inputs": history, "parameters": {"top_k": 5}}')
        return self.recommend(data["inputs"], **(data.get("parameters") or {}))


__all__ = ["EndpointHandler"]
