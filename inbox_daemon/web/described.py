"""What /openapi.json says of the routes: the shapes that go in and come out, and every status that may be answered.

Pure. The shapes are OpenAI's; what clients see of them is made in `objects`.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from inbox_daemon.request.endpoints import ENDPOINTS

_REF = "#/components/schemas/"
_ANYWHERE = (401, 403, 421, 429, 500)  # said by the guard, or of a disk
_REFUSALS = {
    304: "Not changed since the ETag that was sent.",
    400: "The request is not right; `param` says which field.",
    401: "No key, or a wrong one.",
    403: "Sent by a page of another site.",
    404: "It is not there, or another key's.",
    409: "Not in the state that it is in.",
    410: "It was there, and was taken away.",
    413: "Too large.",
    415: "Not in this form.",
    416: "No such range of bytes.",
    421: "For another host.",
    422: "The Idempotency-Key was used with another body.",
    429: "Too many at once; `Retry-After` says when to come again.",
    500: "The disk failed.",
    507: "The disk is full.",
}
_BATCH_STATUS = ["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


def _or_null(kind: str) -> dict[str, Any]:
    return {"anyOf": [{"type": kind}, {"type": "null"}]}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"{_REF}{name}"}


def _list_of(name: str) -> dict[str, Any]:
    ends = {"first_id": _or_null("string"), "last_id": _or_null("string"), "has_more": {"type": "boolean"}}
    return _object({"object": {"const": "list"}, "data": {"type": "array", "items": _ref(name)}, **ends})


_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_EXPIRES_AFTER = _object(
    {"anchor": {"const": "created_at"}, "seconds": {"type": "integer", "minimum": 3600, "maximum": 2_592_000}}
)
_COUNTS = _object({"total": _NUMBER, "completed": _NUMBER, "failed": _NUMBER})
_STAMPS = {
    f"{what}_at": _or_null("integer")
    for what in ("in_progress", "expires", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
}

SCHEMAS: dict[str, Any] = {
    "Error": _object(
        {
            "error": _object(
                {"message": _TEXT, "type": _TEXT, "param": _or_null("string"), "code": _or_null("string")},
            )
        }
    ),
    "File": _object(
        {
            "id": _TEXT,
            "object": {"const": "file"},
            "bytes": _NUMBER,
            "created_at": _NUMBER,
            "filename": _TEXT,
            "purpose": {"enum": ["batch", "batch_output"]},
            "status": {"const": "processed"},
            "status_details": {"type": "null"},
            "expires_at": _or_null("integer"),
        }
    ),
    "Upload": _object(
        {
            "id": _TEXT,
            "object": {"const": "upload"},
            "bytes": _NUMBER,
            "created_at": _NUMBER,
            "expires_at": _NUMBER,
            "filename": _TEXT,
            "purpose": {"const": "batch"},
            "status": {"enum": ["pending", "completed", "cancelled"]},
            "file": {"anyOf": [_ref("File"), {"type": "null"}]},
        }
    ),
    "UploadPart": _object({"id": _TEXT, "object": {"const": "upload.part"}, "created_at": _NUMBER, "upload_id": _TEXT}),
    "Batch": _object(
        {
            "id": _TEXT,
            "object": {"const": "batch"},
            "endpoint": _TEXT,
            "model": _or_null("string"),
            "errors": _or_null("object"),
            "input_file_id": _TEXT,
            "completion_window": _TEXT,
            "status": {"enum": _BATCH_STATUS},
            "output_file_id": _or_null("string"),
            "error_file_id": _or_null("string"),
            "created_at": _NUMBER,
            **_STAMPS,
            "request_counts": _COUNTS,
            "usage": _or_null("object"),
            "metadata": _or_null("object"),
            "inbox": {"type": "object", "description": "What OpenAI's object has no field for."},
        }
    ),
    "FileList": _list_of("File"),
    "BatchList": _list_of("Batch"),
    "Deleted": _object({"id": _TEXT, "object": {"const": "file"}, "deleted": {"const": True}}),
    "DeletedBatch": _object({"id": _TEXT, "object": {"const": "batch"}, "deleted": {"const": True}}),
    "ModelList": _object({"object": {"const": "list"}, "data": {"type": "array", "items": {"type": "object"}}}),
    "Health": _object({"ok": {"const": True}, "daemon": {"type": "boolean"}}),
    "Now": _object({"batches": {"type": "array", "items": _ref("Batch")}, "daemons": {"type": "array"}}),
    "Priority": _object({"priority": {"type": "integer", "minimum": -999_999_999, "maximum": 999_999_999}}),
    "CreateFile": _object(
        {"purpose": {"const": "batch"}, "file": {"type": "string", "format": "binary", "minLength": 1}},
        {
            "expires_after[anchor]": {"const": "created_at"},
            "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2_592_000},
        },
    )
    | {
        "maxProperties": 8,
        "additionalProperties": _TEXT,
        "dependentRequired": {
            "expires_after[anchor]": ["expires_after[seconds]"],
            "expires_after[seconds]": ["expires_after[anchor]"],
        },
    },
    "CreateUpload": _object(
        {
            "bytes": {"type": "integer", "minimum": 1},
            "filename": _TEXT,
            "purpose": {"const": "batch"},
            "mime_type": _TEXT,
        },
        {"expires_after": {"anyOf": [_EXPIRES_AFTER, {"type": "null"}]}},
    ),
    "CreatePart": _object({"data": {"type": "string", "format": "binary"}})
    | {"maxProperties": 8, "additionalProperties": _TEXT},
    "Complete": _object({"part_ids": {"type": "array", "items": _TEXT}}, {"md5": _or_null("string")}),
    "CreateBatch": _object(
        {
            "input_file_id": _TEXT,
            "endpoint": {"enum": list(ENDPOINTS)},
            "completion_window": {"type": "string", "pattern": r"^[0-9]{1,6}[hd]$"},
        },
        {
            "metadata": {
                "anyOf": [
                    {
                        "type": "object",
                        "maxProperties": 16,
                        "propertyNames": {"maxLength": 64},
                        "additionalProperties": {"type": "string", "maxLength": 512},
                    },
                    {"type": "null"},
                ]
            },
            "output_expires_after": _EXPIRES_AFTER,
            "priority": {"type": "integer", "minimum": -999_999_999, "maximum": 999_999_999},
        },
    ),
}


def operation(
    answer: str | None, *statuses: int, body: str | None = None, form: str | None = None, kind: str = ""
) -> dict[str, Any]:
    """Return what a route's decorator is told.

    Args:
        answer: the schema of what is answered; None: bytes of this media type, by default any.
        statuses: that may be answered besides 200 and what the guard says.
        body, form: the schema of what is sent, as JSON or as a form.
    """
    content = {"application/json": {"schema": _ref(answer)}} if answer else {kind or "application/octet-stream": {}}
    responses: dict[int, Any] = {200: {"description": "Done.", "content": content}}
    for status in sorted({*statuses, *_ANYWHERE}):
        if status == 206:
            responses[status] = {"description": "A part of the bytes.", "content": content}
        elif status == 304:
            responses[status] = {"description": _REFUSALS[status]}
        else:
            said = {"application/json": {"schema": _ref("Error")}}
            responses[status] = {"description": _REFUSALS[status], "content": said}
    sent = {"application/json": body} if body else {"multipart/form-data": form} if form else {}
    extra: dict[str, Any] = {}
    if sent:
        extra["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": _ref(name)} for kind, name in sent.items()},
        }
    return {"responses": responses, "response_class": Response, "openapi_extra": extra}


def completed(schema: dict[str, Any]) -> dict[str, Any]:
    """Put the shapes into what FastAPI says of the routes, and take out its own form of errors, which none answers."""
    schema.setdefault("components", {})["schemas"] = SCHEMAS
    for path in schema["paths"].values():
        for told in path.values():
            if "HTTPValidationError" in str(told["responses"].get("422")):
                del told["responses"]["422"]
    return schema
