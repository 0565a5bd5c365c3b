"""``evaluate:``, ``compress:``, ``serve:``, ``improve:`` and ``plan:``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from treadle.spec.access import Address, Limits, Lockout, Price, Timeouts, Tls
from treadle.spec.fields import Bound, Budget, Count, Duration, Fraction, Section, Size
from treadle.spec.rollout import Rollout
from treadle.spec.watch import Alerts, check_url

Metric = Annotated[str, Field(pattern=r"^([^.]+\.)?[a-z_0-9@]+$")]


_HERE = ("--host", "--port", "--uds", "--api-key", "--served-model-name")
"""Where vLLM listens, and for whom, is not for options to say."""


class Sample(Section):
    """Text that the scorecard shows, continued by the model."""

    prompts: list[str] = ["def "]
    """What the model is given to continue."""
    tokens: int = Field(default=64, ge=1, le=4096)
    """Longest continuation."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0: always the likeliest token."""


class Evaluate(Section):
    gate: dict[Metric, Bound] = {}
    """Figures that the test part must reach, with the whole of their 95% interval, before a version is packaged: a figure's name,
    as in ``accuracy: ">= 95%"``, after the head's name and a dot where several heads have it."""
    max_tokens: Annotated[Count, Field(ge=1000)] = 150_000
    """At most this many tokens of the test part are scored, in whole documents; what is left out is stated."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples for each interval."""
    sample: Sample = Sample()
    folds: int | None = Field(default=None, ge=2, le=100)
    """Besides, train this many models, each on all records but a fold, those of the test part included, and score it on its fold:
    mean and spread say how much chance is in the figures. Folds have like shares of each class, and part no group of
    ``data.split.by``. None of these models is served. None: no cross-validation."""
    time: str | None = None
    """Field that orders the folds: each is a stretch of time, and its model sees only what lies before. None: folds by chance."""


class Compress(Section):
    quantize: Literal["int8", "int4", "none"] | None = None
    """Weights of the matrix products; ``int4``, for language models with the trunk transformer, holds those of its layers in groups
    of 32 with a scale and a least value each, and the rest as int8; ``none`` packages the trained weights as they are. None: int8
    for a language model, unless vLLM serves it."""
    max_drift: Fraction = 0.01
    """Largest relative rise of bits per byte, or of other models' loss, on the test part before the package is refused."""


