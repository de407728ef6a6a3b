"""Errors as the service says them: a status and one sentence, as JSON."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from helpers.errors import WorkshopError

SENTENCES = {404: "There is no such page.", 405: "This page does not take that method."}


class Refused(WorkshopError):
    """A request that cannot be answered: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def problem(
    status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """An answer that says why there is none."""
    return JSONResponse({"error": sentence}, status, headers)


def install(app: FastAPI) -> None:
    """Let an application say all its errors like this."""
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(
        Exception, lambda *_: problem(500, "The service failed; its log says why.")
    )


async def _refused(_request: object, error: Any) -> JSONResponse:
    return problem(error.status, str(error))


async def _http_problem(_request: object, error: Any) -> JSONResponse:
    sentence = SENTENCES.get(error.status_code, str(error.detail))
    return problem(error.status_code, sentence, error.headers)
