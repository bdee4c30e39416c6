"""HTTP routes of the faces and of routes of the emulator pages. Holds no state.

Unknown paths below a face's prefix are answered in the face's dialect.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from batchvision.emulator import bodies
from batchvision.emulator.app import JSON, Emulator
from batchvision.emulator.batches import openai_batch_routes, xai_batch_routes
from batchvision.emulator.delivery import Outgoing
from batchvision.emulator.faults import FaultKind
from batchvision.emulator.options import PREFIXES, Face
from batchvision.emulator.pricing import MODELS
from batchvision.emulator.refusals import Reason, Refusal, RequestRefused

_GREETING = (
    "This is batchvision's emulator: a loopback provider for rehearsals and tests. It is no model.\n"
    "Faces: /v1 and /xai/v1 (xAI), /openrouter/api/v1 (OpenRouter), /openai/v1 (OpenAI).\n"
    "Bill: GET /_emulator/bill. Faults, by [[fault:KIND]] or [[fault:KIND:N]] in the user text:\n\n"
)
_Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(emulator: Emulator) -> web.Application:
    """All routes of all faces."""
    app = web.Application(client_max_size=emulator.options.max_body_bytes, middlewares=[_in_dialect_of(emulator)])
    for prefix, face in PREFIXES:
        app.router.add_routes(_routes(emulator, prefix, face))
    app.router.add_routes(_own_routes(emulator))
    return app


# ---------------------------------------------------------------------------------- routes of a provider


def _routes(emulator: Emulator, prefix: str, face: Face) -> list[web.RouteDef]:
    async def chat(request: web.Request) -> web.StreamResponse:
        return await emulator.chat(face, request)

    async def poll(request: web.Request) -> web.StreamResponse:
        return await emulator.poll(face, request)

    def key() -> bytes:
        return bodies.key_body(face, emulator.bill().ticks)

    models = _page(emulator, face, lambda: bodies.models_body(face), is_public=face is Face.OPENROUTER)
    routes = [web.post(f"{prefix}/chat/completions", chat), web.get(f"{prefix}/models", models)]
    match face:
        case Face.XAI:
            routes += [
                web.get(f"{prefix}/chat/deferred-completion/{{ticket}}", poll),
                web.get(f"{prefix}/language-models", _page(emulator, face, bodies.language_models_body)),
                web.get(f"{prefix}/language-models/{{name}}", _language_model_of(emulator)),
                web.get(f"{prefix}/api-key", _page(emulator, face, key)),
                *xai_batch_routes(emulator, emulator.batches, prefix),
            ]
        case Face.OPENROUTER:
            routes.append(web.get(f"{prefix}/key", _page(emulator, face, key)))
        case Face.OPENAI:
            routes += openai_batch_routes(emulator, emulator.batches, prefix)
    return routes


def _page(emulator: Emulator, face: Face, body: Callable[[], bytes], is_public: bool = False) -> _Endpoint:
    """An endpoint that answers each GET with a JSON body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            if not is_public:
                emulator.check_key(face, request)
        except RequestRefused as refused:
            return _response(emulator.no(face, refused.refusal))
        return _response(Outgoing((body(),), headers=JSON))

    return answer


def _language_model_of(emulator: Emulator) -> _Endpoint:
    async def language_model(request: web.Request) -> web.StreamResponse:
        """GET language-models/{name}."""
        name = request.match_info["name"]
        if name not in MODELS:
            return _response(emulator.no(Face.XAI, Refusal(Reason.NO_PATH, f"The model {name} does not exist.")))
        return _response(Outgoing((json.dumps(bodies.language_model(name)).encode(),), headers=JSON))

    return language_model


def _in_dialect_of(emulator: Emulator) -> Middleware:
    @web.middleware
    async def in_dialect(request: web.Request, handler: _Endpoint) -> web.StreamResponse:
        """Answer unknown paths and wrong methods in the face's dialect."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            refusal = Refusal(Reason.NO_PATH, f"No route for {request.method} {request.path}.")
        except web.HTTPMethodNotAllowed:
            refusal = Refusal(Reason.METHOD, f"Method {request.method} is not allowed here.")
        face = next((face for prefix, face in PREFIXES if request.path.startswith(f"{prefix}/")), Face.XAI)
        return _response(emulator.no(face, refusal))

    return in_dialect


def _response(outgoing: Outgoing) -> web.Response:
    return web.Response(body=outgoing.body, status=outgoing.status, headers=outgoing.headers)


# ---------------------------------------------------------------------------------- routes of the emulator


def _own_routes(emulator: Emulator) -> list[web.RouteDef]:
    async def show_bill(request: web.Request) -> web.Response:
        with_entries = request.query.get("entries", "1") != "0"
        return web.json_response(emulator.bill().to_document(with_entries))

    async def change_options(request: web.Request) -> web.Response:
        try:
            emulator.configure(await request.json())
        except (ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"changed": True})

    async def advance(request: web.Request) -> web.Response:
        try:
            emulator.clock.advance(float((await request.json())["seconds"]))
        except (ValueError, TypeError, KeyError) as error:
            return web.json_response({"error": f'give {{"seconds": NUMBER}}: {error}'}, status=400)
        return web.json_response({"now": emulator.clock.now()})

    async def forget(_request: web.Request) -> web.Response:
        emulator.reset()
        return web.json_response({"reset": True})

    async def greet(_request: web.Request) -> web.Response:
        return web.Response(text=_GREETING + "".join(f"{kind:<22} {kind.sentence}\n" for kind in FaultKind))

    return [
        web.get("/", greet),
        web.get("/_emulator/bill", show_bill),
        web.post("/_emulator/options", change_options),
        web.post("/_emulator/advance", advance),
        web.post("/_emulator/reset", forget),
    ]
