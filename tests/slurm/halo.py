"""A ring of cells, divided among the ranks of an MPI program: each step needs the cells at the edges of both neighbours.

    halo.py [serial|openmpi|tcp]

Prints the number of ranks and a sum over all cells after all steps, which is the same for any number of ranks. With 'serial' it
is computed without MPI. It calls MPICH's library as a C program would, so the image needs no compiler. With 'openmpi' it is
Open MPI by mpi4py. With 'tcp' the ranks wait for each other before MPI_Finalize, which can hang in MPICH 4.0 if they
are connected by TCP.
"""
import ctypes
import os
import sys
import time

CELLS, STEPS, MODULUS = 240, 60, 1000003

# Of MPICH's mpi.h.
WORLD, LONG, SUM, STATUS_IGNORE = 0x44000000, 0x4C000807, 0x58000003, ctypes.c_void_p(1)


class Alone:
    rank, size = 0, 1

    def exchange(self, first, last):
        return last, first

    def total(self, value):
        return value

    def finish(self):
        pass


class Mpich:
    def __init__(self):
        self.lib = ctypes.CDLL("libmpich.so.12", mode=ctypes.RTLD_GLOBAL)
        self.call("MPI_Init", None, None)
        rank, size = ctypes.c_int(), ctypes.c_int()
        self.call("MPI_Comm_rank", WORLD, ctypes.byref(rank))
        self.call("MPI_Comm_size", WORLD, ctypes.byref(size))
        self.rank, self.size = rank.value, size.value

    def call(self, name, *arguments):
        code = getattr(self.lib, name)(*arguments)
        if code:
            sys.exit(f"{name}: {code}")

    def send_receive(self, value, to, source):
        out, into = ctypes.c_long(value), ctypes.c_long()
        self.call("MPI_Sendrecv", ctypes.byref(out), 1, LONG, to, 7, ctypes.byref(into), 1, LONG, source, 7, WORLD, STATUS_IGNORE)
        return into.value

    def exchange(self, first, last):
        before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        return self.send_receive(last, after, before), self.send_receive(first, before, after)

    def total(self, value):
        mine, everybody = ctypes.c_long(value), ctypes.c_long()
        self.call("MPI_Allreduce", ctypes.byref(mine), ctypes.byref(everybody), 1, LONG, SUM, WORLD)
        return everybody.value

    def finish(self):
        self.call("MPI_Finalize")


class MpichByTcp(Mpich):
    def finish(self):
        # While one rank still handles messages, another may be done with MPI_Finalize's own ones and not answer any more. So all
        # of them are quiet before the first one begins. They share the working directory.
        mine = os.environ["SLURM_JOB_ID"] + ".done."
        open(mine + str(self.rank), "w").close()
        until = time.monotonic() + 60
        while sum(name.startswith(mine) for name in os.listdir()) < self.size:
            if time.monotonic() > until:
                sys.exit("not all ranks have a sum after 60 s")
            time.sleep(0.05)
        super().finish()


class OpenMpi:
    def __init__(self):
        from mpi4py import MPI

        self.mpi, self.world = MPI, MPI.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size

    def exchange(self, first, last):
        before, after = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        right = self.world.sendrecv(first, dest=before, source=after)
        return self.world.sendrecv(last, dest=after, source=before), right

    def total(self, value):
        return self.world.allreduce(value)

    def finish(self):
        self.mpi.Finalize()


def main():
    mpi = {"serial": Alone, "openmpi": OpenMpi, "tcp": MpichByTcp}.get("".join(sys.argv[1:]), Mpich)()
    mine = CELLS // mpi.size
    begin = mpi.rank * mine
    cells = [(begin + i) ** 2 % 97 for i in range(mine)]
    for _ in range(STEPS):
        left, right = mpi.exchange(cells[0], cells[-1])
        padded = [left] + cells + [right]
        cells = [(padded[i - 1] + 3 * padded[i] + 2 * padded[i + 1]) % MODULUS for i in range(1, mine + 1)]
    total = mpi.total(sum((begin + i + 1) * cell for i, cell in enumerate(cells)))
    size = mpi.size
    mpi.finish()
    print(size, total)


main()
