"""Two small repairs to Jupyter Book 1.

1. It hard-wires sphinx-thebe, which starts kernels on other hosts and logs an error on every page: taken out.
2. A page with a warning stays silent in the next build, because it is not read again: after a build with
   warnings the memory of what was read is dropped, so a faulty book keeps failing until it is mended.
"""

from pathlib import Path


def without_thebe(app):
    """Disconnect sphinx-thebe's handlers and take its files off the pages."""
    for listeners in app.events.listeners.values():
        listeners[:] = [one for one in listeners if not one.handler.__module__.startswith("sphinx_thebe")]
    registry = app.registry
    registry.css_files = [(name, options) for name, options in registry.css_files if "thebe" not in name]


def forget_after_warnings(app, exception):
    """Delete the stored environment if this build warned of anything."""
    if exception is not None or app._warncount:
        Path(app.doctreedir, "environment.pickle").unlink(missing_ok=True)


def setup(app):
    without_thebe(app)
    app.connect("build-finished", forget_after_warnings)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
