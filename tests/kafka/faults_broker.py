"""Harm to Kafka itself. Every fault is undone when its function returns."""

from __future__ import annotations

from tests.kafka.scene import Fault, Scene

#: How long the broker stays away; longer than the workers' session timeout.
AWAY_S = 20.0


def stopped(scene: Scene) -> None:
    """SIGTERM, 20 s without a broker, and back."""
    scene.await_progress(scene.chance.uniform(0.2, 0.4))
    at, broker = scene.applied(), scene.world.kafka
    broker.terminate()
    broker.wait(120)
    scene.say(f"broker stopped at {at} records")
    scene.pause(AWAY_S)
    broker.start()


def killed(scene: Scene) -> None:
    """kill -9, twice, and back after a moment: it recovers its logs."""
    for kill in range(2):
        scene.await_progress(0.15 + 0.3 * kill + scene.chance.uniform(0, 0.15))
        at, broker = scene.applied(), scene.world.kafka
        broker.kill()
        scene.say(f"broker killed at {at} records")
        scene.pause(scene.chance.uniform(0.5, 5))
        broker.start()


def frozen(scene: Scene) -> None:
    """SIGSTOP for 20 s: connections stay open and nothing answers; then sessions have timed out."""
    scene.await_progress(scene.chance.uniform(0.2, 0.4))
    at, broker = scene.applied(), scene.world.kafka
    broker.freeze()
    scene.say(f"broker frozen at {at} records")
    scene.pause(AWAY_S)
    broker.thaw()


FAULTS: tuple[Fault, ...] = (
    Fault("broker-stopped", "SIGTERM of the broker, back after 20 s.", stopped),
    Fault("broker-killed", "kill -9 of the broker twice, back after a moment.", killed),
    Fault("broker-frozen", "SIGSTOP of the broker for 20 s.", frozen),
)
