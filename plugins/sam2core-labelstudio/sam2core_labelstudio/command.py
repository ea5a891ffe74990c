"""`sam2core-labelstudio`: the ML backend, as a server that Label Studio calls."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from sam2core_labelstudio.answers import Answers
from sam2core_labelstudio.client import ApiError, Client

BACKEND = ("label_studio_ml", "redis", "rq")  # what the extra installs, by the names of their modules


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam2core-labelstudio", description=__doc__)
    parser.add_argument("--server", default="http://127.0.0.1:8000", metavar="URL", help="of sam2core serve")
    parser.add_argument(
        "--token", default=os.environ.get("SAM2CORE_TOKEN"), help="of sam2core serve, where it wants one"
    )
    parser.add_argument("--frames", type=int, metavar="N", help="frames a call tracks at most; by default all")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on, for Label Studio")
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--label-studio", default=os.environ.get("LABEL_STUDIO_URL", ""), metavar="URL")
    parser.add_argument("--label-studio-token", default=os.environ.get("LABEL_STUDIO_API_KEY", ""), metavar="TOKEN",
                        help="to fetch what was uploaded to Label Studio")  # fmt: skip
    return parser


def application(answers: Answers, *, hostname: str = "", access_token: str = "", folder: str | None = None) -> Any:
    """The WSGI application; `folder` is where label-studio-ml keeps its notes."""
    folder = folder or tempfile.mkdtemp(prefix="sam2core-labelstudio-")
    os.environ.setdefault("MODEL_DIR", folder)  # version 2 looks there while it is imported
    from label_studio_ml import api

    from sam2core_labelstudio.backend import backend

    made = backend(answers, hostname=hostname, access_token=access_token)
    if hasattr(api, "_manager"):  # version 1
        return api.init_app(model_class=made, model_dir=folder)
    return api.init_app(model_class=made)


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments()
    options = parser.parse_args(words)
    try:
        client = Client(options.server, options.token)
    except ValueError as error:
        parser.error(f"--server: {error}")
    try:
        client.about()  # better to fail now
    except ApiError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    answers = Answers(client, frames=options.frames)
    try:
        app = application(answers, hostname=options.label_studio, access_token=options.label_studio_token)
        app.run(host=options.host, port=options.port, threaded=True)
    except ModuleNotFoundError as error:
        if error.name not in BACKEND:
            raise
        parser.exit(1, f"{parser.prog}: {error}; it comes with the extra `backend` of sam2core-labelstudio\n")
    finally:
        answers.close()
