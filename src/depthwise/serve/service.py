"""One service: its models, its limits, what it counts, and how a request gets its images answered."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from torch import Tensor

from depthwise.errors import DepthwiseError
from depthwise.infer import Prediction
from depthwise.infer.looking import Asked
from depthwise.serve.batcher import Source
from depthwise.serve.bodies import GONE, Body, Room, now, read_body
from depthwise.serve.limits import Limits, RefusedError, refusal_of
from depthwise.serve.metrics import Metrics
from depthwise.serve.models import Model, Models

OPEN = ("/v2/health/live", "/v2/health/ready", "/", "/page.css", "/page.js", "/report.css")
"""What anybody may get without a token: how the service is, and the page, which asks for a token itself."""

Output = Tensor | RefusedError
"""What the network made of an image, float32 [outputs], or why it made nothing."""


@dataclass
class Service:
    """What all requests share.

    topk: of a request that does not say. hosts: from which images are fetched. tokens: whoever has none of them is
    refused, if there are any. ending: nothing new is to be sent here.
    """

    models: Models
    limits: Limits
    metrics: Metrics
    topk: int | None = None
    hosts: frozenset[str] = frozenset()
    tokens: tuple[bytes, ...] = ()
    ending: bool = False
    room: Room = field(init=False)

    def __post_init__(self) -> None:
        self.room = Room(self.limits.body_bytes)

    def admits(self, scope: Mapping[str, Any]) -> bool:
        """Whether the request may be answered: it has a token, or needs none."""
        if not self.tokens or (scope["method"] == "GET" and scope["path"] in OPEN):
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return any(hmac.compare_digest(given, b"Bearer " + token) for token in self.tokens)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[Body]:
        """The request's body, whose bytes count as long as this lasts. Raises RefusedError."""
        body = await read_body(request, self.limits, self.room, now())
        self.metrics.bytes.inc(len(body.data))
        try:
            yield body
        finally:
            self.room.taken -= len(body.data)

    async def outputs(
        self, request: Request, name: str | None, sources: Sequence[Source | RefusedError], deadline: float
    ) -> tuple[Model, list[Output]]:
        """What the model `name` makes of each of the sources, in their order.

        Raises RefusedError if there is no such model or no room, if the deadline passes, and if the client has gone.
        """
        given = [source for source in sources if not isinstance(source, RefusedError)]
        try:
            model, submitted = self.models.submit(name, given, deadline)
        except RefusedError as refused:
            if refused.status == 503:
                self.metrics.refuse(name or next(iter(self.models)).name, len(given))
            raise
        waiting = asyncio.gather(*map(asyncio.wrap_future, submitted), return_exceptions=True)
        # The body has been read: what the connection says next is that it is closed.
        gone = asyncio.create_task(_disconnected(request))
        try:
            left = max(0.0, deadline - now())
            first: set[asyncio.Future[Any]] = {waiting, gone}
            done, _ = await asyncio.wait(first, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if waiting not in done:
                raise RefusedError(GONE, "the client has gone") if gone in done else self.limits.too_late()
        finally:
            gone.cancel()
            if not waiting.done():
                waiting.cancel()
        made = iter(waiting.result())
        outputs: list[Output] = []
        for source in sources:
            one = source if isinstance(source, RefusedError) else next(made)
            outputs.append(refusal_of(one) if isinstance(one, BaseException) else one)
        for output in outputs:
            if isinstance(output, RefusedError) and output.status == 504:
                raise output
        self._count(model, outputs)
        return model, outputs

    def named(self, model: Model, name: str, output: Tensor, asked: Asked) -> Prediction | RefusedError:
        """What is said of the image `name` by the model's `output` for it, float32 [outputs]."""
        try:
            probabilities = model.predictor.task.answer(output[None])[0]
            return model.predictor.prediction(name, probabilities, asked.topk, asked.threshold)
        except DepthwiseError as error:
            return refusal_of(error)

    def count_waiting(self) -> None:
        """Tell how many images wait now."""
        self.metrics.depths([(model.name, model.batcher.pending) for model in self.models])

    def _count(self, model: Model, outputs: Sequence[Output]) -> None:
        refused = sum(isinstance(output, RefusedError) for output in outputs)
        self.metrics.answer(model.name, len(outputs) - refused, refused)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
