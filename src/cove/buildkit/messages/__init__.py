"""BuildKit's messages as frozen values, those fields that Cove reads or writes; a module for each service.

Source: api/services/control, frontend/gateway/pb, session/*, solver/pb, solver/errdefs of moby/buildkit; fsutil.
"""