class Serve(Section):
    host: str = "127.0.0.1"
    """Address to listen on; any but loopback demands a key (``treadle key``)."""
    port: int = Field(default=8000, ge=0, le=65_535)
    """0: any free port."""
    engine: Literal["treadle", "vllm"] = "treadle"
    """What writes the texts of a language model; ``vllm``: the program of that name, which must be installed, and opens packages
    with ``compress.quantize: none``. Models of records are not touched by it."""
    engine_options: list[str] = []
    """More options for the program vllm, which win over those that it is given anyway, as in ``[--tensor-parallel-size=2]``."""
    slots: int = Field(default=4, ge=1, le=256)
    """Answers generated at once; more wait in a queue."""
    cache: Size | None = None
    """Memory for what a language model has read (bytes): answers wait where it is short, and room for one whole context there is
    always. None: a quarter of what is free when a version is loaded."""
    queue: int = Field(default=64, ge=0)
    """Requests that may wait; more are answered 429."""
    deadline: Annotated[Duration, Field(gt=0)] | None = None
    """Seconds from a request to the end of its answer; what is not done by then is given up and answered 504. A request's
    ``timeout`` may set an earlier end. None: as long as it takes."""
    adapters: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,79}$")], str] = {}
    """Adapters of a language model, each by a name of its own: folders in PEFT's format (LoRA), relative ones of the project's. The
    request's ``model`` says which is to answer."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer that a request may ask for."""
    max_body: Size | None = None
    """Largest request body (bytes); larger ones are answered 413. None: 1 MB; 20 MB where an input is an image or a recording."""
    store: Literal["consent", "always", "never"] = "consent"
    """Whose text is kept for improvement, after redaction: of requests that say ``"store": true``, of all, of none."""
    drain: float = Field(default=30.0, ge=0)
    """Seconds that running answers are given when the server is asked to stop."""
    rollout: Rollout = Rollout()
    limits: Limits = Limits()
    price: Price = Price()
    lockout: Lockout = Lockout()
    timeouts: Timeouts = Timeouts()
    proxies: list[Address] = []
    """Addresses of proxies in front of this server, as in ``[10.0.0.7]``, or networks where all are trusted: whom they name in
    ``X-Forwarded-For`` is the client, and ``X-Forwarded-Proto`` says whether it came by TLS. From any other address both are left
    unread."""
    beside: list[str] = []
    """Folders of other projects that are served beside this one, each under its own name, from its own ledger, as ``treadle serve
    --with`` does; relative ones start at the project's folder."""
    tls: Tls | None = None
    """None: plain HTTP, as on this machine or behind a proxy that has TLS."""
    log: Literal["none", "json"] = "none"
    """``json``: a line of JSON on standard error for each request (no text, no key, no address), and whatever else the server says
    as such lines too; ``none``: it says only what goes wrong and what goes live, in words."""
    traces: str | None = None
    """URL of an OpenTelemetry collector (OTLP over HTTP) that the spans of each request are sent to, as in
    ``http://localhost:4318/v1/traces``; ``$NAMES`` in it are filled in from the environment; needs ``treadle[otel]``. None: none
    are made."""
    alerts: Alerts = Alerts()

    @field_validator("traces")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return check_url(value)

    @model_validator(mode="after")
    def _money_needs_a_price(self) -> Serve:
        if self.limits.money_per_day is not None and not self.price.known:
            raise ValueError("limits.money_per_day counts what answers cost: say what they do, as in 'price: {tokens: 0.02}'")
        return self

    @model_validator(mode="after")
    def _options_need_their_engine(self) -> Serve:
        if self.engine_options and self.engine != "vllm":
            raise ValueError("engine_options are for 'engine: vllm'")
        for option in self.engine_options:
            if option.replace("_", "-").partition("=")[0] in _HERE:
                raise ValueError(f"engine_options: {option.partition('=')[0]} is set by the server")
        return self


class Improve(Section):
    budget: Budget | None = None
    """As in ``train``; None: eight passes over the feedback, with its replay."""
    replay: Annotated[Fraction, Field(lt=1)] = 0.5
    """Share of each batch that is old training data, so that old skills stay."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate; None: a fortieth of the first training's."""
    min_feedback: int = Field(default=20, ge=2)
    """Fewer usable answers than this are not worth a round."""
    holdout: Fraction = 0.3
    """Share of the feedback, by prompt, that is scored and never trained on."""
    max_loss: Fraction = 0.02
    """Largest relative rise of bits per byte on the old test part."""
    max_share: Annotated[Fraction, Field(gt=0)] = 0.5
    """Largest share of the feedback that one key may make up, where the others gave ``min_feedback`` usable answers; the rest is
    set aside. 100%: no bound."""


class Plan(Section):
    power: float = Field(default=65.0, gt=0)
    """Watts that the machine draws while it trains."""
    price: float = Field(default=0.10, ge=0)
    """Price of the machine per hour."""
    energy_price: float = Field(default=0.25, ge=0)
    """Price of a kWh; 0 where the machine's price includes it."""
    currency: str = "EUR"
    """Of both prices, as it is printed."""
    memory: Size | None = None
    """Memory that may be used (bytes); None: what the machine has free."""

    def cost(self, seconds: float) -> tuple[float, float]:
        """kWh, and money in ``currency``, of so many seconds of the machine."""
        hours = seconds / 3600
        energy = hours * self.power / 1000
        return energy, hours * self.price + energy * self.energy_price
