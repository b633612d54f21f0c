/*
 * Ranks that send each other messages over TCP, as an MPI library does that knows no better way. It needs nothing of an
 * image, statically linked, so the same bytes run on bare metal and in a VM.
 *
 *   messages ADDRESS...      one IPv4 address for each rank, a power of two of them; SLURM_PROCID says which one this is
 *
 * Two ranks measure a ping-pong of 8 bytes and the bandwidth of messages of 64 KiB, more ranks an allreduce (recursive doubling)
 * of 8 bytes and of 64 KiB, whose sums are checked. Each measurement is made longer until it takes a second. Rank 0 prints
 * lines of a name and a number: half a round trip and an allreduce in microseconds, the bandwidth in MiB/s.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7100, RANKS = 64, PIECE = 64 << 10, DEADLINE_S = 180, LONG_ENOUGH_US = 1000000 };

static int rank, ranks, peer[RANKS];
static char piece[PIECE];

static void fail(const char *what) {
    fprintf(stderr, "rank %d: %s%s%s\n", rank, what, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(9);
}

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void put(int to, const void *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = send(peer[to], bytes, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("send");
        bytes = (const char *)bytes + n;
        len -= n;
    }
}

static void get(int from, void *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = recv(peer[from], bytes, len, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("the other rank has gone");
        bytes = (char *)bytes + n;
        len -= n;
    }
}

static void at_once(int fd) {
    int on = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on)) fail("TCP_NODELAY");
}

/* Connects to a rank that may not yet listen; the alarm is the deadline. */
static int connected(const char *address, int other) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT + other)};
    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) fail(address);
    for (;;) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) fail("socket");
        if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0) return fd;
        close(fd);
        usleep(100000);
    }
}

/* Each pair of ranks has a connection: the later rank makes it. */
static void meet(char **addresses) {
    int on = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(PORT + rank)};
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listening, (struct sockaddr *)&own, sizeof own) || listen(listening, RANKS)) fail("listen");
    for (int other = 0; other < rank; other++) {
        peer[other] = connected(addresses[other], other);
        at_once(peer[other]);
        put(other, &rank, sizeof rank);
    }
    for (int count = rank + 1; count < ranks; count++) {
        int fd = accept(listening, NULL, NULL), who;
        if (fd < 0) fail("accept");
        at_once(fd);
        if (recv(fd, &who, sizeof who, MSG_WAITALL) != sizeof who || who <= rank || who >= ranks) fail("a stranger");
        peer[who] = fd;
    }
    close(listening);
}

/* What rank 0 says to all. */
static long told(long value) {
    if (rank) get(0, &value, sizeof value);
    else for (int other = 1; other < ranks; other++) put(other, &value, sizeof value);
    return value;
}

static void round_trips(long rounds) {
    char message[8] = {0};
    for (; rounds > 0; rounds--) {
        if (rank == 0) put(1, message, sizeof message);
        get(!rank, message, sizeof message);
        if (rank) put(0, message, sizeof message);
    }
}

static void pieces(long count) {
    char taken = 0;
    for (long i = 0; i < count; i++) {
        if (rank == 0) put(1, piece, PIECE);
        else get(0, piece, PIECE);
    }
    if (rank == 0) get(1, &taken, 1);
    else put(0, &taken, 1);
}

/* The lower one of two ranks sends first, so that they cannot both wait for room. */
static void swap(int other, long *mine, long *theirs, size_t bytes) {
    if (rank < other) put(other, mine, bytes);
    get(other, theirs, bytes);
    if (rank > other) put(other, mine, bytes);
}

static void reductions(long rounds, size_t count) {
    static long sum[PIECE / sizeof(long)], other[PIECE / sizeof(long)];
    for (; rounds > 0; rounds--) {
        for (size_t i = 0; i < count; i++) sum[i] = rank + (long)i;
        for (int bit = 1; bit < ranks; bit <<= 1) {
            swap(rank ^ bit, sum, other, count * sizeof(long));
            for (size_t i = 0; i < count; i++) sum[i] += other[i];
        }
        long all = (long)ranks * (ranks - 1) / 2, last = (long)count - 1;
        if (sum[0] != all || sum[last] != all + ranks * last) fail("the sum is wrong");
    }
}

static void one(long rounds) { reductions(rounds, 1); }
static void many(long rounds) { reductions(rounds, PIECE / sizeof(long)); }

/* Microseconds of one of them. */
static double measured(void (*work)(long)) {
    for (long rounds = 8;;) {
        double began = now_us();
        work(rounds);
        double took = now_us() - began;
        long next = took >= LONG_ENOUGH_US ? 0 : took > LONG_ENOUGH_US / 8 ? (long)(rounds * 1.3 * LONG_ENOUGH_US / took) : rounds * 4;
        next = told(next);
        if (next == 0) return took / rounds;
        rounds = next;
    }
}

static void print(const char *name, double value) {
    if (rank == 0) printf("%s %.3f\n", name, value);
}

int main(int count, char **words) {
    const char *number = getenv("SLURM_PROCID");
    ranks = count - 1;
    rank = number ? atoi(number) : -1;
    if (rank < 0 || rank >= ranks || ranks > RANKS || ranks & (ranks - 1)) fail("one address for each of 2, 4, 8 ... ranks");
    alarm(DEADLINE_S);
    meet(words + 1);
    if (ranks == 2) {
        print("latency", measured(round_trips) / 2);
        print("bandwidth", PIECE / 1048576.0 * 1e6 / measured(pieces));
    } else {
        print("allreduce-8", measured(one));
        print("allreduce-65536", measured(many));
    }
    return 0;
}
