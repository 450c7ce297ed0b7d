"""One server each, as its own documentation advises.

A peer is a module here and a file of the same name in ``requirements``. ``python -m scripts.bench.peers.NAME``, run in
that environment with the repository as working folder, answers ``POST /detect`` (multipart form field ``file``) on
127.0.0.1 with ``{"detections": [{"name", "class", "confidence", "box": {"x1", "y1", "x2", "y2"}}]}``. What it has to
know comes in the ``BENCH_*`` variables that ``task.py`` reads. The first line of its docstring is its title, the rest
says how it is set up; both go into the report.
"""
