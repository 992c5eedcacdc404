"""Fuzzers: endless streams of random cases, each made from one seed. `python -m tests.fuzz` and `make fuzz` run them.

A module here is a fuzzer, and its name is the fuzzer's. It has one function:

    def case(seed: int) -> Iterable[str]

which makes the case of that number, runs it, returns names of what it reached (they are counted and printed, so that
one sees whether a fuzzer still gets anywhere), and raises AssertionError when something is wrong. A case must depend
on its seed alone, and take well under a second or two. The first line of the module's docstring says what it compares.
"""
