from __future__ import annotations

from dpqlab_app.serving.limits import RateLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_so_many_a_minute_and_then_a_wait() -> None:
    clock = Clock()
    limit = RateLimit(3, clock=clock)
    assert [limit.take("a") for _ in range(3)] == [0, 0, 0]
    clock.now += 20
    assert limit.take("a") == 40
    assert limit.take("b") == 0, "each client has its own"
    clock.now += 39.5
    assert limit.take("a") == 1, "never 0 seconds when one has to wait"
    clock.now += 0.5
    assert limit.take("a") == 0


def test_a_refused_request_does_not_lengthen_the_wait() -> None:
    clock = Clock()
    limit = RateLimit(1, clock=clock)
    limit.take("a")
    for _ in range(100):
        clock.now += 0.5
        limit.take("a")
    assert limit.wait("a") == 10


def test_memory_is_bounded_by_clients_and_by_time() -> None:
    clock = Clock()
    limit = RateLimit(5, clients=10, clock=clock)
    for client in range(1000):
        for _ in range(9):
            limit.take(str(client))
    assert len(limit._events) == 10
    assert all(len(events) == 5 for events in limit._events.values())
    assert limit.take("0") == 0, "forgotten, so it starts anew"
