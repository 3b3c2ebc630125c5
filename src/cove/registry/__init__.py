"""An OCI distribution server: `cove registry serve`.

main         from the command line's settings to a server that listens       settings   what they are
routes       the distribution API's endpoints: blob_routes, manifest_routes
pages        for people: repositories, tags, platforms
access       who may do what: passwords, tokens
storage      the use cases: blobs, manifests, tags, quota                    knows no HTTP
catalogue    which repository has what: SQLite
uploads      blobs on their way in
proxy        what upstream registries have, kept for a while
collector    collecting what nothing names, while serving
metrics      counters for Prometheus
"""
