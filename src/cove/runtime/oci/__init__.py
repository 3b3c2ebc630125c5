"""`cove-oci`: an OCI runtime with runc's command line, one process per command and none that stays.

It makes containers by the same child code as the supervisor (`runtime.init`, `runtime.exec_child`); what it adds
is the command line, and a barrier between `create` and `start` that nobody has to hold:

    create                                   init (the container's first process)             start
      │ state directory, cgroup, listener       │
      │── clone3 ──────────────────────────────▶│ mounts
      │◀─ b"hooks" on gate ─────────────────────│ (if any: prestart and createRuntime, then createContainer)
      │◀─ pty on gate, passed to the socket of --console-socket
      │◀─ Ready on sync, or Failed ─────────────│ in its root; accept() on the listener
      ╵ ends; init's parent is now whoever        │◀── connects to start.sock, sends Go ────────│
        reaps for the caller (conmon, a shim)     │ rights, startContainer hooks, execve ─ EOF ▶│ poststart hooks
                                                                                                ╵
A container is a directory below --root: `store` says what lies in it. Modules are imported by the verb that
needs them: an interpreter's start is most of what a short command costs.
"""
