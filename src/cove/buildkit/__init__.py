"""The door for BuildKit's clients (`docker buildx`, `docker compose build`): its protocol, over Cove's own builder.

    POST /session ─▶ sessions: the daemon asks the client for files, secrets, agents, credentials
    POST /grpc    ─▶ control: solve, progress, workers, cache      bridge: a client that drives the frontend itself

messages/    the protocol's messages as frozen values
Imported with the first such request. It never runs a step: that is `cove.build`, through `engine.builds`.
"""
