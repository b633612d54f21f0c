/*
 * A task of a parallel program that needs nothing but PMI: it says the wires of PMI-1 and PMI-2 itself, so it runs in any
 * image, statically linked, as it does on bare metal.
 *
 *   pmi WIRE [DEED [COMMAND]]
 *
 * WIRE is 1 or 2. Every task waits for all, puts a value, waits again, gets the values of all and prints them. DEED is what rank 1 does
 * when all tasks run and before it waits again: 'kill' (dies by SIGKILL), 'exit' (leaves with 3), 'abort', 'spawn' (asks for a shell with COMMAND),
 * 'garbage', 'half' (half a request, a file 'half', and then nothing). 'child' makes all of them speak in a child process that a shell started.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fd, wire, rank, size;
static char answer[8192];

static void fail(const char *what) {
    printf("rank %d: %s: %s\n", rank, what, answer);
    exit(9);
}

static void put_all(const char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = write(fd, bytes, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) fail("cannot write");
        bytes += n;
        len -= n;
    }
}

static void take(char *bytes, size_t len) {
    while (len > 0) {
        ssize_t n = read(fd, bytes, len);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) { *bytes = 0; fail("Slurm has closed the socket"); }
        bytes += n;
        len -= n;
    }
    *bytes = 0;
}

static void ask(const char *format, ...) {
    char request[4096], length[16];
    va_list list;
    va_start(list, format);
    int len = vsnprintf(request, sizeof request, format, list);
    va_end(list);
    /* Slurm's library writes it at the left, others at the right. */
    snprintf(length, sizeof length, rank % 2 ? "%6d" : "%-6d", len);
    if (wire == 2) put_all(length, 6);
    put_all(request, len);
}

static void line(void) {
    size_t len = 0;
    do { take(answer + len, 1); } while (answer[len++] != '\n');
    answer[len - 1] = 0;
}

static void hear(const char *wanted) {
    if (wire == 2) {
        char length[8];
        take(length, 6);
        take(answer, atoi(length));
    } else {
        line();
    }
    if (strncmp(answer, "cmd=", 4) || strncmp(answer + 4, wanted, strlen(wanted))) fail("another answer");
}

static void value(const char *name, char *into, size_t room) {
    char key[64];
    snprintf(key, sizeof key, "%s=", name);
    char *found = strstr(answer, key);
    if (!found) fail("no such value");
    found += strlen(key);
    snprintf(into, room, "%.*s", (int)strcspn(found, "; \n"), found);
}

/* Waits for all tasks. */
static void fence(void) {
    if (wire == 2) { ask("cmd=kvs-fence;"); hear("kvs-fence-response"); }
    else { ask("cmd=barrier_in\n"); hear("barrier_out"); }
}

int main(int argc, char **argv) {
    char kvs[300] = "", text[1100], host[256] = "";
    const char *deed = argc > 2 ? argv[2] : "";
    wire = argc > 1 ? atoi(argv[1]) : 2;
    if (!getenv("PMI_FD")) { printf("no PMI\n"); return 0; }
    fd = atoi(getenv("PMI_FD"));
    rank = atoi(getenv("PMI_RANK"));
    size = atoi(getenv("PMI_SIZE"));
    if (!strcmp(deed, "child")) {
        char command[600];
        snprintf(command, sizeof command, "%s %d; exit $?", argv[0], wire);
        return execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    }
    if (rank == 1 && !strcmp(deed, "garbage")) {
        put_all("GET / HTTP/1.0\r\n", 16);
        line();
    }
    const char *init = wire == 2 ? "cmd=init pmi_version=2 pmi_subversion=0\n" : "cmd=init pmi_version=1 pmi_subversion=1\n";
    put_all(init, strlen(init));
    line();
    if (!strstr(answer, "rc=0")) fail("init");
    if (wire == 2) {
        ask("cmd=fullinit;pmijobid=%s;pmirank=%d;threaded=FALSE;", getenv("PMI_JOBID"), rank);
        hear("fullinit-response");
        value("size", text, sizeof text);
        if (atoi(text) != size) fail("another size");
    } else {
        ask("cmd=get_my_kvsname\n");
        hear("my_kvsname");
        value("kvsname", kvs, sizeof kvs);
    }
    /* What ends a step while a node still starts its tasks, ends it otherwise: on bare metal too. */
    fence();
    gethostname(host, sizeof host - 1);
    /* Values of all lengths, up to the longest. */
    char long_value[1001];
    int len = rank % 2 ? 900 : 10;
    memset(long_value, 'a' + rank % 26, len);
    long_value[len] = 0;
    if (wire == 2) { ask("cmd=kvs-put;key=k%d;value=%s%d;", rank, long_value, rank); hear("kvs-put-response"); }
    else { ask("cmd=put kvsname=%s key=k%d value=%s%d\n", kvs, rank, long_value, rank); hear("put_result"); }
    if (rank == 1) {
        if (!strcmp(deed, "kill")) kill(getpid(), SIGKILL);
        if (!strcmp(deed, "exit")) return 3;
        if (!strcmp(deed, "half")) { put_all(wire == 2 ? "   100cmd=kvs" : "cmd=barrier", 10); fclose(fopen("half", "w")); pause(); }
        if (!strcmp(deed, "abort")) {
            ask(wire == 2 ? "cmd=abort;isworld=TRUE;msg=enough;" : "cmd=abort exitcode=7\n");
            return 7;
        }
        if (!strcmp(deed, "spawn")) {
            if (wire == 2) ask("cmd=spawn;ncmds=1;preputcount=0;subcmd=/bin/sh;maxprocs=1;argc=2;argv0=-c;argv1=%s;infokeycount=0;", argv[3]);
            else ask("mcmd=spawn\nnprocs=1\nexecname=/bin/sh\ntotspawns=1\nspawnssofar=1\narg1=-c\narg2=%s\nargcnt=2\npreput_num=0\ninfo_num=0\nendcmd\n", argv[3]);
            hear("spawn");
        }
    }
    fence();
    int sum = 0, bytes = 0;
    for (int other = 0; other < size; other++) {
        if (wire == 2) { ask("cmd=kvs-get;jobid=%s;srcid=-1;key=k%d;", getenv("PMI_JOBID"), other); hear("kvs-get-response"); }
        else { ask("cmd=get kvsname=%s key=k%d\n", kvs, other); hear("get_result"); }
        value("value", text, sizeof text);
        bytes += strlen(text);
        sum += atoi(text + strspn(text, "abcdefghijklmnopqrstuvwxyz"));
    }
    if (wire == 2) { ask("cmd=finalize;"); hear("finalize-response"); }
    else { ask("cmd=finalize\n"); hear("finalize_ack"); }
    close(fd);
    printf("rank %d of %d: sum %d, %d bytes\n", rank, size, sum, bytes);
    return 0;
}
