/*
 * Does what programs and the C library of 2.6.32 did, and today's do in other ways: a system call through the
 * vsyscall page, one through int 0x80, and calls that have successors. It has no C library, and says in its note that
 * it was made for Linux 2.6.18. Prints what worked, one word each.
 */

#define VSYSCALL_TIME 0xffffffffff600400UL

enum { SYS_write = 1, SYS_open = 2, SYS_close = 3, SYS_stat = 4, SYS_select = 23, SYS_vfork = 58, SYS_exit = 60,
       SYS_wait4 = 61, SYS_getdents = 78, SYS_time = 201, INT80_getpid = 20, SYS_getpid = 39 };

__attribute__((section(".note.ABI-tag"), used, aligned(4)))
static const struct { unsigned namesz, descsz, type; char name[4]; unsigned desc[4]; } abi = {
    4, 16, 1, "GNU", { 0, 2, 6, 18 } };

static long call(long number, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
}

static void say(const char *word)
{
    long length = 0;
    while (word[length])
        length++;
    call(SYS_write, 1, (long)word, length, 0, 0);
}

static void check(int works, const char *word)
{
    if (works)
        say(word);
    else
        call(SYS_exit, 1, 0, 0, 0, 0);
}

static long old_getpid(void)
{
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(INT80_getpid) : "r8", "r9", "r10", "r11", "memory");
    return result;
}

/* The child must not return from the function that called vfork, so it is one block. */
static long child(void)
{
    long result;
    __asm__ volatile("mov $58, %%eax\n\tsyscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\t"
                     "mov $60, %%eax\n\tmov $7, %%edi\n\tsyscall\n1:"
                     : "=a"(result) : : "rcx", "r11", "rdi", "memory");
    return result;
}

static char buffer[1024];

__attribute__((used)) static void work(void)
{
    long (*vsyscall_time)(long *) = (long (*)(long *))VSYSCALL_TIME;
    long now = call(SYS_time, 0, 0, 0, 0, 0), then = vsyscall_time(0);
    long directory, status = 0, moment[2] = { 0, 1000 };

    check(then >= now && then - now < 60, "vsyscall");
    check(old_getpid() == call(SYS_getpid, 0, 0, 0, 0, 0), " int80");
    directory = call(SYS_open, (long)"/", 0200000, 0, 0, 0);
    check(directory >= 0, " open");
    check(call(SYS_stat, (long)"/", (long)buffer, 0, 0, 0) == 0, " stat");
    check(call(SYS_getdents, directory, (long)buffer, sizeof buffer, 0, 0) > 0, " getdents");
    check(call(SYS_select, 0, 0, 0, 0, (long)moment) == 0, " select");
    check(call(SYS_wait4, child(), (long)&status, 0, 0, 0) > 0 && (status & 0xffff) == 7 << 8, " vfork");
    say("\n");
    call(SYS_exit, 0, 0, 0, 0, 0);
}

__attribute__((naked, used)) void _start(void)
{
    __asm__ volatile("and $-16, %rsp\n\tcall work\n\thlt");
}
