"""From a Dockerfile to an image: the language, the graph of steps, the solver, the cache.

dockerfile/  text ─▶ logical lines ─▶ instructions ─▶ plan: what each stage's file system and configuration are
graph        steps and what they stand on; knows nothing of Dockerfiles
solver       runs what the cache does not have, in parallel, each step once
steps        one step through the runtime or the confined worker ─▶ a layer
cache        what is known of finished steps, across restarts
exporters    the result as an image, an archive, files
"""
