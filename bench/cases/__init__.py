"""One file a group of cases; each has a list ``CASES``. ``bench/README.md`` says how one is added."""
