/* as-linux-4.18 COMMAND...: runs it, and all that it starts, with the system calls of Linux 4.18 (the kernel of RHEL 8).
 * as-linux-4.18 --probe: says whether this process runs so.
 *
 * What came later is answered as that kernel does: ENOSYS, or the error for a flag that it does not know. What a call
 * that exists learned to do since then is not taken away (copy_file_range between file systems, for one).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* rseq, the last one of 4.18 on x86_64; later ones begin at 424, and those of x32 have still larger numbers. */
#define LAST_CALL 334
#define CLOSE_RANGE 436
#define PREADV2 327
#define PWRITEV2 328
/* The first option of prctl that came later, and the next one that did not: Yama's, whose numbers are large. */
#define FIRST_LATER_PRCTL 54
#define YAMA_PRCTL 0x59616d61
/* MADV_COLD to MADV_COLLAPSE. */
#define FIRST_LATER_MADVICE 20
#define LAST_LATER_MADVICE 25
#define LATER_MEMFD_FLAGS 0x18
#define LATER_RWF_FLAGS 0xffffffe0

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define IF_EQUAL(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise)
#define IF_AT_LEAST(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, value, then, otherwise)
#define IF_ANY_BIT(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, value, then, otherwise)
#define FAIL(error) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static struct sock_filter filter[] = {
    LOAD(arch),
    IF_EQUAL(AUDIT_ARCH_X86_64, 1, 0),
    ALLOW,
    LOAD(nr),
    IF_AT_LEAST(LAST_CALL + 1, 0, 1),
    FAIL(ENOSYS),

    IF_EQUAL(SYS_prctl, 0, 5),
    LOAD(args[0]),
    IF_AT_LEAST(FIRST_LATER_PRCTL, 0, 2),
    IF_AT_LEAST(YAMA_PRCTL, 1, 0),
    FAIL(EINVAL),
    ALLOW,

    IF_EQUAL(SYS_madvise, 0, 5),
    LOAD(args[2]),
    IF_AT_LEAST(FIRST_LATER_MADVICE, 0, 2),
    IF_AT_LEAST(LAST_LATER_MADVICE + 1, 1, 0),
    FAIL(EINVAL),
    ALLOW,

    IF_EQUAL(SYS_memfd_create, 0, 4),
    LOAD(args[1]),
    IF_ANY_BIT(LATER_MEMFD_FLAGS, 0, 1),
    FAIL(EINVAL),
    ALLOW,

    IF_EQUAL(PREADV2, 1, 0),
    IF_EQUAL(PWRITEV2, 0, 3),
    LOAD(args[5]),
    IF_ANY_BIT(LATER_RWF_FLAGS, 0, 1),
    FAIL(EOPNOTSUPP),
    ALLOW,
};

static int probe(void)
{
    int is_old = syscall(CLOSE_RANGE, ~0U, ~0U, 0) == -1 && errno == ENOSYS;
    puts(is_old ? "no system call after Linux 4.18" : "newer system calls");
    return 0;
}

int main(int argc, char **argv)
{
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };

    if (argc == 2 && strcmp(argv[1], "--probe") == 0)
        return probe();
    if (argc < 2) {
        fprintf(stderr, "usage: %s COMMAND...\n", argv[0]);
        return 2;
    }
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("as-linux-4.18: only root may do that");
        return 1;
    }
    execvp(argv[1], argv + 1);
    perror(argv[1]);
    return 127;
}
