"""A list of kernels, run by one team of threads that is there from the first kernel to the last.

Starting a parallel loop by OpenMP costs about 1 µs, Python 0.2 µs a kernel: of a small network's step that is a tenth.
Here the list is run by one call, as the first part of a single parallel loop; that loop's other parts, which the other
threads have, wait for work. A kernel's own loops come to ``share`` (``_regions.py``), which writes on each waiting
member's cache line what there is to do, does the first part itself, and then waits for the others, or does what nobody
has begun: a member that has lost its processor is not waited for. Parts are the same as without a team, so the results
are, bit for bit, and a member has the same parts of every loop: what it has written is in its own cache.

There is one team in a process. A second Python thread that runs a list meanwhile finds it taken, and its loops go to
OpenMP one by one. So do loops inside a part of another loop.

Words, each line 64 bytes:

    line 0             OWNER the thread whose loops are shared, or 0; where ``share`` is; TAKEN; SIZE; TURN
    line r, member r   STATE 0 wait, 2 turn to be done, 2 turn + 1 begun, -1 go; DONE the turn that has been done last;
                       what to call: a function, its four arguments
"""

from __future__ import annotations

from typing import Any

from numba import prange

from tinygrad_bn.kernels.cpu._atomics import (
    call_listed,
    call_part,
    exchange_word,
    give_way,
    load_word,
    pause,
    running_thread,
    sleep,
    store_word,
    team_address,
)
from tinygrad_bn.kernels.cpu._jit import jit
from tinygrad_bn.kernels.cpu._regions import MEMBERS

_LINE = 64
OWNER, TAKEN, SIZE, TURN = 0, 16, 24, 32
STATE, DONE, CALL = 0, 8, 16
GO = -1
PATIENCE = 5000  # looks: with a pause each some 100 µs, with a call of the system's some 2 ms
NAP = 20  # µs; the owner's processor may then run a member that has lost its own


@jit()
def run_parts(call: Any, member: Any, size: Any) -> None:
    """The parts of a loop that are a member's; ``call`` is where the function and its arguments stand."""
    part, given, extents = load_word(call), load_word(call + 8), load_word(call + 16)
    steps, data = load_word(call + 24), load_word(call + 32)
    for index in range(member, load_word(extents), size):
        call_part(part, given, extents, steps, data, index)


@jit()
def share(part: Any, given: Any, extents: Any, steps: Any, data: Any) -> None:
    """Run a loop's parts, with the team."""
    team = team_address()
    me, size = load_word(team + OWNER), load_word(team + SIZE)
    count = load_word(extents)
    turn = load_word(team + TURN) + 1
    store_word(team + TURN, turn)
    store_word(team + OWNER, 0)  # loops inside a part are not shared
    for member in range(1, min(count, size)):
        line = team + member * _LINE
        store_word(line + CALL, part)
        store_word(line + CALL + 8, given)
        store_word(line + CALL + 16, extents)
        store_word(line + CALL + 24, steps)
        store_word(line + CALL + 32, data)
        store_word(line + STATE, 2 * turn)
    for index in range(0, count, size):
        call_part(part, given, extents, steps, data, index)
    for member in range(1, min(count, size)):
        line = team + member * _LINE
        if exchange_word(line + STATE, 2 * turn, 2 * turn + 1):
            run_parts(line + CALL, member, size)
        else:
            looks = 0
            while load_word(line + DONE) != turn:
                looks += 1
                if looks < PATIENCE:
                    pause()
                elif looks < 2 * PATIENCE:
                    give_way()
                else:
                    sleep(NAP)
    store_word(team + OWNER, me)


@jit()
def attend(member: Any, size: Any) -> None:
    """Do what is a member's, until it may go."""
    line = team_address() + member * _LINE
    looks = 0
    state = load_word(line + STATE)
    while state != GO:
        if state & 1 == 0 and state > 0 and exchange_word(line + STATE, state, state + 1):
            run_parts(line + CALL, member, size)
            store_word(line + DONE, state >> 1)
            looks = 0
        else:
            looks += 1
            if looks < PATIENCE:
                pause()
            else:
                give_way()
        state = load_word(line + STATE)


@jit()
def run_calls(calls: Any, outcome: Any) -> None:
    """Run kernels in order: each row is a door, where its words are, and where its status word is, or 0.

    outcome = (how many have been run, Numba's status of the last): all of them, unless one has reported something.
    """
    outcome[0] = outcome[1] = 0
    for i in range(calls.shape[0]):
        outcome[0] = i + 1
        outcome[1] = call_listed(calls[i, 0], calls[i, 1])
        if outcome[1] or (calls[i, 2] and load_word(calls[i, 2])):
            return


@jit()
def place(sources: Any, places: Any) -> None:
    """Put where sources are now into calls' words: each row is a word's address, which source it is, and an offset.

    A source is the address of a pointer to its first element.
    """
    for i in range(places.shape[0]):
        store_word(places[i, 0], load_word(sources[places[i, 1]]) + places[i, 2])


@jit()
def compare(words: Any, outcome: Any) -> None:
    """Count the addresses that do not hold the word beside them."""
    outcome[0] = 0
    for i in range(words.shape[0]):
        outcome[0] += load_word(words[i, 0]) != words[i, 1]


@jit()
def run_alone(calls: Any, sources: Any, places: Any, outcome: Any) -> None:
    """Run a list without a team."""
    place(sources, places)
    run_calls(calls, outcome)


@jit(parallel=True)
def run_with_team(calls: Any, sources: Any, places: Any, outcome: Any, threads: Any) -> None:
    """Run a list with a team of so many threads: as many as Numba runs a loop on."""
    place(sources, places)
    team = team_address()
    size = min(threads, MEMBERS)
    if exchange_word(team + TAKEN, 0, 1):
        store_word(team + SIZE, size)
        for member in range(1, size):
            store_word(team + member * _LINE + STATE, 0)
        for member in prange(size):
            if member == 0:
                store_word(team + OWNER, running_thread())
                run_calls(calls, outcome)
                store_word(team + OWNER, 0)
                for other in range(1, size):
                    store_word(team + other * _LINE + STATE, GO)
            else:
                attend(member, size)
        store_word(team + TAKEN, 0)
    else:
        run_calls(calls, outcome)
