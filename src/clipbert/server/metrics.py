"""Prometheus metrics of the server."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "clipbert_requests", "Requests that were answered.", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "clipbert_request_seconds",
            "Seconds from the head of a request to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge("clipbert_requests_in_flight", "Requests that run now.", registry=self.registry)
        self.decode_seconds = Histogram(
            "clipbert_decode_seconds",
            "Seconds until a video was decoded or found in the cache.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "clipbert_batch_size", "Requests in a forward pass.", ["route"], buckets=SIZES, registry=self.registry
        )
        self.upload_bytes = Counter(
            "clipbert_upload_bytes", "Bytes of request bodies that were read.", registry=self.registry
        )
        self.refused = Counter(
            "clipbert_refused", "Requests that got an error, by its code.", ["code"], registry=self.registry
        )
        self.swaps = Counter(
            "clipbert_model_swaps", "Models that were replaced, or not.", ["route", "result"], registry=self.registry
        )
        self.model = Gauge(
            "clipbert_model", "1 for the model of each route.", ["route", "name"], registry=self.registry
        )

    def show_model(self, route: str, name: str, before: str | None) -> None:
        """Set the model of a route."""
        if before is not None and before != name:
            self.model.remove(route, before)
        self.model.labels(route, name).set(1)
