"""Serve a recommender over HTTP: recommendations from histories and sessions.

The bearer token that requests need, if there is one, is the environment variable HF_REC_TOKEN.
"""

import os
import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser
from transformers.utils import logging

from ..serving.models import ModelSource
from ..serving.settings import ServiceSettings

TOKEN = "HF_REC_TOKEN"
KEEP_ALIVE = 75  # seconds; load balancers close an idle connection after 60, and must not find it closed before


@dataclass
class ServeArguments:
    """The model, and where it is served."""

    model_name_or_path: str = field(
        metadata={"help": "Folder or Hub id of the recommender, or folder of its export; may be given without a name."}
    )
    host: str = field(default="127.0.0.1", metadata={"help": "Address; 0.0.0.0 for all of this machine."})
    port: int = field(default=8000, metadata={"help": "Port."})
    threads: int = field(default=1, metadata={"help": "Threads that compute a list."})
    log_level: str = field(default="info", metadata={"help": "Of the logs: 'warning' leaves out single requests."})


def main(arguments: list[str] | None = None) -> None:
    parser = HfArgumentParser((ServeArguments, ServiceSettings), prog="hf-rec serve", description=__doc__)
    arguments = name_model(sys.argv[1:] if arguments is None else arguments)
    args, settings = parser.parse_args_into_dataclasses(arguments)
    try:
        import uvicorn

        from ..serving.app import create_app
        from ..serving.observing import log_as_json
    except ImportError as error:
        raise ValueError(f"serving needs {error.name}: pip install 'hf_rec[serve]'") from error
    logging.set_verbosity_error()  # its warnings quote values of requests
    logging.disable_progress_bar()
    log_as_json(args.log_level)
    app = create_app(
        ModelSource(args.model_name_or_path, settings.max_top_k, args.threads), settings, os.environ.get(TOKEN)
    )
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(settings.timeout) + 1,
    )


def name_model(arguments: list[str]) -> list[str]:
    """`hf-rec serve MODEL` is short for `hf-rec serve --model_name_or_path MODEL`."""
    if arguments and not arguments[0].startswith("-"):
        return ["--model_name_or_path", *arguments]
    return arguments


if __name__ == "__main__":
    main()
