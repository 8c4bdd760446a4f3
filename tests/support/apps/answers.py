"""Endpoints that answer in every way FastAPI knows, under postponed annotations; each run is a line in ``RUNS``."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated
from uuid import UUID, uuid4

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Form,
    Header,
    HTTPException,
    Request,
    Response,
    UploadFile,
)
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint

from pyidempotent import current, idempotent
from pyidempotent.backends import open_backend

app = FastAPI()
backend = open_backend(os.environ["STORE"])
protected = idempotent(backend)


def run(line: str | None = None) -> str:
    with open(os.environ["RUNS"], "a") as book:
        book.write(f"{line or current().key}\n")
    return uuid4().hex


class Receipt(BaseModel):
    number: str
    at: datetime
    amount: int = 1
    secret: str = "s"


class PublicReceipt(BaseModel):
    number: str
    at: datetime


@dataclass
class Note:
    number: str
    of: UUID


def receipt() -> Receipt:
    return Receipt(number=run(), at=datetime.now(timezone.utc))


# Values.


@app.post("/values/dict")
@protected
async def a_dict():
    return {"number": run(), "nested": [1, 2.5, None, True, {"ü": "\u2028"}]}


@app.post("/values/list")
@protected
async def a_list():
    return [run(), {"a": (1, 2)}]


@app.post("/values/none")
@protected
async def nothing() -> None:
    run()


@app.post("/values/text")
@protected
def a_text():
    return run()


@app.post("/values/model")
@protected
async def a_model() -> Receipt:
    return receipt()


@app.post("/values/models")
@protected
async def models() -> list[Receipt]:
    return [receipt(), receipt()]


@app.post("/values/response-model", response_model=PublicReceipt)
@protected
async def a_filtered_model():
    return receipt()


@app.post("/values/created", status_code=201)
@protected
async def created():
    return {"number": run()}


@app.post("/values/no-content", status_code=204)
@protected
async def no_content():
    run()


@app.post("/values/dataclass")
@protected
async def a_dataclass() -> Note:
    return Note(run(), uuid4())


@app.post("/values/html", response_class=HTMLResponse)
@protected
async def html_by_class():
    return f"<p>{run()}</p>"


# Responses.


@app.post("/responses/json")
@protected
async def a_json_response():
    return JSONResponse({"number": run()}, 201, headers={"Location": "/things/7", "X-Why": "because"})


@app.post("/responses/html")
@protected
def an_html_response():
    return HTMLResponse(f"<p>{run()}</p>", 203)


@app.post("/responses/redirect")
@protected
async def a_redirect():
    return RedirectResponse(f"/elsewhere?of={run()}", 303)


@app.post("/responses/bytes")
@protected
async def some_bytes():
    return Response(b"\x00\xff" + bytes.fromhex(run()), media_type="application/octet-stream")


@app.post("/responses/empty")
@protected
async def empty():
    run()
    return Response(status_code=204)


@app.post("/responses/duplicates")
@protected
async def duplicate_headers():
    response = JSONResponse({"number": run()})
    response.headers.append("Link", "</a>; rel=next")
    response.headers.append("Link", "</b>; rel=last")
    response.raw_headers.append((b"x-bytes", b"caf\xe9 \xff"))
    return response


@app.post("/responses/transient")
@protected
async def transient_headers():
    headers = {"Connection": "close, X-Hop", "X-Hop": "1", "Keep-Alive": "timeout=5", "X-Lasting": "1"}
    response = JSONResponse({"number": run()}, headers=headers)
    response.set_cookie("session", "secret")
    return response


@app.post("/responses/cookie")
@idempotent(backend, store_set_cookie=True)
async def a_stored_cookie():
    response = JSONResponse({"number": run()})
    response.set_cookie("theme", "dark")
    return response


@app.post("/responses/raised")
@protected
async def raised():
    headers = {"X-Why": "poor", "Set-Cookie": "a=b", "Date": "long ago"}
    raise HTTPException(402, {"number": run()}, headers=headers)


@app.post("/responses/injected")
@protected
async def injected(response: Response):
    response.status_code = 202
    response.headers["X-Number"] = run()
    response.set_cookie("session", "secret")
    return {"seen": response.headers["X-Number"]}


@app.post("/responses/stream")
@protected
async def a_stream():
    async def chunks():
        for number in range(40):
            yield bytes([number]) * 65536

    run()
    return StreamingResponse(chunks(), 201, headers={"Location": "/streams/1"})


# Forms.


@app.post("/form")
@protected
async def a_form(name: Annotated[str, Form()], amount: Annotated[int, Form()]):
    return {"name": name, "amount": amount, "number": run()}


@app.post("/upload")
@protected
async def an_upload(title: Annotated[str, Form()], file: UploadFile):
    return {"title": title, "size": len(await file.read()), "number": run()}


@app.post("/upload-sync")
@protected
def an_upload_on_a_thread(title: Annotated[str, Form()], file: UploadFile):
    return {"title": title, "size": len(file.file.read()), "number": run()}


@app.post("/form-itself")
@protected
async def reads_its_form_itself(request: Request):
    form = await request.form()
    return {"fields": [name for name, _ in form.multi_items()], "number": run()}


# Parameters, dependencies, background tasks.


@app.post("/model-body")
@protected
async def a_model_body(request: PublicReceipt):  # the name that the request would have
    return {"number": run(), "of": request.number}


def opened(x_user: Annotated[str, Header()] = "nobody"):
    run(f"open {x_user}")
    yield x_user.upper()
    run(f"close {x_user}")


async def doubled(amount: int) -> int:
    return 2 * amount


@app.post("/depends/{order}")
@protected
async def depends(
    order: int,
    amount: int,
    user: Annotated[str, Depends(opened)],
    twice: Annotated[int, Depends(doubled)],
    old_style: int = Depends(doubled),
):
    return {"order": order, "amount": amount, "user": user, "twice": twice + old_style, "number": run()}


@app.post("/background")
@protected
async def in_the_background(tasks: BackgroundTasks, amount: int):
    tasks.add_task(run, f"task of {current().key}")
    return {"amount": amount, "number": run()}


@app.post("/background/response")
@protected
async def in_the_background_of_a_response():
    return JSONResponse({"number": run()}, background=BackgroundTask(run, f"task of {current().key}"))


# Methods, routers, mounts.


class Till:
    def __init__(self, name: str) -> None:
        self.name = name

    @protected
    async def pay(self, amount: int):
        return {"till": self.name, "amount": amount, "number": run()}

    @protected
    def pay_on_a_thread(self, amount: int, response: Response):
        response.status_code = 201
        return {"till": self.name, "amount": amount, "number": run()}


class Callable:
    @protected
    async def __call__(self, amount: int):
        return {"amount": amount, "number": run()}


class Endpoint(HTTPEndpoint):
    @protected
    async def post(self, request):
        return JSONResponse({"body": await request.json(), "number": run()})


router = APIRouter(prefix="/router", tags=["router"])


@router.post("/orders/{order}")
@protected
async def routed(order: str, amount: int):
    await asyncio.sleep(0)
    return {"order": order, "amount": amount, "number": run()}


inner = FastAPI()


@inner.post("/pay")
@protected
async def mounted(amount: int):
    return {"amount": amount, "number": run()}


till = Till("one")
app.post("/methods/pay")(till.pay)
app.post("/methods/thread")(till.pay_on_a_thread)
app.post("/methods/call")(Callable())
app.add_route("/methods/endpoint", Endpoint)
app.include_router(router)
app.mount("/eu", inner)
app.mount("/us", inner)
